//! Packs of a gc that was given up, which hold all there is of what a snapshot needs: nobody deletes them, whatever is lost
//! beside them and whatever a thief signs.

use sancerre_engine::gc::abandon;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_format::certificate::Role;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{PackName, SessionId};
use sancerre_format::log::{Kind, Snapshots};
use sancerre_format::names;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::model::Model;
use sancerre_tests::repo::{TestRepo, back_up, zone};

use crate::gc::collect;

const SIZE: usize = 2 << 20;

/// A gc moved half of what a night had stored and deleted where that came from. Then its commit rotted and it was given up.
struct Scene {
    repo: TestRepo,
    honest: Repository,
    model: Model,
    gc: SessionId,
}

impl Scene {
    async fn new(seed: u64) -> Self {
        let repo = TestRepo::new(seed).await;
        let honest = repo.as_keeper().await;
        let mut disk = noise(seed, SIZE);
        let first =
            back_up(&repo.open, "web01", MemoryDisk::new(disk.clone())).await.unwrap().snapshot.unwrap();
        for at in (0..SIZE).step_by(1 << 20) {
            disk[at..at + (1 << 19)].copy_from_slice(&noise(seed + 9 + at as u64, 1 << 19));
        }
        let mut model = Model::default();
        let second = back_up(&repo.open, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
        model.add_disk(second.snapshot.unwrap(), &disk);
        let named = Snapshots { snapshots: vec![first], reason: "test".into() };
        repo.append(Kind::Forget(named), &[]).await;
        let report = collect(&honest).await.unwrap();
        assert!(report.written_packs > 0 && report.deleted_packs > 0, "{report:?}");
        let gc = Log::load(&repo.open).await.unwrap().entry(report.number.unwrap()).unwrap().session;
        repo.tamper(&names::outcome(&zone(), &gc), b"rotten".to_vec()).await;
        abandon(&repo.as_admin().await, gc.number, "rotten").await.unwrap();
        model.check(&repo.open).await;
        Self { repo, honest, model, gc }
    }

    async fn copies(&self) -> Vec<String> {
        self.repo.keys_with(&names::pack_folder(&zone(), self.gc.number)).await
    }

    /// Collections change nothing of the copies, and everything restores. Returns what they left.
    async fn stands(&self) -> Vec<String> {
        let (copies, mut left) = (self.copies().await, Vec::new());
        for _ in 0..2 {
            left.extend(collect(&self.honest).await.unwrap().left);
            assert_eq!(self.copies().await, copies);
            self.model.check(&self.repo.open).await;
        }
        left
    }
}

/// No commit says that frames lie there, so burning them contradicts none.
#[tokio::test(start_paused = true)]
async fn a_thief_who_burns_the_copies_of_a_gc_that_was_given_up_deletes_nothing() {
    let scene = Scene::new(1200).await;
    let liar = scene.repo.with_key_file(&scene.repo.certify("liar", Role::Keeper).await).await;
    let mut dead = FrameSet::default();
    let ordinals = 0..u32::try_from(scene.copies().await.len()).unwrap();
    ordinals.for_each(|ordinal| dead.insert_pack(PackName { session: scene.gc.number, ordinal }));
    let lists = GcLists { dead, ..GcLists::default() };
    let kind = Kind::Gc { generation: 1 };
    let gc = scene.repo.append_as(&liar, kind, &lists.encode().unwrap()).await;
    scene.repo.commit_gc_as(&liar, gc, &lists).await;
    let left = scene.stands().await;
    assert!(!left.is_empty() && left.iter().all(|left| left.contains("liar")), "{left:?}");
}

/// Readers find them without, so they are no garbage either.
#[tokio::test(start_paused = true)]
async fn copies_of_a_gc_that_was_given_up_stay_when_their_list_is_lost() {
    let scene = Scene::new(1210).await;
    let lists = scene.repo.keys_with("/lists/").await;
    let own: Vec<String> = lists.into_iter().filter(|key| key.contains(&scene.gc.to_string())).collect();
    assert!(!own.is_empty());
    scene.repo.lose(&own).await;
    scene.model.check(&scene.repo.open).await;
    scene.stands().await;
}
