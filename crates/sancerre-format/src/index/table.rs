//! The page table of a segment.

use std::ops::Range;
use std::sync::Arc;

use super::WHAT;
use crate::bytes::{Reader, to_u32, to_usize};
use crate::error::{Result, corrupt, ensure};
use crate::id::{ContentId, Hash};
use crate::seal::{UNIT_BYTES_MAX, is_sealed_size};

/// Bytes of an entry in a page.
pub(super) const ENTRY_BYTES: usize = 60;
const PAGE_INFO_BYTES: usize = 56;
const SESSION_BYTES: usize = 8;
const SESSIONS_MAX: usize = 1 << 20;
const FILTER_NONE: u8 = 0;

/// A filter that answers "certainly not here" without a page. Kinds that are not known are kept and skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// 0: none.
    pub kind: u8,
    /// Its bytes; none for kind 0.
    pub bytes: Vec<u8>,
}

impl Filter {
    /// No filter.
    pub const NONE: Self = Self { kind: FILTER_NONE, bytes: Vec::new() };
}

/// One page, as the table knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageInfo {
    /// First eight bytes of the first id, big-endian.
    pub fence: u64,
    /// Where the sealed page starts, counted from the end of the sealed table.
    pub offset_bytes: u64,
    /// Size of the sealed page.
    pub sealed_bytes: u32,
    /// Entries in it.
    pub entries: u32,
    /// BLAKE3 of the sealed page.
    pub hash: Hash,
}

/// The page table: which sessions the entries name, and where each page starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageTable {
    /// Numbers of the sessions whose frames the entries name, ascending.
    pub sessions: Arc<[u64]>,
    /// The filter.
    pub filter: Filter,
    /// The pages, ascending.
    pub pages: Vec<PageInfo>,
}

/// The part of an id that fences compare.
pub fn fence(id: &ContentId) -> u64 {
    let first = id.0.first_chunk::<8>();
    first.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

impl PageTable {
    /// Encodes the table.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check()?;
        let mut out = to_u32(WHAT, self.sessions.len())?.to_le_bytes().to_vec();
        self.sessions.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        out.push(self.filter.kind);
        out.extend_from_slice(&to_u32(WHAT, self.filter.bytes.len())?.to_le_bytes());
        out.extend_from_slice(&self.filter.bytes);
        out.extend_from_slice(&to_u32(WHAT, self.pages.len())?.to_le_bytes());
        for page in &self.pages {
            out.extend_from_slice(&page.fence.to_le_bytes());
            out.extend_from_slice(&page.offset_bytes.to_le_bytes());
            out.extend_from_slice(&page.sealed_bytes.to_le_bytes());
            out.extend_from_slice(&page.entries.to_le_bytes());
            out.extend_from_slice(&page.hash.0);
        }
        ensure(out.len() <= UNIT_BYTES_MAX, WHAT, || format!("a page table of {} bytes", out.len()))?;
        Ok(out)
    }

    /// Decodes a table of exactly these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(WHAT, bytes);
        let sessions = reader.count(SESSION_BYTES)?;
        let sessions = (0..sessions).map(|_| reader.u64()).collect::<Result<_>>()?;
        let kind = reader.u8()?;
        let size = reader.count(1)?;
        let filter = Filter { kind, bytes: reader.take(size)?.to_vec() };
        let pages = reader.count(PAGE_INFO_BYTES)?;
        let pages = (0..pages).map(|_| decode_page_info(&mut reader)).collect::<Result<_>>()?;
        reader.finish()?;
        let table = Self { sessions, filter, pages };
        table.check()?;
        Ok(table)
    }

    fn check(&self) -> Result<()> {
        let sessions = self.sessions.len();
        let sound = (1..=SESSIONS_MAX).contains(&sessions) && self.sessions.is_sorted_by(|a, b| a < b);
        ensure(sound, WHAT, || format!("its {sessions} sessions are too many, too few or not ascending"))?;
        ensure(self.filter.kind != FILTER_NONE || self.filter.bytes.is_empty(), WHAT, || {
            "it has bytes of a filter, but no filter".into()
        })?;
        ensure(!self.pages.is_empty(), WHAT, || "it has no pages".into())?;
        ensure(self.pages.is_sorted_by_key(|page| page.fence), WHAT, || {
            "its pages are not ascending".into()
        })?;
        let mut end = 0u64;
        for (number, page) in self.pages.iter().enumerate() {
            ensure(page.offset_bytes == end, WHAT, || {
                format!("page {number} starts at {}", page.offset_bytes)
            })?;
            let raw_bytes = to_usize(page.entries).saturating_mul(ENTRY_BYTES);
            let possible =
                (1..=UNIT_BYTES_MAX).contains(&raw_bytes) && is_sealed_size(to_usize(page.sealed_bytes));
            ensure(possible, WHAT, || {
                format!("page {number} has {} entries in {} bytes", page.entries, page.sealed_bytes)
            })?;
            end = end.saturating_add(u64::from(page.sealed_bytes));
        }
        Ok(())
    }

    /// Sum of the pages' sizes.
    pub fn pages_bytes(&self) -> u64 {
        self.pages.last().map_or(0, |page| page.offset_bytes.saturating_add(u64::from(page.sealed_bytes)))
    }

    /// Entries in all pages.
    pub fn entries(&self) -> u64 {
        self.pages.iter().fold(0, |sum, page| sum.saturating_add(u64::from(page.entries)))
    }

    /// The pages that may hold `id`: at most one, unless ids share their first eight bytes.
    pub(crate) fn pages_for(&self, id: &ContentId) -> Range<usize> {
        let fence = fence(id);
        let end = self.pages.partition_point(|page| page.fence <= fence);
        let begin = self.pages.partition_point(|page| page.fence < fence).saturating_sub(1);
        begin.min(end)..end
    }

    pub(super) fn page(&self, number: usize) -> Result<&PageInfo> {
        self.pages.get(number).ok_or_else(|| corrupt(WHAT, format!("page {number} of {}", self.pages.len())))
    }
}

fn decode_page_info(reader: &mut Reader<'_>) -> Result<PageInfo> {
    Ok(PageInfo {
        fence: reader.u64()?,
        offset_bytes: reader.u64()?,
        sealed_bytes: reader.u32()?,
        entries: reader.u32()?,
        hash: Hash(reader.array()?),
    })
}
