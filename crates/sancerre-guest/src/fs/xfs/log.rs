//! The log: a ring of records, each of which says where the oldest one is that still matters.

use super::{SECTOR, Xfs};
use crate::bytes::{be32, be64, slice, to_u64, to_usize};
use crate::fault::{Fault, Result};

const MAGIC: u32 = 0xfeed_babe;
const SECTOR_BYTES: usize = 512;
/// Sectors whose first bytes one header keeps.
const PER_HEADER: usize = 64;
/// What of a header its checksum covers.
const HEADER_BYTES: usize = 328;
const HEADER_BYTES_MORE: usize = 260;
const CRC_AT: usize = 32;
/// What may be under way at once: behind it is a whole record.
const BACK_SECTORS: u64 = 16 << 10;
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// A record that is whole.
pub(super) struct Record {
    /// What was logged, as it was before the sectors got their numbers.
    pub(super) payload: Vec<u8>,
    operations: u32,
    tail: u64,
    sectors: u64,
}

pub(super) struct Ring<'a> {
    xfs: &'a Xfs,
    start: u64,
    sectors: u64,
}

impl<'a> Ring<'a> {
    /// None when it is on another device.
    pub(super) fn new(xfs: &'a Xfs) -> Result<Option<Self>> {
        let geometry = &xfs.geometry;
        if geometry.log_start == 0 {
            return Ok(None);
        }
        let start = geometry.block_place(geometry.log_start)?;
        let sectors = geometry.log_blocks.saturating_mul(geometry.block_bytes) / SECTOR;
        if sectors == 0 || start.saturating_add(sectors.saturating_mul(SECTOR)) > xfs.volume.size_bytes() {
            return Err(Fault::Corrupt("a log behind the end"));
        }
        Ok(Some(Self { xfs, start, sectors }))
    }

    /// Sectors from `at` on, round the end.
    fn read(&self, at: u64, count: u64) -> Result<Vec<u8>> {
        let at = at % self.sectors;
        let first = count.min(self.sectors.saturating_sub(at));
        let place = self.start.saturating_add(at.saturating_mul(SECTOR));
        let mut bytes = self.xfs.volume.bytes(place, to_usize(first.saturating_mul(SECTOR)))?;
        let rest = count.saturating_sub(first).min(self.sectors);
        if rest > 0 {
            bytes.extend(self.xfs.volume.bytes(self.start, to_usize(rest.saturating_mul(SECTOR)))?);
        }
        Ok(bytes)
    }

    /// How often the ring was written when this sector was.
    fn cycle(&self, at: u64) -> Result<u32> {
        let sector = self.read(at, 1)?;
        match be32(&sector, 0)? {
            MAGIC => be32(&sector, 4),
            cycle => Ok(cycle),
        }
    }

    /// The sector behind the newest one, or a little before or behind it.
    fn head(&self) -> Result<u64> {
        let first = self.cycle(0)?;
        let (mut low, mut high) = (0_u64, self.sectors);
        while low.saturating_add(1) < high {
            let middle = low.saturating_add(high.saturating_sub(low) / 2);
            if self.cycle(middle)? == first { low = middle } else { high = middle }
        }
        Ok(high)
    }

    /// The records that still matter, oldest first, up to the first that is not whole.
    pub(super) fn records(&self) -> Result<Vec<Record>> {
        if self.cycle(0)? == 0 {
            return Ok(Vec::new());
        }
        let Some(newest) = self.newest()? else {
            return Err(Fault::Corrupt("a log without a whole record"));
        };
        let mut records = Vec::new();
        let (mut cycle, mut at) = (newest.tail >> 32, newest.tail & u64::from(u32::MAX));
        let mut left = self.sectors;
        while let Ok(Some(record)) = self.record(at) {
            if record.0 != (cycle << 32 | at) || left < record.1.sectors {
                break;
            }
            left = left.saturating_sub(record.1.sectors);
            at = at.saturating_add(record.1.sectors);
            if at >= self.sectors {
                (at, cycle) = (at.saturating_sub(self.sectors), cycle.saturating_add(1));
            }
            records.push(record.1);
        }
        Ok(records)
    }

    fn newest(&self) -> Result<Option<Record>> {
        let head = self.head()?;
        for back in 1..=BACK_SECTORS.min(self.sectors) {
            let at = head.saturating_add(self.sectors).saturating_sub(back) % self.sectors;
            if let Some((_, record)) = self.record(at)? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// The record that begins at a sector, with its number; none when none does, or it is not whole.
    fn record(&self, at: u64) -> Result<Option<(u64, Record)>> {
        let head = self.read(at, 1)?;
        if be32(&head, 0)? != MAGIC {
            return Ok(None);
        }
        let (length, size) = (u64::from(be32(&head, 12)?), u64::from(be32(&head, 320)?));
        let per_header = to_u64(PER_HEADER).saturating_mul(SECTOR);
        let has_more = be32(&head, 8)? & 2 != 0 && size > per_header;
        let headers = if has_more { size.div_ceil(per_header) } else { 1 };
        if length > RECORD_BYTES_MAX
            || headers > 64
            || be64(&head, 16)? & u64::from(u32::MAX) != at % self.sectors
        {
            return Ok(None);
        }
        let data_sectors = length.div_ceil(SECTOR);
        let sectors = headers.saturating_add(data_sectors);
        if sectors > self.sectors {
            return Ok(None);
        }
        let bytes = self.read(at, sectors)?;
        let (header, data) =
            bytes.split_at_checked(to_usize(headers.saturating_mul(SECTOR))).unwrap_or((&bytes, &[]));
        let data = data.get(..to_usize(length)).unwrap_or_default();
        if !is_whole(header, data)? {
            return Ok(None);
        }
        let payload = unpacked(header, data)?;
        let (operations, tail) = (be32(&head, 40)?, be64(&head, 24)?);
        Ok(Some((be64(&head, 16)?, Record { payload, operations, tail, sectors })))
    }
}

impl Record {
    /// How many operations it says that it has.
    pub(super) fn operations(&self) -> u32 {
        self.operations
    }
}

/// The first bytes of each sector are kept in the headers, and a number stands in their place.
fn unpacked(header: &[u8], data: &[u8]) -> Result<Vec<u8>> {
    let mut payload = data.to_vec();
    for (number, sector) in payload.chunks_mut(SECTOR_BYTES).enumerate() {
        let (of, within) = (number / PER_HEADER, number % PER_HEADER);
        let base = if of == 0 { 44 } else { of.saturating_mul(SECTOR_BYTES).saturating_add(4) };
        let kept = slice(header, base.saturating_add(within.saturating_mul(4)), 4)?;
        if let Some(to) = sector.first_chunk_mut::<4>() {
            to.copy_from_slice(kept);
        }
    }
    Ok(payload)
}

/// By its checksum; version 4 has none.
fn is_whole(header: &[u8], data: &[u8]) -> Result<bool> {
    let stored = u32::from_le_bytes(slice(header, CRC_AT, 4)?.try_into().unwrap_or_default());
    if stored == 0 {
        return Ok(true);
    }
    let crc = Crc::new();
    let mut sum = crc.add(u32::MAX, slice(header, 0, CRC_AT)?);
    sum = crc.add(sum, &[0; 4]);
    let rest = CRC_AT.saturating_add(4);
    sum = crc.add(sum, slice(header, rest, HEADER_BYTES.saturating_sub(rest))?);
    let more = data.len().div_ceil(PER_HEADER.saturating_mul(SECTOR_BYTES));
    for number in 1..more {
        sum = crc.add(sum, slice(header, number.saturating_mul(SECTOR_BYTES), HEADER_BYTES_MORE)?);
    }
    Ok(!crc.add(sum, data) == stored)
}

/// CRC-32C.
struct Crc([u32; 256]);

impl Crc {
    fn new() -> Self {
        const POLYNOMIAL: u32 = 0x82f6_3b78;
        let mut table = [0; 256];
        for (byte, entry) in (0_u32..).zip(table.iter_mut()) {
            *entry = (0..8).fold(byte, |crc, _| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ POLYNOMIAL });
        }
        Self(table)
    }

    fn add(&self, crc: u32, bytes: &[u8]) -> u32 {
        bytes.iter().fold(crc, |crc, byte| {
            let [low, ..] = crc.to_le_bytes();
            self.0.get(usize::from(low ^ byte)).copied().unwrap_or(0) ^ crc >> 8
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Crc;

    #[test]
    fn the_checksum_is_castagnoli_s() {
        assert_eq!(!Crc::new().add(u32::MAX, b"123456789"), 0xe306_9283);
    }
}
