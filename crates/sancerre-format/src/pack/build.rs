//! Building a pack: frames are appended as they are sealed, table, directory and trailer follow at the end.

use sha2::{Digest, Sha256};

use super::{
    DirectoryEntry, ENTRY_BYTES, FRAMES_MAX, FrameChunk, PIECE_BYTES, Pack, PackHead, PackKind,
    TRAILER_BYTES, Trailer, WHAT, check_entry, check_pieces, ends_hash,
};
use crate::bytes::{to_u32, to_u64, to_usize};
use crate::error::{Result, ensure};
use crate::id::{FrameName, FramePlace, Hash, PackName};
use crate::list::ListedPack;
use crate::seal::{self, RootKey, UNIT_BYTES_MAX, seal_raw, sealed_bytes};

const TABLE_LEVEL: i32 = 3;

/// One open pack.
#[derive(Debug, Clone)]
pub struct PackBuilder {
    head: PackHead,
    /// Head and frames.
    bytes: Vec<u8>,
    head_bytes: u32,
    directory: Vec<DirectoryEntry>,
    /// The raw table.
    table: Vec<u8>,
}

/// A pack ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedPack {
    /// Its name.
    pub name: PackName,
    /// What its frames hold.
    pub kind: PackKind,
    /// The object.
    pub bytes: Vec<u8>,
    /// BLAKE3 of the object: the end of its key.
    pub hash: Hash,
    /// SHA-256 of the object.
    pub sha256: Hash,
    /// BLAKE3 of all that follows its frames.
    pub tail_hash: Hash,
    /// How many frames it holds.
    pub frames: u32,
}

impl FinishedPack {
    /// The pack as its session's signed list names it.
    pub fn listed(&self) -> ListedPack {
        ListedPack {
            ordinal: self.name.ordinal,
            kind: self.kind,
            size_bytes: to_u64(self.bytes.len()),
            hash: self.hash,
            sha256: self.sha256,
            tail: self.tail_hash,
            frames: self.frames,
        }
    }
}

impl PackBuilder {
    /// A pack without frames.
    pub fn new(head: PackHead) -> Result<Self> {
        let bytes = head.encode()?;
        let head_bytes = to_u32(WHAT, bytes.len())?;
        Ok(Self { head, bytes, head_bytes, directory: Vec::new(), table: Vec::new() })
    }

    /// Most bytes of the finished pack if a frame of `sealed_bytes` with `pieces` chunks or nodes were added.
    pub(crate) fn len_bytes_with(&self, sealed_frame_bytes: usize, pieces: usize) -> usize {
        let directory = self.directory.len().saturating_add(1).saturating_mul(ENTRY_BYTES);
        let sizes = [
            self.bytes.len(),
            sealed_frame_bytes,
            sealed_bytes(self.table_bytes_with(pieces)),
            directory,
            TRAILER_BYTES,
        ];
        sizes.into_iter().fold(0, usize::saturating_add)
    }

    /// Whether such a frame may be added to a pack that is to stay within `pack_bytes` and the format's limits on
    /// frames and table. A pack without frames has room for any frame; when this says no, finish and start the next.
    pub fn has_room(&self, sealed_frame_bytes: usize, pieces: usize, pack_bytes: usize) -> bool {
        self.directory.is_empty()
            || (self.directory.len() < FRAMES_MAX
                && self.table_bytes_with(pieces) <= UNIT_BYTES_MAX
                && self.len_bytes_with(sealed_frame_bytes, pieces) <= pack_bytes)
    }

    fn table_bytes_with(&self, pieces: usize) -> usize {
        self.table.len().saturating_add(pieces.saturating_mul(PIECE_BYTES)).saturating_add(4)
    }

    /// Whether no frame was added yet.
    pub fn is_empty(&self) -> bool {
        self.directory.is_empty()
    }

    /// The pack's name.
    pub fn name(&self) -> PackName {
        self.head.name()
    }

    /// The index of the next frame: b in the name of its unit.
    pub fn next_index(&self) -> u32 {
        // Bounded by FRAMES_MAX.
        u32::try_from(self.directory.len()).unwrap_or(u32::MAX)
    }

    /// Adds a frame that the writing session sealed for this place, with its pieces in their order.
    pub fn append(&mut self, sealed: &[u8], pieces: &[FrameChunk]) -> Result<FramePlace> {
        let frame = FrameName { pack: self.name(), index: self.next_index() };
        self.add(0, frame, sealed, pieces)
    }

    /// Adds a frame of an older session as it is. `session_index` is that session's place in the head, not 0.
    ///
    /// The place returned is that in this pack; the place by which maps know the frame stays that in its first pack.
    pub fn append_moved(
        &mut self,
        session_index: u16,
        frame: FrameName,
        sealed: &[u8],
        pieces: &[FrameChunk],
    ) -> Result<FramePlace> {
        ensure(session_index != 0, WHAT, || {
            format!("frame {frame} cannot be moved by the session that stored it")
        })?;
        self.add(session_index, frame, sealed, pieces)
    }

    fn add(
        &mut self,
        session_index: u16,
        frame: FrameName,
        sealed: &[u8],
        pieces: &[FrameChunk],
    ) -> Result<FramePlace> {
        let table_bytes = self.table_bytes_with(pieces.len());
        ensure(self.directory.len() < FRAMES_MAX && table_bytes <= UNIT_BYTES_MAX, WHAT, || {
            format!("it is full with {} frames", self.directory.len())
        })?;
        to_u32(WHAT, self.len_bytes_with(sealed.len(), pieces.len()))?;
        let entry = DirectoryEntry {
            session_index,
            frame,
            offset_bytes: to_u32(WHAT, self.bytes.len())?,
            sealed_bytes: to_u32(WHAT, sealed.len())?,
            hash: Hash::of(sealed),
        };
        check_entry(&self.head, self.next_index(), &entry)?;
        check_pieces(pieces)?;
        self.bytes.extend_from_slice(sealed);
        self.table.extend_from_slice(&to_u32(WHAT, pieces.len())?.to_le_bytes());
        for (id, size_bytes) in pieces {
            self.table.extend_from_slice(&id.0);
            self.table.extend_from_slice(&size_bytes.to_le_bytes());
        }
        self.directory.push(entry);
        Ok(entry.place())
    }

    /// Seals the table and closes the pack. What was built is decoded and compared before it is returned, so that a
    /// fault of this program or of the memory it ran in is not stored.
    ///
    /// `metadata_root` is that of the writing session.
    pub fn finish(mut self, metadata_root: &RootKey) -> Result<FinishedPack> {
        let table = seal_raw(metadata_root, &self.head.table_name(), TABLE_LEVEL, &self.table)?;
        let mut directory = Vec::with_capacity(self.directory.len().saturating_mul(ENTRY_BYTES));
        self.directory.iter().for_each(|entry| entry.encode(&mut directory));
        let head = self.bytes.get(..to_usize(self.head_bytes)).unwrap_or_default();
        let trailer = Trailer {
            frames: self.next_index(),
            head_bytes: self.head_bytes,
            table_bytes: to_u32(WHAT, table.len())?,
            table_offset_bytes: to_u32(WHAT, self.bytes.len())?,
            ends_hash: ends_hash(head, &table, &directory),
        };
        let tail = [&table[..], &directory, &trailer.encode()].concat();
        self.bytes.extend_from_slice(&tail);
        self.compare(metadata_root)?;
        Ok(FinishedPack {
            name: self.head.name(),
            kind: self.head.kind,
            hash: Hash::of(&self.bytes),
            sha256: Hash(Sha256::digest(&self.bytes).into()),
            tail_hash: Hash::of(&tail),
            frames: trailer.frames,
            bytes: self.bytes,
        })
    }

    fn compare(&self, metadata_root: &RootKey) -> Result<()> {
        let pack = Pack::decode(&self.bytes)?;
        pack.verify_frames()?;
        pack.open_table(metadata_root)?;
        let table = seal::open(metadata_root, &self.head.table_name(), pack.tail.table)?;
        let same = *pack.head() == self.head && pack.directory() == self.directory && table == self.table;
        ensure(same, WHAT, || format!("{} reads back different from what was built", self.name()))
    }
}
