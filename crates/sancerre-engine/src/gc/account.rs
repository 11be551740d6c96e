//! G1, first half: everything that must be there is there, and no commit lies. A hidden manifest must never look like
//! garbage.

use sancerre_advice::Verb::{Abandon, RevokeKeeper, UndeleteOne};
use sancerre_format::FormatError;
use sancerre_format::id::SessionId;
use sancerre_format::log::Kind;
use sancerre_format::names::{self, Zone};
use sancerre_format::outcome::Commit;
use sancerre_format::record::Fields;

use crate::error::{Error, Result, StoreError};
use crate::repository::Repository;
use crate::repository::log::{Complaint, Log, LogEntry, Outcome, Retention};

/// Checks the log below `number`, and judges its commits.
///
/// Errors: [`StoreError::Missing`] for a number without an entry; [`Error::Unverified`] for an outcome that does not verify
/// and that nobody gave up;
/// [`Error::Hidden`] for an outcome that a commit or a writer saw and that is neither there nor forgotten;
/// [`Error::Object`] for a commit of a trusted key that says what no collector says.
pub(super) fn account(repository: &Repository, log: &mut Log, number: u64) -> Result<()> {
    let zone = &repository.keys.zone;
    if let Some(gap) = log.first_gap(number.min(log.end())) {
        return Err(Error::Store(StoreError::Missing { key: names::log(zone, gap) }));
    }
    // What needs a newer version may have announced anything, and so may what is lost.
    log.refuse_opaque(zone, number)?;
    if let Some(session) = log.unresolved(number.min(log.end())).first() {
        return Err(Error::Unresolved { key: names::log(zone, session.number), session: *session });
    }
    if let Some((below, entry)) = log.breaks().find(|(_, entry)| entry.fields.number < number) {
        return Err(Error::Broken {
            number: below,
            above: entry.fields.number,
            by: entry.fields.by.name.clone(),
        });
    }
    refuse_disputed(repository, log, number.min(log.end()))?;
    let retention = log.retention_below(number);
    refuse_early(repository, log, &retention)?;
    refuse_unverified(zone, log, number, &retention)?;
    refuse_hidden(zone, log, number, &retention)?;
    if let Some(replaced) = log.replaced(number).next() {
        return Err(Error::Replaced { key: names::outcome(zone, &replaced), session: replaced });
    }
    log.judge();
    refuse_waiting(repository, log, number)?;
    refuse_lies(repository, log)
}

/// Whoever forgets what its manifest still keeps has a wrong clock, or lies.
fn refuse_early(repository: &Repository, log: &Log, retention: &Retention) -> Result<()> {
    if let Some((snapshot, entry)) = retention.forgotten_too_early(repository.host.clock.now()) {
        let by = log
            .entry(entry)
            .and_then(|entry| entry.announced())
            .map(|entry| entry.fields.by.name.to_string());
        return Err(Error::Refused(format!(
            "log entry {entry} of {} forgets snapshot {} before the time until which its manifest keeps it, so its clock was \
             wrong or it lies. Nothing was deleted. {} takes that back; set the clocks (NTP), or revoke that key",
            by.unwrap_or_else(|| "somebody".to_owned()),
            snapshot.intent,
            UndeleteOne(snapshot.intent.to_string())
        )));
    }
    Ok(())
}

fn refuse_unverified(zone: &Zone, log: &Log, number: u64, retention: &Retention) -> Result<()> {
    let abandoned = log.abandoned();
    for entry in log.entries().filter(|entry| entry.session.number < number && entry.entry.is_ok()) {
        match &entry.outcome {
            Outcome::Invalid(error)
                if !retention.gave_up(entry) && !abandoned.contains_key(&entry.session) =>
            {
                let key = names::outcome(zone, &entry.session);
                let backup = entry.damaged().map(|_| Box::new(entry.session));
                let number = entry.session.number;
                return Err(Error::Unverified { key, source: error.clone(), number, backup });
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a commit or a writer saw is there, or went by a decision.
fn refuse_hidden(zone: &Zone, log: &Log, number: u64, retention: &Retention) -> Result<()> {
    let hidden = |session: &SessionId| {
        // What was given up with its log entry is missing by decision.
        let is_given_up =
            |entry: &LogEntry| entry.lost.is_some() && matches!(entry.outcome, Outcome::Abort(_));
        !log.entry(session.number).is_some_and(is_given_up)
            && retention.forgotten_by(session).is_none()
            && retention.collected_by(session).is_none()
            && !log.entry(session.number).is_some_and(|entry| is_there(entry, session))
    };
    for (witness, session) in witnessed(log, number) {
        if hidden(&session) {
            return Err(Error::Hidden { key: names::outcome(zone, &session), entry: witness });
        }
    }
    Ok(())
}

/// Whoever lies about what stood at a number, what the other needs would look like garbage.
fn refuse_disputed(repository: &Repository, log: &Log, end: u64) -> Result<()> {
    let Some(dispute) = log.disputes(end).into_iter().next() else {
        // invariant: what nobody disputes stands
        return Ok(());
    };
    let claims = dispute.claims.iter().map(|(session, ..)| *session);
    let session = claims.chain(dispute.standing).next();
    let session = session.ok_or_else(|| Error::bug("a number is disputed by nobody"))?;
    Err(Error::Unresolved { key: names::log(&repository.keys.zone, dispute.number), session })
}

/// A commit above an outcome that does not verify has no effect, and would have if the right bytes came back. Nothing can be
/// built beside that. Where a session below it is open, G4 ends that.
fn refuse_waiting(repository: &Repository, log: &Log, number: u64) -> Result<()> {
    let waits = |below: &SessionId| {
        log.entry(below.number).is_some_and(|entry| matches!(entry.outcome, Outcome::Invalid(_)))
    };
    let waiting = log.waiting();
    let Some((gc, below)) = waiting.iter().find(|(gc, below)| **gc < number && waits(below)) else {
        // invariant: no collector below waits for what is not known
        return Ok(());
    };
    let (zone, entry) = (&repository.keys.zone, log.entry(*gc));
    let entry = entry.ok_or_else(|| Error::Store(StoreError::Missing { key: names::log(zone, *gc) }))?;
    let detail = format!(
        "it was signed while the outcome of session {below} could not be read, which no collector does, and has no effect. \
         Nothing was deleted. Bring back the right bytes of {}, or have the administrator give it up with {}",
        names::outcome(zone, below),
        Abandon(*gc)
    );
    let source = FormatError::Forged { what: Commit::KIND, detail };
    Err(Error::Object { key: names::outcome(zone, &entry.session), source })
}

/// Outcomes that somebody saw, with the entry that says so: the snapshots that commits counted, and what writers built
/// on.
fn witnessed(log: &Log, number: u64) -> Vec<(u64, SessionId)> {
    let commits = log.commits().take_while(|(gc, ..)| gc.number < number);
    let mut seen: Vec<(u64, SessionId)> = commits
        .flat_map(|(gc, _, lists)| lists.seen.iter().map(move |session| (gc.number, *session)))
        .collect();
    for entry in log.entries().filter(|entry| entry.session.number < number) {
        if let Ok(Kind::Backup(intent)) = entry.entry.as_deref().map(|entry| &entry.fields.kind) {
            seen.extend(intent.parents.iter().map(|parent| (entry.session.number, *parent)));
        }
    }
    seen
}

/// A revoked writer's snapshots are void by a signed decision: they are not missing.
fn is_there(entry: &LogEntry, session: &SessionId) -> bool {
    entry.session == *session
        && (entry.revoked.is_some() || matches!(entry.outcome, Outcome::Manifest(_) | Outcome::Abort(_)))
}

/// What a commit says wrongly is not believed. But whoever signed it may have deleted what it says, and more to come: so
/// nothing goes until the administrator has seen it, and ended that key.
fn refuse_lies(repository: &Repository, log: &Log) -> Result<()> {
    let trusted = |complaint: &Complaint| log.revocation(&complaint.by).is_none();
    let Some(Complaint { gc, by, problem }) = log.complaints().into_iter().find(trusted) else {
        // invariant: without a complaint about a key that is trusted there is nothing to refuse
        return Ok(());
    };
    let detail = format!(
        "{problem}. It is not believed, and nothing was deleted. Find out who signed it, and {}, or \
         bring back what is missing",
        RevokeKeeper(by.to_string())
    );
    let source = FormatError::Forged { what: Commit::KIND, detail };
    Err(Error::Object { key: names::outcome(&repository.keys.zone, &gc), source })
}
