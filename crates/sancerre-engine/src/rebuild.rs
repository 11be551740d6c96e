//! Building the index anew from the packs' own tables, for when it was lost or damaged.
//!
//! Nobody can sign for the sessions that wrote the packs, so the new segments belong to a log entry of kind `index`
//! and *cover* those they replace. They are no more trusted than others: a reader compares every place with the
//! signed pack lists, the store's listing and the avoid set.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use sancerre_format::FormatError;
use sancerre_format::bytes::to_u64;
use sancerre_format::id::{PackName, Place, SessionId};
use sancerre_format::index::{self, IndexEntry, SegmentFields, SegmentName};
use sancerre_format::list::ListedPack;
use sancerre_format::log::Kind;
use sancerre_format::names;
use sancerre_format::pack::{PackTail, Trailer};
use sancerre_format::record;
use sancerre_format::seal::RootKey;

use crate::check::tolerate;
use crate::error::{Error, Result};
use crate::known;
use crate::monitor::{Monitor, add};
use crate::repository::Repository;
use crate::repository::catalogue::{Catalogue, Present};
use crate::repository::log::Log;
use crate::repository::session;

/// Entries of a segment at most: about 72 MiB in memory while it is built.
const SEGMENT_ENTRIES: usize = 1 << 20;
/// Packs read at once.
const PACKS_IN_FLIGHT: usize = 16;
/// First guesses of how much of a pack's ends to read: nearly always enough for head, and table with directory.
const HEAD_BYTES: u64 = 4 << 10;
const TAIL_BYTES: u64 = 64 << 10;

/// What a rebuild did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildReport {
    /// Packs whose tables were read.
    pub packs: u64,
    /// Entries of the new index.
    pub entries: u64,
    /// Keys of packs whose tables could not be read, each with the reason; what is in them is stored again when met.
    pub unreadable: Vec<String>,
}

/// A pack whose table is to be read.
#[derive(Debug, Clone, Copy)]
struct Source {
    name: PackName,
    session: SessionId,
    listed: ListedPack,
}

/// Reads the tables of all packs that are listed and present, and publishes them as a new index.
///
/// Reads the ends of packs, not their frames. Errors: [`Error::WrongKey`] without a key that signs; the store's.
pub async fn rebuild_index(repository: &Repository, monitor: &Monitor) -> Result<RebuildReport> {
    repository.signer(Kind::Index.roles())?;
    let log = Log::load(repository).await?;
    // Segments first: a list is published before the segments that name its packs, so every segment seen here speaks
    // of packs that are read below.
    let old = known::segments(repository).await?;
    let (catalogue, bad_lists) = Catalogue::load_all(repository, &log).await?;
    for bad in &bad_lists {
        monitor.warn(format!("pack list {} is ignored: {}; run `sancerre check`", bad.key, bad.error));
    }
    let present = Present::load(repository).await?;
    let sources = sources(repository, &log, &catalogue, &present);
    let mut report = RebuildReport { packs: 0, entries: 0, unreadable: Vec::new() };
    if sources.is_empty() {
        return Ok(report);
    }
    add(&monitor.counters.total_bytes, sources.iter().map(|source| source.listed.size_bytes).sum());
    let avoid = log.avoid(u64::MAX)?;
    let mut writer = Writer::announce(repository, &log).await?;
    let read = sources.iter().map(|source| read_pack(repository, monitor, source));
    let mut read = std::pin::pin!(futures::stream::iter(read).buffered(PACKS_IN_FLIGHT));
    while let Some((source, entries)) = read.try_next().await? {
        match entries {
            Ok(entries) => {
                report.packs = report.packs.saturating_add(1);
                let usable = entries.into_iter().filter(|entry| !avoid.contains(&entry.place.frame.frame));
                writer.add(source.name.session, usable).await?;
            }
            Err(problem) => report.unreadable.push(problem),
        }
    }
    report.entries = writer.finish(old).await?;
    Ok(report)
}

/// Packs that a verified list names, that are there, and whose ids are made with the zone's present keys.
fn sources(repository: &Repository, log: &Log, catalogue: &Catalogue, present: &Present) -> Vec<Source> {
    let current = |session: u64| {
        let entry = log.entry(session).and_then(|entry| entry.entry.as_deref().ok());
        matches!(entry.map(|entry| &entry.fields.kind),
            Some(Kind::Backup(intent)) if Some(intent.generation) == repository.keys.generation())
    };
    catalogue
        .packs()
        .filter(|(name, listed)| present.has(*name, listed) && current(name.session))
        .filter_map(|(name, listed)| {
            Some(Source { name, session: catalogue.session(name.session)?, listed: *listed })
        })
        .collect()
}

type Entries = std::result::Result<Vec<IndexEntry>, String>;

async fn read_pack<'a>(
    repository: &Repository,
    monitor: &Monitor,
    source: &'a Source,
) -> Result<(&'a Source, Entries)> {
    monitor.check()?;
    let key = names::pack(&repository.keys.zone, source.name, &source.listed.hash);
    let entries = match fetch_ends(repository, &key, source).await {
        Ok((head, tail)) => {
            let root = repository.keys.metadata_root(&source.session)?;
            let source = *source;
            let read = move || read_table(&root, &source, &head, &tail).map_err(Error::object(&key));
            repository.host.compute(read).await?
        }
        Err(error) => Err(error),
    };
    add(&monitor.counters.done_bytes, source.listed.size_bytes);
    let entries = match entries {
        Ok(entries) => Ok(entries),
        Err(error) => {
            let key = names::pack(&repository.keys.zone, source.name, &source.listed.hash);
            Err(format!("{key}: {}", tolerate(repository, error).await?))
        }
    };
    Ok((source, entries))
}

/// The start of a pack with all of its head, and the end with all of its table and directory.
async fn fetch_ends(repository: &Repository, key: &str, source: &Source) -> Result<(Bytes, Bytes)> {
    let size_bytes = source.listed.size_bytes;
    let store = &repository.store;
    let tail_from = size_bytes.saturating_sub(TAIL_BYTES);
    let (mut head, mut tail) = futures::try_join!(
        store.need_range(key, 0..HEAD_BYTES.min(size_bytes)),
        store.need_range(key, tail_from..size_bytes)
    )?;
    let trailer = Trailer::decode(&tail, size_bytes).map_err(Error::object(key))?;
    if to_u64(trailer.tail_bytes()) > to_u64(tail.len()) {
        let from = size_bytes.saturating_sub(to_u64(trailer.tail_bytes()));
        tail = store.need_range(key, from..size_bytes).await?;
    }
    if trailer.head_range().end > to_u64(head.len()) {
        head = store.need_range(key, trailer.head_range()).await?;
    }
    Ok((head, tail))
}

fn read_table(
    root: &RootKey,
    source: &Source,
    head: &[u8],
    tail: &[u8],
) -> std::result::Result<Vec<IndexEntry>, FormatError> {
    let trailer = Trailer::decode(tail, source.listed.size_bytes)?;
    let listed = trailer.directory_hash() == source.listed.directory;
    let tail = PackTail::decode(trailer, head, tail)?;
    if !listed || tail.head().name() != source.name || tail.head().writer() != source.session {
        return Err(FormatError::Forged {
            what: "pack",
            detail: "it is not the one its session listed".into(),
        });
    }
    let table = tail.open_table(root)?;
    let mut entries = Vec::new();
    for (entry, pieces) in tail.directory().iter().zip(table) {
        // A moved frame keeps its name; whoever looks for it follows the collector's commit.
        if entry.session_index != 0 {
            continue;
        }
        let mut offset_bytes = 0u32;
        for (id, size_bytes) in pieces {
            entries.push(IndexEntry { id, place: Place { frame: entry.place(), offset_bytes, size_bytes } });
            offset_bytes = offset_bytes.saturating_add(size_bytes);
        }
    }
    Ok(entries)
}

/// Publishes segments under a log entry of their own.
struct Writer<'a> {
    repository: &'a Repository,
    id: SessionId,
    sequence: u32,
    entries: Vec<IndexEntry>,
    sessions: BTreeSet<u64>,
    published: u64,
}

impl<'a> Writer<'a> {
    async fn announce(repository: &'a Repository, log: &Log) -> Result<Self> {
        let id = session::append(repository, log, Kind::Index, &[]).await?;
        Ok(Self { repository, id, sequence: 0, entries: Vec::new(), sessions: BTreeSet::new(), published: 0 })
    }

    async fn add(&mut self, session: u64, entries: impl Iterator<Item = IndexEntry>) -> Result<()> {
        let before = self.entries.len();
        self.entries.extend(entries);
        if self.entries.len() > before {
            self.sessions.insert(session);
        }
        if self.entries.len() >= SEGMENT_ENTRIES { self.publish(&BTreeSet::new()).await } else { Ok(()) }
    }

    /// The last segment covers whatever was there before.
    async fn finish(mut self, old: BTreeSet<SegmentName>) -> Result<u64> {
        if !self.entries.is_empty() {
            self.publish(&old).await?;
        }
        Ok(self.published)
    }

    async fn publish(&mut self, old: &BTreeSet<SegmentName>) -> Result<()> {
        let (id, sequence) = (self.id, self.sequence);
        // A session's first segment is replaced whether it is still there or not: a segment that names frames of other
        // sessions must say whose place it takes. A rebuild that dies halfway may hide some of them; the next one heals that.
        let firsts = std::mem::take(&mut self.sessions)
            .into_iter()
            .map(|session| SegmentName { session, sequence: 0 });
        let covers: BTreeSet<SegmentName> = firsts.chain(old.iter().copied()).collect();
        let secrets = self.repository.keys.zone_secrets()?;
        let (root, generation) = (secrets.metadata_root(&id), secrets.generation);
        let mut entries = std::mem::take(&mut self.entries);
        let build = move || index::build_sealed(&mut entries, &root, id, sequence);
        let built = self.repository.host.compute(build).await??;
        let signer = self.repository.signer(Kind::Index.roles())?;
        let segment = SegmentFields {
            repository: self.repository.keys.trust.repository,
            zone: self.repository.keys.zone.clone(),
            session: id,
            sequence,
            by: signer.by.clone(),
            generation,
            covers: covers.into_iter().collect(),
            entries: built.entries,
            table_bytes: built.table_bytes,
            table_hash: built.table_hash,
        };
        let bytes = record::encode(&segment, self.repository.host.tool, &signer.key, &[], &built.sealed)?;
        let key = names::index(&self.repository.keys.zone, id.number, sequence);
        self.repository.store.put_own(&key, bytes.into(), "run `sancerre index rebuild` again").await?;
        self.sequence = sequence.saturating_add(1);
        self.published = self.published.saturating_add(built.entries);
        Ok(())
    }
}
