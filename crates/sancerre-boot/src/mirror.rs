//! A disk that moves, as QEMU's monitor has it: a mirror copies it.

use serde_json::{Value, json};

use crate::guest::{BlockDevice, device, export, node};
use crate::job::{HydrateError, dismiss_ended_streams, job_name, let_go};
use crate::moving::{Copying, MovingGuest};
use crate::qmp::{Qmp, QmpError};

/// What a mirror has under way. QEMU asks an export for sixteen things at once: were they all the mirror's, as they would be, the
/// guest would wait for each of its reads until megabytes have come for the mirror.
pub const MIRROR_BYTES: u64 = 2 << 20;

/// Disk `number` of the guest that a monitor belongs to.
pub(crate) struct Mirrored<'a> {
    pub(crate) qmp: &'a mut Qmp,
    pub(crate) number: usize,
    pub(crate) device: &'a BlockDevice,
}

impl Mirrored<'_> {
    fn job(&mut self) -> Result<Option<Value>, QmpError> {
        let id = json!(job_name(self.number));
        let jobs = self.qmp.execute("query-jobs", json!({}))?;
        Ok(jobs.as_array().and_then(|jobs| jobs.iter().find(|job| job.get("id") == Some(&id))).cloned())
    }
}

impl MovingGuest for Mirrored<'_> {
    type Error = HydrateError;

    fn copying(&mut self) -> Result<Copying, HydrateError> {
        let Some(job) = self.job()? else { return Ok(Copying::Ended(None)) };
        let word = |field: &str| job.get(field).and_then(Value::as_str);
        Ok(match word("status") {
            Some("concluded") => {
                self.qmp.execute("job-dismiss", json!({ "id": job_name(self.number) }))?;
                Copying::Ended(word("error").map(str::to_owned))
            }
            Some("ready") => Copying::Ready,
            _ => Copying::Runs(job.get("current-progress").and_then(Value::as_u64).unwrap_or_default()),
        })
    }

    fn is_on_device(&mut self) -> Result<bool, HydrateError> {
        dismiss_ended_streams(self.qmp)?;
        let drives = self.qmp.execute("query-block", json!({}))?;
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
                let words = format!("of the guest's disk {} it is not clear where it is", self.number);
                Err(QmpError::Odd(words).into())
            }
        }
    }

    fn begin(&mut self) -> Result<(), HydrateError> {
        let target = device(self.number);
        // What an earlier try left.
        let_go(self.qmp, &target)?;
        self.qmp.execute("blockdev-add", self.device.node(self.number)?)?;
        let arguments = json!({
            "job-id": job_name(self.number), "device": node(self.number), "target": target, "sync": "full", "buf-size": MIRROR_BYTES,
            "on-source-error": "report", "on-target-error": "report", "auto-dismiss": false,
        });
        self.qmp.execute("blockdev-mirror", arguments)?;
        Ok(())
    }

    fn runs(&mut self) -> Result<bool, HydrateError> {
        let status = self.qmp.execute("query-status", json!({}))?;
        Ok(status.get("running") == Some(&json!(true)))
    }

    fn stop(&mut self) -> Result<(), HydrateError> {
        self.qmp.execute("stop", json!({}))?;
        Ok(())
    }

    fn complete(&mut self) -> Result<(), HydrateError> {
        self.qmp.execute("job-complete", json!({ "id": job_name(self.number) }))?;
        Ok(())
    }

    fn go_on(&mut self) -> Result<(), HydrateError> {
        self.qmp.execute("cont", json!({}))?;
        Ok(())
    }

    fn let_go(&mut self) -> Result<(), HydrateError> {
        for name in [node(self.number), export(self.number)] {
            let_go(self.qmp, &name)?;
        }
        Ok(())
    }
}
