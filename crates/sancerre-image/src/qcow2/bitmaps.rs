//! Bitmaps that an image keeps of itself: which parts were written to since some moment.

use std::ops::Range;

use super::Qcow2Fault as Fault;
use super::bytes::{slice, to_usize, u32_at, u64_at};
use super::header::BitmapDirectory;
use super::layer::Image;
use crate::ReadError;
use crate::positional::{is_inside, length};

/// As QEMU: 65,535 bitmaps of at most 1 KiB each.
const DIRECTORY_BYTES_MAX: u64 = 64 << 20;
const ENTRY_BYTES: u64 = 24;
const IN_USE: u32 = 1;
const AUTO: u32 = 1 << 1;
const EXTRA_COMPATIBLE: u32 = 1 << 2;
const FLAGS: u32 = IN_USE | AUTO | EXTRA_COMPATIBLE;
const DIRTY_TRACKING: u8 = 1;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const BITS_PER_BYTE: u64 = 8;

/// A bitmap as the image lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name; what is no text in it is replaced.
    pub name: String,
    /// How much of the disk one bit stands for, in bytes.
    pub granularity_bytes: u64,
    /// It was not closed: changes may be missing in it, so it is not read.
    pub is_in_use: bool,
    /// It records every write to the image.
    pub is_recording: bool,
    /// It is no list of changes, or has parts that are not known here, so it is not read.
    pub is_foreign: bool,
    pub(crate) table_offset: u64,
    pub(crate) table_entries: u64,
}

impl Image {
    pub(super) fn bitmaps(&self) -> Result<Vec<Bitmap>, ReadError> {
        let Some(directory) = self.header.bitmaps else { return Ok(Vec::new()) };
        self.refuse_directory(directory).map_err(|fault| self.fault(fault))?;
        let mut bytes = vec![0; to_usize(directory.length_bytes)];
        self.container.read_at(directory.offset, &mut bytes)?;
        list(&bytes, directory.count).map_err(|fault| self.fault(fault))
    }

    fn refuse_directory(&self, directory: BitmapDirectory) -> Result<(), Fault> {
        let table = "bitmap directory";
        let BitmapDirectory { offset, length_bytes, .. } = directory;
        if length_bytes > DIRECTORY_BYTES_MAX {
            return Err(Fault::Huge { table, length_bytes, limit_bytes: DIRECTORY_BYTES_MAX });
        }
        self.refuse_place(table, offset, length_bytes)
    }

    fn refuse_place(&self, table: &'static str, offset: u64, length_bytes: u64) -> Result<(), Fault> {
        let geometry = &self.header.geometry;
        if !geometry.is_aligned(offset) {
            return Err(Fault::Unaligned { table, offset, unit_bytes: geometry.cluster_bytes.get() });
        }
        if offset == 0 {
            return Err(Fault::Overlap { table, offset, other: "header" });
        }
        let file_bytes = self.container.size_bytes();
        match is_inside(offset, length_bytes, file_bytes) {
            true => Ok(()),
            false => Err(Fault::Outside { table, offset, length_bytes, file_bytes }),
        }
    }

    pub(super) fn bitmap_ranges(
        &self,
        bitmap: &Bitmap,
        range: Range<u64>,
    ) -> Result<Vec<Range<u64>>, ReadError> {
        self.refuse_bitmap(bitmap).map_err(|fault| self.fault(fault))?;
        let mut found = Vec::new();
        let covers = self.covers_bytes(bitmap);
        let mut number = range.start.checked_div(covers).unwrap_or(0);
        loop {
            let start = number.saturating_mul(covers);
            let part = start.max(range.start)..start.saturating_add(covers).min(range.end);
            if part.is_empty() {
                return Ok(found);
            }
            match self.bitmap_entry(bitmap, number)? {
                Bits::Same(false) => {}
                Bits::Same(true) => super::add(&mut found, part),
                Bits::At(offset) => {
                    let bytes = self.bits(offset, start, &part, bitmap.granularity_bytes)?;
                    marked(&bytes, start, bitmap.granularity_bytes, &part, &mut found);
                }
            }
            number = number.saturating_add(1);
        }
    }

    /// How much of the disk one cluster of bits stands for.
    fn covers_bytes(&self, bitmap: &Bitmap) -> u64 {
        let cluster_bits = self.header.geometry.cluster_bytes.get().saturating_mul(BITS_PER_BYTE);
        bitmap.granularity_bytes.saturating_mul(cluster_bits)
    }

    fn refuse_bitmap(&self, bitmap: &Bitmap) -> Result<(), Fault> {
        let fail = |reason| Err(Fault::Bitmap { name: bitmap.name.clone(), reason });
        if bitmap.is_in_use {
            return fail("was not closed, so changes may be missing in it");
        }
        if bitmap.is_foreign {
            return fail("is of a kind that is not known here");
        }
        let needed = self.header.size_bytes.div_ceil(self.covers_bytes(bitmap).max(1));
        if needed != bitmap.table_entries {
            return fail("is for a disk of another size");
        }
        self.refuse_place("bitmap table", bitmap.table_offset, needed.saturating_mul(8))
    }

    fn bitmap_entry(&self, bitmap: &Bitmap, number: u64) -> Result<Bits, ReadError> {
        let mut entry = [0; 8];
        self.container.read_at(bitmap.table_offset.saturating_add(number.saturating_mul(8)), &mut entry)?;
        let bits = Bits::of(u64::from_be_bytes(entry)).map_err(|fault| self.fault(fault))?;
        if let Bits::At(offset) = bits {
            let cluster_bytes = self.header.geometry.cluster_bytes.get();
            self.refuse_place("bitmap", offset, cluster_bytes).map_err(|fault| self.fault(fault))?;
        }
        Ok(bits)
    }

    /// The bytes of the cluster of bits at `offset` up to the last bit for `part`; its first bit is for `start`.
    fn bits(
        &self,
        offset: u64,
        start: u64,
        part: &Range<u64>,
        granularity: u64,
    ) -> Result<Vec<u8>, ReadError> {
        let covered = part.end.saturating_sub(start);
        let bits = covered.div_ceil(granularity.max(1));
        let mut bytes = vec![0; to_usize(bits.div_ceil(BITS_PER_BYTE))];
        self.container.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }
}

/// An entry of a bitmap's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bits {
    Same(bool),
    At(u64),
}

impl Bits {
    fn of(entry: u64) -> Result<Self, Fault> {
        let offset = entry & OFFSET;
        match (offset, entry & !OFFSET) {
            (0, 0) => Ok(Self::Same(false)),
            (0, 1) => Ok(Self::Same(true)),
            (_, 0) if offset != 0 => Ok(Self::At(offset)),
            _ => Err(Fault::Entry { table: "bitmap table", entry }),
        }
    }
}

/// The bitmaps in a directory of `count` entries.
fn list(mut directory: &[u8], count: u32) -> Result<Vec<Bitmap>, Fault> {
    let wrong = Fault::Header { field: "nb_bitmaps", value: u64::from(count) };
    let mut bitmaps = Vec::new();
    for _ in 0..count {
        let (bitmap, bytes) = entry(directory).ok_or(wrong.clone())??;
        bitmaps.push(bitmap);
        directory = directory.get(to_usize(bytes)..).unwrap_or_default();
    }
    if !directory.is_empty() {
        return Err(wrong);
    }
    Ok(bitmaps)
}

/// The first entry and the bytes it takes; none when it is cut short.
fn entry(directory: &[u8]) -> Option<Result<(Bitmap, u64), Fault>> {
    let flags = u32_at(directory, 12)?;
    let [kind, granularity_bits] = *directory.get(16..)?.first_chunk()?;
    let name_bytes = u64::from(u16::from_be_bytes(*directory.get(18..)?.first_chunk()?));
    let extra_bytes = u64::from(u32_at(directory, 20)?);
    let name_at = ENTRY_BYTES.saturating_add(extra_bytes);
    let name = slice(directory, name_at, name_bytes)?;
    let name = String::from_utf8_lossy(name).into_owned();
    if granularity_bits > 63 || name.is_empty() || flags & !FLAGS != 0 {
        return Some(Err(Fault::Bitmap { name, reason: "has an entry that makes no sense" }));
    }
    let bitmap = Bitmap {
        name,
        granularity_bytes: 1u64.wrapping_shl(u32::from(granularity_bits)),
        is_in_use: flags & IN_USE != 0,
        is_recording: flags & AUTO != 0,
        is_foreign: kind != DIRTY_TRACKING || (extra_bytes > 0 && flags & EXTRA_COMPATIBLE == 0),
        table_offset: u64_at(directory, 0)?,
        table_entries: u64::from(u32_at(directory, 8)?),
    };
    Some(Ok((bitmap, name_at.saturating_add(name_bytes).next_multiple_of(8))))
}

/// Adds what the bits mark inside `part`; the first of them is for the disk from `start` on.
fn marked(bytes: &[u8], start: u64, granularity: u64, part: &Range<u64>, found: &mut Vec<Range<u64>>) {
    let first = part.start.saturating_sub(start).checked_div(granularity).unwrap_or(0);
    let mut bit = first;
    let end = length(bytes).saturating_mul(BITS_PER_BYTE);
    while bit < end {
        let byte = bytes.get(to_usize(bit / BITS_PER_BYTE)).copied().unwrap_or(0);
        let shift = u32::try_from(bit % BITS_PER_BYTE).unwrap_or(0);
        // Whole bytes without a mark are the most.
        if byte == 0 && shift == 0 {
            bit = bit.saturating_add(BITS_PER_BYTE);
            continue;
        }
        if byte.wrapping_shr(shift) & 1 == 1 {
            let at = start.saturating_add(bit.saturating_mul(granularity));
            let range = at.max(part.start)..at.saturating_add(granularity).min(part.end);
            if !range.is_empty() {
                super::add(found, range);
            }
        }
        bit = bit.saturating_add(1);
    }
}

#[cfg(test)]
mod tests;
