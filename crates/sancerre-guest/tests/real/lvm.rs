//! Partitions of every kind, and volumes of LVM over them.

use std::path::Path;

use sancerre_guest::VolumeContent;

use crate::lab::{Lab, MIB, has, is_root, of_guest, open};

fn kinds(guest: &sancerre_guest::Guest) -> Vec<String> {
    let kind = |volume: &sancerre_guest::VolumeInfo| {
        let what = match &volume.content {
            VolumeContent::Files(info) => info.kind.clone(),
            VolumeContent::Known(what) => what.clone(),
            VolumeContent::Broken(why) => format!("broken: {why}"),
            VolumeContent::Unknown => "?".to_owned(),
        };
        format!("{} {what}", volume.name)
    };
    guest.volumes().iter().map(kind).collect()
}

#[test]
fn partitions_of_gpt_and_mbr_are_found() {
    if !has(&["sfdisk", "mke2fs", "mkfs.vfat"]) {
        return;
    }
    let lab = Lab::new();
    for (label, table) in [("gpt", ",8M\n,8M\n,\n"), ("dos", ",8M,L\n,30M,E\n,1M,L\n,1M,L\n,8M,L\n,8M,L\n")] {
        let second = if label == "gpt" { 2 } else { 4 };
        lab.image("disk.img", 64 * MIB);
        lab.run(&format!(
            "printf 'label: {label}\n{table}' | sfdisk -q disk.img; mkfs.vfat -F 12 -C a.img 8192 >/dev/null
             truncate -s 8M b.img; mke2fs -q -F b.img; P=($(sfdisk -d disk.img | sed -n 's/.*start= *\\([0-9]*\\),.*/\\1/p'))
             dd if=a.img of=disk.img bs=512 seek=${{P[0]}} conv=notrunc status=none
             dd if=b.img of=disk.img bs=512 seek=${{P[{second}]}} conv=notrunc status=none; rm a.img b.img"
        ));
        let guest = open(&[&lab.path("disk.img")]);
        let expected: &[&str] = match label {
            "gpt" => &["p1 FAT12", "p2 ?", "p3 ext2"],
            _ => &["p1 FAT12", "p3 ?", "p4 ?", "p5 ext2", "p6 ?"],
        };
        let mut found = kinds(&guest);
        found.sort();
        let mut expected: Vec<String> = expected.iter().map(|kind| (*kind).to_owned()).collect();
        expected.sort();
        assert_eq!(found, expected, "{label}");
    }
    // The first header is gone: the last one has the same.
    lab.image("disk.img", 64 * MIB);
    lab.run("printf 'label: gpt\n,8M\n' | sfdisk -q disk.img; dd if=/dev/zero of=disk.img bs=512 seek=1 count=33 conv=notrunc status=none");
    assert_eq!(kinds(&open(&[&lab.path("disk.img")])), ["p1 ?"]);
}

/// As LVM itself writes it, without its kernel part.
fn group(lab: &Lab, segment: &str) {
    let text = format!(
        "vg0 {{\nid = \"G\"\nseqno = 1\nextent_size = 2048\nphysical_volumes {{\npv0 {{\nid = \"{a}\"\npe_start = 2048\npe_count = 40\n}}\n\
         pv1 {{\nid = \"{b}\"\npe_start = 2048\npe_count = 40\n}}\n}}\nlogical_volumes {{\nroot {{\nid = \"R\"\nstatus = [\"READ\", \"VISIBLE\"]\n{segment}\n}}\n}}\n}}\n",
        a = "a".repeat(32),
        b = "b".repeat(32)
    );
    for (name, id) in [("one.img", b'a'), ("two.img", b'b')] {
        let mut disk = vec![0; 64 * 1024];
        disk[512..520].copy_from_slice(b"LABELONE");
        disk[532..536].copy_from_slice(&32_u32.to_le_bytes());
        disk[536..544].copy_from_slice(b"LVM2 001");
        disk[544..576].fill(id);
        // One data area to the end, then one description.
        disk[584..592].copy_from_slice(&MIB.to_le_bytes());
        disk[616..624].copy_from_slice(&4096_u64.to_le_bytes());
        disk[624..632].copy_from_slice(&60_000_u64.to_le_bytes());
        disk[4100..4116].copy_from_slice(b" LVM2 x[5A%r0N*>");
        disk[4136..4144].copy_from_slice(&512_u64.to_le_bytes());
        disk[4144..4152].copy_from_slice(&(text.len() as u64).to_le_bytes());
        disk[4608..4608 + text.len()].copy_from_slice(text.as_bytes());
        lab.image(name, 48 * MIB);
        std::os::unix::fs::FileExt::write_all_at(
            &std::fs::OpenOptions::new().write(true).open(lab.path(name)).unwrap(),
            &disk,
            0,
        )
        .unwrap();
    }
}

#[test]
fn linear_and_striped_volumes_over_two_disks_are_put_together() {
    if !(has(&["mke2fs", "losetup"]) && is_root()) {
        return;
    }
    let (lab, extent) = (Lab::new(), 2048);
    lab.image("fs.img", 32 * MIB);
    lab.run("mke2fs -q -F -t ext4 fs.img; mount -o loop fs.img $M; head -c 9000000 /dev/urandom > $M/big; mkdir $M/d; umount $M");
    let _ = extent;
    let piece = |from: u64, to: (&str, u64), count: u64| {
        format!(
            "dd if=fs.img of={} bs=64K skip={from} seek={} count={count} conv=notrunc status=none; ",
            to.0, to.1
        )
    };
    // Linear: 12 extents on the second disk, then 20 on the first.
    group(
        &lab,
        "segment1 {\nstart_extent = 0\nextent_count = 12\ntype = \"striped\"\nstripe_count = 1\nstripes = [\n\"pv1\", 3\n]\n}\nsegment2 {\nstart_extent = 12\nextent_count = 20\ntype = \"striped\"\nstripes = [\"pv0\", 0]\n}",
    );
    lab.run(&(piece(0, ("two.img", 16 * 4), 12 * 16) + &piece(12 * 16, ("one.img", 16), 20 * 16)));
    check(&lab);
    // Striped over both in steps of 64 KiB.
    group(
        &lab,
        "segment1 {\nstart_extent = 0\nextent_count = 32\ntype = \"striped\"\nstripe_count = 2\nstripe_size = 128\nstripes = [\"pv0\", 1, \"pv1\", 5]\n}",
    );
    let stripes: Vec<String> = (0..512)
        .map(|number| match number % 2 {
            0 => piece(number, ("one.img", 16 * 2 + number / 2), 1),
            _ => piece(number, ("two.img", 16 * 6 + number / 2), 1),
        })
        .collect();
    lab.run(&stripes.concat());
    check(&lab);
    // Without the second disk it says so.
    let guest = open(&[&lab.path("one.img")]);
    assert_eq!(
        kinds(&guest),
        ["whole LVM", "vg0-root broken: a part of it is on a disk that is not in the snapshot"]
    );
}

fn check(lab: &Lab) {
    let paths = [lab.path("one.img"), lab.path("two.img")];
    let guest = open(&paths.each_ref().map(|path| -> &Path { path }));
    assert_eq!(kinds(&guest), ["whole LVM", "whole LVM", "vg0-root ext4"]);
    let (ours, faults) = of_guest(&guest, 2);
    assert!(faults.is_empty(), "{faults:?}");
    crate::lab::assert_same(&ours, &lab.mounted("fs.img", "-o loop,ro"), "LVM");
}
