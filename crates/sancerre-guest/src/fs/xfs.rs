//! XFS, versions 4 and 5. What the log of version 5 holds is read in its place: as after the kernel's own replay.

mod attributes;
mod folder;
mod inode;
mod items;
mod log;
mod map;
mod replay;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::walk::content;
use super::{EachName, FileSystem, Identity, LINK_BYTES_MAX, Piece, PiecePlace};
use crate::bytes::{be16, be32, be64, byte, slice, to_u64, to_usize};
use crate::fault::{Fault, Result};
use crate::node::{Extra, FileNode, NodeKind};
use crate::volume::Volume;
use inode::{Fork, Format, Inode};

const SECTOR: u64 = 512;
/// Metadata directories keep what users see in another root.
const INCOMPAT_KNOWN: u32 = 0xff;
const INCOMPAT_FTYPE: u32 = 1;
const FEATURES2_FTYPE: u32 = 0x200;
/// Of a link's block, in version 5.
const LINK_HEADER_BYTES: usize = 56;

/// What the superblock says.
#[derive(Debug, Clone)]
struct Geometry {
    is_v5: bool,
    has_kinds: bool,
    block_bytes: u64,
    inode_bytes: u64,
    folder_block_bytes: u64,
    group_blocks: u64,
    groups: u64,
    block_bits: u32,
    inode_bits: u32,
    root: u64,
    log_start: u64,
    log_blocks: u64,
    uuid: [u8; 16],
    label: Vec<u8>,
}

struct Xfs {
    volume: Volume,
    geometry: Geometry,
    /// Sectors that the log has newer, by their numbers.
    newer: HashMap<u64, [u8; 512]>,
    notes: Vec<String>,
    /// The inode that was read last.
    last: RefCell<Option<Rc<Inode>>>,
}

/// None when it is none.
pub(super) fn open(volume: &Volume) -> Result<Option<Box<dyn FileSystem>>> {
    let Ok(bytes) = volume.bytes(0, 512) else { return Ok(None) };
    if slice(&bytes, 0, 4)? != b"XFSB" {
        return Ok(None);
    }
    let geometry = geometry(&bytes)?;
    let mut xfs = Xfs {
        volume: volume.clone(),
        geometry,
        newer: HashMap::new(),
        notes: Vec::new(),
        last: RefCell::new(None),
    };
    let replayed = replay::read(&xfs)?;
    xfs.newer = replayed.newer;
    xfs.notes.extend(replayed.note);
    Ok(Some(Box::new(xfs)))
}

fn geometry(bytes: &[u8]) -> Result<Geometry> {
    const ODD: Fault = Fault::Corrupt("an XFS whose numbers do not fit each other");
    let version = be16(bytes, 100)? & 0xf;
    if !matches!(version, 4 | 5) {
        return Err(Fault::Unsupported("an XFS of a version that is not known here".to_owned()));
    }
    let is_v5 = version == 5;
    let incompat = if is_v5 { be32(bytes, 216)? } else { 0 };
    if incompat & !INCOMPAT_KNOWN != 0 {
        return Err(Fault::Unsupported(format!("XFS with features that are not known here ({incompat:#x})")));
    }
    if byte(bytes, 126)? != 0 {
        return Err(Fault::Unsupported("an XFS that is not finished".to_owned()));
    }
    let block_bytes = u64::from(be32(bytes, 4)?);
    let inode_bytes = u64::from(be16(bytes, 104)?);
    let (block_bits, inode_bits) = (u32::from(byte(bytes, 124)?), u32::from(byte(bytes, 123)?));
    let folder_shift = u32::from(byte(bytes, 192)?);
    let is_fine = block_bytes.is_power_of_two()
        && (512..=64 << 10).contains(&block_bytes)
        && inode_bytes.is_power_of_two()
        && (256..=2048).contains(&inode_bytes)
        && block_bits <= 31
        && inode_bits <= 8
        && folder_shift <= 7
        && block_bytes << folder_shift <= 64 << 10;
    if !is_fine {
        return Err(ODD);
    }
    let has_kinds = match is_v5 {
        true => incompat & INCOMPAT_FTYPE != 0,
        false => be32(bytes, 200)? & FEATURES2_FTYPE != 0,
    };
    let label = slice(bytes, 108, 12)?.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Geometry {
        is_v5,
        has_kinds,
        block_bytes,
        inode_bytes,
        folder_block_bytes: block_bytes << folder_shift,
        group_blocks: u64::from(be32(bytes, 84)?),
        groups: u64::from(be32(bytes, 88)?),
        block_bits,
        inode_bits,
        root: be64(bytes, 56)?,
        log_start: be64(bytes, 48)?,
        log_blocks: u64::from(be32(bytes, 96)?),
        uuid: slice(bytes, 32, 16)?.try_into().map_err(|_| ODD)?,
        label: label.to_vec(),
    })
}

impl Geometry {
    /// Where a block is, by its number with the group in the upper bits.
    fn block_place(&self, number: u64) -> Result<u64> {
        const ODD: Fault = Fault::Corrupt("a block behind the end");
        let (group, block) = (number >> self.block_bits, number & !(u64::MAX << self.block_bits));
        if group >= self.groups || block >= self.group_blocks {
            return Err(ODD);
        }
        let block = group.saturating_mul(self.group_blocks).saturating_add(block);
        block.checked_mul(self.block_bytes).ok_or(ODD)
    }

    fn inode_place(&self, number: u64) -> Result<u64> {
        let within = number & !(u64::MAX << self.inode_bits);
        let block = self.block_place(number >> self.inode_bits)?;
        Ok(block.saturating_add(within.saturating_mul(self.inode_bytes)))
    }
}

impl Xfs {
    /// Bytes at a place of the volume, as they are after the log.
    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = self.volume.bytes(offset, length)?;
        if self.newer.is_empty() {
            return Ok(bytes);
        }
        let mut done = 0;
        while done < length {
            let at = offset.saturating_add(to_u64(done));
            let skip = to_usize(at % SECTOR);
            let take = length.saturating_sub(done).min(512_usize.saturating_sub(skip));
            if let Some(sector) = self.newer.get(&(at / SECTOR))
                && let Some(to) = bytes.get_mut(done..done.saturating_add(take))
            {
                to.copy_from_slice(slice(sector, skip, take)?);
            }
            done = done.saturating_add(take);
        }
        Ok(bytes)
    }

    fn inode(&self, number: u64) -> Result<Rc<Inode>> {
        if let Some(inode) = self.last.borrow().as_ref().filter(|inode| inode.number == number) {
            return Ok(Rc::clone(inode));
        }
        let place = self.geometry.inode_place(number)?;
        let bytes = self.read_at(place, to_usize(self.geometry.inode_bytes))?;
        let inode = Rc::new(Inode::parse(number, bytes)?);
        *self.last.borrow_mut() = Some(Rc::clone(&inode));
        Ok(inode)
    }

    /// Bytes of a fork at places of the volume: of a folder, a link or attributes.
    fn content(&self, fork: &Fork, range: Range<u64>) -> Result<Vec<u8>> {
        let mut xfs = self;
        content(
            &mut xfs,
            range,
            |xfs, range| map::pieces(xfs, fork, range),
            |xfs, at, length| xfs.read_at(at, length),
        )
    }
}

impl FileSystem for Xfs {
    fn identity(&self) -> Identity {
        let hex: String = self.geometry.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
        let uuid = [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-");
        Identity { kind: "XFS", label: self.geometry.label.clone(), uuid, notes: self.notes.clone() }
    }

    fn root(&self) -> u64 {
        self.geometry.root
    }

    fn node(&mut self, id: u64) -> Result<FileNode> {
        Ok(self.inode(id)?.node())
    }

    fn list(&mut self, id: u64, each: EachName<'_>) -> Result<()> {
        let inode = self.inode(id)?;
        folder::list(self, &inode, each)
    }

    fn pieces(&mut self, id: u64, _stream: &[u8], range: Range<u64>) -> Result<Vec<Piece>> {
        let inode = self.inode(id)?;
        inode.refuse_realtime()?;
        map::pieces(self, &inode.data, range)
    }

    /// No file has its bytes in its inode.
    fn read(&mut self, _id: u64, _stream: &[u8], _offset: u64, _buffer: &mut [u8]) -> Result<()> {
        Err(Fault::Missing)
    }

    fn link(&mut self, id: u64) -> Result<Vec<u8>> {
        let inode = self.inode(id)?;
        if inode.kind() != NodeKind::Link || inode.size_bytes > LINK_BYTES_MAX {
            return Err(Fault::Corrupt("a link that is none"));
        }
        let size = to_usize(inode.size_bytes);
        if inode.data.format == Format::Local {
            return Ok(slice(&inode.data.area, 0, size)?.to_vec());
        }
        if !self.geometry.is_v5 {
            return self.content(&inode.data, 0..inode.size_bytes);
        }
        let mut target = Vec::new();
        let mut at = 0;
        while target.len() < size && at < LINK_BYTES_MAX.saturating_mul(2) {
            let block = self.content(&inode.data, at..at.saturating_add(self.geometry.block_bytes))?;
            if slice(&block, 0, 4)? != b"XSLM" {
                return Err(Fault::Corrupt("a block of a link that is none"));
            }
            let length = to_usize(u64::from(be32(&block, 8)?));
            target.extend_from_slice(slice(&block, LINK_HEADER_BYTES, length)?);
            at = at.saturating_add(self.geometry.block_bytes);
        }
        Ok(slice(&target, 0, size)?.to_vec())
    }

    fn extras(&mut self, id: u64) -> Result<Vec<Extra>> {
        let inode = self.inode(id)?;
        attributes::extras(self, &inode)
    }
}
