//! The two ends of a pack: its head, and its table and directory. They say what lies in it without its frames.

use bytes::Bytes;
use sancerre_format::FormatError;
use sancerre_format::bytes::to_u64;
use sancerre_format::id::{PackName, SessionId};
use sancerre_format::list::ListedPack;
use sancerre_format::names;
use sancerre_format::pack::{PackTail, Trailer};

use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::repository::catalogue::Catalogue;

/// First guesses of how much of a pack's ends to read: nearly always enough for head, and table with directory.
const HEAD_BYTES: u64 = 4 << 10;
const TAIL_BYTES: u64 = 64 << 10;

/// A pack as its session listed it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) name: PackName,
    pub(crate) session: SessionId,
    pub(crate) listed: ListedPack,
}

/// The start of a pack with all of its head, and the end with all of its table and directory.
#[derive(Debug)]
pub(crate) struct Ends {
    source: Source,
    trailer: Trailer,
    head: Bytes,
    tail: Bytes,
}

impl Source {
    /// The pack as its list has it; none when no verified list names it.
    pub(crate) fn find(catalogue: &Catalogue, name: PackName) -> Option<Self> {
        let (session, listed) = (catalogue.session(name.session)?, *catalogue.pack(name)?);
        Some(Self { name, session, listed })
    }

    /// The object's key.
    pub(crate) fn key(&self, repository: &Repository) -> String {
        names::pack(&repository.keys.zone, self.name, &self.listed.hash)
    }
}

impl Ends {
    /// Reads both ends: two requests, seldom more.
    pub(crate) async fn fetch(repository: &Repository, source: Source) -> Result<Self> {
        let (key, size_bytes) = (source.key(repository), source.listed.size_bytes);
        let store = &repository.store;
        let tail_from = size_bytes.saturating_sub(TAIL_BYTES);
        let (mut head, mut tail) = futures::try_join!(
            store.need_range(&key, 0..HEAD_BYTES.min(size_bytes)),
            store.need_range(&key, tail_from..size_bytes)
        )?;
        let trailer = Trailer::decode(&tail, size_bytes).map_err(Error::object(&key))?;
        if to_u64(trailer.tail_bytes()) > to_u64(tail.len()) {
            let from = size_bytes.saturating_sub(to_u64(trailer.tail_bytes()));
            tail = store.need_range(&key, from..size_bytes).await?;
        }
        if trailer.head_range().end > to_u64(head.len()) {
            head = store.need_range(&key, trailer.head_range()).await?;
        }
        Ok(Self { source, trailer, head, tail })
    }

    /// Decodes them, and compares them with what the pack's session listed.
    pub(crate) fn decode(&self) -> std::result::Result<PackTail<'_>, FormatError> {
        let listed = self.trailer.directory_hash() == self.source.listed.directory;
        let tail = PackTail::decode(self.trailer, &self.head, &self.tail)?;
        if listed && tail.head().name() == self.source.name && tail.head().writer() == self.source.session {
            return Ok(tail);
        }
        let detail = "it is not the one its session listed".to_owned();
        Err(FormatError::Forged { what: "pack", detail })
    }
}
