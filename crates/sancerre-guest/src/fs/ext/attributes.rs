//! Extended attributes, in the inode and in a block of their own; bytes of small files are one of them.

use super::Ext;
use super::inode::Inode;
use crate::bytes::{byte, le16, le32, slice, to_u64, to_usize};
use crate::fault::{Fault, Result};
use crate::node::Extra;

const MAGIC: u32 = 0xea02_0000;
const ENTRY_BYTES: usize = 16;
const BLOCK_HEADER_BYTES: usize = 32;
const CLASS_ACL: [u8; 2] = [2, 3];
const CLASS_SYSTEM: u8 = 7;
const INLINE_NAME: &[u8] = b"data";
const INLINE_FIRST: u64 = 60;
/// Linux gives out no longer value.
const VALUE_BYTES_MAX: u64 = 64 << 10;

/// An attribute as it is stored.
struct Stored {
    class: u8,
    name: Vec<u8>,
    value: Vec<u8>,
}

pub(super) fn extras(ext: &mut Ext, inode: &Inode) -> Result<Vec<Extra>> {
    let mut found = Vec::new();
    for stored in all(ext, inode)? {
        let Some(name) = full_name(&stored) else { continue };
        let value = match CLASS_ACL.contains(&stored.class) {
            true => acl(&stored.value)?,
            false => stored.value,
        };
        found.push(Extra::Attribute { name, value });
    }
    Ok(found)
}

/// The bytes of a file or folder that are in its inode.
pub(super) fn inline(ext: &mut Ext, inode: &Inode) -> Result<Vec<u8>> {
    let mut bytes = inode.block_area()?.to_vec();
    if inode.size_bytes > INLINE_FIRST {
        let rest =
            all(ext, inode)?.into_iter().find(|one| one.class == CLASS_SYSTEM && one.name == INLINE_NAME);
        bytes.extend(rest.ok_or(Fault::Corrupt("bytes in an inode that are not there"))?.value);
    }
    if to_u64(bytes.len()) < inode.size_bytes {
        return Err(Fault::Corrupt("bytes in an inode that are not there"));
    }
    bytes.truncate(to_usize(inode.size_bytes));
    Ok(bytes)
}

fn all(ext: &mut Ext, inode: &Inode) -> Result<Vec<Stored>> {
    let mut found = Vec::new();
    if let Some(at) = inode.fields_end()
        && le32(&inode.bytes, at).is_ok_and(|magic| magic == MAGIC)
    {
        let area = inode.bytes.get(at.saturating_add(4)..).unwrap_or_default().to_vec();
        entries(ext, &area, 0, &mut found)?;
    }
    if inode.attributes != 0 {
        let block = ext.block(inode.attributes)?;
        if le32(&block, 0)? != MAGIC {
            return Err(Fault::Corrupt("a block of attributes that is none"));
        }
        entries(ext, &block, BLOCK_HEADER_BYTES, &mut found)?;
    }
    Ok(found)
}

/// The entries from `at` on; values are at places of `area`.
fn entries(ext: &mut Ext, area: &[u8], mut at: usize, found: &mut Vec<Stored>) -> Result<()> {
    while le32(area, at).is_ok_and(|head| head != 0) {
        let name_bytes = usize::from(byte(area, at)?);
        let class = byte(area, at.saturating_add(1))?;
        let place = usize::from(le16(area, at.saturating_add(2))?);
        let inode = u64::from(le32(area, at.saturating_add(4))?);
        let length = u64::from(le32(area, at.saturating_add(8))?);
        let name = slice(area, at.saturating_add(ENTRY_BYTES), name_bytes)?.to_vec();
        if length > VALUE_BYTES_MAX {
            return Err(Fault::Corrupt("an attribute that is longer than it can be"));
        }
        let value = match inode {
            0 => slice(area, place, to_usize(length))?.to_vec(),
            number => {
                let holder = ext.inode(number)?;
                ext.content(&holder, 0..length)?
            }
        };
        found.push(Stored { class, name, value });
        at = at.saturating_add(ENTRY_BYTES).saturating_add(name_bytes.next_multiple_of(4));
    }
    Ok(())
}

/// As Linux names it; none for what only the file system itself uses.
fn full_name(stored: &Stored) -> Option<Vec<u8>> {
    let class: &[u8] = match stored.class {
        1 => b"user.",
        2 => return Some(b"system.posix_acl_access".to_vec()),
        3 => return Some(b"system.posix_acl_default".to_vec()),
        4 => b"trusted.",
        6 => b"security.",
        8 => b"system.richacl",
        _ => return None,
    };
    Some([class, &stored.name].concat())
}

/// Access lists have another form on the disk than in an attribute.
fn acl(stored: &[u8]) -> Result<Vec<u8>> {
    if le32(stored, 0)? != 1 {
        return Err(Fault::Corrupt("an access list that is none"));
    }
    let mut value = 2_u32.to_le_bytes().to_vec();
    let mut at = 4;
    while at < stored.len() {
        let tag = le16(stored, at)?;
        value.extend_from_slice(slice(stored, at, 4)?);
        at = at.saturating_add(4);
        match tag {
            // A user or group by its number.
            2 | 8 => {
                value.extend_from_slice(slice(stored, at, 4)?);
                at = at.saturating_add(4);
            }
            _ => value.extend_from_slice(&u32::MAX.to_le_bytes()),
        }
    }
    Ok(value)
}
