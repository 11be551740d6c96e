//! Names in folders. Each is in exactly one node of a tree, so all nodes are read one after the other.

use super::attribute::{self, Attribute, Body};
use super::record::{Record, mend};
use super::{Ntfs, ROOT, data};
use crate::bytes::{byte, from_utf16, le16, le32, le64, slice, to_usize, units};
use crate::fault::{Fault, Result};
use crate::fs::EachName;

const INDEX_ROOT: u32 = 0x90;
const INDEX_ALLOCATION: u32 = 0xa0;
const BITMAP: u32 = 0xb0;
const NAME: &[u8] = b"$I30";
const LAST: u16 = 2;
/// A second name for old programs.
const SHORT_NAME: u8 = 2;
/// Files of the file system itself.
const OWN_FILES: u64 = 16;
const BITS: u64 = 8;

pub(super) fn list(ntfs: &Ntfs, record: &Record, each: EachName<'_>) -> Result<()> {
    let parts = |kind: u32| -> Vec<Attribute> {
        record.attributes.iter().filter(|one| one.is(kind, NAME)).cloned().collect()
    };
    let root = parts(INDEX_ROOT);
    let Some(Body::Here(root)) = root.first().map(|one| &one.body) else {
        return Err(Fault::Corrupt("it is no folder"));
    };
    let is_root = record.number == ROOT;
    entries(root, 0x10, is_root, each)?;
    let (blocks, bitmap) = (parts(INDEX_ALLOCATION), parts(BITMAP));
    if blocks.is_empty() {
        return Ok(());
    }
    let block_bytes = u64::from(le32(root, 8)?);
    if !(512..=1 << 20).contains(&block_bytes) {
        return Err(Fault::Corrupt("a folder whose blocks have a size that there is not"));
    }
    let used = ntfs.whole(&bitmap)?;
    let count = attribute::size_bytes(&blocks) / block_bytes;
    for number in 0..count {
        let is_used = used.get(to_usize(number / BITS)).is_some_and(|byte| byte >> (number % BITS) & 1 != 0);
        if !is_used {
            continue;
        }
        let mut block = vec![0; to_usize(block_bytes)];
        data::read(ntfs, &blocks, number.saturating_mul(block_bytes), &mut block)?;
        if slice(&block, 0, 4)? != b"INDX" {
            return Err(Fault::Corrupt("a block of a folder that is none"));
        }
        mend(&mut block)?;
        entries(&block, 0x18, is_root, each)?;
    }
    Ok(())
}

/// The entries of a node, whose header is at `header`.
fn entries(node: &[u8], header: usize, is_root: bool, each: EachName<'_>) -> Result<()> {
    let start = to_usize(u64::from(le32(node, header)?));
    let end = to_usize(u64::from(le32(node, header.saturating_add(4))?));
    let end = header.saturating_add(end).min(node.len());
    let mut at = header.saturating_add(start);
    while at.saturating_add(0x10) <= end {
        let (id, length) = (le64(node, at)?, usize::from(le16(node, at.saturating_add(8))?));
        if le16(node, at.saturating_add(0xc))? & LAST != 0 {
            break;
        }
        if length < 0x10 {
            return Err(Fault::Corrupt("a folder whose entries have no end"));
        }
        let key_bytes = usize::from(le16(node, at.saturating_add(0xa))?);
        let key = slice(node, at.saturating_add(0x10), key_bytes)?;
        let is_own = is_root && id & super::NUMBER < OWN_FILES;
        if byte(key, 0x41)? != SHORT_NAME && !is_own {
            let name_bytes = usize::from(byte(key, 0x40)?).saturating_mul(2);
            each(from_utf16(units(slice(key, 0x42, name_bytes)?)), id)?;
        }
        at = at.saturating_add(length);
    }
    Ok(())
}
