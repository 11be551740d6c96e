//! Commits that say what is not so, signed by a keeper whose key was stolen or whose program is wrong: nothing that the
//! records keep is given up, moved away or deleted because of them, and whoever looks is told who signed it.

use std::collections::BTreeSet;

use sancerre_engine::ErrorKind;
use sancerre_engine::check::{CheckOptions, ReadData, Severity, check};
use sancerre_engine::forget::hold;
use sancerre_engine::gc::abandon;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_format::certificate::Role;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{PackName, SessionId};
use sancerre_format::log::{Distrust, Kind};
use sancerre_format::names;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::model::Model;
use sancerre_tests::repo::{TestRepo, back_up, name, zone};

use crate::gc::{collect, drop_snapshot};

const SIZE: usize = 3 << 20;
const GC: Kind = Kind::Gc { generation: 1 };

/// Two machines with two snapshots each, of which the second of a machine needs half of the first one's packs.
struct Scene {
    repo: TestRepo,
    honest: Repository,
    liar: Repository,
    model: Model,
}

impl Scene {
    async fn new(seed: u64) -> Self {
        let (repo, mut model) = (TestRepo::new(seed).await, Model::default());
        for vm in ["web01", "db01"] {
            let seed = seed + 4 * u64::from(vm == "db01");
            let mut disk = noise(seed, SIZE);
            for night in 1..3 {
                disk[..SIZE / 2].copy_from_slice(&noise(seed + night, SIZE / 2));
                let report = back_up(&repo.open, vm, MemoryDisk::new(disk.clone())).await.unwrap();
                model.add_disk(report.snapshot.unwrap(), &disk);
            }
        }
        let honest = repo.as_keeper().await;
        let liar = repo.with_key_file(&repo.certify("liar", Role::Keeper).await).await;
        Self { repo, honest, liar, model }
    }

    fn sessions(&self) -> Vec<SessionId> {
        self.model.snapshots.iter().map(|(session, _)| *session).collect()
    }

    async fn packs(&self) -> FrameSet {
        let mut set = FrameSet::default();
        for session in self.sessions() {
            let folder = format!("/packs/{:016x}/", session.number);
            let count = self.repo.keys_with(&folder).await.len();
            let ordinals = 0..u32::try_from(count).unwrap();
            ordinals.for_each(|ordinal| set.insert_pack(PackName { session: session.number, ordinal }));
        }
        set
    }

    /// A gc of the liar with these final lists.
    async fn lie(&self, lists: GcLists) -> SessionId {
        let proposal = GcLists { dead: lists.dead.clone(), ..GcLists::default() };
        let gc = self.repo.append_as(&self.liar, GC, &proposal.encode().unwrap()).await;
        self.repo.commit_gc_as(&self.liar, gc, &lists).await;
        gc
    }

    async fn revoke_liar(&self, from: u64) {
        let own = Log::load(&self.repo.open).await.unwrap().highest() + 1;
        let distrust = Distrust { writer: name("liar"), from: from.min(own), reason: "stolen".into() };
        self.repo.append(Kind::Revoke(distrust), &[]).await;
    }

    /// Every snapshot is there and restores, and `gc` changes nothing and says whose fault it is.
    async fn stands(&self, blamed: &str) {
        let (before, log) = (self.repo.objects().await, Log::load(&self.repo.open).await.unwrap());
        let live: Vec<SessionId> = log.snapshots().iter().map(|snapshot| snapshot.session()).collect();
        assert_eq!(live, self.sessions());
        self.model.check(&self.repo.open).await;
        let error = collect(&self.honest).await.unwrap_err().to_string();
        assert!(error.contains(blamed), "{error}");
        assert_eq!(self.repo.objects().await, before);
        self.model.check(&self.repo.open).await;
    }

    /// After the liar is revoked, gc collects again and keeps everything.
    async fn goes_on(&self, from: u64) {
        self.revoke_liar(from).await;
        let report = collect(&self.honest).await.unwrap();
        assert_eq!(report.deleted_packs, 0, "{report:?}");
        self.model.check(&self.repo.open).await;
        drop_snapshot(&self.honest, self.sessions()[0]).await.unwrap();
        let report = collect(&self.honest).await.unwrap();
        assert!(report.deleted_packs > 0, "{report:?}");
        let mut left = self.model.clone();
        left.snapshots.remove(0);
        left.check(&self.repo.open).await;
    }

    async fn findings(&self) -> Vec<String> {
        let options = CheckOptions { read_data: ReadData::No, quarantine: false };
        let report = check(&self.repo.open, &options, &Monitor::silent()).await.unwrap();
        let bad = report.findings.into_iter().filter(|found| found.severity != Severity::Note);
        bad.map(|found| format!("{}: {}", found.object, found.problem)).collect()
    }
}

/// A keeper may end the gc of another one, but not decide what it gives up.
#[tokio::test(start_paused = true)]
async fn nobody_else_commits_an_open_gc() {
    let scene = Scene::new(900).await;
    let gc = scene.repo.append_as(&scene.honest, GC, &GcLists::default().encode().unwrap()).await;
    scene.revoke_liar(gc.number).await;
    let lists = GcLists { forgotten: scene.sessions(), ..GcLists::default() };
    scene.repo.commit_gc_as(&scene.liar, gc, &lists).await;
    scene.stands("does not verify").await;
}

/// Nobody can avoid what such a gc proposes, so nobody may collect by it: else one entry would stop all writers for ever.
#[tokio::test(start_paused = true)]
async fn a_proposal_that_nobody_can_read_stops_nobody() {
    let mut scene = Scene::new(955).await;
    let mut future = FrameSet::default();
    future.insert_pack(PackName { session: 900, ordinal: 0 });
    let later = GcLists { dead: future, ..GcLists::default() }.encode().unwrap();
    let mut dead = scene.packs().await;
    dead.insert_pack(PackName { session: 1, ordinal: 900 });
    for proposal in [later, b"junk".to_vec(), Vec::new()] {
        let gc = scene.repo.append_as(&scene.liar, GC, &proposal).await;
        let lists = GcLists { dead: dead.clone(), forgotten: scene.sessions(), ..GcLists::default() };
        scene.repo.commit_gc_as(&scene.liar, gc, &lists).await;
        let disk = noise(956, SIZE);
        let report = back_up(&scene.repo.open, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
        scene.model.add_disk(report.snapshot.unwrap(), &disk);
        assert_eq!(collect(&scene.honest).await.unwrap().deleted_packs, 0);
        scene.model.check(&scene.repo.open).await;
        let options = CheckOptions { read_data: ReadData::No, quarantine: false };
        let report = check(&scene.repo.open, &options, &Monitor::silent()).await.unwrap();
        let entry = names::log(&zone(), gc.number);
        assert!(report.findings.iter().any(|found| found.object == entry), "{:?}", report.findings);
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_gives_up_only_what_a_record_forgot() {
    let scene = Scene::new(910).await;
    let gc = scene.lie(GcLists { forgotten: scene.sessions(), ..GcLists::default() }).await;
    scene.stands("liar").await;
    let findings = scene.findings().await;
    assert!(
        findings.iter().any(|found| found.contains("liar") && found.contains("gives up")),
        "{findings:?}"
    );
    scene.goes_on(gc.number + 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_commit_does_not_give_up_what_is_held() {
    let scene = Scene::new(920).await;
    let held = scene.sessions()[1];
    drop_snapshot(&scene.honest, held).await.unwrap();
    hold(&scene.honest, &BTreeSet::from([held]), "trial").await.unwrap();
    let gc = scene.lie(GcLists { forgotten: vec![held], ..GcLists::default() }).await;
    scene.stands("liar").await;
    scene.goes_on(gc.number + 1).await;
}

/// What is dead by a commit although a snapshot needs it is not garbage for the next collector.
#[tokio::test(start_paused = true)]
async fn a_commit_does_not_burn_what_is_needed() {
    let scene = Scene::new(930).await;
    let gc = scene.lie(GcLists { dead: scene.packs().await, ..GcLists::default() }).await;
    scene.stands("liar").await;
    let findings = scene.findings().await;
    assert!(findings.iter().any(|found| found.contains("liar") && found.contains("needs")), "{findings:?}");
    scene.goes_on(gc.number + 1).await;
}

/// A commit that moves frames to nowhere, out of packs that it does not burn, changes nothing for whoever restores.
#[tokio::test(start_paused = true)]
async fn a_commit_does_not_send_frames_astray() {
    let scene = Scene::new(940).await;
    let log = Log::load(&scene.repo.open).await.unwrap();
    let moves = [(0, log.snapshots()[0].uses().unwrap())].into();
    let gc = scene.lie(GcLists { moves, ..GcLists::default() }).await;
    scene.stands("liar").await;
    scene.goes_on(gc.number + 1).await;
}

/// Frames that were copied indeed, and then are said to lie where nothing is: what the map says of offsets holds for their
/// first pack alone.
#[tokio::test(start_paused = true)]
async fn frames_sent_astray_after_they_were_moved_are_found() {
    let scene = Scene::new(945).await;
    let (repo, first) = (&scene.repo, scene.sessions()[0]);
    let uses = Log::load(&repo.open).await.unwrap().snapshots()[0].uses().unwrap();
    let mut dead = FrameSet::default();
    (0..repo.keys_with(&format!("/packs/{:016x}/", first.number)).await.len())
        .for_each(|ordinal| dead.insert_pack(PackName { session: first.number, ordinal: ordinal as u32 }));
    let proposal = GcLists { dead, ..GcLists::default() };
    let gc = repo.append_as(&scene.liar, GC, &proposal.encode().unwrap()).await;
    repo.copy_packs_as(&scene.liar, first, gc).await;
    let moves = repo.moves_of(gc).await;
    repo.commit_gc_as(&scene.liar, gc, &GcLists { moves, ..proposal }).await;
    scene.model.check(&repo.open).await;
    scene.lie(GcLists { moves: [(0, uses)].into(), ..GcLists::default() }).await;
    scene.model.check(&repo.open).await;
}

/// Junk at the outcome of a gc stops later ones until the administrator ends it.
#[tokio::test(start_paused = true)]
async fn a_gc_that_ended_in_junk_is_abandoned() {
    let scene = Scene::new(950).await;
    let Scene { repo, honest, .. } = &scene;
    let proposal = GcLists { dead: scene.packs().await, ..GcLists::default() };
    let gc = repo.append_as(honest, GC, &proposal.encode().unwrap()).await;
    repo.tamper(&names::outcome(&zone(), &gc), b"junk".to_vec()).await;
    let error = collect(honest).await.unwrap_err().to_string();
    assert!(error.contains(&format!("`abandon({})`", gc.number)), "{error}");
    assert_eq!(abandon(honest, gc.number, "junk").await.unwrap_err().kind(), ErrorKind::WrongKey);
    let admin = repo.as_admin().await;
    assert_eq!(abandon(&admin, 1, "no gc").await.unwrap_err().kind(), ErrorKind::Usage);
    // Had it been a commit, what it moved would be lost with it.
    let packs = repo.keys_with("/packs/0000000000000002/").await;
    let bytes = repo.object(&packs[0]).await;
    repo.lose(&packs[..1]).await;
    assert_eq!(abandon(&admin, gc.number, "junk").await.unwrap_err().kind(), ErrorKind::Missing);
    repo.tamper(&packs[0], bytes).await;
    abandon(&admin, gc.number, "junk").await.unwrap();
    assert_eq!(scene.findings().await, [""; 0]);
    // A commit that comes after all is too late.
    let lists = GcLists { dead: scene.packs().await, forgotten: scene.sessions(), ..GcLists::default() };
    repo.commit_gc_as(honest, gc, &lists).await;
    scene.goes_on(u64::MAX).await;
}
