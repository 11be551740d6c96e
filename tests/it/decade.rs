//! What a repository costs after years of nights: as much as after months.
//!
//! In every test run a small one. The goals of FORMAT.md §9.4 are measured with
//! `SANCERRE_DECADE_NIGHTS=4546 cargo nextest run -p sancerre-tests --test it decade:: --no-capture`: 100,000 sessions.

use std::time::Instant;

use sancerre_engine::cache::Cache;
use sancerre_engine::gc::gc;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::restore;
use sancerre_tests::decade;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::repo::{TestRepo, back_up, dump_bytes};
use sancerre_tests::store::Calls;

use crate::gc::OPTIONS;

const MACHINES: u64 = 20;
const SIZE: usize = 4 << 20;
/// What a warm backup may take beyond its disk; a busy machine and a build that is not optimised take more.
const CPU_SECONDS_MAX: f64 = 5.0;
/// What every request takes from here on: a bucket some thousand kilometres away.
const AWAY_MS: u64 = 30;
/// Keys on one page of a listing.
const PAGE: u64 = 1000;

/// What something cost: requests, listings counted by their pages, bytes received, and what this process needed for it.
#[derive(Debug)]
struct Cost {
    requests: u64,
    listed: u64,
    received_bytes: u64,
    cpu_seconds: f64,
    peak_bytes: u64,
}

fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

#[allow(clippy::print_stderr)]
async fn measured<T>(what: &str, repo: &TestRepo, deed: impl Future<Output = T>) -> (T, Cost) {
    repo.store.take_calls();
    // Resets the peak.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, cpu, started) = (status("VmRSS"), cpu_seconds(), Instant::now());
    let done = deed.await;
    let Calls { put, get, list, delete, listed, received } = repo.store.take_calls();
    let cost = Cost {
        requests: put + get + delete + list + listed / PAGE,
        listed,
        received_bytes: received,
        cpu_seconds: cpu_seconds() - cpu,
        peak_bytes: status("VmHWM").saturating_sub(before),
    };
    let seconds = started.elapsed().as_secs_f64();
    let text = format!(
        "{what}: {cost:?}, {put} writes, {get} reads, {list} listings of {listed} keys, {seconds:.1} s"
    );
    eprintln!("{text}");
    (done, cost)
}

fn nights() -> u64 {
    std::env::var("SANCERRE_DECADE_NIGHTS").map_or(90, |nights| nights.parse().unwrap())
}

/// Nothing is worth a warning.
fn told() -> Monitor {
    Monitor::new(|warning| panic!("{warning}"))
}

#[tokio::test]
async fn many_years_cost_what_some_months_do() {
    let repo = TestRepo::new(960).await;
    let (writer, keeper) = (repo.as_writer().await, repo.as_keeper().await);
    decade::write(&repo, &writer, &keeper, nights(), MACHINES).await;
    let (report, cost) = measured("gc", &repo, gc(&keeper, &OPTIONS, &told())).await;
    assert!(report.is_ok_and(|report| report.number.is_none()), "there is nothing to collect");
    assert!(cost.peak_bytes <= 1 << 30, "{cost:?}");

    let disk = noise(1, SIZE);
    let back_up_at = |night: u64| {
        let mut disk = disk.clone();
        disk[..SIZE / 8].copy_from_slice(&noise(night, SIZE / 8));
        disk
    };
    back_up(&writer, "vm00", MemoryDisk::new(back_up_at(2))).await.unwrap();
    let (report, cost) = measured("gc that writes a checkpoint", &repo, gc(&keeper, &OPTIONS, &told())).await;
    assert!(report.unwrap().committed);
    assert!(cost.peak_bytes <= 1 << 30, "{cost:?}");

    let folder = tempfile::tempdir().unwrap();
    let cached = |repository: &Repository| Repository {
        cache: Cache::new(folder.path().join("cache"), 1 << 30, |_| {}),
        ..repository.clone()
    };
    let warm = cached(&repo.as_writer().await);
    back_up(&warm, "vm00", MemoryDisk::new(back_up_at(3))).await.unwrap();
    gc(&keeper, &OPTIONS, &told()).await.unwrap();
    back_up(&cached(&repo.as_writer().await), "vm00", MemoryDisk::new(back_up_at(4))).await.unwrap();
    let warm = cached(&repo.as_writer().await);
    repo.store.move_away(AWAY_MS);
    let (report, cost) =
        measured("warm backup", &repo, back_up(&warm, "vm00", MemoryDisk::new(back_up_at(5)))).await;
    let report = report.unwrap();
    // A page of a listing has a thousand keys; what fills more of them are packs and lists that are needed.
    assert!(cost.requests <= 20 + cost.listed / PAGE && cost.cpu_seconds < CPU_SECONDS_MAX, "{cost:?}");

    let rescue = repo.reopen().await;
    let (log, cost) = measured("cold snapshots", &repo, Log::load_recent(&rescue, &told())).await;
    let log = log.unwrap();
    assert!(log.start() > nights() * MACHINES);
    assert!(log.snapshots().len() as u64 > 12 * MACHINES, "{}", log.snapshots().len());
    assert!(
        cost.requests <= 200 && cost.received_bytes <= 256 << 20 && cost.peak_bytes <= 512 << 20,
        "{cost:?}"
    );

    let rescue = repo.reopen().await;
    let session = report.snapshot.unwrap();
    let (bytes, cost) = measured("cold restore", &repo, dump_bytes(&rescue, session, "disk0")).await;
    assert!(bytes.unwrap() == back_up_at(5));
    assert!(
        cost.requests <= 200 && cost.received_bytes <= 256 << 20 && cost.peak_bytes <= 512 << 20,
        "{cost:?}"
    );
    repo.store.move_away(0);
    // An old one, made by the generator, opens as well.
    let old = log.snapshots()[0].session();
    let reader = restore::open(&rescue, &log, old).await.unwrap();
    assert!(reader.body().members.is_empty());
}
