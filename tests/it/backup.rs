//! What a backup stores, reuses and asks of the store.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sancerre_engine::backup::backup;
use sancerre_engine::monitor::Monitor;
use sancerre_tests::disk::{MemoryDisk, guest, noise};
use sancerre_tests::repo::{TestRepo, back_up, options, restore_bytes};

#[tokio::test]
async fn an_unchanged_disk_costs_a_log_entry_and_a_manifest() {
    let repo = TestRepo::new(1).await;
    let bytes = guest(7, 12 << 20);
    let first = back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
    assert!(first.new_bytes > 0 && first.parent.is_none(), "{first:?}");
    repo.store.take_calls();
    let second = back_up(&repo.open, "web01", MemoryDisk::new(bytes)).await.unwrap();
    let calls = repo.store.take_calls();
    assert_eq!((second.new_bytes, second.parent), (0, first.snapshot));
    assert_eq!(second.stored_bytes, 0, "an unchanged map is taken over whole");
    assert_eq!(second.members[0].root, first.members[0].root);
    assert_eq!(calls.put, 2, "a log entry and a manifest: {calls:?}");
    assert_eq!(calls.delete, 0);
}

#[tokio::test]
async fn holes_and_written_zeros_are_the_same_disk() {
    let repo = TestRepo::new(2).await;
    let bytes = guest(8, 9 << 20);
    let sparse = back_up(&repo.open, "a", MemoryDisk::new(bytes.clone())).await.unwrap();
    let dense = back_up(&repo.open, "b", MemoryDisk::dense(bytes)).await.unwrap();
    assert_eq!(dense.new_bytes, 0);
    let (sparse, dense) = (sparse.members[0].root.unwrap(), dense.members[0].root.unwrap());
    assert_eq!(sparse.id, dense.id);
}

/// A store that takes nothing stops the reading once the memory for finished packs is full, and costs no more time than
/// it takes.
#[tokio::test(start_paused = true)]
async fn a_store_that_takes_nothing_stops_the_reading() {
    const MIB: u64 = 1 << 20;
    let bytes = noise(9, 64 << 20);
    for (memory_bytes, uploads) in [(0, 1), (300 * MIB, 8)] {
        let repo = TestRepo::new(3).await;
        repo.store.pause_before("/packs/");
        repo.store.take_calls();
        let (monitor, disk) = (Monitor::silent(), MemoryDisk::new(bytes.clone()));
        let mut options = options("web01", vec![("disk0", disk)]);
        options.memory_bytes = memory_bytes;
        let mut running = Box::pin(backup(&repo.open, options, &monitor));
        tokio::time::timeout(Duration::from_secs(3600), &mut running).await.unwrap_err();
        // The log entry, and as many packs as may be on their way.
        assert_eq!(repo.store.take_calls().put, 1 + uploads);
        let done_bytes = monitor.counters.done_bytes.load(Ordering::Relaxed);
        // Regions, frames and packs have about 1 MiB: what is on its way, what is open, and two regions ahead for each worker.
        let ahead = 2 * repo.open.host.pool.width() as u64;
        assert!(done_bytes <= (uploads + 2 + ahead) * MIB, "{done_bytes} bytes read for {uploads} uploads");
        repo.store.go_on();
        let report = running.await.unwrap();
        assert!(restore_bytes(&repo.open, report.snapshot.unwrap(), "disk0").await.unwrap() == bytes);
    }
}
