//! What a backup stores, reuses and asks of the store.

use sancerre_tests::disk::{MemoryDisk, guest};
use sancerre_tests::repo::{TestRepo, back_up};

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
