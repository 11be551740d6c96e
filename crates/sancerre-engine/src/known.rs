//! Known chunks in memory, and which of their places may be reused.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use sancerre_format::id::{ContentId, Place};

use crate::repository::catalogue::{Catalogue, Present};
use crate::repository::log::Avoid;

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
pub type Places = HashMap<ContentId, Place, BuildHasherDefault<IdHasher>>;

/// Which places a session may build on (W2–W4).
pub struct Usable {
    /// What must not be reused.
    pub avoid: Avoid,
    /// Signed pack lists.
    pub catalogue: Arc<Catalogue>,
    /// What the store has.
    pub present: Present,
}

impl Usable {
    /// Whether a place may be reused: not avoided, and the pack in which it lies listed and present with its right size.
    pub fn allows(&self, place: &Place) -> bool {
        let Some(pack) = self.avoid.pack(&place.frame.frame) else { return false };
        self.catalogue.pack(pack).is_some_and(|listed| self.present.has(pack, listed))
    }
}
