//! Partitions of a disk: GPT, MBR with its chain of further ones, or none.

use std::ops::Range;

use crate::bytes::{byte, from_utf16, le32, le64, slice, units};
use crate::fault::{Fault, Result};
use crate::source::Blocks;

const SECTORS: [u64; 2] = [512, 4096];
const ENTRIES_MAX: u64 = 1024;
/// Further partitions hang one at the other.
const CHAIN_MAX: u32 = 128;
const PROTECTIVE: u8 = 0xee;
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// A stretch of a disk that is used for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partition {
    /// From 1 on, as the guest counts.
    pub(crate) number: u32,
    pub(crate) range: Range<u64>,
    pub(crate) label: Vec<u8>,
}

/// Those of a GPT, by its first or its last header; none when there is neither.
pub(crate) fn gpt(blocks: &Blocks, disk: u16) -> Result<Option<Vec<Partition>>> {
    let size = blocks.size_bytes(disk).unwrap_or(0);
    for sector in SECTORS {
        for at in [sector, size.saturating_sub(sector) / sector * sector] {
            if let Some(found) = gpt_at(blocks, disk, sector, at)? {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

fn gpt_at(blocks: &Blocks, disk: u16, sector: u64, at: u64) -> Result<Option<Vec<Partition>>> {
    let size = blocks.size_bytes(disk).unwrap_or(0);
    let mut header = [0; 512];
    if at < sector || at.saturating_add(512) > size {
        return Ok(None);
    }
    match blocks.read(disk, at, &mut header) {
        // The other header may be readable.
        Err(Fault::Unreadable { .. }) => return Ok(None),
        read => read?,
    }
    if slice(&header, 0, 8)? != b"EFI PART" {
        return Ok(None);
    }
    let table = le64(&header, 0x48)?.checked_mul(sector);
    let (count, length) = (u64::from(le32(&header, 0x50)?), u64::from(le32(&header, 0x54)?));
    let Some(table) = table.filter(|_| (128..=4096).contains(&length)) else { return Ok(None) };
    let mut found = Vec::new();
    for number in 0..count.min(ENTRIES_MAX) {
        let mut entry = vec![0; 128];
        let place = table.saturating_add(number.saturating_mul(length));
        if blocks.read(disk, place, &mut entry).is_err() {
            return Ok(None);
        }
        if slice(&entry, 0, 16)?.iter().all(|byte| *byte == 0) {
            continue;
        }
        let start = le64(&entry, 0x20)?.saturating_mul(sector);
        let end = le64(&entry, 0x28)?.saturating_add(1).saturating_mul(sector).min(size);
        if start < end {
            let name = units(slice(&entry, 0x38, 72)?).take_while(|letter| *letter != 0);
            let number = u32::try_from(number).unwrap_or(u32::MAX).saturating_add(1);
            found.push(Partition { number, range: start..end, label: from_utf16(name) });
        }
    }
    Ok(Some(found))
}

/// Those of an MBR; none when there is no table.
pub(crate) fn mbr(blocks: &Blocks, disk: u16) -> Result<Option<Vec<Partition>>> {
    let size = blocks.size_bytes(disk).unwrap_or(0);
    if size < 512 {
        return Ok(None);
    }
    let Some(entries) = table(blocks, disk, 0)? else { return Ok(None) };
    let is_flag = |entry: &Slot| matches!(entry.flag, 0 | 0x80);
    if !entries.iter().all(is_flag) || entries.iter().all(|entry| entry.kind == 0) {
        return Ok(None);
    }
    let mut found = Vec::new();
    let mut extended = None;
    for (number, entry) in (1..).zip(&entries) {
        match entry.kind {
            0 | PROTECTIVE => {}
            kind if EXTENDED.contains(&kind) => extended = extended.or(Some(entry.start)),
            _ => add(&mut found, number, entry.start, entry.sectors, size),
        }
    }
    if let Some(extended) = extended {
        chain(blocks, disk, extended, size, &mut found)?;
    }
    Ok(Some(found))
}

struct Slot {
    flag: u8,
    kind: u8,
    start: u64,
    sectors: u64,
}

fn table(blocks: &Blocks, disk: u16, sector: u64) -> Result<Option<Vec<Slot>>> {
    let mut bytes = [0; 512];
    blocks.read(disk, sector.saturating_mul(512), &mut bytes)?;
    if slice(&bytes, 510, 2)? != [0x55, 0xaa] {
        return Ok(None);
    }
    let slot = |number: usize| -> Result<Slot> {
        let entry = slice(&bytes, number.saturating_mul(16).saturating_add(446), 16)?;
        Ok(Slot {
            flag: byte(entry, 0)?,
            kind: byte(entry, 4)?,
            start: u64::from(le32(entry, 8)?),
            sectors: u64::from(le32(entry, 12)?),
        })
    };
    (0..4).map(slot).collect::<Result<_>>().map(Some)
}

fn add(found: &mut Vec<Partition>, number: u32, start: u64, sectors: u64, size: u64) {
    let range = start.saturating_mul(512)..start.saturating_add(sectors).saturating_mul(512).min(size);
    if range.start < range.end {
        found.push(Partition { number, range, label: Vec::new() });
    }
}

/// Each link names one partition, by its distance from the link, and the next link, by its distance from the first.
fn chain(blocks: &Blocks, disk: u16, first: u64, size: u64, found: &mut Vec<Partition>) -> Result<()> {
    let mut at = first;
    for number in 5..CHAIN_MAX {
        if at.saturating_add(1).saturating_mul(512) > size {
            return Ok(());
        }
        let Some(entries) = table(blocks, disk, at)? else { return Ok(()) };
        let is_link = |entry: &&Slot| EXTENDED.contains(&entry.kind);
        if let Some(own) = entries.iter().find(|entry| entry.kind != 0 && !is_link(entry)) {
            add(found, number, at.saturating_add(own.start), own.sectors, size);
        }
        match entries.iter().find(is_link) {
            Some(link) => at = first.saturating_add(link.start),
            None => return Ok(()),
        }
    }
    Ok(())
}
