//! What lies where by the tables of the packs themselves. A map that has another chunk there was built on an index
//! that did not tell the truth: the pack is sound, and a restore finds out all the same.
//!
//! Only tables of packs that this check has read are asked: their content was compared with them.

use std::collections::HashMap;
use std::sync::Arc;

use sancerre_format::bytes::to_u64;
use sancerre_format::id::{ContentId, FrameName, FramePlace, PackName, Place};
use sancerre_format::pack::{FrameChunk, PackTail};

use super::report::Severity;
use super::run::{Run, tolerate};
use crate::error::{Error, Result, StoreError};
use crate::repository::pack_ends::{PackEnds, PackRef};
use sancerre_repository::lru::LruCache;

/// Tables kept: of a disk that is walked from left to right, some packs of each snapshot.
const KEPT_BYTES: u64 = 64 << 20;

/// The chunks of one pack, by frame.
pub(super) struct Table(HashMap<FrameName, Frame>);

struct Frame {
    place: FramePlace,
    /// Where each chunk starts in the raw frame, ascending.
    chunks: Vec<(u64, FrameChunk)>,
}

/// Tables of packs that were read.
pub(super) struct Tables(LruCache<PackName, Option<Arc<Table>>>);

impl Table {
    fn new(tail: &PackTail<'_>, pieces: Vec<Vec<FrameChunk>>) -> Self {
        let frames = tail.directory().iter().zip(pieces);
        Self(frames.map(|(entry, pieces)| (entry.frame, Frame::new(entry.place(), pieces))).collect())
    }

    /// Whether this chunk lies at this place. `moved`: the place is that in another pack, and only what is within the
    /// frame can be compared.
    pub(super) fn has(&self, id: &ContentId, place: &Place, moved: bool) -> bool {
        let Some(frame) = self.0.get(&place.frame.frame) else { return false };
        let start = u64::from(place.offset_bytes);
        let found = frame.chunks.binary_search_by_key(&start, |(start, _)| *start);
        let chunk = found.ok().and_then(|at| frame.chunks.get(at)).map(|(_, chunk)| *chunk);
        (moved || frame.place == place.frame) && chunk == Some((*id, place.size_bytes))
    }

    fn memory_bytes(&self) -> u64 {
        let of_frame = |frame: &Frame| {
            let chunks = frame.chunks.len().saturating_mul(size_of::<(u64, FrameChunk)>());
            chunks.saturating_add(size_of::<(FrameName, Frame)>())
        };
        to_u64(self.0.values().map(of_frame).fold(0, usize::saturating_add))
    }
}

impl Frame {
    fn new(place: FramePlace, pieces: Vec<FrameChunk>) -> Self {
        let mut start = 0u64;
        let chunk = |piece: FrameChunk| {
            let at = start;
            start = start.saturating_add(u64::from(piece.1));
            (at, piece)
        };
        Self { place, chunks: pieces.into_iter().map(chunk).collect() }
    }
}

impl Default for Tables {
    fn default() -> Self {
        Self(LruCache::new(KEPT_BYTES))
    }
}

impl Tables {
    /// The table of a pack in which a copy may lie; none when it cannot be had: then no copy is known there.
    pub(super) async fn of_copy(&mut self, run: &Run<'_>, pack: PackName) -> Result<Option<Arc<Table>>> {
        if let Some(table) = self.0.get(&pack) {
            return Ok(table);
        }
        let table = match fetch(run, pack).await {
            Ok(table) => Some(Arc::new(table)),
            Err(error) => {
                tolerate(run.repository, error).await?;
                None
            }
        };
        let bytes = table.as_ref().map_or(0, |table| table.memory_bytes());
        self.0.put(pack, table.clone(), bytes);
        Ok(table)
    }

    /// The table of a pack; none when the pack was not read, or its table cannot be had any more, which is then noted.
    pub(super) async fn of(&mut self, run: &mut Run<'_>, pack: PackName) -> Result<Option<Arc<Table>>> {
        if !run.read.contains(&pack) {
            return Ok(None);
        }
        if let Some(table) = self.0.get(&pack) {
            return Ok(table);
        }
        let table = match fetch(run, pack).await {
            Ok(table) => Some(Arc::new(table)),
            // Read before gc deleted it.
            Err(Error::Store(StoreError::Missing { .. })) if run.frames.gave_up(pack).await? => None,
            Err(error) => {
                let key = run.inventory.catalogue.key(run.repository, pack)?;
                let problem = tolerate(run.repository, error).await?;
                run.findings.blame(&key, Severity::Damaged, format!("its table, read again: {problem}"));
                None
            }
        };
        let bytes = table.as_ref().map_or(0, |table| table.memory_bytes());
        self.0.put(pack, table.clone(), bytes);
        Ok(table)
    }
}

async fn fetch(run: &Run<'_>, pack: PackName) -> Result<Table> {
    let repository = run.repository;
    let key = run.inventory.catalogue.key(repository, pack)?;
    let source = PackRef::find(&run.inventory.catalogue, pack)
        .ok_or_else(|| Error::Store(StoreError::Missing { key: key.clone() }))?;
    let root = repository.keys.metadata_root_in(&source.session, run.log.generation(pack.session))?;
    let ends = PackEnds::fetch(repository, source).await?;
    let tail = ends.decode().map_err(Error::object(&key))?;
    let pieces = tail.open_table(&root).map_err(Error::object(&key))?;
    Ok(Table::new(&tail, pieces))
}
