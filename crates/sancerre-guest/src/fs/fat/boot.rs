//! The first sector: which of the four it is, and where its parts are.

use std::ops::Range;

use crate::bytes::{byte, le16, le32, le64, slice};
use crate::fault::{Fault, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    Fat12,
    Fat16,
    Fat32,
    ExFat,
}

impl Variant {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fat12 => "FAT12",
            Self::Fat16 => "FAT16",
            Self::Fat32 => "FAT32",
            Self::ExFat => "exFAT",
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Geometry {
    pub(super) variant: Variant,
    /// Where the first table of clusters is.
    pub(super) table: Range<u64>,
    /// Where the cluster with number 2 is.
    pub(super) heap: u64,
    pub(super) cluster_bytes: u64,
    pub(super) clusters: u32,
    pub(super) root_cluster: u32,
    /// Where the root is, in those that have it at a place of its own.
    pub(super) fixed_root: Option<Range<u64>>,
    pub(super) label: Vec<u8>,
    serial: u32,
}

impl Geometry {
    pub(super) fn serial(&self) -> String {
        format!("{:04X}-{:04X}", self.serial >> 16, self.serial & 0xffff)
    }

    /// Where a cluster is; none when there is no such.
    pub(super) fn place(&self, cluster: u32) -> Option<u64> {
        let number = cluster.checked_sub(2).filter(|number| *number < self.clusters)?;
        self.heap.checked_add(u64::from(number).checked_mul(self.cluster_bytes)?)
    }
}

/// None when it is none.
pub(super) fn parse(boot: &[u8]) -> Result<Option<Geometry>> {
    if le16(boot, 0x1fe)? != 0xaa55 {
        return Ok(None);
    }
    if slice(boot, 3, 8)? == b"EXFAT   " {
        return exfat(boot).map(Some);
    }
    fat(boot)
}

fn exfat(boot: &[u8]) -> Result<Geometry> {
    let (sector, cluster) = (byte(boot, 0x6c)?, byte(boot, 0x6d)?);
    if !(9..=12).contains(&sector) || cluster > 25_u8.saturating_sub(sector) {
        return Err(Fault::Corrupt("an exFAT whose numbers do not fit each other"));
    }
    let bytes = |at: usize| -> Result<u64> { Ok(u64::from(le32(boot, at)?) << sector) };
    let table = bytes(0x50)?;
    let length = le64(boot, 0x48)?;
    if length == 0 {
        return Err(Fault::Corrupt("an exFAT without a size"));
    }
    Ok(Geometry {
        variant: Variant::ExFat,
        table: table..table.saturating_add(bytes(0x54)?),
        heap: bytes(0x58)?,
        cluster_bytes: 1 << sector << cluster,
        clusters: le32(boot, 0x5c)?,
        root_cluster: le32(boot, 0x60)?,
        fixed_root: None,
        label: Vec::new(),
        serial: le32(boot, 0x64)?,
    })
}

/// An older one has no magic number: what its fields can be says whether it is one.
fn fat(boot: &[u8]) -> Result<Option<Geometry>> {
    let is_jump = matches!(byte(boot, 0)?, 0xeb | 0xe9);
    let sector = u64::from(le16(boot, 0xb)?);
    let per_cluster = u64::from(byte(boot, 0xd)?);
    let reserved = u64::from(le16(boot, 0xe)?);
    let tables = u64::from(byte(boot, 0x10)?);
    let is_one = is_jump
        && [512, 1024, 2048, 4096].contains(&sector)
        && per_cluster.is_power_of_two()
        && reserved > 0
        && (1..=2).contains(&tables)
        && matches!(byte(boot, 0x15)?, 0xf0 | 0xf8..=0xff);
    if !is_one {
        return Ok(None);
    }
    let root_entries = u64::from(le16(boot, 0x11)?);
    let either = |short: u16, long: u32| if short == 0 { u64::from(long) } else { u64::from(short) };
    let sectors = either(le16(boot, 0x13)?, le32(boot, 0x20)?);
    let table_sectors = either(le16(boot, 0x16)?, le32(boot, 0x24)?);
    let root_sectors = root_entries.saturating_mul(32).div_ceil(sector);
    let root = reserved.saturating_add(tables.saturating_mul(table_sectors));
    let heap = root.saturating_add(root_sectors);
    let clusters = sectors.saturating_sub(heap) / per_cluster;
    let is_32 = le16(boot, 0x16)? == 0;
    let variant = match clusters {
        _ if is_32 => Variant::Fat32,
        0..4085 => Variant::Fat12,
        _ => Variant::Fat16,
    };
    let label = slice(boot, if is_32 { 0x47 } else { 0x2b }, 11)?;
    let label = if label == b"NO NAME    " { &[] } else { label.trim_ascii_end() };
    Ok(Some(Geometry {
        variant,
        table: reserved.saturating_mul(sector)..reserved.saturating_add(table_sectors).saturating_mul(sector),
        heap: heap.saturating_mul(sector),
        cluster_bytes: per_cluster.saturating_mul(sector),
        clusters: u32::try_from(clusters).map_err(|_| Fault::Corrupt("a FAT with too many clusters"))?,
        root_cluster: if is_32 { le32(boot, 0x2c)? } else { 0 },
        fixed_root: (!is_32).then(|| root.saturating_mul(sector)..heap.saturating_mul(sector)),
        label: label.to_vec(),
        serial: le32(boot, if is_32 { 0x43 } else { 0x27 })?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_boot_sector_makes_it_panic(mut boot in proptest::collection::vec(proptest::num::u8::ANY, 512), is_ex in proptest::bool::ANY) {
            boot[0x1fe..].copy_from_slice(&[0x55, 0xaa]);
            boot[0] = 0xeb;
            if is_ex {
                boot[3..11].copy_from_slice(b"EXFAT   ");
            }
            if let Ok(Some(geometry)) = parse(&boot) {
                let _ = (geometry.place(2), geometry.place(u32::MAX), geometry.serial());
            }
        }
    }
}
