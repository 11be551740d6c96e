//! Writers at once on one store: nobody waits for anybody, and nothing is lost.

use std::sync::Arc;

use futures::future::join;
use sancerre_engine::backup::BackupReport;
use sancerre_engine::backup::backup;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::log::Log;
use sancerre_format::id::SessionId;
use sancerre_format::log::Kind;
use sancerre_tests::disk::{MemoryDisk, guest, noise};
use sancerre_tests::model::Model;
use sancerre_tests::repo::{TestRepo, back_up, name, options};
use sancerre_tests::slow::SlowStore;

use crate::block_on;

/// Two backups at once, each call to the store taking its own time.
async fn race(repo: &TestRepo, seed: u64, runs: [(&str, &[u8]); 2]) -> [BackupReport; 2] {
    let one = repo.through(SlowStore::new(repo.store.clone(), seed));
    let two = repo.through(SlowStore::new(repo.store.clone(), seed + 1000));
    let disk = |run: usize| MemoryDisk::new(runs[run].1.to_vec());
    let (one, two) = join(back_up(&one, runs[0].0, disk(0)), back_up(&two, runs[1].0, disk(1))).await;
    [one.unwrap(), two.unwrap()]
}

/// Numbers are dense, and every parent is an older outcome of the same VM.
async fn check_log(repo: &TestRepo) {
    let log = Log::load(&repo.open).await.unwrap();
    let numbers: Vec<u64> = log.entries().map(|entry| entry.session.number).collect();
    assert_eq!(numbers, (1..=log.highest()).collect::<Vec<_>>());
    assert!(log.unknown_keys().is_empty() && log.missing().next().is_none());
    for entry in log.entries() {
        let Kind::Backup(intent) = &entry.entry.as_ref().unwrap().fields.kind else { continue };
        for parent in &intent.parents {
            let older = log.entry(parent.number).unwrap();
            assert!(parent.number < entry.session.number && older.session == *parent);
            let Kind::Backup(of) = &older.entry.as_ref().unwrap().fields.kind else { panic!("{parent}") };
            assert_eq!(of.vm, intent.vm);
        }
    }
}

fn parents(log: &Log, session: SessionId) -> Vec<SessionId> {
    let entry = log.entry(session.number).unwrap().entry.as_ref().unwrap();
    let Kind::Backup(intent) = &entry.fields.kind else { panic!("{session} is no backup") };
    intent.parents.clone()
}

async fn two_at_once(seed: u64, vms: [&str; 2]) {
    let repo = TestRepo::new(40).await;
    let (mut a, b) = (guest(41, 3 << 20), guest(42, 4 << 20));
    let mut model = Model::default();
    for night in 0..3 {
        a[night * 70_000] ^= 1;
        let reports = race(&repo, seed + night as u64, [(vms[0], &a), (vms[1], &b)]).await;
        model.add_disk(reports[0].snapshot.unwrap(), &a);
        model.add_disk(reports[1].snapshot.unwrap(), &b);
        assert_ne!(reports[0].snapshot, reports[1].snapshot);
    }
    model.check(&repo.open).await;
    check_log(&repo).await;
}

#[test]
fn different_machines() {
    (0..6).for_each(|seed| block_on(two_at_once(seed * 10, ["web01", "db01"])));
}

#[test]
fn one_machine_twice() {
    (0..6).for_each(|seed| block_on(two_at_once(seed * 10, ["web01", "web01"])));
}

/// Two branches of one VM's history join in the next snapshot, which names both.
#[tokio::test(start_paused = true)]
async fn branches_join() {
    let repo = TestRepo::new(43).await;
    let bytes = guest(44, 2 << 20);
    let reports = race(&repo, 7, [("web01", &bytes), ("web01", &bytes)]).await;
    let heads: Vec<SessionId> = {
        let mut heads: Vec<_> = reports.iter().filter_map(|report| report.snapshot).collect();
        heads.sort();
        heads
    };
    let log = Log::load(&repo.open).await.unwrap();
    assert_eq!(log.heads(&name("web01"), None), heads);
    assert!(heads.iter().all(|head| parents(&log, *head).is_empty()), "neither saw the other");
    let next = back_up(&repo.open, "web01", MemoryDisk::new(bytes)).await.unwrap();
    let log = Log::load(&repo.open).await.unwrap();
    assert_eq!(parents(&log, next.snapshot.unwrap()), heads);
    assert_eq!(log.heads(&name("web01"), None), vec![next.snapshot.unwrap()]);
    assert_eq!(next.new_bytes, 0);
}

/// A long session tells what it has as it goes: whoever starts meanwhile builds on that.
#[tokio::test(start_paused = true)]
async fn what_is_published_is_used_before_the_session_ends() {
    let repo = TestRepo::new(45).await;
    let bytes = noise(46, 24 << 20);
    // Ten minutes pass during its first half: it publishes whatever is durable.
    let clock = repo.clock.clone();
    let hurry = move |read: u64| {
        if read == 6 {
            clock.advance(601);
        }
    };
    let slow = MemoryDisk::watched(bytes.clone(), hurry);
    let stalled = repo.through(Arc::clone(&repo.store) as _);
    repo.store.pause_before("/outcome/");
    let first = async {
        let options = options("web01", vec![("disk0", slow)]);
        backup(&stalled, options, &Monitor::silent()).await.unwrap()
    };
    let meanwhile = async {
        repo.store.paused().await;
        let segments = repo.keys_with("/index/").await.len();
        assert!(segments >= 2, "one when it was time, one at the end");
        // Past the gate at which the first one waits.
        let beside = repo.through(repo.memory.clone());
        let report = back_up(&beside, "web02", MemoryDisk::new(bytes.clone())).await.unwrap();
        repo.store.go_on();
        report
    };
    let (first, second) = join(first, meanwhile).await;
    assert_eq!(
        (second.new_bytes, second.parent),
        (0, None),
        "the first is not committed, its packs are there"
    );
    let mut model = Model::default();
    model.add_disk(first.snapshot.unwrap(), &bytes);
    model.add_disk(second.snapshot.unwrap(), &bytes);
    model.check(&repo.open).await;
    check_log(&repo).await;
}
