//! Extended attributes, in the inode or in blocks; of blocks those with names are read, whatever tree they hang in.

use super::inode::{Format, Inode};
use super::{PiecePlace, Xfs, map};
use crate::bytes::{be16, be32, byte, slice, to_usize};
use crate::fault::{Fault, Result};
use crate::node::Extra;

const FLAG_LOCAL: u8 = 1;
const FLAG_ROOT: u8 = 2;
const FLAG_SECURE: u8 = 4;
/// Of what only the file system itself uses: parents, and what is not finished.
const FLAGS_OWN: u8 = 8 | 0x80;
const LEAF: u16 = 0xfbee;
const LEAF_V5: u16 = 0x3bee;
const BLOCKS_MAX: u64 = 4096;
/// Access lists have names and a form of their own.
const ACLS: [(&[u8], &[u8]); 2] =
    [(b"SGI_ACL_FILE", b"system.posix_acl_access"), (b"SGI_ACL_DEFAULT", b"system.posix_acl_default")];

pub(super) fn extras(xfs: &Xfs, inode: &Inode) -> Result<Vec<Extra>> {
    let fork = &inode.attributes;
    let mut found = Vec::new();
    match fork.format {
        Format::None => {}
        Format::Local => short(&fork.area, &mut found)?,
        Format::Extents | Format::Tree => {
            let block_bytes = xfs.geometry.block_bytes;
            let pieces = map::pieces(xfs, fork, 0..BLOCKS_MAX.saturating_mul(block_bytes))?;
            for piece in pieces {
                let PiecePlace::Volume(start) = piece.place else { continue };
                for number in 0..piece.length_bytes / block_bytes {
                    let place = start.saturating_add(number.saturating_mul(block_bytes));
                    leaf(&xfs.read_at(place, to_usize(block_bytes))?, &mut found)?;
                }
            }
        }
    }
    Ok(found)
}

fn short(area: &[u8], found: &mut Vec<Extra>) -> Result<()> {
    let count = byte(area, 2)?;
    let mut at = 4_usize;
    for _ in 0..count {
        let (name_bytes, value_bytes) =
            (usize::from(byte(area, at)?), usize::from(byte(area, at.saturating_add(1))?));
        let flags = byte(area, at.saturating_add(2))?;
        let name = slice(area, at.saturating_add(3), name_bytes)?;
        at = at.saturating_add(3).saturating_add(name_bytes);
        add(flags, name, slice(area, at, value_bytes)?, found)?;
        at = at.saturating_add(value_bytes);
    }
    Ok(())
}

fn leaf(block: &[u8], found: &mut Vec<Extra>) -> Result<()> {
    let (header, count_at) = match be16(block, 8)? {
        LEAF_V5 => (80_usize, 56),
        LEAF => (32, 12),
        _ => return Ok(()),
    };
    for number in 0..usize::from(be16(block, count_at)?) {
        let entry = slice(block, header.saturating_add(number.saturating_mul(8)), 8)?;
        let (at, flags) = (usize::from(be16(entry, 4)?), byte(entry, 6)?);
        if flags & FLAG_LOCAL == 0 {
            // A value that has blocks of its own: its name is told, so that it is missed.
            let name = slice(block, at.saturating_add(9), usize::from(byte(block, at.saturating_add(8))?))?;
            if flags & FLAGS_OWN == 0 {
                return Err(Fault::Unsupported(format!(
                    "its attribute {} is longer than what is read here ({} bytes)",
                    String::from_utf8_lossy(name),
                    be32(block, at.saturating_add(4))?
                )));
            }
            continue;
        }
        let value_bytes = usize::from(be16(block, at)?);
        let name_bytes = usize::from(byte(block, at.saturating_add(2))?);
        let name = slice(block, at.saturating_add(3), name_bytes)?;
        let value = slice(block, at.saturating_add(3).saturating_add(name_bytes), value_bytes)?;
        add(flags, name, value, found)?;
    }
    Ok(())
}

fn add(flags: u8, name: &[u8], value: &[u8], found: &mut Vec<Extra>) -> Result<()> {
    if flags & FLAGS_OWN != 0 {
        return Ok(());
    }
    let acl = ACLS.iter().find(|(stored, _)| flags & FLAG_ROOT != 0 && *stored == name);
    let (name, value) = match (acl, flags & (FLAG_ROOT | FLAG_SECURE)) {
        (Some((_, name)), _) => (name.to_vec(), access_list(value)?),
        (None, FLAG_ROOT) => ([b"trusted.", name].concat(), value.to_vec()),
        (None, FLAG_SECURE) => ([b"security.", name].concat(), value.to_vec()),
        (None, _) => ([b"user.", name].concat(), value.to_vec()),
    };
    found.push(Extra::Attribute { name, value });
    Ok(())
}

/// In the form that Linux gives out.
fn access_list(stored: &[u8]) -> Result<Vec<u8>> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for number in 0..to_usize(u64::from(be32(stored, 0)?)) {
        let entry = slice(stored, number.saturating_mul(12).saturating_add(4), 12)?;
        let tag = be32(entry, 0)?;
        let id = if matches!(tag, 2 | 8) { be32(entry, 4)? } else { u32::MAX };
        value.extend_from_slice(&u16::try_from(tag).unwrap_or(0).to_le_bytes());
        value.extend_from_slice(&be16(entry, 8)?.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    Ok(value)
}
