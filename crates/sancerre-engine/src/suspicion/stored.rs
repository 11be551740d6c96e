//! What earlier nights left: the pieces of their statistics, and what their disk lines say.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use sancerre_format::FormatError;
use sancerre_format::bytes::to_usize;
use sancerre_format::id::{ContentId, Place};
use sancerre_format::names::{MachineId, Title};
use sancerre_format::node::chunk_id;
use sancerre_format::outcome::{Body, Member};

use super::extent::Counts;
use super::record::{self, DiskTable, NamedPiece, SPAN_BLOCKS};
use super::trace::Start;
use super::verdict::{Judgement, Sign, Suspicion, THRESHOLDS};
use crate::error::Result;
use crate::frames::Frames;
use crate::repository::Repository;
use crate::repository::log::{Log, Snapshot, open_body};

/// The topic of the annex with the table of where files start. It is the same on nights on which no file comes or goes, and then
/// it is not stored again.
pub const TOPIC: &str = "statistics";
/// The topic of the one with what was counted; a night on which nothing changed has none.
pub const COUNTS_TOPIC: &str = "counts";
/// Words of a disk line.
const COUNTS: &str = "x-seen";
const VERDICT: &str = "x-verdict";
const WHY: &str = "x-why";
/// The verdict on the first backup of a disk: there is nothing to compare it with.
const FIRST: &str = "first";
/// Pieces kept while a disk is read from left to right.
const PIECES_KEPT: usize = 4;

/// The key of the ids of pieces, derived from a zone's id key, so that none can pass for a chunk.
pub fn piece_key(id_key: &[u8; 32]) -> [u8; 32] {
    chunk_id(id_key, b"sancerre v1 statistics").0
}

/// What a disk line says of its night.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenNight {
    /// What was counted.
    pub counts: Counts,
    /// Whether it was the first backup of the disk.
    pub is_first: bool,
    /// What the writer thought of it.
    pub judgement: Judgement,
}

/// What a member's words say of its night; none when it has no statistics, or words of a later version.
pub fn seen(member: &Member) -> Option<SeenNight> {
    let counts = Counts::parse(member.words.get(COUNTS)?)?;
    let word = member.words.get(VERDICT)?;
    let is_first = word == FIRST;
    let verdict = if is_first { Suspicion::Normal } else { Suspicion::parse(word)? };
    let signs = member.words.get(WHY).unwrap_or_default().split(',').filter_map(Sign::parse).collect();
    Some(SeenNight { counts, is_first, judgement: Judgement { verdict, signs } })
}

/// The worst verdict on any disk of a snapshot; none when it has no statistics.
pub fn worst(body: &Body) -> Option<Suspicion> {
    body.members.iter().filter_map(seen).map(|night| night.judgement.verdict).max()
}

/// Writes what [`seen`] reads.
///
/// Errors: a bug.
pub fn tell(member: &mut Member, night: &SeenNight) -> Result<()> {
    let bug = |error: FormatError| crate::error::Error::bug(error.to_string());
    let verdict = if night.is_first { FIRST } else { night.judgement.verdict.word() };
    member.words.push(COUNTS, &night.counts.to_string()).map_err(bug)?;
    member.words.push(VERDICT, verdict).map_err(bug)?;
    let signs: Vec<&str> = night.judgement.signs.iter().map(|sign| sign.word()).collect();
    if !signs.is_empty() {
        member.words.push(WHY, &signs.join(",")).map_err(bug)?;
    }
    Ok(())
}

/// The nights of one disk, the oldest first; none where a snapshot has no statistics of it.
pub type Nights = BTreeMap<Title, Vec<Option<SeenNight>>>;

/// Whether a snapshot is of this machine.
pub fn is_of(snapshot: &Snapshot<'_>, vm: &Title, machine: Option<MachineId>) -> bool {
    let fields = &snapshot.manifest.fields;
    match (machine, fields.machine) {
        (Some(wanted), Some(found)) => wanted == found,
        _ => fields.vm == *vm,
    }
}

/// The nights of all disks of a machine, as far as these keys open them.
pub fn nights(repository: &Repository, log: &Log, vm: &Title, machine: Option<MachineId>) -> Nights {
    let mut nights = Nights::new();
    let snapshots: Vec<Snapshot<'_>> =
        log.snapshots().into_iter().filter(|snapshot| is_of(snapshot, vm, machine)).collect();
    let from = snapshots.len().saturating_sub(THRESHOLDS.nights.saturating_mul(2));
    for snapshot in snapshots.get(from..).unwrap_or_default() {
        let Ok(body) = open_body(repository, snapshot) else { continue };
        for member in &body.members {
            nights.entry(member.name.clone()).or_default().push(seen(member));
        }
    }
    nights
}

/// The GiBs in which these blocks are.
fn spans(first: u64, blocks: u64) -> Range<u64> {
    first / SPAN_BLOCKS..first.saturating_add(blocks).div_ceil(SPAN_BLOCKS)
}

/// The statistics of one snapshot.
pub struct StoredStatistics {
    frames: Arc<Frames>,
    key: [u8; 32],
    tables: Vec<DiskTable>,
    /// The table as it is stored.
    table: NamedPiece,
    counts: Option<Place>,
    kept: Mutex<VecDeque<(ContentId, Arc<Vec<Start>>)>>,
}

impl StoredStatistics {
    /// Reads the table of a snapshot's statistics; none if it has none.
    ///
    /// Errors: it cannot be read.
    pub async fn open(frames: Arc<Frames>, body: &Body) -> Result<Option<Self>> {
        let annex = |topic: &str| body.annexes.iter().find(|annex| annex.topic.as_str() == topic);
        let Some(place) = annex(TOPIC).map(|annex| annex.place) else { return Ok(None) };
        let counts = annex(COUNTS_TOPIC).map(|annex| annex.place);
        let key = piece_key(&frames.repository().keys.zone_secrets()?.keys.id);
        let bytes = bytes(&frames, &place).await?;
        let table = NamedPiece { id: chunk_id(&key, &bytes), place };
        let tables = record::decode_table(&bytes).map_err(|error| frames.blame(&place.frame, error))?;
        Ok(Some(Self { frames, key, tables, table, counts, kept: Mutex::default() }))
    }

    /// The table of where files start, as it is stored.
    pub fn table(&self) -> NamedPiece {
        self.table
    }

    /// The table of a disk.
    pub fn disk(&self, name: &Title) -> Option<&DiskTable> {
        self.tables.iter().find(|disk| disk.name == *name)
    }

    /// Whether files started in the GiBs of a range of blocks of a disk.
    pub fn knows(&self, disk: &Title, first: u64, blocks: u64) -> bool {
        let mut spans = self.disk(disk).into_iter().flat_map(|table| table.spans.range(spans(first, blocks)));
        spans.any(|(_, span)| span.starts.is_some())
    }

    /// Where files started in a range of blocks of a disk, ascending.
    ///
    /// Errors: a piece cannot be read.
    pub async fn starts(&self, disk: &Title, first: u64, blocks: u64) -> Result<Vec<Start>> {
        let Some(table) = self.disk(disk) else { return Ok(Vec::new()) };
        let end = first.saturating_add(blocks);
        let mut starts = Vec::new();
        for (span, found) in table.spans.range(spans(first, blocks)) {
            let Some(named) = &found.starts else { continue };
            let piece = self.span_starts(*span, named).await?;
            let from = piece.partition_point(|(block, _)| *block < first);
            let to = piece.partition_point(|(block, _)| *block < end);
            starts.extend_from_slice(piece.get(from..to).unwrap_or_default());
        }
        Ok(starts)
    }

    /// What was counted of a disk that night, by extents.
    ///
    /// Errors: a piece cannot be read.
    pub async fn extents(&self, disk: &Title) -> Result<Vec<(u64, Counts)>> {
        let apart = match &self.counts {
            None => None,
            Some(place) => {
                let bytes = bytes(&self.frames, place).await?;
                let tables = record::decode_table(&bytes);
                Some(tables.map_err(|error| self.frames.blame(&place.frame, error))?)
            }
        };
        let tables = apart.as_ref().unwrap_or(&self.tables);
        let table = tables.iter().find(|table| table.name == *disk);
        let mut extents = Vec::new();
        for (span, found) in table.into_iter().flat_map(|table| &table.spans) {
            let Some(named) = &found.counts else { continue };
            let bytes = self.piece(named).await?;
            let counts = record::decode_counts(*span, &bytes);
            extents.extend(counts.map_err(|error| self.frames.blame(&named.place.frame, error))?);
        }
        Ok(extents)
    }

    async fn span_starts(&self, span: u64, named: &NamedPiece) -> Result<Arc<Vec<Start>>> {
        let find = |kept: &VecDeque<(ContentId, Arc<Vec<Start>>)>| {
            kept.iter().find(|(id, _)| *id == named.id).map(|(_, starts)| Arc::clone(starts))
        };
        if let Some(starts) = find(&self.kept.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(starts);
        }
        let bytes = self.piece(named).await?;
        let starts = record::decode_starts(span, &bytes);
        let starts = Arc::new(starts.map_err(|error| self.frames.blame(&named.place.frame, error))?);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((named.id, Arc::clone(&starts)));
        if kept.len() > PIECES_KEPT {
            kept.pop_front();
        }
        Ok(starts)
    }

    async fn piece(&self, named: &NamedPiece) -> Result<Vec<u8>> {
        let bytes = bytes(&self.frames, &named.place).await?;
        if chunk_id(&self.key, &bytes) == named.id {
            return Ok(bytes);
        }
        let detail = "a piece of the statistics is not what their table names".to_owned();
        Err(self.frames.blame(&named.place.frame, FormatError::Forged { what: "annex", detail }))
    }
}

/// What lies at a place in an annex; nothing where the frame is shorter, which nobody takes for a table or a piece.
async fn bytes(frames: &Frames, place: &Place) -> Result<Vec<u8>> {
    let raw = frames.annex(&place.frame).await?;
    let start = to_usize(place.offset_bytes);
    let bytes = raw.get(start..start.saturating_add(to_usize(place.size_bytes)));
    Ok(bytes.unwrap_or_default().to_vec())
}
