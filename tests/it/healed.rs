//! A pack is lost, and another holds what lay in it: snapshots that are restored by the copy are neither spoiled by a
//! collector nor taken for lost by a check.

use std::collections::BTreeSet;

use sancerre_engine::check::{CheckOptions, CheckReport, Finding, ReadData, Severity, check};
use sancerre_engine::gc::{GcOptions, gc};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_format::id::SessionId;
use sancerre_format::pack::{Pack, PackKind};
use sancerre_tests::disk::{MemoryDisk, guest, noise};
use sancerre_tests::model::Model;
use sancerre_tests::repo::{TestRepo, back_up, dump_bytes};

use crate::gc::{OPTIONS, collect, drop_snapshot};

const SIZE: usize = 1 << 20;

/// What becomes of packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Gone,
    Cut,
    /// Found by a check, and quarantined.
    Rotten,
}

use Harm::{Cut, Gone, Rotten};

/// Which packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    Of(PackKind),
}

/// Machine web01 has a snapshot that lost packs, and a later one that stored all of it again.
struct Scene {
    repo: TestRepo,
    keeper: Repository,
    model: Model,
    harmed: Vec<String>,
    first: SessionId,
    second: SessionId,
    disk: Vec<u8>,
}

impl Scene {
    async fn new(seed: u64, which: Which, harm: Harm) -> Self {
        let (repo, mut model, disk) = (TestRepo::new(seed).await, Model::default(), guest(seed + 1, SIZE));
        let first = save(&repo, &mut model, "web01", &disk).await;
        let keeper = repo.as_keeper().await;
        let harmed = packs(&repo, first, which).await;
        assert!(!harmed.is_empty());
        for key in &harmed {
            spoil(&repo, key, harm).await;
        }
        if harm == Rotten {
            look(&repo.open, true).await;
        }
        let second = save(&repo, &mut model, "web01", &disk).await;
        model.check(&repo.open).await;
        Self { repo, keeper, model, harmed, first, second, disk }
    }

    /// Forgets the snapshot that stored the copies.
    async fn forget_second(&mut self) {
        let second = self.second;
        self.model.snapshots.retain(|(snapshot, _)| *snapshot != second);
        drop_snapshot(&self.keeper, second).await.unwrap();
    }
}

async fn save(repo: &TestRepo, model: &mut Model, vm: &str, disk: &[u8]) -> SessionId {
    let report = back_up(&repo.open, vm, MemoryDisk::new(disk.to_vec())).await.unwrap();
    let snapshot = report.snapshot.unwrap();
    model.add_disk(snapshot, disk);
    snapshot
}

/// The packs of a session; of its map if only metadata is asked for.
async fn packs(repo: &TestRepo, session: SessionId, which: Which) -> Vec<String> {
    let mut found = Vec::new();
    for key in repo.keys_with(&format!("/packs/{:016x}/", session.number)).await {
        let bytes = repo.object(&key).await;
        let kind = Pack::decode(&bytes).unwrap().head().kind;
        if which == Which::All || which == Which::Of(kind) {
            found.push(key);
        }
    }
    found
}

async fn spoil(repo: &TestRepo, key: &str, harm: Harm) {
    let mut bytes = repo.object(key).await;
    let middle = bytes.len() / 2;
    match harm {
        Gone => return repo.lose(&[key.to_owned()]).await,
        Cut => bytes.truncate(bytes.len() - 1),
        Rotten => bytes.iter_mut().skip(middle / 2).take(middle).for_each(|byte| *byte ^= 1),
    }
    repo.tamper(key, bytes).await;
}

async fn look(repository: &Repository, quarantine: bool) -> CheckReport {
    let options = CheckOptions { read_data: ReadData::All, quarantine };
    check(repository, &options, &Monitor::silent()).await.unwrap()
}

const MISSING: [(Which, Harm); 3] =
    [(Which::All, Gone), (Which::Of(PackKind::Data), Gone), (Which::Of(PackKind::Metadata), Gone)];
const DAMAGED: [(Which, Harm); 3] =
    [(Which::All, Cut), (Which::All, Rotten), (Which::Of(PackKind::Data), Rotten)];

#[tokio::test(start_paused = true)]
async fn gc_keeps_copies_of_what_lay_in_missing_packs() {
    copies_are_kept(&MISSING).await;
}

#[tokio::test(start_paused = true)]
async fn gc_keeps_copies_of_what_lies_in_damaged_packs() {
    copies_are_kept(&DAMAGED).await;
}

async fn copies_are_kept(ways: &[(Which, Harm)]) {
    for (which, harm) in ways.iter().copied() {
        let mut scene = Scene::new(900, which, harm).await;
        scene.forget_second().await;
        let report = collect(&scene.keeper).await.unwrap();
        assert!(report.committed, "{which:?} {harm:?}: {report:?}");
        scene.model.check(&scene.repo.open).await;
        assert!(report.plan.healing.packs > 0, "{which:?} {harm:?}: {report:?}");
        let again = collect(&scene.keeper).await.unwrap();
        assert_eq!((again.number, again.deleted_packs), (None, 0), "nothing to do, and nothing is written");
        // What nobody is restored by is garbage.
        let third = save(&scene.repo, &mut scene.model, "web01", &noise(910, SIZE)).await;
        drop_snapshot(&scene.keeper, scene.first).await.unwrap();
        collect(&scene.keeper).await.unwrap();
        let left = scene.repo.keys_with("/packs/").await;
        assert!(left.iter().all(|key| key.contains(&format!("/packs/{:016x}/", third.number))), "{left:?}");
    }
}

/// The snapshot of the copies is gone, and another one needs a part of their packs.
#[tokio::test(start_paused = true)]
async fn packs_with_copies_are_not_rewritten() {
    for (which, harm) in [(Which::All, Gone), (Which::All, Rotten)] {
        let mut scene = Scene::new(920, which, harm).await;
        let mut disk = noise(930, SIZE);
        disk[SIZE - SIZE / 8..].copy_from_slice(&scene.disk[SIZE - SIZE / 8..]);
        save(&scene.repo, &mut scene.model, "web01", &disk).await;
        scene.forget_second().await;
        let options = GcOptions { max_unused_percent: 0, ..OPTIONS };
        gc(&scene.keeper, &options, &Monitor::silent()).await.unwrap();
        scene.model.check(&scene.repo.open).await;
    }
}

/// A copy of a node lies in one pack, and names chunks of packs of which no other snapshot knows.
#[tokio::test(start_paused = true)]
async fn what_a_copied_node_leads_to_is_kept_too() {
    let mut scene = Scene::new(940, Which::Of(PackKind::Metadata), Gone).await;
    // The chunks go after the nodes, and are stored by a third session.
    for key in packs(&scene.repo, scene.first, Which::Of(PackKind::Data)).await {
        scene.repo.lose(&[key]).await;
    }
    let third = save(&scene.repo, &mut scene.model, "web01", &scene.disk.clone()).await;
    scene.model.check(&scene.repo.open).await;
    scene.forget_second().await;
    scene.model.snapshots.retain(|(snapshot, _)| *snapshot != third);
    drop_snapshot(&scene.keeper, third).await.unwrap();
    assert_eq!(scene.model.snapshots.len(), 1);
    collect(&scene.keeper).await.unwrap();
    scene.model.check(&scene.repo.open).await;
}

/// Backups build on what is there, and on nothing that is lost.
#[tokio::test(start_paused = true)]
async fn the_next_backup_builds_on_the_copies_that_gc_kept() {
    for harm in [Gone, Cut, Rotten] {
        let mut scene = Scene::new(950, Which::All, harm).await;
        scene.forget_second().await;
        collect(&scene.keeper).await.unwrap();
        let report = back_up(&scene.repo.open, "web02", MemoryDisk::new(scene.disk.clone())).await.unwrap();
        assert_eq!(report.new_bytes, 0, "{harm:?}: the copies are known");
        scene.model.add_disk(report.snapshot.unwrap(), &scene.disk);
        scene.model.check(&scene.repo.open).await;
    }
}

fn bad(report: &CheckReport) -> Vec<&Finding> {
    report.findings.iter().filter(|finding| finding.severity != Severity::Note).collect()
}

#[tokio::test(start_paused = true)]
async fn check_tells_a_missing_pack_from_a_lost_snapshot() {
    places_are_told(&MISSING).await;
}

#[tokio::test(start_paused = true)]
async fn check_tells_a_damaged_pack_from_a_lost_snapshot() {
    places_are_told(&DAMAGED).await;
}

async fn places_are_told(ways: &[(Which, Harm)]) {
    for (which, harm) in ways.iter().copied() {
        let mut scene = Scene::new(960, which, harm).await;
        for is_forgotten in [false, true] {
            if is_forgotten {
                scene.forget_second().await;
                collect(&scene.keeper).await.unwrap();
            }
            let report = look(&scene.repo.open, false).await;
            let what = format!("{which:?} {harm:?} {is_forgotten}: {report:?}");
            assert_eq!(report.worst(), Some(Severity::Healed), "{what}");
            let objects: BTreeSet<&String> = bad(&report).iter().map(|finding| &finding.object).collect();
            assert!(objects.iter().all(|object| scene.harmed.contains(object)), "{what}");
            for finding in bad(&report) {
                assert!(finding.problem.contains("other copies"), "{what}");
                assert!(finding.costs.iter().all(|cost| cost.snapshot == scene.first), "{what}");
            }
            assert!(bad(&report).iter().any(|finding| !finding.costs.is_empty()), "{what}");
        }
        // The copies go as well: now it is lost.
        scene.repo.lose(&packs(&scene.repo, scene.second, Which::All).await).await;
        let report = look(&scene.repo.open, false).await;
        assert!(report.worst() <= Some(Severity::Missing), "{which:?} {harm:?}: {report:?}");
        // A pack without its last byte is named, and its frames can be read for all that.
        if harm != Cut {
            dump_bytes(&scene.repo.open, scene.first, "disk0").await.unwrap_err();
        }
    }
}
