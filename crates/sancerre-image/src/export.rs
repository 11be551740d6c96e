//! Disks written for other hypervisors: stream-optimised VMDK, and OVA, which is such disks and a description in one archive.
//!
//! ```text
//! Disk ── tables of 32 MiB ──> grains of 64 KiB, compressed by several threads ──> VMDK, from its start to its end
//!                                          description, sums, headers: in room that was left for them  └──> OVA
//! ```
//! Sources: VMware's "Virtual Disk Format 5.0"; DMTF DSP0243 (OVF); the manual of GNU tar on its headers.

mod error;
mod grains;
mod ova;
mod ovf;
mod tar;
mod vmdk;

pub use error::ExportError;
pub use ova::{Appliance, ApplianceDisk, Firmware, OvaWritten, write_ova};
pub(crate) use tar::{BLOCK_BYTES, Entry, EntryKind, entry, whole_blocks};
pub use vmdk::{VmdkWritten, write_vmdk};

/// What watches an export: told of bytes of the disk that are done, it says whether to go on.
pub type Watcher<'a> = dyn Fn(u64) -> bool + Sync + 'a;
