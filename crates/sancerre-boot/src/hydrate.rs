//! Hydration: each overlay draws in what it still reads from its export, while the guest runs, until it needs nothing.
//!
//! ```text
//! begin ──> draw (several pieces at once, asked for over NBD; may fail) ──> block-stream (what is left) ──> let go of the export
//! ```
//!
//! QEMU's stream copies 512 KiB, waits until they are written, and copies the next: half of both processors idles. So what a disk
//! has is asked for before, from an export of the overlay itself, with `NBD_CMD_CACHE`. It goes the way of the stream's own
//! copies, which QEMU orders against the guest's writes, and the stream decides whether all is there.
//!
//! All state is QEMU's and the images': whoever comes after a crash asks, and goes on. A job that was started is found by its
//! name; one that ended stays until it was looked at, so that no failure is lost.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{scope, sleep};
use std::time::Duration;

use serde_json::{Value, json};

use crate::guest::{export, node};
use crate::qmp::{Qmp, QmpError};

/// What names of jobs begin with.
const JOB: &str = "hydrate-";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(300);
/// The first look, and each after it is twice as late, up to [`LOOK`].
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// Beside the monitor: where the disks are drawn in.
const SOCKET: &str = "hydrate.sock";
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

/// Asks a server, at this socket and of this export, to draw in what the disk has, and counts the bytes. How far it comes does
/// not matter.
pub type Draw<'a> = &'a (dyn Fn(&Path, &str, &AtomicU64) + Sync);

/// Lets the disks of a running guest become their own, one after the other. `look` is told again and again how far it is, and
/// says whether it is this guest's turn: until then nothing is begun.
pub fn hydrate(
    monitor: &Path,
    disks: usize,
    draw: Draw<'_>,
    look: &mut dyn FnMut(HydrationProgress) -> bool,
) -> Result<Hydration, HydrateError> {
    let mut qmp = Qmp::connect(monitor)?;
    let mut all = (0..disks).map(|number| Stream::find(&mut qmp, number)).collect::<Result<Vec<_>, _>>()?;
    let mut hydration = Hydration::default();
    for at in 0..disks {
        let mut pause = FIRST_LOOK;
        loop {
            let is_turn = look(sum(&all));
            if is_turn && all.get(at).is_some_and(|stream| !stream.is_drawn) {
                drawn(&mut qmp, monitor, &mut all, at, draw, look)?;
            }
            let Some(stream) = all.get_mut(at) else { break };
            let state = if is_turn { stream.step(&mut qmp)? } else { StreamState::Runs };
            match state {
                StreamState::Runs => sleep(pause),
                StreamState::Done => break,
                StreamState::Failed(words) => {
                    hydration.unfinished.push((at, words));
                    break;
                }
            }
            pause = pause.saturating_mul(2).min(LOOK);
            refuse_dead_processor(&mut qmp)?;
        }
    }
    look(sum(&all));
    Ok(hydration)
}

/// Draws a disk in as far as that works; all that is wrong with it is left to the stream to say.
fn drawn(
    qmp: &mut Qmp,
    monitor: &Path,
    all: &mut [Stream],
    at: usize,
    draw: Draw<'_>,
    look: &mut dyn FnMut(HydrationProgress) -> bool,
) -> Result<(), HydrateError> {
    let Some(stream) = all.get_mut(at) else { return Ok(()) };
    stream.is_drawn = true;
    let socket = monitor.with_file_name(SOCKET);
    if !stream.can_be_drawn(qmp)? || !stream.share(qmp, &socket)? {
        return Ok(());
    }
    let (name, done) = (stream.job(), AtomicU64::new(0));
    let ended = scope(|scope| {
        let (tell, ended) = mpsc::channel::<()>();
        let (name, done, socket) = (&name, &done, &socket);
        scope.spawn(move || {
            draw(socket, name, done);
            drop(tell);
        });
        while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            if let Some(stream) = all.get_mut(at) {
                stream.done_bytes = done.load(Ordering::Relaxed).min(stream.size_bytes);
            }
            look(sum(all));
            refuse_dead_processor(qmp)?;
        }
        Ok(())
    });
    unshare(qmp, &name)?;
    ended
}

/// Ends an export, and the server with it. Where there is none there is nothing to end.
fn unshare(qmp: &mut Qmp, id: &str) -> Result<(), QmpError> {
    for (command, arguments) in
        [("block-export-del", json!({ "id": id, "mode": "hard" })), ("nbd-server-stop", json!({}))]
    {
        ignore_refused(qmp.execute(command, arguments))?;
    }
    Ok(())
}

/// Whether QEMU did it.
fn ignore_refused(answer: Result<Value, QmpError>) -> Result<bool, QmpError> {
    match answer {
        Ok(_) => Ok(true),
        Err(QmpError::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
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
    /// Whether that was tried.
    is_drawn: bool,
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
        Ok(Self { number, size_bytes, done_bytes: 0, passes: 0, is_drawn: false })
    }

    fn job(&self) -> String {
        format!("{JOB}{}", self.number)
    }

    /// Whether it needs its export, and no stream runs.
    fn can_be_drawn(&self, qmp: &mut Qmp) -> Result<bool, QmpError> {
        let id = json!(self.job());
        let jobs = qmp.execute("query-jobs", json!({}))?;
        let runs = jobs.as_array().is_some_and(|jobs| jobs.iter().any(|job| job.get("id") == Some(&id)));
        Ok(!runs && depth(&found(qmp, self.number)?) > 0)
    }

    /// Exports the overlay to whoever can reach the socket, as the monitor is reached; whether QEMU did so.
    fn share(&self, qmp: &mut Qmp, socket: &Path) -> Result<bool, QmpError> {
        // One that was killed left both.
        unshare(qmp, &self.job())?;
        let address = json!({ "addr": { "type": "unix", "data": { "path": socket } } });
        if !ignore_refused(qmp.execute("nbd-server-start", address))? {
            return Ok(false);
        }
        // Only what may write may draw in.
        let export = json!({
            "type": "nbd", "id": self.job(), "name": self.job(), "node-name": node(self.number), "writable": true,
        });
        ignore_refused(qmp.execute("block-export-add", export))
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
        ignore_refused(qmp.execute("blockdev-del", json!({ "node-name": export(self.number) }))).map(drop)
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
