//! Which commits count, and what is deleted because of them: not above open sessions, not because of a copy that nobody
//! read, and not what an undelete brings back. What the administrator gave up may have happened all the same.

use std::collections::BTreeSet;

use futures::future::join;
use sancerre_engine::ErrorKind;
use sancerre_engine::check::{CheckOptions, ReadData, Severity, check};
use sancerre_engine::forget::{hold, undelete};
use sancerre_engine::gc::{abandon, gc};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::session::Session;
use sancerre_format::certificate::Role;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{FrameName, PackName, SessionId};
use sancerre_format::log::{Abandon, Distrust, Kind, Note, Snapshots};
use sancerre_format::names;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::model::Model;
use sancerre_tests::repo::{TestRepo, back_up, name, restore_bytes, zone};

use crate::gc::{OPTIONS, collect, drop_snapshot};

const SIZE: usize = 2 << 20;
const GC: Kind = Kind::Gc { generation: 1 };

/// Two snapshots of one machine and one of another, which share nothing; and two keepers, of whom one is a liar.
struct Scene {
    repo: TestRepo,
    honest: Repository,
    liar: Repository,
    model: Model,
}

impl Scene {
    async fn new(seed: u64) -> Self {
        let (repo, mut model) = (TestRepo::new(seed).await, Model::default());
        for (at, vm) in ["web01", "web01", "db01"].into_iter().enumerate() {
            let disk = noise(seed + at as u64, SIZE);
            let report = back_up(&repo.open, vm, MemoryDisk::new(disk.clone())).await.unwrap();
            model.add_disk(report.snapshot.unwrap(), &disk);
        }
        let honest = repo.as_keeper().await;
        let liar = repo.with_key_file(&repo.certify("liar", Role::Keeper).await).await;
        Self { repo, honest, liar, model }
    }

    fn session(&self, at: usize) -> SessionId {
        self.model.snapshots[at].0
    }

    async fn log(&self) -> Log {
        let mut log = Log::load(&self.repo.open).await.unwrap();
        log.judge();
        log
    }

    /// All packs of a session.
    async fn packs(&self, session: SessionId) -> FrameSet {
        let mut set = FrameSet::default();
        let count = self.repo.keys_with(&format!("/packs/{:016x}/", session.number)).await.len();
        let ordinals = 0..u32::try_from(count).unwrap();
        ordinals.for_each(|ordinal| set.insert_pack(PackName { session: session.number, ordinal }));
        set
    }

    async fn forget(&self, at: usize) {
        let named = Snapshots { snapshots: vec![self.session(at)], reason: "test".into() };
        self.repo.append(Kind::Forget(named), &[]).await;
    }

    async fn revoke(&self, key: &str, from: u64) {
        let own = Log::load(&self.repo.open).await.unwrap().highest() + 1;
        let distrust = Distrust { writer: name(key), from: from.min(own), reason: "stolen".into() };
        self.repo.append(Kind::Revoke(distrust), &[]).await;
    }

    async fn propose_as(&self, keeper: &Repository, dead: &FrameSet) -> SessionId {
        let proposal = GcLists { dead: dead.clone(), ..GcLists::default() };
        self.repo.append_as(keeper, GC, &proposal.encode().unwrap()).await
    }

    async fn lie(&self, lists: &GcLists) -> SessionId {
        let gc = self.propose_as(&self.liar, &lists.dead).await;
        self.repo.commit_gc_as(&self.liar, gc, lists).await;
        gc
    }

    /// A gc that moves all that another one moved, and deletes the packs in which that was.
    async fn moves_on(&self, from: SessionId) -> SessionId {
        let dead = self.packs(from).await;
        let gc = self.propose_as(&self.honest, &dead).await;
        self.repo.copy_packs_as(&self.honest, from, gc).await;
        let moves = self.repo.moves_of(gc).await;
        self.repo.commit_gc_as(&self.honest, gc, &GcLists { dead, moves, ..GcLists::default() }).await;
        let old = self.repo.keys_with(&format!("/packs/{:016x}/", from.number)).await;
        self.repo.lose(&old).await;
        gc
    }

    async fn pack_keys(&self) -> Vec<String> {
        self.repo.keys_with("/packs/").await
    }

    /// Restores whole disks, in order and at random.
    async fn all_restores(&self) {
        self.model.check(&self.repo.open).await;
        for (session, disks) in &self.model.snapshots {
            assert!(restore_bytes(&self.repo.open, *session, "disk0").await.unwrap() == disks[0].1);
        }
    }
}

/// What is forgotten can be had back until a commit says that it is gone.
#[tokio::test(start_paused = true)]
async fn a_commit_does_not_burn_what_is_only_forgotten() {
    let scene = Scene::new(1000).await;
    scene.forget(0).await;
    let dead = scene.packs(scene.session(0)).await;
    scene.lie(&GcLists { dead, ..GcLists::default() }).await;
    let before = scene.pack_keys().await;
    let error = collect(&scene.honest).await.unwrap_err().to_string();
    assert!(error.contains("liar"), "{error}");
    assert_eq!(scene.pack_keys().await, before);
    // If the gc were given up now, so would be what was forgotten at its number.
    let first = BTreeSet::from([scene.session(0)]);
    undelete(&scene.honest, &first, "needed").await.unwrap_err();
    scene.all_restores().await;
    scene.revoke("liar", u64::MAX).await;
    assert_eq!(collect(&scene.honest).await.unwrap().deleted_packs, 0);
    // A commit stands on it.
    hold(&scene.honest, &first, "needed").await.unwrap();
    scene.all_restores().await;
}

/// A thief says that frames were moved, and burns where they lie. Nobody deletes that: no copy is there to be read.
#[tokio::test(start_paused = true)]
async fn a_pack_whose_copies_are_not_there_stays_and_is_read() {
    let mut scene = Scene::new(1010).await;
    let uses = scene.log().await.snapshots()[0].uses().unwrap();
    let dead = scene.packs(scene.session(0)).await;
    let gc = scene.lie(&GcLists { dead, moves: [(0, uses)].into(), ..GcLists::default() }).await;
    scene.all_restores().await;
    let before = scene.pack_keys().await;
    for is_first in [true, false] {
        let report = collect(&scene.honest).await.unwrap();
        assert_eq!((report.deleted_packs, scene.pack_keys().await), (0, before.clone()), "{report:?}");
        // The liar is named once; that packs stay because a snapshot lives by them is said every time.
        assert!(report.plan.healing.packs > 0, "{report:?}");
        assert_eq!(is_first, !report.left.is_empty(), "{report:?}");
        assert!(report.left.iter().all(|left| left.contains("liar")), "{report:?}");
        scene.all_restores().await;
        scene.revoke("liar", gc.number).await;
    }
    // Backups store it anew, and once nothing needs it the packs go.
    let disk = scene.model.snapshots[0].1[0].1.clone();
    let report = back_up(&scene.repo.open, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
    scene.model.add_disk(report.snapshot.unwrap(), &disk);
    drop_snapshot(&scene.honest, scene.session(0)).await.unwrap();
    scene.model.snapshots.remove(0);
    let report = collect(&scene.honest).await.unwrap();
    assert!(report.deleted_packs > 0 && report.left.is_empty(), "{report:?}");
    scene.all_restores().await;
}

/// A thief who does not wait for others: his commit counts once all below it ended, and until then what he proposed may
/// still go.
#[tokio::test(start_paused = true)]
async fn a_commit_above_an_open_session_waits() {
    let scene = Scene::new(1020).await;
    let mut log = scene.log().await;
    let open = Session::announce(&scene.repo.open, &mut log, &name("files01"), None).await.unwrap();
    scene.forget(0).await;
    let (burnt, proposed) = (scene.packs(scene.session(0)).await, scene.packs(scene.session(1)).await);
    let mut both = burnt.clone();
    both.union(&proposed);
    let gc = scene.propose_as(&scene.liar, &both).await;
    let lists = GcLists { dead: burnt, forgotten: vec![scene.session(0)], ..GcLists::default() };
    scene.repo.commit_gc_as(&scene.liar, gc, &lists).await;
    let is_gone = async |scene: &Scene| {
        let retention = scene.log().await.retention();
        retention.collected_by(&scene.session(0)).is_some()
    };
    let avoids = async |scene: &Scene, at: usize| {
        let pack = PackName { session: scene.session(at).number, ordinal: 0 };
        scene.log().await.avoid(Log::END).unwrap().contains(&FrameName { pack, index: 0 })
    };
    assert!(!is_gone(&scene).await, "it has no effect yet");
    assert!(avoids(&scene, 0).await && avoids(&scene, 1).await, "all that it proposed is left alone");
    // Whether it came in time is not known yet, so it is not reported as done.
    let error = undelete(&scene.honest, &BTreeSet::from([scene.session(0)]), "needed").await.unwrap_err();
    assert!(error.to_string().contains(&format!("gc {}", gc.number)), "{error}");
    let error = hold(&scene.honest, &BTreeSet::from([scene.session(0)]), "needed").await.unwrap_err();
    assert!(error.to_string().contains(&format!("gc {}", gc.number)), "{error}");
    // What was not forgotten below it cannot be gone by it.
    hold(&scene.honest, &BTreeSet::from([scene.session(1)]), "needed").await.unwrap();
    open.abort(&scene.repo.open, "test").await.unwrap();
    assert!(is_gone(&scene).await, "it was forgotten below it");
    assert!(avoids(&scene, 0).await && !avoids(&scene, 1).await);
}

/// The same above an outcome that cannot be read: nothing is built beside it until it is given up.
#[tokio::test(start_paused = true)]
async fn a_commit_above_an_unreadable_outcome_is_given_up() {
    let scene = Scene::new(1025).await;
    let below = scene.propose_as(&scene.honest, &FrameSet::default()).await;
    scene.repo.tamper(&names::outcome(&zone(), &below), b"junk".to_vec()).await;
    scene.forget(0).await;
    let dead = scene.packs(scene.session(0)).await;
    let gc = scene.lie(&GcLists { dead, forgotten: vec![scene.session(0)], ..GcLists::default() }).await;
    let admin = scene.repo.as_admin().await;
    let error = abandon(&admin, below.number, "junk").await.unwrap_err();
    assert!(error.to_string().contains(&format!("gc {} above it", gc.number)), "{error}");
    abandon(&admin, gc.number, "nobody waited").await.unwrap();
    abandon(&admin, below.number, "junk").await.unwrap();
    assert_eq!(scene.log().await.abandoned().len(), 2);
    collect(&scene.honest).await.unwrap();
    collect(&scene.honest).await.unwrap();
    let mut left = scene.model.clone();
    left.snapshots.remove(0);
    left.check(&scene.repo.open).await;
}

/// A thief's commit waits for an outcome that nobody can read, and above it is one with which nothing is wrong, because the key
/// of that session was revoked in between. The error says what goes first, and that works.
#[tokio::test(start_paused = true)]
async fn what_stands_on_a_commit_that_must_go_is_given_up_before_it() {
    let scene = Scene::new(1027).await;
    let later = scene.repo.with_key_file(&scene.repo.certify("later", Role::Writer).await).await;
    let mut log = Log::load(&later).await.unwrap();
    let open = Session::announce(&later, &mut log, &name("web09"), None).await.unwrap().id;
    scene.repo.tamper(&names::outcome(&zone(), &open), b"of a later version".to_vec()).await;
    let waiting = scene.lie(&GcLists::default()).await;
    scene.revoke("later", open.number).await;
    let above = [scene.lie(&GcLists::default()).await, scene.lie(&GcLists::default()).await];
    scene.revoke("liar", u64::MAX).await;
    let log = scene.log().await;
    assert_eq!(log.waiting().keys().copied().collect::<Vec<_>>(), [waiting.number]);
    let error = collect(&scene.honest).await.unwrap_err().to_string();
    assert!(error.contains(&format!("`abandon({})`", waiting.number)), "{error}");
    let admin = scene.repo.as_admin().await;
    for gc in above.iter().rev() {
        let error = abandon(&admin, waiting.number, "nobody waited").await.unwrap_err().to_string();
        assert!(error.contains(&format!("`abandon({})`", gc.number)), "{error}");
        abandon(&admin, gc.number, "it stands on it").await.unwrap();
    }
    abandon(&admin, waiting.number, "nobody waited").await.unwrap();
    // Beside it nothing else that is in order is given up.
    scene
        .repo
        .commit_gc_as(
            &scene.honest,
            scene.propose_as(&scene.honest, &FrameSet::default()).await,
            &GcLists::default(),
        )
        .await;
    let sound = scene.log().await.highest();
    assert_eq!(abandon(&admin, sound, "why not").await.unwrap_err().kind(), ErrorKind::Usage);
    for _ in 0..2 {
        assert_eq!(collect(&scene.honest).await.unwrap().deleted_packs, 0);
    }
    scene.all_restores().await;
}

/// A commit rots after another gc moved on what it had moved, and deleted the copies: both are given up, and what is needed is
/// found in the packs of the upper one, and stays.
#[tokio::test(start_paused = true)]
async fn a_rotten_commit_on_which_others_stand_is_given_up_after_them() {
    let mut scene = Scene::new(1045).await;
    // The next night needs half of each pack of the night before.
    let mut disk = scene.model.snapshots[1].1[0].1.clone();
    for at in (0..SIZE).step_by(1 << 20) {
        disk[at..at + (1 << 19)].copy_from_slice(&noise(1049 + at as u64, 1 << 19));
    }
    let report = back_up(&scene.repo.open, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
    scene.model.add_disk(report.snapshot.unwrap(), &disk);
    for at in [1, 0] {
        scene.forget(at).await;
        scene.model.snapshots.remove(at);
    }
    let report = collect(&scene.honest).await.unwrap();
    assert!(report.written_packs > 0 && report.deleted_packs > 0, "{report:?}");
    let lower = scene.log().await.entry(report.number.unwrap()).unwrap().session;
    let gcs = [lower, scene.moves_on(lower).await];
    scene.all_restores().await;
    scene.repo.tamper(&names::outcome(&zone(), &gcs[0]), b"rotten".to_vec()).await;
    let admin = scene.repo.as_admin().await;
    let error = abandon(&admin, gcs[0].number, "rotten").await.unwrap_err();
    assert!(error.to_string().contains(&format!("`abandon({})`", gcs[1].number)), "{error}");
    for gc in gcs.iter().rev() {
        abandon(&admin, gc.number, "rotten").await.unwrap();
        scene.all_restores().await;
    }
    for _ in 0..2 {
        collect(&scene.honest).await.unwrap();
        scene.all_restores().await;
    }
}

/// Its own process may have read the commit that everybody else finds unreadable, and go on deleting.
#[tokio::test(start_paused = true)]
async fn what_was_given_up_is_avoided_and_its_forgotten_are_gone() {
    let scene = Scene::new(1030).await;
    scene.forget(0).await;
    let dead = scene.packs(scene.session(0)).await;
    let gc = scene.propose_as(&scene.honest, &dead).await;
    scene.repo.tamper(&names::outcome(&zone(), &gc), b"junk".to_vec()).await;
    abandon(&scene.repo.as_admin().await, gc.number, "junk").await.unwrap();
    let log = scene.log().await;
    let frame = FrameName { pack: PackName { session: scene.session(0).number, ordinal: 0 }, index: 0 };
    assert!(log.avoid(Log::END).unwrap().contains(&frame));
    assert_eq!(log.retention().collected_by(&scene.session(0)), Some(gc.number));
    let error = undelete(&scene.honest, &BTreeSet::from([scene.session(0)]), "too late").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forgotten);
    let report = collect(&scene.honest).await.unwrap();
    assert!(report.deleted_packs > 0, "{report:?}");
    let mut left = scene.model.clone();
    left.snapshots.remove(0);
    left.check(&scene.repo.open).await;
}

/// A gc moved frames, deleted where they came from, and then its commit rotted: the copies are all there is.
#[tokio::test(start_paused = true)]
async fn copies_of_a_gc_that_was_given_up_are_found_and_kept() {
    let mut scene = Scene::new(1040).await;
    // The next night needs half of what the night before stored, so that packs are worth rewriting.
    let mut disk = scene.model.snapshots[1].1[0].1.clone();
    for at in (0..SIZE).step_by(1 << 20) {
        disk[at..at + (1 << 19)].copy_from_slice(&noise(1049 + at as u64, 1 << 19));
    }
    let report = back_up(&scene.repo.open, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
    scene.model.add_disk(report.snapshot.unwrap(), &disk);
    for at in [0, 1] {
        scene.forget(at).await;
    }
    scene.model.snapshots.drain(..2);
    let report = collect(&scene.honest).await.unwrap();
    assert!(report.written_packs > 0 && report.deleted_packs > 0, "{report:?}");
    let gc = scene.log().await.entry(report.number.unwrap()).unwrap().session;
    scene.repo.tamper(&names::outcome(&zone(), &gc), b"rotten".to_vec()).await;
    let copies = scene.repo.keys_with(&format!("/packs/{:016x}/", gc.number)).await;
    abandon(&scene.repo.as_admin().await, gc.number, "rotten").await.unwrap();
    scene.all_restores().await;
    for _ in 0..2 {
        collect(&scene.honest).await.unwrap();
        assert_eq!(scene.repo.keys_with(&format!("/packs/{:016x}/", gc.number)).await, copies);
        scene.all_restores().await;
    }
    // They go with the last snapshot that needs them.
    let report = back_up(&scene.repo.open, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
    scene.model.add_disk(report.snapshot.unwrap(), &disk);
    drop_snapshot(&scene.honest, scene.session(1)).await.unwrap();
    scene.model.snapshots.remove(1);
    collect(&scene.honest).await.unwrap();
    collect(&scene.honest).await.unwrap();
    assert_eq!(scene.repo.keys_with(&format!("/packs/{:016x}/", gc.number)).await, [""; 0]);
    scene.all_restores().await;
}

/// A collector above may have built on the commit.
#[tokio::test(start_paused = true)]
async fn nothing_is_given_up_below_another_commit() {
    let scene = Scene::new(1050).await;
    let gc = scene.propose_as(&scene.honest, &FrameSet::default()).await;
    let key = names::outcome(&zone(), &gc);
    scene.repo.commit_gc_as(&scene.honest, gc, &GcLists::default()).await;
    let bytes = scene.repo.object(&key).await;
    let above = scene.propose_as(&scene.honest, &FrameSet::default()).await;
    scene.repo.commit_gc_as(&scene.honest, above, &GcLists::default()).await;
    scene.repo.tamper(&key, b"rotten".to_vec()).await;
    let error = abandon(&scene.repo.as_admin().await, gc.number, "rotten").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    // Whoever signs it all the same changes nothing.
    scene.repo.append(Kind::Abandon(Abandon { session: gc, reason: "rotten".into() }), &[]).await;
    assert!(scene.log().await.abandoned().is_empty());
    assert_eq!(collect(&scene.honest).await.unwrap_err().kind(), ErrorKind::Damaged);
    scene.repo.tamper(&key, bytes).await;
    collect(&scene.honest).await.unwrap();
    scene.all_restores().await;
}

/// A collector that planned to delete the copies of one that is given up meanwhile, leaves them.
#[tokio::test(start_paused = true)]
async fn copies_of_a_gc_that_is_given_up_meanwhile_stay() {
    let scene = Scene::new(1060).await;
    // A real collection of the liar, whose commit is then another one: damaged, so its packs are garbage.
    let gc = scene.propose_as(&scene.liar, &scene.packs(scene.session(0)).await).await;
    let list = scene.repo.copy_packs_as(&scene.liar, scene.session(0), gc).await;
    assert!(list > 0);
    let lists = GcLists { dead: scene.packs(scene.session(0)).await, ..GcLists::default() };
    scene.repo.commit_gc_as(&scene.liar, gc, &lists).await;
    scene.revoke("liar", u64::MAX).await;
    scene.repo.store.pause_before("/log/");
    let beside = Repository {
        store: scene.repo.through(scene.repo.memory.clone()).store,
        ..scene.repo.as_admin().await
    };
    let give_up = async {
        scene.repo.store.paused().await;
        abandon(&beside, gc.number, "a lie").await.unwrap();
        scene.repo.store.go_on();
    };
    let (report, ()) = join(collect(&scene.honest), give_up).await;
    let report = report.unwrap();
    assert!(report.plan.garbage.packs > 0 && report.dead_packs == 0, "{report:?}");
    scene.all_restores().await;
}

/// What a commit may burn is decided by what is below it: a revocation later does not make a lie true.
#[tokio::test(start_paused = true)]
async fn a_lie_stays_one_when_its_witness_is_revoked() {
    let scene = Scene::new(1070).await;
    let dead = scene.packs(scene.session(2)).await;
    let gc = scene.lie(&GcLists { dead, ..GcLists::default() }).await;
    assert!(scene.log().await.flaws().contains_key(&gc.number));
    scene.revoke("host1", scene.session(2).number).await;
    let log = scene.log().await;
    assert!(log.entry(scene.session(2).number).unwrap().snapshot().is_none(), "it is void");
    assert!(log.flaws().contains_key(&gc.number));
    let mut late = Log::load(&scene.repo.open).await.unwrap();
    late.refresh(&scene.repo.open).await.unwrap();
    late.judge();
    assert_eq!(late.flaws(), log.flaws(), "whoever reads it, and when");
    // And the other way round: what was void below a commit needs nothing.
    let void = scene.session(2);
    let good = scene.lie(&GcLists { dead: scene.packs(void).await, ..GcLists::default() }).await;
    assert!(!scene.log().await.flaws().contains_key(&good.number));
}

/// What a revoked keeper announced may still be committed, until an abort is there.
#[tokio::test(start_paused = true)]
async fn an_open_gc_of_a_revoked_keeper_stays_open() {
    let scene = Scene::new(1080).await;
    let dead = scene.packs(scene.session(0)).await;
    let gc = scene.propose_as(&scene.liar, &dead).await;
    scene.revoke("liar", 1).await;
    let frame = FrameName { pack: dead.packs().next().unwrap(), index: 0 };
    assert!(scene.log().await.avoid(Log::END).unwrap().contains(&frame));
    let report = gc_at_once(&scene.honest).await;
    assert_eq!(report.ended, [gc]);
    scene.all_restores().await;
}

async fn gc_at_once(keeper: &Repository) -> sancerre_engine::gc::GcReport {
    let options = sancerre_engine::gc::GcOptions { silent_seconds: 0, ..OPTIONS };
    gc(keeper, &options, &Monitor::silent()).await.unwrap()
}

/// A collector whose key is revoked while it runs stops before it commits.
#[tokio::test(start_paused = true)]
async fn a_collector_whose_key_is_revoked_stops() {
    let mut scene = Scene::new(1090).await;
    drop_snapshot(&scene.honest, scene.session(0)).await.unwrap();
    scene.model.snapshots.remove(0);
    let before = scene.pack_keys().await;
    scene.repo.store.pause_before("/log/");
    let revoke = async {
        scene.repo.store.paused().await;
        scene.revoke("keeper1", u64::MAX).await;
        scene.repo.store.go_on();
    };
    let (report, ()) = join(collect(&scene.honest), revoke).await;
    let error = report.unwrap_err();
    assert!(error.to_string().contains("revoked"), "{error}");
    assert_eq!(scene.pack_keys().await, before);
    scene.all_restores().await;
}

/// Who is revoked after a writer read the log may upload under numbers that the writer has not seen.
#[tokio::test(start_paused = true)]
async fn nothing_of_sessions_above_its_own_is_reused() {
    let scene = Scene::new(1095).await;
    let log = scene.log().await;
    let frame = |session: u64| FrameName { pack: PackName { session, ordinal: 0 }, index: 0 };
    let number = scene.session(1).number;
    let mut avoid = log.avoid(number).unwrap();
    avoid.nothing_above(number);
    assert!(!avoid.contains(&frame(number - 1)) && !avoid.contains(&frame(number)));
    assert!(avoid.contains(&frame(scene.session(2).number)) && avoid.contains(&frame(900)));
}

/// A writer judges no commit. What a lie moved out of a pack that goes is not reused, wherever it may lie.
#[tokio::test(start_paused = true)]
async fn what_a_lie_moved_out_of_a_pack_that_goes_is_not_reused() {
    let scene = Scene::new(1097).await;
    let dead = scene.packs(scene.session(0)).await;
    let pack = dead.packs().next().unwrap();
    let (moved, kept) = (FrameName { pack, index: 0 }, FrameName { pack, index: 1 });
    let mut moves = FrameSet::default();
    moves.insert(moved);
    let lists = GcLists { dead: dead.clone(), moves: [(0, moves)].into(), ..GcLists::default() };
    let gc = scene.lie(&lists).await;
    let avoid = async |scene: &Scene| Log::load(&scene.repo.open).await.unwrap().avoid(Log::END).unwrap();
    let before = avoid(&scene).await;
    assert!(!before.contains(&moved) && before.contains(&kept), "as it says");
    assert!(scene.log().await.flaws().contains_key(&gc.number), "but it is damaged");
    scene.repo.propose(&dead).await;
    let after = avoid(&scene).await;
    assert!(after.contains(&moved) && after.contains(&kept));
}

/// The packs of a note go with the last snapshot that it names. One that names none owns nothing.
#[tokio::test(start_paused = true)]
async fn packs_of_notes_live_as_long_as_their_snapshots() {
    let mut scene = Scene::new(1100).await;
    let writer = scene.repo.as_writer().await;
    let note = async |scene: &Scene, snapshots: Vec<SessionId>| {
        let note = Note { topic: name("statistics"), result: None, snapshots };
        let session = scene.repo.append_as(&writer, Kind::Note(note), &[]).await;
        scene.repo.annex_as(&writer, session).await;
        format!("/packs/{:016x}/", session.number)
    };
    let of_one = note(&scene, vec![scene.session(0)]).await;
    let of_none = note(&scene, vec![]).await;
    let is_there = async |scene: &Scene, folder: &str| !scene.repo.keys_with(folder).await.is_empty();
    let options = CheckOptions { read_data: ReadData::All, quarantine: false };
    let report = check(&scene.repo.open, &options, &Monitor::silent()).await.unwrap();
    assert!(report.findings.iter().all(|found| found.severity == Severity::Note), "{:?}", report.findings);
    collect(&scene.honest).await.unwrap();
    assert!(is_there(&scene, &of_one).await && !is_there(&scene, &of_none).await);
    drop_snapshot(&scene.honest, scene.session(0)).await.unwrap();
    scene.model.snapshots.remove(0);
    collect(&scene.honest).await.unwrap();
    assert!(is_there(&scene, &of_one).await, "until the snapshot is gone it can be had back");
    collect(&scene.honest).await.unwrap();
    assert!(!is_there(&scene, &of_one).await);
    scene.all_restores().await;
}
