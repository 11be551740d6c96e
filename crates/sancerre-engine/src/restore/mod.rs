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
mod keep;
mod moved;
mod open;
mod plan;
mod streams;
mod walk;
mod write;

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

use sancerre_format::FormatError;
use sancerre_format::id::{PackName, SessionId};
use sancerre_format::names::{self, Title};
use sancerre_format::outcome::{Body, Manifest, Member, MemberKind};
use sancerre_image::{DiskTarget, Left};

use crate::error::{Error, Result};
use crate::frames::Frames;
use crate::monitor::{Monitor, add};
use crate::repository::Repository;
use crate::repository::catalogue::{BadList, Catalogue};
use crate::repository::log::{Log, LogEntry, Moves, open_body};
use crate::repository::unlisted;
use fetch::Fetcher;
use write::{Sink, Written};

pub use behind::Behind;

/// A snapshot, opened: what is in it, and the pack lists that its maps need.
pub struct SnapshotReader {
    manifest: Manifest,
    body: Body,
    frames: Arc<Frames>,
    bad_lists: Vec<BadList>,
}

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

/// Opens what a restore of this snapshot needs: its body and the pack lists of the sessions whose packs it uses.
///
/// Errors: [`Error::Usage`] when the session is no snapshot; [`Error::Object`] when its manifest does not open.
pub async fn open(repository: &Repository, log: Arc<Log>, session: SessionId) -> Result<SnapshotReader> {
    let log = filled(repository, log, session).await?;
    let entry = log.entry(session.number).filter(|entry| entry.session == session);
    let snapshot = entry.and_then(LogEntry::snapshot);
    let snapshot = snapshot.ok_or_else(|| {
        Error::Usage(format!("there is no snapshot {}; `sancerre snapshots` lists all", session.intent))
    })?;
    log.refuse_forgotten(&session)?;
    let body = open_body(repository, &snapshot)?;
    // All ids in it are made with the keys of its generation, whichever is written now.
    let generation = snapshot.generation().ok_or_else(|| Error::Lost { what: snapshot.key() })?;
    let keys = repository.keys.clone().in_generation(generation)?;
    let repository = &Repository { keys, ..repository.clone() };
    let manifest = snapshot.manifest.fields.clone();
    let uses = snapshot.uses()?;
    let packs = Moves::claimed(&log).packs(&uses);
    let (catalogue, bad_lists) = catalogue(repository, &log, packs).await?;
    let frames = Frames::new(repository.clone(), log, Arc::new(catalogue));
    frames.learn(&uses).await?;
    Ok(SnapshotReader { manifest, body, frames: Arc::new(frames), bad_lists })
}

/// The lists of these packs, and of those that no list names what they say of themselves.
async fn catalogue(
    repository: &Repository,
    log: &Log,
    packs: BTreeSet<PackName>,
) -> Result<(Catalogue, Vec<BadList>)> {
    let sessions: BTreeSet<u64> = packs.iter().map(|pack| pack.session).collect();
    let (mut catalogue, bad_lists) = Catalogue::load(repository, log, sessions).await?;
    let lost: BTreeSet<PackName> = packs.into_iter().filter(|pack| catalogue.pack(*pack).is_none()).collect();
    if !lost.is_empty() {
        let present = unlisted::present(repository, &lost.iter().map(|pack| pack.session).collect()).await?;
        catalogue.add_missing(unlisted::find(repository, log, &present, &lost).await?);
    }
    Ok((catalogue, bad_lists))
}

/// The log with all that it says of this snapshot: its manifest, and the session keys of whoever sealed its frames.
async fn filled(repository: &Repository, log: Arc<Log>, session: SessionId) -> Result<Arc<Log>> {
    let mut log = Arc::unwrap_or_clone(log);
    let is_known = |log: &Log| {
        let entry = log.entry(session.number).filter(|entry| entry.session == session);
        entry.and_then(LogEntry::snapshot).is_some()
    };
    if log.start() > 1 && !is_known(&log) {
        // A checkpoint says nothing of what was given up: the whole log says by whom, and when.
        log = Log::load(repository).await?;
    }
    log.fill(repository, &BTreeSet::new(), &BTreeSet::from([session.number])).await?;
    let snapshot = log.entry(session.number).and_then(LogEntry::snapshot);
    let sealers = match snapshot {
        Some(snapshot) => snapshot.uses()?.packs().map(|pack| pack.session).collect(),
        None => BTreeSet::new(),
    };
    log.fill(repository, &sealers, &BTreeSet::new()).await?;
    Ok(Arc::new(log))
}

impl SnapshotReader {
    /// Its tags and disks.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// What its machine is called.
    pub fn vm(&self) -> &Title {
        self.body.vm.as_ref().unwrap_or(&self.manifest.vm)
    }

    /// Its public head.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The disk, stream or file with this name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.body.members.iter().find(|member| member.name.as_str() == name)
    }

    /// Its frames.
    pub fn frames(&self) -> &Arc<Frames> {
        &self.frames
    }

    /// Names the manifest as the object whose map breaks a rule.
    fn blame(&self, source: FormatError) -> Error {
        let key = names::outcome(&self.frames.repository().keys.zone, &self.manifest.session);
        Error::Object { key, source }
    }

    /// What is refused or said before the first byte is fetched.
    fn start(&self, member: &Member, monitor: &Monitor) -> Result<()> {
        if !self.frames.repository().keys.can_open_content() {
            return Err(Error::WrongKey {
                what: "this key cannot open the content of backups".into(),
                advice: "use the repository's passphrase or a restore identity",
            });
        }
        if let MemberKind::Other(kind) = &member.kind {
            // Its map may mean anything.
            let feature = format!("{} is a {kind}", member.name);
            return Err(self.blame(FormatError::Unsupported { what: "body", feature }));
        }
        for bad in &self.bad_lists {
            monitor.warn(format!("pack list {} is ignored: {}; run `sancerre check`", bad.key, bad.error));
        }
        let found = self.frames.catalogue().unlisted().len();
        if found > 0 {
            monitor.warn(format!(
                "{found} packs are named by no pack list that can be read: they were found in the store's listing, and what is \
                 in them is proven by its ids; `sancerre repair` writes the lists anew"
            ));
        }
        add(&monitor.counters.total_bytes, member.data_bytes);
        Ok(())
    }
}

/// Writes one member to `target`, out of order, and finishes it. Every chunk is compared with its id. What the target held
/// before ([`DiskTarget::old`]) is read, and where it is what is wanted it is not fetched.
///
/// Adds the member's data to `total_bytes`, so that several members may share a monitor.
///
/// Errors: [`Error::WrongKey`] before anything is fetched; [`Error::Unrestorable`] when packs are damaged or gone
/// and no other copy is known: for chunks after all others were tried, for nodes of the map at once; the target's.
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
    reader.start(member, &sink.monitor)?;
    let fetcher = Fetcher::new(reader, options, &sink.monitor);
    let written = write::write(&fetcher, member, sink).await?;
    let behind = behind::look(sink, member.size_bytes, options.wipe_rest)?;
    Ok(report(&fetcher, member, written, behind))
}

/// Writes one member in order to `out`, holes as zeros. Fetching runs ahead of the output.
///
/// Errors: as [`restore`], but at the first chunk that cannot be had; [`Error::File`] when `out` fails.
pub async fn dump(
    reader: &SnapshotReader,
    member: &Member,
    out: &mut (dyn Write + Send),
    options: &RestoreOptions,
    monitor: &Monitor,
) -> Result<RestoreReport> {
    reader.start(member, monitor)?;
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
