//! Fetching: the memory, the processors and the requests of one restore, and which packs are where.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use sancerre_format::bytes::{to_u64, to_usize};
use sancerre_format::id::{FramePlace, PackName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};
use crate::frames::{Frames, PackedFrame, check_place};
use crate::monitor::{Monitor, add};
use crate::repository::catalogue::Catalogue;
use crate::restore::plan::{Merge, Piece, WantedFrame};
use crate::restore::streams::Streams;
use crate::restore::{RestoreOptions, SnapshotReader};

/// A window is read by at least so many requests, if it is large enough: few large ones would leave processors idle.
const REQUESTS_PER_WINDOW: u64 = 24;
/// The budget is counted in these, because permits are 32-bit numbers.
const UNIT_BYTES: u64 = 1 << 10;

/// Frames that could not be had, and why.
pub(super) struct Failed {
    pub(super) frames: Vec<WantedFrame>,
    pub(super) error: Error,
}

impl Failed {
    /// What was wanted of these frames.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (&WantedFrame, &Piece)> {
        self.frames.iter().flat_map(|frame| frame.pieces.iter().map(move |piece| (frame, piece)))
    }
}

/// A sealed frame, with the memory that it takes.
pub(super) struct Fetched {
    /// What knows its pack.
    pub(super) frames: Arc<Frames>,
    pub(super) frame: WantedFrame,
    pub(super) sealed: Bytes,
    pub(super) _memory: OwnedSemaphorePermit,
}

/// A pack, found.
pub(super) struct Located {
    pub(super) frames: Arc<Frames>,
    pub(super) key: String,
    pub(super) size_bytes: u64,
}

/// Reads frames for one restore.
pub(super) struct Fetcher<'a> {
    pub(super) reader: &'a SnapshotReader,
    pub(super) monitor: &'a Monitor,
    pub(super) streams: Streams,
    memory: Arc<Semaphore>,
    memory_units: u32,
    jobs: Arc<Semaphore>,
    jobs_max: u32,
    /// Sessions that the manifest does not name, but a copy of a map node does.
    others: Mutex<HashMap<u64, Arc<Frames>>>,
    fetched_bytes: AtomicU64,
    requests: AtomicU64,
    /// Problems that the user was told of.
    told: Mutex<BTreeSet<String>>,
}

impl<'a> Fetcher<'a> {
    /// Divides the memory: what decoding needs at once is set aside, the rest is for frames that arrive.
    pub(super) fn new(reader: &'a SnapshotReader, options: &RestoreOptions, monitor: &'a Monitor) -> Self {
        let repository = reader.frames().repository();
        // One more than processors: while one job waits for the disk, another decodes.
        let jobs_max = u32::try_from(repository.host.pool.width().saturating_add(1)).unwrap_or(u32::MAX);
        let frame_bytes = u64::from(repository.layout.frame_bytes);
        // A job holds one frame decrypted and decoded.
        let decoding = u64::from(jobs_max).saturating_mul(frame_bytes).saturating_mul(2);
        let data = options.memory_bytes.saturating_sub(decoding).max(frame_bytes.saturating_mul(2));
        let memory_units = units(data).min(MEMORY_UNITS_MAX);
        Self {
            reader,
            monitor,
            streams: Streams::new(),
            memory: Arc::new(Semaphore::new(to_usize(memory_units))),
            memory_units,
            jobs: Arc::new(Semaphore::new(to_usize(jobs_max))),
            jobs_max,
            others: Mutex::default(),
            fetched_bytes: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            told: Mutex::default(),
        }
    }

    /// Those of these problems that were not told before.
    pub(super) fn not_told(&self, problems: impl Iterator<Item = String>) -> Vec<String> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = Vec::new();
        for problem in problems.filter(|problem| !told.contains(problem)).collect::<BTreeSet<_>>() {
            fresh.push(problem.clone());
            told.insert(problem);
        }
        fresh
    }

    /// The frames.
    pub(super) fn frames(&self) -> &Arc<Frames> {
        self.reader.frames()
    }

    /// How the pieces of a window are to be joined to requests, as far as it is known by now.
    pub(super) fn merge(&self, wanted: &[(PackedFrame, Piece)]) -> Merge {
        let layout = self.frames().repository().layout;
        let wanted_bytes: u64 = wanted.iter().map(|(_, piece)| u64::from(piece.size_bytes)).sum();
        let range_bytes = (wanted_bytes / REQUESTS_PER_WINDOW).min(u64::from(layout.pack_bytes));
        Merge {
            gap_bytes: self.streams.gap_bytes(),
            range_bytes: range_bytes.max(u64::from(layout.frame_bytes).saturating_mul(2)),
        }
    }

    /// What the requests so far read, and how many they were.
    pub(super) fn tally(&self) -> (u64, u64) {
        (self.fetched_bytes.load(Ordering::Relaxed), self.requests.load(Ordering::Relaxed))
    }

    pub(super) fn count_bytes(&self, bytes: u64) {
        self.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
        add(&self.monitor.counters.stored_bytes, bytes);
    }

    pub(super) fn count_requests(&self, requests: u64) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
    }

    /// Takes memory from the budget, all of it when more is asked: whoever came first gets it first.
    pub(super) async fn reserve(&self, bytes: u64) -> Result<OwnedSemaphorePermit> {
        let wanted = units(bytes).min(self.memory_units);
        Arc::clone(&self.memory).acquire_many_owned(wanted).await.map_err(|_| Error::Worker)
    }

    /// How many jobs are worth having ready: those that run, and the next one.
    pub(super) fn jobs_ready(&self) -> usize {
        to_usize(self.jobs_max).saturating_add(1)
    }

    /// Whether a processor has nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.jobs.available_permits() > 0
    }

    /// Runs `job` on the pool as soon as a processor is free.
    pub(super) async fn compute<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let slot = Arc::clone(&self.jobs).acquire_owned().await.map_err(|_| Error::Worker)?;
        let run = move || {
            let result = job();
            // Held by the job, not by who waits for it: a job that nobody waits for still runs.
            drop(slot);
            result
        };
        self.frames().repository().host.compute(run).await
    }

    /// Waits until no job runs any more, so that nothing is written behind the caller's back.
    pub(super) async fn join_work(&self) {
        // An error would mean that the semaphore was closed, which nobody does.
        drop(self.jobs.acquire_many(self.jobs_max).await);
    }

    /// Finds a pack.
    ///
    /// Errors: [`Error::is_damage`] when no list names it.
    pub(super) async fn locate(&self, pack: PackName) -> Result<Located> {
        let frames = self.frames_of(pack).await?;
        let key = frames.catalogue().key(frames.repository(), pack)?;
        let size_bytes = frames.catalogue().pack(pack).map_or(0, |pack| pack.size_bytes);
        Ok(Located { frames, key, size_bytes })
    }

    /// Frames with the pack lists of the pack's session.
    async fn frames_of(&self, pack: PackName) -> Result<Arc<Frames>> {
        let frames = self.frames();
        if frames.catalogue().pack(pack).is_some() {
            return Ok(Arc::clone(frames));
        }
        let others = || self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frames) = others().get(&pack.session) {
            return Ok(Arc::clone(frames));
        }
        // Nobody waits for another who reads, who may be a future that nobody polls just now: two may read the same.
        let (repository, log) = (frames.repository(), frames.log());
        let (catalogue, _) = Catalogue::load(repository, &log, [pack.session]).await?;
        let frames = Arc::new(Frames::new(repository, &log, &catalogue));
        Ok(Arc::clone(others().entry(pack.session).or_insert(frames)))
    }

    /// Reads one frame from where it lies, outside of the budget.
    ///
    /// Errors: [`Error::is_damage`] when the pack is gone, or not listed, or cannot hold the frame.
    pub(super) async fn read(&self, place: &FramePlace) -> Result<(Arc<Frames>, Bytes)> {
        let located = self.frames().locate(place).await?;
        self.read_at(located).await
    }

    /// The same from a place in a pack.
    pub(super) async fn read_at(
        &self,
        PackedFrame { pack, place }: PackedFrame,
    ) -> Result<(Arc<Frames>, Bytes)> {
        self.monitor.check()?;
        let located = self.locate(pack).await?;
        located.check(&place)?;
        self.count_requests(1);
        let start = u64::from(place.offset_bytes);
        let end = start.saturating_add(u64::from(place.sealed_bytes));
        match located.frames.repository().store.need_range(&located.key, start..end).await {
            Ok(bytes) => {
                self.count_bytes(to_u64(bytes.len()));
                Ok((located.frames, bytes))
            }
            Err(error) => Err(self.diagnose(pack, &located, error.into()).await),
        }
    }

    /// A store says little about why it has no such range: looks whether the pack is there and whole.
    pub(super) async fn diagnose(&self, pack: PackName, located: &Located, error: Error) -> Error {
        self.frames().diagnose(pack, &located.key, located.size_bytes, error).await
    }
}

impl Located {
    /// A map may say anything: only what can be there is asked for.
    pub(super) fn check(&self, place: &FramePlace) -> Result<()> {
        check_place(&self.key, self.size_bytes, place)
    }
}

/// 2 TiB: no machine has more to give, and tokio counts no further.
const MEMORY_UNITS_MAX: u32 = u32::MAX >> 1;

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}
