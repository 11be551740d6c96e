//! Reading a segment: the page table once, then single pages.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use super::filter::{self, PageFilters};
use super::table::{ENTRY_BYTES, fence};
use super::{IndexEntry, PageInfo, PageTable, Scope, SegmentFields, WHAT};
use crate::bytes::{Reader, to_u32, to_u64, to_usize};
use crate::error::{Result, corrupt, ensure, forged};
use crate::id::{ContentId, FrameName, FramePlace, Hash, PackName, Place, SessionId};
use crate::seal::{self, RootKey, UNIT_BYTES_MAX, UnitKind, UnitName};

/// A segment whose page table was opened.
#[derive(Clone)]
pub struct SegmentReader {
    table: PageTable,
    filters: Option<PageFilters>,
    table_bytes: u32,
    session: SessionId,
    sequence: u32,
    root: RootKey,
}

impl SegmentReader {
    /// Opens the page table. `sealed` is the sealed part of the segment's record; its first `fields.table_bytes`
    /// bytes are enough.
    ///
    /// `fields` must have been verified; `root` is the metadata root of `fields.session`, `scope` what that session
    /// may speak of.
    pub fn open(fields: &SegmentFields, sealed: &[u8], root: &RootKey, scope: Scope) -> Result<Self> {
        let SegmentFields { session, sequence, table_bytes, .. } = *fields;
        let sealed =
            sealed.get(..to_usize(table_bytes)).ok_or_else(|| corrupt(WHAT, "its table is cut short"))?;
        if Hash::of(sealed) != fields.table_hash {
            return Err(forged(WHAT, "its page table does not fit the signed hash"));
        }
        let name = UnitName { kind: UnitKind::IndexTable, session, a: sequence, b: 0 };
        let table = PageTable::decode(&seal::open(root, &name, sealed)?)?;
        ensure(table.entries() == fields.entries, WHAT, || {
            format!("its pages hold {} entries, signed are {}", table.entries(), fields.entries)
        })?;
        // A backup vouches for what it stored; only merged segments speak of other sessions.
        let own = fields.covers.is_empty() && *table.sessions == [session.number];
        ensure(scope == Scope::AnySession || own, WHAT, || {
            format!("it covers segments or names frames of sessions other than {}", session.number)
        })?;
        let filters = PageFilters::read(&table)?;
        Ok(Self { table, filters, table_bytes, session, sequence, root: root.clone() })
    }

    /// Memory it takes.
    pub fn memory_bytes(&self) -> u64 {
        let sessions =
            if Arc::strong_count(&self.table.sessions) > 1 { 0 } else { self.table.sessions.len() };
        let filters = self.filters.as_ref().map_or(0, PageFilters::memory_bytes);
        let bytes = [
            size_of::<Self>(),
            sessions.saturating_mul(size_of::<u64>()),
            self.table.pages.len().saturating_mul(size_of::<PageInfo>()),
            self.table.filter.bytes.len(),
            filters,
        ];
        to_u64(bytes.into_iter().fold(0, usize::saturating_add))
    }

    /// Uses the other reader's list of sessions when it is the same.
    pub fn share_sessions(&mut self, other: &Self) {
        if self.table.sessions == other.table.sessions {
            self.table.sessions = Arc::clone(&other.table.sessions);
        }
    }

    /// The page table.
    pub fn table(&self) -> &PageTable {
        &self.table
    }

    /// Where a page lies in the sealed part.
    pub fn page_range(&self, number: usize) -> Result<Range<u64>> {
        let page = self.table.page(number)?;
        let start = u64::from(self.table_bytes).saturating_add(page.offset_bytes);
        Ok(start..start.saturating_add(u64::from(page.sealed_bytes)))
    }

    /// Opens a page that was read from [`SegmentReader::page_range`].
    pub fn open_page(&self, number: usize, sealed: &[u8]) -> Result<Vec<IndexEntry>> {
        let info = self.table.page(number)?;
        if Hash::of(sealed) != info.hash {
            return Err(forged(WHAT, format!("page {number} does not fit its hash in the page table")));
        }
        let b = to_u32(WHAT, number)?;
        let name = UnitName { kind: UnitKind::IndexPage, session: self.session, a: self.sequence, b };
        let entries = decode_page(&seal::open(&self.root, &name, sealed)?, &self.table.sessions)?;
        self.check_page(number, &entries)?;
        Ok(entries)
    }

    fn check_page(&self, number: usize, entries: &[IndexEntry]) -> Result<()> {
        let info = self.table.page(number)?;
        ensure(entries.len() == to_usize(info.entries), WHAT, || {
            format!("page {number} has {} entries instead of {}", entries.len(), info.entries)
        })?;
        let ascending = entries.is_sorted_by(|a, b| a.id < b.id);
        ensure(ascending, WHAT, || format!("entries of page {number} are not ascending"))?;
        let first = entries.first().map(|entry| fence(&entry.id));
        let last = entries.last().map(|entry| fence(&entry.id));
        let next = number.checked_add(1).and_then(|next| self.table.pages.get(next)).map(|page| page.fence);
        let fenced = first == Some(info.fence) && next.is_none_or(|next| last <= Some(next));
        let filter_ends = self.filters.as_ref().map(PageFilters::last).filter(|_| next.is_none());
        ensure(filter_ends.is_none_or(|end| last == Some(end)), WHAT, || {
            format!("page {number} does not end where the filter says")
        })?;
        ensure(fenced, WHAT, || format!("entries of page {number} are outside its fences"))
    }

    fn page_of<'a>(&self, number: usize, sealed: &'a [u8]) -> Result<&'a [u8]> {
        let range = self.page_range(number)?;
        let start = usize::try_from(range.start).ok();
        let range = start.zip(usize::try_from(range.end).ok()).map(|(start, end)| start..end);
        let page = range.and_then(|range| sealed.get(range));
        page.ok_or_else(|| corrupt(WHAT, format!("page {number} is cut short")))
    }

    /// Fences between which all its ids lie.
    pub fn span(&self) -> RangeInclusive<u64> {
        let first = self.table.pages.first().map_or(0, |page| page.fence);
        first..=self.filters.as_ref().map_or(u64::MAX, PageFilters::last)
    }

    /// The pages that may hold `id`: none of nearly every id that the segment does not have, and seldom more than one.
    pub fn candidates<'a>(&'a self, id: &'a ContentId) -> impl Iterator<Item = usize> + 'a {
        filter::candidates(&self.table, self.filters.as_ref(), id)
    }

    /// Fails when the filter denies one of a page's entries, which could not be found then.
    pub fn check_filter(&self, number: usize, entries: &[IndexEntry]) -> Result<()> {
        let denied = entries.iter().find(|entry| !self.candidates(&entry.id).any(|page| page == number));
        match denied {
            None => Ok(()),
            Some(entry) => Err(corrupt(WHAT, format!("its filter denies entry {}", entry.id))),
        }
    }

    /// Looks `id` up, reading pages from the whole sealed part.
    pub fn find(&self, id: &ContentId, sealed: &[u8]) -> Result<Option<Place>> {
        for number in self.candidates(id) {
            let entries = self.open_page(number, self.page_of(number, sealed)?)?;
            let found = entries.binary_search_by_key(id, |entry| entry.id).ok();
            if let Some(entry) = found.and_then(|position| entries.get(position)) {
                return Ok(Some(entry.place));
            }
        }
        Ok(None)
    }

    /// All entries of the whole sealed part, page by page, ascending over all pages.
    ///
    /// The first item is an error when the sealed part is longer or shorter than the table says.
    pub fn pages<'a>(&'a self, sealed: &'a [u8]) -> impl Iterator<Item = Result<Vec<IndexEntry>>> + 'a {
        let announced = u64::from(self.table_bytes).saturating_add(self.table.pages_bytes());
        let whole = ensure(announced == to_u64(sealed.len()), WHAT, || {
            format!("its sealed part has {} bytes, announced are {announced}", sealed.len())
        });
        let mut before: Option<ContentId> = None;
        let pages = (0..self.table.pages.len()).map(move |number| {
            let entries = self.open_page(number, self.page_of(number, sealed)?)?;
            let first = entries.first().map(|entry| entry.id);
            ensure(before < first, WHAT, || format!("page {number} starts before the last one ends"))?;
            before = entries.last().map(|entry| entry.id);
            Ok(entries)
        });
        whole.err().map(Err).into_iter().chain(pages)
    }
}

/// A place must be a stretch of a frame that can exist.
pub(super) fn check_place(place: &Place) -> Result<()> {
    let end = to_usize(place.offset_bytes).saturating_add(to_usize(place.size_bytes));
    ensure(place.size_bytes > 0 && end <= UNIT_BYTES_MAX, WHAT, || {
        format!(
            "{} bytes at {} cannot lie in frame {}",
            place.size_bytes, place.offset_bytes, place.frame.frame
        )
    })
}

fn decode_page(raw: &[u8], sessions: &[u64]) -> Result<Vec<IndexEntry>> {
    let mut reader = Reader::new(WHAT, raw);
    let mut entries = Vec::with_capacity(raw.len() / ENTRY_BYTES);
    while reader.remaining() > 0 {
        entries.push(decode_entry(&mut reader, sessions)?);
    }
    Ok(entries)
}

fn decode_entry(reader: &mut Reader<'_>, sessions: &[u64]) -> Result<IndexEntry> {
    let id = ContentId(reader.array()?);
    let index = to_usize(reader.u32()?);
    let session =
        sessions.get(index).ok_or_else(|| corrupt(WHAT, format!("session {index} of {}", sessions.len())))?;
    let pack = PackName { session: *session, ordinal: reader.u32()? };
    let frame = FrameName { pack, index: reader.u32()? };
    let frame = FramePlace { frame, offset_bytes: reader.u32()?, sealed_bytes: reader.u32()? };
    let place = Place { frame, offset_bytes: reader.u32()?, size_bytes: reader.u32()? };
    check_place(&place)?;
    Ok(IndexEntry { id, place })
}
