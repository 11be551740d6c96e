//! A running machine's picture: libvirt keeps it still, lists what changed, and serves both over NBD ("pull mode").
//!
//! ```text
//! claim ─> begin ────────────────────────────> (read over NBD) ─> end(saved)
//!  │        base by name and log, ours else deleted               job ended; saved: old checkpoints deleted, else the new one
//!  └ lock; what a dead one left: guest thawed, job ended, files removed
//! ```
//! Two checkpoints of ours exist only between `begin` and `end`. Whichever moment the process dies in, the log says which of
//! them is the base: the newest whose session became a snapshot.

mod base;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::base::{Base, named_in};
use crate::agent::Agent;
use crate::checkpoint::{self, Names};
use crate::error::CaptureError;
use crate::freezing::Freezing;
use crate::keeper::{Keeper, PullJob};
use crate::machine::{Machine, MachineDisk};
use crate::picture::{DEVICES, Picture, PictureDisk, Pictured, Pull};
use crate::place::Place;
use crate::recovered::BlockJob;
use crate::room::{self, Room};
use crate::virsh::Virsh;
use crate::xml::Element;

/// What a process that was killed asked of libvirt goes on, and is waited for: to end a job that only begins hangs libvirt.
const PATIENCE: Duration = Duration::from_secs(90);
/// A running machine that nobody else backs up meanwhile.
#[derive(Debug)]
pub struct Live {
    virsh: Virsh,
    machine: Machine,
    place: Place,
    names: Names,
    scratch: Option<PathBuf>,
    job: Option<Job>,
}

/// A job of ours, or what may have become one.
#[derive(Debug)]
struct Job {
    checkpoint: Option<String>,
    room: Room,
    /// Ends it when this process is killed.
    keeper: Option<Keeper>,
}

/// A disk of a picture to be.
struct Asked<'a> {
    disk: &'a MachineDisk,
    scratch: PathBuf,
    is_incremental: bool,
}

impl Live {
    /// Takes a machine, and removes what a dead process of ours left on it.
    ///
    /// # Errors
    /// [`CaptureError::Busy`] when another process of ours works on it, or a job of somebody else.
    pub fn claim(
        virsh: Virsh,
        machine: Machine,
        run_folder: &Path,
        scratch: Option<PathBuf>,
        repository: &str,
    ) -> Result<Self, CaptureError> {
        let place = Place::claim(run_folder, &machine.uuid, machine.owner, PATIENCE)?;
        let virsh = virsh.holding(place.lock());
        let live = Self { virsh, machine, place, names: Names::of(repository), scratch, job: None };
        if live.machine.is_active {
            live.freezing().thaw_left();
        }
        let ours = live.pull_job();
        match ours.running()? {
            Some(job) if ours.is_ours(&job) => ours.end()?,
            Some(_) => {
                return Err(CaptureError::Busy {
                    machine: live.machine.name.clone(),
                    why: format!(
                        "another program backs it up now, and libvirt allows one at a time; wait, or end that with `virsh \
                         domjobabort {}` if it is dead",
                        live.machine.uuid
                    ),
                });
            }
            None => {}
        }
        live.refuse_pull()?;
        live.remove_files();
        Ok(live)
    }

    /// A disk that is being made whole. QEMU 10.0 dies when it is asked for its nodes after such a job ended and before libvirt
    /// looked at that, and libvirt asks for them when a picture begins. Nor could that disk be made whole meanwhile.
    fn refuse_pull(&self) -> Result<(), CaptureError> {
        for disk in self.machine.taken() {
            let job = match self.machine.is_active {
                true => BlockJob::find(&self.virsh, &self.machine.uuid, &disk.target)?,
                false => None,
            };
            if disk.is_on_export || job.is_some_and(|job| job.is_pull()) {
                return Err(CaptureError::Busy {
                    machine: self.machine.name.clone(),
                    why: format!(
                        "its disk {} is being made whole (a recovery, a block pull), and a backup beside that can end the guest; \
                         run again once it is whole",
                        disk.target
                    ),
                });
            }
        }
        Ok(())
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    fn freezing(&self) -> Freezing<'_> {
        let agent = || Agent::Virsh(self.virsh.clone(), self.machine.uuid.clone());
        let agent = self.machine.has_agent.then(agent);
        Freezing { agent, marker: self.place.marker(), name: &self.machine.name }
    }

    /// Who ends the job when this process is killed.
    fn keeper(&self, pull: &Pull, asked: &[Asked<'_>]) -> Result<Option<Keeper>, CaptureError> {
        let Some(program) = &pull.program else { return Ok(None) };
        let scratch: Vec<PathBuf> = asked.iter().map(|asked| asked.scratch.clone()).collect();
        let keeper = Keeper::start(program, &self.pull_job(), self.place.base(), &scratch);
        keeper.map(Some).map_err(CaptureError::Unfit)
    }

    fn asked<'a>(&self, disk: &'a MachineDisk, base: Option<&Base>) -> Asked<'a> {
        let is_incremental = base.is_some_and(|base| base.marked.contains(&disk.target));
        Asked { disk, scratch: self.scratch_of(disk), is_incremental }
    }

    /// Begins the job. A disk whose list of changes is broken is asked for in full: one disk costs one disk.
    fn ask(
        &self,
        asked: &mut [Asked<'_>],
        base: Option<&Base>,
        checkpoint: Option<&str>,
        notes: &mut Vec<String>,
    ) -> Result<(), CaptureError> {
        loop {
            let backup = self.place.write("backup.xml", &self.backup_xml(asked, base).written())?;
            let marks: Vec<&str> = asked
                .iter()
                .filter(|asked| asked.disk.keeps_bitmaps)
                .map(|asked| asked.disk.target.as_str())
                .collect();
            let checkpoint = checkpoint.filter(|_| !marks.is_empty());
            let described = checkpoint.map(|name| checkpoint::described(name, &marks).written());
            let described = described.map(|text| self.place.write("checkpoint.xml", &text)).transpose()?;
            let backup = backup.display().to_string();
            let described = described.map(|path| path.display().to_string());
            let mut arguments = vec!["backup-begin", "--domain", &self.machine.uuid, "--backupxml", &backup];
            if let Some(described) = &described {
                arguments.extend(["--checkpointxml", described]);
            }
            let error = match self.virsh.call(&arguments) {
                Ok(_) => return Ok(()),
                Err(CaptureError::Refused { what, said }) => {
                    let is_of_lists = asked.iter().any(|asked| asked.is_incremental)
                        && (said.contains("bitmap") || said.contains("heckpoint"));
                    if !is_of_lists {
                        return Err(CaptureError::Refused { what, said });
                    }
                    said
                }
                Err(error) => return Err(error),
            };
            demote(asked, &error, notes);
        }
    }

    fn backup_xml(&self, asked: &[Asked<'_>], base: Option<&Base>) -> Element {
        let server = Element::new("server")
            .with("transport", "unix")
            .with("socket", &self.place.socket().to_string_lossy());
        let disk = |asked: &Asked<'_>| {
            let element = Element::new("disk").with("name", &asked.disk.target).with("backup", "yes");
            let element = element.with("type", "file").with("exportname", &asked.disk.target);
            let element = match base.filter(|_| asked.is_incremental) {
                Some(base) => element
                    .with("exportbitmap", &bitmap(&asked.disk.target))
                    .with("backupmode", "incremental")
                    .with("incremental", &base.checkpoint),
                None => element.with("backupmode", "full"),
            };
            let driver = Element::new("driver").with("type", "qcow2");
            element
                .holding(driver)
                .holding(Element::new("scratch").with("file", &asked.scratch.to_string_lossy()))
        };
        let disks = asked.iter().map(disk).fold(Element::new("disks"), Element::holding);
        Element::new("domainbackup").with("mode", "pull").holding(server).holding(disks)
    }

    /// The job of ours, if it runs.
    fn pull_job(&self) -> PullJob {
        let (virsh, uuid) = (self.virsh.clone(), self.machine.uuid.clone());
        PullJob { virsh, uuid, socket: self.place.socket() }
    }

    /// What lies in our folder, and what the guest overwrote meanwhile.
    fn remove_files(&self) {
        self.place.empty();
        let suffix = self.scratch_suffix();
        let folders =
            self.machine.taken().filter_map(|disk| self.scratch_of(disk).parent().map(Path::to_owned));
        for folder in folders {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_name().to_str().is_some_and(|name| name.ends_with(&suffix)) {
                    // What cannot be removed is in the way of the next one, which says so.
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }

    fn scratch_suffix(&self) -> String {
        format!(".{}.sancerre-scratch", self.machine.uuid)
    }

    fn scratch_of(&self, disk: &MachineDisk) -> PathBuf {
        let beside = disk.path.parent().filter(|_| !disk.is_device);
        let folder = self.scratch.as_deref().or(beside).unwrap_or(Path::new(DEVICES));
        folder.join(format!(".{}{}", disk.target, self.scratch_suffix()))
    }
}

impl Pictured for Live {
    fn begin(&mut self, pull: &Pull) -> Result<Picture, CaptureError> {
        let mut notes = Vec::new();
        let base = self.base(pull, &mut notes)?;
        let taken: Vec<MachineDisk> =
            self.machine.taken().filter(|disk| pull.targets.contains(&disk.target)).cloned().collect();
        let mut asked: Vec<Asked<'_>> = taken.iter().map(|disk| self.asked(disk, base.as_ref())).collect();
        let folders: Vec<PathBuf> =
            asked.iter().filter_map(|asked| asked.scratch.parent().map(Path::to_owned)).collect();
        if let Some(why) = folders.iter().find_map(|folder| room::too_little(folder)) {
            return Err(CaptureError::Unfit(why));
        }
        let ours = self.pull_job();
        let give_up = move || drop(ours.end());
        let checkpoint = pull.session.as_ref().map(|session| self.names.checkpoint(session));
        let freeze = self.freezing().freeze(pull, &mut notes)?;
        // From here on there may be something to end.
        let (keeper, room) = (self.keeper(pull, &asked)?, Room::watch(folders, give_up));
        self.job = Some(Job { checkpoint: checkpoint.clone(), room, keeper });
        self.ask(&mut asked, base.as_ref(), checkpoint.as_deref(), &mut notes)?;
        let frozen = self.freezing().thaw(pull, freeze, &mut notes)?;
        let socket = self.place.socket();
        let disks = asked.iter().map(|asked| PictureDisk {
            target: asked.disk.target.clone(),
            socket: socket.clone(),
            bitmap: asked.is_incremental.then(|| bitmap(&asked.disk.target)),
        });
        Ok(Picture { disks: disks.collect(), base: base.map(|base| base.snapshot), frozen, notes })
    }

    fn given_up(&self) -> Option<String> {
        self.job.as_ref().and_then(|job| job.room.given_up())
    }

    fn end(&mut self, is_saved: bool) -> Vec<String> {
        let Some(job) = self.job.take() else { return Vec::new() };
        let mut notes = Vec::new();
        let ended = self.pull_job().end();
        if let (Ok(()), Some(keeper)) = (&ended, job.keeper) {
            keeper.let_go();
        }
        notes.extend(ended.err().map(|error| error.to_string()));
        self.remove_files();
        let Some(new) = job.checkpoint else { return notes };
        let ours = match self.checkpoints() {
            Ok(ours) => ours,
            Err(error) => {
                notes.push(error.to_string());
                return notes;
            }
        };
        // Saved: all that came before it. Not saved: this one.
        for name in ours.iter().filter(|name| (**name == new) != is_saved) {
            notes.extend(self.delete(name).err().map(|error| error.to_string()));
        }
        notes
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end(false);
    }
}

/// The name under which the server gives the list of a disk's changes.
fn bitmap(target: &str) -> String {
    format!("sancerre-{target}")
}

/// Asks in full for the disk that an error speaks of; for all, if it speaks of none.
fn demote(asked: &mut [Asked<'_>], error: &str, notes: &mut Vec<String>) {
    let incremental = asked.iter().filter(|asked| asked.is_incremental);
    let named = named_in(error, incremental.map(|asked| asked.disk.target.as_str())).map(str::to_owned);
    for asked in asked.iter_mut().filter(|asked| asked.is_incremental) {
        let target = &asked.disk.target;
        if named.as_ref().is_none_or(|named| named == target) {
            asked.is_incremental = false;
            notes.push(format!("all of {target} is read, for its list of changes is lost: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_list_costs_the_disk_that_is_named() {
        let disk = |target: &str| MachineDisk {
            slice: None,
            target: target.into(),
            format: "qcow2".into(),
            path: "/a".into(),
            is_device: false,
            keeps_bitmaps: true,
            skipped: None,
            is_medium: false,
            is_on_export: false,
        };
        let disks = [disk("vda"), disk("vdb")];
        let asked = || -> Vec<Asked<'_>> {
            let asked = |disk| Asked { disk, scratch: PathBuf::new(), is_incremental: true };
            disks.iter().map(asked).collect()
        };
        let (mut one, mut all, mut notes) = (asked(), asked(), Vec::new());
        demote(&mut one, "missing or broken bitmap 'x' for disk 'vdb'", &mut notes);
        assert_eq!(one.iter().map(|asked| asked.is_incremental).collect::<Vec<_>>(), [true, false]);
        demote(&mut all, "some bitmap is broken", &mut notes);
        assert!(all.iter().all(|asked| !asked.is_incremental));
        assert_eq!(notes.len(), 3);
    }
}
