//! Names in folders: in the inode, or in blocks, which are read one after the other.

use super::inode::{Format, Inode};
use super::map;
use super::{PiecePlace, Xfs};
use crate::bytes::{be16, be32, be64, byte, slice, to_usize};
use crate::fault::{Fault, Result};
use crate::fs::EachName;
use crate::node::NodeKind;

/// Behind this place of a folder are hashes.
const NAMES_END: u64 = 32 << 30;
const UNUSED: u16 = 0xffff;
const TAIL_BYTES: usize = 8;

pub(super) fn list(xfs: &Xfs, inode: &Inode, each: EachName<'_>) -> Result<()> {
    if inode.kind() != NodeKind::Directory {
        return Err(Fault::Corrupt("it is no folder"));
    }
    if inode.data.format == Format::Local {
        return short(xfs, &inode.data.area, each);
    }
    let block_bytes = xfs.geometry.folder_block_bytes;
    let mut at = 0;
    while at < NAMES_END {
        let mut end = at;
        for piece in map::pieces(xfs, &inode.data, at..NAMES_END)? {
            end = end.saturating_add(piece.length_bytes);
            if piece.place == PiecePlace::Hole {
                at = at.max(end);
            }
            // A block of a folder may be several of the file system, at several places.
            while at < end {
                let block = xfs.content(&inode.data, at..at.saturating_add(block_bytes))?;
                entries(xfs, &block, each)?;
                at = at.saturating_add(block_bytes);
            }
        }
    }
    Ok(())
}

fn short(xfs: &Xfs, area: &[u8], each: EachName<'_>) -> Result<()> {
    let (count, wide) = (usize::from(byte(area, 0)?), byte(area, 1)? != 0);
    let number_bytes = if wide { 8 } else { 4 };
    let mut at = 2_usize.saturating_add(number_bytes);
    for _ in 0..count {
        let length = usize::from(byte(area, at)?);
        let name = slice(area, at.saturating_add(3), length)?;
        at = at.saturating_add(3).saturating_add(length).saturating_add(usize::from(xfs.geometry.has_kinds));
        let number = if wide { be64(area, at)? } else { u64::from(be32(area, at)?) };
        at = at.saturating_add(number_bytes);
        each(name.to_vec(), number)?;
    }
    Ok(())
}

fn entries(xfs: &Xfs, block: &[u8], each: EachName<'_>) -> Result<()> {
    let (start, has_tail) = match slice(block, 0, 4)? {
        b"XD2B" => (16, true),
        b"XD2D" => (16, false),
        b"XDB3" => (64, true),
        b"XDD3" => (64, false),
        _ => return Err(Fault::Corrupt("a block of a folder that is none")),
    };
    let mut end = block.len();
    if has_tail {
        let tail = end.saturating_sub(TAIL_BYTES);
        let hashes = to_usize(u64::from(be32(block, tail)?)).saturating_mul(8);
        end = tail.checked_sub(hashes).ok_or(Fault::Corrupt("a folder with more hashes than room"))?;
    }
    let mut at: usize = start;
    while at < end {
        if be16(block, at)? == UNUSED {
            let length = usize::from(be16(block, at.saturating_add(2))?);
            if length == 0 {
                return Err(Fault::Corrupt("a folder whose entries have no end"));
            }
            at = at.saturating_add(length);
            continue;
        }
        let length = usize::from(byte(block, at.saturating_add(8))?);
        let name = slice(block, at.saturating_add(9), length)?;
        if name != b"." && name != b".." {
            each(name.to_vec(), be64(block, at)?)?;
        }
        let bytes = 11_usize.saturating_add(length).saturating_add(usize::from(xfs.geometry.has_kinds));
        at = at.saturating_add(bytes.next_multiple_of(8));
    }
    Ok(())
}
