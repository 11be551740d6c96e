//! Why a disk could not be exported.

use std::io;

use crate::ReadError;

/// Why a disk could not be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The disk could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file could not be written.
    #[error("{0}")]
    Write(#[from] io::Error),
    /// The format cannot hold it.
    #[error("{what}; restore it as raw or qcow2, or export it as vhdx")]
    BeyondFormat {
        /// What it cannot hold.
        what: &'static str,
    },
    /// Whoever watches wanted it to end.
    #[error("interrupted")]
    Stopped,
    /// What the program takes for impossible.
    #[error("{0}; this is a bug, please report it")]
    Bug(&'static str),
}
