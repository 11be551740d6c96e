//! Why something of a guest's disk cannot be told.

/// What a parser ends with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The bytes make no sense.
    #[error("{0}")]
    Corrupt(&'static str),
    /// They do, but not to us.
    #[error("{0}")]
    Unsupported(String),
    /// It is not there.
    #[error("there is no such file or folder")]
    Missing,
    /// The bytes cannot be had: a place on a disk.
    #[error("the disk cannot be read at {offset} ({length_bytes} bytes)")]
    Unreadable { disk: u16, offset: u64, length_bytes: u64 },
    /// The caller does not answer any more.
    #[error("the caller does not answer")]
    Gone,
}

pub(crate) type Result<T> = std::result::Result<T, Fault>;

pub(crate) fn unsupported(what: &str) -> Fault {
    Fault::Unsupported(what.to_owned())
}
