//! A snapshot's disk read here and there: the right bytes, each frame once, within the budget, damage where it is.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use futures::future::join_all;
use proptest::prelude::*;
use sancerre_engine::Result;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::snapshot_disk::{BlockingSnapshotDisk, ChunkCache, SnapshotDisk};
use sancerre_engine::restore;
use sancerre_format::id::SessionId;
use sancerre_format::pack::{Pack, PackKind};
use sancerre_image::Disk;
use sancerre_tests::dice::Dice;
use sancerre_tests::disk::{MemoryDisk, guest, noise};
use sancerre_tests::repo::{TestRepo, back_up};
use sancerre_tests::slow::SlowStore;

use crate::block_on;
use crate::gc::{collect, drop_snapshot};

const MIB: usize = 1 << 20;
const BUDGET: u64 = 64 << 20;

async fn save(repo: &TestRepo, vm: &str, disk: &[u8]) -> SessionId {
    back_up(&repo.open, vm, MemoryDisk::new(disk.to_vec())).await.unwrap().snapshot.unwrap()
}

async fn open_with(
    repository: &Repository,
    session: SessionId,
    cache: &Arc<ChunkCache>,
    monitor: &Monitor,
) -> Arc<SnapshotDisk> {
    let log = Log::load_recent(repository, &Monitor::silent()).await.unwrap();
    let reader = restore::open(repository, &log, session).await.unwrap();
    SnapshotDisk::open(&reader, reader.member("disk0").unwrap(), cache, monitor).unwrap()
}

async fn open(repository: &Repository, session: SessionId) -> (Arc<SnapshotDisk>, Arc<ChunkCache>) {
    let cache = ChunkCache::new(BUDGET);
    (open_with(repository, session, &cache, &Monitor::silent()).await, cache)
}

async fn read(disk: &Arc<SnapshotDisk>, range: Range<usize>) -> Result<Vec<u8>> {
    // What was there before must not show through holes.
    let mut bytes = vec![0xee; range.len()];
    disk.read(range.start as u64, &mut bytes).await.map(|()| bytes)
}

async fn whole(disk: &Arc<SnapshotDisk>) -> Vec<u8> {
    read(disk, 0..disk.size_bytes() as usize).await.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn any_read_gives_the_bytes_of_the_disk(
        seed in any::<u64>(),
        size in prop_oneof![Just(1usize), Just(4097), 1usize..(2 << 20), Just(2 << 20)],
        reads in proptest::collection::vec((any::<u32>(), any::<u32>(), 0u32..4), 1..20),
    ) {
        let bytes = guest(seed, size)[..size].to_vec();
        block_on(async {
            let repo = TestRepo::new(seed).await;
            let session = save(&repo, "web01", &bytes).await;
            let (disk, _) = open(&repo.open, session).await;
            assert_eq!(disk.size_bytes(), size as u64);
            for (start, length, scale) in reads {
                let start = start as usize % (size + 1);
                let most = (size - start).min([1, 5000, MIB, size][scale as usize]);
                let end = start + length as usize % (most + 1);
                assert!(read(&disk, start..end).await.unwrap() == bytes[start..end], "{start}..{end} of {size}");
                extents_fit(&disk, &bytes, start..end).await;
            }
            assert!(read(&disk, size..size + 1).await.is_err());
        });
    }
}

/// Extents are adjacent and alternate, and what they call holes is zeros.
async fn extents_fit(disk: &Arc<SnapshotDisk>, bytes: &[u8], range: Range<usize>) {
    for most in [1, 3, usize::MAX] {
        let extents = disk.extents(range.start as u64..range.end as u64, most).await.unwrap();
        assert!(extents.len() <= most && extents.is_empty() == range.is_empty());
        let mut at = range.start as u64;
        for (number, extent) in extents.iter().enumerate() {
            assert_eq!(extent.range.start, at);
            assert!(!extent.range.is_empty());
            assert!(number == 0 || extents[number - 1].is_data != extent.is_data, "{extents:?}");
            at = extent.range.end;
            let held = &bytes[extent.range.start as usize..at as usize];
            assert!(extent.is_data || held.iter().all(|byte| *byte == 0), "{extent:?}");
        }
        assert!(at == range.end as u64 || extents.len() == most);
    }
}

#[tokio::test(start_paused = true)]
async fn many_readers_fetch_each_frame_once() {
    let (repo, bytes) = (TestRepo::new(4100).await, noise(1, 5 * MIB));
    let session = save(&repo, "web01", &bytes).await;
    let (disk, cache) = open(&repo.open, session).await;
    assert!(whole(&disk).await == bytes);
    let frames = cache.fetched().0;
    assert!(frames > 8, "{frames}");

    let slow = repo.through(SlowStore::new(repo.store.clone(), 7));
    let (disk, cache) = open(&slow, session).await;
    repo.store.take_calls();
    let readers = (0..32).map(|number| {
        let (disk, bytes) = (&disk, &bytes);
        async move {
            let mut dice = Dice::new(number);
            for _ in 0..12 {
                let start = dice.pick(bytes.len());
                let end = (start + dice.pick(300_000)).min(bytes.len());
                assert!(read(disk, start..end).await.unwrap() == bytes[start..end]);
            }
        }
    });
    join_all(readers).await;
    assert!(whole(&disk).await == bytes);
    let calls = repo.store.take_calls();
    assert_eq!(cache.fetched().0, frames);
    // The nodes of the map lie in one small pack.
    assert!(calls.get <= frames + 4, "{calls:?} for {frames} frames");
}

#[tokio::test(start_paused = true)]
async fn the_cache_stays_within_its_budget() {
    let (repo, bytes) = (TestRepo::new(4200).await, guest(2, 5 * MIB)[..5 * MIB].to_vec());
    let session = save(&repo, "web01", &bytes).await;
    for budget in [0, 100 << 10, 3 << 20] {
        let cache = ChunkCache::new(budget);
        let disks = [
            open_with(&repo.open, session, &cache, &Monitor::silent()).await,
            open_with(&repo.open, session, &cache, &Monitor::silent()).await,
        ];
        let mut dice = Dice::new(budget);
        for round in 0..12 {
            let start = dice.pick(bytes.len());
            let end = (start + dice.pick(200_000)).min(bytes.len());
            assert!(read(&disks[round % 2], start..end).await.unwrap() == bytes[start..end]);
            assert!(cache.kept_bytes() <= budget, "{} of {budget}", cache.kept_bytes());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_in_order_is_read_ahead_of() {
    let (repo, bytes) = (TestRepo::new(4300).await, noise(3, 8 * MIB));
    let session = save(&repo, "web01", &bytes).await;
    let (all, cache) = open(&repo.open, session).await;
    whole(&all).await;
    let frames = cache.fetched().0;

    let (disk, cache) = open(&repo.open, session).await;
    for at in (0..MIB).step_by(64 << 10) {
        assert!(read(&disk, at..at + (64 << 10)).await.unwrap() == bytes[at..at + (64 << 10)]);
    }
    for _ in 0..2000 {
        tokio::task::yield_now().await;
    }
    assert!(cache.fetched().0 > frames / 4, "{} of {frames} frames after an eighth", cache.fetched().0);
    // What is read ahead and cannot be had is told when it is wanted, and by no word before.
    let (monitor, told) = listening();
    let disk = open_with(&repo.open, session, &ChunkCache::new(BUDGET), &monitor).await;
    repo.lose(&data_packs(&repo, session).await).await;
    disk.read_ahead(0..8 << 20).unwrap();
    for _ in 0..2000 {
        tokio::task::yield_now().await;
    }
    assert!(told.lock().unwrap().is_empty());
    assert!(read(&disk, 0..4096).await.is_err());
}

/// A monitor, and what it was told.
fn listening() -> (Monitor, Arc<Mutex<Vec<String>>>) {
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let hears = Arc::clone(&told);
    (Monitor::new(move |event| hears.lock().unwrap().push(event.message)), told)
}

/// The packs with a snapshot's data.
async fn data_packs(repo: &TestRepo, session: SessionId) -> Vec<String> {
    let mut found = Vec::new();
    for key in repo.keys_with(&format!("/packs/{:016x}/", session.number)).await {
        if Pack::decode(&repo.object(&key).await).unwrap().head().kind == PackKind::Data {
            found.push(key);
        }
    }
    found
}

async fn rot(repo: &TestRepo, key: &str) {
    let mut bytes = repo.object(key).await;
    let quarter = bytes.len() / 4;
    bytes.iter_mut().skip(quarter).take(2 * quarter).for_each(|byte| *byte ^= 1);
    repo.tamper(key, bytes).await;
}

#[tokio::test(start_paused = true)]
async fn damage_costs_the_reads_that_touch_it() {
    let (repo, bytes) = (TestRepo::new(4400).await, noise(4, 6 * MIB));
    let session = save(&repo, "web01", &bytes).await;
    let bad = data_packs(&repo, session).await.remove(1);
    rot(&repo, &bad).await;
    let (monitor, told) = listening();
    let disk = open_with(&repo.open, session, &ChunkCache::new(BUDGET), &monitor).await;
    let (mut lost, step) = (0, 64 << 10);
    for round in 0..2 {
        for at in (0..bytes.len()).step_by(step) {
            match read(&disk, at..at + step).await {
                Ok(found) => assert!(found == bytes[at..at + step]),
                Err(error) => {
                    lost += 1;
                    let text = error.to_string();
                    assert!(error.is_damage() && text.contains("disk0") && text.contains(&bad), "{text}");
                    assert!(text.contains("bytes "), "{text}");
                }
            }
        }
        assert!((1..=bytes.len() / step / 2).contains(&(lost / (round + 1))), "{lost}");
    }
    assert!(told.lock().unwrap().iter().all(|line| line.contains(&bad)));
}

#[tokio::test(start_paused = true)]
async fn another_copy_is_found_for_data_and_for_the_map() {
    for (seed, harm) in [(4500, "gone"), (4501, "cut"), (4502, "data gone")] {
        let (repo, bytes) = (TestRepo::new(seed).await, guest(seed, 3 * MIB)[..3 * MIB].to_vec());
        let first = save(&repo, "web01", &bytes).await;
        let all = repo.keys_with(&format!("/packs/{:016x}/", first.number)).await;
        match harm {
            "cut" => {
                for key in &all {
                    let mut cut = repo.object(key).await;
                    cut.truncate(cut.len() / 2);
                    repo.tamper(key, cut).await;
                }
            }
            "gone" => repo.lose(&all).await,
            _ => repo.lose(&data_packs(&repo, first).await).await,
        }
        save(&repo, "web01", &bytes).await;
        let (monitor, told) = listening();
        let disk = open_with(&repo.open, first, &ChunkCache::new(BUDGET), &monitor).await;
        let step = 100_000;
        for at in (0..bytes.len()).step_by(step) {
            let end = (at + step).min(bytes.len());
            assert!(read(&disk, at..end).await.unwrap() == bytes[at..end], "{harm}: {at}");
        }
        assert!(told.lock().unwrap().iter().any(|line| line.contains("looking for another copy")), "{harm}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_reads_on_while_gc_moves_its_frames() {
    let repo = TestRepo::new(4600).await;
    let old = noise(5, 4 * MIB);
    let mut new = noise(6, 4 * MIB);
    // Every other stretch is shared, so that packs are needed in part.
    for at in (0..new.len()).step_by(512 << 10) {
        new[at..at + (256 << 10)].copy_from_slice(&old[at..at + (256 << 10)]);
    }
    let first = save(&repo, "web01", &old).await;
    let second = save(&repo, "web01", &new).await;
    let keeper = repo.as_keeper().await;
    collect(&keeper).await.unwrap();
    let slow = repo.through(SlowStore::new(repo.store.clone(), 11));
    // A cache that keeps nothing: every read asks the store.
    let disk = open_with(&slow, second, &ChunkCache::new(0), &Monitor::silent()).await;
    assert!(read(&disk, 0..MIB).await.unwrap() == new[..MIB]);
    drop_snapshot(&keeper, first).await.unwrap();
    let guest = async {
        let mut dice = Dice::new(9);
        for _ in 0..15 {
            let start = dice.pick(new.len());
            let end = (start + dice.pick(200_000)).min(new.len());
            assert!(read(&disk, start..end).await.unwrap() == new[start..end]);
        }
    };
    let (report, ()) = futures::future::join(collect(&keeper), guest).await;
    let report = report.unwrap();
    assert!(report.deleted_packs > 0 && report.moved_bytes > 0, "{report:?}");
    assert!(whole(&disk).await == new);
}

#[test]
fn code_that_waits_reads_it_as_any_disk() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_time().worker_threads(2).build().unwrap();
    let bytes = guest(8, 2 * MIB)[..2 * MIB].to_vec();
    let disk = runtime.block_on(async {
        let repo = TestRepo::new(4700).await;
        let session = save(&repo, "web01", &bytes).await;
        open(&repo.open, session).await.0
    });
    let disk = BlockingSnapshotDisk::new(disk, runtime.handle().clone());
    let mut found = vec![0xee; bytes.len()];
    disk.read_at(0, &mut found).unwrap();
    assert!(found == bytes);
    for range in disk.data_ranges(0..disk.size_bytes()).unwrap() {
        assert!(!range.is_empty());
    }
    assert!(disk.read_at(disk.size_bytes(), &mut [0]).is_err());
    assert!(disk.check_unchanged().is_ok());
}
