//! The cuts of generated disks, pinned in `testdata/v1/cuts-*.txt`: a change here is a change of the format.
//!
//! `SANCERRE_BLESS=1` writes the lists anew instead of comparing; only ever for a new format version.

use std::fmt::Write;
use std::path::Path;

use super::*;

fn inputs() -> Vec<(&'static str, Vec<u8>)> {
    let files =
        |seed: u64| (0..60).map(move |n| Stretch::File(seed + n, ((seed + n) * 7919 % 400_000) as usize + 1));
    let make = |stretches: Vec<Stretch>| {
        let mut disk = Vec::new();
        stretches.iter().for_each(|stretch| stretch.append_to(&mut disk));
        disk
    };
    let holes = (1..=20).flat_map(|blocks| {
        [Stretch::Random(blocks as u64, 40_960 + blocks * 8192), Stretch::Zeros(blocks * BLOCK_BYTES)]
    });
    let filled = (1..=16).map(|byte| Stretch::Filled(byte * 15, 300_000));
    vec![
        ("random", make(vec![Stretch::Random(1, 8 << 20)])),
        ("files", make(files(100).collect())),
        ("holes", make(holes.collect())),
        ("equal bytes", make(filled.collect())),
        ("zeros, then an odd end", make(vec![Stretch::Zeros(1 << 20), Stretch::Random(2, 333_333)])),
        ("an odd end of zeros", make(vec![Stretch::Random(3, 1 << 20), Stretch::Zeros(5000)])),
        (
            "zeros off the grid",
            make(vec![Stretch::Random(4, 70_001), Stretch::Zeros(1 << 20), Stretch::Random(5, 70_001)]),
        ),
        ("one byte", vec![1]),
    ]
}

fn list(chunker: impl Fn(ProfileSizes) -> Chunker) -> String {
    let kib = |min: u32, target: u32, max: u32| ProfileSizes {
        min_bytes: min << 10,
        target_bytes: target << 10,
        max_bytes: max << 10,
    };
    let mut list = String::from("# z: zeros, d: a chunk; lengths in bytes; cut key 5a x 32\n");
    for sizes in [kib(32, 128, 512), kib(16, 64, 256), kib(4, 16, 128), kib(64, 1024, 4096)] {
        let chunker = chunker(sizes);
        for (name, region) in inputs() {
            let hash = blake3::hash(&region).to_hex();
            writeln!(list, "\n{sizes}: {name}, {} bytes, BLAKE3 {}", region.len(), &hash[..16]).unwrap();
            for piece in pieces(&chunker, &region) {
                let kind = if piece.kind == PieceKind::Zeros { 'z' } else { 'd' };
                write!(list, "{kind}{} ", piece.length_bytes).unwrap();
            }
            list = list.trim_end().to_owned() + "\n";
        }
    }
    list
}

fn compare(file: &str, cuts: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1").join(file);
    if std::env::var_os("SANCERRE_BLESS").is_some() {
        std::fs::write(&path, cuts).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    for (number, (golden, cuts)) in golden.lines().zip(cuts.lines()).enumerate() {
        assert_eq!(
            golden,
            cuts,
            "{}, line {}: cuts moved, old repositories would not deduplicate",
            file,
            number + 1
        );
    }
    assert_eq!(golden.lines().count(), cuts.lines().count(), "{file}");
}

#[test]
fn disk_cuts_are_pinned() {
    compare("cuts-disk.txt", &list(|sizes| Chunker::disk(&KEY, sizes).unwrap()));
}

#[test]
fn stream_cuts_are_pinned() {
    compare("cuts-stream.txt", &list(|sizes| Chunker::stream(&KEY, sizes).unwrap()));
}
