//! The filter of a segment: says "certainly not here" for nearly every unknown id, from 1.3 bytes a chunk in memory
//! (FORMAT.md §10.3).
//!
//! A Golomb-coded set for each page. It is made as pages are, holding nothing but the page; it has no seed, cannot
//! fail, and the same entries give the same bytes.

use std::ops::Range;

use super::table::fence;
use super::{Filter, IndexEntry, PageInfo, PageTable, WHAT};
use crate::bytes::{Reader, to_u32, to_usize};
use crate::error::{Result, corrupt, ensure};
use crate::id::ContentId;

/// The kind byte of this filter.
const GOLOMB: u8 = 1;
/// Values for each entry: of the ids that are not on a page, one in so many seems to be.
const SPREAD: u64 = 512;
/// The size in front of each page's code.
const SIZE_BYTES: usize = 4;

/// Where an id falls among the values of a page. The bytes are not those that fences compare.
fn value(id: &ContentId, entries: u32) -> u64 {
    let [_, _, _, _, _, _, _, _, middle @ ..] = &id.0;
    let middle = middle.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let product = u128::from(middle).saturating_mul(u128::from(SPREAD.saturating_mul(u64::from(entries))));
    // invariant: below entries * SPREAD, so it fits
    u64::try_from(product >> 64).unwrap_or(u64::MAX)
}

/// A filter in the making.
#[derive(Default)]
pub(super) struct FilterBuilder {
    codes: Vec<u8>,
    last: u64,
}

impl FilterBuilder {
    /// Adds the next page.
    pub(super) fn page(&mut self, entries: &[IndexEntry]) -> Result<()> {
        let count = to_u32(WHAT, entries.len())?;
        let mut values: Vec<u64> = entries.iter().map(|entry| value(&entry.id, count)).collect();
        values.sort_unstable();
        let mut low = Vec::with_capacity(values.len());
        let mut high = BitWriter::default();
        let mut before = 0u64;
        for value in values {
            let gap = value.saturating_sub(before);
            before = value;
            low.push(gap.to_le_bytes()[0]);
            (0..gap >> 8).for_each(|_| high.push(false));
            high.push(true);
        }
        let size = to_u32(WHAT, low.len().saturating_add(high.bytes.len()))?;
        self.codes.extend_from_slice(&size.to_le_bytes());
        self.codes.append(&mut low);
        self.codes.append(&mut high.bytes);
        self.last = entries.last().map_or(self.last, |entry| fence(&entry.id));
        Ok(())
    }

    pub(super) fn finish(self) -> Filter {
        Filter { kind: GOLOMB, bytes: [&self.last.to_le_bytes()[..], &self.codes].concat() }
    }
}

/// Bits into bytes, the lowest first.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    used: u32,
}

impl BitWriter {
    fn push(&mut self, bit: bool) {
        if self.used == 0 {
            self.bytes.push(0);
        }
        if let Some(byte) = self.bytes.last_mut() {
            *byte |= u8::from(bit) << self.used;
        }
        self.used = self.used.wrapping_add(1) % 8;
    }
}

/// Runs of zero bits, each ended by a one.
struct Zeros<'a> {
    words: std::slice::Chunks<'a, u8>,
    word: u64,
    left: u32,
}

impl<'a> Zeros<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { words: bytes.chunks(8), word: 0, left: 0 }
    }
}

impl Iterator for Zeros<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let mut before = 0u64;
        while self.word == 0 {
            before = before.saturating_add(u64::from(self.left));
            let bytes = self.words.next()?;
            let mut word = [0; 8];
            word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            self.word = u64::from_le_bytes(word);
            self.left = u32::try_from(bytes.len()).unwrap_or(8).saturating_mul(8);
        }
        let zeros = self.word.trailing_zeros();
        self.word = self.word >> zeros >> 1;
        self.left = self.left.saturating_sub(zeros).saturating_sub(1);
        Some(before.saturating_add(u64::from(zeros)))
    }
}

/// Where each page's code starts in the filter's bytes.
#[derive(Debug, Clone)]
pub(super) struct PageFilters {
    starts: Vec<u32>,
    last: u64,
}

impl PageFilters {
    /// Finds the codes in the filter of `table`; none when it has a filter of no or of an unknown kind.
    pub(super) fn read(table: &PageTable) -> Result<Option<Self>> {
        if table.filter.kind != GOLOMB {
            return Ok(None);
        }
        let mut reader = Reader::new(WHAT, &table.filter.bytes);
        let last = reader.u64()?;
        let fenced = table.pages.last().is_none_or(|page| page.fence <= last);
        ensure(fenced, WHAT, || "its filter ends before its last page".into())?;
        let mut starts = Vec::with_capacity(table.pages.len());
        for page in &table.pages {
            let size = reader.count(1)?;
            let at = table.filter.bytes.len().saturating_sub(reader.remaining());
            starts.push(to_u32(WHAT, at)?);
            check_code(page, reader.take(size)?)?;
        }
        reader.finish()?;
        Ok(Some(Self { starts, last }))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.starts.len().saturating_mul(size_of::<u32>())
    }

    /// First eight bytes of the last id.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Whether a page may hold `id`.
    pub(super) fn may_hold(&self, table: &PageTable, number: usize, id: &ContentId) -> bool {
        let code = self.code(table, number);
        code.is_some_and(|(low, high, entries)| may_hold(low, high, value(id, entries)))
    }

    fn code<'a>(&self, table: &'a PageTable, number: usize) -> Option<(&'a [u8], &'a [u8], u32)> {
        let start = to_usize(*self.starts.get(number)?);
        let next = number.checked_add(1).and_then(|next| self.starts.get(next));
        let end = match next {
            Some(next) => to_usize(*next).checked_sub(SIZE_BYTES)?,
            None => table.filter.bytes.len(),
        };
        let entries = table.pages.get(number)?.entries;
        let (low, high) = table.filter.bytes.get(start..end)?.split_at_checked(to_usize(entries))?;
        Some((low, high, entries))
    }
}

fn may_hold(low: &[u8], high: &[u8], wanted: u64) -> bool {
    let mut at = 0u64;
    for (low, zeros) in low.iter().zip(Zeros::new(high)) {
        at = at.saturating_add(zeros << 8 | u64::from(*low));
        if at >= wanted {
            return at == wanted;
        }
    }
    false
}

/// One low byte and one run for each entry, and nothing behind the last run but the rest of its byte.
fn check_code(page: &PageInfo, code: &[u8]) -> Result<()> {
    let bad = || corrupt(WHAT, format!("the filter of a page of {} entries is none", page.entries));
    let (_, high) = code.split_at_checked(to_usize(page.entries)).ok_or_else(bad)?;
    let runs: u64 = high.iter().map(|byte| u64::from(byte.count_ones())).sum();
    let ends = high.last().is_some_and(|byte| *byte != 0);
    if ends && runs == u64::from(page.entries) { Ok(()) } else { Err(bad()) }
}

/// The pages that fences and filter leave: nearly always none or one.
pub(super) fn candidates<'a>(
    table: &'a PageTable,
    filters: Option<&'a PageFilters>,
    id: &'a ContentId,
) -> impl Iterator<Item = usize> + 'a {
    let beyond = filters.is_some_and(|filters| fence(id) > filters.last);
    let pages: Range<usize> = if beyond { 0..0 } else { table.pages_for(id) };
    pages.filter(move |number| filters.is_none_or(|filters| filters.may_hold(table, *number, id)))
}
