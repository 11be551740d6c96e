//! What a folder refused: the call, the whole path, and what the kernel said.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use crate::causes::{FOLDER, is_full};

/// Why something in a folder could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// The kernel said no.
    #[error("cannot {what} {path}: {source}")]
    Call {
        /// create, write …
        what: &'static str,
        /// The whole path.
        path: String,
        /// What it said.
        source: io::Error,
    },
    /// An object of this key is there.
    #[error("{path} exists")]
    Exists {
        /// The whole path.
        path: String,
    },
    /// The file that was to get a name was removed by somebody.
    #[error("{path} was removed while it was written")]
    Cleared {
        /// The whole path.
        path: String,
    },
    /// Nothing can be created here without the risk of replacing something.
    #[error(
        "the file system of {path} has neither hard links (link: {link}) nor renames that replace nothing (renameat2: \
         {rename}). Without one of them two hosts could replace each other's snapshots"
    )]
    NoCreate {
        /// The folder.
        path: String,
        /// What it says to a hard link.
        link: io::Error,
        /// What it says to such a rename.
        rename: io::Error,
    },
    /// What is written goes to another folder than the one that has this path now.
    #[error("{path} is not the folder any more that it was: it was unmounted, moved or replaced meanwhile")]
    Elsewhere {
        /// The folder.
        path: String,
    },
}

impl Refused {
    pub(super) fn call(what: &'static str, path: &Path, errno: impl Into<io::Error>) -> Self {
        Self::Call { what, path: path.display().to_string(), source: errno.into() }
    }

    /// Whether there is no room: of bytes, of files, or of what this user may have.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Call { source, .. } if is_full(source))
    }

    pub(super) fn is_stale(&self) -> bool {
        let stale = Errno::STALE.raw_os_error();
        matches!(self, Self::Call { source, .. } if source.raw_os_error() == Some(stale))
    }

    /// As `object_store` has it, of what must be there to be read or removed.
    pub(super) fn of_object(self) -> object_store::Error {
        match self {
            Self::Call { path, source, .. } if is_absent(&source) => {
                object_store::Error::NotFound { path, source: source.into() }
            }
            other => other.into(),
        }
    }

    /// As `object_store` has it, of what must not be changed.
    pub(super) fn of_protected(self) -> object_store::Error {
        match self {
            Self::Call { path, source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                object_store::Error::PermissionDenied { path, source: source.into() }
            }
            other => other.of_object(),
        }
    }
}

impl From<Refused> for object_store::Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Exists { path } => Self::AlreadyExists { path, source: "it exists".into() },
            other => Self::Generic { store: FOLDER, source: other.into() },
        }
    }
}

/// Whether nothing has this name.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
