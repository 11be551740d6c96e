//! A disk that moves from its overlay to a block device while its guest runs: copied by QEMU's mirror, switched at its end.
//!
//! Until the switch the overlay alone is right, since what the guest flushes is there; afterwards the device alone. Whoever
//! comes after a crash must know which of the two. Therefore the guest stands still from before the switch until it is written
//! down: in between both hold the same, durably, and either may be taken.

use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::guest::{BlockDevice, device, export, node};
use crate::job::{HydrateError, PASSES, State, dismiss_ended_streams, job_name, let_go};
use crate::qmp::{Qmp, QmpError};

/// Between two looks while the guest stands still.
const LOOK: Duration = Duration::from_millis(5);
/// So many looks; then others take their turn.
const LOOKS: u32 = 400;

/// What a mirror has under way. QEMU asks an export for sixteen things at once: were they all the mirror's, as they would be, the
/// guest would wait for each of its reads until megabytes have come for the mirror.
const MIRROR_BYTES: u64 = 2 << 20;

/// A disk that is to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moving {
    /// Where to. Nobody else writes there.
    pub device: BlockDevice,
    /// Whether the guest ran when an earlier run began the switch; none if none did.
    pub switching: Option<bool>,
}

/// Who writes down how far a switch is. Each call returns once that is durable. An error stops all; its words say why.
pub trait Switches {
    /// The guest is about to be stopped; whether it runs now. The overlay counts.
    fn begins(&mut self, number: usize, runs: bool) -> Result<(), String>;
    /// The device has all of the disk, durably, and the guest stands still: from now on the device counts, and no overlay.
    fn is_there(&mut self, number: usize) -> Result<(), String>;
    /// The guest goes on from the device, and nobody has the overlay open.
    fn ends(&mut self, number: usize) -> Result<(), String>;
}

/// One disk on its way.
pub(crate) struct Mover {
    number: usize,
    moving: Moving,
    pub(crate) done_bytes: u64,
    passes: u32,
}

impl Mover {
    pub(crate) fn new(number: usize, moving: Moving) -> Self {
        Self { number, moving, done_bytes: 0, passes: 0 }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.moving.device.size_bytes
    }

    /// Looks where it is, and does what is next.
    pub(crate) fn step(&mut self, qmp: &mut Qmp, switches: &mut dyn Switches) -> Result<State, HydrateError> {
        let job = self.job(qmp)?;
        let word = |field: &str| job.as_ref().and_then(|job| job.get(field)).and_then(Value::as_str);
        let status = word("status");
        if matches!(status, None | Some("concluded")) {
            let error = word("error").map(str::to_owned);
            if status.is_some() {
                qmp.execute("job-dismiss", json!({ "id": job_name(self.number) }))?;
            }
            return match self.is_on_device(qmp)? {
                true => self.arrive(qmp, switches),
                false => self.begin(qmp, error),
            };
        }
        let progress = job.as_ref().and_then(|job| job.get("current-progress")).and_then(Value::as_u64);
        self.done_bytes = progress.unwrap_or_default().min(self.size_bytes());
        match status {
            Some("ready") => self.switch(qmp, switches),
            _ => Ok(State::Runs),
        }
    }

    fn job(&self, qmp: &mut Qmp) -> Result<Option<Value>, QmpError> {
        let id = json!(job_name(self.number));
        let jobs = qmp.execute("query-jobs", json!({}))?;
        Ok(jobs.as_array().and_then(|jobs| jobs.iter().find(|job| job.get("id") == Some(&id))).cloned())
    }

    /// Whether the guest's disk is the device by now.
    fn is_on_device(&self, qmp: &mut Qmp) -> Result<bool, QmpError> {
        dismiss_ended_streams(qmp)?;
        let drives = qmp.execute("query-block", json!({}))?;
        let has = |name: String| {
            let name = json!(name);
            let node = |drive: &Value| drive.get("inserted").and_then(|node| node.get("node-name")).cloned();
            drives
                .as_array()
                .is_some_and(|drives| drives.iter().any(|drive| node(drive).as_ref() == Some(&name)))
        };
        match (has(node(self.number)), has(device(self.number))) {
            (true, false) => Ok(false),
            (false, true) => Ok(true),
            _ => {
                Err(QmpError::Odd(format!("of the guest's disk {} it is not clear where it is", self.number)))
            }
        }
    }

    /// Copies all of it, from the first byte on. What an earlier mirror copied it does not know.
    fn begin(&mut self, qmp: &mut Qmp, error: Option<String>) -> Result<State, HydrateError> {
        // A switch that failed: the guest goes on from its overlay.
        if self.moving.switching == Some(true) {
            qmp.execute("cont", json!({}))?;
        }
        if let Some(words) = error.filter(|_| self.passes >= PASSES) {
            return Ok(State::Failed(words));
        }
        self.passes = self.passes.saturating_add(1);
        self.done_bytes = 0;
        let target = device(self.number);
        // What an earlier try left.
        let_go(qmp, &target)?;
        qmp.execute("blockdev-add", self.moving.device.node(self.number)?)?;
        let arguments = json!({
            "job-id": job_name(self.number), "device": node(self.number), "target": target, "sync": "full", "buf-size": MIRROR_BYTES,
            "on-source-error": "report", "on-target-error": "report", "auto-dismiss": false,
        });
        qmp.execute("blockdev-mirror", arguments)?;
        Ok(State::Runs)
    }

    /// The copy has caught up: the guest is stopped, and its disk is the device.
    fn switch(&mut self, qmp: &mut Qmp, switches: &mut dyn Switches) -> Result<State, HydrateError> {
        let runs = match self.moving.switching {
            Some(runs) => runs,
            None => qmp.execute("query-status", json!({}))?.get("running") == Some(&json!(true)),
        };
        switches.begins(self.number, runs).map_err(HydrateError::Noted)?;
        self.moving.switching = Some(runs);
        // It flushes all disks. The mirror copies what the guest wrote last, and flushes the device, before it is complete.
        qmp.execute("stop", json!({}))?;
        qmp.execute("job-complete", json!({ "id": job_name(self.number) }))?;
        for _ in 0..LOOKS {
            let job = self.job(qmp)?;
            let status = job.as_ref().and_then(|job| job.get("status")).and_then(Value::as_str);
            if matches!(status, None | Some("concluded")) {
                return Ok(State::Again);
            }
            sleep(LOOK);
        }
        Ok(State::Runs)
    }

    /// Its disk is the device: that is written down before the guest goes on.
    fn arrive(&mut self, qmp: &mut Qmp, switches: &mut dyn Switches) -> Result<State, HydrateError> {
        switches.is_there(self.number).map_err(HydrateError::Noted)?;
        if self.moving.switching == Some(true) {
            qmp.execute("cont", json!({}))?;
        }
        for name in [node(self.number), export(self.number)] {
            let_go(qmp, &name)?;
        }
        switches.ends(self.number).map_err(HydrateError::Noted)?;
        self.done_bytes = self.size_bytes();
        Ok(State::Done)
    }
}

#[cfg(test)]
mod tests;
