//! Nodes: one encoding only, ids that ignore places, every flipped byte, the shape of trees, and golden bytes.

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::id::{FrameName, FramePlace, PackName};

const LIMITS: NodeLimits = NodeLimits { leaf_bytes: 4 << 20 };
const ID_KEY: [u8; 32] = [1; 32];

fn place(frame: u32, offset_bytes: u32, size_bytes: u32) -> Place {
    let pack = PackName { session: 1 + u64::from(frame % 3), ordinal: frame % 2 };
    let frame = FramePlace {
        frame: FrameName { pack, index: frame },
        offset_bytes: frame * 1000,
        sealed_bytes: 304 + frame * 256,
    };
    Place { frame, offset_bytes, size_bytes }
}

fn id(seed: u32) -> ContentId {
    chunk_id(&ID_KEY, &seed.to_le_bytes())
}

fn leaf() -> Node {
    Node::Leaf(entries())
}

fn entries() -> Vec<LeafEntry> {
    let entry = |(at, frame): (u32, u32)| LeafEntry {
        offset_bytes: at * 4096,
        id: id(at),
        place: place(frame, at * 5, 4096),
    };
    [(0, 7), (1, 7), (3, 2), (900, 7)].map(entry).to_vec()
}

fn inner() -> Node {
    let child =
        |(child, frame): (u8, u32)| ChildEntry { child, id: id(child.into()), place: place(frame, 8, 600) };
    Node::Inner { level: 2, children: [(0, 3), (17, 1), (255, 3)].map(child).to_vec() }
}

fn any_leaf() -> impl Strategy<Value = Node> {
    let entry = (1u32..=4096, any::<u32>(), 0u32..9, 0u32..1 << 20);
    btree_map(0u32..1000, entry, 1..60).prop_map(|entries| {
        Node::Leaf(
            entries
                .into_iter()
                .map(|(at, (size, seed, frame, offset))| LeafEntry {
                    offset_bytes: at * 4096,
                    id: id(seed),
                    place: place(frame, offset, size),
                })
                .collect(),
        )
    })
}

fn any_inner() -> impl Strategy<Value = Node> {
    (1u8..=7, btree_set(any::<u8>(), 1..=256), vec((any::<u32>(), 0u32..9, 1u32..1 << 20), 256)).prop_map(
        |(level, children, rest)| {
            let children = children.into_iter().zip(rest).map(|(child, (seed, frame, size))| ChildEntry {
                child,
                id: id(seed),
                place: place(frame, size / 2, size),
            });
            Node::Inner { level, children: children.collect() }
        },
    )
}

proptest! {
    #[test]
    fn round_trip(node in prop_oneof![any_leaf(), any_inner()]) {
        let key = NodeKey::derive(&ID_KEY);
        let (id, bytes) = node.encode_with_id(&key).unwrap();
        prop_assert_eq!(&Node::decode(&bytes, &LIMITS).unwrap(), &node);
        prop_assert_eq!(node.encode().unwrap(), bytes);
        prop_assert_eq!(node.id(&key).unwrap(), id);
    }

    #[test]
    fn what_is_accepted_is_canonical(
        node in prop_oneof![any_leaf(), any_inner()],
        at in any::<prop::sample::Index>(),
        with in vec(0u8..4, 1..5),
    ) {
        let mut bytes = node.encode().unwrap();
        let at = at.index(bytes.len());
        bytes.iter_mut().skip(at).zip(&with).for_each(|(byte, new)| *byte = *new);
        if let Ok(decoded) = Node::decode(&bytes, &LIMITS) {
            prop_assert_eq!(decoded.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(level in 0u8..9, count in 0u8..4, rest in vec(any::<u8>(), 0..300)) {
        let bytes = [&[level, 0, 0, 0, count, 0, 0, 0], rest.as_slice()].concat();
        if let Ok(decoded) = Node::decode(&bytes, &LIMITS) {
            prop_assert_eq!(decoded.encode().unwrap(), bytes);
        }
        prop_assert!(Node::decode(&rest, &LIMITS).is_err() || rest.len() > 8);
    }

    #[test]
    fn trees_cover_their_disk(size in prop_oneof![0u64..1 << 24, 0u64..1 << 44, any::<u64>()]) {
        let geometry = Geometry::new(size, 4 << 20, 32 << 20).unwrap();
        let levels = geometry.levels();
        let covered = |level: u32| (4u128 << 20) << (8 * level);
        prop_assert!(covered(levels.into()) >= size.into());
        prop_assert!(levels == 0 || covered(u32::from(levels) - 1) < size.into());
        prop_assert_eq!(u128::from(geometry.leaf_count()), u128::from(size).div_ceil(4 << 20));
        if let Some(last) = geometry.leaf_count().checked_sub(1) {
            prop_assert_eq!(geometry.range(0, last).end, size);
            prop_assert_eq!(geometry.leaf_of(size - 1), last);
            prop_assert_eq!(geometry.path(last).fold(0, Geometry::child_number), last);
            prop_assert_eq!(geometry.path(last).count(), usize::from(levels));
            prop_assert!(geometry.range(0, last + 1).is_empty());
            prop_assert_eq!(geometry.range(levels, 0), 0..size);
        }
    }
}

#[test]
fn every_flipped_byte_changes_the_node_or_is_refused() {
    for node in [leaf(), inner()] {
        let bytes = node.encode().unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            match Node::decode(&flipped, &LIMITS) {
                Ok(other) => {
                    assert_ne!(other, node);
                    assert_eq!(other.encode().unwrap(), flipped);
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        (0..bytes.len()).for_each(|end| assert!(Node::decode(&bytes[..end], &LIMITS).is_err()));
        assert!(Node::decode(&[bytes, vec![0]].concat(), &LIMITS).is_err());
    }
}

#[test]
fn ids_ignore_places_and_differ_from_chunk_ids() {
    let key = NodeKey::derive(&ID_KEY);
    let mut entries = entries();
    entries.iter_mut().for_each(|entry| entry.place.frame.frame.pack.session += 40);
    let elsewhere = Node::Leaf(entries);
    assert_eq!(leaf().id(&key).unwrap(), elsewhere.id(&key).unwrap());
    assert_ne!(leaf().encode().unwrap(), elsewhere.encode().unwrap());
    assert_ne!(leaf().id(&key).unwrap(), chunk_id(&ID_KEY, &leaf().ids_part().unwrap()));
}

#[test]
fn a_frame_with_two_hints_is_written_once() {
    let mut entries = entries();
    entries[0].place.frame.offset_bytes = 1;
    let decoded = Node::decode(&Node::Leaf(entries).encode().unwrap(), &LIMITS).unwrap();
    let offsets: Vec<u32> = decoded.places().map(|place| place.frame.offset_bytes).collect();
    assert_eq!(offsets, [1, 1, 2000, 1]);
}

#[test]
fn broken_rules_are_not_encoded() {
    let with = |change: fn(&mut Vec<LeafEntry>)| {
        let mut entries = entries();
        change(&mut entries);
        Node::Leaf(entries).encode()
    };
    with(|_| {}).unwrap();
    assert!(with(Vec::clear).is_err());
    assert!(with(|entries| entries.swap(0, 1)).is_err());
    assert!(with(|entries| entries[0].place.size_bytes = 4097).is_err());
    assert!(with(|entries| entries[0].place.size_bytes = 0).is_err());
    assert!(with(|entries| entries[3].place.size_bytes = u32::MAX).is_err());
    let children = |level, numbers: &[u8]| {
        let child = |child: &u8| ChildEntry { child: *child, id: id(0), place: place(0, 0, 1) };
        Node::Inner { level, children: numbers.iter().map(child).collect() }.encode()
    };
    children(1, &[1, 2]).unwrap();
    assert!(children(0, &[1]).is_err() && children(8, &[1]).is_err());
    assert!(children(1, &[]).is_err() && children(1, &[2, 2]).is_err() && children(1, &[2, 1]).is_err());
}

#[test]
fn hostile_counts_are_refused_before_anything_is_allocated() {
    for (at, node) in [(4, leaf()), (8 + 4 * 40, leaf()), (8 + 3 * 36, inner())] {
        let mut bytes = node.encode().unwrap();
        bytes[at..at + 4].fill(0xff);
        let error = Node::decode(&bytes, &LIMITS).unwrap_err().to_string();
        assert!(error.contains("announces 4294967295 entries"), "{error}");
    }
    let small = NodeLimits { leaf_bytes: 1 << 20 };
    assert!(Node::decode(&leaf().encode().unwrap(), &small).is_err(), "a chunk behind the leaf's end");
}

#[test]
fn nodes_are_checked_against_their_place_on_the_disk() {
    let mib = 1u32 << 20;
    let geometry = Geometry::new(63 << 20, 4 * mib, 32 * mib).unwrap();
    let chunk = |offset_bytes, size| {
        Node::Leaf(vec![LeafEntry { offset_bytes, id: id(0), place: place(0, 0, size) }])
    };
    geometry.check(&chunk(3 * mib, mib), 0, 7).unwrap();
    geometry.check(&chunk(3 * mib, mib + 1), 0, 6).unwrap();
    assert!(geometry.check(&chunk(3 * mib, mib + 1), 0, 7).is_err(), "crosses a region's end");
    geometry.check(&chunk(0, 3 * mib), 0, 15).unwrap();
    assert!(geometry.check(&chunk(0, 3 * mib + 1), 0, 15).is_err(), "crosses the disk's end");
    assert!(geometry.check(&chunk(0, 1), 0, 16).is_err() && geometry.check(&chunk(0, 1), 1, 0).is_err());
    let child = |child| Node::Inner {
        level: 1,
        children: vec![ChildEntry { child, id: id(0), place: place(0, 0, 1) }],
    };
    geometry.check(&child(15), 1, 0).unwrap();
    assert!(geometry.check(&child(16), 1, 0).is_err());
    assert!(
        Geometry::new(1, 0, 1).is_err() && Geometry::new(1, 2, 1).is_err() && Geometry::new(1, 3, 4).is_err()
    );
}

#[test]
fn golden() {
    crate::golden::check("node-leaf.bin", &leaf().encode().unwrap());
    crate::golden::check("node-inner.bin", &inner().encode().unwrap());
}
