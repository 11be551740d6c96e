//! ext2, ext3 and ext4. What the journal holds is read in its place: as after the kernel's own replay.

mod attributes;
mod folder;
mod inode;
mod journal;
mod map;
mod superblock;

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::walk::content;
use super::{EachName, FileSystem, Identity, LINK_BYTES_MAX, Piece, PiecePlace, RUNS_MAX, push};
use crate::bytes::{slice, to_u64, to_usize};
use crate::fault::{Fault, Result};
use crate::node::{Extra, FileNode, NodeKind};
use crate::volume::Volume;
use inode::Inode;
use superblock::Superblock;

const ROOT: u64 = 2;
/// Parts of a file's map that are kept: a file is asked for piece by piece.
const KEPT_BLOCKS: usize = 256;

/// A block of the file system, by what the journal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Newer {
    /// Where in the volume the newest bytes are.
    at: u64,
    /// The first four bytes are the journal's magic number, which is not written there.
    is_escaped: bool,
}

struct Ext {
    volume: Volume,
    superblock: Superblock,
    /// Blocks that the journal has newer.
    newer: HashMap<u64, Newer>,
    kept: HashMap<u64, Rc<Vec<u8>>>,
    notes: Vec<String>,
}

/// None when it is none.
pub(super) fn open(volume: &Volume) -> Result<Option<Box<dyn FileSystem>>> {
    let Ok(bytes) = volume.bytes(superblock::OFFSET, superblock::LENGTH) else { return Ok(None) };
    let Some(superblock) = Superblock::parse(&bytes)? else { return Ok(None) };
    let mut ext = Ext {
        volume: volume.clone(),
        superblock,
        newer: HashMap::new(),
        kept: HashMap::new(),
        notes: Vec::new(),
    };
    if ext.superblock.needs_replay() {
        let replayed = journal::read(&mut ext)?;
        ext.newer = replayed.newer;
        ext.notes.extend(replayed.note);
        ext.kept.clear();
        let bytes = ext.read_at(superblock::OFFSET, superblock::LENGTH)?;
        ext.superblock =
            Superblock::parse(&bytes)?.ok_or(Fault::Corrupt("its journal breaks its superblock"))?;
    }
    Ok(Some(Box::new(ext)))
}

impl Ext {
    fn block_bytes(&self) -> u64 {
        self.superblock.block_bytes
    }

    /// A block as it is after the journal.
    fn block(&mut self, number: u64) -> Result<Rc<Vec<u8>>> {
        if let Some(block) = self.kept.get(&number) {
            return Ok(Rc::clone(block));
        }
        let block_bytes = self.block_bytes();
        let newer = self.newer.get(&number).copied();
        let at = match newer {
            Some(newer) => newer.at,
            None => number.checked_mul(block_bytes).ok_or(Fault::Corrupt("a block behind the end"))?,
        };
        let mut block = self.volume.bytes(at, to_usize(block_bytes))?;
        if newer.is_some_and(|newer| newer.is_escaped)
            && let Some(magic) = block.first_chunk_mut::<4>()
        {
            *magic = journal::MAGIC.to_be_bytes();
        }
        let block = Rc::new(block);
        if self.kept.len() >= KEPT_BLOCKS {
            self.kept.clear();
        }
        self.kept.insert(number, Rc::clone(&block));
        Ok(block)
    }

    /// Bytes at a place of the volume, as they are after the journal.
    fn read_at(&mut self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let block_bytes = self.block_bytes();
        let mut bytes = Vec::with_capacity(length.min(1 << 20));
        let mut at = offset;
        while bytes.len() < length {
            let block = self.block(at / block_bytes)?;
            let skip = to_usize(at % block_bytes);
            let take = length.saturating_sub(bytes.len()).min(block.len().saturating_sub(skip));
            bytes.extend_from_slice(slice(&block, skip, take)?);
            at = at.saturating_add(to_u64(take));
        }
        Ok(bytes)
    }

    fn inode(&mut self, number: u64) -> Result<Inode> {
        let at = self.superblock.inode_place(number)?;
        let table = {
            let descriptor = self.read_at(at.descriptor, at.descriptor_bytes)?;
            superblock::inode_table(&descriptor)?
        };
        let offset = table
            .checked_mul(self.block_bytes())
            .and_then(|offset| offset.checked_add(at.within))
            .ok_or(Fault::Corrupt("a table of inodes behind the end"))?;
        let bytes = self.read_at(offset, self.superblock.inode_bytes)?;
        Inode::parse(number, &bytes)
    }

    /// The bytes of an inode that are needed whole: a folder's block, a link, a value.
    fn content(&mut self, inode: &Inode, range: Range<u64>) -> Result<Vec<u8>> {
        if inode.is_inline() {
            let (all, length) =
                (attributes::inline(self, inode)?, to_usize(range.end.saturating_sub(range.start)));
            return Ok(slice(&all, to_usize(range.start), length)?.to_vec());
        }
        content(self, range, |ext, range| map::pieces(ext, inode, range), Self::read_at)
    }
}

impl FileSystem for Ext {
    fn identity(&self) -> Identity {
        Identity {
            kind: self.superblock.kind(),
            label: self.superblock.label.clone(),
            uuid: self.superblock.uuid(),
            notes: self.notes.clone(),
        }
    }

    fn root(&self) -> u64 {
        ROOT
    }

    fn node(&mut self, id: u64) -> Result<FileNode> {
        Ok(self.inode(id)?.node())
    }

    fn list(&mut self, id: u64, each: EachName<'_>) -> Result<()> {
        folder::list(self, id, each)
    }

    fn pieces(&mut self, id: u64, _stream: &[u8], range: Range<u64>) -> Result<Vec<Piece>> {
        let inode = self.inode(id)?;
        inode.refuse_encrypted()?;
        if inode.is_inline() {
            let length_bytes = range.end.saturating_sub(range.start);
            return Ok(vec![Piece { length_bytes, place: PiecePlace::Held }]);
        }
        let mapped = map::pieces(self, &inode, range)?;
        if self.newer.is_empty() {
            return Ok(mapped);
        }
        Ok(self.after_journal(mapped))
    }

    fn read(&mut self, id: u64, _stream: &[u8], offset: u64, buffer: &mut [u8]) -> Result<()> {
        let inode = self.inode(id)?;
        inode.refuse_encrypted()?;
        let bytes = self.content(&inode, offset..offset.saturating_add(to_u64(buffer.len())))?;
        buffer.copy_from_slice(slice(&bytes, 0, buffer.len())?);
        Ok(())
    }

    fn link(&mut self, id: u64) -> Result<Vec<u8>> {
        let inode = self.inode(id)?;
        inode.refuse_encrypted()?;
        if inode.kind() != NodeKind::Link || inode.size_bytes > LINK_BYTES_MAX {
            return Err(Fault::Corrupt("a link that is none"));
        }
        match inode.short_link() {
            Some(target) => Ok(target),
            None => self.content(&inode, 0..inode.size_bytes),
        }
    }

    fn extras(&mut self, id: u64) -> Result<Vec<Extra>> {
        let inode = self.inode(id)?;
        attributes::extras(self, &inode)
    }
}

impl Ext {
    /// Blocks of files that the journal has newer, which it has when it journals data too.
    fn after_journal(&self, mapped: Vec<Piece>) -> Vec<Piece> {
        let block_bytes = self.block_bytes();
        let mut pieces = Vec::new();
        for piece in mapped {
            let PiecePlace::Volume(start) = piece.place else {
                push(&mut pieces, piece.length_bytes, piece.place);
                continue;
            };
            let mut done = 0;
            while done < piece.length_bytes && pieces.len() <= RUNS_MAX {
                let at = start.saturating_add(done);
                let within = at % block_bytes;
                let length = block_bytes.saturating_sub(within).min(piece.length_bytes.saturating_sub(done));
                let place = match self.newer.get(&(at / block_bytes)) {
                    None => PiecePlace::Volume(at),
                    Some(newer) if newer.is_escaped => PiecePlace::Held,
                    Some(newer) => PiecePlace::Volume(newer.at.saturating_add(within)),
                };
                push(&mut pieces, length, place);
                done = done.saturating_add(length);
            }
            if pieces.len() >= RUNS_MAX {
                break;
            }
        }
        pieces.truncate(RUNS_MAX);
        pieces
    }
}
