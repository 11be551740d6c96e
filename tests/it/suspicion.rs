//! Deletion stands still: what is from before a suspect snapshot stays, whoever asks and whoever says otherwise, until
//! somebody who may says that he looked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sancerre_engine::ErrorKind;
use sancerre_engine::backup::{BackupOptions, backup};
use sancerre_engine::check::{CheckOptions, ReadData, Severity, check};
use sancerre_engine::forget::release;
use sancerre_engine::gc::{GcOptions, gc};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::{Log, suspects};
use sancerre_engine::restore;
use sancerre_engine::revoke::revoke;
use sancerre_engine::suspicion::stored::StoredStatistics;
use sancerre_engine::suspicion::{self, Counts, Suspicion, stored};
use sancerre_format::certificate::Role;
use sancerre_format::gc::GcLists;
use sancerre_format::id::SessionId;
use sancerre_format::log::{Kind, Note};
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::model::Model;
use sancerre_tests::repo::{TestRepo, back_up, name, options};
use sancerre_tests::store::TestStore;

use crate::gc::{OPTIONS, collect, drop_snapshot};

const SIZE: usize = 2 << 20;

/// Three nights of one machine and two of another.
struct Scene {
    repo: TestRepo,
    keeper: Repository,
    model: Model,
}

impl Scene {
    async fn new(seed: u64) -> Self {
        let (repo, mut model) = (TestRepo::new(seed).await, Model::default());
        for (night, vm) in ["web01", "web01", "web01", "db01", "db01"].into_iter().enumerate() {
            let disk = noise(seed + night as u64, SIZE);
            let report = back_up(&repo.open, vm, MemoryDisk::new(disk.clone())).await.unwrap();
            model.add_disk(report.snapshot.unwrap(), &disk);
        }
        let keeper = repo.as_keeper().await;
        Self { repo, keeper, model }
    }

    fn session(&self, night: usize) -> SessionId {
        self.model.snapshots[night].0
    }

    async fn log(&self) -> Log {
        Log::load(&self.repo.open).await.unwrap()
    }

    async fn suspect(&self, night: usize) {
        suspicion::suspect(&self.keeper, &self.log().await, self.session(night)).await.unwrap();
    }

    async fn revoke(&self, key: &str, from: u64) {
        let (admin, mut log) = (self.repo.as_admin().await, self.log().await);
        revoke(&admin, &mut log, &name(key), Some(from), "test").await.unwrap();
    }

    /// As a reader of the whole log sees it, and one who starts at a checkpoint.
    async fn kept(&self) -> Vec<usize> {
        let recent = Log::load_recent(&self.repo.open, &Monitor::silent()).await.unwrap();
        let kept = |log: &Log| -> Vec<usize> {
            let retention = log.retention();
            let nights = 0..self.model.snapshots.len();
            nights.filter(|night| retention.kept_by_suspicion(&self.session(*night)).is_some()).collect()
        };
        let (whole, recent) = (kept(&self.log().await), kept(&recent));
        assert_eq!(whole, recent);
        whole
    }

    async fn is_sound(&self) {
        let options = CheckOptions { read_data: ReadData::All, quarantine: false };
        let report = check(&self.repo.open, &options, &Monitor::silent()).await.unwrap();
        let bad: Vec<_> = report.findings.iter().filter(|found| found.severity != Severity::Note).collect();
        assert!(bad.is_empty(), "{bad:?}");
    }
}

fn note(result: &str, snapshot: SessionId) -> Kind {
    let (topic, result) = (name(suspects::TOPIC), Some(name(result)));
    Kind::Note(Note { topic, result, snapshots: vec![snapshot] })
}

#[tokio::test(start_paused = true)]
async fn what_is_from_before_a_suspect_night_stays_until_it_is_cleared() {
    let scene = Scene::new(9100).await;
    // Asked for before anybody knew.
    drop_snapshot(&scene.keeper, scene.session(0)).await.unwrap();
    scene.suspect(1).await;
    assert_eq!(scene.kept().await, [0, 1]);
    let error = drop_snapshot(&scene.keeper, scene.session(1)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Failed && error.to_string().contains("`clear`"), "{error}");
    // What came after, and other machines, may go.
    drop_snapshot(&scene.keeper, scene.session(3)).await.unwrap();
    let report = collect(&scene.keeper).await.unwrap();
    assert!(report.committed && report.deleted_packs > 0, "{report:?}");
    let mut left = scene.model.clone();
    left.snapshots.remove(3);
    left.check(&scene.repo.open).await;
    assert_eq!(scene.kept().await, [0, 1]);
    scene.is_sound().await;
    let held = BTreeSet::from([scene.session(0)]);
    let error = release(&scene.keeper, &held, "test").await.unwrap_err();
    assert!(error.to_string().contains("`clear`"), "{error}");

    let cleared =
        suspicion::clear(&scene.keeper, &scene.log().await, &name("web01"), "it was an update").await;
    assert_eq!(cleared.unwrap().snapshots, [scene.session(1)]);
    assert_eq!(scene.kept().await, [0; 0]);
    let report = collect(&scene.keeper).await.unwrap();
    assert!(report.deleted_packs > 0, "{report:?}");
    left.snapshots.remove(0);
    left.check(&scene.repo.open).await;
    assert_eq!(scene.kept().await, [0; 0]);
    scene.is_sound().await;
}

/// Who starts at a checkpoint above knows nothing of what was gone, or void, before the note: it is suspect for nobody.
#[tokio::test(start_paused = true)]
async fn what_was_gone_or_void_before_the_note_keeps_nothing() {
    let scene = Scene::new(9120).await;
    // The newest of its machine, which a checkpoint names as what the next backup follows on.
    drop_snapshot(&scene.keeper, scene.session(2)).await.unwrap();
    let stolen = |of: &'static str| async {
        let thief = scene.repo.with_key_file(&scene.repo.certify(of, Role::Writer).await).await;
        back_up(&thief, "db01", MemoryDisk::new(noise(9121, SIZE))).await.unwrap().snapshot.unwrap()
    };
    let (early, late) = (stolen("early").await, stolen("late").await);
    scene.revoke("early", early.number).await;
    scene.repo.append(note(suspects::SUSPECT, late), &[]).await;
    scene.revoke("late", late.number).await;
    assert_eq!(scene.kept().await, [3, 4], "by what was made void after the note");
    assert!(collect(&scene.keeper).await.unwrap().committed);
    assert_eq!(scene.kept().await, [3, 4]);
    suspicion::clear(&scene.keeper, &scene.log().await, &name("db01"), "it was a thief").await.unwrap();
    for session in [scene.session(2), early, late] {
        suspicion::suspect(&scene.keeper, &scene.log().await, session).await.unwrap();
        assert_eq!(scene.kept().await, [0; 0], "{session}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_gives_up_what_stays_is_not_believed() {
    let scene = Scene::new(9110).await;
    drop_snapshot(&scene.keeper, scene.session(0)).await.unwrap();
    scene.suspect(2).await;
    let liar = scene.repo.with_key_file(&scene.repo.certify("liar", Role::Keeper).await).await;
    let lists = GcLists { forgotten: vec![scene.session(0)], ..GcLists::default() };
    let gc =
        scene.repo.append_as(&liar, Kind::Gc { generation: 1 }, &GcLists::default().encode().unwrap()).await;
    scene.repo.commit_gc_as(&liar, gc, &lists).await;
    scene.model.check(&scene.repo.open).await;
    let error = collect(&scene.keeper).await.unwrap_err().to_string();
    assert!(error.contains("liar"), "{error}");
    scene.model.check(&scene.repo.open).await;
}

/// The collector has its number already when the writer below it finds its night suspect.
#[tokio::test(start_paused = true)]
async fn a_collector_under_way_sees_the_note_of_a_night_below_it() {
    let scene = Scene::new(9120).await;
    let mut disk = documents(1, 100);
    backup(&scene.repo.open, with_statistics("web01", disk.clone()), &Monitor::silent()).await.unwrap();
    disk.chunks_mut(3 * 4096).for_each(|document| document[..4096].copy_from_slice(&noise(98, 4096)));
    drop_snapshot(&scene.keeper, scene.session(0)).await.unwrap();
    let slow = TestStore::new(scene.repo.memory.clone());
    let (writer, reader) = (scene.repo.through(slow.clone()), scene.repo.through(scene.repo.memory.clone()));
    scene.repo.store.pause_before("/log/");
    slow.pause_before("/packs/");
    let options = GcOptions { wait_seconds: 3600, ..OPTIONS };
    let collecting = async { gc(&scene.keeper, &options, &Monitor::silent()).await };
    let night = async {
        scene.repo.store.paused().await;
        backup(&writer, with_statistics("web01", disk), &Monitor::silent()).await.unwrap()
    };
    let order = async {
        slow.paused().await;
        let own = Log::load(&reader).await.unwrap().highest();
        scene.repo.store.go_on();
        while Log::load(&reader).await.unwrap().highest() == own {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        slow.go_on();
        own
    };
    let (report, night, own) = futures::join!(collecting, night, order);
    assert_eq!(night.snapshot.map(|session| session.number), Some(own));
    let log = scene.log().await;
    assert_eq!(log.retention().suspects(), [(night.snapshot.unwrap(), name("web01"))]);
    let first = log.entries().find(|entry| entry.session.number > own).unwrap();
    assert!(first.is_gc(), "its number lies between the night and the note");
    assert!(scene.kept().await.contains(&0), "{report:?}");
    scene.model.check(&scene.repo.open).await;
    scene.is_sound().await;
}

#[tokio::test(start_paused = true)]
async fn only_who_may_calls_a_night_suspect_and_only_keepers_clear_it() {
    let scene = Scene::new(9130).await;
    let stranger = scene.repo.with_key_file(&scene.repo.certify("host2", Role::Writer).await).await;
    scene.repo.append_as(&stranger, note(suspects::SUSPECT, scene.session(1)), &[]).await;
    assert_eq!(scene.kept().await, [0; 0], "another writer's word on a night that is not his");
    let own = scene.repo.as_writer().await;
    scene.repo.append_as(&own, note("whatever", scene.session(1)), &[]).await;
    assert_eq!(scene.kept().await, [0; 0]);
    scene.repo.append_as(&own, note(suspects::SUSPECT, scene.session(1)), &[]).await;
    assert_eq!(scene.kept().await, [0, 1]);
    for writer in [&stranger, &own] {
        scene.repo.append_as(writer, note(suspects::CLEARED, scene.session(1)), &[]).await;
    }
    assert_eq!(scene.kept().await, [0, 1]);
    let log = scene.log().await;
    let error = suspicion::clear(&own, &log, &name("web01"), "test").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    let error = suspicion::clear(&scene.keeper, &log, &name("db01"), "test").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

#[tokio::test(start_paused = true)]
async fn more_than_three_suspect_machines_stop_all_forgetting() {
    let mut scene = Scene::new(9140).await;
    for number in 0..3u64 {
        let disk = noise(9150 + number, SIZE);
        let vm = format!("app{number}");
        let report = back_up(&scene.repo.open, &vm, MemoryDisk::new(disk.clone())).await.unwrap();
        scene.model.add_disk(report.snapshot.unwrap(), &disk);
    }
    for night in [2, 5, 6] {
        scene.suspect(night).await;
    }
    assert_eq!(scene.kept().await, [0, 1, 2, 5, 6]);
    drop_snapshot(&scene.keeper, scene.session(3)).await.unwrap();
    scene.suspect(7).await;
    assert_eq!(scene.kept().await, [0, 1, 2, 3, 4, 5, 6, 7]);
    collect(&scene.keeper).await.unwrap();
    scene.model.check(&scene.repo.open).await;
    suspicion::clear(&scene.keeper, &scene.log().await, &name("app0"), "looked at").await.unwrap();
    assert_eq!(scene.kept().await, [0, 1, 2, 6, 7]);
    let report = collect(&scene.keeper).await.unwrap();
    assert!(report.deleted_packs > 0, "{report:?}");
}

fn with_statistics(vm: &str, disk: Vec<u8>) -> BackupOptions {
    BackupOptions { statistics: true, ..options(vm, vec![("disk0", MemoryDisk::new(disk))]) }
}

/// Documents of three blocks with a rest of zeros.
fn documents(seed: u64, count: usize) -> Vec<u8> {
    let mut disk = Vec::new();
    for number in 0..count {
        let mut document = noise(seed + number as u64, 3 * 4096);
        document[..4].copy_from_slice(b"PK\x03\x04");
        document[3 * 4096 - 500..].fill(0);
        disk.extend(document);
    }
    disk
}

/// The statistics of a night are an annex that the next night builds on, collectors keep and checks verify.
#[tokio::test(start_paused = true)]
async fn statistics_go_from_night_to_night_through_collections() {
    let scene = Scene::new(9160).await;
    let writer = scene.repo.as_writer().await;
    let mut disk = documents(1, 200);
    disk.resize(disk.len() + SIZE, 0);
    let mut sessions = Vec::new();
    for night in 0..4u8 {
        let at = disk.len() - SIZE + usize::from(night) * 5000;
        disk[at..at + 3000].fill(night + 1);
        let report =
            backup(&writer, with_statistics("files01", disk.clone()), &Monitor::silent()).await.unwrap();
        let seen = stored::seen(&report.members[0]).unwrap();
        assert_eq!((seen.is_first, seen.judgement.verdict), (night == 0, Suspicion::Normal), "{seen:?}");
        assert_eq!((seen.counts.files, seen.counts.lost), (200, 0));
        sessions.push(report.snapshot.unwrap());
    }
    drop_snapshot(&scene.keeper, sessions[0]).await.unwrap();
    drop_snapshot(&scene.keeper, sessions[1]).await.unwrap();
    let report = collect(&scene.keeper).await.unwrap();
    assert!(report.deleted_packs > 0, "{report:?}");
    scene.is_sound().await;

    let noise = noise(99, 4096);
    disk[5 * 3 * 4096..][..4096].copy_from_slice(&noise);
    let few = backup(&writer, with_statistics("files01", disk.clone()), &Monitor::silent()).await.unwrap();
    assert_eq!(stored::seen(&few.members[0]).unwrap().judgement.verdict, Suspicion::Unusual);
    assert!(scene.log().await.retention().suspects().is_empty());
    for number in 20..60 {
        disk[number * 3 * 4096..][..4096].copy_from_slice(&noise);
    }
    let report = backup(&writer, with_statistics("files01", disk.clone()), &Monitor::silent()).await.unwrap();
    let seen = stored::seen(&report.members[0]).unwrap();
    assert_eq!((seen.judgement.verdict, seen.counts.lost), (Suspicion::Suspect, 40), "{seen:?}");
    // Noted below its manifest, by the writer himself.
    let log = scene.log().await;
    let suspect = report.snapshot.unwrap();
    assert_eq!(log.retention().suspects(), [(suspect, name("files01"))]);
    let machines = suspicion::machines(&scene.repo.open, &log);
    let nights = machines.iter().find(|nights| nights[0].vm == name("files01")).unwrap();
    assert_eq!(suspicion::last_clean(nights).map(|night| night.session), few.snapshot);
    scene.is_sound().await;
}

/// What is a hole by the gigabyte is not read, and what was there is gone all the same.
#[tokio::test(start_paused = true)]
async fn documents_that_become_holes_vanish() {
    let repo = TestRepo::new(9170).await;
    let mut disk = documents(1, 100);
    disk.extend(noise(2, SIZE));
    backup(&repo.open, with_statistics("files01", disk.clone()), &Monitor::silent()).await.unwrap();
    disk[..100 * 3 * 4096].fill(0);
    let report = backup(&repo.open, with_statistics("files01", disk), &Monitor::silent()).await.unwrap();
    let seen = stored::seen(&report.members[0]).unwrap();
    let Counts { files_before, vanished, lost, covered, .. } = seen.counts;
    assert_eq!((files_before, vanished, lost, covered), (100, 100, 0, 0), "{seen:?}");
    assert_eq!(seen.judgement.verdict, Suspicion::Unusual);
}

/// Where files start is named where the night before stored it, and there is nothing to count.
#[tokio::test(start_paused = true)]
async fn a_night_on_which_nothing_changed_stores_nothing() {
    let scene = Scene::new(9175).await;
    let writer = scene.repo.as_writer().await;
    let mut disk = documents(1, 100);
    let mut last = None;
    for _ in 0..3 {
        let options = with_statistics("files01", disk.clone());
        let report = backup(&writer, options, &Monitor::silent()).await.unwrap();
        assert_eq!(report.stored_bytes > 0, last.is_none(), "{report:?}");
        assert_eq!(stored::seen(&report.members[0]).unwrap().counts.files, 100);
        last = report.snapshot;
    }
    let explained = async |session| {
        let reader = restore::open(&scene.repo.open, &scene.log().await, session).await.unwrap();
        suspicion::explain::explain(&reader, None).await.unwrap().remove(0).places
    };
    assert!(explained(last.unwrap()).await.is_empty());
    // What changes is counted, and with it only what is new is stored.
    disk[4096..8192].fill(b'x');
    let changed = backup(&writer, with_statistics("files01", disk), &Monitor::silent()).await.unwrap();
    assert_eq!(explained(changed.snapshot.unwrap()).await.len(), 1);
    scene.is_sound().await;
}

/// Statistics that another key stored are read, and none of its places is named.
#[tokio::test(start_paused = true)]
async fn pieces_of_another_key_are_stored_once_more() {
    let repo = TestRepo::new(9180).await;
    let disk = documents(1, 100);
    let hosts = [repo.certify("node1", Role::Writer).await, repo.certify("node2", Role::Writer).await];
    let (mut sessions, mut stored_by) = (Vec::new(), Vec::new());
    for key in [&hosts[0], &hosts[0], &hosts[1]] {
        let host = repo.with_key_file(key).await;
        let options = with_statistics("files01", disk.clone());
        let session = backup(&host, options, &Monitor::silent()).await.unwrap().snapshot.unwrap();
        let log = Log::load(&repo.open).await.unwrap();
        let reader = restore::open(&repo.open, &log, session).await.unwrap();
        let stored = StoredStatistics::open(Arc::clone(reader.frames()), reader.body()).await.unwrap();
        let span = stored.unwrap().disk(&name("disk0")).unwrap().spans[&0];
        sessions.push(session.number);
        stored_by.push(span.starts.unwrap().place.frame.frame.pack.session);
    }
    assert_eq!(stored_by, [sessions[0], sessions[0], sessions[2]]);
}
