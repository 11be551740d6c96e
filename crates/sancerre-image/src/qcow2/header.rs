//! The header of an image and what stands behind it in the first cluster, from bytes alone.

use std::num::NonZeroU64;

use super::Qcow2Fault as Fault;
use super::bytes::{slice, to_usize, u32_at, u64_at};
use super::codec::Codec;
use super::tables::Geometry;
use crate::positional::{is_inside, length};

/// All that a header and its extensions may take: the largest cluster.
pub(super) const AREA_BYTES: u64 = 2 << 20;
/// As QEMU: a larger first table is an attack, or an image with clusters far too small.
const L1_BYTES_MAX: u64 = 32 << 20;
const DISK_BYTES_MAX: u64 = 1 << 63;
const NAME_BYTES_MAX: u64 = 1023;
const V2_BYTES: u64 = 72;
const V3_BYTES: u64 = 104;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const SUBCLUSTERS: u64 = 1 << 4;
const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | SUBCLUSTERS;
const BITMAPS_CONSISTENT: u64 = 1;

const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const BITMAPS: u32 = 0x2385_2875;
const DATA_FILE_NAME: u32 = 0x4441_5441;
const FEATURE_BYTES: usize = 48;
/// The format has six, and QEMU writes each once.
const EXTENSIONS_MAX: usize = 256;

/// Where the directory of bitmaps is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BitmapDirectory {
    pub count: u32,
    pub offset: u64,
    pub length_bytes: u64,
}

/// What an image says of itself. Names are as they stand there: bytes that an attacker may have chosen.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub size_bytes: u64,
    pub geometry: Geometry,
    pub l1_offset: u64,
    /// As many as the disk needs; the image may have more, for the memory of saved machines.
    pub l1_entries: u64,
    pub codec: Codec,
    pub backing: Option<Vec<u8>>,
    pub backing_format: Option<Vec<u8>>,
    /// Some when guest clusters are in another file; empty when it does not say which.
    pub data_file: Option<Vec<u8>>,
    /// None when there is none, or when what it says is not consistent.
    pub bitmaps: Option<BitmapDirectory>,
}

/// The fields that stand at fixed places, as numbers.
struct HeaderFields {
    version: u32,
    backing_offset: u64,
    backing_bytes: u64,
    cluster_bits: u32,
    size_bytes: u64,
    crypt_method: u32,
    l1_entries: u64,
    l1_offset: u64,
    incompatible: u64,
    autoclear: u64,
    header_bytes: u64,
    compression: u8,
}

/// What the extensions say.
#[derive(Default)]
struct Extensions<'a> {
    backing_format: Option<&'a [u8]>,
    feature_names: &'a [u8],
    data_file: Option<&'a [u8]>,
    bitmaps: Option<&'a [u8]>,
}

impl Header {
    /// Reads the header of an image of `file_bytes`, of which `area` are the first [`AREA_BYTES`], or all.
    pub(super) fn parse(area: &[u8], file_bytes: u64) -> Result<Self, Fault> {
        let fields = HeaderFields::parse(area)?;
        let cluster = cluster_bytes(&fields)?;
        let area = area.get(..to_usize(cluster.get())).unwrap_or(area);
        let extensions = Extensions::parse(area, &fields, cluster.get())?;
        fields.refuse_features(&extensions)?;
        let has_data_file = fields.incompatible & DATA_FILE != 0;
        let geometry = Geometry::new(
            fields.version,
            fields.cluster_bits,
            cluster,
            fields.incompatible & SUBCLUSTERS != 0,
            has_data_file,
        );
        let backing = fields.backing_name(area)?;
        if backing.is_some() && has_data_file && fields.autoclear & 2 != 0 {
            return Err(Fault::Header { field: "the raw data file bit beside a backing file", value: 2 });
        }
        Ok(Self {
            size_bytes: fields.size_bytes,
            geometry,
            l1_offset: fields.l1_offset,
            l1_entries: fields.needed_l1(&geometry, file_bytes)?,
            codec: fields.codec()?,
            backing,
            backing_format: extensions.backing_format.map(<[u8]>::to_vec),
            data_file: has_data_file.then(|| extensions.data_file.unwrap_or_default().to_vec()),
            bitmaps: extensions.bitmaps(fields.autoclear & BITMAPS_CONSISTENT != 0)?,
        })
    }
}

/// The one field on which all others depend.
fn cluster_bytes(fields: &HeaderFields) -> Result<NonZeroU64, Fault> {
    let wrong = Fault::Header { field: "cluster_bits", value: u64::from(fields.cluster_bits) };
    let least = if fields.incompatible & SUBCLUSTERS == 0 { 9 } else { 14 };
    if !(least..=21).contains(&fields.cluster_bits) {
        return Err(wrong);
    }
    NonZeroU64::new(1u64.wrapping_shl(fields.cluster_bits)).ok_or(wrong)
}

impl HeaderFields {
    fn parse(area: &[u8]) -> Result<Self, Fault> {
        if area.is_empty() {
            return Err(Fault::Empty);
        }
        if !area.starts_with(b"QFI\xfb") {
            return Err(Fault::NotQcow2);
        }
        let word = |at| u32_at(area, at).ok_or(Fault::ShortHeader);
        let long = |at| u64_at(area, at).ok_or(Fault::ShortHeader);
        let version = word(4)?;
        let (incompatible, autoclear, header_bytes) = match version {
            2 => (0, 0, V2_BYTES),
            3 => (long(72)?, long(88)?, u64::from(word(100)?)),
            _ => return Err(Fault::Version { version }),
        };
        if version == 3 && (header_bytes < V3_BYTES || header_bytes % 8 != 0) {
            return Err(Fault::Header { field: "header_length", value: header_bytes });
        }
        let compression = if header_bytes > V3_BYTES { area.get(104).copied() } else { Some(0) };
        Ok(Self {
            version,
            backing_offset: long(8)?,
            backing_bytes: u64::from(word(16)?),
            cluster_bits: word(20)?,
            size_bytes: long(24)?,
            crypt_method: word(32)?,
            l1_entries: u64::from(word(36)?),
            l1_offset: long(40)?,
            incompatible,
            autoclear,
            header_bytes,
            compression: compression.ok_or(Fault::ShortHeader)?,
        })
    }

    fn refuse_features(&self, extensions: &Extensions<'_>) -> Result<(), Fault> {
        let unknown = self.incompatible & !KNOWN;
        if unknown != 0 {
            return Err(Fault::UnknownFeatures { names: extensions.names(unknown) });
        }
        // First what is wrong with it, then what is missing here.
        if self.incompatible & CORRUPT != 0 {
            return Err(Fault::Corrupt);
        }
        if self.incompatible & DIRTY != 0 {
            return Err(Fault::Dirty);
        }
        match self.crypt_method {
            0 => Ok(()),
            1 => Err(Fault::Encrypted { method: "AES" }),
            2 => Err(Fault::Encrypted { method: "LUKS" }),
            other => Err(Fault::Header { field: "crypt_method", value: u64::from(other) }),
        }
    }

    fn codec(&self) -> Result<Codec, Fault> {
        match (self.incompatible & COMPRESSION != 0, self.compression) {
            (false, 0) => Ok(Codec::Zlib),
            (true, 1) => Ok(Codec::Zstd),
            (_, other) => Err(Fault::Header { field: "compression_type", value: u64::from(other) }),
        }
    }

    /// The name of the backing file, which stands in the first cluster.
    fn backing_name(&self, area: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        if self.backing_offset == 0 {
            return Ok(None);
        }
        let wrong = |field, value| Fault::Header { field, value };
        if self.backing_offset < self.header_bytes {
            return Err(wrong("backing_file_offset", self.backing_offset));
        }
        if self.backing_bytes == 0 || self.backing_bytes > NAME_BYTES_MAX {
            return Err(wrong("backing_file_size", self.backing_bytes));
        }
        let name = slice(area, self.backing_offset, self.backing_bytes);
        Ok(Some(name.ok_or(wrong("backing_file_offset", self.backing_offset))?.to_vec()))
    }

    /// How many entries of the first table the disk needs, when they are where they can be.
    fn needed_l1(&self, geometry: &Geometry, file_bytes: u64) -> Result<u64, Fault> {
        let table = "L1 table";
        if self.size_bytes > DISK_BYTES_MAX {
            return Err(Fault::Header { field: "size", value: self.size_bytes });
        }
        let (length_bytes, limit_bytes) = (self.l1_entries.saturating_mul(8), L1_BYTES_MAX);
        if length_bytes > limit_bytes {
            return Err(Fault::Huge { table, length_bytes, limit_bytes });
        }
        let needed = self.size_bytes.div_ceil(geometry.table_covers_bytes.get());
        if needed > self.l1_entries {
            return Err(Fault::Header { field: "l1_size, too small for the disk,", value: self.l1_entries });
        }
        if needed == 0 {
            return Ok(0);
        }
        let offset = self.l1_offset;
        if !geometry.is_aligned(offset) {
            return Err(Fault::Unaligned { table, offset, unit_bytes: geometry.cluster_bytes.get() });
        }
        if offset == 0 {
            return Err(Fault::Overlap { table, offset, other: "header" });
        }
        let length_bytes = needed.saturating_mul(8);
        match is_inside(offset, length_bytes, file_bytes) {
            true => Ok(needed),
            false => Err(Fault::Outside { table, offset, length_bytes, file_bytes }),
        }
    }
}

impl<'a> Extensions<'a> {
    fn parse(area: &'a [u8], fields: &HeaderFields, cluster_bytes: u64) -> Result<Self, Fault> {
        let end = if fields.backing_offset == 0 { cluster_bytes } else { fields.backing_offset };
        if fields.header_bytes > cluster_bytes || end > cluster_bytes {
            let (field, value) = match fields.header_bytes > cluster_bytes {
                true => ("header_length", fields.header_bytes),
                false => ("backing_file_offset", fields.backing_offset),
            };
            return Err(Fault::Header { field, value });
        }
        let mut found = Self::default();
        let (mut at, mut count) = (fields.header_bytes, 0_usize);
        // A new image may end with its header; its extensions then end there as well.
        while at.saturating_add(8) <= end.min(length(area)) {
            let short = Fault::ShortHeader;
            let kind = u32_at(area, to_usize(at)).ok_or(short.clone())?;
            let bytes = u64::from(u32_at(area, to_usize(at.saturating_add(4))).ok_or(short.clone())?);
            let data = at.saturating_add(8);
            if kind == 0 {
                break;
            }
            count = count.saturating_add(1);
            if count > EXTENSIONS_MAX {
                return Err(Fault::Extensions { limit: EXTENSIONS_MAX });
            }
            if !is_inside(data, bytes, end) {
                return Err(Fault::Header { field: "the length of a header extension", value: bytes });
            }
            found.take(kind, slice(area, data, bytes).ok_or(short)?)?;
            at = data.saturating_add(bytes.next_multiple_of(8));
        }
        Ok(found)
    }

    fn take(&mut self, kind: u32, data: &'a [u8]) -> Result<(), Fault> {
        let is_first = match kind {
            BACKING_FORMAT => self.backing_format.replace(data).is_none(),
            FEATURE_NAMES => std::mem::replace(&mut self.feature_names, data).is_empty(),
            BITMAPS => self.bitmaps.replace(data).is_none(),
            DATA_FILE_NAME => self.data_file.replace(data).is_none(),
            _ => true,
        };
        // Of two the one that other programs do not read could be the one that is read here.
        match is_first {
            true => Ok(()),
            false => {
                Err(Fault::Header { field: "a header extension that is there twice", value: u64::from(kind) })
            }
        }
    }

    /// Bit numbers of incompatible features, with their names where the image has them.
    fn names(&self, bits: u64) -> String {
        let name = |bit: u8| {
            let (entries, _) = self.feature_names.as_chunks::<FEATURE_BYTES>();
            let entry = entries.iter().find(|entry| entry.starts_with(&[0, bit]))?;
            let text: Vec<u8> = entry.iter().skip(2).copied().take_while(|byte| *byte != 0).collect();
            Some(format!("bit {bit} {:?}", String::from_utf8_lossy(&text)))
        };
        let set = (0..64u8).filter(|bit| bits.wrapping_shr(u32::from(*bit)) & 1 == 1);
        let names: Vec<String> = set.map(|bit| name(bit).unwrap_or_else(|| format!("bit {bit}"))).collect();
        names.join(", ")
    }

    fn bitmaps(&self, is_consistent: bool) -> Result<Option<BitmapDirectory>, Fault> {
        let Some(data) = self.bitmaps.filter(|_| is_consistent) else { return Ok(None) };
        let wrong = Fault::Header { field: "the length of the bitmaps extension", value: length(data) };
        let (Some(count), Some(length_bytes), Some(offset)) =
            (u32_at(data, 0), u64_at(data, 8), u64_at(data, 16))
        else {
            return Err(wrong);
        };
        Ok(Some(BitmapDirectory { count, offset, length_bytes }))
    }
}

#[cfg(test)]
mod tests;
