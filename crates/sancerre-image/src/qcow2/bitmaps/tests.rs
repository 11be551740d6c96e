//! Directories and bits, by hand and at random.

use proptest::prelude::*;

use super::*;

fn entry_bytes(name: &str, flags: u32, extra: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&0x5_0000u64.to_be_bytes());
    bytes.extend_from_slice(&1u32.to_be_bytes());
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&[DIRTY_TRACKING, 16]);
    bytes.extend_from_slice(&(name.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&(extra as u32).to_be_bytes());
    bytes.resize(bytes.len() + extra, 7);
    bytes.extend_from_slice(name.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

#[test]
fn entries_follow_each_other_to_the_byte() {
    let both = [entry_bytes("nightly", 0, 0), entry_bytes("a-longer-name", AUTO | IN_USE, 5)].concat();
    let bitmaps = list(&both, 2).unwrap();
    assert_eq!((bitmaps[0].name.as_str(), bitmaps[1].name.as_str()), ("nightly", "a-longer-name"));
    assert!(
        !bitmaps[0].is_foreign && bitmaps[1].is_foreign && bitmaps[1].is_in_use && bitmaps[1].is_recording
    );
    assert!(!list(&entry_bytes("x", EXTRA_COMPATIBLE, 5), 1).unwrap()[0].is_foreign);
    assert!(list(&both, 1).is_err() && list(&both, 3).is_err());
    assert!(list(&both[..both.len() - 8], 2).is_err());
    assert_eq!(list(&[], 0).unwrap(), []);
    assert!(list(&[], u32::MAX).is_err());
}

#[test]
fn entries_of_a_table_are_bits_or_a_cluster() {
    assert_eq!(Bits::of(0).unwrap(), Bits::Same(false));
    assert_eq!(Bits::of(1).unwrap(), Bits::Same(true));
    assert_eq!(Bits::of(0x5_0000).unwrap(), Bits::At(0x5_0000));
    for wrong in [2, 0x5_0001, 1 << 56, 1 << 63 | 0x5_0000] {
        assert!(Bits::of(wrong).is_err(), "{wrong:#x}");
    }
}

proptest! {
    #[test]
    fn no_directory_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), count in any::<u32>()) {
        let _ = list(&bytes, count);
    }

    #[test]
    fn ranges_are_the_bits(
        bytes in prop::collection::vec(prop::sample::select(vec![0u8, 0, 0xff, 0x80, 1, 0x5a]), 0..40),
        start in 0u64..10_000, ask in (0u64..5000, 0u64..5000), granularity in prop::sample::select(vec![1u64, 8, 64]),
    ) {
        let part = start + ask.0..start + ask.0 + ask.1;
        let mut found = Vec::new();
        marked(&bytes, start, granularity, &part, &mut found);
        let is_set = |at: u64| {
            let bit = (at - start) / granularity;
            bytes.get((bit / 8) as usize).is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
        };
        for at in part {
            prop_assert_eq!(found.iter().any(|range| range.contains(&at)), is_set(at), "{}", at);
        }
        prop_assert!(found.windows(2).all(|pair| pair[0].end < pair[1].start));
    }
}
