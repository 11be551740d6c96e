//! ext2, ext3 and ext4 against the kernel.

use crate::lab::{LINUX, Lab, MIB, TREE, assert_same, has, is_root, of_guest, open};

fn ready() -> bool {
    has(&["mke2fs", "mount", "xfs_io"]) && is_root()
}

fn compare(lab: &Lab, image: &str, what: &str) {
    let guest = open(&[&lab.path(image)]);
    let (ours, faults) = of_guest(&guest, 0);
    assert!(faults.is_empty(), "{what}: {faults:?}");
    assert_same(&ours, &lab.mounted(image, "-o loop,ro"), what);
}

#[test]
fn every_kind_of_ext_is_read_as_the_kernel_reads_it() {
    if !ready() {
        return;
    }
    for options in [
        "-t ext2",
        "-t ext2 -b 1024",
        "-t ext3",
        "-t ext3 -b 1024 -I 128",
        "-t ext4",
        "-t ext4 -b 1024",
        "-t ext4 -b 2048 -I 512",
        "-t ext4 -O inline_data",
        "-t ext4 -O inline_data,^metadata_csum -I 1024",
        "-t ext4 -O ^64bit",
        "-t ext4 -O meta_bg,^resize_inode -g 1024 -b 1024",
        "-t ext4 -O ^extent,^64bit",
        "-t ext4 -O bigalloc",
        "-t ext4 -O ^flex_bg,^has_journal",
        "-t ext4 -O sparse_super2,^resize_inode",
        "-t ext4 -O ^dir_index",
        "-t ext4 -O ea_inode,large_dir",
        "-t ext4 -O metadata_csum_seed,uninit_bg",
        "-t ext4 -r 0 -O none",
    ] {
        let lab = Lab::new();
        lab.image("fs.img", 64 * MIB);
        lab.run(&format!("mke2fs -q -F {options} fs.img"));
        lab.run(&format!("mount -o loop fs.img $M; {TREE} {LINUX} umount $M"));
        compare(&lab, "fs.img", options);
    }
}

#[test]
fn a_journal_that_was_not_written_back_is_read_as_the_kernel_replays_it() {
    if !ready() {
        return;
    }
    for (options, mount) in [
        ("", ""),
        ("-O ^metadata_csum", ""),
        ("-O ^64bit,^metadata_csum", ""),
        ("-b 1024 -J size=1", ""),
        ("", ",data=journal"),
        ("-O inline_data", ",data=journal"),
    ] {
        let lab = Lab::new();
        lab.image("fs.img", 64 * MIB);
        lab.run(&format!("mke2fs -q -F -t ext4 {options} fs.img"));
        // What is freed and used again is revoked; what begins like the journal itself is escaped.
        lab.run(&format!(
            r#"mount -o loop{mount} fs.img $M; {TREE} sync -f $M
               for i in $(seq 1 200); do mkdir $M/new$i; echo $i > $M/new$i/a; done; rm -r $M/many; sync -f $M
               for i in $(seq 1 200); do head -c 5000 /dev/urandom > $M/again$i; done
               printf '\300\073\071\230escaped' > $M/magic; head -c 9000 /dev/zero >> $M/magic; {LINUX}
               mv $M/d1 $M/moved; xfs_io -x -c 'shutdown -f' $M; umount $M; cp --sparse=always fs.img replayed.img"#
        ));
        let guest = open(&[&lab.path("fs.img")]);
        let (ours, faults) = of_guest(&guest, 0);
        assert!(faults.is_empty(), "{options}: {faults:?}");
        assert_same(&ours, &lab.mounted("replayed.img", "-o loop"), &format!("{options} {mount}"));
        assert!(ours.contains_key(b"moved".as_slice()), "{options}: nothing was in the journal");
    }
}

#[test]
fn a_hundred_thousand_files_in_a_folder_are_listed() {
    if !ready() {
        return;
    }
    for (make, more) in [("mke2fs -q -F -t ext4 -N 120000", 2), ("mkfs.xfs -q -f", 1)] {
        let lab = Lab::new();
        lab.image("fs.img", 400 * MIB);
        lab.run(&format!("{make} fs.img; mount -o loop fs.img $M; mkdir $M/d; cd $M/d; seq -f 'a%06g' 100000 | xargs touch; cd ..; cd ..; umount $M"));
        let guest = open(&[&lab.path("fs.img")]);
        let (tree, faults) = of_guest(&guest, 0);
        assert!(faults.is_empty(), "{make}: {faults:?}");
        assert_eq!(tree.len(), 100_000 + more, "{make}");
    }
}
