//! Containers that QEMU makes, and bytes that only look a little like one.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::open_raw;

/// Each format that QEMU can write, in each of its kinds: the name it must be called by.
const MADE_BY_QEMU: [(&str, &str, &str); 20] = [
    ("qcow2", "compat=1.1", "qcow2"),
    ("qcow2", "compat=0.10", "qcow2"),
    ("qcow", "", "qcow"),
    ("qed", "", "QED"),
    ("vmdk", "", "VMDK"),
    ("vmdk", "subformat=monolithicFlat", "VMDK descriptor"),
    ("vpc", "subformat=dynamic", "VHD"),
    ("vpc", "subformat=fixed", "VHD"),
    ("vhdx", "", "VHDX"),
    ("vdi", "", "VDI"),
    ("qcow2", "extended_l2=on", "qcow2"),
    ("vmdk", "subformat=streamOptimized", "VMDK"),
    ("vmdk", "subformat=monolithicSparse,compat6", "VMDK"),
    ("vmdk", "subformat=twoGbMaxExtentSparse", "VMDK descriptor"),
    ("vmdk", "subformat=twoGbMaxExtentFlat", "VMDK descriptor"),
    ("vpc", "subformat=fixed,force_size=on", "VHD"),
    ("vpc", "subformat=dynamic,force_size=on", "VHD"),
    ("vhdx", "subformat=fixed", "VHDX"),
    ("vdi", "static=on", "VDI"),
    ("parallels", "", "Parallels"),
];

fn qemu_img(arguments: &[&str], folder: &Path) -> bool {
    let made = Command::new("qemu-img").args(arguments).current_dir(folder).output();
    made.is_ok_and(|output| output.status.success())
}

#[test]
fn containers_that_qemu_makes_are_known() {
    if Command::new("qemu-img").arg("--version").output().is_err() {
        return crate::testing::skip("no qemu-img");
    }
    for (format, options, name) in MADE_BY_QEMU {
        let folder = TempDir::new().unwrap();
        let mut arguments = vec!["create", "-q", "-f", format];
        if !options.is_empty() {
            arguments.extend(["-o", options]);
        }
        arguments.extend(["disk", "8M"]);
        assert!(qemu_img(&arguments, folder.path()), "{format} {options}");
        let disk = open_raw(&folder.path().join("disk")).unwrap();
        let found = container(&disk).unwrap();
        assert_eq!(found, Some(Container { name, is_overlay: false }), "{format} {options}");
    }
    let folder = TempDir::new().unwrap();
    assert!(qemu_img(&["create", "-q", "-f", "raw", "base", "8M"], folder.path()));
    assert!(qemu_img(&["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "over"], folder.path()));
    let over = container(&open_raw(&folder.path().join("over")).unwrap()).unwrap();
    assert_eq!(over, Some(Container { name: "qcow2", is_overlay: true }));
    assert_eq!(container(&open_raw(&folder.path().join("base")).unwrap()).unwrap(), None);
}

#[test]
fn what_only_resembles_a_container_is_none() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("disk.raw");
    let mut text = b"<<< backup of my notes >>>".to_vec();
    text.resize(4096, 0);
    let mut cookie_alone = vec![1; 4096];
    cookie_alone[3584..3592].copy_from_slice(b"conectix");
    let bzip = b"BZh9 is how it begins".to_vec();
    let later = b"QFI\xfb\x00\x00\x00\x63".to_vec();
    for bytes in [Vec::new(), b"Q".to_vec(), b"QFI".to_vec(), later, text, cookie_alone, bzip] {
        fs::write(&path, &bytes).unwrap();
        assert_eq!(container(&open_raw(&path).unwrap()).unwrap(), None, "{:?}", bytes.get(..9));
    }
}

#[test]
fn footers_and_texts_of_other_makers_are_known() {
    let mut temporary = vec![0; 512];
    temporary[..16].copy_from_slice(b"conectix\0\0\0\x03\0\x01\0\0");
    assert_eq!(by_magic(&[], &temporary).map(|found| found.name), Some("VHD"));
    let named = |text: &[u8]| by_magic(text, &[]).map(|found| found.name);
    for text in
        [&b"# Disk DescriptorFile\nversion=1\n"[..], b"# made by hand\r\n\r\n# too\r\nversion=3\r\nCID=1"]
    {
        assert_eq!(named(text), Some("VMDK descriptor"));
    }
    for text in [&b"#!/bin/sh\necho\n"[..], b"version=1\n", b"# a\nversion=4\n", b"# a"] {
        assert_eq!(named(text), None);
    }
    assert_eq!(container_at_start(b"KDMV").map(|found| found.name), Some("VMDK"));
}

#[test]
fn an_appliance_is_known_by_its_first_file() {
    let mut head = vec![0; 512];
    head[..10].copy_from_slice(b"web01.ovf\0");
    head[257..262].copy_from_slice(b"ustar");
    assert_eq!(by_magic(&head, &[]).map(|found| found.name), Some("OVA"));
    head[..10].copy_from_slice(b"disk.raw\0\0");
    assert_eq!(by_magic(&head, &[]).map(|found| found.name), Some("tar"));
}
