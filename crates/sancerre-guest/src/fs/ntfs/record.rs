//! Records of the table: a file, or a part of one.

use super::attribute::{self, Attribute};
use crate::bytes::{le16, le32, le64, slice};
use crate::fault::{Fault, Result};

/// Records and blocks of folders are protected in these steps, whatever the disk's sectors are.
const SECTOR_BYTES: usize = 512;

pub(super) struct Record {
    pub(super) number: u64,
    /// How often this number was used.
    pub(super) uses: u16,
    pub(super) names: u16,
    pub(super) is_used: bool,
    pub(super) is_folder: bool,
    /// The record that this is a part of; 0 for none.
    pub(super) base: u64,
    pub(super) attributes: Vec<Attribute>,
}

/// A record from its bytes on the disk.
pub(super) fn parse(number: u64, mut bytes: Vec<u8>) -> Result<Record> {
    if slice(&bytes, 0, 4)? != b"FILE" {
        return Err(Fault::Corrupt("a record of a file that is none"));
    }
    mend(&mut bytes)?;
    let flags = le16(&bytes, 0x16)?;
    let mut attributes = Vec::new();
    let mut at = usize::from(le16(&bytes, 0x14)?);
    loop {
        let kind = le32(&bytes, at)?;
        if kind == u32::MAX {
            break;
        }
        let length = usize::try_from(le32(&bytes, at.saturating_add(4))?).unwrap_or(usize::MAX);
        if length < 0x18 {
            return Err(Fault::Corrupt("attributes without an end"));
        }
        attributes.push(attribute::parse(kind, slice(&bytes, at, length)?)?);
        at = at.saturating_add(length);
    }
    Ok(Record {
        number,
        uses: le16(&bytes, 0x10)?,
        names: le16(&bytes, 0x12)?,
        is_used: flags & 1 != 0,
        is_folder: flags & 2 != 0,
        base: le64(&bytes, 0x20)?,
        attributes,
    })
}

/// The last two bytes of each sector are kept elsewhere, and a number stands in their place: where it is another one, the
/// sectors are of different moments.
pub(super) fn mend(bytes: &mut [u8]) -> Result<()> {
    let (at, count) = (usize::from(le16(bytes, 4)?), usize::from(le16(bytes, 6)?));
    let mark = le16(bytes, at)?;
    for sector in 1..count {
        let kept = le16(bytes, at.saturating_add(sector.saturating_mul(2)))?;
        let end = sector.saturating_mul(SECTOR_BYTES);
        let place = end.saturating_sub(2);
        if le16(bytes, place)? != mark {
            return Err(Fault::Corrupt("a record that was written in part"));
        }
        if let Some(place) = bytes.get_mut(place..end) {
            place.copy_from_slice(&kept.to_le_bytes());
        }
    }
    Ok(())
}
