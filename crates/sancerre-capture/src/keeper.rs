//! A process of its own beside a picture of libvirt's: when the backup is killed it ends the job. A job that nobody reads keeps
//! aside what the guest overwrites until there is no room for it, and then the guest stands still.
//!
//! It waits for the end of its input. A word before that end says that all is over; an end without one, that nobody is there any
//! more. Signals that end programs do not end it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::deaf::Guard;
use crate::error::CaptureError;
use crate::place;
use crate::virsh::Virsh;
use crate::xml::Element;

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "__keep";
/// What says that all is over.
const OVER: &str = "over";
/// How long a job may take to end.
const END: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(50);
/// What the dead one asked of libvirt goes on, and is waited for; a backup that came meanwhile removes all by itself.
const PATIENCE: Duration = Duration::from_secs(90);

/// A job of libvirt's on a machine, known by where it serves its disks.
#[derive(Debug, Clone)]
pub(crate) struct PullJob {
    pub(crate) virsh: Virsh,
    pub(crate) uuid: String,
    pub(crate) socket: PathBuf,
}

/// The parent's side of a keeper.
#[derive(Debug)]
pub(crate) struct Keeper(Guard);

impl Keeper {
    /// Starts one for a job that is about to begin. `scratch` is removed with it.
    ///
    /// # Errors
    /// Why it cannot be, in words.
    pub(crate) fn start(
        program: &Path,
        job: &PullJob,
        run_folder: &Path,
        scratch: &[PathBuf],
    ) -> Result<Self, String> {
        let mut arguments: Vec<OsString> = vec![SUBCOMMAND.into(), job.virsh.program().into()];
        arguments.extend([job.virsh.uri().into(), job.uuid.clone().into(), job.socket.clone().into()]);
        arguments.push(run_folder.into());
        arguments.extend(scratch.iter().map(OsString::from));
        Guard::start(program, &arguments).map(Self)
    }

    /// All is over: it has nothing to do.
    pub(crate) fn let_go(mut self) {
        self.0.tell(OVER);
    }
}

/// The keeper: returns with its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let [program, uri, uuid, socket, folder, scratch @ ..] = arguments.as_slice() else { return 2 };
    let mut told = String::new();
    // One that died says nothing.
    let _ = io::stdin().lock().read_to_string(&mut told);
    if told == OVER {
        return 0;
    }
    let (Some(uri), Some(uuid)) = (uri.to_str(), uuid.to_str()) else { return 2 };
    let Ok(_lock) = place::lock(Path::new(folder), uuid, PATIENCE) else { return 1 };
    let Ok(virsh) = Virsh::new(program.into(), uri) else { return 2 };
    let job = PullJob { virsh, uuid: uuid.to_owned(), socket: socket.into() };
    let ended = job.end();
    for path in scratch.iter().filter(|_| ended.is_ok()) {
        let _ = fs::remove_file(path);
    }
    if ended.is_ok() { 0 } else { 1 }
}

impl PullJob {
    /// The job that runs on the machine, whosever it is.
    pub(crate) fn running(&self) -> Result<Option<Element>, CaptureError> {
        match self.virsh.xml("the job", &["backup-dumpxml", "--domain", &self.uuid]) {
            Ok((job, _)) => Ok(Some(job)),
            Err(CaptureError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn is_ours(&self, job: &Element) -> bool {
        let socket = job.child("server").and_then(|server| server.attribute("socket"));
        socket.is_some_and(|socket| Path::new(socket) == self.socket)
    }

    /// Ends the job if it is this one, and lets a guest go on that stands still because it had no room.
    pub(crate) fn end(&self) -> Result<(), CaptureError> {
        let started = Instant::now();
        let is_there = || Ok::<_, CaptureError>(self.running()?.is_some_and(|job| self.is_ours(&job)));
        if !is_there()? {
            return Ok(());
        }
        if let Err(error) = self.virsh.call(&["domjobabort", "--domain", &self.uuid])
            && is_there()?
        {
            return Err(error);
        }
        while is_there()? {
            if started.elapsed() > END {
                let what = format!("virsh domjobabort --domain {}", self.uuid);
                return Err(CaptureError::Slow { what, seconds: END.as_secs() });
            }
            thread::sleep(STEP);
        }
        self.go_on()
    }

    /// A guest whose write was refused for want of room writes it again.
    fn go_on(&self) -> Result<(), CaptureError> {
        let state = self.virsh.call(&["domstate", "--reason", "--domain", &self.uuid])?;
        match state.trim() {
            "paused (I/O error)" => self.virsh.call(&["resume", "--domain", &self.uuid]).map(drop),
            _ => Ok(()),
        }
    }
}
