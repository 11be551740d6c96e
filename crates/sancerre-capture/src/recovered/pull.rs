//! Block pull: libvirt copies into each overlay what it still reads from its export, while the guest runs.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use sancerre_boot::{Hydration, HydrationProgress};

use super::description::stands_on_something;
use super::{MachineState, Recovering};
use crate::error::CaptureError;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// How often a disk is gone over when some of it could not be read: an outage passes, damage does not.
const PASSES: u32 = 3;
/// QEMU tries to reach an export that went away every 16 s at least; until it does, every read fails. So long nothing is made of
/// that.
const REJOIN: Duration = Duration::from_secs(60);
/// How often in a row a guest that stands still is told to go on, before what it reads must be damaged.
const RESUMED_MAX: u32 = 6;

/// Why the disks did not become whole.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// It was shut down.
    #[error("the machine was shut down")]
    Off,
    /// Its QEMU died.
    #[error("the machine's QEMU died")]
    Died,
    /// It reads what cannot be read.
    #[error("the machine stands still: what it reads cannot be read")]
    Stands,
    /// libvirt did not do what it was to do.
    #[error(transparent)]
    Libvirt(#[from] CaptureError),
}

/// A job of libvirt's on a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BlockJob {
    pub(crate) kind: String,
    done: u64,
    end: u64,
}

impl BlockJob {
    /// The job on a disk, if there is one.
    ///
    /// # Errors
    /// What virsh said.
    pub(crate) fn find(
        virsh: &crate::virsh::Virsh,
        machine: &str,
        target: &str,
    ) -> Result<Option<Self>, CaptureError> {
        let arguments = ["blockjob", "--domain", machine, "--path", target, "--raw"];
        Ok(Self::parse(&virsh.call(&arguments)?))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut job = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.trim().split_once('=')) {
            let number = || value.trim().parse().unwrap_or_default();
            match name {
                "type" => value.trim().clone_into(&mut job.kind),
                "cur" => job.done = number(),
                "end" => job.end = number(),
                _ => {}
            }
        }
        (!job.kind.is_empty()).then_some(job)
    }

    /// Whether it copies into a disk what that stands on.
    pub(crate) fn is_pull(&self) -> bool {
        self.kind == "Block Pull"
    }
}

impl Recovering {
    /// Lets the disks become their own, one after the other; `sizes` are theirs in bytes. `look` is told again and again how far
    /// it is, and says whether it is this machine's turn: until then nothing is begun. `say` is told what is waited for.
    ///
    /// # Errors
    /// The machine does not run any more; what libvirt says.
    pub fn pull(
        &mut self,
        sizes: &[u64],
        look: &mut dyn FnMut(HydrationProgress) -> bool,
        say: &mut dyn FnMut(String),
    ) -> Result<Hydration, PullError> {
        let (mut hydration, since) = (Hydration::default(), Instant::now());
        let total_bytes = sizes.iter().copied().fold(0, u64::saturating_add);
        let (disks, mut before) = (self.recovered.restored.disks.clone(), 0_u64);
        for (number, ((target, path, _), size)) in disks.iter().zip(sizes).enumerate() {
            let (mut passes, mut told) = (0, None);
            while stands_on_something(path)? {
                self.keep_running(since)?;
                let job = BlockJob::find(&self.virsh, &self.uuid, target)?;
                let of_disk = job.as_ref().map_or(0, |job| job.part_of(*size));
                let is_turn =
                    look(HydrationProgress { total_bytes, done_bytes: before.saturating_add(of_disk) });
                if self.is_free(target, job, &mut told, say) && is_turn {
                    if passes >= PASSES {
                        let words = "libvirt's block pull ended before its end".to_owned();
                        hydration.unfinished.push((number, words));
                        break;
                    }
                    passes = if since.elapsed() < REJOIN { 0 } else { passes.saturating_add(1) };
                    self.begin(target, path)?;
                }
                sleep(LOOK);
            }
            before = before.saturating_add(*size);
        }
        look(HydrationProgress { total_bytes, done_bytes: before });
        if hydration.unfinished.is_empty() {
            self.survive(since)?;
        }
        Ok(hydration)
    }

    /// QEMU, up to 10.0, may die in the moment in which a job ends, when the disk is whole already. A guest whose last read
    /// failed just before stands still.
    fn survive(&mut self, since: Instant) -> Result<(), PullError> {
        loop {
            let disks = self.recovered.restored.disks.iter();
            let jobs: Result<Vec<_>, _> =
                disks.map(|(target, _, _)| BlockJob::find(&self.virsh, &self.uuid, target)).collect();
            // A machine that has just died has no jobs to ask for.
            match (self.state()?, jobs) {
                (MachineState::Died, _) => return Err(PullError::Died),
                // It was shut down, and needs nothing more.
                (MachineState::Off, _) => return Ok(()),
                (MachineState::Stands, _) => {
                    self.keep_running(since)?;
                    sleep(LOOK);
                }
                (_, Ok(jobs)) if jobs.iter().flatten().any(BlockJob::is_pull) => sleep(LOOK),
                (_, jobs) => return Ok(jobs.map(drop)?),
            }
        }
    }

    /// Whether no job works on a disk. One of another program is waited for, and said once: the guest needs the export until then,
    /// too.
    fn is_free(
        &self,
        target: &str,
        job: Option<BlockJob>,
        told: &mut Option<String>,
        say: &mut dyn FnMut(String),
    ) -> bool {
        let other = job.as_ref().filter(|job| !job.is_pull()).map(|job| job.kind.clone());
        if let Some(kind) = other.as_ref().filter(|_| *told != other) {
            say(format!(
                "another program works on {target} of {} ({kind}): the rest of it is copied once that is done",
                self.name
            ));
        }
        *told = other;
        job.is_none()
    }

    /// Asks for a disk to be made whole. It may have become so meanwhile.
    fn begin(&self, target: &str, path: &Path) -> Result<(), CaptureError> {
        match self.virsh.call(&["blockpull", "--domain", &self.uuid, "--path", target]) {
            Err(CaptureError::Refused { .. }) if !stands_on_something(path)? => Ok(()),
            // The one that just ended is still being taken away.
            Err(CaptureError::Refused { said, .. }) if said.contains("already in active block job") => Ok(()),
            begun => begun.map(drop),
        }
    }

    /// A machine that stands still because its export was away is told to go on.
    fn keep_running(&mut self, since: Instant) -> Result<(), PullError> {
        match self.state()? {
            MachineState::Off => Err(PullError::Off),
            MachineState::Died => Err(PullError::Died),
            MachineState::Runs => {
                self.resumed = 0;
                Ok(())
            }
            MachineState::Stands if self.resumed >= RESUMED_MAX => Err(PullError::Stands),
            MachineState::Stands => {
                self.resumed = if since.elapsed() < REJOIN { 0 } else { self.resumed.saturating_add(1) };
                self.virsh.call(&["resume", "--domain", &self.uuid])?;
                Ok(())
            }
        }
    }

    /// Its disks are whole: nothing that libvirt remembers of it speaks of exports any more. Returns whether some image still
    /// stands on one.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn finish(&mut self, folder: &Path) -> Result<bool, CaptureError> {
        for (_, path, _) in &self.recovered.restored.disks {
            if stands_on_something(path)? {
                return Ok(true);
            }
        }
        self.redefine(folder).map(|()| false)
    }
}

impl BlockJob {
    /// How much of a disk is there, by what the job says.
    fn part_of(&self, size: u64) -> u64 {
        let of = u128::from(self.done).saturating_mul(size.into()).checked_div(self.end.into());
        of.and_then(|of| u64::try_from(of).ok()).unwrap_or(0).min(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_virsh_says_of_a_job_is_understood() {
        let job = BlockJob::parse(" type=Block Pull\n bandwidth=0\n cur=256\n end=1024\n").unwrap();
        assert!(job.is_pull());
        assert_eq!(job.part_of(4096), 1024);
        assert_eq!(BlockJob::parse("\n"), None);
        let other = BlockJob::parse(" type=Active Block Commit\n").unwrap();
        assert!(!other.is_pull());
        assert_eq!(other.part_of(100), 0);
    }
}
