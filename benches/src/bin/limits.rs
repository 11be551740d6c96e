//! The least work that a backup has to do, as programs to measure against.
//!
//! - `limits hash FILE...`: reads the data of sparse files with two threads and hashes it: a re-scan cannot be faster.
//! - `limits new OUT NIGHT...`: writes `OUT/new-K`, the 4 KiB blocks of folder K that no disk held before:
//!   what any backup has to compress. Sub-block changes make real backups store more.
#![allow(clippy::print_stdout)]

use anyhow::{Context, Result, bail};
use rustix::fs::{SeekFrom, seek};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

const THREADS: usize = 2;
/// One unit of parallel work, as long as a region of a backup.
const PART_BYTES: u64 = 32 << 20;
const READ_BYTES: usize = 1 << 20;
const BLOCK_BYTES: usize = 4096;

/// A stretch of a file without holes, at most `PART_BYTES` long.
struct Part {
    file: usize,
    range: Range<u64>,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["hash", files @ ..] if !files.is_empty() => hash(files),
        ["new", out, nights @ ..] if !nights.is_empty() => new_blocks(Path::new(out), nights),
        _ => bail!("usage: limits hash FILE... | limits new OUT NIGHT..."),
    }
}

fn hash(paths: &[&str]) -> Result<()> {
    let files = paths.iter().map(|path| open(Path::new(path))).collect::<Result<Vec<File>>>()?;
    let mut parts = Vec::new();
    for (index, file) in files.iter().enumerate() {
        parts.extend(data_parts(file)?.into_iter().map(|range| Part { file: index, range }));
    }
    let next = AtomicUsize::new(0);
    let work = || hash_parts(&files, &parts, &next);
    let digests = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let results =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")));
        results.collect::<Result<Vec<blake3::Hash>>>()
    })?;
    let bytes: u64 = parts.iter().map(|part| part.range.end - part.range.start).sum();
    println!("{bytes} bytes, digests of the threads: {digests:?}");
    Ok(())
}

/// Takes parts until none is left; the digest only keeps the compiler from leaving the work out.
fn hash_parts(files: &[File], parts: &[Part], next: &AtomicUsize) -> Result<blake3::Hash> {
    let mut buffer = vec![0; READ_BYTES];
    let mut hasher = blake3::Hasher::new();
    while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
        let file = &files[part.file];
        read_range(file, &part.range, &mut buffer, |bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
    }
    Ok(hasher.finalize())
}

fn new_blocks(out: &Path, nights: &[&str]) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let mut seen = HashSet::new();
    for (number, night) in nights.iter().enumerate() {
        let target = out.join(format!("new-{number}"));
        let file = File::create(&target).with_context(|| format!("cannot create {}", target.display()))?;
        let mut writer = BufWriter::with_capacity(READ_BYTES, file);
        for disk in disks(Path::new(night))? {
            copy_unseen(&disk, &mut seen, &mut writer)?;
        }
        writer.flush()?;
    }
    Ok(())
}

/// The raw disks in a folder, in order of their names.
fn disks(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = list.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "raw"));
    paths.sort();
    Ok(paths)
}

fn copy_unseen(disk: &Path, seen: &mut HashSet<[u8; 16]>, writer: &mut impl Write) -> Result<()> {
    let file = open(disk)?;
    let mut buffer = vec![0; READ_BYTES];
    for range in data_parts(&file)? {
        read_range(&file, &range, &mut buffer, |bytes| {
            for block in bytes.chunks(BLOCK_BYTES).filter(|block| block.iter().any(|byte| *byte != 0)) {
                let mut id = [0; 16];
                id.copy_from_slice(&blake3::hash(block).as_bytes()[..16]);
                if seen.insert(id) {
                    writer.write_all(block)?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// The file's data without its holes, cut at multiples of `PART_BYTES`.
fn data_parts(file: &File) -> Result<Vec<Range<u64>>> {
    let end = file.metadata()?.len();
    let mut parts = Vec::new();
    let mut at = 0;
    while at < end {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = seek(file, SeekFrom::Hole(start))?;
        at = hole.min((start / PART_BYTES + 1) * PART_BYTES);
        parts.push(start..at);
    }
    Ok(parts)
}

/// Hands the bytes of `range` to `take`, as many at a time as `buffer` holds.
fn read_range(
    file: &File,
    range: &Range<u64>,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let wanted = usize::try_from(range.end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        let piece = &mut buffer[..wanted];
        file.read_exact_at(piece, at).with_context(|| format!("cannot read {wanted} bytes at {at}"))?;
        take(piece)?;
        at += wanted as u64;
    }
    Ok(())
}
