//! A repository: its keys, its log, what lies where, and how a snapshot is read.
//!
//! It is handed a store, a [`Host`](host::Host) (clock, randomness, sealing, processors) and keys, and prints nothing.

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::panic, clippy::unwrap_used))]

pub mod cache;
pub mod catalogue;
pub mod dedup;
pub mod error;
pub mod frames;
pub mod host;
pub mod index;
pub mod keys;
pub mod log;
pub mod lru;
pub mod map;
pub mod monitor;
pub mod pack_ends;
mod repository;
pub mod session;
pub mod snapshot;
pub mod snapshot_disk;
pub mod tolerate;
pub mod unlisted;

pub use error::{Error, ErrorKind, Result, StoreError};
pub use repository::Repository;
