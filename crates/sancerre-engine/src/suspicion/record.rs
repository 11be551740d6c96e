//! The bytes of the statistics (FORMAT.md §5.2): a table that names, for each GiB of each disk, a piece with where files start
//! and one with what was counted. Pieces that are as the night before are not stored again.

use std::collections::BTreeMap;

use sancerre_format::FormatError;
use sancerre_format::bytes::{Reader, put_number};
use sancerre_format::id::{ContentId, FrameName, FramePlace, PackName, Place};
use sancerre_format::names::Title;

use super::extent::{Counts, EXTENT_BYTES, NUMBERS};
use super::signatures::Signature;
use super::trace::Start;
use crate::error::Result;

/// What one piece is about.
pub const SPAN_BYTES: u64 = 1 << 30;
/// Blocks in it.
pub const SPAN_BLOCKS: u64 = SPAN_BYTES / 4096;
/// Extents in it.
pub const SPAN_EXTENTS: u64 = SPAN_BYTES / EXTENT_BYTES;

const WHAT: &str = "statistics";
const MAGIC: &[u8; 8] = b"SNCSTAT1";
/// Bytes of a piece that is named.
const NAMED_BYTES: usize = 64;

/// A piece, by its id and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedPiece {
    /// A keyed hash of its bytes.
    pub id: ContentId,
    /// Where it lies, in a frame of an annex.
    pub place: Place,
}

/// The pieces of one GiB of a disk, at least one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// Where files start.
    pub starts: Option<NamedPiece>,
    /// What was counted that night.
    pub counts: Option<NamedPiece>,
}

/// The statistics of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskTable {
    /// Its name.
    pub name: Title,
    /// Its size.
    pub size_bytes: u64,
    /// The pieces of each GiB of which there is something to say, by its number.
    pub spans: BTreeMap<u64, Span>,
}

fn corrupt(detail: &str) -> FormatError {
    FormatError::Corrupt { what: WHAT, detail: detail.to_owned() }
}

/// The table of all disks.
pub fn encode_table(disks: &[DiskTable]) -> Result<Vec<u8>> {
    let mut bytes = MAGIC.to_vec();
    put_count(&mut bytes, disks.len())?;
    for disk in disks {
        let name = disk.name.encoded();
        put_count(&mut bytes, name.len())?;
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&disk.size_bytes.to_le_bytes());
        put_count(&mut bytes, disk.spans.len())?;
        for (number, span) in &disk.spans {
            bytes.extend_from_slice(&number.to_le_bytes());
            bytes.push(u8::from(span.starts.is_some()) | u8::from(span.counts.is_some()) << 1);
            span.starts.iter().chain(&span.counts).for_each(|named| put_named(&mut bytes, named));
        }
    }
    Ok(bytes)
}

fn put_count(bytes: &mut Vec<u8>, count: usize) -> Result<()> {
    let count = sancerre_format::bytes::to_u32(WHAT, count);
    let count = count.map_err(|error| crate::error::Error::bug(error.to_string()))?;
    bytes.extend_from_slice(&count.to_le_bytes());
    Ok(())
}

fn put_named(bytes: &mut Vec<u8>, NamedPiece { id, place }: &NamedPiece) {
    bytes.extend_from_slice(&id.0);
    bytes.extend_from_slice(&place.frame.frame.pack.session.to_le_bytes());
    let frame = place.frame;
    let numbers = [
        frame.frame.pack.ordinal,
        frame.frame.index,
        frame.offset_bytes,
        frame.sealed_bytes,
        place.offset_bytes,
        place.size_bytes,
    ];
    numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
}

/// Reads a table.
pub fn decode_table(bytes: &[u8]) -> std::result::Result<Vec<DiskTable>, FormatError> {
    let mut reader = Reader::new(WHAT, bytes);
    if reader.take(MAGIC.len())? != MAGIC {
        return Err(corrupt("they begin otherwise"));
    }
    let count = reader.count(16)?;
    let mut disks = Vec::with_capacity(count);
    for _ in 0..count {
        disks.push(read_disk(&mut reader)?);
    }
    reader.finish()?;
    Ok(disks)
}

fn read_disk(reader: &mut Reader<'_>) -> std::result::Result<DiskTable, FormatError> {
    let length = reader.count(1)?;
    let name = std::str::from_utf8(reader.take(length)?).map_err(|_| corrupt("a name is no text"))?;
    let name = Title::decode(name)?;
    let size_bytes = reader.u64()?;
    let count = reader.count(9 + NAMED_BYTES)?;
    let (mut spans, mut next) = (BTreeMap::new(), 0);
    for _ in 0..count {
        let number = reader.u64()?;
        if number < next || number >= size_bytes.div_ceil(SPAN_BYTES) {
            return Err(corrupt("pieces are not ascending, or lie beyond their disk"));
        }
        next = number + 1;
        let flags = reader.u8()?;
        if !matches!(flags, 1..=3) {
            return Err(corrupt("a piece is of no known kind"));
        }
        let starts = (flags & 1 != 0).then(|| read_named(reader)).transpose()?;
        let counts = (flags & 2 != 0).then(|| read_named(reader)).transpose()?;
        spans.insert(number, Span { starts, counts });
    }
    Ok(DiskTable { name, size_bytes, spans })
}

fn read_named(reader: &mut Reader<'_>) -> std::result::Result<NamedPiece, FormatError> {
    if reader.remaining() < NAMED_BYTES {
        return Err(corrupt("a name of a piece ends early"));
    }
    let id = ContentId(reader.array()?);
    let session = reader.u64()?;
    let pack = PackName { session, ordinal: reader.u32()? };
    let frame = FrameName { pack, index: reader.u32()? };
    let frame = FramePlace { frame, offset_bytes: reader.u32()?, sealed_bytes: reader.u32()? };
    let place = Place { frame, offset_bytes: reader.u32()?, size_bytes: reader.u32()? };
    Ok(NamedPiece { id, place })
}

/// Where files start in one GiB, ascending; nothing when there are none.
pub fn encode_starts(span: u64, starts: &[Start]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut next = 0;
    for (block, kind) in starts {
        let within = block.saturating_sub(span.saturating_mul(SPAN_BLOCKS));
        put_number(&mut bytes, within.saturating_sub(next) << 1 | u64::from(*kind == Signature::Page));
        next = within + 1;
    }
    bytes
}

/// Reads the same.
pub fn decode_starts(span: u64, bytes: &[u8]) -> std::result::Result<Vec<Start>, FormatError> {
    let first = span.checked_mul(SPAN_BLOCKS).ok_or_else(|| corrupt("a piece lies beyond every disk"))?;
    let (mut reader, mut starts, mut next) = (Reader::new(WHAT, bytes), Vec::new(), 0u64);
    while reader.remaining() > 0 {
        let word = reader.number()?;
        let within = next.saturating_add(word >> 1);
        if within >= SPAN_BLOCKS {
            return Err(corrupt("a file starts outside of its piece"));
        }
        let kind = if word & 1 == 1 { Signature::Page } else { Signature::File };
        starts.push((first + within, kind));
        next = within + 1;
    }
    Ok(starts)
}

/// What was counted in one GiB, ascending by extents.
pub fn encode_counts(span: u64, counts: &[(u64, Counts)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut next = 0;
    for (extent, counts) in counts {
        let within = extent.saturating_sub(span.saturating_mul(SPAN_EXTENTS));
        put_number(&mut bytes, within.saturating_sub(next));
        counts.numbers().iter().for_each(|number| put_number(&mut bytes, *number));
        next = within + 1;
    }
    bytes
}

/// Reads the same.
pub fn decode_counts(span: u64, bytes: &[u8]) -> std::result::Result<Vec<(u64, Counts)>, FormatError> {
    let first = span.checked_mul(SPAN_EXTENTS).ok_or_else(|| corrupt("a piece lies beyond every disk"))?;
    let (mut reader, mut counts, mut next) = (Reader::new(WHAT, bytes), Vec::new(), 0u64);
    while reader.remaining() > 0 {
        let within = next.saturating_add(reader.number()?);
        if within >= SPAN_EXTENTS {
            return Err(corrupt("an extent lies outside of its piece"));
        }
        let mut numbers = [0; NUMBERS];
        for value in &mut numbers {
            *value = reader.number()?;
        }
        counts.push((first + within, Counts::of_numbers(numbers)));
        next = within + 1;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named() -> impl Strategy<Value = NamedPiece> {
        (any::<[u8; 32]>(), any::<u64>(), any::<[u32; 6]>()).prop_map(|(id, session, [a, b, c, d, e, f])| {
            let frame = FrameName { pack: PackName { session, ordinal: a }, index: b };
            let frame = FramePlace { frame, offset_bytes: c, sealed_bytes: d };
            NamedPiece { id: ContentId(id), place: Place { frame, offset_bytes: e, size_bytes: f } }
        })
    }

    fn disk() -> impl Strategy<Value = DiskTable> {
        let span = (named(), proptest::option::of(named()), any::<bool>());
        let span = span.prop_map(|(one, other, is_counts)| match is_counts {
            true => Span { starts: other, counts: Some(one) },
            false => Span { starts: Some(one), counts: other },
        });
        let spans = proptest::collection::btree_map(0u64..1 << 33, span, 0..5);
        ("[a-z]{1,8}", spans).prop_map(|(name, spans)| DiskTable {
            name: Title::new(&name).unwrap(),
            size_bytes: spans.keys().next_back().map_or(0, |last| last * SPAN_BYTES + 1),
            spans,
        })
    }

    /// FORMAT.md §5.2, byte for byte.
    #[test]
    fn statistics_are_spelled_so_for_ever() {
        let starts = [(SPAN_BLOCKS, Signature::File), (SPAN_BLOCKS + 100, Signature::Page)];
        assert_eq!(encode_starts(1, &starts), [0, 0xc7, 1]);
        let counts = Counts { changed: 300, lost: 1, ..Counts::default() };
        let spelled = [2, 0, 0xac, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0];
        assert_eq!(encode_counts(1, &[(SPAN_EXTENTS + 2, counts)]), spelled);
        let frame = FrameName { pack: PackName { session: 7, ordinal: 2 }, index: 3 };
        let frame = FramePlace { frame, offset_bytes: 560, sealed_bytes: 304 };
        let named =
            NamedPiece { id: ContentId([0xc0; 32]), place: Place { frame, offset_bytes: 5, size_bytes: 6 } };
        let spans = BTreeMap::from([(1, Span { starts: Some(named), counts: None })]);
        let disk = DiskTable { name: Title::new("sda").unwrap(), size_bytes: 2 * SPAN_BYTES, spans };
        let spelled = [
            &b"SNCSTAT1\x01\0\0\0\x03\0\0\0sda\0\0\0\x80\0\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0\x01"[..],
            &[0xc0; 32],
            &[
                7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 48, 2, 0, 0, 48, 1, 0, 0, 5, 0, 0, 0, 6, 0,
                0, 0,
            ],
        ];
        assert_eq!(encode_table(&[disk]).unwrap(), spelled.concat());
    }

    proptest! {
        #[test]
        fn a_table_reads_as_it_was_written(disks in proptest::collection::vec(disk(), 0..4)) {
            let bytes = encode_table(&disks).unwrap();
            prop_assert_eq!(decode_table(&bytes).unwrap(), disks);
        }

        #[test]
        fn pieces_read_as_they_were_written(
            span in 0u64..1000,
            starts in proptest::collection::btree_map(0..SPAN_BLOCKS, any::<bool>(), 0..50),
            counts in proptest::collection::btree_map(0..SPAN_EXTENTS, any::<[u64; NUMBERS]>(), 0..20),
        ) {
            let kind = |page| if page { Signature::Page } else { Signature::File };
            let starts: Vec<Start> =
                starts.into_iter().map(|(block, page)| (span * SPAN_BLOCKS + block, kind(page))).collect();
            prop_assert_eq!(decode_starts(span, &encode_starts(span, &starts)).unwrap(), starts);
            let counts: Vec<(u64, Counts)> = counts
                .into_iter()
                .map(|(extent, numbers)| (span * SPAN_EXTENTS + extent, Counts::of_numbers(numbers)))
                .collect();
            prop_assert_eq!(decode_counts(span, &encode_counts(span, &counts)).unwrap(), counts);
        }

        /// Foreign bytes: an error or a value with one spelling, never a panic.
        #[test]
        fn any_bytes_are_refused_or_read(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            is_table in any::<bool>(),
            span in any::<u64>(),
        ) {
            if is_table {
                bytes.splice(0..0, MAGIC.iter().copied());
            }
            if let Ok(disks) = decode_table(&bytes) {
                prop_assert_eq!(encode_table(&disks).unwrap(), bytes.clone());
            }
            if let Ok(starts) = decode_starts(span, &bytes) {
                prop_assert_eq!(encode_starts(span, &starts), bytes.clone());
                let blocks: BTreeMap<u64, Signature> = starts.iter().copied().collect();
                prop_assert_eq!(blocks.len(), starts.len());
            }
            if let Ok(counts) = decode_counts(span, &bytes) {
                prop_assert_eq!(encode_counts(span, &counts), bytes);
            }
        }
    }
}
