//! Copies that a collector's commit calls the place of frames, and that are not what was sealed, or are gone: the packs from
//! which they were taken are still there, and everything restores from these, whichever way it is read.

use sancerre_engine::gc::abandon;
use sancerre_engine::index::rebuild_index;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::snapshot_disk::{ChunkCache, SnapshotDisk};
use sancerre_engine::restore::{self, SnapshotReader};
use sancerre_format::certificate::Role;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{FrameName, PackName, SessionId};
use sancerre_format::log::Kind;
use sancerre_format::names;
use sancerre_format::pack::PackKind;
use sancerre_format::seal::{UnitKind, UnitName, seal_raw};
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::model::{Model, assert_same};
use sancerre_tests::repo::{TestRepo, back_up, restore_bytes, zone};

use crate::gc::collect;
use crate::second::Second;

const SIZE: usize = 2 << 20;
const GC: Kind = Kind::Gc { generation: 1 };

/// A snapshot, and a keeper whose key was stolen.
struct Scene {
    repo: TestRepo,
    liar: Repository,
    model: Model,
}

impl Scene {
    async fn new(seed: u64) -> Self {
        let repo = TestRepo::new(seed).await;
        let liar = repo.with_key_file(&repo.certify("liar", Role::Keeper).await).await;
        let mut scene = Self { repo, liar, model: Model::default() };
        scene.save("web01", noise(seed, SIZE)).await;
        scene
    }

    async fn save(&mut self, vm: &str, disk: Vec<u8>) {
        let report = back_up(&self.repo.open, vm, MemoryDisk::new(disk.clone())).await.unwrap();
        self.model.add_disk(report.snapshot.unwrap(), &disk);
    }

    /// A gc of the liar that moves all of the first snapshot into packs of its own, with each frame changed.
    async fn move_first(&self, change: impl Fn(PackKind, FrameName, &[u8]) -> Vec<u8>) -> SessionId {
        let (repo, first) = (&self.repo, self.model.snapshots[0].0);
        let mut dead = FrameSet::default();
        let count = repo.keys_with(&names::pack_folder(&zone(), first.number)).await.len();
        let ordinals = 0..u32::try_from(count).unwrap();
        ordinals.for_each(|ordinal| dead.insert_pack(PackName { session: first.number, ordinal }));
        let proposal = GcLists { dead, ..GcLists::default() };
        let gc = repo.append_as(&self.liar, GC, &proposal.encode().unwrap()).await;
        repo.copy_packs_with(&self.liar, first, gc, change).await;
        let moves = repo.moves_of(gc).await;
        repo.commit_gc_as(&self.liar, gc, &GcLists { moves, ..proposal }).await;
        gc
    }

    /// The index is made from the packs, and another machine has the disk of the first: its map knows the frames from the
    /// packs in which they lie by now.
    async fn save_by_the_copies(&mut self) {
        rebuild_index(&self.repo.open, &Monitor::silent()).await.unwrap();
        let disk = self.model.snapshots[0].1[0].1.clone();
        let before = self.repo.keys_with("/packs/").await.len();
        self.save("db01", disk).await;
        assert!(self.repo.keys_with("/packs/").await.len() <= before + 1, "its data is found");
    }

    /// As [`Self::all_restores`], and an honest collector deletes nothing.
    async fn all_stays(&self) {
        let packs = self.repo.keys_with("/packs/").await;
        self.all_restores().await;
        let left = self.repo.keys_with("/packs/").await;
        assert!(packs.iter().all(|pack| left.contains(pack)), "{packs:?} became {left:?}");
    }

    /// All disks in order, to a file, as a guest reads them, before and after an honest collector, and by the second decoder.
    async fn all_restores(&self) {
        self.reads().await;
        let _refused_or_done = collect(&self.repo.as_keeper().await).await;
        self.reads().await;
        let Some(decoder) = Second::of(&self.repo).await else { return };
        for (session, disks) in &self.model.snapshots {
            decoder.restores(*session, &disks[0].1);
        }
    }

    async fn reads(&self) {
        self.model.check(&self.repo.open).await;
        for (session, disks) in &self.model.snapshots {
            let bytes = &disks[0].1;
            assert_same(
                &restore_bytes(&self.repo.open, *session, "disk0").await.unwrap(),
                bytes,
                "a restore",
            );
            assert_same(&self.random(*session).await, bytes, "a guest");
        }
    }

    async fn open(&self, session: SessionId) -> SnapshotReader {
        let log = Log::load(&self.repo.open).await.unwrap();
        restore::open(&self.repo.open, &log, session).await.unwrap()
    }

    async fn random(&self, session: SessionId) -> Vec<u8> {
        let reader = self.open(session).await;
        let member = reader.member("disk0").unwrap();
        let disk =
            SnapshotDisk::open(&reader, member, &ChunkCache::new(64 << 20), &Monitor::silent()).unwrap();
        let mut bytes = vec![0xee; SIZE];
        disk.read(0, &mut bytes).await.unwrap();
        bytes
    }
}

fn same(_: PackKind, _: FrameName, sealed: &[u8]) -> Vec<u8> {
    sealed.to_vec()
}

fn flipped(_: PackKind, _: FrameName, sealed: &[u8]) -> Vec<u8> {
    let mut rotten = sealed.to_vec();
    rotten[sealed.len() / 2] ^= 1;
    rotten
}

/// The packs of a thief may hold anything under the names of frames.
#[tokio::test(start_paused = true)]
async fn rotten_copies_are_passed_over() {
    let scene = Scene::new(2000).await;
    scene.move_first(flipped).await;
    scene.all_stays().await;
}

/// Every keeper has what seals metadata, and a host what sealed its data: a copy may open and be something else. The packs of
/// which the copies are right may go.
#[tokio::test(start_paused = true)]
async fn copies_that_open_and_are_something_else_are_passed_over() {
    for (seed, forged) in [(2010, PackKind::Metadata), (2015, PackKind::Data)] {
        let scene = Scene::new(seed).await;
        let first = scene.model.snapshots[0].0;
        let reader = scene.open(first).await;
        let (root, unit) = match forged {
            PackKind::Metadata => (scene.repo.open.keys.metadata_root(&first).unwrap(), UnitKind::Metadata),
            _ => (reader.frames().content_root(first.number).unwrap(), UnitKind::Data),
        };
        let other = |kind: PackKind, frame: FrameName, sealed: &[u8]| {
            if kind != forged {
                return sealed.to_vec();
            }
            let name = UnitName { kind: unit, session: first, a: frame.pack.ordinal, b: frame.index };
            seal_raw(&root, &name, 3, &noise(seed + 1, 100_000)).unwrap()
        };
        scene.move_first(other).await;
        scene.all_restores().await;
    }
}

/// What a map says of offsets holds for no pack at all, if who made it knew the frames from a pack to which they were moved.
/// Then they are sent astray.
#[tokio::test(start_paused = true)]
async fn frames_known_from_their_copies_are_found_when_they_are_sent_astray() {
    let mut scene = Scene::new(2020).await;
    scene.move_first(same).await;
    scene.save_by_the_copies().await;
    scene.reads().await;
    let log = Log::load(&scene.repo.open).await.unwrap();
    let uses = log.snapshots().last().unwrap().uses().unwrap();
    let lists = GcLists { moves: [(0, uses)].into(), ..GcLists::default() };
    let gc = scene.repo.append_as(&scene.liar, GC, &GcLists::default().encode().unwrap()).await;
    scene.repo.commit_gc_as(&scene.liar, gc, &lists).await;
    scene.all_stays().await;
}

/// The same when the gc's commit rots, it is given up, and its packs are lost: by the log the frames lie in the packs of
/// their names.
#[tokio::test(start_paused = true)]
async fn frames_known_from_copies_that_are_lost_are_found_where_they_were() {
    let mut scene = Scene::new(2030).await;
    let gc = scene.move_first(same).await;
    scene.save_by_the_copies().await;
    scene.repo.tamper(&names::outcome(&zone(), &gc), b"rotten".to_vec()).await;
    abandon(&scene.repo.as_admin().await, gc.number, "rotten").await.unwrap();
    scene.reads().await;
    let copies = scene.repo.keys_with(&names::pack_folder(&zone(), gc.number)).await;
    scene.repo.lose(&copies).await;
    scene.all_stays().await;
}
