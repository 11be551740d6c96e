//! One segment: read whole, or its head and page table first and then single pages.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use sancerre_format::FormatError;
use sancerre_format::bytes::{to_u64, to_usize};
use sancerre_format::certificate::Signer;
use sancerre_format::id::{ContentId, Place};
use sancerre_format::index::{IndexEntry, Scope, SegmentFields, SegmentName, SegmentReader};
use sancerre_format::log::Kind;
use sancerre_format::names::{self, Folder, ZoneKey};
use sancerre_format::record::{self, Fields, Unverified};

use crate::error::{Error, Result, StoreError};
use crate::log::{Avoid, Log, LogEntry};
use crate::repository::Repository;
use sancerre_store::Listed;

/// First guess of how much of a segment holds its head: enough for some thousand `covers`, and small tables too.
const HEAD_BYTES: u64 = 64 << 10;
/// A head cannot be longer (FORMAT.md §2: text, signature).
const HEAD_BYTES_MAX: u64 = (16 << 20) + (64 << 10);

type Decoded<T> = std::result::Result<T, FormatError>;

/// The names of all segments of sessions in the log, and the sizes of their objects.
pub async fn segments(repository: &Repository, log: &Log) -> Result<BTreeMap<SegmentName, u64>> {
    Ok(segments_of(repository, log, &repository.list(Folder::Index).await?))
}

/// The same of the segments among the keys listed.
pub(super) fn segments_of(
    repository: &Repository,
    log: &Log,
    listed: &[Listed],
) -> BTreeMap<SegmentName, u64> {
    let parse = |key: &str| match ZoneKey::parse(&repository.keys.zone, key) {
        Ok(ZoneKey::Index(session, sequence)) if log.has(&session) => {
            Some(SegmentName { session: session.number, sequence })
        }
        _ => None,
    };
    listed.iter().filter_map(|listed| Some((parse(&listed.key)?, listed.size_bytes))).collect()
}

/// Leaves those whose words a session may hear. What lies under a session that is void or not trusted, or that has no
/// segments, is not even fetched.
pub fn retain_heard(log: &Log, avoid: &Avoid, listed: &mut BTreeMap<SegmentName, u64>) {
    listed.retain(|name, _| {
        let announced = log.entry(name.session).and_then(LogEntry::announced);
        let may = announced.is_some_and(|announced| {
            matches!(announced.fields.kind, Kind::Backup(_) | Kind::Index | Kind::Gc { .. })
        });
        may && avoid.hears(name.session)
    });
}

/// The key of a segment, in which its session's log entry has a part.
///
/// Errors: [`StoreError::Missing`] when the log does not have that entry.
pub fn key_of(repository: &Repository, log: &Log, name: SegmentName) -> Result<String> {
    let zone = &repository.keys.zone;
    let entry = log
        .entry(name.session)
        .ok_or_else(|| Error::Store(StoreError::Missing { key: names::log(zone, name.session) }))?;
    Ok(names::index(zone, &entry.session, name.sequence))
}

/// Compares a segment with the log: its signer is its session's. Returns whose frames it may name.
fn scope_of(
    repository: &Repository,
    log: &Log,
    name: SegmentName,
    (fields, signer): (&SegmentFields, &Signer),
) -> Decoded<Scope> {
    let entry = log.entry(name.session).filter(|entry| entry.session == fields.session);
    let announced = entry.and_then(|entry| entry.entry.as_deref().ok());
    let announced = announced.filter(|announced| announced.signer == *signer);
    let fits = fields.session.number == name.session
        && fields.sequence == name.sequence
        && fields.repository == repository.keys.trust.repository;
    match announced.filter(|_| fits).map(|announced| &announced.fields.kind) {
        Some(Kind::Backup(_)) => Ok(Scope::OwnSession),
        Some(Kind::Index | Kind::Gc { .. }) => Ok(Scope::AnySession),
        _ => Err(FormatError::Forged {
            what: "index segment",
            detail: "it does not belong to its session".into(),
        }),
    }
}

/// The verified start of a segment.
pub struct Head {
    /// Its name.
    pub name: SegmentName,
    /// Its signed fields.
    pub fields: SegmentFields,
    /// Whose words it has.
    pub scope: Scope,
    /// Its object.
    pub key: String,
    /// Where the sealed part starts.
    sealed_at: u64,
    /// The page table, if it was read along.
    table: Option<Bytes>,
}

impl Head {
    /// Reads and verifies text and signature; none of another generation of the zone's keys.
    pub async fn read(
        repository: &Repository,
        log: &Log,
        name: SegmentName,
        size_bytes: u64,
    ) -> Result<Option<Self>> {
        let key = key_of(repository, log, name)?;
        let verify = |start: &Bytes| {
            let head = Unverified::split_head(SegmentFields::KIND, start)?;
            let (fields, signer) = head.verify_head::<SegmentFields>(&repository.keys.trust)?;
            let scope = scope_of(repository, log, name, (&fields, &signer))?;
            Ok((fields, scope, to_u64(head.head_bytes())))
        };
        let (start, (fields, scope, sealed_at)) = read_start(repository, &key, size_bytes, verify).await?;
        if Some(fields.generation) != repository.keys.generation() {
            return Ok(None);
        }
        let table = usize::try_from(sealed_at).ok().and_then(|at| start.get(at..));
        let table = table.and_then(|rest| rest.get(..to_usize(fields.table_bytes)));
        // A copy: thousands of heads may wait, and what was read around it must not.
        let table = table.map(Bytes::copy_from_slice);
        Ok(Some(Self { name, fields, scope, key, sealed_at, table }))
    }

    /// Reads the page table too.
    pub async fn open(self, repository: &Repository) -> Result<Segment> {
        let Self { name, fields, scope, key, sealed_at, table } = self;
        let end = sealed_at.saturating_add(u64::from(fields.table_bytes));
        let root = repository.keys.metadata_root(&fields.session)?;
        let fields = Arc::new(fields);
        let open = |table: Bytes| {
            let (fields, root, key) = (Arc::clone(&fields), root.clone(), &key);
            async move {
                let open = move || SegmentReader::open(&fields, &table, &root, scope);
                repository.host.compute(open).await?.map_err(Error::object(key))
            }
        };
        let read_along = match table {
            Some(table) => open(table).await.ok(),
            None => None,
        };
        let reader = match read_along {
            Some(reader) => reader,
            None => repository.cached(&key, sealed_at..end, open).await?,
        };
        let fields = Arc::unwrap_or_clone(fields);
        Ok(Segment { name, fields, scope, key, reader: Arc::new(reader), sealed_at })
    }
}

/// The start of a segment with all of its text and signature, and what `verify` makes of it.
async fn read_start<T>(
    repository: &Repository,
    key: &str,
    size_bytes: u64,
    verify: impl Fn(&Bytes) -> Decoded<T>,
) -> Result<(Bytes, T)> {
    let size_bytes = size_bytes.min(HEAD_BYTES_MAX);
    let mut wanted = HEAD_BYTES.min(size_bytes);
    loop {
        let read = |start: Bytes| {
            let verified = verify(&start).map_err(Error::object(key)).map(|verified| (start, verified));
            async move { verified }
        };
        let found = repository.cached(key, 0..wanted, read).await;
        if wanted == size_bytes || !found.as_ref().is_err_and(Error::is_damage) {
            return found;
        }
        wanted = wanted.saturating_mul(8).min(size_bytes);
    }
}

/// A segment whose page table is in memory. Its pages are read when they are needed.
pub struct Segment {
    /// Its name.
    pub name: SegmentName,
    /// Its signed fields.
    pub fields: SegmentFields,
    /// Whose words it has.
    pub scope: Scope,
    /// Its object.
    pub key: String,
    reader: Arc<SegmentReader>,
    sealed_at: u64,
}

impl Segment {
    /// Reads head and page table; none of another generation of the zone's keys.
    pub async fn open(
        repository: &Repository,
        log: &Log,
        name: SegmentName,
        size_bytes: u64,
    ) -> Result<Option<Self>> {
        match Head::read(repository, log, name, size_bytes).await? {
            Some(head) => head.open(repository).await.map(Some),
            None => Ok(None),
        }
    }

    /// Opens its pages.
    pub fn reader(&self) -> &SegmentReader {
        &self.reader
    }

    /// Lets segments of one run have one list of sessions.
    pub(super) fn share_sessions(&mut self, with: &Self) {
        if let Some(reader) = Arc::get_mut(&mut self.reader) {
            reader.share_sessions(&with.reader);
        }
    }

    /// The pages that may hold `id`.
    pub fn candidates<'a>(&'a self, id: &'a ContentId) -> impl Iterator<Item = usize> + 'a {
        self.reader.candidates(id)
    }

    /// The places that it says of these ids.
    pub async fn find(
        &self,
        repository: &Repository,
        ids: &BTreeSet<ContentId>,
    ) -> Result<Vec<(ContentId, Place)>> {
        let mut wanted: BTreeMap<usize, Vec<&ContentId>> = BTreeMap::new();
        for id in ids {
            self.candidates(id).for_each(|page| wanted.entry(page).or_default().push(id));
        }
        let mut found = Vec::new();
        for (number, ids) in wanted {
            let page = self.page(repository, number).await?;
            let is_wanted = |entry: &&IndexEntry| ids.contains(&&entry.id);
            found.extend(page.iter().filter(is_wanted).map(|entry| (entry.id, entry.place)));
        }
        Ok(found)
    }

    /// Reads one page, and verifies it.
    pub async fn page(&self, repository: &Repository, number: usize) -> Result<Vec<IndexEntry>> {
        let range = self.reader.page_range(number).map_err(Error::object(&self.key))?;
        let at = |offset: u64| self.sealed_at.saturating_add(offset);
        let open = |sealed: Bytes| {
            let reader = Arc::clone(&self.reader);
            async move {
                let open = move || reader.open_page(number, &sealed);
                repository.host.compute(open).await?.map_err(Error::object(&self.key))
            }
        };
        repository.cached(&self.key, at(range.start)..at(range.end), open).await
    }

    /// Size of these pages in the store.
    pub fn pages_bytes(&self, numbers: Range<usize>) -> u64 {
        let pages = self.reader.table().pages.get(numbers).unwrap_or_default();
        pages.iter().map(|page| u64::from(page.sealed_bytes)).sum()
    }

    /// Reads neighbouring pages with one request; each is verified for itself.
    pub async fn pages(
        &self,
        repository: &Repository,
        numbers: Range<usize>,
    ) -> Result<Vec<Decoded<Vec<IndexEntry>>>> {
        let ranges: Decoded<Vec<Range<u64>>> =
            numbers.clone().map(|number| self.reader.page_range(number)).collect();
        let ranges = ranges.map_err(Error::object(&self.key))?;
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return Ok(Vec::new()) };
        let (start, end) = (first.start, last.end);
        let at = |offset: u64| self.sealed_at.saturating_add(offset);
        let bytes = repository.store.need_range(&self.key, at(start)..at(end)).await?;
        let reader = Arc::clone(&self.reader);
        let open = move || {
            let page = |(number, range): (usize, Range<u64>)| {
                let within = |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
                let sealed = bytes.get(within(range.start)..within(range.end));
                reader.open_page(number, sealed.unwrap_or_default())
            };
            numbers.zip(ranges).map(page).collect()
        };
        repository.host.compute(open).await
    }
}

/// A segment that was read whole.
pub struct Whole {
    /// Its signed fields.
    pub fields: SegmentFields,
    pub(super) scope: Scope,
    /// Opens its pages.
    pub reader: SegmentReader,
    /// Its sealed part, pages and page table.
    pub sealed: Vec<u8>,
}

impl Whole {
    /// Verifies all of it but the pages; none of another generation of the zone's keys, or without these.
    pub fn decode(
        repository: &Repository,
        log: &Log,
        name: SegmentName,
        bytes: &[u8],
    ) -> Decoded<Option<Self>> {
        let record = record::decode::<SegmentFields>(&repository.keys.trust, bytes)?;
        let scope = scope_of(repository, log, name, (&record.fields, &record.signer))?;
        let secrets = repository.keys.zone_secrets().ok();
        let Some(secrets) = secrets.filter(|secrets| secrets.generation == record.fields.generation) else {
            return Ok(None);
        };
        let root = secrets.metadata_root(&record.fields.session);
        let reader = SegmentReader::open(&record.fields, record.sealed()?, &root, scope)?;
        let (fields, sealed) = record.into_sealed()?;
        Ok(Some(Self { fields, scope, reader, sealed }))
    }

    /// Keeps only the page table; `object_bytes` is the size of the whole object.
    pub(super) fn into_segment(
        self,
        repository: &Repository,
        name: SegmentName,
        object_bytes: u64,
    ) -> Segment {
        Segment {
            name,
            key: names::index(&repository.keys.zone, &self.fields.session, name.sequence),
            fields: self.fields,
            scope: self.scope,
            reader: Arc::new(self.reader),
            sealed_at: object_bytes.saturating_sub(to_u64(self.sealed.len())),
        }
    }
}
