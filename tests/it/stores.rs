//! One suite for every kind of store: what the engine relies on, then the engine itself.

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use sancerre_engine::StoreError;
use sancerre_engine::check::{CheckOptions, ReadData, check};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::store::{Creation, Put, StoreOptions};
use sancerre_tests::backends::Backend;
use sancerre_tests::disk::{MemoryDisk, guest, noise};
use sancerre_tests::host::host;
use sancerre_tests::model::Model;
use sancerre_tests::repo::{back_up, make};
use sancerre_tests::store::{Cut, TestStore};

macro_rules! on_every_store {
    ($($test:ident),*) => {
        on_every_store!(@ memory [$($test),*]);
        on_every_store!(@ folder [$($test),*]);
        on_every_store!(@ s3 [$($test),*]);
        on_every_store!(@ versions [$($test),*]);
        on_every_store!(@ azure [$($test),*]);
        on_every_store!(@ gcs [$($test),*]);
    };
    (@ $backend:ident [$($test:ident),*]) => {
        mod $backend {
            $(
                #[tokio::test]
                async fn $test() {
                    let Some(backend) = sancerre_tests::backends::Backend::$backend().await else { return };
                    super::$test(&backend).await;
                }
            )*
        }
    };
}

on_every_store!(objects, races, listings, ranges, nights, crashes);

/// Create-only, read back, own retried write, somebody else's object.
async fn objects(backend: &Backend) {
    let store = &backend.store;
    let (ours, theirs) = (Bytes::from(noise(1, 3 << 20)), Bytes::from_static(b"theirs"));
    assert_eq!(store.get("a/b").await.unwrap(), None);
    assert!(matches!(store.need("a/b").await, Err(StoreError::Missing { .. })));
    assert_eq!(store.put_new("a/b", ours.clone()).await.unwrap(), Put::Created);
    assert_eq!(store.need("a/b").await.unwrap(), ours);
    // As when the first answer was lost.
    assert_eq!(store.put_new("a/b", ours.clone()).await.unwrap(), Put::Created);
    assert_eq!(store.put_new("a/b", theirs).await.unwrap(), Put::Occupied(ours.clone()));
    // A longer and a shorter one that begin the same.
    let longer = Bytes::from([&ours[..], b"more"].concat());
    assert_eq!(store.put_new("a/b", longer).await.unwrap(), Put::Occupied(ours.clone()));
    assert_eq!(store.put_new("a/b", ours.slice(..1000)).await.unwrap(), Put::Occupied(ours.clone()));
    let refused = store.put_own("a/b", Bytes::from_static(b"x"), "advice").await.unwrap_err();
    assert!(matches!(refused, StoreError::Occupied { .. }), "{refused}");
    assert_eq!(store.put_new("empty", Bytes::new()).await.unwrap(), Put::Created);
    assert_eq!(store.need("empty").await.unwrap(), Bytes::new());
    let totals = store.traffic().totals();
    assert!(totals.put >= 7 && totals.get >= 8 && totals.sent_bytes >= 3 << 20, "{totals:?}");
}

/// Of many writers one wins, and the others are shown its bytes.
async fn races(backend: &Backend) {
    for race in 0..5 {
        let key = format!("race/{race}");
        let writers = (0..16_u64).map(|writer| backend.store.put_new(&key, noise(writer, 5000).into()));
        let puts: Vec<Put> = join_all(writers).await.into_iter().map(Result::unwrap).collect();
        let won = puts.iter().position(|put| *put == Put::Created).unwrap();
        let bytes = Bytes::from(noise(won as u64, 5000));
        let lost = puts.iter().filter(|put| **put == Put::Occupied(bytes.clone())).count();
        assert_eq!(lost, 15, "{key}");
    }
}

/// More keys than one page of a listing holds, and nothing of its neighbours.
async fn listings(backend: &Backend) {
    const KEYS: usize = 1105;
    let store = &backend.store;
    let put = |number: usize| async move {
        store.put_new(&format!("list/{number:06}"), vec![b'x'; number % 7].into()).await
    };
    futures::stream::iter((0..KEYS).map(put)).buffered(32).try_collect::<Vec<_>>().await.unwrap();
    store.put_new("listing/no", Bytes::from_static(b"x")).await.unwrap();
    store.put_new("lis", Bytes::from_static(b"x")).await.unwrap();
    let mut listed = store.list("list/").await.unwrap();
    listed.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(listed.len(), KEYS);
    for (number, entry) in listed.iter().enumerate() {
        assert_eq!(
            (entry.key.as_str(), entry.size_bytes),
            (format!("list/{number:06}").as_str(), (number % 7) as u64)
        );
    }
    assert_eq!(store.list("nothing/").await.unwrap(), []);
}

async fn ranges(backend: &Backend) {
    let (store, bytes) = (&backend.store, noise(2, 100_000));
    store.put_new("r", bytes.clone().into()).await.unwrap();
    for (start, end) in [(0, 1), (0, 100_000), (99_999, 100_000), (4096, 70_000)] {
        let found = store.need_range("r", start..end).await.unwrap();
        assert!(found == bytes[start as usize..end as usize], "{start}..{end}");
    }
    // A pack that was cut short must not look like one that is whole.
    store.need_range("r", 99_000..100_001).await.unwrap_err();
    store.need_range("r", 100_000..100_010).await.unwrap_err();
    assert!(matches!(store.need_range("none", 0..10).await, Err(StoreError::Missing { .. })));
}

const SIZE: usize = 3 << 20;

/// Two machines back up at the same time, then again; all of it comes back, and `check` reads every byte.
async fn nights(backend: &Backend) {
    let repository = make(&backend.store, &host(40).0).await.unwrap();
    let mut model = Model::default();
    for night in 0..2 {
        let disks = [guest(50 + night, SIZE), guest(60 + night, SIZE)];
        let saving = ["web01", "db01"]
            .iter()
            .zip(&disks)
            .map(|(vm, disk)| back_up(&repository, vm, MemoryDisk::new(disk.clone())));
        for (report, disk) in join_all(saving).await.into_iter().zip(&disks) {
            model.add_disk(report.unwrap().snapshot.unwrap(), disk);
        }
    }
    model.check(&repository).await;
    verify(&repository).await;
}

async fn verify(repository: &Repository) {
    let options = CheckOptions { read_data: ReadData::All, quarantine: false };
    let report = check(repository, &options, &Monitor::silent()).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

/// Dies at some calls of a second night; what was saved is whole, and the next night works.
async fn crashes(backend: &Backend) {
    let impatient = StoreOptions { retry_for: std::time::Duration::ZERO, ..StoreOptions::default() };
    let mut layer = None;
    let store = backend.store.layered("layered", &impatient, |inner| {
        let store = TestStore::new(inner);
        layer = Some(store.clone());
        store
    });
    let (layer, mut model) = (layer.unwrap(), Model::default());
    let repository = make(&store, &host(41).0).await.unwrap();
    let first = guest(70, SIZE);
    model.add_disk(
        back_up(&repository, "web01", MemoryDisk::new(first.clone())).await.unwrap().snapshot.unwrap(),
        &first,
    );
    for (round, cut) in
        [Cut::Before, Cut::After, Cut::Before, Cut::After, Cut::Before].into_iter().enumerate()
    {
        let disk = guest(71 + round as u64, SIZE);
        layer.crash_at(3 + 6 * round as u64, cut);
        let crashed = back_up(&repository, "web01", MemoryDisk::new(disk.clone())).await;
        layer.recover();
        assert!(crashed.is_err(), "round {round} was over before it could crash");
        model.check(&repository).await;
        let again = back_up(&repository, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
        model.add_disk(again.snapshot.unwrap(), &disk);
    }
    model.check(&repository).await;
    verify(&repository).await;
}
