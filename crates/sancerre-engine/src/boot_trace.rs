//! Boot traces (FORMAT.md §5.4): which chunks a machine asked for until it was up, as the annex of a note. Whoever starts it again
//! may fetch those first. Never needed: what cannot be read is left out.

use sancerre_format::FormatError;
use sancerre_format::boot_trace::{BootTrace, TOPIC};
use sancerre_format::certificate::Role;
use sancerre_format::id::SessionId;
use sancerre_format::log::{Kind, Note};
use sancerre_format::names::{self, Name};
use sancerre_format::outcome::Manifest;
use sancerre_format::seal::UnitName;

use crate::annex;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use crate::repository::log::Log;
use crate::repository::session::append_by;

/// Most bytes of one that is read: whoever signs a note could make it of any size.
const TRACE_BYTES_MAX: usize = 4 << 20;
/// So many of a machine are tried, the newest first.
const TRIED_MAX: usize = 3;

/// A trace of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTrace {
    /// The number of the note that owns it.
    pub number: u64,
    /// What it says.
    pub trace: BootTrace,
}

/// Stores what a machine asked for when it was started from this snapshot; returns the number of the note.
///
/// Errors: [`Error::WrongKey`] without a key that may store; more than a trace can hold; the store's.
pub async fn keep(repository: &Repository, snapshot: SessionId, trace: &BootTrace) -> Result<u64> {
    let bytes = trace.encode()?;
    let signer = repository.signer(Role::STORING)?;
    let log = Log::load(repository).await?;
    let note = Note { topic: Name::new(TOPIC)?, result: None, snapshots: vec![snapshot] };
    let session = append_by(repository, &log, Role::STORING, Kind::Note(note), &[]).await?;
    annex::keep(repository, signer, session, &bytes, &as_it_is).await?;
    Ok(session.number)
}

fn as_it_is(_: &UnitName, bytes: Vec<u8>) -> std::result::Result<Vec<u8>, FormatError> {
    Ok(bytes)
}

/// The newest trace of the machine of a snapshot that can be read. Of those that are damaged or of a later version `monitor` is
/// told.
pub async fn newest(
    repository: &Repository,
    log: &Log,
    snapshot: &Manifest,
    monitor: &Monitor,
) -> Option<StoredTrace> {
    for session in notes(log, snapshot).into_iter().take(TRIED_MAX) {
        match read(repository, log, session).await {
            Ok(Some(trace)) => return Some(StoredTrace { number: session.number, trace }),
            // It went with its snapshot, or was not stored whole.
            Ok(None) | Err(Error::Lost { .. }) => {}
            Err(error) => monitor.warn(
                Topic::Hint,
                format!("the boot trace of log entry {} is not used: {error}", session.number),
            ),
        }
    }
    None
}

/// The notes that own traces of the machine, the newest first.
fn notes(log: &Log, manifest: &Manifest) -> Vec<SessionId> {
    let is_of = |snapshot: &SessionId| {
        let entry = log.entry(snapshot.number).filter(|entry| entry.session == *snapshot);
        let kind = entry.and_then(|entry| Some(&entry.entry.as_deref().ok()?.fields.kind));
        matches!(kind, Some(Kind::Backup(intent)) if intent.is_of(&manifest.vm, manifest.machine))
    };
    let is_it = |note: &Note| match note.snapshots.as_slice() {
        [snapshot] => note.topic.as_str() == TOPIC && (*snapshot == manifest.session || is_of(snapshot)),
        _ => false,
    };
    let entries = log.entries().filter_map(|entry| Some((entry.session, entry.entry.as_deref().ok()?)));
    let of_machine =
        entries.filter(|(_, entry)| matches!(&entry.fields.kind, Kind::Note(note) if is_it(note)));
    let mut found: Vec<SessionId> = of_machine.map(|(session, _)| session).collect();
    found.reverse();
    found
}

async fn read(repository: &Repository, log: &Log, session: SessionId) -> Result<Option<BootTrace>> {
    let bytes = annex::read(repository, log, session, ("boot trace", TRACE_BYTES_MAX), &as_it_is).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let key = names::log(&repository.keys.zone, session.number);
    BootTrace::decode(&bytes).map(Some).map_err(Error::object(&key))
}
