//! What of a disk is not at its target as it is to be, found before anything is written: for targets that keep what is replaced.

use std::ops::Range;
use std::sync::Arc;

use sancerre_format::outcome::Member;

use crate::error::Result;
use crate::restore::fetch::Fetcher;
use crate::restore::keep::{Found, compare};
use crate::restore::plan::Holes;
use crate::restore::sink::Sink;
use crate::restore::walk::MapWalk;

/// Ranges that are remembered, 16 MiB of them; more are joined with what lies between.
const RANGES_MAX: usize = 1 << 20;
/// Gaps that are closed first when they are too many.
const GAP_BYTES: u64 = 1 << 20;

/// Ranges of a disk: ascending, disjoint, and at least all that will change.
#[derive(Debug, Default)]
pub(super) struct Survey {
    ranges: Vec<Range<u64>>,
}

impl Survey {
    fn of(mut ranges: Vec<Range<u64>>) -> Self {
        ranges.sort_unstable_by_key(|range| range.start);
        let mut survey = Self { ranges: joined(ranges, 0) };
        let mut gap_bytes = GAP_BYTES;
        while survey.ranges.len() > RANGES_MAX {
            survey.ranges = joined(survey.ranges, gap_bytes);
            gap_bytes = gap_bytes.saturating_mul(2);
        }
        survey
    }

    /// The ranges.
    pub(super) fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// What of them lies in `range`.
    pub(super) fn within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let first = self.ranges.partition_point(|known| known.end <= range.start);
        let touching = self.ranges.iter().skip(first).take_while(|known| known.start < range.end);
        touching.map(|known| known.start.max(range.start)..known.end.min(range.end)).collect()
    }
}

fn joined(ranges: Vec<Range<u64>>, gap_bytes: u64) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    for range in ranges.into_iter().filter(|range| !range.is_empty()) {
        match found.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(gap_bytes) => {
                last.end = last.end.max(range.end);
            }
            _ => found.push(range),
        }
    }
    found
}

/// Compares all of the disk with what is at the target. Nothing but the map is fetched.
pub(super) async fn survey(fetcher: &Fetcher<'_>, member: &Member, sink: &Arc<Sink>) -> Result<Survey> {
    let (mut walk, mut holes) = (MapWalk::new(fetcher, member)?, Holes::default());
    let mut changed: Vec<Range<u64>> = Vec::new();
    let blame = |error| fetcher.reader.blame(error);
    while let Some(window) = walk.next().await? {
        let gaps = window.iter().map(|(_, chunk)| holes.before(&chunk.disk()));
        let gaps = gaps.collect::<std::result::Result<Vec<_>, _>>().map_err(blame)?;
        changed.extend(not_zero(fetcher, sink, gaps).await?);
        let missing = compare(fetcher, sink, window, Found::Left).await?;
        changed.extend(missing.iter().map(|(_, chunk)| chunk.disk()));
        // Many small ones become few before the next window.
        if changed.len() > RANGES_MAX {
            changed = Survey::of(changed).ranges;
        }
    }
    let end = holes.before(&(member.size_bytes..member.size_bytes)).map_err(blame)?;
    changed.extend(not_zero(fetcher, sink, vec![end]).await?);
    Ok(Survey::of(changed))
}

/// Where holes of the disk are none at the target.
async fn not_zero(fetcher: &Fetcher<'_>, sink: &Arc<Sink>, gaps: Vec<Range<u64>>) -> Result<Vec<Range<u64>>> {
    let sink = Arc::clone(sink);
    let look = move || {
        let mut found = Vec::new();
        for gap in gaps.into_iter().filter(|gap| !gap.is_empty()) {
            sink.monitor.check()?;
            match sink.target.old().iter().find(|old| old.is_in_place()) {
                Some(old) => found.extend(old.not_zero(gap)),
                None => found.push(gap),
            }
        }
        Ok(found)
    };
    fetcher.compute(look).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_survey_leaves_nothing_out_and_tells_what_lies_in_a_range() {
        let survey = Survey::of(vec![30..40, 0..10, 10..12, 35..50, 7..7]);
        assert_eq!(survey.ranges(), [0..12, 30..50]);
        assert_eq!(survey.within(&(11..31)), [11..12, 30..31]);
        assert!(survey.within(&(12..30)).is_empty());
        let many = Survey::of((0..RANGES_MAX as u64 + 2).map(|at| at * 3..at * 3 + 1).collect());
        assert!(many.ranges().len() <= RANGES_MAX);
        assert_eq!(many.within(&(0..1)).len() + many.within(&(RANGES_MAX as u64 * 3..u64::MAX)).len(), 2);
    }
}
