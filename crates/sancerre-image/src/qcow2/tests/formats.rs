//! Every form that `qemu-img` can give an image.

use super::lab::{KIB, Lab, MIB, assert_same, pattern};
use crate::Disk;

/// Converts one raw disk with each of the option lists and compares.
fn convert_with(size: u64, forms: &[String]) {
    let Some(lab) = Lab::new() else { return };
    let bytes = lab.raw("disk.raw", size, 3);
    let mut made = 0;
    for form in forms {
        let words = format!("convert -f raw -O qcow2 {form} disk.raw disk.qcow2");
        lab.img(&words);
        let expected = lab.compare("disk.qcow2", form);
        assert!(expected[..bytes.len()] == bytes, "{form}");
        std::fs::remove_file(lab.path("disk.qcow2")).unwrap();
        made += 1;
    }
    assert_eq!(made, forms.len());
}

#[test]
fn every_cluster_size_of_both_versions_reads_as_qemu_reads_it() {
    let mut forms = Vec::new();
    for bits in 9..=21 {
        for version in ["0.10", "1.1"] {
            forms.push(format!("-o compat={version},cluster_size={}", 1 << bits));
        }
    }
    convert_with(5 * MIB + 3 * 512, &forms);
}

#[test]
fn compressed_clusters_of_every_size_read_as_qemu_reads_them() {
    let mut forms = Vec::new();
    for bits in 9..=21 {
        for kind in ["compat=0.10", "compression_type=zlib", "compression_type=zstd"] {
            forms.push(format!("-c -o {kind},cluster_size={}", 1 << bits));
        }
    }
    convert_with(5 * MIB + 512, &forms);
}

#[test]
fn subclusters_read_as_qemu_reads_them() {
    let mut forms = Vec::new();
    for bits in 14..=21 {
        for more in ["", " -c", " -c -o compression_type=zstd"] {
            forms.push(format!("-o extended_l2=on,cluster_size={}{more}", 1 << bits));
        }
        forms.push(format!("-o extended_l2=on,preallocation=metadata,cluster_size={}", 1 << bits));
    }
    convert_with(6 * MIB + 512, &forms);
}

#[test]
fn reservations_and_counts_of_every_width_change_nothing() {
    let mut forms = Vec::new();
    for version in ["0.10", "1.1"] {
        for mode in ["off", "metadata", "falloc", "full"] {
            forms.push(format!("-o compat={version},preallocation={mode}"));
        }
    }
    for width in [1, 2, 4, 8, 16, 32, 64] {
        forms.push(format!("-o refcount_bits={width}"));
        forms.push(format!("-o refcount_bits={width},lazy_refcounts=on,cluster_size=4k"));
    }
    convert_with(5 * MIB + 512, &forms);
}

#[test]
fn sizes_that_end_anywhere_come_back() {
    for size in [512, 1024, 4096, 4608, 65_536, 65_536 + 512, 2 * MIB - 512] {
        let forms = ["", "-c", "-o cluster_size=512", "-o cluster_size=2M", "-o cluster_size=2M -c"];
        convert_with(size, &forms.map(str::to_owned));
    }
}

/// QEMU makes disks of whole sectors only; other programs do not.
#[test]
fn a_size_of_no_whole_sector_is_kept_to_the_byte() {
    let Some(lab) = Lab::new() else { return };
    for form in ["", "-c", "-o extended_l2=on"] {
        let bytes = lab.raw("disk.raw", 200 * KIB, 1);
        lab.img(&format!("convert -f raw -O qcow2 {form} disk.raw disk.qcow2"));
        for size in [200 * KIB - 1, 200 * KIB - 511, 130 * KIB + 7, 1, 0] {
            lab.patch("disk.qcow2", 24, &size.to_be_bytes());
            let disk = lab.open("disk.qcow2").unwrap();
            assert_same(&disk, &bytes[..size as usize], &format!("{form} of {size}"));
            assert!(disk.read_at(size, &mut [0]).is_err());
            assert!(disk.data_ranges(0..size + 1).is_err());
        }
    }
}

#[test]
fn writes_zeros_and_discards_in_place_read_as_qemu_reads_them() {
    let Some(lab) = Lab::new() else { return };
    for form in [
        "cluster_size=64k",
        "cluster_size=512",
        "cluster_size=2M",
        "compat=0.10",
        "extended_l2=on,cluster_size=16k",
        "extended_l2=on,cluster_size=128k",
        "extended_l2=on,cluster_size=2M",
    ] {
        lab.img(&format!("create -f qcow2 -o {form} disk.qcow2 9M"));
        lab.io(
            "disk.qcow2",
            &[
                "write -P 1 1k 3k",
                "write -P 2 100k 700k",
                "write -z 200k 130k",
                "write -P 3 210k 512",
                "write -P 4 3M 2M",
                "discard 3200k 300k",
                "write -z -u 4100k 100k",
                "write -P 5 4150k 512",
                "write -P 6 8703k 513k",
            ],
        );
        let expected = lab.compare("disk.qcow2", form);
        assert!(expected.contains(&3) && expected.contains(&6), "{form}");
    }
}

#[test]
fn internal_snapshots_are_no_part_of_the_disk() {
    let Some(lab) = Lab::new() else { return };
    for form in ["cluster_size=64k", "extended_l2=on", "compat=0.10,cluster_size=4k"] {
        lab.img(&format!("create -f qcow2 -o {form} disk.qcow2 5M"));
        lab.io("disk.qcow2", &["write -P 1 0 3M"]);
        lab.img("snapshot -c before disk.qcow2");
        lab.io("disk.qcow2", &["write -P 2 1M 300k", "write -z 2M 64k", "discard 2500k 512k"]);
        lab.img("snapshot -c after disk.qcow2");
        let expected = lab.compare("disk.qcow2", form);
        assert!(expected[MIB as usize] == 2 && expected[0] == 1, "{form}");
    }
}

#[test]
fn what_was_never_written_is_never_read() {
    let Some(lab) = Lab::new() else { return };
    for form in ["preallocation=metadata", "preallocation=metadata,extended_l2=on", "cluster_size=64k"] {
        lab.img(&format!("create -f qcow2 -o {form} disk.qcow2 64M"));
        lab.io("disk.qcow2", &["write -P 1 10M 1M", "write -z 20M 1M"]);
        let disk = lab.open("disk.qcow2").unwrap();
        let found = disk.data_ranges(0..64 * MIB).unwrap();
        assert!(found.len() == 1 && found[0] == (10 * MIB..11 * MIB), "{form}: {found:?}");
        lab.compare("disk.qcow2", form);
    }
}

#[test]
fn ranges_are_clipped_and_whole_inside_any_question() {
    let Some(lab) = Lab::new() else { return };
    let bytes = lab.raw("disk.raw", 3 * MIB, 2);
    lab.img("convert -f raw -O qcow2 -c -o cluster_size=16k disk.raw disk.qcow2");
    let disk = lab.open("disk.qcow2").unwrap();
    for start in (0..3 * MIB).step_by(99_991) {
        let end = (start + 250_007).min(3 * MIB);
        let read = super::lab::by_ranges(&disk, start..end);
        assert!(read == bytes[start as usize..end as usize], "{start}..{end}");
    }
}

#[test]
fn an_image_that_is_written_to_while_it_is_read_is_noticed() {
    let Some(lab) = Lab::new() else { return };
    lab.img("create -f qcow2 -o cluster_size=64k disk.qcow2 5M");
    let disk = lab.open("disk.qcow2").unwrap();
    assert!(disk.check_unchanged().is_ok());
    std::thread::sleep(std::time::Duration::from_millis(50));
    lab.io("disk.qcow2", &["write -P 1 0 64k"]);
    assert!(disk.check_unchanged().is_err());
}

#[test]
fn patterns_differ_by_seed() {
    assert!(pattern(MIB, 1) != pattern(MIB, 2));
}
