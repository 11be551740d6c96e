//! File systems that take no file as large as the disk, and a process that may not make one.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::RawTarget;
use crate::testing::{LoopDevice, Mount};

const TIB: u64 = 1 << 40;

#[test]
fn a_file_system_that_takes_no_file_of_the_size_of_the_disk_is_named() {
    let folder = TempDir::new().unwrap();
    let backing = folder.path().join("backing");
    File::create(&backing).unwrap().set_len(64 << 20).unwrap();
    let Some(device) = LoopDevice::attach(&backing) else { return };
    let mounted = TempDir::new().unwrap();
    let Some(_mount) = Mount::ext4(device.path(), mounted.path()) else { return };
    let error = RawTarget::create(&mounted.path().join("vm.raw"), 17 * TIB, false).unwrap_err();
    assert!(matches!(error, TargetError::TooLarge { .. }), "{error:?}");
    assert!(error.to_string().contains("ext4") && error.to_string().contains("16 TiB"), "{error}");
    let left: Vec<_> =
        fs::read_dir(mounted.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == "lost+found"), "{left:?}");
}
