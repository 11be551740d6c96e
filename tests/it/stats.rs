//! What is stored, and for whom: numbers that follow from disks whose bytes are known.

use std::collections::BTreeSet;

use sancerre_engine::forget::{ForgetOptions, Selection};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::stats::{Stats, stats};
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::repo::{TestRepo, back_up};

use crate::forget::decide;
use crate::gc::{collect, drop_snapshot};

const MIB: usize = 1 << 20;

async fn count(repository: &Repository) -> Stats {
    stats(repository, &Monitor::silent()).await.unwrap()
}

fn machine(stats: &Stats, vm: &str) -> (u64, u64, u64) {
    let machine = stats.machines.iter().find(|machine| machine.vm.as_str() == vm).unwrap();
    (machine.snapshots, machine.needed_bytes, machine.exclusive_bytes)
}

/// Noise does not compress, so stored bytes are the data and a little around it.
fn about(bytes: u64, expected: usize) -> bool {
    let expected = expected as u64;
    (expected..expected + expected / 20).contains(&bytes)
}

#[tokio::test(start_paused = true)]
async fn what_is_shared_is_nobodys_alone() {
    let repo = TestRepo::new(870).await;
    assert_eq!(count(&repo.open).await, Stats::default(), "an empty repository");
    let shared = noise(1, 4 * MIB);
    let mut other = noise(2, 6 * MIB);
    other[..4 * MIB].copy_from_slice(&shared);
    let first = back_up(&repo.open, "web01", MemoryDisk::new(shared)).await.unwrap().snapshot.unwrap();
    back_up(&repo.open, "db01", MemoryDisk::new(other.clone())).await.unwrap();
    back_up(&repo.open, "db01", MemoryDisk::new(other)).await.unwrap();
    // As cron opens it: with a key that opens no content.
    let stats = count(&repo.as_writer().await).await;
    let (snapshots, needed, alone) = machine(&stats, "web01");
    assert!(snapshots == 1 && about(needed, 4 * MIB) && alone < 20_000, "{stats:?}");
    let (snapshots, needed, alone) = machine(&stats, "db01");
    assert!(snapshots == 2 && about(needed, 6 * MIB) && about(alone, 2 * MIB), "{stats:?}");
    assert_eq!((stats.data_bytes(), stats.unique_bytes), (16 << 20, 6 << 20));
    assert_eq!(stats.dedup_ratio(), Some(16.0 / 6.0));
    assert!(stats.compression_ratio().is_some_and(|ratio| (0.97..=1.0).contains(&ratio)), "{stats:?}");
    assert_eq!(stats.chunks.iter().map(|class| class.bytes).sum::<u64>(), stats.unique_bytes);
    let packs = repo.objects().await.into_iter().filter(|(key, _)| key.contains("/packs/"));
    assert_eq!(stats.stored_bytes, packs.map(|(_, bytes)| bytes).sum::<u64>());
    assert_eq!((stats.garbage_bytes, stats.unread.len()), (0, 0));

    // What only the first needed is its map; the rest is db01's alone now.
    let selection = Selection::Named { snapshots: BTreeSet::from([first]), even_last: true };
    let options = ForgetOptions { selection, reason: "test".into(), max_drop_percent: 100, dry_run: false };
    decide(&repo.as_keeper().await, &options).await.unwrap();
    let stats = count(&repo.open).await;
    assert_eq!(stats.machines.len(), 1);
    let (_, needed, alone) = machine(&stats, "db01");
    assert!(needed == alone && stats.garbage_bytes > 0 && stats.garbage_bytes < 20_000, "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn garbage_goes_with_gc() {
    let repo = TestRepo::new(871).await;
    let mut disk = noise(3, 8 * MIB);
    let old = back_up(&repo.open, "web01", MemoryDisk::new(disk.clone())).await.unwrap().snapshot.unwrap();
    // Most of every region changes, so packs are needed in part.
    for region in disk.chunks_mut(MIB) {
        let changed = noise(region[0].into(), 900_000);
        region[..changed.len()].copy_from_slice(&changed);
    }
    back_up(&repo.open, "web01", MemoryDisk::new(disk)).await.unwrap();
    let keeper = repo.as_keeper().await;
    drop_snapshot(&keeper, old).await.unwrap();
    let before = count(&repo.open).await;
    assert!(before.garbage_bytes > before.stored_bytes / 4, "{before:?}");
    collect(&keeper).await.unwrap();
    let after = count(&repo.open).await;
    assert!(after.garbage_bytes * 19 < after.stored_bytes, "{after:?}");
    let needed = |stats: &Stats| (stats.unique_bytes, stats.packed_bytes, stats.maps_bytes);
    assert_eq!(needed(&after), needed(&before), "moved frames are counted where they lie");
}

#[tokio::test(start_paused = true)]
async fn a_pack_that_cannot_be_read_is_told() {
    let repo = TestRepo::new(872).await;
    back_up(&repo.open, "web01", MemoryDisk::new(noise(4, 3 * MIB))).await.unwrap();
    let key = repo.keys_with("/packs/").await.remove(0);
    let size = repo.object(&key).await.len();
    repo.tamper(&key, noise(5, size)).await;
    let stats = count(&repo.open).await;
    assert!(stats.unread.len() == 1 && stats.unread[0].contains(&key), "{stats:?}");
    assert!(stats.unique_bytes > 0 && stats.unique_bytes < 3 << 20);
}
