//! A process of its own that freezes a guest and thaws it again, whatever becomes of the one that asked for it: the guest
//! must not stand still because a backup was killed.
//!
//! It says one line when the guest stands still, or why it does not; then it waits for the end of its input, at most so
//! long, thaws, and says a second line. Signals that end programs do not end it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::agent::Agent;
use crate::deaf::{Guard, say};

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "__thaw";
/// What a guard may take beyond freezing before nobody waits for its word any more.
const PATIENCE: Duration = Duration::from_secs(40);
/// Between two attempts to thaw, and how long they go on: libvirt may be away meanwhile.
const AGAIN: Duration = Duration::from_millis(500);
const PERSISTENCE: Duration = Duration::from_secs(3600);

/// How a guest is frozen.
#[derive(Debug, Clone)]
pub struct FreezeOptions {
    /// This program, which starts itself with [`SUBCOMMAND`].
    pub program: PathBuf,
    /// How long the guest may take to stand still.
    pub freeze: Duration,
    /// How long it stands still at most.
    pub hold: Duration,
}

/// What a freeze came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// File systems that stood still.
    pub file_systems: u64,
    /// For how long.
    pub milliseconds: u64,
    /// The agent's version.
    pub agent: String,
}

/// A guest that stands still until this is dropped.
#[derive(Debug)]
pub struct Freeze {
    /// The end of its input thaws.
    guard: Guard,
    file_systems: u64,
    agent: String,
}

impl Freeze {
    /// Starts a guard and waits until the guest stands still.
    ///
    /// # Errors
    /// Why it does not, in words.
    pub(crate) fn begin(agent: &Agent, marker: &Path, options: &FreezeOptions) -> Result<Self, String> {
        let mut arguments: Vec<OsString> = vec![SUBCOMMAND.into()];
        arguments.extend(agent.words());
        let seconds = [options.freeze, options.hold].map(|time| time.as_secs().to_string().into());
        arguments.extend(seconds);
        arguments.push(marker.into());
        let guard = Guard::start(&options.program, &arguments)?;
        let line = guard.line(options.freeze.saturating_add(PATIENCE))?;
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        match words.as_slice() {
            ["frozen", number, agent] => {
                Ok(Self { guard, file_systems: number.parse().unwrap_or(0), agent: (*agent).to_owned() })
            }
            _ => Err(line.strip_prefix("no ").unwrap_or("its guard was not understood").to_owned()),
        }
    }

    /// Thaws it, and says what it was, if it stood still until now.
    pub(crate) fn thaw(mut self, patience: Duration) -> Result<Frozen, String> {
        self.guard.tell("");
        let line = self.guard.line(patience.saturating_add(PATIENCE))?;
        let frozen = |milliseconds: &str| Frozen {
            file_systems: self.file_systems,
            milliseconds: milliseconds.parse().unwrap_or(0),
            agent: self.agent.clone(),
        };
        match line.split_once(' ') {
            Some(("thawed", milliseconds)) => Ok(frozen(milliseconds)),
            _ => Err(line.strip_prefix("late ").unwrap_or("its guard was not understood").to_owned()),
        }
    }
}

/// The guard: returns with its exit code once the guest is thawed.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let [program, uri, uuid, freeze, hold, marker] = arguments.as_slice() else {
        return say("no it was called with other arguments");
    };
    let seconds = |text: &OsString| text.to_str().and_then(|text| text.parse::<u64>().ok());
    let (Some(freeze), Some(hold)) = (seconds(freeze), seconds(hold)) else {
        return say("no it was called with other arguments");
    };
    match Agent::of([program, uri, uuid]) {
        Ok(agent) => guard(&agent, freeze, Duration::from_secs(hold), Path::new(marker)),
        Err(error) => say(&format!("no {error}")),
    }
}

fn guard(agent: &Agent, freeze_seconds: u64, hold: Duration, marker: &Path) -> i32 {
    let version = match agent.version() {
        Ok(version) => version,
        Err(error) => return say(&format!("no {error}")),
    };
    // One that still thaws would thaw this one, too.
    let _lock = match alone(marker) {
        Ok(lock) => lock,
        Err(error) => return say(&format!("no another guard of this guest is still at work ({error})")),
    };
    if let Err(error) = fs::write(marker, "") {
        return say(&format!("no {} cannot be written: {error}", marker.display()));
    }
    let started = Instant::now();
    let frozen = agent.freeze(freeze_seconds);
    if let Ok(number) = frozen {
        say(&format!("frozen {number} {version}"));
    }
    let in_time = frozen.is_ok() && wait(hold);
    // A freeze that was cut short may still come about: it is thawed until the guest says that it is.
    thaw(agent);
    let milliseconds = started.elapsed().as_millis();
    let _ = fs::remove_file(marker);
    match (frozen, in_time) {
        (Err(error), _) => say(&format!("no {error}")),
        (Ok(_), true) => say(&format!("thawed {milliseconds}")),
        (Ok(_), false) => {
            say(&format!("late it was thawed after {} s, before the picture was taken", hold.as_secs()))
        }
    }
}

/// The one guard of a guest. The lock lies beside the machine's folder, which others empty.
fn alone(marker: &Path) -> io::Result<File> {
    let path = marker.parent().unwrap_or(marker).with_extension("guard.lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok(lock)
}

/// Waits for the end of the input; whether it came in time.
fn wait(hold: Duration) -> bool {
    let (send, ended) = channel::<()>();
    thread::spawn(move || {
        let mut nothing = Vec::new();
        let _ = io::stdin().lock().read_to_end(&mut nothing);
        drop(send);
    });
    ended.recv_timeout(hold) == Err(RecvTimeoutError::Disconnected)
}

/// Thaws until the guest says that it is thawed, or is gone for good.
fn thaw(agent: &Agent) {
    let started = Instant::now();
    while started.elapsed() < PERSISTENCE {
        if agent.thaw().is_ok() && agent.is_frozen().is_ok_and(|frozen| !frozen) {
            return;
        }
        if agent.is_gone() {
            return;
        }
        thread::sleep(AGAIN);
    }
}
