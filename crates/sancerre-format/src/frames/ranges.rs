//! Sets of small numbers as ranges.

use crate::error::{Result, ensure};

/// Inclusive ranges, ascending, disjoint, maximal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    /// Whether `value` is in one of the ranges.
    pub fn contains(&self, value: u32) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= value);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, last)| value <= *last)
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        let length = |(first, last): &(u32, u32)| u64::from(last.saturating_sub(*first)).saturating_add(1);
        self.0.iter().map(length).fold(0, u64::saturating_add)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, first and last value of each.
    pub fn as_slice(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// All values, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// Whether every value is in `other` too.
    pub fn is_subset(&self, other: &Self) -> bool {
        let within = |(first, last): &(u32, u32)| {
            let after = other.0.partition_point(|(start, _)| start <= first);
            after.checked_sub(1).and_then(|at| other.0.get(at)).is_some_and(|(_, end)| last <= end)
        };
        self.0.iter().all(within)
    }

    /// Whether both have a value in common.
    pub fn meets(&self, other: &Self) -> bool {
        !self.common(other).is_empty()
    }

    /// The values that both have.
    pub fn common(&self, other: &Self) -> Self {
        let (mut ours, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut common = Vec::new();
        while let (Some((first, last)), Some((start, end))) = (ours.peek(), theirs.peek()) {
            let (from, until) = (*first.max(start), *last.min(end));
            if from <= until {
                common.push((from, until));
            }
            if last < end {
                ours.next()
            } else {
                theirs.next()
            };
        }
        Self(common)
    }

    /// The values that `other` does not have.
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for (first, last) in &self.0 {
            let at = other.0.partition_point(|(_, end)| end < first);
            let gone = other.0.get(at..).unwrap_or_default().iter().take_while(|(start, _)| start <= last);
            let mut from = Some(*first);
            for (start, end) in gone {
                left.extend(from.filter(|at| at < start).map(|at| (at, start.saturating_sub(1))));
                from = end.checked_add(1);
            }
            left.extend(from.filter(|at| at <= last).map(|at| (at, *last)));
        }
        Self(left)
    }

    /// Adds a value.
    pub fn insert(&mut self, value: u32) {
        let at = self.0.partition_point(|(first, _)| *first <= value);
        let before = at.checked_sub(1).and_then(|index| self.0.get(index).copied());
        if before.is_some_and(|(_, last)| value <= last) {
            return;
        }
        let joins_before = before.is_some_and(|(_, last)| last.checked_add(1) == Some(value));
        let joins_after = self.0.get(at).is_some_and(|(first, _)| value.checked_add(1) == Some(*first));
        match (joins_before, joins_after) {
            (true, true) => {
                let (_, last) = self.0.remove(at);
                self.last_mut(at).iter_mut().for_each(|range| range.1 = last);
            }
            (true, false) => self.last_mut(at).iter_mut().for_each(|range| range.1 = value),
            (false, true) => self.0.get_mut(at).into_iter().for_each(|range| range.0 = value),
            (false, false) => self.0.insert(at, (value, value)),
        }
    }

    /// Adds all values of `other`.
    pub fn union(&mut self, other: &Self) {
        let mut all = [self.0.as_slice(), other.0.as_slice()].concat();
        all.sort_unstable();
        self.0.clear();
        for (first, last) in all {
            match self.0.last_mut() {
                Some((_, end)) if end.checked_add(1).is_none_or(|next| first <= next) => {
                    *end = last.max(*end);
                }
                _ => self.0.push((first, last)),
            }
        }
    }

    fn last_mut(&mut self, at: usize) -> Option<&mut (u32, u32)> {
        self.0.get_mut(at.checked_sub(1)?)
    }

    /// Adds a range behind all others and not next to the last.
    pub(super) fn push(&mut self, first: u32, last: u32) -> Result<()> {
        let gap = self.0.last().is_none_or(|(_, end)| end.checked_add(1).is_some_and(|next| next < first));
        ensure(first <= last && gap, super::WHAT, || format!("range {first}-{last} is out of order"))?;
        self.0.push((first, last));
        Ok(())
    }
}
