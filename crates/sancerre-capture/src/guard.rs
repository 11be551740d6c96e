//! A process of its own that freezes a guest and thaws it again, whatever becomes of the one that asked for it: the guest
//! must not stand still because a backup was killed.
//!
//! It says one line when the guest stands still, or why it does not; then it waits for the end of its input, at most so
//! long, thaws, and says a second line. Signals that end programs do not end it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::agent::Agent;
use crate::virsh::Virsh;

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "__thaw";
/// What a guard may take beyond freezing before nobody waits for its word any more.
const PATIENCE: Duration = Duration::from_secs(40);
/// Between two attempts to thaw, and how long they go on: libvirt may be away meanwhile.
const AGAIN: Duration = Duration::from_millis(500);
const PERSISTENCE: Duration = Duration::from_secs(3600);
/// The guard outlives what ends the backup: a terminal that is closed, a service that is stopped.
const DEAF: &str = "trap '' HUP INT TERM; exec \"$0\" \"$@\"";

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
    child: Child,
    /// Its end thaws.
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    file_systems: u64,
    agent: String,
}

impl Freeze {
    /// Starts a guard and waits until the guest stands still.
    ///
    /// # Errors
    /// Why it does not, in words.
    pub(crate) fn begin(
        virsh: &Virsh,
        uuid: &str,
        marker: &Path,
        options: &FreezeOptions,
    ) -> Result<Self, String> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(DEAF).arg(&options.program).arg(SUBCOMMAND);
        command.arg(virsh.program()).arg(virsh.uri()).arg(uuid);
        command.arg(options.freeze.as_secs().to_string()).arg(options.hold.as_secs().to_string()).arg(marker);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn().map_err(|error| format!("no guard can be started: {error}"))?;
        let input = child.stdin.take();
        let (send, lines) = channel();
        if let Some(output) = child.stdout.take() {
            thread::spawn(move || {
                BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| send.send(line))
            });
        }
        let mut freeze = Self { child, input, lines, file_systems: 0, agent: String::new() };
        let line = freeze.line(options.freeze.saturating_add(PATIENCE))?;
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        match words.as_slice() {
            ["frozen", number, agent] => {
                freeze.file_systems = number.parse().unwrap_or(0);
                (*agent).clone_into(&mut freeze.agent);
                Ok(freeze)
            }
            _ => Err(line.strip_prefix("no ").unwrap_or("its guard was not understood").to_owned()),
        }
    }

    fn line(&self, patience: Duration) -> Result<String, String> {
        self.lines.recv_timeout(patience).map_err(|_| "its guard said nothing more".to_owned())
    }

    /// Thaws it, and says what it was, if it stood still until now.
    pub(crate) fn thaw(mut self, patience: Duration) -> Result<Frozen, String> {
        drop(self.input.take());
        let line = self.line(patience.saturating_add(PATIENCE))?;
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

impl Drop for Freeze {
    fn drop(&mut self) {
        drop(self.input.take());
        // One that still thaws goes on by itself.
        let _ = self.child.try_wait();
    }
}

/// The guard: returns with its exit code once the guest is thawed.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let [program, uri, uuid, freeze, hold, marker] = arguments.as_slice() else {
        return say("no it was called with other arguments");
    };
    let seconds = |text: &OsString| text.to_str().and_then(|text| text.parse::<u64>().ok());
    let (Some(uri), Some(uuid), Some(freeze), Some(hold)) =
        (uri.to_str(), uuid.to_str(), seconds(freeze), seconds(hold))
    else {
        return say("no it was called with other arguments");
    };
    let virsh = match Virsh::new(program.into(), uri) {
        Ok(virsh) => virsh,
        Err(error) => return say(&format!("no {error}")),
    };
    let agent = Agent { virsh: &virsh, uuid };
    guard(&agent, freeze, Duration::from_secs(hold), Path::new(marker))
}

fn guard(agent: &Agent<'_>, freeze_seconds: u64, hold: Duration, marker: &Path) -> i32 {
    let version = match agent.version() {
        Ok(version) => version,
        Err(error) => return say(&format!("no {error}")),
    };
    // One that still thaws would thaw this one, too.
    let _lock = match alone(marker) {
        Ok(lock) => lock,
        Err(error) => return say(&format!("no another guard of this guest is still at work ({error})")),
    };
    if let Err(error) = fs::write(marker, agent.uuid) {
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
fn thaw(agent: &Agent<'_>) {
    let started = Instant::now();
    while started.elapsed() < PERSISTENCE {
        if agent.thaw().is_ok() && agent.is_frozen().is_ok_and(|frozen| !frozen) {
            return;
        }
        if agent
            .virsh
            .call(&["domstate", "--domain", agent.uuid])
            .is_ok_and(|state| state.trim() == "shut off")
        {
            return;
        }
        thread::sleep(AGAIN);
    }
}

/// Says a line to who asked; that one may be dead.
fn say(line: &str) -> i32 {
    let mut stdout = io::stdout();
    let line = line.replace('\n', " ");
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    0
}
