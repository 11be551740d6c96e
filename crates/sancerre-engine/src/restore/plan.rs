//! The plan: which stretches of which packs to read, and where on the disk their bytes go. Pure.
//!
//! Chunks of a window of the disk are grouped by frame, so that each frame is fetched and decoded once however many
//! chunks of it are wanted and however often; frames that lie close together in a pack are fetched by one request.

use std::ops::Range;

use sancerre_format::FormatError;
use sancerre_format::bytes::to_usize;
use sancerre_format::id::{ContentId, FramePlace, PackName};

use crate::frames::PackedFrame;

/// Which frames of a pack are read by one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Merge {
    /// Bytes that are not wanted but read to save a request.
    pub(super) gap_bytes: u64,
    /// Most bytes of a request that joins frames.
    pub(super) range_bytes: u64,
}

/// A stretch of a raw frame and where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// A chunk's offset on the disk, or a node's number in its level.
    pub(super) at: u64,
    /// What the bytes must hash to.
    pub(super) id: ContentId,
    /// Where they start in the raw frame.
    pub(super) offset_bytes: u32,
    /// How many they are.
    pub(super) size_bytes: u32,
}

impl Piece {
    /// The stretch in the raw frame.
    pub(super) fn raw(&self) -> Range<usize> {
        let start = to_usize(self.offset_bytes);
        start..start.saturating_add(to_usize(self.size_bytes))
    }

    /// A chunk's stretch of the disk.
    pub(super) fn disk(&self) -> Range<u64> {
        self.at..self.at.saturating_add(u64::from(self.size_bytes))
    }

    fn order(&self) -> (u32, u64) {
        (self.offset_bytes, self.at)
    }
}

/// A frame and all that is wanted of it, ascending by offset in the frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedFrame {
    /// The pack in which it lies.
    pub(super) pack: PackName,
    /// Where it lies there.
    pub(super) place: FramePlace,
    pub(super) pieces: Vec<Piece>,
}

impl WantedFrame {
    /// Where the sealed frame lies in its pack.
    pub(super) fn sealed(&self) -> Range<u64> {
        let start = u64::from(self.place.offset_bytes);
        start..start.saturating_add(u64::from(self.place.sealed_bytes))
    }

    fn first(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.at).min().unwrap_or(u64::MAX)
    }
}

/// One request: frames of one pack, ascending by offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PackRange {
    pub(super) pack: PackName,
    /// What to read of the pack.
    pub(super) bytes: Range<u64>,
    pub(super) frames: Vec<WantedFrame>,
}

impl PackRange {
    /// A request for one frame.
    pub(super) fn of(frame: WantedFrame) -> Self {
        Self { pack: frame.pack, bytes: frame.sealed(), frames: vec![frame] }
    }

    fn first(&self) -> u64 {
        self.frames.iter().map(WantedFrame::first).min().unwrap_or(u64::MAX)
    }

    fn takes(&self, frame: &WantedFrame, merge: Merge) -> bool {
        let sealed = frame.sealed();
        self.pack == frame.pack
            && sealed.start <= self.bytes.end.saturating_add(merge.gap_bytes)
            && sealed.end.saturating_sub(self.bytes.start) <= merge.range_bytes
    }

    fn push(&mut self, frame: WantedFrame) {
        self.bytes.end = self.bytes.end.max(frame.sealed().end);
        self.frames.push(frame);
    }
}

/// Groups wanted pieces into requests (a frame that is larger than a request may be is one of its own), in the order in
/// which they are first needed.
pub(super) fn plan(mut wanted: Vec<(PackedFrame, Piece)>, merge: Merge) -> Vec<PackRange> {
    // By offset before index: only then are neighbours in the list neighbours in the pack, whatever a map says.
    wanted.sort_unstable_by_key(|(PackedFrame { pack, place }, piece)| {
        (*pack, place.offset_bytes, place.sealed_bytes, place.frame, piece.order())
    });
    let mut ranges: Vec<PackRange> = Vec::new();
    for frame in by_frame(&wanted) {
        match ranges.last_mut() {
            Some(range) if range.takes(&frame, merge) => range.push(frame),
            _ => ranges.push(PackRange::of(frame)),
        }
    }
    ranges.sort_by_cached_key(PackRange::first);
    ranges
}

fn by_frame(wanted: &[(PackedFrame, Piece)]) -> impl Iterator<Item = WantedFrame> {
    wanted.chunk_by(|(a, _), (b, _)| a == b).filter_map(|group| {
        let (PackedFrame { pack, place }, _) = group.first()?;
        Some(WantedFrame {
            pack: *pack,
            place: *place,
            pieces: group.iter().map(|(_, piece)| *piece).collect(),
        })
    })
}

/// Stretches of the disk that are stretches of the raw frame too: each is one write.
pub(super) fn runs(pieces: &[Piece]) -> impl Iterator<Item = (u64, Range<usize>)> {
    let follows = |a: &Piece, b: &Piece| a.raw().end == b.raw().start && a.disk().end == b.at;
    pieces.chunk_by(follows).filter_map(|run| {
        let (first, last) = (run.first()?, run.last()?);
        Some((first.at, first.raw().start..last.raw().end))
    })
}

/// The holes between chunks, as the disk is walked from its start to its end.
#[derive(Debug, Default)]
pub(super) struct Holes {
    done_bytes: u64,
}

impl Holes {
    /// The hole before `chunk`, which may be empty.
    ///
    /// Errors: a chunk that starts before the last one ends, or behind a disk that long.
    pub(super) fn before(&mut self, chunk: &Range<u64>) -> Result<Range<u64>, FormatError> {
        if chunk.start < self.done_bytes {
            let detail = format!("chunks overlap at offset {}", chunk.start);
            return Err(FormatError::Corrupt { what: "map", detail });
        }
        let hole = self.done_bytes..chunk.start;
        self.done_bytes = chunk.end;
        Ok(hole)
    }
}

#[cfg(test)]
mod tests;
