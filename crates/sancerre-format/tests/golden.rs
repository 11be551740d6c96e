//! Golden bytes: what version 1 writes, for ever. And damage: no changed byte of them is ever read as something else.
//!
//! `SANCERRE_BLESS=1` writes missing or changed files; a difference without a new format version is a bug.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "reads files, which the package may not"
)]

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;

use common::samples::{self, FRAMES_TEXT, Sample, Shape};
use sancerre_format::checkpoint::CheckpointState;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{FramePlace, Place};
use sancerre_format::log::Entry;
use sancerre_format::outcome::{Annex, Body, Manifest};
use sancerre_format::record::{self, Unverified};
use sancerre_format::seal::{RootKey, UnitKind, UnitName, open};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/v1")
}

fn bless() -> bool {
    std::env::var_os("SANCERRE_BLESS").is_some_and(|value| value == "1")
}

#[test]
fn every_kind_has_its_golden_bytes() {
    for sample in samples::all() {
        let path = folder().join(&sample.file);
        if bless() {
            std::fs::create_dir_all(folder()).unwrap();
            std::fs::write(&path, &sample.bytes).unwrap();
        }
        let golden = std::fs::read(&path).unwrap_or_else(|error| {
            panic!("{}: {error}: every record kind needs a golden file", path.display())
        });
        assert_eq!(golden, sample.bytes, "{} changed", sample.file);
        assert!(
            (sample.read)(&golden).is_ok(),
            "{} is not readable: {:?}",
            sample.file,
            (sample.read)(&golden)
        );
    }
}

#[test]
fn no_golden_file_is_left_without_a_test() {
    let known: BTreeSet<String> = samples::all().into_iter().map(|sample| sample.file).collect();
    let present = std::fs::read_dir(folder()).unwrap();
    let present: BTreeSet<String> =
        present.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert!(known.is_subset(&present), "missing: {:?}", known.difference(&present));
    // Files of packs, maps, indexes, cuts, seals, file catalogues and boot traces carry these prefixes and are compared by their own tests.
    let foreign = ["pack", "node", "index", "cuts", "seal", "file-catalogue", "boot-trace"];
    let strangers: Vec<_> = present
        .difference(&known)
        .filter(|file| !foreign.iter().any(|kind| file.starts_with(kind)))
        .collect();
    assert!(strangers.is_empty(), "compared by no test: {strangers:?}");
}

/// Every first line that FORMAT.md gives a signed record or a text must stand at the start of a golden file.
#[test]
fn format_md_names_no_kind_without_golden_bytes() {
    let document =
        std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/FORMAT.md"))
            .unwrap();
    let words = document.split(|other: char| !(other.is_ascii_alphanumeric() || other == '-'));
    let named: BTreeSet<&str> =
        words.filter(|word| word.starts_with("sancerre-") && word.ends_with("-v1")).collect();
    let samples = samples::all();
    let mut starts: BTreeSet<String> = samples.iter().map(|sample| first_line(&sample.bytes)).collect();
    starts.extend(["sancerre-frames-v1", "sancerre-gc-v1", "sancerre-state-v1"].map(String::from));
    // Index segments have golden bytes beside their own tests.
    starts.insert("sancerre-index-v1".into());
    // The namespace of a proof in it, and the first line of what that signs.
    starts.insert("sancerre-admin-proof-v1".into());
    // What fills a number of the log verifies as nothing.
    starts.insert("sancerre-lost-v1".into());
    // The texts in notes of the administrator and of keepers; the note has golden bytes.
    starts.extend(["sancerre-repair-v1", "sancerre-suspicion-v1"].map(String::from));
    assert!(named.len() >= 16, "only {named:?}");
    for kind in named {
        assert!(starts.contains(kind), "{kind} has no golden file");
    }
}

fn first_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(record::first_line(bytes)).into_owned()
}

#[test]
fn parts_hold_what_was_meant() {
    let file = |name: &str| std::fs::read(folder().join(name)).unwrap();
    assert_eq!(FrameSet::decode(&file("frames.bin"), u64::MAX).unwrap(), samples::frame_set());
    assert_eq!(GcLists::decode(&file("gc-lists.bin"), u64::MAX).unwrap(), samples::final_lists());
    assert_eq!(CheckpointState::decode(&file("state.bin"), 9).unwrap(), samples::state());
    assert_eq!(Body::decode(&file("body.txt")).unwrap(), common::body());

    let manifest = record::decode::<Manifest>(&common::trust(), &file("manifest.bin")).unwrap();
    assert_eq!(manifest.fields, common::manifest());
    assert_eq!(manifest.tool, common::TOOL);
    assert_eq!(manifest.public().unwrap(), common::stored_zstd(FRAMES_TEXT.as_bytes()));
    let unit = UnitName { kind: UnitKind::Body, session: manifest.fields.session, a: 0, b: 0 };
    let root = RootKey::metadata(&samples::zone_keys().metadata, &unit.session);
    let body = Body::decode(&open(&root, &unit, manifest.sealed().unwrap()).unwrap()).unwrap();
    assert_eq!(body, common::body());
}

/// A line of an annex, and words of a disk that may be ignored: they are there, and what does not read as one is nothing.
#[test]
fn annexes_of_a_snapshot_are_spelled_so_for_ever() {
    let mut body = common::body();
    let frame = FramePlace { frame: common::frame(7, 2, 0), offset_bytes: 560, sealed_bytes: 304 };
    let place = Place { frame, offset_bytes: 48, size_bytes: 139 };
    body.annexes = vec![Annex { topic: common::name("statistics"), place }];
    body.members[0].words.push("x-verdict", "normal").unwrap();
    assert!(body.members[0].words.push("role", "data").is_err(), "that may not be ignored");
    let text = body.encode();
    assert!(text.ends_with("\nx-annex: statistics 7/2/0@560+304:48+139\n"), "{text}");
    assert!(text.contains(" serial=QM00001 x-bus-slot=3 x-verdict=normal\n"), "{text}");
    assert_eq!(Body::decode(text.as_bytes()).unwrap(), body);
    let odd = text.replace("48+139", "48+139+1");
    assert_eq!(Body::decode(odd.as_bytes()).unwrap().annexes, []);
}

fn assert_refused(sample: &Sample, changed: &[u8], how: &dyn std::fmt::Display) {
    let Ok(read) = (sample.read)(changed) else { return };
    match sample.shape {
        Shape::Signed => panic!("{}: read although {how}", sample.file),
        Shape::Text => assert_eq!(read, changed, "{}: two spellings: {how}", sample.file),
        // Its bytes are vouched for by a record; what can be read has one spelling, which `read` went through.
        Shape::Packed => assert!(read.starts_with(b"sancerre-"), "{}: {how}", sample.file),
    }
}

#[test]
fn no_flipped_byte_is_read_as_something_else() {
    for sample in samples::all() {
        let all: Vec<u8> = (1..=255).collect();
        let masks: &[u8] = if sample.file == "config.bin" { &all } else { &[0x01, 0x20, 0x80] };
        let mut changed = sample.bytes.clone();
        for at in 0..changed.len() {
            for mask in masks {
                changed[at] ^= mask;
                assert_refused(&sample, &changed, &format_args!("byte {at} was changed by {mask:#x}"));
                changed[at] ^= mask;
            }
        }
    }
}

#[test]
fn no_truncated_or_extended_object_is_read() {
    for sample in samples::all() {
        for length in 0..sample.bytes.len() {
            let cut = &sample.bytes[..length];
            assert_refused(&sample, cut, &format_args!("cut to {length}"));
        }
        for extra in [0, b'\n', b'a', 0xff] {
            let longer = [sample.bytes.as_slice(), &[extra]].concat();
            assert!((sample.read)(&longer).is_err(), "{}: read with {extra:#x} behind", sample.file);
        }
    }
}

#[test]
fn a_head_alone_is_verified_but_is_no_record() {
    let sample = samples::all().into_iter().find(|sample| sample.file == "log-backup.bin").unwrap();
    let head = Unverified::split(<Entry as record::Fields>::KIND, &sample.bytes).unwrap().head();
    assert!(head.len() < sample.bytes.len());
    let unverified = Unverified::split_head(<Entry as record::Fields>::KIND, &head).unwrap();
    let (fields, signer) = unverified.verify_head::<Entry>(&common::trust()).unwrap();
    assert_eq!((fields.number, signer.name()), (7, "host-1"));
    assert!(record::decode::<Entry>(&common::trust(), &head).is_err());
}
