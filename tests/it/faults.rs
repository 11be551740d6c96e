//! Thousands of faults from seeds: nothing that was reported as saved is lost, nothing wrong is taken for right, nothing
//! hangs. A slice runs here; `cargo xtask faults` runs the whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use object_store::memory::InMemory;
use sancerre_engine::location;
use sancerre_engine::repository::Repository;
use sancerre_engine::store::{Store, StoreOptions};
use sancerre_services::seaweedfs;
use sancerre_tests::disk::{MemoryDisk, guest};
use sancerre_tests::faults::FaultStore;
use sancerre_tests::host::host;
use sancerre_tests::model::{Model, assert_same};
use sancerre_tests::proxy::Proxy;
use sancerre_tests::repo::{back_up, dump_bytes, make};

use crate::block_on;

const SIZE: usize = 3 << 20;
/// How many faults there are to be: the variable, or a slice for every day.
const WANTED: &str = "SANCERRE_FAULTS";

fn wanted(slice: u64) -> u64 {
    std::env::var(WANTED).map_or(slice, |number| number.parse().unwrap())
}

/// What one seed came to.
#[derive(Default)]
struct Tally {
    saved: u64,
    refused: u64,
    faults: u64,
    restored: u64,
    unrestored: u64,
    /// Why the last refused backup was refused.
    why: String,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.saved += other.saved;
        self.refused += other.refused;
        self.faults += other.faults;
        self.restored += other.restored;
        self.unrestored += other.unrestored;
    }
}

/// Nights and restores through faults. `repository` sees the store as it is, `faulty` through them.
async fn live_through(seed: u64, repository: &Repository, faulty: &Repository, tally: &mut Tally) {
    let mut model = Model::default();
    for night in 0..3 {
        let disk = guest(seed * 10 + night, SIZE);
        match back_up(faulty, "web01", MemoryDisk::new(disk.clone())).await {
            Ok(report) => {
                tally.saved += 1;
                model.add_disk(report.snapshot.unwrap(), &disk);
            }
            Err(error) => {
                tally.refused += 1;
                tally.why = error.to_string();
            }
        }
        for (session, disks) in &model.snapshots {
            match dump_bytes(faulty, *session, "disk0").await {
                Ok(found) => {
                    tally.restored += 1;
                    assert_same(
                        &found,
                        &disks[0].1,
                        &format!("seed {seed}, night {night}: a restore that succeeded"),
                    );
                }
                Err(_) => tally.unrestored += 1,
            }
        }
    }
    // With the line mended every snapshot that was reported is there, whole.
    model.check(repository).await;
}

fn report(what: &str, seeds: u64, tally: &Tally) {
    #[allow(clippy::print_stdout)]
    {
        println!(
            "{what}: {} faults over {seeds} seeds; {} backups saved, {} refused; {} restores right, {} refused; nothing wrong",
            tally.faults, tally.saved, tally.refused, tally.restored, tally.unrestored
        );
    }
    assert!(tally.saved > 0 && tally.restored > 0, "nothing ever worked, so nothing was shown");
}

async fn in_memory(seed: u64) -> Tally {
    let memory: Arc<dyn object_store::ObjectStore> = Arc::new(InMemory::new());
    let plain = Store::new(memory.clone(), "memory");
    let (host, _) = host(seed);
    let repository = make(&plain, &host).await.unwrap();
    // Every other seed without wrong bytes: then everything must succeed in the end.
    let faults = FaultStore::new(memory, seed, 3 + seed % 5, seed % 2 == 1);
    let store = Store::new(faults.clone(), "faulty");
    let faulty = Repository { store, ..repository.clone() };
    let mut tally = Tally::default();
    live_through(seed, &repository, &faulty, &mut tally).await;
    tally.faults = faults.faults();
    // A restore may miss a list that is not listed yet, and says so; a backup has no such excuse.
    assert!(seed % 2 == 1 || tally.refused == 0, "seed {seed}: {}", tally.why);
    tally
}

#[test]
fn in_memory_by_seed() {
    let (wanted, mut tally, mut seed) = (wanted(2_000), Tally::default(), 0);
    while tally.faults < wanted {
        // Hours on a clock that jumps over pauses: what is longer hangs.
        let limit = Duration::from_secs(24 * 3600);
        tally.add(
            &block_on(async { tokio::time::timeout(limit, in_memory(seed)).await })
                .unwrap_or_else(|_| panic!("seed {seed} hangs")),
        );
        seed += 1;
    }
    report("store in memory", seed, &tally);
}

/// Faults of the network in front of a real S3 server, on a plain bucket and on one that keeps versions.
#[tokio::test]
async fn in_front_of_a_server() {
    let Some(server) = seaweedfs() else { return };
    let versioned = server.bucket(seaweedfs::Bucket::Versioned).unwrap();
    let (wanted, mut tally, seeds) = (wanted(4_000) / 20, Tally::default(), AtomicU64::new(0));
    while tally.faults < wanted {
        let seed = seeds.fetch_add(1, Ordering::Relaxed);
        let place = if seed % 2 == 0 { server.location() } else { format!("s3://{versioned}/{seed}") };
        let plain =
            location::open(&place, server.variables(seaweedfs::ADMIN), false, &StoreOptions::default());
        let repository = make(&plain.unwrap(), &host(seed).0).await.unwrap();
        let proxy = Proxy::dicing(server.port(), seed, 4 + seed % 5).await;
        let options = StoreOptions {
            stall: Duration::from_millis(500),
            retry_for: Duration::from_secs(60),
            ..StoreOptions::default()
        };
        let variables = seaweedfs::variables(&proxy.endpoint(), seaweedfs::ADMIN);
        let store = location::open(&place, variables, false, &options).unwrap();
        let faulty = Repository { store, ..repository.clone() };
        let limit = Duration::from_secs(240);
        let mut of_seed = Tally::default();
        let lived = tokio::time::timeout(limit, live_through(seed, &repository, &faulty, &mut of_seed)).await;
        assert!(lived.is_ok(), "seed {seed} hangs");
        of_seed.faults = proxy.faults();
        tally.add(&of_seed);
    }
    report("S3 server behind a proxy", seeds.into_inner(), &tally);
}
