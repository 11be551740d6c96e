//! One image of a chain: its tables are read when they are needed, and its places found.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::Qcow2Fault as Fault;
use super::bytes::to_usize;
use super::cache::Cache;
use super::codec::decompress;
use super::header::Header;
use super::tables::ClusterPlace;
use crate::positional::{is_inside, length};
use crate::{Disk, ReadError};

/// What all images of a chain share.
#[derive(Debug)]
pub(super) struct Caches {
    pub tables: Cache,
    /// Decompressed clusters: reads that end inside one would otherwise decompress it again and again.
    pub clusters: Cache,
}

impl Caches {
    pub(super) fn new() -> Self {
        Self { tables: Cache::new(32 << 20), clusters: Cache::new(16 << 20) }
    }
}

/// An image, open for reading.
pub(super) struct Image {
    pub header: Header,
    /// The file that is the image.
    pub container: Arc<dyn Disk>,
    /// The file with the guest's clusters, when that is another one.
    pub data: Option<Arc<dyn Disk>>,
    /// Offsets of the L2 tables, zero where there is none.
    l1: Vec<u64>,
    /// Which in the chain.
    pub number: usize,
    /// The number of the file that is the image; the data file has the next one.
    file: usize,
    claims: Mutex<Claims>,
}

/// What the L2 tables that were read claim of the file, each counted once.
#[derive(Default)]
struct Claims {
    /// A bit for each table.
    counted: Vec<u64>,
    bytes: u64,
}

impl Claims {
    /// Adds what a table claims, and returns the sum.
    fn add(&mut self, number: usize, bytes: impl FnOnce() -> u64) -> u64 {
        let (word, bit) = (number / 64, 1 << (number % 64));
        if self.counted.len() <= word {
            self.counted.resize(word.saturating_add(1), 0);
        }
        if let Some(counted) = self.counted.get_mut(word).filter(|counted| **counted & bit == 0) {
            *counted |= bit;
            self.bytes = self.bytes.saturating_add(bytes());
        }
        self.bytes
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Image").field("header", &self.header).finish_non_exhaustive()
    }
}

/// Bytes of the guest that are at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub guest: Range<u64>,
    pub place: ClusterPlace,
}

impl Image {
    /// Reads the L1 table, all of whose entries are looked at before anything is read through them.
    pub(super) fn new(
        header: Header,
        container: Arc<dyn Disk>,
        data: Option<Arc<dyn Disk>>,
        number: usize,
        file: usize,
    ) -> Result<Self, ReadError> {
        let claims = Mutex::default();
        let mut image = Self { header, container, data, l1: Vec::new(), number, file, claims };
        let mut table = vec![0; to_usize(image.l1_bytes())];
        // An empty disk has no table, wherever it says that it is.
        if !table.is_empty() {
            image.container.read_at(image.header.l1_offset, &mut table)?;
        }
        image.l1 = image.l2_offsets(&table).map_err(|fault| image.fault(fault))?;
        drop(table);
        image.refuse_shared_tables().map_err(|fault| image.fault(fault))?;
        Ok(image)
    }

    fn l1_bytes(&self) -> u64 {
        self.header.l1_entries.saturating_mul(8)
    }

    fn l2_offsets(&self, table: &[u8]) -> Result<Vec<u64>, Fault> {
        let (entries, _) = table.as_chunks::<8>();
        let mut offsets = Vec::with_capacity(entries.len());
        for entry in entries {
            let offset = self.header.geometry.l2_offset(u64::from_be_bytes(*entry))?;
            offset.map_or(Ok(()), |offset| self.refuse_table(offset))?;
            offsets.push(offset.unwrap_or(0));
        }
        Ok(offsets)
    }

    /// Two entries that share a table make a disk of any size out of a few bytes.
    fn refuse_shared_tables(&self) -> Result<(), Fault> {
        let mut used: Vec<u64> = self.l1.iter().copied().filter(|offset| *offset != 0).collect();
        used.sort_unstable();
        match used.iter().zip(used.iter().skip(1)).find(|(one, next)| one == next) {
            None => Ok(()),
            Some((offset, _)) => {
                Err(Fault::Overlap { table: "L2 table", offset: *offset, other: "other L2 table" })
            }
        }
    }

    fn refuse_table(&self, offset: u64) -> Result<(), Fault> {
        let table = "L2 table";
        let length_bytes = self.header.geometry.cluster_bytes.get();
        let file_bytes = self.container.size_bytes();
        if !is_inside(offset, length_bytes, file_bytes) {
            return Err(Fault::Outside { table, offset, length_bytes, file_bytes });
        }
        match self.is_over_l1(offset, length_bytes) {
            true => Err(Fault::Overlap { table, offset, other: "L1 table" }),
            false => Ok(()),
        }
    }

    fn is_over_l1(&self, offset: u64, length_bytes: u64) -> bool {
        let l1 = self.header.l1_offset;
        offset < l1.saturating_add(self.l1_bytes()) && l1 < offset.saturating_add(length_bytes)
    }

    pub(super) fn fault(&self, fault: Fault) -> ReadError {
        ReadError::Qcow2 { path: self.container.path().to_owned(), fault: Box::new(fault) }
    }

    /// The file that has the guest's clusters.
    pub(super) fn clusters(&self) -> &dyn Disk {
        self.data.as_deref().unwrap_or(&*self.container)
    }

    /// The number of that file.
    pub(super) fn clusters_file(&self) -> usize {
        self.file.saturating_add(usize::from(self.data.is_some()))
    }

    /// The L2 table for the byte at `guest`; none where nothing is allocated.
    fn table(&self, guest: u64, caches: &Caches) -> Result<Option<Arc<[u8]>>, ReadError> {
        let number = guest / self.header.geometry.table_covers_bytes;
        let offset = self.l1.get(to_usize(number)).copied().unwrap_or(0);
        if offset == 0 {
            return Ok(None);
        }
        let read = || {
            let mut table = vec![0; to_usize(self.header.geometry.cluster_bytes.get())];
            self.container.read_at(offset, &mut table)?;
            self.refuse_claims(to_usize(number), &table)?;
            Ok(table.into())
        };
        caches.tables.get((self.number, offset), read).map(Some)
    }

    /// Clusters that lie over each other make a disk of any size out of a few bytes; no program that writes images makes them.
    fn refuse_claims(&self, number: usize, table: &[u8]) -> Result<(), ReadError> {
        let claims = || self.header.geometry.claimed_bytes(table);
        let claimed_bytes = self.claims.lock().unwrap_or_else(PoisonError::into_inner).add(number, claims);
        let file_bytes = self.container.size_bytes();
        // The last cluster need not be there whole; that is told where it is read.
        match claimed_bytes > file_bytes.saturating_add(self.header.geometry.cluster_bytes.get()) {
            true => Err(self.fault(Fault::Claims { claimed_bytes, file_bytes })),
            false => Ok(()),
        }
    }

    /// Where the first table behind the one for `guest` covers the disk, or `end` if there is none before.
    fn next_table(&self, guest: u64, end: u64) -> u64 {
        let covers = self.header.geometry.table_covers_bytes;
        let (first, behind) = ((guest / covers).saturating_add(1), end.div_ceil(covers.get()));
        let entries = self.l1.get(to_usize(first)..to_usize(behind)).unwrap_or_default();
        let empty = entries.iter().take_while(|offset| **offset == 0).count();
        let next =
            first.saturating_add(u64::try_from(empty).unwrap_or(u64::MAX)).saturating_mul(covers.get());
        if empty < entries.len() { next } else { next.max(end) }
    }

    /// How far from `range.start` on no more than so many tables have to be read; never less than one table.
    pub(super) fn reach(&self, range: &Range<u64>, tables: usize) -> u64 {
        let covers = self.header.geometry.table_covers_bytes;
        let first = range.start / covers;
        let behind = self.l1.get(to_usize(first)..).unwrap_or_default();
        let beyond = behind.iter().enumerate().filter(|(_, offset)| **offset != 0).nth(tables);
        beyond.map_or(range.end, |(number, _)| {
            let number = first.saturating_add(u64::try_from(number).unwrap_or(u64::MAX));
            number.saturating_mul(covers.get()).min(range.end)
        })
    }

    /// The places of `range`, in order, each as long as it goes on.
    pub(super) fn walk<'a>(&'a self, range: Range<u64>, caches: &'a Caches) -> SegmentWalk<'a> {
        SegmentWalk { image: self, caches, range, table: None }
    }

    /// Refuses clusters that the file does not have, or that are its tables.
    fn refuse_data(&self, guest: u64, host: u64, length_bytes: u64) -> Result<(), ReadError> {
        let (file, file_bytes) = (self.clusters(), self.clusters().size_bytes());
        if !is_inside(host, length_bytes, file_bytes) {
            // The first byte that is missing tells more than the first of a long run.
            let missing = file_bytes.saturating_sub(host).min(length_bytes);
            let (guest, host) = (guest.saturating_add(missing), host.saturating_add(missing));
            let file = file.path().to_owned();
            return Err(self.fault(Fault::DataOutside { guest, host, file, file_bytes }));
        }
        if self.data.is_none() && self.is_over_l1(host, length_bytes) {
            return Err(self.fault(Fault::Overlap { table: "cluster", offset: host, other: "L1 table" }));
        }
        Ok(())
    }

    /// Reads a part of a compressed cluster: `buffer` is for the bytes of the disk from `guest` on.
    pub(super) fn read_compressed(
        &self,
        place: (u64, u64),
        guest: u64,
        buffer: &mut [u8],
        caches: &Caches,
    ) -> Result<(), ReadError> {
        let cluster_bytes = self.header.geometry.cluster_bytes;
        let within = guest % cluster_bytes;
        if length(buffer) == cluster_bytes.get() {
            return self.decompress(place, guest, buffer);
        }
        let start = guest.saturating_sub(within);
        let read = || {
            let mut cluster = vec![0; to_usize(cluster_bytes.get())];
            self.decompress(place, start, &mut cluster)?;
            Ok(cluster.into())
        };
        // By its place on the disk: the same file may hold a cluster, and another that begins in it.
        let cluster = caches.clusters.get((self.number, start), read)?;
        let end = within.saturating_add(length(buffer));
        if let Some(bytes) = cluster.get(to_usize(within)..to_usize(end)) {
            buffer.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn decompress(
        &self,
        (host, length_bytes): (u64, u64),
        guest: u64,
        cluster: &mut [u8],
    ) -> Result<(), ReadError> {
        let file_bytes = self.container.size_bytes();
        // The last sector of the last cluster need not be there whole.
        let length_bytes = length_bytes.min(file_bytes.saturating_sub(host));
        if length_bytes == 0 {
            let file = self.container.path().to_owned();
            return Err(self.fault(Fault::DataOutside { guest, host, file, file_bytes }));
        }
        let mut stored = vec![0; to_usize(length_bytes)];
        self.container.read_at(host, &mut stored)?;
        decompress(self.header.codec, &stored, cluster)
            .map_err(|reason| self.fault(Fault::Compressed { guest, reason }))
    }
}

/// The places of a range, one after the other.
pub(super) struct SegmentWalk<'a> {
    image: &'a Image,
    caches: &'a Caches,
    range: Range<u64>,
    /// The table that was used last, and the first byte that it covers.
    table: Option<(u64, Option<Arc<[u8]>>)>,
}

impl SegmentWalk<'_> {
    /// The next place; none at the end of the range.
    pub(super) fn next(&mut self) -> Result<Option<Segment>, ReadError> {
        let start = self.range.start;
        if start >= self.range.end {
            return Ok(None);
        }
        let (place, length_bytes) = self.piece(start)?;
        let mut end = start.saturating_add(length_bytes).min(self.range.end);
        while end < self.range.end {
            let (next, more) = self.piece(end)?;
            if !place.goes_on(end.saturating_sub(start), next) {
                break;
            }
            end = end.saturating_add(more).min(self.range.end);
        }
        if let ClusterPlace::Data { host } = place {
            self.image.refuse_data(start, host, end.saturating_sub(start))?;
        }
        self.range.start = end;
        Ok(Some(Segment { guest: start..end, place }))
    }

    /// The place of the byte at `guest`, and how far it goes on at least.
    fn piece(&mut self, guest: u64) -> Result<(ClusterPlace, u64), ReadError> {
        let geometry = &self.image.header.geometry;
        let covers = geometry.table_covers_bytes;
        let first = guest.saturating_sub(guest % covers);
        let table = match &self.table {
            Some((at, table)) if *at == first => table,
            _ => &self.table.insert((first, self.image.table(guest, self.caches)?)).1,
        };
        let Some(table) = table else {
            let end = self.image.next_table(guest, self.range.end);
            return Ok((ClusterPlace::Backing, end.saturating_sub(guest)));
        };
        let within = guest % geometry.cluster_bytes;
        let start = guest.saturating_sub(within);
        let cluster = geometry.cluster(table, start).map_err(|fault| self.image.fault(fault))?;
        Ok(geometry.place(cluster, within))
    }
}
