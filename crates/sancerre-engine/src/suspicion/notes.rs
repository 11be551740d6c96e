//! What is signed about suspect nights, for everybody who reads the log (FORMAT.md §7.3).

use sancerre_format::id::SessionId;
use sancerre_format::log::{Kind, Note};
use sancerre_format::names::Name;
use sancerre_format::outcome::Member;

use super::stored::seen;
use super::verdict::Suspicion;
use crate::error::Result;
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::log::Log;
use crate::repository::log::suspects::{SUSPECT, TOPIC};
use crate::repository::session::append;

/// Notes that the snapshot to come is suspect, if one of its disks is. That it cannot is warned of: the snapshot is worth
/// more than the note.
pub(crate) async fn note(
    repository: &Repository,
    log: &Log,
    session: SessionId,
    members: &[Member],
    monitor: &Monitor,
) {
    let is_suspect =
        |member: &Member| seen(member).is_some_and(|night| night.judgement.verdict == Suspicion::Suspect);
    if !members.iter().any(is_suspect) {
        return;
    }
    if let Err(error) = suspect(repository, log, session).await {
        monitor.warn(format!(
            "the night is suspect, and that could not be written into the log, so nothing keeps earlier snapshots from being \
             forgotten: {error}"
        ));
    }
}

/// Notes that a snapshot is suspect. Returns the number of the note.
///
/// Errors: [`Error::WrongKey`](crate::Error::WrongKey); the store's.
pub async fn suspect(repository: &Repository, log: &Log, snapshot: SessionId) -> Result<u64> {
    let note =
        Note { topic: Name::new(TOPIC)?, result: Some(Name::new(SUSPECT)?), snapshots: vec![snapshot] };
    Ok(append(repository, log, Kind::Note(note), &[]).await?.number)
}
