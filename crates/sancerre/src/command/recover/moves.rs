//! Disks that move to block devices: where each is now, and how far it is, as it is written down.

use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Instant;

use sancerre_boot::{DiskPlace, Hydrated, Moving, Switches};

use super::bring_up::{Disk, Job};
use super::state::{Recovery, Stage};
use crate::exit::Failure;
use crate::output::Output;
use crate::plain;

/// Where the disks of a guest are that is about to start. What is on its device has no overlay from now on.
pub(super) fn places(job: &Job) -> Result<Vec<DiskPlace>, Failure> {
    let recovery = read(job)?;
    let place = |disk: &Disk| match (recovery.stage(&disk.export), &disk.device) {
        (Some(Stage::There { .. }), Some(device)) => {
            remove_overlay(disk).map_err(Failure::failed)?;
            Ok(DiskPlace::Device(disk.on(device)))
        }
        _ => {
            let needs_export = sancerre_boot::has_backing(&disk.path)?;
            Ok(DiskPlace::Overlay { path: disk.path.clone(), needs_export })
        }
    };
    job.disks.iter().map(place).collect()
}

/// What becomes of the disks of a guest that runs.
pub(super) fn ways(job: &Job) -> Result<Vec<Hydrated>, Failure> {
    let recovery = read(job)?;
    let way = |disk: &Disk| {
        let (Some(stage), Some(device)) = (recovery.stage(&disk.export), &disk.device) else {
            return Hydrated::Overlay;
        };
        let device = disk.on(device);
        match stage {
            Stage::Copies => Hydrated::Device(Moving { device, switching: None }),
            Stage::Switches { runs } => Hydrated::Device(Moving { device, switching: Some(runs) }),
            // As long as there is an overlay the guest was not let go on.
            Stage::There { runs } if disk.path.exists() => {
                Hydrated::Device(Moving { device, switching: Some(runs) })
            }
            Stage::There { .. } => Hydrated::Whole(device.size_bytes),
        }
    };
    Ok(job.disks.iter().map(way).collect())
}

/// Whether all of a disk is on its device, by what is written down.
pub(super) fn is_there(job: &Job, disk: &Disk) -> Result<bool, Failure> {
    Ok(matches!(read(job)?.stage(&disk.export), Some(Stage::There { .. })))
}

/// Of a machine that libvirt has no more in the middle of a switch nobody knows where its disk is.
pub(super) fn refuse_lost(job: &Job) -> Result<(), Failure> {
    let recovery = read(job)?;
    let is_switching = |disk: &&Disk| matches!(recovery.stage(&disk.export), Some(Stage::Switches { .. }));
    match job.disks.iter().find(is_switching) {
        None => Ok(()),
        Some(disk) => Err(Failure::failed(format!(
            "libvirt has no such machine any more, and it was about to be switched from {} to {}: it may have run on from either; \
             nothing was changed. Define it again as it was (`virsh define`), with {} where it was last, and run the same command again",
            plain::path(&disk.path),
            plain::path(disk.end()),
            disk.export
        ))),
    }
}

fn read(job: &Job) -> Result<Recovery, Failure> {
    let lost = || {
        Failure::failed(format!(
            "what was written down in {} is gone; look who removes it",
            plain::path(&job.folder)
        ))
    };
    Recovery::read(&job.folder)?.ok_or_else(lost)
}

fn remove_overlay(disk: &Disk) -> Result<(), String> {
    match fs::remove_file(&disk.path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(format!("cannot remove {}, which nothing needs any more: {error}", plain::path(&disk.path)))
        }
        _ => Ok(()),
    }
}

/// Writes down how far disks are.
pub(super) struct Ledger<'a> {
    job: &'a Job,
    output: &'a Arc<Output>,
    /// Since when the guest may stand still for a switch.
    still_since: Option<Instant>,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(job: &'a Job, output: &'a Arc<Output>) -> Self {
        Self { job, output, still_since: None }
    }

    fn disk(&self, number: usize) -> Result<&Disk, String> {
        self.job.disks.get(number).ok_or_else(|| format!("there is no disk {number}"))
    }

    fn note(&self, number: usize, stage: impl Fn(Stage) -> Option<Stage>) -> Result<(), String> {
        let disk = self.disk(number)?;
        let mut recovery = read(self.job).map_err(|failure| failure.message)?;
        let moving = recovery.moves.get_mut(&disk.export);
        let Some((next, moving)) = moving.and_then(|moving| Some((stage(moving.stage)?, moving))) else {
            return Err(format!(
                "what is written down in {} does not say that {} was about to be on its device, where it is",
                plain::path(&self.job.folder),
                disk.export
            ));
        };
        moving.stage = next;
        recovery.write(&self.job.folder).map_err(|failure| failure.message)
    }
}

impl Switches for Ledger<'_> {
    fn begins(&mut self, number: usize, runs: bool) -> Result<(), String> {
        self.note(number, |_| Some(Stage::Switches { runs }))?;
        self.still_since = runs.then(Instant::now);
        Ok(())
    }

    fn is_there(&mut self, number: usize) -> Result<(), String> {
        self.note(number, |stage| match stage {
            Stage::Switches { runs } | Stage::There { runs } => Some(Stage::There { runs }),
            Stage::Copies => None,
        })
    }

    fn goes_back(&mut self, number: usize) -> Result<(), String> {
        self.still_since = None;
        self.note(number, |stage| match stage {
            Stage::Switches { .. } | Stage::Copies => Some(Stage::Copies),
            Stage::There { .. } => None,
        })
    }

    fn ends(&mut self, number: usize) -> Result<(), String> {
        let still = self.still_since.take().map(|since| since.elapsed());
        let still = still.map_or_else(String::new, |time| {
            format!("; its guest stood still for {:.2} s", time.as_secs_f64())
        });
        let disk = self.disk(number)?;
        remove_overlay(disk)?;
        self.output.message(&format!("{} is on {} now{still}", disk.export, plain::path(disk.end())));
        Ok(())
    }
}
