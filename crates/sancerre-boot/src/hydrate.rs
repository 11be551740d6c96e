//! Hydration: each overlay draws in what it still reads from its export, while the guest runs, until it needs nothing.
//!
//! All state is QEMU's and the images': whoever comes after a crash asks, and goes on. A job that was started is found by its
//! name; one that ended stays until it was looked at, so that no failure is lost.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::guest::{export, node};
use crate::qmp::{Qmp, QmpError};

/// What names of jobs begin with.
const JOB: &str = "hydrate-";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(300);
/// How often a disk is gone over when some of it could not be read: an outage passes, damage does not.
const PASSES: u32 = 3;

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HydrationProgress {
    /// Of all disks.
    pub total_bytes: u64,
    /// Of these there are so many.
    pub done_bytes: u64,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hydration {
    /// Disks, by number, of which some could not be read, with QEMU's words: they still need their export.
    pub unfinished: Vec<(usize, String)>,
}

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
}

impl From<QmpError> for HydrateError {
    fn from(error: QmpError) -> Self {
        if error.is_gone() { Self::Gone(error) } else { Self::Monitor(error) }
    }
}

/// Lets the disks of a running guest become their own, one after the other. `look` is told again and again how far it is, and
/// says whether it is this guest's turn: until then nothing is begun.
pub fn hydrate(
    monitor: &Path,
    disks: usize,
    look: &mut dyn FnMut(HydrationProgress) -> bool,
) -> Result<Hydration, HydrateError> {
    let mut qmp = Qmp::connect(monitor)?;
    let mut all = (0..disks).map(|number| Stream::find(&mut qmp, number)).collect::<Result<Vec<_>, _>>()?;
    let mut hydration = Hydration::default();
    for at in 0..disks {
        loop {
            let is_turn = look(sum(&all));
            let Some(stream) = all.get_mut(at) else { break };
            let state = if is_turn { stream.step(&mut qmp)? } else { StreamState::Runs };
            match state {
                StreamState::Runs => sleep(LOOK),
                StreamState::Done => break,
                StreamState::Failed(words) => {
                    hydration.unfinished.push((at, words));
                    break;
                }
            }
            refuse_dead_processor(&mut qmp)?;
        }
    }
    look(sum(&all));
    Ok(hydration)
}

fn sum(all: &[Stream]) -> HydrationProgress {
    let sum = |field: fn(&Stream) -> u64| all.iter().map(field).fold(0, u64::saturating_add);
    HydrationProgress {
        total_bytes: sum(|stream| stream.size_bytes),
        done_bytes: sum(|stream| stream.done_bytes),
    }
}

fn refuse_dead_processor(qmp: &mut Qmp) -> Result<(), HydrateError> {
    let status = qmp.execute("query-status", json!({}))?;
    match status.get("status").and_then(Value::as_str) {
        Some("internal-error") => Err(HydrateError::Processor),
        _ => Ok(()),
    }
}

/// One disk on its way.
struct Stream {
    number: usize,
    size_bytes: u64,
    done_bytes: u64,
    passes: u32,
}

enum StreamState {
    Runs,
    Done,
    Failed(String),
}

impl Stream {
    /// What there is of it.
    fn find(qmp: &mut Qmp, number: usize) -> Result<Self, QmpError> {
        let size_bytes = size(&found(qmp, number)?);
        Ok(Self { number, size_bytes, done_bytes: 0, passes: 0 })
    }

    fn job(&self) -> String {
        format!("{JOB}{}", self.number)
    }

    /// Looks where it is, and starts what is to be started.
    fn step(&mut self, qmp: &mut Qmp) -> Result<StreamState, QmpError> {
        let id = self.job();
        let jobs = qmp.execute("query-jobs", json!({}))?;
        let job = jobs.as_array().and_then(|jobs| jobs.iter().find(|job| job.get("id") == Some(&json!(id))));
        let Some(job) = job else { return self.begin(qmp) };
        let number = |field: &str| job.get(field).and_then(Value::as_u64).unwrap_or_default();
        self.done_bytes = number("current-progress").min(self.size_bytes);
        if job.get("status").and_then(Value::as_str) != Some("concluded") {
            return Ok(StreamState::Runs);
        }
        let error = job.get("error").and_then(Value::as_str).map(str::to_owned);
        qmp.execute("job-dismiss", json!({ "id": id }))?;
        match error {
            Some(words) if self.passes >= PASSES => Ok(StreamState::Failed(words)),
            _ => Ok(StreamState::Runs),
        }
    }

    /// Lets go of the export, which nothing stands on any more. Who did so before has none.
    fn let_go(&self, qmp: &mut Qmp) -> Result<(), QmpError> {
        match qmp.execute("blockdev-del", json!({ "node-name": export(self.number) })) {
            Ok(_) | Err(QmpError::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Nothing runs for it: it is done, or is to be begun.
    fn begin(&mut self, qmp: &mut Qmp) -> Result<StreamState, QmpError> {
        if depth(&found(qmp, self.number)?) == 0 {
            self.done_bytes = self.size_bytes;
            return self.let_go(qmp).map(|()| StreamState::Done);
        }
        self.passes = self.passes.saturating_add(1);
        // What cannot be read is passed over, and the job fails at its end: all else is there then.
        let arguments = json!({
            "job-id": self.job(), "device": node(self.number), "on-error": "ignore", "auto-dismiss": false,
        });
        qmp.execute("block-stream", arguments)?;
        Ok(StreamState::Runs)
    }
}

/// What a program that was killed did not look at. QEMU 10.0 dies when it lists its nodes after a job that streams has ended
/// and before it was dismissed: the job's filter has lost its child then. What could not be read is found again by the next.
fn dismiss_ended(qmp: &mut Qmp) -> Result<(), QmpError> {
    let jobs = qmp.execute("query-jobs", json!({}))?;
    for job in jobs.as_array().into_iter().flatten() {
        let word = |field: &str| job.get(field).and_then(Value::as_str).unwrap_or_default();
        if word("id").starts_with(JOB) && word("status") == "concluded" {
            qmp.execute("job-dismiss", json!({ "id": word("id") }))?;
        }
    }
    Ok(())
}

/// What QEMU says of a disk's node. Not "flat": then it would say of every disk that it stands on nothing.
fn found(qmp: &mut Qmp, number: usize) -> Result<Value, QmpError> {
    dismiss_ended(qmp)?;
    let name = json!(node(number));
    let nodes = qmp.execute("query-named-block-nodes", json!({}))?;
    let nodes = nodes.as_array().cloned().unwrap_or_default();
    let node = nodes.into_iter().find(|node| node.get("node-name") == Some(&name));
    node.ok_or_else(|| QmpError::Odd(format!("the guest that runs there has no disk {name}")))
}

fn depth(node: &Value) -> u64 {
    // invariant: what is not told is taken for a disk that needs its export
    node.get("backing_file_depth").and_then(Value::as_u64).unwrap_or(1)
}

fn size(node: &Value) -> u64 {
    node.get("image").and_then(|image| image.get("virtual-size")).and_then(Value::as_u64).unwrap_or_default()
}
