//! Packs: the objects that hold sealed frames (FORMAT.md §5).
//!
//! ```text
//! head | frame 0 | frame 1 | … | table (sealed) | directory | trailer (64 bytes)
//! ```
//!
//! The trailer comes last, so a pack is written in one pass, and a reader that knows only the object's size gets
//! from the last bytes to everything else. Head, directory and trailer are public: an auditor checks every frame's
//! hash without a key. The table is sealed under the metadata key, so that a lost index is rebuilt from packs alone.

mod build;
mod head;
mod tail;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ops::Range;

use crate::bytes::{Reader, to_u64, to_usize};
use crate::error::{Result, corrupt, ensure, forged};
use crate::id::{ContentId, FrameName, FramePlace, Hash, PackName};
use crate::seal::{self, RootKey, UnitKind, UnitName, is_sealed_size, sealed_bytes};

pub use build::{FinishedPack, PackBuilder};
pub use head::{PackHead, PackKind, SealedSession, refuse_newer};
pub use tail::OwnFrames;

const WHAT: &str = "pack";
const TRAILER_MAGIC: &[u8; 8] = b"KCAPCNAS";
const ENTRY_BYTES: usize = 48;
/// Bytes of one chunk or node in the table, without its frame's count.
const PIECE_BYTES: usize = 36;
/// Size of the trailer.
pub const TRAILER_BYTES: usize = 64;
/// Most frames in a pack.
pub const FRAMES_MAX: usize = 65_536;

/// A chunk or node and its size, in the order in which their bytes lie in a frame.
pub type FrameChunk = (ContentId, u32);

/// One frame, as the public directory says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Index into the head's sessions: whose key opens the frame. 0 exactly when the frame was never moved.
    pub session_index: u16,
    /// The frame's lasting name.
    pub frame: FrameName,
    /// Where it starts in this pack: the end of the head plus the sizes before it; not stored.
    pub offset_bytes: u32,
    /// Size of the sealed frame.
    pub sealed_bytes: u32,
    /// BLAKE3 of the sealed frame.
    pub hash: Hash,
}

impl DirectoryEntry {
    /// Where the frame lies in this pack.
    pub fn place(&self) -> FramePlace {
        FramePlace { frame: self.frame, offset_bytes: self.offset_bytes, sealed_bytes: self.sealed_bytes }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.session_index.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        for number in [self.frame.pack.ordinal, self.frame.index, self.sealed_bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.hash.0);
    }
}

/// The last 64 bytes of a pack: where everything else is, checked against the pack's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    frames: u32,
    head_bytes: u32,
    table_bytes: u32,
    table_offset_bytes: u32,
    ends_hash: Hash,
}

impl Trailer {
    /// Decodes the trailer at the end of `tail`, which holds at least the last 64 bytes of a pack of `pack_bytes`.
    pub fn decode(tail: &[u8], pack_bytes: u64) -> Result<Self> {
        let Some(bytes) = tail.last_chunk::<TRAILER_BYTES>() else {
            return Err(corrupt(WHAT, format!("{} bytes are too few for a trailer", tail.len())));
        };
        let mut reader = Reader::new(WHAT, bytes);
        let trailer = Self {
            frames: reader.u32()?,
            head_bytes: reader.u32()?,
            table_bytes: reader.u32()?,
            table_offset_bytes: reader.u32()?,
            ends_hash: Hash(reader.array()?),
        };
        reader.zeros::<8>()?;
        ensure(reader.take(TRAILER_MAGIC.len())? == TRAILER_MAGIC, WHAT, || {
            "it does not end as a pack ends: cut short, or not a pack".into()
        })?;
        reader.finish()?;
        trailer.check(pack_bytes)?;
        Ok(trailer)
    }

    fn check(&self, pack_bytes: u64) -> Result<()> {
        ensure((1..=FRAMES_MAX).contains(&self.frames()), WHAT, || {
            format!("announces {} frames", self.frames)
        })?;
        ensure(head::SIZES.contains(&to_usize(self.head_bytes)), WHAT, || {
            format!("announces a head of {} bytes", self.head_bytes)
        })?;
        ensure(is_sealed_size(to_usize(self.table_bytes)), WHAT, || {
            format!("announces a table of {} bytes", self.table_bytes)
        })?;
        let frames_end =
            self.frames().saturating_mul(sealed_bytes(0)).saturating_add(to_usize(self.head_bytes));
        ensure(frames_end <= to_usize(self.table_offset_bytes), WHAT, || {
            format!("{} frames do not fit before offset {}", self.frames, self.table_offset_bytes)
        })?;
        let total = to_u64(to_usize(self.table_offset_bytes).saturating_add(self.tail_bytes()));
        ensure(total == pack_bytes, WHAT, || format!("it has {pack_bytes} bytes, announced are {total}"))
    }

    fn encode(&self) -> [u8; TRAILER_BYTES] {
        let numbers = [self.frames, self.head_bytes, self.table_bytes, self.table_offset_bytes];
        let fields = numbers.iter().flat_map(|number| number.to_le_bytes());
        let all = fields.chain(self.ends_hash.0).chain([0; 8]).chain(*TRAILER_MAGIC);
        let mut bytes = [0; TRAILER_BYTES];
        bytes.iter_mut().zip(all).for_each(|(byte, field)| *byte = field);
        bytes
    }

    /// How many frames the pack holds.
    pub fn frames(&self) -> usize {
        to_usize(self.frames)
    }

    /// Where the head lies in the pack.
    pub fn head_range(&self) -> Range<u64> {
        0..u64::from(self.head_bytes)
    }

    /// How many bytes at the end of the pack hold table, directory and trailer.
    pub fn tail_bytes(&self) -> usize {
        to_usize(self.table_bytes).saturating_add(self.directory_bytes()).saturating_add(TRAILER_BYTES)
    }

    fn directory_bytes(&self) -> usize {
        self.frames().saturating_mul(ENTRY_BYTES)
    }
}

/// All of a pack but its frames: what two range reads at its ends give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackTail<'a> {
    trailer: Trailer,
    head: PackHead,
    directory: Vec<DirectoryEntry>,
    table: &'a [u8],
    hash: Hash,
}

impl<'a> PackTail<'a> {
    /// Decodes head and directory, which with the table must fit the trailer.
    ///
    /// `head` starts with the bytes of [`Trailer::head_range`], `tail` ends with the last [`Trailer::tail_bytes`]
    /// bytes of the pack; both may be longer.
    pub fn decode(trailer: Trailer, head: &[u8], tail: &'a [u8]) -> Result<Self> {
        let head =
            head.get(..to_usize(trailer.head_bytes)).ok_or_else(|| corrupt(WHAT, "its head is cut short"))?;
        let ends = tail::split(&trailer, tail)?;
        if ends_hash(head, ends.table, ends.directory) != trailer.ends_hash {
            return Err(forged(WHAT, "head, table or directory do not fit the hash in its trailer"));
        }
        let head = PackHead::decode(head)?;
        let directory = decode_directory(&trailer, &head, ends.directory)?;
        Ok(Self { trailer, head, directory, table: ends.table, hash: ends.hash })
    }

    /// BLAKE3 of all that follows the frames: to be compared with the session's signed pack list, which vouches so for
    /// table and directory and, by the hash in the trailer, for the head.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The trailer.
    pub fn trailer(&self) -> &Trailer {
        &self.trailer
    }

    /// The head.
    pub fn head(&self) -> &PackHead {
        &self.head
    }

    /// The frames in the order in which they lie in the pack.
    pub fn directory(&self) -> &[DirectoryEntry] {
        &self.directory
    }

    /// Opens the table: the pieces of each frame, in the directory's order.
    ///
    /// `metadata_root` is that of the session that wrote the pack, the first in the head.
    pub fn open_table(&self, metadata_root: &RootKey) -> Result<Vec<Vec<FrameChunk>>> {
        let raw = seal::open(metadata_root, &self.head.table_name(), self.table)?;
        decode_table(&raw, self.directory.len())
    }
}

/// What the trailer says of head, table and directory.
fn ends_hash(head: &[u8], table: &[u8], directory: &[u8]) -> Hash {
    Hash::of(&[head, table, directory].concat())
}

fn decode_directory(trailer: &Trailer, head: &PackHead, bytes: &[u8]) -> Result<Vec<DirectoryEntry>> {
    let mut reader = Reader::new(WHAT, bytes);
    let mut directory: Vec<DirectoryEntry> = Vec::with_capacity(trailer.frames());
    let mut offset_bytes = trailer.head_bytes;
    for position in 0..trailer.frames {
        let entry = decode_entry(&mut reader, head, position, offset_bytes)?;
        let end = offset_bytes.checked_add(entry.sealed_bytes);
        offset_bytes = end.ok_or_else(|| corrupt(WHAT, "the sizes of its frames overflow"))?;
        directory.push(entry);
    }
    reader.finish()?;
    ensure(offset_bytes == trailer.table_offset_bytes, WHAT, || {
        format!("its frames end at {offset_bytes}, its table starts at {}", trailer.table_offset_bytes)
    })?;
    let mut names = BTreeSet::new();
    match directory.iter().find(|entry| !names.insert(entry.frame)) {
        Some(twice) => Err(corrupt(WHAT, format!("frame {} is in it twice", twice.frame))),
        None => Ok(directory),
    }
}

fn decode_entry(
    reader: &mut Reader<'_>,
    head: &PackHead,
    position: u32,
    offset_bytes: u32,
) -> Result<DirectoryEntry> {
    let session_index = reader.u16()?;
    reader.zeros::<2>()?;
    let (ordinal, index) = (reader.u32()?, reader.u32()?);
    let sealed_bytes = reader.u32()?;
    let hash = Hash(reader.array()?);
    let session = head.sessions.get(usize::from(session_index)).ok_or_else(|| {
        corrupt(WHAT, format!("frame {position} names session {session_index}, which the head does not list"))
    })?;
    let frame = FrameName { pack: PackName { session: session.session.number, ordinal }, index };
    let entry = DirectoryEntry { session_index, frame, offset_bytes, sealed_bytes, hash };
    check_entry(head, position, &entry)?;
    Ok(entry)
}

/// The rules that tie one directory entry to the head.
fn check_entry(head: &PackHead, position: u32, entry: &DirectoryEntry) -> Result<()> {
    let session = head.sessions.get(usize::from(entry.session_index));
    let listed = session.is_some_and(|session| session.session.number == entry.frame.pack.session);
    ensure(listed, WHAT, || format!("frame {} belongs to a session the head does not list", entry.frame))?;
    ensure(is_sealed_size(to_usize(entry.sealed_bytes)), WHAT, || {
        format!("frame {} has {} bytes, which no sealed unit has", entry.frame, entry.sealed_bytes)
    })?;
    let keyed = session.is_some_and(|session| !session.sealed_key.is_empty());
    ensure(keyed || head.kind != PackKind::Data, WHAT, || {
        format!("frame {} has no session key in the head", entry.frame)
    })?;
    let unmoved = FrameName { pack: head.name(), index: position };
    ensure(entry.session_index != 0 || entry.frame == unmoved, WHAT, || {
        format!("frame {position} of the writing session is named {}", entry.frame)
    })
}

fn decode_table(raw: &[u8], frames: usize) -> Result<Vec<Vec<FrameChunk>>> {
    let mut reader = Reader::new(WHAT, raw);
    let table = (0..frames).map(|_| decode_pieces(&mut reader)).collect::<Result<_>>()?;
    reader.finish()?;
    Ok(table)
}

fn decode_pieces(reader: &mut Reader<'_>) -> Result<Vec<FrameChunk>> {
    let count = reader.count(PIECE_BYTES)?;
    let pieces: Vec<FrameChunk> =
        (0..count).map(|_| Ok((ContentId(reader.array()?), reader.u32()?))).collect::<Result<_>>()?;
    check_pieces(&pieces)?;
    Ok(pieces)
}

/// A frame holds at least one piece, none of them empty, and together no more than a unit can.
fn check_pieces(pieces: &[FrameChunk]) -> Result<()> {
    let raw_bytes = pieces.iter().fold(0usize, |sum, (_, size)| sum.saturating_add(to_usize(*size)));
    let sound = !pieces.is_empty() && pieces.iter().all(|(_, size)| *size > 0);
    ensure(sound && raw_bytes <= seal::UNIT_BYTES_MAX, WHAT, || {
        format!("a frame's table has {} pieces of {raw_bytes} bytes", pieces.len())
    })
}

/// A whole pack, its structure checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack<'a> {
    tail: PackTail<'a>,
    bytes: &'a [u8],
}

impl<'a> Pack<'a> {
    /// Decodes a whole pack. The frames' hashes are checked by [`Pack::verify_frames`], what is in them by opening.
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        let trailer = Trailer::decode(bytes, to_u64(bytes.len()))?;
        Ok(Self { tail: PackTail::decode(trailer, bytes, bytes)?, bytes })
    }

    /// All but the frames.
    pub fn tail(&self) -> &PackTail<'a> {
        &self.tail
    }

    /// The head.
    pub fn head(&self) -> &PackHead {
        &self.tail.head
    }

    /// The frames in the order in which they lie in the pack.
    pub fn directory(&self) -> &[DirectoryEntry] {
        &self.tail.directory
    }

    /// The sealed bytes of the frame at `position` in the directory.
    pub fn frame(&self, position: usize) -> Result<&'a [u8]> {
        let entry = self.tail.directory.get(position);
        let range = entry.and_then(|entry| {
            let start = to_usize(entry.offset_bytes);
            Some(start..start.checked_add(to_usize(entry.sealed_bytes))?)
        });
        let frame = range.and_then(|range| self.bytes.get(range));
        frame.ok_or_else(|| corrupt(WHAT, format!("it has no frame {position}")))
    }

    /// Checks every frame's BLAKE3.
    pub fn verify_frames(&self) -> Result<()> {
        self.tail.directory.iter().enumerate().try_for_each(|(position, entry)| {
            if Hash::of(self.frame(position)?) == entry.hash {
                return Ok(());
            }
            Err(forged(WHAT, format!("frame {} does not fit its hash in the directory", entry.frame)))
        })
    }

    /// See [`PackTail::open_table`].
    pub fn open_table(&self, metadata_root: &RootKey) -> Result<Vec<Vec<FrameChunk>>> {
        self.tail.open_table(metadata_root)
    }
}
