//! Block pull: libvirt copies into each overlay what it still reads from its export, while the guest runs.

use std::path::Path;
use std::thread::sleep;

use sancerre_boot::{PASSES, has_backing};

use super::description::disk_of;
use super::fill::{FillError, Filling, LOOK, Told};
use super::{MachineState, Recovering};
use crate::error::CaptureError;

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

impl BlockJob {
    /// How much of a disk is there, by what the job says.
    pub(super) fn part_of(&self, size: u64) -> u64 {
        let of = u128::from(self.done).saturating_mul(size.into()).checked_div(self.end.into());
        of.and_then(|of| u64::try_from(of).ok()).unwrap_or(0).min(size)
    }
}

impl Recovering {
    /// Makes an overlay whole. Some of it may be left; then why.
    pub(super) fn pull(
        &mut self,
        (target, path): (&str, &Path),
        size_bytes: u64,
        filling: &mut Filling<'_>,
    ) -> Result<Option<String>, FillError> {
        let (mut passes, mut told) = (0, None);
        while stands_on_something(path)? {
            self.keep_running(filling.since)?;
            let job = BlockJob::find(&self.virsh, &self.uuid, target)?;
            let is_turn = filling.look(job.as_ref().map_or(0, |job| job.part_of(size_bytes)));
            if self.is_free(target, job, &mut told, filling) && is_turn {
                if passes >= PASSES {
                    return Ok(Some("libvirt's block pull ended before its end".to_owned()));
                }
                passes = if filling.is_early() { 0 } else { passes.saturating_add(1) };
                self.begin_pull(target, path)?;
            }
            sleep(LOOK);
        }
        self.correct((target, path), size_bytes, filling)?;
        Ok(None)
    }

    /// A libvirt that was killed in the moment in which a job ended goes on believing that the disk stands on its export. When
    /// another job ends, which has nothing to do, it takes the export out of its chain.
    fn correct(
        &mut self,
        (target, path): (&str, &Path),
        size_bytes: u64,
        filling: &mut Filling<'_>,
    ) -> Result<(), FillError> {
        let (mut passes, mut told) = (0, None);
        while self.runs_or_stands()? && self.is_believed_on_export(target)? {
            self.keep_running(filling.since)?;
            filling.look(size_bytes);
            let job = BlockJob::find(&self.virsh, &self.uuid, target)?;
            // It may have heard of the end meanwhile.
            if self.is_free(target, job, &mut told, filling) && self.is_believed_on_export(target)? {
                if passes >= PASSES {
                    (filling.watch.say)(format!(
                        "{target} of {} is whole, and libvirt takes it for one that stands on its export all the same: the machine \
                         cannot be backed up until it was shut down and started again",
                        self.name
                    ));
                    return Ok(());
                }
                passes = passes.saturating_add(1);
                self.begin_pull(target, path)?;
            }
            sleep(LOOK);
        }
        Ok(())
    }

    fn runs_or_stands(&self) -> Result<bool, CaptureError> {
        Ok(matches!(self.state()?, MachineState::Runs | MachineState::Stands))
    }

    /// Whether libvirt takes a disk of the machine that runs for one that stands right on our export.
    fn is_believed_on_export(&self, target: &str) -> Result<bool, CaptureError> {
        let mut live = self.live()?;
        let source = disk_of(&mut live, target).and_then(|disk| disk.child("backingStore")?.child("source"));
        let socket = source.and_then(|source| source.child("host")?.attribute("socket"));
        Ok(socket.is_some_and(|socket| Path::new(socket) == self.recovered.exports))
    }

    /// Whether no job works on a disk. One of another program is waited for, and said once: the guest needs the export until then,
    /// too.
    pub(super) fn is_free(
        &self,
        target: &str,
        job: Option<BlockJob>,
        told: &mut Told,
        filling: &mut Filling<'_>,
    ) -> bool {
        let other = job.as_ref().filter(|job| !job.is_pull()).map(|job| job.kind.clone());
        if let Some(kind) = other.as_ref().filter(|_| *told != other) {
            (filling.watch.say)(format!(
                "another program works on {target} of {} ({kind}): the rest of it is copied once that is done",
                self.name
            ));
        }
        *told = other;
        job.is_none()
    }

    /// Asks for a disk to be made whole. It may have become so meanwhile.
    fn begin_pull(&self, target: &str, path: &Path) -> Result<(), CaptureError> {
        match self.virsh.call(&["blockpull", "--domain", &self.uuid, "--path", target]) {
            Err(CaptureError::Refused { .. }) if !stands_on_something(path)? => Ok(()),
            // The one that just ended is still being taken away.
            Err(CaptureError::Refused { said, .. }) if said.contains("already in active block job") => Ok(()),
            begun => begun.map(drop),
        }
    }
}

/// Whether an image stands on another.
fn stands_on_something(path: &Path) -> Result<bool, CaptureError> {
    has_backing(path).map_err(|error| CaptureError::Unfit(error.to_string()))
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
