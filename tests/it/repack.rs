//! Collecting garbage from packs of which something is needed: frames are moved, and everybody finds them again.

use std::sync::Arc;

use futures::future::join;
use sancerre_engine::ErrorKind;
use sancerre_engine::check::{CheckOptions, ReadData, Severity, check};
use sancerre_engine::forget::hold;
use sancerre_engine::gc::{GcOptions, GcReport, gc};
use sancerre_engine::index::rebuild_index;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::{Log, Moves, Outcome};
use sancerre_engine::restore::{self, RestoreOptions};
use sancerre_engine::stats::stats;
use sancerre_format::config::Layout;
use sancerre_format::id::{FrameName, PackName, SessionId};
use sancerre_format::pack::Pack;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::model::Model;
use sancerre_tests::repo::{TestRepo, back_up, dump_bytes, restore_bytes, small_layout};
use sancerre_tests::slow::SlowStore;
use sancerre_tests::store::Cut;

use crate::block_on;
use crate::gc::{OPTIONS, collect, drop_snapshot};

const MIB: usize = 1 << 20;
const SIZE: usize = 6 * MIB;

/// Packs of 4 MiB hold some seven frames of 512 KiB.
fn layout() -> Layout {
    Layout { pack_bytes: 4 << 20, ..small_layout() }
}

struct Scene {
    repo: TestRepo,
    keeper: Repository,
    model: Model,
    /// The disk of web01 as it is now.
    disk: Vec<u8>,
}

impl Scene {
    /// The first night of two machines.
    async fn new(seed: u64) -> Self {
        let repo = TestRepo::with_layout(seed, layout()).await;
        let keeper = repo.as_keeper().await;
        let mut scene = Self { repo, keeper, model: Model::default(), disk: noise(seed, SIZE) };
        scene.night().await;
        let other = noise(seed + 50, 2 * MIB);
        let report = back_up(&scene.repo.open, "db01", MemoryDisk::new(other.clone())).await.unwrap();
        scene.model.add_disk(report.snapshot.unwrap(), &other);
        scene
    }

    async fn night(&mut self) -> u64 {
        let report = back_up(&self.repo.open, "web01", MemoryDisk::new(self.disk.clone())).await.unwrap();
        self.model.add_disk(report.snapshot.unwrap(), &self.disk);
        report.new_bytes
    }

    /// Every region of the disk that `which` names is new; a snapshot of that follows.
    async fn next_night(&mut self, seed: u64, which: impl Fn(usize) -> bool) {
        for region in (0..SIZE / MIB).filter(|region| which(*region)) {
            self.disk[region * MIB..(region + 1) * MIB].copy_from_slice(&noise(seed + region as u64, MIB));
        }
        self.night().await;
    }

    /// Forgets web01's oldest snapshot.
    async fn forget_oldest(&mut self) -> SessionId {
        let (forgotten, _) = self.model.snapshots.remove(0);
        drop_snapshot(&self.keeper, forgotten).await.unwrap();
        forgotten
    }

    async fn pack_bytes(&self) -> u64 {
        let objects = self.repo.objects().await;
        objects.iter().filter(|(key, _)| key.contains("/packs/")).map(|(_, bytes)| bytes).sum()
    }

    /// What the packs of a session hold besides frames.
    async fn around_frames(&self, session: u64) -> u64 {
        let mut around = 0;
        for key in self.repo.keys_with(&format!("/packs/{session:016x}/")).await {
            let bytes = self.repo.object(&key).await;
            let pack = Pack::decode(&bytes).unwrap();
            let frames = pack.directory().iter().map(|entry| u64::from(entry.sealed_bytes)).sum::<u64>();
            around += bytes.len() as u64 - frames;
        }
        around
    }

    /// All that was saved restores, and a check that reads everything, and one without keys, find nothing.
    async fn all_is_well(&self) {
        self.model.check(&self.repo.open).await;
        for (session, disks) in &self.model.snapshots {
            assert!(restore_bytes(&self.repo.open, *session, "disk0").await.unwrap() == disks[0].1);
        }
        let everything = CheckOptions { read_data: ReadData::All, quarantine: false };
        for repository in [&self.repo.open, &self.keeper] {
            let report = check(repository, &everything, &Monitor::silent()).await.unwrap();
            let bad: Vec<_> = report.findings.iter().filter(|f| f.severity != Severity::Note).collect();
            assert!(bad.is_empty(), "{bad:#?}");
        }
    }
}

/// Two nights: of each pack of the first one half is garbage once it is forgotten.
async fn half_forgotten(seed: u64) -> Scene {
    let mut scene = Scene::new(seed).await;
    scene.next_night(seed + 100, |region| region % 2 == 0).await;
    scene.forget_oldest().await;
    scene
}

fn folder(pack: &PackName) -> String {
    format!("/packs/{:016x}/{:08x}-", pack.session, pack.ordinal)
}

fn moved(log: &Log) -> usize {
    let lists = log.entries().filter_map(|entry| match &entry.outcome {
        Outcome::Commit(_, lists) => Some(lists),
        _ => None,
    });
    lists.flat_map(|lists| lists.moves.values()).map(|frames| frames.frames().count()).sum()
}

#[tokio::test(start_paused = true)]
async fn half_empty_packs_are_rewritten_and_everybody_finds_the_frames() {
    let mut scene = half_forgotten(600).await;
    let before = scene.pack_bytes().await;
    let dry = gc(&scene.keeper, &GcOptions { dry_run: true, ..OPTIONS }, &Monitor::silent()).await.unwrap();
    assert_eq!((dry.number, scene.pack_bytes().await), (None, before));
    let report = collect(&scene.keeper).await.unwrap();
    assert_eq!(report.plan, dry.plan, "the plan that was shown is the one that is executed");
    assert!(report.plan.rewritten.packs > 1 && report.plan.moved_bytes > 2 << 20, "{report:?}");
    assert_eq!(report.dead_packs, report.plan.rewritten.packs + report.plan.garbage.packs);
    let after = scene.pack_bytes().await;
    assert_eq!(after, before + report.written_bytes - report.freed_bytes);
    // The disk as it is, and that of db01.
    let live = SIZE as u64 + (2 << 20);
    assert!(after < live + live / 10, "hardly more than what is needed: {after}");
    assert_eq!(report.moved_bytes, report.plan.moved_bytes, "what was announced is what was kept");
    let around = scene.around_frames(report.number.unwrap()).await;
    assert_eq!(
        report.written_bytes,
        report.moved_bytes + around,
        "and the rest is what packs have around frames"
    );
    scene.all_is_well().await;
    let again = collect(&scene.keeper).await.unwrap();
    assert_eq!((again.number, again.plan.rewritten.packs), (None, 0), "once is enough");

    assert_eq!(scene.night().await, 0, "the base's places lead to the moved frames");
    let copy = back_up(&scene.repo.open, "web02", MemoryDisk::new(scene.disk.clone())).await.unwrap();
    assert_eq!((copy.new_bytes, copy.parent), (0, None), "and so do those of the index");
    scene.model.add_disk(copy.snapshot.unwrap(), &scene.disk);
    scene.all_is_well().await;
    for pack in report.plan.moves.keys() {
        assert!(scene.repo.keys_with(&folder(pack)).await.is_empty(), "{pack} is gone");
    }
}

#[tokio::test(start_paused = true)]
async fn frames_move_again() {
    let mut scene = half_forgotten(610).await;
    collect(&scene.keeper).await.unwrap();
    let once = moved(&Log::load(&scene.repo.open).await.unwrap());
    // Of what was moved, a half is garbage after another night.
    scene.next_night(720, |region| region % 4 == 1).await;
    scene.model.snapshots.swap(0, 1);
    scene.forget_oldest().await;
    let report = collect(&scene.keeper).await.unwrap();
    let log = Log::load(&scene.repo.open).await.unwrap();
    assert!(report.written_packs > 0 && moved(&log) > once, "{report:?}");
    let uses = log.snapshots().last().unwrap().uses().unwrap();
    let moves = Moves::below(&log, Log::END);
    let number = report.number.unwrap();
    let before = Moves::below(&log, number);
    let twice = |frame: &FrameName| {
        let (from, to) = (before.pack(frame), moves.pack(frame));
        from != frame.pack && to.session == number
    };
    assert!(uses.frames().any(|frame| twice(&frame)), "{report:?}");
    scene.all_is_well().await;
    assert_eq!(scene.night().await, 0);
    scene.all_is_well().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_index_is_rebuilt_from_the_packs_of_collectors_too() {
    let mut scene = half_forgotten(620).await;
    collect(&scene.keeper).await.unwrap();
    let segments = scene.repo.keys_with("/index/").await;
    scene.repo.lose(&segments).await;
    let report = rebuild_index(&scene.repo.open, &Monitor::silent()).await.unwrap();
    assert!(report.unreadable.is_empty(), "{report:?}");
    let copy = back_up(&scene.repo.open, "web02", MemoryDisk::new(scene.disk.clone())).await.unwrap();
    assert_eq!((copy.new_bytes, copy.parent), (0, None));
    scene.model.add_disk(copy.snapshot.unwrap(), &scene.disk);
    scene.all_is_well().await;
}

#[tokio::test(start_paused = true)]
async fn the_budget_and_the_limit_are_kept() {
    let scene = half_forgotten(630).await;
    let nothing = GcOptions { max_repack_bytes: 0, ..OPTIONS };
    let lax = GcOptions { max_unused_percent: 100, ..OPTIONS };
    for options in [nothing, lax] {
        let report =
            gc(&scene.keeper, &GcOptions { dry_run: true, ..options }, &Monitor::silent()).await.unwrap();
        assert_eq!((report.plan.rewritten.packs, report.plan.moved_bytes), (0, 0));
        assert!(report.plan.unused_bytes > 2 << 20, "it says what is left: {report:?}");
    }
    let strict = GcOptions { max_unused_percent: 0, ..OPTIONS };
    let whole = gc(&scene.keeper, &GcOptions { dry_run: true, ..strict }, &Monitor::silent()).await.unwrap();
    let some = GcOptions { max_repack_bytes: whole.plan.moved_bytes - 1, ..strict };
    let mut runs = 0;
    loop {
        let report = gc(&scene.keeper, &some, &Monitor::silent()).await.unwrap();
        assert!(report.plan.moved_bytes <= some.max_repack_bytes, "{report:?}");
        assert_eq!(report.moved_bytes, report.plan.moved_bytes, "{report:?}");
        if report.plan.rewritten.packs == 0 {
            break;
        }
        runs += 1;
    }
    assert!(runs >= 2, "what one run leaves the next ones do: {runs}");
    scene.all_is_well().await;
}

/// A region compresses to little or to nothing, so half of the frames are far more than half of the bytes: frames are
/// weighed and not counted, and what goes is what `stats` takes for garbage.
#[tokio::test(start_paused = true)]
async fn frames_of_all_sizes_are_weighed() {
    let mut scene = Scene::new(645).await;
    for region in 0..SIZE / MIB {
        scene.disk[region * MIB + MIB / 2..(region + 1) * MIB].fill(region as u8 + 1);
    }
    scene.next_night(845, |_| false).await;
    scene.next_night(846, |region| region % 2 == 0).await;
    scene.forget_oldest().await;
    scene.model.snapshots.swap(0, 1);
    scene.forget_oldest().await;
    let lax = GcOptions { dry_run: true, max_unused_percent: 100, ..OPTIONS };
    let plan = gc(&scene.keeper, &lax, &Monitor::silent()).await.unwrap().plan;
    let stats = stats(&scene.repo.open, &Monitor::silent()).await.unwrap();
    assert!(plan.unused_bytes > 1 << 20 && stats.unread.is_empty(), "{plan:?}");
    assert_eq!(plan.unused_bytes + plan.garbage.bytes, stats.garbage_bytes);
    let strict = GcOptions { max_unused_percent: 0, ..OPTIONS };
    let report = gc(&scene.keeper, &strict, &Monitor::silent()).await.unwrap();
    assert!(report.written_packs > 0);
    assert_eq!(report.moved_bytes, report.plan.moved_bytes);
    let left = gc(&scene.keeper, &GcOptions { dry_run: true, ..lax }, &Monitor::silent()).await.unwrap().plan;
    assert_eq!(left.unused_bytes, report.plan.unused_bytes, "no more garbage is left than was announced");
    scene.all_is_well().await;
}

/// Bytes that come from the store are those of the frames that are kept, and of the ends of their packs.
#[tokio::test(start_paused = true)]
async fn only_what_is_kept_is_read() {
    let scene = half_forgotten(640).await;
    let whole = gc(&scene.keeper, &GcOptions { dry_run: true, ..OPTIONS }, &Monitor::silent()).await.unwrap();
    scene.repo.store.take_calls();
    let before = scene.keeper.store.traffic().totals().received_bytes;
    let report = collect(&scene.keeper).await.unwrap();
    let received = scene.keeper.store.traffic().totals().received_bytes - before;
    let ends = report.plan.rewritten.packs * (136 << 10);
    assert!(received < report.written_bytes + ends + (256 << 10), "{received} bytes for {report:?}");
    let calls = scene.repo.store.take_calls();
    // Two for the ends of each pack when it is weighed, two when it is rewritten, and one for each run of frames; log,
    // outcomes and lists.
    let frames = moved(&Log::load(&scene.repo.open).await.unwrap()) as u64;
    assert!(calls.get <= 4 * whole.plan.rewritten.packs + frames + 30, "{calls:?}");
    assert_eq!(calls.delete, report.deleted_packs);
}

/// A backup that began after the plan and before the announcement uses a pack that is to be rewritten: it stays.
#[tokio::test(start_paused = true)]
async fn a_pack_that_a_late_backup_uses_stays() {
    let mut scene = half_forgotten(650).await;
    scene.repo.store.pause_before("/log/");
    let beside = scene.repo.through(scene.repo.memory.clone());
    let late = async {
        scene.repo.store.paused().await;
        let disk = MemoryDisk::new(scene.disk.clone());
        let report = back_up(&beside, "web01", disk).await.unwrap();
        assert_eq!(report.new_bytes, 0);
        scene.repo.store.go_on();
        report.snapshot.unwrap()
    };
    let (report, late) = join(collect(&scene.keeper), late).await;
    let report = report.unwrap();
    assert!(late.number < report.number.unwrap() && report.committed);
    assert!(report.dead_packs < report.plan.rewritten.packs, "{report:?}");
    scene.model.add_disk(late, &scene.disk.clone());
    assert_eq!(moved(&Log::load(&scene.repo.open).await.unwrap()), 0, "nothing moves away from what stays");
    scene.all_is_well().await;
    // The copies are garbage, and the next gc does what this one could not.
    let next = collect(&scene.keeper).await.unwrap();
    assert!(next.plan.garbage.packs >= report.written_packs && next.written_packs > 0, "{next:?}");
    scene.all_is_well().await;
}

/// A snapshot that is held after the plan needs frames that the plan did not keep.
#[tokio::test(start_paused = true)]
async fn a_snapshot_held_meanwhile_is_whole() {
    let mut scene = Scene::new(660).await;
    scene.next_night(760, |region| region % 2 == 0).await;
    let (first, disks) = (scene.model.snapshots[0].0, scene.model.snapshots[0].1.clone());
    scene.forget_oldest().await;
    scene.repo.store.pause_before("/log/");
    let beside =
        Repository { store: scene.repo.through(scene.repo.memory.clone()).store, ..scene.keeper.clone() };
    let rescue = async {
        scene.repo.store.paused().await;
        hold(&beside, &[first].into(), "trial").await.unwrap();
        scene.repo.store.go_on();
    };
    let (report, ()) = join(collect(&scene.keeper), rescue).await;
    assert_eq!(report.unwrap().dead_packs, 0);
    scene.model.add(first, disks);
    scene.all_is_well().await;
}

/// What cannot be read is not moved, and so it stays: the rest is.
#[tokio::test(start_paused = true)]
async fn a_damaged_pack_is_left_as_it_is() {
    let scene = half_forgotten(670).await;
    let plan =
        gc(&scene.keeper, &GcOptions { dry_run: true, ..OPTIONS }, &Monitor::silent()).await.unwrap().plan;
    let (pack, kept) = plan.moves.iter().max_by_key(|(_, kept)| kept.bytes).unwrap();
    let kept = kept.frames.frames().next().unwrap();
    let keys = scene.repo.keys_with(&folder(pack)).await;
    let sound = scene.repo.object(&keys[0]).await;
    let mut damaged = sound.clone();
    let position = Pack::decode(&sound).unwrap();
    let entry = position.directory().iter().find(|entry| entry.frame == kept).unwrap();
    damaged[entry.offset_bytes as usize + 100] ^= 1;
    scene.repo.tamper(&keys[0], damaged).await;
    let warnings = Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = Arc::clone(&warnings);
    let monitor = Monitor::new(move |event| told.lock().unwrap().push(event.message));
    let report = gc(&scene.keeper, &OPTIONS, &monitor).await.unwrap();
    assert_eq!(report.dead_packs + 1, report.plan.rewritten.packs + report.plan.garbage.packs);
    let warnings = warnings.lock().unwrap().join("\n");
    assert!(warnings.contains(&pack.to_string()) && warnings.contains("check"), "{warnings}");
    scene.repo.tamper(&keys[0], sound).await;
    scene.all_is_well().await;
}

/// Readers that began before the commit go on after the deletion; of a snapshot that was given up they say so.
#[tokio::test(start_paused = true)]
async fn a_restore_under_way_follows_the_frames() {
    let mut scene = Scene::new(680).await;
    scene.next_night(780, |region| region % 2 == 0).await;
    let gone = scene.forget_oldest().await;
    let log = Log::load(&scene.repo.open).await.unwrap();
    let (kept, disks) = scene.model.snapshots.last().unwrap();
    let reader = restore::open(&scene.repo.open, &log, *kept).await.unwrap();
    collect(&scene.keeper).await.unwrap();
    assert!(moved(&Log::load(&scene.repo.open).await.unwrap()) > 0);
    let mut bytes = Vec::new();
    let options = RestoreOptions::new(64 << 20);
    let member = reader.member("disk0").unwrap();
    restore::dump(&reader, member, &mut bytes, &options, &Monitor::silent()).await.unwrap();
    assert!(bytes == disks[0].1);
    let error = dump_bytes(&scene.repo.open, gone, "disk0").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forgotten);
}

#[tokio::test(start_paused = true)]
async fn a_restore_whose_snapshot_is_given_up_meanwhile_says_so() {
    let mut scene = Scene::new(690).await;
    scene.next_night(790, |region| region % 2 == 0).await;
    let log = Log::load(&scene.repo.open).await.unwrap();
    let first = scene.model.snapshots[0].0;
    let reader = restore::open(&scene.repo.open, &log, first).await.unwrap();
    scene.forget_oldest().await;
    collect(&scene.keeper).await.unwrap();
    let options = RestoreOptions::new(64 << 20);
    let member = reader.member("disk0").unwrap();
    let dumped = restore::dump(&reader, member, &mut Vec::new(), &options, &Monitor::silent()).await;
    assert_eq!(dumped.unwrap_err().kind(), ErrorKind::Forgotten);
}

/// A writer that read the log before the commit builds on nothing that goes.
#[test]
fn backups_restores_and_a_check_beside_a_collector() {
    for seed in 0..8u64 {
        block_on(async {
            let mut scene = half_forgotten(700).await;
            let slow =
                |part: u64| scene.repo.through(SlowStore::new(scene.repo.store.clone(), seed * 10 + part));
            let (writer, reader, checker) = (slow(1), slow(2), slow(3));
            let keeper = Repository { store: slow(4).store, ..scene.keeper.clone() };
            let patient = GcOptions { wait_seconds: 3600, ..OPTIONS };
            let (kept, disks) = scene.model.snapshots.last().unwrap();
            let everything = CheckOptions { read_data: ReadData::All, quarantine: true };
            let (monitor, disk) = (Monitor::silent(), MemoryDisk::new(scene.disk.clone()));
            let ((collected, saved), (restored, checked)) = join(
                join(gc(&keeper, &patient, &monitor), back_up(&writer, "web01", disk)),
                join(dump_bytes(&reader, *kept, "disk0"), check(&checker, &everything, &monitor)),
            )
            .await;
            assert!(restored.unwrap() == disks[0].1, "{seed}");
            let checked = checked.unwrap();
            assert_eq!(checked.quarantined, None, "{seed}: {:#?}", checked.findings);
            collected.unwrap();
            scene.model.add_disk(saved.unwrap().snapshot.unwrap(), &scene.disk.clone());
            scene.all_is_well().await;
            collect(&scene.keeper).await.unwrap();
            scene.all_is_well().await;
        });
    }
}

/// Cuts one call of a gc that moves frames; then all is well again, and the space is free after the next gcs.
async fn crash(call: u64, cut: Cut, left_bytes: u64) -> bool {
    let what = format!("call {call}, {cut:?}");
    let mut scene = half_forgotten(800).await;
    scene.repo.store.crash_at(call, cut);
    let _ = collect(&scene.keeper).await;
    let crashed = scene.repo.store.crashed();
    scene.repo.store.recover();
    scene.model.check(&scene.repo.open).await;
    // What the dead collector announced is not reused by a backup that comes before the next one: it is stored again.
    let again = if call.is_multiple_of(2) { scene.night().await } else { 0 };
    scene.repo.clock.advance(400 * 86_400);
    // What the dead collector had announced is garbage only to the gc after the one that ends it.
    for _ in 0..2 {
        collect(&scene.keeper).await.unwrap_or_else(|error| panic!("{what}: the next gc: {error}"));
    }
    scene.model.check(&scene.repo.open).await;
    let everything = CheckOptions { read_data: ReadData::All, quarantine: true };
    let report = check(&scene.keeper, &everything, &Monitor::silent()).await.unwrap();
    assert_eq!(report.quarantined, None, "{what}: {:#?}", report.findings);
    let bytes = scene.pack_bytes().await;
    assert!(bytes <= left_bytes + again + (256 << 10), "{what}: {bytes} and not {left_bytes} and {again}");
    crashed
}

#[test]
fn a_collector_that_moves_frames_may_die_anywhere() {
    let left_bytes = block_on(async {
        let scene = half_forgotten(800).await;
        let report: GcReport = collect(&scene.keeper).await.unwrap();
        assert!(report.written_packs > 0);
        scene.pack_bytes().await
    });
    for cut in [Cut::Before, Cut::After] {
        let reached = (0..).take_while(|call| block_on(crash(*call, cut, left_bytes))).count();
        assert!(reached > 30, "gc makes more calls than {reached}");
    }
}
