//! Decoded frames for all disks and readers, within one budget of memory.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use sancerre_format::bytes::{to_u64, to_usize};
use sancerre_format::id::{ContentId, FramePlace, Place, SessionId};
use sancerre_format::node::chunk_id;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::flights::Flights;
use crate::error::{Error, Result};
use crate::frames::{Attempts, Frames};
use crate::lru::LruCache;

/// Frames that one disk reads ahead at once: enough to hide the latency of a bucket.
pub(super) const AHEAD_IN_FLIGHT: usize = 16;
/// No more than this is read ahead of one reader, whatever the budget.
const WINDOW_BYTES_MAX: u64 = 64 << 20;
/// Memory in flight is counted in these, because permits are 32-bit numbers.
const UNIT_BYTES: u64 = 1 << 10;
/// No chunk is smaller but the last of a file or disk; so a frame has at most one for so many bytes.
const BYTES_PER_PROOF: usize = 512;
/// What a frame in memory costs besides its bytes: its proofs, and the tables.
const OVERHEAD_BYTES: u64 = 4 << 10;

/// A frame by its lasting name, which is its own in all repositories and zones.
type FrameId = (SessionId, u32, u32);
type Landed = std::result::Result<Arc<Frame>, Failed>;

/// Why a frame could not be had.
#[derive(Clone)]
struct Failed {
    error: Arc<Error>,
    attempts: Attempts,
}

/// Decoded frames: each is fetched and decoded once, however many ask for it, and kept while there is room.
///
/// One serves all disks. Five eighths of the budget keep frames, a quarter is for those that readers wait for, an eighth for
/// those that are read ahead.
pub struct ChunkCache {
    budget_bytes: u64,
    kept: Mutex<LruCache<FrameId, Arc<Frame>>>,
    flights: Flights<FrameId, Landed>,
    demand: Arc<Semaphore>,
    demand_units: u32,
    ahead: Arc<Semaphore>,
    disks: AtomicUsize,
    fetched_frames: AtomicU64,
    fetched_bytes: AtomicU64,
}

/// A decoded frame, and which chunks in it were compared with their ids.
pub(super) struct Frame {
    raw: Vec<u8>,
    proven: Mutex<HashSet<(u32, u32, ContentId)>>,
}

impl Frame {
    /// Of these bytes, none of which is proven yet.
    pub(super) fn new(raw: Vec<u8>) -> Self {
        Self { raw, proven: Mutex::default() }
    }

    /// The bytes at this place, if they are those of this chunk.
    pub(super) fn chunk(&self, id_key: &[u8; 32], id: &ContentId, place: &Place) -> Option<&[u8]> {
        let start = to_usize(place.offset_bytes);
        let bytes = self.raw.get(start..start.saturating_add(to_usize(place.size_bytes)))?;
        let proof = (place.offset_bytes, place.size_bytes, *id);
        if self.proven.lock().unwrap_or_else(PoisonError::into_inner).contains(&proof) {
            return Some(bytes);
        }
        if chunk_id(id_key, bytes) != *id {
            return None;
        }
        let mut proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        // Who made the map could name any number of chunks that overlap.
        if proven.len() <= self.raw.len() / BYTES_PER_PROOF {
            proven.insert(proof);
        }
        Some(bytes)
    }
}

impl ChunkCache {
    /// An empty one that stays within so many bytes.
    pub fn new(budget_bytes: u64) -> Arc<Self> {
        let demand_units = units(budget_bytes / 4);
        Arc::new(Self {
            budget_bytes,
            kept: Mutex::new(LruCache::new(budget_bytes / 8 * 5)),
            flights: Flights::default(),
            demand: Arc::new(Semaphore::new(to_usize(demand_units))),
            demand_units,
            ahead: Arc::new(Semaphore::new(to_usize(units(budget_bytes / 8)))),
            disks: AtomicUsize::new(0),
            fetched_frames: AtomicU64::new(0),
            fetched_bytes: AtomicU64::new(0),
        })
    }

    /// Memory that kept frames take.
    pub fn kept_bytes(&self) -> u64 {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).bytes()
    }

    /// Frames fetched so far, and their bytes as they lie in the store.
    pub fn fetched(&self) -> (u64, u64) {
        (self.fetched_frames.load(Ordering::Relaxed), self.fetched_bytes.load(Ordering::Relaxed))
    }

    pub(super) fn add_disk(&self) {
        self.disks.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove_disk(&self) {
        self.disks.fetch_sub(1, Ordering::Relaxed);
    }

    /// How far a disk may be read ahead: what all disks read ahead must not push itself out.
    pub(super) fn window_bytes(&self) -> u64 {
        let disks = to_u64(self.disks.load(Ordering::Relaxed)).max(1);
        (self.budget_bytes / 4).min(self.budget_bytes / 2 / disks).min(WINDOW_BYTES_MAX)
    }

    /// How many frames of so many bytes may be fetched first for so many of the disks: what is fetched must still be there when
    /// it is asked for.
    pub(super) fn frames_first(&self, frame_bytes: u32, disks: usize) -> usize {
        let all = self.disks.load(Ordering::Relaxed).max(disks).max(1);
        let bytes = (self.budget_bytes / 2).saturating_mul(to_u64(disks)) / to_u64(all);
        usize::try_from(bytes / kept_bytes(u64::from(frame_bytes))).unwrap_or(usize::MAX)
    }

    fn kept(&self, id: &FrameId) -> Option<Arc<Frame>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(id)
    }

    /// A frame that somebody waits for.
    ///
    /// Errors: as [`Frames::data`].
    pub(super) async fn frame(
        self: &Arc<Self>,
        frames: &Arc<Frames>,
        place: &FramePlace,
    ) -> Result<Arc<Frame>> {
        let id = id_of(frames, place)?;
        loop {
            if let Some(frame) = self.kept(&id) {
                return Ok(frame);
            }
            match self.fly(id, frames, place, Attempts::Patient).await {
                Ok(frame) => return Ok(frame),
                // It was read ahead, by one attempt.
                Err(Failed { attempts: Attempts::One, .. }) => {}
                Err(Failed { error, .. }) => return Err(Error::Shared(error)),
            }
        }
    }

    /// A frame that may be wanted soon: one attempt, and not before those that came first.
    pub(super) async fn read_ahead(
        self: &Arc<Self>,
        frames: &Arc<Frames>,
        place: &FramePlace,
    ) -> Option<Arc<Frame>> {
        let id = id_of(frames, place).ok()?;
        match self.kept(&id) {
            // What is wrong with it will be said when somebody wants it.
            None => self.fly(id, frames, place, Attempts::One).await.ok(),
            kept => kept,
        }
    }

    async fn fly(
        self: &Arc<Self>,
        id: FrameId,
        frames: &Arc<Frames>,
        place: &FramePlace,
        attempts: Attempts,
    ) -> Landed {
        let start = || {
            let (cache, frames, place) = (Arc::clone(self), Arc::clone(frames), *place);
            async move {
                let failed = |error: Error| Failed { error: Arc::new(error), attempts };
                // It may have landed between the look and the start.
                match cache.kept(&id) {
                    Some(frame) => Ok(frame),
                    None => cache.fetch(id, &frames, &place, attempts).await.map_err(failed),
                }
            }
            .boxed()
        };
        self.flights.join(id, start).await
    }

    async fn fetch(
        &self,
        id: FrameId,
        frames: &Arc<Frames>,
        place: &FramePlace,
        attempts: Attempts,
    ) -> Result<Arc<Frame>> {
        let _memory = self.reserve(frames, place, attempts).await?;
        let raw = frames.data(place, attempts).await?;
        Ok(self.keep(id, place, raw))
    }

    /// A frame again, as it is in the first of its places where `accept` takes it; it is kept in the stead of what was.
    ///
    /// Errors: the store's.
    pub(super) async fn frame_as(
        &self,
        frames: &Arc<Frames>,
        place: &FramePlace,
        accept: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Arc<Frame>>> {
        let id = id_of(frames, place)?;
        let _memory = self.reserve(frames, place, Attempts::Patient).await?;
        Ok(frames.data_as(place, accept).await?.map(|raw| self.keep(id, place, raw)))
    }

    fn keep(&self, id: FrameId, place: &FramePlace, raw: Vec<u8>) -> Arc<Frame> {
        self.fetched_frames.fetch_add(1, Ordering::Relaxed);
        self.fetched_bytes.fetch_add(u64::from(place.sealed_bytes), Ordering::Relaxed);
        let bytes = kept_bytes(to_u64(raw.len()));
        let frame = Arc::new(Frame::new(raw));
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).put(id, Arc::clone(&frame), bytes);
        frame
    }

    /// Memory for a frame sealed and decoded, all there is when it would need more.
    async fn reserve(
        &self,
        frames: &Frames,
        place: &FramePlace,
        attempts: Attempts,
    ) -> Result<OwnedSemaphorePermit> {
        let raw = u64::from(frames.repository().layout.frame_bytes);
        let wanted = units(raw.saturating_add(u64::from(place.sealed_bytes)));
        let (memory, most) = match attempts {
            Attempts::Patient => (&self.demand, self.demand_units),
            Attempts::One => (&self.ahead, units(self.budget_bytes / 8)),
        };
        Arc::clone(memory).acquire_many_owned(wanted.min(most)).await.map_err(|_| Error::Worker)
    }
}

fn id_of(frames: &Frames, place: &FramePlace) -> Result<FrameId> {
    let name = frames.data_name(place)?;
    Ok((name.session, name.a, name.b))
}

/// What a frame of so many raw bytes takes.
fn kept_bytes(raw: u64) -> u64 {
    raw.saturating_add(raw / 8).saturating_add(OVERHEAD_BYTES)
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX >> 4).clamp(1, u32::MAX >> 4)
}
