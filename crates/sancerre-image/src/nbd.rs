//! A disk behind an NBD server, read as any other disk; the server's word is a claim.
//!
//! ```text
//! NbdDisk ──> Pool ──> Connection ──> Channel (TCP, unix socket, TLS, or a script in tests)
//!   Disk       │        read, status      bytes
//!              └─ negotiate: what the server offers
//! ```
//! What is on the wire is read and written by plain functions over bytes (`wire`); the conversation goes through
//! the trait [`Channel`], so that a fuzzer can be the server. Nothing here ever sends a write.
//!
//! The protocol: `doc/proto.md` of <https://github.com/NetworkBlockDevice/nbd>. What is spoken: fixed newstyle with
//! `STARTTLS`, `STRUCTURED_REPLY`, `SET_META_CONTEXT`, `LIST_META_CONTEXT` and `GO` (else `EXPORT_NAME`); then `READ`,
//! `BLOCK_STATUS` and `DISC`.
//!
//! Whatever a server sends, reading ends in the right number of bytes or in an error: lengths and offsets are checked
//! before anything is allocated, each byte of an answer comes exactly once, each answer brings the end nearer, and
//! silence ends after the time that the caller set.

mod channel;
mod connection;
mod coverage;
mod disk;
mod error;
mod negotiate;
mod pool;
mod socket;
mod status;
mod tls;
mod uri;
mod wire;
mod write;

pub use channel::{Channel, Connector};
pub use disk::NbdDisk;
pub use error::{Fault, NbdError};
pub use negotiate::Export;
pub use tls::TlsFiles;
pub use uri::{Address, NbdUri};
pub(crate) use write::Change;

use std::time::Duration;

/// How an export is read.
#[derive(Debug, Clone)]
pub struct NbdOptions {
    /// How long the server may leave a request unanswered. Twice as long is the worst case.
    pub timeout: Duration,
    /// Most connections at once, where the server allows more than one.
    pub connections: usize,
    /// Most bytes of one request; the server's own limit is honoured besides.
    pub request_bytes: u32,
    /// Most requests under way on a connection.
    pub depth: usize,
    /// A context of changed blocks, such as `qemu:dirty-bitmap:NAME`.
    pub bitmap: Option<String>,
    /// Asks for one extent an answer (`REQ_ONE`): for servers that are wrong otherwise.
    pub single_extents: bool,
    /// Asks for whole answers (`DF`): the server then sends zeros as bytes.
    pub unfragmented: bool,
    /// For `nbds://`: whom to trust, and who we are.
    pub tls: TlsFiles,
}

impl Default for NbdOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            connections: 4,
            request_bytes: 512 << 10,
            depth: 16,
            bitmap: None,
            single_extents: false,
            unfragmented: false,
            tls: TlsFiles::default(),
        }
    }
}

#[cfg(test)]
mod tests;
