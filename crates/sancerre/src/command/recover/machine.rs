//! A machine that is to be recovered: what an earlier run began with, and what is there before its guest starts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sancerre_capture::Virsh;
use sancerre_engine::repository::Repository;
use sancerre_engine::restore::SnapshotReader;
use sancerre_engine::select::{Selector, Which};
use sancerre_format::id::SessionId;
use sancerre_format::names::Title;
use sancerre_format::outcome::{Member, MemberKind};
use sancerre_image::RawTarget;
use serde_json::{Map, Value, json};

use super::bring_up::{Disk, Job};
use super::devices::{self, Storage};
use super::fields;
use super::libvirt::{self, Libvirt};
use super::order::{Place, Sign};
use super::plan::Line;
use super::state::{self, Recovery, Stage};
use crate::command::{Context, nbd, restore};
use crate::exit::Failure;
use crate::file_names;
use crate::plain;
use crate::socket::{self, Socket};
use crate::unreadable;

/// A machine, its snapshot, and its place among others.
pub(super) struct Machine {
    pub(super) reader: SnapshotReader,
    pub(super) job: Job,
    pub(super) place: Place,
    /// What an earlier run wrote down.
    recovery: Option<Recovery>,
    /// Its firmware's settings, where libvirt needs them as a file.
    nvram: Option<Vec<u8>>,
    /// Whether what is on devices may be lost.
    overwrite: bool,
}

/// What a machine's guest needs from this process.
pub(super) struct Prepared {
    pub(super) socket: Socket,
    /// Keeps others away from devices.
    _claims: Vec<RawTarget>,
}

/// Opens the snapshots of all machines; changes nothing.
pub(super) async fn open_all(
    lines: &[(Line, Storage)],
    wants_traces: bool,
    virsh: Option<&Virsh>,
    repository: &Repository,
    context: &Context,
) -> Result<Vec<Machine>, Failure> {
    let mut machines: Vec<Machine> = Vec::with_capacity(lines.len());
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    for (number, (line, storage)) in lines.iter().enumerate() {
        let reader = restore::open_in(repository, &line.snapshot, context).await?;
        let named = line.identity.name.clone().unwrap_or_else(|| reader.vm().clone());
        let (vm, folder) = (named.to_string(), folder(&storage.folder, &named)?);
        let (reader, recovery) = found(repository, reader, &folder, line, context).await?;
        let mut disks = disks(&nbd::disks(&reader)?, &folder);
        storage.assign(&vm, &mut disks, recovery.as_ref())?;
        let (libvirt, nvram) = match virsh {
            Some(virsh) => {
                let places = (&disks[..], recovery.as_ref(), folder.as_path());
                let (libvirt, nvram) = Libvirt::open(virsh, &reader, line, places, context).await?;
                (Some(libvirt), nvram)
            }
            None => (None, None),
        };
        // What the guest reads of an overlay that is there already is asked of nobody.
        let is_traced = wants_traces && recovery.is_none();
        if wants_traces && !is_traced {
            context.output.warning(&format!("{vm}: an earlier run began, so no boot trace is recorded"));
        }
        let job = Job {
            number,
            vm: vm.clone(),
            disks,
            has_agent: line.up == Sign::Agent,
            folder,
            guest: line.guest.clone(),
            libvirt,
            recording: is_traced.then(Arc::default),
            has_trace: Arc::default(),
        };
        let place = Place {
            vm: vm.clone(),
            after: after(line, &vm, &numbers)?,
            sign: line.up.clone(),
            patience: Duration::from_secs(line.up_limit),
            is_traced,
        };
        if numbers.insert(vm.clone(), number).is_some() {
            return Err(Failure::usage(format!("{vm} stands twice in the plan; nothing was changed")));
        }
        machines.push(Machine { reader, job, place, recovery, nvram, overwrite: storage.overwrite });
    }
    devices::refuse_shared(machines.iter().map(|machine| &machine.job))?;
    Ok(machines)
}

/// The numbers of those it waits for.
fn after(line: &Line, vm: &str, numbers: &BTreeMap<String, usize>) -> Result<Vec<usize>, Failure> {
    let number = |other: &String| {
        numbers.get(other).copied().ok_or_else(|| {
            Failure::usage(format!(
                "{vm} waits for {other}, which no earlier line of the plan recovers; nothing was changed"
            ))
        })
    };
    line.after.iter().map(number).collect()
}

/// Where the machine's disks are or will be.
fn folder(storage: &Path, named: &Title) -> Result<PathBuf, Failure> {
    let storage = std::path::absolute(storage)
        .map_err(|error| Failure::usage(format!("{}: {error}; name a directory", plain::path(storage))))?;
    Ok(storage.join(file_names::of(named, &MemberKind::Disk, "")))
}

/// The snapshot that is recovered: what an earlier run began with, if there was one. `latest` may mean another one by now.
async fn found(
    repository: &Repository,
    reader: SnapshotReader,
    folder: &Path,
    line: &Line,
    context: &Context,
) -> Result<(SnapshotReader, Option<Recovery>), Failure> {
    let Some(recovery) = Recovery::read(folder)? else { return Ok((reader, None)) };
    let begun = recovery.snapshot;
    if recovery.repository != nbd::repository_id(&reader) {
        return Err(other(folder, &begun, "of another repository"));
    }
    if begun == reader.manifest().session {
        return Ok((reader, Some(recovery)));
    }
    if let Which::Id(_) = line.snapshot.snapshot {
        return Err(other(folder, &begun, "and not this one"));
    }
    context.output.message(&format!(
        "going on with snapshot {}, which the recovery in {} began with",
        begun.short(),
        plain::path(folder)
    ));
    Ok((restore::open_in(repository, &Selector::of(&begun), context).await?, Some(recovery)))
}

fn other(folder: &Path, begun: &SessionId, what: &str) -> Failure {
    Failure::failed(format!(
        "the disks in {} stand on snapshot {}, {what}; nothing was changed. Go on with that one by its id, or name another \
         storage",
        plain::path(folder),
        begun.short()
    ))
}

fn disks(members: &[&Member], folder: &Path) -> Vec<Disk> {
    let disk = |member: &&Member| Disk {
        export: member.name.to_string(),
        size_bytes: member.size_bytes,
        path: folder.join(file_names::of(&member.name, &member.kind, ".qcow2")),
        device: None,
    };
    members.iter().map(disk).collect()
}

impl Machine {
    /// Makes ready what its guest stands on, and listens for it.
    pub(super) fn prepare(&self, context: &Context) -> Result<Prepared, Failure> {
        let job = &self.job;
        let claim = || devices::claim(job, self.recovery.as_ref(), self.overwrite);
        // Of a new recovery a device that is refused leaves nothing behind. Of an old one a guest may run, whose monitor is asked
        // by one command alone.
        let new = if self.recovery.is_none() { Some(claim()?) } else { None };
        state::make_folder(&job.folder)?;
        // Whoever listens there is the one recovery of this machine.
        let socket = Socket::bind(&job.exports())?;
        if let Some(libvirt) = &job.libvirt {
            libvirt.let_in(&job.folder, &job.exports())?;
        }
        if Recovery::read(&job.folder)? != self.recovery {
            return Err(Failure::failed(format!(
                "another recovery of {} came between; run the same command again, which goes on with it",
                job.vm
            )));
        }
        let (moves, claims) = match new {
            Some(claimed) => claimed,
            None => claim()?,
        };
        if self.recovery.is_none() {
            devices::tell_behind(&claims, context)?;
        }
        for member in nbd::disks(&self.reader)? {
            unreadable::tell(context, member, nbd::UNREADABLE)?;
        }
        let mut recovery = self.recovery.clone().unwrap_or_else(|| Recovery {
            repository: nbd::repository_id(&self.reader),
            snapshot: self.reader.manifest().session,
            is_ready: false,
            moves: BTreeMap::new(),
        });
        if recovery.moves != moves {
            recovery.moves = moves;
            recovery.write(&job.folder)?;
        }
        if !recovery.is_ready {
            self.make_overlays(&mut recovery)?;
        }
        // The overlay of one that is on its device is nobody's any more.
        let is_lost = |disk: &&Disk| {
            !disk.path.exists() && !matches!(recovery.stage(&disk.export), Some(Stage::There { .. }))
        };
        match job.disks.iter().find(is_lost) {
            None => Ok(Prepared { socket, _claims: claims }),
            Some(lost) => Err(Failure::failed(format!(
                "{} is not there, and what the guest wrote was in it; nothing was changed. Bring it back, or recover into \
                 another storage",
                plain::path(&lost.path)
            ))),
        }
    }

    /// Writes down what is recovered, then makes the overlays that are not there yet.
    fn make_overlays(&self, recovery: &mut Recovery) -> Result<(), Failure> {
        let job = &self.job;
        recovery.write(&job.folder)?;
        for disk in job.disks.iter().filter(|disk| !disk.path.exists()) {
            let uri = socket::uri(&disk.export, &job.exports());
            sancerre_boot::make_overlay(&disk.path, &uri, disk.size_bytes)?;
        }
        if let Some(settings) = &self.nvram {
            libvirt::write_nvram(&job.folder, settings)?;
        }
        recovery.is_ready = true;
        recovery.write(&job.folder)
    }

    /// For JSON, with what came of it.
    pub(super) fn report(&self, more: impl IntoIterator<Item = (&'static str, Value)>) -> Map<String, Value> {
        let all = [
            ("snapshot", json!(self.reader.manifest().session.intent.to_string())),
            ("vm", json!(self.job.vm)),
            ("folder", json!(self.job.folder.display().to_string())),
        ];
        fields(all.into_iter().chain(more)).collect()
    }
}
