//! A snapshot's disk as an export.

use std::ops::Range;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use sancerre_repository::snapshot_disk::{Extent, SnapshotDisk};

use crate::export::{ReadFailure, ServedDisk, Stretch};

/// A disk under the name that clients call it.
pub struct SnapshotExport {
    name: String,
    disk: Arc<SnapshotDisk>,
}

impl SnapshotExport {
    /// Serves `disk` as `name`.
    pub fn new(name: &str, disk: Arc<SnapshotDisk>) -> Self {
        Self { name: name.to_owned(), disk }
    }
}

fn failed(error: impl std::fmt::Display) -> ReadFailure {
    ReadFailure(error.to_string())
}

impl ServedDisk for SnapshotExport {
    fn name(&self) -> &str {
        &self.name
    }

    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> BoxFuture<'a, Result<(), ReadFailure>> {
        async move { self.disk.read(offset, buffer).await.map_err(failed) }.boxed()
    }

    fn stretches(&self, range: Range<u64>, most: usize) -> BoxFuture<'_, Result<Vec<Stretch>, ReadFailure>> {
        let stretches = async move {
            let extents = self.disk.extents(range, most).await.map_err(failed)?;
            let stretch = |extent: Extent| Stretch { range: extent.range, is_data: extent.is_data };
            Ok(extents.into_iter().map(stretch).collect())
        };
        stretches.boxed()
    }

    fn prepare(&self, range: Range<u64>) {
        // A range outside was refused before.
        let _ = self.disk.read_ahead(range);
    }
}
