//! Boot traces of machines that start from the repository: what one asks for until it is up is recorded where that is wanted, and
//! fetched first wherever it starts again.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use sancerre_engine::boot_trace;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::snapshot_disk::{
    BootRecorder, FetchedFirst, SnapshotDisk, fetch_first as fetch,
};
use sancerre_engine::restore::SnapshotReader;
use sancerre_format::boot_trace::BootTrace;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Context;
use crate::units::{count, size};

/// A trace that was stored.
pub(super) struct Traced {
    /// The number of its note.
    entry: u64,
    chunks: usize,
}

impl Traced {
    /// For JSON.
    pub(super) fn json(&self) -> Value {
        json!({ "entry": self.entry, "chunks": self.chunks })
    }
}

impl fmt::Display for Traced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chunks = count(self.chunks as u64, "chunk");
        write!(f, "its boot trace ({chunks}) is stored, log entry {}", self.entry)
    }
}

/// What a machine asks its disks for until it is up.
#[derive(Debug, Default)]
pub(super) struct Recording {
    recorder: Arc<BootRecorder>,
    until_up: OnceLock<BootTrace>,
}

impl Recording {
    /// Records from now on what these disks are asked for.
    pub(super) fn begin(&self, disks: &[Arc<SnapshotDisk>]) {
        disks.iter().for_each(|disk| disk.record(&self.recorder));
    }

    /// The machine is up: what is asked for later is no part of it.
    pub(super) fn end(&self) {
        self.until_up.get_or_init(|| self.recorder.trace());
    }

    /// What was asked for until it was up; none before that.
    pub(super) fn trace(&self) -> Option<&BootTrace> {
        self.until_up.get()
    }
}

/// Stores what was recorded while the snapshot started. That it cannot is warned of: nobody needs it.
pub(super) async fn keep(
    repository: &Repository,
    reader: &SnapshotReader,
    trace: &BootTrace,
    context: &Context,
) -> Option<Traced> {
    let vm = reader.vm();
    if trace.chunks.is_empty() {
        context.output.warning(&format!("{vm} asked its disks for nothing: there is no boot trace to store"));
        return None;
    }
    match boot_trace::keep(repository, reader.manifest().session, trace).await {
        Ok(entry) => Some(Traced { entry, chunks: trace.chunks.len() }),
        Err(error) => {
            context.output.warning(&format!("the boot trace of {vm} is not stored: {error}"));
            None
        }
    }
}

/// A trace on its way; it ends when this is dropped.
pub(super) struct Fetching {
    _task: JoinSet<()>,
    /// Whether all of it came, or there was none.
    pub(super) is_over: Arc<AtomicBool>,
}

/// However the fetching ends: what waits for that must not wait for ever.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Fetches what the newest trace of the machine names, if there is one, in the background.
#[must_use = "it ends when this is dropped"]
pub(super) fn fetch_first(
    reader: &SnapshotReader,
    disks: Vec<Arc<SnapshotDisk>>,
    context: &Context,
) -> Fetching {
    let (frames, manifest, vm) =
        (Arc::clone(reader.frames()), reader.manifest().clone(), reader.vm().clone());
    let (output, monitor) = (Arc::clone(&context.output), context.monitor());
    let (mut task, is_over) = (JoinSet::new(), Arc::default());
    let over = Over(Arc::clone(&is_over));
    task.spawn(async move {
        let _over = over;
        let found = boot_trace::newest(frames.repository(), &frames.log(), &manifest, &monitor).await;
        if let Some(found) = found {
            let came = fetch(&disks, &found.trace).await;
            output.message(&format!(
                "{vm}: {}, by the boot trace of log entry {}",
                words(&came),
                found.number
            ));
        }
    });
    Fetching { _task: task, is_over }
}

fn words(came: &FetchedFirst) -> String {
    let mut words =
        format!("{} came first, in {} fetched", count(came.chunks as u64, "chunk"), size(came.bytes));
    if came.absent > 0 {
        words.push_str(&format!("; {} not in this snapshot", came.absent));
    }
    if came.left > 0 {
        words.push_str(&format!(
            "; {} left out, for which there was no room in --memory or which could not be had",
            came.left
        ));
    }
    words
}
