//! Disks far larger than what is in them, and how fast one is read.

use std::cell::RefCell;
use std::time::Instant;

use super::lab::{Lab, MIB, pattern};
use crate::confined::tests::confined_reader;
use crate::{Disk, Qcow2Compression, Qcow2Target, RawTarget, open_raw};

const TIB: u64 = 1 << 40;

#[test]
fn sixteen_tebibytes_with_little_data_are_listed_in_milliseconds() {
    let Some(lab) = Lab::new() else { return };
    lab.img("create -f qcow2 disk.qcow2 16T");
    let places = [0, 3 * TIB + 5 * MIB, 9 * TIB, 16 * TIB - MIB];
    let writes = places.map(|at| format!("write -P 3 {at} 1M"));
    lab.io("disk.qcow2", &writes.each_ref().map(String::as_str));
    let started = Instant::now();
    let disk = lab.open("disk.qcow2").unwrap();
    let found = disk.data_ranges(0..16 * TIB).unwrap();
    let took = started.elapsed();
    assert_eq!(found, places.map(|at| at..at + MIB));
    assert!(took.as_millis() < 500, "{took:?}");
    let mut bytes = vec![0; 3 << 20];
    disk.read_at(9 * TIB - MIB, &mut bytes).unwrap();
    assert!(
        bytes[..1 << 20].iter().all(|byte| *byte == 0)
            && bytes[1 << 20..2 << 20].iter().all(|byte| *byte == 3)
    );
}

/// The largest first table there can be, and chains of such.
#[test]
fn data_is_found_in_exbibytes_at_once() {
    let Some(lab) = Lab::new() else { return };
    let size = 1 << 61;
    lab.img("create -f qcow2 -o cluster_size=2M base.qcow2 2E");
    let places = [0, 1 << 60, size - 2 * MIB];
    let writes = places.map(|at| format!("write -P 3 {at} 2M"));
    lab.io("base.qcow2", &writes.each_ref().map(String::as_str));
    lab.img("create -f qcow2 -o cluster_size=2M -b base.qcow2 -F qcow2 over.qcow2");
    let started = Instant::now();
    let confined = confined_reader();
    for name in ["base.qcow2", "over.qcow2"] {
        let (own, child) = (
            lab.open_with_others(name).unwrap(),
            confined.open_qcow2(&lab.path(name), Some(&lab.references())),
        );
        let child = child.unwrap();
        for disk in [&own as &dyn Disk, &child] {
            let mut found = Vec::new();
            let mut at = 0;
            // It may stop early.
            while let Some(next) = disk.next_data(at).unwrap() {
                at = if next > at || next == 0 { next } else { panic!("{name}: no way on from {at}") };
                if !disk.data_ranges(at..at + 512).unwrap().is_empty() {
                    found.push(at);
                    at += 2 * MIB;
                }
            }
            assert_eq!(found, places, "{name}");
        }
    }
    let took = started.elapsed();
    // Entry by entry, with a look at each, it would be days; another program may have the processors now.
    assert!(took.as_secs() < 60, "{took:?}");
}

/// Run with `cargo test --release -p sancerre-image -- --ignored --nocapture speed_of`.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn speed_of_sequential_reading_against_raw() {
    let Some(lab) = Lab::new() else { return };
    let piece = pattern(64 * MIB, 1);
    let bytes = piece.repeat(16);
    lab.write("disk.raw", &bytes);
    let size = bytes.len() as u64;
    drop(bytes);
    let raw = open_raw(&lab.path("disk.raw")).unwrap();
    for form in ["-S 0", "", "-o cluster_size=2M", "-o extended_l2=on", "-c", "-c -o compression_type=zstd"] {
        lab.img(&format!("convert -f raw -O qcow2 {form} disk.raw disk.qcow2"));
        let disk = lab.open("disk.qcow2").unwrap();
        let confined = confined_reader().open_qcow2(&lab.path("disk.qcow2"), None).unwrap();
        let (mut raw_best, mut best, mut confined_best) = (f64::MAX, f64::MAX, f64::MAX);
        // In turns, because other programs run as well.
        for _ in 0..7 {
            raw_best = raw_best.min(seconds(&raw, size));
            best = best.min(seconds(&disk, size));
            confined_best = confined_best.min(seconds(&confined, size));
        }
        println!(
            "{form:32} raw {:5.0} MB/s; of it in this process {:.2}, through a child {:.2}",
            size as f64 / 1e6 / raw_best,
            raw_best / best,
            raw_best / confined_best
        );
    }
}

/// Of reading all, as a backup does it, with one thread.
fn seconds(disk: &dyn Disk, size: u64) -> f64 {
    let started = Instant::now();
    let mut buffer = vec![0; 2 << 20];
    for at in (0..size).step_by(buffer.len()) {
        disk.read_at(at, &mut buffer).unwrap();
    }
    started.elapsed().as_secs_f64()
}

/// Run with `cargo test --release -p sancerre-image -- --ignored --nocapture speed_of`.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn speed_of_writing_against_raw() {
    let Some(lab) = Lab::new() else { return };
    let bytes = pattern(512 * MIB, 1);
    let path = lab.path("new");
    let timed = |write: &dyn Fn(u64, &[u8]), finish: &dyn Fn()| {
        let started = Instant::now();
        // As a restore does: in order, and by cuts that lie anywhere.
        bytes.chunks(300_007).enumerate().for_each(|(number, piece)| write(number as u64 * 300_007, piece));
        finish();
        bytes.len() as f64 / 1e6 / started.elapsed().as_secs_f64()
    };
    let raw = || {
        let target = RawTarget::create(&path, bytes.len() as u64, true).unwrap();
        let target = RefCell::new(Some(target));
        let write = |at, piece: &[u8]| target.borrow().as_ref().unwrap().write_at(at, piece).unwrap();
        timed(&write, &|| target.take().unwrap().finish().unwrap())
    };
    for kind in [Qcow2Compression::None, Qcow2Compression::Zstd, Qcow2Compression::Zlib] {
        let target = Qcow2Target::create(&path, bytes.len() as u64, true, kind).unwrap();
        let target = RefCell::new(Some(target));
        let write = |at, piece: &[u8]| target.borrow().as_ref().unwrap().write_at(at, piece).unwrap();
        let rate = timed(&write, &|| target.take().unwrap().finish().unwrap());
        println!("{kind:?}: {rate:.0} MB/s, raw {:.0}", raw());
    }
}
