//! What a machine asks for until it is up: recorded while it starts, and fetched first when it is started again (FORMAT.md §5.4).
//!
//! Who waits for a frame comes before what a trace names, and that comes before what is read ahead of readers in a row.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{self, StreamExt};
use sancerre_format::boot_trace::{BootTrace, CHUNKS_MAX, DISKS_MAX, TracedChunk};
use sancerre_format::bytes::to_usize;
use sancerre_format::id::{ContentId, FramePlace};

use super::cache::AHEAD_IN_FLIGHT;
use super::{Chunk, IN_FLIGHT, SnapshotDisk};

/// Takes note of the chunks that disks are asked for, each once, until as many as a trace holds.
#[derive(Debug, Default)]
pub struct BootRecorder {
    asked: Mutex<(BootTrace, HashSet<ContentId>)>,
}

impl BootRecorder {
    /// What was asked for so far, in its order.
    pub fn trace(&self) -> BootTrace {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

/// A disk's part in a recorder.
pub(super) struct Recording {
    recorder: Arc<BootRecorder>,
    disk: u32,
}

impl SnapshotDisk {
    /// From now on `recorder` takes note of what readers ask this disk for; what is read ahead or fetched first is nobody's
    /// question. A disk has one recorder, its first.
    pub fn record(&self, recorder: &Arc<BootRecorder>) {
        let mut asked = recorder.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let disks = &mut asked.0.disks;
        let Some(disk) = u32::try_from(disks.len()).ok().filter(|_| disks.len() < DISKS_MAX) else { return };
        if self.recording.set(Recording { recorder: Arc::clone(recorder), disk }).is_ok() {
            disks.push(self.member.clone());
        }
    }

    pub(super) fn note_asked(&self, chunks: &[Chunk]) {
        let Some(Recording { recorder, disk }) = self.recording.get() else { return };
        let mut asked = recorder.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let (trace, seen) = &mut *asked;
        for chunk in chunks {
            let leaf = u32::try_from(self.map.geometry().leaf_of(chunk.at));
            if let Ok(leaf) = leaf
                && trace.chunks.len() < CHUNKS_MAX
                && seen.insert(chunk.id)
            {
                trace.chunks.push(TracedChunk { disk: *disk, leaf, id: chunk.id });
            }
        }
    }

    /// The chunk, if this disk has it where the trace says.
    async fn traced(self: &Arc<Self>, traced: &TracedChunk) -> Option<Chunk> {
        // What cannot be read will be said when somebody wants it.
        let leaf = self.leaf(u64::from(traced.leaf)).await.ok()?;
        leaf.into_iter().find(|chunk| chunk.id == traced.id)
    }
}

/// What came of a trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FetchedFirst {
    /// Chunks of the trace that are there before anybody asked.
    pub chunks: usize,
    /// Bytes of their frames, as they lie in the store.
    pub bytes: u64,
    /// Chunks of the trace that the disks do not have.
    pub absent: usize,
    /// Chunks for which there was no room, or that could not be had.
    pub left: usize,
}

/// Reading ahead waits while this lives.
struct Lead<'a>(&'a [Arc<SnapshotDisk>]);

impl<'a> Lead<'a> {
    fn take(disks: &'a [Arc<SnapshotDisk>]) -> Self {
        disks.iter().for_each(|disk| disk.is_led.store(true, Ordering::Relaxed));
        Self(disks)
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|disk| disk.is_led.store(false, Ordering::Relaxed));
    }
}

/// A frame of a trace, by its first chunk, and how many chunks of the trace are in it.
struct Wanted {
    disk: Arc<SnapshotDisk>,
    first: Chunk,
    chunks: usize,
}

/// Fetches what a trace names and these disks of a machine have, in its order, sixteen frames at once, as far as the cache has room
/// for it. Each frame is tried once; nothing is an error.
pub async fn fetch_first(disks: &[Arc<SnapshotDisk>], trace: &BootTrace) -> FetchedFirst {
    let Some(one) = disks.first() else { return FetchedFirst::default() };
    let _lead = Lead::take(disks);
    let most = one.cache.frames_first(one.frames.repository().layout.frame_bytes, disks.len());
    let (wanted, absent) = wanted(disks, trace, most).await;
    let found = wanted.iter().map(|wanted| wanted.chunks).fold(absent, usize::saturating_add);
    let mut came =
        FetchedFirst { absent, left: trace.chunks.len().saturating_sub(found), ..FetchedFirst::default() };
    let fetches = wanted.into_iter().map(|wanted| async move {
        let is_there = wanted.disk.is_spooled([&wanted.first].into_iter())
            || wanted.disk.fetch_before_asked(wanted.first).await;
        (is_there, wanted.chunks, wanted.first.place.frame.sealed_bytes)
    });
    let mut fetches = stream::iter(fetches).buffer_unordered(AHEAD_IN_FLIGHT);
    while let Some((is_there, chunks, sealed_bytes)) = fetches.next().await {
        match is_there {
            true => {
                came.chunks = came.chunks.saturating_add(chunks);
                came.bytes = came.bytes.saturating_add(u64::from(sealed_bytes));
            }
            false => came.left = came.left.saturating_add(chunks),
        }
    }
    came
}

/// The frames to fetch, in the order of their first use and at most so many; and how many chunks before the end of that are on
/// none of the disks.
async fn wanted(disks: &[Arc<SnapshotDisk>], trace: &BootTrace, most: usize) -> (Vec<Wanted>, usize) {
    let named = trace.disks.iter().map(|title| disks.iter().find(|disk| disk.member == *title).cloned());
    let named: Vec<Option<Arc<SnapshotDisk>>> = named.collect();
    let finds = trace.chunks.iter().copied().map(|traced| {
        let disk = named.get(to_usize(traced.disk)).cloned().flatten();
        async move {
            let disk = disk?;
            let first = disk.traced(&traced).await?;
            Some(Wanted { disk, first, chunks: 1 })
        }
    });
    let mut finds = stream::iter(finds).buffered(IN_FLIGHT);
    let (mut wanted, mut absent): (Vec<Wanted>, usize) = (Vec::new(), 0);
    let mut places: BTreeMap<FramePlace, usize> = BTreeMap::new();
    while let Some(found) = finds.next().await {
        let Some(found) = found else {
            absent = absent.saturating_add(1);
            continue;
        };
        match places.entry(found.first.place.frame) {
            Entry::Occupied(at) => {
                if let Some(known) = wanted.get_mut(*at.get()) {
                    known.chunks = known.chunks.saturating_add(1);
                }
            }
            Entry::Vacant(_) if wanted.len() >= most => break,
            Entry::Vacant(free) => {
                free.insert(wanted.len());
                wanted.push(found);
            }
        }
    }
    (wanted, absent)
}
