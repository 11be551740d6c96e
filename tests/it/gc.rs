//! Collecting garbage: what goes, what stays, who is waited for, and what a collector that dies leaves.

use std::collections::BTreeSet;

use futures::future::join;
use sancerre_engine::ErrorKind;
use sancerre_engine::check::{CheckOptions, ReadData, Severity, check};
use sancerre_engine::forget::plan::{ForgetReason, Rules, Verdict};
use sancerre_engine::forget::{ForgetOptions, Selection, hold, undelete};
use sancerre_engine::gc::{GcOptions, GcReport, gc};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_format::certificate::Role;
use sancerre_format::id::SessionId;
use sancerre_format::log::{Distrust, Kind};
use sancerre_format::names::{self, Time};
use sancerre_format::outcome::Manifest;
use sancerre_format::record;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::model::Model;
use sancerre_tests::repo::{TestRepo, back_up, dump_bytes, name};
use sancerre_tests::slow::SlowStore;
use sancerre_tests::store::Cut;

use crate::block_on;
use crate::forget::decide;

const SIZE: usize = 4 << 20;
pub(crate) const OPTIONS: GcOptions = GcOptions {
    checkpoint_after_entries: 1,
    dry_run: false,
    wait_seconds: 0,
    silent_seconds: 3600,
    max_repack_bytes: u64::MAX,
    max_unused_percent: 5,
    max_drop_percent: 100,
};

pub(crate) async fn collect(repository: &Repository) -> sancerre_engine::Result<GcReport> {
    gc(repository, &OPTIONS, &Monitor::silent()).await
}

pub(crate) async fn drop_snapshot(
    repository: &Repository,
    snapshot: SessionId,
) -> sancerre_engine::Result<u64> {
    drop_all(repository, BTreeSet::from([snapshot]), false).await
}

/// With `even_last` also of a machine of which nothing is left then.
pub(crate) async fn drop_all(
    repository: &Repository,
    snapshots: BTreeSet<SessionId>,
    even_last: bool,
) -> sancerre_engine::Result<u64> {
    let selection = Selection::Named { snapshots, even_last };
    let options = ForgetOptions { selection, reason: "test".into(), max_drop_percent: 100, dry_run: false };
    Ok(decide(repository, &options).await?.entry.unwrap())
}

/// Three snapshots: the first two share half of their disk, the third is another machine.
async fn before(seed: u64) -> (TestRepo, Repository, Model) {
    let (repo, mut model) = (TestRepo::new(seed).await, Model::default());
    let old = noise(seed, SIZE);
    let mut new = noise(seed + 1, SIZE);
    new[SIZE / 2..].copy_from_slice(&old[SIZE / 2..]);
    for (vm, disk) in [("web01", &old), ("web01", &new), ("db01", &noise(seed + 2, SIZE))] {
        let report = back_up(&repo.open, vm, MemoryDisk::new(disk.clone())).await.unwrap();
        model.add_disk(report.snapshot.unwrap(), disk);
    }
    let keeper = repo.as_keeper().await;
    (repo, keeper, model)
}

async fn pack_bytes(repo: &TestRepo) -> u64 {
    let objects = repo.objects().await;
    objects.iter().filter(|(key, _)| key.contains("/packs/")).map(|(_, bytes)| bytes).sum()
}

#[tokio::test(start_paused = true)]
async fn what_only_a_forgotten_snapshot_needs_is_deleted() {
    let (repo, keeper, mut model) = before(400).await;
    let whole = pack_bytes(&repo).await;
    let first = collect(&keeper).await.unwrap();
    assert!(first.committed && first.deleted_packs == 0, "the first one only records: {first:?}");
    let (forgotten, _) = model.snapshots.remove(0);
    drop_snapshot(&keeper, forgotten).await.unwrap();
    let dry = gc(&keeper, &GcOptions { dry_run: true, ..OPTIONS }, &Monitor::silent()).await.unwrap();
    assert_eq!((dry.number, pack_bytes(&repo).await), (None, whole));
    let report = collect(&keeper).await.unwrap();
    assert_eq!(report.plan, dry.plan, "the plan that was shown is the one that is executed");
    assert!(report.freed_bytes > 0, "{report:?}");
    assert_eq!(report.freed_bytes, report.plan.garbage.bytes);
    assert_eq!(pack_bytes(&repo).await, whole - report.freed_bytes);
    model.check(&repo.open).await;
    let error = dump_bytes(&repo.open, forgotten, "disk0").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forgotten);
    let again = collect(&keeper).await.unwrap();
    assert_eq!((again.number, again.deleted_packs), (None, 0), "nothing to do, nothing written");
    // What is gone is stored anew.
    let report = back_up(&repo.open, "web01", MemoryDisk::new(noise(400, SIZE))).await.unwrap();
    assert!(report.new_bytes > 0);
    model.add_disk(report.snapshot.unwrap(), &noise(400, SIZE));
    model.check(&repo.open).await;
}

/// However many records forgot them: a machine does not lose most of its snapshots between two collections unseen.
#[tokio::test(start_paused = true)]
async fn what_went_since_the_last_gc_is_limited() {
    let (repo, keeper, mut model) = before(480).await;
    // Of another writer, and long ago: it explains nothing that went since.
    let other = Distrust { writer: name("host9"), from: 1, reason: "test".into() };
    repo.append(Kind::Revoke(other), &[]).await;
    collect(&keeper).await.unwrap();
    drop_snapshot(&keeper, model.snapshots.remove(0).0).await.unwrap();
    let limited = |max_drop_percent| GcOptions { max_drop_percent, ..OPTIONS };
    let whole = pack_bytes(&repo).await;
    let error = gc(&keeper, &limited(49), &Monitor::silent()).await.unwrap_err().to_string();
    assert!(error.contains("1 of 2 snapshots of web01"), "{error}");
    assert_eq!(pack_bytes(&repo).await, whole);
    assert!(gc(&keeper, &limited(50), &Monitor::silent()).await.unwrap().deleted_packs > 0);
    model.check(&repo.open).await;
    collect(&keeper).await.unwrap();
    // What is void by a revocation went too, once.
    let distrust = Distrust { writer: name("host1"), from: 3, reason: "test".into() };
    repo.append(Kind::Revoke(distrust), &[]).await;
    model.snapshots.truncate(1);
    let error = gc(&keeper, &limited(99), &Monitor::silent()).await.unwrap_err().to_string();
    assert!(error.contains("1 of 1 snapshots of db01"), "{error}");
    assert!(gc(&keeper, &limited(100), &Monitor::silent()).await.unwrap().deleted_packs > 0);
    gc(&keeper, &limited(0), &Monitor::silent()).await.unwrap();
    assert!(repo.keys_with("/packs/0000000000000003/").await.is_empty());
    model.check(&repo.open).await;
}

/// Until when packs are locked only the store says: a manifest that claims so would pin them for ever.
#[tokio::test(start_paused = true)]
async fn a_lock_that_only_a_writer_claims_is_none() {
    let (repo, keeper, mut model) = before(485).await;
    let (claimed, _) = model.snapshots.remove(0);
    let (key, writer) = (names::outcome(&repo.open.keys.zone, &claimed), repo.as_writer().await);
    let mut manifest = record::decode::<Manifest>(&repo.open.keys.trust, &repo.object(&key).await).unwrap();
    manifest.fields.lock_until = Some(Time::parse("2099-12-31T23:59:59Z").unwrap());
    let signer = &writer.signer(&[Role::Writer]).unwrap().key;
    let bytes = record::encode(
        &manifest.fields,
        "sancerre test",
        signer,
        manifest.public().unwrap(),
        manifest.sealed().unwrap(),
    );
    repo.tamper(&key, bytes.unwrap()).await;
    drop_snapshot(&keeper, claimed).await.unwrap();
    assert!(collect(&keeper).await.unwrap().deleted_packs > 0);
    model.check(&repo.open).await;
}

#[tokio::test(start_paused = true)]
async fn holds_and_second_thoughts_before_gc_save_everything() {
    let (repo, keeper, model) = before(410).await;
    let first = model.snapshots[0].0;
    drop_snapshot(&keeper, first).await.unwrap();
    hold(&keeper, &BTreeSet::from([first]), "trial").await.unwrap();
    let report = collect(&keeper).await.unwrap();
    assert_eq!(report.deleted_packs, 0);
    model.check(&repo.open).await;
    let second = model.snapshots[1].0;
    drop_snapshot(&keeper, second).await.unwrap();
    undelete(&keeper, &BTreeSet::from([second]), "no").await.unwrap();
    assert_eq!(collect(&keeper).await.unwrap().deleted_packs, 0);
    model.check(&repo.open).await;
}

#[tokio::test(start_paused = true)]
async fn a_hidden_manifest_stops_gc_before_anything_is_deleted() {
    let (repo, keeper, model) = before(420).await;
    collect(&keeper).await.unwrap();
    let key = names::outcome(&repo.open.keys.zone, &model.snapshots[1].0);
    let bytes = repo.object(&key).await;
    repo.lose(std::slice::from_ref(&key)).await;
    repo.clock.advance(200 * 86_400);
    let whole = pack_bytes(&repo).await;
    // Silence enough to end the session whose outcome is hidden, were it not recorded.
    let error = collect(&keeper).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing);
    assert!(error.to_string().contains(&key), "{error}");
    assert_eq!(pack_bytes(&repo).await, whole);
    repo.tamper(&key, bytes).await;
    collect(&keeper).await.unwrap();
    model.check(&repo.open).await;
}

#[tokio::test(start_paused = true)]
async fn junk_at_an_outcome_stops_gc() {
    let (repo, keeper, model) = before(430).await;
    let key = names::outcome(&repo.open.keys.zone, &model.snapshots[0].0);
    let bytes = repo.object(&key).await;
    repo.tamper(&key, b"junk".to_vec()).await;
    let error = collect(&keeper).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    let id = &model.snapshots[0].0.intent.to_string()[..8];
    assert!(error.to_string().contains(&format!("`forget({id})`")), "{error}");
    repo.tamper(&key, bytes).await;
    collect(&keeper).await.unwrap();
    model.check(&repo.open).await;
}

/// Junk lies where the manifest of the first snapshot was, and its keeper gave it up. Its key and bytes come along.
async fn given_up(seed: u64) -> (TestRepo, Repository, Model, SessionId, (String, Vec<u8>)) {
    let (repo, keeper, mut model) = before(seed).await;
    let (damaged, _) = model.snapshots.remove(0);
    let key = names::outcome(&repo.open.keys.zone, &damaged);
    let bytes = repo.object(&key).await;
    repo.tamper(&key, b"junk".to_vec()).await;
    assert_eq!(collect(&keeper).await.unwrap_err().kind(), ErrorKind::Damaged);
    let rules = Rules { last: 1, ..Rules::default() };
    let selection = Selection::Rules { rules, vms: Vec::new(), tags: Vec::new() };
    let options = ForgetOptions { selection, reason: "test".into(), max_drop_percent: 100, dry_run: false };
    let report = decide(&keeper, &options).await.unwrap();
    assert!(report.decisions.iter().all(|one| one.session != damaged), "no rule touches it: {report:?}");
    let selection = Selection::Named { snapshots: BTreeSet::from([damaged]), even_last: false };
    let report = decide(&keeper, &ForgetOptions { selection, ..options }).await.unwrap();
    assert_eq!(report.decisions[0].verdict, Verdict::Drop(ForgetReason::Damaged));
    (repo, keeper, model, damaged, (key, bytes))
}

#[tokio::test(start_paused = true)]
async fn a_damaged_outcome_can_be_given_up() {
    let (repo, keeper, model, damaged, (key, bytes)) = given_up(431).await;
    let report = collect(&keeper).await.unwrap();
    assert!(report.committed && report.freed_bytes > 0, "{report:?}");
    model.check(&repo.open).await;
    let options = CheckOptions { read_data: ReadData::All, quarantine: false };
    let found = check(&keeper, &options, &Monitor::silent()).await.unwrap().findings;
    assert!(found.iter().all(|finding| finding.severity == Severity::Note), "{found:#?}");
    // What somebody signed is final, even when the right bytes come back.
    repo.tamper(&key, bytes).await;
    let error = dump_bytes(&repo.open, damaged, "disk0").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forgotten);
    let late = undelete(&keeper, &BTreeSet::from([damaged]), "late").await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Forgotten);
    collect(&keeper).await.unwrap();
    model.check(&repo.open).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_given_up_comes_back_until_gc_has_run() {
    let (repo, keeper, mut model, damaged, (key, bytes)) = given_up(432).await;
    undelete(&keeper, &BTreeSet::from([damaged]), "the disk is being read again").await.unwrap();
    assert_eq!(collect(&keeper).await.unwrap_err().kind(), ErrorKind::Damaged, "it stops gc again");
    repo.tamper(&key, bytes).await;
    model.add_disk(damaged, &noise(432, SIZE));
    model.check(&repo.open).await;
    collect(&keeper).await.unwrap();
    model.check(&repo.open).await;
}

/// The plan did not know what it names, so nothing of that goes now.
#[tokio::test(start_paused = true)]
async fn bytes_that_come_back_while_gc_runs_strike_their_packs() {
    let (repo, keeper, model, _, (key, bytes)) = given_up(433).await;
    repo.store.pause_before("/log/");
    let repair = async {
        repo.store.paused().await;
        repo.tamper(&key, bytes).await;
        repo.store.go_on();
    };
    let (report, ()) = join(collect(&keeper), repair).await;
    let report = report.unwrap();
    assert!(report.committed && report.plan.garbage.packs > 0 && report.dead_packs == 0, "{report:?}");
    assert!(collect(&keeper).await.unwrap().deleted_packs > 0, "it is forgotten all the same");
    model.check(&repo.open).await;
}

#[tokio::test(start_paused = true)]
async fn a_backup_under_way_is_waited_for_and_a_dead_one_is_ended() {
    let (repo, keeper, model) = before(440).await;
    // Its store is full after the log entry and two packs, so it cannot even end itself.
    repo.store.fill_after(3);
    back_up(&repo.open, "files01", MemoryDisk::new(noise(449, SIZE))).await.unwrap_err();
    repo.store.recover();
    let open = Log::load(&repo.open).await.unwrap().undecided(u64::MAX).count();
    assert_eq!(open, 1, "the crash left an open session");
    // The store's times are the test's own: as the keeper's clock has it, the session is young.
    let report = collect(&keeper).await.unwrap();
    assert_eq!((report.number, report.waits_for.len()), (None, 1));
    repo.clock.advance(400 * 86_400);
    let report = collect(&keeper).await.unwrap();
    assert_eq!((report.ended.len(), report.committed), (1, true));
    let orphans = report.deleted_packs;
    model.check(&repo.open).await;
    assert!(orphans > 0, "its packs are garbage: {report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_writers_key_collects_nothing() {
    let (repo, _, _) = before(450).await;
    let error = collect(&repo.as_writer().await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
}

/// A backup and two collectors at once, in many orders: whoever is saved restores.
#[test]
fn collectors_and_writers_at_once() {
    for seed in 0..12 {
        block_on(async {
            let (repo, keeper, mut model) = before(460 + seed).await;
            let (forgotten, disks) = model.snapshots.remove(0);
            drop_snapshot(&keeper, forgotten).await.unwrap();
            let slow = |part| Repository { ..keeper_through(&keeper, &repo, seed * 10 + part) };
            let (one, two) = (slow(1), slow(2));
            let writer = repo.through(SlowStore::new(repo.store.clone(), seed * 10 + 3));
            let patient = GcOptions { wait_seconds: 3600, ..OPTIONS };
            let disk = disks[0].1.clone();
            let monitor = Monitor::silent();
            let ((first, second), saved) = join(
                join(gc(&one, &patient, &monitor), gc(&two, &patient, &monitor)),
                back_up(&writer, "web01", MemoryDisk::new(disk.clone())),
            )
            .await;
            model.add_disk(saved.unwrap().snapshot.unwrap(), &disk);
            assert!(first.is_ok() || second.is_ok(), "{seed}: {first:?} {second:?}");
            model.check(&repo.open).await;
            collect(&keeper).await.unwrap();
            model.check(&repo.open).await;
        });
    }
}

fn keeper_through(keeper: &Repository, repo: &TestRepo, seed: u64) -> Repository {
    let store = repo.through(SlowStore::new(repo.store.clone(), seed)).store;
    Repository { store, ..keeper.clone() }
}

/// Cuts one call of `forget` and `gc`; then all is well again, and the space is free after the next gc.
async fn crash(call: u64, cut: Cut, left_bytes: u64) -> bool {
    let what = format!("call {call}, {cut:?}");
    let (repo, keeper, mut model) = before(480).await;
    // Of another writer, and long ago: it explains nothing that went since.
    let other = Distrust { writer: name("host9"), from: 1, reason: "test".into() };
    repo.append(Kind::Revoke(other), &[]).await;
    collect(&keeper).await.unwrap();
    let (forgotten, _) = model.snapshots.remove(0);
    repo.store.crash_at(call, cut);
    if drop_snapshot(&keeper, forgotten).await.is_ok() {
        let _ = collect(&keeper).await;
    }
    let crashed = repo.store.crashed();
    repo.store.recover();
    model.check(&repo.open).await;
    let saved = back_up(&repo.open, "db01", MemoryDisk::new(noise(482, SIZE))).await;
    let saved = saved.unwrap_or_else(|error| panic!("{what}: the next backup: {error}"));
    model.add_disk(saved.snapshot.unwrap(), &noise(482, SIZE));
    if Log::load(&repo.open).await.unwrap().retention().is_live(&forgotten) {
        drop_snapshot(&keeper, forgotten).await.unwrap();
    }
    repo.clock.advance(400 * 86_400);
    collect(&keeper).await.unwrap_or_else(|error| panic!("{what}: the next gc: {error}"));
    // What the dead collector had announced was not reused, and is garbage only to the gc after that.
    collect(&keeper).await.unwrap();
    model.check(&repo.open).await;
    let bytes = pack_bytes(&repo).await;
    // The sealed keys in the heads of packs are not of one size.
    assert!(bytes <= left_bytes + 4096, "{what}: {bytes} instead of {left_bytes}");
    crashed
}

#[test]
fn forget_and_gc_may_die_anywhere() {
    let left_bytes = block_on(async {
        let (repo, keeper, model) = before(480).await;
        drop_snapshot(&keeper, model.snapshots[0].0).await.unwrap();
        collect(&keeper).await.unwrap();
        back_up(&repo.open, "db01", MemoryDisk::new(noise(482, SIZE))).await.unwrap();
        pack_bytes(&repo).await
    });
    for cut in [Cut::Before, Cut::After] {
        let reached = (0..).take_while(|call| block_on(crash(*call, cut, left_bytes))).count();
        assert!(reached > 20, "forget and gc make more calls than {reached}");
    }
}
