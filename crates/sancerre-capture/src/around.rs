//! A process of its own around a backup by commands of the operator: the first makes a still picture, the second removes it
//! again. It runs the second to its end whatever became of the first, of the backup, and of who asked: a guest that the first
//! froze must not stand still, and a snapshot must not fill its pool, because a backup was killed.
//!
//! It says one line when the first command is done; then it waits for the end of its input, runs the second, and says another.
//! It holds a lock of the machine meanwhile. Signals that end programs do not end it.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sancerre_advice::Setting::Begin;
use serde_json::Value;

use crate::deaf::{Guard, say};
use crate::error::CaptureError;
use crate::place;
use crate::program;

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "__around";
/// How long the second command may take: snapshots are merged, pools are slow.
const END: Duration = Duration::from_secs(600);
/// What the guard may take beyond its commands.
const PATIENCE: Duration = Duration::from_secs(20);
/// Another backup of the machine may just be ending.
const LOCK: Duration = Duration::from_secs(5);
/// Of what a command said.
const LINES: usize = 5;

/// Two commands around a backup.
#[derive(Debug)]
pub struct Commands {
    /// This program, which starts itself with [`SUBCOMMAND`].
    pub program: PathBuf,
    /// What makes the picture and prints where it is.
    pub begin: String,
    /// What removes it.
    pub end: String,
    /// How long the first may take.
    pub limit: Duration,
    /// The machine's name.
    pub machine: String,
    /// The ids of its snapshots, the newest last.
    pub snapshots: Vec<String>,
    /// Where locks lie.
    pub run_folder: PathBuf,
}

/// A picture that stays until [`Around::end`], or until this process ends.
#[derive(Debug)]
pub struct Around {
    guard: Guard,
    machine: String,
}

impl Around {
    /// Runs the first command. Returns what it printed, which is one value of JSON.
    ///
    /// # Errors
    /// It failed, took too long or printed something else; the second command has then been run.
    pub fn begin(commands: &Commands) -> Result<(Self, Value), CaptureError> {
        let mut arguments: Vec<OsString> = vec![SUBCOMMAND.into(), commands.begin.clone().into()];
        arguments.extend([commands.end.clone().into(), commands.limit.as_secs().to_string().into()]);
        arguments.extend([commands.machine.clone().into(), commands.snapshots.join(" ").into()]);
        arguments.push(commands.run_folder.clone().into());
        let unfit = |why: &str| CaptureError::Unfit(format!("{}: {why}", commands.machine));
        let guard = Guard::start(&commands.program, &arguments).map_err(|why| unfit(&why))?;
        let patience = commands.limit.saturating_add(END).saturating_add(PATIENCE);
        let line = guard.line(patience).map_err(|why| unfit(&why))?;
        let begun = line.strip_prefix("begun ").and_then(|text| serde_json::from_str(text).ok());
        match begun {
            Some(value) => Ok((Self { guard, machine: commands.machine.clone() }, value)),
            None => Err(unfit(line.strip_prefix("no ").unwrap_or("its guard was not understood"))),
        }
    }

    /// Runs the second command, which is told the id of the snapshot that was saved, if one was. Returns what it failed with, in
    /// words.
    pub fn end(mut self, snapshot: Option<&str>) -> Option<String> {
        self.guard.tell(snapshot.unwrap_or_default());
        let said = self.guard.line(END.saturating_add(PATIENCE));
        match said.as_deref() {
            Ok("ended") => None,
            Ok(line) => Some(format!("{}: {}", self.machine, line.strip_prefix("no ").unwrap_or(line))),
            Err(why) => Some(format!("{}: {why}", self.machine)),
        }
    }
}

/// The guard: returns with its exit code once the second command is done.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let [begin, end, limit, machine, snapshots, folder] = arguments.as_slice() else {
        return say("no it was called with other arguments");
    };
    let limit = limit.to_str().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let Some(limit) = limit else { return say("no it was called with other arguments") };
    let name = format!("command-{:016x}", place::digest(machine.as_encoded_bytes()));
    let lock = match place::lock(Path::new(folder), &name, LOCK) {
        Ok(lock) => lock,
        Err(error) => return say(&format!("no {error}")),
    };
    let (machine, snapshots) =
        (("BACKUP_VM", machine.as_os_str()), ("BACKUP_SNAPSHOTS", snapshots.as_os_str()));
    let begun = command("begin", begin, &[machine, snapshots], limit).and_then(|printed| picture(&printed));
    let saved = match &begun {
        Ok(value) => {
            say(&format!("begun {value}"));
            input()
        }
        Err(_) => String::new(),
    };
    let saved = ("BACKUP_SNAPSHOT", OsStr::new(saved.trim()));
    let ended = command("end", end, &[machine, snapshots, saved], END);
    drop(lock);
    match (begun, ended) {
        (Ok(_), Ok(_)) => say("ended"),
        (Ok(_), Err(why)) | (Err(why), Ok(_)) => say(&format!("no {why}")),
        (Err(why), Err(too)) => say(&format!("no {why}; and then {too}")),
    }
}

/// What came in until its end.
fn input() -> String {
    let mut text = String::new();
    // A backup that died says nothing.
    let _ = io::stdin().lock().read_to_string(&mut text);
    text
}

fn picture(printed: &str) -> Result<Value, String> {
    serde_json::from_str(printed)
        .map_err(|error| format!("what the {Begin} command printed is not one value of JSON: {error}"))
}

/// Runs a command of the operator. Returns what it printed.
fn command(
    which: &str,
    text: &OsStr,
    variables: &[(&str, &OsStr)],
    limit: Duration,
) -> Result<String, String> {
    let mut command = Command::new("sh");
    command.arg("-c").arg(text).envs(variables.iter().copied());
    let ran = program::run(&mut command, Stdio::null(), limit)
        .map_err(|error| format!("sh cannot be started: {error}"))?;
    let why = match ran.status {
        Some(status) if status.success() => return Ok(ran.stdout),
        Some(status) => format!("failed ({status})"),
        None => format!("was killed after {} s", limit.as_secs()),
    };
    let mut said = format!("the --{which} command {why}");
    let lines: Vec<&str> = ran.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
    if !last.is_empty() {
        let _ = write!(said, ": {}", last.join("; "));
    }
    Err(said)
}
