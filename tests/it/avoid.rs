//! What the log says must not be reused is stored anew, whichever way a writer comes to it: the base snapshot's
//! chunks, its map nodes, or the index.

use sancerre_engine::repository::log::Log;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{FrameName, PackName, SessionId};
use sancerre_format::log::{Distrust, Kind};
use sancerre_tests::disk::{MemoryDisk, guest};
use sancerre_tests::model::Model;
use sancerre_tests::repo::{TestRepo, back_up, name};

const SIZE: usize = 3 << 20;

/// A way in which something comes to be avoided; says whether it then is.
#[derive(Debug, Clone, Copy)]
enum By {
    Proposal,
    ProposalAborted,
    Commit,
    CommitWithout,
    CommitBefore,
    Quarantine,
    QuarantineOfFrames,
    Taint,
    TaintOfLater,
}

use By::{
    Commit, CommitBefore, CommitWithout, Proposal, ProposalAborted, Quarantine, QuarantineOfFrames, Taint,
    TaintOfLater,
};

const WAYS: [By; 9] = [
    Proposal,
    ProposalAborted,
    Commit,
    CommitWithout,
    CommitBefore,
    Quarantine,
    QuarantineOfFrames,
    Taint,
    TaintOfLater,
];

/// All packs of session 1.
async fn packs(repo: &TestRepo) -> Vec<PackName> {
    let keys = repo.keys_with("/packs/0000000000000001/").await;
    (0..u32::try_from(keys.len()).unwrap()).map(|ordinal| PackName { session: 1, ordinal }).collect()
}

fn whole(packs: &[PackName]) -> FrameSet {
    let mut set = FrameSet::default();
    packs.iter().for_each(|pack| set.insert_pack(*pack));
    set
}

fn frames(packs: &[PackName]) -> Vec<FrameName> {
    packs.iter().flat_map(|pack| (0..200).map(|index| FrameName { pack: *pack, index })).collect()
}

/// Makes the packs avoided (or nearly); returns whether they are.
async fn avoid(repo: &TestRepo, by: By, packs: &[PackName], snapshot: SessionId) -> bool {
    let distrust = |from| Distrust { writer: name("host1"), from, reason: "test".into() };
    let lists = GcLists { seen: vec![snapshot], ..GcLists::default() };
    match by {
        Proposal => {
            repo.propose(&whole(packs)).await;
        }
        ProposalAborted => repo.abort(repo.propose(&whole(packs)).await).await,
        Commit => {
            let lists = GcLists { dead: whole(packs), ..lists };
            repo.commit_gc(repo.propose(&whole(packs)).await, &lists).await;
        }
        CommitWithout => repo.commit_gc(repo.propose(&whole(packs)).await, &lists).await,
        CommitBefore => {
            let lists = GcLists { dead: whole(packs), ..lists };
            repo.commit_gc(repo.propose(&whole(packs)).await, &lists).await;
            repo.commit_gc(repo.propose(&FrameSet::default()).await, &GcLists::default()).await;
        }
        Quarantine | QuarantineOfFrames => {
            let mut set = FrameSet::default();
            frames(packs).into_iter().for_each(|frame| set.insert(frame));
            let set = if matches!(by, Quarantine) { whole(packs) } else { set };
            let kind = Kind::Quarantine { reason: "test".into() };
            repo.append(kind, &set.encode().unwrap()).await;
        }
        Taint => {
            repo.append(Kind::Taint(distrust(1)), &[]).await;
        }
        TaintOfLater => {
            repo.append(Kind::Taint(distrust(2)), &[]).await;
        }
    }
    !matches!(by, ProposalAborted | CommitWithout | TaintOfLater)
}

/// `vm` and `edit` choose the way to the chunks: the same VM has a base, another one only the index.
async fn check(by: By, vm: &str, edit: bool) {
    let what = format!("{by:?}, {vm}, edit {edit}");
    let (repo, mut model, mut bytes) = (TestRepo::new(80).await, Model::default(), guest(81, SIZE));
    let first = back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
    model.add_disk(first.snapshot.unwrap(), &bytes);
    let avoided = avoid(&repo, by, &packs(&repo).await, first.snapshot.unwrap()).await;
    if edit {
        bytes[SIZE / 2] ^= 1;
    }
    let second = back_up(&repo.open, vm, MemoryDisk::new(bytes.clone())).await.unwrap();
    model.add_disk(second.snapshot.unwrap(), &bytes);
    assert_eq!(second.new_bytes == first.new_bytes, avoided, "{what}: {second:?}");
    let log = Log::load(&repo.open).await.unwrap();
    let uses = log.snapshots().last().unwrap().uses().unwrap();
    let sessions: Vec<u64> = uses.packs().map(|pack| pack.session).collect();
    let own = second.snapshot.unwrap().number;
    assert_eq!(sessions.iter().all(|session| *session == own), avoided, "{what}: {sessions:?}");
    model.check(&repo.open).await;
}

#[tokio::test(start_paused = true)]
async fn chunks_and_nodes_of_the_base() {
    for by in WAYS {
        check(by, "web01", true).await;
        check(by, "web01", false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn chunks_of_the_index() {
    for by in WAYS {
        check(by, "web02", false).await;
    }
}

/// Only map nodes are avoided: the data is reused, the map is written anew.
#[tokio::test(start_paused = true)]
async fn nodes_alone() {
    let (repo, mut model, bytes) = (TestRepo::new(82).await, Model::default(), guest(83, SIZE));
    let first = back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
    let root = first.members[0].root.unwrap();
    let mut set = FrameSet::default();
    set.insert_pack(root.place.frame.frame.pack);
    let kind = Kind::Quarantine { reason: "test".into() };
    repo.append(kind, &set.encode().unwrap()).await;
    let second = back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
    let again = second.members[0].root.unwrap();
    assert_eq!((second.new_bytes, again.id), (0, root.id));
    assert_ne!(again.place.frame.frame.pack, root.place.frame.frame.pack);
    model.add_disk(second.snapshot.unwrap(), &bytes);
    // The quarantined pack may go now: what is left does without it.
    repo.lose(
        &repo
            .keys_with(&format!("/packs/0000000000000001/{:08x}", root.place.frame.frame.pack.ordinal))
            .await,
    )
    .await;
    model.check(&repo.open).await;
}

/// W4: packs that are gone, or not of their size, are unknown: the next backup stores their chunks anew.
#[tokio::test(start_paused = true)]
async fn lost_and_cut_packs() {
    for cut in [false, true] {
        let (repo, mut model, bytes) = (TestRepo::new(84).await, Model::default(), guest(85, SIZE));
        let first = back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
        let keys = repo.keys_with("/packs/").await;
        if cut {
            for key in &keys {
                let mut bytes = repo.object(key).await;
                bytes.pop();
                repo.tamper(key, bytes).await;
            }
        } else {
            repo.lose(&keys).await;
        }
        let second = back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
        assert_eq!(second.new_bytes, first.new_bytes);
        // The old snapshot is healed too: other copies of its chunks and nodes are in the index now.
        model.add_disk(first.snapshot.unwrap(), &bytes);
        model.add_disk(second.snapshot.unwrap(), &bytes);
        model.check(&repo.open).await;
    }
}
