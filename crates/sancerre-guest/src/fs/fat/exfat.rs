//! Folders of exFAT: sets of entries, one of which is the file, one its stream, and the rest its name.

use std::ops::Range;

use super::Found;
use super::names::moment;
use crate::bytes::{byte, from_utf16, le16, le32, le64, slice, to_u64, to_usize, units};
use crate::fault::{Fault, Result};
use crate::node::Moment;
use crate::volume::Volume;

const ENTRY_BYTES: usize = 32;
/// A file, its stream and 17 parts of a name.
const SET_BYTES_MAX: u64 = 19 * 32;
const FILE: u8 = 0x85;
const STREAM: u8 = 0xc0;
const NAME: u8 = 0xc1;
const ATTRIBUTE_FOLDER: u16 = 0x10;
const NO_TABLE: u8 = 2;
const QUARTER_SECONDS: i64 = 15 * 60;

/// Everything in a folder. A set may go on in its next cluster, so the folder is read whole.
pub(super) fn entries(volume: &Volume, places: &[Range<u64>]) -> Result<Vec<Found>> {
    let mut bytes = Vec::new();
    let mut offsets = Vec::new();
    for place in places {
        let piece = volume.bytes(place.start, to_usize(place.end.saturating_sub(place.start)))?;
        let count = piece.len() / ENTRY_BYTES;
        offsets.extend(
            (0..count).map(|number| place.start.saturating_add(to_u64(number.saturating_mul(ENTRY_BYTES)))),
        );
        bytes.extend(piece);
    }
    let mut found = Vec::new();
    let mut number = 0;
    while let Some(offset) = offsets.get(number) {
        let at = number.saturating_mul(ENTRY_BYTES);
        number = number.saturating_add(1);
        match byte(&bytes, at)? {
            0 => break,
            FILE => {
                let more = usize::from(byte(&bytes, at.saturating_add(1))?);
                let length = more.saturating_add(1).saturating_mul(ENTRY_BYTES);
                let Ok(set) = slice(&bytes, at, length) else {
                    return Err(Fault::Corrupt("a set of entries that is cut"));
                };
                if let Some(file) = file(set, *offset)? {
                    found.push(file);
                    number = number.saturating_add(more);
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The set at a place.
pub(super) fn at(volume: &Volume, id: u64) -> Result<Found> {
    let length = volume.size_bytes().saturating_sub(id).min(SET_BYTES_MAX);
    let set = volume.bytes(id, to_usize(length))?;
    match set.first() {
        Some(&FILE) => file(&set, id)?.ok_or(Fault::Missing),
        _ => Err(Fault::Missing),
    }
}

/// None when it is no set of a file.
fn file(set: &[u8], id: u64) -> Result<Option<Found>> {
    let Ok(stream) = slice(set, ENTRY_BYTES, ENTRY_BYTES) else { return Ok(None) };
    if byte(stream, 0)? != STREAM {
        return Ok(None);
    }
    let letters = usize::from(byte(stream, 3)?);
    let mut name = Vec::new();
    for entry in set.chunks_exact(ENTRY_BYTES).skip(2).filter(|entry| entry.first() == Some(&NAME)) {
        name.extend(units(slice(entry, 2, 30)?));
    }
    if name.len() < letters || letters == 0 {
        return Ok(None);
    }
    name.truncate(letters);
    let size_bytes = le64(stream, 0x18)?;
    Ok(Some(Found {
        id,
        name: from_utf16(name),
        is_folder: le16(set, 4)? & ATTRIBUTE_FOLDER != 0,
        size_bytes,
        written_bytes: le64(stream, 8)?.min(size_bytes),
        first_cluster: le32(stream, 0x14)?,
        is_contiguous: byte(stream, 1)? & NO_TABLE != 0,
        modified: modified(set)?,
    }))
}

/// With the distance from UTC where the guest wrote it.
fn modified(set: &[u8]) -> Result<Option<Moment>> {
    let (time, date) = (le16(set, 0xc)?, le16(set, 0xe)?);
    let zone = byte(set, 0x17)?;
    let quarters = i64::from((zone << 1).cast_signed() >> 1);
    let found = moment(date, time, byte(set, 0x15)?);
    Ok(found.map(|moment| match zone & 0x80 {
        0 => moment,
        _ => Moment {
            seconds: moment.seconds.saturating_sub(quarters.saturating_mul(QUARTER_SECONDS)),
            ..moment
        },
    }))
}
