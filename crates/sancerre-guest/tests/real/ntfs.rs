//! NTFS against ntfs-3g.

use std::sync::Arc;

use sancerre_guest::{Extra, GuestFile, VolumeContent};

use crate::lab::{Lab, MIB, TREE, assert_same, has, is_root, of_guest, open};

fn ready() -> bool {
    has(&["mkntfs", "ntfs-3g", "fusermount3", "setfattr"]) && is_root()
}

/// ntfs-3g makes modes and owners up, and keeps tenths of microseconds.
fn plain(tree: crate::lab::Tree) -> crate::lab::Tree {
    tree.into_iter()
        .map(|(name, mut known)| {
            (known.mode, known.owner) = (None, None);
            (name, known)
        })
        .collect()
}

#[test]
fn every_size_of_clusters_is_read_as_ntfs_3g_reads_it() {
    if !ready() {
        return;
    }
    for (options, sector) in [
        ("-c 512", 512),
        ("-c 1024", 512),
        ("-c 2048", 512),
        ("", 512),
        ("-c 8192", 512),
        ("-c 65536", 512),
        ("-s 4096 -c 4096", 4096),
    ] {
        let lab = Lab::new();
        lab.image("fs.img", 96 * MIB);
        lab.run(&format!("mkntfs -q -Q -F {options} -L Träger fs.img"));
        let script = format!(
            "{TREE} ln \"$M/small\" \"$M/hard\"
             mkdir $M/packed; setfattr -h -v 0x00080000 -n system.ntfs_attrib_be $M/packed 2>/dev/null || true
             setfattr -h -v 0x00000800 -n system.ntfs_attrib_be $M/packed
             for i in 1 2 3; do seq 1 60000 > $M/packed/text$i; head -c 300000 /dev/urandom > $M/packed/noise$i; done
             (head -c 200000 /dev/zero; seq 1 9999; head -c 200000 /dev/zero; echo x) > $M/packed/zeros
             truncate -s 3M $M/packed/hollow; echo -n end >> $M/packed/hollow"
        );
        lab.with_fuse("ntfs-3g -o compression", sector, &script);
        let guest = open(&[&lab.path("fs.img")]);
        let (ours, faults) = of_guest(&guest, 0);
        assert!(faults.is_empty(), "{options}: {faults:?}");
        assert_same(&ours, &plain(lab.by_fuse("ntfs-3g -o ro", sector)), options);
        let VolumeContent::Files(info) = &guest.volumes()[0].content else { panic!() };
        assert_eq!((info.kind.as_str(), info.label.as_slice()), ("NTFS", "Träger".as_bytes()));
    }
}

#[test]
fn streams_links_and_files_in_many_pieces_are_read() {
    if !ready() {
        return;
    }
    let lab = Lab::new();
    lab.image("fs.img", 64 * MIB);
    lab.run("mkntfs -q -Q -F -c 512 fs.img");
    // So many pieces that the record of a file needs others.
    lab.with_fuse(
        "ntfs-3g -o streams_interface=windows",
        512,
        "echo main > $M/a; echo -n beside > $M/a:second
         for i in $(seq 1 1500); do head -c 512 /dev/urandom >> $M/one; head -c 512 /dev/urandom >> $M/two; done
         ln -s a $M/link",
    );
    let guest = open(&[&lab.path("fs.img")]);
    let (ours, faults) = of_guest(&guest, 0);
    assert!(faults.is_empty(), "{faults:?}");
    assert_same(&ours, &plain(lab.by_fuse("ntfs-3g -o ro", 512)), "pieces");
    let VolumeContent::Files(info) = &guest.volumes()[0].content else { panic!() };
    let node = guest.find(0, info.root, b"a").unwrap();
    let extras = guest.extras(0, node.id).unwrap();
    assert_eq!(extras, [Extra::Stream { name: b"second".to_vec(), size_bytes: 6 }]);
    let mut bytes = [0; 6];
    GuestFile::new(Arc::clone(&guest), 0, node.id, b"second", 6).read_at(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"beside");
}
