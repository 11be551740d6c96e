//! A block device that takes a disk in place, held exclusively from the first look to the last flush.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Mode, OFlags, major, minor};
use rustix::io::{Errno, retry_on_intr};

use super::in_use;
use super::zero::Zeroing;
use crate::positional::{Stop, read_exact};
use crate::raw::size_of;
use crate::{TargetError, kind};

/// How much of each end must be zero on an empty device: partition tables, RAID and LVM labels and the superblocks
/// of file systems lie there.
const LOOK_BYTES: u64 = 1 << 20;

/// An open block device at least as large as the disk.
#[derive(Debug)]
pub(super) struct Device {
    file: File,
    path: PathBuf,
    size_bytes: u64,
    /// What is on it may be overwritten, and may be of use.
    is_used: bool,
    zeroing: Zeroing,
}

impl Device {
    pub(super) fn open(path: &Path, disk_bytes: u64, overwrite: bool) -> Result<Self, TargetError> {
        refuse_read_only(path)?;
        Self::opened(open_exclusively(path, OFlags::RDWR)?, path, disk_bytes, overwrite)
    }

    /// Refuses a device that can take no disk at all. It is not opened for writing: when such a file is closed udev looks
    /// at the device anew, and may be at it when the restore begins.
    pub(super) fn refuse(path: &Path, overwrite: bool) -> Result<(), TargetError> {
        refuse_read_only(path)?;
        let allowed = rustix::fs::access(path, Access::WRITE_OK);
        allowed.map_err(|error| TargetError::Io {
            step: "open",
            path: path.to_owned(),
            source: error.into(),
        })?;
        Self::opened(open_exclusively(path, OFlags::RDONLY)?, path, 0, overwrite).map(|_| ())
    }

    fn opened(file: File, path: &Path, disk_bytes: u64, overwrite: bool) -> Result<Self, TargetError> {
        let failed = |step, source| TargetError::Io { step, path: path.to_owned(), source };
        let file_type = file.metadata().map_err(|e| failed("look at", e))?.file_type();
        if !file_type.is_block_device() {
            let advice = "it was a block device a moment ago; look who changes it";
            return Err(TargetError::NotATarget {
                path: path.to_owned(),
                kind: kind::name(file_type),
                advice: advice.into(),
            });
        }
        in_use::refuse_locked(&file, path)?;
        let device_bytes = size_of(&file).map_err(|e| failed("measure", e))?;
        if device_bytes < disk_bytes {
            return Err(TargetError::TooSmall { path: path.to_owned(), device_bytes, disk_bytes });
        }
        let device = Self {
            file,
            path: path.to_owned(),
            size_bytes: device_bytes,
            is_used: overwrite,
            zeroing: Zeroing::new(),
        };
        if !overwrite {
            device.refuse_data()?;
        }
        Ok(device)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn is_used(&self) -> bool {
        self.is_used
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Zeros in the way that is cheapest for the device and still certain to read back as zeros.
    pub(super) fn zero(&self, range: Range<u64>) -> io::Result<()> {
        self.zeroing.zero(&self.file, range)
    }

    fn refuse_data(&self) -> Result<(), TargetError> {
        let head = 0..self.size_bytes.min(LOOK_BYTES);
        let tail = self.size_bytes.saturating_sub(LOOK_BYTES)..self.size_bytes;
        for range in [head, tail] {
            if let Some(offset) = self.first_data(range)? {
                return Err(TargetError::HoldsData { path: self.path.clone(), offset });
            }
        }
        Ok(())
    }

    fn first_data(&self, range: Range<u64>) -> Result<Option<u64>, TargetError> {
        let length_bytes = range.end.saturating_sub(range.start);
        let mut bytes = vec![0u8; usize::try_from(length_bytes).unwrap_or(0)];
        read_exact(|buffer, at| self.file.read_at(buffer, at), range.start, &mut bytes).map_err(|stop| {
            let source = match stop {
                Stop::Block { source, .. } => source,
                Stop::End(_) => io::ErrorKind::UnexpectedEof.into(),
            };
            TargetError::Io { step: "look for data on", path: self.path.clone(), source }
        })?;
        let distance = bytes.iter().position(|byte| *byte != 0).and_then(|at| u64::try_from(at).ok());
        Ok(distance.map(|distance| range.start.saturating_add(distance)))
    }
}

/// A read-only device can be opened for writing, and fails at the first write. Where the kernel's list of devices is not
/// to be had, that is found out then.
fn refuse_read_only(path: &Path) -> Result<(), TargetError> {
    let Ok(device) = std::fs::metadata(path).map(|metadata| metadata.rdev()) else { return Ok(()) };
    let told = format!("/sys/dev/block/{}:{}/ro", major(device), minor(device));
    match std::fs::read_to_string(told) {
        Ok(text) if text.trim() == "1" => Err(TargetError::ReadOnly { path: path.to_owned() }),
        _ => Ok(()),
    }
}

/// `O_EXCL` without `O_CREAT` claims a block device as a mount does (open(2)): it fails while the device or a
/// partition of it is mounted or held, and keeps others from mounting it while we write.
fn open_exclusively(path: &Path, access: OFlags) -> Result<File, TargetError> {
    let flags = access | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOCTTY;
    match retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty())) {
        Ok(descriptor) => Ok(File::from(descriptor)),
        Err(Errno::BUSY) => Err(TargetError::InUse { path: path.to_owned() }),
        Err(error) => Err(TargetError::Io { step: "open", path: path.to_owned(), source: error.into() }),
    }
}

#[cfg(test)]
mod tests;
