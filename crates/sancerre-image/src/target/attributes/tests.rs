//! An image that is replaced keeps what its machine needs to start: owner, mode, attributes, access list.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::testing::{is_inner, repeat_as_nobody, skip};
use crate::{RawTarget, TargetError};

const LABEL: &CStr = c"user.label";
/// The user and group that a distribution's QEMU runs as.
const QEMU: (u32, u32) = (64_055, 107);

fn image(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("vm.raw");
    fs::write(&path, "old").unwrap();
    path
}

fn open(path: &Path) -> File {
    File::open(path).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// An access list in the kernel's form: owner rw, user 1234 r, group r, mask r, others nothing.
fn access_list() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)];
    let entry = |(tag, rights, who): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &who.to_le_bytes()].concat()
    };
    [2_u32.to_le_bytes().to_vec(), entries.map(entry).concat()].concat()
}

#[test]
fn a_file_that_is_replaced_keeps_owner_mode_and_attributes() {
    let folder = TempDir::new().unwrap();
    let path = image(&folder);
    if !is_root() {
        return skip("only root can give a file away");
    }
    chown(&path, Some(QEMU.0), Some(QEMU.1)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    if let Err(error) = fsetxattr(open(&path), LABEL, b"web01", XattrFlags::empty()) {
        return skip(&format!("no extended attributes here: {error}"));
    }
    let target = RawTarget::create(&path, 1 << 20, true).unwrap();
    target.write_at(0, b"new").unwrap();
    // Nobody else may read it before it is whole.
    assert_eq!(target.path().metadata().unwrap().mode() & 0o777, 0o600);
    target.finish().unwrap();
    let found = path.metadata().unwrap();
    assert_eq!(((found.uid(), found.gid()), found.mode() & 0o7777, found.len()), (QEMU, 0o640, 1 << 20));
    assert_eq!(value(&open(&path), LABEL).unwrap().unwrap(), b"web01");
}

#[test]
fn an_empty_file_that_was_made_for_the_disk_keeps_them_too() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("vm.raw");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    RawTarget::create(&path, 10, false).unwrap().finish().unwrap();
    assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o660);
}

#[test]
fn an_access_list_is_kept_and_one_of_the_folder_is_not_added() {
    let folder = TempDir::new().unwrap();
    let (with, without) = (folder.path().join("with"), folder.path().join("without"));
    for path in [&with, &without] {
        fs::write(path, "old").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    }
    let list = access_list();
    if let Err(error) = fsetxattr(open(&with), ACCESS_LIST, &list, XattrFlags::empty()) {
        return skip(&format!("no access lists here: {error}"));
    }
    // From now on every new file in the folder gets it.
    let default = c"system.posix_acl_default";
    fsetxattr(File::open(folder.path()).unwrap(), default, &list, XattrFlags::empty()).unwrap();
    for path in [&with, &without] {
        let target = RawTarget::create(path, 10, true).unwrap();
        target.finish().unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o640, "{}", path.display());
    }
    assert_eq!(value(&open(&with), ACCESS_LIST).unwrap(), Some(list));
    assert_eq!(value(&open(&without), ACCESS_LIST).unwrap(), None);
}

#[test]
fn an_owner_that_cannot_be_kept_is_found_out_before_anything_is_written() {
    if !is_inner() {
        return repeat_as_nobody(
            "target::attributes::tests::an_owner_that_cannot_be_kept_is_found_out_before_anything_is_written",
        );
    }
    let folder = TempDir::new().unwrap();
    // Of root, and in a folder of ours.
    let Ok(path) =
        fs::hard_link("/etc/hostname", folder.path().join("vm.raw")).map(|()| folder.path().join("vm.raw"))
    else {
        // The kernel does not let users link what is not theirs (fs.protected_hardlinks): then by what it would be told.
        let kept = Attributes { owner: (0, 0), mode: 0o600, extended: Vec::new() };
        let own = File::create(folder.path().join("own")).unwrap();
        assert_eq!(kept.try_on(&own).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        return;
    };
    let error = RawTarget::create(&path, 10, true).unwrap_err();
    assert!(matches!(error, TargetError::Attributes { .. }), "{error:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
