//! The journal: which blocks it has newer than their places, up to the last transaction that was committed.

use std::collections::HashMap;

use super::inode::Inode;
use super::superblock::JournalSuperblock;
use super::{Ext, Newer, PiecePlace, map};
use crate::bytes::{be16, be32, be64, to_usize};
use crate::fault::{Fault, Result};

/// Every block of the journal's own begins with it.
pub(super) const MAGIC: u32 = 0xc03b_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;
const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
const INCOMPAT_KNOWN: u32 = 0x3f;
const TAG_ESCAPED: u32 = 0x1;
const TAG_SAME_UUID: u32 = 0x2;
const TAG_LAST: u32 = 0x8;
const HEADER_BYTES: usize = 12;
const UUID_BYTES: usize = 16;
/// Longer journals there are none.
const BLOCKS_MAX: u64 = 1 << 24;

/// What the journal says.
pub(super) struct Replayed {
    pub(super) newer: HashMap<u64, Newer>,
    pub(super) note: Option<String>,
}

/// A block that a transaction wrote.
struct Written {
    sequence: u32,
    block: u64,
    newer: Newer,
}

struct Journal<'a> {
    ext: &'a mut Ext,
    inode: Inode,
    superblock: JournalSuperblock,
}

pub(super) fn read(ext: &mut Ext) -> Result<Replayed> {
    if ext.superblock.journal_device {
        return Err(Fault::Unsupported(
            "ext4 whose journal is on another device and was not written back".to_owned(),
        ));
    }
    let inode = ext.inode(ext.superblock.journal_inode)?;
    let head = ext.content(&inode, 0..1024)?;
    let superblock = JournalSuperblock::parse(&head)?;
    let is_odd = superblock.block_bytes != ext.block_bytes()
        || superblock.blocks > BLOCKS_MAX
        || superblock.incompat & !INCOMPAT_KNOWN != 0;
    if is_odd {
        return Err(Fault::Corrupt("a journal that does not fit its file system"));
    }
    let has_fast = superblock.incompat & INCOMPAT_FAST_COMMIT != 0;
    let note = "it uses fast commits: what only those hold is not read, and may be some seconds old";
    let note = has_fast.then(|| note.to_owned());
    let mut journal = Journal { ext, inode, superblock };
    if journal.superblock.start == 0 {
        return Ok(Replayed { newer: HashMap::new(), note });
    }
    let (written, revoked) = journal.walk()?;
    let mut newer = HashMap::new();
    for write in written {
        // A block that a later transaction freed must not come back.
        let is_revoked = revoked.get(&write.block).is_some_and(|by| !is_before(*by, write.sequence));
        if !is_revoked {
            newer.insert(write.block, write.newer);
        }
    }
    Ok(Replayed { newer, note })
}

/// Numbers of transactions go round.
fn is_before(one: u32, other: u32) -> bool {
    one.wrapping_sub(other).cast_signed() < 0
}

type Revoked = HashMap<u64, u32>;

impl Journal<'_> {
    /// Blocks of committed transactions in the order in which they were written, and blocks that were freed, with the last
    /// transaction that said so.
    fn walk(&mut self) -> Result<(Vec<Written>, Revoked)> {
        let (mut written, mut revoked) = (Vec::new(), Revoked::new());
        let (mut pending, mut pending_revoked) = (Vec::new(), Vec::new());
        let (mut at, mut sequence) = (self.superblock.start, self.superblock.sequence);
        let mut left = self.superblock.blocks;
        while left > 0 {
            let Ok(block) = self.block(at) else { break };
            if be32(&block, 0)? != MAGIC || be32(&block, 8)? != sequence {
                break;
            }
            at = self.next(at);
            left = left.saturating_sub(1);
            match be32(&block, 4)? {
                DESCRIPTOR => {
                    for (block, is_escaped) in self.tags(&block)? {
                        let place = self.place(at)?;
                        pending.push(Written { sequence, block, newer: Newer { at: place, is_escaped } });
                        at = self.next(at);
                        left = left.saturating_sub(1);
                    }
                }
                REVOKE => pending_revoked.extend(self.revoked(&block)?),
                COMMIT => {
                    written.append(&mut pending);
                    revoked.extend(pending_revoked.drain(..).map(|block| (block, sequence)));
                    sequence = sequence.wrapping_add(1);
                }
                _ => break,
            }
        }
        Ok((written, revoked))
    }

    fn next(&self, at: u64) -> u64 {
        // Fast commits have the end of the journal to themselves.
        let has_fast = self.superblock.incompat & INCOMPAT_FAST_COMMIT != 0;
        let fast = match (has_fast, self.superblock.fast_blocks) {
            (false, _) => 0,
            (true, 0) => 256,
            (true, blocks) => blocks,
        };
        let next = at.saturating_add(1);
        if next >= self.superblock.blocks.saturating_sub(fast) { self.superblock.first } else { next }
    }

    /// Where a block of the journal is in the volume.
    fn place(&mut self, at: u64) -> Result<u64> {
        let block_bytes = self.superblock.block_bytes;
        let start = at.checked_mul(block_bytes).ok_or(Fault::Corrupt("a journal without an end"))?;
        let pieces = map::pieces(self.ext, &self.inode, start..start.saturating_add(block_bytes))?;
        match pieces.first().map(|piece| piece.place) {
            Some(PiecePlace::Volume(place)) => Ok(place),
            _ => Err(Fault::Corrupt("a journal with holes")),
        }
    }

    fn block(&mut self, at: u64) -> Result<Vec<u8>> {
        let place = self.place(at)?;
        self.ext.volume.bytes(place, to_usize(self.superblock.block_bytes))
    }

    /// The blocks that a descriptor names, and whether their first bytes are escaped.
    fn tags(&self, block: &[u8]) -> Result<Vec<(u64, bool)>> {
        let incompat = self.superblock.incompat;
        let (is_v3, is_v2) = (incompat & INCOMPAT_CSUM_V3 != 0, incompat & INCOMPAT_CSUM_V2 != 0);
        let is_wide = incompat & INCOMPAT_64BIT != 0;
        let length = match (is_v3, is_v2, is_wide) {
            (true, _, _) => 16,
            (false, false, false) => 8,
            (false, false, true) => 12,
            (false, true, false) => 10,
            (false, true, true) => 14,
        };
        let end = block.len().saturating_sub(if is_v3 || is_v2 { 4 } else { 0 });
        let (mut found, mut at) = (Vec::new(), HEADER_BYTES);
        while at.saturating_add(length) <= end {
            let low = u64::from(be32(block, at)?);
            let (flags, high) = match is_v3 {
                true => (be32(block, at.saturating_add(4))?, be32(block, at.saturating_add(8))?),
                false => {
                    let high = if is_wide { be32(block, at.saturating_add(8))? } else { 0 };
                    (u32::from(be16(block, at.saturating_add(6))?), high)
                }
            };
            let high = if is_wide { u64::from(high) << 32 } else { 0 };
            found.push((high | low, flags & TAG_ESCAPED != 0));
            at = at.saturating_add(length);
            if flags & TAG_SAME_UUID == 0 {
                at = at.saturating_add(UUID_BYTES);
            }
            if flags & TAG_LAST != 0 {
                break;
            }
        }
        Ok(found)
    }

    fn revoked(&self, block: &[u8]) -> Result<Vec<u64>> {
        let is_wide = self.superblock.incompat & INCOMPAT_64BIT != 0;
        let end = to_usize(u64::from(be32(block, HEADER_BYTES)?)).min(block.len());
        let width = if is_wide { 8 } else { 4 };
        let (mut found, mut at) = (Vec::new(), HEADER_BYTES.saturating_add(4));
        while at.saturating_add(width) <= end {
            found.push(if is_wide { be64(block, at)? } else { u64::from(be32(block, at)?) });
            at = at.saturating_add(width);
        }
        Ok(found)
    }
}
