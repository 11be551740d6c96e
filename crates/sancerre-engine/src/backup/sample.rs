//! New leaves of a map, chosen at random: the gate before the manifest reads them back as a restore will.

use std::collections::BTreeMap;

use sancerre_format::id::ContentId;
use sancerre_format::node::LeafEntry;

/// Leaves kept: one frame of a map holds many, so a handful is a handful of requests at most.
const LEAVES_KEPT: usize = 4;

/// At most [`LEAVES_KEPT`] leaves, each with the same chance however many there are.
#[derive(Debug, Default)]
pub(super) struct Sample {
    seed: u64,
    /// By rank.
    leaves: BTreeMap<u64, (u64, Vec<LeafEntry>)>,
}

impl Sample {
    /// `seed` should be random: nobody must know which leaves will be looked at.
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, leaves: BTreeMap::new() }
    }

    /// Offers a leaf. Ids are keyed hashes, so their order under a random seed is a random order.
    pub(super) fn offer(&mut self, number: u64, id: &ContentId, entries: &[LeafEntry]) {
        let rank = id.0.first_chunk::<8>().map_or(0, |first| u64::from_le_bytes(*first)) ^ self.seed;
        let is_lower = self.leaves.last_key_value().is_some_and(|(highest, _)| rank < *highest);
        if self.leaves.len() < LEAVES_KEPT || is_lower {
            self.leaves.insert(rank, (number, entries.to_vec()));
        }
        if self.leaves.len() > LEAVES_KEPT {
            self.leaves.pop_last();
        }
    }

    /// The leaves by their numbers in the map.
    pub(super) fn leaves(&self) -> impl Iterator<Item = (u64, &[LeafEntry])> {
        self.leaves.values().map(|(number, entries)| (*number, entries.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use sancerre_format::id::{ContentId, Hash};

    use super::Sample;

    #[test]
    fn another_seed_chooses_other_leaves() {
        let chosen = |seed| {
            let mut sample = Sample::new(seed);
            (0..100u8).for_each(|leaf| {
                let id = ContentId(Hash::of(&[leaf]).0);
                sample.offer(leaf.into(), &id, &[]);
            });
            sample.leaves().map(|(number, _)| number).collect::<Vec<_>>()
        };
        assert_eq!(chosen(1).len(), 4);
        assert_eq!(chosen(1), chosen(1));
        assert_ne!(chosen(1), chosen(u64::MAX));
    }
}
