//! What was fetched, kept beyond the life of this process: each chunk at its place, and compared with its id whenever it is
//! read back. So whatever stands in a spool after a crash, or was put there by others, costs a fetch and no more.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sancerre_format::bytes::to_usize;
use sancerre_format::id::{FramePlace, Place};
use tokio::sync::Semaphore;

use super::cache::Frame;
use super::{Chunk, SnapshotDisk};
use crate::lru::LruCache;
use crate::monitor::Topic;

/// Frames that are being kept at once; who reads waits for room among them, so memory stays bounded.
const KEEPING: usize = 8;
/// Frames of which it is remembered that they were kept.
const REMEMBERED: u64 = 64 << 10;

/// Where the chunks of one disk are kept, by the place on the disk at which each begins. Calls block.
pub trait Spool: Send + Sync {
    /// Whether a chunk that begins there was put.
    fn has(&self, at: u64) -> bool;

    /// Fills `buffer` with what was put there.
    ///
    /// Errors: the file's.
    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Keeps the bytes of a chunk that begins there.
    ///
    /// Errors: the file's.
    fn put(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
}

/// A disk's spool, and what of it is under way.
pub(super) struct Spooled {
    spool: Arc<dyn Spool>,
    kept: Mutex<LruCache<FramePlace, ()>>,
    keeping: Arc<Semaphore>,
    is_full: AtomicBool,
}

impl Spooled {
    pub(super) fn new(spool: Arc<dyn Spool>) -> Self {
        let keeping = Arc::new(Semaphore::new(KEEPING));
        Self { spool, kept: Mutex::new(LruCache::new(REMEMBERED)), keeping, is_full: AtomicBool::new(false) }
    }

    /// Whether this frame is kept for the first time.
    fn is_new(&self, place: &FramePlace) -> bool {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !self.is_full.load(Ordering::Relaxed) && kept.get(place).is_none();
        if is_new {
            kept.put(*place, (), 1);
        }
        is_new
    }
}

impl SnapshotDisk {
    /// Those of some chunks that the spool has, each as a frame of its own; and the others.
    pub(super) async fn from_spool(
        self: &Arc<Self>,
        chunks: Vec<Chunk>,
    ) -> (Vec<(Chunk, Arc<Frame>)>, Vec<Chunk>) {
        let has = |spooled: &Spooled| chunks.iter().any(|chunk| spooled.spool.has(chunk.at));
        if !self.spooled.as_ref().is_some_and(has) {
            return (Vec::new(), chunks);
        }
        let (disk, asked) = (Arc::clone(self), chunks.clone());
        let read = self.frames.repository().host.compute(move || {
            let (mut found, mut others) = (Vec::new(), Vec::new());
            for chunk in asked {
                match disk.spooled_chunk(&chunk) {
                    Some(one) => found.push(one),
                    None => others.push(chunk),
                }
            }
            (found, others)
        });
        read.await.unwrap_or_else(|_| (Vec::new(), chunks))
    }

    fn spooled_chunk(&self, chunk: &Chunk) -> Option<(Chunk, Arc<Frame>)> {
        let spool = &self.spooled.as_ref()?.spool;
        let mut bytes = vec![0; to_usize(chunk.place.size_bytes)];
        if !spool.has(chunk.at) || spool.read(chunk.at, &mut bytes).is_err() {
            return None;
        }
        let chunk = Chunk { place: Place { offset_bytes: 0, ..chunk.place }, ..*chunk };
        let frame = Frame::new(bytes);
        frame.chunk(&self.id_key, &chunk.id, &chunk.place)?;
        Some((chunk, Arc::new(frame)))
    }

    /// Whether the spool has all of these.
    pub(super) fn is_spooled<'a>(&self, mut chunks: impl Iterator<Item = &'a Chunk>) -> bool {
        self.spooled.as_ref().is_some_and(|spooled| chunks.all(|chunk| spooled.spool.has(chunk.at)))
    }

    /// Keeps all of a frame that belongs to this disk, around the place `near` for which it was fetched. Goes on in the
    /// background; waits while too much is under way.
    pub(super) async fn keep(self: &Arc<Self>, place: FramePlace, frame: &Arc<Frame>, near: u64) {
        let Some(spooled) = self.spooled.as_ref().filter(|spooled| spooled.is_new(&place)) else { return };
        let Ok(turn) = Arc::clone(&spooled.keeping).acquire_owned().await else { return };
        let (disk, frame) = (Arc::clone(self), Arc::clone(frame));
        tokio::spawn(async move {
            // What cannot be found now is fetched again another time.
            let chunks = disk.chunks(disk.region(near)).await.unwrap_or_default();
            let host = disk.frames.repository().host.clone();
            let kept = host.compute(move || {
                let _turn = turn;
                disk.put(place, &frame, &chunks);
            });
            // What was not kept is fetched again.
            drop(kept.await);
        });
    }

    fn put(&self, place: FramePlace, frame: &Frame, chunks: &[Chunk]) {
        let Some(spooled) = &self.spooled else { return };
        let of_frame = chunks.iter().filter(|chunk| chunk.place.frame == place);
        for chunk in of_frame.filter(|chunk| !spooled.spool.has(chunk.at)) {
            let Some(bytes) = frame.chunk(&self.id_key, &chunk.id, &chunk.place) else { continue };
            let Err(error) = spooled.spool.put(chunk.at, bytes) else { continue };
            if !spooled.is_full.swap(true, Ordering::Relaxed) {
                let what = format!("{}: nothing more is kept in the spool: {error}", self.name);
                self.monitor.warn(Topic::Aside, what);
            }
            return;
        }
    }

    /// The region around a place: no frame reaches out of it.
    fn region(&self, at: u64) -> Range<u64> {
        let bytes = u64::from(self.map.geometry().region_bytes()).max(1);
        let start = at.checked_div(bytes).unwrap_or(0).saturating_mul(bytes);
        start..start.saturating_add(bytes).min(self.size_bytes())
    }
}
