//! The same disk for code that waits: what reads a [`Disk`] reads a snapshot.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sancerre_image::{ChangedError, Disk, ReadError};
use tokio::runtime::Handle;

use super::SnapshotDisk;
use crate::error::{Error, Result};

/// A [`SnapshotDisk`] whose readers are threads. They must not be threads of the runtime itself.
pub struct BlockingSnapshotDisk {
    disk: Arc<SnapshotDisk>,
    runtime: Handle,
    path: PathBuf,
}

impl BlockingSnapshotDisk {
    /// Reads `disk` by the threads of `runtime`.
    pub fn new(disk: Arc<SnapshotDisk>, runtime: Handle) -> Self {
        let path = PathBuf::from(disk.name());
        Self { disk, runtime, path }
    }

    fn wait<T>(
        &self,
        range: &Range<u64>,
        work: impl Future<Output = Result<T>>,
    ) -> std::result::Result<T, ReadError> {
        self.runtime.block_on(work).map_err(|error| match error {
            Error::Read(error) => error,
            error => ReadError::Snapshot {
                path: self.path.clone(),
                offset: range.start,
                length_bytes: range.end.saturating_sub(range.start),
                problem: error.to_string(),
            },
        })
    }
}

impl Disk for BlockingSnapshotDisk {
    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::result::Result<(), ReadError> {
        let length = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        self.wait(&(offset..offset.saturating_add(length)), self.disk.read(offset, buffer))
    }

    fn data_ranges(&self, range: Range<u64>) -> std::result::Result<Vec<Range<u64>>, ReadError> {
        let extents = self.wait(&range, self.disk.extents(range.clone(), usize::MAX))?;
        Ok(extents.into_iter().filter(|extent| extent.is_data).map(|extent| extent.range).collect())
    }

    /// A snapshot never changes.
    fn check_unchanged(&self) -> std::result::Result<(), ChangedError> {
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
