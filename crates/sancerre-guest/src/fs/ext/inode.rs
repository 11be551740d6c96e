//! Inodes.

use crate::bytes::{le16, le32, slice, to_u64, to_usize};
use crate::fault::{Fault, Result};
use crate::node::{FileNode, Moment, NodeKind};

const FLAG_ENCRYPTED: u32 = 0x800;
const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_INLINE: u32 = 0x1000_0000;
/// Where the tree of blocks, a short link or the first inline bytes are.
const BLOCK: usize = 0x28;
const BLOCK_BYTES: usize = 60;
/// Where the fields end that every inode has.
pub(super) const GOOD_OLD_BYTES: usize = 128;

pub(super) struct Inode {
    pub(super) number: u64,
    pub(super) size_bytes: u64,
    pub(super) mode: u16,
    /// The block of attributes; 0 if there is none.
    pub(super) attributes: u64,
    /// The whole inode.
    pub(super) bytes: Vec<u8>,
    flags: u32,
    owner: (u32, u32),
    links: u16,
    modified: Moment,
}

impl Inode {
    pub(super) fn parse(number: u64, bytes: &[u8]) -> Result<Self> {
        let mode = le16(bytes, 0)?;
        let wide = |low: usize, high: usize| -> Result<u32> {
            Ok(u32::from(le16(bytes, high)?) << 16 | u32::from(le16(bytes, low)?))
        };
        let size_low = u64::from(le32(bytes, 4)?);
        // Of folders the upper half was something else once.
        let size_high = u64::from(le32(bytes, 0x6c)?);
        let attributes = u64::from(le16(bytes, 0x76)?) << 32 | u64::from(le32(bytes, 0x68)?);
        if mode == 0 && le16(bytes, 0x1a)? == 0 {
            return Err(Fault::Corrupt("an inode that is not used"));
        }
        Ok(Self {
            number,
            size_bytes: size_high << 32 | size_low,
            mode,
            attributes,
            flags: le32(bytes, 0x20)?,
            owner: (wide(2, 0x78)?, wide(0x18, 0x7a)?),
            links: le16(bytes, 0x1a)?,
            modified: modified(bytes)?,
            bytes: bytes.to_vec(),
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
            links: u32::from(self.links),
        }
    }

    pub(super) fn has_extents(&self) -> bool {
        self.flags & FLAG_EXTENTS != 0
    }

    pub(super) fn is_inline(&self) -> bool {
        self.flags & FLAG_INLINE != 0
    }

    pub(super) fn refuse_encrypted(&self) -> Result<()> {
        match self.flags & FLAG_ENCRYPTED {
            0 => Ok(()),
            _ => Err(Fault::Unsupported("it is encrypted by the guest (fscrypt)".to_owned())),
        }
    }

    pub(super) fn block_area(&self) -> Result<&[u8]> {
        slice(&self.bytes, BLOCK, BLOCK_BYTES)
    }

    /// The target of a link that is in the inode itself.
    pub(super) fn short_link(&self) -> Option<Vec<u8>> {
        let is_short = self.size_bytes < to_u64(BLOCK_BYTES) && !self.has_extents() && !self.is_inline();
        let area = self.block_area().ok()?;
        is_short.then(|| area.get(..to_usize(self.size_bytes)).map(<[u8]>::to_vec))?
    }

    /// The end of the fields, where attributes begin; none when the inode has no room for any.
    pub(super) fn fields_end(&self) -> Option<usize> {
        let extra = usize::from(le16(&self.bytes, GOOD_OLD_BYTES).ok()?);
        GOOD_OLD_BYTES.checked_add(extra).filter(|end| *end <= self.bytes.len())
    }
}

/// With more bits where the inode has them: 2 for the years from 2038 on, 30 for parts of a second.
fn modified(bytes: &[u8]) -> Result<Moment> {
    let low = le32(bytes, 0x10)?.cast_signed();
    let has_more = le16(bytes, GOOD_OLD_BYTES).is_ok_and(|extra| extra >= 12);
    let more = if has_more { le32(bytes, 0x88).unwrap_or(0) } else { 0 };
    let epoch = i64::from(more & 3) << 32;
    let nanoseconds = (more >> 2).min(999_999_999);
    Ok(Moment { seconds: i64::from(low).saturating_add(epoch), nanoseconds })
}
