//! The end of a gc whose outcome is junk, bit rot, or a commit that is wrong.

use sancerre_format::gc::GcLists;
use sancerre_format::id::{PackName, SessionId};
use sancerre_format::log::{Abandon, Kind};
use sancerre_format::names;

use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::repository::catalogue::Present;
use crate::repository::log::{Log, LogEntry, Moves, Outcome, needed};
use crate::repository::session::{append, one_line};

/// Signs that a gc ended with nothing, whatever its outcome is. Returns the entry's number.
///
/// It may have been a commit that moved frames and deleted the packs that they came from. Then those frames would be lost
/// for good, so it is refused when a pack that it proposed and that a live snapshot needs is gone.
///
/// Errors: [`Error::Usage`] for a number that is no such gc; [`Error::Missing`] for a pack that is gone;
/// [`Error::WrongKey`] without the admin's key; the store's.
pub async fn abandon(repository: &Repository, number: u64, reason: &str) -> Result<u64> {
    repository.store.must_tell_versions().await?;
    let mut log = Log::load(repository).await?;
    let next = log.highest().saturating_add(1);
    log.complete(repository, next).await?;
    log.settle(repository, next).await?;
    log.judge();
    let session = refuse_sound(&log, number)?;
    let proposal = proposal(repository, &log, number)?;
    let present = Present::load(repository).await?;
    let lying = Moves::below(&log, u64::MAX).packs(&needed(log.snapshots())?);
    let gone = |pack: &PackName| proposal.dead.contains_pack(pack) && present.found(*pack).is_empty();
    if let Some(PackName { session, ordinal }) = lying.into_iter().find(gone) {
        let folder = names::pack_folder(&repository.keys.zone, session);
        return Err(Error::Missing {
            key: format!("{folder}{ordinal:08x}-*, which gc {number} proposed to delete,"),
        });
    }
    let kind = Kind::Abandon(Abandon { session, reason: one_line(reason) });
    Ok(append(repository, &log, kind, &[]).await?.number)
}

/// Only a gc of which nothing is believed can be given up: what another one moved lies where its commit says.
fn refuse_sound(log: &Log, number: u64) -> Result<SessionId> {
    let usage = |why: &str| Error::Usage(format!("log entry {number} is {why}; nothing was done"));
    let entry = log.entry(number).filter(|entry| entry.is_gc()).ok_or_else(|| usage("no gc"))?;
    match &entry.outcome {
        _ if log.abandoned().contains(&entry.session) => Err(usage("a gc that was given up already")),
        Outcome::Invalid(_) => Ok(entry.session),
        Outcome::Commit(..) if log.flaws().contains_key(&number) => Ok(entry.session),
        Outcome::Undecided => Err(usage("a gc without an outcome, which the next gc ends by itself")),
        _ => Err(usage("a gc whose outcome is as it should be")),
    }
}

fn proposal(repository: &Repository, log: &Log, number: u64) -> Result<GcLists> {
    let key = names::log(&repository.keys.zone, number);
    let record = log.entry(number).and_then(LogEntry::announced);
    let record = record.ok_or_else(|| Error::Missing { key: key.clone() })?;
    record.public().and_then(|part| GcLists::decode(part, number)).map_err(Error::object(&key))
}
