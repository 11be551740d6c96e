//! Fuzz targets for what other programs and other people hand over: an OVA, and what tools of thin volumes and of ZFS say.

use std::ops::Range;

use sancerre_image::change_map::{ChangeMap, MapError};
use sancerre_image::package::{PackageMember, read_package};

use crate::disk::MemoryDisk;

/// An archive is refused, or every file that it names lies inside of it.
pub fn package(input: &[u8]) {
    let file = MemoryDisk::dense(input.to_vec());
    let Ok(package) = read_package(&*file, &|_| Ok(())) else { return };
    assert!(!package.disks.is_empty());
    let is_inside = |PackageMember { range, .. }: &PackageMember| {
        range.start <= range.end && range.end <= input.len() as u64
    };
    assert!(package.disks.iter().chain([&package.description]).all(is_inside));
}

/// What `zfs send` sends.
pub fn zfs(input: &[u8]) {
    maps(|disk_bytes| ChangeMap::of_zfs_send(input, disk_bytes));
}

/// What `thin_delta` says.
pub fn thin(input: &[u8]) {
    maps(|disk_bytes| ChangeMap::of_thin_delta(input, disk_bytes));
}

/// It is refused, or its ranges are in order and inside of the disk.
fn maps(read: impl Fn(u64) -> Result<ChangeMap, MapError>) {
    for disk_bytes in [1, 1 << 20, 1 << 40] {
        let Ok(map) = read(disk_bytes) else { continue };
        let mut at = 0;
        for Range { start, end } in map.ranges() {
            assert!(at <= *start && start < end && *end <= disk_bytes, "{:?}", map.ranges());
            at = *end;
        }
    }
}
