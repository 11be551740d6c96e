//! Packs: are they there, and are their bytes what their sessions listed.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use sancerre_advice::Verb::Repair;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::PackName;
use sancerre_format::limits;
use sancerre_format::list::ListedPack;
use sancerre_format::names::{self, Folder};
use sancerre_format::pack::PackKind;

use super::moved;
use super::report::Severity;
use super::run::{Run, is_transient, tolerate};
use super::sample::Sampled;
use super::select::ReadData;
use super::verify::{self, Expected, Lost, Verdict};
use crate::error::Result;
use crate::error::StoreError;
use crate::frames::Frames;
use crate::monitor::{Monitor, add};
use crate::notes;
use crate::repository::Repository;

/// Bytes of packs in memory at once.
const IN_FLIGHT_BYTES: u64 = 256 << 20;
/// Most packs in flight.
const IN_FLIGHT: u64 = 16;

/// What was counted on the way.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) packs: u64,
    pub(super) pack_bytes: u64,
    pub(super) read_packs: u64,
    pub(super) read_bytes: u64,
    pub(super) readable_packs: u64,
    pub(super) sampled: Option<Sampled>,
    pub(super) content_opened: bool,
}

/// A pack to be read.
struct Job {
    key: String,
    expected: Expected,
}

/// Compares what snapshots need with what is there.
///
/// Returns the packs needed.
pub(super) async fn compare(run: &mut Run<'_>, counted: &mut Counted) -> Result<BTreeSet<PackName>> {
    let mut uses = FrameSet::default();
    run.subjects.iter().filter_map(|subject| subject.uses.as_ref()).for_each(|of_one| uses.union(of_one));
    let lying = run.inventory.moves.by_pack(&uses);
    let needed: BTreeSet<PackName> = lying.keys().copied().collect();
    counted.packs = u64::try_from(needed.len()).unwrap_or(u64::MAX);
    let catalogue = run.inventory.catalogue.clone();
    for pack in &needed {
        let listed = catalogue.pack(*pack).map_or(0, |listed| listed.size_bytes);
        counted.pack_bytes = counted.pack_bytes.saturating_add(listed);
        lose_pack(run, *pack);
    }
    for (pack, listed) in catalogue.packs().filter(|(pack, _)| !needed.contains(pack)) {
        // A pack that nobody needs may be gone, but a wrong one must not be built on.
        let wrong = run.inventory.present.found(pack).iter().any(|(hash, _)| *hash == listed.hash);
        if wrong && !run.quarantine.has_pack(pack) {
            lose_pack(run, pack);
        }
    }
    let moved = |(pack, frames): &(&PackName, &FrameSet)| frames.packs().any(|named| named != **pack);
    let targets = lying.iter().filter(moved).map(|(pack, _)| *pack).collect();
    run.frames.prepare_packs(targets).await.or_else(|error| match error {
        // Told of each pack for which it matters.
        crate::Error::Store(StoreError::Failed { .. }) => Ok(()),
        error => Err(error),
    })?;
    moved::check(run, &lying).await?;
    Ok(needed)
}

/// Notes that a pack is not there as listed, if so.
fn lose_pack(run: &mut Run<'_>, pack: PackName) {
    let Some(fault) = run.inventory.fault(run.repository, pack) else { return };
    run.lost.add_pack(pack);
    // What no list names cannot be reused anyway.
    let is_named = run.inventory.catalogue.pack(pack).is_some();
    let is_found = run.inventory.catalogue.unlisted().contains(&pack);
    let is_quarantined = is_named && !is_found && run.quarantine.add_pack(pack);
    if is_quarantined {
        run.findings.blame_quarantined(&fault.object, fault.severity, fault.problem);
    } else {
        run.findings.blame(&fault.object, fault.severity, fault.problem);
    }
}

/// Reads and verifies the chosen packs, and those that are quarantined although snapshots need them: so it is known
/// today what of them is lost.
pub(super) async fn read(
    run: &mut Run<'_>,
    read_data: &ReadData,
    needed: &BTreeSet<PackName>,
    counted: &mut Counted,
) -> Result<()> {
    let sample = draw(run, read_data, needed, counted);
    let jobs = choose(run, read_data, &sample, needed, counted);
    counted.content_opened = *read_data != ReadData::No && run.repository.keys.can_open_content();
    let total: u64 = jobs.iter().fold(0, |sum, job| sum.saturating_add(job.expected.listed.size_bytes));
    add(&run.monitor.counters.total_bytes, total);
    let width = (IN_FLIGHT_BYTES / u64::from(run.repository.layout.pack_bytes).max(1)).clamp(1, IN_FLIGHT);
    let width = usize::try_from(width).unwrap_or(1);

    let (repository, monitor, frames) = (run.repository, run.monitor, Arc::clone(&run.frames));
    let read = futures::stream::iter(jobs).map(|job| {
        let frames = Arc::clone(&frames);
        async move {
            monitor.check()?;
            let verified = verified(repository, &job, &frames, monitor).await?;
            Ok::<_, crate::Error>(verified.map(|verified| (job, verified)))
        }
    });
    let mut read = std::pin::pin!(read.buffer_unordered(width));
    while let Some(read) = read.try_next().await? {
        let Some((Job { key, expected }, verified)) = read else { continue };
        counted.read_packs = counted.read_packs.saturating_add(1);
        counted.read_bytes = counted.read_bytes.saturating_add(expected.listed.size_bytes);
        match verified {
            Ok(verdict) => judge(run, &key, &expected, verdict),
            Err((transient, problem)) => unreadable(run, &key, expected.name, transient, problem),
        }
    }
    Ok(())
}

/// What a pack's bytes say, or why they cannot be had, and whether only for now; none for one that gc gave up meanwhile.
async fn verified(
    repository: &Repository,
    job: &Job,
    frames: &Arc<Frames>,
    monitor: &Monitor,
) -> Result<Option<std::result::Result<Verdict, (bool, String)>>> {
    let expected = &job.expected;
    let size_bytes = expected.listed.size_bytes;
    let most = limits::pack_bytes_max(repository.layout.pack_bytes);
    if size_bytes > most {
        // What its writer listed; nobody has memory for whatever he likes.
        let problem = format!("its list says {size_bytes} bytes, and a pack here has at most {most}");
        return Ok(Some(Err((false, problem))));
    }
    let verified = match repository.store.need(&job.key).await {
        Ok(bytes) => {
            let (expected, frames) = (expected.clone(), Arc::clone(frames));
            Ok(repository.host.compute(move || verify::verify(&bytes, &expected, &frames)).await?)
        }
        // Read before gc deleted it, or not needed any more.
        Err(StoreError::Missing { .. }) if frames.gave_up(expected.name).await? => return Ok(None),
        Err(error) => {
            let error = error.into();
            Err((is_transient(&error), tolerate(repository, error).await?))
        }
    };
    add(&monitor.counters.done_bytes, size_bytes);
    add(&monitor.counters.stored_bytes, size_bytes);
    Ok(Some(verified))
}

/// Draws from the packs that snapshots need and that are there; the others are known to be lost.
fn draw(
    run: &Run<'_>,
    read_data: &ReadData,
    needed: &BTreeSet<PackName>,
    counted: &mut Counted,
) -> BTreeSet<PackName> {
    let ReadData::Sample(sample) = read_data else { return BTreeSet::new() };
    let is_there = |(name, listed): &(PackName, &ListedPack)| {
        needed.contains(name) && run.inventory.present.has(*name, listed)
    };
    let packs: Vec<(PackName, &ListedPack)> = run.inventory.catalogue.packs().filter(is_there).collect();
    let drawn = sample.choose(&packs);
    let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    counted.sampled =
        Some(Sampled { sample: *sample, population: count(packs.len()), drawn: count(drawn.len()) });
    drawn
}

fn choose(
    run: &Run<'_>,
    read_data: &ReadData,
    sample: &BTreeSet<PackName>,
    needed: &BTreeSet<PackName>,
    counted: &mut Counted,
) -> Vec<Job> {
    let quarantined = run.quarantine.packs(&run.inventory.moves);
    let doubtful = |pack: &PackName| needed.contains(pack) && quarantined.contains_pack(pack);
    let catalogue = run.inventory.catalogue.clone();
    let readable = |(pack, listed): &(PackName, &ListedPack)| {
        let history = run.quarantine.has_pack(*pack) && !needed.contains(pack);
        run.inventory.present.has(*pack, listed) && !history
    };
    let stand_in = read_data.stand_in(catalogue.packs().filter(readable));
    let wanted = |(pack, listed): &(PackName, &ListedPack)| {
        let is_drawn = read_data.selects(*pack, listed) || sample.contains(pack) || stand_in == Some(*pack);
        is_drawn || doubtful(pack)
    };
    let all = catalogue.packs().filter(readable).inspect(|_| {
        counted.readable_packs = counted.readable_packs.saturating_add(1);
    });
    let jobs = all.filter(wanted).filter_map(|(name, listed)| {
        let session = catalogue.session(name.session)?;
        let keys = &run.repository.keys;
        let generation = run.log.generation(name.session).filter(|made| keys.zone_keys(*made).is_ok());
        let expected = Expected {
            repository: run.repository.keys.trust.repository,
            session,
            name,
            listed: *listed,
            open_content: generation.is_some() && run.repository.keys.can_open_content(),
            generation,
        };
        Some(Job { key: names::pack(&run.repository.keys.zone, name, &listed.hash), expected })
    });
    jobs.collect()
}

fn judge(run: &mut Run<'_>, key: &str, expected: &Expected, verdict: Verdict) {
    let pack = expected.name;
    if verdict.newer {
        return too_new(run, key, pack, verdict);
    }
    if verdict.has_table && expected.listed.kind == PackKind::Data {
        run.read.insert(pack);
    }
    let is_quarantined = match verdict.lost {
        Lost::Nothing if verdict.problem.is_none() => return doubt(run, key, expected),
        Lost::Nothing => run.quarantine.add_pack(pack),
        Lost::Whole => {
            run.lost.add_pack(pack);
            run.quarantine.add_pack(pack)
        }
        Lost::Frames(mut frames) => {
            // A copy that no gc committed says nothing about the frame.
            frames.retain(|frame| run.inventory.moves.pack(frame) == pack);
            frames.into_iter().fold(true, |is_quarantined, frame| {
                run.lost.add(frame);
                run.quarantine.add(frame, &pack) && is_quarantined
            })
        }
    };
    let problem = verdict.problem.unwrap_or_default();
    if is_quarantined {
        run.findings.blame_quarantined(key, Severity::Damaged, problem);
    } else {
        run.findings.blame(key, Severity::Damaged, problem);
    }
}

/// What needs a newer program costs what it holds, and is never quarantined: nothing is wrong with it.
fn too_new(run: &mut Run<'_>, key: &str, pack: PackName, verdict: Verdict) {
    match verdict.lost {
        Lost::Frames(frames) => frames.into_iter().for_each(|frame| run.lost.add(frame)),
        Lost::Nothing | Lost::Whole => run.lost.add_pack(pack),
    }
    run.findings.blame(key, Severity::Unsupported, verdict.problem.unwrap_or_default());
}

/// A pack whose sealed bytes are as listed. Frames that a check with more keys put into quarantine one by one may
/// still hold something else than their ids say.
fn doubt(run: &mut Run<'_>, key: &str, expected: &Expected) {
    let Expected { name: pack, listed, .. } = expected;
    if expected.open_content || listed.kind != PackKind::Data || run.quarantine.has_pack(*pack) {
        return;
    }
    let quarantined = run.inventory.moves.lying_in(run.quarantine.frames(), *pack);
    if quarantined.is_empty() {
        return;
    }
    run.lost.extend(&quarantined);
    let problem = "frames of it are quarantined, and this key cannot open them to see whether they are lost";
    run.findings.blame_quarantined(key, Severity::Damaged, problem);
}

fn unreadable(run: &mut Run<'_>, key: &str, pack: PackName, transient: bool, problem: String) {
    run.lost.add_pack(pack);
    if transient {
        // Perhaps it can be read tomorrow: nothing is quarantined for that.
        run.findings.blame(key, Severity::Damaged, problem);
    } else if run.quarantine.add_pack(pack) {
        run.findings.blame_quarantined(key, Severity::Missing, problem);
    } else {
        run.findings.blame(key, Severity::Missing, problem);
    }
}

/// Charges what is lost to the snapshots whose frame sets name it. Which bytes of them it is only their maps tell.
pub(super) fn charge(run: &mut Run<'_>) {
    for (at, object) in concerned(run) {
        run.findings.cost(&object, (at, None), None);
    }
}

/// The subjects whose frame sets name what is lost, by their places, and the objects in which it lay.
pub(super) fn concerned(run: &Run<'_>) -> Vec<(usize, String)> {
    let moves = &run.inventory.moves;
    let objects: Vec<(PackName, String)> = run
        .lost
        .touched(moves)
        .packs()
        .filter_map(|pack| {
            let fault = run.inventory.fault(run.repository, pack).map(|fault| fault.object);
            Some((pack, fault.or(run.inventory.catalogue.key(run.repository, pack).ok())?))
        })
        .collect();
    let mut concerned = Vec::new();
    for (at, subject) in run.subjects.iter().enumerate() {
        let Some(uses) = &subject.uses else { continue };
        let lying = moves.by_pack(uses);
        for (pack, object) in &objects {
            let Some(frames) = lying.get(pack) else { continue };
            let some = frames.packs().any(|named| frames.shares(run.lost.frames(), &named));
            if some || run.lost.has_pack(pack) {
                concerned.push((at, object.clone()));
            }
        }
    }
    concerned
}

/// Says how much of the store no snapshot accounts for. `is_stranded`: there are signed snapshots that nobody sees.
pub(super) fn note_orphans(run: &mut Run<'_>, needed: &BTreeSet<PackName>, is_stranded: bool) {
    let (mut orphans, mut doubtful) = ((0u64, 0u64), (0u64, 0u64));
    // Where something that says what is needed cannot be read, nobody can say that nothing needs a pack.
    let all_known = run.subjects.iter().all(|subject| subject.uses.is_some())
        && !is_stranded
        && !run.log.damaged().any(|(session, _)| run.log.retention().is_live(&session))
        && run.log.void_sessions().is_empty();
    let lost: BTreeSet<u64> = run.inventory.lost_lists(&run.repository.keys.zone).collect();
    let retention = run.log.retention();
    for pack in run.inventory.present.names() {
        let entry = run.log.entry(pack.session);
        let committed = entry.is_some_and(|entry| entry.snapshot().is_some() || entry.commit().is_some());
        let is_kept = entry.is_some_and(|entry| notes::keeps(&run.log, &retention, entry) == Some(true));
        for (hash, size_bytes) in run.inventory.present.found(pack) {
            let listed = run.inventory.catalogue.pack(pack).is_some_and(|listed| listed.hash == *hash);
            if listed && (committed || is_kept || needed.contains(&pack)) {
                continue;
            }
            let is_sure = all_known && !lost.contains(&pack.session);
            let (packs, bytes) = if is_sure { &mut orphans } else { &mut doubtful };
            *packs = packs.saturating_add(1);
            *bytes = bytes.saturating_add(*size_bytes);
        }
    }
    let folder = run.repository.folder(Folder::Packs);
    let (packs, bytes) = orphans;
    if packs > 0 {
        let problem = format!(
            "{packs} packs of {bytes} bytes belong to no snapshot: their backups are running, were aborted or died; \
             the next backup reuses what is listed of them, and gc removes the rest"
        );
        run.findings.blame(&folder, Severity::Note, problem);
    }
    let (packs, bytes) = doubtful;
    if packs > 0 {
        let problem = format!(
            "of {packs} packs of {bytes} bytes it cannot be said whether a snapshot needs them, for a record that would say \
             so is lost: leave them where they are. {Repair} says what can be made anew"
        );
        run.findings.blame(&folder, Severity::Note, problem);
    }
}
