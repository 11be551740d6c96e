//! Block devices as the final storage of a machine's disks: which disk goes to which, and whether it is still the same device.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};
use sancerre_engine::restore::Behind;
use sancerre_image::RawTarget;

use super::bring_up::{Disk, Job};
use super::plan::Line;
use super::state::{Hypervisor, Move, Recovery, Stage};
use crate::command::{Context, restore};
use crate::exit::Failure;
use crate::plain;
use crate::units::count;

/// How what lies behind a disk becomes zeros: the device is new, so all of it may.
const WIPE: &str = "`blkdiscard --zeroout` or `wipefs --all` before the recovery takes it away";

/// Where machines are recovered to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    /// Holds a folder for each machine.
    pub(super) folder: PathBuf,
    /// Devices, and the disks that are named with them.
    devices: Vec<(Option<String>, PathBuf)>,
    /// Whether what is on them may be lost.
    pub(super) overwrite: bool,
}

impl Storage {
    /// What was said on the command line.
    pub(super) fn parse(values: &[PathBuf], overwrite: bool) -> Result<Self, Failure> {
        let (mut folders, mut devices) = (Vec::new(), Vec::new());
        for value in values {
            match device(value)? {
                Some(device) => devices.push(device),
                None => folders.push(value.clone()),
            }
        }
        if overwrite && devices.is_empty() {
            return Err(Failure::usage("--overwrite is about devices, and --storage names none"));
        }
        let mut folders = folders.into_iter();
        match (folders.next(), folders.next()) {
            (Some(folder), None) => Ok(Self { folder, devices, overwrite }),
            (None, _) => Err(Failure::usage(
                "--storage names a device and no directory: what a guest writes lies in a directory until the device has all \
                 of the disk. Name both: --storage DIR --storage DEVICE",
            )),
            (Some(one), Some(other)) => Err(Failure::usage(format!(
                "--storage names two directories, {} and {}: the disks of all machines go into one",
                plain::path(&one),
                plain::path(&other)
            ))),
        }
    }

    /// The same for a machine of a plan: the devices that its line names.
    pub(super) fn of_line(&self, line: &Line) -> Result<Self, Failure> {
        let device = |value: &PathBuf| {
            device(value)?.ok_or_else(|| {
                Failure::usage(format!(
                    "{} is no block device, and a line of a plan names devices; the directory is one for all machines, and stands \
                     behind --storage of the command",
                    plain::path(value)
                ))
            })
        };
        let devices = line.storage.iter().map(device).collect::<Result<_, _>>()?;
        Ok(Self { folder: self.folder.clone(), devices, overwrite: line.overwrite })
    }

    /// Whether any device is named.
    pub(super) fn has_devices(&self) -> bool {
        !self.devices.is_empty()
    }

    /// Tells disks which device they go to; what an earlier run wrote down is taken where nothing is said.
    pub(super) fn assign(
        &self,
        vm: &str,
        disks: &mut [Disk],
        recovery: Option<&Recovery>,
    ) -> Result<(), Failure> {
        for disk in disks.iter_mut() {
            let moving = recovery.and_then(|recovery| recovery.moves.get(&disk.export));
            disk.device = moving.map(|moving| PathBuf::from(&moving.device));
        }
        let names = disks.iter().map(|disk| disk.export.as_str()).collect::<Vec<_>>().join(", ");
        let mut named: Vec<usize> = Vec::new();
        for (name, device) in &self.devices {
            let number = match (name, &*disks) {
                (None, [_]) => Some(0),
                (None, _) => {
                    return Err(Failure::usage(format!(
                        "{vm} has {}, {names}: say which one goes to {}, with --storage DISK={}. A disk without a device stays in \
                         the directory",
                        count(disks.len() as u64, "disk"),
                        plain::path(device),
                        plain::path(device)
                    )));
                }
                (Some(name), _) => disks.iter().position(|disk| disk.export == *name),
            };
            let (Some(number), Some(name)) = (number, number.and_then(|number| disks.get_mut(number))) else {
                let name = name.as_deref().unwrap_or_default();
                return Err(Failure::usage(format!("{vm} has no disk {name}; it has {names}")));
            };
            if named.contains(&number) {
                return Err(Failure::usage(format!(
                    "two devices are named for {}: a disk goes to one",
                    name.export
                )));
            }
            named.push(number);
            name.device = Some(device.clone());
        }
        Ok(())
    }
}

/// Two disks, of one machine or of two, on one device.
pub(super) fn refuse_shared<'a>(jobs: impl Iterator<Item = &'a Job>) -> Result<(), Failure> {
    let mut seen: Vec<(&Job, &Disk, u64)> = Vec::new();
    for (job, disk) in jobs.flat_map(|job| job.disks.iter().map(move |disk| (job, disk))) {
        let Some(device) = &disk.device else { continue };
        let number = fs::metadata(device).map_err(|error| unseen(device, &error))?.rdev();
        if let Some((of, other, _)) = seen.iter().find(|(_, _, other)| *other == number) {
            return Err(Failure::usage(format!(
                "{} of {} and {} of {} would go to the same device, {}: give each one of its own; nothing was changed",
                other.export,
                of.vm,
                disk.export,
                job.vm,
                plain::path(device)
            )));
        }
        seen.push((job, disk, number));
    }
    Ok(())
}

/// A device, perhaps with the name of a disk before it; none for a directory.
fn device(value: &Path) -> Result<Option<(Option<String>, PathBuf)>, Failure> {
    if value.is_dir() {
        return Ok(None);
    }
    if is_block(value) {
        return Ok(Some((None, absolute(value)?)));
    }
    let named = value.to_str().and_then(|text| text.split_once('='));
    let path = named.map_or(value, |(_, path)| Path::new(path));
    match named {
        Some((name, _)) if is_block(path) => Ok(Some((Some(name.to_owned()), absolute(path)?))),
        // A name that is not there would become a directory among devices.
        _ if path.starts_with("/dev") && !path.starts_with("/dev/shm") => Err(Failure::usage(format!(
            "{} is no block device, and no directory; nothing was changed. Is its volume active?",
            plain::path(path)
        ))),
        _ => Ok(None),
    }
}

fn is_block(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device())
}

/// Written down for later runs, as text.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    match std::path::absolute(path) {
        Ok(path) if path.to_str().is_some() => Ok(path),
        _ => Err(Failure::usage(format!(
            "the path {} is not text in UTF-8, which QEMU needs; name another one",
            plain::path(path)
        ))),
    }
}

/// What a device is called by what does not change: a name under `/dev` may belong to another one after the next start.
pub(super) fn identity(path: &Path) -> Result<String, Failure> {
    let failed = |error: std::io::Error| unseen(path, &error);
    let number = fs::metadata(path).map_err(failed)?.rdev();
    let folder = PathBuf::from(format!("/sys/dev/block/{}:{}", major(number), minor(number)));
    let folder = fs::canonicalize(&folder).map_err(failed)?;
    if let Some(part) = told(&folder.join("partition")) {
        let whole = folder.parent().unwrap_or(&folder);
        let begins = must_tell(&folder.join("start"))?;
        return Ok(format!("partition {part} at {begins} of {}", of_whole(whole)?));
    }
    of_whole(&folder)
}

fn of_whole(folder: &Path) -> Result<String, Failure> {
    let lasting = ["dm/uuid", "md/uuid", "wwid", "device/wwid", "serial", "device/serial"];
    if let Some(found) = lasting.iter().find_map(|name| Some(format!("{name} {}", told(&folder.join(name))?)))
    {
        return Ok(found);
    }
    // Nothing that lasts is known of it: it is the same until it is attached, or the system started, anew.
    let boot = must_tell(Path::new("/proc/sys/kernel/random/boot_id"))?;
    let disk = must_tell(&folder.join("diskseq"))?;
    Ok(format!("{} {disk} of start {boot}", folder.display()))
}

/// What tells one device from another: without it bytes of others could be taken for the guest's.
fn must_tell(path: &Path) -> Result<String, Failure> {
    told(path).ok_or_else(|| {
        Failure::failed(format!(
            "the kernel does not say what is in {}, so this device cannot be told from another; name a device that has a serial \
             number or an id (lsblk -o NAME,SERIAL,WWN)",
            path.display()
        ))
    })
}

fn unseen(device: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot look at {}: {error}; name another device", plain::path(device)))
}

/// What the kernel says in a file; none if nothing.
fn told(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Takes hold of the devices of a machine, and refuses those that cannot take its disks. Changes nothing. Returns how far each
/// disk is now, and what keeps others away from the devices for as long as it lives.
pub(super) fn claim(
    job: &Job,
    recovery: Option<&Recovery>,
    overwrite: bool,
) -> Result<(BTreeMap<String, Move>, Vec<RawTarget>), Failure> {
    let (mut moves, mut claims) = (BTreeMap::new(), Vec::new());
    let has_devices = job.disks.iter().any(|disk| disk.device.is_some());
    let (runs, by) = (has_devices && recovery.is_some() && runs(job)?, job.by());
    for disk in &job.disks {
        let Some(device) = &disk.device else { continue };
        let known = recovery.and_then(|recovery| recovery.moves.get(&disk.export));
        if let Some(known) = known.filter(|known| known.by != by) {
            return Err(Failure::usage(format!(
                "{} of {} goes to its device by --to {}, and nobody else knows how far that is; nothing was changed. Go on with that",
                disk.export,
                job.vm,
                known.by.word()
            )));
        }
        let identity = identity(device)?;
        let is_same = known.is_some_and(|known| known.identity == identity);
        let counts = |stage: Stage| match stage {
            Stage::There { .. } => true,
            // The machine may have been started from it since: that is looked at before it is started here.
            Stage::Switches { .. } => runs || by == Hypervisor::Libvirt,
            Stage::Copies => runs,
        };
        let stage = match known.map(|known| known.stage) {
            Some(stage) if is_same && counts(stage) => stage,
            Some(stage) if counts(stage) => return Err(another(disk, device, known)),
            // Its QEMU is gone, and with it what it did.
            _ => Stage::Copies,
        };
        // A guest that runs has the device open itself, and locks it.
        if !(is_same && runs) {
            let size_bytes = sancerre_boot::disk_bytes(disk.size_bytes);
            claims.push(RawTarget::create(device, size_bytes, overwrite || is_same)?);
        }
        let device = device.display().to_string();
        moves.insert(disk.export.clone(), Move { identity, device, by, stage });
    }
    Ok((moves, claims))
}

/// Whether the guest of a recovery runs.
fn runs(job: &Job) -> Result<bool, Failure> {
    match &job.libvirt {
        Some(libvirt) => libvirt.runs(),
        // Whether a QEMU listens, and no more: one that is at its start answers when its export is served, which is later.
        None => Ok(UnixStream::connect(job.monitor()).is_ok()),
    }
}

/// Says what will lie behind the disks on devices that are larger.
pub(super) fn tell_behind(claims: &[RawTarget], context: &Context) -> Result<(), Failure> {
    for device in claims {
        let behind = Behind::of(device)?;
        restore::device::tell(device.path(), &behind, WIPE, context);
    }
    Ok(())
}

fn another(disk: &Disk, device: &Path, known: Option<&Move>) -> Failure {
    let known = known.map_or("another one", |known| known.identity.as_str());
    Failure::failed(format!(
        "{} is not the device that {} went to before ({known}); nothing was changed. Name that one, by a name that lasts \
         (/dev/disk/by-id, or its volume group's)",
        plain::path(device),
        disk.export
    ))
}
