//! A disk as ranges of data and holes, and the place a disk is restored to.
//!
//! The one idea: whatever holds a disk (a raw file, a block device, a qcow2 image, the export of an NBD server), the
//! backup sees only the bytes the guest would see, as a [`Disk`]: a size, positional reads, and the ranges
//! that may hold data. Everything outside those ranges reads as zeros and is never read. A restore is the
//! mirror image: a [`DiskTarget`] takes bytes and zeros at offsets, in any order and from many
//! threads, and becomes visible under its name only when it is whole.
//!
//! What is deliberately absent:
//! - no format is read by what content says: a guest writes every byte of its disk, so it could choose the parser. Magic
//!   bytes of containers are only compared, so that one is not taken for a raw disk;
//! - no memory maps: a disk that shrinks under a map kills the process, under `pread` it is an error;
//! - no async or randomness, and no clock but the one that ends waiting for a silent server or child: the caller owns
//!   threads.
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

mod beneath;
pub mod change_map;
pub mod confined;
mod container;
mod disk;
mod error;
pub mod export;
pub mod foreign;
mod holes;
mod in_use;
mod kind;
pub mod nbd;
mod open;
pub mod package;
mod part;
mod positional;
pub mod process;
mod qcow2;
mod raw;
mod target;
#[cfg(test)]
mod testing;

pub use container::{Container, container, container_at_start};
pub use disk::Disk;
pub use error::{ChangedError, OpenError, ReadError, TargetError};
pub use open::open_file;
pub use part::Part;
pub use qcow2::{Bitmap, Qcow2Disk, Qcow2Fault, References, open_qcow2};
pub use raw::{RawDisk, open_raw};
pub use target::{
    Continue, DiskTarget, KeepingTarget, Left, NbdTarget, NewFile, OldBytes, Qcow2Compression, Qcow2Target,
    RawTarget, Rest,
};
