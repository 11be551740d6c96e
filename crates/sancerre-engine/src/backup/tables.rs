//! Proof of what others say: a place counts when the table of the pack in which it lies says the same.
//!
//! ```text
//! word ─pack not asked yet─> its tail (one request) ─signed hash─> table ─fingerprints─> proven, or not used
//! ```
//!
//! The pack's own writer signed the table, so a lie can only be about packs of the liar, and who does not trust him does
//! without all of it. What is proven stands in this session's maps, so the next night asks for none of it again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};
use sancerre_advice::Verb::{Check, TaintKey};
use sancerre_format::bytes::to_u64;
use sancerre_format::id::{ContentId, FramePlace, Hash, PackName, Place};
use tokio::sync::{OnceCell, Semaphore};

use super::Shared;
use crate::dedup::{PlaceMap, Speaker, Word};
use crate::error::{Error, Result};
use crate::monitor::Topic;
use crate::repository::Repository;
use crate::repository::log::{Log, LogEntry};
use crate::repository::pack_ends::{Contents, PackRef, contents};
use sancerre_repository::lru::LruCache;

/// Tails read at once, over all regions: each is some 64 KiB.
const READS_IN_FLIGHT: usize = 16;
/// What a table costs besides its fingerprints.
const OVERHEAD_BYTES: u64 = 128;
/// What is assumed of a table that is on its way.
const UNREAD_BYTES: u64 = 8 << 10;

/// The first half of a BLAKE3 of all that a word says: sixteen bytes for each chunk of a pack.
type Fingerprint = [u8; 16];

/// The fingerprints of a pack's chunks, ascending; none if its table cannot be read.
type Table = Option<Arc<Vec<Fingerprint>>>;

/// The tables that were asked for last.
pub(super) struct Tables {
    repository: Repository,
    /// Only these sessions have packs with moved frames.
    collectors: BTreeSet<u64>,
    kept: Mutex<LruCache<PackName, Arc<OnceCell<Table>>>>,
    reads: Semaphore,
    /// One at a time.
    large_reads: Semaphore,
    told: Mutex<BTreeSet<Speaker>>,
    unreadable: Mutex<BTreeSet<PackName>>,
}

impl Tables {
    /// Keeps tables of at most so many bytes.
    pub(super) fn new(repository: &Repository, log: &Log, budget_bytes: u64) -> Self {
        let collectors =
            log.entries().filter(|entry| entry.is_gc()).map(|entry: &LogEntry| entry.session.number);
        Self {
            repository: repository.clone(),
            collectors: collectors.collect(),
            kept: Mutex::new(LruCache::new(budget_bytes)),
            reads: Semaphore::new(READS_IN_FLIGHT),
            large_reads: Semaphore::new(1),
            told: Mutex::default(),
            unreadable: Mutex::default(),
        }
    }

    /// Adds to `known` the places that are the own key's word or proven, the first of each id.
    ///
    /// Errors: the store's. A word that is not proven is a warning.
    pub(super) async fn prove(
        &self,
        shared: &Shared,
        words: &[(ContentId, Word)],
        known: &mut PlaceMap,
    ) -> Result<()> {
        for (id, word) in words.iter().filter(|(_, word)| word.speaker == Speaker::Own) {
            known.entry(*id).or_insert(word.place);
        }
        let lying = |word: &Word| shared.usable.avoid.pack(&word.place.frame.frame);
        let asked = words.iter().filter(|(id, _)| !known.contains_key(id));
        let tables = self.tables(shared, asked.filter_map(|(_, word)| lying(word)).collect()).await?;
        for (id, word) in words {
            let Some(pack) = lying(word).filter(|_| !known.contains_key(id)) else { continue };
            let Some(Some(table)) = tables.get(&pack) else { continue };
            if table.binary_search(&fingerprint(id, &word.place, pack)).is_ok() {
                known.insert(*id, word.place);
            } else {
                self.tell(shared, word.speaker, pack);
            }
        }
        Ok(())
    }

    async fn tables(&self, shared: &Shared, packs: BTreeSet<PackName>) -> Result<BTreeMap<PackName, Table>> {
        let reads = packs.into_iter().map(|pack| async move { Ok((pack, self.table(shared, pack).await?)) });
        futures::stream::iter(reads).buffer_unordered(READS_IN_FLIGHT).try_collect().await
    }

    /// The table of a pack; none if it cannot be read, which is told once.
    async fn table(&self, shared: &Shared, pack: PackName) -> Result<Table> {
        let cell = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.get(&pack).unwrap_or_else(|| {
                let cell = Arc::new(OnceCell::new());
                kept.put(pack, Arc::clone(&cell), UNREAD_BYTES);
                cell
            })
        };
        let table = cell.get_or_try_init(|| self.read(shared, pack)).await?.clone();
        let bytes = table.as_ref().map_or(0, |table| to_u64(size_of_val(table.as_slice())));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.put(pack, cell, bytes + OVERHEAD_BYTES);
        Ok(table)
    }

    async fn read(&self, shared: &Shared, pack: PackName) -> Result<Table> {
        let _reading = self.reads.acquire().await.map_err(|_| Error::Worker)?;
        shared.monitor.check()?;
        // What no list names is not allowed, so nobody asks for it.
        let Some(source) = PackRef::find(&shared.usable.catalogue, pack) else { return Ok(None) };
        let may_be_moved = self.collectors.contains(&pack.session);
        match contents(&self.repository, source, may_be_moved, &self.large_reads).await {
            Ok(contents) => {
                let fingerprints = move || fingerprints(&contents, pack);
                Ok(Some(Arc::new(self.repository.host.compute(fingerprints).await?)))
            }
            Err(error) if error.is_damage() => {
                let key = source.key(&self.repository);
                if self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).insert(pack) {
                    shared.monitor.warn(Topic::Damage, format!(
                        "the table of pack {key} cannot be read, so what others say of it is stored again: {error}; run \
                         {Check}"
                    ));
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Names who said of a pack what its table does not.
    fn tell(&self, shared: &Shared, speaker: Speaker, pack: PackName) {
        if !self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(speaker) {
            return;
        }
        let who = match speaker {
            Speaker::Segment(number) => shared.index.speaker(number),
            Speaker::Own | Speaker::Base => &shared.base_speaker,
        };
        shared.monitor.warn(Topic::Damage, format!(
            "{who}, says of chunks in pack {pack} what the pack's own table does not; they are stored again. Ask who \
             made it; {TaintKey} ends what a writer's words are worth"
        ));
    }
}

fn fingerprints(contents: &Contents, pack: PackName) -> Vec<Fingerprint> {
    let mut all = Vec::new();
    for (frame, pieces) in contents {
        let mut offset_bytes = 0u32;
        for (id, size_bytes) in pieces {
            let place = Place { frame: *frame, offset_bytes, size_bytes: *size_bytes };
            all.push(fingerprint(id, &place, pack));
            offset_bytes += size_bytes;
        }
    }
    all.sort_unstable();
    all
}

/// All that a word says of a chunk whose frame lies in `pack`. Offset and size in the pack count where the frame was
/// first stored: of a frame that was moved on, only the pack's own directory says them (FORMAT.md §9.3).
fn fingerprint(id: &ContentId, place: &Place, pack: PackName) -> Fingerprint {
    let FramePlace { frame, offset_bytes, sealed_bytes } = place.frame;
    let lies = if frame.pack == pack { [offset_bytes, sealed_bytes] } else { [0, 0] };
    let mut text = [0; 64];
    let session = frame.pack.session.to_le_bytes();
    let numbers = [frame.pack.ordinal, frame.index, lies[0], lies[1], place.offset_bytes, place.size_bytes];
    let numbers = numbers.into_iter().flat_map(u32::to_le_bytes);
    let all = id.0.into_iter().chain(session).chain(numbers);
    text.iter_mut().zip(all).for_each(|(byte, value)| *byte = value);
    let Hash(hash) = Hash::of(&text);
    let mut half = [0; 16];
    half.iter_mut().zip(hash).for_each(|(byte, value)| *byte = value);
    half
}
