//! Real object stores for the tests, on loopback: SeaweedFS for S3, Azurite for Azure Blob.
//!
//! `cargo xtask setup` installs them into the user's cache ([`install`]); a test asks for one and gets it running
//! ([`seaweedfs()`], [`azurite()`]). All tests of a run share one server of each kind, also when each test is a process
//! ([`shared`] says how), and keep out of each other's way by prefixes and buckets of their own.
//!
//! Depends on none of the product's packages: it judges them.

pub mod attack;
pub mod azurite;
pub mod guest;
mod http;
pub mod install;
pub mod liars;
mod mac;
mod s3;
pub mod seaweedfs;
pub mod shared;

pub use azurite::{Azurite, azurite};
pub use http::Response;
pub use seaweedfs::{Bucket, Credentials, Seaweedfs, seaweedfs};

use std::sync::atomic::{AtomicU64, Ordering};

/// Variables for a process that is to use a store.
pub type Variables = Vec<(String, String)>;

/// A word that no other test uses: for prefixes, buckets and containers.
pub fn unique() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = jiff::Timestamp::now().as_nanosecond();
    let process = std::process::id();
    format!("t{now:x}-{process:x}-{}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// Says that a test did not run; fails instead where everything must run.
///
/// Panics with the variable `CI` set.
#[allow(clippy::print_stderr)]
pub fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "cannot run here, and CI is set: {reason}");
    eprintln!("SKIPPED: {reason}");
}
