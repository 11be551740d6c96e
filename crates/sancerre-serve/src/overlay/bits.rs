//! Which blocks of a disk lie in its overlay.

use std::collections::BTreeSet;
use std::ops::Range;

use super::BLOCK_BYTES;

const BITS_PER_BYTE: u64 = 8;

/// How much a bitmap takes, in whole blocks.
pub(super) fn bitmap_bytes(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(BLOCK_BYTES).div_ceil(BITS_PER_BYTE).next_multiple_of(BLOCK_BYTES)
}

/// The bitmap as it is now, and which blocks of it the medium does not have so.
pub(super) struct Bits {
    bytes: Vec<u8>,
    dirty: BTreeSet<u64>,
}

impl Bits {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, dirty: BTreeSet::new() }
    }

    fn mask(block: u64) -> (usize, u8) {
        let byte = usize::try_from(block / BITS_PER_BYTE).unwrap_or(usize::MAX);
        (byte, 1_u8.rotate_left((block % BITS_PER_BYTE) as u32))
    }

    pub(super) fn has(&self, block: u64) -> bool {
        let (byte, mask) = Self::mask(block);
        self.bytes.get(byte).is_some_and(|byte| byte & mask != 0)
    }

    /// Notes that all blocks of a range of bytes are in the medium.
    pub(super) fn set(&mut self, range: Range<u64>) {
        for block in range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES) {
            let (at, mask) = Self::mask(block);
            if let Some(byte) = self.bytes.get_mut(at).filter(|byte| **byte & mask == 0) {
                *byte |= mask;
                self.dirty.insert(block / BITS_PER_BYTE / BLOCK_BYTES * BLOCK_BYTES);
            }
        }
    }

    /// The blocks of the bitmap that changed, and where in it.
    pub(super) fn take_dirty(&mut self) -> Vec<(u64, Vec<u8>)> {
        let page = |at: u64| {
            let start = usize::try_from(at).unwrap_or(usize::MAX);
            let bytes = self.bytes.get(start..)?;
            let length = bytes.len().min(usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX));
            Some((at, bytes.get(..length)?.to_vec()))
        };
        std::mem::take(&mut self.dirty).into_iter().filter_map(page).collect()
    }

    /// A range of bytes, cut where blocks that are here and others meet.
    pub(super) fn runs(&self, range: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let mut runs: Vec<(Range<u64>, bool)> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let block = at / BLOCK_BYTES;
            let end = block.saturating_add(1).saturating_mul(BLOCK_BYTES).min(range.end);
            let is_here = self.has(block);
            match runs.last_mut() {
                Some((last, was_here)) if *was_here == is_here => last.end = end,
                _ => runs.push((at..end, is_here)),
            }
            at = end;
        }
        runs
    }
}
