//! Snapshots that stand on packs of a writer that is not trusted any more. Seen from public parts alone: frame sets
//! say which sessions' packs a snapshot needs, and the log says who wrote these sessions.
//!
//! Such a pack is read only against the ids of what should be in it, so it can spoil a restore but not forge one. What
//! to do about it is to back the VMs up again: new backups do not reuse these packs.

use std::collections::BTreeSet;

use sancerre_format::id::{PackName, SessionId};
use sancerre_format::log::{Distrust, Entry, Kind};
use sancerre_format::names::{self, Zone};
use sancerre_format::record::Record;

use super::report::{Cost, Finding, Severity};
use super::subjects::CheckedSnapshot;
use crate::repository::log::Log;

/// One note for each taint and revocation on which a snapshot stands.
pub(super) fn check(zone: &Zone, log: &Log, subjects: &[CheckedSnapshot]) -> Vec<Finding> {
    let valid = log.entries().filter_map(|entry| entry.entry.as_deref().ok());
    valid.filter_map(|entry| note(zone, log, subjects, entry)).collect()
}

fn note(zone: &Zone, log: &Log, subjects: &[CheckedSnapshot], entry: &Record<Entry>) -> Option<Finding> {
    let (what, distrust) = match &entry.fields.kind {
        Kind::Taint(distrust) => ("tainted", distrust),
        Kind::Revoke(distrust) => ("revoked", distrust),
        _ => return None,
    };
    let sessions: BTreeSet<u64> = log.sessions_of(&distrust.writer, distrust.from).collect();
    let stands = |subject: &&CheckedSnapshot| {
        let mut packs = subject.uses.iter().flat_map(|uses| uses.packs());
        packs.any(|PackName { session, .. }| sessions.contains(&session))
    };
    let costs: Vec<Cost> = subjects.iter().filter(stands).map(concerned).collect();
    (!costs.is_empty()).then(|| Finding {
        severity: Severity::Note,
        object: names::log(zone, entry.fields.number),
        problem: problem(what, distrust, costs.len()),
        costs,
    })
}

fn problem(what: &str, Distrust { writer, from, .. }: &Distrust, snapshots: usize) -> String {
    format!(
        "writer {writer} is {what} from session {from} on, and {snapshots} snapshots need packs that it wrote since: a \
         restore verifies each chunk of them, but may find some that it cannot use; back these VMs up again"
    )
}

fn concerned(subject: &CheckedSnapshot) -> Cost {
    let snapshot: SessionId = subject.session;
    Cost { snapshot, vm: subject.vm.clone(), disk: None, ranges: Vec::new() }
}
