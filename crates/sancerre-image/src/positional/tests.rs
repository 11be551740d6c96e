//! Reads through a medium that interrupts, delivers little, and fails where the test says.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;

use proptest::prelude::*;

use super::{BLOCK_BYTES, Stop, is_inside, read_exact, read_what_reads};

const MEDIUM_BYTES: usize = 64 * 1024;

fn content() -> Vec<u8> {
    (0..MEDIUM_BYTES).map(|at| (at * 31 % 251) as u8).collect()
}

/// A medium whose `bad` blocks fail; as a kernel does, it delivers what comes before the bad block first.
fn pread(content: &[u8], bad: &BTreeSet<u64>, most: usize, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let start = (at as usize).min(content.len());
    let end = start.saturating_add(buffer.len().min(most)).min(content.len());
    let first_bad = bad.range(at / BLOCK_BYTES..).next().map_or(usize::MAX, |b| (b * BLOCK_BYTES) as usize);
    if first_bad <= start && start < content.len() {
        return Err(io::Error::from_raw_os_error(5));
    }
    let end = end.min(first_bad);
    buffer[..end - start].copy_from_slice(&content[start..end]);
    Ok(end - start)
}

#[test]
fn interruptions_and_short_reads_are_continued() {
    let (content, calls) = (content(), Cell::new(0));
    let flaky = |buffer: &mut [u8], at: u64| {
        calls.set(calls.get() + 1);
        if calls.get() % 2 == 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        pread(&content, &BTreeSet::new(), 1000, buffer, at)
    };
    let mut buffer = vec![0; 10_000];
    read_exact(flaky, 77, &mut buffer).unwrap();
    assert_eq!(buffer, content[77..10_077]);
    assert!(calls.get() >= 19, "{} calls", calls.get());
}

/// A large read that fails whole, as with a bad sector behind a controller, still yields every good block.
#[test]
fn an_error_that_goes_away_block_by_block_costs_nothing() {
    let content = content();
    let large_fails = |buffer: &mut [u8], at: u64| {
        if buffer.len() > 4096 {
            return Err(io::Error::from_raw_os_error(5));
        }
        pread(&content, &BTreeSet::new(), usize::MAX, buffer, at)
    };
    let mut buffer = vec![0; 50_000];
    read_exact(large_fails, 123, &mut buffer).unwrap();
    assert_eq!(buffer, content[123..50_123]);
}

#[test]
fn the_end_of_the_medium_is_not_an_error_of_a_block() {
    let content = content();
    let mut buffer = vec![0; 100];
    let stop = read_exact(|b, at| pread(&content, &BTreeSet::new(), usize::MAX, b, at), 65_500, &mut buffer)
        .unwrap_err();
    assert!(matches!(stop, Stop::End(65_536)), "{stop:?}");
}

/// A device that went away is not a disk of which every block is bad.
#[test]
fn a_medium_that_is_gone_is_an_error_and_no_bad_block() {
    for (code, is_of_the_medium) in [(5, true), (61, true), (6, false), (19, false), (116, false)] {
        let fails = |_: &mut [u8], _: u64| Err(io::Error::from_raw_os_error(code));
        let result = read_what_reads(fails, 0, &mut [1; 5000]);
        match is_of_the_medium {
            true => assert_eq!(result.unwrap(), std::slice::from_ref(&(0..5000)), "{code}"),
            false => assert!(matches!(result, Err(Stop::Block { offset: 0, .. })), "{code}"),
        }
    }
}

#[test]
fn ranges_that_overflow_are_outside() {
    assert!(is_inside(10, 0, 10) && is_inside(0, 10, 10));
    assert!(!is_inside(10, 1, 10) && !is_inside(11, 0, 10) && !is_inside(u64::MAX, 2, u64::MAX));
}

proptest! {
    /// Either all bytes arrive, or the first bad block of the range is named, to the byte.
    #[test]
    fn the_first_bad_block_is_named(
        bad in prop::collection::btree_set(0u64..16, 0..4),
        start in 0usize..MEDIUM_BYTES,
        length in 1usize..40_000,
        most in 1usize..9_000,
    ) {
        let content = content();
        let end = (start + length).min(MEDIUM_BYTES);
        let mut buffer = vec![0; end - start];
        let result = read_exact(|b, at| pread(&content, &bad, most, b, at), start as u64, &mut buffer);
        let first = start as u64 / BLOCK_BYTES;
        let expected = bad.range(first..).next().filter(|block| *block * BLOCK_BYTES < end as u64);
        match (result, expected) {
            (Ok(()), None) => prop_assert_eq!(&buffer[..], &content[start..end]),
            (Err(Stop::Block { offset, length_bytes, source }), Some(block)) => {
                let from = (block * BLOCK_BYTES).max(start as u64);
                let to = ((block + 1) * BLOCK_BYTES).min(end as u64);
                prop_assert_eq!((offset, length_bytes), (from, to - from));
                prop_assert_eq!(source.raw_os_error(), Some(5));
            }
            (result, expected) => prop_assert!(false, "{:?} but expected bad block {:?}", result, expected),
        }
    }

    /// Every good byte arrives, every bad one is zero, and the bad ones are named.
    #[test]
    fn what_reads_is_read(
        bad in prop::collection::btree_set(0u64..16, 0..9),
        start in 0usize..MEDIUM_BYTES,
        length in 1usize..40_000,
        most in 1usize..9_000,
    ) {
        let content = content();
        let end = (start + length).min(MEDIUM_BYTES);
        let mut buffer = vec![0xAA; end - start];
        let named =
            read_what_reads(|b, at| pread(&content, &bad, most, b, at), start as u64, &mut buffer).unwrap();
        prop_assert!(named.is_sorted_by(|one, next| one.end < next.start), "{:?}", named);
        for (at, byte) in (start..).zip(&buffer) {
            let is_bad = bad.contains(&(at as u64 / BLOCK_BYTES));
            prop_assert_eq!(*byte, if is_bad { 0 } else { content[at] });
            prop_assert_eq!(named.iter().any(|range| range.contains(&(at as u64))), is_bad);
        }
    }
}
