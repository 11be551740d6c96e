//! Bytes of the guest's disks for parsers: whoever has them, in blocks that are kept.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::bytes::{to_u64, to_usize};
use crate::fault::{Fault, Result};

/// What is asked for at once, and kept.
pub(crate) const BLOCK_BYTES: usize = 64 << 10;
const BLOCK: u64 = 64 << 10;
/// Disks from this number on are what is in encrypted volumes: nobody but the child has their bytes.
pub(crate) const UNLOCKED: u16 = 0x8000;
/// Blocks that are kept: 48 MiB.
const KEPT: usize = 768;

/// Where bytes of disks come from.
pub(crate) trait Source {
    /// How long a disk is; none if there is no such disk.
    fn size_bytes(&self, disk: u16) -> Option<u64>;

    /// Fills `buffer`, at most [`BLOCK_BYTES`], from inside of the disk.
    fn read(&self, disk: u16, offset: u64, buffer: &mut [u8]) -> Result<()>;
}

/// What is in an encrypted volume that was opened.
pub(crate) trait Opened {
    fn size_bytes(&self) -> u64;

    /// Fills `buffer` from inside of it.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
}

/// A source whose blocks are kept. Parsers share it.
#[derive(Clone)]
pub(crate) struct Blocks(Rc<Inner>);

struct Inner {
    source: Box<dyn Source>,
    kept: RefCell<Kept>,
    unlocked: RefCell<Vec<Rc<dyn Opened>>>,
}

/// A block, and when it was used.
type Aged = (u64, Rc<Vec<u8>>);

#[derive(Default)]
struct Kept {
    blocks: HashMap<(u16, u64), Aged>,
    clock: u64,
}

impl Kept {
    fn get(&mut self, key: (u16, u64)) -> Option<Rc<Vec<u8>>> {
        self.clock = self.clock.saturating_add(1);
        let clock = self.clock;
        self.blocks.get_mut(&key).map(|(used, block)| {
            *used = clock;
            Rc::clone(block)
        })
    }

    /// When it is full the older half goes, so that a block costs no search for the oldest.
    fn put(&mut self, key: (u16, u64), block: Rc<Vec<u8>>) {
        if self.blocks.len() >= KEPT {
            let mut ages: Vec<u64> = self.blocks.values().map(|(used, _)| *used).collect();
            let middle = ages.len() / 2;
            let (_, limit, _) = ages.select_nth_unstable(middle);
            let limit = *limit;
            self.blocks.retain(|_, (used, _)| *used > limit);
        }
        self.blocks.insert(key, (self.clock, block));
    }
}

impl Blocks {
    pub(crate) fn new(source: Box<dyn Source>) -> Self {
        Self(Rc::new(Inner { source, kept: RefCell::default(), unlocked: RefCell::default() }))
    }

    pub(crate) fn size_bytes(&self, disk: u16) -> Option<u64> {
        match self.unlocked(disk) {
            Some(unlocked) => Some(unlocked.size_bytes()),
            None => self.0.source.size_bytes(disk),
        }
    }

    /// Adds what is in an encrypted volume as one more disk, by whose number it is read; none where there are too many.
    pub(crate) fn add(&self, unlocked: Rc<dyn Opened>) -> Option<u16> {
        let mut all = self.0.unlocked.borrow_mut();
        let number = u16::try_from(all.len()).ok().and_then(|number| number.checked_add(UNLOCKED))?;
        all.push(unlocked);
        Some(number)
    }

    fn unlocked(&self, disk: u16) -> Option<Rc<dyn Opened>> {
        let number = usize::from(disk.checked_sub(UNLOCKED)?);
        self.0.unlocked.borrow().get(number).cloned()
    }

    fn fill(&self, disk: u16, offset: u64, buffer: &mut [u8]) -> Result<()> {
        match self.unlocked(disk) {
            Some(unlocked) => unlocked.read(offset, buffer),
            None => self.0.source.read(disk, offset, buffer),
        }
    }

    /// Fills `buffer` from inside of a disk.
    pub(crate) fn read(&self, disk: u16, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let size = self.size_bytes(disk).ok_or(Fault::Corrupt("a disk that is not here"))?;
        let end = offset.checked_add(to_u64(buffer.len())).filter(|end| *end <= size);
        if end.is_none() {
            return Err(Fault::Corrupt("a place behind the end of the disk"));
        }
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let start = at / BLOCK * BLOCK;
            let skip = to_usize(at.saturating_sub(start));
            let length = rest.len().min(BLOCK_BYTES.saturating_sub(skip));
            let (piece, behind) = std::mem::take(&mut rest).split_at_mut(length);
            self.piece(disk, start, skip, size, piece)?;
            rest = behind;
            at = at.saturating_add(to_u64(length));
        }
        Ok(())
    }

    /// Of a block that cannot be read as a whole, what is wanted may be readable.
    fn piece(&self, disk: u16, start: u64, skip: usize, size: u64, piece: &mut [u8]) -> Result<()> {
        let kept = self.0.kept.borrow_mut().get((disk, start));
        let block = match kept {
            Some(block) => block,
            None => {
                let mut block = vec![0; to_usize(size.saturating_sub(start).min(BLOCK))];
                match self.fill(disk, start, &mut block) {
                    Err(Fault::Unreadable { .. }) => {
                        return self.fill(disk, start.saturating_add(to_u64(skip)), piece);
                    }
                    read => read?,
                }
                let block = Rc::new(block);
                self.0.kept.borrow_mut().put((disk, start), Rc::clone(&block));
                block
            }
        };
        let from = block.get(skip..skip.saturating_add(piece.len()));
        piece.copy_from_slice(from.ok_or(Fault::Corrupt("a place behind the end of the disk"))?);
        Ok(())
    }
}
