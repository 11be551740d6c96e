//! Progress of a long command: a line on a terminal, now and then a line elsewhere, numbers for JSON.

mod board;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use sancerre_engine::monitor::{Counters, Monitor};
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;

use crate::output::Output;
use crate::units::{duration, seconds, size};
pub(crate) use board::Board;

/// Between two drawings on a terminal.
const REDRAW: Duration = Duration::from_millis(200);
/// Between two lines in a log.
const LOG: Duration = Duration::from_secs(10);
/// Width of the bar.
const BAR: usize = 16;
/// Columns and rows of a terminal that does not say how many it has.
const COLUMNS: usize = 80;
const ROWS: usize = 24;
/// Weight of the newest interval in the rate that time left is reckoned with.
const SMOOTHING: f64 = 0.1;

/// Which bytes a command counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Backup,
    Restore,
    Check,
    Collect,
    /// Of the objects whose locks are asked for or extended.
    Lock,
    /// Of entries and outcomes.
    Log,
    /// Of the ends of packs.
    Stats,
    /// Of disks whose guest runs already.
    Hydrate,
}

/// Shows progress until it is dropped.
pub(crate) struct Progress {
    task: Option<JoinHandle<()>>,
    output: Arc<Output>,
}

impl Progress {
    /// Starts to watch `monitor`; nothing with `--quiet`.
    pub(crate) fn start(work: Work, monitor: &Monitor, output: &Arc<Output>) -> Self {
        let task = output.progress().map(|redraws| {
            let (counters, output) = (monitor.counters.clone(), output.clone());
            tokio::spawn(async move { show(work, &counters, &output, redraws).await })
        });
        Self { task, output: output.clone() }
    }

    /// Starts to watch several machines; nothing with `--quiet`.
    pub(crate) fn of_machines(board: &Arc<Board>, output: &Arc<Output>) -> Self {
        let task = output.progress().map(|redraws| {
            let (board, output) = (board.clone(), output.clone());
            tokio::spawn(async move { board.show(&output, redraws).await })
        });
        Self { task, output: output.clone() }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
            self.output.clear();
        }
    }
}

async fn show(work: Work, counters: &Counters, output: &Output, redraws: bool) {
    let period = if redraws { REDRAW } else { LOG };
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    let started = Instant::now();
    let mut sample = Sample::default();
    loop {
        ticks.tick().await;
        sample = sample.next(Counted::of(counters), started.elapsed());
        match (redraws, output.is_json()) {
            (true, _) => output.redraw(&[drawn(work, &sample, columns())]),
            (false, true) => output.status(status(&sample)),
            (false, false) => output.message(&line(work, &sample)),
        }
    }
}

/// The counters at one moment, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Counted {
    total: u64,
    done: u64,
    data: u64,
    new: u64,
    stored: u64,
}

impl Counted {
    fn of(counters: &Counters) -> Self {
        Self {
            total: counters.total_bytes.load(Relaxed),
            done: counters.done_bytes.load(Relaxed),
            data: counters.data_bytes.load(Relaxed),
            new: counters.new_bytes.load(Relaxed),
            stored: counters.stored_bytes.load(Relaxed),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            total: self.total.saturating_add(other.total),
            done: self.done.saturating_add(other.done),
            data: self.data.saturating_add(other.data),
            new: self.new.saturating_add(other.new),
            stored: self.stored.saturating_add(other.stored),
        }
    }

    /// None until the total is known.
    fn share(&self) -> Option<f64> {
        (self.total > 0).then(|| (self.done as f64 / self.total as f64).min(1.0))
    }
}

/// Counters, when they were read, and how fast they grow.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    counted: Counted,
    elapsed: Duration,
    bytes_per_second: f64,
}

impl Sample {
    fn next(&self, counted: Counted, elapsed: Duration) -> Self {
        let interval = elapsed.saturating_sub(self.elapsed).as_secs_f64().max(1e-3);
        let newest = counted.done.saturating_sub(self.counted.done) as f64 / interval;
        let is_first = self.elapsed.is_zero();
        let bytes_per_second = match is_first {
            true => newest,
            false => self.bytes_per_second + SMOOTHING * (newest - self.bytes_per_second),
        };
        Self { counted, elapsed, bytes_per_second }
    }

    /// None while it cannot be told.
    fn left(&self) -> Option<Duration> {
        let left = self.counted.total.checked_sub(self.counted.done).filter(|_| self.counted.total > 0)?;
        Duration::try_from_secs_f64(left as f64 / self.bytes_per_second)
            .ok()
            .filter(|_| self.bytes_per_second >= 1.0)
    }
}

/// Columns of the terminal behind standard error, now: a window may change its width.
fn columns() -> usize {
    let told = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    if told == 0 { COLUMNS } else { told }
}

/// Its rows, now.
fn rows() -> usize {
    let told = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(0, |size| usize::from(size.ws_row));
    if told == 0 { ROWS } else { told }
}

/// The line, with a bar before it where there is room. It leaves the last column free: a line that fills all of them
/// wraps on some terminals, and each drawing would scroll.
fn drawn(work: Work, sample: &Sample, columns: usize) -> String {
    let room = columns.saturating_sub(1);
    let line = line(work, sample);
    let with_bar = format!("{} {line}", bar(&sample.counted));
    if with_bar.len() <= room { with_bar } else { line.chars().take(room).collect() }
}

fn bar(counted: &Counted) -> String {
    let filled = counted.share().map_or(0, |share| (share * BAR as f64) as usize);
    let empty = BAR.saturating_sub(filled);
    format!("[{}{}]", "#".repeat(filled), ".".repeat(empty))
}

fn line(work: Work, sample: &Sample) -> String {
    let Counted { total, done, data, new, stored } = sample.counted;
    let mut parts = Vec::new();
    match sample.counted.share() {
        Some(share) => parts.push(format!("{:.1}% of {}", share * 100.0, size(total))),
        None => parts.push(size(done)),
    }
    parts.push(format!("{}/s", size(sample.bytes_per_second as u64)));
    match work {
        Work::Backup => {
            parts.push(format!("new {}", size(new)));
            parts.push(format!("known {}", size(data.saturating_sub(new))));
        }
        Work::Collect => parts.push(format!("written {}", size(stored))),
        Work::Restore | Work::Check => parts.push(format!("fetched {}", size(stored))),
        Work::Lock | Work::Log | Work::Stats | Work::Hydrate => {}
    }
    match sample.left() {
        Some(left) => parts.push(format!("{} left", duration(left))),
        None => parts.push(duration(sample.elapsed)),
    }
    parts.join(", ")
}

fn status(sample: &Sample) -> Map<String, Value> {
    let Counted { total, done, data, new, stored } = sample.counted;
    let fields = [
        ("elapsed_seconds", json!(seconds(sample.elapsed))),
        ("total_bytes", json!(total)),
        ("done_bytes", json!(done)),
        ("data_bytes", json!(data)),
        ("new_bytes", json!(new)),
        ("stored_bytes", json!(stored)),
        ("bytes_per_second", json!(sample.bytes_per_second as u64)),
        ("seconds_left", json!(sample.left().map(|left| left.as_secs()))),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn sample(done: u64) -> Sample {
        let counted = Counted { total: 4 * GIB, done, data: done, new: done / 4, stored: done / 8 };
        Sample { counted, elapsed: Duration::from_secs(10), bytes_per_second: 1e8 }
    }

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let line = line(Work::Backup, &sample(GIB));
        assert_eq!(line, "25.0% of 4.0 GiB, 95.4 MiB/s, new 256.0 MiB, known 768.0 MiB, 0:32 left");
        assert_eq!(bar(&sample(GIB).counted), "[####............]");
        assert_eq!(bar(&sample(8 * GIB).counted), "[################]");
    }

    #[test]
    fn a_line_fits_a_narrow_terminal() {
        let counted =
            Counted { total: 999 * GIB, done: 998 * GIB, data: 998 * GIB, new: 499 * GIB, stored: 0 };
        let sample = Sample { counted, elapsed: Duration::ZERO, bytes_per_second: 9e8 };
        for work in [Work::Backup, Work::Restore, Work::Check, Work::Lock, Work::Log, Work::Stats] {
            let line = drawn(work, &sample, 80);
            assert!(line.len() < 80 && line.contains("99.9% of"), "{line}");
            assert_eq!(drawn(work, &sample, 20).len(), 19);
            assert!(drawn(work, &sample, 120).starts_with("[###"));
        }
        assert!(drawn(Work::Restore, &sample, 80).starts_with("[###"));
    }

    #[test]
    fn without_a_total_nothing_is_promised() {
        let sample = Sample { counted: Counted { done: GIB, ..Counted::default() }, ..Sample::default() };
        assert_eq!(line(Work::Restore, &sample), "1.0 GiB, 0 B/s, fetched 0 B, 0:00");
        assert_eq!(sample.left(), None);
        assert_eq!(status(&sample)["seconds_left"], Value::Null);
    }

    #[test]
    fn a_stall_stretches_the_time_left_instead_of_ending_it() {
        let mut sample = Sample::default().next(sample(GIB).counted, Duration::from_secs(1));
        let before = sample.left().unwrap();
        for second in 2..20 {
            sample = sample.next(sample.counted, Duration::from_secs(second));
        }
        assert!(sample.left().unwrap() > before);
    }
}
