//! Frames of many packs, gathered until they fill one.

use std::collections::BTreeMap;

use bytes::Bytes;
use sancerre_format::FormatError;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::{FramePlace, RepositoryId, SessionId};
use sancerre_format::list::ListedPack;
use sancerre_format::names;
use sancerre_format::pack::{FinishedPack, FrameChunk, PackBuilder, PackHead, PackKind, SealedSession};
use sancerre_format::seal::{RootKey, UNIT_BYTES_MAX, sealed_bytes};

use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::store::Creation;

/// What a pack needs besides frames (FORMAT.md §5): head and trailer, and for each session, frame and piece.
const FIXED_BYTES: usize = 80 + 42 + 64;
const SESSION_BYTES: usize = 42;
const ENTRY_BYTES: usize = 48;
const COUNT_BYTES: usize = 4;
const PIECE_BYTES: usize = 36;
/// Sessions in a head besides the writing one, and frames in a pack.
const SESSIONS_MAX: usize = 1023;
const FRAMES_MAX: usize = 65_536;

/// A sealed frame on its way.
#[derive(Debug)]
pub(super) struct MovedFrame {
    /// Its name and its sealed size.
    pub(super) place: FramePlace,
    /// The session that sealed it, and what opens it.
    pub(super) session: SealedSession,
    /// What is in it.
    pub(super) pieces: Vec<FrameChunk>,
    pub(super) sealed: Bytes,
}

/// Frames that make one pack.
#[derive(Debug)]
pub(super) struct PackInMaking {
    kind: PackKind,
    frames: Vec<MovedFrame>,
    sessions: BTreeMap<u64, SealedSession>,
    /// Of frames, directory and head.
    size_bytes: usize,
    /// Of the raw table.
    table_bytes: usize,
}

/// Frames of one kind that wait until they fill a pack.
#[derive(Debug)]
pub(super) struct PackFiller {
    pack_bytes: usize,
    open: PackInMaking,
}

impl PackFiller {
    pub(super) fn new(kind: PackKind, pack_bytes: usize) -> Self {
        Self { pack_bytes, open: PackInMaking::new(kind) }
    }

    /// Adds a frame; returns what was gathered before when there was no room.
    pub(super) fn add(&mut self, frame: MovedFrame) -> Option<PackInMaking> {
        let full = if self.open.has_room(&frame, self.pack_bytes) { None } else { self.take() };
        self.open.push(frame);
        full
    }

    /// What is gathered, if anything.
    pub(super) fn take(&mut self) -> Option<PackInMaking> {
        let empty = PackInMaking::new(self.open.kind);
        Some(std::mem::replace(&mut self.open, empty)).filter(|taken| !taken.frames.is_empty())
    }
}

impl PackInMaking {
    fn new(kind: PackKind) -> Self {
        let (frames, sessions) = (Vec::new(), BTreeMap::new());
        Self { kind, frames, sessions, size_bytes: FIXED_BYTES, table_bytes: 0 }
    }

    /// What a frame adds: to the pack, and to its raw table.
    fn costs(&self, frame: &MovedFrame) -> (usize, usize) {
        let is_known = self.sessions.contains_key(&frame.session.session.number);
        let key = frame.session.sealed_key.len() + SESSION_BYTES;
        let size = frame.sealed.len() + ENTRY_BYTES;
        let table = (frame.pieces.len() * PIECE_BYTES) + COUNT_BYTES;
        (if is_known { size } else { size + key }, table)
    }

    fn has_room(&self, frame: &MovedFrame, pack_bytes: usize) -> bool {
        let (size, table) = self.costs(frame);
        let table_bytes = self.table_bytes + table;
        let bytes = (self.size_bytes + size) + sealed_bytes(table_bytes);
        self.frames.len() < FRAMES_MAX
            && self.sessions.len() < SESSIONS_MAX
            && table_bytes <= UNIT_BYTES_MAX
            && bytes <= pack_bytes
    }

    fn push(&mut self, frame: MovedFrame) {
        let (size, table) = self.costs(&frame);
        self.size_bytes += size;
        self.table_bytes += table;
        self.sessions.entry(frame.session.session.number).or_insert_with(|| frame.session.clone());
        self.frames.push(frame);
    }

    /// The names of the frames.
    pub(super) fn names(&self) -> FrameSet {
        let mut names = FrameSet::default();
        self.frames.iter().for_each(|frame| names.insert(frame.place.frame));
        names
    }

    /// Stores it as a pack of the collector `session`.
    pub(super) async fn store(
        self,
        repository: &Repository,
        session: SessionId,
        ordinal: u32,
    ) -> Result<ListedPack> {
        let root = repository.keys.metadata_root(&session)?;
        let id = repository.keys.trust.repository;
        let build = move || self.build(id, session, ordinal, &root);
        let pack: FinishedPack = repository.host.compute(build).await?.map_err(Error::Encode)?;
        let (listed, key) = (pack.listed(), names::pack(&repository.keys.zone, pack.name, &pack.hash));
        let advice = "another process uses this session; run gc again";
        repository.store.put_own(&key, pack.bytes.into(), advice).await?;
        Ok(listed)
    }

    fn build(
        self,
        repository: RepositoryId,
        session: SessionId,
        ordinal: u32,
        root: &RootKey,
    ) -> std::result::Result<FinishedPack, FormatError> {
        // A collector seals no frames, so it has no key.
        let writer = SealedSession { session, sealed_key: Vec::new() };
        let indexes: BTreeMap<u64, u16> = self.sessions.keys().copied().zip(1..).collect();
        let sessions = std::iter::once(writer).chain(self.sessions.into_values()).collect();
        let mut builder = PackBuilder::new(PackHead { kind: self.kind, repository, ordinal, sessions })?;
        for frame in &self.frames {
            let session = frame.place.frame.pack.session;
            let unknown = || FormatError::Corrupt {
                what: "pack",
                detail: format!("the session {session} of a moved frame is not in its head"),
            };
            let index = indexes.get(&session).copied().ok_or_else(unknown)?;
            builder.append_moved(index, frame.place.frame, &frame.sealed, &frame.pieces)?;
        }
        builder.finish(root)
    }
}
