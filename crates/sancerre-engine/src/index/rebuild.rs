//! Building the index anew from the packs' own tables, for when it was lost or damaged.
//!
//! Nobody can sign for the sessions that wrote the packs, so the new segments belong to a log entry of kind `index`;
//! the last of them *covers* those they replace. They are no more trusted than others: a reader compares every place
//! with the signed pack lists, the store's listing and the avoid set.
//!
//! Packs come in any order of ids, so each segment spans all of them. More than one are merged at the end, as others
//! are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use sancerre_format::FormatError;
use sancerre_format::bytes::to_u64;
use sancerre_format::id::{PackName, Place};
use sancerre_format::index::{self, IndexEntry, SealedSegment, SegmentName};
use sancerre_format::log::Kind;
use sancerre_format::seal::RootKey;

use super::merge::{SEGMENT_ENTRIES, merge};
use super::publish::Publisher;
use crate::check::tolerate;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, add};
use crate::repository::Repository;
use crate::repository::catalogue::{Catalogue, Present};
use crate::repository::log::{Avoid, Log};
use crate::repository::pack_ends::{PackEnds, PackRef};
use sancerre_repository::index::SegmentRun;
use sancerre_repository::index::segments;

/// Packs read at once.
const PACKS_IN_FLIGHT: usize = 16;

/// What a rebuild did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RebuildReport {
    /// Packs whose tables were read.
    pub packs: u64,
    /// Entries of the new index.
    pub entries: u64,
    /// Keys of packs whose tables could not be read, each with the reason; what is in them is stored again when met.
    pub unreadable: Vec<String>,
}

/// Reads the tables of all packs that are listed and present, and publishes them as a new index.
///
/// Reads the ends of packs, not their frames. Errors: [`Error::WrongKey`] without a key that signs; the store's.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.in"));
/// # #[tokio::main] async fn main() -> Shown {
/// # let scene = Scene::new().await?;
/// # let (repository, monitor) = (scene.by_host().await?, &scene.monitor);
/// # save(&repository).await?;
/// let report = sancerre_engine::rebuild_index(&repository, monitor).await?;
/// assert_eq!(report.unreadable.len(), 0);
/// # Ok(()) }
/// ```
pub async fn rebuild_index(repository: &Repository, monitor: &Monitor) -> Result<RebuildReport> {
    rebuild(repository, monitor, SEGMENT_ENTRIES).await
}

/// [`rebuild_index`] with segments of at least so many entries.
pub(super) async fn rebuild(
    repository: &Repository,
    monitor: &Monitor,
    segment_entries: u64,
) -> Result<RebuildReport> {
    repository.signer(Kind::Index.roles())?;
    let mut log = Log::load(repository).await?;
    log.refuse_unread(&repository.keys.zone)?;
    // Segments first: a list is published before the segments that name its packs, so every segment seen here speaks
    // of packs that are read below.
    let old = segments(repository, &log).await?.into_keys().collect();
    let (catalogue, bad_lists) = Catalogue::load_all(repository, &log).await?;
    bad_lists.iter().for_each(|bad| bad.tell(monitor));
    let present = Present::load(repository).await?;
    let sources = sources(repository, &log, &catalogue, &present);
    let mut report = RebuildReport { packs: 0, entries: 0, unreadable: Vec::new() };
    if sources.is_empty() {
        return Ok(report);
    }
    add(&monitor.counters.total_bytes, sources.iter().map(|source| source.listed.size_bytes).sum());
    let avoid = Arc::new(log.avoid(Log::END)?);
    let mut writer = Writer {
        repository,
        publisher: Publisher::announce(repository, &mut log).await?,
        entries: Vec::new(),
        segment_entries,
    };
    let read = sources.into_iter().map(|source| read_pack(repository, monitor, source, &avoid));
    let mut read = std::pin::pin!(futures::stream::iter(read).buffered(PACKS_IN_FLIGHT));
    while let Some(entries) = read.try_next().await? {
        match entries {
            Ok(entries) => {
                report.packs = report.packs.saturating_add(1);
                writer.add(entries).await?;
            }
            Err(problem) => report.unreadable.push(problem),
        }
    }
    let Publisher { id, entries, segments, .. } = writer.finish(old).await?;
    report.entries = entries;
    if segments > 1 {
        let own = |sizes: &BTreeMap<SegmentRun, u64>| {
            sizes.keys().filter(|run| run.0 == id.number).copied().collect()
        };
        let merged = merge(repository, &mut log, monitor, own).await?;
        report.entries = merged.map_or(entries, |merged| merged.entries);
    }
    Ok(report)
}

/// Packs that a verified list names, that are there, and whose ids are made with the zone's present keys.
fn sources(repository: &Repository, log: &Log, catalogue: &Catalogue, present: &Present) -> Vec<PackRef> {
    let current =
        |session: u64| log.generation(session).is_some_and(|made| Some(made) == repository.keys.generation());
    catalogue
        .packs()
        .filter(|(name, listed)| present.has(*name, listed) && current(name.session))
        .filter_map(|(name, _)| PackRef::find(catalogue, name))
        .collect()
}

type Entries = std::result::Result<Vec<IndexEntry>, String>;

async fn read_pack(
    repository: &Repository,
    monitor: &Monitor,
    source: PackRef,
    avoid: &Arc<Avoid>,
) -> Result<Entries> {
    monitor.check()?;
    let entries = match PackEnds::fetch(repository, source).await {
        Ok(ends) => {
            let root = repository.keys.metadata_root(&source.session)?;
            let (key, avoid) = (source.key(repository), Arc::clone(avoid));
            let read = move || read_table(&root, &ends, source.name, &avoid).map_err(Error::object(&key));
            repository.host.compute(read).await?
        }
        Err(error) => Err(error),
    };
    add(&monitor.counters.done_bytes, source.listed.size_bytes);
    match entries {
        Ok(entries) => Ok(Ok(entries)),
        Err(error) => Ok(Err(format!("{}: {}", source.key(repository), tolerate(repository, error).await?))),
    }
}

/// What may be used of the frames that lie in a pack. A frame that gc moved away is told where it lies now; a copy that
/// no gc committed is nobody's.
fn read_table(
    root: &RootKey,
    ends: &PackEnds,
    pack: PackName,
    avoid: &Avoid,
) -> std::result::Result<Vec<IndexEntry>, FormatError> {
    let tail = ends.decode()?;
    let table = tail.open_table(root)?;
    let mut entries = Vec::new();
    let usable = tail.directory().iter().zip(table);
    for (entry, pieces) in usable.filter(|(entry, _)| avoid.pack(&entry.frame) == Some(pack)) {
        let mut offset_bytes = 0u32;
        for (id, size_bytes) in pieces {
            entries.push(IndexEntry { id, place: Place { frame: entry.place(), offset_bytes, size_bytes } });
            offset_bytes = offset_bytes.saturating_add(size_bytes);
        }
    }
    Ok(entries)
}

/// Collects entries as they come, and publishes a segment whenever enough are there.
struct Writer<'a> {
    repository: &'a Repository,
    publisher: Publisher<'a>,
    entries: Vec<IndexEntry>,
    segment_entries: u64,
}

impl<'a> Writer<'a> {
    async fn add(&mut self, entries: Vec<IndexEntry>) -> Result<()> {
        if to_u64(self.entries.len()) >= self.segment_entries {
            // More follows, so this is not the last segment: it covers nothing.
            let built = self.build().await?;
            self.publisher.publish(&built, Vec::new()).await?;
        }
        self.entries.extend(entries);
        Ok(())
    }

    /// The last segment covers whatever was there before.
    async fn finish(mut self, old: BTreeSet<SegmentName>) -> Result<Publisher<'a>> {
        if !self.entries.is_empty() {
            let built = self.build().await?;
            self.publisher.publish(&built, old.into_iter().collect()).await?;
        }
        Ok(self.publisher)
    }

    async fn build(&mut self) -> Result<SealedSegment> {
        let (id, sequence) = (self.publisher.id, self.publisher.segments);
        let root = self.repository.keys.metadata_root(&id)?;
        let mut entries = std::mem::take(&mut self.entries);
        let build = move || index::build_sealed(&mut entries, &root, id, sequence);
        Ok(self.repository.host.compute(build).await??)
    }
}
