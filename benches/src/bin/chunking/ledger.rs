//! What one rule makes of the disks: its chunks, the new ones among them, their compressed frames, its time.

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};
use zstd::bulk::Compressor;

use crate::rules::Rule;

const FRAME_BYTES: usize = 1 << 20;
const ZSTD_LEVEL: i32 = 3;

pub(crate) struct Ledger {
    name: String,
    rule: Rule,
    known: HashSet<[u8; 32]>,
    chunks: u64,
    chunk_bytes: u64,
    unique_bytes: u64,
    stored_bytes: u64,
    cut_time: Duration,
    frame: Vec<u8>,
    /// None: sizes only, no compression.
    compressor: Option<Compressor<'static>>,
    ranges: Vec<Range<usize>>,
}

impl Ledger {
    pub(crate) fn new(name: String, rule: Rule, store: bool) -> Result<Self> {
        let compressor = if store { Some(Compressor::new(ZSTD_LEVEL)?) } else { None };
        Ok(Self {
            name,
            rule,
            known: HashSet::new(),
            chunks: 0,
            chunk_bytes: 0,
            unique_bytes: 0,
            stored_bytes: 0,
            cut_time: Duration::ZERO,
            frame: Vec::new(),
            compressor,
            ranges: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, region: &[u8]) -> Result<()> {
        let mut ranges = std::mem::take(&mut self.ranges);
        ranges.clear();
        self.cut_time += cpu_time(|| self.rule.cut(region, &mut ranges));
        for range in &ranges {
            self.add_chunk(&region[range.clone()])?;
        }
        self.ranges = ranges;
        self.close_frame()
    }

    fn add_chunk(&mut self, chunk: &[u8]) -> Result<()> {
        self.chunks += 1;
        self.chunk_bytes += chunk.len() as u64;
        if !self.known.insert(*blake3::hash(chunk).as_bytes()) {
            return Ok(());
        }
        self.unique_bytes += chunk.len() as u64;
        if self.compressor.is_none() {
            return Ok(());
        }
        if self.frame.len() + chunk.len() > FRAME_BYTES {
            self.close_frame()?;
        }
        self.frame.extend_from_slice(chunk);
        Ok(())
    }

    fn close_frame(&mut self) -> Result<()> {
        if let Some(compressor) = &mut self.compressor
            && !self.frame.is_empty()
        {
            self.stored_bytes += compressor.compress(&self.frame)?.len() as u64;
            self.frame.clear();
        }
        Ok(())
    }

    fn row(&self) -> String {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let unique = self.known.len();
        let stored =
            if self.compressor.is_some() { format!("{:.1}", mib(self.stored_bytes)) } else { "-".into() };
        format!(
            "| {} | {} | {unique} | {:.1} | {:.1} | {stored} | {:.1} |",
            self.name,
            self.chunks,
            mib(self.unique_bytes) * 1024.0 / unique as f64,
            mib(self.unique_bytes),
            self.chunk_bytes as f64 / self.cut_time.as_secs_f64() / 1e9,
        )
    }
}

pub(crate) fn print_table(ledgers: &[Ledger], disks: usize) {
    println!("{disks} disks\n");
    println!("| rule | chunks | unique chunks | mean KiB | unique MiB | stored MiB | cut GB/s |");
    println!("|---|---|---|---|---|---|---|");
    for ledger in ledgers {
        println!("{}", ledger.row());
    }
}

/// CPU time that this thread spends in `work`.
pub(crate) fn cpu_time(work: impl FnOnce()) -> Duration {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
    let start = now();
    work();
    now() - start
}
