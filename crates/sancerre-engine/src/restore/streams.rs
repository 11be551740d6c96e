//! How many requests are in flight: as many as bring more bytes, found out by measuring.
//!
//! A restore cannot know the path to the store. One stream of a bucket gives some 85 MB/s after
//! 30 ms; a hundred may give a hundred times that, or fill a thin line and only wait for each other. So the number grows
//! while frames are waited for and a larger number brought more of them, goes back to what did as well when it did not,
//! and is left alone while this machine has all it can decode.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::host::monotonic;

/// Requests in flight at most.
pub(super) const STREAMS_MAX: usize = 200;
/// Requests in flight at first.
const STREAMS_FIRST: usize = 32;
/// Requests in flight at least: one answer is waited for while others are read.
const STREAMS_MIN: usize = 8;
/// Shortest time over which speed is measured.
const EPOCH_MIN: Duration = Duration::from_millis(100);
/// Of the bytes that a growth promises, the share that it must bring to be kept.
const PAYS: f64 = 0.3;
/// Times of measuring after a growth that did not pay, before another is tried.
const REST_EPOCHS: u32 = 10;
/// Of the frames that arrive, the shares that find a free processor when the machine is taken for the limit, and when
/// more frames would be welcome.
const FLOODED: f64 = 0.02;
const STARVING: f64 = 0.25;

/// Bytes that are not wanted but read to save a request, when nothing is known, and when the line is full.
const GAP_BYTES: u64 = 128 << 10;
const GAP_BYTES_FULL: u64 = 16 << 10;
/// The same when answers take long: what a stream of 85 MB/s could have carried meanwhile, within reason.
const STREAM_BYTES_PER_SECOND: f64 = 85e6;
const GAP_BYTES_UNSURE: u64 = 512 << 10;
const GAP_BYTES_MAX: u64 = 4 << 20;

/// What a restore waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Unknown,
    /// Answers: more requests bring more bytes.
    Latency,
    /// The line: more requests bring no more bytes.
    Line,
    /// Processors and disk of this machine.
    Machine,
}

/// Decides, by what arrives when. Times are since the start.
#[derive(Debug)]
struct Control {
    streams: usize,
    limit: Limit,
    epoch: Epoch,
    /// Number of streams and bytes a second before the last growth.
    before: Option<(usize, f64)>,
    rest_epochs: u32,
    /// From a request to its first frame, lately.
    latency: Duration,
}

/// What arrived since the last decision.
#[derive(Debug, Default)]
struct Epoch {
    since: Duration,
    bytes: u64,
    frames: usize,
    /// Of the frames, those that found a free processor.
    welcome: usize,
}

impl Control {
    fn new() -> Self {
        Self {
            streams: STREAMS_FIRST,
            limit: Limit::Unknown,
            epoch: Epoch::default(),
            before: None,
            rest_epochs: 0,
            latency: Duration::ZERO,
        }
    }

    /// A request had its first frame after this time.
    fn answered(&mut self, took: Duration) {
        self.latency = if self.latency.is_zero() { took } else { (self.latency * 7 + took) / 8 };
    }

    /// A frame arrived; `welcome` says that a processor waited for it.
    fn arrived(&mut self, now: Duration, bytes: u64, welcome: bool) {
        self.epoch.bytes = self.epoch.bytes.saturating_add(bytes);
        self.epoch.frames = self.epoch.frames.saturating_add(1);
        self.epoch.welcome = self.epoch.welcome.saturating_add(usize::from(welcome));
        let lasts = now.saturating_sub(self.epoch.since);
        // Streams that were added must have had time to deliver.
        if self.epoch.frames >= self.streams && lasts >= EPOCH_MIN.max(self.latency * 2) {
            let rate = self.epoch.bytes as f64 / lasts.as_secs_f64();
            let welcome = self.epoch.welcome as f64 / self.epoch.frames as f64;
            self.epoch = Epoch { since: now, ..Epoch::default() };
            self.decide(rate, welcome);
        }
    }

    fn decide(&mut self, rate: f64, welcome: f64) {
        if welcome < STARVING {
            self.limit = Limit::Machine;
            self.before = None;
            if welcome < FLOODED {
                self.streams = self.streams.saturating_sub(self.streams.div_ceil(16)).max(STREAMS_MIN);
            }
            return;
        }
        match self.before.take() {
            Some((streams, slower)) => {
                let promised = slower * (self.streams as f64 / streams as f64 - 1.0);
                if rate - slower < promised * PAYS {
                    self.limit = Limit::Line;
                    self.streams = streams;
                    self.rest_epochs = REST_EPOCHS;
                    return;
                }
                self.limit = Limit::Latency;
                self.grow(rate, 2.0);
            }
            None if self.rest_epochs > 0 => self.rest_epochs = self.rest_epochs.saturating_sub(1),
            None => self.grow(rate, if self.limit == Limit::Line { 1.5 } else { 2.0 }),
        }
    }

    fn grow(&mut self, rate: f64, factor: f64) {
        let grown = (self.streams as f64 * factor) as usize;
        let grown = grown.min(STREAMS_MAX);
        if grown > self.streams {
            self.before = Some((self.streams, rate));
            self.streams = grown;
        }
    }

    fn gap_bytes(&self) -> u64 {
        let meanwhile = (self.latency.as_secs_f64() * STREAM_BYTES_PER_SECOND) as u64;
        match self.limit {
            Limit::Unknown => meanwhile.clamp(GAP_BYTES, GAP_BYTES_UNSURE),
            Limit::Latency => meanwhile.clamp(GAP_BYTES, GAP_BYTES_MAX),
            Limit::Line => GAP_BYTES_FULL,
            Limit::Machine => GAP_BYTES,
        }
    }
}

/// The requests of one restore.
pub(super) struct Streams {
    began: Instant,
    permits: Semaphore,
    state: Mutex<Permits>,
}

struct Permits {
    control: Control,
    /// Permits that exist; more than there should be until some come back.
    permits: usize,
}

/// The right to have one request in flight.
pub(super) struct Turn<'a> {
    streams: &'a Streams,
    permit: Option<SemaphorePermit<'a>>,
}

impl Streams {
    pub(super) fn new() -> Self {
        let control = Control::new();
        let permits = control.streams;
        Self {
            began: monotonic(),
            permits: Semaphore::new(permits),
            state: Mutex::new(Permits { control, permits }),
        }
    }

    /// Waits for its turn: whoever came first goes first.
    pub(super) async fn enter(&self) -> Result<Turn<'_>> {
        let permit = self.permits.acquire().await.map_err(|_| Error::Worker)?;
        Ok(Turn { streams: self, permit: Some(permit) })
    }

    /// A request had its first frame after this time.
    pub(super) fn answered(&self, took: Duration) {
        self.state().control.answered(took);
    }

    /// A frame arrived; `welcome` says that a processor waited for it.
    pub(super) fn arrived(&self, bytes: u64, welcome: bool) {
        let mut state = self.state();
        state.control.arrived(monotonic().saturating_duration_since(self.began), bytes, welcome);
        let missing = state.control.streams.saturating_sub(state.permits);
        state.permits = state.permits.saturating_add(missing);
        self.permits.add_permits(missing);
    }

    /// How many unwanted bytes are worth a request that is saved.
    pub(super) fn gap_bytes(&self) -> u64 {
        self.state().control.gap_bytes()
    }

    fn state(&self) -> MutexGuard<'_, Permits> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.streams.state();
        if state.permits > state.control.streams {
            state.permits = state.permits.saturating_sub(1);
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
        }
    }
}

#[cfg(test)]
mod tests;
