//! One region: bytes in, chunks with places out. Runs on a worker, without waiting for anything but the disk.

use std::ops::Range;
use std::sync::Arc;

use sancerre_format::bytes::{to_u32, to_u64, to_usize};
use sancerre_format::chunk::{BLOCK_BYTES, Chunker, HOLE_BYTES, PieceKind};
use sancerre_format::id::{ContentId, Place};
use sancerre_format::node::chunk_id;
use sancerre_format::pack::PackKind;
use sancerre_image::Disk;

use super::Shared;
use super::packer::{Frame, places};
use super::salvage::{self, Salvage};
use super::scratch::Scratch;
use crate::dedup::{PlaceMap, Speaker, Word};
use crate::error::{Error, Result, invariant};
use crate::index::Lookup;
use crate::monitor::add;
use crate::suspicion::{Blocks, Start};

/// Bytes of the disk in memory at once: fits the second-level cache and four of the largest chunks.
const WINDOW_BYTES: usize = 2 << 20;

/// Where a region's bytes come from.
pub(super) enum RegionInput {
    /// A stretch of a disk.
    Disk { disk: Arc<dyn Disk>, start: u64, length_bytes: usize, salvage: Option<Arc<Salvage>> },
    /// Bytes of a stream, already in memory.
    Memory(Vec<u8>),
}

/// A chunk of the snapshot before this one, by its offset in the region.
#[derive(Debug, Clone, Copy)]
pub(super) struct BaseChunk {
    pub offset_bytes: u32,
    pub id: ContentId,
    pub word: Word,
}

/// A chunk of this region.
#[derive(Debug, Clone, Copy)]
pub(super) struct MapChunk {
    /// Where it starts in the region.
    pub offset_bytes: u32,
    pub id: ContentId,
    /// Where it lies and its size.
    pub place: Place,
}

/// What a region came to.
#[derive(Debug, Default)]
pub(super) struct RegionMap {
    pub chunks: Vec<MapChunk>,
    pub data_bytes: u64,
    pub new_bytes: u64,
    pub new_chunks: u64,
    /// Chunks that a page of the index must tell of, or a pack's table: [`resolve_undecided`] finishes them.
    pub open: Vec<Open>,
    /// What stands in its blocks; none where no statistics are made.
    pub seen: Option<Blocks>,
    /// Where files started in it the night before.
    pub before: Vec<Start>,
}

/// A chunk whose place is not certain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Open {
    /// Its position among the region's chunks.
    pub slot: usize,
    /// What somebody says of it.
    pub word: Option<Word>,
}

impl RegionInput {
    fn length_bytes(&self) -> usize {
        match self {
            Self::Disk { length_bytes, .. } => *length_bytes,
            Self::Memory(bytes) => bytes.len(),
        }
    }

    /// Where a region of a disk starts, and its size.
    pub(super) fn extent(&self) -> (u64, usize) {
        match self {
            Self::Disk { start, length_bytes, .. } => (*start, *length_bytes),
            Self::Memory(bytes) => (0, bytes.len()),
        }
    }

    pub(super) fn salvage(&self) -> Option<&Salvage> {
        match self {
            Self::Disk { salvage, .. } => salvage.as_deref(),
            Self::Memory(_) => None,
        }
    }

    /// Bytes as they are, and an error for each that is not to be had.
    pub(super) fn read_strictly(&self, offset: usize, buffer: &mut [u8]) -> Result<()> {
        match self {
            Self::Disk { disk, start, .. } => Ok(disk.read_at(start + to_u64(offset), buffer)?),
            Self::Memory(_) => self.read(offset, buffer),
        }
    }

    pub(super) fn read(&self, offset: usize, buffer: &mut [u8]) -> Result<()> {
        match self {
            Self::Disk { disk, start, salvage: Some(salvage), .. } => {
                salvage.read(disk.as_ref(), start + to_u64(offset), buffer)
            }
            Self::Disk { .. } => self.read_strictly(offset, buffer),
            Self::Memory(bytes) => {
                let end = offset + buffer.len();
                let outside =
                    || Error::bug(format!("bytes {offset} to {end} are outside a region of {}", bytes.len()));
                buffer.copy_from_slice(bytes.get(offset..end).ok_or_else(outside)?);
                Ok(())
            }
        }
    }

    /// Stretches of the region that may hold data, on the grid of blocks and with short holes inside, so that a
    /// hole and written zeros give the same chunks.
    pub(super) fn data_ranges(&self) -> Result<Vec<Range<usize>>> {
        let Self::Disk { disk, start, length_bytes, salvage } = self else {
            return Ok(std::iter::once(0..self.length_bytes()).collect());
        };
        let mut aligned: Vec<Range<usize>> = Vec::new();
        let whole = *start..*start + to_u64(*length_bytes);
        for range in salvage::data_ranges(disk.as_ref(), whole, salvage.as_deref())? {
            let inside = *start <= range.start && range.end - *start <= to_u64(*length_bytes);
            invariant!(
                inside,
                "the disk names data at {range:?}, outside the {length_bytes} bytes from {start} on"
            );
            let relative =
                |at: u64| usize::try_from(at - *start).map_err(|_| Error::bug("a region larger than memory"));
            let from = relative(range.start)? / BLOCK_BYTES * BLOCK_BYTES;
            let to = relative(range.end)?.next_multiple_of(BLOCK_BYTES).min(*length_bytes);
            match aligned.last_mut() {
                Some(last) if last.end + HOLE_BYTES > from => last.end = to,
                _ => aligned.push(from..to),
            }
        }
        Ok(aligned)
    }
}

/// Scans one region. `begun`: its map, still empty.
pub(super) fn scan(
    shared: &Shared,
    chunker: &Chunker,
    input: &RegionInput,
    base: &[BaseChunk],
    begun: RegionMap,
) -> Result<RegionMap> {
    shared.scratch.with(|scratch| {
        let mut scan = Scan::new(shared, chunker, scratch, begun);
        let mut base = base.iter().peekable();
        let mut ranges = input.data_ranges()?;
        if !chunker.ends_at_holes() && !ranges.is_empty() {
            // Chunks reach over holes: left out, they would move the cuts behind them.
            ranges = std::iter::once(0..input.length_bytes()).collect();
        }
        for range in ranges {
            scan.range(input, range, &mut base)?;
        }
        scan.flush()?;
        Ok(scan.map)
    })
}

/// Finishes the chunks that the scan left open: `known` is where they lie for certain. The others seemed known and
/// are not; they are few, and their bytes are read again.
pub(super) fn resolve_undecided(
    shared: &Shared,
    chunker: &Chunker,
    input: &RegionInput,
    mut map: RegionMap,
    known: &PlaceMap,
) -> Result<RegionMap> {
    let open = std::mem::take(&mut map.open);
    shared.scratch.with(|scratch| {
        let mut scan = Scan::new(shared, chunker, scratch, map);
        for slot in open {
            scan.resolve_undecided(slot.slot, input, known)?;
        }
        scan.flush()?;
        Ok(scan.map)
    })
}

pub(super) struct Scan<'a> {
    shared: &'a Shared,
    chunker: &'a Chunker,
    scratch: &'a mut Scratch,
    map: RegionMap,
    /// Chunks in the frame in the making.
    pieces: Vec<(ContentId, u32)>,
    /// Which chunks of the map wait for which piece's place.
    waiting: Vec<(usize, usize)>,
}

pub(super) type Base<'b> = std::iter::Peekable<std::slice::Iter<'b, BaseChunk>>;

impl<'a> Scan<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        chunker: &'a Chunker,
        scratch: &'a mut Scratch,
        map: RegionMap,
    ) -> Self {
        Self { shared, chunker, scratch, map, pieces: Vec::new(), waiting: Vec::new() }
    }

    pub(super) fn into_map(self) -> RegionMap {
        self.map
    }

    /// Takes a chunk of this writer's snapshot before as it is, without a look at the disk. One whose pack is not to be
    /// built on is left open: it is found elsewhere, or read.
    pub(super) fn keep(&mut self, chunk: &BaseChunk) -> Result<()> {
        let BaseChunk { offset_bytes, id, word } = *chunk;
        if let Some(seen) = &mut self.map.seen {
            let start = to_usize(offset_bytes);
            seen.keep(start..start + to_usize(word.place.size_bytes));
        }
        self.map.data_bytes += u64::from(word.place.size_bytes);
        let slot = self.map.chunks.len();
        let place = match word.speaker {
            Speaker::Own if self.shared.usable.allows(&word.place) => word.place,
            _ => {
                self.map.open.push(Open { slot, word: None });
                Place { frame: super::packer::UNPLACED, offset_bytes: 0, size_bytes: word.place.size_bytes }
            }
        };
        self.map.chunks.push(MapChunk { offset_bytes, id, place });
        Ok(())
    }

    /// Gives a chunk that was left open its place.
    fn resolve_undecided(&mut self, slot: usize, input: &RegionInput, known: &PlaceMap) -> Result<()> {
        let none = || Error::bug(format!("chunk {slot} of a region was left open and is not there"));
        let chunk = self.map.chunks.get_mut(slot).ok_or_else(none)?;
        if let Some(place) = known.get(&chunk.id).copied().or_else(|| self.shared.stored.get(&chunk.id)) {
            chunk.place = place;
            return Ok(());
        }
        let mut bytes = vec![0; to_usize(chunk.place.size_bytes)];
        input.read(to_usize(chunk.offset_bytes), &mut bytes)?;
        // Whoever allows a changing disk gets what is there now, under its own name.
        chunk.id = chunk_id(&self.shared.zone_keys.id, &bytes);
        let id = chunk.id;
        self.store(slot, id, &bytes)
    }

    /// Scans a stretch of data with a window that always holds what the chunker needs to decide.
    pub(super) fn range(
        &mut self,
        input: &RegionInput,
        range: Range<usize>,
        base: &mut Base<'_>,
    ) -> Result<()> {
        let mut window = std::mem::take(&mut self.scratch.window);
        let done = self.range_in(input, range, base, &mut window);
        self.scratch.window = window;
        done
    }

    fn range_in(
        &mut self,
        input: &RegionInput,
        range: Range<usize>,
        base: &mut Base<'_>,
        window: &mut Vec<u8>,
    ) -> Result<()> {
        let need = self.chunker.window_bytes();
        let beyond = || Error::bug("a scan looked beyond its window");
        let mut at = range.start;
        // The window holds `at..at + (filled - start)`.
        let (mut start, mut filled) = (0usize, 0usize);
        window.resize(WINDOW_BYTES, 0);
        while at < range.end {
            let held = filled - start;
            if held < need && at + held < range.end {
                window.copy_within(start..filled, 0);
                let read = (WINDOW_BYTES - held).min(range.end - at - held);
                filled = held + read;
                start = 0;
                let buffer = window.get_mut(held..filled).ok_or_else(beyond)?;
                input.read(at + held, buffer)?;
            }
            let taken = self.piece(at, window.get(start..filled).ok_or_else(beyond)?, base)?;
            invariant!(taken > 0 && taken <= range.end - at, "a piece of {taken} bytes at {at} of {range:?}");
            at += taken;
            start += taken;
        }
        Ok(())
    }

    /// Handles the piece at the start of `window` and returns its size.
    fn piece(&mut self, at: usize, window: &[u8], base: &mut Base<'_>) -> Result<usize> {
        if let Some(taken) = self.unchanged(at, window, base)? {
            return Ok(taken);
        }
        let none = || Error::bug(format!("no piece at {at} in a window of {} bytes", window.len()));
        let piece = self.chunker.next_piece(window).ok_or_else(none)?;
        if piece.kind == PieceKind::Data {
            let chunk = window.get(..piece.length_bytes).ok_or_else(none)?;
            let id = chunk_id(&self.shared.zone_keys.id, chunk);
            self.chunk(at, id, chunk, None)?;
        }
        Ok(piece.length_bytes)
    }

    /// Takes a chunk of the snapshot before at the same place when its bytes are still there: no search for its
    /// end, and the same cuts as a search would give (FORMAT.md §11).
    fn unchanged(&mut self, at: usize, window: &[u8], base: &mut Base<'_>) -> Result<Option<usize>> {
        while base.next_if(|chunk| to_usize(chunk.offset_bytes) < at).is_some() {}
        let Some(candidate) = base.peek().filter(|chunk| to_usize(chunk.offset_bytes) == at) else {
            return Ok(None);
        };
        let size = to_usize(candidate.word.place.size_bytes);
        let Some(chunk) = window.get(..size) else { return Ok(None) };
        if chunk_id(&self.shared.zone_keys.id, chunk) != candidate.id || !self.chunker.confirms(window, size)
        {
            return Ok(None);
        }
        self.chunk(at, candidate.id, chunk, Some(candidate.word))?;
        Ok(Some(size))
    }

    /// Puts a chunk on the map: at the place where it lies already, or in the frame in the making.
    pub(super) fn chunk(&mut self, at: usize, id: ContentId, chunk: &[u8], base: Option<Word>) -> Result<()> {
        let size_bytes = to_u32("chunk", chunk.len())?;
        let offset_bytes = to_u32("chunk", at)?;
        self.map.data_bytes += u64::from(size_bytes);
        if let Some(seen) = &mut self.map.seen {
            seen.read(at, chunk, base.is_none());
        }
        let counters = &self.shared.monitor.counters;
        add(&counters.data_bytes, u64::from(size_bytes));
        let base = base.filter(|word| self.shared.usable.allows(&word.place));
        let found = self.find(&id, size_bytes, base);
        let slot = self.map.chunks.len();
        let unplaced = Place { frame: super::packer::UNPLACED, offset_bytes: 0, size_bytes };
        let place = if let Lookup::Known(place) = found { place } else { unplaced };
        self.map.chunks.push(MapChunk { offset_bytes, id, place });
        match found {
            Lookup::Known(_) => Ok(()),
            Lookup::Said(word) => {
                self.map.open.push(Open { slot, word: Some(word) });
                Ok(())
            }
            Lookup::Perhaps => {
                self.map.open.push(Open { slot, word: None });
                Ok(())
            }
            Lookup::Unknown => self.store(slot, id, chunk),
        }
    }

    /// What is said of a chunk of this size: by the snapshot before, by this session, by the index. The own key's word
    /// goes before another's.
    fn find(&self, id: &ContentId, size_bytes: u32, base: Option<Word>) -> Lookup {
        if let Some(Word { place, speaker: Speaker::Own }) = base {
            return Lookup::Known(place);
        }
        match (self.shared.find(id), base) {
            // Only who never saw the chunk can be wrong about its size.
            (Lookup::Known(place), _) if place.size_bytes == size_bytes => Lookup::Known(place),
            (_, Some(word)) => Lookup::Said(word),
            (Lookup::Said(word), None) if word.place.size_bytes == size_bytes => Lookup::Said(word),
            (Lookup::Said(_) | Lookup::Perhaps, None) => Lookup::Perhaps,
            (Lookup::Known(_) | Lookup::Unknown, None) => Lookup::Unknown,
        }
    }

    /// Puts the bytes of a chunk of the map into the frame in the making.
    fn store(&mut self, slot: usize, id: ContentId, chunk: &[u8]) -> Result<()> {
        let position = match self.pieces.iter().position(|(pending, _)| *pending == id) {
            Some(position) => position,
            None => self.add_piece(id, chunk)?,
        };
        self.waiting.push((slot, position));
        Ok(())
    }

    fn add_piece(&mut self, id: ContentId, chunk: &[u8]) -> Result<usize> {
        let size_bytes = to_u32("chunk", chunk.len())?;
        if self.scratch.frame.len() + chunk.len() > self.shared.frame_bytes {
            self.flush()?;
        }
        self.scratch.frame.extend_from_slice(chunk);
        self.pieces.push((id, size_bytes));
        self.map.new_bytes += u64::from(size_bytes);
        self.map.new_chunks += 1;
        add(&self.shared.monitor.counters.new_bytes, u64::from(size_bytes));
        Ok(self.pieces.len() - 1)
    }

    /// Compresses and stores the frame in the making, and gives its chunks their places.
    pub(super) fn flush(&mut self) -> Result<()> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        let raw_bytes = self.scratch.frame.len();
        let (codec, coded) = self.scratch.compress()?;
        if let Some(seen) = &mut self.map.seen {
            let mut told = 0;
            for (slot, piece) in &self.waiting {
                // Each piece once, at the chunk that it was made for.
                let (Some(chunk), true) = (self.map.chunks.get(*slot), *piece == told) else { continue };
                told += 1;
                let size_bytes = u64::from(chunk.place.size_bytes);
                let share = to_u64(coded.len()) * size_bytes / to_u64(raw_bytes).max(1);
                seen.store(to_usize(chunk.offset_bytes), size_bytes, share);
            }
        }
        let frame = Frame { kind: PackKind::Data, codec, raw_bytes, coded, pieces: &self.pieces };
        let placed: Vec<(ContentId, Place)> =
            places(self.shared.packer.append(&frame)?, &self.pieces).collect();
        for (chunk, piece) in self.waiting.drain(..) {
            let none = || {
                Error::bug(format!("chunk {chunk} of a region waits for piece {piece}, which is not there"))
            };
            let (_, place) = placed.get(piece).ok_or_else(none)?;
            self.map.chunks.get_mut(chunk).ok_or_else(none)?.place = *place;
        }
        self.shared.stored.insert_all(&placed);
        self.pieces.clear();
        self.scratch.frame.clear();
        Ok(())
    }
}
