//! Bytes to values and back: everything a Sancerre repository stores, as `docs/FORMAT.md` says it.
//!
//! This crate sees no file, network, clock, randomness or `age`: keys, times and random bytes are arguments,
//! and what comes in is hostile. Every decoder checks every field and returns a [`FormatError`] instead of panicking.
//!
//! A value travels down this list on its way to the store, and up again on its way back:
//! [`chunk`] cuts a disk, [`id`] names the pieces, [`seal`] closes frames, [`pack`] collects them, [`node`] maps a
//! disk to them, [`index`] finds them again, and a signed [`record`] (manifest, pack list, log entry) vouches for it all.

#![forbid(unsafe_code)]
// Tests compare with golden files.
#![cfg_attr(test, allow(clippy::disallowed_methods))]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

pub mod boot_trace;
pub mod bytes;
pub mod certificate;
pub mod checkpoint;
pub mod chunk;
pub mod config;
pub mod error;
pub mod file_catalogue;
pub mod frames;
pub mod gc;
#[cfg(test)]
mod golden;
pub mod id;
pub mod index;
pub mod key;
pub mod limits;
pub mod list;
pub mod log;
pub mod names;
pub mod node;
pub mod outcome;
pub mod pack;
pub mod recipient;
pub mod record;
pub mod seal;
pub mod sign;
pub mod text;
pub mod trust;

pub use error::FormatError;
