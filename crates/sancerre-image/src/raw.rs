//! A raw image file or a block device, read for backup.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};

use crate::in_use::Usage;
use crate::open::{Wanted, open, refuse_other_kinds};
use crate::positional::{Stop, is_inside, length, read_exact, read_what_reads};
use crate::{ChangedError, Disk, OpenError, ReadError, holes};

/// A raw file or block device, open for reading.
#[derive(Debug)]
pub struct RawDisk {
    path: PathBuf,
    file: File,
    size_bytes: u64,
    /// Of a file; a device has none.
    times: Option<Times>,
    /// Whether what the file system calls a hole is read all the same.
    reads_holes: bool,
    usage: Usage,
}

/// Seconds and nanoseconds of the last write to a file, and of the last change of what the file system knows of it. Whoever
/// writes can set the first one back, as `rsync --inplace -t` and `touch -r` do; nobody can the second.
#[derive(Debug, PartialEq, Eq)]
struct Times {
    written: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Times {
    fn from(metadata: &Metadata) -> Self {
        let written = (metadata.mtime(), metadata.mtime_nsec());
        Self { written, changed: (metadata.ctime(), metadata.ctime_nsec()) }
    }
}

/// Opens a regular file or a block device as a disk. Symbolic links are followed: the operator named them.
///
/// # Errors
/// [`OpenError::NotADisk`] for anything else, with what to do instead.
pub fn open_raw(path: &Path) -> Result<RawDisk, OpenError> {
    let (file, metadata) = open(path, Wanted::Disk)?;
    of_opened(path, file, &metadata)
}

/// The disk in an open file. What was opened counts, should the name have changed its meaning in between.
pub(crate) fn of_file(path: &Path, file: File) -> Result<RawDisk, OpenError> {
    let metadata = file.metadata().map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
    refuse_other_kinds(path, &metadata, Wanted::Disk)?;
    of_opened(path, file, &metadata)
}

/// The disk in a file that somebody else opened, measured and watches; nothing but its bytes is asked for.
pub(crate) fn passed(path: &Path, file: File, size_bytes: u64) -> RawDisk {
    let (path, usage) = (path.to_owned(), Usage::default());
    RawDisk { path, file, size_bytes, times: None, reads_holes: false, usage }
}

fn of_opened(path: &Path, file: File, metadata: &Metadata) -> Result<RawDisk, OpenError> {
    let fail = |source| OpenError::Io { path: path.to_owned(), source };
    let size_bytes = size_of(&file).map_err(fail)?;
    let is_device = metadata.file_type().is_block_device();
    if is_device && size_bytes == 0 {
        return Err(OpenError::EmptyDevice { path: path.to_owned() });
    }
    let times = (!is_device).then(|| Times::from(metadata));
    let usage = Usage::of(metadata);
    Ok(RawDisk { path: path.to_owned(), file, size_bytes, times, reads_holes: false, usage })
}

/// The size of a file or device now. `stat` gives zero for devices; seeking to the end gives both.
pub(crate) fn size_of(file: &File) -> io::Result<u64> {
    Ok(seek(file, SeekFrom::End(0))?)
}

impl RawDisk {
    /// The same disk, of which holes are read too: some file systems have called a hole what held data.
    pub fn reading_holes(self) -> Self {
        Self { reads_holes: true, ..self }
    }

    /// To be passed to another process, which may read it and no more.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// What tells it from all other files and devices.
    pub(crate) fn identity(&self) -> io::Result<(u64, u64)> {
        let metadata = self.file.metadata()?;
        let is_device = metadata.file_type().is_block_device();
        // A device may have several nodes.
        Ok(if is_device { (u64::MAX, metadata.rdev()) } else { (metadata.dev(), metadata.ino()) })
    }

    fn refuse_outside(&self, offset: u64, length_bytes: u64) -> Result<(), ReadError> {
        if is_inside(offset, length_bytes, self.size_bytes) {
            return Ok(());
        }
        let (path, size_bytes) = (self.path.clone(), self.size_bytes);
        Err(ReadError::OutOfRange { path, offset, length_bytes, size_bytes })
    }

    fn stopped(&self, stop: Stop) -> ReadError {
        match stop {
            Stop::End(at) => self.shrank(size_of(&self.file).unwrap_or(at).min(at)),
            Stop::Block { offset, length_bytes, source } => {
                ReadError::Unreadable { path: self.path.clone(), offset, length_bytes, source }
            }
        }
    }

    fn hole_search(&self, offset: u64, source: io::Error) -> ReadError {
        ReadError::HoleSearch { path: self.path.clone(), offset, source }
    }

    /// A file cut while it is searched looks like a hole up to its old end; zeros nobody wrote.
    fn refuse_cut(&self, offset: u64) -> Result<(), ReadError> {
        let now_bytes = size_of(&self.file).map_err(|source| self.hole_search(offset, source))?;
        if now_bytes < self.size_bytes { Err(self.shrank(now_bytes)) } else { Ok(()) }
    }

    fn shrank(&self, now_bytes: u64) -> ReadError {
        ReadError::Shrank { path: self.path.clone(), opened_bytes: self.size_bytes, now_bytes }
    }
}

impl Disk for RawDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.refuse_outside(offset, length(buffer))?;
        read_exact(|bytes, at| self.file.read_at(bytes, at), offset, buffer)
            .map_err(|stop| self.stopped(stop))
    }

    fn read_what_reads(&self, offset: u64, buffer: &mut [u8]) -> Result<Vec<Range<u64>>, ReadError> {
        self.refuse_outside(offset, length(buffer))?;
        read_what_reads(|bytes, at| self.file.read_at(bytes, at), offset, buffer)
            .map_err(|stop| self.stopped(stop))
    }

    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        self.refuse_outside(range.start, range.end.saturating_sub(range.start))?;
        let fail = |(offset, source)| self.hole_search(offset, source);
        let found = match self.reads_holes {
            true if range.is_empty() => Vec::new(),
            true => std::iter::once(range.clone()).collect(),
            false => holes::data_ranges(&self.file, range.clone()).map_err(fail)?,
        };
        self.refuse_cut(range.end)?;
        Ok(found)
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>, ReadError> {
        if offset >= self.size_bytes || self.reads_holes {
            return Ok((offset < self.size_bytes).then_some(offset));
        }
        let found =
            holes::next_data(&self.file, offset).map_err(|source| self.hole_search(offset, source))?;
        self.refuse_cut(offset)?;
        Ok(found.filter(|start| *start < self.size_bytes))
    }

    fn cut_to(&self) -> Option<u64> {
        size_of(&self.file).ok().filter(|now_bytes| *now_bytes < self.size_bytes)
    }

    /// Compares the size and, for a file, the times of the last write and of the last change to the nanosecond. Kernels
    /// before 6.13 step these only every few milliseconds, so two writes within one step look like one; of a device only
    /// the size is known. Asks the system whether somebody else may be writing.
    fn check_unchanged(&self) -> Result<(), ChangedError> {
        let unknown = |source| ChangedError::Unknown { path: self.path.clone(), source };
        let now_bytes = size_of(&self.file).map_err(unknown)?;
        if now_bytes != self.size_bytes {
            let (path, opened_bytes) = (self.path.clone(), self.size_bytes);
            return Err(ChangedError::Size { path, opened_bytes, now_bytes });
        }
        if let Some(opened) = &self.times {
            let now = Times::from(&self.file.metadata().map_err(unknown)?);
            if now.written != opened.written {
                return Err(ChangedError::Modified { path: self.path.clone() });
            }
            if now.changed != opened.changed {
                return Err(ChangedError::Touched { path: self.path.clone() });
            }
        }
        match self.usage.writer(&self.file) {
            Some(how) => Err(ChangedError::InUse { path: self.path.clone(), how }),
            None => Ok(()),
        }
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests;
