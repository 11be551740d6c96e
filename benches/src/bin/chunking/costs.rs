//! What the parts of a scan cost per byte, on one disk's data.

use std::fs::File;
use std::hint::black_box;
use std::path::PathBuf;

use anyhow::Result;
use sancerre_format::chunk::{Chunker, PieceKind, is_zero};
use sancerre_format::config::Layout;

use crate::ledger::cpu_time;
use crate::rules::CUT_KEY;
use crate::{REGION_BYTES, read};

/// The best of this many runs counts.
const RUNS: usize = 5;

/// Prints GB/s of each step over the first regions of the first disk that hold little but data.
pub(crate) fn print_table(disks: &[PathBuf]) -> Result<()> {
    let data = sample(disks)?;
    let disk = Chunker::disk(&CUT_KEY, Layout::default().disk)?;
    let stream = Chunker::stream(&CUT_KEY, Layout::default().stream)?;
    let zeros = vec![0; data.len()];
    let chunks = lengths(&disk, &data);
    println!("\n| step, over {} MiB | GB/s | ns per 4 KiB |\n|---|---|---|", data.len() >> 20);
    let row = |name: &str, bytes: &[u8], work: &dyn Fn(&[u8])| {
        let best = (0..RUNS).map(|_| cpu_time(|| work(bytes))).min().unwrap_or_default();
        let nanos = best.as_nanos() as f64;
        println!(
            "| {name} | {:.1} | {:.0} |",
            bytes.len() as f64 / nanos,
            nanos * 4096.0 / bytes.len() as f64
        );
    };
    let each_block = |bytes: &[u8], work: &dyn Fn(&[u8])| bytes.chunks(4096).for_each(work);
    row("BLAKE3, 128 KiB at a time", &data, &|bytes| {
        bytes.chunks(128 << 10).for_each(|chunk| {
            black_box(blake3::hash(chunk));
        });
    });
    row("zero test of zeros", &zeros, &|bytes| {
        black_box(is_zero(bytes));
    });
    row("zero test of data, block by block", &data, &|bytes| {
        each_block(bytes, &|block| {
            black_box(is_zero(block));
        });
    });
    row("PRF of every block", &data, &|bytes| {
        each_block(bytes, &|block| {
            black_box(blake3::keyed_hash(&CUT_KEY, &block[block.len() - 64..]));
        });
    });
    row("disk: next_piece", &data, &|bytes| {
        black_box(lengths(&disk, bytes));
    });
    row("disk: confirms, known chunks", &data, &|bytes| {
        let mut window = bytes;
        for &(kind, length) in &chunks {
            assert!(kind == PieceKind::Zeros || disk.confirms(window, length));
            window = &window[length..];
        }
    });
    row("stream: next_piece", &data, &|bytes| {
        black_box(lengths(&stream, bytes));
    });
    Ok(())
}

fn sample(disks: &[PathBuf]) -> Result<Vec<u8>> {
    let file = File::open(&disks[0])?;
    let size_bytes = usize::try_from(file.metadata()?.len())?;
    let mut data = Vec::new();
    for start in (0..size_bytes - REGION_BYTES).step_by(REGION_BYTES) {
        let region = read(&file, start, REGION_BYTES)?;
        let zero_blocks = region.chunks(4096).filter(|block| is_zero(block)).count();
        if zero_blocks < 256 && data.len() < 8 * REGION_BYTES {
            data.extend_from_slice(&region);
        }
    }
    anyhow::ensure!(!data.is_empty(), "{} has no region full of data", disks[0].display());
    Ok(data)
}

fn lengths(chunker: &Chunker, region: &[u8]) -> Vec<(PieceKind, usize)> {
    let mut window = region;
    let mut lengths = Vec::new();
    while let Some(piece) = chunker.next_piece(window) {
        lengths.push((piece.kind, piece.length_bytes));
        window = &window[piece.length_bytes..];
    }
    lengths
}
