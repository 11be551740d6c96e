//! Hydration: while the guest runs, each overlay draws in what it still reads from its export, until it needs nothing, or
//! its disk moves to a block device.
//!
//! All state is QEMU's and the images': whoever comes after a crash asks, and goes on. A job that was started is found by its
//! name; one that ended stays until it was looked at, so that no failure is lost.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::guest::{export, node};
use crate::job::{HydrateError, dismiss_ended_streams, job_name, let_go};
use crate::mirror::Mirrored;
use crate::moving::{Mover, Moving, PASSES, Step, Switches};
use crate::qmp::{Qmp, QmpError};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(300);

/// What becomes of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hydrated {
    /// Its overlay becomes whole.
    Overlay,
    /// It moves to a block device.
    Device(Moving),
    /// Nothing: so many bytes are on its device.
    Whole(u64),
}

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

/// Lets the disks of a running guest become their own, one after the other. `look` is told again and again how far it is, and
/// says whether it is this guest's turn: until then nothing is begun. `switches` writes down how far those are that move.
pub fn hydrate(
    monitor: &Path,
    disks: &[Hydrated],
    look: &mut dyn FnMut(HydrationProgress) -> bool,
    switches: &mut dyn Switches,
) -> Result<Hydration, HydrateError> {
    let mut qmp = Qmp::connect(monitor)?;
    let ways = disks.iter().enumerate();
    let mut all =
        ways.map(|(number, disk)| Way::find(&mut qmp, number, disk)).collect::<Result<Vec<_>, _>>()?;
    let mut hydration = Hydration::default();
    // A guest may stand still until a switch that was begun is over.
    let (begun, others): (Vec<usize>, Vec<usize>) =
        (0..all.len()).partition(|at| all.get(*at).is_some_and(Way::is_switching));
    for at in begun.into_iter().chain(others) {
        loop {
            let is_turn = look(sum(&all));
            let Some(way) = all.get_mut(at) else { break };
            let step = match is_turn || way.is_switching() {
                true => way.step(&mut qmp, switches)?,
                false => Step::Runs,
            };
            match step {
                Step::Runs => sleep(LOOK),
                Step::Done => break,
                Step::Failed(words) => {
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

fn sum(all: &[Way]) -> HydrationProgress {
    let sum = |field: fn(&Way) -> u64| all.iter().map(field).fold(0, u64::saturating_add);
    HydrationProgress { total_bytes: sum(Way::size_bytes), done_bytes: sum(Way::done_bytes) }
}

/// How a disk becomes whole.
enum Way {
    Stream(Stream),
    Move(usize, Mover),
    Whole(u64),
}

impl Way {
    fn find(qmp: &mut Qmp, number: usize, disk: &Hydrated) -> Result<Self, QmpError> {
        Ok(match disk {
            Hydrated::Overlay => Self::Stream(Stream::find(qmp, number)?),
            Hydrated::Device(moving) => Self::Move(number, Mover::new(number, moving.clone())),
            Hydrated::Whole(size_bytes) => Self::Whole(*size_bytes),
        })
    }

    fn step(&mut self, qmp: &mut Qmp, switches: &mut dyn Switches) -> Result<Step, HydrateError> {
        match self {
            Self::Stream(stream) => Ok(stream.step(qmp)?),
            Self::Move(number, mover) => {
                let device = &mover.device().clone();
                mover.step(&mut Mirrored { qmp, number: *number, device }, switches)
            }
            Self::Whole(_) => Ok(Step::Done),
        }
    }

    fn is_switching(&self) -> bool {
        matches!(self, Self::Move(_, mover) if mover.is_switching())
    }

    fn size_bytes(&self) -> u64 {
        match self {
            Self::Stream(stream) => stream.size_bytes,
            Self::Move(_, mover) => mover.device().size_bytes,
            Self::Whole(size_bytes) => *size_bytes,
        }
    }

    fn done_bytes(&self) -> u64 {
        match self {
            Self::Stream(stream) => stream.done_bytes,
            Self::Move(_, mover) => mover.done_bytes(),
            Self::Whole(size_bytes) => *size_bytes,
        }
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

impl Stream {
    /// What there is of it.
    fn find(qmp: &mut Qmp, number: usize) -> Result<Self, QmpError> {
        let size_bytes = size(&found(qmp, number)?);
        Ok(Self { number, size_bytes, done_bytes: 0, passes: 0 })
    }

    /// Looks where it is, and starts what is to be started.
    fn step(&mut self, qmp: &mut Qmp) -> Result<Step, QmpError> {
        let id = job_name(self.number);
        let jobs = qmp.execute("query-jobs", json!({}))?;
        let job = jobs.as_array().and_then(|jobs| jobs.iter().find(|job| job.get("id") == Some(&json!(id))));
        let Some(job) = job else { return self.begin(qmp) };
        let number = |field: &str| job.get(field).and_then(Value::as_u64).unwrap_or_default();
        self.done_bytes = number("current-progress").min(self.size_bytes);
        if job.get("status").and_then(Value::as_str) != Some("concluded") {
            return Ok(Step::Runs);
        }
        let error = job.get("error").and_then(Value::as_str).map(str::to_owned);
        qmp.execute("job-dismiss", json!({ "id": id }))?;
        match error {
            Some(words) if self.passes >= PASSES => Ok(Step::Failed(words)),
            _ => Ok(Step::Runs),
        }
    }

    /// Nothing runs for it: it is done, or is to be begun.
    fn begin(&mut self, qmp: &mut Qmp) -> Result<Step, QmpError> {
        if depth(&found(qmp, self.number)?) == 0 {
            self.done_bytes = self.size_bytes;
            return let_go(qmp, &export(self.number)).map(|()| Step::Done);
        }
        self.passes = self.passes.saturating_add(1);
        // What cannot be read is passed over, and the job fails at its end: all else is there then.
        let arguments = json!({
            "job-id": job_name(self.number), "device": node(self.number), "on-error": "ignore", "auto-dismiss": false,
        });
        qmp.execute("block-stream", arguments)?;
        Ok(Step::Runs)
    }
}

/// What QEMU says of a disk's node. Not "flat": then it would say of every disk that it stands on nothing.
fn found(qmp: &mut Qmp, number: usize) -> Result<Value, QmpError> {
    dismiss_ended_streams(qmp)?;
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
