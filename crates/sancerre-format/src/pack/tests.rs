//! Packs: round trips, every rule, every flipped byte, and golden bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::id::{RepositoryId, SessionId};
use crate::seal::{Codec, seal};

const METADATA_KEY: [u8; 32] = [7; 32];

fn session(number: u64) -> SessionId {
    SessionId { number, intent: Hash::of(&number.to_le_bytes()) }
}

fn root(number: u64) -> RootKey {
    RootKey::metadata(&METADATA_KEY, &session(number))
}

fn head(kind: PackKind, numbers: &[u64]) -> PackHead {
    let sealed_key = |number: &u64| if kind == PackKind::Data { vec![*number as u8; 40] } else { Vec::new() };
    let sessions = numbers
        .iter()
        .map(|number| SealedSession { session: session(*number), sealed_key: sealed_key(number) });
    PackHead { kind, repository: RepositoryId([3; 16]), ordinal: 5, sessions: sessions.collect() }
}

/// A sealed frame of incompressible-looking content, and its pieces.
fn frame(kind: PackKind, number: u64, index: u32, sizes: &[u32]) -> (Vec<u8>, Vec<FrameChunk>) {
    let total: u32 = sizes.iter().sum();
    let raw: Vec<u8> = (0..total).map(|at| (at.wrapping_mul(31).wrapping_add(index)) as u8).collect();
    let name = UnitName { kind: kind.frame_kind(), session: session(number), a: 5, b: index };
    let sealed = seal(&root(number), &name, Codec::Stored, raw.len(), &raw).unwrap();
    let id = |at: usize| ContentId(Hash::of(format!("{number}/{index}/{at}").as_bytes()).0);
    (sealed, sizes.iter().enumerate().map(|(at, size)| (id(at), *size)).collect())
}

fn build(kind: PackKind, frames: &[Vec<u32>]) -> (FinishedPack, Vec<Vec<FrameChunk>>) {
    let mut builder = PackBuilder::new(head(kind, &[9])).unwrap();
    let mut table = Vec::new();
    let mut most = 0;
    for sizes in frames {
        let (sealed, pieces) = frame(kind, 9, builder.next_index(), sizes);
        most = builder.len_bytes_with(sealed.len(), pieces.len());
        let place = builder.append(&sealed, &pieces).unwrap();
        assert_eq!(place.frame.index as usize, table.len());
        table.push(pieces);
    }
    let finished = builder.finish(&root(9)).unwrap();
    assert!(finished.bytes.len() <= most, "{} > {most}", finished.bytes.len());
    (finished, table)
}

/// Two frames of an older session, moved by a gc that has no session key.
fn moved() -> FinishedPack {
    let mut with_gc = head(PackKind::Data, &[9, 4]);
    with_gc.sessions[0].sealed_key.clear();
    let mut builder = PackBuilder::new(with_gc).unwrap();
    for index in [6, 2] {
        let (sealed, pieces) = frame(PackKind::Data, 4, index, &[100]);
        let name = FrameName { pack: PackName { session: 4, ordinal: 1 }, index };
        assert!(builder.append(&sealed, &pieces).is_err(), "without a session key nothing new can be sealed");
        assert!(builder.append_moved(0, name, &sealed, &pieces).is_err());
        builder.append_moved(1, name, &sealed, &pieces).unwrap();
    }
    builder.finish(&root(9)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn decodes_what_was_built(frames in vec(vec(1u32..3000, 1..9), 1..12), data in any::<bool>()) {
        let kind = if data { PackKind::Data } else { PackKind::Metadata };
        let (finished, table) = build(kind, &frames);
        let pack = Pack::decode(&finished.bytes).unwrap();
        pack.verify_frames().unwrap();
        prop_assert_eq!(pack.head(), &head(kind, &[9]));
        prop_assert_eq!(pack.open_table(&root(9)).unwrap(), table);
        for (position, sizes) in frames.iter().enumerate() {
            let name = UnitName { kind: kind.frame_kind(), session: session(9), a: 5, b: position as u32 };
            let raw = seal::open(&root(9), &name, pack.frame(position).unwrap()).unwrap();
            prop_assert_eq!(raw.len() as u32, sizes.iter().sum::<u32>());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        prop_assert!(Pack::decode(&bytes).is_err());
        let mut ended = bytes;
        ended.extend_from_slice(&[0; 8]);
        ended.extend_from_slice(TRAILER_MAGIC);
        prop_assert!(Pack::decode(&ended).is_err());
    }

    #[test]
    fn mutations_never_panic(at in any::<prop::sample::Index>(), with in vec(any::<u8>(), 1..9), cut in any::<prop::sample::Index>()) {
        let mut bytes = moved().bytes;
        let at = at.index(bytes.len());
        let before = bytes.clone();
        bytes.iter_mut().skip(at).zip(&with).for_each(|(byte, new)| *byte = *new);
        prop_assert_eq!(whole(&bytes).is_err(), before != bytes);
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(Pack::decode(&bytes).is_err());
    }
}

/// Every check a reader with the metadata key can make of a pack alone.
fn whole(bytes: &[u8]) -> Result<()> {
    let pack = Pack::decode(bytes)?;
    pack.verify_frames()?;
    pack.open_table(&root(9)).map(|_| ())
}

#[test]
fn every_flipped_byte_is_refused_and_renames_the_pack() {
    let finished = moved();
    for at in 0..finished.bytes.len() {
        let mut bytes = finished.bytes.clone();
        bytes[at] ^= 0x41;
        assert!(whole(&bytes).is_err(), "byte {at} of {}", bytes.len());
        assert_ne!(Hash::of(&bytes), finished.hash);
    }
}

#[test]
fn reads_from_the_ends() {
    let (finished, table) = build(PackKind::Metadata, &[vec![500, 600], vec![1000]]);
    let size = to_u64(finished.bytes.len());
    let last = &finished.bytes[finished.bytes.len() - 100..];
    let trailer = Trailer::decode(last, size).unwrap();
    assert_eq!(trailer.frames(), 2);
    let head = &finished.bytes[..trailer.head_range().end as usize];
    let tail = &finished.bytes[finished.bytes.len() - trailer.tail_bytes()..];
    let ends = PackTail::decode(trailer, head, tail).unwrap();
    assert_eq!(ends.open_table(&root(9)).unwrap(), table);
    assert_eq!(ends.hash(), finished.tail_hash);
    assert_eq!(ends.hash(), finished.listed().tail);
    assert_eq!(&ends, Pack::decode(&finished.bytes).unwrap().tail());
    assert!(PackTail::decode(trailer, head, &tail[1..]).is_err());
    assert!(PackTail::decode(trailer, &head[1..], tail).is_err());
    assert!(Trailer::decode(last, size + 1).is_err());
    assert!(ends.open_table(&root(8)).is_err(), "another session's key opens nothing");
}

#[test]
fn a_tail_alone_tells_of_unmoved_frames_and_vouches_for_itself() {
    let (finished, table) = build(PackKind::Data, &[vec![500, 600], vec![1000]]);
    let size = to_u64(finished.bytes.len());
    let trailer = Trailer::decode(&finished.bytes, size).unwrap();
    let tail = &finished.bytes[finished.bytes.len() - trailer.tail_bytes()..];
    let decode = |tail: &[u8]| {
        let trailer = Trailer::decode(tail, size)?;
        OwnFrames::decode(trailer, (finished.name, session(9)), tail, &root(9))
    };
    let own = decode(tail).unwrap();
    assert_eq!(own.hash(), finished.listed().tail);
    let pack = Pack::decode(&finished.bytes).unwrap();
    let expected: Vec<_> = pack.directory().iter().map(|entry| entry.place()).zip(table).collect();
    assert_eq!(own.into_frames(), expected);
    for at in 0..tail.len() {
        let mut bytes = tail.to_vec();
        bytes[at] ^= 0x41;
        // Whoever changed it and can seal tables is told by the signed list.
        assert!(!decode(&bytes).is_ok_and(|own| own.hash() == finished.tail_hash), "byte {at}");
    }
    assert!(decode(&tail[1..]).is_err());
    let moved = moved();
    let trailer = Trailer::decode(&moved.bytes, to_u64(moved.bytes.len())).unwrap();
    assert!(OwnFrames::decode(trailer, (moved.name, session(9)), &moved.bytes, &root(9)).is_err());
}

#[test]
fn moved_frames_keep_their_names() {
    let finished = moved();
    let pack = Pack::decode(&finished.bytes).unwrap();
    let names: Vec<String> = pack.directory().iter().map(|entry| entry.frame.to_string()).collect();
    assert_eq!(names, ["4/1/6", "4/1/2"]);
    assert_eq!(finished.name.to_string(), "9/5");
    let listed = finished.listed();
    assert_eq!((listed.frames, listed.size_bytes), (2, finished.bytes.len() as u64));
}

#[test]
fn refuses_to_build_what_cannot_be_read() {
    let (sealed, pieces) = frame(PackKind::Data, 9, 0, &[10]);
    let mut builder = PackBuilder::new(head(PackKind::Data, &[9, 4])).unwrap();
    assert!(builder.clone().finish(&root(9)).is_err(), "a pack without frames");
    assert!(builder.append(&sealed[1..], &pieces).is_err());
    assert!(builder.append(&sealed, &[]).is_err());
    assert!(builder.append(&sealed, &[(ContentId([0; 32]), 0)]).is_err());
    let stranger = FrameName { pack: PackName { session: 3, ordinal: 0 }, index: 0 };
    assert!(builder.append_moved(1, stranger, &sealed, &pieces).is_err());
    assert!(builder.append_moved(2, stranger, &sealed, &pieces).is_err());
    let twice = FrameName { pack: PackName { session: 4, ordinal: 0 }, index: 0 };
    builder.append_moved(1, twice, &sealed, &pieces).unwrap();
    builder.append_moved(1, twice, &sealed, &pieces).unwrap();
    assert!(builder.finish(&root(9)).is_err(), "one name twice");
    assert!(PackBuilder::new(head(PackKind::Data, &[])).is_err());
    assert!(PackBuilder::new(head(PackKind::Data, &[9, 9])).is_err());
    assert!(PackBuilder::new(head(PackKind::Data, &(0..1025).collect::<Vec<_>>())).is_err());
    let mut keyed = head(PackKind::Data, &[9]);
    keyed.kind = PackKind::Metadata;
    assert!(PackBuilder::new(keyed).is_err());
}

#[test]
fn room_ends_with_the_pack_and_with_the_table() {
    let (sealed, pieces) = frame(PackKind::Data, 9, 0, &[10]);
    let mut builder = PackBuilder::new(head(PackKind::Data, &[9])).unwrap();
    assert!(builder.has_room(1 << 20, 1, 1 << 10), "a first frame always fits");
    builder.append(&sealed, &pieces).unwrap();
    let most = builder.len_bytes_with(sealed.len(), 1);
    assert!(builder.has_room(sealed.len(), 1, most) && !builder.has_room(sealed.len(), 1, most - 1));
    assert!(!builder.has_room(sealed.len(), (16 << 20) / 36, usize::MAX));
}

/// Builds a one-frame pack and changes bytes in it, the trailer's hash made to fit again.
fn tampered(change: impl FnOnce(&mut [u8], usize, usize)) -> Result<()> {
    let (finished, _) = build(PackKind::Data, &[vec![10]]);
    let mut bytes = finished.bytes;
    let finished_head = Trailer::decode(&bytes, to_u64(bytes.len())).unwrap().head_range().end as usize;
    let (directory, trailer) = (bytes.len() - 64 - 48, bytes.len() - 64);
    change(&mut bytes, directory, trailer);
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (head, table) = (finished_head, number(trailer + 12).min(directory));
    let hash = Hash::of(&[&bytes[..head], &bytes[table..trailer]].concat());
    bytes[trailer + 16..trailer + 48].copy_from_slice(&hash.0);
    Pack::decode(&bytes).map(|_| ())
}

#[test]
fn each_rule_of_the_structure_is_checked() {
    tampered(|_, _, _| {}).unwrap();
    let unsupported = |at: usize, value: u8| {
        let result = tampered(|bytes, _, _| bytes[at] = value);
        assert!(matches!(result, Err(crate::FormatError::Unsupported { .. })), "byte {at}: {result:?}");
    };
    [(8, 2), (11, 2), (12, 1)].iter().for_each(|(at, value)| unsupported(*at, *value));
    for at in [0, 10, 32, 40, 72, 76, 78, 80, 120] {
        assert!(tampered(|bytes, _, _| bytes[at] ^= 0x21).is_err(), "head byte {at}");
    }
    for at in [0, 2, 4, 8, 12, 15] {
        assert!(tampered(|bytes, directory, _| bytes[directory + at] ^= 1).is_err(), "directory byte {at}");
    }
    for at in (0..16).chain(48..64) {
        assert!(tampered(|bytes, _, trailer| bytes[trailer + at] ^= 1).is_err(), "trailer byte {at}");
    }
    for at in [0, 4, 8, 12] {
        let result = tampered(|bytes, _, trailer| bytes[trailer + at..trailer + at + 4].fill(0xff));
        assert!(result.is_err(), "hostile number at {at}");
    }
}

#[test]
fn hostile_tables_are_refused() {
    for raw in [&[0xff; 4][..], &[0; 4], &[1, 0, 0, 0], &[0xff; 40]] {
        assert!(decode_table(raw, 1).is_err());
    }
    let mut piece = vec![1, 0, 0, 0];
    piece.extend_from_slice(&[5; 32]);
    piece.extend_from_slice(&((16u32 << 20) + 1).to_le_bytes());
    assert!(decode_table(&piece, 1).is_err(), "more than a frame can hold");
    assert!(decode_table(&piece, 0).is_err());
}

#[test]
fn golden() {
    crate::golden::check("pack-data.bin", &moved().bytes);
    crate::golden::check(
        "pack-metadata.bin",
        &build(PackKind::Metadata, &[vec![500, 600], vec![1000]]).0.bytes,
    );
}
