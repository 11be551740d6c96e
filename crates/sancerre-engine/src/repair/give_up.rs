//! Giving up: the administrator's word that nobody will bring something back.
//!
//! A log entry that is gone may have announced anything. Whatever it was, its session ends with nothing once an abort stands at
//! its outcome, for that is created once: a gc cannot commit any more, and a backup cannot save. Where not even the hash of
//! the entry is known, its outcome's key is not either: then backups build on nothing below it.

use std::collections::BTreeSet;

use sancerre_advice::Verb::{Approve, Check};
use sancerre_format::FormatError;
use sancerre_format::certificate::Role;
use sancerre_format::id::SessionId;
use sancerre_format::log::{Kind, Snapshots};
use sancerre_format::names::{self, Zone, ZoneKey};
use sancerre_format::outcome::Abort;
use sancerre_format::record;

use super::disputes::is_claim;
use super::{RepairOptions, is_sound, is_unknown};
use crate::check::witness;
use crate::error::{Error, Result, StoreError};
use crate::gc::abandon;
use crate::repository::Repository;
use crate::repository::log::{Log, LogEntry, Outcome, UNKNOWN, filler};
use crate::repository::session::{append, one_line};
use crate::store::{Creation, Put};

/// Gives up one object; returns what was done, in words. `log` knows of it afterwards.
///
/// Errors: [`Error::Usage`] for what is not lost; [`Error::Refused`] for what is there again.
pub async fn give_up(
    repository: &Repository,
    log: &mut Log,
    key: &str,
    options: &RepairOptions,
) -> Result<String> {
    let zone = &repository.keys.zone;
    match parse(zone, key) {
        Ok(ZoneKey::Log(number)) => entry(repository, log, number, options).await,
        Ok(ZoneKey::Outcome(session)) if is_claim(log, &session) => {
            Ok(format!("{key}: given up; it does not say what stood at its number"))
        }
        Ok(ZoneKey::Outcome(session)) => outcome(repository, log, session, options).await,
        _ => Err(Error::Usage(format!(
            "{key} is no log entry and no outcome of zone {zone}: only these are given up. Name it as {Check} does, such \
             as {}",
            names::log(zone, 1)
        ))),
    }
}

/// A key as messages have it, or without the folder of the zone.
fn parse(zone: &Zone, key: &str) -> std::result::Result<ZoneKey, FormatError> {
    match key.starts_with(names::ZONE_FOLDERS) {
        true => ZoneKey::parse(zone, key),
        false => ZoneKey::parse(zone, &format!("{}{key}", names::zone_folder(zone))),
    }
}

/// Whatever of one kind is named to be given up.
pub(super) fn named<T: Ord>(zone: &Zone, keys: &[String], of: impl Fn(ZoneKey) -> Option<T>) -> BTreeSet<T> {
    keys.iter().filter_map(|key| of(parse(zone, key).ok()?)).collect()
}

async fn entry(
    repository: &Repository,
    log: &mut Log,
    number: u64,
    options: &RepairOptions,
) -> Result<String> {
    let key = names::log(&repository.keys.zone, number);
    let usage = |why: &str| Err(Error::Usage(format!("{key} {why}; nothing was done")));
    let is_disputed = log.dispute(number).is_some();
    match log.entry(number) {
        Some(entry) if is_sound(entry) => return usage("is there and is what its signer wrote"),
        Some(entry) if entry.lost.is_some() && entry.has_ended() && !is_disputed => {
            return usage("is lost already, and its outcome stands for it");
        }
        None if number == 0 || (number > log.highest() && !is_disputed) => {
            return usage("is above all log entries that there are");
        }
        _ => {}
    }
    let session = log.said_of(number);
    let is_untold = log.untold().iter().any(|untold| untold.number == number);
    if session.is_none()
        && !is_untold
        && !is_disputed
        && let Some(entry) = log.entry(number).filter(|entry| entry.session.intent != UNKNOWN)
    {
        return match log.noted().contains(&entry.session) {
            true => usage("is on record as void already"),
            // It stops nobody, and nothing is known that could be ended.
            false => {
                Ok(format!("{key}: on record as void; if it ever was an entry, what it said has no effect"))
            }
        };
    }
    // Of several that claim it none stands any more.
    let session = session.filter(|_| !is_disputed).unwrap_or(SessionId { number, intent: UNKNOWN });
    if !options.dry_run {
        end_at(repository, log, &key, session, options).await?;
    }
    let unknown = if is_unknown(&session) { ", and backups build on nothing that is older" } else { "" };
    Ok(format!("{key}: given up; whatever it said, it came to nothing{unknown}"))
}

/// Fills the number of a session, where nothing is, and ends the session there.
async fn end_at(
    repository: &Repository,
    log: &mut Log,
    key: &str,
    session: SessionId,
    options: &RepairOptions,
) -> Result<()> {
    let (number, fill) = (session.number, filler(&session));
    if log.entry(number).is_none()
        && let Put::Occupied(found) = repository.store.put_new(key, fill.clone()).await?
        && found != fill
    {
        return Err(Error::Refused(format!("{key} is there again; nothing was done. Run the command again")));
    }
    let session = end(repository, session, options).await?;
    log.refresh(repository).await?;
    match log.entry(number).is_none_or(|entry| entry.lost.is_none()) {
        true => Err(Error::Lost { what: format!("the end of session {session} as it was just written") }),
        false => Ok(()),
    }
}

/// Puts an abort at the session's outcome. Where something lies there that says nothing, nobody can put anything else, and
/// the abort stands where that of an entry stands of which nothing is known.
async fn end(repository: &Repository, session: SessionId, options: &RepairOptions) -> Result<SessionId> {
    let unknown = SessionId { intent: UNKNOWN, ..session };
    for session in BTreeSet::from([session, unknown]).into_iter().rev() {
        let signer = repository.signer(&[Role::Admin])?;
        let abort = Abort {
            repository: repository.keys.trust.repository,
            zone: repository.keys.zone.clone(),
            session,
            by: signer.by.clone(),
            time: repository.host.clock.now(),
            reason: one_line(&options.reason),
        };
        let bytes = repository.sign(signer, &abort, &[], &[])?;
        let key = names::outcome(&repository.keys.zone, &session);
        match repository.store.put_new(&key, bytes).await {
            Ok(Put::Created) => return Ok(session),
            Ok(Put::Occupied(found)) if record::decode::<Abort>(&repository.keys.trust, &found).is_ok() => {
                return Ok(session);
            }
            // Something that cannot be read lies there.
            Ok(Put::Occupied(_)) | Err(StoreError::Failed { .. }) if !is_unknown(&session) => {}
            Ok(Put::Occupied(_)) => {
                return Err(Error::Store(StoreError::Occupied {
                    key,
                    advice: "nothing more can be done about it".into(),
                }));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Worker)
}

/// Whether an entry above says that a backup had an outcome, which is not there.
pub(super) fn is_hidden(log: &Log, entry: &LogEntry) -> bool {
    let is_backup = entry.announced().is_some_and(|record| matches!(record.fields.kind, Kind::Backup(_)));
    is_backup && matches!(entry.outcome, Outcome::Undecided) && witness(log, &entry.session).is_some()
}

async fn outcome(
    repository: &Repository,
    log: &mut Log,
    session: SessionId,
    options: &RepairOptions,
) -> Result<String> {
    let key = names::outcome(&repository.keys.zone, &session);
    let entry = log.entry(session.number).filter(|entry| entry.session == session);
    let usage = |why: &str| Err(Error::Usage(format!("{key} {why}; nothing was done")));
    let is_hidden = entry.is_some_and(|entry| is_hidden(log, entry));
    let is_bad = entry.is_some_and(|entry| matches!(entry.outcome, Outcome::Invalid(_)));
    let is_replaced = log.replaced(Log::END).any(|replaced| replaced == session);
    if !is_bad && !is_hidden && !is_replaced {
        return usage("is no outcome that is lost, cannot be read, or does not verify");
    }
    if entry.is_some_and(LogEntry::is_gc) {
        if !options.dry_run {
            abandon(repository, session.number, &options.reason).await?;
            log.refresh(repository).await?;
        }
        return Ok(format!("{key}: given up; that gc ended with nothing"));
    }
    if !log.retention().is_live(&session) {
        return usage("was given up already");
    }
    let mut said =
        "forgotten: it may have been a snapshot, and the next gc deletes what only it needs".to_owned();
    if !options.dry_run {
        let named = Snapshots { snapshots: vec![session], reason: one_line(&options.reason) };
        append(repository, log, Kind::Forget(named), &[]).await?;
        log.refresh(repository).await?;
        if is_hidden && !log.retention().is_live(&session) {
            // Else a gc would wait for it as for a backup under way. While others must approve that, it may come back.
            end(repository, session, options).await?;
            log.refresh(repository).await?;
        }
    }
    if log.retention().approvals_needed() > 0 {
        said = format!("to be forgotten once other keepers approved it ({Approve})");
    }
    Ok(format!("{key}: {said}"))
}
