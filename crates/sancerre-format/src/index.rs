//! Index segments: chunk id → place, in sorted pages that are sealed and fetched one by one (FORMAT.md §10.2).
//!
//! ```text
//! record text, signature | page table (sealed) | page 0 (sealed) | page 1 (sealed) | …
//! ```
//!
//! The index is a cache: what it says is checked when used. A reader keeps the page tables in memory and reads the
//! one page that may hold an id.

mod build;
mod filter;
mod pages;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::certificate::{Role, Signer};
use crate::error::{Result, corrupt, ensure};
use crate::id::{ContentId, Hash, Place, RepositoryId, SessionId};
use crate::names::Zone;
use crate::record::{Fields, SignedBy, read_zone, signer_fits, write_zone};
use crate::text::{TextReader, TextWriter, number};

pub use build::{SealedSegment, SegmentBuilder, build_sealed};
pub use pages::SegmentReader;
pub use table::{Filter, PageInfo, PageTable, fence};

const WHAT: &str = "index segment";

/// Whose frames a segment may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Its own session's, and it replaces nothing: a backup speaks of what it stored.
    OwnSession,
    /// Any session's: the segments of a log entry of kind `index`.
    AnySession,
}

/// Where one chunk or node lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Its id.
    pub id: ContentId,
    /// Its place.
    pub place: Place,
}

/// A segment: the session that wrote it and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// Number of the session.
    pub session: u64,
    /// Counts the session's segments from 0.
    pub sequence: u32,
}

impl SegmentName {
    fn parse(text: &str) -> Result<Self> {
        let parts = text.split_once('/');
        let (session, sequence) = parts.ok_or_else(|| corrupt(WHAT, format!("{text:?} is not <n>/<i>")))?;
        Ok(Self { session: number(WHAT, session)?, sequence: number(WHAT, sequence)? })
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.session, self.sequence)
    }
}

/// The signed fields of a segment. Its sealed part is what [`build_sealed`] made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFields {
    /// The repository.
    pub repository: RepositoryId,
    /// The zone.
    pub zone: Zone,
    /// The session that wrote it.
    pub session: SessionId,
    /// Counts the session's segments from 0.
    pub sequence: u32,
    /// Who signed: the session's signer.
    pub by: SignedBy,
    /// Generation of the zone's keys under which the ids were made.
    pub generation: u16,
    /// The segments that this one, with those before it in its session, replaces; ascending.
    pub covers: Vec<SegmentName>,
    /// How many entries all pages hold.
    pub entries: u64,
    /// Size of the sealed page table, the start of the sealed part.
    pub table_bytes: u32,
    /// BLAKE3 of the sealed page table.
    pub table_hash: Hash,
}

impl Fields for SegmentFields {
    const KIND: &'static str = "sancerre-index-v1";

    fn write(&self, text: &mut TextWriter) {
        write_zone(text, &self.repository, &self.zone);
        text.field("session", self.session).field("sequence", self.sequence);
        self.by.write(text);
        text.field("generation", self.generation).repeated("covers", &self.covers);
        text.field("entries", self.entries);
        text.field("table", format_args!("{} {}", self.table_bytes, self.table_hash));
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let (repository, zone) = read_zone(text)?;
        let session = text.parsed("session", SessionId::parse)?;
        let sequence = text.number("sequence")?;
        let by = SignedBy::read(text)?;
        let generation = text.number("generation")?;
        let covers = text.repeated("covers", SegmentName::parse)?;
        ensure(covers.is_sorted_by(|a, b| a < b), Self::KIND, || "covers lines are not ascending".into())?;
        let entries = text.number("entries")?;
        let (table_bytes, table_hash) = text.parsed("table", |table| {
            let parts = table.split_once(' ');
            let (size, hash) = parts.ok_or_else(|| corrupt(Self::KIND, "its table has no hash"))?;
            Ok((number(Self::KIND, size)?, Hash::from_hex(hash)?))
        })?;
        Ok(Self {
            repository,
            zone,
            session,
            sequence,
            by,
            generation,
            covers,
            entries,
            table_bytes,
            table_hash,
        })
    }

    fn allows(&self, signer: &Signer) -> bool {
        signer_fits(signer, &self.by, &self.zone, Role::STORING)
    }
}
