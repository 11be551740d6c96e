//! Where the blocks of a fork are: a list of extents, or a tree of them.

use std::ops::Range;

use super::inode::{Fork, Format};
use super::{Piece, Xfs};
use crate::bytes::{be16, be64, slice, to_usize};
use crate::fault::{Fault, Result};
use crate::fs::walk::RangeWalk;

const DEPTH_MAX: u16 = 10;
const HEADER_BYTES: usize = 24;
const HEADER_BYTES_V5: usize = 72;

/// Blocks of a file that follow each other on the volume.
struct Extent {
    blocks: Range<u64>,
    start: u64,
    is_written: bool,
}

fn extent(record: &[u8]) -> Result<Extent> {
    let (high, low) = (be64(record, 0)?, be64(record, 8)?);
    let first = high >> 9 & ((1 << 54) - 1);
    let start = (high & 0x1ff) << 43 | low >> 21;
    let count = low & 0x1f_ffff;
    Ok(Extent { blocks: first..first.saturating_add(count), start, is_written: high >> 63 == 0 })
}

impl Extent {
    fn meet(&self, xfs: &Xfs, walk: &mut RangeWalk) -> Result<()> {
        let scale = |blocks: u64| blocks.saturating_mul(xfs.geometry.block_bytes);
        walk.extent(scale(self.blocks.start)..scale(self.blocks.end), || {
            self.is_written.then(|| xfs.geometry.block_place(self.start)).transpose()
        })
    }
}

/// The pieces of a range, from its start on.
pub(super) fn pieces(xfs: &Xfs, fork: &Fork, range: Range<u64>) -> Result<Vec<Piece>> {
    let mut walk = RangeWalk::new(range);
    match fork.format {
        Format::Extents => {
            for number in 0..fork.listed() {
                extent(slice(&fork.area, number.saturating_mul(16), 16)?)?.meet(xfs, &mut walk)?;
            }
        }
        Format::Tree => {
            let (level, count) = (be16(&fork.area, 0)?, usize::from(be16(&fork.area, 2)?));
            let most = fork.area.len().saturating_sub(4) / 16;
            if level > DEPTH_MAX || level == 0 {
                return Err(Fault::Corrupt("a tree of extents that does not end"));
            }
            children(xfs, &fork.area, 4, most, count, level, &mut walk)?;
        }
        Format::Local | Format::None => return Err(Fault::Corrupt("a file without places")),
    }
    Ok(walk.end())
}

/// The blocks below a node: keys, then as many places as there is room for.
fn children(
    xfs: &Xfs,
    node: &[u8],
    header: usize,
    most: usize,
    count: usize,
    level: u16,
    walk: &mut RangeWalk,
) -> Result<()> {
    let key = |number: usize| be64(node, header.saturating_add(number.saturating_mul(8)));
    for number in 0..count.min(most) {
        if walk.is_full() {
            return Ok(());
        }
        let next = number.saturating_add(1);
        // Whatever the next one covers is not in this one.
        if next < count && key(next)?.saturating_mul(xfs.geometry.block_bytes) <= walk.at() {
            continue;
        }
        let at = header.saturating_add(most.saturating_add(number).saturating_mul(8));
        let place = xfs.geometry.block_place(be64(node, at)?)?;
        block(xfs, place, level.saturating_sub(1), walk)?;
    }
    Ok(())
}

/// A block of the tree. Deeper ones have a lower level, so that it has an end.
fn block(xfs: &Xfs, place: u64, level: u16, walk: &mut RangeWalk) -> Result<()> {
    let bytes = xfs.read_at(place, to_usize(xfs.geometry.block_bytes))?;
    let header = if xfs.geometry.is_v5 { HEADER_BYTES_V5 } else { HEADER_BYTES };
    let is_one = matches!(slice(&bytes, 0, 4)?, b"BMAP" | b"BMA3");
    if !is_one || be16(&bytes, 4)? != level {
        return Err(Fault::Corrupt("a tree of extents that is none"));
    }
    let count = usize::from(be16(&bytes, 6)?);
    if level > 0 {
        let most = bytes.len().saturating_sub(header) / 16;
        return children(xfs, &bytes, header, most, count, level, walk);
    }
    for number in 0..count {
        let record = slice(&bytes, header.saturating_add(number.saturating_mul(16)), 16)?;
        extent(record)?.meet(xfs, walk)?;
    }
    Ok(())
}
