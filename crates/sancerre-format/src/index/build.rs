//! Building the sealed part of a segment.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::filter::FilterBuilder;
use super::table::{ENTRY_BYTES, fence};
use super::{IndexEntry, PageInfo, PageTable, WHAT};
use crate::bytes::{to_u32, to_u64};
use crate::error::{Result, corrupt, ensure};
use crate::id::{ContentId, Hash, SessionId};
use crate::seal::{RootKey, UnitKind, UnitName, seal_raw};

const PAGE_ENTRIES: usize = (64 << 10) / ENTRY_BYTES;
const LEVEL: i32 = 3;

/// What goes into a segment's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSegment {
    /// The sealed part: page table and pages.
    pub sealed: Vec<u8>,
    /// Size of the sealed page table.
    pub table_bytes: u32,
    /// BLAKE3 of the sealed page table.
    pub table_hash: Hash,
    /// How many entries are left after sorting and removing duplicates.
    pub entries: u64,
}

/// A segment in the making. Entries come in ascending order and are sealed page by page, so that no more than what
/// is sealed is held.
pub struct SegmentBuilder {
    root: RootKey,
    session: SessionId,
    sequence: u32,
    sessions: Arc<[u64]>,
    filter: FilterBuilder,
    pages: Vec<PageInfo>,
    sealed_pages: Vec<u8>,
    page: Vec<IndexEntry>,
    last: Option<ContentId>,
    entries: u64,
}

impl SegmentBuilder {
    /// `sessions` are the numbers of all sessions whose frames the entries may name, ascending; `root` is the
    /// metadata root of `session`.
    pub fn new(root: RootKey, session: SessionId, sequence: u32, sessions: Arc<[u64]>) -> Self {
        Self {
            root,
            session,
            sequence,
            sessions,
            filter: FilterBuilder::default(),
            pages: Vec::new(),
            sealed_pages: Vec::new(),
            page: Vec::new(),
            last: None,
            entries: 0,
        }
    }

    /// How many entries it has.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Adds the next entry.
    ///
    /// Errors when its id is not above the one before, or its place is none.
    pub fn push(&mut self, entry: IndexEntry) -> Result<()> {
        ensure(self.last < Some(entry.id), WHAT, || format!("entry {} is out of order", entry.id))?;
        self.last = Some(entry.id);
        self.entries = self.entries.saturating_add(1);
        self.page.push(entry);
        if self.page.len() >= PAGE_ENTRIES { self.close_page() } else { Ok(()) }
    }

    fn unit(&self, kind: UnitKind, b: u32) -> UnitName {
        UnitName { kind, session: self.session, a: self.sequence, b }
    }

    fn close_page(&mut self) -> Result<()> {
        let name = self.unit(UnitKind::IndexPage, to_u32(WHAT, self.pages.len())?);
        let sealed = seal_raw(&self.root, &name, LEVEL, &encode_page(&self.page, &self.sessions)?)?;
        self.filter.page(&self.page)?;
        self.pages.push(PageInfo {
            fence: self.page.first().map_or(0, |entry| fence(&entry.id)),
            offset_bytes: to_u64(self.sealed_pages.len()),
            sealed_bytes: to_u32(WHAT, sealed.len())?,
            entries: to_u32(WHAT, self.page.len())?,
            hash: Hash::of(&sealed),
        });
        self.sealed_pages.extend_from_slice(&sealed);
        self.page.clear();
        Ok(())
    }

    /// Seals what is left, and the page table.
    ///
    /// Errors when there are no entries, or more than a page table can hold.
    pub fn finish(mut self) -> Result<SealedSegment> {
        if !self.page.is_empty() {
            self.close_page()?;
        }
        let name = self.unit(UnitKind::IndexTable, 0);
        let table = PageTable { sessions: self.sessions, filter: self.filter.finish(), pages: self.pages };
        let mut sealed = seal_raw(&self.root, &name, LEVEL, &table.encode()?)?;
        let (table_bytes, table_hash) = (to_u32(WHAT, sealed.len())?, Hash::of(&sealed));
        sealed.append(&mut self.sealed_pages);
        Ok(SealedSegment { sealed, table_bytes, table_hash, entries: self.entries })
    }
}

/// Sorts `entries`, keeps the newest place of each id, and seals them under `session`'s metadata root.
///
/// Errors when there are no entries.
pub fn build_sealed(
    entries: &mut Vec<IndexEntry>,
    root: &RootKey,
    session: SessionId,
    sequence: u32,
) -> Result<SealedSegment> {
    // The newest copy is the one a heal stored when an older one was found damaged.
    entries.sort_unstable_by_key(|entry| (entry.id, Reverse(entry.place)));
    entries.dedup_by_key(|entry| entry.id);
    let numbers = entries.iter().map(|entry| entry.place.frame.frame.pack.session);
    let sessions: Arc<[u64]> = numbers.collect::<BTreeSet<_>>().into_iter().collect();
    let mut builder = SegmentBuilder::new(root.clone(), session, sequence, sessions);
    entries.iter().try_for_each(|entry| builder.push(*entry))?;
    builder.finish()
}

fn encode_page(entries: &[IndexEntry], sessions: &[u64]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(entries.len().saturating_mul(ENTRY_BYTES));
    for IndexEntry { id, place } in entries {
        super::pages::check_place(place)?;
        let frame = place.frame.frame;
        let session = sessions.binary_search(&frame.pack.session);
        let session = session.map_err(|_| corrupt(WHAT, "a session is missing from its own list"))?;
        out.extend_from_slice(&id.0);
        let numbers = [
            to_u32(WHAT, session)?,
            frame.pack.ordinal,
            frame.index,
            place.frame.offset_bytes,
            place.frame.sealed_bytes,
            place.offset_bytes,
            place.size_bytes,
        ];
        out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }
    ensure(!out.is_empty(), WHAT, || "a page without entries".into())?;
    Ok(out)
}
