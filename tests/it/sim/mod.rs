//! A repository's life under a seed: writers, keepers who forget, hold and take back, collectors, readers and somebody
//! with stolen write credentials act at once, on lines that fail, and die anywhere. Clocks jump, the index is lost.
//!
//! After every step each acknowledged snapshot that nobody asked to forget is listed and comes back bit for bit, and
//! one that was forgotten comes back whole or says that it is forgotten. In the end all that happened in the store is
//! judged once more by the protocol's rules alone ([`rules`]).
//!
//! `SANCERRE_SEED=n` runs one seed alone, `SANCERRE_SEEDS=n` the first n. A seed replays exactly: the trace has the names
//! and bytes of all objects of the zone after every step, and two runs have one trace.

mod actors;
mod attack;
mod liar;
mod rules;
mod staff;
mod truth;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::block_on;
use world::World;

/// Every day; `cargo xtask sim` runs more.
const SEEDS: u64 = 500;
const STEPS: usize = 14;
/// The clock stands still while anything can be done, so this passes at once when nothing can.
pub(super) const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

fn live(seed: u64) -> Vec<String> {
    block_on(async {
        let mut world = World::new(seed).await;
        for _ in 0..STEPS {
            if tokio::time::timeout(FOR_EVER * 2, world.step()).await.is_err() {
                panic!("a step never ends, after\n{}", world.trace.join("\n"));
            }
        }
        assert!(tokio::time::timeout(FOR_EVER * 2, world.settle()).await.is_ok(), "the last look never ends");
        rules::judge(&world.repo, world.junk.iter().chain(&world.strange));
        std::mem::take(&mut world.trace)
    })
}

/// On all cores, each thread with its own share. A seed that fails is named at once, the others go on; long runs say how
/// far they are.
#[allow(clippy::print_stderr)]
fn run_seeds(seeds: std::ops::Range<u64>) {
    let (next, failed) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            if seed.is_multiple_of(SEEDS) && seed > seeds.start {
                eprintln!("seed {seed}");
            }
            if std::panic::catch_unwind(|| live(seed)).is_err() {
                failed.fetch_add(1, Ordering::Relaxed);
                eprintln!("replay with SANCERRE_SEED={seed}");
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner();
    assert!(failed == 0, "{failed} seeds failed, each with its trace above");
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

#[test]
fn every_acknowledged_snapshot_restores_always() {
    match variable("SANCERRE_SEED") {
        Some(seed) => run_seeds(seed..seed + 1),
        None => {
            let first = variable("SANCERRE_FIRST_SEED").unwrap_or(0);
            run_seeds(first..first + variable("SANCERRE_SEEDS").unwrap_or(SEEDS));
        }
    }
}

#[test]
fn a_seed_replays() {
    let traces = [live(3), live(3)];
    assert!(traces[0].iter().any(|line| line.contains("saved as")));
    assert_eq!(traces[0], traces[1]);
    assert_ne!(traces[0], live(4));
}
