//! A disk that is restored where it lies, and whose old blocks are kept before the first of them is written over.

use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::qcow2::Evidence;
use super::{DiskTarget, Left, OldBytes, RawTarget, Rest};
use crate::TargetError;

/// A file or device that is written in place. What will change of it goes into an overlay first, which is whole and durable
/// before anything is written: opened, it shows the disk as it was.
#[derive(Debug)]
pub struct KeepingTarget {
    inner: RawTarget,
    /// Until it is made.
    evidence: Mutex<Option<Evidence>>,
}

impl KeepingTarget {
    /// Prepares to restore a disk of `size_bytes` over what is at `path`, and to keep what it replaces in `evidence`, a new
    /// file.
    ///
    /// # Errors
    /// As [`RawTarget::in_place`]; what cannot take the overlay.
    pub fn create(path: &Path, size_bytes: u64, evidence: &Path) -> Result<Self, TargetError> {
        let inner = RawTarget::in_place(path, size_bytes)?;
        let whole_bytes = size_bytes.saturating_add(inner.surplus_bytes());
        let evidence = Mutex::new(Some(Evidence::create(evidence, path, whole_bytes)?));
        Ok(Self { inner, evidence })
    }
}

impl DiskTarget for KeepingTarget {
    fn wants_survey(&self) -> bool {
        true
    }

    fn prepare(&self, changes: &[Range<u64>]) -> Result<(), TargetError> {
        let evidence = self.evidence.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut evidence) = evidence else { return Ok(()) };
        match evidence.keep(self.inner.file(), changes) {
            Ok(()) => evidence.finish(),
            Err(error) => {
                // The refusal is what matters to the caller.
                let _ = evidence.abandon();
                Err(error)
            }
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        self.inner.write_at(offset, bytes)
    }

    fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        self.inner.zero(range)
    }

    fn old(&self) -> Vec<OldBytes<'_>> {
        self.inner.old().collect()
    }

    fn rest(&self) -> Result<Option<Rest>, TargetError> {
        self.inner.rest()
    }

    fn wipe(&self, range: Range<u64>) -> Result<(), TargetError> {
        self.inner.wipe(range)
    }

    fn surplus_bytes(&self) -> u64 {
        self.inner.surplus_bytes()
    }

    fn sector_bytes(&self) -> Option<u32> {
        self.inner.sector_bytes()
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn finish(self: Box<Self>) -> Result<(), TargetError> {
        self.inner.finish()
    }

    fn give_up(self: Box<Self>, is_rescued: bool) -> Left {
        if let Some(evidence) = self.evidence.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let path = evidence.path().to_owned();
            if evidence.abandon().is_err() {
                return Left::Unremoved { path };
            }
        }
        Box::new(self.inner).give_up(is_rescued)
    }
}
