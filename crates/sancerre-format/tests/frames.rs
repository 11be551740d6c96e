//! Frame sets and lists of garbage collections against a model: a plain set of (session, pack, frame).

mod common;

use std::collections::BTreeSet;

use common::{frame, session};
use proptest::prelude::*;
use sancerre_format::FormatError;
use sancerre_format::frames::{FrameSet, Members};
use sancerre_format::gc::{GcLists, PackMoves};
use sancerre_format::id::{FrameName, PackName, SessionId};

type Frame = (u64, u32, u32);

/// What was put in: single frames and whole packs.
#[derive(Debug, Clone, Default)]
struct Model {
    frames: BTreeSet<Frame>,
    packs: BTreeSet<(u64, u32)>,
}

impl Model {
    fn set(&self) -> FrameSet {
        let mut set = FrameSet::default();
        for (session, ordinal) in &self.packs {
            set.insert_pack(PackName { session: *session, ordinal: *ordinal });
        }
        self.frames
            .iter()
            .for_each(|(session, ordinal, index)| set.insert(frame(*session, *ordinal, *index)));
        set
    }

    fn contains(&self, &(session, ordinal, index): &Frame) -> bool {
        self.packs.contains(&(session, ordinal)) || self.frames.contains(&(session, ordinal, index))
    }
}

fn any_frame() -> impl Strategy<Value = Frame> {
    // Few values, so that ranges grow together; and the ends of their types.
    let session = prop_oneof![4 => 1u64..4, 1 => Just(u64::MAX)];
    let ordinal = prop_oneof![6 => 0u32..6, 1 => Just(u32::MAX), 1 => Just(u32::MAX - 1)];
    let index = prop_oneof![6 => 0u32..12, 1 => Just(65_535u32), 1 => Just(65_534u32)];
    (session, ordinal, index)
}

fn model() -> impl Strategy<Value = Model> {
    let packs =
        prop::collection::btree_set(any_frame().prop_map(|(session, ordinal, _)| (session, ordinal)), 0..8);
    (prop::collection::btree_set(any_frame(), 0..120), packs)
        .prop_map(|(frames, packs)| Model { frames, packs })
}

fn text(part: &[u8]) -> String {
    String::from_utf8(zstd::bulk::decompress(part, 64 << 20).unwrap()).unwrap()
}

proptest! {
    #[test]
    fn a_set_is_its_model(model in model(), probes in prop::collection::vec(any_frame(), 40)) {
        let set = model.set();
        for probe in probes.iter().chain(&model.frames) {
            prop_assert_eq!(set.contains(&frame(probe.0, probe.1, probe.2)), model.contains(probe), "{:?}", probe);
        }
        for (session, ordinal, _) in &probes {
            let pack = PackName { session: *session, ordinal: *ordinal };
            prop_assert_eq!(set.contains_pack(&pack), model.packs.contains(&(*session, *ordinal)));
        }
        let packs: BTreeSet<(u64, u32)> =
            model.frames.iter().map(|(session, ordinal, _)| (*session, *ordinal)).chain(model.packs.clone()).collect();
        let found: Vec<(u64, u32)> = set.packs().map(|pack| (pack.session, pack.ordinal)).collect();
        prop_assert_eq!(found, packs.iter().copied().collect::<Vec<_>>());
        prop_assert_eq!(set.is_empty(), packs.is_empty());
        let single = model.frames.iter().any(|(session, ordinal, _)| !model.packs.contains(&(*session, *ordinal)));
        prop_assert_eq!(set.is_whole_packs(), !single);
        prop_assert_eq!(set.is_single_frames(), model.packs.is_empty());
    }

    #[test]
    fn single_frames_are_told_apart_from_packs(model in model(), other in model()) {
        let (set, other_set) = (model.set(), other.set());
        let single = |(session, ordinal, _): &&Frame| !model.packs.contains(&(*session, *ordinal));
        let expected: Vec<FrameName> = model.frames.iter().filter(single).map(|f| frame(f.0, f.1, f.2)).collect();
        prop_assert_eq!(set.frames().collect::<Vec<_>>(), expected.clone());
        let counted: u64 = set.iter().map(|(_, members)| match members {
            Members::Whole => 0,
            Members::Frames(ranges) => ranges.count(),
        }).sum();
        prop_assert_eq!(counted, expected.len() as u64);
        let inside = model.packs.iter().all(|pack| other.packs.contains(pack))
            && expected.iter().all(|name| other_set.contains(name));
        prop_assert_eq!(set.is_subset(&other_set), inside);
        let mut both = set.clone();
        both.union(&other_set);
        prop_assert!(set.is_subset(&both) && other_set.is_subset(&both));
        prop_assert_eq!(set.frame_count(), expected.len() as u64);
        prop_assert_eq!(set.pack_count(), set.packs().count() as u64);
        prop_assert_eq!(set.newest_session(), set.packs().map(|pack| pack.session).max());
        let left = set.without(&other_set);
        let stays: Vec<FrameName> = expected.iter().filter(|name| !other_set.contains(name)).copied().collect();
        prop_assert_eq!(left.frames().collect::<Vec<_>>(), stays);
        let packs: BTreeSet<(u64, u32)> = model.packs.difference(&other.packs).copied().collect();
        let whole = left.packs().filter(|pack| left.contains_pack(pack)).map(|pack| (pack.session, pack.ordinal));
        prop_assert_eq!(whole.collect::<BTreeSet<_>>(), packs);
        for pack in set.packs().chain(other_set.packs()) {
            let shares = set.contains_pack(&pack) && other_set.members(&pack).is_some()
                || other_set.contains_pack(&pack) && set.members(&pack).is_some()
                || expected.iter().any(|name| name.pack == pack && other_set.contains(name));
            prop_assert_eq!(set.shares(&other_set, &pack), shares);
        }
    }

    #[test]
    fn a_set_comes_back_as_it_was(model in model()) {
        let set = model.set();
        let part = set.encode().unwrap();
        prop_assert_eq!(&FrameSet::decode(&part, u64::MAX).unwrap(), &set);
        prop_assert_eq!(FrameSet::decode(&part, u64::MAX).unwrap().encode().unwrap(), part);
    }

    #[test]
    fn the_order_of_insertion_does_not_matter(frames in prop::collection::vec(any_frame(), 0..60), turn in 0usize..60) {
        let mut turned = frames.clone();
        turned.rotate_left(turn.min(frames.len()));
        let insert = |frames: &[Frame]| {
            let mut set = FrameSet::default();
            frames.iter().for_each(|(session, ordinal, index)| set.insert(frame(*session, *ordinal, *index)));
            set
        };
        let mut backwards = frames.clone();
        backwards.reverse();
        prop_assert_eq!(insert(&frames), insert(&turned));
        prop_assert_eq!(insert(&frames), insert(&backwards));
    }

    #[test]
    fn union_is_the_models_union(a in model(), b in model(), probes in prop::collection::vec(any_frame(), 40)) {
        let mut set = a.set();
        set.union(&b.set());
        for probe in probes.iter().chain(&a.frames).chain(&b.frames) {
            let expected = a.contains(probe) || b.contains(probe);
            prop_assert_eq!(set.contains(&frame(probe.0, probe.1, probe.2)), expected);
        }
        let mut other = b.set();
        other.union(&a.set());
        prop_assert_eq!(set, other);
    }

    #[test]
    fn lists_come_back_as_they_were(
        dead in prop::collection::btree_set((1u64..9, 0u32..9), 0..30),
        moves in prop::collection::btree_map((1u64..9, 0u32..9, 0u32..9), 0u32..4, 0..20),
        seen in prop::collection::btree_set(1u64..99, 0..20),
        forgotten in prop::collection::btree_set(1u64..99, 0..20),
    ) {
        let ids = |numbers: BTreeSet<u64>| {
            let mut ids: Vec<SessionId> = numbers.into_iter().map(session).collect();
            ids.sort();
            ids
        };
        let mut moved = PackMoves::new();
        for ((session, pack, index), ordinal) in moves {
            moved.entry(ordinal).or_default().insert(frame(session, pack, index));
        }
        let lists = GcLists {
            dead: Model { packs: dead, ..Model::default() }.set(),
            moves: moved,
            seen: ids(seen),
            forgotten: ids(forgotten),
        };
        let part = lists.encode().unwrap();
        prop_assert_eq!(GcLists::decode(&part, u64::MAX).unwrap(), lists);
    }

    #[test]
    fn arbitrary_texts_have_one_spelling_or_none(
        lines in prop::collection::vec("(frames: [0-9]{1,2}( [0-9]{1,2}(-[0-9]{1,2})?(:[0-9](-[0-9]{1,2})?(,[0-9]{1,2})?)?){0,4}\n)", 0..4),
    ) {
        let spelled = format!("sancerre-frames-v1\ncritical: -\n{}", lines.concat());
        let part = zstd::bulk::compress(spelled.as_bytes(), 1).unwrap();
        if let Ok(set) = FrameSet::decode(&part, u64::MAX) {
            prop_assert_eq!(text(&set.encode().unwrap()), spelled);
        }
    }

    #[test]
    fn arbitrary_bytes_are_not_a_set(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(FrameSet::decode(&bytes, u64::MAX).is_err());
        prop_assert!(GcLists::decode(&bytes, u64::MAX).is_err());
    }
}

#[test]
fn the_empty_set_is_two_lines() {
    let part = FrameSet::default().encode().unwrap();
    assert_eq!(text(&part), "sancerre-frames-v1\ncritical: -\n");
    assert_eq!(FrameSet::decode(&part, u64::MAX).unwrap(), FrameSet::default());
    assert!(FrameSet::default().is_whole_packs());
}

#[test]
fn the_spelling_is_that_of_format_md() {
    assert_eq!(text(&common::samples::frame_set().encode().unwrap()), common::samples::FRAMES_TEXT);
    assert_eq!(text(&common::samples::final_lists().encode().unwrap()), common::samples::final_text());
}

/// A whole pack swallows its frames, whichever came first.
#[test]
fn a_whole_pack_stands_for_its_frames() {
    let pack = PackName { session: 1, ordinal: 2 };
    let mut set = FrameSet::default();
    set.insert(FrameName { pack, index: 5 });
    set.insert_pack(pack);
    set.insert(FrameName { pack, index: 6 });
    assert_eq!(text(&set.encode().unwrap()), "sancerre-frames-v1\ncritical: -\nframes: 1 2\n");
}

/// The longest texts there are: every second frame of full packs, and packs without neighbours.
#[test]
fn long_lines_go_on_in_the_next() {
    let mut set = FrameSet::default();
    (0..65_536).step_by(2).for_each(|index| set.insert(frame(u64::MAX, 0, index)));
    (2..40_000).step_by(2).for_each(|ordinal| set.insert_pack(PackName { session: u64::MAX, ordinal }));
    let part = set.encode().unwrap();
    let spelled = text(&part);
    let longest = spelled.lines().map(str::len).max().unwrap();
    assert!(spelled.lines().count() > 5 && longest > 32 << 10 && longest < 64 << 10, "{longest}");
    assert_eq!(FrameSet::decode(&part, u64::MAX).unwrap(), set);

    // The same content with other line ends is another spelling.
    let start = format!("\nframes: {} ", u64::MAX);
    let (head, tail) = spelled.split_at(spelled.find(&start).unwrap() + start.len());
    let joined = [head, &tail.replacen(&start, " ", 1)].concat();
    let split = [head, &tail.replacen(' ', &start, 1)].concat();
    let split = zstd::bulk::compress(split.as_bytes(), 1).unwrap();
    assert!(FrameSet::decode(&split, u64::MAX).is_err());
    let joined = zstd::bulk::compress(joined.as_bytes(), 1).unwrap();
    assert!(FrameSet::decode(&joined, u64::MAX).is_err());
}

/// 1,024 ranges an item, 32 KiB of items a line: FORMAT.md §9.1 in numbers.
#[test]
fn items_hold_at_most_1024_ranges() {
    let mut set = FrameSet::default();
    (0..2_050).for_each(|index| set.insert(frame(1, 0, index * 2)));
    let spelled = text(&set.encode().unwrap());
    let items: Vec<&str> = spelled.lines().nth(2).unwrap().split(' ').skip(2).collect();
    let counts: Vec<usize> = items.iter().map(|item| item.split(',').count()).collect();
    assert_eq!(counts, [1024, 1024, 2]);
    assert!(items.iter().all(|item| item.starts_with("0:")));
}

/// What must be known and is not makes the text unsupported, which is no damage; what may be ignored is.
#[test]
fn a_feature_that_must_be_known_is_named_and_others_are_skipped() {
    use common::samples;
    let part = |spelled: &str| zstd::bulk::compress(spelled.as_bytes(), 1).unwrap();
    let needs = |spelled: &str| spelled.replace("critical: -", "critical: ec-frames");
    let is_unsupported = |error: Option<FormatError>| {
        let named = |error: &FormatError| error.to_string().contains("ec-frames");
        error.is_some_and(|error| matches!(error, FormatError::Unsupported { .. }) && named(&error))
    };
    let (frames, lists) = (samples::FRAMES_TEXT.to_owned(), samples::final_text());
    assert!(is_unsupported(FrameSet::decode(&part(&needs(&frames)), u64::MAX).err()));
    assert!(is_unsupported(GcLists::decode(&part(&needs(&lists)), u64::MAX).err()));
    let set = FrameSet::decode(&part(&(frames.clone() + "x-heat: 3\n")), u64::MAX);
    assert_eq!(set.unwrap(), samples::frame_set());
    let lists = GcLists::decode(&part(&(lists + "x-why: age\nx-why: size\n")), u64::MAX);
    assert_eq!(lists.unwrap(), samples::final_lists());
    for odd in [frames.replace("critical: -\n", ""), frames + "x-heat: \n"] {
        let refused = FrameSet::decode(&part(&odd), u64::MAX).unwrap_err();
        assert!(matches!(refused, FormatError::Corrupt { .. }), "{refused}");
    }
}
