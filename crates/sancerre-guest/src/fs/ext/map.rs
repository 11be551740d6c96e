//! Where the blocks of a file are: trees of extents, or the older lists of blocks.

use std::ops::Range;

use super::inode::Inode;
use super::{Ext, Piece};
use crate::bytes::{le16, le32, slice, to_usize};
use crate::fault::{Fault, Result};
use crate::fs::walk::RangeWalk;

const EXTENT_MAGIC: u16 = 0xf30a;
/// No tree of the kernel's is deeper.
const DEPTH_MAX: u16 = 5;
/// Longer ones are reserved but not written.
const EXTENT_BLOCKS_MAX: u16 = 32_768;
const DIRECT: u64 = 12;

/// The pieces of a range, from its start on.
pub(super) fn pieces(ext: &mut Ext, inode: &Inode, range: Range<u64>) -> Result<Vec<Piece>> {
    let mut walk = RangeWalk::new(range);
    if inode.has_extents() {
        let root = inode.block_area()?.to_vec();
        extents(ext, &root, DEPTH_MAX.saturating_add(1), &mut walk)?;
    } else {
        lists(ext, inode, &mut walk)?;
    }
    Ok(walk.end())
}

/// Blocks of the file that are at `start` of the volume.
fn blocks(
    walk: &mut RangeWalk,
    block_bytes: u64,
    blocks: Range<u64>,
    start: u64,
    is_written: bool,
) -> Result<()> {
    let scale = |blocks: u64| blocks.saturating_mul(block_bytes);
    walk.extent(scale(blocks.start)..scale(blocks.end), || {
        let place = start.checked_mul(block_bytes).ok_or(Fault::Corrupt("a block behind the end"))?;
        Ok(is_written.then_some(place))
    })
}

/// A node of a tree: deeper nodes have less depth, so that it has an end.
fn extents(ext: &mut Ext, node: &[u8], above: u16, walk: &mut RangeWalk) -> Result<()> {
    if le16(node, 0)? != EXTENT_MAGIC {
        return Err(Fault::Corrupt("a tree of extents that is none"));
    }
    let (count, depth) = (usize::from(le16(node, 2)?), le16(node, 6)?);
    if depth >= above {
        return Err(Fault::Corrupt("a tree of extents that does not end"));
    }
    let entry = |number: usize| slice(node, number.saturating_add(1).saturating_mul(12), 12);
    for number in 0..count {
        if walk.is_full() {
            return Ok(());
        }
        let this = entry(number)?;
        let first = u64::from(le32(this, 0)?);
        if depth == 0 {
            let length = le16(this, 4)?;
            let is_written = length <= EXTENT_BLOCKS_MAX;
            let length =
                u64::from(if is_written { length } else { length.saturating_sub(EXTENT_BLOCKS_MAX) });
            let start = u64::from(le16(this, 6)?) << 32 | u64::from(le32(this, 8)?);
            blocks(walk, ext.block_bytes(), first..first.saturating_add(length), start, is_written)?;
            continue;
        }
        // Whatever the next one covers is not in this one.
        if number.saturating_add(1) < count {
            let next = u64::from(le32(entry(number.saturating_add(1))?, 0)?);
            if next <= walk.at() / ext.block_bytes() {
                continue;
            }
        }
        let child = u64::from(le16(this, 8)?) << 32 | u64::from(le32(this, 4)?);
        let child = ext.block(child)?;
        extents(ext, &child, depth, walk)?;
    }
    Ok(())
}

fn lists(ext: &mut Ext, inode: &Inode, walk: &mut RangeWalk) -> Result<()> {
    let area = inode.block_area()?.to_vec();
    let block_bytes = ext.block_bytes();
    let per_block = block_bytes / 4;
    while !walk.is_full() {
        let block = walk.at() / block_bytes;
        let (place, span) = match block.checked_sub(DIRECT) {
            None => (u64::from(le32(&area, to_usize(block.saturating_mul(4)))?), 1),
            Some(beyond) => indirect(ext, &area, beyond, per_block)?,
        };
        match place {
            0 => {
                let to = block.saturating_add(span.max(1)).saturating_mul(block_bytes);
                walk.hole_to(to);
            }
            place => blocks(walk, block_bytes, block..block.saturating_add(1), place, true)?,
        }
    }
    Ok(())
}

/// A block behind the direct ones; 0 for a hole, and how many blocks of the file it then covers.
fn indirect(ext: &mut Ext, area: &[u8], beyond: u64, per_block: u64) -> Result<(u64, u64)> {
    let (mut index, mut span) = (beyond, per_block);
    for level in 0..3_u32 {
        if index < span {
            let slot = DIRECT.saturating_add(u64::from(level)).saturating_mul(4);
            let mut at = u64::from(le32(area, to_usize(slot))?);
            let mut covered = span;
            for _ in 0..=level {
                if at == 0 {
                    return Ok((0, covered.saturating_sub(index % covered)));
                }
                covered /= per_block;
                let block = ext.block(at)?;
                let number = index / covered % per_block;
                at = u64::from(le32(&block, to_usize(number.saturating_mul(4)))?);
            }
            return Ok((at, 1));
        }
        index = index.saturating_sub(span);
        span = span.saturating_mul(per_block);
    }
    Err(Fault::Corrupt("a file that is longer than it can be"))
}
