//! From records to transactions: regions of bytes, gathered into items until a transaction is committed.

use std::collections::HashMap;

use super::log::Record;
use crate::bytes::{be32, byte, le16, le32, slice, to_usize};
use crate::fault::{Fault, Result};

const HEADER_BYTES: usize = 12;
const START: u8 = 0x1;
const COMMIT: u8 = 0x2;
const CONTINUED: u8 = 0x8;
const END: u8 = 0x10;
const UNMOUNT: u8 = 0x20;
/// What every transaction begins with.
const MAGIC: u32 = 0x5452_414e;
const MAGIC_BYTES: usize = 16;
/// What is gathered at once.
const BYTES_MAX: usize = 512 << 20;

/// Something that a transaction changed: regions, of which the first says what.
#[derive(Debug, Default)]
pub(super) struct Item {
    pub(super) regions: Vec<Vec<u8>>,
    wanted: usize,
}

impl Item {
    pub(super) fn kind(&self) -> u16 {
        self.regions.first().and_then(|region| le16(region, 0).ok()).unwrap_or(0)
    }
}

/// A transaction under way.
#[derive(Default)]
struct Gathering {
    items: Vec<Item>,
    has_header: bool,
    /// The region that was added last is the header's.
    in_header: Vec<u8>,
}

impl Gathering {
    fn add(&mut self, region: &[u8]) -> Result<()> {
        if !self.has_header {
            self.in_header.extend_from_slice(region);
            if self.in_header.len() >= 4 && le32(&self.in_header, 0)? != MAGIC {
                return Err(Fault::Corrupt("a transaction that begins with something else"));
            }
            self.has_header = self.in_header.len() >= MAGIC_BYTES;
            return Ok(());
        }
        if let Some(item) = self.items.last_mut().filter(|item| item.regions.len() < item.wanted) {
            item.regions.push(region.to_vec());
            return Ok(());
        }
        let wanted = usize::from(le16(region, 2)?);
        if wanted == 0 {
            return Err(Fault::Corrupt("an item of a log without regions"));
        }
        self.items.push(Item { regions: vec![region.to_vec()], wanted });
        Ok(())
    }

    /// The rest of a region that did not fit its record.
    fn go_on(&mut self, rest: &[u8]) -> Result<()> {
        if !self.has_header {
            return self.add(rest);
        }
        let last = self.items.last_mut().and_then(|item| item.regions.last_mut());
        last.ok_or(Fault::Corrupt("a region of a log that goes on from nothing"))?.extend_from_slice(rest);
        Ok(())
    }
}

/// All committed transactions, in their order; none after an unmount, which leaves nothing to do.
pub(super) fn transactions(records: &[Record]) -> Result<Vec<Vec<Item>>> {
    let (mut open, mut done): (HashMap<u32, Gathering>, Vec<Vec<Item>>) = (HashMap::new(), Vec::new());
    let mut bytes = 0_usize;
    for record in records {
        bytes = bytes.saturating_add(record.payload.len());
        if bytes > BYTES_MAX {
            return Err(Fault::Unsupported("an XFS whose log holds more than is replayed here".to_owned()));
        }
        let mut rest = record.payload.as_slice();
        for _ in 0..record.operations() {
            let id = be32(rest, 0)?;
            let (length, flags) = (to_usize(u64::from(be32(rest, 4)?)), byte(rest, 9)? & !END);
            let region = slice(rest, HEADER_BYTES, length)?;
            rest = rest.get(HEADER_BYTES.saturating_add(length)..).unwrap_or_default();
            match flags {
                flags if flags & START != 0 => {
                    open.insert(id, Gathering::default());
                }
                flags if flags & UNMOUNT != 0 => {
                    open.clear();
                    done.clear();
                }
                flags if flags & COMMIT != 0 => done.extend(open.remove(&id).map(|gathered| gathered.items)),
                flags => {
                    // What began before the records that matter matters not.
                    let Some(gathering) = open.get_mut(&id) else { continue };
                    match flags & CONTINUED {
                        0 => gathering.add(region)?,
                        _ => gathering.go_on(region)?,
                    }
                }
            }
        }
    }
    Ok(done)
}
