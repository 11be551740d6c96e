//! The disk rule: FastCDC's normalised two thresholds, applied to blocks of 4 KiB instead of bytes.
//!
//! After a block that is not all zeros, at a length of `min` or more, the chunk ends if
//! - the block ends in zeros: file systems pad a file's last block, so files keep their chunks wherever they move; or
//! - the PRF of the block is under the threshold for this length: rare before `target`, frequent from there on; or
//! - the length is `max`.
//!
//! At any length it ends before [`HOLE_BLOCKS`] zero blocks, and before fewer if they reach `max` or the region's end.
//! So a chunk starts and ends with a block of data, and shorter runs of zeros inside stay in it.

use super::{BLOCK_BYTES, is_zero, length};
use crate::config::ProfileSizes;

/// Zero blocks in a row that end a chunk.
pub(super) const HOLE_BLOCKS: usize = 4;

/// A block whose last so many bytes are zeros is taken for the end of a file. Fewer find hardly more of them, but mistake
/// tables and half-full pages for file ends: a fifth more chunks with 64.
const FILE_END_BYTES: usize = 256;

/// Cuts are two to this power times rarer before the target than one in `target` bytes, and more frequent after it.
const NORMALISATION: u32 = 1;

pub(super) struct DiskRule {
    cut_key: [u8; 32],
    min_bytes: usize,
    target_bytes: usize,
    max_bytes: usize,
    /// Cut under this before the target.
    rare: u64,
    /// Cut under this from the target on.
    frequent: u64,
}

impl DiskRule {
    /// `sizes` must have been checked.
    pub(super) fn new(cut_key: &[u8; 32], sizes: ProfileSizes) -> Self {
        let target_blocks = u64::from(sizes.target_bytes / 4096).max(1);
        let one_in = |blocks: u64| u64::MAX.checked_div(blocks).unwrap_or(u64::MAX);
        Self {
            cut_key: *cut_key,
            min_bytes: length(sizes.min_bytes),
            target_bytes: length(sizes.target_bytes),
            max_bytes: length(sizes.max_bytes),
            rare: one_in(target_blocks << NORMALISATION),
            frequent: one_in(target_blocks >> NORMALISATION),
        }
    }

    pub(super) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Length of the chunk at the start of `window`, whose first block is not all zeros.
    pub(super) fn data_length(&self, window: &[u8]) -> usize {
        let mut scanned_bytes = 0_usize;
        let mut end = 0;
        let mut zero_blocks = 0_usize;
        for block in window.chunks(BLOCK_BYTES) {
            scanned_bytes = scanned_bytes.saturating_add(block.len());
            if is_zero(block) {
                zero_blocks = zero_blocks.saturating_add(1);
                if zero_blocks >= HOLE_BLOCKS || scanned_bytes >= self.max_bytes {
                    break;
                }
                continue;
            }
            zero_blocks = 0;
            end = scanned_bytes;
            if self.cuts_after(block, end) {
                break;
            }
        }
        end
    }

    /// See [`super::Chunker::confirms`].
    pub(super) fn confirms(&self, window: &[u8], length_bytes: usize) -> bool {
        let Some((chunk, next)) = window.split_at_checked(length_bytes) else { return false };
        let Some(last) = chunk.chunks(BLOCK_BYTES).last() else { return false };
        if last.len() < BLOCK_BYTES && !next.is_empty() {
            return false; // the disk ended inside this block and has grown
        }
        if self.cuts_after(last, length_bytes) {
            return true;
        }
        // Not by its own bytes, so only zeros or the end can have ended it, and only they can again.
        let hole_bytes =
            HOLE_BLOCKS.saturating_mul(BLOCK_BYTES).min(self.max_bytes.saturating_sub(length_bytes));
        is_zero(next.get(..hole_bytes).unwrap_or(next))
    }

    /// Whether a chunk of `length_bytes` ends with `block`, its last one so far, whatever follows.
    fn cuts_after(&self, block: &[u8], length_bytes: usize) -> bool {
        if length_bytes < self.min_bytes {
            return false;
        }
        let threshold = if length_bytes < self.target_bytes { self.rare } else { self.frequent };
        length_bytes >= self.max_bytes || ends_file(block) || self.prf(block) < threshold
    }

    /// Keyed BLAKE3 of the block's first and last 32 bytes, which is one compression: blocks that differ only in their
    /// head or only in their tail (fixed trailers, flash filled with ones) still differ here.
    fn prf(&self, block: &[u8]) -> u64 {
        // A block too short for that is the region's last.
        let (Some(first), Some(last)) = (block.first_chunk::<32>(), block.last_chunk::<32>()) else {
            return u64::MAX;
        };
        let mut sample = [0; 64];
        let (head, tail) = sample.split_at_mut(32);
        head.copy_from_slice(first);
        tail.copy_from_slice(last);
        let hash = blake3::keyed_hash(&self.cut_key, &sample);
        hash.as_bytes().first_chunk().map_or(u64::MAX, |first| u64::from_le_bytes(*first))
    }
}

fn ends_file(block: &[u8]) -> bool {
    block.last_chunk::<FILE_END_BYTES>().is_some_and(|tail| is_zero(tail))
}
