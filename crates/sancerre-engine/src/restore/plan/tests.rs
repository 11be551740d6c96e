//! The plan over synthetic leaves: merging, budgets, scatter, frames used many times.

use proptest::prelude::*;
use sancerre_format::id::FrameName;

use super::*;

const MERGE: Merge = Merge { gap_bytes: 128 << 10, range_bytes: 4 << 20 };

fn merge(range_bytes: u64) -> Merge {
    Merge { range_bytes, ..MERGE }
}

fn frame(session: u64, index: u32, offset_bytes: u32, sealed_bytes: u32) -> PackedFrame {
    let pack = PackName { session, ordinal: 0 };
    PackedFrame { pack, place: FramePlace { frame: FrameName { pack, index }, offset_bytes, sealed_bytes } }
}

fn piece(at: u64, offset_bytes: u32, size_bytes: u32) -> Piece {
    Piece { at, id: ContentId([7; 32]), offset_bytes, size_bytes }
}

fn bytes(ranges: &[PackRange]) -> Vec<Range<u64>> {
    ranges.iter().map(|range| range.bytes.clone()).collect()
}

#[test]
fn neighbours_are_one_request_up_to_the_limit() {
    let wanted = (0..10).map(|i| (frame(1, i, 100 + i * 1000, 1000), piece(u64::from(i) * 5000, 0, 5000)));
    let ranges = plan(wanted.collect(), merge(4000));
    assert_eq!(bytes(&ranges), [100..4100, 4100..8100, 8100..10100]);
    assert_eq!(ranges[0].frames.len(), 4);
}

#[test]
fn a_small_gap_is_read_over_and_a_large_one_is_not() {
    let gap = u32::try_from(MERGE.gap_bytes).unwrap();
    let at =
        |offset: u32| vec![(frame(1, 0, 0, 500), piece(0, 0, 9)), (frame(1, 1, offset, 500), piece(9, 0, 9))];
    let joined = plan(at(500 + gap), MERGE);
    assert_eq!((joined.len(), joined[0].bytes.clone()), (1, 0..u64::from(gap) + 1000));
    assert_eq!(plan(at(501 + gap), MERGE).len(), 2);
}

#[test]
fn packs_are_never_joined_and_a_large_frame_stands_alone() {
    let ranges =
        plan(vec![(frame(1, 0, 0, 500), piece(0, 0, 9)), (frame(2, 0, 500, 500), piece(9, 0, 9))], MERGE);
    assert_eq!(ranges.len(), 2);
    let ranges = plan(
        vec![(frame(1, 0, 0, 5000), piece(0, 0, 9)), (frame(1, 1, 5000, 10), piece(9, 0, 9))],
        merge(100),
    );
    assert_eq!(bytes(&ranges), [0..5000, 5000..5010]);
}

/// Frames that gc gathered in one pack are read together, whatever packs they are named after.
#[test]
fn what_counts_is_where_frames_lie() {
    let pack = PackName { session: 9, ordinal: 4 };
    let moved = |session, offset_bytes| PackedFrame { pack, ..frame(session, 0, offset_bytes, 500) };
    let wanted = vec![(moved(1, 1000), piece(0, 0, 9)), (moved(2, 500), piece(9, 0, 9))];
    let ranges = plan(wanted, MERGE);
    assert_eq!((ranges.len(), ranges[0].pack, ranges[0].bytes.clone()), (1, pack, 500..1500));
}

#[test]
fn a_frame_used_many_times_is_fetched_once() {
    let place = frame(1, 3, 4096, 70_000);
    let wanted = (0..1000).map(|i| (place, piece(i * 65_536, 0, 65_536))).collect();
    let ranges = plan(wanted, MERGE);
    assert_eq!((ranges.len(), ranges[0].bytes.clone()), (1, 4096..74_096));
    let offsets: Vec<u64> = ranges[0].frames[0].pieces.iter().map(|piece| piece.at).collect();
    assert_eq!(offsets, (0..1000).map(|i| i * 65_536).collect::<Vec<_>>());
}

#[test]
fn requests_come_in_the_order_of_the_disk() {
    let wanted = vec![
        (frame(1, 0, 0, 500), piece(900, 0, 9)),
        (frame(2, 0, 0, 500), piece(100, 0, 9)),
        (frame(3, 0, 0, 500), piece(500, 0, 9)),
    ];
    let sessions: Vec<u64> = plan(wanted, MERGE).iter().map(|range| range.pack.session).collect();
    assert_eq!(sessions, [2, 3, 1]);
}

#[test]
fn hints_that_lie_do_not_overflow_or_overlap_a_slice() {
    let wanted = vec![
        (frame(1, 0, u32::MAX, u32::MAX), piece(0, u32::MAX, u32::MAX)),
        (frame(1, 1, u32::MAX - 5, 3), piece(u64::MAX, 0, 9)),
    ];
    for range in plan(wanted, MERGE) {
        for frame in &range.frames {
            let sealed = frame.sealed();
            assert!(range.bytes.start <= sealed.start && sealed.end <= range.bytes.end);
        }
    }
}

#[test]
fn chunks_that_follow_on_disk_and_in_the_frame_are_one_write() {
    let pieces = [piece(0, 0, 10), piece(10, 10, 20), piece(50, 30, 5), piece(55, 40, 5)];
    assert_eq!(runs(&pieces).collect::<Vec<_>>(), [(0, 0..30), (50, 30..35), (55, 40..45)]);
}

#[test]
fn holes_are_what_chunks_leave_and_overlaps_are_refused() {
    let mut holes = Holes::default();
    assert_eq!(holes.before(&(10..20)), Ok(0..10));
    assert_eq!(holes.before(&(20..30)), Ok(20..20));
    assert!(holes.before(&(29..40)).is_err());
    assert_eq!(Holes::default().before(&(1..1)), Ok(0..1));
}

proptest! {
    /// Every wanted piece is in exactly one frame of one request, inside the bytes read, within the limits.
    #[test]
    fn nothing_is_lost_and_nothing_is_read_twice(
        wanted in prop::collection::vec((0u64..3, 0u32..40, 0u32..8, 0u64..1_000_000), 0..200),
        range_bytes in 1000u64..2_000_000,
    ) {
        let wanted: Vec<_> = wanted
            .into_iter()
            .map(|(session, index, offset, at)| {
                (frame(session, index, index * 60_000, 50_000), piece(at, offset * 100, 100))
            })
            .collect();
        let ranges = plan(wanted.clone(), merge(range_bytes));
        let mut found: Vec<_> = Vec::new();
        let mut frames: Vec<FramePlace> = Vec::new();
        for range in &ranges {
            prop_assert!(range.bytes.end - range.bytes.start <= range_bytes || range.frames.len() == 1);
            for frame in &range.frames {
                prop_assert_eq!(frame.place.frame.pack, range.pack);
                let sealed = frame.sealed();
                prop_assert!(range.bytes.start <= sealed.start && sealed.end <= range.bytes.end);
                frames.push(frame.place);
                let located = PackedFrame { pack: frame.pack, place: frame.place };
                found.extend(frame.pieces.iter().map(|piece| (located, *piece)));
            }
        }
        let count = frames.len();
        frames.sort();
        frames.dedup();
        prop_assert_eq!(frames.len(), count);
        let key = |(located, piece): &(PackedFrame, Piece)| (*located, piece.offset_bytes, piece.at);
        let mut wanted = wanted;
        wanted.sort_by_key(key);
        found.sort_by_key(key);
        prop_assert_eq!(found, wanted);
    }
}
