//! Known chunks in memory, who says where they lie, and which of their places may be reused.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use sancerre_format::id::{ContentId, FrameName, FramePlace, PackName, Place};
use sancerre_format::names::Name;

use crate::catalogue::{Catalogue, Present};
use crate::log::Avoid;

/// Memory per known chunk: id, place and the table's slack.
pub const BYTES_PER_ENTRY: u64 = 96;

/// Ids are keyed hashes already: their first bytes are as good as any hash of them.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// The length that an array's hash starts with says nothing.
    fn write_usize(&mut self, _length: usize) {}
}

/// Places by id.
pub type PlaceMap = HashMap<ContentId, Place, BuildHasherDefault<IdHasher>>;

/// Who says where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Speaker {
    /// The session's own key, of what it stored or has proven before.
    Own,
    /// The map of another key's snapshot.
    Base,
    /// A segment of the index, by its number there.
    Segment(u32),
}

/// A place, and who says so: but for the own key's word it counts only if the pack's own table says the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// Where the chunk lies.
    pub place: Place,
    /// Who says so.
    pub speaker: Speaker,
}

/// A [`Word`] without padding: the index holds one for each chunk.
#[derive(Clone, Copy)]
pub struct Packed {
    session: u64,
    /// Ordinal, index, offset and size in the pack, offset and size in the frame.
    numbers: [u32; 6],
    speaker: u32,
}

/// Speakers as numbers: segments count from 0.
const OWN: u32 = u32::MAX;
const BASE: u32 = u32::MAX - 1;

impl From<Word> for Packed {
    fn from(Word { place, speaker }: Word) -> Self {
        let Place { frame: FramePlace { frame, offset_bytes, sealed_bytes }, .. } = place;
        let within = [place.offset_bytes, place.size_bytes];
        let numbers = [frame.pack.ordinal, frame.index, offset_bytes, sealed_bytes, within[0], within[1]];
        let speaker = match speaker {
            Speaker::Own => OWN,
            Speaker::Base => BASE,
            Speaker::Segment(number) => number,
        };
        Self { session: frame.pack.session, numbers, speaker }
    }
}

impl From<Packed> for Word {
    fn from(packed: Packed) -> Self {
        let [ordinal, index, offset_bytes, sealed_bytes, within, size_bytes] = packed.numbers;
        let frame = FrameName { pack: PackName { session: packed.session, ordinal }, index };
        let frame = FramePlace { frame, offset_bytes, sealed_bytes };
        let speaker = match packed.speaker {
            OWN => Speaker::Own,
            BASE => Speaker::Base,
            number => Speaker::Segment(number),
        };
        Self { place: Place { frame, offset_bytes: within, size_bytes }, speaker }
    }
}

/// Words by id.
pub type Words = HashMap<ContentId, Packed, BuildHasherDefault<IdHasher>>;

/// Which places a session may build on (W2–W4).
pub struct ReusePolicy {
    /// Whose words need no proof: the session's own key's.
    pub own: Option<Name>,
    /// What must not be reused.
    pub avoid: Avoid,
    /// Signed pack lists.
    pub catalogue: Catalogue,
    /// What the store has.
    pub present: Present,
}

impl ReusePolicy {
    /// Whether a place may be reused: not avoided, and the pack in which it lies listed and present with its right size.
    pub fn allows(&self, place: &Place) -> bool {
        self.allows_frame(&place.frame.frame)
    }

    /// The same for all places in a frame.
    pub fn allows_frame(&self, frame: &FrameName) -> bool {
        let Some(pack) = self.avoid.pack(frame) else { return false };
        self.catalogue.pack(pack).is_some_and(|listed| self.present.has(pack, listed))
    }
}
