//! The trait through which a restore sees whatever takes a disk.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{OldBytes, Qcow2Target, RawTarget, Rest};
use crate::TargetError;

/// What takes a disk, in any order and from many threads: a file, a block device, an image in a format.
///
/// A range is written or zeroed once, and never both. Only after [`DiskTarget::finish`] does the disk exist.
pub trait DiskTarget: Send + Sync {
    /// Writes `bytes` at `offset` of the disk. Durable only after [`DiskTarget::finish`].
    ///
    /// # Errors
    /// [`TargetError::NoSpace`], [`TargetError::Write`], [`TargetError::OutOfRange`].
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError>;

    /// Makes `range` read as zeros, in the cheapest way there is.
    ///
    /// # Errors
    /// As [`DiskTarget::write_at`].
    fn zero(&self, range: Range<u64>) -> Result<(), TargetError>;

    /// What was there before, best first. Bytes of it that are what is wanted need not be fetched.
    fn old(&self) -> Vec<OldBytes<'_>> {
        Vec::new()
    }

    /// Whether it wants to know what will change before the first of it is written ([`DiskTarget::prepare`]).
    fn wants_survey(&self) -> bool {
        false
    }

    /// All that will be written or zeroed lies in these ranges, which ascend. Only then may the first write come.
    ///
    /// # Errors
    /// What could not be prepared; nothing is written then.
    fn prepare(&self, _changes: &[Range<u64>]) -> Result<(), TargetError> {
        Ok(())
    }

    /// What a device holds behind the end of the disk; none for what ends with it.
    ///
    /// # Errors
    /// [`TargetError::Io`] when it cannot be read.
    fn rest(&self) -> Result<Option<Rest>, TargetError> {
        Ok(None)
    }

    /// Makes `range` of what lies behind the end of the disk read as zeros.
    ///
    /// # Errors
    /// As [`DiskTarget::write_at`].
    fn wipe(&self, range: Range<u64>) -> Result<(), TargetError> {
        self.zero(range)
    }

    /// Bytes that the guest will see behind the end of the disk.
    fn surplus_bytes(&self) -> u64;

    /// The size of a device's sectors; none for a file. A partition table counts in them.
    fn sector_bytes(&self) -> Option<u32> {
        None
    }

    /// Where bytes go now, for messages.
    fn path(&self) -> &Path;

    /// Makes everything durable, then visible.
    ///
    /// # Errors
    /// Any error means that the disk is not restored.
    fn finish(self: Box<Self>) -> Result<(), TargetError>;

    /// Gives up. With `is_rescued` all that could be had is written, and is worth keeping.
    fn give_up(self: Box<Self>, is_rescued: bool) -> Left;
}

/// What a restore that did not end left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// What was written until then.
    Partial {
        /// Where it is.
        path: PathBuf,
        /// How another restore goes on from there, if one can.
        next: Option<Continue>,
    },
    /// A file that could not be removed.
    Unremoved {
        /// Where it is.
        path: PathBuf,
    },
}

/// How another restore to the same target goes on from what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continue {
    /// By taking up the partial file.
    Resume,
    /// By writing over what is there, where it differs.
    Overwrite,
    /// The same in a file.
    InPlace,
}

impl Left {
    fn removed(path: PathBuf, removed: Result<(), TargetError>) -> Self {
        match removed {
            Ok(()) => Self::Nothing,
            Err(_) => Self::Unremoved { path },
        }
    }
}

impl DiskTarget for RawTarget {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        self.write_at(offset, bytes)
    }

    fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        self.zero(range)
    }

    fn old(&self) -> Vec<OldBytes<'_>> {
        self.old().collect()
    }

    fn rest(&self) -> Result<Option<Rest>, TargetError> {
        self.rest()
    }

    fn wipe(&self, range: Range<u64>) -> Result<(), TargetError> {
        self.wipe(range)
    }

    fn surplus_bytes(&self) -> u64 {
        self.surplus_bytes()
    }

    fn sector_bytes(&self) -> Option<u32> {
        self.sector_bytes()
    }

    fn path(&self) -> &Path {
        self.path()
    }

    fn finish(self: Box<Self>) -> Result<(), TargetError> {
        (*self).finish()
    }

    fn give_up(self: Box<Self>, _is_rescued: bool) -> Left {
        let path = self.path().to_owned();
        match self.goes_on_with() {
            None => Left::removed(path, self.abandon()),
            next => Left::Partial { path, next },
        }
    }
}

impl DiskTarget for Qcow2Target {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        self.write_at(offset, bytes)
    }

    fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        self.zero(range)
    }

    fn surplus_bytes(&self) -> u64 {
        self.surplus_bytes()
    }

    fn path(&self) -> &Path {
        self.path()
    }

    fn finish(self: Box<Self>) -> Result<(), TargetError> {
        (*self).finish()
    }

    /// Without its tables nothing of an image can be read, so a rescued one gets them.
    fn give_up(mut self: Box<Self>, is_rescued: bool) -> Left {
        let path = self.path().to_owned();
        if is_rescued && self.complete().is_ok() {
            return Left::Partial { path, next: None };
        }
        Left::removed(path, self.abandon())
    }
}
