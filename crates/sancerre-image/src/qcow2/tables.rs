//! Entries of the L1 and L2 tables: from numbers to places, and nothing read.
//!
//! Invariant: what leaves here is aligned and has no bit that this program does not know. Whether it lies inside the
//! file is asked where it is read, because a last cluster need not be there whole.

use std::num::NonZeroU64;

use super::Qcow2Fault as Fault;
use super::bytes::{to_usize, u64_at};

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
const SECTOR_BYTES: u64 = 512;
const SUBCLUSTERS: u64 = 32;

/// Where bytes of the guest are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClusterPlace {
    /// In the backing file; zeros without one, or past its end.
    Backing,
    /// Nowhere: they are zeros.
    Zero,
    /// In the file with the clusters, from here on.
    Data { host: u64 },
    /// Somewhere in a compressed cluster. The last sector may hold the begin of another one.
    Compressed { host: u64, length_bytes: u64 },
}

/// What an entry of an L2 table says of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cluster {
    Whole(ClusterPlace),
    /// Each of 32 parts is in the cluster at `host`, zero, or in the backing file.
    Parts {
        host: u64,
        allocated: u32,
        zeros: u32,
    },
}

/// The sizes on which an image is laid out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    version: u32,
    cluster_bits: u32,
    pub cluster_bytes: NonZeroU64,
    pub has_subclusters: bool,
    has_data_file: bool,
    /// Of the disk, by one L2 table.
    pub table_covers_bytes: NonZeroU64,
}

impl Geometry {
    pub(super) fn new(
        version: u32,
        cluster_bits: u32,
        cluster_bytes: NonZeroU64,
        has_subclusters: bool,
        has_data_file: bool,
    ) -> Self {
        let entries = if has_subclusters { cluster_bytes.get() / 16 } else { cluster_bytes.get() / 8 };
        let entries = NonZeroU64::new(entries).unwrap_or(NonZeroU64::MIN);
        let table_covers_bytes = cluster_bytes.saturating_mul(entries);
        Self { version, cluster_bits, cluster_bytes, has_subclusters, has_data_file, table_covers_bytes }
    }

    pub(super) fn is_aligned(&self, offset: u64) -> bool {
        offset % self.cluster_bytes == 0
    }

    fn aligned(&self, table: &'static str, offset: u64) -> Result<u64, Fault> {
        match self.is_aligned(offset) {
            true => Ok(offset),
            false => Err(Fault::Unaligned { table, offset, unit_bytes: self.cluster_bytes.get() }),
        }
    }

    /// Where the L2 table of an L1 entry is; none when there is none.
    pub(super) fn l2_offset(&self, entry: u64) -> Result<Option<u64>, Fault> {
        let offset = entry & OFFSET;
        if entry & L1_RESERVED != 0 || (offset == 0 && entry != 0) {
            return Err(Fault::Entry { table: "L1 table", entry });
        }
        let offset = self.aligned("L2 table", offset)?;
        Ok((offset != 0).then_some(offset))
    }

    /// Bytes of the file that the clusters of an L2 table take at least, where no two of them lie over each other.
    pub(super) fn claimed_bytes(&self, table: &[u8]) -> u64 {
        if self.has_data_file {
            return 0;
        }
        let entries = table.chunks_exact(if self.has_subclusters { 16 } else { 8 });
        let claims =
            entries.filter_map(|entry| u64_at(entry, 0)).map(|entry| match entry & COMPRESSED != 0 {
                // Whether the last sector is needed whole, and where in the first one it begins, is not counted.
                true => self.compressed(entry, None).map_or(0, |place| match place {
                    ClusterPlace::Compressed { length_bytes, .. } => {
                        length_bytes.saturating_sub(SECTOR_BYTES)
                    }
                    _ => 0,
                }),
                false if entry & OFFSET != 0 => self.cluster_bytes.get(),
                false => 0,
            });
        claims.fold(0, u64::saturating_add)
    }

    /// What an L2 table says of the cluster of the disk that starts at `guest`. The table is a whole cluster.
    pub(super) fn cluster(&self, table: &[u8], guest: u64) -> Result<Cluster, Fault> {
        let index = (guest % self.table_covers_bytes) / self.cluster_bytes;
        let at = to_usize(index.saturating_mul(if self.has_subclusters { 16 } else { 8 }));
        let numbers = (u64_at(table, at), u64_at(table, at.saturating_add(8)));
        let (entry, parts) = match (self.has_subclusters, numbers) {
            (false, (Some(entry), _)) => (entry, None),
            (true, (Some(entry), Some(parts))) => (entry, Some(parts)),
            _ => return Err(Fault::Entry { table: "L2 table, cut short,", entry: index }),
        };
        if entry & COMPRESSED != 0 {
            return self.compressed(entry, parts).map(Cluster::Whole);
        }
        self.standard(entry, parts, guest)
    }

    fn standard(&self, entry: u64, parts: Option<u64>, guest: u64) -> Result<Cluster, Fault> {
        let damaged = Fault::Entry { table: "L2 table", entry };
        let is_zero = entry & ZERO != 0;
        if entry & L2_RESERVED != 0 || (is_zero && (self.version < 3 || parts.is_some())) {
            return Err(damaged);
        }
        let host = self.aligned("cluster", entry & OFFSET)?;
        // In a data file a cluster is where the guest has it, so the first one is at 0, which then only this bit tells.
        let is_allocated = host != 0 || (self.has_data_file && entry & COPIED != 0);
        if entry & COPIED != 0 && !is_allocated && !is_zero {
            return Err(damaged);
        }
        if is_allocated && self.has_data_file && host != guest {
            return Err(damaged);
        }
        let whole = match (is_zero, is_allocated) {
            (true, _) => ClusterPlace::Zero,
            (false, true) => ClusterPlace::Data { host },
            (false, false) => ClusterPlace::Backing,
        };
        let Some(parts) = parts else { return Ok(Cluster::Whole(whole)) };
        let (allocated, zeros) = halves(parts);
        if allocated & zeros != 0 || (allocated != 0 && !is_allocated) {
            return Err(Fault::Entry { table: "L2 table", entry: parts });
        }
        Ok(Cluster::Parts { host, allocated, zeros })
    }

    fn compressed(&self, entry: u64, parts: Option<u64>) -> Result<ClusterPlace, Fault> {
        let offset_bits = 70u32.saturating_sub(self.cluster_bits);
        let below = |bits: u32| 1u64.wrapping_shl(bits).wrapping_sub(1);
        let host = entry & below(offset_bits);
        let damaged =
            entry & COPIED != 0 || host > below(56) || parts.unwrap_or(0) != 0 || self.has_data_file;
        if damaged {
            return Err(Fault::Entry { table: "L2 table", entry });
        }
        let more = (entry & below(62)).wrapping_shr(offset_bits);
        let sectors_bytes = more.saturating_add(1).saturating_mul(SECTOR_BYTES);
        Ok(ClusterPlace::Compressed { host, length_bytes: sectors_bytes.saturating_sub(host % SECTOR_BYTES) })
    }

    /// The place of the byte at `within` in a cluster, and how many bytes from there on are at places that follow it.
    pub(super) fn place(&self, cluster: Cluster, within: u64) -> (ClusterPlace, u64) {
        let rest = self.cluster_bytes.get().saturating_sub(within);
        match cluster {
            Cluster::Whole(ClusterPlace::Data { host }) => {
                (ClusterPlace::Data { host: host.saturating_add(within) }, rest)
            }
            Cluster::Whole(place) => (place, rest),
            Cluster::Parts { host, allocated, zeros } => {
                let part_bytes = self.cluster_bytes.get() / SUBCLUSTERS;
                let part = within.checked_div(part_bytes).unwrap_or(0);
                let bit = |mask: u32| mask.wrapping_shr(u32::try_from(part).unwrap_or(0)) & 1 == 1;
                let place = match (bit(allocated), bit(zeros)) {
                    (true, _) => ClusterPlace::Data { host: host.saturating_add(within) },
                    (false, true) => ClusterPlace::Zero,
                    (false, false) => ClusterPlace::Backing,
                };
                let end = part.saturating_add(1).saturating_mul(part_bytes);
                (place, end.saturating_sub(within))
            }
        }
    }
}

/// Which parts are allocated, and which are zeros.
fn halves(parts: u64) -> (u32, u32) {
    let half = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0);
    (half(parts), half(parts.wrapping_shr(32)))
}

impl ClusterPlace {
    /// Whether `next`, `length_bytes` after this place, goes on where this one ends.
    pub(super) fn goes_on(self, length_bytes: u64, next: Self) -> bool {
        match (self, next) {
            (Self::Backing, Self::Backing) | (Self::Zero, Self::Zero) => true,
            (Self::Data { host }, Self::Data { host: next }) => host.checked_add(length_bytes) == Some(next),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
