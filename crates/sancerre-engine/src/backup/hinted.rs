//! A disk of which somebody kept count: only what a change map names is read, all else is taken over from the snapshot that
//! the map is of. Chunks are cut as a full read would cut them, so the map's root is the same.
//!
//! Why the cuts are the same (FORMAT.md §11): where a chunk ends depends on its own bytes, and on whether zeros follow it.
//! So a chunk is taken over when its bytes did not change, and neither did the [`HOLE_BYTES`] behind it, or no zeros followed
//! it: then its own bytes ended it. What is read begins at the start of such a piece, and ends where a new piece and an old
//! one, or an old hole, meet behind the change. From there on both scans see the same.

use std::ops::Range;
use std::sync::Arc;

use sancerre_format::bytes::{to_u64, to_usize};
use sancerre_format::chunk::{BLOCK_BYTES, Chunker, HOLE_BYTES, Piece, PieceKind};
use sancerre_format::node::chunk_id;
use sancerre_format::outcome::Member;
use sancerre_image::change_map::ChangeMap;

use super::Shared;
use super::doubt::Doubt;
use super::noticed::Earlier;
use super::region::{BaseChunk, RegionInput, RegionMap, Scan};
use super::reread::Partly;
use super::salvage::Salvage;
use crate::error::{Error, Result, invariant};

/// Read on where a piece goes on behind what was expected; a chunk has at most four times as much.
const STEP_BYTES: usize = 32 << 10;
/// Read at once at least.
const LEAST_BYTES: usize = 16 << 10;
/// Read at once at most.
const WINDOW_BYTES: usize = 2 << 20;

/// What of a disk is read, and what if it cannot be.
#[derive(Clone)]
pub(super) struct How {
    pub(super) salvage: Option<Arc<Salvage>>,
    pub(super) partly: Option<Arc<Partly>>,
    pub(super) hinted: Option<Arc<Hinted>>,
    /// What the night before left, where statistics are made.
    pub(super) earlier: Option<Arc<Earlier>>,
}

impl How {
    /// What comes of a map before this one that cannot be read, where a disk is not read whole.
    pub(super) fn unread(&self, error: Error) -> Error {
        match &self.hinted {
            Some(hinted) if error.is_damage() => hinted.doubt.lost(&error),
            _ => error,
        }
    }
}

/// A change map in use.
pub(super) struct Hinted {
    map: ChangeMap,
    /// What is known about the word of whoever made the map.
    pub(super) doubt: Doubt,
}

impl Hinted {
    /// By the map, and by what the snapshot could not read: that is zeros in it, whatever stands on the disk.
    pub(super) fn new(member: &Member, map: ChangeMap, verify_millionths: u32, seed: u64) -> Result<Self> {
        let unreadable = member.unreadable()?;
        let ranges = map.ranges().iter().chain(unreadable.ranges()).cloned();
        let all = ChangeMap::new(map.source(), map.disk_bytes(), ranges);
        let map = all.map_err(|error| Error::bug(format!("{}: {error}", member.name)))?;
        Ok(Self { map, doubt: Doubt::new(member.name.clone(), verify_millionths, seed) })
    }

    /// Who kept count.
    pub(super) fn source(&self) -> &str {
        self.map.source()
    }

    /// What changed of a region, by offsets in it, on the grid of blocks.
    fn within(&self, input: &RegionInput) -> Vec<Range<usize>> {
        let (start, length_bytes) = input.extent();
        let mut ranges: Vec<Range<usize>> = Vec::new();
        // invariant: the map is asked for ranges inside the region, so this is not more than its length
        let inside = |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(length_bytes);
        for range in self.map.inside(start..start + to_u64(length_bytes)) {
            let from = inside(range.start) / BLOCK_BYTES * BLOCK_BYTES;
            let to = inside(range.end).next_multiple_of(BLOCK_BYTES).min(length_bytes);
            match ranges.last_mut() {
                Some(last) if from <= last.end => last.end = last.end.max(to),
                _ => ranges.push(from..to),
            }
        }
        ranges
    }
}

/// As [`super::region::scan`], of which `base` is the whole map before.
pub(super) fn scan(
    shared: &Shared,
    chunker: &Chunker,
    input: &RegionInput,
    base: &[BaseChunk],
    hinted: &Hinted,
    begun: RegionMap,
) -> Result<RegionMap> {
    let changes = hinted.within(input);
    let data = if changes.is_empty() { Vec::new() } else { input.data_ranges()? };
    shared.scratch.with(|scratch| {
        let length_bytes = input.extent().1;
        // Taken from region to region: memory that is new is cleared by the kernel and by us.
        let mut bytes = std::mem::take(&mut scratch.window);
        bytes.clear();
        let window = Window { input, data, bytes, start: 0 };
        let scan = Scan::new(shared, chunker, scratch, begun);
        let mut rejoin =
            Rejoin { shared, chunker, base, changes: &changes, length_bytes, window, scan, seen: Vec::new() };
        let kept = rejoin.run()?;
        let Rejoin { mut scan, seen, window, .. } = rejoin;
        scan.flush()?;
        hinted.doubt.region(shared, input, &kept, &seen)?;
        let map = scan.into_map();
        scratch.window = window.bytes;
        Ok(map)
    })
}

/// A region between the map before and the disk.
struct Rejoin<'a, 's> {
    shared: &'a Shared,
    chunker: &'a Chunker,
    base: &'a [BaseChunk],
    changes: &'a [Range<usize>],
    length_bytes: usize,
    window: Window<'a>,
    scan: Scan<'s>,
    /// What was read, or is a chunk: all else is a hole that is taken over.
    seen: Vec<Range<usize>>,
}

impl Rejoin<'_, '_> {
    /// Returns the chunks that were taken over.
    fn run(&mut self) -> Result<Vec<BaseChunk>> {
        let mut kept = Vec::new();
        let mut at = 0;
        while let Some(change) = self.changes.iter().find(|change| change.end > at).cloned() {
            let from = self.keep_before(at, change.start, &mut kept)?;
            let end = self.read(from)?;
            self.seen.push(from..end);
            at = end;
        }
        self.keep_before(at, usize::MAX, &mut kept)?;
        Ok(kept)
    }

    /// Takes over the chunks from `at` on that a change at `change` leaves as they are. Returns where to begin to read.
    fn keep_before(&mut self, at: usize, change: usize, kept: &mut Vec<BaseChunk>) -> Result<usize> {
        let first = self.base.partition_point(|chunk| to_usize(chunk.offset_bytes) < at);
        let rest = self.base.get(first..).unwrap_or_default(); // invariant: a partition point lies inside
        for (number, chunk) in rest.iter().enumerate() {
            let chunk_at = extent(chunk);
            let next = rest.get(number + 1).map_or(usize::MAX, |next| to_usize(next.offset_bytes));
            let is_ended_by_zeros = next != chunk_at.end && chunk_at.end < self.length_bytes;
            let needs = if is_ended_by_zeros { chunk_at.end + HOLE_BYTES } else { chunk_at.end };
            if needs > change {
                return Ok(chunk_at.start.min(change));
            }
            self.scan.keep(chunk)?;
            self.seen.push(chunk_at);
            kept.push(*chunk);
        }
        Ok(change)
    }

    /// Reads from the start of a piece until new pieces meet old ones again. Returns where.
    fn read(&mut self, from: usize) -> Result<usize> {
        let mut at = from;
        while at < self.length_bytes && (at == from || !self.is_joined(at, from)) {
            let piece = self.piece(at)?;
            let taken = piece.length_bytes;
            invariant!(taken > 0 && taken <= self.length_bytes - at, "a piece of {taken} bytes at {at}");
            if piece.kind == PieceKind::Data {
                let chunk = self.window.at(at, taken)?;
                let id = chunk_id(&self.shared.zone_keys.id, chunk);
                let before = self.base.binary_search_by_key(&at, |chunk| to_usize(chunk.offset_bytes));
                let before = before.ok().and_then(|found| self.base.get(found));
                self.scan.chunk(
                    at,
                    id,
                    chunk,
                    before.filter(|before| before.id == id).map(|one| one.word),
                )?;
            }
            at += taken;
        }
        Ok(at)
    }

    /// Whether a new piece and an old one, or an old hole, begin here, with no change that was met still going on.
    fn is_joined(&self, at: usize, from: usize) -> bool {
        let is_changing = |change: &Range<usize>| change.start <= at.max(from) && at < change.end;
        let first = self.changes.iter().find(|change| change.end > from);
        let before = self.base.partition_point(|chunk| to_usize(chunk.offset_bytes) < at);
        let inside = before.checked_sub(1).and_then(|last| self.base.get(last));
        first.is_none_or(|first| first.end <= at)
            && !self.changes.iter().any(is_changing)
            && inside.is_none_or(|chunk| extent(chunk).end <= at)
    }

    /// Where the old chunk ends that has the byte at `at`; just behind it where it is in none.
    fn old_end(&self, at: usize) -> usize {
        let after = self.base.partition_point(|chunk| to_usize(chunk.offset_bytes) <= at);
        let last = after.checked_sub(1).and_then(|last| self.base.get(last)).map(extent);
        last.filter(|chunk| chunk.contains(&at)).map_or(at + 1, |chunk| chunk.end)
    }

    /// The piece that begins here, with as much read as it takes to be sure of its end.
    fn piece(&mut self, at: usize) -> Result<Piece> {
        let change = self.changes.iter().find(|change| change.start <= at && at < change.end);
        // New pieces mostly meet old ones where the old one ends that the change does: no more is read before that is known.
        let end = self.old_end(change.map_or(at, |change| change.end - 1));
        let mut wanted = (end + HOLE_BYTES - at).clamp(LEAST_BYTES, WINDOW_BYTES);
        loop {
            let end = self.length_bytes.min(at + wanted);
            let window = self.window.reach(at, end)?;
            let none = || Error::bug(format!("no piece at {at} in a window of {} bytes", window.len()));
            let piece = self.chunker.next_piece(window).ok_or_else(none)?;
            let is_all =
                at + window.len() >= self.length_bytes || window.len() >= self.chunker.window_bytes();
            // With that much behind it nothing further can have ended it.
            if is_all || piece.kind == PieceKind::Zeros || piece.length_bytes + HOLE_BYTES <= window.len() {
                return Ok(piece);
            }
            wanted = window.len() + STEP_BYTES;
        }
    }
}

fn extent(chunk: &BaseChunk) -> Range<usize> {
    let start = to_usize(chunk.offset_bytes);
    start..start + to_usize(chunk.word.place.size_bytes)
}

/// Bytes of a region that were read, one after the other.
struct Window<'a> {
    input: &'a RegionInput,
    /// Where the disk has data: the rest is zeros, and not read.
    data: Vec<Range<usize>>,
    bytes: Vec<u8>,
    start: usize,
}

impl Window<'_> {
    /// The bytes from `at` on, at least to `end`.
    fn reach(&mut self, at: usize, end: usize) -> Result<&[u8]> {
        let held = self.start..self.start + self.bytes.len();
        if at < held.start || held.end < at {
            self.bytes.clear();
            self.start = at;
        } else if at - held.start >= WINDOW_BYTES {
            self.bytes.drain(..at - held.start);
            self.start = at;
        }
        let filled = self.start + self.bytes.len();
        if filled < end {
            self.fill(filled..end)?;
        }
        let none = || Error::bug(format!("a window of {} bytes does not reach {at}", self.bytes.len()));
        self.bytes.get(at - self.start..).ok_or_else(none)
    }

    fn fill(&mut self, range: Range<usize>) -> Result<()> {
        self.bytes.resize(range.end - self.start, 0);
        for data in self.data.iter().filter(|data| data.start < range.end && range.start < data.end) {
            let part = data.start.max(range.start)..data.end.min(range.end);
            let buffer = self.bytes.get_mut(part.start - self.start..part.end - self.start);
            let buffer =
                buffer.ok_or_else(|| Error::bug(format!("bytes {part:?} are outside of a window")))?;
            self.input.read(part.start, buffer)?;
        }
        Ok(())
    }

    /// Bytes that were read already.
    fn at(&self, at: usize, length_bytes: usize) -> Result<&[u8]> {
        let none = || Error::bug(format!("{length_bytes} bytes at {at} were not read"));
        let from = at.checked_sub(self.start).ok_or_else(none)?;
        self.bytes.get(from..from + length_bytes).ok_or_else(none)
    }
}
