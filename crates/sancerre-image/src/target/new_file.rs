//! A file of any form that gets its name when it is whole.

use std::fs::File;
use std::path::Path;

use super::partial::Partial;
use super::{is_full, replaced};
use crate::TargetError;

/// A file that is written beside its name, as `NAME.sancerre-partial`, and renamed when it is whole.
#[derive(Debug)]
pub struct NewFile {
    partial: Partial,
    /// The file that it will replace.
    replaced: Option<File>,
}

impl NewFile {
    /// Begins an empty file. Without `overwrite` a file that is not empty is refused.
    ///
    /// # Errors
    /// As [`RawTarget::create`](crate::RawTarget::create).
    pub fn create(path: &Path, overwrite: bool) -> Result<Self, TargetError> {
        let (partial, replaced) = replaced::look(Partial::create(path, 0, overwrite)?, path)?;
        Ok(Self { partial, replaced })
    }

    /// What is written to.
    pub fn file(&self) -> &File {
        self.partial.file()
    }

    /// Where that is.
    pub fn path(&self) -> &Path {
        self.partial.path()
    }

    /// What went wrong with a write to it.
    pub fn write_failed(&self, source: std::io::Error) -> TargetError {
        let step = match is_full(&source) {
            true => "find room for all of",
            false => "write",
        };
        TargetError::Io { step, path: self.path().to_owned(), source }
    }

    /// Makes it durable and gives it its name.
    ///
    /// # Errors
    /// Any error means that there is no such file.
    pub fn finish(self) -> Result<(), TargetError> {
        self.file().sync_all().map_err(|source| self.write_failed(source))?;
        replaced::publish(self.partial, self.replaced.as_ref())
    }

    /// Gives up, and removes it.
    ///
    /// # Errors
    /// [`TargetError::Io`] when it cannot be removed.
    pub fn abandon(self) -> Result<(), TargetError> {
        self.partial.remove()
    }
}
