//! Where a disk or a stream is cut into chunks (FORMAT.md §11): bytes in, the length of the next piece out.
//!
//! A region of a disk becomes a row of pieces, each either *zeros*, which are not stored, or *data*, which is one
//! chunk. A caller keeps a window on the region and asks for one piece after the other:
//!
//! ```
//! # use sancerre_format::chunk::{Chunker, PieceKind};
//! # use sancerre_format::config::Layout;
//! # let mut region = vec![0_u8; 1 << 20];
//! # region[65536..400_000].fill(7);
//! let chunker = Chunker::disk(&[9; 32], Layout::default().disk)?;
//! let mut window = region.as_slice();
//! while let Some(piece) = chunker.next_piece(window) {
//!     let (bytes, rest) = window.split_at(piece.length_bytes);
//!     if piece.kind == PieceKind::Data {
//!         println!("a chunk of {} bytes", bytes.len());
//!     }
//!     window = rest;
//! }
//! # Ok::<(), sancerre_format::FormatError>(())
//! ```
//!
//! What holds for both profiles, and the tests prove:
//! - **Cuts belong to the bytes.** Equal bytes from a piece's start give equal pieces, under one cut key and one set
//!   of sizes, whatever lies before the piece and however the caller windows the region. A changed range therefore
//!   rejoins the old cuts after the first cut that both have.
//! - **Cuts are keyed.** Without the cut key, chunk lengths tell nothing about content except the ends of zero runs
//!   (both profiles) and of files (disk profile).
//! - **Nothing else is looked at.** The end of a data piece depends on its own bytes alone, with one exception:
//!   the disk profile also ends a piece where zeros or the region's end follow. [`Chunker::confirms`] settles that case.
//!
//! The profiles differ in their rule: `disk` cuts at blocks of 4 KiB, as guests write; `stream` at any byte; `pieces` where
//! the bytes themselves say so.
//! The numbers behind both: `docs/decisions/0002-chunking.md`.

mod disk;
mod pieces;
mod stream;
#[cfg(test)]
mod tests;

pub use pieces::{PIECE_BYTES_MAX, PIECE_GRID, PIECE_HEAD_BYTES, piece_bytes};

use crate::config::ProfileSizes;
use crate::error::{Result, ensure};

/// The grid of the disk profile, and the unit in which both profiles leave zeros out.
pub const BLOCK_BYTES: usize = 4096;

/// Zeros of at least this length always end a chunk (disk profile); shorter runs may lie inside one, so a caller that
/// skips holes must not skip shorter ones.
pub const HOLE_BYTES: usize = disk::HOLE_BLOCKS * BLOCK_BYTES;

/// What the bytes of a piece are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceKind {
    /// Zeros only: not stored, a gap between chunks.
    Zeros,
    /// One chunk. Neither its first nor (disk profile) its last block is all zeros.
    Data,
}

/// The piece at the start of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Zeros or a chunk.
    pub kind: PieceKind,
    /// Bytes of the window it takes; at least 1, for data at most the profile's maximum.
    pub length_bytes: usize,
}

impl Piece {
    fn zeros(length_bytes: usize) -> Self {
        Self { kind: PieceKind::Zeros, length_bytes }
    }

    fn data(length_bytes: usize) -> Self {
        Self { kind: PieceKind::Data, length_bytes }
    }
}

/// Cuts regions under one cut key. It keeps no state between pieces: one may serve all threads.
pub struct Chunker {
    rule: Rule,
}

enum Rule {
    Disk(disk::DiskRule),
    Stream(Box<stream::StreamRule>),
    Pieces,
}

impl Chunker {
    /// The `disk` profile: cuts only at multiples of [`BLOCK_BYTES`] from the window's start, and at the region's end.
    ///
    /// The caller starts regions on the guest's grid (the disk's phase).
    ///
    /// # Errors
    /// Sizes that are not powers of two with 4 KiB ≤ min ≤ target ≤ max ≤ 16 MiB.
    pub fn disk(cut_key: &[u8; 32], sizes: ProfileSizes) -> Result<Self> {
        check_sizes(sizes)?;
        Ok(Self { rule: Rule::Disk(disk::DiskRule::new(cut_key, sizes)) })
    }

    /// The `stream` profile: cuts at any byte. For data without a block grid: pipes, memory images, files.
    ///
    /// # Errors
    /// As [`Chunker::disk`], and a target above 4 MiB or a minimum above 1 MiB.
    pub fn stream(cut_key: &[u8; 32], sizes: ProfileSizes) -> Result<Self> {
        check_sizes(sizes)?;
        ensure(sizes.min_bytes <= 1 << 20 && sizes.target_bytes <= 4 << 20, SIZES, || {
            format!("{sizes}: the stream chunker takes min up to 1 MiB and target up to 4 MiB")
        })?;
        Ok(Self { rule: Rule::Stream(Box::new(stream::StreamRule::new(cut_key, sizes))) })
    }

    /// The `pieces` profile: bytes that say themselves where they are cut.
    pub fn pieces() -> Self {
        Self { rule: Rule::Pieces }
    }

    /// Bytes that [`Chunker::next_piece`] and [`Chunker::confirms`] may need to decide: the profile's maximum.
    ///
    /// A shorter window says that the region (or the disk, or the stream) ends with it.
    pub fn window_bytes(&self) -> usize {
        match &self.rule {
            Rule::Disk(rule) => rule.max_bytes(),
            Rule::Stream(rule) => rule.max_bytes(),
            Rule::Pieces => PIECE_BYTES_MAX,
        }
    }

    /// Whether zeros of at least [`HOLE_BYTES`] always end a chunk, so that a caller may skip such holes unread.
    ///
    /// Under the stream profile a chunk may reach over any run of zeros; only where a region holds nothing else do
    /// zeros never belong to a chunk.
    pub fn ends_at_holes(&self) -> bool {
        matches!(self.rule, Rule::Disk(_))
    }

    /// The piece at the start of `window`, which starts at a region's start or where the piece before it ended.
    /// `None` for an empty window.
    ///
    /// The window must hold [`Chunker::window_bytes`] or reach the end of the region. Zeros are reported as far as
    /// the window goes; if the run goes on, the next piece is zeros again, so callers may join such pieces.
    pub fn next_piece(&self, window: &[u8]) -> Option<Piece> {
        if window.is_empty() {
            return None;
        }
        let zeros = leading_zeros(window, window.len() < self.window_bytes());
        if zeros > 0 {
            return Some(Piece::zeros(zeros));
        }
        Some(Piece::data(match &self.rule {
            Rule::Disk(rule) => rule.data_length(window),
            Rule::Stream(rule) => rule.data_length(window),
            Rule::Pieces => pieces::data_length(window),
        }))
    }

    /// Whether the first `length_bytes` of `window` would again be one chunk, given that an equally keyed and sized
    /// chunker once cut exactly these bytes as a chunk and that `window` starts where a piece starts.
    ///
    /// This is [`Chunker::next_piece`]`(window) == Data(length_bytes)` at the price of one block instead of the whole
    /// chunk (disk profile): a scan that finds a known chunk unchanged skips the search for its end. Without that
    /// promise about the bytes the answer means nothing.
    pub fn confirms(&self, window: &[u8], length_bytes: usize) -> bool {
        match &self.rule {
            Rule::Disk(rule) => rule.confirms(window, length_bytes),
            Rule::Stream(_) | Rule::Pieces => self.next_piece(window) == Some(Piece::data(length_bytes)),
        }
    }
}

const SIZES: &str = "chunk sizes";

fn check_sizes(sizes: ProfileSizes) -> Result<()> {
    let ProfileSizes { min_bytes, target_bytes, max_bytes } = sizes;
    let powers = [min_bytes, target_bytes, max_bytes].iter().all(|size| size.is_power_of_two());
    let ordered = 4096 <= min_bytes && min_bytes <= target_bytes && target_bytes <= max_bytes;
    ensure(powers && ordered && max_bytes <= 16 << 20, SIZES, || {
        format!("{sizes}: powers of two with 4 KiB <= min <= target <= max <= 16 MiB are needed")
    })
}

/// Bytes of all-zero blocks at the window's start. An incomplete last block counts only if the region ends with it;
/// else the grid would depend on the window.
fn leading_zeros(window: &[u8], region_ends: bool) -> usize {
    window
        .chunks(BLOCK_BYTES)
        .take_while(|block| (block.len() == BLOCK_BYTES || region_ends) && is_zero(block))
        .map(<[u8]>::len)
        .sum()
}

/// Whether every byte is zero. Stops at the first 128 bytes that are not.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (groups, rest) = bytes.as_chunks::<128>();
    // No early exit inside a group: the compiler turns it into a few vector instructions.
    let zero = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all | byte) == 0;
    groups.iter().all(|group| zero(group)) && zero(rest)
}

/// A size as a length in memory; `usize` has at least 32 bits wherever this runs.
fn length(size: u32) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}
