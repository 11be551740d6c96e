//! The cache saves bytes and changes nothing else, whatever became of its files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sancerre_engine::backup::BackupReport;
use sancerre_engine::cache::Cache;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::repo::{TestRepo, back_up, restore_bytes};

use crate::block_on;

const MIB: usize = 1 << 20;

/// What happens to the files of a cache.
type Harm = fn(&[PathBuf]);

struct Case {
    repo: TestRepo,
    folder: tempfile::TempDir,
    warnings: Arc<Mutex<Vec<String>>>,
    disk: Vec<u8>,
}

impl Case {
    /// Two nights are there, and what the third reads of them.
    async fn new(seed: u64) -> Self {
        let (repo, disk) = (TestRepo::new(seed).await, noise(seed, 48 * MIB));
        for vm in ["web01", "db01"] {
            back_up(&repo.open, vm, MemoryDisk::new(disk.clone())).await.unwrap();
        }
        Self { repo, folder: tempfile::tempdir().unwrap(), warnings: Arc::default(), disk }
    }

    async fn repository(&self, is_cached: bool) -> Repository {
        let mut repository = self.repo.reopen().await;
        let heard = self.warnings.clone();
        if is_cached {
            let warn = move |warning| heard.lock().unwrap().push(warning);
            repository.cache = Cache::new(self.folder.path().join("cache"), 1 << 30, warn);
        }
        repository
    }

    /// A night in which one block changed. Returns the report and the bytes that the store sent.
    async fn night(&mut self, is_cached: bool) -> (BackupReport, u64) {
        self.disk[7 * MIB] ^= 1;
        let repository = self.repository(is_cached).await;
        let before = repository.store.traffic().totals().received_bytes;
        let report = back_up(&repository, "web01", MemoryDisk::new(self.disk.clone())).await.unwrap();
        let received = repository.store.traffic().totals().received_bytes - before;
        let snapshot = report.snapshot.unwrap();
        assert!(restore_bytes(&self.repo.open, snapshot, "disk0").await.unwrap() == self.disk);
        assert!(report.new_bytes < MIB as u64, "{report:?}");
        (report, received)
    }

    async fn index_bytes(&self) -> u64 {
        let objects = self.repo.objects().await.into_iter();
        objects.filter(|(key, _)| key.contains("/index/")).map(|(_, size_bytes)| size_bytes).sum()
    }

    fn entries(&self) -> Vec<PathBuf> {
        let list =
            |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        list(&self.folder.path().join("cache")).flat_map(|folder| list(&folder).collect::<Vec<_>>()).collect()
    }
}

#[test]
fn what_was_fetched_once_is_not_fetched_again() {
    block_on(async {
        let mut case = Case::new(1).await;
        let index_bytes = case.index_bytes().await;
        let (_, without) = case.night(false).await;
        let (_, first) = case.night(true).await;
        let (_, second) = case.night(true).await;
        assert!(first > without * 9 / 10, "{first} of {without} bytes: it was empty");
        assert!(second + index_bytes * 9 / 10 < without, "{second} of {without}, {index_bytes} of index");
        assert!(!case.entries().is_empty() && case.warnings.lock().unwrap().is_empty());
    });
}

#[test]
fn whatever_becomes_of_it_costs_bytes_and_nothing_else() {
    let harms: [(&str, Harm); 6] = [
        ("deleted", |entries| entries.iter().for_each(|path| fs::remove_file(path).unwrap())),
        ("emptied", |entries| entries.iter().for_each(|path| fs::write(path, "").unwrap())),
        ("cut", |entries| each(entries, |bytes| bytes.truncate(bytes.len() / 2))),
        ("longer", |entries| each(entries, |bytes| bytes.push(0))),
        ("flipped", |entries| {
            each(entries, |bytes| bytes.iter_mut().step_by(101).for_each(|byte| *byte ^= 0x10));
        }),
        ("exchanged", |entries| {
            let first = fs::read(&entries[0]).unwrap();
            for pair in entries.windows(2) {
                fs::copy(&pair[1], &pair[0]).unwrap();
            }
            fs::write(&entries[entries.len() - 1], first).unwrap();
        }),
    ];
    block_on(async {
        for (name, harm) in harms {
            // A repository for each: after many nights segments are merged, which reads them all.
            let mut case = Case::new(2).await;
            case.night(true).await;
            let entries = case.entries();
            assert!(entries.len() >= 3, "{name}");
            harm(&entries);
            case.night(true).await;
            assert!(case.warnings.lock().unwrap().is_empty(), "{name}: {:?}", case.warnings);
            let (_, after) = case.night(true).await;
            let (_, without) = case.night(false).await;
            let index_bytes = case.index_bytes().await;
            assert!(after + index_bytes * 4 / 5 < without, "{name}: {after} of {without}, it did not heal");
        }
    });
}

fn each(entries: &[PathBuf], change: fn(&mut Vec<u8>)) {
    for path in entries {
        let mut bytes = fs::read(path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_folder_that_takes_nothing_is_a_warning() {
    block_on(async {
        let mut case = Case::new(3).await;
        fs::write(case.folder.path().join("cache"), "a file where the folder should be").unwrap();
        case.night(true).await;
        let warnings = case.warnings.lock().unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains("`no_cache`"), "{warnings:?}");
    });
}

/// A bucket that came back from an older copy: under the numbers of sessions that are gone others are made, of which the
/// cache must not say what it knew of those.
#[test]
fn it_does_not_know_better_than_an_older_copy() {
    block_on(async {
        let mut case = Case::new(3).await;
        for _ in 0..3 {
            case.night(true).await;
        }
        let before = Log::load(&case.repository(true).await).await.unwrap();
        let gone = before.highest() - 1..=before.highest();
        for number in gone.clone() {
            let keys = case.repo.keys_with(&format!("{number:016x}")).await;
            assert!(keys.len() >= 5, "{keys:?}");
            case.repo.lose(&keys).await;
        }
        for _ in gone.clone() {
            back_up(&case.repo.open, "db01", MemoryDisk::new(noise(4, MIB))).await.unwrap();
        }
        let sessions = |log: &Log| log.entries().map(|entry| entry.session).collect::<Vec<_>>();
        let seen = Log::load(&case.repository(true).await).await.unwrap();
        assert_eq!(seen.highest(), before.highest());
        assert_ne!(sessions(&seen), sessions(&before));
        assert_eq!(sessions(&seen), sessions(&Log::load(&case.repository(false).await).await.unwrap()));
        let (report, _) = case.night(true).await;
        assert!(report.parent.unwrap().number < *gone.start(), "{report:?}");
    });
}
