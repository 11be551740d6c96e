//! Checkpoints: who starts at one sees what one sees who reads all, at a cost that the length of the log does not change;
//! and nothing that somebody puts in their place stops or misleads anybody for good.

use std::collections::BTreeSet;

use sancerre_engine::check::{CheckOptions, ReadData, Severity, check};
use sancerre_engine::file_catalogue;
use sancerre_engine::forget::hold;
use sancerre_engine::gc::{GcReport, gc};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::{Log, Snapshot};
use sancerre_engine::revoke::revoke;
use sancerre_format::certificate::Role;
use sancerre_format::checkpoint::{Checkpoint, CheckpointState};
use sancerre_format::config::Layout;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::{PackName, SessionId};
use sancerre_format::log::{Held, Kind, Quorum};
use sancerre_format::names;
use sancerre_format::record::{self, Record};
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::model::Model;
use sancerre_tests::repo::{TestRepo, back_up, name, small_layout, zone};

use crate::gc::{OPTIONS, drop_all, drop_snapshot};

const SIZE: usize = 3 << 20;

/// What a thief does to a checkpoint; he is told a pack that is gone.
type Lie = fn(&mut CheckpointState, PackName);

/// Two machines, some nights with a gc each, and one snapshot that went.
struct Scene {
    repo: TestRepo,
    keeper: Repository,
    model: Model,
}

impl Scene {
    async fn new(seed: u64) -> Self {
        // Several frames a pack, so that a part of one can become garbage.
        let repo = TestRepo::with_layout(seed, Layout { pack_bytes: 4 << 20, ..small_layout() }).await;
        let keeper = repo.as_keeper().await;
        let mut scene = Self { repo, keeper, model: Model::default() };
        for night in 0..3 {
            scene.night(seed + 100 * night).await;
        }
        scene.move_frames().await;
        scene
    }

    async fn night(&mut self, seed: u64) {
        for vm in ["web01", "db01"] {
            let mut disk = noise(u64::from(vm == "web01"), SIZE);
            disk[..SIZE / 2].copy_from_slice(&noise(seed + u64::from(vm == "db01"), SIZE / 2));
            let report = back_up(&self.repo.open, vm, MemoryDisk::new(disk.clone())).await.unwrap();
            self.model.add_disk(report.snapshot.unwrap(), &disk);
        }
        self.collect().await;
    }

    /// A collection of which nothing is worth a warning.
    async fn collect(&self) -> GcReport {
        let told = Monitor::new(|warning| panic!("{warning}"));
        gc(&self.keeper, &OPTIONS, &told).await.unwrap()
    }

    /// The first snapshot goes, of whose packs others need parts.
    async fn move_frames(&mut self) {
        let gone = self.model.snapshots.remove(0).0;
        drop_snapshot(&self.keeper, gone).await.unwrap();
        let report = self.collect().await;
        assert!(report.moved_bytes > 0 && !self.newest().await.2.moves.is_empty(), "{report:?}");
    }

    async fn checkpoints(&self) -> Vec<String> {
        self.repo.keys_with("/checkpoints/").await
    }

    async fn recent(&self) -> Log {
        Log::load_recent(&self.repo.open, &Monitor::silent()).await.unwrap()
    }

    /// Every snapshot is listed and restores, from the checkpoint and from all.
    async fn is_whole(&self) {
        let sessions: Vec<SessionId> = self.model.snapshots.iter().map(|(session, _)| *session).collect();
        let of = |log: &Log| log.snapshots().iter().map(|snapshot| snapshot.session()).collect::<Vec<_>>();
        assert_eq!(of(&self.recent().await), sessions);
        let whole = Log::load(&self.repo.open).await.unwrap();
        assert_eq!(of(&whole), sessions);
        assert_eq!(whole.breaks().count(), 0, "who starts at a checkpoint goes on with the chain");
        self.model.check(&self.repo.open).await;
    }

    async fn newest(&self) -> (String, Record<Checkpoint>, CheckpointState) {
        let key = self.checkpoints().await.pop().unwrap();
        let bytes = self.repo.object(&key).await;
        let checkpoint = record::decode::<Checkpoint>(&self.repo.open.keys.trust, &bytes).unwrap();
        let state = CheckpointState::decode(checkpoint.public().unwrap(), checkpoint.fields.upto).unwrap();
        (key, checkpoint, state)
    }

    /// The newest checkpoint with another state, signed by a keeper whose key a thief has.
    async fn lie(&self, lie: impl FnOnce(&mut CheckpointState)) -> String {
        let (key, checkpoint, mut state) = self.newest().await;
        lie(&mut state);
        let signer = self.keeper.signer(&[Role::Keeper]).unwrap();
        let part = state.encode().unwrap();
        let bytes = record::encode(&checkpoint.fields, "test 1", &signer.key, &part, &[]).unwrap();
        self.repo.tamper(&key, bytes).await;
        key
    }

    async fn complaints(&self) -> Vec<(String, Severity, String)> {
        let options = CheckOptions { read_data: ReadData::No, quarantine: false };
        let report = check(&self.repo.open, &options, &Monitor::silent()).await.unwrap();
        let about = report.findings.into_iter().filter(|finding| finding.object.contains("/checkpoints/"));
        about.map(|finding| (finding.object, finding.severity, finding.problem)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_starts_at_the_newest_and_sees_all() {
    let mut scene = Scene::new(900).await;
    let recent = scene.recent().await;
    assert!(recent.start() > 8, "{}", recent.start());
    assert!(recent.entry(1).is_none_or(|entry| entry.entry.is_ok()));
    scene.is_whole().await;
    assert_eq!(scene.complaints().await, []);
    // Four stay, the oldest go.
    assert_eq!(scene.checkpoints().await.len(), 4);
    scene.night(990).await;
    assert_eq!(scene.checkpoints().await.len(), 4);
    // Above it: a hold, a forget, a backup that builds on what lies below.
    let (first, last) = (scene.model.snapshots[0].0, scene.model.snapshots.pop().unwrap().0);
    hold(&scene.keeper, &[first].into(), "an investigation").await.unwrap();
    drop_snapshot(&scene.keeper, last).await.unwrap();
    let (before, stored) = (scene.recent().await.start(), scene.repo.objects().await.len());
    let disk = noise(1, SIZE);
    let report = back_up(&scene.repo.open, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
    assert!(report.parent.is_some_and(|parent| parent.number < before), "{report:?}");
    assert!(report.new_bytes < SIZE as u64, "what lies below is used: {report:?}");
    assert!(scene.repo.objects().await.len() > stored);
    scene.model.add_disk(report.snapshot.unwrap(), &disk);
    scene.is_whole().await;
    assert!(scene.recent().await.retention().held_by(&first).is_some());
}

/// The newest snapshot of a machine that goes on, and all of one that is retired.
#[tokio::test(start_paused = true)]
async fn what_a_commit_gave_up_is_not_there() {
    let mut scene = Scene::new(965).await;
    let log = scene.recent().await;
    let newest = log.latest(&name("web01")).unwrap().session();
    let goes = |snapshot: &Snapshot<'_>| {
        snapshot.session() == newest || snapshot.manifest.fields.vm.as_str() == "db01"
    };
    let gone = log.snapshots().into_iter().filter(goes).map(|snapshot| snapshot.session());
    let gone: BTreeSet<SessionId> = gone.collect();
    drop_all(&scene.keeper, gone.clone(), true).await.unwrap();
    scene.model.snapshots.retain(|(session, _)| !gone.contains(session));
    let gc = scene.collect().await.number.unwrap();
    scene.is_whole().await;
    let (recent, whole) = (scene.recent().await, Log::load(&scene.repo.open).await.unwrap());
    assert_eq!(recent.start(), gc + 1);
    for vm in ["web01", "db01"].map(name) {
        let heads = recent.heads(&vm, None);
        assert!(heads == whole.heads(&vm, None) && gone.contains(&heads[0]), "{heads:?}");
    }
    assert_eq!(scene.complaints().await, []);
    scene.night(970).await;
    scene.is_whole().await;
}

/// What was moved by commits below a checkpoint is found, and moves on.
#[tokio::test(start_paused = true)]
async fn moved_frames_are_found() {
    let mut scene = Scene::new(905).await;
    scene.is_whole().await;
    assert_eq!(scene.complaints().await, []);
    scene.night(950).await;
    scene.is_whole().await;
}

#[tokio::test(start_paused = true)]
async fn junk_in_their_place_costs_nothing() {
    let scene = Scene::new(910).await;
    let start = scene.recent().await.start();
    for (upto, bytes) in
        [(start + 1, b"junk".to_vec()), (u64::MAX, Vec::new()), (start + 9, vec![0; 1 << 20])]
    {
        scene.repo.tamper(&names::checkpoint(&zone(), upto), bytes).await;
    }
    scene.repo.tamper("zones/default/checkpoints/x", b"junk".to_vec()).await;
    assert_eq!(scene.recent().await.start(), start);
    scene.is_whole().await;
    assert!(scene.complaints().await.len() == 4);
    // So many above it that it is not found: all is read.
    for above in 2..8 {
        scene.repo.tamper(&names::checkpoint(&zone(), start + above), b"junk".to_vec()).await;
    }
    assert_eq!(scene.recent().await.start(), 1);
    scene.is_whole().await;
    // A copy of a good one at another place is none.
    let key = scene.checkpoints().await.remove(0);
    let bytes = scene.repo.object(&key).await;
    scene.repo.tamper(&names::checkpoint(&zone(), u64::MAX), bytes).await;
    scene.is_whole().await;
}

#[tokio::test(start_paused = true)]
async fn without_any_all_is_read() {
    let scene = Scene::new(915).await;
    scene.repo.lose(&scene.checkpoints().await).await;
    assert_eq!(scene.recent().await.start(), 1);
    scene.is_whole().await;
    scene.collect().await;
    let report = back_up(&scene.repo.open, "web01", MemoryDisk::new(noise(1, SIZE))).await.unwrap();
    scene.collect().await;
    assert!(scene.recent().await.start() > report.snapshot.unwrap().number);
}

/// A thief with a keeper's key can mislead readers until the key is revoked; `check` says so at once, whatever the lie.
#[tokio::test(start_paused = true)]
async fn every_lie_is_found_and_ends_with_the_key() {
    let dead = PackName { session: 1, ordinal: 0 };
    let lies: [(&str, Lie); 7] = [
        ("leaves out snapshot", |state, _| drop(state.outcomes.pop())),
        ("names other backups", |state, _| drop(state.outcomes.remove(0))),
        ("carries an outcome without its entry", |state, _| drop(state.entries.pop())),
        ("which a gc gave up", |state, dead| state.kept.insert_pack(dead)),
        ("whose packs are used", |state, _| {
            let numbers: Vec<u64> = state.outcomes.iter().map(|one| one.session.number).collect();
            state.entries.retain(|entry| numbers.contains(&entry.session.number));
        }),
        ("lie elsewhere", |state, _| state.moves.clear()),
        ("its text does not", |state, _| state.entries[0].bytes[40] ^= 1),
    ];
    for (says, lie) in lies {
        let scene = Scene::new(920).await;
        let key = scene.lie(|state| lie(state, dead)).await;
        let complaints = scene.complaints().await;
        assert!(complaints.iter().any(|(object, ..)| *object == key), "{says}: {complaints:?}");
        let mut log = Log::load(&scene.repo.open).await.unwrap();
        let by = scene.keeper.signer(&[Role::Keeper]).unwrap().by.name.clone();
        revoke(&scene.repo.as_admin().await, &mut log, &by, None, "stolen").await.unwrap();
        assert_eq!(scene.recent().await.start(), 1, "{says}");
        assert_eq!(scene.complaints().await, [], "{says}");
        scene.is_whole().await;
    }
}

/// A revocation that lies below a checkpoint of the revoked key, which leaves it out: the copy beside the keys tells.
#[tokio::test(start_paused = true)]
async fn a_revoked_key_cannot_hide_its_revocation() {
    let scene = Scene::new(930).await;
    let (_, checkpoint, state) = scene.newest().await;
    let mut log = Log::load(&scene.repo.open).await.unwrap();
    let signer = scene.keeper.signer(&[Role::Keeper]).unwrap();
    let revoked =
        revoke(&scene.repo.as_admin().await, &mut log, &signer.by.name, None, "stolen").await.unwrap();
    scene.repo.append(Kind::Index, &[]).await;
    let log = Log::load(&scene.repo.open).await.unwrap();
    let upto = revoked.number + 1;
    let previous = log.entry(revoked.number).unwrap().session.intent;
    let fields = Checkpoint { upto, previous, ..checkpoint.fields.clone() };
    let state = CheckpointState { outcomes: Vec::new(), heads: Vec::new(), ..state };
    let bytes = record::encode(&fields, "test 1", &signer.key, &state.encode().unwrap(), &[]).unwrap();
    scene.repo.tamper(&names::checkpoint(&zone(), upto), bytes).await;
    assert_eq!(scene.recent().await.start(), 1);
    scene.is_whole().await;
    // Without the copy they would be misled: that is what it is for.
    scene.repo.lose(&[names::revoked(&signer.by.name)]).await;
    assert!(scene.recent().await.snapshots().is_empty());
}

/// A gc that was given up above a checkpoint that counts it: all is read.
#[tokio::test(start_paused = true)]
async fn what_was_given_up_later_is_seen() {
    let scene = Scene::new(935).await;
    let log = Log::load(&scene.repo.open).await.unwrap();
    let gc = log.entry(log.newest_commit(Log::END).unwrap().0).unwrap().session;
    let abandon = sancerre_format::log::Abandon { session: gc, reason: "test".into() };
    scene.repo.append(Kind::Abandon(abandon), &[]).await;
    assert_eq!(scene.recent().await.start(), 1);
}

/// What a quarantine below says is known above.
#[tokio::test(start_paused = true)]
async fn quarantines_are_carried() {
    let scene = Scene::new(940).await;
    let session = scene.model.snapshots.last().unwrap().0;
    let mut set = FrameSet::default();
    set.insert_pack(PackName { session: session.number, ordinal: 0 });
    scene.repo.append(Kind::Quarantine { reason: "test".into() }, &set.encode().unwrap()).await;
    let disk = noise(7, SIZE);
    back_up(&scene.repo.open, "other", MemoryDisk::new(disk)).await.unwrap();
    scene.collect().await;
    let recent = scene.recent().await;
    assert!(recent.start() > session.number);
    assert!(recent.quarantined(Log::END).has_pack(&PackName { session: session.number, ordinal: 0 }));
    assert_eq!(scene.complaints().await, []);
}

/// Holds over machines and the number of approvals bind what is yet to come: no snapshot shows that they are left out.
#[tokio::test(start_paused = true)]
async fn what_binds_snapshots_to_come_is_compared() {
    let mut scene = Scene::new(945).await;
    let held = Held { snapshots: Vec::new(), vms: vec![name("later")], reason: "test".into() };
    let quorum = Quorum { approvals_needed: 1, reason: "test".into() };
    let words = [Kind::Hold(held), Kind::Quorum(quorum)];
    for kind in words {
        let said = scene.repo.append(kind, &[]).await;
        scene.night(1000 + said.number).await;
        assert_eq!(scene.complaints().await, []);
        let key = scene.lie(|state| state.entries.retain(|entry| entry.session != said)).await;
        let complaints = scene.complaints().await;
        assert!(
            complaints.iter().any(|(object, _, why)| *object == key && why.contains("held, or how many")),
            "{complaints:?}"
        );
        scene.repo.lose(&[key]).await;
    }
}

/// A checkpoint carries the note of a catalogue that was made later, and not the key in it.
#[tokio::test(start_paused = true)]
async fn a_catalogue_that_was_made_later_is_found_from_a_checkpoint() {
    let scene = Scene::new(7300).await;
    let snapshot = scene.model.snapshots[0].0;
    let number = file_catalogue::keep(&scene.repo.open, snapshot, b"names of files").await.unwrap();
    drop_snapshot(&scene.keeper, scene.model.snapshots[1].0).await.unwrap();
    scene.collect().await;
    let recent = Log::load_recent(&scene.repo.open, &Monitor::silent()).await.unwrap();
    assert!(recent.start() > number, "no checkpoint above {number}");
    let found = file_catalogue::kept(&scene.repo.open, &recent, snapshot).await.unwrap();
    assert_eq!(found.as_deref(), Some(&b"names of files"[..]));
}
