//! Catalogues as they are written and read, and what two nights share.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::chunk::{Chunker, PieceKind};
use crate::golden;

type Tree = BTreeMap<Vec<u8>, Vec<CataloguedFile>>;

/// Pieces of a catalogue, as a reader meets them.
fn pieces(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut rest, mut found) = (bytes, Vec::new());
    while rest.len() >= PIECE_HEAD_BYTES {
        let Some(length) = CataloguePiece::length(rest).unwrap() else { break };
        let (piece, behind) = rest.split_at(length);
        found.push(piece);
        rest = behind;
    }
    assert!(rest.iter().all(|byte| *byte == 0), "what follows the end");
    found
}

fn write(tree: &Tree, region_bytes: u32) -> Vec<u8> {
    let mut writer = CatalogueWriter::new(&["sda".to_owned(), "sdb".to_owned()], region_bytes).unwrap();
    let volume = CataloguedVolume {
        disk: "sda".to_owned(),
        name: "p1".to_owned(),
        content: "ext4".to_owned(),
        mount: b"/".to_vec(),
        folds: false,
        has_names: true,
    };
    writer.volume(&volume).unwrap();
    let mut folders: Vec<_> = tree.iter().collect();
    folders.sort_by(|(one, _), (other, _)| names::path_order(one, other));
    for (path, files) in folders {
        writer.folder(&CataloguedFolder { path: path.clone(), id: 2, is_partial: false }, files).unwrap();
    }
    writer.fault("one block of a folder");
    writer.end().unwrap();
    writer.take()
}

fn read(bytes: &[u8]) -> Tree {
    let mut tree = Tree::new();
    for piece in pieces(bytes) {
        if let CataloguePiece::Names(names) = CataloguePiece::decode(piece).unwrap() {
            names
                .each(&mut |folder, file| tree.entry(folder.path.clone()).or_default().push(file.clone()))
                .unwrap();
        }
    }
    tree
}

fn file(name: &str, id: u64) -> CataloguedFile {
    let place = SpotPlace::Disk { disk: 0, offset: id * 4096 };
    CataloguedFile {
        name: name.as_bytes().to_vec(),
        id,
        kind: 0,
        size_bytes: 1000,
        mode: Some(0o644),
        owner: Some((1000, 1000)),
        modified: Some((1_790_000_000 + i64::try_from(id).unwrap(), 5)),
        spots: Some(vec![FileSpot { length_bytes: 1000, place }]),
    }
}

/// A server's tree: so many folders of so many files.
fn server(folders: u64, files: u64) -> Tree {
    let folder = |number: u64| format!("srv/{}/{}", number % 17, number).into_bytes();
    let names =
        |number: u64| (0..files).map(move |at| file(&format!("letter-{at:05}.doc"), number * files + at));
    (0..folders).map(|number| (folder(number), names(number).collect())).collect()
}

/// FORMAT.md §5.3, byte for byte.
#[test]
fn a_catalogue_is_spelled_so_for_ever() {
    let mut tree = server(2, 3);
    let odd = CataloguedFile {
        name: b"odd\xff".to_vec(),
        id: u64::MAX,
        kind: 0,
        size_bytes: 10_000,
        mode: None,
        owner: None,
        modified: Some((-1, 999_999_999)),
        spots: Some(vec![
            FileSpot { length_bytes: 4096, place: SpotPlace::Disk { disk: 1, offset: 1 << 40 } },
            FileSpot { length_bytes: 4096, place: SpotPlace::Hole },
            FileSpot { length_bytes: 1808, place: SpotPlace::Held },
        ]),
    };
    let link = CataloguedFile {
        name: b"current".to_vec(),
        id: 12,
        kind: 2,
        size_bytes: 7,
        ..CataloguedFile::default()
    };
    let folder = CataloguedFile {
        name: b"srv".to_vec(),
        id: 11,
        kind: 1,
        mode: Some(0o755),
        owner: Some((0, 0)),
        ..CataloguedFile::default()
    };
    tree.insert(Vec::new(), vec![link, odd, folder]);
    let bytes = write(&tree, 1 << 20);
    assert_eq!(read(&bytes), tree);
    golden::check("file-catalogue.bin", &bytes);
}

#[test]
fn a_night_shares_nearly_all_pieces_with_the_one_before() {
    let before = server(400, 40);
    let mut after = before.clone();
    after.insert(b"srv/3/new".to_vec(), vec![file("first.doc", 77_000)]);
    after.remove(b"srv/5/22".as_slice());
    after.values_mut().nth(100).unwrap().insert(0, file("a new one", 77_001));
    let (one, other) = (write(&before, 1 << 25), write(&after, 1 << 25));
    let known: BTreeSet<&[u8]> = pieces(&one).into_iter().collect();
    let new: Vec<&[u8]> = pieces(&other).into_iter().filter(|piece| !known.contains(piece)).collect();
    assert!(known.len() > 30, "{} pieces", known.len());
    assert!(new.len() <= 6, "{} of {} pieces are new", new.len(), known.len());
    assert_eq!(read(&other), after);
}

#[test]
fn a_large_folder_is_cut_and_nothing_crosses_a_region() {
    let tree =
        Tree::from([(b"spool".to_vec(), (0..20_000).map(|at| file(&format!("{at:06}"), at)).collect())]);
    let region_bytes = 1 << 17;
    let bytes = write(&tree, region_bytes);
    assert_eq!(read(&bytes), tree);
    let chunker = Chunker::pieces();
    let whole = usize::try_from(region_bytes).unwrap();
    let mut expected = pieces(&bytes).into_iter();
    for region in bytes.chunks(whole) {
        let mut window = region;
        while let Some(piece) = chunker.next_piece(window) {
            let (chunk, rest) = window.split_at(piece.length_bytes);
            if piece.kind == PieceKind::Data {
                assert!(chunker.confirms(window, piece.length_bytes));
                assert_eq!(Some(chunk), expected.next(), "a chunk is a piece");
            }
            window = rest;
        }
    }
    assert_eq!(expected.next(), None);
}

#[test]
fn folders_come_before_what_is_in_them_and_before_their_neighbours() {
    let sorted: [&[u8]; 5] = [b"", b"a", b"a/b", b"a/b/c", b"a-b"];
    for pair in sorted.windows(2) {
        assert!(names::path_order(pair[0], pair[1]).is_lt(), "{pair:?}");
    }
}

fn any_file() -> impl Strategy<Value = CataloguedFile> {
    let place = prop_oneof![
        Just(SpotPlace::Hole),
        Just(SpotPlace::Held),
        (0..3u16, 0..1u64 << 40)
            .prop_map(|(disk, sector)| SpotPlace::Disk { disk, offset: sector * SECTOR_BYTES }),
    ];
    let spot = (1..1u64 << 40, place).prop_map(|(length_bytes, place)| FileSpot { length_bytes, place });
    let spots = proptest::option::of(proptest::collection::vec(spot, 0..4));
    let rights = (proptest::option::of(0..0o7777u32), proptest::option::of(any::<(u32, u32)>()));
    let time = proptest::option::of((any::<i64>(), 0..1_000_000_000u32));
    (any::<u64>(), 0..=4u8, any::<u64>(), rights, time, spots).prop_map(
        |(id, kind, size_bytes, (mode, owner), modified, spots)| {
            let size_bytes =
                spots.as_ref().map_or(size_bytes, |spots| spots.iter().map(|spot| spot.length_bytes).sum());
            CataloguedFile { name: Vec::new(), id, kind, size_bytes, mode, owner, modified, spots }
        },
    )
}

fn any_tree() -> impl Strategy<Value = Tree> {
    let name = proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0xffu8)], 1..6);
    let files = proptest::collection::btree_map(name.clone(), any_file(), 1..8);
    let path = proptest::collection::vec(name, 0..4).prop_map(|parts| parts.join(&b'/'));
    proptest::collection::btree_map(path, files, 0..12).prop_map(|tree| {
        let named = |(name, file): (Vec<u8>, CataloguedFile)| CataloguedFile { name, ..file };
        tree.into_iter().map(|(path, files)| (path, files.into_iter().map(named).collect())).collect()
    })
}

proptest! {
    #[test]
    fn a_catalogue_reads_as_it_was_written(tree in any_tree()) {
        prop_assert_eq!(read(&write(&tree, 1 << 25)), tree);
    }

    /// Foreign bytes: an error or a value, never a panic.
    #[test]
    fn any_bytes_are_refused_or_read(kind in 0..7u8, content in proptest::collection::vec(any::<u8>(), 0..300), at in any::<(usize, u8)>()) {
        let mut bytes = piece(kind, &content).unwrap();
        if let Ok(CataloguePiece::Names(names)) = CataloguePiece::decode(&bytes) {
            let _ = names.each(&mut |_, _| {});
        }
        let length = bytes.len();
        bytes[at.0 % length] = at.1;
        let _ = CataloguePiece::decode(&bytes);
        let _ = CataloguePiece::length(&bytes);
    }

    /// One byte of a real piece is another: an error, or names that are spelled so.
    #[test]
    fn a_byte_that_is_another_is_refused_or_read(tree in any_tree(), at in any::<(usize, u8)>()) {
        let mut bytes = write(&tree, 1 << 25);
        let length = bytes.len();
        bytes[at.0 % length] = at.1;
        let mut rest = bytes.as_slice();
        while let Ok(Some(length)) = CataloguePiece::length(rest) {
            let Some((piece, behind)) = rest.split_at_checked(length) else { break };
            if let Ok(CataloguePiece::Names(names)) = CataloguePiece::decode(piece) {
                let _ = names.each(&mut |_, _| {});
            }
            rest = behind;
        }
    }
}
