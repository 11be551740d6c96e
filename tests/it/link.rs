//! Restores from a store that is far away: 30 ms to the first byte, 85 MB/s a stream.

use std::time::Duration;

use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::log::Log;
use sancerre_engine::restore::{self, RestoreOptions, RestoreReport};
use sancerre_format::config::Layout;
use sancerre_format::id::SessionId;
use sancerre_image::RawTarget;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::link::LinkStore;
use sancerre_tests::repo::{TestRepo, back_up, small_layout};

use crate::block_on;

const LATENCY: Duration = Duration::from_millis(30);
const STREAM: f64 = 85e6;
const MIB: usize = 1 << 20;

/// Restores through the link and compares. Returns the report, the time that the link took, and the most requests that
/// were in flight.
async fn far_restore(repo: &TestRepo, snapshot: SessionId, wanted: &[u8]) -> (RestoreReport, f64, u64) {
    let link = LinkStore::new(repo.store.clone(), LATENCY, STREAM);
    let far = repo.through(link.clone());
    let log = Log::load(&far).await.unwrap();
    let reader = restore::open(&far, &log, snapshot).await.unwrap();
    let member = reader.member("disk0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let target = Box::new(RawTarget::create(&path, member.size_bytes, false).unwrap());
    let options = RestoreOptions::new(256 << 20);
    let started = tokio::time::Instant::now();
    let report = restore::restore(&reader, member, target, &options, &Monitor::silent()).await;
    let seconds = started.elapsed().as_secs_f64();
    assert!(std::fs::read(&path).unwrap() == wanted);
    (report.unwrap(), seconds, link.most_in_flight())
}

/// The link alone decides here: the clock stands still while this machine works.
#[test]
fn a_far_store_is_read_by_many_requests_at_once() {
    block_on(async {
        let layout = Layout { pack_bytes: 8 << 20, ..small_layout() };
        let repo = TestRepo::with_layout(1, layout).await;
        let disk = noise(1, 96 * MIB);
        let snapshot = back_up(&repo.open, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
        let (report, seconds, most) = far_restore(&repo, snapshot.snapshot.unwrap(), &disk).await;
        // Root, leaves, and then all at once: each of some 24 requests of 4 MiB.
        let ideal = 3.0 * LATENCY.as_secs_f64() + (4 * MIB) as f64 / STREAM;
        assert!(seconds < ideal * 1.3, "{seconds} s, {ideal} s are possible; {report:?}");
        assert!((24..=200).contains(&most), "{most} requests in flight");
        assert!(report.requests <= 40, "{report:?}");
    });
}
