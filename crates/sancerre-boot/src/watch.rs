//! Whether a guest comes up: started on its export with all that it writes thrown away, and watched until something says so.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::guest::GuestPlan;
use crate::qmp::{Qmp, QmpError};
use crate::start::StartError;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// How long the monitor of a guest may take to listen.
const MONITOR: Duration = Duration::from_secs(120);
/// How long an agent may take to answer; one that is not there yet never does.
const AGENT: Duration = Duration::from_secs(2);
/// How much of a console is looked at.
const CONSOLE_BYTES_MAX: u64 = 8 << 20;
/// Pictures of a screen that stands still and has a cursor that blinks.
const PICTURES: usize = 2;
/// A firmware that found nothing to start stands still as well: so much of its disk a guest must have read.
const READ_BYTES_MIN: u64 = 8 << 20;

/// What says that a guest is up: the first of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpWhen {
    /// Words on its serial console.
    pub serial: Vec<String>,
    /// Its agent answers.
    pub agent: bool,
    /// Its agent runs this program with these arguments, and it returns 0; then an answer alone is not enough.
    pub agent_runs: Vec<String>,
    /// Its screen stands still for so long.
    pub screen: Option<Duration>,
    /// When it is given up.
    pub limit: Duration,
}

/// What said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpBy {
    /// These words.
    Serial(String),
    /// The agent.
    Agent,
    /// The screen.
    Screen,
}

/// How it came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// What said that it is up; or why nothing did.
    pub up: Result<UpBy, String>,
    /// How long that took.
    pub took: Duration,
    /// Whether the kernel's virtualisation is to blame.
    pub is_processor: bool,
}

/// Starts a guest and watches it; it ends with this call, and with this process. `screenshot` gets a picture of its last screen (PNG).
pub fn watch(
    program: &OsStr,
    plan: &GuestPlan,
    when: &UpWhen,
    screenshot: &Path,
) -> Result<Watched, StartError> {
    let started = Instant::now();
    let mut guest = Guest::start(program, plan)?;
    let watched = guest.connect().and_then(|qmp| {
        let mut look = Look { plan, when, qmp, pictures: Pictures::default(), screenshot, last: None };
        look.until_up(&mut guest, started)
    });
    let took = started.elapsed();
    Ok(match watched {
        Ok(up) => Watched { up, took, is_processor: false },
        Err(Down::Processor) => {
            let words = "its processor stopped with an error of the virtualisation".to_owned();
            Watched { up: Err(words), took, is_processor: true }
        }
        Err(Down::Ended) => {
            let words = guest.words();
            Watched { up: Err(format!("its QEMU ended{words}")), took, is_processor: false }
        }
        Err(Down::Monitor(words)) => Watched { up: Err(words), took, is_processor: false },
    })
}

/// Why nothing more is to be waited for.
enum Down {
    Processor,
    Ended,
    Monitor(String),
}

impl From<QmpError> for Down {
    fn from(error: QmpError) -> Self {
        if error.is_gone() { Self::Ended } else { Self::Monitor(error.to_string()) }
    }
}

/// A QEMU that ends with this value.
struct Guest {
    child: Child,
    monitor: PathBuf,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Guest {
    fn start(program: &OsStr, plan: &GuestPlan) -> Result<Self, StartError> {
        let arguments = plan.arguments()?;
        let mut command = Command::new("setpriv");
        // Should this process be killed, nobody else would ever end the guest.
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn();
        let child = child.map_err(|error| StartError::Missing { program: "setpriv".into(), error })?;
        Ok(Self { child, monitor: plan.monitor.clone() })
    }

    fn has_ended(&mut self) -> bool {
        // What cannot be looked at is asked at the monitor.
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    fn connect(&mut self) -> Result<Qmp, Down> {
        let started = Instant::now();
        loop {
            match Qmp::connect(&self.monitor) {
                Ok(qmp) => return Ok(qmp),
                Err(error) if self.has_ended() || started.elapsed() > MONITOR => return Err(error.into()),
                Err(_) => sleep(Duration::from_millis(50)),
            }
        }
    }

    /// What it said at last.
    fn words(&mut self) -> String {
        let _ = self.child.kill();
        let mut text = Vec::new();
        if let Some(stderr) = self.child.stderr.as_mut() {
            let _ = stderr.take(4096).read_to_end(&mut text);
        }
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        if text.is_empty() { " by itself: it was shut down, or stopped".into() } else { format!(": {text}") }
    }
}

struct Look<'a> {
    plan: &'a GuestPlan,
    when: &'a UpWhen,
    qmp: Qmp,
    pictures: Pictures,
    screenshot: &'a Path,
    /// What came of the program that the agent ran last.
    last: Option<String>,
}

impl Look<'_> {
    fn until_up(&mut self, guest: &mut Guest, started: Instant) -> Result<Result<UpBy, String>, Down> {
        loop {
            if let Some(up) = self.up()? {
                self.picture()?;
                return Ok(Ok(up));
            }
            if guest.has_ended() {
                return Err(Down::Ended);
            }
            let status = self.qmp.execute("query-status", json!({}))?;
            match status.get("status").and_then(Value::as_str) {
                Some("internal-error") => return Err(Down::Processor),
                Some("guest-panicked") => return Ok(Err("its kernel panicked".into())),
                _ => {}
            }
            if started.elapsed() >= self.when.limit {
                self.picture()?;
                let last = self.last.as_ref().map_or_else(String::new, |last| format!("; {last}"));
                let limit = self.when.limit.as_secs();
                return Ok(Err(format!("nothing said that it is up within {limit} s{last}")));
            }
            sleep(LOOK);
        }
    }

    fn up(&mut self) -> Result<Option<UpBy>, Down> {
        let console = console(&self.plan.console, 0);
        if let Some(words) = self.when.serial.iter().find(|words| console.contains(words.as_str())) {
            return Ok(Some(UpBy::Serial(words.clone())));
        }
        if self.when.agent && self.agent().is_ok_and(|answers| answers) {
            return Ok(Some(UpBy::Agent));
        }
        let Some(still) = self.when.screen else { return Ok(None) };
        let picture = self.picture()?;
        let is_still = self.pictures.note(picture, Instant::now(), still);
        Ok((is_still && self.read_bytes()? >= READ_BYTES_MIN).then_some(UpBy::Screen))
    }

    /// Draws the screen into its file; returns the picture.
    fn picture(&mut self) -> Result<Vec<u8>, Down> {
        let Some(path) = self.screenshot.to_str() else { return Ok(Vec::new()) };
        let asked = self.qmp.execute("screendump", json!({ "filename": path, "format": "png" }));
        match asked {
            Ok(_) => Ok(fs::read(path).unwrap_or_default()),
            // A guest without a screen.
            Err(QmpError::Refused { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// How much of its disks the guest has read.
    fn read_bytes(&mut self) -> Result<u64, Down> {
        let devices = self.qmp.execute("query-blockstats", json!({}))?;
        let read = |device: &Value| device.get("stats")?.get("rd_bytes")?.as_u64();
        Ok(devices.as_array().into_iter().flatten().filter_map(read).fold(0, u64::saturating_add))
    }

    fn agent(&mut self) -> Result<bool, QmpError> {
        let Some(path) = &self.plan.agent else { return Ok(false) };
        let mut agent = answering(path)?;
        let Some((program, arguments)) = self.when.agent_runs.split_first() else { return Ok(true) };
        let started = agent.execute("guest-exec", json!({ "path": program, "arg": arguments }))?;
        let pid = started.get("pid").cloned().unwrap_or_default();
        let begun = Instant::now();
        while begun.elapsed() < self.when.limit {
            let status = agent.execute("guest-exec-status", json!({ "pid": pid }))?;
            if status.get("exited") == Some(&json!(true)) {
                let code = status.get("exitcode").and_then(Value::as_i64);
                self.last = code.map(|code| format!("its agent ran {program}, which returned {code}"));
                return Ok(code == Some(0));
            }
            sleep(LOOK);
        }
        Ok(false)
    }
}

/// Whether the agent of a guest answers.
pub fn agent_answers(path: &Path) -> bool {
    answering(path).is_ok()
}

fn answering(path: &Path) -> Result<Qmp, QmpError> {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let number = ASKED.fetch_add(1, Ordering::Relaxed) & u64::from(u32::MAX);
    Qmp::agent(path, AGENT, u64::from(std::process::id()) << 32 | number)
}

/// What the guest wrote to its console, from a place on; of that the end.
pub fn console(path: &Path, from: u64) -> String {
    let read = || {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(CONSOLE_BYTES_MAX).max(from)))?;
        let mut bytes = Vec::new();
        file.take(CONSOLE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// The last pictures that differ, and since when no other came.
#[derive(Default)]
struct Pictures {
    last: VecDeque<Vec<u8>>,
    since: Option<Instant>,
}

impl Pictures {
    /// Takes note of a picture; says whether the screen stands still for that long.
    fn note(&mut self, picture: Vec<u8>, now: Instant, still: Duration) -> bool {
        if picture.is_empty() {
            return false;
        }
        if !self.last.contains(&picture) {
            self.last.push_back(picture);
            if self.last.len() > PICTURES || self.since.is_none() {
                self.last.drain(..self.last.len().saturating_sub(PICTURES));
                self.since = Some(now);
            }
        }
        self.since.is_some_and(|since| now.duration_since(since) >= still)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blinking_cursor_stands_still_and_a_line_that_comes_does_not() {
        let (start, still) = (Instant::now(), Duration::from_secs(3));
        let at = |second: u64| start + Duration::from_secs(second);
        let mut pictures = Pictures::default();
        for second in 0..3 {
            assert!(!pictures.note(vec![1, (second % 2) as u8], at(second), still), "{second}");
        }
        assert!(pictures.note(vec![1, 1], at(3), still));
        assert!(!pictures.note(vec![2], at(4), still), "something new");
        assert!(!pictures.note(vec![2, 1], at(6), still));
        assert!(pictures.note(vec![2], at(9), still));
        assert!(!pictures.note(Vec::new(), at(99), still), "no picture says nothing");
    }
}
