//! Inodes.

use crate::bytes::{be16, be32, be64, byte, to_usize};
use crate::fault::{Fault, Result};
use crate::node::{FileNode, Moment, NodeKind};

/// Where the forks begin, by version.
const CORE_BYTES: usize = 100;
const CORE_BYTES_V3: usize = 176;
const FLAG_REALTIME: u16 = 1;
pub(super) const FLAG2_BIGTIME: u64 = 8;
pub(super) const FLAG2_WIDE_COUNTS: u64 = 16;
/// Times are counted from here on, where they are counted in nanoseconds.
const BIGTIME_EPOCH: i64 = 1 << 31;
const NANOSECONDS: u64 = 1_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Local,
    Extents,
    Tree,
    None,
}

/// A part of an inode that says where bytes are, or has them.
#[derive(Debug)]
pub(super) struct Fork {
    pub(super) format: Format,
    pub(super) extents: u64,
    pub(super) area: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Inode {
    pub(super) number: u64,
    pub(super) size_bytes: u64,
    pub(super) data: Fork,
    pub(super) attributes: Fork,
    mode: u16,
    flags: u16,
    owner: (u32, u32),
    links: u32,
    modified: Moment,
}

/// Where the forks of an inode begin.
pub(super) fn core_bytes(version: u8) -> usize {
    if version >= 3 { CORE_BYTES_V3 } else { CORE_BYTES }
}

impl Inode {
    pub(super) fn parse(number: u64, bytes: Vec<u8>) -> Result<Self> {
        let (mode, version) = (be16(&bytes, 2)?, byte(&bytes, 4)?);
        if be16(&bytes, 0)? != u16::from_be_bytes(*b"IN") {
            return Err(Fault::Corrupt("an inode that is none"));
        }
        if mode == 0 {
            return Err(Fault::Corrupt("an inode that is not used"));
        }
        let core = core_bytes(version);
        let flags2 = if version >= 3 { be64(&bytes, 120)? } else { 0 };
        let (extents, attribute_extents) = match flags2 & FLAG2_WIDE_COUNTS {
            0 => (u64::from(be32(&bytes, 76)?), u64::from(be16(&bytes, 80)?)),
            _ => (be64(&bytes, 24)?, u64::from(be32(&bytes, 76)?)),
        };
        let forks = bytes.get(core..).ok_or(Fault::Corrupt("an inode that is too short"))?;
        let split = match usize::from(byte(&bytes, 82)?) {
            0 => forks.len(),
            eights => eights.saturating_mul(8),
        };
        let (data, attributes) =
            forks.split_at_checked(split).ok_or(Fault::Corrupt("an inode whose parts do not fit it"))?;
        let links = if version == 1 { u32::from(be16(&bytes, 6)?) } else { be32(&bytes, 16)? };
        Ok(Self {
            number,
            size_bytes: be64(&bytes, 56)?,
            data: Fork { format: format(byte(&bytes, 5)?), extents, area: data.to_vec() },
            attributes: Fork {
                format: if attributes.is_empty() { Format::None } else { format(byte(&bytes, 83)?) },
                extents: attribute_extents,
                area: attributes.to_vec(),
            },
            mode,
            flags: be16(&bytes, 90)?,
            owner: (be32(&bytes, 8)?, be32(&bytes, 12)?),
            links,
            modified: moment(be64(&bytes, 40)?, flags2 & FLAG2_BIGTIME != 0),
        })
    }

    pub(super) fn kind(&self) -> NodeKind {
        NodeKind::of_mode(self.mode)
    }

    pub(super) fn node(&self) -> FileNode {
        FileNode {
            id: self.number,
            kind: self.kind(),
            size_bytes: self.size_bytes,
            mode: Some(u32::from(self.mode & 0xfff)),
            owner: Some(self.owner),
            modified: Some(self.modified),
            links: self.links,
        }
    }

    pub(super) fn refuse_realtime(&self) -> Result<()> {
        match self.flags & FLAG_REALTIME {
            0 => Ok(()),
            _ => Err(Fault::Unsupported(
                "its bytes are on a realtime device, which is not read here".to_owned(),
            )),
        }
    }
}

fn format(number: u8) -> Format {
    match number {
        1 => Format::Local,
        2 => Format::Extents,
        3 => Format::Tree,
        _ => Format::None,
    }
}

fn moment(stored: u64, is_big: bool) -> Moment {
    if is_big {
        let seconds = i64::try_from(stored / NANOSECONDS).unwrap_or(i64::MAX).saturating_sub(BIGTIME_EPOCH);
        return Moment { seconds, nanoseconds: u32::try_from(stored % NANOSECONDS).unwrap_or(0) };
    }
    let seconds = u32::try_from(stored >> 32).unwrap_or(0).cast_signed();
    let nanoseconds = u32::try_from(stored & u64::from(u32::MAX)).unwrap_or(0).min(999_999_999);
    Moment { seconds: i64::from(seconds), nanoseconds }
}

impl Fork {
    /// How many extents the area has room for.
    pub(super) fn listed(&self) -> usize {
        to_usize(self.extents).min(self.area.len() / 16)
    }
}
