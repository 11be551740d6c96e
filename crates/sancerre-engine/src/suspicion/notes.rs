//! What is signed about suspect nights, for everybody who reads the log (FORMAT.md §7.3).

use std::collections::BTreeSet;

use sancerre_advice::Verb::{Clean, Clear};
use sancerre_format::id::SessionId;
use sancerre_format::log::{Kind, Note};
use sancerre_format::names::Name;
use sancerre_format::outcome::Member;

use super::stored::seen;
use super::verdict::Suspicion;
use crate::error::Result;
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use crate::repository::log::Log;
use crate::repository::log::suspects::{MACHINES_MAX, SUSPECT, TOPIC};
use crate::repository::session::append;

/// Of machines that are suspect, so many are named.
const NAMED_MAX: usize = 5;

/// Whether one of these disks is.
pub(crate) fn is_suspect(members: &[Member]) -> bool {
    let mut seen = members.iter().filter_map(seen);
    seen.any(|night| night.judgement.verdict == Suspicion::Suspect)
}

/// Notes that the snapshot to come is suspect, if one of its disks is. That it cannot is warned of: the snapshot is worth
/// more than the note.
pub(crate) async fn note(
    repository: &Repository,
    log: &Log,
    session: SessionId,
    members: &[Member],
    monitor: &Monitor,
) {
    if !is_suspect(members) {
        return;
    }
    if let Err(error) = suspect(repository, log, session).await {
        monitor.warn(Topic::Policy, format!(
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

/// That deletion stands still, and for which machines; none while nothing is suspect.
pub fn what_stays(log: &Log) -> Option<String> {
    let retention = log.retention();
    let vms: BTreeSet<String> = retention.suspects().iter().map(|(_, vm)| vm.to_string()).collect();
    if vms.is_empty() {
        return None;
    }
    let what = match retention.suspect_machines().len() > MACHINES_MAX {
        true => "no snapshot of any machine is let go",
        false => "what is from before their first suspect snapshot is not let go",
    };
    let mut named: Vec<String> = vms.iter().take(NAMED_MAX).cloned().collect();
    if vms.len() > NAMED_MAX {
        named.push(format!("{} more", vms.len().saturating_sub(NAMED_MAX)));
    }
    Some(format!(
        "suspect: {}; {what}, whatever is asked for. See {Clean}, and end that with {Clear}",
        named.join(", ")
    ))
}
