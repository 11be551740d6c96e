//! How fast the store is here and now, and how fast the storage: some of a restore is done and thrown away, and some bytes are
//! written.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use sancerre_engine::Error;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::restore::{self as engine, RestoreNeed, RestoreOptions, SnapshotReader};

use crate::command::Context;
use crate::exit::Failure;
use crate::plain;

/// What is written at once to measure a storage, and altogether.
const PIECE_BYTES: usize = 1 << 20;
const WRITTEN_BYTES_MAX: u64 = 1 << 30;

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
        let rate = written(&probe.0, token, patience);
        rate.map_err(|error| {
            Failure::failed(format!("cannot write to {}: {error}; check --storage", plain::path(&probe.0)))
        })
    });
    let written = written.await.map_err(|error| Failure::failed(error.to_string()))??;
    Ok(Speed { fetched, written: Some(written) })
}

/// Writes bytes that no storage can make smaller.
fn written(path: &Path, seed: u64, patience: Duration) -> io::Result<f64> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let (started, mut state, mut bytes) = (Instant::now(), seed | 1, 0_u64);
    let mut piece = vec![0; PIECE_BYTES];
    while started.elapsed() < patience && bytes < WRITTEN_BYTES_MAX {
        for word in piece.chunks_exact_mut(8) {
            // xorshift
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&piece)?;
        bytes = bytes.saturating_add(piece.len() as u64);
    }
    file.sync_all()?;
    Ok(bytes as f64 / started.elapsed().as_secs_f64().max(1e-3))
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
    let mut nothing = Nothing { until: started.checked_add(patience), is_over: false };
    match engine::dump(reader, member, &mut nothing, &settings, &monitor).await {
        Err(Error::Interrupted) | Ok(_) => {}
        Err(_) if nothing.is_over => {}
        Err(error) => return Err(error.into()),
    }
    let bytes = monitor.counters.stored_bytes.load(Relaxed);
    Ok(bytes as f64 / started.elapsed().as_secs_f64().max(1e-3))
}

/// Takes bytes until a moment.
struct Nothing {
    until: Option<Instant>,
    is_over: bool,
}

impl Write for Nothing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.is_over = self.until.is_some_and(|until| Instant::now() >= until);
        if self.is_over { Err(io::Error::other("enough was measured")) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that goes when it was measured.
struct Probe(PathBuf);

impl Drop for Probe {
    fn drop(&mut self) {
        // It may not be there.
        let _ = std::fs::remove_file(&self.0);
    }
}
