//! Merging: many small segments become few large ones, whose ids do not overlap. Nothing is deleted.
//!
//! ```text
//! heads ─choose─> inputs ─pages, ascending─> heap ─newest place of each id, if not avoided─> segments of one run
//! ```
//!
//! Memory is bounded: some pages of each input, and one segment in the making. The last segment of the run covers
//! the inputs, so until it is there nothing is hidden.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use sancerre_format::id::{ContentId, Place};
use sancerre_format::index::{IndexEntry, SegmentBuilder, SegmentName};
use sancerre_format::log::Kind;

use super::publish::Publisher;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Topic, add};
use crate::repository::Repository;
use crate::repository::log::{Avoid, Log};
use sancerre_repository::index::{Head, Segment, ignored, read_uncovered, retain_heard, segments};
use sancerre_repository::index::{SegmentRun, run_of};

/// With more runs than this a backup merges small ones when it is done.
const RUNS_MAX: usize = 16;
/// Entries that a backup merges at most, besides twice what it stored itself: a minute of work at worst.
const AFTER_BACKUP_ENTRIES: u64 = 1 << 20;
/// A run joins when it is at most so many times as large as all smaller ones together: each entry is then written
/// again a few times in its life, and a hundred million chunks are three runs.
const RATIO: u64 = 8;
/// Runs that are never too large to join.
const SMALL_ENTRIES: u64 = 1 << 16;
/// Entries of a merged segment: some 24 MiB.
pub(super) const SEGMENT_ENTRIES: u64 = 1 << 19;
/// Pages of all inputs in memory: 40 MiB, or one page of each.
const PAGES_HELD: usize = 512;
/// Entries on their way to the pool.
const BATCH: usize = 1 << 14;
/// Page tables read at once.
const TABLES_IN_FLIGHT: usize = 8;

/// What a merge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeReport {
    /// Segments that need not be read any more.
    pub replaced: u64,
    /// Segments that took their place.
    pub segments: u64,
    /// Chunks in them.
    pub entries: u64,
}

/// Merges whatever is worth merging; none when nothing is.
///
/// Errors: [`Error::WrongKey`] without a key that signs; the store's. Damage is a warning.
pub async fn merge_index(
    repository: &Repository,
    log: &mut Log,
    monitor: &Monitor,
) -> Result<Option<MergeReport>> {
    log.refuse_unread(&repository.keys.zone)?;
    merge(repository, log, monitor, |sizes| choose(sizes, Log::END)).await
}

/// After a backup that found `runs` runs and stored `new_chunks`: merges the small ones if they are too many. A
/// failure is a warning, for the snapshot is saved.
pub(crate) async fn merge_after_backup(
    repository: &Repository,
    log: &mut Log,
    runs: usize,
    new_chunks: u64,
    monitor: &Monitor,
) {
    if runs <= RUNS_MAX {
        return;
    }
    let limit = AFTER_BACKUP_ENTRIES.saturating_add(new_chunks.saturating_mul(2));
    if let Err(error) = merge(repository, log, monitor, |sizes| choose(sizes, limit)).await {
        monitor.warn(
            Topic::Hint,
            format!("the snapshot is saved, but small segments of the index could not be merged: {error}"),
        );
    }
}

/// The runs to merge: the smallest ones, up to the last that is not much larger than all smaller ones, and as many as
/// have no more than `limit` entries together.
fn choose(sizes: &BTreeMap<SegmentRun, u64>, limit: u64) -> BTreeSet<SegmentRun> {
    let mut ascending: Vec<(u64, SegmentRun)> = sizes.iter().map(|(run, entries)| (*entries, *run)).collect();
    ascending.sort_unstable();
    let (mut chosen, mut total) = (0, 0u64);
    for (number, (entries, _)) in ascending.iter().enumerate() {
        let near = *entries <= SMALL_ENTRIES.max(total.saturating_mul(RATIO));
        total = total.saturating_add(*entries);
        if total > limit {
            break;
        }
        if near {
            chosen = number.saturating_add(1);
        }
    }
    let chosen = if chosen < 2 { 0 } else { chosen };
    ascending.into_iter().take(chosen).map(|(_, run)| run).collect()
}

/// Merges the runs that `pick` names, of those that nothing covers.
pub(super) async fn merge(
    repository: &Repository,
    log: &mut Log,
    monitor: &Monitor,
    pick: impl FnOnce(&BTreeMap<SegmentRun, u64>) -> BTreeSet<SegmentRun>,
) -> Result<Option<MergeReport>> {
    repository.signer(Kind::Index.roles())?;
    let mut listed = segments(repository, log).await?;
    // What a writer who is not trusted said is not handed on; what others handed on of it is proven when it is used.
    retain_heard(log, &log.avoid(Log::END)?, &mut listed);
    let (mut heads, mut sizes) = (Vec::new(), BTreeMap::new());
    let covered = {
        let log = &*log;
        let read = |name, size_bytes| Head::read(repository, log, name, size_bytes);
        read_uncovered((repository, log), monitor, &listed, read, |head: Head| {
            let size: &mut u64 = sizes.entry(run_of(head.name, head.scope)).or_default();
            *size = size.saturating_add(head.fields.entries);
            heads.push(head);
        })
        .await?
    };
    let picked = pick(&sizes);
    heads.retain(|head| picked.contains(&run_of(head.name, head.scope)));
    if heads.len() < 2 {
        return Ok(None);
    }
    add(&monitor.counters.total_bytes, heads.iter().filter_map(|head| listed.get(&head.name)).sum());
    let before = log.highest();
    let publisher = Publisher::announce(repository, log).await?;
    if somebody_merges(log, before, publisher.id.number) {
        return Ok(None);
    }
    let avoid = log.avoid(publisher.id.number)?;
    // What the inputs cover is still covered when they are.
    let mut covers: BTreeSet<SegmentName> =
        covered.into_iter().filter(|name| listed.contains_key(name)).collect();
    covers.extend(heads.iter().map(|head| head.name));
    let replaced = u64::try_from(heads.len()).unwrap_or(u64::MAX);
    let mut output = Output::new(repository, publisher);
    write(repository, monitor, heads, &avoid, &mut output).await?;
    output.finish(covers.into_iter().collect()).await?;
    let Publisher { segments, entries, .. } = output.publisher;
    Ok(Some(MergeReport { replaced, segments: segments.into(), entries }))
}

/// Many backups end at the same time, and one merge is enough: the lower number does it.
fn somebody_merges(log: &Log, before: u64, own: u64) -> bool {
    let between =
        log.entries().filter(|entry| (before.saturating_add(1)..own).contains(&entry.session.number));
    between
        .filter_map(|entry| entry.entry.as_deref().ok())
        .any(|entry| matches!(entry.fields.kind, Kind::Index))
}

/// From the inputs to the output.
async fn write(
    repository: &Repository,
    monitor: &Monitor,
    heads: Vec<Head>,
    avoid: &Avoid,
    output: &mut Output<'_>,
) -> Result<()> {
    let opened = heads.into_iter().map(|head| open(repository, monitor, head));
    let opened: Vec<Option<Segment>> =
        futures::stream::iter(opened).buffered(TABLES_IN_FLIGHT).try_collect().await?;
    let mut merging = Merging::new(repository, monitor, opened.into_iter().flatten().collect());
    output.sessions = merging.sessions();
    merging.start().await?;
    let (mut batch, mut last) = (Vec::with_capacity(BATCH), None);
    while let Some(entry) = merging.next().await? {
        // Of several places the newest that may be used; a segment whose pages overlap was made by no sound program.
        if last < Some(entry.id) && !avoid.contains(&entry.place.frame.frame) {
            last = Some(entry.id);
            batch.push(entry);
        }
        if batch.len() >= BATCH {
            monitor.check()?;
            output.add(std::mem::take(&mut batch)).await?;
        }
    }
    output.add(batch).await
}

async fn open(repository: &Repository, monitor: &Monitor, head: Head) -> Result<Option<Segment>> {
    let key = head.key.clone();
    match head.open(repository).await {
        Ok(segment) => Ok(Some(segment)),
        Err(error) if error.is_damage() => {
            monitor.warn(Topic::Hint, ignored(&key, &error));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// An input and what of it is in memory.
struct Input {
    segment: Segment,
    next_page: usize,
    entries: std::vec::IntoIter<IndexEntry>,
}

/// The entries of all inputs, ascending; of one id the newest place first.
struct Merging<'a> {
    repository: &'a Repository,
    monitor: &'a Monitor,
    inputs: Vec<Input>,
    pages_each: usize,
    heap: BinaryHeap<Reverse<(ContentId, Reverse<Place>, usize)>>,
}

impl<'a> Merging<'a> {
    fn new(repository: &'a Repository, monitor: &'a Monitor, segments: Vec<Segment>) -> Self {
        let pages_each = (PAGES_HELD / segments.len().max(1)).max(1);
        let input = |segment| Input { segment, next_page: 0, entries: Vec::new().into_iter() };
        let inputs = segments.into_iter().map(input).collect();
        Self { repository, monitor, inputs, pages_each, heap: BinaryHeap::new() }
    }

    fn sessions(&self) -> Arc<[u64]> {
        let all =
            self.inputs.iter().flat_map(|input| input.segment.reader().table().sessions.iter().copied());
        all.collect::<BTreeSet<u64>>().into_iter().collect()
    }

    async fn start(&mut self) -> Result<()> {
        for number in 0..self.inputs.len() {
            self.refill(number).await?;
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<IndexEntry>> {
        let Some(Reverse((id, Reverse(place), number))) = self.heap.pop() else { return Ok(None) };
        self.refill(number).await?;
        Ok(Some(IndexEntry { id, place }))
    }

    /// Puts the next entry of an input on the heap.
    async fn refill(&mut self, number: usize) -> Result<()> {
        let Some(input) = self.inputs.get_mut(number) else { return Ok(()) };
        let next = match input.entries.next() {
            Some(entry) => Some(entry),
            None => input.read(self.repository, self.monitor, self.pages_each).await?,
        };
        self.heap.extend(next.map(|entry| Reverse((entry.id, Reverse(entry.place), number))));
        Ok(())
    }
}

impl Input {
    /// Reads on, and returns the next entry. Damaged pages are told and left out.
    async fn read(
        &mut self,
        repository: &Repository,
        monitor: &Monitor,
        pages: usize,
    ) -> Result<Option<IndexEntry>> {
        let count = self.segment.reader().table().pages.len();
        while self.next_page < count {
            let numbers = self.next_page..self.next_page.saturating_add(pages).min(count);
            self.next_page = numbers.end;
            let read = match self.segment.pages(repository, numbers.clone()).await {
                Err(error) if error.is_damage() => {
                    monitor.warn(Topic::Hint, ignored(&self.segment.key, &error));
                    continue;
                }
                read => read?,
            };
            let mut entries = Vec::new();
            for page in read {
                match page {
                    Ok(page) => entries.extend(page),
                    Err(error) => monitor.warn(Topic::Hint, ignored(&self.segment.key, &error)),
                }
            }
            add(&monitor.counters.done_bytes, self.segment.pages_bytes(numbers));
            self.entries = entries.into_iter();
            if let Some(entry) = self.entries.next() {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

/// The segments of the new run.
struct Output<'a> {
    repository: &'a Repository,
    publisher: Publisher<'a>,
    /// All sessions that the inputs name: the same in each segment, so that readers hold it once.
    sessions: Arc<[u64]>,
    builder: Option<SegmentBuilder>,
}

impl<'a> Output<'a> {
    fn new(repository: &'a Repository, publisher: Publisher<'a>) -> Self {
        Self { repository, publisher, sessions: Arc::default(), builder: None }
    }

    /// Adds ascending entries.
    async fn add(&mut self, mut entries: Vec<IndexEntry>) -> Result<()> {
        while !entries.is_empty() {
            let full = self.builder.as_ref().is_some_and(|builder| builder.entries() >= SEGMENT_ENTRIES);
            if full {
                // More follows, so this is not the last segment: it covers nothing.
                self.publish(Vec::new()).await?;
            }
            let mut builder = match self.builder.take() {
                Some(builder) => builder,
                None => self.new_builder()?,
            };
            let room = SEGMENT_ENTRIES.saturating_sub(builder.entries());
            let taken = usize::try_from(room).unwrap_or(usize::MAX).min(entries.len());
            let rest = entries.split_off(taken);
            let push =
                move || entries.into_iter().try_for_each(|entry| builder.push(entry)).map(|()| builder);
            self.builder = Some(self.repository.host.compute(push).await??);
            entries = rest;
        }
        Ok(())
    }

    fn new_builder(&self) -> Result<SegmentBuilder> {
        let id = self.publisher.id;
        let root = self.repository.keys.metadata_root(&id)?;
        Ok(SegmentBuilder::new(root, id, self.publisher.segments, Arc::clone(&self.sessions)))
    }

    /// Publishes the last segment, which covers the inputs. (All inputs avoided or damaged: there is none.)
    async fn finish(&mut self, covers: Vec<SegmentName>) -> Result<()> {
        self.publish(covers).await
    }

    async fn publish(&mut self, covers: Vec<SegmentName>) -> Result<()> {
        let Some(builder) = self.builder.take() else { return Ok(()) };
        let built = self.repository.host.compute(move || builder.finish()).await?.map_err(Error::Encode)?;
        self.publisher.publish(&built, covers).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [u64; 0] = [];

    fn chosen(sizes: &[u64], limit: u64) -> Vec<u64> {
        let sizes: BTreeMap<SegmentRun, u64> =
            (1..).map(|number| (number, None)).zip(sizes.iter().copied()).collect();
        choose(&sizes, limit).into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn small_runs_are_merged_and_large_ones_are_left() {
        assert_eq!(chosen(&[100_000_000, 5000, 10, 5000], u64::MAX), [2, 3, 4]);
        assert_eq!(chosen(&[100_000_000, 3_000_000, 5000], u64::MAX), NONE);
        assert_eq!(chosen(&[100_000_000, 20_000_000, 3_000_000], u64::MAX), [1, 2, 3]);
        assert_eq!(chosen(&[300_000, 2, 320_000], u64::MAX), [1, 2, 3]);
        assert_eq!(chosen(&[5000], u64::MAX), NONE);
        assert_eq!(chosen(&[], u64::MAX), NONE);
    }

    #[test]
    fn a_run_joins_when_the_smaller_ones_are_worth_it() {
        let small = 60_000;
        assert_eq!(chosen(&[small, small, small * 16], u64::MAX), [1, 2, 3]);
        assert_eq!(chosen(&[small, small, small * 16 + 1], u64::MAX), [1, 2]);
    }

    #[test]
    fn a_backup_merges_no_more_than_its_limit() {
        assert_eq!(chosen(&[400, 500, 600, 700], 1500), [1, 2, 3]);
        assert_eq!(chosen(&[400, 500, 600, 700], 899), NONE);
    }
}
