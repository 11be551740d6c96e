//! What is at the target already is not fetched: after an interruption, over a damaged disk, from the file that is
//! replaced. The store counts what is asked of it.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sancerre_engine::Result;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::restore::{self, RestoreOptions, RestoreReport, SnapshotReader};
use sancerre_format::id::SessionId;
use sancerre_image::RawTarget;
use sancerre_tests::disk::{MemoryDisk, guest, noise};
use sancerre_tests::repo::{TestRepo, back_up};
use sancerre_tests::store::Cut;

use crate::block_on;

const MIB: usize = 1 << 20;

/// How a target is opened.
type Open = fn(&Path, u64, bool) -> std::result::Result<RawTarget, sancerre_image::TargetError>;

struct Case {
    repo: TestRepo,
    snapshot: SessionId,
    disk: Vec<u8>,
    folder: tempfile::TempDir,
}

impl Case {
    async fn new(seed: u64, disk: Vec<u8>) -> Self {
        let repo = TestRepo::new(seed).await;
        let report = back_up(&repo.open, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
        Self { repo, snapshot: report.snapshot.unwrap(), disk, folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk.raw")
    }

    fn left(&self) -> PathBuf {
        self.folder.path().join("disk.raw.sancerre-partial")
    }

    async fn reader(&self, repository: &Repository) -> SnapshotReader {
        let log = Log::load(repository).await.unwrap();
        restore::open(repository, &log, self.snapshot).await.unwrap()
    }

    /// Restores and, when that went well, compares.
    async fn restore(&self, open: Open, overwrite: bool, monitor: &Monitor) -> Result<RestoreReport> {
        let reader = self.reader(&self.repo.open).await;
        self.restore_from(&reader, open, overwrite, monitor).await
    }

    async fn restore_from(
        &self,
        reader: &SnapshotReader,
        open: Open,
        overwrite: bool,
        monitor: &Monitor,
    ) -> Result<RestoreReport> {
        let member = reader.member("disk0").unwrap();
        let target = Box::new(open(&self.path(), member.size_bytes, overwrite)?);
        let options = RestoreOptions::new(64 << 20);
        self.repo.store.take_calls();
        let report = restore::restore(reader, member, target, &options, monitor).await?;
        assert_eq!(self.repo.store.take_calls().get, report.requests, "every request is reported");
        assert!(std::fs::read(self.path()).unwrap() == self.disk);
        assert_eq!(report.data_bytes, member.data_bytes);
        Ok(report)
    }
}

/// The store goes away after ever more reads; what was written by then is not fetched again.
#[test]
fn an_interrupted_restore_goes_on_where_it_was() {
    block_on(async {
        let case = Case::new(1, noise(1, 24 * MIB)).await;
        let whole = case.restore(RawTarget::create, false, &Monitor::silent()).await.unwrap();
        let map_bytes = whole.fetched_bytes - 24 * MIB as u64;
        for reads in [0, 1, 4, 9, 16, 20] {
            std::fs::remove_file(case.path()).unwrap();
            let broken = case.repo.reopen().await;
            let reader = case.reader(&broken).await;
            case.repo.store.crash_at(reads, Cut::Before);
            case.restore_from(&reader, RawTarget::create, false, &Monitor::silent()).await.unwrap_err();
            case.repo.store.crash_at(u64::MAX, Cut::Before);
            let report = case.restore(RawTarget::resume, false, &Monitor::silent()).await.unwrap();
            assert_eq!(report.kept_bytes > 0, reads > 3, "{reads} reads: {report:?}");
            let missing = report.data_bytes - report.kept_bytes;
            // Of a frame of which something is missing all is fetched.
            assert!(report.fetched_bytes <= missing * 5 / 4 + 2 * map_bytes, "{reads} reads: {report:?}");
            assert!(!case.left().exists());
        }
    });
}

#[test]
fn a_disk_that_is_there_costs_its_map_alone() {
    block_on(async {
        let case = Case::new(2, guest(2, 16 * MIB)).await;
        case.restore(RawTarget::create, false, &Monitor::silent()).await.unwrap();
        // As the first disk of a snapshot whose second was interrupted, and as a file that is to be replaced.
        for (open, overwrite) in [(RawTarget::resume as Open, false), (RawTarget::create, true)] {
            let report = case.restore(open, overwrite, &Monitor::silent()).await.unwrap();
            assert_eq!(report.kept_bytes, report.data_bytes);
            assert!(report.requests <= 3 && report.fetched_bytes < 100_000, "{report:?}");
        }
    });
}

/// A disk of which some was encrypted: only that is fetched, and the damaged file stays until the new one is whole.
#[test]
fn of_a_damaged_disk_only_what_differs_is_fetched() {
    block_on(async {
        let case = Case::new(3, noise(3, 32 * MIB)).await;
        let mut damaged = case.disk.clone();
        for at in (0..3).map(|i| i * 9 * MIB + 70_000) {
            damaged[at..at + 200_000].copy_from_slice(&noise(at as u64, 200_000));
        }
        std::fs::write(case.path(), &damaged).unwrap();
        let report = case.restore(RawTarget::create, true, &Monitor::silent()).await.unwrap();
        let fetched_chunks = report.data_bytes - report.kept_bytes;
        assert!((600_000..5_000_000).contains(&fetched_chunks), "{report:?}");
        assert!(report.fetched_bytes < 6_000_000, "{report:?}");
    });
}

/// What lies there is another disk's, from another place, or wrong by a bit: nothing of it is believed.
#[test]
fn what_is_left_of_something_else_does_no_harm() {
    block_on(async {
        let mut disk = guest(4, 12 * MIB);
        disk[3 * MIB..5 * MIB].fill(0);
        let case = Case::new(4, disk).await;
        let shifted = [&case.disk[4096..], &case.disk[..4096]].concat();
        let mut flipped = case.disk.clone();
        flipped.iter_mut().step_by(300_000).for_each(|byte| *byte ^= 1);
        for (left, length) in [(noise(5, 12 * MIB), 12 * MIB), (shifted, 12 * MIB), (flipped, 11 * MIB)] {
            let partial = RawTarget::create(&case.path(), 1, false).unwrap();
            drop(partial);
            let file = std::fs::File::options().write(true).open(case.left()).unwrap();
            file.write_all_at(&left[..length], 0).unwrap();
            case.restore(RawTarget::resume, false, &Monitor::silent()).await.unwrap();
            std::fs::remove_file(case.path()).unwrap();
        }
    });
}

/// Progress counts what was found as done.
#[test]
fn progress_ends_at_the_total() {
    use std::sync::atomic::Ordering::Relaxed;
    block_on(async {
        let case = Case::new(6, guest(6, 8 * MIB)).await;
        std::fs::write(case.path(), &case.disk[..5 * MIB]).unwrap();
        let monitor = Monitor::silent();
        let report = case.restore(RawTarget::create, true, &monitor).await.unwrap();
        assert!(report.kept_bytes > 0 && report.kept_bytes < report.data_bytes);
        assert_eq!(monitor.counters.done_bytes.load(Relaxed), report.data_bytes);
        assert_eq!(monitor.counters.stored_bytes.load(Relaxed), report.fetched_bytes);
    });
}
