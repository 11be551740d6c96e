//! Other copies of what was found lost: what a restore would find, and where it would look for it.
//!
//! A copy counts when the index names it, its pack is there and not lost, and the pack's own table says that it holds this
//! very chunk. A copy of a map node is opened, and the walk goes on below it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use futures::StreamExt;
use sancerre_format::id::{ContentId, Place};

use super::packs;
use super::report::Affected;
use super::run::{Run, tolerate};
use super::tables::Tables;
use crate::error::Result;
use crate::index::{Segment, segments};

/// Lost chunks that may wait for the index to be searched: one pass for many.
const WAITING_MAX: usize = 16 << 10;
/// Segments of the index searched at once.
const SEGMENTS_IN_FLIGHT: usize = 16;

/// The places of ids, newest first.
pub(super) type Places = HashMap<ContentId, Vec<Place>>;

/// A chunk that is not where a map says.
struct Loss {
    /// What is to blame.
    object: String,
    disks: Arc<Vec<(usize, usize)>>,
    range: Range<u64>,
    id: ContentId,
}

/// The search for copies.
pub(super) struct Elsewhere {
    /// Whether all that is needed is seen: what nobody looks for has no copy.
    is_whole: bool,
    /// Whether the walk went on below a copy of a node: what the lost one named is not met then.
    has_copied: bool,
    /// Segments with their page tables, of which a merge keeps few; opened when something is lost, and not before.
    segments: Option<Vec<Segment>>,
    waiting: Vec<Loss>,
}

impl Elsewhere {
    /// Nothing is read yet. Where there are snapshots whose maps are not walked nobody can say that all of a loss is healed.
    pub(super) fn new(run: &Run<'_>) -> Self {
        let keys = &run.repository.keys;
        let is_walked = |generation: Option<u16>| generation.is_some_and(|made| keys.zone_keys(made).is_ok());
        let mut subjects = run.subjects.iter();
        let is_whole = subjects.all(|subject| is_walked(subject.generation) && !subject.members.is_empty());
        Self { is_whole, has_copied: false, segments: None, waiting: Vec::new() }
    }

    /// Notes that the walk goes on below a copy.
    pub(super) fn copied(&mut self) {
        self.has_copied = true;
    }

    /// At the end of the walk: what of snapshots that are whole nobody met, because it went on below copies, costs nothing.
    pub(super) fn finish(&self, run: &mut Run<'_>) {
        if !self.has_copied {
            return;
        }
        for (subject, object) in packs::concerned(run) {
            if !run.findings.is_spoiled(subject) {
                run.findings.heal_unseen(&object, subject);
            }
        }
    }

    /// Notes a chunk of which a copy is to be sought.
    pub(super) fn lose(
        &mut self,
        object: &str,
        disks: &Arc<Vec<(usize, usize)>>,
        chunks: impl Iterator<Item = (ContentId, Range<u64>)>,
    ) {
        self.waiting.extend(chunks.map(|(id, range)| Loss {
            object: object.to_owned(),
            disks: Arc::clone(disks),
            range,
            id,
        }));
    }

    /// Whether so much waits that it should be judged.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() > WAITING_MAX
    }

    /// Says of everything that waits what it costs, or that it lies elsewhere too.
    pub(super) async fn judge(&mut self, run: &mut Run<'_>, tables: &mut Tables) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        let ids: BTreeSet<ContentId> = waiting.iter().map(|loss| loss.id).collect();
        let mut healed = BTreeSet::new();
        for (id, places) in self.places(run, &ids).await? {
            for place in places {
                if lies(run, tables, &id, &place, false).await? {
                    healed.insert(id);
                    break;
                }
            }
        }
        for Loss { object, disks, range, id } in waiting {
            for (subject, disk) in disks.iter() {
                let victim: Affected = (*subject, Some(*disk));
                if healed.contains(&id) {
                    run.findings.heal(&object, victim, range.clone());
                } else {
                    run.findings.cost(&object, victim, Some(range.clone()));
                }
            }
        }
        Ok(())
    }

    /// Where the index says that these lie.
    pub(super) async fn places(&mut self, run: &Run<'_>, ids: &BTreeSet<ContentId>) -> Result<Places> {
        let mut places = Places::new();
        if !self.is_whole {
            return Ok(places);
        }
        if self.segments.is_none() {
            self.segments = Some(open(run).await?);
        }
        let segments = self.segments.as_deref().unwrap_or_default();
        let searches = segments.iter().map(|segment| segment.find(run.repository, ids));
        let mut searches = std::pin::pin!(futures::stream::iter(searches).buffered(SEGMENTS_IN_FLIGHT));
        while let Some(found) = searches.next().await {
            run.monitor.check()?;
            match found {
                Ok(found) => {
                    found.into_iter().for_each(|(id, place)| places.entry(id).or_default().push(place));
                }
                // The check of the index tells of it.
                Err(error) => drop(tolerate(run.repository, error).await?),
            }
        }
        Ok(places)
    }
}

/// All segments, newest first; covered ones too, for a merge keeps one place of each chunk.
async fn open(run: &Run<'_>) -> Result<Vec<Segment>> {
    let listed: BTreeMap<_, _> = segments(run.repository, &run.log).await?;
    let opens = listed
        .into_iter()
        .rev()
        .map(|(name, size_bytes)| Segment::open(run.repository, &run.log, name, size_bytes));
    let mut opens = std::pin::pin!(futures::stream::iter(opens).buffered(SEGMENTS_IN_FLIGHT));
    let mut opened = Vec::new();
    while let Some(segment) = opens.next().await {
        match segment {
            Ok(segment) => opened.extend(segment),
            // The check of the index tells of it.
            Err(error) => drop(tolerate(run.repository, error).await?),
        }
    }
    Ok(opened)
}

/// Whether a chunk or node lies at a place, as far as this check knows.
pub(super) async fn lies(
    run: &mut Run<'_>,
    tables: &mut Tables,
    id: &ContentId,
    place: &Place,
    is_metadata: bool,
) -> Result<bool> {
    let pack = run.inventory.moves.pack(&place.frame.frame);
    if run.inventory.fault(run.repository, pack).is_some()
        || run.lost.contains(&place.frame.frame, &pack)
        || run.inventory.misplaced(&place.frame, is_metadata).is_some()
    {
        return Ok(false);
    }
    let table = tables.of_copy(run, pack).await?;
    Ok(table.is_some_and(|table| table.has(id, place, pack != place.frame.frame.pack)))
}
