//! Backups by a change map: the same root as a full read's, hardly anything read, and what a map that lies costs.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use sancerre_engine::backup::{Allow, BackupOptions, BackupReport, Hint, Maps, backup};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::select::Selector;
use sancerre_engine::{ErrorKind, Result};
use sancerre_format::certificate::Role;
use sancerre_format::id::SessionId;
use sancerre_image::Disk;
use sancerre_image::change_map::ChangeMap;
use sancerre_tests::dice::Dice;
use sancerre_tests::disk::{MemoryDisk, guest, noise};
use sancerre_tests::repo::{TestRepo, back_up, name, options, restore_bytes};

const MIB: usize = 1 << 20;
/// One in a million: only the least number of places is compared.
const LEAST: u32 = 1;

fn map(size: usize, ranges: &[Range<usize>], base: Option<SessionId>) -> ChangeMap {
    let ranges = ranges.iter().map(|range| range.start as u64..range.end as u64);
    let map = ChangeMap::new("test", size as u64, ranges).unwrap();
    match base {
        Some(base) => map.since(base.intent.to_string()),
        None => map,
    }
}

fn by_map(disk: Arc<dyn Disk>, map: ChangeMap, since: Option<&str>) -> BackupOptions {
    let since = since.map(|text| Selector::parse(text).unwrap());
    let maps = Maps::new(vec![Hint { disk: name("disk0"), map }], since, LEAST);
    BackupOptions { maps, ..options("web01", vec![("disk0", disk)]) }
}

/// Backs up, and returns what was warned of.
async fn told(repository: &Repository, options: BackupOptions) -> (Result<BackupReport>, String) {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&warnings);
    let monitor = Monitor::new(move |event| heard.lock().unwrap().push(event.message));
    let result = backup(repository, options, &monitor).await;
    let told = warnings.lock().unwrap().join("\n");
    (result, told)
}

/// What a full read of these bytes comes to.
async fn full_root(repository: &Repository, bytes: &[u8]) -> Option<[u8; 32]> {
    let report = back_up(repository, "full", MemoryDisk::new(bytes.to_vec())).await.unwrap();
    report.members[0].root.map(|root| root.id.0)
}

fn root(report: &BackupReport) -> Option<[u8; 32]> {
    report.members[0].root.map(|root| root.id.0)
}

/// Writes, zeros, moves and touches; returns where.
fn change(bytes: &mut [u8], dice: &mut Dice) -> Vec<Range<usize>> {
    let mut changed = Vec::new();
    for _ in 0..dice.below(7) {
        let most = if dice.one_in(4) { 400_000 } else { 20_000 };
        let from = dice.pick(bytes.len());
        let to = (from + 1 + dice.pick(most)).min(bytes.len());
        // Half of all writes are of whole blocks, as guests make them.
        let (from, to) = match dice.one_in(2) {
            true => (from / 4096 * 4096, to.next_multiple_of(4096).min(bytes.len())),
            false => (from, to),
        };
        match dice.below(4) {
            0 => bytes[from..to].fill(0),
            1 => {
                let source = dice.pick(bytes.len() - (to - from) + 1);
                bytes.copy_within(source..source + to - from, from);
            }
            2 => bytes[from] ^= 1,
            _ => bytes[from..to].copy_from_slice(&noise(dice.roll(), to - from)),
        }
        changed.push(from..to);
    }
    changed
}

/// What a map may say beyond what changed.
fn with_more(mut changed: Vec<Range<usize>>, size: usize, dice: &mut Dice) -> Vec<Range<usize>> {
    for range in &mut changed {
        range.start = range.start.saturating_sub(dice.pick(9000));
        range.end = (range.end + dice.pick(9000)).min(size);
    }
    for _ in 0..dice.below(4) {
        let from = dice.pick(size);
        changed.push(from..(from + dice.pick(100_000)).min(size));
    }
    changed
}

#[tokio::test(start_paused = true)]
async fn the_root_is_that_of_a_full_read_whatever_changed() {
    let mut dice = Dice::new(700);
    for round in 0..8_u64 {
        let repo = TestRepo::new(700 + round).await;
        let size = MIB + dice.pick(2 * MIB);
        let size = if dice.one_in(3) { size } else { size / 4096 * 4096 };
        let mut bytes = if dice.one_in(3) { noise(round, size) } else { guest(round, size) };
        if dice.one_in(2) {
            let from = dice.pick(size);
            bytes[from..(from + MIB).min(size)].fill(0);
        }
        let mut base = back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
        for night in 0..3 {
            let changed = change(&mut bytes, &mut dice);
            let ranges = with_more(changed, size, &mut dice);
            let disk: Arc<dyn Disk> = match dice.one_in(2) {
                true => MemoryDisk::new(bytes.clone()),
                false => MemoryDisk::dense(bytes.clone()),
            };
            let options = by_map(disk, map(size, &ranges, base.snapshot), None);
            let (report, warned) = told(&repo.open, options).await;
            let report = report.unwrap();
            assert_eq!((warned.as_str(), &report.belied), ("", &Vec::new()), "{round} {night} {ranges:?}");
            assert!(report.scan.starts_with("map test "), "{round} {night}: {}", report.scan);
            assert_eq!(root(&report), full_root(&repo.open, &bytes).await, "{round} {night} {ranges:?}");
            base = report;
        }
        assert!(restore_bytes(&repo.open, base.snapshot.unwrap(), "disk0").await.unwrap() == bytes);
    }
}

/// The manifest says who kept count, since when, and how much was compared; and that is all that was read.
#[tokio::test(start_paused = true)]
async fn hardly_more_than_what_changed_is_read() {
    let (repo, mut bytes) = (TestRepo::new(750).await, noise(1, 40 * MIB));
    let first = back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
    let changed: Vec<Range<usize>> = (0..6).map(|at| at * 6 * MIB + 40_960..at * 6 * MIB + 106_496).collect();
    for range in &changed {
        let new = noise(range.start as u64, range.len());
        bytes[range.clone()].copy_from_slice(&new);
    }
    let disk = MemoryDisk::dense(bytes.clone());
    disk.take_read();
    let map = map(bytes.len(), &changed, first.snapshot);
    let report = backup(&repo.open, by_map(disk.clone(), map, None), &Monitor::silent()).await.unwrap();
    let words: Vec<&str> = report.scan.split(' ').collect();
    assert_eq!(words[..3], ["map", "test", &first.snapshot.unwrap().to_string()]);
    let (sampled, taken): (u64, u64) = (words[3].parse().unwrap(), words[4].parse().unwrap());
    assert!(sampled < taken && taken < bytes.len() as u64, "{report:?}");
    let read: u64 = disk.take_read().iter().map(|range| range.end - range.start).sum();
    let changed_bytes = changed.iter().map(ExactSizeIterator::len).sum::<usize>() as u64;
    let factor = (read - sampled) as f64 / changed_bytes as f64;
    assert!(factor <= 6.0, "{factor}: {read} bytes, of them {sampled} as a sample, for {changed_bytes}");
    let log = Log::load(&repo.open).await.unwrap();
    assert_eq!(log.snapshots().last().unwrap().manifest.fields.scan, report.scan);
    assert_eq!(root(&report), full_root(&repo.open, &bytes).await);
}

/// Of fewer than 256 places each is compared, so that here no lie gets through: neither about data, nor about a hole.
#[tokio::test(start_paused = true)]
async fn a_map_that_lies_costs_a_full_read_and_is_said() {
    let repo = TestRepo::new(760).await;
    let mut old = noise(2, 6 * MIB);
    old[3 * MIB..4 * MIB].fill(0);
    let first = back_up(&repo.open, "web01", MemoryDisk::new(old.clone())).await.unwrap();
    for (number, at) in [5 * MIB + 77, 3 * MIB + 500_000].into_iter().enumerate() {
        let mut bytes = old.clone();
        bytes[at] ^= 0xff;
        for disk in [MemoryDisk::new(bytes.clone()), MemoryDisk::dense(bytes.clone())] {
            let lie = map(bytes.len(), std::slice::from_ref(&(0..4096)), first.snapshot);
            let (report, warned) = told(&repo.open, by_map(disk, lie, None)).await;
            let report = report.unwrap();
            assert_eq!(
                (report.scan.as_str(), &report.belied[..]),
                ("full", &[name("disk0")][..]),
                "{number}"
            );
            assert!(warned.contains("all of disk0 is read") && warned.contains("did change"), "{warned}");
            assert_eq!(root(&report), full_root(&repo.open, &bytes).await);
            assert!(restore_bytes(&repo.open, report.snapshot.unwrap(), "disk0").await.unwrap() == bytes);
        }
    }
}

async fn reads_all(repo: &TestRepo, options: BackupOptions, bytes: &[u8], why: &str) {
    let (report, warned) = told(&repo.open, options).await;
    let report = report.unwrap();
    assert_eq!((report.scan.as_str(), report.belied.len()), ("full", 0), "{warned}");
    assert!(warned.contains(why), "{warned:?} does not say {why:?}");
    assert_eq!(root(&report), full_root(&repo.open, bytes).await);
}

#[tokio::test(start_paused = true)]
async fn a_map_that_cannot_be_used_costs_a_full_read_and_no_more() {
    let (repo, bytes) = (TestRepo::new(770).await, noise(3, 3 * MIB));
    let disk = || MemoryDisk::new(bytes.clone());
    // Of a snapshot that nobody knows.
    let unknown = map(bytes.len(), &[], None).since("3f9a".repeat(16));
    reads_all(&repo, by_map(disk(), unknown, None), &bytes, "cannot be used").await;
    // The disk was smaller.
    let small = back_up(&repo.open, "web01", MemoryDisk::new(bytes[..2 * MIB].to_vec())).await.unwrap();
    let grown = by_map(disk(), map(bytes.len(), &[], small.snapshot), None);
    reads_all(&repo, grown, &bytes, "and had 2097152 then").await;
    // It changed while it was read.
    let changing = BackupOptions {
        allow: Allow { changing: true, small: true, unreadable: false },
        ..options("web01", vec![("disk0", MemoryDisk::changing(bytes.clone(), 1))])
    };
    let fuzzy = backup(&repo.open, changing, &Monitor::silent()).await.unwrap();
    assert!(fuzzy.fuzzy);
    reads_all(&repo, by_map(disk(), map(bytes.len(), &[], fuzzy.snapshot), None), &bytes, "of which moment")
        .await;
    // Another writer made the snapshot, and could have made it up.
    let other = repo.with_key_file(&repo.certify("host2", Role::Writer).await).await;
    let theirs = back_up(&other, "web01", disk()).await.unwrap();
    reads_all(&repo, by_map(disk(), map(bytes.len(), &[], theirs.snapshot), None), &bytes, "another writer")
        .await;
    // All that the snapshot consists of is lost.
    let last = back_up(&repo.open, "web01", disk()).await.unwrap();
    repo.lose(&repo.keys_with("/packs/").await).await;
    let report = told(&repo.reopen().await, by_map(disk(), map(bytes.len(), &[], last.snapshot), None)).await;
    let report = report.0.unwrap();
    assert_eq!((report.scan.as_str(), report.belied.len()), ("full", 0));
    assert!(restore_bytes(&repo.reopen().await, report.snapshot.unwrap(), "disk0").await.unwrap() == bytes);
}

#[tokio::test(start_paused = true)]
async fn the_moment_of_a_map_is_never_guessed() {
    let (repo, bytes) = (TestRepo::new(780).await, noise(4, 2 * MIB));
    let disk = || MemoryDisk::new(bytes.clone());
    let first = back_up(&repo.open, "web01", disk()).await.unwrap();
    let other = back_up(&repo.open, "db01", disk()).await.unwrap();
    let second = back_up(&repo.open, "web01", disk()).await.unwrap();
    let id = second.snapshot.unwrap().intent.to_string();
    let cases = [
        (map(bytes.len(), &[], None), None, "does not say since when"),
        (map(bytes.len(), &[], other.snapshot), None, "none of this machine"),
        (map(bytes.len(), &[], first.snapshot), Some(id.as_str()), "since another snapshot"),
    ];
    for (map, since, why) in cases {
        let before = repo.objects().await;
        let error = backup(&repo.open, by_map(disk(), map, since), &Monitor::silent()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(repo.objects().await, before, "nothing was announced");
    }
    // An older one is as good as the last, if the map is of it.
    let mut bytes = bytes;
    bytes[MIB + 5] ^= 1;
    let of_first = map(bytes.len(), std::slice::from_ref(&(MIB + 5..MIB + 6)), None);
    let since = first.snapshot.unwrap().intent.to_string();
    let options = by_map(MemoryDisk::new(bytes.clone()), of_first, Some(&since));
    let report = backup(&repo.open, options, &Monitor::silent()).await.unwrap();
    assert!(report.scan.starts_with(&format!("map test {} ", first.snapshot.unwrap())), "{}", report.scan);
    assert_eq!(root(&report), full_root(&repo.open, &bytes).await);
}

/// What could not be read is zeros in the snapshot: no map makes it content.
#[tokio::test(start_paused = true)]
async fn what_the_snapshot_before_could_not_read_is_read_again() {
    let (repo, bytes) = (TestRepo::new(790).await, noise(5, 3 * MIB));
    let bad = 2 * MIB as u64 - 8192..2 * MIB as u64 + 4096;
    let allow = Allow { changing: false, small: true, unreadable: true };
    let dying = MemoryDisk::dying(bytes.clone(), std::slice::from_ref(&bad));
    let dying = BackupOptions { allow, ..options("web01", vec![("disk0", dying)]) };
    let first = backup(&repo.open, dying, &Monitor::silent()).await.unwrap();
    let healed = by_map(MemoryDisk::new(bytes.clone()), map(bytes.len(), &[], first.snapshot), None);
    let report = backup(&repo.open, healed, &Monitor::silent()).await.unwrap();
    assert!(report.scan.starts_with("map test ") && report.belied.is_empty(), "{report:?}");
    assert!(report.members[0].unreadable().unwrap().is_empty());
    assert_eq!(root(&report), full_root(&repo.open, &bytes).await);
}
