//! Statistics of a backup under way: what workers saw in each region, in order, becomes counts, a verdict for each disk, and
//! an annex for the next night (crate::suspicion).

use std::collections::BTreeMap;
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
use super::{BackupOptions, BackupSource, Base, Shared};
use crate::dedup::Speaker;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use crate::repository::log::Log;
use crate::suspicion::record::{
    DiskTable, NamedPiece, SPAN_BLOCKS, SPAN_EXTENTS, Span, encode_counts, encode_starts, encode_table,
};
use crate::suspicion::stored::{self, COUNTS_TOPIC, Nights, SeenNight, StoredStatistics, TOPIC, piece_key};
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
    /// Whether the session's own key stored them.
    is_own: bool,
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
    /// Of the GiB whose starts are not complete, and of the one whose counts are not: a file of which the end was not seen yet
    /// holds back the counts.
    starts: (u64, Vec<Start>),
    counts: (u64, Vec<(u64, Counts)>),
    sum: Counts,
    pieces: Pieces,
}

/// What there is to say of the GiBs of a disk, by their numbers: where files start, and what was counted.
type Pieces = BTreeMap<u64, (Vec<u8>, Vec<u8>)>;

/// A disk that was read.
struct DiskPieces {
    name: Title,
    size_bytes: u64,
    pieces: Pieces,
}

impl Noticed {
    /// What is needed to notice anything, if that was asked for.
    ///
    /// Errors: no secrets of the zone.
    pub(super) async fn of(
        repository: &Repository,
        log: &Log,
        options: &BackupOptions,
        base: Option<&Base>,
        monitor: &Monitor,
    ) -> Result<Self> {
        if !options.statistics {
            return Ok(Self { wanted: None, disks: Vec::new() });
        }
        let nights = stored::nights(repository, log, options.public_name(), options.machine);
        Ok(Self::begin(base, nights, &repository.keys.zone_secrets()?.keys.id, monitor).await)
    }

    /// Reads what the snapshot before this one left. That it cannot be read is warned of, and seen as a gap.
    async fn begin(base: Option<&Base>, nights: Nights, id_key: &[u8; 32], monitor: &Monitor) -> Self {
        let mut before = None;
        if let Some(base) = base {
            match StoredStatistics::open(Arc::clone(&base.frames), &base.body).await {
                Ok(found) => before = found.map(Arc::new),
                Err(error) => monitor.warn(Topic::Hint, format!(
                    "the statistics of the snapshot before this one cannot be read, so files that were lost since are not \
                     noticed tonight: {error}"
                )),
            }
        }
        let is_own = base.is_some_and(|base| base.speaker == Speaker::Own);
        Self { wanted: Some(Wanted { key: piece_key(id_key), before, is_own, nights }), disks: Vec::new() }
    }

    /// What the night before left of a disk; none where no statistics are made.
    pub(super) fn earlier(&self, source: &BackupSource, has_base: bool) -> Option<Arc<Earlier>> {
        let wanted = self.wanted.as_ref().filter(|_| source.kind == MemberKind::Disk)?;
        let stored = wanted.before.clone().filter(|_| has_base);
        Some(Arc::new(Earlier { name: source.name.clone(), compares: has_base, stored }))
    }

    /// Judges a disk that was read, and writes that into its line.
    pub(super) fn judge(&mut self, member: &mut Member, notice: DiskNotice) -> Result<()> {
        let Some(wanted) = &self.wanted else { return Ok(()) }; // invariant: nobody asked for statistics
        let compares = notice.earlier.compares;
        let (counts, pieces) = notice.finish(member.size_bytes);
        let nights = wanted.nights.get(&member.name).map_or(&[][..], Vec::as_slice);
        let is_known = nights.iter().any(Option::is_some);
        let is_first = !compares && !is_known;
        let is_blind = is_known && (!compares || nights.last().is_some_and(Option::is_none));
        let usual = nights
            .iter()
            .flatten()
            // What changed is not known where nothing can be compared.
            .filter(|night| compares && !night.is_first && night.judgement.verdict != Suspicion::Suspect);
        let usual: Vec<Counts> = usual.map(|night| night.counts).collect();
        let judgement = judge(&counts, &Past { nights: &usual, is_first, is_blind });
        stored::tell(member, &SeenNight { counts, is_first, judgement })?;
        self.disks.push(DiskPieces { name: member.name.clone(), size_bytes: member.size_bytes, pieces });
        Ok(())
    }

    /// Stores the statistics of all disks. Returns where they are, and adds the frames that they need.
    pub(super) fn store(&mut self, shared: &Shared, uses: &mut FrameSet) -> Result<Vec<Annex>> {
        let Some(Wanted { key, before, is_own, .. }) = &self.wanted else { return Ok(Vec::new()) };
        if self.disks.is_empty() {
            return Ok(Vec::new());
        }
        // Another key's word about a place is not taken on trust: its pieces are stored once more.
        let before = before.as_deref().filter(|_| *is_own);
        let disks = std::mem::take(&mut self.disks);
        let mut filler = Filler::new(shared, *key, uses);
        let starts = filler.spans(
            &disks,
            |(starts, _)| starts,
            |disk, span| before?.disk(disk)?.spans.get(&span)?.starts,
        )?;
        let counts = filler.spans(&disks, |(_, counts)| counts, |_, _| None)?;
        filler.flush()?;
        let starts = filler.tables(&disks, starts, |starts| Span { starts: Some(starts), counts: None })?;
        let counts = filler.tables(&disks, counts, |counts| Span { starts: None, counts: Some(counts) })?;
        let known = before.map(StoredStatistics::table);
        let mut annexes = vec![(TOPIC, filler.piece(known, &encode_table(&starts)?)?)];
        if counts.iter().any(|disk| !disk.spans.is_empty()) {
            annexes.push((COUNTS_TOPIC, filler.piece(None, &encode_table(&counts)?)?));
        }
        filler.flush()?;
        let annex = |(topic, filled): (&str, Filled)| {
            Ok(Annex { topic: Name::new(topic)?, place: filler.find(filled)?.place })
        };
        annexes.into_iter().map(annex).collect()
    }
}

impl Earlier {
    /// Whether files may have started here the night before.
    pub(super) fn knows(&self, start: u64, length_bytes: u64) -> bool {
        let (first, blocks) = blocks(start, length_bytes);
        self.stored.as_ref().is_some_and(|stored| stored.knows(&self.name, first, blocks))
    }

    /// A region's map, still empty, that takes note of what is seen.
    pub(super) async fn begin(&self, start: u64, length_bytes: u64, monitor: &Monitor) -> RegionMap {
        let length = usize::try_from(length_bytes).unwrap_or(usize::MAX);
        let seen = Some(Blocks::new(start, length, self.compares));
        let before = self.starts(start, length_bytes, monitor).await;
        RegionMap { seen, before, ..RegionMap::default() }
    }

    async fn starts(&self, start: u64, length_bytes: u64, monitor: &Monitor) -> Vec<Start> {
        let Some(stored) = &self.stored else { return Vec::new() };
        let (first, blocks) = blocks(start, length_bytes);
        match stored.starts(&self.name, first, blocks).await {
            Ok(starts) => starts,
            Err(error) => {
                monitor.warn(Topic::Hint, format!(
                    "part of the statistics before these is ignored, so files that were lost there are not noticed tonight: \
                     {error}"
                ));
                Vec::new()
            }
        }
    }

    pub(super) fn notice(self: &Arc<Self>) -> DiskNotice {
        DiskNotice {
            earlier: Arc::clone(self),
            trace: Trace::default(),
            starts: (0, Vec::new()),
            counts: (0, Vec::new()),
            sum: Counts::default(),
            pieces: BTreeMap::new(),
        }
    }
}

/// The first block of a region, and how many there are.
fn blocks(start: u64, length_bytes: u64) -> (u64, u64) {
    let block = to_u64(BLOCK_BYTES);
    (start / block, length_bytes.div_ceil(block))
}

impl DiskNotice {
    /// Takes the next region. Of one of which there is nothing to say its map says nothing.
    pub(super) fn region(&mut self, map: &RegionMap) {
        let Some(seen) = &map.seen else { return };
        self.trace.region(seen, &map.before);
        let end = seen.start() + to_u64(seen.blocks().len()) * to_u64(BLOCK_BYTES);
        self.take(end / EXTENT_BYTES);
    }

    /// Takes what is complete: all starts, and the counts of extents below this one.
    fn take(&mut self, below: u64) {
        for start in self.trace.take_starts() {
            let span = start.0 / SPAN_BLOCKS;
            if span != self.starts.0 {
                self.close_starts(span);
            }
            self.starts.1.push(start);
        }
        for (extent, counts) in self.trace.drain_below(below) {
            self.sum.add(&counts);
            let span = extent / SPAN_EXTENTS;
            if span != self.counts.0 {
                self.close_counts(span);
            }
            if !counts.is_quiet() {
                self.counts.1.push((extent, counts));
            }
        }
    }

    fn close_starts(&mut self, next: u64) {
        let (span, starts) = std::mem::replace(&mut self.starts, (next, Vec::new()));
        if !starts.is_empty() {
            self.pieces.entry(span).or_default().0 = encode_starts(span, &starts);
        }
    }

    fn close_counts(&mut self, next: u64) {
        let (span, counts) = std::mem::replace(&mut self.counts, (next, Vec::new()));
        if !counts.is_empty() {
            self.pieces.entry(span).or_default().1 = encode_counts(span, &counts);
        }
    }

    fn finish(mut self, size_bytes: u64) -> (Counts, Pieces) {
        self.trace.end(size_bytes);
        self.take(u64::MAX);
        self.close_starts(0);
        self.close_counts(0);
        (self.sum, self.pieces)
    }
}

/// Pieces on their way into frames of an annex.
struct Filler<'a> {
    shared: &'a Shared,
    key: [u8; 32],
    uses: &'a mut FrameSet,
    frame: Vec<u8>,
    pieces: Vec<(ContentId, u32)>,
    placed: Vec<Place>,
}

/// Where a piece is: known from the night before, or by its number among those that are placed with their frame.
enum Filled {
    Known(NamedPiece),
    New(ContentId, usize),
}

impl<'a> Filler<'a> {
    fn new(shared: &'a Shared, key: [u8; 32], uses: &'a mut FrameSet) -> Self {
        Self { shared, key, uses, frame: Vec::new(), pieces: Vec::new(), placed: Vec::new() }
    }

    /// One kind of pieces of all disks, in order; `known` are those that are stored already.
    fn spans(
        &mut self,
        disks: &[DiskPieces],
        kind: impl Fn(&(Vec<u8>, Vec<u8>)) -> &Vec<u8>,
        known: impl Fn(&Title, u64) -> Option<NamedPiece>,
    ) -> Result<Vec<Vec<(u64, Filled)>>> {
        let mut filled = Vec::with_capacity(disks.len());
        for disk in disks {
            let mut spans = Vec::new();
            for (number, pieces) in disk.pieces.iter().filter(|(_, pieces)| !kind(pieces).is_empty()) {
                spans.push((*number, self.piece(known(&disk.name, *number), kind(pieces))?));
            }
            filled.push(spans);
        }
        Ok(filled)
    }

    /// The tables of these disks, once all frames with their pieces are full.
    fn tables(
        &self,
        disks: &[DiskPieces],
        filled: Vec<Vec<(u64, Filled)>>,
        span: impl Fn(NamedPiece) -> Span,
    ) -> Result<Vec<DiskTable>> {
        let table = |(disk, filled): (&DiskPieces, Vec<(u64, Filled)>)| {
            let spans = filled.into_iter().map(|(number, filled)| Ok((number, span(self.find(filled)?))));
            let spans = spans.collect::<Result<_>>()?;
            Ok(DiskTable { name: disk.name.clone(), size_bytes: disk.size_bytes, spans })
        };
        disks.iter().zip(filled).map(table).collect()
    }

    /// A piece as it is already, or adds it.
    fn piece(&mut self, known: Option<NamedPiece>, bytes: &[u8]) -> Result<Filled> {
        let id = chunk_id(&self.key, bytes);
        let is_same = |known: &NamedPiece| known.id == id && self.shared.usable.allows(&known.place);
        if let Some(known) = known.filter(is_same) {
            self.uses.insert(known.place.frame.frame);
            return Ok(Filled::Known(known));
        }
        Ok(Filled::New(id, self.add(id, bytes)?))
    }

    /// Where it is, once all frames are full.
    fn find(&self, filled: Filled) -> Result<NamedPiece> {
        Ok(match filled {
            Filled::Known(known) => known,
            Filled::New(id, piece) => NamedPiece { id, place: self.placed(piece)? },
        })
    }

    fn placed(&self, piece: usize) -> Result<Place> {
        let none = || Error::bug(format!("piece {piece} of the statistics was never placed"));
        self.placed.get(piece).copied().ok_or_else(none)
    }

    /// Returns the number of the piece.
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
}
