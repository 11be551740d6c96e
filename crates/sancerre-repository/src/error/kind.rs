//! Kinds of failures.

use sancerre_format::FormatError;

use super::{Error, StoreError};

/// What kind of failure it is: each has its own exit code on the command line. Closed, so that whoever gives kinds a meaning
/// has to give one to each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// It did not work; the message says why.
    Failed,
    /// The request makes no sense.
    Usage,
    /// There is no repository at the location.
    NoRepository,
    /// There is one already.
    RepositoryExists,
    /// The key or passphrase does not open what is needed.
    WrongKey,
    /// Something in the repository needs a newer version of the program: nothing is wrong with it.
    Unsupported,
    /// Something in the repository is not what it was.
    Damaged,
    /// Something in the repository is gone.
    Missing,
    /// The snapshot was forgotten by whoever keeps the repository.
    Forgotten,
    /// The user asked to stop.
    Interrupted,
    /// What this program takes for impossible happened.
    Bug,
}

impl Error {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoRepository { .. } => ErrorKind::NoRepository,
            Self::RepositoryExists { .. } => ErrorKind::RepositoryExists,
            Self::Usage(_) => ErrorKind::Usage,
            Self::WrongKey { .. } | Self::Unreadable { .. } => ErrorKind::WrongKey,
            Self::Object { source: FormatError::Unsupported { .. }, .. }
            | Self::Unverified { source: FormatError::Unsupported { .. }, .. } => ErrorKind::Unsupported,
            Self::Object { .. } | Self::Unverified { .. } => ErrorKind::Damaged,
            Self::ConfigLost { .. }
            | Self::KeyLost(_)
            | Self::Gap { .. }
            | Self::Unresolved { .. }
            | Self::Replaced { .. }
            | Self::Broken { .. }
            | Self::Lost { .. }
            | Self::Hidden { .. } => ErrorKind::Missing,
            Self::Forgotten(_) => ErrorKind::Forgotten,
            Self::Interrupted => ErrorKind::Interrupted,
            Self::Bug { .. } | Self::Worker | Self::Encode(_) => ErrorKind::Bug,
            Self::Store(error) => of_store(error),
            Self::Unrestorable { source, .. } => source.kind(),
            Self::Shared(error) => error.kind(),
            _ => ErrorKind::Failed,
        }
    }
}

fn of_store(error: &StoreError) -> ErrorKind {
    match error {
        StoreError::Location { .. } => ErrorKind::Usage,
        StoreError::Missing { .. } => ErrorKind::Missing,
        StoreError::Withheld { .. } => ErrorKind::Damaged,
        _ => ErrorKind::Failed,
    }
}
