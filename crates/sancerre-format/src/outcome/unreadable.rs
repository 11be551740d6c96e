//! What of a member could not be read when it was backed up, and stands as zeros (FORMAT.md §8.1).

use std::fmt;
use std::ops::Range;

use crate::error::{Result, corrupt, ensure};
use crate::text::number;

const WHAT: &str = "sancerre-body-v1";
/// Longest text of a value: a line of a body, with all else that stands in it, is at most 64 KiB.
const TEXT_BYTES_MAX: usize = 48 << 10;

/// Ranges of bytes: ascending, not empty, none of which touches the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unreadable(Vec<Range<u64>>);

impl Unreadable {
    /// Puts ranges in order. When they are too many for a line of text, those that lie closest to each other become one,
    /// which then names bytes that could be read: never is one left out that could not.
    pub fn new(mut ranges: Vec<Range<u64>>) -> Self {
        ranges.retain(|range| range.start < range.end);
        ranges.sort_unstable_by_key(|range| (range.start, range.end));
        let mut gap = 0;
        loop {
            let merged = Self(merge(&ranges, gap));
            if merged.to_string().len() <= TEXT_BYTES_MAX {
                return merged;
            }
            gap = gap.saturating_mul(2).max(1);
        }
    }

    /// Reads the value of a member with `size_bytes`.
    pub fn parse(text: &str, size_bytes: u64) -> Result<Self> {
        let bad = || corrupt(WHAT, format!("{text:?} are no ranges of {size_bytes} bytes"));
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for word in text.split(',') {
            let (start, length) = word.split_once('+').ok_or_else(bad)?;
            let (start, length): (u64, u64) = (number(WHAT, start)?, number(WHAT, length)?);
            let end = start.checked_add(length).filter(|end| *end <= size_bytes).ok_or_else(bad)?;
            let is_behind = ranges.last().is_none_or(|last| last.end < start);
            ensure(length > 0 && is_behind, WHAT, || format!("{text:?} are not in order"))?;
            ranges.push(start..end);
        }
        Ok(Self(ranges))
    }

    /// The ranges.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }

    /// Whether all could be read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes they are.
    pub fn bytes(&self) -> u64 {
        self.0.iter().fold(0, |sum, range| sum.saturating_add(range.end.saturating_sub(range.start)))
    }
}

/// Ranges with no more than `gap` bytes between them become one.
fn merge(ranges: &[Range<u64>], gap: u64) -> Vec<Range<u64>> {
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end.saturating_add(gap) >= range.start => last.end = last.end.max(range.end),
            _ => merged.push(range.clone()),
        }
    }
    merged
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, range) in self.0.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            write!(f, "{comma}{}+{}", range.start, range.end.saturating_sub(range.start))?;
        }
        Ok(())
    }
}
