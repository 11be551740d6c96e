//! Outcomes that stand for lost log entries once the administrator says so: commits, and he says so only of what a collector
//! that kept the rules could have written; and snapshots of which no entry that is still there read the entry.

use std::collections::BTreeSet;

use sancerre_advice::Setting::GivenUp;
use sancerre_format::id::SessionId;
use sancerre_format::names;

use super::RepairReport;
use crate::check::agrees_with_records;
use crate::repository::Repository;
use crate::repository::log::Log;

/// The commits that count from now on. The others are named, with what speaks against them.
pub(super) fn plan(repository: &Repository, log: &Log, report: &mut RepairReport) -> Vec<SessionId> {
    let mut admitted = Vec::new();
    let is_disputed = |session: &SessionId| log.dispute(session.number).is_some();
    for session in log.untold().into_iter().filter(|session| !is_disputed(session)) {
        let key = names::log(&repository.keys.zone, session.number);
        match log.entry(session.number).and_then(|entry| entry.snapshot()) {
            Some(snapshot) => {
                let vm = &snapshot.manifest.fields.vm;
                report.done.push(format!("{key}: on record as the backup of {vm} whose manifest is there"));
                admitted.push(session);
            }
            None => report.left.push((
                key.clone(),
                format!(
                    "it is no entry, and the entry above it is lost as well, so nothing says whether one was there: bring it back \
                     from a copy of the repository, or give it up with {GivenUp} {key}. If it was a hold, a forget, a quarantine, \
                     a taint or a revocation, say it again"
                ),
            )),
        }
    }
    for (session, _) in log.doubted().filter(|(session, _)| !is_disputed(session)) {
        let key = names::outcome(&repository.keys.zone, &session);
        match objection(repository, log, session) {
            None => {
                report.done.push(format!("{key}: on record as what gc {} came to", session.number));
                admitted.push(session);
            }
            Some(why) => report.left.push((
                key,
                format!(
                    "it is a commit whose log entry is lost, and it does not count: {why}. Bring the entry back from a copy of \
                     the repository, or give it up with {GivenUp} {}",
                    names::log(&repository.keys.zone, session.number)
                ),
            )),
        }
    }
    admitted
}

fn objection(repository: &Repository, log: &Log, session: SessionId) -> Option<String> {
    let Some(trial) = log.as_admitted(repository, session) else {
        return Some("it is not there any more".to_owned());
    };
    if trial.entry(session.number).is_none_or(|entry| entry.revoked.is_some()) {
        return Some("the key that signed it was revoked".to_owned());
    }
    if let Some(complaint) =
        trial.complaints().into_iter().find(|complaint| complaint.gc.number >= session.number)
    {
        return Some(format!("with it, this is wrong of gc {}: {}", complaint.gc.number, complaint.problem));
    }
    let left: BTreeSet<SessionId> = trial.snapshots().iter().map(|snapshot| snapshot.session()).collect();
    let live = log.snapshots();
    if let Some(gone) = live.iter().find(|snapshot| !left.contains(&snapshot.session())) {
        return Some(format!(
            "with it, snapshot {} of {} is gone, which is there now",
            gone.id(),
            gone.manifest.fields.vm
        ));
    }
    let above = trial.commits().filter(|(gc, ..)| gc.number > session.number);
    let unlike = above
        .map(|(gc, commit, _)| (gc.number, commit))
        .find(|(_, commit)| !agrees_with_records(&trial, commit));
    unlike.map(|(gc, _)| format!("gc {gc} above it did not read it, so it was made later"))
}
