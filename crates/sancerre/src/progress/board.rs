//! Progress of several machines at once: a line for each that is being saved, and one for all others.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sancerre_engine::monitor::{Counters, Monitor};
use serde_json::{Map, Value, json};

use super::{Counted, LOG, REDRAW, Sample, bar, columns, rows, status};
use crate::output::Output;
use crate::units::{duration, size};

/// Columns of a machine's name.
const NAME: usize = 20;
/// What is cut off is said by this.
const CUT: &str = "...";

/// How far several machines are.
pub(crate) struct Board {
    entries: Mutex<Vec<Entry>>,
    started: Instant,
}

struct Entry {
    name: String,
    state: MachineRun,
}

enum MachineRun {
    Waits,
    Runs { counters: Arc<Counters>, since: Instant, sample: Sample },
    Ended { counted: Counted, is_saved: bool },
}

impl Board {
    /// Of machines of which none was begun.
    pub(crate) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Arc<Self> {
        let entries = names.map(|name| Entry { name: name.to_owned(), state: MachineRun::Waits }).collect();
        Arc::new(Self { entries: Mutex::new(entries), started: Instant::now() })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Vec<Entry>) -> T) -> T {
        // Whoever panicked left states that were true.
        look(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, number: usize, state: impl FnOnce(&MachineRun) -> MachineRun) {
        self.with(|entries| {
            if let Some(entry) = entries.get_mut(number) {
                entry.state = state(&entry.state);
            }
        });
    }

    /// This machine is begun; its bytes are counted by `monitor` alone.
    pub(crate) fn begins(&self, number: usize, monitor: &Monitor) {
        let counters = Arc::clone(&monitor.counters);
        let (since, sample) = (Instant::now(), Sample::default());
        self.set(number, |_| MachineRun::Runs { counters, since, sample });
    }

    /// It came to its end.
    pub(crate) fn ends(&self, number: usize, is_saved: bool) {
        self.set(number, |state| MachineRun::Ended { counted: state.counted(), is_saved });
    }

    /// Shows it until it is dropped.
    pub(super) async fn show(&self, output: &Output, redraws: bool) {
        let period = if redraws { REDRAW } else { LOG };
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
        loop {
            ticks.tick().await;
            self.with(|entries| entries.iter_mut().for_each(Entry::measure));
            match (redraws, output.is_json()) {
                (true, _) => output.redraw(&self.drawn(columns(), rows())),
                (false, true) => output.status(self.status()),
                (false, false) => self.lines().iter().for_each(|line| output.message(line)),
            }
        }
    }

    /// The lines of a terminal with so many columns and rows. The last column stays free, and the last row.
    fn drawn(&self, columns: usize, rows: usize) -> Vec<String> {
        let room = columns.saturating_sub(1);
        let mut lines: Vec<String> = self.with(|entries| entries.iter().filter_map(Entry::drawn).collect());
        let most = rows.saturating_sub(3).max(1);
        if lines.len() > most {
            let more = lines.len().saturating_sub(most.saturating_sub(1));
            lines.truncate(most.saturating_sub(1));
            lines.push(format!("... and {more} more that are being saved"));
        }
        lines.push(self.summary());
        lines.iter().map(|line| cut(line, room)).collect()
    }

    /// What is not being saved now, in one line.
    fn summary(&self) -> String {
        let names = |is_one: fn(&MachineRun) -> bool| {
            self.with(|entries| {
                let of = entries.iter().filter(|entry| is_one(&entry.state));
                of.map(|entry| entry.name.clone()).collect::<Vec<_>>()
            })
        };
        let running = names(|state| matches!(state, MachineRun::Runs { .. })).len();
        let waiting = names(|state| matches!(state, MachineRun::Waits));
        let saved = names(|state| matches!(state, MachineRun::Ended { is_saved: true, .. })).len();
        let failed = names(|state| matches!(state, MachineRun::Ended { is_saved: false, .. }));
        let mut parts = vec![format!("{running} running, {} waiting, {saved} saved", waiting.len())];
        if !failed.is_empty() {
            parts.push(format!("{} NOT SAVED", failed.len()));
        }
        parts.push(duration(self.started.elapsed()));
        let mut text = parts.join(", ");
        if !waiting.is_empty() {
            text.push_str(&format!("; next: {}", waiting.join(", ")));
        }
        text
    }

    /// For a log: a line for each machine that is being saved.
    fn lines(&self) -> Vec<String> {
        self.with(|entries| entries.iter().filter_map(Entry::logged).collect())
    }

    /// For JSON: the sum, and each machine.
    fn status(&self) -> Map<String, Value> {
        let (sum, machines) = self.with(|entries| {
            let sum =
                entries.iter().map(|entry| entry.state.counted()).fold(Counted::default(), Counted::plus);
            (sum, entries.iter().map(Entry::json).collect::<Vec<_>>())
        });
        let elapsed = self.started.elapsed();
        let rate = sum.done as f64 / elapsed.as_secs_f64().max(1e-3);
        let mut fields = status(&Sample { counted: sum, elapsed, bytes_per_second: rate });
        // What those have that wait is not known yet.
        fields.insert("seconds_left".into(), Value::Null);
        fields.insert("machines".into(), json!(machines));
        fields
    }
}

impl MachineRun {
    fn counted(&self) -> Counted {
        match self {
            Self::Waits => Counted::default(),
            Self::Runs { counters, .. } => Counted::of(counters),
            Self::Ended { counted, .. } => *counted,
        }
    }
}

impl Entry {
    fn measure(&mut self) {
        if let MachineRun::Runs { counters, since, sample } = &mut self.state {
            *sample = sample.next(Counted::of(counters), since.elapsed());
        }
    }

    fn drawn(&self) -> Option<String> {
        let MachineRun::Runs { sample, .. } = &self.state else { return None };
        let name = cut(&self.name, NAME);
        Some(format!("{name:<NAME$} {} {}", bar(&sample.counted), line(sample)))
    }

    fn logged(&self) -> Option<String> {
        let MachineRun::Runs { sample, .. } = &self.state else { return None };
        Some(format!("{}: {}", self.name, line(sample)))
    }

    fn json(&self) -> Value {
        let (state, left) = match &self.state {
            MachineRun::Waits => ("waiting", None),
            MachineRun::Runs { sample, .. } => ("running", sample.left()),
            MachineRun::Ended { is_saved: true, .. } => ("saved", None),
            MachineRun::Ended { is_saved: false, .. } => ("failed", None),
        };
        let counted = self.state.counted();
        json!({
            "vm": self.name, "state": state, "total_bytes": counted.total, "done_bytes": counted.done,
            "new_bytes": counted.new, "seconds_left": left.map(|left: Duration| left.as_secs()),
        })
    }
}

/// How far one is; what matters most comes first, for a narrow terminal cuts the rest.
fn line(sample: &Sample) -> String {
    let Counted { total, done, new, .. } = sample.counted;
    let far = match sample.counted.share() {
        Some(share) => format!("{:.1}% of {}", share * 100.0, size(total)),
        None => size(done),
    };
    let time = match sample.left() {
        Some(left) => format!("{} left", duration(left)),
        None => duration(sample.elapsed),
    };
    format!("{far}, {}/s, {time}, new {}", size(sample.bytes_per_second as u64), size(new))
}

/// At most so many letters, and said if there were more.
fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let kept: String = text.chars().take(room.saturating_sub(CUT.len())).collect();
    kept + CUT
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn board() -> Arc<Board> {
        let board = Board::new(["web 01", "db01", "a machine with quite a long name", "mail"].into_iter());
        for number in [0, 2] {
            let monitor = Monitor::silent();
            monitor.counters.total_bytes.store(4 * GIB, Relaxed);
            monitor.counters.done_bytes.store(GIB, Relaxed);
            board.begins(number, &monitor);
        }
        board.ends(3, false);
        board.with(|entries| entries.iter_mut().for_each(Entry::measure));
        board
    }

    #[test]
    fn those_that_run_have_a_line_and_the_others_one_together() {
        let lines = board().drawn(80, 24);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(
            lines[0].starts_with("web 01               [####............] 25.0% of 4.0 GiB"),
            "{}",
            lines[0]
        );
        assert!(lines[1].starts_with("a machine with qu... [####"), "{}", lines[1]);
        assert_eq!(lines[2], "2 running, 1 waiting, 0 saved, 1 NOT SAVED, 0:00; next: db01");
        assert!(lines.iter().all(|line| line.chars().count() < 80));
        assert!(board().drawn(40, 24).iter().all(|line| line.chars().count() < 40));
    }

    #[test]
    fn a_low_window_shows_how_many_more_there_are() {
        let names: Vec<String> = (0..30).map(|number| format!("vm{number}")).collect();
        let board = Board::new(names.iter().map(String::as_str));
        (0..30).for_each(|number| board.begins(number, &Monitor::silent()));
        let lines = board.drawn(80, 10);
        assert_eq!(lines.len(), 8, "{lines:?}");
        assert!(lines[6].contains("and 24 more"), "{}", lines[6]);
    }

    #[test]
    fn a_program_is_told_of_each_and_of_all() {
        let board = board();
        let status = board.status();
        assert_eq!(status["done_bytes"], 2 * GIB);
        let states: Vec<&str> = status["machines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|machine| machine["state"].as_str().unwrap())
            .collect();
        assert_eq!(states, ["running", "waiting", "running", "failed"]);
        assert_eq!(board.lines().len(), 2);
    }
}
