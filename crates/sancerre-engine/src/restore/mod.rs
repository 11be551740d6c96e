//! Restore: from a snapshot's map to the bytes of a disk.
//!
//! ```text
//! walk (map, a window at a time) -> plan (pure) -> arrival (a request, frame by frame) -> open (ids checked) -> write
//! ```
//!
//! A map carries places, so nothing but the snapshot's own pack lists is read besides it: the time a restore takes
//! depends on the disk, not on the repository. Only when a place turns out stale or damaged is the index asked
//! for another copy (`fallback`). Progress counts bytes of data: `total_bytes` is what the disk holds without
//! holes, `done_bytes` what was written or found, `stored_bytes` what was fetched.

mod arrival;
mod behind;
mod dump;
mod fallback;
mod fetch;
mod forecast;
mod keep;
mod moved;
mod open;
mod plan;
mod sink;
mod streams;
mod survey;
mod walk;
mod write;

use std::io::Write;
use std::sync::Arc;

use sancerre_format::outcome::Member;
use sancerre_image::{DiskTarget, Left};

use crate::error::{Error, Result};
use crate::monitor::{Monitor, add};
use fetch::Fetcher;
use sink::{Sink, Written};

pub use crate::repository::snapshot::{KnownLists, SnapshotReader, open, open_one_of};
pub use behind::Behind;
pub use forecast::{RestoreNeed, need};

/// How to restore.
#[derive(Debug, Clone, Copy)]
pub struct RestoreOptions {
    /// Memory for fetched and decoded bytes in flight.
    pub memory_bytes: u64,
    /// Whether what a larger device holds behind the end of the disk becomes zeros.
    pub wipe_rest: bool,
}

impl RestoreOptions {
    /// With so much memory, and leaving alone what lies behind the disk.
    pub fn new(memory_bytes: u64) -> Self {
        Self { memory_bytes, wipe_rest: false }
    }
}

/// A restore that did not end, and what there is of the disk.
#[derive(Debug)]
pub struct RestoreFailure {
    /// Why.
    pub error: Error,
    /// What is at the target.
    pub left: Left,
    /// The disk is whole at `left`, and only could not take its place.
    pub is_whole: bool,
}

impl From<Box<RestoreFailure>> for Error {
    fn from(failure: Box<RestoreFailure>) -> Self {
        failure.error
    }
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// Size of the disk.
    pub size_bytes: u64,
    /// Bytes of data that are in place, without holes.
    pub data_bytes: u64,
    /// Of them, those that were found at the target and not fetched.
    pub kept_bytes: u64,
    /// Bytes fetched from the store, maps included.
    pub fetched_bytes: u64,
    /// Requests for them.
    pub requests: u64,
    /// What the target has behind the end of the disk.
    pub behind: Behind,
}

/// What is refused or said before the first byte is fetched.
fn start(reader: &SnapshotReader, member: &Member, monitor: &Monitor) -> Result<()> {
    reader.refuse_unreadable(member)?;
    reader.warn(monitor);
    add(&monitor.counters.total_bytes, member.data_bytes);
    Ok(())
}

/// Writes one member to `target`, out of order, and finishes it. Every chunk is compared with its id. What the target held
/// before ([`DiskTarget::old`]) is read, and where it is what is wanted it is not fetched.
///
/// Adds the member's data to `total_bytes`, so that several members may share a monitor.
///
/// Errors: [`Error::WrongKey`] before anything is fetched; [`Error::Unrestorable`] when packs are damaged or gone
/// and no other copy is known: for chunks after all others were tried, for nodes of the map at once; the target's.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.in"));
/// # #[tokio::main] async fn main() -> Shown {
/// # let scene = Scene::new().await?;
/// # let (repository, monitor) = (scene.by_reader().await?, &scene.monitor);
/// # save(&repository).await?;
/// # let folder = tempfile::tempdir()?;
/// use sancerre_engine::{RawTarget, RestoreOptions, open_snapshot, restore};
///
/// let snapshot = open_snapshot(&repository, "web01:latest", monitor).await?;
/// let disk = snapshot.member("disk0").ok_or("no such disk")?;
/// let target = RawTarget::create(&folder.path().join("disk0.raw"), disk.size_bytes, false)?;
/// let options = RestoreOptions::new(64 << 20);
/// restore(&snapshot, disk, Box::new(target), &options, monitor).await.map_err(Error::from)?;
/// assert_eq!(std::fs::read(folder.path().join("disk0.raw"))?, b"bytes");
/// # Ok(()) }
/// ```
pub async fn restore(
    reader: &SnapshotReader,
    member: &Member,
    target: Box<dyn DiskTarget>,
    options: &RestoreOptions,
    monitor: &Monitor,
) -> std::result::Result<RestoreReport, Box<RestoreFailure>> {
    let sink = Arc::new(Sink::new(target, monitor.clone()));
    let done = fill(reader, member, &sink, options).await;
    // Still shared only while a worker that was cancelled ends: then the target is left as it is.
    let target = Arc::into_inner(sink).map(|sink| sink.target);
    match (done, target) {
        (Ok(report), Some(target)) => {
            let path = target.path().to_owned();
            target.finish().map(|()| report).map_err(|error| {
                let is_whole = path.exists();
                let left = if is_whole { Left::Partial { path, next: None } } else { Left::Nothing };
                Box::new(RestoreFailure { error: error.into(), left, is_whole })
            })
        }
        (Ok(_), None) => Err(Box::new(RestoreFailure {
            error: Error::bug("a restored disk is still being written"),
            left: Left::Nothing,
            is_whole: false,
        })),
        (Err(error), target) => {
            let is_rescued = matches!(error, Error::Unrestorable { .. });
            let left = target.map_or(Left::Nothing, |target| target.give_up(is_rescued));
            Err(Box::new(RestoreFailure { error, left, is_whole: false }))
        }
    }
}

/// Everything but the end.
async fn fill(
    reader: &SnapshotReader,
    member: &Member,
    sink: &Arc<Sink>,
    options: &RestoreOptions,
) -> Result<RestoreReport> {
    start(reader, member, &sink.monitor)?;
    let fetcher = Fetcher::new(reader, options, &sink.monitor);
    if sink.target.wants_survey() {
        let found = survey::survey(&fetcher, member, sink).await?;
        let preparing = Arc::clone(sink);
        let survey = fetcher
            .compute(move || preparing.target.prepare(found.ranges()).map(|()| found).map_err(Error::from))
            .await??;
        sink.survey.set(survey).map_err(|_| Error::bug("a target was surveyed twice"))?;
    }
    let written = write::write(&fetcher, member, sink).await?;
    let behind = behind::look(sink, member.size_bytes, options.wipe_rest)?;
    Ok(report(&fetcher, member, written, behind))
}

/// Writes one member in order to `out`, holes as zeros. Fetching runs ahead of the output.
///
/// Errors: as [`restore()`], but at the first chunk that cannot be had; [`Error::File`] when `out` fails.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.in"));
/// # #[tokio::main] async fn main() -> Shown {
/// # let scene = Scene::new().await?;
/// # let (repository, monitor) = (scene.by_reader().await?, &scene.monitor);
/// # save(&repository).await?;
/// use sancerre_engine::{RestoreOptions, dump, open_snapshot};
///
/// let snapshot = open_snapshot(&repository, "web01:latest", monitor).await?;
/// let (disk, mut out) = (snapshot.member("disk0").ok_or("no such disk")?, Vec::new());
/// dump(&snapshot, disk, &mut out, &RestoreOptions::new(64 << 20), monitor).await?;
/// assert_eq!(out, b"bytes");
/// # Ok(()) }
/// ```
pub async fn dump(
    reader: &SnapshotReader,
    member: &Member,
    out: &mut (dyn Write + Send),
    options: &RestoreOptions,
    monitor: &Monitor,
) -> Result<RestoreReport> {
    start(reader, member, monitor)?;
    // One half for bytes as fetched, one for bytes that wait for their turn.
    let half = RestoreOptions { memory_bytes: options.memory_bytes / 2, ..*options };
    let fetcher = Fetcher::new(reader, &half, monitor);
    let data_bytes = dump::dump(&fetcher, member, out, half.memory_bytes).await?;
    Ok(report(&fetcher, member, Written { data_bytes, kept_bytes: 0 }, Behind::default()))
}

fn report(fetcher: &Fetcher<'_>, member: &Member, written: Written, behind: Behind) -> RestoreReport {
    let (fetched_bytes, requests) = fetcher.tally();
    let Written { data_bytes, kept_bytes } = written;
    RestoreReport { size_bytes: member.size_bytes, data_bytes, kept_bytes, fetched_bytes, requests, behind }
}

#[cfg(test)]
pub(crate) mod tests;
