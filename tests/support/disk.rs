//! Disks in memory, plain enough to be the model that a repository is compared with.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sancerre_image::{ChangedError, Disk, ReadError};

/// A disk that is a byte vector; its holes are whatever the vector holds as whole zero blocks.
#[derive(Default)]
pub struct MemoryDisk {
    bytes: Vec<u8>,
    sparse: bool,
    changed: AtomicBool,
    reads: AtomicU64,
    read: Mutex<Vec<Range<u64>>>,
    changes_at_read: Option<u64>,
    unreadable: Vec<Range<u64>>,
    shrunk_to: Option<u64>,
    watcher: Option<Watcher>,
}

type Watcher = Box<dyn Fn(u64) + Send + Sync>;

impl MemoryDisk {
    pub fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { bytes, sparse: true, ..Self::default() })
    }

    /// The same bytes without telling of holes.
    pub fn dense(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { bytes, ..Self::default() })
    }

    /// A disk with a bad block at `offset`.
    pub fn unreadable(bytes: Vec<u8>, offset: u64) -> Arc<Self> {
        Self::dying(bytes, std::slice::from_ref(&(offset..offset + 4096)))
    }

    /// A disk of which some ranges cannot be read.
    pub fn dying(bytes: Vec<u8>, unreadable: &[Range<u64>]) -> Arc<Self> {
        Arc::new(Self { bytes, unreadable: unreadable.to_vec(), ..Self::default() })
    }

    /// A disk that somebody writes to during the read with this number, from 0.
    pub fn changing(bytes: Vec<u8>, read: u64) -> Arc<Self> {
        Arc::new(Self { bytes, changes_at_read: Some(read), ..Self::default() })
    }

    /// A disk that tells the number of each read, from 0.
    pub fn watched(bytes: Vec<u8>, watcher: impl Fn(u64) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { bytes, watcher: Some(Box::new(watcher)), ..Self::default() })
    }

    /// A disk that was cut to `size` after it was opened.
    pub fn shrunk(bytes: Vec<u8>, size: u64) -> Arc<Self> {
        Arc::new(Self { bytes, shrunk_to: Some(size), ..Self::default() })
    }

    /// What was read since this was last asked.
    pub fn take_read(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut self.read.lock().unwrap())
    }

    fn note(&self, offset: u64, end: u64) -> u64 {
        self.read.lock().unwrap().push(offset..end);
        let number = self.reads.fetch_add(1, Ordering::Relaxed);
        self.watcher.iter().for_each(|watcher| watcher(number));
        number
    }

    /// From now on it says that it was written to.
    pub fn touch(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }
}

impl Disk for MemoryDisk {
    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let end = offset + buffer.len() as u64;
        let number = self.note(offset, end);
        if self.changes_at_read == Some(number) {
            self.touch();
        }
        if let Some(now_bytes) = self.shrunk_to.filter(|size| end > *size) {
            let opened_bytes = self.size_bytes();
            return Err(ReadError::Shrank { path: self.path().to_owned(), opened_bytes, now_bytes });
        }
        if let Some(bad) = self.unreadable.iter().find(|bad| bad.start < end && offset < bad.end) {
            return Err(ReadError::Unreadable {
                path: self.path().to_owned(),
                offset: bad.start.max(offset),
                length_bytes: 4096,
                source: std::io::Error::other("input/output error"),
            });
        }
        buffer.copy_from_slice(&self.bytes[offset as usize..end as usize]);
        Ok(())
    }

    fn read_what_reads(&self, offset: u64, buffer: &mut [u8]) -> Result<Vec<Range<u64>>, ReadError> {
        let end = offset + buffer.len() as u64;
        self.note(offset, end);
        buffer.copy_from_slice(&self.bytes[offset as usize..end as usize]);
        let clipped = |bad: &Range<u64>| bad.start.max(offset)..bad.end.min(end);
        let bad: Vec<Range<u64>> =
            self.unreadable.iter().map(clipped).filter(|bad| bad.start < bad.end).collect();
        for bad in &bad {
            buffer[(bad.start - offset) as usize..(bad.end - offset) as usize].fill(0);
        }
        Ok(bad)
    }

    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        if !self.sparse {
            return Ok(if range.is_empty() { Vec::new() } else { std::iter::once(range).collect() });
        }
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let end = (at / 4096 * 4096 + 4096).min(range.end);
            if self.bytes[at as usize..end as usize].iter().any(|byte| *byte != 0) {
                match ranges.last_mut() {
                    Some(last) if last.end == at => last.end = end,
                    _ => ranges.push(at..end),
                }
            }
            at = end;
        }
        Ok(ranges)
    }

    fn check_unchanged(&self) -> Result<(), ChangedError> {
        if self.changed.load(Ordering::Relaxed) {
            return Err(ChangedError::Modified { path: self.path().to_owned() });
        }
        Ok(())
    }

    fn path(&self) -> &Path {
        Path::new("memory")
    }
}

/// Pseudo-random bytes: nothing compresses them.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A disk with files of random sizes, some text, some noise, zero blocks between them.
pub fn guest(seed: u64, size: usize) -> Vec<u8> {
    let mut disk = vec![0; size];
    let mut at = 0;
    let mut salt = seed.wrapping_mul(1_000_003);
    while at < size {
        salt = salt.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let length = ((salt >> 33) as usize % 300_000 + 1).min(size - at);
        match (salt >> 20) % 4 {
            0 => {}
            1 => disk[at..at + length].copy_from_slice(&noise(salt, length)),
            _ => {
                let word = format!("patient {salt:x} visite urgence ");
                let pieces = disk[at..at + length].chunks_mut(word.len());
                pieces.for_each(|piece| piece.copy_from_slice(&word.as_bytes()[..piece.len()]));
            }
        }
        // Holes of a few blocks are where sparse and dense sources could differ.
        let hole = ((salt >> 40) as usize % 7) * 4096;
        at = (at + length).next_multiple_of(4096) + hole;
    }
    disk
}

/// A disk far larger than what is in it.
pub struct FarDisk {
    size_bytes: u64,
    /// Whole blocks of data, by where they start.
    parts: BTreeMap<u64, Vec<u8>>,
    /// Whether it says where the next data is, or has each stretch asked for.
    skips: bool,
}

impl FarDisk {
    /// With noise of so many bytes at these places.
    pub fn new(size_bytes: u64, places: &[u64], length: usize, skips: bool) -> Arc<Self> {
        let parts = places.iter().map(|at| (*at, noise(*at | 1, length))).collect();
        Arc::new(Self { size_bytes, parts, skips })
    }

    fn end(at: u64, bytes: &[u8]) -> u64 {
        at + bytes.len() as u64
    }
}

impl Disk for FarDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        buffer.fill(0);
        for data in self.data_ranges(offset..offset + buffer.len() as u64)? {
            let (at, bytes) = self.parts.range(..=data.start).next_back().unwrap();
            let from = &bytes[(data.start - at) as usize..(data.end - at) as usize];
            buffer[(data.start - offset) as usize..(data.end - offset) as usize].copy_from_slice(from);
        }
        Ok(())
    }

    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        let clipped =
            |(at, bytes): (&u64, &Vec<u8>)| range.start.max(*at)..range.end.min(Self::end(*at, bytes));
        Ok(self.parts.iter().map(clipped).filter(|data| !data.is_empty()).collect())
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>, ReadError> {
        if !self.skips {
            return Ok((offset < self.size_bytes).then_some(offset));
        }
        let next = self.parts.iter().find(|(at, bytes)| offset < Self::end(**at, bytes));
        Ok(next.map(|(at, _)| offset.max(*at)))
    }

    fn check_unchanged(&self) -> Result<(), ChangedError> {
        Ok(())
    }

    fn path(&self) -> &Path {
        Path::new("far")
    }
}
