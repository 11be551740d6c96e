//! Stores that keep versions: an object is its earliest version, also for whoever writes.

use std::sync::Arc;

use bytes::Bytes;
use sancerre_engine::gc::gc;
use sancerre_engine::keys::Unlock;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::store::{Creation, Put, Removal, Store, StoreOptions};
use sancerre_engine::{ErrorKind, StoreError, location};
use sancerre_services::seaweedfs::{ADMIN, Bucket, WRITER};
use sancerre_services::{Seaweedfs, seaweedfs};
use sancerre_tests::bucket::{FakeBucket, Features};
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::host::host;
use sancerre_tests::repo::{back_up, make, passphrase};

use crate::gc::OPTIONS;

struct Place {
    server: &'static Seaweedfs,
    bucket: String,
}

impl Place {
    fn new(kind: Bucket) -> Option<Self> {
        let server = seaweedfs()?;
        Some(Self { server, bucket: server.bucket(kind).unwrap() })
    }

    /// A process of its own: nothing is remembered.
    fn open(&self) -> Store {
        let (place, variables) = (format!("s3://{}/r", self.bucket), self.server.variables(ADMIN));
        location::open(&place, variables, false, &StoreOptions::default()).unwrap()
    }

    fn hide(&self, key: &str) {
        self.server.hide(WRITER, &self.bucket, &format!("r/{key}")).unwrap();
    }

    fn overwrite(&self, key: &str, bytes: &[u8]) {
        self.server.overwrite(WRITER, &self.bucket, &format!("r/{key}"), bytes).unwrap();
    }

    fn versions(&self, key: &str) -> usize {
        let all = self.server.versions(&self.bucket).unwrap();
        all.iter().filter(|version| version.key == format!("r/{key}")).count()
    }
}

const OURS: Bytes = Bytes::from_static(b"ours, and long enough for a range");
const THEIRS: Bytes = Bytes::from_static(b"theirs");
const PACK: &str = "zones/a/packs/0000000000000001/00000000-ab";

#[tokio::test]
async fn the_first_write_of_a_key_stands() {
    let Some(place) = Place::new(Bucket::Versioned) else { return };
    for key in ["zones/a/log/0000000000000001", "config", PACK] {
        assert_eq!(place.open().put_new(key, OURS).await.unwrap(), Put::Created);
        for round in 0..3 {
            // Behind a marker, below junk, and both.
            if round != 1 {
                place.hide(key);
            }
            if round != 0 {
                place.overwrite(key, b"junk");
            }
            let store = place.open();
            assert_eq!(store.get(key).await.unwrap(), Some(OURS), "{key} {round}");
            assert_eq!(store.need_range(key, 6..9).await.unwrap(), &b"and"[..], "{key} {round}");
            assert_eq!(store.range_reader(key, 6..9).read(3).await.unwrap(), &b"and"[..], "{key} {round}");
            if key != PACK {
                assert_eq!(store.put_new(key, THEIRS).await.unwrap(), Put::Occupied(OURS), "{key} {round}");
            }
            assert_eq!(store.put_new(key, OURS).await.unwrap(), Put::Created, "{key} {round}");
        }
    }
    let mut sizes: Vec<(String, u64)> = place
        .open()
        .list("zones/")
        .await
        .unwrap()
        .into_iter()
        .map(|listed| (listed.key, listed.size_bytes))
        .collect();
    sizes.sort();
    assert_eq!(sizes, [("zones/a/log/0000000000000001".into(), 33), (PACK.into(), 33)]);
    assert_eq!(place.open().folders("zones/").await.unwrap(), ["a"]);
}

/// A marker that comes between the listing of a session's packs and the reading of one.
#[tokio::test]
async fn what_is_hidden_while_we_read_is_found() {
    let Some(place) = Place::new(Bucket::Versioned) else { return };
    let store = place.open();
    for key in [PACK, "zones/a/outcome/1"] {
        store.put_new(key, OURS).await.unwrap();
        store.list("zones/").await.unwrap();
        place.hide(key);
        let mut reader = store.range_reader(key, 6..9);
        assert_eq!(reader.read(3).await.unwrap(), &b"and"[..], "{key}");
        assert_eq!(store.get(key).await.unwrap(), Some(OURS), "{key}");
    }
    // Somebody else's valid record over one that was listed: the listing stands.
    place.overwrite("zones/a/outcome/1", b"an abort");
    assert_eq!(store.get("zones/a/outcome/1").await.unwrap(), Some(OURS));
}

#[tokio::test]
async fn junk_that_was_first_is_the_object() {
    let Some(place) = Place::new(Bucket::Versioned) else { return };
    let key = "zones/a/outcome/0000000000000001-ab";
    place.overwrite(key, b"junk");
    place.hide(key);
    // The create-only request succeeds, and is not believed.
    let put = place.open().put_new(key, OURS).await.unwrap();
    assert_eq!(put, Put::Occupied(Bytes::from_static(b"junk")));
    assert_eq!(place.versions(key), 3);
    assert_eq!(place.open().get(key).await.unwrap(), Some(Bytes::from_static(b"junk")));
}

#[tokio::test]
async fn a_delete_takes_every_version() {
    let Some(place) = Place::new(Bucket::Versioned) else { return };
    for key in [PACK, "keys/recipients/0001-a"] {
        place.open().put_new(key, OURS).await.unwrap();
        place.hide(key);
        place.overwrite(key, b"junk");
        place.open().put_new(&format!("{key}b"), THEIRS).await.unwrap();
        let store = place.open();
        store.delete(key).await.unwrap();
        assert_eq!(place.versions(key), 0, "{key}");
        assert_eq!(store.get(key).await.unwrap(), None);
        store.delete(key).await.unwrap();
        assert_eq!(store.get(&format!("{key}b")).await.unwrap(), Some(THEIRS));
    }
}

#[tokio::test]
async fn a_lock_is_named_and_nothing_is_lost() {
    let Some(place) = Place::new(Bucket::LockedByDefault(1)) else { return };
    place.open().put_new(PACK, OURS).await.unwrap();
    let store = place.open();
    let refused = store.delete(PACK).await.unwrap_err();
    assert!(matches!(&refused, StoreError::DeleteRefused { until: Some(_), .. }), "{refused}");
    assert!(refused.to_string().contains("is locked until 20"), "{refused}");
    assert_eq!(store.get(PACK).await.unwrap(), Some(OURS));
}

/// More versions of one key than a page of a listing holds, and more keys.
#[tokio::test]
async fn listings_go_on_over_pages() {
    let Some(place) = Place::new(Bucket::Versioned) else { return };
    let store = place.open();
    store.put_new("list/a", OURS).await.unwrap();
    for _ in 0..520 {
        place.overwrite("list/a", b"junk");
        place.hide("list/a");
    }
    store.put_new("list/b", THEIRS).await.unwrap();
    let store = place.open();
    assert_eq!(store.get("list/a").await.unwrap(), Some(OURS));
    assert_eq!(store.list("list/").await.unwrap().len(), 2);
    assert_eq!(place.open().put_new("list/a", THEIRS).await.unwrap(), Put::Occupied(OURS));
}

/// Behind a delete marker that it cannot see, a manifest looks like one that never was.
#[tokio::test]
async fn gc_refuses_where_versions_may_hide_from_it() {
    for (question, permission) in
        [("versioning", "s3:GetBucketVersioning"), ("versions", "s3:ListBucketVersions")]
    {
        let bucket = FakeBucket::start(Features { versions: true, ..Features::default() }).await;
        let (place, variables) = bucket.s3();
        let open = || location::open(&place, variables.clone(), true, &StoreOptions::default()).unwrap();
        let repository = make(&open(), &host(1).0).await.unwrap();
        back_up(&repository, "web01", MemoryDisk::new(noise(1, 100_000))).await.unwrap();
        let mut keeper = Repository { store: open(), ..repository };
        let unlock = Unlock::default().with_passphrase(passphrase());
        Arc::make_mut(&mut keeper.keys).unlock_admin(&keeper.store, &unlock).await.unwrap();
        gc(&keeper, &OPTIONS, &Monitor::silent()).await.unwrap();
        bucket.deny(question);
        // A process of its own: it does not know yet what the bucket keeps.
        let keeper = Repository { store: open(), ..keeper };
        let error = gc(&keeper, &OPTIONS, &Monitor::silent()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed);
        let text = error.to_string();
        assert!(text.contains(permission) && text.contains("nothing was deleted"), "{question}: {text}");
    }
}
