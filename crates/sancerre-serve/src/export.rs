//! What is served: the seam between the protocol and a disk.

use std::ops::Range;

use futures::future::BoxFuture;

/// Why an export did not give what was asked for, as words for the log: where, on which object, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReadFailure(pub String);

/// Why something was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct WriteFailure {
    /// Where, on what, and what to do.
    pub words: String,
    /// There is no room.
    pub is_full: bool,
}

/// A stretch of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// Where it is.
    pub range: Range<u64>,
    /// Whether it may hold data; all else reads as zeros.
    pub is_data: bool,
}

/// A disk that never changes, unless it says otherwise. The server asks only for ranges that are not empty and lie inside.
pub trait ServedDisk: Send + Sync {
    /// What clients call it.
    fn name(&self) -> &str;

    /// Its size.
    fn size_bytes(&self) -> u64;

    /// Fills `buffer` with the bytes from `offset` on.
    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> BoxFuture<'a, Result<(), ReadFailure>>;

    /// The stretches of a range from its start on, adjacent, at least one and at most `most`; they may end before the range.
    fn stretches(&self, range: Range<u64>, most: usize) -> BoxFuture<'_, Result<Vec<Stretch>, ReadFailure>>;

    /// The client will want this range: a wish, which need not be granted.
    fn prepare(&self, range: Range<u64>);

    /// The same disk, if clients may write it.
    fn written(&self) -> Option<&dyn WrittenDisk> {
        None
    }
}

/// A disk that may be written. What was answered is there for every read that begins then, and durable after a flush that
/// begins then. The server asks only for ranges that are not empty and lie inside.
pub trait WrittenDisk: Send + Sync {
    /// Puts `bytes` at `offset`.
    fn write(&self, offset: u64, bytes: Vec<u8>) -> BoxFuture<'_, Result<(), WriteFailure>>;

    /// Makes zeros of a range.
    fn write_zeroes(&self, range: Range<u64>) -> BoxFuture<'_, Result<(), WriteFailure>>;

    /// Nobody needs what is in a range any more: it may become zeros.
    fn trim(&self, range: Range<u64>) -> BoxFuture<'_, Result<(), WriteFailure>>;

    /// Makes durable what was answered before.
    fn flush(&self) -> BoxFuture<'_, Result<(), WriteFailure>>;
}
