//! Frames on their way into packs. A frame's name is its place in a pack, so it is sealed where it is placed.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sancerre_format::bytes::{to_u64, to_usize};
use sancerre_format::config::Layout;
use sancerre_format::id::{ContentId, FrameName, FramePlace, PackName, Place, RepositoryId, SessionId};
use sancerre_format::index::IndexEntry;
use sancerre_format::pack::{FinishedPack, PackBuilder, PackHead, PackKind, SealedSession};
use sancerre_format::seal::{Codec, RootKey, UnitName, seal, sealed_bytes};

use crate::error::{Error, Result};

/// A finished pack and what an index segment will say of it.
pub(super) struct ReadyPack {
    pub pack: FinishedPack,
    pub entries: Vec<IndexEntry>,
}

/// What packs are made with; none of it in a dry run.
pub(super) struct PackKeys {
    pub repository: RepositoryId,
    pub session: SessionId,
    pub content: RootKey,
    pub metadata: RootKey,
    pub sealed_key: Vec<u8>,
}

struct Open {
    builder: PackBuilder,
    entries: Vec<IndexEntry>,
}

/// One open pack of each kind, shared by all workers.
pub(super) struct Packer {
    keys: Option<PackKeys>,
    pack_bytes: usize,
    ordinals: AtomicU32,
    data: Mutex<Option<Open>>,
    metadata: Mutex<Option<Open>>,
    annex: Mutex<Option<Open>>,
    finished: Mutex<Vec<ReadyPack>>,
    sealed_bytes: AtomicU64,
}

/// A frame before it is sealed.
pub(super) struct Frame<'a> {
    pub kind: PackKind,
    pub codec: Codec,
    pub raw_bytes: usize,
    pub coded: &'a [u8],
    /// Chunks or nodes in it, in order.
    pub pieces: &'a [(ContentId, u32)],
}

impl Packer {
    /// Without keys nothing is kept: a dry run only counts.
    pub(super) fn new(keys: Option<PackKeys>, layout: &Layout) -> Self {
        Self {
            keys,
            pack_bytes: to_usize(layout.pack_bytes),
            ordinals: AtomicU32::default(),
            data: Mutex::default(),
            metadata: Mutex::default(),
            annex: Mutex::default(),
            finished: Mutex::default(),
            sealed_bytes: AtomicU64::default(),
        }
    }

    /// Seals a frame into the open pack of its kind. Compression is done, so the lock is held for a fraction of
    /// the time a worker spends on a frame (about 3 %: AES and BLAKE3 against zstd).
    pub(super) fn append(&self, frame: &Frame<'_>) -> Result<FramePlace> {
        let size = sealed_bytes(frame.coded.len());
        self.sealed_bytes.fetch_add(to_u64(size), Ordering::Relaxed);
        let Some(keys) = &self.keys else { return Ok(UNPLACED) };
        let slot = match frame.kind {
            PackKind::Data => &self.data,
            PackKind::Metadata => &self.metadata,
            PackKind::Annex => &self.annex,
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let full = slot.take_if(|open| !open.builder.has_room(size, frame.pieces.len(), self.pack_bytes));
        if slot.is_none() {
            *slot = Some(self.open(keys, frame.kind)?);
        }
        let placed = slot.as_mut().map(|open| open.append(keys, frame));
        drop(slot);
        self.finish(keys, full)?;
        placed.ok_or_else(|| Error::bug("a frame found no open pack"))?
    }

    fn open(&self, keys: &PackKeys, kind: PackKind) -> Result<Open> {
        let sealed_key = if kind == PackKind::Data { keys.sealed_key.clone() } else { Vec::new() };
        let head = PackHead {
            kind,
            repository: keys.repository,
            ordinal: self.ordinals.fetch_add(1, Ordering::Relaxed),
            sessions: vec![SealedSession { session: keys.session, sealed_key }],
        };
        Ok(Open { builder: PackBuilder::new(head)?, entries: Vec::new() })
    }

    fn finish(&self, keys: &PackKeys, open: Option<Open>) -> Result<()> {
        // invariant: none means that no pack is full, or none of this kind was begun
        let Some(Open { builder, entries }) = open else { return Ok(()) };
        let ready = ReadyPack { pack: builder.finish(&keys.metadata)?, entries };
        self.finished.lock().unwrap_or_else(PoisonError::into_inner).push(ready);
        Ok(())
    }

    /// The packs finished since the last call.
    pub(super) fn take_finished(&self) -> Vec<ReadyPack> {
        std::mem::take(&mut *self.finished.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Finishes the open packs.
    pub(super) fn close(&self) -> Result<()> {
        // invariant: without keys this is a dry run, and no pack was begun
        let Some(keys) = &self.keys else { return Ok(()) };
        for slot in [&self.data, &self.metadata, &self.annex] {
            let open = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.finish(keys, open)?;
        }
        Ok(())
    }

    /// Bytes of all sealed frames so far.
    pub(super) fn sealed_bytes(&self) -> u64 {
        self.sealed_bytes.load(Ordering::Relaxed)
    }
}

impl Open {
    fn append(&mut self, keys: &PackKeys, frame: &Frame<'_>) -> Result<FramePlace> {
        let name = UnitName {
            kind: frame.kind.frame_kind(),
            session: keys.session,
            a: self.builder.name().ordinal,
            b: self.builder.next_index(),
        };
        let root = if frame.kind == PackKind::Data { &keys.content } else { &keys.metadata };
        let sealed = seal(root, &name, frame.codec, frame.raw_bytes, frame.coded)?;
        let place = self.builder.append(&sealed, frame.pieces)?;
        // What lies in an annex is no chunk and no node: the index must not know it.
        if frame.kind != PackKind::Annex {
            self.entries.extend(places(place, frame.pieces).map(|(id, place)| IndexEntry { id, place }));
        }
        Ok(place)
    }
}

/// Where each piece of a frame lies.
pub(super) fn places(
    frame: FramePlace,
    pieces: &[(ContentId, u32)],
) -> impl Iterator<Item = (ContentId, Place)> + '_ {
    pieces.iter().scan(0u32, move |offset, (id, size)| {
        let place = Place { frame, offset_bytes: *offset, size_bytes: *size };
        *offset += *size;
        Some((*id, place))
    })
}

/// The place of what is not stored: not yet, or never in a dry run. No session has number 0.
pub(super) const UNPLACED: FramePlace = FramePlace {
    frame: FrameName { pack: PackName { session: 0, ordinal: 0 }, index: 0 },
    offset_bytes: 0,
    sealed_bytes: 0,
};
