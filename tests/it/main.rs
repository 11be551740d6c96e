//! The engine as a whole, on a store in memory and on all others.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod adds;
mod admins;
mod approve;
mod audit;
mod avoid;
mod backup;
mod boot_trace;
mod bounds;
mod cache;
mod chain;
mod changed;
mod check;
mod checkpoint;
mod closed;
mod compat;
mod concurrent;
mod copies;
mod cost;
mod crash;
mod decade;
mod diff;
mod displaced;
mod dying;
mod effect;
mod examples;
mod faults;
mod flip;
mod forgery;
mod forget;
mod fuzz;
mod gate;
mod gc;
mod given_up;
mod growth;
mod healed;
mod index;
mod junk;
mod keys;
mod late;
mod lies;
mod link;
mod lost;
mod miscopied;
mod newer;
mod nonces;
mod odd;
mod outage;
mod poison;
mod probe;
mod refusals;
mod repack;
mod resume;
mod rotten;
mod roundtrip;
mod second;
mod sim;
mod snapshot_disk;
mod stats;
mod stores;
mod suspicion;
mod versions;

/// Runs a future on a clock that jumps over every pause: retries cost nothing.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(future)
}
