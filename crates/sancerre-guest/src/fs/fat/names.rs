//! Folders of FAT: short names, and the long ones that stand before them.

use std::ops::Range;

use super::Found;
use super::boot::Variant;
use crate::bytes::{byte, from_utf16, le16, le32, slice, to_u64, to_usize};
use crate::fault::Result;
use crate::node::Moment;
use crate::volume::Volume;

const ENTRY_BYTES: usize = 32;
const FREE: u8 = 0xe5;
const ATTRIBUTE_LONG: u8 = 0x0f;
const ATTRIBUTE_LABEL: u8 = 0x08;
const ATTRIBUTE_FOLDER: u8 = 0x10;
/// The last part of a long name, which comes first.
const LAST: u8 = 0x40;
/// A long name has at most 255 letters, 13 in a part.
const PARTS_MAX: u8 = 20;
const PART_LETTERS: usize = 13;
/// The upper half of code page 437, in which short names are written unless the guest was set up otherwise.
const UPPER: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// The part of a long name that is being put together.
#[derive(Default)]
struct Long {
    letters: Vec<u16>,
    /// The number of the part that must come next; 0 when it is whole.
    next: u8,
    checksum: u8,
}

/// Everything in a folder.
pub(super) fn entries(volume: &Volume, places: &[Range<u64>], variant: Variant) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut long = None;
    for place in places {
        let bytes = volume.bytes(place.start, to_usize(place.end.saturating_sub(place.start)))?;
        for (number, entry) in bytes.chunks_exact(ENTRY_BYTES).enumerate() {
            let id = place.start.saturating_add(to_u64(number.saturating_mul(ENTRY_BYTES)));
            match (byte(entry, 0)?, byte(entry, 0xb)?) {
                (0, _) => return Ok(found),
                (FREE, _) => long = None,
                (order, attributes) if attributes & 0x3f == ATTRIBUTE_LONG => {
                    long = part(long, order, entry)?;
                }
                (_, attributes) => {
                    let name = long.take();
                    if attributes & ATTRIBUTE_LABEL == 0 && !entry.starts_with(b".") {
                        found.push(file(entry, id, name, variant)?);
                    }
                }
            }
        }
    }
    Ok(found)
}

/// The entry at a place.
pub(super) fn at(volume: &Volume, id: u64, variant: Variant) -> Result<Found> {
    file(&volume.bytes(id, ENTRY_BYTES)?, id, None, variant)
}

/// The long name after one more part; none when parts do not follow each other.
fn part(long: Option<Long>, order: u8, entry: &[u8]) -> Result<Option<Long>> {
    let (number, checksum) = (order & 0x3f, byte(entry, 0xd)?);
    if number == 0 || number > PARTS_MAX {
        return Ok(None);
    }
    let mut long = match (order & LAST != 0, long) {
        (true, _) => Long { letters: Vec::new(), next: number, checksum },
        (false, Some(long)) if long.next == number && long.checksum == checksum => long,
        _ => return Ok(None),
    };
    let mut letters = Vec::with_capacity(PART_LETTERS);
    for at in (1..11).step_by(2).chain((14..26).step_by(2)).chain([28, 30]) {
        letters.push(le16(entry, at)?);
    }
    letters.append(&mut long.letters);
    long.letters = letters;
    long.next = number.saturating_sub(1);
    Ok(Some(long))
}

fn file(entry: &[u8], id: u64, long: Option<Long>, variant: Variant) -> Result<Found> {
    let short = slice(entry, 0, 11)?;
    let is_its = |long: &Long| long.next == 0 && long.checksum == checksum(short);
    let name = match long.filter(is_its) {
        Some(long) => from_utf16(long.letters.into_iter().take_while(|letter| *letter != 0)),
        None => short_name(short, byte(entry, 0xc)?),
    };
    let high = if variant == Variant::Fat32 { u32::from(le16(entry, 0x14)?) << 16 } else { 0 };
    let size_bytes = u64::from(le32(entry, 0x1c)?);
    Ok(Found {
        id,
        name,
        is_folder: byte(entry, 0xb)? & ATTRIBUTE_FOLDER != 0,
        size_bytes,
        written_bytes: size_bytes,
        first_cluster: high | u32::from(le16(entry, 0x1a)?),
        is_contiguous: false,
        modified: moment(le16(entry, 0x18)?, le16(entry, 0x16)?, 0),
    })
}

fn checksum(short: &[u8]) -> u8 {
    short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// Eight and three letters, in lower case where the entry says so.
fn short_name(short: &[u8], case: u8) -> Vec<u8> {
    let (base, extension) = short.split_at_checked(8).unwrap_or((short, &[]));
    let text = |bytes: &[u8], is_lower: bool| -> String {
        let letters = bytes.trim_ascii_end().iter().map(|byte| letter(*byte));
        letters.map(|letter| if is_lower { letter.to_ascii_lowercase() } else { letter }).collect()
    };
    let mut base = base.to_vec();
    // A name that begins like a free entry.
    if let Some(first @ 5) = base.first_mut() {
        *first = FREE;
    }
    let mut name = text(&base, case & 8 != 0);
    let extension = text(extension, case & 16 != 0);
    if !extension.is_empty() {
        name.push('.');
        name.push_str(&extension);
    }
    name.into_bytes()
}

fn letter(byte: u8) -> char {
    match byte.checked_sub(0x80) {
        None => char::from(byte),
        Some(upper) => UPPER.chars().nth(usize::from(upper)).unwrap_or(char::REPLACEMENT_CHARACTER),
    }
}

/// Days from 1970 and a time of day; none when there is no such day.
pub(super) fn moment(date: u16, time: u16, centiseconds: u8) -> Option<Moment> {
    let (year, month, day) =
        (i64::from(date >> 9) + 1980, i64::from(date >> 5 & 0xf), i64::from(date & 0x1f));
    if !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    // Years begin in March here, so that the odd day is their last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let of_day = i64::from(time >> 11) * 3600 + i64::from(time >> 5 & 0x3f) * 60 + i64::from(time & 0x1f) * 2;
    let centiseconds = u32::from(centiseconds.min(199));
    Some(Moment {
        seconds: days * 86_400 + of_day + i64::from(centiseconds / 100),
        nanoseconds: centiseconds % 100 * 10_000_000,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_from_1970() {
        let date = |year: u16, month: u16, day: u16| (year - 1980) << 9 | month << 5 | day;
        assert_eq!(moment(date(2000, 3, 1), 0, 0).unwrap().seconds, 951_868_800);
        assert_eq!(moment(date(2024, 2, 29), 12 << 11 | 30 << 5 | 5, 150).unwrap().seconds, 1_709_209_811);
        assert_eq!(moment(0, 0, 0), None);
    }

    #[test]
    fn short_names_are_as_they_were_typed() {
        assert_eq!(UPPER.chars().count(), 128);
        assert_eq!(short_name(b"README  TXT", 0x18), b"readme.txt");
        assert_eq!(short_name(b"\x05BC        ", 0), "σBC".as_bytes());
        assert_eq!(short_name(b"\x8eRGER   \x94  ", 0), "ÄRGER.ö".as_bytes());
    }
}
