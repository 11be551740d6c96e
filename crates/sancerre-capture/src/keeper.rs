//! A process of its own beside a picture of libvirt's or QEMU's: when the backup is killed it ends the job. A job that nobody reads keeps
//! aside what the guest overwrites until there is no room for it, and then the guest stands still.
//!
//! It waits for the end of its input. A word before that end says that all is over; an end without one, that nobody is there any
//! more. Signals that end programs do not end it.

use std::ffi::{OsStr, OsString};
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
/// In place of a connection to libvirt.
const BY_MONITOR: &str = "qmp";
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
        arguments.extend([job.virsh.uri().into(), job.uuid.clone().into(), run_folder.into()]);
        arguments.push(job.socket.clone().into());
        arguments.extend(scratch.iter().map(OsString::from));
        Guard::start(program, &arguments).map(Self)
    }

    /// The same for what is about to begin at a monitor of QEMU's; `id` is what its machine is called in the run folder. The next
    /// backup removes what else is left.
    ///
    /// # Errors
    /// Why it cannot be, in words.
    pub(crate) fn of_qemu(
        program: &Path,
        monitor: &Path,
        id: &str,
        run_folder: &Path,
    ) -> Result<Self, String> {
        let arguments: [OsString; 5] =
            [SUBCOMMAND.into(), monitor.into(), BY_MONITOR.into(), id.into(), run_folder.into()];
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
    let [program, uri, id, folder, more @ ..] = arguments.as_slice() else { return 2 };
    let mut told = String::new();
    // One that died says nothing.
    let _ = io::stdin().lock().read_to_string(&mut told);
    if told == OVER {
        return 0;
    }
    let (Some(uri), Some(id)) = (uri.to_str(), id.to_str()) else { return 2 };
    let Ok(_lock) = place::lock(Path::new(folder), id, PATIENCE) else { return 1 };
    let ended = match uri {
        BY_MONITOR => crate::qemu::end_left(Path::new(program)),
        uri => end_pull(program, uri, id, more),
    };
    if ended.is_ok() { 0 } else { 1 }
}

fn end_pull(program: &OsStr, uri: &str, uuid: &str, more: &[OsString]) -> Result<(), CaptureError> {
    let [socket, scratch @ ..] = more else { return Ok(()) };
    let virsh = Virsh::new(program.into(), uri)?;
    PullJob { virsh, uuid: uuid.to_owned(), socket: socket.into() }.end()?;
    for path in scratch {
        let _ = fs::remove_file(path);
    }
    Ok(())
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
