//! What every job that fills a guest's disk has: its name, how often it is tried, how it ends, and what it leaves.

use serde_json::{Value, json};

use crate::guest::PlanError;
use crate::moving::NotNoted;
use crate::qmp::{Qmp, QmpError};

/// What names of jobs begin with.
const JOB: &str = "hydrate-";

/// Why it did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum HydrateError {
    /// The guest was shut down, or its QEMU died.
    #[error("the guest's QEMU is gone: {0}")]
    Gone(QmpError),
    /// The kernel's virtualisation does not work here.
    #[error("the guest's processor stopped with an error of the virtualisation")]
    Processor,
    /// Its monitor failed otherwise.
    #[error(transparent)]
    Monitor(QmpError),
    /// It cannot be told of a device.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// How far a disk is that moves could not be written down.
    #[error(transparent)]
    Noted(#[from] NotNoted),
}

impl From<QmpError> for HydrateError {
    fn from(error: QmpError) -> Self {
        if error.is_gone() { Self::Gone(error) } else { Self::Monitor(error) }
    }
}

/// The name of a disk's job.
pub(crate) fn job_name(number: usize) -> String {
    format!("{JOB}{number}")
}

/// Takes away a node that nothing stands on any more. Who did so before has none.
pub(crate) fn let_go(qmp: &mut Qmp, node: &str) -> Result<(), QmpError> {
    match qmp.execute("blockdev-del", json!({ "node-name": node })) {
        Ok(_) | Err(QmpError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What a program that was killed did not look at. QEMU 10.0 dies when it lists its nodes after a job that streams has ended
/// and before it was dismissed: the job's filter has lost its child then. What could not be read is found again by the next.
pub(crate) fn dismiss_ended_streams(qmp: &mut Qmp) -> Result<(), QmpError> {
    let jobs = qmp.execute("query-jobs", json!({}))?;
    for job in jobs.as_array().into_iter().flatten() {
        let word = |field: &str| job.get(field).and_then(Value::as_str).unwrap_or_default();
        let is_ours = word("id").starts_with(JOB) && word("type") == "stream";
        if is_ours && word("status") == "concluded" {
            qmp.execute("job-dismiss", json!({ "id": word("id") }))?;
        }
    }
    Ok(())
}
