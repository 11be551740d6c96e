//! Attributes of a record: bytes that are in it, or places on the volume.

use crate::bytes::{byte, from_utf16, le16, le32, le64, slice, to_u64, to_usize, units};
use crate::fault::{Fault, Result};

const FLAG_COMPRESSED: u16 = 0xff;
const FLAG_ENCRYPTED: u16 = 0x4000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attribute {
    pub(super) kind: u32,
    /// As bytes.
    pub(super) name: Vec<u8>,
    pub(super) is_compressed: bool,
    pub(super) is_encrypted: bool,
    pub(super) body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    Here(Vec<u8>),
    Elsewhere {
        /// Of the stream, the first that this part has the places of.
        first_cluster: u64,
        /// Clusters that are compressed together; 1 if none are.
        unit_clusters: u64,
        /// Of the whole stream; only the first part has them.
        size_bytes: u64,
        initialized_bytes: u64,
        places: Vec<DataRun>,
    },
}

/// Clusters that follow each other; without a place they are zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DataRun {
    pub(super) clusters: u64,
    pub(super) at: Option<u64>,
}

impl Attribute {
    pub(super) fn is(&self, kind: u32, name: &[u8]) -> bool {
        self.kind == kind && self.name == name
    }

    pub(super) fn first_cluster(&self) -> u64 {
        match &self.body {
            Body::Here(_) => 0,
            Body::Elsewhere { first_cluster, .. } => *first_cluster,
        }
    }
}

/// How long a stream is, by its parts.
pub(super) fn size_bytes(parts: &[Attribute]) -> u64 {
    parts.first().map_or(0, |first| match &first.body {
        Body::Here(bytes) => to_u64(bytes.len()),
        Body::Elsewhere { size_bytes, .. } => *size_bytes,
    })
}

pub(super) fn parse(kind: u32, bytes: &[u8]) -> Result<Attribute> {
    let name_bytes = usize::from(byte(bytes, 9)?).saturating_mul(2);
    let name = from_utf16(units(slice(bytes, usize::from(le16(bytes, 0xa)?), name_bytes)?));
    let flags = le16(bytes, 0xc)?;
    let body = match byte(bytes, 8)? {
        0 => {
            let length = to_usize(u64::from(le32(bytes, 0x10)?));
            Body::Here(slice(bytes, usize::from(le16(bytes, 0x14)?), length)?.to_vec())
        }
        _ => elsewhere(bytes)?,
    };
    Ok(Attribute {
        kind,
        name,
        is_compressed: flags & FLAG_COMPRESSED != 0,
        is_encrypted: flags & FLAG_ENCRYPTED != 0,
        body,
    })
}

fn elsewhere(bytes: &[u8]) -> Result<Body> {
    let first_cluster = le64(bytes, 0x10)?;
    let unit = u32::from(le16(bytes, 0x22)?);
    if unit > 6 {
        return Err(Fault::Corrupt("a stream compressed in units that there are not"));
    }
    let is_first = first_cluster == 0;
    let places = places(bytes.get(usize::from(le16(bytes, 0x20)?)..).unwrap_or_default())?;
    Ok(Body::Elsewhere {
        first_cluster,
        unit_clusters: 1 << unit,
        size_bytes: if is_first { le64(bytes, 0x30)? } else { 0 },
        initialized_bytes: if is_first { le64(bytes, 0x38)? } else { 0 },
        places,
    })
}

/// Lengths and distances, each in as many bytes as it needs.
fn places(mut bytes: &[u8]) -> Result<Vec<DataRun>> {
    let mut found = Vec::new();
    let mut at = 0_i64;
    while let Some((head, rest)) = bytes.split_first() {
        let (length_bytes, offset_bytes) = (usize::from(head & 0xf), usize::from(head >> 4));
        if length_bytes == 0 {
            break;
        }
        if length_bytes > 8 || offset_bytes > 8 {
            return Err(Fault::Corrupt("places of a file that make no sense"));
        }
        let clusters = number(slice(rest, 0, length_bytes)?);
        let clusters =
            u64::try_from(clusters).map_err(|_| Fault::Corrupt("places of a file that make no sense"))?;
        let place = match offset_bytes {
            0 => None,
            _ => {
                at = at
                    .checked_add(number(slice(rest, length_bytes, offset_bytes)?))
                    .ok_or(Fault::Corrupt("places of a file that make no sense"))?;
                Some(u64::try_from(at).map_err(|_| Fault::Corrupt("places of a file before the volume"))?)
            }
        };
        found.push(DataRun { clusters, at: place });
        bytes = rest.get(length_bytes.saturating_add(offset_bytes)..).unwrap_or_default();
    }
    Ok(found)
}

/// Little-endian with a sign, of up to eight bytes.
fn number(bytes: &[u8]) -> i64 {
    let is_negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut whole = [if is_negative { 0xff } else { 0 }; 8];
    whole.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    i64::from_le_bytes(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_go_forth_and_back() {
        let found =
            places(&[0x31, 0x38, 0x73, 0x25, 0x34, 0x32, 0x14, 0x01, 0xe5, 0x11, 0x02, 0x01, 0x04, 0])
                .unwrap();
        assert_eq!(found[0], DataRun { clusters: 0x38, at: Some(0x34_2573) });
        assert_eq!(found[1].clusters, 0x114);
        assert_eq!(found[1].at, Some(0x34_2573 + 0x02_11e5));
        assert_eq!(found[2], DataRun { clusters: 4, at: None });
        assert!(places(&[0x11, 1, 0xf0]).is_err());
        assert!(places(&[0x11]).is_err());
    }
}
