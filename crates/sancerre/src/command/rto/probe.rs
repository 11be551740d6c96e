//! How fast the store is here and now, and how fast the storage: some of a disk is restored into nothing, and again into the
//! storage. Both are done by the code that a restore runs: whatever else would be of another speed.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use sancerre_engine::Error;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::restore::{self as engine, RestoreNeed, RestoreOptions, SnapshotReader};
use sancerre_format::outcome::Member;
use sancerre_image::{DiskTarget, Left, RawTarget, TargetError};

use crate::command::Context;
use crate::exit::Failure;

/// Fetched, or written, at most: the store may take money for it, and others need the storage too.
const BYTES_MAX: u64 = 4 << 30;
/// Between two looks how much that is.
const LOOK: Duration = Duration::from_millis(20);
/// A storage that leaves more than this of the store's speed does not limit it: so much differs from one run to the next.
const SAME: f64 = 0.9;

/// Bytes a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speed {
    /// Fetched from the store, decrypted and decompressed.
    pub(super) fetched: f64,
    /// The same while it was written to the storage, and what was written; none where no storage was named.
    stored: Option<Rates>,
}

/// Bytes a second of one restore.
#[derive(Debug, Clone, Copy)]
struct Rates {
    fetched: f64,
    written: f64,
}

impl Speed {
    /// Written to the storage.
    pub(super) fn written(&self) -> Option<f64> {
        self.stored.map(|rates| rates.written)
    }

    /// How long it takes to fetch and write so much.
    pub(super) fn time(&self, need: &RestoreNeed) -> Duration {
        let seconds = |bytes: u64, rate: f64| bytes as f64 / rate.max(1.0);
        let fetch = seconds(need.fetch_bytes, self.fetched);
        let time = match self.stored {
            None => fetch,
            Some(rates) if self.is_storage_slower(rates) => {
                fetch.max(seconds(need.data_bytes, rates.written))
            }
            Some(rates) => fetch.max(seconds(need.fetch_bytes, rates.fetched)),
        };
        Duration::try_from_secs_f64(time).unwrap_or(Duration::MAX)
    }

    fn is_storage_slower(&self, rates: Rates) -> bool {
        rates.fetched < self.fetched * SAME
    }

    /// What would have to be faster.
    pub(super) fn limit(&self) -> &'static str {
        match self.stored {
            None => "the store, its line or this machine limits it; --storage measures the storage too",
            Some(rates) if self.is_storage_slower(rates) => "the storage, or this machine, limits it",
            Some(_) => "the store, its line or this machine limits it",
        }
    }
}

/// Measures each for `patience` at most.
pub(super) async fn speed(
    reader: &SnapshotReader,
    disk: &str,
    storage: Option<&Path>,
    patience: Duration,
    context: &Context,
) -> Result<Speed, Failure> {
    let Some(member) = reader.member(disk) else {
        return Err(Failure::from(Error::bug("a disk that was there is not")));
    };
    let fetched = restored(reader, member, None, patience, context).await?.fetched;
    let Some(storage) = storage else { return Ok(Speed { fetched, stored: None }) };
    let token = u64::from_le_bytes(context.host.random());
    let probe = Probe(storage.join(format!("sancerre-rto-{token:016x}")));
    let file = RawTarget::create(&probe.0, member.size_bytes, false)?;
    let stored = restored(reader, member, Some(file), patience, context).await?;
    Ok(Speed { fetched, stored: Some(stored) })
}

/// Restores a disk, until it is whole or was measured long enough.
async fn restored(
    reader: &SnapshotReader,
    member: &Member,
    file: Option<RawTarget>,
    patience: Duration,
    context: &Context,
) -> Result<Rates, Failure> {
    let (written, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let monitor = until(patience);
    let target = Box::new(Measured { file, written_bytes: Arc::clone(&written) });
    let settings = RestoreOptions::new(context.global.memory);
    match engine::restore(reader, member, target, &settings, &monitor).await {
        Err(failure) if !matches!(failure.error, Error::Interrupted) => return Err(failure.error.into()),
        _ => {}
    }
    let seconds = started.elapsed().as_secs_f64().max(1e-3);
    let rate = |bytes: &AtomicU64| bytes.load(Relaxed) as f64 / seconds;
    Ok(Rates { fetched: rate(&monitor.counters.stored_bytes), written: rate(&written) })
}

/// A monitor that interrupts after a while, or so many bytes.
fn until(patience: Duration) -> Monitor {
    let monitor = Monitor::silent();
    let (interrupted, started) = (monitor.clone(), Instant::now());
    tokio::spawn(async move {
        while started.elapsed() < patience && interrupted.counters.stored_bytes.load(Relaxed) < BYTES_MAX {
            tokio::time::sleep(LOOK).await;
        }
        interrupted.interrupt();
    });
    monitor
}

/// A file, or nothing, that takes a disk.
struct Measured {
    file: Option<RawTarget>,
    written_bytes: Arc<AtomicU64>,
}

impl DiskTarget for Measured {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        self.file.as_ref().map_or(Ok(()), |file| file.write_at(offset, bytes))?;
        self.written_bytes.fetch_add(bytes.len() as u64, Relaxed);
        Ok(())
    }

    fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        self.file.as_ref().map_or(Ok(()), |file| file.zero(range))
    }

    fn surplus_bytes(&self) -> u64 {
        0
    }

    fn path(&self) -> &Path {
        self.file.as_ref().map_or(Path::new("/dev/null"), RawTarget::path)
    }

    fn finish(self: Box<Self>) -> Result<(), TargetError> {
        self.file.map_or(Ok(()), RawTarget::finish)
    }

    fn give_up(self: Box<Self>, _: bool) -> Left {
        Left::Nothing
    }
}

/// A file that goes when it was measured.
struct Probe(PathBuf);

impl Drop for Probe {
    fn drop(&mut self) {
        // One of the two is there, if any.
        let mut partial = self.0.clone().into_os_string();
        partial.push(".sancerre-partial");
        for path in [self.0.clone(), partial.into()] {
            let _ = std::fs::remove_file(path);
        }
    }
}
