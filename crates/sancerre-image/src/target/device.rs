//! A block device that takes a disk in place, held exclusively from the first look to the last flush.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};

use crate::positional::{BLOCK_BYTES, Stop, length, read_exact};
use crate::raw::size_of;
use crate::{TargetError, kind};

/// How much of each end must be zero on an empty device: partition tables, RAID and LVM labels and the superblocks
/// of file systems lie there.
const LOOK_BYTES: u64 = 1 << 20;
/// A request to zero is cut into pieces, so that none takes minutes where the kernel has to write the zeros.
const PIECE_BYTES: u64 = 128 << 20;
const ZEROS_BYTES: u64 = 1 << 20;

/// An open block device at least as large as the disk.
#[derive(Debug)]
pub(super) struct Device {
    file: File,
    path: PathBuf,
    size_bytes: u64,
    /// Cleared when the device cannot discard with zeros.
    can_punch: AtomicBool,
    /// Cleared when the kernel cannot zero a range at all.
    can_zero_range: AtomicBool,
}

impl Device {
    pub(super) fn open(path: &Path, disk_bytes: u64, overwrite: bool) -> Result<Self, TargetError> {
        let file = open_exclusively(path)?;
        let failed = |step, source| TargetError::Io { step, path: path.to_owned(), source };
        let file_type = file.metadata().map_err(|e| failed("look at", e))?.file_type();
        if !file_type.is_block_device() {
            let advice = "it was a block device a moment ago; look who changes it";
            return Err(TargetError::NotATarget {
                path: path.to_owned(),
                kind: kind::name(file_type),
                advice,
            });
        }
        let device_bytes = size_of(&file).map_err(|e| failed("measure", e))?;
        if device_bytes < disk_bytes {
            return Err(TargetError::TooSmall { path: path.to_owned(), device_bytes, disk_bytes });
        }
        let device = Self {
            file,
            path: path.to_owned(),
            size_bytes: device_bytes,
            can_punch: AtomicBool::new(true),
            can_zero_range: AtomicBool::new(true),
        };
        if !overwrite {
            device.refuse_data()?;
        }
        Ok(device)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Zeros in the way that is cheapest for the device and still certain to read back as zeros.
    pub(super) fn zero(&self, range: Range<u64>) -> io::Result<()> {
        // Only whole blocks can be zeroed without being written; the ends are written.
        let inner_start = range.start.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(range.end);
        let inner_end = range.end.saturating_sub(range.end % BLOCK_BYTES);
        if inner_start >= inner_end {
            return self.write_zeros(range);
        }
        self.write_zeros(range.start..inner_start)?;
        let mut start = inner_start;
        while start < inner_end {
            let end = start.saturating_add(PIECE_BYTES).min(inner_end);
            self.zero_piece(start..end)?;
            start = end;
        }
        self.write_zeros(inner_end..range.end)
    }

    /// On a block device the kernel defines both modes to leave zeros or to fail (`blkdev_fallocate` in
    /// `block/fops.c`): the first frees space on thin volumes, the second always has a way, if a slow one.
    fn zero_piece(&self, piece: Range<u64>) -> io::Result<()> {
        let modes = [
            (&self.can_punch, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE),
            (&self.can_zero_range, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE),
        ];
        let length_bytes = piece.end.saturating_sub(piece.start);
        for (is_possible, mode) in modes {
            if !is_possible.load(Ordering::Relaxed) {
                continue;
            }
            match retry_on_intr(|| fallocate(&self.file, mode, piece.start, length_bytes)) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    is_possible.store(false, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.write_zeros(piece)
    }

    fn write_zeros(&self, range: Range<u64>) -> io::Result<()> {
        let longest = range.end.saturating_sub(range.start).min(ZEROS_BYTES);
        let zeros = vec![0u8; usize::try_from(longest).unwrap_or(0)];
        let mut start = range.start;
        while start < range.end {
            let take = usize::try_from(range.end.saturating_sub(start)).unwrap_or(usize::MAX);
            let piece = zeros.get(..take).unwrap_or(&zeros);
            self.file.write_all_at(piece, start)?;
            start = start.saturating_add(length(piece));
        }
        Ok(())
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

/// `O_EXCL` without `O_CREAT` claims a block device as a mount does (open(2)): it fails while the device or a
/// partition of it is mounted or held, and keeps others from mounting it while we write.
fn open_exclusively(path: &Path) -> Result<File, TargetError> {
    let flags = OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOCTTY;
    match retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty())) {
        Ok(descriptor) => Ok(File::from(descriptor)),
        Err(Errno::BUSY) => Err(TargetError::InUse { path: path.to_owned() }),
        Err(error) => Err(TargetError::Io { step: "open", path: path.to_owned(), source: error.into() }),
    }
}

#[cfg(test)]
mod tests;
