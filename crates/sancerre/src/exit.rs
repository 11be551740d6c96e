//! Exit codes, and how a command ends. The numbers that other backup programs share are theirs.

use sancerre_engine::{Error, ErrorKind, StoreError};
use sancerre_image::{OpenError, TargetError};
use serde_json::{Map, Value};

/// What the process tells its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything as asked.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The request makes no sense.
    Usage = 2,
    /// Done, but not as asked: a snapshot of a disk that changed.
    NotAsAsked = 3,
    /// No repository at the location.
    NoRepository = 10,
    /// The key or passphrase does not fit.
    WrongKey = 12,
    /// `init` on an existing repository.
    RepositoryExists = 13,
    /// Something in the repository is not what it was.
    Damaged = 20,
    /// Something in the repository is gone.
    Missing = 21,
    /// The snapshot was forgotten, by decision.
    Forgotten = 22,
    /// Something in the repository needs a newer version of the program.
    Unsupported = 23,
    /// Saved, and it looks suspect: only where that was asked for.
    Suspect = 30,
    /// What the program takes for impossible happened; it stopped before it could cost anything. sysexits' EX_SOFTWARE.
    Bug = 70,
    /// Stopped by a signal.
    Interrupted = 130,
}

impl Exit {
    pub(crate) fn code(self) -> i32 {
        self as i32
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Failed => Self::Failed,
            ErrorKind::Usage => Self::Usage,
            ErrorKind::NoRepository => Self::NoRepository,
            ErrorKind::RepositoryExists => Self::RepositoryExists,
            ErrorKind::WrongKey => Self::WrongKey,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::Damaged => Self::Damaged,
            ErrorKind::Missing => Self::Missing,
            ErrorKind::Forgotten => Self::Forgotten,
            ErrorKind::Interrupted => Self::Interrupted,
            ErrorKind::Bug => Self::Bug,
        }
    }
}

/// A command that came to its end.
#[derive(Debug)]
pub(crate) struct Done {
    /// Fine, or done with something to look at.
    pub(crate) exit: Exit,
    /// What the summary says beside the exit code.
    pub(crate) summary: Map<String, Value>,
}

/// A command that did not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// What failed, on what, and what to do.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Error::from(error).into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.kind().into(), error.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Error::from(error).into()
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Self {
        Error::from(error).into()
    }
}
