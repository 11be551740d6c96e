//! A snapshot's disk for whoever reads it here and there: a guest that boots from it, a copier, a reader of files.
//!
//! ```text
//! read ──> leaves of the map ──> frames ──> ChunkCache (kept, on its way, or fetched) ──> chunks compared with their ids
//!   └ in a row? ──> the frames behind it, in the background, after those that a boot trace names
//! ```
//!
//! Nothing is given out that was not compared with its id. Holes are answered from the map alone. Damage costs the reads that
//! touch it, after other copies were looked for, and no others.

mod blocking;
mod boot;
mod cache;
mod extents;
mod flights;
mod heal;
mod sequence;
mod spool;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures::FutureExt;
use futures::stream::{self, StreamExt, TryStreamExt};
use sancerre_format::bytes::{to_u64, to_usize};
use sancerre_format::id::{ContentId, FramePlace, Place, SessionId};
use sancerre_format::names::Title;
use sancerre_format::node::{Node, chunk_id};
use sancerre_format::outcome::Member;
use sancerre_image::ReadError;

use crate::error::{Error, Result};
use crate::frames::Frames;
use crate::lru::LruCache;
use crate::map::{MapReader, StoredNode};
use crate::monitor::Monitor;
use crate::snapshot::SnapshotReader;
use boot::Recording;
use cache::{AHEAD_IN_FLIGHT, Frame};
use flights::Flights;
use sequence::Sequences;

pub use blocking::BlockingSnapshotDisk;
pub use boot::{BootRecorder, FetchedFirst, fetch_first};
pub use cache::ChunkCache;
pub use extents::Extent;
pub use spool::Spool;
use spool::Spooled;

/// Frames and leaves that one read fetches at once.
const IN_FLIGHT: usize = 16;
/// Chunks of which it is remembered where their copy lies, or that there is none.
const HEALED_KEPT: u64 = 64 << 10;

type FoundNode = std::result::Result<Option<Arc<StoredNode>>, Arc<Error>>;

/// One disk of a snapshot, for random reads by many at once.
pub struct SnapshotDisk {
    name: String,
    member: Title,
    session: SessionId,
    frames: Arc<Frames>,
    map: MapReader,
    id_key: [u8; 32],
    cache: Arc<ChunkCache>,
    monitor: Monitor,
    nodes: Flights<(u8, u64), FoundNode>,
    searches: Flights<BTreeSet<ContentId>, std::result::Result<(), Arc<Error>>>,
    /// Where a copy of a chunk lies whose own place is damaged; none if there is none.
    healed: Mutex<LruCache<ContentId, Option<Place>>>,
    sequences: Mutex<Sequences>,
    spooled: Option<Spooled>,
    recording: OnceLock<Recording>,
    /// While a boot trace is fetched: it says better than reads in a row what will be wanted.
    is_led: AtomicBool,
}

/// A chunk of the disk.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    at: u64,
    id: ContentId,
    place: Place,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.at.saturating_add(u64::from(self.place.size_bytes))
    }
}

impl Drop for SnapshotDisk {
    fn drop(&mut self) {
        self.cache.remove_disk();
    }
}

impl SnapshotDisk {
    /// Opens a member of a snapshot. Warnings go to `monitor`.
    ///
    /// Errors: as [`SnapshotReader::refuse_unreadable`]; a map whose root does not fit the disk.
    pub fn open(
        reader: &SnapshotReader,
        member: &Member,
        cache: &Arc<ChunkCache>,
        monitor: &Monitor,
    ) -> Result<Arc<Self>> {
        Self::open_spooled(reader, member, cache, monitor, None)
    }

    /// The same, which keeps in `spool` what was fetched, and reads from there what it has.
    ///
    /// Errors: as [`SnapshotDisk::open`].
    pub fn open_spooled(
        reader: &SnapshotReader,
        member: &Member,
        cache: &Arc<ChunkCache>,
        monitor: &Monitor,
        spool: Option<Arc<dyn Spool>>,
    ) -> Result<Arc<Self>> {
        reader.refuse_unreadable(member)?;
        let frames = Arc::clone(reader.frames());
        let id_key = frames.repository().keys.zone_secrets()?.keys.id;
        let map = MapReader::new(Arc::clone(&frames), member)?;
        cache.add_disk();
        Ok(Arc::new(Self {
            name: format!("{} of {}", member.name, reader.vm()),
            member: member.name.clone(),
            session: reader.manifest().session,
            frames,
            map,
            id_key,
            cache: Arc::clone(cache),
            monitor: monitor.clone(),
            nodes: Flights::default(),
            searches: Flights::default(),
            healed: Mutex::new(LruCache::new(HEALED_KEPT)),
            sequences: Mutex::default(),
            spooled: spool.map(Spooled::new),
            recording: OnceLock::new(),
            is_led: AtomicBool::new(false),
        }))
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its size.
    pub fn size_bytes(&self) -> u64 {
        self.map.geometry().size_bytes()
    }

    /// Fills `buffer` with the bytes from `offset` on. Needs a tokio runtime.
    ///
    /// Errors: a range that does not lie inside; [`Error::Unrestorable`] when a chunk of it is damaged and no copy is known;
    /// the store's. The content of `buffer` is then unspecified.
    pub async fn read(self: &Arc<Self>, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let range = self.inside(offset, to_u64(buffer.len()))?;
        self.follow_reader(&range);
        buffer.fill(0);
        let chunks = self.chunks(range.clone()).await?;
        self.note_asked(&chunks);
        let groups = by_frame(chunks);
        let reads = groups.into_iter().map(|(place, chunks)| self.chunks_of(place, chunks));
        let mut reads = stream::iter(reads).buffer_unordered(IN_FLIGHT);
        while let Some(found) = reads.try_next().await? {
            for (chunk, frame) in found {
                let bytes = frame.chunk(&self.id_key, &chunk.id, &chunk.place);
                let bytes = bytes.ok_or_else(|| Error::bug("a chunk that was proven is not there"))?;
                copy(&chunk, bytes, &range, buffer)?;
            }
        }
        Ok(())
    }

    /// Reads a range ahead, in the background and once; what fails will be said when somebody wants it. Needs a tokio
    /// runtime.
    ///
    /// Errors: a range that does not lie inside.
    pub fn read_ahead(self: &Arc<Self>, range: Range<u64>) -> Result<()> {
        let range = self.inside(range.start, range.end.saturating_sub(range.start))?;
        tokio::spawn(Arc::clone(self).fetch_ahead(range));
        Ok(())
    }

    /// Reads ahead of whoever reads in a row.
    fn follow_reader(self: &Arc<Self>, range: &Range<u64>) {
        if self.is_led.load(Ordering::Relaxed) {
            return;
        }
        let mut sequences = self.sequences.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = sequences.note(range, self.cache.window_bytes(), self.size_bytes());
        drop(sequences);
        if let Some(ahead) = ahead {
            tokio::spawn(Arc::clone(self).fetch_ahead(ahead));
        }
    }

    async fn fetch_ahead(self: Arc<Self>, range: Range<u64>) {
        let Ok(mut chunks) = self.chunks(range).await else { return };
        chunks.retain(|chunk| !self.is_spooled([chunk].into_iter()));
        // Map order: what will be wanted first comes first.
        let mut seen = BTreeSet::new();
        let first = chunks.iter().filter(|chunk| seen.insert(chunk.place.frame));
        let fetch = |chunk: &Chunk| self.fetch_before_asked(*chunk).map(drop);
        stream::iter(first).for_each_concurrent(AHEAD_IN_FLIGHT, fetch).await;
    }

    /// Fetches the frame of a chunk for which nobody waits; whether it is there.
    async fn fetch_before_asked(self: &Arc<Self>, chunk: Chunk) -> bool {
        let place = chunk.place.frame;
        let Some(frame) = self.cache.read_ahead(&self.frames, &place).await else { return false };
        self.keep(place, &frame, chunk.at).await;
        true
    }

    fn inside(&self, offset: u64, length_bytes: u64) -> Result<Range<u64>> {
        let end = offset.checked_add(length_bytes).filter(|end| *end <= self.size_bytes());
        end.map(|end| offset..end).ok_or_else(|| {
            let (path, size_bytes) = (PathBuf::from(&self.name), self.size_bytes());
            Error::Read(ReadError::OutOfRange { path, offset, length_bytes, size_bytes })
        })
    }

    /// The chunks that touch a range, ascending.
    async fn chunks(self: &Arc<Self>, range: Range<u64>) -> Result<Vec<Chunk>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let geometry = *self.map.geometry();
        let (first, last) = (geometry.leaf_of(range.start), geometry.leaf_of(range.end.saturating_sub(1)));
        let mut chunks = self.reaching(first).await?;
        let leaves = stream::iter(first..=last).map(|leaf| self.leaf(leaf)).buffered(IN_FLIGHT);
        chunks.extend(leaves.try_concat().await?);
        chunks.retain(|chunk| chunk.at < range.end && chunk.end() > range.start);
        Ok(chunks)
    }

    /// The last chunk before a leaf, which may reach into it. None crosses the start of a region.
    async fn reaching(self: &Arc<Self>, leaf: u64) -> Result<Vec<Chunk>> {
        let geometry = *self.map.geometry();
        let is_border = |leaf: u64| {
            let start = geometry.range(0, leaf).start;
            start.checked_rem(u64::from(geometry.region_bytes())).is_none_or(|rest| rest == 0)
        };
        let mut at = leaf;
        while !is_border(at) {
            at = at.saturating_sub(1);
            let chunks = self.leaf(at).await?;
            if !chunks.is_empty() {
                return Ok(chunks.last().copied().into_iter().collect());
            }
        }
        Ok(Vec::new())
    }

    /// The chunks that start in a leaf.
    async fn leaf(self: &Arc<Self>, leaf: u64) -> Result<Vec<Chunk>> {
        let Some(node) = self.node(0, leaf).await? else { return Ok(Vec::new()) };
        let Node::Leaf(entries) = &node.node else { return Err(Error::bug("a leaf that is none")) };
        let start = self.map.geometry().range(0, leaf).start;
        let chunk = |entry: &sancerre_format::node::LeafEntry| Chunk {
            at: start.saturating_add(u64::from(entry.offset_bytes)),
            id: entry.id,
            place: entry.place,
        };
        Ok(entries.iter().map(chunk).collect())
    }

    /// A node of the map, read once however many ask for it; from a copy when it is damaged.
    async fn node(self: &Arc<Self>, level: u8, number: u64) -> Result<Option<Arc<StoredNode>>> {
        if let Some(node) = self.map.find(level, number) {
            return Ok(Some(node));
        }
        let read = || {
            let disk = Arc::clone(self);
            async move {
                match disk.map.node(level, number).await {
                    Err(error) if error.is_damage() => disk.heal_node(level, number).await,
                    node => node,
                }
                .map_err(Arc::new)
            }
            .boxed()
        };
        self.nodes.join((level, number), read).await.map_err(Error::Shared)
    }

    /// Chunks of one frame, proven, each with the frame that has it.
    async fn chunks_of(
        self: &Arc<Self>,
        place: FramePlace,
        chunks: Vec<Chunk>,
    ) -> Result<Vec<(Chunk, Arc<Frame>)>> {
        let (mut found, chunks) = self.from_spool(chunks).await;
        let Some(near) = chunks.first().map(|chunk| chunk.at) else { return Ok(found) };
        let frame = match self.cache.frame(&self.frames, &place).await {
            Err(error) if error.is_damage() => {
                found.extend(self.heal(chunks, Arc::new(error)).await?);
                return Ok(found);
            }
            frame => frame?,
        };
        self.keep(place, &frame, near).await;
        let has = |chunk: &Chunk| frame.chunk(&self.id_key, &chunk.id, &chunk.place).is_some();
        let (good, bad): (Vec<Chunk>, Vec<Chunk>) = chunks.into_iter().partition(has);
        found.extend(good.into_iter().map(|chunk| (chunk, Arc::clone(&frame))));
        if let Some(first) = bad.first() {
            let why = Arc::new(self.forged(first));
            match self.same_elsewhere(&place, &bad).await? {
                Some(frame) => found.extend(bad.into_iter().map(|chunk| (chunk, Arc::clone(&frame)))),
                None => found.extend(self.heal(bad, why).await?),
            }
        }
        Ok(found)
    }

    /// The frame as it is in another of its places, if these chunks are in it there, unless they were looked for before.
    async fn same_elsewhere(&self, place: &FramePlace, chunks: &[Chunk]) -> Result<Option<Arc<Frame>>> {
        if chunks.iter().all(|chunk| self.healed(&chunk.id).is_some()) {
            return Ok(None);
        }
        let is_there = |raw: &[u8], chunk: &Chunk| {
            let start = to_usize(chunk.place.offset_bytes);
            let bytes = raw.get(start..start.saturating_add(to_usize(chunk.place.size_bytes)));
            bytes.is_some_and(|bytes| chunk_id(&self.id_key, bytes) == chunk.id)
        };
        let accept = |raw: &[u8]| chunks.iter().all(|chunk| is_there(raw, chunk));
        self.cache.frame_as(&self.frames, place, accept).await
    }
}

/// Chunks by the frame that holds them.
fn by_frame(chunks: Vec<Chunk>) -> BTreeMap<FramePlace, Vec<Chunk>> {
    let mut groups: BTreeMap<FramePlace, Vec<Chunk>> = BTreeMap::new();
    for chunk in chunks {
        groups.entry(chunk.place.frame).or_default().push(chunk);
    }
    groups
}

/// Copies what of a chunk lies in `range` to its place in `buffer`.
fn copy(chunk: &Chunk, bytes: &[u8], range: &Range<u64>, buffer: &mut [u8]) -> Result<()> {
    let (start, end) = (chunk.at.max(range.start), chunk.end().min(range.end));
    let within = |at: u64, base: u64| usize::try_from(at.saturating_sub(base)).unwrap_or(usize::MAX);
    let from = bytes.get(within(start, chunk.at)..within(end, chunk.at));
    let to = buffer.get_mut(within(start, range.start)..within(end, range.start));
    let (Some(from), Some(to)) = (from, to) else {
        return Err(Error::bug(format!("a chunk at {} lies outside {range:?}", chunk.at)));
    };
    to.copy_from_slice(from);
    Ok(())
}
