//! A disk that is dying: what reads is saved, what does not is named, and the nights after it.

use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;

use sancerre_engine::backup::{Allow, BackupOptions, BackupReport, BackupSource, Input, backup};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::{Error, ErrorKind, Result, restore};
use sancerre_format::certificate::Role;
use sancerre_format::outcome::{Consistency, MemberKind};
use sancerre_image::Disk;
use sancerre_tests::disk::{MemoryDisk, guest, noise};
use sancerre_tests::model::Model;
use sancerre_tests::repo::{TestRepo, name, options};

const MIB: u64 = 1 << 20;
/// In the middle of a chunk, over the border of two regions, and in what is a hole.
const BAD: [Range<u64>; 3] =
    [MIB + 40_960..MIB + 45_056, 3 * MIB - 4096..3 * MIB + 8192, 5 * MIB + 4096..5 * MIB + 8192];

/// Five MiB of noise, of which one is a hole, and one more of files.
fn content() -> Vec<u8> {
    let mut bytes = noise(1, 5 * MIB as usize);
    bytes[4 * MIB as usize..].fill(0);
    bytes.extend(vec![0; 65_536]);
    bytes.extend(guest(2, MIB as usize - 65_536));
    bytes
}

fn without(mut bytes: Vec<u8>, bad: &[Range<u64>]) -> Vec<u8> {
    bad.iter().for_each(|bad| bytes[bad.start as usize..bad.end as usize].fill(0));
    bytes
}

async fn save(
    repository: &Repository,
    disk: Arc<dyn Disk>,
    allow: Allow,
    only_unreadable: bool,
) -> Result<BackupReport> {
    let options = BackupOptions { allow, only_unreadable, ..options("web01", vec![("disk0", disk)]) };
    backup(repository, options, &Monitor::silent()).await
}

const UNREADABLE: Allow = Allow { changing: false, small: false, unreadable: true };

async fn last_consistency(repo: &TestRepo) -> (Consistency, String) {
    let log = Log::load(&repo.open).await.unwrap();
    let fields = &log.snapshots().last().unwrap().manifest.fields;
    (fields.consistency.clone(), fields.scan.clone())
}

#[tokio::test(start_paused = true)]
async fn what_reads_is_saved_and_what_does_not_is_named() {
    let (repo, bytes, mut model) = (TestRepo::new(300).await, content(), Model::default());
    let refused = save(&repo.open, MemoryDisk::dying(bytes.clone(), &BAD), Allow::default(), false).await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, Error::Read(_)), "{refused}");
    assert!(refused.to_string().contains("`allow.unreadable`"), "{refused}");

    let report = save(&repo.open, MemoryDisk::dying(bytes.clone(), &BAD), UNREADABLE, false).await.unwrap();
    assert_eq!(report.members[0].unreadable().unwrap().ranges(), BAD);
    assert_eq!(last_consistency(&repo).await, (Consistency::Partial, "full".into()));
    model.add_disk(report.snapshot.unwrap(), &without(bytes.clone(), &BAD));
    model.check(&repo.open).await;

    // Whoever restores is told, from the signed record.
    let log = Log::load(&repo.open).await.unwrap();
    let reader = restore::open(&repo.open, &log, report.snapshot.unwrap()).await.unwrap();
    assert_eq!(reader.member("disk0").unwrap().unreadable().unwrap().ranges(), BAD);

    // The night after, on a disk that reads: nothing that was missing is taken for zeros.
    let healed = save(&repo.open, MemoryDisk::new(bytes.clone()), Allow::default(), false).await.unwrap();
    assert!(healed.members[0].unreadable().unwrap().is_empty());
    assert_eq!(last_consistency(&repo).await.0, Consistency::Crash);
    model.add_disk(healed.snapshot.unwrap(), &bytes);
    model.check(&repo.open).await;
}

#[tokio::test(start_paused = true)]
async fn only_what_was_missing_is_read_again() {
    let (repo, bytes, mut model) = (TestRepo::new(301).await, content(), Model::default());
    save(&repo.open, MemoryDisk::dying(bytes.clone(), &BAD), UNREADABLE, false).await.unwrap();

    // One of three is still bad.
    let disk = MemoryDisk::dying(bytes.clone(), &BAD[1..2]);
    let report = save(&repo.open, disk.clone(), UNREADABLE, true).await.unwrap();
    let read = disk.take_read();
    let sum: u64 = read.iter().map(|range| range.end - range.start).sum();
    assert!(sum < 2 * MIB, "{sum} bytes were read of {}: {read:?}", bytes.len());
    let covers = |bad: &Range<u64>| read.iter().any(|read| read.start <= bad.start && bad.end <= read.end);
    assert!(covers(&BAD[0]) && covers(&BAD[2]), "{read:?}");
    assert_eq!(report.members[0].unreadable().unwrap().ranges(), &BAD[1..2]);
    let (consistency, scan) = last_consistency(&repo).await;
    assert_eq!(consistency, Consistency::Partial);
    assert!(scan.starts_with("map unreadable 0000000000000001-"), "{scan}");
    model.add_disk(report.snapshot.unwrap(), &without(bytes.clone(), &BAD[1..2]));
    model.check(&repo.open).await;

    let report = save(&repo.open, MemoryDisk::new(bytes.clone()), UNREADABLE, true).await.unwrap();
    assert_eq!(last_consistency(&repo).await.0, Consistency::Crash);
    model.add_disk(report.snapshot.unwrap(), &bytes);
    model.check(&repo.open).await;

    // Now that all is there, there is nothing to add.
    let error = save(&repo.open, MemoryDisk::new(bytes), UNREADABLE, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
}

/// What was read once is not lost because the disk went on dying since.
#[tokio::test(start_paused = true)]
async fn a_disk_that_got_worse_takes_nothing_away() {
    let (repo, bytes, mut model) = (TestRepo::new(307).await, content(), Model::default());
    save(&repo.open, MemoryDisk::dying(bytes.clone(), &BAD), UNREADABLE, false).await.unwrap();
    // The first one heals, and the block before it in the same chunk is gone; the others got wider.
    let worse = [BAD[0].start - 4096..BAD[0].start, 3 * MIB - 8192..3 * MIB + 16_384, BAD[2].clone()];
    let report = save(&repo.open, MemoryDisk::dying(bytes.clone(), &worse), UNREADABLE, true).await.unwrap();
    assert_eq!(report.members[0].unreadable().unwrap().ranges(), BAD);
    model.add_disk(report.snapshot.unwrap(), &without(bytes, &BAD));
    model.check(&repo.open).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_added_to_what_is_not_the_same_disk() {
    let (repo, bytes) = (TestRepo::new(302).await, content());
    let error = save(&repo.open, MemoryDisk::new(bytes.clone()), UNREADABLE, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "there is no snapshot: {error}");
    save(&repo.open, MemoryDisk::dying(bytes.clone(), &BAD), UNREADABLE, false).await.unwrap();

    let mut longer = bytes.clone();
    longer.extend([0; 4096]);
    let error = save(&repo.open, MemoryDisk::new(longer), UNREADABLE, true).await.unwrap_err();
    assert!(error.to_string().contains("another disk"), "{error}");

    let mut written = bytes.clone();
    written[..4 * MIB as usize].copy_from_slice(&noise(9, 4 * MIB as usize));
    let error = save(&repo.open, MemoryDisk::new(written), UNREADABLE, true).await.unwrap_err();
    assert!(error.to_string().contains("written to since"), "{error}");

    // Another writer of the zone could have made up what it took over.
    let other = repo.certify("host2", Role::Writer).await;
    let other = repo.with_key_file(&other).await;
    let error = save(&other, MemoryDisk::new(bytes.clone()), UNREADABLE, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    assert_eq!(Log::load(&repo.open).await.unwrap().snapshots().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_disk_of_which_nothing_reads_is_no_snapshot() {
    let (repo, bytes) = (TestRepo::new(303).await, content());
    let all = 0..bytes.len() as u64;
    let error = save(&repo.open, MemoryDisk::dying(bytes, std::slice::from_ref(&all)), UNREADABLE, false)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("nothing of disk0 could be read"), "{error}");
    assert!(Log::load(&repo.open).await.unwrap().snapshots().is_empty());
}

const NONE: Allow = Allow { changing: false, small: false, unreadable: false };
const SMALL: Allow = Allow { small: true, ..NONE };

#[tokio::test(start_paused = true)]
async fn a_disk_that_lost_most_of_itself_is_refused_until_somebody_says_that_it_is_right() {
    let (repo, bytes) = (TestRepo::new(304).await, noise(4, 3 * MIB as usize));
    save(&repo.open, MemoryDisk::new(bytes.clone()), NONE, false).await.unwrap();
    let zeros = vec![0; bytes.len()];
    for small in [Vec::new(), bytes[..MIB as usize].to_vec(), zeros] {
        let error = save(&repo.open, MemoryDisk::new(small), NONE, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
        assert!(error.to_string().contains("`allow.small`"), "{error}");
    }
    assert_eq!(Log::load(&repo.open).await.unwrap().snapshots().len(), 1);
    // A little less is no reason to refuse.
    save(&repo.open, MemoryDisk::new(bytes[..2 * MIB as usize].to_vec()), NONE, false).await.unwrap();
    save(&repo.open, MemoryDisk::new(Vec::new()), SMALL, false).await.unwrap();
    // What was right once is so the next night.
    save(&repo.open, MemoryDisk::new(Vec::new()), NONE, false).await.unwrap();
}

/// A writer of the zone could else stop the backups of all others by lies about the size of their disks.
#[tokio::test(start_paused = true)]
async fn the_size_in_another_writers_snapshot_stops_nobody() {
    let (repo, bytes) = (TestRepo::new(305).await, noise(5, 3 * MIB as usize));
    let liar = repo.certify("host2", Role::Writer).await;
    let liar = repo.with_key_file(&liar).await;
    save(&liar, MemoryDisk::new(bytes.clone()), NONE, false).await.unwrap();
    let report =
        save(&repo.open, MemoryDisk::new(bytes[..MIB as usize].to_vec()), NONE, false).await.unwrap();
    assert_eq!(report.shrunk, [name("disk0")]);
}

fn stream(bytes: &[u8], least_bytes: u64) -> BackupOptions {
    let input = Input::Stream(Box::new(Cursor::new(bytes.to_vec())));
    let source = BackupSource { name: name("dump"), kind: MemberKind::Stream, input, least_bytes };
    BackupOptions { sources: vec![source], allow: NONE, ..options("db01", Vec::new()) }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_delivers_too_little_is_no_snapshot() {
    let (repo, monitor) = (TestRepo::new(306).await, Monitor::silent());
    let error = backup(&repo.open, stream(b"", 1), &monitor).await.unwrap_err();
    assert!(error.to_string().contains("nothing came through standard input for dump"), "{error}");
    let error = backup(&repo.open, stream(&[1; 99], 100), &monitor).await.unwrap_err();
    assert!(error.to_string().contains("99 bytes, fewer than the 100 of `least_bytes`"), "{error}");
    assert!(Log::load(&repo.open).await.unwrap().snapshots().is_empty());

    let report = backup(&repo.open, stream(&[1; 100], 100), &monitor).await.unwrap();
    assert!(report.shrunk.is_empty());
    // An export does shrink: it is saved, and said.
    let report = backup(&repo.open, stream(&[1; 40], 1), &monitor).await.unwrap();
    assert_eq!(report.shrunk, [name("dump")]);
    let report = backup(&repo.open, stream(b"", 0), &monitor).await.unwrap();
    assert_eq!(report.shrunk, [name("dump")]);
}
