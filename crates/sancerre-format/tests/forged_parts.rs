//! Public parts that break a rule: frame sets, lists of garbage collections, and what is wrong with their compression.
#![allow(clippy::disallowed_methods, reason = "measures how long a refusal takes")]

mod common;

use common::forgery::Class::Corrupt;
use common::forgery::*;
use common::*;
use sancerre_format::checkpoint::CheckpointState;
use sancerre_format::error::Result;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;

fn public(name: &'static str, part: Vec<u8>, read: fn(&[u8]) -> Result<()>, says: &'static str) -> Forgery {
    Forgery { name, bytes: part, read, class: Corrupt, says }
}

fn frames(name: &'static str, lines: &str, says: &'static str) -> Forgery {
    let part = stored_zstd(format!("sancerre-frames-v1\ncritical: -\n{lines}").as_bytes());
    public(name, part, |bytes| FrameSet::decode(bytes, u64::MAX).map(|_| ()), says)
}

#[test]
fn frame_sets() {
    refuse(vec![
        frames("sessions unsorted", "frames: 2 0\nframes: 1 0\n", "one spelling"),
        frames("session twice", "frames: 1 0\nframes: 1 2\n", "one spelling"),
        frames("session without items", "frames: 1\n", "one spelling"),
        frames("packs unsorted", "frames: 1 2 0\n", "out of order"),
        frames("packs overlap", "frames: 1 0-3 2-4\n", "out of order"),
        frames("packs not maximal", "frames: 1 0 1\n", "out of order"),
        frames("pack range of one", "frames: 1 3-3\n", "is empty"),
        frames("pack range backwards", "frames: 1 3-2\n", "is empty"),
        frames("pack whole and in frames", "frames: 1 0 0:1\n", "stands twice"),
        frames("pack in frames and whole", "frames: 1 0:1 0\n", "stands twice"),
        frames("frames unsorted", "frames: 1 0:3,1\n", "out of order"),
        frames("frames overlap", "frames: 1 0:1-4,4-6\n", "out of order"),
        frames("frames not maximal", "frames: 1 0:1,2\n", "out of order"),
        frames("frame twice", "frames: 1 0:1,1\n", "out of order"),
        frames("a pack's frames in two items", "frames: 1 0:1 0:3\n", "one spelling"),
        frames("no frames", "frames: 1 0:\n", "not a number"),
        frames("comma at the end", "frames: 1 0:1,\n", "not a number"),
        frames("two spaces", "frames: 1  0\n", "not a number"),
        frames("leading zero", "frames: 1 00\n", "not a number"),
        frames("hexadecimal", "frames: 1 a\n", "not a number"),
        frames("ordinal beyond 32 bits", "frames: 1 4294967296\n", "not a number"),
        frames("frame 65,536", "frames: 1 0:65536\n", "no pack has"),
        frames("all frames there can be", "frames: 1 0:0-4294967295\n", "no pack has"),
        frames("all packs there can be", "frames: 1 0-4294967295\n", "at most 1048576"),
        frames("one pack too many", "frames: 1 0-1048575\nframes: 2 0:0\n", "at most 1048576"),
        frames("line of another key", "packs: 1 0\n", "unexpected line"),
    ]);
}

#[test]
fn lists_of_garbage_collections() {
    let (three, five) = (session(3), session(5));
    let lists = |name, lines: &str, says| {
        let part = stored_zstd(format!("sancerre-gc-v1\ncritical: -\n{lines}").as_bytes());
        public(name, part, |bytes| GcLists::decode(bytes, u64::MAX).map(|_| ()), says)
    };
    refuse(vec![
        lists("dead frames", "dead: 1 0:1\n", "only whole packs"),
        lists("burnt packs", "burnt: 1 0\n", "unexpected line"),
        lists("moves unsorted", "move: 1 1 0:0\nmove: 0 1 0:1\n", "one spelling"),
        lists("moves of one pack unsorted", "move: 0 2 0:0\nmove: 0 1 0:0\n", "one spelling"),
        lists("frame moved twice", "move: 0 1 0:0\nmove: 1 1 0:0\n", "two packs"),
        lists("move of nothing", "move: 0 1\n", "one spelling"),
        lists("move to nowhere", "move: 1\n", "not a move"),
        lists("move of a pack", "move: 0 1 0\n", "only single frames"),
        lists("move before dead", "move: 0 1 0:1\ndead: 1 0\n", "unexpected line"),
        lists("seen unsorted", &format!("seen: {five}\nseen: {three}\n"), "not ascending"),
        lists("forgotten twice", &format!("forgotten: {five}\nforgotten: {five}\n"), "not ascending"),
        lists("forgotten before seen", &format!("forgotten: {three}\nseen: {five}\n"), "unexpected line"),
    ]);
}

/// A record's signer cannot know of sessions that come after its own: what is promised of those is a trap.
#[test]
fn sets_that_name_later_sessions() {
    let part = |text: &str| stored_zstd(text.as_bytes());
    let frames = part("sancerre-frames-v1\ncritical: -\nframes: 7 0\n");
    assert!(FrameSet::decode(&frames, 7).is_ok());
    let lists =
        ["dead: 7 0", "move: 0 7 0:1"].map(|line| part(&format!("sancerre-gc-v1\ncritical: -\n{line}\n")));
    for lists in &lists {
        assert!(GcLists::decode(lists, 7).is_ok());
    }
    let refused = lists.iter().map(|lists| GcLists::decode(lists, 6).map(drop));
    for refused in refused.chain([FrameSet::decode(&frames, 6).map(drop)]) {
        assert!(refused.unwrap_err().to_string().contains("comes later"));
    }
}

/// A few bytes may name very much; they cost what they are.
#[test]
fn a_set_costs_what_its_text_costs() {
    let whole =
        FrameSet::decode(&stored_zstd(b"sancerre-frames-v1\ncritical: -\nframes: 1 0-1048575\n"), 1).unwrap();
    assert_eq!((whole.pack_count(), whole.frame_count()), (1 << 20, 0));
    let mut all = FrameSet::default();
    let mut full = sancerre_format::frames::Ranges::default();
    (0..65_536).for_each(|index| full.insert(index));
    for ordinal in 0..16_384 {
        let pack = sancerre_format::id::PackName { session: 1, ordinal };
        all.insert_members(pack, sancerre_format::frames::Members::Frames(&full));
    }
    let part = all.encode().unwrap();
    assert!(part.len() < 64 << 10, "{} bytes", part.len());
    let started = std::time::Instant::now();
    let all = FrameSet::decode(&part, 1).unwrap();
    assert_eq!(all.frame_count(), 1 << 30);
    let mut both = whole.clone();
    both.union(&all);
    assert!(both == whole && all.is_subset(&whole) && !whole.is_subset(&all));
    assert!(all.is_subset(&all) && all.without(&all).is_empty() && all.without(&whole).is_empty());
    assert_eq!(whole.without(&all), whole, "a whole pack stays whole");
    // A billion frames one by one take minutes.
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn compressed_parts() {
    let text = b"sancerre-frames-v1\ncritical: -\nframes: 1 0\n";
    let good = stored_zstd(text);
    FrameSet::decode(&good, u64::MAX).unwrap();
    let part = |name, bytes: Vec<u8>, says| {
        public(name, bytes, |part| FrameSet::decode(part, u64::MAX).map(|_| ()), says)
    };
    // Blocks of one repeated byte: 4 bytes of input stand for 128 KiB.
    let rle = |blocks: u32, announced: u32| {
        let block = |last: u32| (last | 1 << 1 | (128 << 10) << 3).to_le_bytes()[..3].to_vec();
        let blocks = (1..=blocks).flat_map(|at| [block(u32::from(at == blocks)), vec![b'a']].concat());
        [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &announced.to_le_bytes()]
            .concat()
            .into_iter()
            .chain(blocks)
            .collect()
    };
    let bomb: Vec<u8> = rle(8000, 8000 * (128 << 10));
    assert!(bomb.len() < 40_000);
    refuse(vec![
        part("empty part", Vec::new(), "acceptable size"),
        part("not compressed", text.to_vec(), "acceptable size"),
        part("bomb that announces 64 MiB of one line", rle(64, 64 << 20), ""),
        part("bomb that announces more than 64 MiB", rle(513, (64 << 20) + 1), "acceptable size"),
        part("bomb that announces a little", rle(8000, 100), ""),
        part(
            "announces 64 MiB, holds nothing",
            [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &(64u32 << 20).to_le_bytes(), &[1, 0, 0]].concat(),
            "announces too much",
        ),
        part("trailing garbage", [&good[..], b"x"].concat(), "one zstd frame"),
        part("trailing empty frame", [&good[..], &stored_zstd(b"")].concat(), "one zstd frame"),
        part("trailing skippable frame", [&good[..], b"\x50\x2a\x4d\x18\0\0\0\0"].concat(), "one zstd frame"),
        part("leading skippable frame", [&b"\x50\x2a\x4d\x18\0\0\0\0"[..], &good].concat(), "one zstd frame"),
        part("cut short", good[..good.len() - 1].to_vec(), "one zstd frame"),
        part("gc lists for frames", stored_zstd(b"sancerre-gc-v1\ncritical: -\n"), "first line"),
        part("no line feed", stored_zstd(b"sancerre-frames-v1"), "line feed"),
        part("binary", stored_zstd(b"sancerre-frames-v1\ncritical: -\n\0\n"), "printable"),
    ]);
}

#[test]
fn states_of_checkpoints() {
    let (three, seven, nine) = (session(3), session(7), session(9));
    let hash = "33".repeat(32);
    let state = |name, lines: &str, records: &[u8], says| {
        let text = stored_zstd(format!("sancerre-state-v1\ncritical: -\n{lines}").as_bytes());
        let length = u32::try_from(text.len()).unwrap().to_le_bytes();
        let part = [&length[..], &text, &stored_zstd(records)].concat();
        public(name, part, |bytes| CheckpointState::decode(bytes, 9).map(|_| ()), says)
    };
    let entry = |session: &_| format!("entry: {session} head 2\n");
    refuse(vec![
        state("kept frames", "kept: 3 0:1\n", b"", "only whole packs"),
        state("kept packs of later sessions", "kept: 9 0\n", b"", "comes later"),
        state("moved into a pack that is not kept", "kept: 3 0\nmove: 8 0 3 0:1\n", b"", "not kept"),
        state("a whole pack moved", "kept: 8 0\nmove: 8 0 3 0\n", b"", "only single frames"),
        state("a move without frames", "kept: 8 0\nmove: 8 0\n", b"", "is not a move"),
        state("moved frames of later sessions", "kept: 8 0\nmove: 8 0 9 0:1\n", b"", "comes later"),
        state("a head without its entry", &format!("head: {three}\n"), b"", "has no entry"),
        state("entries do not ascend", &[entry(&seven), entry(&three)].concat(), b"abcd", "do not ascend"),
        state("an entry twice", &[entry(&three), entry(&three)].concat(), b"abcd", "do not ascend"),
        state("an entry at its number", &entry(&nine), b"ab", "does not speak of"),
        state("records end early", &entry(&three), b"a", "end early"),
        state("records too many", &entry(&three), b"abc", "too many"),
        state("an unknown cut", &format!("entry: {three} tail 2\n"), b"ab", "names no record"),
        state("an entry with a hash", &format!("entry: {three} {hash} head 2\n"), b"ab", "names no record"),
        state("an outcome without one", &format!("outcome: {three} head 2\n"), b"ab", "names no record"),
        state(
            "outcomes before entries",
            &format!("outcome: {three} {hash} head 2\n{}", entry(&three)),
            b"abcd",
            "unexpected",
        ),
        public("no length", vec![1, 0], |bytes| CheckpointState::decode(bytes, 9).map(|_| ()), "no length"),
        public(
            "text ends early",
            vec![200, 0, 0, 0, 1],
            |bytes| CheckpointState::decode(bytes, 9).map(|_| ()),
            "ends early",
        ),
    ]);
}
