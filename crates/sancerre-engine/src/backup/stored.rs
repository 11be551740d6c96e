//! The chunks that this session stored: what its later regions and disks deduplicate against.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sancerre_format::id::{ContentId, Place};

use crate::dedup::{BYTES_PER_ENTRY, PlaceMap};

const SHARDS: usize = 64;

/// Places by id, in shards so that workers seldom meet. Full, it stops growing: what it does not know is stored again.
pub(super) struct Stored {
    shards: Vec<Mutex<PlaceMap>>,
    room: AtomicU64,
}

impl Stored {
    pub(super) fn new(budget_bytes: u64) -> Self {
        let shards = std::iter::repeat_with(Mutex::default).take(SHARDS).collect();
        Self { shards, room: AtomicU64::new(budget_bytes / BYTES_PER_ENTRY) }
    }

    fn shard(&self, id: &ContentId) -> Option<&Mutex<PlaceMap>> {
        // The last byte: the table inside uses the first ones.
        self.shards.get(usize::from(id.0[31]) % SHARDS)
    }

    pub(super) fn get(&self, id: &ContentId) -> Option<Place> {
        self.shard(id)?.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }

    pub(super) fn insert_all(&self, placed: &[(ContentId, Place)]) {
        for (id, place) in placed {
            let taken =
                self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(1));
            let (Ok(_), Some(shard)) = (taken, self.shard(id)) else { return };
            shard.lock().unwrap_or_else(PoisonError::into_inner).insert(*id, *place);
        }
    }
}
