//! The log, applied in memory: what the kernel would write to the volume before it reads it.

use std::collections::HashMap;

use super::inode::{FLAG2_BIGTIME, FLAG2_WIDE_COUNTS, core_bytes};
use super::items::{self, Item};
use super::log::Ring;
use super::{SECTOR, Xfs};
use crate::bytes::{be16, be32, byte, le16, le32, le64, slice, to_u64, to_usize};
use crate::fault::{Fault, Result};

const ITEM_INODE: u16 = 0x123b;
const ITEM_BUFFER: u16 = 0x123c;
const ITEM_CREATE: u16 = 0x123f;
const ITEM_MAP_INTENT: u16 = 0x1244;
const ITEM_MAP_DONE: u16 = 0x1245;
const BUFFER_INODES: u16 = 1;
const BUFFER_CANCELLED: u16 = 2;
/// A bit of a buffer's map stands for so many bytes.
const CHUNK_BYTES: usize = 128;
const FIELD_DATA: u32 = 0x2 | 0x4;
const FIELD_DATA_ROOT: u32 = 0x8;
const FIELD_ATTRIBUTES: u32 = 0x40 | 0x80;
const FIELD_ATTRIBUTES_ROOT: u32 = 0x100;
/// Fields of an inode by their width: the log has them in the order of the machine that wrote it.
const SHORTS: [usize; 7] = [0, 2, 20, 22, 80, 88, 90];
const WORDS: [usize; 10] = [8, 12, 16, 72, 76, 84, 92, 96, 100, 128];
const LONGS: [usize; 6] = [56, 64, 104, 112, 120, 152];
const TIMES: [usize; 4] = [32, 40, 48, 144];
const WIDE_COUNT: usize = 24;

/// What the log says.
pub(super) struct Replayed {
    pub(super) newer: HashMap<u64, [u8; 512]>,
    pub(super) note: Option<String>,
}

struct Replay<'a> {
    xfs: &'a Xfs,
    newer: HashMap<u64, [u8; 512]>,
    /// Buffers that were given up, and how many times that is still to come.
    cancelled: HashMap<(u64, u16), u32>,
}

pub(super) fn read(xfs: &Xfs) -> Result<Replayed> {
    let Some(ring) = Ring::new(xfs)? else {
        let note = "its log is on another device and was not looked at: it may be some seconds old";
        return Ok(Replayed { newer: HashMap::new(), note: Some(note.to_owned()) });
    };
    let transactions = items::transactions(&ring.records()?)?;
    let mut replay = Replay { xfs, newer: HashMap::new(), cancelled: HashMap::new() };
    let (mut intents, mut dones) = (0_u32, 0_u32);
    for item in transactions.iter().flatten() {
        match item.kind() {
            ITEM_BUFFER => replay.note_cancelled(item)?,
            ITEM_MAP_INTENT => intents = intents.saturating_add(1),
            ITEM_MAP_DONE => dones = dones.saturating_add(1),
            _ => {}
        }
    }
    for transaction in &transactions {
        replay.commit(transaction)?;
    }
    let note =
        "a change of places was under way: a file that was being cloned or exchanged may be in between";
    Ok(Replayed { newer: replay.newer, note: (intents > dones).then(|| note.to_owned()) })
}

/// Where a buffer is, in sectors, and what it is.
struct Buffer {
    sector: u64,
    sectors: u16,
    flags: u16,
}

fn buffer(item: &Item) -> Result<(Buffer, &[u8])> {
    let format = item.regions.first().ok_or(Fault::Corrupt("an item of a log without regions"))?;
    let (flags, sectors, sector) = (le16(format, 4)?, le16(format, 6)?, le64(format, 8)?);
    let words = to_usize(u64::from(le32(format, 16)?));
    let map = slice(format, 20, words.saturating_mul(4).min(format.len().saturating_sub(20)))?;
    Ok((Buffer { sector, sectors, flags }, map))
}

impl Replay<'_> {
    fn note_cancelled(&mut self, item: &Item) -> Result<()> {
        let (buffer, _) = buffer(item)?;
        if buffer.flags & BUFFER_CANCELLED != 0 {
            let count = self.cancelled.entry((buffer.sector, buffer.sectors)).or_default();
            *count = count.saturating_add(1);
        }
        Ok(())
    }

    fn is_cancelled(&self, sector: u64, sectors: u16) -> bool {
        self.cancelled.get(&(sector, sectors)).is_some_and(|count| *count > 0)
    }

    /// In the kernel's order: buffers, then inodes, and what is given up last.
    fn commit(&mut self, transaction: &[Item]) -> Result<()> {
        for item in transaction {
            match item.kind() {
                ITEM_CREATE => self.create(item)?,
                ITEM_BUFFER => self.buffer(item)?,
                _ => {}
            }
        }
        for item in transaction.iter().filter(|item| item.kind() == ITEM_INODE) {
            self.inode(item)?;
        }
        for item in transaction.iter().filter(|item| item.kind() == ITEM_BUFFER) {
            let (buffer, _) = buffer(item)?;
            if buffer.flags & BUFFER_CANCELLED != 0
                && let Some(count) = self.cancelled.get_mut(&(buffer.sector, buffer.sectors))
            {
                *count = count.saturating_sub(1);
            }
        }
        Ok(())
    }

    fn buffer(&mut self, item: &Item) -> Result<()> {
        let (buffer, map) = buffer(item)?;
        // Of buffers of inodes only lists of files without names are logged.
        if buffer.flags & (BUFFER_CANCELLED | BUFFER_INODES) != 0
            || self.is_cancelled(buffer.sector, buffer.sectors)
        {
            return Ok(());
        }
        let is_set = |bit: usize| map.get(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 != 0);
        let bits = usize::from(buffer.sectors).saturating_mul(4).min(map.len().saturating_mul(8));
        let mut regions = item.regions.iter().skip(1);
        let mut bit = 0;
        while bit < bits {
            if !is_set(bit) {
                bit = bit.saturating_add(1);
                continue;
            }
            let count = (bit..bits).take_while(|bit| is_set(*bit)).count();
            let region = regions.next().ok_or(Fault::Corrupt("a buffer of a log without its bytes"))?;
            // One run of bits may be in several regions.
            let count = count.min(region.len() / CHUNK_BYTES);
            if count == 0 {
                return Err(Fault::Corrupt("a buffer of a log without its bytes"));
            }
            let bytes = slice(region, 0, count.saturating_mul(CHUNK_BYTES))?;
            let start = buffer.sector.saturating_mul(SECTOR);
            self.write(start.saturating_add(to_u64(bit.saturating_mul(CHUNK_BYTES))), bytes)?;
            bit = bit.saturating_add(count);
        }
        Ok(())
    }

    /// New inodes, which are empty until something is logged of them.
    fn create(&mut self, item: &Item) -> Result<()> {
        const INODES_MAX: u64 = 4096;
        let format = item.regions.first().ok_or(Fault::Corrupt("an item of a log without regions"))?;
        let (group, block, blocks) =
            (u64::from(be32(format, 4)?), u64::from(be32(format, 8)?), u64::from(be32(format, 20)?));
        if blocks > INODES_MAX {
            return Err(Fault::Corrupt("more new inodes than there can be"));
        }
        let geometry = &self.xfs.geometry;
        let start = geometry.block_place(group << geometry.block_bits | block)?;
        let zeros = vec![0; to_usize(blocks.saturating_mul(geometry.block_bytes))];
        self.write(start, &zeros)
    }

    fn inode(&mut self, item: &Item) -> Result<()> {
        let mut regions = item.regions.iter();
        let format = regions.next().ok_or(Fault::Corrupt("an item of a log without regions"))?;
        let fields = le32(format, 4)?;
        // Machines of 32 bits left no gap.
        let shift = if format.len() >= 56 { 0 } else { 4 };
        let sector = le64(format, 40_usize.saturating_sub(shift))?;
        let sectors = u16::try_from(le32(format, 48_usize.saturating_sub(shift))?).unwrap_or(u16::MAX);
        let within = u64::from(le32(format, 52_usize.saturating_sub(shift))?);
        if self.is_cancelled(sector, sectors) {
            return Ok(());
        }
        let place = sector.saturating_mul(SECTOR).saturating_add(within);
        let logged = regions.next().ok_or(Fault::Corrupt("an inode of a log without its bytes"))?;
        let version = byte(logged, 4)?;
        let core = core_bytes(version);
        let mut inode = self.read(place, to_usize(self.xfs.geometry.inode_bytes))?;
        let swapped = swapped(logged, version)?;
        let length = swapped.len().min(core);
        let to = inode.get_mut(..length).ok_or(Fault::Corrupt("an inode that is too short"))?;
        to.copy_from_slice(slice(&swapped, 0, length)?);
        let split = match usize::from(byte(&inode, 82)?) {
            0 => inode.len(),
            eights => core.saturating_add(eights.saturating_mul(8)).min(inode.len()),
        };
        let end = inode.len();
        for (whole, root, range) in [
            (FIELD_DATA, FIELD_DATA_ROOT, core..split),
            (FIELD_ATTRIBUTES, FIELD_ATTRIBUTES_ROOT, split..end),
        ] {
            if fields & (whole | root) == 0 {
                continue;
            }
            let region = regions.next().ok_or(Fault::Corrupt("an inode of a log without its bytes"))?;
            let fork = inode.get_mut(range).ok_or(Fault::Corrupt("an inode whose parts do not fit it"))?;
            match fields & root {
                0 => {
                    let length = region.len().min(fork.len());
                    fork.get_mut(..length).unwrap_or_default().copy_from_slice(slice(region, 0, length)?);
                }
                _ => self.root(region, fork)?,
            }
        }
        self.write(place, &inode)
    }

    /// The root of a tree is logged as a whole block, and lies in the inode in a shorter form.
    fn root(&self, region: &[u8], fork: &mut [u8]) -> Result<()> {
        let header = if self.xfs.geometry.is_v5 { 72_usize } else { 24 };
        let (level, count) = (be16(region, 4)?, be16(region, 6)?);
        let (from_most, to_most) =
            (region.len().saturating_sub(header) / 16, fork.len().saturating_sub(4) / 16);
        let count_bytes = usize::from(count).saturating_mul(8);
        let keys = slice(region, header, count_bytes)?;
        let places = slice(region, header.saturating_add(from_most.saturating_mul(8)), count_bytes)?;
        let mut put = |at: usize, bytes: &[u8]| {
            let to = fork.get_mut(at..at.saturating_add(bytes.len()));
            to.map(|to| to.copy_from_slice(bytes))
                .ok_or(Fault::Corrupt("a tree of extents that does not fit"))
        };
        put(0, &level.to_be_bytes())?;
        put(2, &count.to_be_bytes())?;
        put(4, keys)?;
        put(4_usize.saturating_add(to_most.saturating_mul(8)), places)
    }

    /// Bytes as they are by now.
    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = self.xfs.volume.bytes(offset, length)?;
        let mut at = 0_usize;
        while at < length {
            let place = offset.saturating_add(to_u64(at));
            let skip = to_usize(place % SECTOR);
            let take = length.saturating_sub(at).min(512_usize.saturating_sub(skip));
            if let Some(sector) = self.newer.get(&(place / SECTOR))
                && let Some(to) = bytes.get_mut(at..at.saturating_add(take))
            {
                to.copy_from_slice(slice(sector, skip, take)?);
            }
            at = at.saturating_add(take);
        }
        Ok(bytes)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut at = 0_usize;
        while at < bytes.len() {
            let place = offset.saturating_add(to_u64(at));
            let (number, skip) = (place / SECTOR, to_usize(place % SECTOR));
            let take = bytes.len().saturating_sub(at).min(512_usize.saturating_sub(skip));
            if !self.newer.contains_key(&number) {
                let old = self.xfs.volume.bytes(number.saturating_mul(SECTOR), 512)?;
                self.newer.insert(number, old.try_into().unwrap_or([0; 512]));
            }
            if let Some(to) =
                self.newer.get_mut(&number).and_then(|sector| sector.get_mut(skip..skip.saturating_add(take)))
            {
                to.copy_from_slice(slice(bytes, at, take)?);
            }
            at = at.saturating_add(take);
        }
        Ok(())
    }
}

/// An inode of the log in the order of the disk.
fn swapped(logged: &[u8], version: u8) -> Result<Vec<u8>> {
    let mut bytes = logged.to_vec();
    let flags2 = if version >= 3 { le64(logged, 120)? } else { 0 };
    let mut reverse = |at: usize, width: usize| {
        if let Some(field) = bytes.get_mut(at..at.saturating_add(width)) {
            field.reverse();
        }
    };
    SHORTS.iter().for_each(|at| reverse(*at, 2));
    WORDS.iter().for_each(|at| reverse(*at, 4));
    LONGS.iter().for_each(|at| reverse(*at, 8));
    for at in TIMES {
        match flags2 & FLAG2_BIGTIME {
            0 => {
                reverse(at, 4);
                reverse(at.saturating_add(4), 4);
            }
            _ => reverse(at, 8),
        }
    }
    if flags2 & FLAG2_WIDE_COUNTS != 0 {
        reverse(WIDE_COUNT, 8);
    }
    Ok(bytes)
}
