//! What a command writes: results to standard output, the rest to standard error; or JSON lines, a summary last.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use sancerre_engine::host::Clock;
use serde_json::{Map, Value, json};

use crate::arguments::Global;
use crate::exit::{Done, Exit, Failure};
use crate::io::Io;
use crate::plain;
use crate::process;

/// Version of the JSON lines: fields may be added under it, never removed or changed.
const JSON_VERSION: u32 = 1;

/// How much is written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Quiet,
    Normal,
    Verbose,
}

/// Warnings of one kind that are shown; more are counted, so that one cause does not fill the screen.
const ALIKE_MAX: usize = 3;

/// Where everything that a command says goes.
pub(crate) struct Output {
    is_json: bool,
    level: Level,
    /// How a command ends that did what was asked, but could not say so.
    unheard: Exit,
    is_terminal: bool,
    clock: Arc<dyn Clock>,
    streams: Mutex<Streams>,
}

struct Streams {
    /// None once a command took it for data.
    stdout: Option<Box<dyn Write + Send>>,
    stderr: Box<dyn Write + Send>,
    /// Progress lines that stand on the terminal.
    drawn: usize,
    /// Why a line of JSON could not be written.
    lost: Option<std::io::Error>,
    /// Warnings by what they have in common: how many, and the last.
    alike: BTreeMap<String, (usize, String)>,
}

impl Output {
    /// Takes both streams out of `io`. What only reads has failed if its result cannot be written; what `changes` things
    /// has changed them all the same.
    pub(crate) fn new(global: &Global, io: &mut Io, changes: bool) -> Arc<Self> {
        let level = match (global.quiet, global.verbose) {
            (true, _) => Level::Quiet,
            (false, true) => Level::Verbose,
            (false, false) => Level::Normal,
        };
        let unheard = if changes { Exit::NotAsAsked } else { Exit::Failed };
        Arc::new(Self { unheard, ..Self::of(io, global.json, level) })
    }

    /// For a command that was not understood but wants JSON.
    pub(crate) fn json(io: &mut Io) -> Self {
        Self::of(io, true, Level::Normal)
    }

    fn of(io: &mut Io, is_json: bool, level: Level) -> Self {
        let stdout = std::mem::replace(&mut io.stdout, Box::new(std::io::sink()));
        // Lines that nobody would get go where the rest goes.
        let stdout = Some(stdout).filter(|_| !(is_json && io.stdout_is_lost));
        let stderr = std::mem::replace(&mut io.stderr, Box::new(std::io::sink()));
        Self {
            is_json,
            level,
            unheard: Exit::Failed,
            is_terminal: io.stderr_is_terminal,
            clock: sancerre_engine::host::Host::real(crate::TOOL).clock,
            streams: Mutex::new(Streams { stdout, stderr, drawn: 0, lost: None, alike: BTreeMap::new() }),
        }
    }

    /// Whether progress is wanted, and if so whether as a line that is drawn again and again.
    pub(crate) fn progress(&self) -> Option<bool> {
        (self.level > Level::Quiet).then_some(self.is_terminal && !self.is_json)
    }

    /// Whether lines are JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.is_json
    }

    /// Standard output for data; what is written from now on goes to standard error.
    pub(crate) fn take_stdout(&self) -> Option<Box<dyn Write + Send>> {
        self.with(|streams| streams.stdout.take())
    }

    /// A result for people; with JSON it is in the summary instead.
    ///
    /// Errors: standard output is a full disk, or a pipe whose reader went away.
    pub(crate) fn result(&self, text: &str) -> Result<(), Failure> {
        if self.is_json {
            return Ok(());
        }
        let written = self.with(|streams| {
            streams.clear();
            let stdout = streams.stdout.as_mut().unwrap_or(&mut streams.stderr);
            stdout.write_all(plain::lines(text).as_bytes()).and_then(|()| stdout.flush())
        });
        written.map_err(|error| Failure::new(self.unheard, self.unwritten(&error)))
    }

    /// Something to know; not with `--quiet` or `--json`.
    pub(crate) fn message(&self, text: &str) {
        if self.level >= Level::Normal && !self.is_json {
            self.say(text);
        }
    }

    /// Something that only `--verbose` shows.
    pub(crate) fn detail(&self, text: &str) {
        if self.level >= Level::Verbose && !self.is_json {
            self.say(text);
        }
    }

    /// Something to look into although the command goes on.
    pub(crate) fn warning(&self, text: &str) {
        match self.is_json {
            true => self.line("warning", [("message".to_owned(), json!(text))].into_iter().collect()),
            false if self.is_new(text) => self.say(&format!("sancerre: warning: {}", plain::line(text))),
            false => {}
        }
    }

    /// Whether few warnings of this kind were shown; counts it.
    fn is_new(&self, text: &str) -> bool {
        self.with(|streams| {
            let (number, last) = streams.alike.entry(kind(text)).or_default();
            *number = number.saturating_add(1);
            text.clone_into(last);
            *number <= ALIKE_MAX
        })
    }

    /// Tells of the warnings that were counted only.
    fn gather(&self) {
        for (number, last) in self.with(|streams| std::mem::take(&mut streams.alike)).into_values() {
            let more = number.saturating_sub(ALIKE_MAX);
            match more {
                0 => {}
                1 => self.say(&format!("sancerre: warning: {}", plain::line(&last))),
                _ => self.say(&format!(
                    "sancerre: warning: and {more} more like these, the last: {}",
                    plain::line(&last)
                )),
            }
        }
    }

    /// What to say when the result of a command cannot be written.
    fn unwritten(&self, error: &std::io::Error) -> String {
        let done = match self.unheard {
            Exit::NotAsAsked => "; what was asked for was done, look at the repository before doing it again",
            _ => "",
        };
        format!("cannot write to standard output: {error}{done}")
    }

    /// A question, on whose line the answer is typed.
    pub(crate) fn ask(&self, question: &str) {
        self.with(|streams| {
            streams.clear();
            // Who does not see it does not answer it.
            let _ = write!(streams.stderr, "{}", plain::line(question)).and_then(|()| streams.stderr.flush());
        });
    }

    /// Progress in numbers, for JSON.
    pub(crate) fn status(&self, fields: Map<String, Value>) {
        self.line("status", fields);
    }

    /// Draws the progress lines anew.
    pub(crate) fn redraw(&self, lines: &[String]) {
        self.with(|streams| {
            let mut text = up(streams.drawn);
            for (number, line) in lines.iter().enumerate() {
                let end = if number > 0 { "\n" } else { "" };
                text.push_str(&format!("{end}\r{}\x1b[K", plain::line(line)));
            }
            if lines.len() < streams.drawn {
                text.push_str("\x1b[J");
            }
            // A terminal that went away is no reason to stop a backup.
            let _ = write!(streams.stderr, "{text}").and_then(|()| streams.stderr.flush());
            streams.drawn = lines.len();
        });
    }

    /// Removes the progress lines.
    pub(crate) fn clear(&self) {
        self.with(Streams::clear);
    }

    /// The last words of a command.
    pub(crate) fn finish(&self, result: Result<Done, Failure>) -> Exit {
        self.gather();
        let result = result.map_err(|failure| {
            let advice = process::advice(&failure.message);
            Failure { message: failure.message + &advice, ..failure }
        });
        let (exit, summary) = match result {
            Ok(done) => (done.exit, done.summary),
            Err(failure) => {
                self.error(&failure);
                (failure.exit, [("message".to_owned(), json!(failure.message))].into_iter().collect())
            }
        };
        if self.is_json {
            let mut fields: Map<String, Value> =
                [("exit_code".to_owned(), json!(exit.code()))].into_iter().collect();
            fields.extend(summary);
            self.line("summary", fields);
        }
        match self.with(|streams| streams.lost.take()) {
            Some(error) => {
                self.say(&format!("sancerre: {}", plain::line(&self.unwritten(&error))));
                if exit == Exit::Done { self.unheard } else { exit }
            }
            None => exit,
        }
    }

    fn error(&self, failure: &Failure) {
        match self.is_json {
            true => {
                let fields = [
                    ("message".to_owned(), json!(failure.message)),
                    ("code".to_owned(), json!(failure.exit.code())),
                ];
                self.line("error", fields.into_iter().collect());
            }
            false => self.say(&format!("sancerre: {}", plain::line(&failure.message))),
        }
    }

    fn say(&self, text: &str) {
        self.with(|streams| {
            streams.clear();
            // There is nowhere to report a standard error that is closed.
            let _ = writeln!(streams.stderr, "{}", plain::lines(text)).and_then(|()| streams.stderr.flush());
        });
    }

    fn line(&self, kind: &str, fields: Map<String, Value>) {
        let mut line = Map::new();
        line.insert("v".into(), json!(JSON_VERSION));
        line.insert("type".into(), json!(kind));
        line.insert("time".into(), json!(self.clock.now().to_string()));
        line.extend(fields);
        let line = Value::Object(line).to_string();
        self.with(|streams| {
            let is_data = streams.stdout.is_some();
            let stream = streams.stdout.as_mut().unwrap_or(&mut streams.stderr);
            let written = writeln!(stream, "{}", plain::json(&line)).and_then(|()| stream.flush());
            // There is nowhere to report a standard error that is closed.
            streams.lost = streams.lost.take().or(written.err().filter(|_| is_data));
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut Streams) -> T) -> T {
        // A panic between two writes leaves the streams as usable as before.
        work(&mut self.streams.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Streams {
    fn clear(&mut self) {
        let drawn = std::mem::take(&mut self.drawn);
        if drawn > 0 {
            let erase = if drawn > 1 { "\r\x1b[J" } else { "\r\x1b[K" };
            let _ = write!(self.stderr, "{}{erase}", up(drawn)).and_then(|()| self.stderr.flush());
        }
    }
}

/// From the last of some lines to the first.
fn up(lines: usize) -> String {
    match lines.saturating_sub(1) {
        0 => String::new(),
        above => format!("\x1b[{above}A"),
    }
}

/// What warnings have in common that differ by names and numbers only.
fn kind(text: &str) -> String {
    let is_one = |word: &str| word.contains(|letter: char| letter.is_ascii_digit() || letter == '/');
    let words = text.split_whitespace().map(|word| if is_one(word) { "#" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// A table: columns as wide as their widest cell, numbers to the right.
pub(crate) fn table(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let plain = |row: &Vec<String>| row.iter().map(|cell| plain::line(cell).into_owned()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(plain).collect();
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, (title, _))| {
            let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
            cells.chain([title.len()]).max().unwrap_or_default()
        })
        .collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .zip(columns)
            .map(|((cell, width), (_, align))| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            })
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let head = line(columns.iter().map(|(title, _)| *title).collect());
    rows.iter().fold(head, |text, row| text + &line(row.iter().map(String::as_str).collect()))
}

/// Where a column's cells stand.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Align {
    Left,
    Right,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_of_one_cause_are_alike() {
        let one = kind("object zones/default/packs/17/3 cannot be read: I/O error (os error 5)");
        assert_eq!(one, kind("object zones/default/packs/18/9 cannot be read: I/O error (os error 5)"));
        assert_ne!(one, kind("object zones/default/packs/17/3 cannot be read: it is cut short"));
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [
            vec!["a".to_owned(), "10".to_owned(), String::new()],
            vec!["bbbb".into(), "9".into(), "x".into()],
        ];
        let columns = [("id", Align::Left), ("size", Align::Right), ("tags", Align::Left)];
        assert_eq!(table(&columns, &rows), "id    size  tags\na       10\nbbbb     9  x\n");
        assert_eq!(table(&columns, &[]), "id  size  tags\n");
        assert_eq!(table(&columns[..1], &[vec!["a\n\u{1b}".into()]]), "id\na\\u{a}\\u{1b}\n");
    }
}
