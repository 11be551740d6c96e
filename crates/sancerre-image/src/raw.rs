//! A raw image file or a block device, read for backup.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, SeekFrom, seek};
use rustix::io::retry_on_intr;

use crate::positional::{Stop, is_inside, length, read_exact};
use crate::{ChangedError, Disk, OpenError, ReadError, holes, kind};

/// A raw file or block device, open for reading.
#[derive(Debug)]
pub struct RawDisk {
    path: PathBuf,
    file: File,
    size_bytes: u64,
    /// Seconds and nanoseconds of the last write to a file; a device has none.
    modified: Option<(i64, i64)>,
}

/// Opens a regular file or a block device as a disk. Symbolic links are followed: the operator named them.
///
/// # Errors
/// [`OpenError::NotADisk`] for anything else, with what to do instead.
pub fn open_raw(path: &Path) -> Result<RawDisk, OpenError> {
    let fail = |source| OpenError::Io { path: path.to_owned(), source };
    let named = std::fs::metadata(path).map_err(fail)?;
    refuse_other_kinds(path, &named)?;
    of_file(path, open_without_waiting(path, &named).map_err(fail)?)
}

/// The disk in an open file. What was opened counts, should the name have changed its meaning in between.
pub(crate) fn of_file(path: &Path, file: File) -> Result<RawDisk, OpenError> {
    let fail = |source| OpenError::Io { path: path.to_owned(), source };
    let metadata = file.metadata().map_err(fail)?;
    refuse_other_kinds(path, &metadata)?;

    let size_bytes = size_of(&file).map_err(fail)?;
    let is_device = metadata.file_type().is_block_device();
    if is_device && size_bytes == 0 {
        return Err(OpenError::EmptyDevice { path: path.to_owned() });
    }
    let modified = (!is_device).then(|| (metadata.mtime(), metadata.mtime_nsec()));
    Ok(RawDisk { path: path.to_owned(), file, size_bytes, modified })
}

pub(crate) fn refuse_other_kinds(path: &Path, metadata: &Metadata) -> Result<(), OpenError> {
    let file_type = metadata.file_type();
    if kind::is_disk(file_type) {
        return Ok(());
    }
    let advice = match () {
        () if file_type.is_fifo() => "pass what comes from a pipe with --stdin",
        () if file_type.is_dir() => "name the disk images in it",
        () if file_type.is_char_device() => "name the block device of the disk",
        () => "name a raw image file or a block device",
    };
    Err(OpenError::NotADisk { path: path.to_owned(), kind: kind::name(file_type), advice })
}

/// A pipe put in place of the file must not make us wait for a writer: hence `O_NONBLOCK`, which a regular file
/// ignores. A block device is opened without it, because some drivers then skip the test for a medium.
fn open_without_waiting(path: &Path, named: &Metadata) -> io::Result<File> {
    let base = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let flags = if named.file_type().is_block_device() { base } else { base | OFlags::NONBLOCK };
    let descriptor = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))?;
    Ok(File::from(descriptor))
}

/// The size of a file or device now. `stat` gives zero for devices; seeking to the end gives both.
pub(crate) fn size_of(file: &File) -> io::Result<u64> {
    Ok(seek(file, SeekFrom::End(0))?)
}

impl RawDisk {
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
        read_exact(|bytes, at| self.file.read_at(bytes, at), offset, buffer).map_err(|stop| match stop {
            Stop::End(at) => self.shrank(size_of(&self.file).unwrap_or(at).min(at)),
            Stop::Block { offset, length_bytes, source } => {
                ReadError::Unreadable { path: self.path.clone(), offset, length_bytes, source }
            }
        })
    }

    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        self.refuse_outside(range.start, range.end.saturating_sub(range.start))?;
        let fail = |(offset, source)| ReadError::HoleSearch { path: self.path.clone(), offset, source };
        let found = holes::data_ranges(&self.file, range.clone()).map_err(fail)?;
        // A file cut while it is searched looks like a hole up to its old end; zeros nobody wrote.
        let now_bytes = size_of(&self.file).map_err(|source| fail((range.end, source)))?;
        if now_bytes < self.size_bytes { Err(self.shrank(now_bytes)) } else { Ok(found) }
    }

    /// Compares the size and, for a file, the time of the last write to the nanosecond. Kernels before 6.13 step
    /// that time only every few milliseconds, so two writes within one step look like one; of a device only the
    /// size is known.
    fn check_unchanged(&self) -> Result<(), ChangedError> {
        let unknown = |source| ChangedError::Unknown { path: self.path.clone(), source };
        let now_bytes = size_of(&self.file).map_err(unknown)?;
        if now_bytes != self.size_bytes {
            let (path, opened_bytes) = (self.path.clone(), self.size_bytes);
            return Err(ChangedError::Size { path, opened_bytes, now_bytes });
        }
        let Some(opened) = self.modified else { return Ok(()) };
        let metadata = self.file.metadata().map_err(unknown)?;
        if (metadata.mtime(), metadata.mtime_nsec()) != opened {
            return Err(ChangedError::Modified { path: self.path.clone() });
        }
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests;
