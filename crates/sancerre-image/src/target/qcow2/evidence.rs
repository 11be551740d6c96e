//! What a restore replaces, as a qcow2 overlay over the restored disk: only what differs takes room.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::layout::{Backing, write_tables};
use super::map::{CLUSTER_BYTES, CLUSTER_LENGTH, Map, is_zero};
use super::{SECTOR_BYTES, is_device, is_full};
use crate::TargetError;
use crate::positional::{Stop, read_exact};
use crate::target::NewFile;

/// An overlay that is being made.
#[derive(Debug)]
pub(crate) struct Evidence {
    target: NewFile,
    map: Map,
    size_bytes: u64,
    backing: Backing,
}

impl Evidence {
    /// Begins the overlay `path` over `disk`, of so many bytes. A file that is there is never replaced.
    ///
    /// # Errors
    /// As [`NewFile::create`]; a disk whose path is too long for the format.
    pub(crate) fn create(path: &Path, disk: &Path, size_bytes: u64) -> Result<Self, TargetError> {
        let failed = |step, path: &Path, source| TargetError::Io { step, path: path.to_owned(), source };
        if is_device(path)? {
            let advice = "what is replaced is kept in a file; name a new one";
            return Err(TargetError::NotATarget {
                path: path.to_owned(),
                kind: "block device",
                advice: advice.into(),
            });
        }
        let disk = disk.canonicalize().map_err(|source| failed("look up", disk, source))?;
        let backing = Backing::new(disk.as_os_str().as_bytes()).ok_or_else(|| {
            let source = io::Error::new(io::ErrorKind::InvalidFilename, "its path has more than 1023 bytes");
            failed("keep what is replaced of", &disk, source)
        })?;
        let target = NewFile::create(path, false)?;
        Ok(Self { target, map: Map::new(size_bytes), size_bytes, backing })
    }

    /// Keeps all whole clusters of `disk` that these ranges touch; they ascend.
    pub(crate) fn keep(&mut self, disk: &File, ranges: &[Range<u64>]) -> Result<(), TargetError> {
        let mut next = 0_u64;
        for range in ranges {
            let last = range.end.min(self.size_bytes).div_ceil(CLUSTER_BYTES);
            for cluster in next.max(range.start / CLUSTER_BYTES)..last {
                self.cluster(disk, cluster)?;
            }
            next = next.max(last);
        }
        Ok(())
    }

    fn cluster(&mut self, disk: &File, cluster: u64) -> Result<(), TargetError> {
        let at = cluster.saturating_mul(CLUSTER_BYTES);
        let mut bytes = vec![0; CLUSTER_LENGTH];
        let length = usize::try_from(self.size_bytes.saturating_sub(at)).unwrap_or(CLUSTER_LENGTH);
        let in_disk = bytes.get_mut(..length.min(CLUSTER_LENGTH)).unwrap_or_default();
        read_exact(|bytes, at| disk.read_at(bytes, at), at, in_disk).map_err(|stop| {
            let source = match stop {
                Stop::Block { source, .. } => source,
                Stop::End(_) => io::ErrorKind::UnexpectedEof.into(),
            };
            TargetError::Io {
                step: "read, to keep it, what is replaced for",
                path: self.path().to_owned(),
                source,
            }
        })?;
        let file = self.target.file();
        let kept = match is_zero(&bytes) {
            // What is nowhere would be read from the restored disk.
            true => self.map.set_zero(file, cluster),
            false => self.map.replace(file, cluster, &bytes),
        };
        kept.map_err(|source| self.write_failed(source))
    }

    /// Where it grows.
    pub(crate) fn path(&self) -> &Path {
        self.target.path()
    }

    fn write_failed(&self, source: io::Error) -> TargetError {
        let step =
            if is_full(&source) { "find room for what is replaced, in" } else { "write what is replaced to" };
        TargetError::Io { step, path: self.path().to_owned(), source }
    }

    /// Makes it an image, durable, with its name.
    pub(crate) fn finish(self) -> Result<(), TargetError> {
        let virtual_bytes = self.size_bytes.next_multiple_of(SECTOR_BYTES);
        let file = self.target.file();
        let complete = || {
            let header = write_tables(file, &self.map, virtual_bytes, None, Some(&self.backing))?;
            file.write_all_at(&header, 0)
        };
        complete().map_err(|source| self.write_failed(source))?;
        self.target.finish()
    }

    /// Gives it up.
    pub(crate) fn abandon(self) -> Result<(), TargetError> {
        self.target.abandon()
    }
}
