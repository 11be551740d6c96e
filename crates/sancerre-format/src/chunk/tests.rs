//! Cuts are pinned by golden lists, belong to the bytes, and do not depend on windows.

use proptest::prelude::*;

use super::*;
use crate::config::Layout;

mod golden;

const KEY: [u8; 32] = [0x5a; 32];
/// Small, so that a property test sees many chunks; the target is enough blocks for cuts to be a matter of chance.
const SMALL: ProfileSizes = ProfileSizes { min_bytes: 8 << 10, target_bytes: 32 << 10, max_bytes: 128 << 10 };

fn both(sizes: ProfileSizes) -> [Chunker; 2] {
    [Chunker::disk(&KEY, sizes).unwrap(), Chunker::stream(&KEY, sizes).unwrap()]
}

/// Xorshift64 (Marsaglia): the same bytes everywhere and for ever.
fn random_bytes(seed: u64, length_bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length_bytes + 8);
    while bytes.len() < length_bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length_bytes);
    bytes
}

/// Pieces of `region` through windows of `window_bytes`, adjacent zeros joined.
fn pieces_through(chunker: &Chunker, region: &[u8], mut window_bytes: impl FnMut() -> usize) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut rest = region;
    while !rest.is_empty() {
        let piece = chunker.next_piece(&rest[..rest.len().min(window_bytes())]).unwrap();
        assert!(piece.length_bytes > 0);
        rest = &rest[piece.length_bytes..];
        match pieces.last_mut() {
            Some(last) if last.kind == PieceKind::Zeros && piece.kind == PieceKind::Zeros => {
                last.length_bytes += piece.length_bytes;
            }
            _ => pieces.push(piece),
        }
    }
    pieces
}

fn pieces(chunker: &Chunker, region: &[u8]) -> Vec<Piece> {
    pieces_through(chunker, region, || region.len())
}

/// Ends of pieces, from the region's start.
fn ends(pieces: &[Piece]) -> Vec<usize> {
    pieces
        .iter()
        .scan(0, |end, piece| {
            *end += piece.length_bytes;
            Some(*end)
        })
        .collect()
}

/// One stretch of a made-up disk.
#[derive(Debug, Clone)]
enum Stretch {
    Zeros(usize),
    /// Equal bytes.
    Filled(u8, usize),
    Random(u64, usize),
    /// A file: random bytes, then zeros to the end of its last block.
    File(u64, usize),
}

impl Stretch {
    fn append_to(&self, disk: &mut Vec<u8>) {
        match *self {
            Self::Zeros(length) => disk.resize(disk.len() + length, 0),
            Self::Filled(byte, length) => disk.resize(disk.len() + length, byte),
            Self::Random(seed, length) => disk.extend(random_bytes(seed, length)),
            Self::File(seed, length) => {
                disk.extend(random_bytes(seed, length));
                disk.resize(disk.len().next_multiple_of(BLOCK_BYTES), 0);
            }
        }
    }
}

/// Disks of up to 12 stretches, mostly on the grid, some ending off it.
fn disk() -> impl Strategy<Value = Vec<u8>> {
    let blocks = |most: usize| (1..=most).prop_map(|blocks| blocks * BLOCK_BYTES);
    let stretch = prop_oneof![
        blocks(20).prop_map(Stretch::Zeros),
        (1..=40_000_usize).prop_map(Stretch::Zeros),
        (1..=255_u8, blocks(30)).prop_map(|(byte, length)| Stretch::Filled(byte, length)),
        (any::<u64>(), blocks(40)).prop_map(|(seed, length)| Stretch::Random(seed, length)),
        (any::<u64>(), 1..=50_000_usize).prop_map(|(seed, length)| Stretch::File(seed, length)),
    ];
    prop::collection::vec(stretch, 0..12).prop_map(|stretches| {
        let mut disk = Vec::new();
        stretches.iter().for_each(|stretch| stretch.append_to(&mut disk));
        disk
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn windows_do_not_matter(region in disk(), extra in prop::collection::vec(0..70_000_usize, 1..8)) {
        for chunker in both(SMALL) {
            let mut extra = extra.iter().cycle();
            let windowed = pieces_through(&chunker, &region, || chunker.window_bytes() + extra.next().unwrap());
            prop_assert_eq!(windowed, pieces(&chunker, &region));
        }
    }

    #[test]
    fn pieces_are_what_they_say(region in disk()) {
        let [disk, stream] = both(SMALL);
        let mut start = 0;
        for piece in pieces(&disk, &region) {
            let bytes = &region[start..start + piece.length_bytes];
            check_disk_piece(piece, bytes, &region[start + bytes.len()..]);
            start += bytes.len();
        }
        prop_assert_eq!(start, region.len());
        let mut start = 0;
        for piece in pieces(&stream, &region) {
            let bytes = &region[start..start + piece.length_bytes];
            prop_assert_eq!(piece.kind == PieceKind::Zeros, is_zero(&bytes[..bytes.len().min(BLOCK_BYTES)]));
            prop_assert!(piece.kind == PieceKind::Data || is_zero(bytes));
            prop_assert!(piece.kind == PieceKind::Zeros || bytes.len() <= stream.window_bytes());
            start += bytes.len();
        }
        prop_assert_eq!(start, region.len());
    }

    /// `confirms` is exact for every chunk and whatever follows it.
    #[test]
    fn confirms_says_what_cutting_would(region in disk(), follows in disk()) {
        for chunker in both(SMALL) {
            let mut start = 0;
            for piece in pieces(&chunker, &region) {
                let end = start + piece.length_bytes;
                if piece.kind == PieceKind::Data {
                    prop_assert!(chunker.confirms(&region[start..], piece.length_bytes));
                    let changed = [&region[start..end], &follows].concat();
                    let cut_again = chunker.next_piece(&changed) == Some(piece);
                    prop_assert_eq!(chunker.confirms(&changed, piece.length_bytes), cut_again);
                }
                start = end;
            }
        }
    }

    /// Only zeros or the end may change where a chunk ends, if its own bytes stay.
    #[test]
    fn data_that_follows_never_moves_a_cut(region in disk(), seed in any::<u64>(), other in any::<u64>()) {
        let chunker = Chunker::disk(&KEY, SMALL).unwrap();
        let extend = |seed| [region.as_slice(), &random_bytes(seed, 256 << 10)].concat();
        prop_assume!(region.len().is_multiple_of(BLOCK_BYTES));
        let (one, two) = (ends(&pieces(&chunker, &extend(seed))), ends(&pieces(&chunker, &extend(other))));
        let inside = |ends: &[usize]| ends.iter().copied().filter(|end| *end < region.len()).collect::<Vec<_>>();
        prop_assert_eq!(inside(&one), inside(&two));
    }

    /// A dirty range leaves all cuts before it, and all cuts after the first that both have.
    #[test]
    fn a_dirty_range_rejoins_the_old_cuts(
        seed in any::<u64>(), at in 0..400_usize, blocks in 1..40_usize, with in disk()
    ) {
        let old = random_bytes(seed, 2 << 20);
        let mut new = old.clone();
        let dirty = at * BLOCK_BYTES..(at + blocks) * BLOCK_BYTES;
        for (byte, other) in new[dirty.clone()].iter_mut().zip(with.iter().chain(std::iter::repeat(&0))) {
            *byte = *other;
        }
        for chunker in both(SMALL) {
            let (old_ends, new_ends) = (ends(&pieces(&chunker, &old)), ends(&pieces(&chunker, &new)));
            let rejoined = new_ends.iter().find(|end| **end >= dirty.end && old_ends.contains(end)).unwrap();
            let after = |ends: &[usize]| ends.iter().copied().filter(|end| end >= rejoined).collect::<Vec<_>>();
            prop_assert_eq!(after(&old_ends), after(&new_ends));
            prop_assert!(rejoined - dirty.end <= 8 * chunker.window_bytes(), "rejoined after {} bytes", rejoined - dirty.end);
        }
    }
}

fn check_disk_piece(piece: Piece, bytes: &[u8], next: &[u8]) {
    let at_end = next.is_empty();
    assert!(at_end || bytes.len().is_multiple_of(BLOCK_BYTES), "off the grid");
    let blocks: Vec<bool> = bytes.chunks(BLOCK_BYTES).map(is_zero).collect();
    if piece.kind == PieceKind::Zeros {
        assert!(blocks.iter().all(|zero| *zero));
        return;
    }
    assert!(bytes.len() <= 128 << 10);
    assert!(!blocks[0] && !blocks[blocks.len() - 1], "a chunk's edge is zeros");
    assert!(!blocks.windows(4).any(|run| run.iter().all(|zero| *zero)), "a hole inside a chunk");
    let hole = is_zero(&next[..next.len().min(BLOCK_BYTES)]);
    assert!(bytes.len() >= 8 << 10 || at_end || hole, "shorter than the minimum, and data follows");
}

#[test]
fn a_file_keeps_its_chunks_wherever_it_moves() {
    let chunker = Chunker::disk(&KEY, Layout::default().disk).unwrap();
    let disk = |before: usize| {
        let mut disk = Vec::new();
        Stretch::File(before as u64, before).append_to(&mut disk);
        let start = disk.len();
        Stretch::File(1, 700_001).append_to(&mut disk);
        let end = disk.len();
        disk.extend(random_bytes(before as u64 + 1, 300_000));
        let ends = ends(&pieces(&chunker, &disk));
        assert!(ends.contains(&start) && ends.contains(&end), "both ends of the file are cuts");
        ends.iter().filter(|cut| (start..=end).contains(cut)).map(|cut| cut - start).collect::<Vec<_>>()
    };
    assert_eq!(disk(100_001), disk(1_234_567));
}

#[test]
fn a_stream_rejoins_after_an_insertion() {
    let chunker = Chunker::stream(&KEY, SMALL).unwrap();
    let old = random_bytes(3, 4 << 20);
    let new = [&old[..1_000_001], b"seventeen bytes..", &old[1_000_001..]].concat();
    let (old_ends, new_ends) = (ends(&pieces(&chunker, &old)), ends(&pieces(&chunker, &new)));
    let moved: Vec<usize> = new_ends.iter().filter(|end| **end > 1_000_018).map(|end| end - 17).collect();
    let rejoined = moved.iter().position(|end| old_ends.contains(end)).unwrap();
    assert!(rejoined < 8, "after {rejoined} chunks");
    assert!(moved[rejoined..].iter().all(|end| old_ends.contains(end)));
}

#[test]
fn cuts_depend_on_the_key() {
    let data = random_bytes(5, 4 << 20);
    let other = [0x5b; 32];
    let others = [Chunker::disk(&other, SMALL).unwrap(), Chunker::stream(&other, SMALL).unwrap()];
    for (chunker, other) in both(SMALL).iter().zip(&others) {
        let (one, two) = (ends(&pieces(chunker, &data)), ends(&pieces(other, &data)));
        let shared = one.iter().filter(|end| two.contains(end)).count();
        assert!(shared < one.len() / 2, "{shared} of {} cuts are the same", one.len());
    }
}

#[test]
fn random_data_is_cut_near_the_target() {
    let data = random_bytes(7, 24 << 20);
    let layout = Layout::default();
    let chunkers = [Chunker::disk(&KEY, layout.disk).unwrap(), Chunker::stream(&KEY, layout.stream).unwrap()];
    for (chunker, target) in chunkers.iter().zip([layout.disk.target_bytes, layout.stream.target_bytes]) {
        let mean = data.len() / pieces(chunker, &data).len();
        let target = target as usize;
        assert!((target / 2..target * 2).contains(&mean), "mean {mean}, target {target}");
    }
}

#[test]
fn a_disk_that_grew_inside_its_last_block_is_cut_anew() {
    let chunker = Chunker::disk(&KEY, SMALL).unwrap();
    let short = random_bytes(9, 5000);
    assert_eq!(chunker.next_piece(&short), Some(Piece::data(5000)));
    assert!(chunker.confirms(&short, 5000));
    let grown = [short.as_slice(), &[0; 3192]].concat();
    assert_eq!(chunker.next_piece(&grown), Some(Piece::data(8192)));
    assert!(!chunker.confirms(&grown, 5000));
    assert!(!chunker.confirms(&short, 5001), "longer than the window");
    assert!(!chunker.confirms(&short, 0));
}

#[test]
fn an_empty_window_has_no_piece() {
    assert!(both(SMALL).iter().all(|chunker| chunker.next_piece(&[]).is_none()));
}

#[test]
fn zero_test_finds_any_byte() {
    for length in 0..300 {
        let mut bytes = vec![0; length];
        assert!(is_zero(&bytes));
        for at in 0..length {
            bytes[at] = 1 << (at % 8);
            assert!(!is_zero(&bytes), "byte {at} of {length}");
            bytes[at] = 0;
        }
    }
}

#[test]
fn sizes_out_of_bounds_are_refused() {
    let sizes = |min_bytes, target_bytes, max_bytes| ProfileSizes { min_bytes, target_bytes, max_bytes };
    let kib = 1 << 10;
    for bad in [
        sizes(0, 0, 0),
        sizes(2 * kib, 16 * kib, 64 * kib),
        sizes(12 * kib, 16 * kib, 64 * kib),
        sizes(32 * kib, 16 * kib, 64 * kib),
        sizes(8 * kib, 128 * kib, 64 * kib),
        sizes(8 * kib, 16 * kib, 32 << 20),
    ] {
        assert!(Chunker::disk(&KEY, bad).is_err(), "{bad}");
        assert!(Chunker::stream(&KEY, bad).is_err(), "{bad}");
    }
    assert!(Chunker::stream(&KEY, sizes(2 << 20, 2 << 20, 2 << 20)).is_err());
    assert!(Chunker::disk(&KEY, sizes(4 * kib, 4 * kib, 4 * kib)).is_ok());
}
