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
pub mod cache;
pub mod check;
pub mod error;
pub mod forget;
pub mod frames;
pub mod gc;
pub mod host;
pub mod index;
mod kept;
pub mod keys;
pub mod known;
pub mod lock;
pub mod map;
pub mod monitor;
pub mod repair;
pub mod repository;
pub mod restore;
pub mod select;
pub mod stats;

pub use error::{Error, ErrorKind, Result, StoreError};
pub use sancerre_store::{self as store, location};
