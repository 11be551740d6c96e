//! Disks over NBD: a server of our own, for guests, copiers and QEMU.
//!
//! ```text
//! Server ──accept──> Connection: Handshake (options) ──> Transmission: one task a request ──> ServedDisk (a disk)
//!                                  └ wire: bytes to values and back, pure ┘
//! ```
//!
//! The protocol is `doc/proto.md` of <https://github.com/NetworkBlockDevice/nbd>: fixed newstyle, structured
//! replies, `base:allocation`. Every number of a client is a claim: lengths have bounds before anything is allocated, and a
//! client that breaks a rule, stalls or floods costs its own connection and no other.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::expect_used, clippy::panic, clippy::unwrap_used, clippy::indexing_slicing)
)]

mod export;
mod handshake;
mod limits;
mod overlay;
mod reply;
mod server;
mod snapshot;
mod transmission;
pub mod wire;

pub use export::{ReadFailure, ServedDisk, Stretch, WriteFailure, WrittenDisk};
pub use handshake::Rejected;
pub use limits::{ClientLimits, ClientMemory};
pub use overlay::{OverlaidDisk, OverlayError, OverlayFile, OverlayMedium, SpoolFile, overlay_bytes};
pub use server::Server;
pub use snapshot::SnapshotExport;
