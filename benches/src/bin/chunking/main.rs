//! Compares chunking rules on real disks and prints Markdown tables: `docs/decisions/0002-chunking.md` is made with it.
//!
//! ```text
//! cargo run --release -p sancerre-benches --bin chunking -- [--no-store] [--only <text>] <directory of night-*/*.raw>
//! ```
//!
//! Disks are read in order of night and name, in regions of 32 MiB that no chunk crosses. Each rule keeps its own set of
//! known chunks (exact, by BLAKE3) and packs new ones into frames of up to 1 MiB, flushed at region ends, zstd level 3.
//! Times are CPU time of the thread, so other work on the machine disturbs them little.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a table is what this program is for")]

mod costs;
mod ledger;
mod rejoin;
mod rules;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, ensure};
use ledger::Ledger;
use sancerre_format::chunk::is_zero;

const REGION_BYTES: usize = 32 << 20;

struct Arguments {
    store: bool,
    only: Option<String>,
    nights: PathBuf,
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let disks = disks(&arguments.nights)?;
    let wanted = |name: &str| arguments.only.as_deref().is_none_or(|only| name.contains(only));
    let mut ledgers: Vec<Ledger> = rules::all()?
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, rule)| Ledger::new(name, rule, arguments.store))
        .collect::<Result<_>>()?;
    ensure!(!ledgers.is_empty(), "no rule's name contains {:?}", arguments.only);
    for disk in &disks {
        scan(disk, &mut ledgers)?;
    }
    ledger::print_table(&ledgers, disks.len());
    rejoin::print_table(wanted)?;
    costs::print_table(&disks)
}

fn arguments() -> Result<Arguments> {
    let mut parsed = Arguments { store: true, only: None, nights: PathBuf::new() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--no-store" => parsed.store = false,
            "--only" => parsed.only = Some(arguments.next().context("--only needs a part of a rule's name")?),
            _ => parsed.nights = PathBuf::from(argument),
        }
    }
    ensure!(
        parsed.nights.is_dir(),
        "usage: chunking [--no-store] [--only <text>] <directory of night-*/*.raw>"
    );
    Ok(parsed)
}

/// `night-*/*.raw`, by night, then by name.
fn disks(nights: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for night in fs::read_dir(nights).with_context(|| format!("listing {}", nights.display()))? {
        let night = night?;
        if !night.file_name().to_string_lossy().starts_with("night-") {
            continue;
        }
        for file in fs::read_dir(night.path())? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "raw") {
                found.push(path);
            }
        }
    }
    found.sort();
    ensure!(!found.is_empty(), "no night-*/*.raw in {}", nights.display());
    Ok(found)
}

/// Feeds one disk to all rules, half of them on each of two threads.
fn scan(disk: &Path, ledgers: &mut [Ledger]) -> Result<()> {
    let file = File::open(disk).with_context(|| format!("opening {}", disk.display()))?;
    let size_bytes = usize::try_from(file.metadata()?.len())?;
    eprintln!("{}", disk.display());
    let half = ledgers.len().div_ceil(2);
    let mut buffer = vec![0; REGION_BYTES];
    for start in (0..size_bytes).step_by(REGION_BYTES) {
        let region = &mut buffer[..REGION_BYTES.min(size_bytes - start)];
        file.read_exact_at(region, u64::try_from(start)?)?;
        let region: &[u8] = region;
        if is_zero(region) {
            continue;
        }
        rules::check_chosen(region)?;
        thread::scope(|scope| {
            let work = |ledgers: &mut [Ledger]| ledgers.iter_mut().try_for_each(|ledger| ledger.add(region));
            let threads: Vec<_> =
                ledgers.chunks_mut(half).map(|part| scope.spawn(move || work(part))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("a rule panicked"))
        })?;
    }
    Ok(())
}
