//! What lies behind the end of the disk on a larger device. A restore leaves it as it is, and what others left there may
//! be found again: the copy of a partition table, or the label of a RAID, at the end of the device.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::{Medium, RawTarget};
use crate::TargetError;

/// How much is looked at behind the disk, and at the end of the device.
const LOOK_BYTES: u64 = 1 << 20;
const GPT: &[u8] = b"EFI PART";
const MD: &[u8] = &[0xfc, 0x4e, 0x2b, 0xa9];
const ZFS: &[u8] = &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0];
const BTRFS: &[u8] = b"_BHRfS_M";
const IMSM: &[u8] = b"Intel Raid ISM Cfg Sig.";
/// btrfs keeps copies of its superblock at fixed places.
const BTRFS_PLACES: [u64; 2] = [64 << 20, 256 << 30];

/// Bytes of a device behind the end of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    /// How many.
    pub size_bytes: u64,
    /// Whether there is anything but zeros in the first and the last MiB of them.
    pub holds_data: bool,
    /// What of it is known.
    pub labels: Vec<&'static str>,
}

impl RawTarget {
    /// What lies behind the end of the disk; none for a file, and for a device that is as large as the disk.
    ///
    /// # Errors
    /// [`TargetError::Io`] when it cannot be read.
    pub fn rest(&self) -> Result<Option<Rest>, TargetError> {
        let Medium::Device(device) = &self.medium else { return Ok(None) };
        let range = self.size_bytes..device.size_bytes();
        if range.is_empty() {
            return Ok(None);
        }
        let seen = look(device.file(), &range);
        let failed =
            |source| TargetError::Io { step: "read the end of", path: self.path().to_owned(), source };
        seen.map(Some).map_err(failed)
    }

    /// Makes `range` of what lies behind the end of the disk read as zeros.
    ///
    /// # Errors
    /// As [`RawTarget::zero`]; [`TargetError::OutOfRange`] for anything but that.
    pub fn wipe(&self, range: Range<u64>) -> Result<(), TargetError> {
        let length_bytes = range.end.saturating_sub(range.start);
        match &self.medium {
            Medium::Device(device) if range.start >= self.size_bytes && range.end <= device.size_bytes() => {
                let zeroed = device.zero(range.clone());
                zeroed.map_err(|source| self.write_failed(range.start, length_bytes, source))
            }
            _ => Err(TargetError::OutOfRange {
                path: self.path().to_owned(),
                offset: range.start,
                length_bytes,
                size_bytes: self.size_bytes,
            }),
        }
    }

    /// The size of a device's sectors; none for a file. A partition table counts in them.
    pub fn sector_bytes(&self) -> Option<u32> {
        let Medium::Device(device) = &self.medium else { return None };
        rustix::fs::ioctl_blksszget(device.file()).ok()
    }
}

fn look(file: &File, range: &Range<u64>) -> io::Result<Rest> {
    let head = read(file, range.start..range.end.min(range.start.saturating_add(LOOK_BYTES)))?;
    let tail_start = range.start.max(range.end.saturating_sub(LOOK_BYTES));
    let tail = read(file, tail_start..range.end)?;
    let holds_data = head.iter().chain(&tail).any(|byte| *byte != 0);
    let mut labels = labels(&tail, tail_start, range.end);
    for place in BTRFS_PLACES {
        let magic = place.saturating_add(64);
        if magic >= range.start && magic.saturating_add(8) <= range.end {
            let found = read(file, magic..magic.saturating_add(8))?;
            labels.extend((found == BTRFS).then_some("a copy of a btrfs superblock"));
        }
    }
    labels.dedup();
    let size_bytes = range.end.saturating_sub(range.start);
    Ok(Rest { size_bytes, holds_data: holds_data || !labels.is_empty(), labels })
}

fn read(file: &File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let length = range.end.saturating_sub(range.start);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

/// What is known to lie at the end of devices; `tail` begins at `start` of a device that ends at `end`.
fn labels(tail: &[u8], start: u64, end: u64) -> Vec<&'static str> {
    let is_at = |place: u64, magic: &[u8]| {
        let at = place.checked_sub(start).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| tail.get(at..)).is_some_and(|bytes| bytes.starts_with(magic))
    };
    let is_any = |places: &[u64], magic: &[u8]| places.iter().any(|place| is_at(*place, magic));
    // md: version 1.0 in the last 8 to 12 KiB, version 0.90 in the last whole 64 KiB. ZFS: two labels in the last 512 KiB,
    // each with a ring of blocks that begin with a magic number.
    let whole = |bytes: u64, unit: u64| bytes.saturating_sub(bytes.checked_rem(unit).unwrap_or(0));
    let new_md = whole(end.saturating_sub(8192), 4096);
    let old_md = whole(end, 65_536).saturating_sub(65_536);
    let last = |bytes: u64| end.saturating_sub(bytes);
    let zfs: Vec<u64> = (1..=512).map(|kib: u64| last(kib.saturating_mul(1024))).collect();
    let known: [(&[u64], &[u8], &'static str); 4] = [
        (&[last(512), last(4096)], GPT, "the copy of a GPT partition table"),
        (&[new_md, old_md], MD, "an md (RAID) label"),
        (&[last(1024)], IMSM, "an Intel RAID label"),
        (&zfs, ZFS, "a ZFS label"),
    ];
    known.into_iter().filter(|(places, magic, _)| is_any(places, magic)).map(|(.., what)| what).collect()
}

#[cfg(test)]
mod tests;
