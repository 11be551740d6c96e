//! FAT against mtools, and exFAT against exfat-fuse.

use crate::lab::{Lab, MIB, TREE, assert_same, bare, has, is_root, of_folder, of_guest, open};

#[test]
fn every_fat_is_read_as_it_was_written() {
    if !has(&["mkfs.vfat", "mcopy"]) {
        return;
    }
    for (options, size) in [
        ("-F 12 -s 8", 12 * MIB),
        ("-F 16 -s 2", 32 * MIB),
        ("-F 16 -s 8", 64 * MIB),
        ("-F 32 -s 1", 64 * MIB),
        ("-F 32 -s 8 -R 64", 512 * MIB),
        ("-F 32 -S 4096 -s 1", 512 * MIB),
    ] {
        let lab = Lab::new();
        lab.image("fs.img", size);
        // Large enough to be in several clusters, and small enough for FAT12.
        lab.run(&format!(
            "mkfs.vfat {options} -n TEST fs.img >/dev/null; mkdir src; M=src; {TREE} rm src/sparse src/d1/3M src/Ünïcode/e*
             mcopy -s -m -i fs.img src/* ::/"
        ));
        let guest = open(&[&lab.path("fs.img")]);
        let (ours, faults) = of_guest(&guest, 0);
        assert!(faults.is_empty(), "{options}: {faults:?}");
        assert_same(&bare(ours), &bare(of_folder(&lab.path("src"))), options);
    }
}

#[test]
fn exfat_is_read_as_it_was_written() {
    if !(has(&["mkfs.exfat", "mount.exfat-fuse", "fusermount3"]) && is_root()) {
        return;
    }
    for (options, sector) in [("", 512), ("-c 512", 512), ("-c 32K", 512), ("", 4096)] {
        let lab = Lab::new();
        lab.image("fs.img", 128 * MIB);
        lab.run(&format!(
            "L=$(losetup -b {sector} -f --show fs.img); mkfs.exfat {options} $L >/dev/null; losetup -d $L"
        ));
        lab.with_fuse("mount.exfat-fuse", sector, TREE);
        let guest = open(&[&lab.path("fs.img")]);
        let (ours, faults) = of_guest(&guest, 0);
        assert!(faults.is_empty(), "{options}: {faults:?}");
        let theirs = lab.by_fuse("mount.exfat-fuse -o ro", sector);
        assert_same(&bare(ours), &bare(theirs), options);
    }
}
