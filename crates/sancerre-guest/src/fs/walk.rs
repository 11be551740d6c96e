//! Coming forward in a file, piece by piece, over extents in the order of the file.

use std::ops::Range;

use super::{Piece, PiecePlace, RUNS_MAX, push};
use crate::bytes::to_usize;
use crate::fault::Result;

/// The pieces of a range, as far as they were met.
pub(super) struct RangeWalk {
    at: u64,
    end: u64,
    pieces: Vec<Piece>,
}

impl RangeWalk {
    /// Nothing of `range` was met yet.
    pub(super) fn new(range: Range<u64>) -> Self {
        Self { at: range.start, end: range.end, pieces: Vec::new() }
    }

    /// The byte of the file that comes next.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn is_full(&self) -> bool {
        self.at >= self.end || self.pieces.len() > RUNS_MAX
    }

    pub(super) fn hole_to(&mut self, to: u64) {
        let to = to.min(self.end);
        push(&mut self.pieces, to.saturating_sub(self.at), PiecePlace::Hole);
        self.at = self.at.max(to);
    }

    /// Bytes of the file that follow each other on the volume from `start` on, or are zeros without one; what lies before
    /// them is a hole. Where they are is asked only for what is in the range: a damaged place costs what lies there.
    pub(super) fn extent(
        &mut self,
        bytes: Range<u64>,
        start: impl FnOnce() -> Result<Option<u64>>,
    ) -> Result<()> {
        if bytes.end <= self.at || self.is_full() {
            return Ok(());
        }
        self.hole_to(bytes.start);
        let skip = self.at.saturating_sub(bytes.start);
        let length = bytes.end.min(self.end).saturating_sub(self.at);
        let place = start()?.map_or(PiecePlace::Hole, |start| PiecePlace::Volume(start.saturating_add(skip)));
        push(&mut self.pieces, length, place);
        self.at = self.at.saturating_add(length);
        Ok(())
    }

    /// What was met, and a hole to the end.
    pub(super) fn end(mut self) -> Vec<Piece> {
        if !self.is_full() {
            self.hole_to(self.end);
        }
        self.pieces.truncate(RUNS_MAX);
        self.pieces
    }
}

/// Bytes of a file that are needed whole: `pieces` says where a range is, `read` reads from the volume.
pub(super) fn content<V>(
    volume: &mut V,
    range: Range<u64>,
    pieces: impl Fn(&mut V, Range<u64>) -> Result<Vec<Piece>>,
    read: impl Fn(&mut V, u64, usize) -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut at = range.start;
    while at < range.end {
        for piece in pieces(volume, at..range.end)? {
            let take = to_usize(piece.length_bytes);
            match piece.place {
                PiecePlace::Volume(offset) => bytes.extend(read(volume, offset, take)?),
                _ => bytes.resize(bytes.len().saturating_add(take), 0),
            }
            at = at.saturating_add(piece.length_bytes);
        }
    }
    Ok(bytes)
}
