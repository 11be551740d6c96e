//! What is found behind the end of a disk, and that wiping takes it away and nothing else.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::testing::LoopDevice;

const MIB: u64 = 1 << 20;
const END: u64 = 64 * MIB;

/// What is found when the last MiB of a device of 64 MiB has these bytes at this place.
fn found(place: u64, magic: &[u8]) -> Vec<&'static str> {
    let start = END - LOOK_BYTES;
    let mut tail = vec![0; LOOK_BYTES as usize];
    tail[(place - start) as usize..][..magic.len()].copy_from_slice(magic);
    labels(&tail, start, END)
}

#[test]
fn labels_at_the_end_are_known() {
    assert_eq!(found(END - 512, GPT), ["the copy of a GPT partition table"]);
    assert_eq!(found(END - 4096, GPT), ["the copy of a GPT partition table"]);
    assert_eq!(found(END - 8192, MD), ["an md (RAID) label"]);
    assert_eq!(found(END - 65_536, MD), ["an md (RAID) label"]);
    assert_eq!(found(END - 1024, IMSM), ["an Intel RAID label"]);
    assert_eq!(found(END - (126 << 10), ZFS), ["a ZFS label"]);
    assert_eq!(found(END - 700, GPT), Vec::<&str>::new());
}

#[test]
fn a_rest_of_a_few_bytes_is_looked_at_too() {
    assert_eq!(labels(&[0; 100], END - 100, END), Vec::<&str>::new());
    assert_eq!(labels(&[], 0, 0), Vec::<&str>::new());
}

/// A device of 8 MiB with these bytes, which takes a disk of 3 MiB.
fn restored(content: &[u8]) -> Option<(TempDir, LoopDevice, RawTarget)> {
    let folder = TempDir::new().unwrap();
    let backing = folder.path().join("backing");
    fs::write(&backing, content).unwrap();
    let device = LoopDevice::attach(&backing)?;
    let target = RawTarget::create(device.path(), 3 * MIB, true).unwrap();
    target.write_at(0, &vec![7; 3 * MIB as usize]).unwrap();
    Some((folder, device, target))
}

#[test]
fn old_data_behind_the_disk_is_told_and_wiped_on_request() {
    let mut content = vec![0; 8 * MIB as usize];
    content[8 * MIB as usize - 512..][..GPT.len()].copy_from_slice(GPT);
    let Some((_folder, device, target)) = restored(&content) else { return };
    let rest = target.rest().unwrap().unwrap();
    assert_eq!(rest.size_bytes, 5 * MIB);
    assert_eq!((rest.holds_data, rest.labels), (true, vec!["the copy of a GPT partition table"]));
    assert!(matches!(target.wipe(0..MIB), Err(TargetError::OutOfRange { .. })));
    target.wipe(3 * MIB..8 * MIB).unwrap();
    assert!(!target.rest().unwrap().unwrap().holds_data);
    target.finish().unwrap();
    let bytes = fs::read(device.path()).unwrap();
    let (disk, rest) = bytes.split_at(3 * MIB as usize);
    assert!(disk.iter().all(|byte| *byte == 7) && rest.iter().all(|byte| *byte == 0));
}

#[test]
fn a_device_without_old_data_and_a_file_have_nothing_to_tell() {
    let Some((_folder, _device, target)) = restored(&vec![0; 8 * MIB as usize]) else { return };
    assert!(!target.rest().unwrap().unwrap().holds_data);
    assert_eq!(target.sector_bytes(), Some(512));
    let folder = TempDir::new().unwrap();
    let file = RawTarget::create(&folder.path().join("vm.raw"), MIB, false).unwrap();
    assert_eq!((file.rest().unwrap(), file.sector_bytes()), (None, None));
    assert!(matches!(file.wipe(0..1), Err(TargetError::OutOfRange { .. })));
}
