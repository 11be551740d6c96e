//! Statistics of a backup under way: what workers saw in each region, in order, becomes counts, a verdict for each disk, and
//! an annex for the next night (crate::suspicion).

use std::sync::Arc;

use sancerre_format::bytes::{to_u32, to_u64};
use sancerre_format::chunk::BLOCK_BYTES;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::{ContentId, Place};
use sancerre_format::names::{Name, Title};
use sancerre_format::node::chunk_id;
use sancerre_format::outcome::{Annex, Member, MemberKind};
use sancerre_format::pack::PackKind;

use super::packer::{Frame, places};
use super::region::RegionMap;
use super::{BackupSource, Base, Shared};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::suspicion::record::{
    DiskTable, NamedPiece, SPAN_BLOCKS, SPAN_BYTES, Span, encode_counts, encode_starts, encode_table,
};
use crate::suspicion::stored::{self, Nights, SeenNight, StoredStatistics, TOPIC, piece_key};
use crate::suspicion::{Blocks, Counts, EXTENT_BYTES, Past, Start, Suspicion, Trace, judge};

/// What is known of the nights before, and what was seen in this one.
pub(super) struct Noticed {
    /// None when no statistics are wanted.
    wanted: Option<Wanted>,
    disks: Vec<DiskPieces>,
}

struct Wanted {
    key: [u8; 32],
    before: Option<Arc<StoredStatistics>>,
    nights: Nights,
}

/// What the night before left of one disk.
pub(super) struct Earlier {
    name: Title,
    compares: bool,
    stored: Option<Arc<StoredStatistics>>,
}

/// A disk under way.
pub(super) struct DiskNotice {
    earlier: Arc<Earlier>,
    trace: Trace,
    /// The GiB that is not complete, and what is known of it.
    span: u64,
    starts: Vec<Start>,
    sum: Counts,
    pieces: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A disk that was read.
struct DiskPieces {
    name: Title,
    size_bytes: u64,
    pieces: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Noticed {
    pub(super) fn none() -> Self {
        Self { wanted: None, disks: Vec::new() }
    }

    /// Reads what the snapshot before this one left. That it cannot be read is warned of, and seen as a gap.
    pub(super) async fn begin(
        base: Option<&Base>,
        nights: Nights,
        id_key: &[u8; 32],
        monitor: &Monitor,
    ) -> Self {
        let mut before = None;
        if let Some(base) = base {
            match StoredStatistics::open(Arc::clone(&base.frames), &base.body).await {
                Ok(found) => before = found.map(Arc::new),
                Err(error) => monitor.warn(format!(
                    "the statistics of the snapshot before this one cannot be read, so files that were lost since are not \
                     noticed tonight: {error}"
                )),
            }
        }
        Self { wanted: Some(Wanted { key: piece_key(id_key), before, nights }), disks: Vec::new() }
    }

    /// What the night before left of a disk; none where no statistics are made.
    pub(super) fn earlier(&self, source: &BackupSource, has_base: bool) -> Option<Arc<Earlier>> {
        let wanted = self.wanted.as_ref().filter(|_| source.kind == MemberKind::Disk)?;
        let stored = wanted.before.clone().filter(|_| has_base);
        Some(Arc::new(Earlier { name: source.name.clone(), compares: has_base, stored }))
    }

    /// Judges a disk that was read, and writes that into its line.
    pub(super) fn judge(&mut self, member: &mut Member, notice: DiskNotice) -> Result<()> {
        let Some(wanted) = &self.wanted else { return Ok(()) };
        let is_first = !notice.earlier.compares;
        let (counts, pieces) = notice.finish(member.size_bytes);
        let nights = wanted.nights.get(&member.name).map(Vec::as_slice).unwrap_or_default();
        let is_blind = nights.last().is_some_and(Option::is_none) && nights.iter().any(Option::is_some);
        let usual = nights
            .iter()
            .flatten()
            .filter(|night| !night.is_first && night.judgement.verdict != Suspicion::Suspect);
        let usual: Vec<Counts> = usual.map(|night| night.counts).collect();
        let judgement = judge(&counts, &Past { nights: &usual, is_first, is_blind });
        stored::tell(member, &SeenNight { counts, is_first, judgement })?;
        self.disks.push(DiskPieces { name: member.name.clone(), size_bytes: member.size_bytes, pieces });
        Ok(())
    }

    /// Stores the statistics of all disks. Returns where they are, and adds the frames that they need.
    pub(super) fn store(&mut self, shared: &Shared, uses: &mut FrameSet) -> Result<Option<Annex>> {
        let Some(Wanted { key, before, .. }) = &self.wanted else { return Ok(None) };
        if self.disks.is_empty() {
            return Ok(None);
        }
        let mut filler = Filler { shared, uses, frame: Vec::new(), pieces: Vec::new(), placed: Vec::new() };
        let (mut tables, mut waiting) = (Vec::new(), Vec::new());
        for (disk, read) in std::mem::take(&mut self.disks).into_iter().enumerate() {
            let old = before.as_ref().and_then(|before| before.disk(&read.name));
            let mut spans = Vec::with_capacity(read.pieces.len());
            for (number, (starts, counts)) in read.pieces.iter().enumerate() {
                let known = old.and_then(|old| old.spans.get(number)).copied().unwrap_or_default();
                let mut span = Span::default();
                for (bytes, known, slot) in
                    [(starts, known.starts, &mut span.starts), (counts, known.counts, &mut span.counts)]
                {
                    let id = chunk_id(key, bytes);
                    let is_same = |known: &NamedPiece| known.id == id && shared.usable.allows(&known.place);
                    *slot = known.filter(is_same);
                    if let Some(known) = slot {
                        filler.uses.insert(known.place.frame.frame);
                    }
                }
                for (bytes, is_counts) in [(starts, false), (counts, true)] {
                    let slot = if is_counts { span.counts } else { span.starts };
                    if slot.is_none() && !bytes.is_empty() {
                        let id = chunk_id(key, bytes);
                        waiting.push((disk, number, is_counts, id, filler.add(id, bytes)?));
                    }
                }
                spans.push(span);
            }
            tables.push(DiskTable { name: read.name, size_bytes: read.size_bytes, spans });
        }
        filler.flush()?;
        for (disk, number, is_counts, id, piece) in waiting {
            let none = || Error::bug(format!("piece {piece} of the statistics was never placed"));
            let place = *filler.placed.get(piece).ok_or_else(none)?;
            let span = tables.get_mut(disk).and_then(|table| table.spans.get_mut(number));
            let span = span.ok_or_else(none)?;
            *(if is_counts { &mut span.counts } else { &mut span.starts }) = Some(NamedPiece { id, place });
        }
        filler.table(key, &encode_table(&tables)?).map(Some)
    }
}

impl Earlier {
    /// A region's map, still empty, that takes note of what is seen.
    pub(super) async fn begin(&self, start: u64, length_bytes: u64, monitor: &Monitor) -> RegionMap {
        let length = usize::try_from(length_bytes).unwrap_or(usize::MAX);
        let mut begun =
            RegionMap { seen: Some(Blocks::new(start, length, self.compares)), ..RegionMap::default() };
        if let Some(stored) = &self.stored {
            let block = to_u64(BLOCK_BYTES);
            match stored.starts(&self.name, start / block, length_bytes.div_ceil(block)).await {
                Ok(starts) => begun.before = starts,
                Err(error) => {
                    monitor.warn(format!("part of the statistics before these is ignored: {error}"))
                }
            }
        }
        begun
    }

    pub(super) fn notice(self: &Arc<Self>) -> DiskNotice {
        DiskNotice {
            earlier: Arc::clone(self),
            trace: Trace::default(),
            span: 0,
            starts: Vec::new(),
            sum: Counts::default(),
            pieces: Vec::new(),
        }
    }
}

impl DiskNotice {
    /// Takes the next region.
    pub(super) fn region(&mut self, map: &RegionMap) {
        let Some(seen) = &map.seen else { return };
        self.trace.region(seen, &map.before);
        self.starts.extend(self.trace.take_starts());
        let end =
            seen.start().saturating_add(to_u64(seen.blocks().len()).saturating_mul(to_u64(BLOCK_BYTES)));
        while end >= (self.span + 1).saturating_mul(SPAN_BYTES) {
            self.close_span(false);
        }
    }

    /// Completes a GiB. A file whose end was not seen yet counts in the extent in which it starts, if that is not complete.
    fn close_span(&mut self, is_last: bool) {
        let next = self.span + 1;
        let below = next.saturating_mul(SPAN_BYTES / EXTENT_BYTES);
        let mut extents = self.trace.drain_below(if is_last { u64::MAX } else { below });
        extents.iter().for_each(|(_, counts)| self.sum.add(counts));
        extents.retain(|(_, counts)| !counts.is_quiet());
        let cut = self.starts.partition_point(|(block, _)| *block < next.saturating_mul(SPAN_BLOCKS));
        let rest = self.starts.split_off(cut);
        let starts = std::mem::replace(&mut self.starts, rest);
        self.pieces.push((encode_starts(self.span, &starts), encode_counts(self.span, &extents)));
        self.span = next;
    }

    fn finish(mut self, size_bytes: u64) -> (Counts, Vec<(Vec<u8>, Vec<u8>)>) {
        self.trace.end();
        let spans = size_bytes.div_ceil(SPAN_BYTES);
        while self.span < spans {
            let is_last = self.span + 1 == spans;
            self.close_span(is_last);
        }
        self.trace.drain_below(u64::MAX).iter().for_each(|(_, counts)| self.sum.add(counts));
        (self.sum, self.pieces)
    }
}

/// Pieces on their way into frames of an annex.
struct Filler<'a> {
    shared: &'a Shared,
    uses: &'a mut FrameSet,
    frame: Vec<u8>,
    pieces: Vec<(ContentId, u32)>,
    placed: Vec<Place>,
}

impl Filler<'_> {
    /// Adds a piece; returns its number.
    fn add(&mut self, id: ContentId, bytes: &[u8]) -> Result<usize> {
        if !self.pieces.is_empty() && self.frame.len() + bytes.len() > self.shared.frame_bytes {
            self.flush()?;
        }
        self.frame.extend_from_slice(bytes);
        self.pieces.push((id, to_u32("piece of statistics", bytes.len())?));
        Ok(self.placed.len() + self.pieces.len() - 1)
    }

    fn flush(&mut self) -> Result<()> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        let pieces = std::mem::take(&mut self.pieces);
        let shared = self.shared;
        let place = shared.scratch.with(|scratch| {
            scratch.frame.clear();
            scratch.frame.append(&mut self.frame);
            let raw_bytes = scratch.frame.len();
            let (codec, coded) = scratch.compress()?;
            let frame = Frame { kind: PackKind::Annex, codec, raw_bytes, coded, pieces: &pieces };
            shared.packer.append(&frame)
        })?;
        self.uses.insert(place.frame);
        self.placed.extend(places(place, &pieces).map(|(_, place)| place));
        Ok(())
    }

    fn table(&mut self, key: &[u8; 32], bytes: &[u8]) -> Result<Annex> {
        let piece = self.add(chunk_id(key, bytes), bytes)?;
        self.flush()?;
        let none = || Error::bug("the table of the statistics was never placed");
        Ok(Annex { topic: Name::new(TOPIC)?, place: *self.placed.get(piece).ok_or_else(none)? })
    }
}
