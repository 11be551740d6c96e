//! Loop devices as targets: refusals, and zeros in each of the three ways.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::testing::{LoopDevice, Mount, when_free};

const MIB: u64 = 1 << 20;

/// A loop device over a file with this content, which lives as long as the directory.
fn device_with(content: &[u8]) -> Option<(TempDir, LoopDevice)> {
    let directory = TempDir::new().unwrap();
    let backing = directory.path().join("backing");
    fs::write(&backing, content).unwrap();
    Some((directory, LoopDevice::attach(&backing)?))
}

fn reopen(path: &Path, disk_bytes: u64, overwrite: bool) -> Result<Device, TargetError> {
    when_free(|| Device::open(path, disk_bytes, overwrite))
}

#[test]
fn a_device_that_is_too_small_is_refused() {
    let Some((_directory, device)) = device_with(&vec![0; MIB as usize]) else { return };
    let error = Device::open(device.path(), MIB + 1, true).unwrap_err();
    assert!(matches!(error, TargetError::TooSmall { device_bytes: MIB, .. }), "{error:?}");
    assert_eq!(reopen(device.path(), MIB, true).unwrap().size_bytes(), MIB);
}

#[test]
fn data_at_either_end_is_refused_and_in_the_middle_is_not() {
    let cases = [
        (0, true),
        (MIB - 1, true),
        (MIB, false),
        (3 * MIB - 1, false),
        (3 * MIB, true),
        (4 * MIB - 1, true),
    ];
    for (offset, is_refused) in cases {
        let mut content = vec![0; 4 * MIB as usize];
        content[offset as usize] = 1;
        let Some((_directory, device)) = device_with(&content) else { return };
        match Device::open(device.path(), MIB, false) {
            Err(TargetError::HoldsData { offset: found, .. }) => assert!(is_refused && found == offset),
            other => assert!(!is_refused && other.is_ok(), "data at {offset}: {other:?}"),
        }
        reopen(device.path(), MIB, true).unwrap();
    }
}

#[test]
fn a_device_smaller_than_what_is_looked_at_is_looked_at_whole() {
    let Some((_directory, device)) = device_with(&[0; 8192]) else { return };
    Device::open(device.path(), 8192, false).unwrap();
}

#[test]
fn a_mounted_device_is_refused_even_with_overwrite() {
    let Some((directory, device)) = device_with(&vec![0; 16 * MIB as usize]) else { return };
    let mount_point = directory.path().join("mounted");
    fs::create_dir(&mount_point).unwrap();
    let Some(mount) = Mount::ext4(device.path(), &mount_point) else { return };
    for overwrite in [false, true] {
        let error = Device::open(device.path(), MIB, overwrite).unwrap_err();
        assert!(matches!(error, TargetError::InUse { .. }), "{error:?}");
        assert!(error.to_string().contains("in use (mounted"), "{error}");
    }
    drop(mount);
    assert!(matches!(reopen(device.path(), MIB, false), Err(TargetError::HoldsData { .. })));
    reopen(device.path(), MIB, true).unwrap();
}

#[test]
fn a_read_only_device_is_refused_before_anything_is_written() {
    let Some((_directory, device)) = device_with(&vec![0; MIB as usize]) else { return };
    let set = |flag| std::process::Command::new("blockdev").arg(flag).arg(device.path()).status();
    if !set("--setro").is_ok_and(|status| status.success()) {
        return crate::testing::skip("no blockdev");
    }
    for overwrite in [false, true] {
        let error = Device::open(device.path(), MIB, overwrite).unwrap_err();
        assert!(matches!(error, TargetError::ReadOnly { .. }), "{error:?}");
    }
    set("--setrw").unwrap();
    reopen(device.path(), MIB, true).unwrap();
}

#[test]
fn a_device_is_held_until_the_restore_ends() {
    let Some((_directory, device)) = device_with(&vec![0; MIB as usize]) else { return };
    let first = Device::open(device.path(), MIB, false).unwrap();
    assert!(matches!(Device::open(device.path(), MIB, true), Err(TargetError::InUse { .. })));
    drop(first);
    reopen(device.path(), MIB, true).unwrap();
}

/// Exactly the range becomes zeros, whichever way the device offers, at block boundaries and between them.
#[test]
fn each_way_of_zeroing_zeroes_exactly_the_range() {
    let ranges = [0..4096, 100..200, 4000..4200, 4096..3 * MIB, 1..4 * MIB - 1, 5000..5000, 0..4 * MIB];
    for (can_punch, can_zero_range) in [(true, true), (false, true), (false, false)] {
        for range in ranges.clone() {
            let mut expected = vec![0xEE; 4 * MIB as usize];
            let Some((_directory, node)) = device_with(&expected) else { return };
            let device = Device::open(node.path(), 4 * MIB, true).unwrap();
            device.zeroing.allow(can_punch, can_zero_range);
            device.zero(range.clone()).unwrap();
            device.file().sync_all().unwrap();

            expected[range.start as usize..range.end as usize].fill(0);
            let mut bytes = vec![0; expected.len()];
            device.file().read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes == expected, "{range:?} punch {can_punch} zero range {can_zero_range}");
        }
    }
}

/// The ways must be taken, not only survive: punching frees the blocks of the file behind the loop device.
#[test]
fn zeroing_frees_space_where_the_device_can() {
    use std::os::unix::fs::MetadataExt;
    let Some((directory, node)) = device_with(&vec![0xEE; 8 * MIB as usize]) else { return };
    let device = Device::open(node.path(), 8 * MIB, true).unwrap();
    device.zero(0..8 * MIB).unwrap();
    device.file().sync_all().unwrap();
    if !device.zeroing.can_punch() {
        return crate::testing::skip("the file system behind the loop device cannot punch holes");
    }
    let blocks = fs::metadata(directory.path().join("backing")).unwrap().blocks();
    assert!(blocks * 512 < MIB, "{blocks} blocks left");
}
