//! Fetching: ranges of packs within the memory budget, and what to make of answers that are not the wanted bytes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use sancerre_format::FormatError;
use sancerre_format::bytes::to_usize;
use sancerre_format::id::PackName;
use sancerre_format::names::{self, Folder};
use sancerre_format::seal::{UNIT_BYTES_MAX, sealed_bytes};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, ErrorKind, Result};
use crate::frames::Frames;
use crate::monitor::{Monitor, add};
use crate::repository::catalogue::Catalogue;
use crate::restore::plan::{PackRange, WantedFrame};
use crate::restore::{RestoreOptions, SnapshotReader};

/// Requests in flight at most: enough for 5 GB/s at 30 ms and 85 MB/s a stream.
pub(super) const REQUESTS_IN_FLIGHT: usize = 64;
/// Most bytes of a request that joins frames: a third of its time is latency at 30 ms and 85 MB/s, and the memory
/// it holds meanwhile would not move more bytes in larger requests.
const RANGE_BYTES_MAX: u64 = 4 << 20;
/// The budget is counted in these, because permits are 32-bit numbers.
const UNIT_BYTES: u64 = 1 << 10;

/// Frames that could not be had, and why.
pub(super) struct Failed {
    pub(super) frames: Vec<WantedFrame>,
    pub(super) error: Error,
}

/// A range and its bytes.
pub(super) struct Fetched {
    /// What knows its pack.
    pub(super) frames: Arc<Frames>,
    pub(super) range: PackRange,
    pub(super) bytes: Bytes,
}

/// Reads ranges of packs for one restore.
pub(super) struct Fetcher<'a> {
    pub(super) reader: &'a SnapshotReader,
    pub(super) monitor: &'a Monitor,
    memory: Arc<Semaphore>,
    memory_units: u32,
    jobs: Arc<Semaphore>,
    jobs_max: u32,
    range_bytes: u64,
    /// Sessions that the manifest does not name, but a copy of a map node does.
    others: Mutex<HashMap<u64, Arc<Frames>>>,
    fetched_bytes: AtomicU64,
    requests: AtomicU64,
}

impl<'a> Fetcher<'a> {
    /// Divides the memory: what decoding needs at once is set aside, the rest is for bytes that were fetched.
    pub(super) fn new(reader: &'a SnapshotReader, options: &RestoreOptions, monitor: &'a Monitor) -> Self {
        let repository = reader.frames().repository();
        // One more than processors: while one job waits for the disk, another decodes.
        let jobs_max = u32::try_from(repository.host.pool.width().saturating_add(1)).unwrap_or(u32::MAX);
        let frame_bytes = u64::from(repository.layout.frame_bytes);
        // A job holds one frame decrypted and decoded.
        let decoding = u64::from(jobs_max).saturating_mul(frame_bytes).saturating_mul(2);
        let data = options.memory_bytes.saturating_sub(decoding).max(frame_bytes.saturating_mul(2));
        let in_flight = u64::try_from(REQUESTS_IN_FLIGHT).unwrap_or(u64::MAX);
        let memory_units = units(data).min(MEMORY_UNITS_MAX);
        Self {
            reader,
            monitor,
            memory: Arc::new(Semaphore::new(to_usize(memory_units))),
            memory_units,
            jobs: Arc::new(Semaphore::new(to_usize(jobs_max))),
            jobs_max,
            range_bytes: (data / in_flight).min(RANGE_BYTES_MAX).max(frame_bytes),
            others: Mutex::default(),
            fetched_bytes: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        }
    }

    /// The frames.
    pub(super) fn frames(&self) -> &Arc<Frames> {
        self.reader.frames()
    }

    /// Most bytes of a joined request.
    pub(super) fn range_bytes(&self) -> u64 {
        self.range_bytes
    }

    /// What the requests so far read, and how many they were.
    pub(super) fn tally(&self) -> (u64, u64) {
        (self.fetched_bytes.load(Ordering::Relaxed), self.requests.load(Ordering::Relaxed))
    }

    /// Takes memory from the budget, all of it when more is asked: whoever came first gets it first.
    pub(super) async fn reserve(&self, bytes: u64) -> Result<OwnedSemaphorePermit> {
        let wanted = units(bytes).min(self.memory_units);
        Arc::clone(&self.memory).acquire_many_owned(wanted).await.map_err(|_| Error::Worker)
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
    pub(super) async fn settle(&self) {
        // An error would mean that the semaphore was closed, which nobody does.
        drop(self.jobs.acquire_many(self.jobs_max).await);
    }

    /// Reads a range; frames that cannot be had are returned with the reason.
    ///
    /// Errors: what is wrong with the store, the keys or the request rather than with the packs.
    pub(super) async fn fetch(&self, range: PackRange) -> Result<(Vec<Fetched>, Vec<Failed>)> {
        let error = match self.read(&range).await {
            Ok((frames, bytes)) => return Ok((vec![Fetched { frames, range, bytes }], Vec::new())),
            Err(error) => error,
        };
        match error.kind() {
            // One bad frame must not cost its neighbours.
            ErrorKind::Damaged if range.frames.len() > 1 => self.fetch_frames(range).await,
            ErrorKind::Damaged | ErrorKind::Missing => {
                Ok((Vec::new(), vec![Failed { frames: range.frames, error }]))
            }
            _ => Err(error),
        }
    }

    async fn fetch_frames(&self, range: PackRange) -> Result<(Vec<Fetched>, Vec<Failed>)> {
        let (mut fetched, mut failed) = (Vec::new(), Vec::new());
        for range in range.split() {
            match self.read(&range).await {
                Ok((frames, bytes)) => fetched.push(Fetched { frames, range, bytes }),
                Err(error) if error.is_damage() => failed.push(Failed { frames: range.frames, error }),
                Err(error) => return Err(error),
            }
        }
        Ok((fetched, failed))
    }

    /// Frames with the pack lists of the pack's session.
    async fn frames_of(&self, pack: PackName) -> Result<Arc<Frames>> {
        let frames = self.frames();
        if frames.catalogue().pack(pack).is_some() {
            return Ok(Arc::clone(frames));
        }
        let mut others = self.others.lock().await;
        if let Some(frames) = others.get(&pack.session) {
            return Ok(Arc::clone(frames));
        }
        let (repository, log) = (frames.repository(), frames.log());
        let (catalogue, _) = Catalogue::load(repository, log, [pack.session]).await?;
        let frames = Arc::new(Frames::new(repository.clone(), Arc::clone(log), Arc::new(catalogue)));
        others.insert(pack.session, Arc::clone(&frames));
        Ok(frames)
    }

    /// Reads a range of a pack.
    ///
    /// Errors: [`Error::is_damage`] when the pack is gone, or not listed, or cannot hold the range.
    pub(super) async fn read(&self, range: &PackRange) -> Result<(Arc<Frames>, Bytes)> {
        self.monitor.check()?;
        let frames = self.frames_of(range.pack).await?;
        let key = frames.catalogue().key(frames.repository(), range.pack)?;
        let pack_bytes = frames.catalogue().pack(range.pack).map_or(0, |pack| pack.size_bytes);
        check(range, &key, pack_bytes)?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        match frames.repository().store.need_range(&key, range.bytes.clone()).await {
            Ok(bytes) => {
                self.fetched_bytes.fetch_add(range.size_bytes(), Ordering::Relaxed);
                add(&self.monitor.counters.stored_bytes, range.size_bytes());
                Ok((frames, bytes))
            }
            Err(error) => Err(self.diagnose(range.pack, &key, pack_bytes, error).await),
        }
    }

    /// A store says little about why it has no such range: looks whether the pack is there and whole.
    async fn diagnose(&self, pack: PackName, key: &str, pack_bytes: u64, error: Error) -> Error {
        if !matches!(error, Error::Store { .. }) {
            return error;
        }
        let repository = self.frames().repository();
        let folder = names::session_folder(&repository.keys.zone, Folder::Packs, pack.session);
        let Ok(found) = repository.store.list(&folder).await else { return error };
        match found.iter().find(|listed| listed.key == key) {
            None => Error::Missing { key: key.to_owned() },
            Some(listed) if listed.size_bytes != pack_bytes => {
                let detail = format!("it has {} bytes instead of {pack_bytes}", listed.size_bytes);
                Error::object(key)(FormatError::Corrupt { what: "pack", detail })
            }
            Some(_) => error,
        }
    }
}

/// 2 TiB: no machine has more to give, and tokio counts no further.
const MEMORY_UNITS_MAX: u32 = u32::MAX >> 1;

/// A map may say anything: only what can be there is asked for.
fn check(range: &PackRange, key: &str, pack_bytes: u64) -> Result<()> {
    let largest = sealed_bytes(UNIT_BYTES_MAX);
    let sane = range.frames.iter().all(|frame| to_usize(frame.place.sealed_bytes) <= largest);
    if sane && range.bytes.end <= pack_bytes {
        return Ok(());
    }
    let detail = format!("the map names a frame at {:?}, which cannot be in it", range.bytes);
    Err(Error::object(key)(FormatError::Corrupt { what: "pack", detail }))
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}
