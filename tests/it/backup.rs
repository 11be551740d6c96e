//! What a backup stores, reuses and asks of the store.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sancerre_engine::ErrorKind;
use sancerre_engine::backup::backup;
use sancerre_engine::check::{CheckOptions, ReadData, check};
use sancerre_engine::keys::certify::{NewKey, certify};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_format::certificate::Role;
use sancerre_format::names::Time;
use sancerre_tests::disk::{FarDisk, MemoryDisk, guest, noise};
use sancerre_tests::repo::{TestRepo, back_up, name, options, restore_bytes};

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

/// Whether a hole is passed at once or region by region: the same nodes come of it, at every edge of a node.
#[tokio::test]
async fn a_hole_that_is_passed_at_once_makes_the_map_that_walking_it_makes() {
    const GIB: u64 = 1 << 30;
    let (size, last) = (257 * GIB + 4096, 257 * GIB);
    let repo = TestRepo::new(4).await;
    for places in [
        &[0, last][..],
        &[last],
        &[0],
        &[GIB - 4096, GIB, 255 * GIB, 256 * GIB - 4096, 256 * GIB],
        &[5 * GIB + (7 << 20), 100 * GIB, 100 * GIB + (32 << 20)],
    ] {
        let disk = |skips| FarDisk::new(size, places, 4096, skips);
        let walked = back_up(&repo.open, "walked", disk(false)).await.unwrap();
        let passed = back_up(&repo.open, "passed", disk(true)).await.unwrap();
        let (walked, passed) = (&walked.members[0], &passed.members[0]);
        assert_eq!(walked.root.unwrap().id, passed.root.unwrap().id, "{places:?}");
        assert_eq!((walked.data_bytes, walked.chunks), (passed.data_bytes, passed.chunks), "{places:?}");
        assert_eq!(passed.size_bytes, size);
    }
}

/// The largest disk that there can be, and files that started on it the night before.
#[tokio::test]
async fn a_disk_of_exbibytes_is_saved_in_no_time_night_after_night() {
    const EIB: u64 = 1 << 60;
    let repo = TestRepo::new(5).await;
    let size = 8 * EIB;
    let mut ids = Vec::new();
    for places in [&[0, EIB, 7 * EIB + (9 << 30), size - 8192][..], &[EIB], &[EIB], &[]] {
        let report = back_up(&repo.open, "web01", FarDisk::new(size, places, 8192, true)).await.unwrap();
        let member = &report.members[0];
        assert_eq!((member.size_bytes, member.data_bytes), (size, 8192 * places.len() as u64));
        ids.push(member.root.map(|root| root.id));
    }
    assert!(ids[0] != ids[1] && ids[1] == ids[2] && ids[3].is_none(), "{ids:?}");
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

const DAY: i64 = 86_400;

/// A writer's key that ends so many seconds from now.
async fn writer_for(repo: &TestRepo, label: &str, seconds: i64) -> Repository {
    let expires = Time::from_unix_seconds(repo.host.clock.now().unix_seconds() + seconds);
    let new = NewKey { name: name(label), role: Role::Writer, expires: Some(expires) };
    let file = certify(&repo.as_admin().await, &new).await.unwrap();
    repo.with_key_file(&file).await
}

async fn warned(repository: &Repository, vm: &str) -> Vec<String> {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&warnings);
    let monitor = Monitor::new(move |event| heard.lock().unwrap().push(event.message));
    let disk = MemoryDisk::new(noise(20, 100_000));
    backup(repository, options(vm, vec![("disk0", disk)]), &monitor).await.unwrap();
    std::mem::take(&mut warnings.lock().unwrap())
}

/// Said before anything is read, with what to do; not by keys that never end, or not soon.
#[tokio::test(start_paused = true)]
async fn a_certificate_that_ends_soon_is_warned_of() {
    let repo = TestRepo::new(21).await;
    assert_eq!(warned(&repo.open, "web01").await, Vec::<String>::new());
    let later = writer_for(&repo, "later", 30 * DAY).await;
    assert_eq!(warned(&later, "web01").await, Vec::<String>::new());
    let soon = writer_for(&repo, "soon", 9 * DAY + 5000).await;
    let told = warned(&soon, "web01").await;
    let [told] = told.as_slice() else { panic!("{told:?}") };
    for part in ["writer soon", "in 9 days", "`certify`"] {
        assert!(told.contains(part), "{told}");
    }
    // The last backup of this machine took longer than the certificate has left, however long that is.
    let (clock, slow) = (repo.clock.clone(), noise(22, 100_000));
    let slow = MemoryDisk::watched(slow, move |_| clock.advance(40 * DAY));
    back_up(&repo.open, "db01", slow).await.unwrap();
    let monthly = writer_for(&repo, "monthly", 20 * DAY).await;
    assert_eq!(warned(&monthly, "web01").await, Vec::<String>::new());
    let told = warned(&monthly, "db01").await.concat();
    assert!(told.contains("in 20 days") && told.contains("last one of db01"), "{told}");
}

/// What began before a certificate ended is saved, and stays saved for every reader; the next one does not begin.
#[tokio::test(start_paused = true)]
async fn a_certificate_that_ends_during_a_backup_costs_nothing() {
    let repo = TestRepo::new(23).await;
    let brief = writer_for(&repo, "brief", 1000).await;
    let (clock, bytes) = (repo.clock.clone(), noise(24, 3 << 20));
    let disk = MemoryDisk::watched(bytes.clone(), move |_| clock.advance(2000));
    let saved = back_up(&brief, "web01", disk).await.unwrap().snapshot.unwrap();
    let before = repo.objects().await;
    let refused = back_up(&brief, "web01", MemoryDisk::new(bytes.clone())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WrongKey, "{refused}");
    assert_eq!(repo.objects().await, before, "nothing was announced");

    let keeper = repo.as_keeper().await;
    crate::gc::collect(&keeper).await.unwrap();
    let log = Log::load(&repo.reopen().await).await.unwrap();
    assert_eq!(log.snapshots().iter().map(|snapshot| snapshot.session()).collect::<Vec<_>>(), [saved]);
    let check_options = CheckOptions { read_data: ReadData::All, quarantine: false };
    assert_eq!(check(&repo.open, &check_options, &Monitor::silent()).await.unwrap().findings, []);
    assert!(restore_bytes(&repo.reopen().await, saved, "disk0").await.unwrap() == bytes);
}
