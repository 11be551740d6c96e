//! Where the clusters of the disk are in the new image.
//!
//! Invariants: host clusters are handed out in order and once; what was never written in one reads as zeros, because
//! the file grew over it. An entry is set under the lock before its bytes are written without it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::positional::length;

pub(super) const CLUSTER_BITS: u32 = 16;
pub(super) const CLUSTER_BYTES: u64 = 1 << CLUSTER_BITS;
pub(super) const CLUSTER_LENGTH: usize = 1 << CLUSTER_BITS;
const ENTRIES: u64 = CLUSTER_BYTES / 8;
pub(super) const TABLE_COVERS_BYTES: u64 = CLUSTER_BYTES * ENTRIES;

/// In an L1 or L2 entry: nothing else refers to what it points to.
pub(super) const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Of version 3: the cluster reads as zeros.
const ZERO: u64 = 1;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Where the number of sectors stands in a compressed entry.
const SECTORS_AT: u32 = 62 - (CLUSTER_BITS - 8);
const SECTOR_BYTES: u64 = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WrittenPlace {
    Nowhere,
    Plain { host: u64 },
    Compressed { host: u64, length_bytes: u64 },
}

/// Bytes of a write that go to one place.
#[derive(Debug)]
pub(super) struct Run {
    pub bytes: Range<usize>,
    pub host: u64,
}

#[derive(Debug)]
pub(super) struct Map {
    /// Where the L2 tables are; zero where there is none.
    pub l1: Vec<u64>,
    /// The first cluster of the file that is not handed out. The header has the cluster 0.
    pub next: u64,
    /// Where the next compressed cluster goes, in the last cluster that was handed out for such; else on a boundary.
    tail: u64,
    /// How many compressed clusters are in a cluster of the file. Those behind its end hold one thing each.
    shared: Vec<u16>,
}

impl Map {
    pub(super) fn new(disk_bytes: u64) -> Self {
        let l1 = vec![0; to_usize(disk_bytes.div_ceil(TABLE_COVERS_BYTES))];
        Self { l1, next: 1, tail: 0, shared: Vec::new() }
    }

    /// How often the cluster of the file with this number is referred to.
    pub(super) fn references(&self, host_cluster: u64) -> u16 {
        self.shared.get(to_usize(host_cluster)).copied().unwrap_or(1)
    }

    pub(super) fn place(&self, file: &File, cluster: u64) -> io::Result<WrittenPlace> {
        let entry = self.entries(file, cluster, 1)?.first().copied().unwrap_or(0);
        if entry & COMPRESSED != 0 {
            let host = entry & (1u64 << SECTORS_AT).wrapping_sub(1);
            let sectors = (entry & !COMPRESSED & !COPIED) >> SECTORS_AT;
            let bytes = sectors.saturating_add(1).saturating_mul(SECTOR_BYTES);
            // The file need not have the last sector whole.
            let room = self.next.saturating_mul(CLUSTER_BYTES).saturating_sub(host);
            let length_bytes = bytes.saturating_sub(host % SECTOR_BYTES).min(room);
            return Ok(WrittenPlace::Compressed { host, length_bytes });
        }
        let host = entry & OFFSET;
        Ok(if host == 0 { WrittenPlace::Nowhere } else { WrittenPlace::Plain { host } })
    }

    /// Where the bytes of a write go that touches one L2 table only. Zeros that are nowhere stay nowhere.
    pub(super) fn allocate_for(&mut self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<Vec<Run>> {
        let first = offset / CLUSTER_BYTES;
        let last = offset.saturating_add(length(bytes)).saturating_sub(1) / CLUSTER_BYTES;
        let mut entries = self.entries(file, first, last.saturating_sub(first).saturating_add(1))?;
        let (mut runs, mut at, mut is_new) = (Vec::<Run>::new(), 0usize, false);
        let mut within = offset % CLUSTER_BYTES;
        for entry in &mut entries {
            let end = at.saturating_add(to_usize(CLUSTER_BYTES.saturating_sub(within))).min(bytes.len());
            let piece = bytes.get(at..end).unwrap_or_default();
            if *entry == 0 && !is_zero(piece) {
                *entry = self.hand_out().saturating_mul(CLUSTER_BYTES) | COPIED;
                is_new = true;
            }
            let host = (*entry & OFFSET).saturating_add(within);
            if *entry != 0 {
                push(&mut runs, Run { bytes: at..end, host });
            }
            (at, within) = (end, 0);
        }
        if is_new {
            self.set(file, first, &entries)?;
        }
        Ok(runs)
    }

    /// Puts a whole cluster into a new cluster of the file. What was there before is given up.
    pub(super) fn replace(&mut self, file: &File, cluster: u64, bytes: &[u8]) -> io::Result<()> {
        match self.place(file, cluster)? {
            WrittenPlace::Nowhere => {}
            WrittenPlace::Plain { host } => return file.write_all_at(bytes, host),
            WrittenPlace::Compressed { host, length_bytes } => {
                self.refer(host, length_bytes, |count| count.checked_sub(1))?;
            }
        }
        let host = self.hand_out().saturating_mul(CLUSTER_BYTES);
        self.set(file, cluster, &[host | COPIED])?;
        file.write_all_at(bytes, host)
    }

    /// Makes a cluster zeros, whatever a backing file has there. It must be nowhere yet.
    pub(super) fn set_zero(&mut self, file: &File, cluster: u64) -> io::Result<()> {
        self.set(file, cluster, &[ZERO])
    }

    /// A place for `length_bytes` of compressed bytes, fewer than a cluster has. It may go over into the next cluster
    /// of the file, when that is handed out now.
    pub(super) fn append(&mut self, file: &File, cluster: u64, length_bytes: u64) -> io::Result<u64> {
        let room = self.tail.next_multiple_of(CLUSTER_BYTES).saturating_sub(self.tail);
        let is_last = self.tail / CLUSTER_BYTES == self.next.saturating_sub(1);
        if length_bytes > room {
            let new = self.hand_out();
            self.shared.resize(to_usize(new), 1);
            self.shared.push(0);
            if room == 0 || !is_last {
                self.tail = new.saturating_mul(CLUSTER_BYTES);
            }
        }
        let host = self.tail;
        self.tail = host.saturating_add(length_bytes);
        self.refer(host, length_bytes, |count| count.checked_add(1))?;
        let end = self.tail.saturating_sub(1);
        let more_sectors = (end / SECTOR_BYTES).saturating_sub(host / SECTOR_BYTES);
        self.set(file, cluster, &[host | (more_sectors << SECTORS_AT) | COMPRESSED])?;
        Ok(host)
    }

    /// Changes the counts of the clusters of the file under `length_bytes` from `host`.
    fn refer(&mut self, host: u64, length_bytes: u64, change: impl Fn(u16) -> Option<u16>) -> io::Result<()> {
        let last = host.saturating_add(length_bytes).saturating_sub(1) / CLUSTER_BYTES;
        for touched in host / CLUSTER_BYTES..=last {
            let wrong =
                || io::Error::other("the count of a cluster is impossible; this is a bug, please report it");
            let count = self.shared.get_mut(to_usize(touched)).ok_or_else(wrong)?;
            *count = change(*count).ok_or_else(wrong)?;
        }
        Ok(())
    }

    fn hand_out(&mut self) -> u64 {
        let cluster = self.next;
        self.next = cluster.saturating_add(1);
        cluster
    }

    /// `count` entries from that of `cluster` on, all in one table.
    fn entries(&self, file: &File, cluster: u64, count: u64) -> io::Result<Vec<u64>> {
        let table = self.l1.get(to_usize(cluster / ENTRIES)).copied().unwrap_or(0);
        if table == 0 {
            return Ok(vec![0; to_usize(count)]);
        }
        let mut bytes = vec![0; to_usize(count.saturating_mul(8))];
        let at = table.saturating_add((cluster % ENTRIES).saturating_mul(8));
        file.read_exact_at(&mut bytes, at)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry)).collect())
    }

    fn set(&mut self, file: &File, cluster: u64, entries: &[u64]) -> io::Result<()> {
        let index = to_usize(cluster / ENTRIES);
        let mut table = self.l1.get(index).copied().unwrap_or(0);
        if table == 0 {
            table = self.hand_out().saturating_mul(CLUSTER_BYTES);
            // Whole from the start, so that it can be read.
            file.write_all_at(&[0; CLUSTER_LENGTH], table)?;
            let wrong = || io::Error::other("a cluster past the end; this is a bug, please report it");
            *self.l1.get_mut(index).ok_or_else(wrong)? = table;
        }
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        file.write_all_at(&bytes, table.saturating_add((cluster % ENTRIES).saturating_mul(8)))
    }
}

/// Adds a run, or makes the last one longer.
fn push(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last)
            if last.bytes.end == run.bytes.start
                && last.host.saturating_add(u64::try_from(last.bytes.len()).unwrap_or(0)) == run.host =>
        {
            last.bytes.end = run.bytes.end;
        }
        _ => runs.push(run),
    }
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

pub(super) fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
