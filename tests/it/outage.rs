//! A real S3 server behind a bad line: what is waited out, for how long, and at which speed.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sancerre_engine::location;
use sancerre_engine::store::{Cancel, Creation, Put, Store, StoreOptions};
use sancerre_services::seaweedfs;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::host::host;
use sancerre_tests::proxy::{Fault, Proxy};
use sancerre_tests::repo::{back_up, make};

fn options() -> StoreOptions {
    StoreOptions {
        stall: Duration::from_millis(700),
        retry_for: Duration::from_secs(60),
        ..StoreOptions::default()
    }
}

/// What happens after the first request of a store, which asks whether it keeps versions.
fn after_opening(faults: impl IntoIterator<Item = Option<Fault>>) -> impl Iterator<Item = Option<Fault>> {
    std::iter::once(None).chain(faults)
}

/// The server through the proxy.
fn open(proxy: &Proxy, options: &StoreOptions) -> Store {
    let server = seaweedfs().unwrap();
    let variables = seaweedfs::variables(&proxy.endpoint(), seaweedfs::ADMIN);
    location::open(&server.location(), variables, false, options).unwrap()
}

#[tokio::test]
async fn every_fault_of_a_write_and_of_a_read_is_survived() {
    let Some(server) = seaweedfs() else { return };
    let faults = [
        Fault::Reset,
        Fault::LostAnswer,
        Fault::Twice,
        Fault::Silence,
        Fault::Status(500),
        Fault::Status(503),
        Fault::Status(429),
        Fault::RetryAfter(503, 0),
        Fault::HalfAnswer,
        Fault::SlowAnswer,
    ];
    let bytes = Bytes::from(noise(1, 100_000));
    for fault in faults {
        let script = after_opening([Some(fault), None, None, Some(fault)]);
        let proxy = Proxy::scripted(server.port(), script).await;
        let store = open(&proxy, &options());
        assert_eq!(store.put_new("key", bytes.clone()).await.unwrap(), Put::Created, "{fault:?}");
        while proxy.faults() < 2 {
            assert_eq!(store.need("key").await.unwrap(), bytes, "{fault:?}");
        }
    }
}

/// What had arrived of a long range is not asked for again, however often the line breaks; a pause breaks nothing.
#[tokio::test]
async fn a_long_range_is_taken_up_where_it_broke_off() {
    const PIECE: usize = 1_000_000;
    let Some(server) = seaweedfs() else { return };
    let proxy = Proxy::scripted(server.port(), []).await;
    let store = open(&proxy, &options());
    let bytes = Bytes::from(noise(4, 8 * PIECE));
    store.put_new("key", bytes.clone()).await.unwrap();
    let before = store.traffic().totals().received_bytes;
    proxy.script([
        Some(Fault::HalfAnswer),
        Some(Fault::Reset),
        Some(Fault::HalfAnswer),
        Some(Fault::HalfAnswer),
    ]);
    let mut reader = store.range_reader("key", 0..bytes.len() as u64);
    for number in 0..6 {
        assert_eq!(reader.read(PIECE).await.unwrap(), bytes.slice(number * PIECE..(number + 1) * PIECE));
    }
    tokio::time::sleep(options().stall * 2).await;
    reader.skip(PIECE as u64).await.unwrap();
    assert_eq!(reader.read(PIECE).await.unwrap(), bytes.slice(7 * PIECE..));
    reader.read(1).await.unwrap_err();
    assert_eq!(proxy.faults(), 4);
    let received = store.traffic().totals().received_bytes - before;
    assert!(received < bytes.len() as u64 * 5 / 4, "{received} bytes for {}", bytes.len());
    // Longer than the object is.
    let mut reader = store.range_reader("key", 10..bytes.len() as u64 + 1);
    reader.read(5).await.unwrap_err();
}

#[tokio::test]
async fn a_store_that_asks_for_time_is_given_it() {
    let Some(server) = seaweedfs() else { return };
    let script = after_opening([Some(Fault::RetryAfter(429, 2))]);
    let proxy = Proxy::scripted(server.port(), script).await;
    let started = Instant::now();
    open(&proxy, &options()).put_new("key", Bytes::from_static(b"x")).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(proxy.requests(), 3);
}

/// Gone for good: the time is spent once, the user is told, and what was uploaded is used by the next night.
#[tokio::test]
async fn a_store_that_is_away_for_good_costs_the_time_once() {
    let Some(server) = seaweedfs() else { return };
    let proxy = Proxy::scripted(server.port(), []).await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let notice = heard.clone();
    let impatient = StoreOptions {
        retry_for: Duration::from_secs(3),
        notice: Arc::new(move |text| notice.lock().unwrap().push(text)),
        ..options()
    };
    let store = open(&proxy, &impatient);
    let repository = make(&store, &host(80).0).await.unwrap();
    let disk = noise(2, 8 << 20);
    proxy.script((0..14).map(|_| None).chain(std::iter::repeat_n(Some(Fault::Reset), 10_000)));
    let started = Instant::now();
    let failed = back_up(&repository, "web01", MemoryDisk::new(disk.clone())).await.unwrap_err();
    let took = started.elapsed();
    assert!(failed.to_string().contains("check the connection"), "{failed}");
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(8), "{took:?}");
    assert!(heard.lock().unwrap().iter().any(|text| text.contains("`retry_for`")), "{heard:?}");
    proxy.calm();
    back_up(&repository, "web01", MemoryDisk::new(disk)).await.unwrap();
    assert!(heard.lock().unwrap().iter().any(|text| text == "the store answers again"), "{heard:?}");
}

#[tokio::test]
async fn nobody_waits_who_asked_to_stop() {
    let Some(server) = seaweedfs() else { return };
    let proxy = Proxy::scripted(server.port(), std::iter::repeat_n(Some(Fault::Reset), 10_000)).await;
    let cancel = Cancel::default();
    let store = open(&proxy, &StoreOptions { cancel: cancel.clone(), ..options() });
    let started = Instant::now();
    let get = store.get("key");
    let stop = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cancel.now();
    };
    let (got, ()) = tokio::join!(get, stop);
    got.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

/// An upload may take many times longer than the time without progress that is allowed: a pack of 32 MiB at 1 MB/s and
/// 60 s, scaled down.
#[tokio::test]
async fn a_slow_uplink_finishes() {
    let Some(server) = seaweedfs() else { return };
    let proxy = Proxy::throttled(server.port(), 3 << 20).await;
    let store = open(&proxy, &StoreOptions { stall: Duration::from_secs(1), ..options() });
    let started = Instant::now();
    let bytes = Bytes::from(noise(3, 12 << 20));
    assert_eq!(store.put_new("key", bytes).await.unwrap(), Put::Created);
    assert!(started.elapsed() > Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(proxy.requests(), 2, "it was not begun again");
}

/// Both limits hold over many requests at once, and over folders as well.
#[tokio::test]
async fn limits_of_speed_are_kept() {
    let Some(server) = seaweedfs() else { return };
    const RATE: u64 = 2 << 20;
    let limited =
        StoreOptions { upload_limit: Some(RATE), download_limit: Some(2 * RATE), ..StoreOptions::default() };
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::scripted(server.port(), []).await;
    let local = location::open(folder.path().to_str().unwrap(), [], true, &limited).unwrap();
    for store in [open(&proxy, &limited), local] {
        let started = Instant::now();
        let put = |number: u64| {
            let store = store.clone();
            async move { store.put_new(&number.to_string(), noise(number, 1 << 20).into()).await.unwrap() }
        };
        futures::future::join_all((0..4).map(put)).await;
        let up = started.elapsed().as_secs_f64();
        let keys = (0..4).map(|number| number.to_string()).collect();
        store.get_all(keys).await.unwrap();
        let down = started.elapsed().as_secs_f64() - up;
        assert!((1.7..3.0).contains(&up), "4 MiB at 2 MiB/s took {up} s at {}", store.location());
        assert!((0.7..2.0).contains(&down), "4 MiB at 4 MiB/s took {down} s at {}", store.location());
    }
}

/// What is counted is what goes over the wire: retries too.
#[tokio::test]
async fn requests_are_counted_as_they_happen() {
    let Some(server) = seaweedfs() else { return };
    let proxy = Proxy::scripted(server.port(), after_opening([Some(Fault::Status(503))])).await;
    let store = open(&proxy, &options());
    store.put_new("a/key", Bytes::from_static(b"12345")).await.unwrap();
    store.need("a/key").await.unwrap();
    store.list("a/").await.unwrap();
    let totals = store.traffic().totals();
    assert_eq!((totals.put, totals.get, totals.list), (2, 2, 1), "{totals:?}");
    assert_eq!(totals.requests(), proxy.requests());
    assert!(totals.sent_bytes >= 5 && totals.received_bytes > 5, "{totals:?}");
}
