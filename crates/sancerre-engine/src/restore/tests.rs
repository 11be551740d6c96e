//! Restores of real backups, bit for bit, whole and with packs damaged or gone.

pub(crate) mod support;

use std::sync::atomic::Ordering;

use sancerre_format::names::Folder;

use crate::error::ErrorKind;
use crate::monitor::Monitor;
use support::{SparseDisk, TestRepo, guest, noise};

#[tokio::test]
async fn disks_of_all_sizes_come_back_as_they_were() {
    let repo = TestRepo::new().await;
    let sizes = [1, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1, 5_000_001, 9 << 20];
    for (seed, size) in sizes.into_iter().enumerate() {
        let disk = guest(seed, size);
        let snapshot = repo.back_up(SparseDisk::of(&disk)).await;
        assert!(repo.restore(snapshot, 64 << 20).await.unwrap().0 == disk, "restore of {size} bytes");
        assert!(repo.dump(snapshot, 64 << 20).await.unwrap().0 == disk, "dump of {size} bytes");
    }
}

#[tokio::test]
async fn an_empty_disk_needs_no_request() {
    let repo = TestRepo::new().await;
    let disk = vec![0; 3_000_000];
    let snapshot = repo.back_up(SparseDisk::of(&disk)).await;
    let (bytes, report) = repo.restore(snapshot, 64 << 20).await.unwrap();
    assert!(bytes == disk);
    assert_eq!((report.data_bytes, report.fetched_bytes, report.requests), (0, 0, 0));
    assert!(repo.dump(snapshot, 64 << 20).await.unwrap().0 == disk);
}

#[tokio::test]
async fn the_smallest_budget_is_enough() {
    let repo = TestRepo::new().await;
    let disk = guest(1, 12 << 20);
    let snapshot = repo.back_up(SparseDisk::of(&disk)).await;
    assert!(repo.restore(snapshot, 0).await.unwrap().0 == disk);
    assert!(repo.dump(snapshot, 0).await.unwrap().0 == disk);
}

#[tokio::test]
async fn every_night_comes_back_as_it_was() {
    let repo = TestRepo::new().await;
    let mut disk = guest(3, 8 << 20);
    let mut nights = Vec::new();
    for night in 0..4 {
        let at = night * 1_900_000;
        disk[at..at + 70_000].copy_from_slice(&noise(night + 99, 70_000));
        nights.push((repo.back_up(SparseDisk::of(&disk)).await, disk.clone()));
    }
    for (snapshot, disk) in nights {
        assert!(repo.restore(snapshot, 64 << 20).await.unwrap().0 == disk);
        assert!(repo.dump(snapshot, 64 << 20).await.unwrap().0 == disk);
    }
}

#[tokio::test]
async fn repeated_content_is_fetched_once() {
    let repo = TestRepo::new().await;
    let disk = noise(5, 1 << 20).repeat(16);
    let snapshot = repo.back_up(SparseDisk::of(&disk)).await;
    let (bytes, report) = repo.restore(snapshot, 64 << 20).await.unwrap();
    assert!(bytes == disk);
    assert_eq!(report.data_bytes, 16 << 20);
    assert!(report.fetched_bytes < 3 << 20, "{report:?}");
}

/// More than one window, an inner node over the leaves' parents, and holes between windows.
#[tokio::test]
async fn a_large_sparse_disk_is_walked_window_by_window() {
    let repo = TestRepo::new().await;
    let at = [0, 300 << 20, (2 << 30) - 5000, (2 << 30) + (9 << 20)];
    let parts = at.into_iter().zip(11..).map(|(at, seed)| (at, guest(seed, 1_500_000)));
    let disk = SparseDisk::new((2 << 30) + (300 << 20), parts.collect());
    let snapshot = repo.back_up(disk.clone()).await;
    let target = repo.restore_to_file(snapshot, 64 << 20, &Monitor::silent()).await.unwrap().0;
    disk.compare(&target.join("disk.raw"));
}

#[tokio::test]
async fn progress_counts_data_and_fetched_bytes() {
    let repo = TestRepo::new().await;
    let snapshot = repo.back_up(SparseDisk::of(&guest(6, 6 << 20))).await;
    let monitor = Monitor::silent();
    let (_, report) = repo.restore_to_file(snapshot, 64 << 20, &monitor).await.unwrap();
    assert_eq!(monitor.counters.total_bytes.load(Ordering::Relaxed), report.data_bytes);
    assert_eq!(monitor.counters.done_bytes.load(Ordering::Relaxed), report.data_bytes);
    assert_eq!(monitor.counters.stored_bytes.load(Ordering::Relaxed), report.fetched_bytes);
}

/// A command line spawns what it runs.
#[tokio::test]
async fn both_can_move_between_threads() {
    fn sent<F: Future + Send>(future: F) -> F {
        future
    }
    let repo = TestRepo::new().await;
    let disk = guest(6, 1 << 20);
    let snapshot = repo.back_up(SparseDisk::of(&disk)).await;
    assert!(sent(repo.restore(snapshot, 64 << 20)).await.unwrap().0 == disk);
    assert!(sent(repo.dump(snapshot, 64 << 20)).await.unwrap().0 == disk);
}

#[tokio::test]
async fn an_interrupted_restore_stops() {
    let repo = TestRepo::new().await;
    let snapshot = repo.back_up(SparseDisk::of(&guest(6, 6 << 20))).await;
    let monitor = Monitor::silent();
    monitor.interrupt();
    let error = repo.restore_to_file(snapshot, 64 << 20, &monitor).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
}

#[tokio::test]
async fn a_writers_key_is_refused_at_once() {
    let repo = TestRepo::new().await;
    let snapshot = repo.back_up(SparseDisk::of(&guest(6, 1 << 20))).await;
    let writer = repo.as_writer().await;
    let monitor = Monitor::silent();
    let error = writer.restore_to_file(snapshot, 64 << 20, &monitor).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    assert_eq!(monitor.counters.stored_bytes.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_missing_pack_is_named_with_the_bytes_it_costs() {
    let repo = TestRepo::new().await;
    let snapshot = repo.back_up(SparseDisk::of(&noise(7, 6 << 20))).await;
    let pack = repo.packs(false).await.remove(0);
    repo.delete(&pack).await;
    for error in [
        repo.restore(snapshot, 64 << 20).await.unwrap_err(),
        repo.dump(snapshot, 64 << 20).await.unwrap_err(),
    ] {
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Missing, "{text}");
        assert!(text.contains(&pack) && text.contains("disk disk0") && text.contains(".."), "{text}");
    }
}

#[tokio::test]
async fn damaged_and_short_packs_are_damage() {
    let damages: [fn(&mut Vec<u8>); 2] = [
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        },
        |bytes| bytes.truncate(bytes.len() / 3),
    ];
    for damage in damages {
        let repo = TestRepo::new().await;
        let snapshot = repo.back_up(SparseDisk::of(&noise(7, 6 << 20))).await;
        let pack = repo.packs(false).await.remove(1);
        repo.change(&pack, damage).await;
        for error in [
            repo.restore(snapshot, 64 << 20).await.unwrap_err(),
            repo.dump(snapshot, 64 << 20).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
            assert!(error.to_string().contains(&pack), "{error}");
        }
    }
}

#[tokio::test]
async fn what_damage_leaves_is_written() {
    let repo = TestRepo::new().await;
    let disk = noise(8, 6 << 20);
    let snapshot = repo.back_up(SparseDisk::of(&disk)).await;
    repo.delete(&repo.packs(false).await.remove(0)).await;
    let partial = repo.restore_partly(snapshot).await;
    let blocks = || partial.chunks(4096).zip(disk.chunks(4096));
    let whole = blocks().filter(|(found, wanted)| found == wanted).count();
    let zero = blocks().filter(|(found, _)| found.iter().all(|byte| *byte == 0)).count();
    assert_eq!(whole + zero, 6 << 8);
    assert!(whole >= 4 << 8, "{whole} blocks of {}", 6 << 8);
}

/// A later backup stores what is missing again; the older snapshot's map does not know, the index does.
#[tokio::test]
async fn lost_data_comes_from_another_copy() {
    for metadata in [false, true] {
        let repo = TestRepo::new().await;
        let disk = guest(9, 9 << 20);
        let snapshot = repo.back_up(SparseDisk::of(&disk)).await;
        for pack in repo.packs(metadata).await {
            repo.delete(&pack).await;
        }
        assert_eq!(repo.restore(snapshot, 64 << 20).await.unwrap_err().kind(), ErrorKind::Missing);
        repo.back_up(SparseDisk::of(&disk)).await;
        assert!(repo.restore(snapshot, 64 << 20).await.unwrap().0 == disk, "metadata: {metadata}");
        assert!(repo.dump(snapshot, 64 << 20).await.unwrap().0 == disk, "metadata: {metadata}");
        assert!(repo.warnings().iter().any(|warning| warning.contains("another copy")));
    }
}

#[tokio::test]
async fn without_pack_lists_and_index_all_is_restored() {
    let repo = TestRepo::new().await;
    let disk = guest(9, 2 << 20);
    let snapshot = repo.back_up(SparseDisk::of(&disk)).await;
    for key in [repo.keys(Folder::Lists).await, repo.keys(Folder::Index).await].concat() {
        repo.delete(&key).await;
    }
    assert!(repo.restore(snapshot, 64 << 20).await.unwrap().0 == disk);
    assert!(repo.dump(snapshot, 64 << 20).await.unwrap().0 == disk);
}
