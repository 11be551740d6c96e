//! Images that were written here, in every order, compared with what QEMU and the reader see in them.

use std::fs;
use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;

use super::*;
use crate::Qcow2Disk;
use crate::qcow2::lab::{Lab, MIB, assert_same, pattern};

const KINDS: [Qcow2Compression; 3] = [Qcow2Compression::None, Qcow2Compression::Zlib, Qcow2Compression::Zstd];

/// A finished image is sound for QEMU, and the same disk for QEMU and for the reader.
fn assert_image(lab: &Lab, name: &str, expected: &[u8]) -> Qcow2Disk {
    let checked = lab.img(&format!("check -f qcow2 {name}"));
    assert!(checked.contains("No errors were found"), "{checked}");
    let mut whole = expected.to_vec();
    whole.resize(expected.len().next_multiple_of(512), 0);
    lab.write("expected.raw", &whole);
    lab.img(&format!("compare -f raw -F qcow2 expected.raw {name}"));
    let disk = lab.open(name).unwrap();
    assert_same(&disk, &whole, name);
    disk
}

fn create(lab: &Lab, size: u64, kind: Qcow2Compression) -> Qcow2Target {
    Qcow2Target::create(&lab.path("new.qcow2"), size, true, kind).unwrap()
}

#[test]
fn a_disk_written_in_order_is_the_same_for_qemu() {
    let Some(lab) = Lab::new() else { return };
    for kind in KINDS {
        for size in [0, 1, 511, 65_536, 5 * MIB + 1000] {
            let bytes = pattern(size, 8);
            let target = create(&lab, size, kind);
            assert_eq!(target.surplus_bytes(), size.next_multiple_of(512) - size);
            for (number, piece) in bytes.chunks(100_000).enumerate() {
                target.write_at(number as u64 * 100_000, piece).unwrap();
            }
            target.finish().unwrap();
            assert_image(&lab, "new.qcow2", &bytes);
        }
    }
}

#[test]
fn many_threads_write_pieces_that_share_clusters() {
    let Some(lab) = Lab::new() else { return };
    let size = 24 * MIB + 77;
    let bytes = pattern(size, 2);
    for kind in KINDS {
        let target = create(&lab, size, kind);
        std::thread::scope(|scope| {
            for thread in 0..4usize {
                let (target, bytes) = (&target, &bytes);
                scope.spawn(move || {
                    let pieces: Vec<_> = bytes.chunks(9_973).enumerate().skip(thread).step_by(4).collect();
                    let (front, back) = pieces.split_at(pieces.len() / 2);
                    for (number, piece) in back.iter().rev().chain(front) {
                        let at = *number as u64 * 9_973;
                        match piece.iter().all(|byte| *byte == 0) {
                            true => target.zero(at..at + piece.len() as u64).unwrap(),
                            false => target.write_at(at, piece).unwrap(),
                        }
                    }
                });
            }
        });
        target.finish().unwrap();
        assert_image(&lab, "new.qcow2", &bytes);
    }
}

/// More clusters are begun than are held in memory.
#[test]
fn an_unlucky_order_costs_compression_and_no_byte() {
    let Some(lab) = Lab::new() else { return };
    let size = 60 * MIB;
    let bytes = pattern(size, 4);
    let target = create(&lab, size, Qcow2Compression::Zstd);
    for half in [1, 0] {
        for start in (0..size).step_by(65_536) {
            let at = start + half * 32_768;
            target.write_at(at, &bytes[at as usize..][..32_768]).unwrap();
        }
    }
    target.finish().unwrap();
    assert_image(&lab, "new.qcow2", &bytes);
}

#[test]
fn what_is_written_again_replaces_what_was_there() {
    let Some(lab) = Lab::new() else { return };
    for kind in KINDS {
        let mut bytes = vec![1; 300_000];
        let target = create(&lab, 300_000, kind);
        target.write_at(0, &bytes).unwrap();
        for (at, length, byte) in
            [(0usize, 65_536, 2u8), (70_000, 10, 3), (65_000, 140_000, 4), (70_005, 1, 5)]
        {
            let piece = vec![byte; length];
            target.write_at(at as u64, &piece).unwrap();
            bytes[at..at + length].copy_from_slice(&piece);
        }
        target.finish().unwrap();
        assert_image(&lab, "new.qcow2", &bytes);
    }
}

#[test]
fn a_large_disk_with_little_in_it_is_a_small_file() {
    let Some(lab) = Lab::new() else { return };
    const TIB: u64 = 1 << 40;
    for kind in KINDS {
        let target = create(&lab, 16 * TIB, kind);
        let places = [0, 5 * TIB + 123, 16 * TIB - MIB];
        places.iter().for_each(|at| target.write_at(*at, &pattern(MIB, 1)).unwrap());
        target.zero(MIB..5 * TIB + 123).unwrap();
        target.finish().unwrap();
        let file = fs::metadata(lab.path("new.qcow2")).unwrap();
        assert!(file.len() < 6 * MIB && file.blocks() * 512 < 6 * MIB, "{} bytes", file.len());
        assert!(lab.img("check -f qcow2 new.qcow2").contains("No errors"));
        let disk = lab.open("new.qcow2").unwrap();
        let mut bytes = vec![0; 1 << 20];
        for at in places {
            crate::Disk::read_at(&disk, at, &mut bytes).unwrap();
            assert!(bytes == pattern(MIB, 1), "{kind:?} at {at}");
        }
    }
}

#[test]
fn what_is_compressible_takes_less_room() {
    let Some(lab) = Lab::new() else { return };
    let bytes: Vec<u8> = (0..8 * MIB).map(|at| (at / 1000) as u8).collect();
    let mut sizes = Vec::new();
    for kind in KINDS {
        let target = create(&lab, 8 * MIB, kind);
        bytes
            .chunks(50_000)
            .enumerate()
            .for_each(|(n, piece)| target.write_at(n as u64 * 50_000, piece).unwrap());
        target.finish().unwrap();
        assert_image(&lab, "new.qcow2", &bytes);
        sizes.push(fs::metadata(lab.path("new.qcow2")).unwrap().len());
    }
    assert!(sizes[1] * 8 < sizes[0] && sizes[2] * 8 < sizes[0], "{sizes:?}");
}

/// A restored machine is started: QEMU writes into what is compressed, shared, and not there.
#[test]
fn qemu_goes_on_with_an_image_that_was_written_here() {
    let Some(lab) = Lab::new() else { return };
    for kind in KINDS {
        let bytes = pattern(6 * MIB, 6);
        let target = create(&lab, 6 * MIB, kind);
        bytes
            .chunks(77_777)
            .enumerate()
            .for_each(|(n, piece)| target.write_at(n as u64 * 77_777, piece).unwrap());
        target.finish().unwrap();
        lab.io(
            "new.qcow2",
            &["write -P 1 100k 300k", "write -P 2 2M 1k", "discard 3M 1M", "write -P 3 5M 1M"],
        );
        lab.img("snapshot -c one new.qcow2");
        lab.img("bitmap --add new.qcow2 nightly");
        lab.io("new.qcow2", &["write -P 4 110k 3M"]);
        assert!(lab.img("check -f qcow2 new.qcow2").contains("No errors"));
        lab.compare("new.qcow2", &format!("{kind:?}"));
        let disk = lab.open("new.qcow2").unwrap();
        assert_eq!(disk.bitmaps().unwrap().len(), 1);
    }
}

#[test]
fn an_image_has_its_name_only_when_it_is_whole() {
    let Some(lab) = Lab::new() else { return };
    let path = lab.path("vm.qcow2");
    let target = Qcow2Target::create(&path, MIB, false, Qcow2Compression::None).unwrap();
    target.write_at(0, &[1; 1000]).unwrap();
    assert!(!path.exists() && target.path().ends_with("vm.qcow2.sancerre-partial"));
    // What a killed restore leaves is no image.
    fs::copy(target.path(), lab.path("left.qcow2")).unwrap();
    assert!(lab.open("left.qcow2").is_err() && lab.try_img("info -f qcow2 left.qcow2").is_err());
    target.finish().unwrap();
    assert!(path.exists());
    let refused = Qcow2Target::create(&path, MIB, false, Qcow2Compression::None).unwrap_err();
    assert!(matches!(refused, TargetError::Exists { .. }), "{refused}");
    let given_up = Qcow2Target::create(&path, MIB, true, Qcow2Compression::Zlib).unwrap();
    let left = given_up.path().to_owned();
    given_up.abandon().unwrap();
    assert!(!left.exists() && path.exists());
}

#[test]
fn what_cannot_be_an_image_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let create = |size| Qcow2Target::create(&lab.path("x"), size, false, Qcow2Compression::None);
    assert!(matches!(create(u64::MAX).unwrap_err(), TargetError::BeyondFormat { .. }));
    assert!(matches!(create((1 << 51) + 1).unwrap_err(), TargetError::BeyondFormat { .. }));
    let target = create(1000).unwrap();
    for (at, length) in [(1000, 1), (0, 1001), (u64::MAX, 1)] {
        assert!(matches!(target.write_at(at, &vec![1; length]), Err(TargetError::OutOfRange { .. })));
    }
    assert!(matches!(target.zero(0..1001), Err(TargetError::OutOfRange { .. })));
    lab.write("disk.raw", &vec![0; 1 << 20]);
    let Some(device) = crate::testing::LoopDevice::attach(&lab.path("disk.raw")) else { return };
    let refused = Qcow2Target::create(device.path(), MIB, true, Qcow2Compression::None).unwrap_err();
    assert!(refused.to_string().contains("restore the disk raw"), "{refused}");
}

#[test]
fn a_full_file_system_is_told() {
    let Some(lab) = Lab::new() else { return };
    lab.write("small.raw", &vec![0; 8 << 20]);
    let Some(device) = crate::testing::LoopDevice::attach(&lab.path("small.raw")) else { return };
    fs::create_dir(lab.path("mnt")).unwrap();
    let Some(_mount) = crate::testing::Mount::ext4(device.path(), &lab.path("mnt")) else { return };
    for kind in KINDS {
        let target = Qcow2Target::create(&lab.path("mnt/x"), 64 * MIB, true, kind).unwrap();
        // Nothing compresses this.
        let bytes: Vec<u8> = (0..4 * MIB)
            .flat_map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 17).to_be_bytes())
            .collect();
        let failed = bytes
            .chunks(1 << 20)
            .enumerate()
            .try_for_each(|(n, piece)| target.write_at(n as u64 * MIB, piece));
        let error = failed.unwrap_err();
        assert!(matches!(error, TargetError::NoSpace { .. }), "{kind:?}: {error}");
        let error = target.finish().unwrap_err();
        assert!(error.to_string().contains("an earlier write to it failed"), "{error}");
        assert!(!lab.path("mnt/x").exists());
        fs::remove_file(lab.path("mnt/x.sancerre-partial")).unwrap();
    }
}

/// A step of a restore: where, how long, and of what.
type Step = (u64, usize, u8);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever is written where, in which order: QEMU finds no error, and all three see the same disk.
    #[test]
    fn any_image_that_is_written_reads_back_equal(
        size in 1u64..3_000_000,
        kind in 0usize..3,
        steps in prop::collection::vec((any::<u64>(), 1usize..300_000, any::<u8>()), 0..14),
    ) {
        let Some(lab) = Lab::new() else { return Ok(()) };
        let mut model = vec![0u8; size as usize];
        let target = create(&lab, size, KINDS[kind]);
        for step in &steps {
            write(&target, &mut model, step);
        }
        target.finish().unwrap();
        assert_image(&lab, "new.qcow2", &model);
    }
}

fn write(target: &Qcow2Target, model: &mut [u8], (at, length, byte): &Step) {
    let at = (*at % model.len() as u64) as usize;
    let end = (at + length).min(model.len());
    let piece: Vec<u8> = match byte % 3 {
        0 => vec![*byte; end - at],
        1 => pattern((end - at) as u64, u64::from(*byte)),
        _ => (at..end).map(|place| (place / 97) as u8 ^ byte).collect(),
    };
    target.write_at(at as u64, &piece).unwrap();
    model[at..end].copy_from_slice(&piece);
}
