//! Making a range of a file or device read as zeros, in the way that is cheapest and still certain.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};

use crate::positional::{BLOCK_BYTES, length};

/// A request to zero is cut into pieces, so that none takes minutes where the kernel has to write the zeros.
const PIECE_BYTES: u64 = 128 << 20;
const ZEROS_BYTES: u64 = 1 << 20;

/// Zeroes ranges, and remembers which ways do not work.
#[derive(Debug)]
pub(super) struct Zeroing {
    /// Cleared when discarding with zeros, or making a hole, does not work.
    can_punch: AtomicBool,
    /// Cleared when the kernel cannot zero a range at all.
    can_zero_range: AtomicBool,
}

impl Zeroing {
    pub(super) fn new() -> Self {
        Self { can_punch: AtomicBool::new(true), can_zero_range: AtomicBool::new(true) }
    }

    #[cfg(test)]
    pub(super) fn allow(&self, punch: bool, zero_range: bool) {
        self.can_punch.store(punch, Ordering::Relaxed);
        self.can_zero_range.store(zero_range, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn can_punch(&self) -> bool {
        self.can_punch.load(Ordering::Relaxed)
    }

    /// Zeros `range` of `file`.
    pub(super) fn zero(&self, file: &File, range: Range<u64>) -> io::Result<()> {
        // Only whole blocks can be zeroed without being written; the ends are written.
        let inner_start = range.start.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(range.end);
        let inner_end = range.end.saturating_sub(range.end % BLOCK_BYTES);
        if inner_start >= inner_end {
            return write_zeros(file, range);
        }
        write_zeros(file, range.start..inner_start)?;
        let mut start = inner_start;
        while start < inner_end {
            let end = start.saturating_add(PIECE_BYTES).min(inner_end);
            self.zero_piece(file, start..end)?;
            start = end;
        }
        write_zeros(file, inner_end..range.end)
    }

    /// On a block device the kernel defines both modes to leave zeros or to fail (`blkdev_fallocate` in
    /// `block/fops.c`): the first frees space on thin volumes, the second always has a way, if a slow one. In a file
    /// the first leaves a hole (fallocate(2)).
    fn zero_piece(&self, file: &File, piece: Range<u64>) -> io::Result<()> {
        let modes = [
            (&self.can_punch, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE),
            (&self.can_zero_range, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE),
        ];
        let length_bytes = piece.end.saturating_sub(piece.start);
        for (is_possible, mode) in modes {
            if !is_possible.load(Ordering::Relaxed) {
                continue;
            }
            match retry_on_intr(|| fallocate(file, mode, piece.start, length_bytes)) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    is_possible.store(false, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        write_zeros(file, piece)
    }
}

fn write_zeros(file: &File, range: Range<u64>) -> io::Result<()> {
    let longest = range.end.saturating_sub(range.start).min(ZEROS_BYTES);
    let zeros = vec![0u8; usize::try_from(longest).unwrap_or(0)];
    let mut start = range.start;
    while start < range.end {
        let take = usize::try_from(range.end.saturating_sub(start)).unwrap_or(usize::MAX);
        let piece = zeros.get(..take).unwrap_or(&zeros);
        file.write_all_at(piece, start)?;
        start = start.saturating_add(length(piece));
    }
    Ok(())
}
