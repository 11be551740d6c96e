//! An export that takes a disk: a running hypervisor's, or another host's.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Continue, DiskTarget, Left, OldBytes};
use crate::nbd::{Change, NbdDisk, NbdError, NbdOptions, NbdUri};
use crate::positional::{is_inside, length};
use crate::{Disk, TargetError};

/// How much of each end must be zeros on an export that is not to be overwritten.
const LOOK_BYTES: u64 = 1 << 20;
/// Zeros that are asked for at once: servers may have to write them.
const ZERO_BYTES: u64 = 64 << 20;

/// An export at least as large as the disk, which is written in place.
#[derive(Debug)]
pub struct NbdTarget {
    disk: NbdDisk,
    size_bytes: u64,
    /// What is there may be overwritten, and may be of use.
    is_used: bool,
    is_written: AtomicBool,
    /// Held by who writes a part of a block: it is read, and written whole.
    parts: Mutex<()>,
}

impl NbdTarget {
    /// Opens an export to take a disk of `size_bytes`. Without `overwrite` one with anything but zeros in its first or last MiB
    /// is refused.
    ///
    /// # Errors
    /// [`TargetError::Server`], [`TargetError::ReadOnly`], [`TargetError::TooSmall`], [`TargetError::HoldsData`].
    pub fn open(
        uri: &NbdUri,
        options: &NbdOptions,
        size_bytes: u64,
        overwrite: bool,
    ) -> Result<Self, TargetError> {
        let disk = NbdDisk::open(uri, options).map_err(refused)?;
        let (path, device_bytes) = (disk.path().to_owned(), disk.size_bytes());
        if disk.export().is_read_only {
            return Err(TargetError::ReadOnly { path });
        }
        if device_bytes < size_bytes {
            return Err(TargetError::TooSmall { path, device_bytes, disk_bytes: size_bytes });
        }
        let target = Self {
            disk,
            size_bytes,
            is_used: overwrite,
            is_written: AtomicBool::new(false),
            parts: Mutex::default(),
        };
        if !overwrite {
            target.refuse_data()?;
        }
        Ok(target)
    }

    fn refuse_data(&self) -> Result<(), TargetError> {
        let whole = self.disk.size_bytes();
        for range in [0..whole.min(LOOK_BYTES), whole.saturating_sub(LOOK_BYTES)..whole] {
            if let Some(data) = OldBytes::of_disk(&self.disk, true).not_zero(range).first() {
                return Err(TargetError::HoldsData { path: self.path().to_owned(), offset: data.start });
            }
        }
        Ok(())
    }

    /// Has the server change a range of whole blocks.
    fn change(&self, change: Change<'_>) -> Result<(), TargetError> {
        self.is_written.store(true, Ordering::Relaxed);
        self.disk.change(change).map_err(refused)
    }

    /// Writes in requests that the server takes.
    fn write_blocks(&self, mut at: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let most = usize::try_from(self.disk.export().largest_block_bytes).unwrap_or(usize::MAX);
        for piece in bytes.chunks(most.max(1)) {
            self.change(Change::Write(at, piece))?;
            at = at.saturating_add(length(piece));
        }
        Ok(())
    }

    /// `range` within whole blocks, and the parts of blocks before and behind it.
    fn blocks(&self, range: &Range<u64>) -> (Range<u64>, Vec<Range<u64>>) {
        let block = u64::from(self.disk.export().smallest_block_bytes).max(1);
        let start = range.start.checked_next_multiple_of(block).unwrap_or(range.end).min(range.end);
        let end = range.end.saturating_sub(range.end.checked_rem(block).unwrap_or(0)).max(start);
        let parts = [range.start..start, end..range.end];
        (start..end, parts.into_iter().filter(|part| !part.is_empty()).collect())
    }

    /// Writes parts of blocks, at most two of them.
    fn write_part(&self, part: &Range<u64>, bytes: &[u8]) -> Result<(), TargetError> {
        let block = u64::from(self.disk.export().smallest_block_bytes).max(1);
        let start = part.start.saturating_sub(part.start.checked_rem(block).unwrap_or(0));
        let end = part.end.checked_next_multiple_of(block).unwrap_or(part.end).min(self.disk.size_bytes());
        let inside = |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
        let mut whole = vec![0; inside(end)];
        let _alone = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        self.disk.read_at(start, &mut whole).map_err(|error| TargetError::Io {
            step: "read a block of",
            path: self.path().to_owned(),
            source: std::io::Error::other(error),
        })?;
        match whole.get_mut(inside(part.start)..inside(part.end)) {
            Some(place) if place.len() == bytes.len() => place.copy_from_slice(bytes),
            _ => return Err(self.outside(part.start, length(bytes))),
        }
        self.write_blocks(start, &whole)
    }

    fn outside(&self, offset: u64, length_bytes: u64) -> TargetError {
        let (path, size_bytes) = (self.path().to_owned(), self.size_bytes);
        TargetError::OutOfRange { path, offset, length_bytes, size_bytes }
    }

    fn zero_blocks(&self, range: Range<u64>) -> Result<(), TargetError> {
        let can_zero = self.disk.export().can_zero;
        let most = if can_zero { ZERO_BYTES } else { LOOK_BYTES };
        let mut at = range.start;
        while at < range.end {
            let end = at.saturating_add(most).min(range.end);
            match can_zero {
                true => self.change(Change::Zero(at..end))?,
                false => {
                    let zeros = vec![0; usize::try_from(end.saturating_sub(at)).unwrap_or(0)];
                    self.write_blocks(at, &zeros)?;
                }
            }
            at = end;
        }
        Ok(())
    }
}

fn refused(error: NbdError) -> TargetError {
    TargetError::Server { source: Box::new(error) }
}

impl DiskTarget for NbdTarget {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let length_bytes = length(bytes);
        if !is_inside(offset, length_bytes, self.size_bytes) {
            return Err(self.outside(offset, length_bytes));
        }
        let range = offset..offset.saturating_add(length_bytes);
        let (blocks, parts) = self.blocks(&range);
        let of = |part: &Range<u64>| {
            let at = |place: u64| usize::try_from(place.saturating_sub(offset)).unwrap_or(usize::MAX);
            bytes.get(at(part.start)..at(part.end)).unwrap_or_default()
        };
        self.write_blocks(blocks.start, of(&blocks))?;
        parts.iter().try_for_each(|part| self.write_part(part, of(part)))
    }

    /// Only where the server does not say that zeros are: what it said is kept, and holds, because no range is written twice.
    fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        let length_bytes = range.end.saturating_sub(range.start);
        if !is_inside(range.start, length_bytes, self.size_bytes) {
            return Err(self.outside(range.start, length_bytes));
        }
        let data = self.disk.data_ranges(range.clone()).unwrap_or_else(|_| vec![range]);
        for range in data {
            let (blocks, parts) = self.blocks(&range);
            self.zero_blocks(blocks)?;
            for part in parts {
                let zeros = vec![0; usize::try_from(part.end.saturating_sub(part.start)).unwrap_or(0)];
                self.write_part(&part, &zeros)?;
            }
        }
        Ok(())
    }

    fn old(&self) -> Vec<OldBytes<'_>> {
        self.is_used.then(|| OldBytes::of_disk(&self.disk, true)).into_iter().collect()
    }

    fn surplus_bytes(&self) -> u64 {
        self.disk.size_bytes().saturating_sub(self.size_bytes)
    }

    fn path(&self) -> &Path {
        self.disk.path()
    }

    /// Where the server has no flush, what it answered is all that is known.
    fn finish(self: Box<Self>) -> Result<(), TargetError> {
        match self.disk.export().can_flush {
            true => self.change(Change::Flush),
            false => Ok(()),
        }
    }

    fn give_up(self: Box<Self>, _is_rescued: bool) -> Left {
        match self.is_written.load(Ordering::Relaxed) {
            true => Left::Partial { path: self.path().to_owned(), next: Some(Continue::Overwrite) },
            false => Left::Nothing,
        }
    }
}
