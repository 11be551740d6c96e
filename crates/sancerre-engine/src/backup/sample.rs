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
    use sancerre_format::id::{ContentId, FrameName, FramePlace, Hash, PackName, Place};
    use sancerre_format::node::LeafEntry;

    use super::Sample;

    fn id(leaf: u8) -> ContentId {
        ContentId(Hash::of(&[leaf]).0)
    }

    fn entry(leaf: u8) -> LeafEntry {
        let frame = FrameName { pack: PackName { session: 1, ordinal: 0 }, index: leaf.into() };
        let frame = FramePlace { frame, offset_bytes: 0, sealed_bytes: 1 };
        let place = Place { frame, offset_bytes: 0, size_bytes: 1 };
        LeafEntry { offset_bytes: leaf.into(), id: id(leaf), place }
    }

    /// Whatever the order in which they come: every leaf has the same chance.
    #[test]
    fn the_leaves_of_the_lowest_ranks_are_kept() {
        for seed in [0, 1, 0x5555_5555_5555_5555, u64::MAX] {
            let rank = |leaf: &u8| u64::from_le_bytes(id(*leaf).0[..8].try_into().unwrap()) ^ seed;
            let mut ranked: Vec<u8> = (0..100).collect();
            ranked.sort_by_key(rank);
            for order in [(0..100).collect::<Vec<u8>>(), (0..100).rev().collect(), ranked.clone()] {
                let mut sample = Sample::new(seed);
                order.iter().for_each(|leaf| sample.offer((*leaf).into(), &id(*leaf), &[entry(*leaf)]));
                let kept: Vec<(u64, Vec<LeafEntry>)> =
                    sample.leaves().map(|(number, entries)| (number, entries.to_vec())).collect();
                let expected = ranked.iter().take(4).map(|leaf| ((*leaf).into(), vec![entry(*leaf)]));
                assert_eq!(kept, expected.collect::<Vec<_>>(), "seed {seed:x}");
            }
        }
    }

    #[test]
    fn of_few_leaves_all_are_kept() {
        let mut sample = Sample::new(7);
        assert_eq!(sample.leaves().count(), 0);
        (0..3).for_each(|leaf| sample.offer(leaf.into(), &id(leaf), &[]));
        assert_eq!(sample.leaves().count(), 3);
    }

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
