//! Files of guests, read out of their disks without mounting anything.
//!
//! All that parses bytes of a guest runs in a child that reaches nothing (`sancerre-confine`): it asks for bytes of the disks by
//! their places, and answers questions. Where the bytes of a file lie on a disk as they are, it says only where, and the caller
//! reads them.
//!
//! ```text
//! caller: disks, keys, targets   ── disks of these sizes ──>  child: partitions, LVM, file systems
//!                                <── bytes at a place? ──
//!                                ── the bytes ──>
//!         names, numbers, places <── what is in this folder? ──
//! ```
//! The caller believes nothing: a place outside of its disk, an answer of another length, a word out of turn or silence is the end
//! of the child. Then another one is started, and that question has no answer.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod bytes;
mod disks;
mod error;
mod fault;
mod file;
mod fs;
mod fuzzing;
mod guest;
mod luks;
mod lvm;
mod node;
mod partitions;
mod serve;
mod source;
mod volume;
mod wire;

pub use error::GuestError;
pub use file::GuestFile;
pub use fuzzing::{fuzz_disk, fuzz_luks, fuzz_packet};
pub use guest::{Guest, GuestReader, Passphrases};
pub use node::{Extra, FileNode, FileRun, FolderEntry, Moment, NodeKind, PlacedEntry, RunPlace};
pub use serve::{SUBCOMMAND, inside};
pub use wire::{FileSystemInfo, VolumeContent, VolumeInfo};
