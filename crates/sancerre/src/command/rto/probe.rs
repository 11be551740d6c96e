//! How fast a restore is here and now: some of one is done, and thrown away.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use sancerre_engine::Error;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::restore::{self as engine, RestoreNeed, RestoreOptions, SnapshotReader};
use sancerre_format::outcome::Member;
use sancerre_image::RawTarget;

use crate::command::Context;
use crate::exit::Failure;
use crate::plain;

/// Two speeds that differ by less are the same.
const ALIKE: f64 = 1.25;

/// Bytes a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speed {
    /// Fetched from the store, and opened.
    pub(super) fetched: f64,
    /// Of data, where it goes in the end.
    pub(super) data: f64,
    /// The same with nothing written; none where it was not measured apart.
    unwritten: Option<f64>,
}

impl Speed {
    /// How long a restore takes: what is fetched and what is written go on at once, and the slower one decides.
    pub(super) fn time(&self, need: &RestoreNeed) -> Duration {
        let seconds = |bytes: u64, rate: f64| bytes as f64 / rate.max(1.0);
        let longest = seconds(need.fetch_bytes, self.fetched).max(seconds(need.data_bytes, self.data));
        Duration::try_from_secs_f64(longest).unwrap_or(Duration::MAX)
    }

    /// What would have to be faster.
    pub(super) fn limit(&self) -> &'static str {
        match self.unwritten {
            None => {
                "the store, its line or this machine's processors limit it; --storage measures the storage too"
            }
            Some(unwritten) if unwritten > self.data * ALIKE => "the storage limits it",
            Some(_) => "the store, its line or this machine's processors limit it",
        }
    }
}

/// Measures for `patience` at most, or until the disk is whole.
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
    let Some(storage) = storage else {
        let Measured { fetched, data } = into_nothing(reader, member, patience, context).await?;
        return Ok(Speed { fetched, data, unwritten: None });
    };
    let unwritten = into_nothing(reader, member, patience / 2, context).await?;
    let Measured { fetched, data } = into_file(reader, member, storage, patience / 2, context).await?;
    Ok(Speed { fetched, data, unwritten: Some(unwritten.data) })
}

/// Bytes a second.
struct Measured {
    fetched: f64,
    data: f64,
}

impl Measured {
    fn of(monitor: &Monitor, took: Duration) -> Self {
        let rate = |counter: &AtomicU64| counter.load(Relaxed) as f64 / took.as_secs_f64().max(1e-3);
        let counters = &monitor.counters;
        Self { fetched: rate(&counters.stored_bytes), data: rate(&counters.done_bytes) }
    }
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

async fn into_nothing(
    reader: &SnapshotReader,
    member: &Member,
    patience: Duration,
    context: &Context,
) -> Result<Measured, Failure> {
    let (monitor, started) = (until(patience), Instant::now());
    let settings = RestoreOptions::new(context.global.memory);
    let mut nothing = Nothing { until: started.checked_add(patience), is_over: false };
    let ended = engine::dump(reader, member, &mut nothing, &settings, &monitor).await;
    match ended {
        Err(Error::Interrupted) | Ok(_) => {}
        Err(_) if nothing.is_over => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Measured::of(&monitor, started.elapsed()))
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
        for ending in ["", ".sancerre-partial"] {
            let mut path = self.0.as_os_str().to_owned();
            path.push(ending);
            // One of them is not there.
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn into_file(
    reader: &SnapshotReader,
    member: &Member,
    storage: &Path,
    patience: Duration,
    context: &Context,
) -> Result<Measured, Failure> {
    if !storage.is_dir() {
        return Err(Failure::usage(format!("{} is no directory; check --storage", plain::path(storage))));
    }
    let token = u64::from_le_bytes(context.host.random());
    let probe = Probe(storage.join(format!("sancerre-rto-{token:016x}")));
    let target = Box::new(RawTarget::create(&probe.0, member.size_bytes, false)?);
    let (monitor, started) = (until(patience), Instant::now());
    let settings = RestoreOptions::new(context.global.memory);
    match engine::restore(reader, member, target, &settings, &monitor).await {
        Err(failure) if !matches!(failure.error, Error::Interrupted) => Err(failure.error.into()),
        _ => Ok(Measured::of(&monitor, started.elapsed())),
    }
}
