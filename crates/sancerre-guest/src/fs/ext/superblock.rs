//! The superblock, and where it says that inodes are.

use crate::bytes::{be32, le16, le32, slice, to_u64, to_usize};
use crate::fault::{Fault, Result};

pub(super) const OFFSET: u64 = 1024;
pub(super) const LENGTH: usize = 1024;
const MAGIC: u16 = 0xef53;

const COMPAT_HAS_JOURNAL: u32 = 0x4;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_JOURNAL_DEVICE: u32 = 0x8;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_EXTENTS: u32 = 0x40;
const INCOMPAT_64BIT: u32 = 0x80;
/// File types, recover, meta_bg, extents, 64 bits, MMP, flex_bg, values in inodes, checksum seed, large folders, inline
/// data, encryption, folded case.
const INCOMPAT_KNOWN: u32 =
    0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x1_0000 | 0x2_0000;
const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
/// The whole file system is on ext4 from here on: huge files, group checksums, link counts, extra inode fields.
const RO_COMPAT_EXT4: u32 = 0x8 | 0x10 | 0x20 | 0x40 | 0x400;

pub(super) struct Superblock {
    pub(super) block_bytes: u64,
    pub(super) inode_bytes: usize,
    pub(super) journal_inode: u64,
    pub(super) label: Vec<u8>,
    pub(super) journal_device: bool,
    inodes: u64,
    inodes_per_group: u64,
    blocks_per_group: u64,
    first_data_block: u64,
    first_meta_group: u64,
    descriptor_bytes: u64,
    backup_groups: [u32; 2],
    uuid: [u8; 16],
    compat: u32,
    incompat: u32,
    ro_compat: u32,
}

/// Where the descriptor of an inode's group is, and how far into its table the inode is.
pub(super) struct InodePlace {
    pub(super) descriptor: u64,
    pub(super) descriptor_bytes: usize,
    pub(super) within: u64,
}

impl Superblock {
    /// None when it is none.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        if le16(bytes, 0x38)? != MAGIC {
            return Ok(None);
        }
        let shift = le32(bytes, 0x18)?;
        if shift > 6 {
            return Err(Fault::Corrupt("a size of blocks that no ext has"));
        }
        let is_old = le32(bytes, 0x4c)? == 0;
        let (compat, incompat, ro_compat) = match is_old {
            true => (0, 0, 0),
            false => (le32(bytes, 0x5c)?, le32(bytes, 0x60)?, le32(bytes, 0x64)?),
        };
        if incompat & INCOMPAT_JOURNAL_DEVICE != 0 {
            return Err(Fault::Unsupported("it is the journal of another file system".to_owned()));
        }
        let unknown = incompat & !INCOMPAT_KNOWN;
        if unknown != 0 {
            return Err(Fault::Unsupported(format!(
                "ext4 with features that are not known here ({unknown:#x})"
            )));
        }
        let inode_bytes = if is_old { 128 } else { usize::from(le16(bytes, 0x58)?) };
        let descriptor_bytes = match incompat & INCOMPAT_64BIT {
            0 => 32,
            _ => u64::from(le16(bytes, 0xfe)?),
        };
        let superblock = Self {
            block_bytes: 1024 << shift,
            inode_bytes,
            journal_inode: u64::from(le32(bytes, 0xe0)?),
            journal_device: le32(bytes, 0xe4)? != 0,
            label: slice(bytes, 0x78, 16)?.split(|byte| *byte == 0).next().unwrap_or_default().to_vec(),
            inodes: u64::from(le32(bytes, 0)?),
            inodes_per_group: u64::from(le32(bytes, 0x28)?),
            blocks_per_group: u64::from(le32(bytes, 0x20)?),
            first_data_block: u64::from(le32(bytes, 0x14)?),
            first_meta_group: u64::from(le32(bytes, 0x104)?),
            descriptor_bytes,
            backup_groups: [le32(bytes, 0x24c)?, le32(bytes, 0x250)?],
            uuid: slice(bytes, 0x68, 16)?.try_into().unwrap_or_default(),
            compat,
            incompat,
            ro_compat,
        };
        superblock.refuse_odd()?;
        Ok(Some(superblock))
    }

    fn refuse_odd(&self) -> Result<()> {
        let inode_bytes = to_u64(self.inode_bytes);
        let is_fine = (128..=self.block_bytes).contains(&inode_bytes)
            && (32..=self.block_bytes).contains(&self.descriptor_bytes)
            && self.inodes_per_group > 0
            && self.blocks_per_group > 0;
        if is_fine { Ok(()) } else { Err(Fault::Corrupt("a superblock whose numbers do not fit each other")) }
    }

    pub(super) fn needs_replay(&self) -> bool {
        self.compat & COMPAT_HAS_JOURNAL != 0 && self.incompat & INCOMPAT_RECOVER != 0
    }

    pub(super) fn kind(&self) -> &'static str {
        match (
            self.incompat & (INCOMPAT_EXTENTS | INCOMPAT_64BIT),
            self.ro_compat & RO_COMPAT_EXT4,
            self.compat & COMPAT_HAS_JOURNAL,
        ) {
            (0, 0, 0) => "ext2",
            (0, 0, _) => "ext3",
            _ => "ext4",
        }
    }

    pub(super) fn uuid(&self) -> String {
        let hex: String = self.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
        [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
    }

    /// Where an inode is.
    pub(super) fn inode_place(&self, number: u64) -> Result<InodePlace> {
        if number == 0 || number > self.inodes {
            return Err(Fault::Corrupt("an inode that there is not"));
        }
        let index = number.saturating_sub(1);
        let group = index / self.inodes_per_group;
        let within = (index % self.inodes_per_group).saturating_mul(to_u64(self.inode_bytes));
        let per_block = self.block_bytes / self.descriptor_bytes;
        let number = group / per_block;
        let block = match self.incompat & INCOMPAT_META_BG != 0 && number >= self.first_meta_group {
            // Behind the superblock, which is in the second block of those that are as short as it.
            false => u64::from(self.block_bytes == OFFSET).saturating_add(1).saturating_add(number),
            true => {
                let first = number.saturating_mul(per_block);
                let start = first.saturating_mul(self.blocks_per_group).saturating_add(self.first_data_block);
                start.saturating_add(u64::from(self.has_superblock(first)))
            }
        };
        let descriptor = block
            .checked_mul(self.block_bytes)
            .and_then(|at| at.checked_add((group % per_block).saturating_mul(self.descriptor_bytes)))
            .ok_or(Fault::Corrupt("a table of groups behind the end"))?;
        Ok(InodePlace { descriptor, descriptor_bytes: to_usize(self.descriptor_bytes), within })
    }

    fn has_superblock(&self, group: u64) -> bool {
        let is_power = |base: u64| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        if group == 0 {
            return true;
        }
        if self.compat & COMPAT_SPARSE_SUPER2 != 0 {
            return self.backup_groups.iter().any(|backup| u64::from(*backup) == group);
        }
        self.ro_compat & RO_COMPAT_SPARSE_SUPER == 0 || group == 1 || [3, 5, 7].into_iter().any(is_power)
    }
}

/// The first block of a group's table of inodes.
pub(super) fn inode_table(descriptor: &[u8]) -> Result<u64> {
    let low = u64::from(le32(descriptor, 8)?);
    let high = if descriptor.len() >= 64 { u64::from(le32(descriptor, 0x28)?) } else { 0 };
    Ok(high << 32 | low)
}

/// The journal's own superblock.
pub(super) struct JournalSuperblock {
    pub(super) block_bytes: u64,
    pub(super) blocks: u64,
    pub(super) first: u64,
    pub(super) sequence: u32,
    pub(super) start: u64,
    pub(super) incompat: u32,
    pub(super) fast_blocks: u64,
}

impl JournalSuperblock {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let is_one = be32(bytes, 0)? == super::journal::MAGIC && matches!(be32(bytes, 4)?, 3 | 4);
        if !is_one {
            return Err(Fault::Corrupt("a journal that is none"));
        }
        let has_features = be32(bytes, 4)? == 4;
        Ok(Self {
            block_bytes: u64::from(be32(bytes, 0xc)?),
            blocks: u64::from(be32(bytes, 0x10)?),
            first: u64::from(be32(bytes, 0x14)?),
            sequence: be32(bytes, 0x18)?,
            start: u64::from(be32(bytes, 0x1c)?),
            incompat: if has_features { be32(bytes, 0x28)? } else { 0 },
            fast_blocks: u64::from(be32(bytes, 0x54)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_zeros_is_no_superblock() {
        assert!(Superblock::parse(&[0; LENGTH]).unwrap().is_none());
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let mut bytes = [0; LENGTH];
        bytes[0x38..0x3a].copy_from_slice(&MAGIC.to_le_bytes());
        assert!(Superblock::parse(&bytes).is_err());
        bytes[0x18] = 200;
        assert!(Superblock::parse(&bytes).is_err());
    }
}
