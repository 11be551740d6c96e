//! Where on its disks a night left its traces.

use std::ops::Range;
use std::sync::Arc;

use sancerre_advice::Verb::SnapshotDetails;
use sancerre_format::names::Title;
use sancerre_format::outcome::MemberKind;

use super::extent::{Counts, EXTENT_BYTES};
use super::stored::{SeenNight, StoredStatistics, seen};
use super::trace::Start;
use crate::error::{Error, Result};
use crate::restore::SnapshotReader;

/// Places of a disk that are named; the rest is summed up by its counts.
const PLACES_MAX: usize = 64;

/// A stretch of a disk where something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracePlace {
    /// Where, in bytes.
    pub range: Range<u64>,
    /// What was counted there.
    pub counts: Counts,
}

/// One disk of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// Its name.
    pub name: Title,
    /// What is known of the night; none without statistics.
    pub night: Option<SeenNight>,
    /// Where, ascending: of very many places those with the most losses.
    pub places: Vec<TracePlace>,
}

/// Reads the statistics of a snapshot; of one disk if it is named.
///
/// Errors: no such disk; statistics that cannot be read.
pub async fn explain(reader: &SnapshotReader, wanted: Option<&Title>) -> Result<Vec<Explained>> {
    let body = reader.body();
    let is_wanted = |name: &Title| wanted.is_none_or(|wanted| wanted == name);
    let disks: Vec<_> = body
        .members
        .iter()
        .filter(|member| member.kind == MemberKind::Disk && is_wanted(&member.name))
        .collect();
    if let (Some(wanted), true) = (wanted, disks.is_empty()) {
        return Err(Error::Usage(format!("the snapshot has no disk {wanted}; see {SnapshotDetails}")));
    }
    let stored = StoredStatistics::open(Arc::clone(reader.frames()), body).await?;
    let mut explained = Vec::new();
    for member in disks {
        let extents = match &stored {
            Some(stored) => stored.extents(&member.name).await?,
            None => Vec::new(),
        };
        let mut places = joined(&extents, member.size_bytes);
        if places.len() > PLACES_MAX {
            places.sort_by_key(|place| std::cmp::Reverse(weight(&place.counts)));
            places.truncate(PLACES_MAX);
            places.sort_by_key(|place| place.range.start);
        }
        explained.push(Explained { name: member.name.clone(), night: seen(member), places });
    }
    Ok(explained)
}

/// The blocks of a disk at which a file or a page started in the snapshot before, and does not any more, ascending; none where
/// one of both has no statistics of it.
///
/// Errors: statistics that cannot be read.
pub async fn ended(before: &SnapshotReader, now: &SnapshotReader, disk: &Title) -> Result<Option<Vec<u64>>> {
    let mut starts = Vec::new();
    for reader in [before, now] {
        let stored = StoredStatistics::open(Arc::clone(reader.frames()), reader.body()).await?;
        let Some(stored) = stored.filter(|stored| stored.disk(disk).is_some()) else { return Ok(None) };
        starts.push(stored.starts(disk, 0, u64::MAX).await?);
    }
    let (Some(now), Some(before)) = (starts.pop(), starts.pop()) else { return Ok(None) };
    let is_gone = |(block, _): &Start| now.binary_search_by_key(block, |(block, _)| *block).is_err();
    Ok(Some(before.into_iter().filter(is_gone).map(|(block, _)| block).collect()))
}

fn weight(counts: &Counts) -> (u64, u64) {
    let files = [counts.lost, counts.pages_lost, counts.covered, counts.vanished, counts.headless];
    (files.iter().fold(0, |sum, count| sum.saturating_add(*count)), counts.random)
}

/// Extents in a row are one place when files were lost in all of them, or in none.
fn joined(extents: &[(u64, Counts)], size_bytes: u64) -> Vec<TracePlace> {
    let mut places: Vec<TracePlace> = Vec::new();
    for (extent, counts) in extents {
        let start = extent.saturating_mul(EXTENT_BYTES);
        let range = start..start.saturating_add(EXTENT_BYTES).min(size_bytes).max(start);
        match places.last_mut() {
            Some(last)
                if last.range.end == range.start
                    && (weight(&last.counts).0 == 0) == (weight(counts).0 == 0) =>
            {
                last.range.end = range.end;
                last.counts.add(counts);
            }
            _ => places.push(TracePlace { range, counts: *counts }),
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_with_losses_are_one_place() {
        let counts = |lost| Counts { lost, changed: 1, ..Counts::default() };
        let extents = [(0, counts(0)), (1, counts(0)), (2, counts(3)), (3, counts(1)), (7, counts(1))];
        let places = joined(&extents, 30 << 20);
        let told: Vec<_> = places.iter().map(|place| (place.range.clone(), place.counts.lost)).collect();
        let mib = |from: u64, to: u64| from << 20..to << 20;
        assert_eq!(told, [(mib(0, 8), 0), (mib(8, 16), 4), (mib(28, 30), 1)]);
    }
}
