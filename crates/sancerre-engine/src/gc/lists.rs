//! After G7: pack lists of which no pack is left, and index segments that nobody reads any more. Both are small, but there
//! are some for each night, and every backup lists them.
//!
//! No snapshot needs them: a list goes with the last pack that it names, and never while its session's snapshot may still
//! be had; to lose a segment costs deduplication at most.

use std::collections::BTreeSet;

use futures::StreamExt;
use sancerre_format::id::PackName;
use sancerre_format::names::{Folder, ZoneKey};

use super::packs::Packs;
use crate::error::{Error, Result, StoreError};
use crate::index::unread_segments;
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use crate::repository::log::{Log, LogEntry};
use crate::store::Removal;

/// Deletes in flight at once.
const DELETES_IN_FLIGHT: usize = 32;

/// Deletes what nobody reads; `deleted` are the packs that are gone since they were listed. What goes wrong is told: the
/// next gc tries again.
pub(super) async fn sweep(
    repository: &Repository,
    log: &Log,
    packs: &Packs,
    deleted: &BTreeSet<PackName>,
    monitor: &Monitor,
) {
    if let Err(error) = try_sweep(repository, log, packs, deleted, monitor).await {
        monitor.warn(Topic::Aside, format!("lists and index segments that nobody needs were left: {error}"));
    }
}

async fn try_sweep(
    repository: &Repository,
    log: &Log,
    packs: &Packs,
    deleted: &BTreeSet<PackName>,
    monitor: &Monitor,
) -> Result<()> {
    let dead = dead_sessions(log, packs, deleted);
    let zone = &repository.keys.zone;
    let mut keys = Vec::new();
    for listed in repository.list(Folder::Lists).await? {
        if let Ok(ZoneKey::List(session, _)) = ZoneKey::parse(zone, &listed.key)
            && log.has(&session)
            && dead.contains(&session.number)
        {
            keys.push(listed.key);
        }
    }
    keys.extend(unread_segments(repository, log, &dead, monitor).await?);
    let deletes = keys.iter().map(|key| async move {
        monitor.check()?;
        match repository.store.delete(key).await {
            // It is locked for as long as the rest.
            Err(StoreError::DeleteRefused { .. }) => Ok::<(), Error>(()),
            deleted => Ok(deleted?),
        }
    });
    let mut deletes = std::pin::pin!(futures::stream::iter(deletes).buffer_unordered(DELETES_IN_FLIGHT));
    while let Some(deleted) = deletes.next().await {
        deleted?;
    }
    Ok(())
}

/// The sessions whose packs are all burnt and gone, and of which no snapshot may still be had.
fn dead_sessions(log: &Log, packs: &Packs, deleted: &BTreeSet<PackName>) -> BTreeSet<u64> {
    let burnt = log.burnt(Log::END);
    let is_there = |pack: &PackName| !packs.lacks(*pack) && !deleted.contains(pack);
    let listed = packs.catalogue.packs().map(|(pack, _)| pack);
    let all: BTreeSet<PackName> = listed.chain(packs.present.names()).collect();
    let in_use =
        all.iter().filter(|pack| is_there(pack) || !burnt.contains_pack(pack)).map(|pack| pack.session);
    let snapshots = log.remaining_below(Log::END).into_iter().map(|snapshot| snapshot.session().number);
    let in_use: BTreeSet<u64> = in_use.chain(snapshots).collect();
    let has_ended = |number: &u64| log.entry(*number).is_some_and(LogEntry::has_ended);
    all.iter().map(|pack| pack.session).filter(|number| !in_use.contains(number)).filter(has_ended).collect()
}
