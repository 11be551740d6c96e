//! Bitmaps that `qemu-img` made.

use super::lab::{KIB, Lab, MIB};
use crate::{Qcow2Fault, ReadError};

#[test]
fn bitmaps_mark_what_was_written() {
    let Some(lab) = Lab::new() else { return };
    lab.img("create -f qcow2 disk.qcow2 100M");
    lab.img("bitmap --add -g 64k disk.qcow2 coarse");
    lab.img("bitmap --add -g 512 disk.qcow2 fine");
    lab.img("bitmap --add -g 4M --disable disk.qcow2 empty");
    lab.io("disk.qcow2", &["write 1M 1k", "write 50M 300k", "write 102399k 1k"]);
    let disk = lab.open("disk.qcow2").unwrap();
    let bitmaps = disk.bitmaps().unwrap();
    let named = |name: &str| bitmaps.iter().find(|bitmap| bitmap.name == name).unwrap();
    assert_eq!(bitmaps.len(), 3);
    assert_eq!((named("coarse").granularity_bytes, named("fine").granularity_bytes), (64 * KIB, 512));
    assert!(named("fine").is_recording && !named("empty").is_recording);
    assert!(bitmaps.iter().all(|bitmap| !bitmap.is_in_use && !bitmap.is_foreign));

    let ranges = |name: &str, range| disk.bitmap_ranges(named(name), range).unwrap();
    let all = 0..100 * MIB;
    let fine = [MIB..MIB + KIB, 50 * MIB..50 * MIB + 300 * KIB, 100 * MIB - KIB..100 * MIB];
    assert_eq!(ranges("fine", all.clone()), fine);
    let coarse = [MIB..MIB + 64 * KIB, 50 * MIB..50 * MIB + 320 * KIB, 100 * MIB - 64 * KIB..100 * MIB];
    assert_eq!(ranges("coarse", all.clone()), coarse);
    assert_eq!(ranges("empty", all.clone()), []);
    assert_eq!(ranges("coarse", MIB + 5..50 * MIB + 7), [MIB + 5..MIB + 64 * KIB, 50 * MIB..50 * MIB + 7]);
    assert!(matches!(disk.bitmap_ranges(named("fine"), 0..100 * MIB + 1), Err(ReadError::OutOfRange { .. })));
}

#[test]
fn small_clusters_cut_a_bitmap_into_many() {
    let Some(lab) = Lab::new() else { return };
    lab.img("create -f qcow2 -o cluster_size=512 disk.qcow2 64M");
    lab.img("bitmap --add -g 512 disk.qcow2 b");
    lab.io("disk.qcow2", &["write 0 512", "write 2097k 2k", "write 10M 5M", "write 65535k 1k"]);
    let disk = lab.open("disk.qcow2").unwrap();
    let bitmap = &disk.bitmaps().unwrap()[0];
    let expected = [0..512, 2097 * KIB..2099 * KIB, 10 * MIB..15 * MIB, 64 * MIB - KIB..64 * MIB];
    assert_eq!(disk.bitmap_ranges(bitmap, 0..64 * MIB).unwrap(), expected);
    let mut piecewise = Vec::new();
    for start in (0..64 * MIB).step_by(100_003) {
        let part = disk.bitmap_ranges(bitmap, start..(start + 100_003).min(64 * MIB)).unwrap();
        part.into_iter().for_each(|range| super::super::add(&mut piecewise, range));
    }
    assert_eq!(piecewise, expected);
}

/// A bitmap that was not closed lacks the last writes: used as a list of changes it would lose them.
#[test]
fn bitmaps_that_may_lack_changes_are_not_read() {
    let Some(lab) = Lab::new() else { return };
    lab.img("create -f qcow2 disk.qcow2 10M");
    lab.img("bitmap --add disk.qcow2 b");
    let image = lab.read("disk.qcow2");
    let extension = image.windows(4).position(|bytes| bytes == [0x23, 0x85, 0x28, 0x75]).unwrap();
    let directory = u64::from_be_bytes(image[extension + 24..][..8].try_into().unwrap());

    let flags = directory + 12;
    for (flag, word) in [(1u32, "was not closed"), (1 << 5, "makes no sense")] {
        lab.patch("disk.qcow2", flags, &flag.to_be_bytes());
        let disk = lab.open("disk.qcow2").unwrap();
        let result = disk.bitmaps().and_then(|bitmaps| disk.bitmap_ranges(&bitmaps[0], 0..MIB));
        let error = result.unwrap_err();
        assert!(
            matches!(&error, ReadError::Qcow2 { fault, .. } if matches!(**fault, Qcow2Fault::Bitmap { .. }))
        );
        assert!(error.to_string().contains(word), "{error}");
    }
    // QEMU clears this bit when a program that knows no bitmaps wrote to the image.
    lab.write("disk.qcow2", &image);
    lab.patch("disk.qcow2", 88, &[0; 8]);
    assert_eq!(lab.open("disk.qcow2").unwrap().bitmaps().unwrap(), []);
}
