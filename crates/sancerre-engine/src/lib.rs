//! The Sancerre engine: repository, backup, restore, check.
//!
//! It is handed a store, a [`Host`](host::Host) (clock, randomness, sealing, processors) and keys, and prints nothing:
//! what happens on the way goes to a [`Monitor`](monitor::Monitor).
//!
//! Backup: disk → [`backup`] regions → chunks → frames → packs → [`store`], then lists, index and manifest
//! ([`repository::session`]). Restore: manifest → [`map`] → plan → ranges of packs → target ([`restore`]).

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::panic, clippy::unwrap_used))]

pub mod audit;
pub mod backup;
pub mod check;
pub mod diff;
pub mod drill;
pub mod forget;
pub mod gc;
pub mod index;
pub mod init;
pub mod lock;
pub mod repair;
pub mod restore;
pub mod revoke;
pub mod select;
pub mod stats;
pub mod suspicion;

pub use sancerre_repository::{
    self as repository, Error, ErrorKind, Result, StoreError, cache, dedup, error, frames, host, keys, map,
    monitor,
};
pub use sancerre_store::{self as store, location};
