//! The gate before the manifest: what no reader would find or read is never called saved.

use sancerre_engine::cache::Cache;
use sancerre_engine::repository::Repository;
use sancerre_engine::{Error, ErrorKind};
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::odd::OddStore;
use sancerre_tests::repo::{TestRepo, back_up};

const SIZE: usize = 4 << 20;

/// What this machine kept of the pack is whole: only who asks the store finds out.
#[tokio::test]
async fn a_map_that_the_store_did_not_keep_is_no_snapshot() {
    let repo = TestRepo::new(970).await;
    let folder = tempfile::tempdir().unwrap();
    let odd = OddStore::new(repo.store.clone());
    odd.turns_a_bit("/packs/");
    let writer = Repository {
        cache: Cache::new(folder.path().to_owned(), 1 << 30, |_| {}),
        ..repo.through(odd.clone())
    };
    let failed = back_up(&writer, "web01", MemoryDisk::new(noise(970, SIZE))).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Damaged, "{failed}");
    assert_eq!(repo.keys_with("/outcome/").await.len(), 1, "the session was closed with an abort");
}

/// A night on which nothing is new reads nothing back: every node of its map was compared with the one before.
#[tokio::test]
async fn a_night_without_changes_reads_no_pack_back() {
    let repo = TestRepo::new(971).await;
    let writer = repo.as_writer().await;
    let disk = || MemoryDisk::new(noise(971, SIZE));
    back_up(&writer, "web01", disk()).await.unwrap();
    let odd = OddStore::new(repo.store.clone());
    let again = back_up(&repo.through(odd.clone()), "web01", disk()).await.unwrap();
    assert_eq!(again.new_bytes, 0);
    let packs = odd.take_fetched().into_iter().filter(|(key, _)| key.contains("/packs/"));
    let read: Vec<_> = packs.collect();
    let changed = back_up(&repo.through(odd.clone()), "web01", MemoryDisk::new(noise(972, SIZE))).await;
    changed.unwrap();
    let own = |(key, _): &(String, _)| key.contains("/packs/0000000000000003");
    assert!(!read.iter().any(|(key, _)| key.contains("/packs/0000000000000002")), "{read:?}");
    assert_eq!(odd.take_fetched().into_iter().filter(own).count(), 1, "the pack of its new nodes, once");
}

#[test]
fn what_should_be_impossible_has_an_exit_of_its_own() {
    let error = Error::bug("a leaf was never placed");
    assert_eq!(error.kind(), ErrorKind::Bug);
    assert!(error.to_string().contains("report"), "{error}");
}
