//! XFS against the kernel.

use crate::lab::{LINUX, Lab, MIB, TREE, assert_same, has, is_root, of_guest, open};

fn ready() -> bool {
    has(&["mkfs.xfs", "mount", "xfs_io"]) && is_root()
}

/// No smaller one is made.
const SIZE: u64 = 320 * MIB;

#[test]
fn every_kind_of_xfs_is_read_as_the_kernel_reads_it() {
    if !ready() {
        return;
    }
    for options in [
        "",
        "-b size=1024",
        "-b size=2048 -i size=1024",
        "-m bigtime=0,reflink=0",
        "-i nrext64=0",
        "-n size=16384",
        "-i size=2048 -s size=4096",
        "-d agcount=2",
    ] {
        let lab = Lab::new();
        lab.image("fs.img", SIZE);
        lab.run(&format!("mkfs.xfs -q -f {options} fs.img"));
        let year = if options.contains("bigtime=0") { "2030" } else { "2040" };
        let linux = LINUX.replace("2040", year);
        lab.run(&format!(
            "mount -o loop fs.img $M; {TREE} {linux}
             mkdir $M/thousands; for i in $(seq 1 3000); do : > $M/thousands/$i-with-a-name-that-takes-room; done
             for i in $(seq 0 900); do echo pwrite -q $((i*8192)) 4096; done | xfs_io -f $M/pieces >/dev/null; umount $M"
        ));
        let guest = open(&[&lab.path("fs.img")]);
        let (ours, faults) = of_guest(&guest, 0);
        assert!(faults.is_empty(), "{options}: {faults:?}");
        assert_same(&ours, &lab.mounted("fs.img", "-o loop,ro"), options);
    }
}

#[test]
fn a_log_that_was_not_written_back_is_read_as_the_kernel_replays_it() {
    if !ready() {
        return;
    }
    for options in ["", "-m bigtime=0", "-i nrext64=0", "-b size=1024", "-l su=32768"] {
        let lab = Lab::new();
        lab.image("fs.img", SIZE);
        lab.run(&format!("mkfs.xfs -q -f {options} fs.img"));
        let year = if options.contains("bigtime=0") { "2030" } else { "2040" };
        let linux = LINUX.replace("2040", year);
        lab.run(&format!(
            r#"mount -o loop fs.img $M; {TREE} sync -f $M
               for i in $(seq 1 300); do mkdir $M/new$i; echo $i > $M/new$i/a; done; rm -r $M/many; sync -f $M
               for i in $(seq 1 300); do head -c 5000 /dev/urandom > $M/again$i; done; {linux}
               for i in $(seq 0 400); do echo pwrite -q $((i*8192)) 4096; done | xfs_io -f $M/pieces >/dev/null; rm -r $M/new1*
               mv $M/d1 $M/moved; sync -f $M; xfs_io -x -c 'shutdown -f' $M; umount $M; cp --sparse=always fs.img replayed.img"#
        ));
        let guest = open(&[&lab.path("fs.img")]);
        let (ours, faults) = of_guest(&guest, 0);
        assert!(faults.is_empty(), "{options}: {faults:?}");
        assert_same(&ours, &lab.mounted("replayed.img", "-o loop"), options);
        assert!(ours.contains_key(b"moved".as_slice()), "{options}: nothing was in the log");
    }
}
