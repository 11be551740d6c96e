//! Loads the index and looks chunks up.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use sancerre_engine::dedup::ReusePolicy;
use sancerre_engine::host::Host;
use sancerre_engine::index::{Index, Lookup};
use sancerre_engine::keys::Keys;
use sancerre_engine::location;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::catalogue::{Catalogue, Present};
use sancerre_engine::repository::log::Log;
use sancerre_engine::store::StoreOptions;
use sancerre_format::id::{ContentId, Place};

use crate::synthetic::{Chunks, PACK_CHUNKS};

const UNKNOWN: u64 = 2_000_000;
const KNOWN: u64 = 1_000_000;
/// Chunks of a region, asked for together, and how many regions.
const REGION_CHUNKS: u64 = 400;
const REGIONS: u64 = 50;

pub(crate) async fn run(dir: &Path, index_mib: u64) -> Result<()> {
    let started = Instant::now();
    let store = location::open(
        dir.join("repo").to_str().context("the path is not text")?,
        [],
        false,
        &StoreOptions::default(),
    )?;
    let keys = Keys::from_key_file(&std::fs::read(dir.join("writer.key"))?)?;
    let repository = Repository::open(store, Host::real("sancerre benches"), keys).await?;
    let log = Log::load(&repository).await?;
    let catalogue = Catalogue::load_all(&repository, &log).await?.0;
    let present = Present::load(&repository).await?;
    let packs = u64::try_from(catalogue.packs().count())?;
    let usable = ReusePolicy { own: None, avoid: log.avoid(Log::END)?, catalogue, present };
    let before = memory_kib("VmRSS")?;
    println!(
        "log, lists and listing of {packs} packs: {:.1} s, {} MiB",
        started.elapsed().as_secs_f64(),
        before / 1024
    );

    let started = Instant::now();
    let monitor = Monitor::new(|warning| println!("warning: {warning}"));
    let index = Index::load(&repository, &log, &usable, index_mib << 20, &monitor).await?;
    let taken = memory_kib("VmRSS")?.saturating_sub(before) * 1024;
    println!(
        "opened in {:.1} s, {} runs, {} MiB more",
        started.elapsed().as_secs_f64(),
        index.runs(),
        taken >> 20
    );

    let chunks = Chunks(packs * PACK_CHUNKS);
    println!("{:.3} bytes a chunk, measured as growth of VmRSS", taken as f64 / chunks.0 as f64);
    filter(&index, chunks)?;
    pages(&repository, &usable, &index, chunks).await?;
    println!("VmHWM {} MiB", memory_kib("VmHWM")? / 1024);
    Ok(())
}

/// In memory: unknown ids that pass, known ids that must.
fn filter(index: &Index, chunks: Chunks) -> Result<()> {
    let id = |number: u64| ContentId(*blake3::hash(&(u64::MAX - number).to_be_bytes()).as_bytes());
    let started = Instant::now();
    let wrong = (0..UNKNOWN).filter(|number| index.find(&id(*number)) != Lookup::Unknown).count();
    let rate = UNKNOWN as f64 / started.elapsed().as_secs_f64();
    println!(
        "{wrong} of {UNKNOWN} unknown ids pass: {:.3} %; {rate:.0} lookups/s",
        wrong as f64 / UNKNOWN as f64 * 100.0
    );
    let started = Instant::now();
    let step = (chunks.0 / KNOWN).max(1);
    let denied =
        (0..chunks.0 / step).filter(|at| index.find(&chunks.entry(at * step).id) == Lookup::Unknown).count();
    let rate = KNOWN as f64 / started.elapsed().as_secs_f64();
    println!("{denied} of {} known ids are denied; {rate:.0} lookups/s", chunks.0 / step);
    ensure!(denied == 0, "the filter denies what is there");
    Ok(())
}

/// With pages: regions of known chunks that lie anywhere, each compared with what was stored.
async fn pages(repository: &Repository, usable: &ReusePolicy, index: &Index, chunks: Chunks) -> Result<()> {
    let started = Instant::now();
    for region in 0..REGIONS {
        let number = |at: u64| (region * REGION_CHUNKS + at).wrapping_mul(0x9e37_79b9_7f4a_7c15) % chunks.0;
        let wanted: Vec<_> = (0..REGION_CHUNKS).map(|at| chunks.entry(number(at))).collect();
        let ids: Vec<ContentId> = wanted.iter().map(|entry| entry.id).collect();
        let found = index.resolve(repository, usable, &Monitor::silent(), &ids).await?;
        let found: HashMap<ContentId, Place> = found.into_iter().map(|(id, word)| (id, word.place)).collect();
        ensure!(wanted.iter().all(|entry| found.get(&entry.id) == Some(&entry.place)), "a wrong place");
    }
    let each = started.elapsed().as_secs_f64() / REGIONS as f64;
    println!("a region of {REGION_CHUNKS} known chunks, each on a page of its own: {:.0} ms", each * 1000.0);
    Ok(())
}

fn memory_kib(field: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()).context("no such field")?;
    Ok(number.parse()?)
}
