//! The index in memory, within a budget: small segments whole, of large ones the page table with its filter.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use sancerre_advice::Setting::Memory;
use sancerre_advice::Verb::MergeIndex;
use sancerre_format::FormatError;
use sancerre_format::bytes::{to_u64, to_usize};
use sancerre_format::id::{ContentId, Place};
use sancerre_format::index::{IndexEntry, Scope, SegmentFields, SegmentName, fence};
use sancerre_format::names::Folder;

use super::segment::{Segment, Whole, key_of, retain_heard, segments_of};
use super::uncovered::{Covering, ignored, read_uncovered};
use crate::dedup::{BYTES_PER_ENTRY, ReusePolicy, Speaker, Word, Words};
use crate::error::{Error, Result};
use crate::log::Log;
use crate::lru::LruCache;
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use sancerre_store::Listed;

/// Objects up to this size are read whole: one request, some ten thousand chunks.
pub(crate) const WHOLE_BYTES: u64 = 2 << 20;
/// What a page in memory costs besides its entries.
const PAGE_OVERHEAD_BYTES: u64 = 128;
/// Pages read at once.
const PAGES_IN_FLIGHT: usize = 16;

/// A page by its segment, counted from the newest, and its number there.
type PageKey = (usize, usize);
/// Its entries.
type Page = Arc<Vec<IndexEntry>>;

/// What the index says without reading a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// It lies here: the session's own key says so.
    Known(Place),
    /// Somebody else says that it lies here.
    Said(Word),
    /// It is nowhere.
    Unknown,
    /// A page must tell: see [`Index::resolve`].
    Perhaps,
}

/// The index as far as memory allows.
pub struct Index {
    words: Words,
    /// The keys of the segments, by the numbers that [`Speaker::Segment`] counts them with, and who signed them.
    speakers: Vec<String>,
    /// Newest first.
    paged: Vec<Paged>,
    /// Where the ids of each of them begin and end, side by side: most of them are ruled out by this.
    spans: Vec<RangeInclusive<u64>>,
    cache: Mutex<LruCache<PageKey, Page>>,
    runs: BTreeSet<SegmentRun>,
}

/// Segments that one filter's worth of errors belongs to: all of a merge, for their ids do not overlap, or one of a
/// backup.
pub type SegmentRun = (u64, Option<u32>);

/// The run of a segment.
pub fn run_of(name: SegmentName, scope: Scope) -> SegmentRun {
    (name.session, (scope == Scope::OwnSession).then_some(name.sequence))
}

struct Paged {
    segment: Segment,
    speaker: Speaker,
    /// Told once, then left alone.
    damaged: AtomicBool,
}

impl Index {
    /// Loads the index, newest sessions first. What does not fit `budget_bytes` is stored again.
    ///
    /// Errors: the store's. Damage is a warning.
    pub async fn load(
        repository: &Repository,
        log: &Log,
        usable: &ReusePolicy,
        budget_bytes: u64,
        monitor: &Monitor,
    ) -> Result<Self> {
        let listed = repository.list(Folder::Index).await?;
        Self::of(repository, log, usable, &listed, budget_bytes, monitor).await
    }

    /// The same of the segments among the keys listed.
    pub async fn of(
        repository: &Repository,
        log: &Log,
        usable: &ReusePolicy,
        listed: &[Listed],
        budget_bytes: u64,
        monitor: &Monitor,
    ) -> Result<Self> {
        let mut listed = segments_of(repository, log, listed);
        retain_heard(log, &usable.avoid, &mut listed);
        let mut loading = Loading {
            repository,
            usable,
            monitor,
            words: Words::default(),
            speakers: Vec::new(),
            paged: Vec::new(),
            runs: BTreeSet::new(),
            room_bytes: budget_bytes,
            // The rest is for page tables, which know seventy times as many chunks from as much memory.
            whole_bytes: budget_bytes / 2,
            told: false,
        };
        let read = |name, size_bytes| read(repository, log, name, size_bytes);
        read_uncovered((repository, log), monitor, &listed, read, |read| loading.add(read)).await?;
        Ok(Self {
            words: loading.words,
            speakers: loading.speakers,
            spans: loading.paged.iter().map(|paged| paged.segment.reader().span()).collect(),
            paged: loading.paged,
            cache: Mutex::new(LruCache::new(loading.room_bytes)),
            runs: loading.runs,
        })
    }

    /// How many filters and small segments a lookup has to ask: merging makes them fewer.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// What was read whole.
    pub fn into_places(self) -> crate::dedup::PlaceMap {
        self.words.into_iter().map(|(id, packed)| (id, Word::from(packed).place)).collect()
    }

    /// Which segment speaks, and who signed it.
    pub fn speaker(&self, number: u32) -> &str {
        self.speakers.get(to_usize(number)).map_or("a segment of the index", String::as_str)
    }

    /// Looks a chunk up in memory.
    pub fn find(&self, id: &ContentId) -> Lookup {
        if let Some(word) = self.words.get(id) {
            let word = Word::from(*word);
            return if word.speaker == Speaker::Own { Lookup::Known(word.place) } else { Lookup::Said(word) };
        }
        if self.candidates(id).next().is_some() { Lookup::Perhaps } else { Lookup::Unknown }
    }

    /// The pages that may hold `id`, by segment and number, newest first.
    fn candidates<'a>(&'a self, id: &'a ContentId) -> impl Iterator<Item = (usize, usize)> + 'a {
        let fence = fence(id);
        let segments = self.spans.iter().zip(&self.paged).enumerate();
        segments
            .filter(move |(_, (span, paged))| span.contains(&fence) && paged.is_sound())
            .flat_map(move |(at, (_, paged))| paged.segment.candidates(id).map(move |page| (at, page)))
    }

    /// All that is said of these ids, reading each page that may know about them once. Of one id the own key's words
    /// come first, then the newer before the older. What is not in the answer is nowhere.
    ///
    /// Errors: the store's. Damage is a warning.
    pub async fn resolve(
        &self,
        repository: &Repository,
        usable: &ReusePolicy,
        monitor: &Monitor,
        ids: &[ContentId],
    ) -> Result<Vec<(ContentId, Word)>> {
        let mut wanted: BTreeMap<(usize, usize), Vec<ContentId>> = BTreeMap::new();
        for id in ids {
            self.candidates(id).for_each(|page| wanted.entry(page).or_default().push(*id));
        }
        let reads = wanted.into_iter().map(|((at, number), ids)| async move {
            Ok::<_, Error>((at, ids, self.page(repository, monitor, at, number).await?))
        });
        let mut reads = std::pin::pin!(futures::stream::iter(reads).buffered(PAGES_IN_FLIGHT));
        let held = ids.iter().filter_map(|id| Some((*id, Word::from(*self.words.get(id)?))));
        let mut found: Vec<(ContentId, Word)> = held.collect();
        while let Some(read) = reads.next().await {
            let (at, ids, page) = read?;
            let Some(speaker) = self.paged.get(at).map(|paged| paged.speaker) else { continue };
            for id in ids {
                let entry = page.binary_search_by_key(&id, |entry| entry.id).ok().and_then(|at| page.get(at));
                let entry = entry.filter(|entry| usable.allows(&entry.place));
                found.extend(entry.map(|entry| (id, Word { place: entry.place, speaker })));
            }
        }
        // Stable: pages were read from the newest segment on.
        found.sort_by_key(|(_, word)| word.speaker != Speaker::Own);
        Ok(found)
    }

    async fn page(
        &self,
        repository: &Repository,
        monitor: &Monitor,
        at: usize,
        number: usize,
    ) -> Result<Page> {
        let cached = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(&(at, number));
        let (None, Some(paged)) = (&cached, self.paged.get(at)) else {
            return Ok(cached.unwrap_or_default());
        };
        match paged.segment.page(repository, number).await {
            Ok(entries) => {
                let bytes = to_u64(size_of_val(entries.as_slice())).saturating_add(PAGE_OVERHEAD_BYTES);
                let page = Arc::new(entries);
                let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
                cache.put((at, number), Arc::clone(&page), bytes);
                Ok(page)
            }
            Err(error) if error.is_damage() => {
                if !paged.damaged.swap(true, Ordering::Relaxed) {
                    monitor.warn(Topic::Hint, ignored(&paged.segment.key, &error));
                }
                Ok(Page::default())
            }
            Err(error) => Err(error),
        }
    }
}

impl Paged {
    fn is_sound(&self) -> bool {
        !self.damaged.load(Ordering::Relaxed)
    }
}

/// A segment as it was read.
enum Read {
    Whole(SegmentName, u64, Box<Whole>),
    Table(Box<Segment>),
}

impl Covering for Read {
    fn fields(&self) -> &SegmentFields {
        match self {
            Self::Whole(_, _, whole) => &whole.fields,
            Self::Table(segment) => &segment.fields,
        }
    }
}

async fn read(
    repository: &Repository,
    log: &Log,
    name: SegmentName,
    size_bytes: u64,
) -> Result<Option<Read>> {
    if size_bytes > WHOLE_BYTES {
        let segment = Segment::open(repository, log, name, size_bytes).await?;
        return Ok(segment.map(|segment| Read::Table(Box::new(segment))));
    }
    let key = key_of(repository, log, name)?;
    let decode = |bytes: Bytes| {
        let whole = Whole::decode(repository, log, name, &bytes).map_err(Error::object(&key));
        async move { whole }
    };
    let whole = repository.cached_whole(&key, size_bytes, decode).await?;
    Ok(whole.map(|whole| Read::Whole(name, size_bytes, Box::new(whole))))
}

struct Loading<'a> {
    repository: &'a Repository,
    usable: &'a ReusePolicy,
    monitor: &'a Monitor,
    words: Words,
    speakers: Vec<String>,
    paged: Vec<Paged>,
    runs: BTreeSet<SegmentRun>,
    /// Budget that is left.
    room_bytes: u64,
    /// Of it, what segments may take that are kept whole.
    whole_bytes: u64,
    told: bool,
}

impl Loading<'_> {
    fn add(&mut self, read: Read) {
        let segment = match read {
            Read::Table(segment) => *segment,
            Read::Whole(name, object_bytes, whole) => {
                let bytes = whole.fields.entries.saturating_mul(BYTES_PER_ENTRY);
                if bytes <= self.room_bytes.min(self.whole_bytes) {
                    self.runs.insert(run_of(name, whole.scope));
                    self.room_bytes = self.room_bytes.saturating_sub(bytes);
                    self.whole_bytes = self.whole_bytes.saturating_sub(bytes);
                    return self.add_whole(name, &whole);
                }
                whole.into_segment(self.repository, name, object_bytes)
            }
        };
        self.add_table(segment);
    }

    /// Who speaks in a segment. A backup's own segment names what that session stored, so the own key's needs no proof; a
    /// merged one hands on what others said, whoever signed it.
    fn speaker(&mut self, key: &str, scope: Scope, fields: &SegmentFields) -> Speaker {
        if scope == Scope::OwnSession && self.usable.own.as_ref() == Some(&fields.by.name) {
            return Speaker::Own;
        }
        let manner = if scope == Scope::OwnSession { "made" } else { "merged or rebuilt" };
        let number = u32::try_from(self.speakers.len()).unwrap_or(u32::MAX - 2);
        self.speakers.push(format!("index segment {key}, {manner} by {}", fields.by.name));
        Speaker::Segment(number)
    }

    fn add_whole(&mut self, name: SegmentName, whole: &Whole) {
        let zone = &self.repository.keys.zone;
        let key = sancerre_format::names::index(zone, &whole.fields.session, name.sequence);
        let speaker = self.speaker(&key, whole.scope, &whole.fields);
        let add = |words: &mut Words| -> std::result::Result<(), FormatError> {
            for page in whole.reader.pages(&whole.sealed) {
                for entry in page?.into_iter().filter(|entry| self.usable.allows(&entry.place)) {
                    let word = Word { place: entry.place, speaker }.into();
                    // Newest first: an older copy of the same chunk does not replace it, unless the own key vouches for it.
                    let known = words.entry(entry.id).or_insert(word);
                    if speaker == Speaker::Own && Word::from(*known).speaker != Speaker::Own {
                        *known = word;
                    }
                }
            }
            Ok(())
        };
        if let Err(error) = add(&mut self.words) {
            self.monitor.warn(Topic::Hint, ignored(&key, &error));
        }
    }

    fn add_table(&mut self, mut segment: Segment) {
        // Segments of one run come one after the other.
        if let Some(before) = self.paged.last() {
            segment.share_sessions(&before.segment);
        }
        let Some(room) = self.room_bytes.checked_sub(segment.reader().memory_bytes()) else {
            if !std::mem::replace(&mut self.told, true) {
                self.monitor.warn(Topic::Hint, format!(
                    "the index does not fit into {Memory}; some known data will be stored again. {MergeIndex}, or more memory, helps"
                ));
            }
            return;
        };
        self.room_bytes = room;
        self.runs.insert(run_of(segment.name, segment.scope));
        let speaker = self.speaker(&segment.key.clone(), segment.scope, &segment.fields);
        self.paged.push(Paged { segment, speaker, damaged: AtomicBool::new(false) });
    }
}
