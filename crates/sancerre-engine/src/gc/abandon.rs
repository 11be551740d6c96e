//! The end of a gc whose outcome is junk, bit rot, or a commit that is wrong.
//!
//! It is no abort: the process that made the commit may have read it, and go on deleting. So what it proposed is avoided
//! for ever, what was forgotten at its number is gone, and its packs, in which copies may be all there is, stay while they
//! are needed.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use sancerre_advice::Verb;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{PackName, SessionId};
use sancerre_format::log::{Abandon, Kind};
use sancerre_format::names;

use super::packs::Packs;
use crate::error::{Error, Result, StoreError};
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::catalogue::{Catalogue, Present};
use crate::repository::log::{Log, LogEntry, Moves, Outcome, needed};
use crate::repository::pack_ends::{PackRef, fetch_all};
use crate::repository::session::{abort_other, append, one_line};

/// Signs that a gc ended with nothing, whatever its outcome is. Returns the entry's number.
///
/// It may have been a commit that moved frames and deleted the packs that they came from. So it is refused when a pack is
/// gone that it proposed and of which a frame is needed that does not lie in its own packs either.
///
/// A commit with which nothing is wrong is given up as well where it stands above one that must be: it may have built on that.
///
/// Errors: [`Error::Usage`] for a number that is no such gc, or above which another one committed; [`StoreError::Missing`] for
/// a pack that is gone; [`Error::WrongKey`] without the admin's key; the store's.
pub async fn abandon(repository: &Repository, number: u64, reason: &str) -> Result<u64> {
    repository.store.must_tell_versions().await?;
    let mut log = Log::load(repository).await?;
    let next = log.end();
    log.complete(repository, next).await?;
    log.settle(repository, next).await?;
    log.judge();
    let session = refuse_sound(&log, number)?;
    refuse_built_on(&log, session, Log::END)?;
    refuse_lost(repository, &log, number).await?;
    let kind = Kind::Abandon(Abandon { session, reason: one_line(reason) });
    let own = append(repository, &log, kind, &[]).await?.number;
    // A collector between the two may have read the commit: it is ended, or what it did is known.
    log.refresh(repository).await?;
    log.complete(repository, own).await?;
    let open = log.undecided(own).filter(|entry| entry.is_gc() && entry.session.number > number);
    for gc in open.map(|entry| entry.session).collect::<Vec<_>>() {
        abort_other(repository, gc, "a gc below it was given up while it ran; run gc again").await?;
    }
    log.settle(repository, own).await?;
    refuse_built_on(&log, session, own)?;
    Ok(own)
}

/// Only a gc of which nothing is believed can be given up: what another one moved lies where its commit says.
fn refuse_sound(log: &Log, number: u64) -> Result<SessionId> {
    let usage = |why: &str| Error::Usage(format!("log entry {number} is {why}; nothing was done"));
    let entry = log.entry(number).filter(|entry| entry.is_gc()).ok_or_else(|| usage("no gc"))?;
    match &entry.outcome {
        _ if log.abandoned().contains_key(&entry.session) => Err(usage("a gc that was given up already")),
        Outcome::Invalid(_) => Ok(entry.session),
        Outcome::Commit(..) if log.flaws().contains_key(&number) || log.waiting().contains_key(&number) => {
            Ok(entry.session)
        }
        Outcome::Commit(..) if stands_on_unknown(log, number) => Ok(entry.session),
        Outcome::Undecided => Err(usage("a gc without an outcome, which the next gc ends by itself")),
        _ => Err(usage("a gc whose outcome is as it should be")),
    }
}

/// Whether a gc below `number` stops all others until it is given up: what its outcome says is not known, or what it did not
/// wait for. What is damaged stops them only until its key is revoked.
fn stands_on_unknown(log: &Log, number: u64) -> bool {
    let (waiting, abandoned) = (log.waiting(), log.abandoned());
    let is_unknown = |entry: &LogEntry| matches!(entry.outcome, Outcome::Invalid(_));
    let stops = |entry: &LogEntry| {
        let below = waiting.get(&entry.session.number).and_then(|below| log.entry(below.number));
        entry.is_gc() && (is_unknown(entry) || below.is_some_and(is_unknown))
    };
    let mut below = log.entries().take_while(|entry| entry.session.number < number);
    below.any(|entry| stops(entry) && !abandoned.contains_key(&entry.session))
}

fn refuse_built_on(log: &Log, gc: SessionId, below: u64) -> Result<()> {
    let abandoned = log.abandoned_below(below);
    let Some(above) = log.built_on(gc, below, &abandoned) else { return Ok(()) }; // invariant: nothing stands on it
    let mut highest = above;
    while let Some(higher) = log.built_on(highest, below, &abandoned) {
        highest = higher;
    }
    let highest = highest.number;
    Err(Error::Usage(format!(
        "gc {} cannot be given up: gc {} above it has a commit, or an outcome that cannot be read, and may have built on what it \
         moved and deleted. If the right bytes of what cannot be read will not come back, give up those above it first, the \
         highest first: {}. Nothing is lost by that; what they moved is stored anew by and by",
        gc.number,
        above.number,
        Verb::Abandon(highest)
    )))
}

/// Fails when something is gone that the commit may have moved, and no copy is there.
async fn refuse_lost(repository: &Repository, log: &Log, number: u64) -> Result<()> {
    let zone = &repository.keys.zone;
    let key = names::log(zone, number);
    let record = log.entry(number).and_then(LogEntry::announced);
    let record = record.ok_or_else(|| Error::Store(StoreError::Missing { key: key.clone() }))?;
    let proposal = record.public().and_then(|part| GcLists::decode(part, number));
    let proposal = proposal.map_err(Error::object(&key))?;
    let present = Present::load(repository).await?;
    // What was forgotten at its number is gone then.
    let at_its_number = log.retention_below(number);
    let mut needed_then = log.remaining_below(Log::END);
    needed_then.retain(|snapshot| {
        let session = snapshot.session();
        session.number > number || at_its_number.is_live(&session)
    });
    let mut lying = Moves::without(log, number).by_pack(&needed(needed_then)?);
    lying.retain(|pack, _| proposal.dead.contains_pack(pack) && present.found(*pack).is_empty());
    if lying.is_empty() {
        return Ok(());
    }
    // What it moved, one above may have moved on, which was given up before it.
    let mut gcs: BTreeSet<u64> = log.abandoned().keys().map(|gc| gc.number).collect();
    gcs.insert(number);
    let (catalogue, _) = Catalogue::load(repository, log, gcs.iter().copied()).await?;
    let packs = present.names().filter(|pack| gcs.contains(&pack.session));
    let sources = packs.filter_map(|pack| PackRef::find(&catalogue, pack)).collect();
    let mut copies = FrameSet::default();
    let monitor = Monitor::silent();
    let mut read = std::pin::pin!(fetch_all(repository, sources, &monitor));
    while let Some((source, ends)) = read.try_next().await? {
        let ends = ends?;
        let tail = ends.decode().map_err(Error::object(&source.key(repository)))?;
        tail.directory().iter().for_each(|entry| copies.insert(entry.frame));
    }
    match lying.into_iter().find(|(_, frames)| !frames.is_subset(&copies)) {
        None => Ok(()),
        Some((PackName { session, ordinal }, _)) => {
            let folder = names::pack_folder(zone, session);
            Err(Error::Store(StoreError::Missing {
                key: format!("{folder}{ordinal:08x}-*, which gc {number} proposed to delete,"),
            }))
        }
    }
}

/// Takes from `doomed` the packs that may be all there is since a gc was given up; returns them with the reason. No plan has
/// them in it, but a thief's commit may burn them: no other commit says that frames lie there, so it contradicts none.
///
/// Errors: as [`needed_copies`].
pub(super) async fn keep_copies(
    repository: &Repository,
    log: &Log,
    packs: &Packs,
    doomed: &mut BTreeSet<PackName>,
    monitor: &Monitor,
) -> Result<Vec<String>> {
    let void = log.void_sessions();
    let is_given_up =
        |number: u64| void.contains(&number) || log.abandoned().keys().any(|gc| gc.number == number);
    if !doomed.iter().any(|pack| is_given_up(pack.session)) {
        return Ok(Vec::new());
    }
    let copies = needed_copies(repository, log, packs, monitor).await?;
    let kept: Vec<PackName> = doomed.intersection(&copies).copied().collect();
    let burns = |pack: &PackName| {
        let by = log.commits().filter(|(.., lists)| lists.dead.contains_pack(pack));
        by.map(|(gc, commit, _)| format!("gc {} by {}", gc.number, commit.signer)).collect::<Vec<_>>()
    };
    let told = |pack: &PackName| {
        doomed.remove(pack);
        format!(
            "pack {pack} stays: since gc {} was given up it may hold all there is of what a snapshot needs, and {} gave it \
             up all the same; find out why, and revoke that key if it lies",
            pack.session,
            burns(pack).join(" and ")
        )
    };
    Ok(kept.iter().map(told).collect())
}

/// Packs of gcs and of lost sessions that were given up in which a frame lies that a snapshot needs which is not gone, or may lie, for all that
/// can be read of them.
///
/// Errors: the store's; the user's wish to stop.
pub(super) async fn needed_copies(
    repository: &Repository,
    log: &Log,
    packs: &Packs,
    monitor: &Monitor,
) -> Result<BTreeSet<PackName>> {
    let abandoned: BTreeSet<u64> = log.abandoned().keys().map(|gc| gc.number).collect();
    // They may have been gcs too, whose lists are nobody's word any more.
    let void = log.void_sessions();
    let is_given_up = |pack: &PackName| abandoned.contains(&pack.session) || void.contains(&pack.session);
    // Readers look into packs that no list names too.
    let find = |pack: PackName| PackRef::find(&packs.catalogue, pack);
    let (named, mut kept): (BTreeSet<PackName>, BTreeSet<PackName>) =
        packs.present.names().filter(is_given_up).partition(|pack| find(*pack).is_some());
    let sources: Vec<PackRef> = named.into_iter().filter_map(find).collect();
    if sources.is_empty() {
        return Ok(kept);
    }
    let needed = needed(log.remaining_below(Log::END))?;
    let mut read = std::pin::pin!(fetch_all(repository, sources, monitor));
    while let Some((source, ends)) = read.try_next().await? {
        let held = ends.and_then(|ends| {
            let tail = ends.decode().map_err(Error::object(&source.key(repository)))?;
            Ok(tail.directory().iter().any(|entry| needed.contains(&entry.frame)))
        });
        match held {
            Ok(false) => {}
            Err(error) if !error.is_damage() => return Err(error),
            _ => drop(kept.insert(source.name)),
        }
    }
    Ok(kept)
}
