//! A process of its own beside a picture of libvirt's or QEMU's: when the backup is killed it ends the job. A job that nobody reads keeps
//! aside what the guest overwrites until there is no room for it, and then the guest stands still. Here is the parent's side of it, and the job.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::deaf::Guard;
use crate::error::CaptureError;
use crate::standing;
use crate::virsh::Virsh;
use crate::xml::Element;

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "__keep";
/// What says that all is over.
pub(crate) const OVER: &str = "over";
/// In place of a connection to libvirt.
pub(crate) const BY_MONITOR: &str = "qmp";
/// How long a job may take to end.
const END: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(50);

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

    fn is_stopped_by_an_error(&self) -> Result<bool, CaptureError> {
        let state = self.virsh.call(&["domstate", "--reason", "--domain", &self.uuid])?;
        Ok(state.trim() == "paused (I/O error)")
    }

    /// A guest whose write was refused for want of room writes it again.
    fn go_on(&self) -> Result<(), CaptureError> {
        if !self.is_stopped_by_an_error()? {
            return Ok(());
        }
        self.resume()?;
        // At once, as this process may be killed; then libvirt may be wrong.
        thread::sleep(standing::ALL_TOLD);
        if !self.is_stopped_by_an_error()? {
            return Ok(());
        }
        standing::agree(&self.virsh, &self.uuid)?;
        self.resume()
    }

    fn resume(&self) -> Result<(), CaptureError> {
        match standing::resume(&self.virsh, &self.uuid) {
            // Somebody else did.
            Err(CaptureError::Refused { .. }) if !self.is_stopped_by_an_error()? => Ok(()),
            resumed => resumed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_virsh::FakeVirsh;

    #[test]
    fn a_guest_that_had_no_room_is_resumed_at_once_and_looked_at_again() {
        let fake = FakeVirsh::new("paused (I/O error)", true);
        let job = PullJob { virsh: fake.virsh(), uuid: "u".into(), socket: PathBuf::new() };
        job.go_on().unwrap();
        let told = fake.told();
        assert!(told[0].starts_with("resume") && told[3].starts_with("resume"), "{told:?}");
        assert!(told[1].contains("query-status") && told[2].contains("stop"), "{told:?}");
        job.go_on().unwrap();
        assert_eq!(fake.told().len(), 4, "it runs");
    }
}
