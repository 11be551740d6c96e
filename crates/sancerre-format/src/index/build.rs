//! Building the sealed part of a segment.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::table::{ENTRY_BYTES, fence};
use super::{Filter, IndexEntry, PageInfo, PageTable, WHAT};
use crate::bytes::{to_u32, to_u64};
use crate::error::{Result, corrupt, ensure};
use crate::id::{Hash, SessionId};
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
    let sessions: Vec<u64> = numbers.collect::<BTreeSet<_>>().into_iter().collect();

    let unit = |kind, b| UnitName { kind, session, a: sequence, b };
    let mut pages = Vec::new();
    let mut sealed_pages = Vec::new();
    for (number, page) in entries.chunks(PAGE_ENTRIES).enumerate() {
        let name = unit(UnitKind::IndexPage, to_u32(WHAT, number)?);
        let sealed = seal_raw(root, &name, LEVEL, &encode_page(page, &sessions)?)?;
        pages.push(PageInfo {
            fence: page.first().map_or(0, |entry| fence(&entry.id)),
            offset_bytes: to_u64(sealed_pages.len()),
            sealed_bytes: to_u32(WHAT, sealed.len())?,
            entries: to_u32(WHAT, page.len())?,
            hash: Hash::of(&sealed),
        });
        sealed_pages.extend_from_slice(&sealed);
    }
    let table = PageTable { sessions, filter: Filter::NONE, pages }.encode()?;
    let mut sealed = seal_raw(root, &unit(UnitKind::IndexTable, 0), LEVEL, &table)?;
    let (table_bytes, table_hash) = (to_u32(WHAT, sealed.len())?, Hash::of(&sealed));
    sealed.append(&mut sealed_pages);
    Ok(SealedSegment { sealed, table_bytes, table_hash, entries: to_u64(entries.len()) })
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
