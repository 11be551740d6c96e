//! How fast the store is here and now, and how fast the storage: some of a restore is done and thrown away, and some bytes are
//! written. Both are measured by the code that a restore runs: whatever else would be of another speed.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use sancerre_engine::Error;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::restore::{self as engine, RestoreNeed, RestoreOptions, SnapshotReader};
use sancerre_image::{DiskTarget, Left, RawTarget, TargetError};

use crate::command::Context;
use crate::exit::Failure;
use crate::plain;

/// What is written at once to measure a storage, and altogether.
const PIECE_BYTES: usize = 1 << 20;
const WRITTEN_BYTES_MAX: u64 = 1 << 30;
/// Pieces that are made ahead.
const PIECES_AHEAD: usize = 8;

/// Bytes a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speed {
    /// Fetched from the store, decrypted and decompressed.
    pub(super) fetched: f64,
    /// Written to the storage, durably; none where none was named.
    pub(super) written: Option<f64>,
}

impl Speed {
    /// How long a restore takes: what is fetched and what is written go on at once, and the slower one decides.
    pub(super) fn time(&self, need: &RestoreNeed) -> Duration {
        let (fetch, write) = self.times(need);
        Duration::try_from_secs_f64(fetch.max(write)).unwrap_or(Duration::MAX)
    }

    fn times(&self, need: &RestoreNeed) -> (f64, f64) {
        let seconds = |bytes: u64, rate: f64| bytes as f64 / rate.max(1.0);
        (
            seconds(need.fetch_bytes, self.fetched),
            self.written.map_or(0.0, |rate| seconds(need.data_bytes, rate)),
        )
    }

    /// What would have to be faster.
    pub(super) fn limit(&self, need: &RestoreNeed) -> &'static str {
        let (fetch, write) = self.times(need);
        match self.written {
            None => "the store, its line or this machine limits it; --storage measures the storage too",
            Some(_) if write > fetch => "the storage limits it",
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
    let fetched = fetched(reader, disk, patience, context).await?;
    let Some(storage) = storage else { return Ok(Speed { fetched, written: None }) };
    let token = u64::from_le_bytes(context.host.random());
    let probe = Probe(storage.join(format!("sancerre-rto-{token:016x}")));
    let written = tokio::task::spawn_blocking(move || {
        written(&probe.0, token, patience).map_err(|error| {
            Failure::failed(format!("cannot write to {}: {error}; check --storage", plain::path(&probe.0)))
        })
    });
    let written = written.await.map_err(|error| Failure::failed(error.to_string()))??;
    Ok(Speed { fetched, written: Some(written) })
}

/// Writes bytes that no storage can make smaller, as a restore does: it flushes on the way, and what is to be written is made
/// meanwhile.
fn written(path: &Path, seed: u64, patience: Duration) -> Result<f64, TargetError> {
    let target = RawTarget::create(path, WRITTEN_BYTES_MAX, false)?;
    let (pieces, made) = sync_channel(PIECES_AHEAD);
    // It ends when nobody takes its pieces any more.
    thread::spawn(move || noise(seed).try_for_each(|piece| pieces.send(piece)));
    let (started, mut bytes) = (Instant::now(), 0_u64);
    while started.elapsed() < patience && bytes < WRITTEN_BYTES_MAX {
        let Ok(piece) = made.recv() else { break };
        target.write_at(bytes, &piece)?;
        bytes = bytes.saturating_add(piece.len() as u64);
    }
    target.finish()?;
    Ok(bytes as f64 / started.elapsed().as_secs_f64().max(1e-3))
}

/// Pieces without an end.
fn noise(seed: u64) -> impl Iterator<Item = Vec<u8>> {
    let mut state = seed | 1;
    std::iter::repeat_with(move || {
        let mut piece = vec![0; PIECE_BYTES];
        for word in piece.chunks_exact_mut(8) {
            // xorshift
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        piece
    })
}

/// A monitor that interrupts after a while.
fn until(patience: Duration) -> Monitor {
    let monitor = Monitor::silent();
    let interrupted = monitor.clone();
    tokio::spawn(async move {
        tokio::time::sleep(patience).await;
        interrupted.interrupt();
    });
    monitor
}

/// Restores a disk into nothing, until it is whole or was measured long enough.
async fn fetched(
    reader: &SnapshotReader,
    disk: &str,
    patience: Duration,
    context: &Context,
) -> Result<f64, Failure> {
    let Some(member) = reader.member(disk) else {
        return Err(Failure::from(Error::bug("a disk that was there is not")));
    };
    let (monitor, started) = (until(patience), Instant::now());
    let settings = RestoreOptions::new(context.global.memory);
    match engine::restore(reader, member, Box::new(Nothing), &settings, &monitor).await {
        Err(failure) if !matches!(failure.error, Error::Interrupted) => return Err(failure.error.into()),
        _ => {}
    }
    let bytes = monitor.counters.stored_bytes.load(Relaxed);
    Ok(bytes as f64 / started.elapsed().as_secs_f64().max(1e-3))
}

/// Takes a disk, and keeps nothing.
struct Nothing;

impl DiskTarget for Nothing {
    fn write_at(&self, _: u64, _: &[u8]) -> Result<(), TargetError> {
        Ok(())
    }

    fn zero(&self, _: Range<u64>) -> Result<(), TargetError> {
        Ok(())
    }

    fn surplus_bytes(&self) -> u64 {
        0
    }

    fn path(&self) -> &Path {
        Path::new("/dev/null")
    }

    fn finish(self: Box<Self>) -> Result<(), TargetError> {
        Ok(())
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
