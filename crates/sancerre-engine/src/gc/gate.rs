//! The last look before anything is final, and again before anything is deleted: it asks the records alone what snapshots
//! need that are not gone, and no list what may go. Whatever went wrong before this, in this program or in another that signs
//! commits, ends here.

use std::collections::{BTreeMap, BTreeSet};

use sancerre_advice::Setting::MaxDrop;
use sancerre_advice::Verb::{Audit, Undelete};
use sancerre_format::FormatError;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{Hash, PackName, SessionId};
use sancerre_format::log::{Intent, Kind};
use sancerre_format::names::{self, Name, Title};
use sancerre_format::outcome::Commit;
use sancerre_format::record::Fields;

use crate::error::{Error, Result, StoreError};
use crate::forget::evidence::{MachineEvidence, ids, machine};
use crate::notes;
use crate::repository::Repository;
use crate::repository::catalogue::Present;
use crate::repository::log::{Log, LogEntry, Moves, Snapshot, needed};

/// Fails when one of these snapshots needs a frame that lies in one of these packs.
///
/// Errors: [`Error::Object`] with the manifest, the pack and the commit that gave it up.
pub(super) fn prove(
    repository: &Repository,
    log: &Log,
    (moves, snapshots): (&Moves, &[Snapshot<'_>]),
    doomed: &BTreeSet<PackName>,
) -> Result<()> {
    if doomed.is_empty() || moves.packs(&needed(snapshots.iter().copied())?).is_disjoint(doomed) {
        return Ok(());
    }
    for snapshot in snapshots {
        if let Some(pack) = moves.packs(&snapshot.uses()?).intersection(doomed).next() {
            return Err(broken(repository, log, snapshot, *pack));
        }
    }
    Err(Error::Lost { what: "the snapshot that needs a pack which is to go".into() })
}

fn broken(repository: &Repository, log: &Log, snapshot: &Snapshot<'_>, pack: PackName) -> Error {
    let burns = log.sound_commits().find(|(_, lists)| lists.dead.contains_pack(&pack));
    let by = burns.map_or_else(|| "this gc".to_owned(), |(gc, _)| format!("gc {gc}"));
    let detail = format!(
        "snapshot {} of {} by {} needs frames of pack {}/{}, which {by} gave up; nothing was deleted. One of the two \
         signed what is not so, or a program that collects is wrong: find out which, and revoke its key, or forget the \
         snapshot",
        snapshot.id(),
        snapshot.manifest.fields.vm,
        snapshot.manifest.fields.by.name,
        pack.session,
        pack.ordinal
    );
    let key = match burns.and_then(|(gc, _)| log.entry(gc)) {
        Some(LogEntry { session, .. }) => names::outcome(&repository.keys.zone, session),
        None => snapshot.key(),
    };
    Error::Object { key, source: FormatError::Forged { what: Commit::KIND, detail } }
}

/// The packs that the store lists and that these sets burn.
pub(super) fn doomed(present: &Present, burnt: &FrameSet) -> BTreeSet<PackName> {
    present.names().filter(|pack| burnt.contains_pack(pack)).collect()
}

/// Proves that final lists may become final.
///
/// Errors: as [`prove`].
pub(super) fn before_commit(
    repository: &Repository,
    log: &Log,
    (gc, lists): (u64, &GcLists),
    present: &Present,
) -> Result<()> {
    let mut moves = Moves::below(log, gc);
    moves.follow(gc, lists);
    let mut burnt = log.burnt(gc);
    burnt.union(&lists.dead);
    // What is forgotten and not given up can be had back, so it counts. Revocations above do not: by those below this gc
    // everybody judges it.
    let retention = log.retention();
    let remains = |snapshot: &Snapshot<'_>| {
        let session = snapshot.session();
        retention.collected_by(&session).is_none() && lists.forgotten.binary_search(&session).is_err()
    };
    let snapshots = log.entries().filter_map(|entry| entry.snapshot_below(gc)).filter(remains);
    prove(repository, log, (&moves, &snapshots.collect::<Vec<_>>()), &doomed(present, &burnt))
}

/// Proves that final lists leave what a snapshot that lost something is restored by.
///
/// Errors: [`Error::Bug`].
pub(super) fn keeps_healers(dead: &FrameSet, healers: &BTreeSet<PackName>) -> Result<()> {
    match healers.iter().find(|pack| dead.contains_pack(pack)) {
        None => Ok(()),
        Some(pack) => {
            Err(Error::bug(format!("pack {pack} was to go, and holds a copy of what a snapshot lost")))
        }
    }
}

/// Reads the log anew, with the commit that was just made, and proves that what is burnt may be deleted. Returns that.
///
/// Errors: as [`prove`]; [`Error::Lost`] when the commit does not read back as it was made.
pub(super) async fn before_sweep(
    repository: &Repository,
    log: &mut Log,
    (session, lists): (SessionId, &GcLists),
    present: &Present,
) -> Result<BTreeSet<PackName>> {
    // Its entry says to writers above it what it proposed. Once it is gone, and before the commit was there to stand for it, one
    // may have taken its number.
    let key = names::log(&repository.keys.zone, session.number);
    if repository.store.get(&key).await?.is_none_or(|bytes| Hash::of(&bytes) != session.intent) {
        return Err(Error::Store(StoreError::Vanished {
            key,
            location: repository.store.location().to_owned(),
        }));
    }
    log.refresh(repository).await?;
    log.settle(repository, session.number + 1).await?;
    log.judge();
    let ours = log.sound_commits().find(|(gc, _)| *gc == session.number);
    if ours.is_none_or(|(_, found)| found != lists) {
        return Err(Error::Lost { what: format!("the commit of gc {} as it was made", session.number) });
    }
    let mut doomed = doomed(present, &log.burnt(Log::END));
    // No frame set names the packs of notes, so no commit that burns one is told from a lie: they are looked at here.
    let retention = log.retention();
    doomed.retain(|pack| {
        let keeps = log.entry(pack.session).and_then(|entry| notes::keeps(log, &retention, entry));
        keeps != Some(true)
    });
    let remaining = log.remaining_below(Log::END);
    prove(repository, log, (&Moves::below(log, Log::END), &remaining), &doomed)?;
    Ok(doomed)
}

/// Fails when more snapshots of a machine went since the last commit than may: given up by records, or void because
/// their writer was revoked.
///
/// Errors: [`Error::Refused`].
pub(super) fn check_drop(log: &Log, max_drop_percent: u8) -> Result<()> {
    let retention = log.retention();
    let committed: Vec<Snapshot<'_>> = log.committed().collect();
    let ids = ids(&committed);
    let mut counts: BTreeMap<MachineEvidence, (&Title, usize, usize)> = BTreeMap::new();
    for snapshot in &committed {
        let (session, fields) = (snapshot.session(), &snapshot.manifest.fields);
        if retention.collected_by(&session).is_none() {
            let machine = machine(&fields.vm, fields.machine, &ids);
            let (vm, gone, of) = counts.entry(machine).or_insert((&fields.vm, 0, 0));
            // The newest name is the one that people know.
            *vm = &fields.vm;
            *gone += usize::from(!retention.is_live(&session));
            *of += 1;
        }
    }
    for Intent { vm, machine: id, .. } in newly_void(log) {
        let (_, gone, of) = counts.entry(machine(vm, *id, &ids)).or_insert((vm, 0, 0));
        *gone += 1;
        *of += 1;
    }
    let over = |(_, gone, of): &(&Title, usize, usize)| gone * 100 > of * usize::from(max_drop_percent);
    match counts.values().find(|counts| over(counts)) {
        None => Ok(()),
        Some((vm, gone, of)) => Err(Error::Refused(format!(
            "{gone} of {of} snapshots of {vm} went since the last gc, more than {max_drop_percent}%: forgotten, or void \
             because a key was revoked. Nothing was deleted. Look at the log with {Audit}; take a forget back with \
             {Undelete}, or allow it with {MaxDrop}"
        ))),
    }
}

/// What announced the snapshots that a commit saw, and that a revocation above the last commit made void.
fn newly_void(log: &Log) -> impl Iterator<Item = &Intent> {
    let last = log.newest_commit(Log::END).map_or(0, |(gc, _)| gc);
    let seen: BTreeSet<SessionId> =
        log.commits().flat_map(|(.., lists)| lists.seen.iter().copied()).collect();
    // The first revocation that reaches a session is the one that made it void.
    let revokes: Vec<_> =
        log.entries().filter_map(|entry| Some((entry.session.number, revoke(entry)?))).collect();
    log.entries().filter(move |entry| seen.contains(&entry.session)).filter_map(move |entry| {
        let record = entry.revoked.as_deref()?;
        let by = &record.fields.by.name;
        let reaches = |(writer, from): &(&Name, u64)| *writer == by && *from <= entry.session.number;
        let (at, _) = revokes.iter().find(|(_, revoke)| reaches(revoke))?;
        match &record.fields.kind {
            Kind::Backup(intent) => (*at > last).then_some(intent),
            _ => None,
        }
    })
}

fn revoke(entry: &LogEntry) -> Option<(&Name, u64)> {
    match entry.entry.as_deref().map(|record| &record.fields.kind) {
        Ok(Kind::Revoke(distrust)) => Some((&distrust.writer, distrust.from)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::tests::support::{SparseDisk, TestRepo, noise};

    const SIZE: usize = 3 << 20;

    /// A repository with two snapshots that share nothing, and the packs that the first one needs.
    async fn two() -> (TestRepo, Log, Vec<SessionId>, BTreeSet<PackName>) {
        let repo = TestRepo::new().await;
        for seed in [1, 2] {
            repo.back_up(SparseDisk::of(&noise(seed, SIZE))).await;
        }
        let log = Log::load(&repo.repository).await.unwrap();
        let sessions: Vec<SessionId> = log.committed().map(|snapshot| snapshot.session()).collect();
        let first = log.committed().next().unwrap().uses().unwrap();
        let needed = Moves::below(&log, Log::END).packs(&first);
        (repo, log, sessions, needed)
    }

    fn assert_names(error: &Error, snapshot: &Snapshot<'_>, pack: PackName) {
        let words = error.to_string();
        let pack = format!("pack {}/{}", pack.session, pack.ordinal);
        assert!(matches!(error, Error::Object { .. }), "{words}");
        assert!(words.contains(&snapshot.id().to_string()) && words.contains(&pack), "{words}");
        assert!(words.contains("nothing was deleted"), "{words}");
    }

    #[tokio::test]
    async fn no_pack_goes_that_a_snapshot_needs() {
        let (repo, log, _, needed) = two().await;
        let snapshots: Vec<Snapshot<'_>> = log.committed().collect();
        let moves = Moves::below(&log, Log::END);
        let proven = |snapshots: &[Snapshot<'_>], doomed: &BTreeSet<PackName>| {
            prove(&repo.repository, &log, (&moves, snapshots), doomed)
        };
        assert!(needed.len() > 1);
        for pack in &needed {
            let doomed = BTreeSet::from([*pack]);
            assert_names(&proven(&snapshots, &doomed).unwrap_err(), &snapshots[0], *pack);
            // The other one needs none of them.
            proven(&snapshots[1..], &doomed).unwrap();
        }
        proven(&snapshots, &BTreeSet::new()).unwrap();
        proven(&[], &needed).unwrap();
    }

    #[tokio::test]
    async fn lists_become_final_only_if_what_they_burn_is_needed_by_nothing_that_stays() {
        let (repo, log, sessions, needed) = two().await;
        let present = Present::load(&repo.repository).await.unwrap();
        let gc = log.entries().map(|entry| entry.session.number).max().unwrap() + 1;
        let snapshot = log.committed().next().unwrap();
        for pack in needed {
            let mut lists = GcLists::default();
            lists.dead.insert_pack(pack);
            let judged = |lists: &GcLists, gc, present: &Present| {
                before_commit(&repo.repository, &log, (gc, lists), present)
            };
            assert_names(&judged(&lists, gc, &present).unwrap_err(), &snapshot, pack);
            // What the store does not have is not deleted.
            judged(&lists, gc, &Present::default()).unwrap();
            lists.forgotten = vec![sessions[1]];
            judged(&lists, gc, &present).unwrap_err();
            lists.forgotten = vec![sessions[0]];
            judged(&lists, gc, &present).unwrap();
        }
    }

    #[test]
    fn no_list_burns_what_heals_a_snapshot() {
        let pack = |session| PackName { session, ordinal: 0 };
        let mut dead = FrameSet::default();
        dead.insert_pack(pack(1));
        assert!(keeps_healers(&dead, &BTreeSet::from([pack(2)])).is_ok());
        assert!(keeps_healers(&dead, &BTreeSet::new()).is_ok());
        let error = keeps_healers(&dead, &BTreeSet::from([pack(1), pack(2)])).unwrap_err();
        assert!(matches!(error, Error::Bug { .. }), "{error}");
    }
}
