//! G5 and G6: what was planned, struck by what was decided since, becomes final in one object.

use std::collections::BTreeSet;

use bytes::Bytes;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{PackName, SessionId};
use sancerre_format::log::KEEPERS;
use sancerre_format::names;
use sancerre_format::outcome::{Abort, Commit};
use sancerre_format::record;

use super::copy::Copied;
use crate::error::{Error, Result, StoreError};
use crate::notes;
use crate::repository::Repository;
use crate::repository::log::{Log, LogEntry, Moves, Outcome, needed};
use crate::store::{Creation, Put};

/// The sessions whose outcomes the plan knew (K), and the records that it read. Of a damaged outcome that was given up it
/// did not know what it names, and the right bytes may come back.
pub(super) fn decided(log: &Log) -> BTreeSet<SessionId> {
    let is_record =
        |entry: &LogEntry| entry.announced().is_some_and(|entry| !entry.fields.kind.needs_outcome());
    let decided = |entry: &&LogEntry| {
        is_record(entry) || !matches!(entry.outcome, Outcome::Undecided | Outcome::Invalid(_))
    };
    log.entries().filter(decided).map(|entry| entry.session).collect()
}

/// The final lists of gc `number`; everything below it is decided and read.
///
/// A pack is struck when a lower commit gave it up; when a manifest names something in it that the plan did not know,
/// whatever became of that one; when a snapshot needs a frame in it that was not moved, because that could not be had,
/// or because the snapshot was held or taken back since the plan; when a part of it was quarantined meanwhile; or when
/// its gc was given up since the plan, for its copies may be all there is.
/// Nothing of a struck pack is moved.
pub(super) fn final_lists(
    log: &Log,
    number: u64,
    proposed: &FrameSet,
    copied: &Copied,
    known: &BTreeSet<SessionId>,
) -> Result<GcLists> {
    let live = log.snapshots_below(number);
    let late = log.committed_below(number).filter(|snapshot| !known.contains(&snapshot.session()));
    let moves = Moves::below(log, number);
    let (lying, late) = (moves.by_pack(&needed(live.iter().copied())?), moves.packs(&needed(late)?));
    let quarantined = log.quarantined(number).touched(&moves);
    let copies = copied.frames();
    let is_kept = |pack: &PackName| {
        lying.get(pack).is_some_and(|frames| quarantined.contains_pack(pack) || !frames.is_subset(&copies))
    };
    let (burnt, abandoned) = (log.burnt(number), log.abandoned_below(number));
    let is_new = |at: &u64| log.entry(*at).is_none_or(|entry| !known.contains(&entry.session));
    let given_up: BTreeSet<u64> =
        abandoned.iter().filter(|(_, at)| is_new(at)).map(|(gc, _)| gc.number).collect();
    let retention = log.retention_below(number);
    let is_noted = |pack: &PackName| {
        log.entry(pack.session).is_some_and(|entry| notes::keeps(log, &retention, entry) == Some(true))
    };
    let is_kept = |pack: &PackName| is_kept(pack) || given_up.contains(&pack.session) || is_noted(pack);
    let mut dead = FrameSet::default();
    for pack in proposed.packs() {
        if !burnt.contains_pack(&pack) && !late.contains(&pack) && !is_kept(&pack) {
            dead.insert_pack(pack);
        }
    }
    let ends_here = |session: &SessionId| {
        session.number < number && !retention.is_live(session) && retention.collected_by(session).is_none()
    };
    let committed = log.committed_below(number).map(|snapshot| snapshot.session());
    let ended: BTreeSet<SessionId> = committed.chain(log.damaged().map(|(session, _)| session)).collect();
    Ok(GcLists {
        moves: copied.leaving(&dead, &moves),
        dead,
        seen: unseen(log, number),
        forgotten: ended.into_iter().filter(ends_here).collect(),
    })
}

/// The live snapshots below `number` that no commit below it saw.
pub(super) fn unseen(log: &Log, number: u64) -> Vec<SessionId> {
    let below = log.commits().take_while(|(gc, ..)| gc.number < number);
    let seen: BTreeSet<SessionId> = below.flat_map(|(.., lists)| lists.seen.iter().copied()).collect();
    let live = log.snapshots_below(number).into_iter().map(|snapshot| snapshot.session());
    live.filter(|session| !seen.contains(session)).collect()
}

/// G6. Nothing may be deleted before this returned without an error.
///
/// Errors: [`Error::SessionEnded`] when another outcome was there first; [`Error::Undecided`] when the store went away.
pub(super) async fn commit(
    repository: &Repository,
    log: &Log,
    session: SessionId,
    lists: &GcLists,
) -> Result<()> {
    let signer = repository.signer(KEEPERS)?;
    let previous = log.newest_commit(session.number);
    let commit = Commit {
        repository: repository.keys.trust.repository,
        zone: repository.keys.zone.clone(),
        session,
        by: signer.by.clone(),
        time: repository.host.clock.now(),
        previous: previous.map(|(number, record)| SessionId { number, intent: record.hash }),
        records: log.digest(session.number),
    };
    let bytes: Bytes =
        record::encode(&commit, repository.host.tool, &signer.key, &lists.encode()?, &[])?.into();
    match repository.store.put_new(&names::outcome(&repository.keys.zone, &session), bytes).await {
        Ok(Put::Created) => Ok(()),
        Ok(Put::Occupied(found)) => Err(ended(repository, session, &found)),
        Err(source @ StoreError::Failed { .. }) => {
            Err(Error::Undecided { session: session.to_string(), reason: source.to_string() })
        }
        Err(error) => Err(error.into()),
    }
}

fn ended(repository: &Repository, session: SessionId, found: &[u8]) -> Error {
    let (by, reason) = match record::decode::<Abort>(&repository.keys.trust, found) {
        Ok(abort) => (abort.signer.to_string(), abort.fields.reason),
        Err(error) => ("somebody unknown".to_owned(), error.to_string()),
    };
    Error::GcEnded { gc: session.number, by, reason }
}
