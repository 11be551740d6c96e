//! Names in folders. Trees of hashes lie in entries that look empty, so all blocks are read one after the other.

use super::{Ext, attributes};
use crate::bytes::{byte, le16, le32, slice, to_u64, to_usize};
use crate::fault::{Fault, Result};
use crate::fs::EachName;
use crate::node::NodeKind;

/// The folder above, before the entries of one that is in its inode.
const INLINE_SKIP: usize = 4;
const INLINE_FIRST: usize = 60;
/// Larger folders than this are no folders.
const BYTES_MAX: u64 = 4 << 30;

pub(super) fn list(ext: &mut Ext, id: u64, each: EachName<'_>) -> Result<()> {
    let inode = ext.inode(id)?;
    if inode.kind() != NodeKind::Directory {
        return Err(Fault::Corrupt("it is no folder"));
    }
    inode.refuse_encrypted()?;
    if inode.is_inline() {
        let bytes = attributes::inline(ext, &inode)?;
        let (first, rest) = bytes.split_at_checked(INLINE_FIRST).unwrap_or((&bytes, &[]));
        entries(slice(first, INLINE_SKIP, first.len().saturating_sub(INLINE_SKIP))?, each)?;
        return entries(rest, each);
    }
    if inode.size_bytes > BYTES_MAX {
        return Err(Fault::Corrupt("a folder that is larger than it can be"));
    }
    let block_bytes = ext.block_bytes();
    let mut at = 0;
    while at < inode.size_bytes {
        let end = at.saturating_add(block_bytes).min(inode.size_bytes);
        let block = ext.content(&inode, at..end)?;
        entries(&block, each)?;
        at = end;
    }
    Ok(())
}

fn entries(block: &[u8], each: EachName<'_>) -> Result<()> {
    let mut at = 0_usize;
    // What is left may be too short for an entry, in an inode.
    while at.saturating_add(8) <= block.len() {
        let id = u64::from(le32(block, at)?);
        let length = record_bytes(le16(block, at.saturating_add(4))?, block.len());
        let name_bytes = usize::from(byte(block, at.saturating_add(6))?);
        if length < 8 {
            return Err(Fault::Corrupt("a folder whose entries have no end"));
        }
        if id != 0 && name_bytes != 0 {
            if name_bytes.saturating_add(8) > length {
                return Err(Fault::Corrupt("a name that is longer than its entry"));
            }
            let name = slice(block, at.saturating_add(8), name_bytes)?;
            if name != b"." && name != b".." {
                each(name.to_vec(), id)?;
            }
        }
        at = at.saturating_add(length);
    }
    Ok(())
}

/// In blocks of 64 KiB the length does not fit its field.
fn record_bytes(field: u16, block_bytes: usize) -> usize {
    if to_u64(block_bytes) < 1 << 16 {
        return usize::from(field);
    }
    match field {
        0 | u16::MAX => block_bytes,
        field => to_usize(u64::from(field & 0xfffc) | u64::from(field & 3) << 16),
    }
}
