//! The fuzzers' targets without a fuzzer: golden bytes of every kind, whole and changed at random, on every target.
//! `cargo xtask fuzz` runs them under one, for as long as wanted.

use std::path::PathBuf;

use sancerre_tests::dice::Dice;
use sancerre_tests::fuzz::{TARGETS, target};

/// Changed inputs for each golden file and target.
const CHANGES: u64 = 60;

fn golden() -> Vec<Vec<u8>> {
    let folders = ["../crates/sancerre-format/testdata/v1", "../crates/sancerre-image/testdata/qcow2"];
    let folders = folders.map(|folder| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder));
    let mut paths: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()))
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// A few small changes of the kinds that fuzzers make.
fn change(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.pick(4) {
        let at = dice.pick(bytes.len());
        match dice.pick(5) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.pick(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 0xff, b'\n', b'9', b' '][dice.pick(5)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, dice.pick(256) as u8),
            _ => {
                let end = (at + dice.pick(40)).min(bytes.len());
                let piece = bytes[at.min(end)..end].to_vec();
                let to = dice.pick(bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
}

#[test]
fn no_parser_panics_on_changed_golden_bytes() {
    let golden = golden();
    assert!(golden.len() > 30);
    let mut dice = Dice::new(1);
    for (name, target) in TARGETS {
        for bytes in &golden {
            for signer in 0..4 {
                // The first byte chooses who signs a record; other targets take the bytes alone.
                target(&[&[signer], bytes.as_slice()].concat());
            }
            target(bytes);
            // The cut lists say nothing to a parser and are long.
            let changes = if bytes.len() > 20_000 { CHANGES / 20 } else { CHANGES };
            for _ in 0..changes {
                let mut changed = if name == "records" { vec![dice.pick(4) as u8] } else { Vec::new() };
                changed.extend_from_slice(bytes);
                change(&mut dice, &mut changed);
                target(&changed);
            }
        }
    }
}

/// What reads disks has seeds of its own: golden bytes of the format say nothing to it.
#[test]
fn no_reader_of_disks_panics_on_changed_seeds() {
    let seeds = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let mut dice = Dice::new(2);
    for name in ["nbd", "change_map", "whole", "serve", "package", "zfs", "thin", "machines"] {
        let paths = std::fs::read_dir(seeds.join(name)).unwrap().map(|entry| entry.unwrap().path());
        let mut seeds: Vec<Vec<u8>> = paths.map(|path| std::fs::read(path).unwrap()).collect();
        seeds.sort();
        assert!(seeds.len() > 2);
        for seed in seeds {
            target(name)(&seed);
            for _ in 0..2000 {
                let mut changed = seed.clone();
                change(&mut dice, &mut changed);
                target(name)(&changed);
            }
        }
    }
}
