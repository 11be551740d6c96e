//! Why something of a guest cannot be had.

use sancerre_image::ReadError;

/// Why something of a guest cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// There is no such file or folder.
    #[error("there is no such file or folder")]
    Missing,
    /// The file system says something that makes no sense, or that is not read here.
    #[error("{0}")]
    Fault(String),
    /// Bytes of the disk that it needs cannot be read.
    #[error("{0}")]
    Damage(#[from] ReadError),
    /// The child that reads file systems failed.
    #[error("{0}")]
    Reader(String),
}

impl GuestError {
    /// Whether bytes of the snapshot are damaged or missing.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damage(_))
    }
}
