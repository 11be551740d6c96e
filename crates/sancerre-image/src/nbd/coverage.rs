//! Which bytes of an answer have come: each must come exactly once.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges that have come, by their start; neighbours are one.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    ends: BTreeMap<u64, u64>,
}

impl Coverage {
    /// False, and nothing added, when a byte of `range` has come before. `range` is not empty.
    pub(super) fn add(&mut self, range: Range<u64>) -> bool {
        let before = self.ends.range(..=range.start).next_back().map(|(start, end)| (*start, *end));
        let after = self.ends.range(range.start..).next().map(|(start, end)| (*start, *end));
        if before.is_some_and(|(_, end)| end > range.start)
            || after.is_some_and(|(start, _)| start < range.end)
        {
            return false;
        }
        let mut joined = range.clone();
        if let Some((start, end)) = before
            && end == range.start
        {
            joined.start = start;
        }
        if let Some((start, end)) = after
            && start == range.end
        {
            self.ends.remove(&start);
            joined.end = end;
        }
        self.ends.insert(joined.start, joined.end);
        true
    }

    /// Whether all of `range` has come.
    pub(super) fn is_whole(&self, range: &Range<u64>) -> bool {
        range.is_empty() || self.ends.get(&range.start).is_some_and(|end| *end >= range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::Coverage;

    #[test]
    fn bytes_come_once_in_any_order() {
        let mut coverage = Coverage::default();
        assert!(coverage.add(10..20) && coverage.add(30..40) && !coverage.is_whole(&(10..40)));
        for twice in [10..11, 19..25, 5..11, 0..100, 25..31] {
            assert!(!coverage.add(twice.clone()), "{twice:?}");
        }
        assert!(coverage.add(20..30) && coverage.is_whole(&(10..40)));
        assert_eq!(coverage.ends.len(), 1);
        assert!(!coverage.is_whole(&(10..41)) && !coverage.is_whole(&(9..40)));
        assert!(coverage.add(0..10) && coverage.is_whole(&(0..40)));
    }
}
