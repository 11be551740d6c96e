//! What the parts of a scan cost per byte, on one disk's data.

use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::path::PathBuf;

use anyhow::Result;
use sancerre_format::chunk::{Chunker, PieceKind, is_zero};
use sancerre_format::config::Layout;

use crate::ledger::cpu_time;
use crate::rules::CUT_KEY;

/// The best of this many runs counts.
const RUNS: usize = 7;

const SAMPLE_BYTES: usize = 256 << 20;

/// Prints GB/s of each step over the first disk's data.
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

/// The first blocks of the first disk that are not zeros.
fn sample(disks: &[PathBuf]) -> Result<Vec<u8>> {
    let mut file = File::open(&disks[0])?;
    let mut data = Vec::with_capacity(SAMPLE_BYTES);
    let mut block = [0; 4096];
    while data.len() < SAMPLE_BYTES && file.read_exact(&mut block).is_ok() {
        if !is_zero(&block) {
            data.extend_from_slice(&block);
        }
    }
    anyhow::ensure!(!data.is_empty(), "{} holds nothing but zeros", disks[0].display());
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
