//! The pieces rule: bytes that say themselves where they are cut (FORMAT.md §11), as a file catalogue does.

use super::BLOCK_BYTES;
use crate::bytes::{to_u64, to_usize};

/// Longest piece, with its head.
pub const PIECE_BYTES_MAX: usize = 64 << 10;
/// What stands before the content of a piece: u32 bytes of content, u8 kind, three zeros.
pub const PIECE_HEAD_BYTES: usize = 8;
/// Pieces take a multiple of this, so that a gap can always be filled by one.
pub const PIECE_GRID: usize = 16;

const _: () = assert!(PIECE_BYTES_MAX.is_multiple_of(PIECE_GRID) && PIECE_BYTES_MAX >= BLOCK_BYTES);

/// Bytes that a piece takes whose content has this size; none when there can be no such piece.
pub fn piece_bytes(content_bytes: u32) -> Option<usize> {
    let whole =
        to_usize(content_bytes).checked_add(PIECE_HEAD_BYTES)?.checked_next_multiple_of(PIECE_GRID)?;
    (whole <= PIECE_BYTES_MAX).then_some(whole)
}

/// Length of the chunk at the start of `window`, which is not empty: a piece, or what there is where none begins.
pub(super) fn data_length(window: &[u8]) -> usize {
    let most = window.len().min(PIECE_BYTES_MAX);
    let size = window.first_chunk().map(|size| u32::from_le_bytes(*size));
    let piece = size.and_then(piece_bytes).filter(|length| to_u64(*length) <= to_u64(most));
    piece.unwrap_or(most)
}
