//! G1, first half: everything that must be there is there. A hidden manifest must never look like garbage.

use sancerre_format::id::SessionId;
use sancerre_format::log::Kind;
use sancerre_format::names;

use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::repository::log::{Log, LogEntry, Outcome};

/// Checks the log below `number`.
///
/// Errors: [`Error::Missing`] for a number without an entry; [`Error::Unverified`] for an outcome that does not verify
/// and that nobody gave up;
/// [`Error::Hidden`] for an outcome that a commit or a writer saw and that is neither there nor forgotten.
pub(super) fn account(repository: &Repository, log: &Log, number: u64) -> Result<()> {
    let zone = &repository.keys.zone;
    if let Some(gap) = log.first_gap(number.min(log.highest().saturating_add(1))) {
        return Err(Error::Missing { key: names::log(zone, gap) });
    }
    let standing = log.standing(number);
    for entry in log.entries().filter(|entry| entry.session.number < number && entry.entry.is_ok()) {
        match &entry.outcome {
            Outcome::Invalid(error) if !standing.gave_up(entry) => {
                let key = names::outcome(zone, &entry.session);
                let backup = entry.damaged().map(|_| entry.session);
                return Err(Error::Unverified { key, source: error.clone(), backup });
            }
            _ => {}
        }
    }
    let hidden = |session: &SessionId| {
        standing.forgotten_by(session).is_none()
            && !log.entry(session.number).is_some_and(|entry| is_there(entry, session))
    };
    for (witness, session) in witnessed(log, number) {
        if hidden(&session) {
            return Err(Error::Hidden { key: names::outcome(zone, &session), entry: witness });
        }
    }
    Ok(())
}

/// Outcomes that somebody saw, with the entry that says so: the snapshots of the last commit, and what writers built on.
fn witnessed(log: &Log, number: u64) -> Vec<(u64, SessionId)> {
    let recorded = log.newest_commit(number).into_iter();
    let mut seen: Vec<(u64, SessionId)> =
        recorded.flat_map(|(gc, _, lists)| lists.live.iter().map(move |session| (gc, *session))).collect();
    for entry in log.entries().filter(|entry| entry.session.number < number) {
        if let Ok(Kind::Backup(intent)) = entry.entry.as_deref().map(|entry| &entry.fields.kind) {
            seen.extend(intent.parents.iter().map(|parent| (entry.session.number, *parent)));
        }
    }
    seen
}

/// A revoked writer's snapshots are void by a signed decision: they are pinned, not missing.
fn is_there(entry: &LogEntry, session: &SessionId) -> bool {
    entry.session == *session
        && (entry.revoked.is_some() || matches!(entry.outcome, Outcome::Manifest(_) | Outcome::Abort(_)))
}
