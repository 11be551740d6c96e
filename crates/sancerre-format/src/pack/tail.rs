//! What follows the frames of a pack, read alone: enough to say what lies where in a pack whose writer stored all of its
//! frames itself.

use super::{
    FrameChunk, PackHead, PackKind, SealedSession, TRAILER_BYTES, Trailer, WHAT, decode_directory,
    decode_table,
};
use crate::bytes::{Reader, to_usize};
use crate::error::{Result, corrupt};
use crate::id::{FramePlace, Hash, PackName, RepositoryId, SessionId};
use crate::seal::{self, RootKey};

/// The parts of a tail.
pub(super) struct Parts<'a> {
    pub(super) table: &'a [u8],
    pub(super) directory: &'a [u8],
    /// BLAKE3 of all of it, the trailer too.
    pub(super) hash: Hash,
}

/// Finds the parts in the last bytes of a pack; there may be more before them.
pub(super) fn split<'a>(trailer: &Trailer, bytes: &'a [u8]) -> Result<Parts<'a>> {
    let skipped = bytes.len().checked_sub(trailer.tail_bytes());
    let (_, tail) = skipped
        .and_then(|skipped| bytes.split_at_checked(skipped))
        .ok_or_else(|| corrupt(WHAT, "its table and directory are cut short"))?;
    let mut reader = Reader::new(WHAT, tail);
    let table = reader.take(to_usize(trailer.table_bytes))?;
    let directory = reader.take(trailer.directory_bytes())?;
    reader.take(TRAILER_BYTES)?;
    reader.finish()?;
    Ok(Parts { table, directory, hash: Hash::of(tail) })
}

/// The frames of a pack none of which was moved: the tail alone says their names and places, for they are named after
/// the pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnFrames {
    hash: Hash,
    frames: Vec<(FramePlace, Vec<FrameChunk>)>,
}

impl OwnFrames {
    /// Decodes the end of the pack with this name, which `session` wrote; `bytes` holds at least the last
    /// [`Trailer::tail_bytes`] of it. `metadata_root` is that of the session.
    ///
    /// Errors: also a pack that holds moved frames, whose head is needed too.
    pub fn decode(
        trailer: Trailer,
        (name, session): (PackName, SessionId),
        bytes: &[u8],
        metadata_root: &RootKey,
    ) -> Result<Self> {
        let parts = split(&trailer, bytes)?;
        // Stands for the head that was not read: without sessions of moved frames any head says the same of frames.
        let writer = SealedSession { session, sealed_key: Vec::new() };
        let head = PackHead {
            kind: PackKind::Metadata,
            repository: RepositoryId([0; 16]),
            ordinal: name.ordinal,
            sessions: vec![writer],
        };
        let directory = decode_directory(&trailer, &head, parts.directory)?;
        let raw = seal::open(metadata_root, &head.table_name(), parts.table)?;
        let table = decode_table(&raw, directory.len())?;
        let frames = directory.iter().map(super::DirectoryEntry::place).zip(table).collect();
        Ok(Self { hash: parts.hash, frames })
    }

    /// BLAKE3 of the tail: to be compared with the session's signed pack list, before anything of it is believed.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The frames, each with its pieces.
    pub fn into_frames(self) -> Vec<(FramePlace, Vec<FrameChunk>)> {
        self.frames
    }
}
