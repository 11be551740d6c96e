//! A disk as ranges of data and holes, and the place a disk is restored to.
//!
//! The one idea: whatever holds a disk (a raw file, a block device, a qcow2 image with what it stands on), the
//! backup sees only the bytes the guest would see, as a [`Disk`]: a size, positional reads, and the ranges
//! that may hold data. Everything outside those ranges reads as zeros and is never read. A restore is the
//! mirror image: a [`RawTarget`] or [`Qcow2Target`] takes bytes and zeros at offsets, in any order and from many
//! threads, and becomes visible under its name only when it is whole.
//!
//! What is deliberately absent:
//! - no format is guessed from content: a guest writes every byte of its disk, so it could choose the parser;
//! - no memory maps: a disk that shrinks under a map kills the process, under `pread` it is an error;
//! - no async, clock or randomness: the caller owns threads and time.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod disk;
mod error;
mod holes;
mod kind;
mod positional;
mod qcow2;
mod raw;
mod target;
#[cfg(test)]
mod testing;

pub use disk::Disk;
pub use error::{ChangedError, OpenError, ReadError, TargetError};
pub use qcow2::{Bitmap, Qcow2Disk, Qcow2Fault, References, open_qcow2};
pub use raw::{RawDisk, open_raw};
pub use target::{OldBytes, Qcow2Compression, Qcow2Target, RawTarget};
