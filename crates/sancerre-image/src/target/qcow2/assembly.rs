//! Clusters of which some bytes are known and others not yet.

use std::collections::BTreeMap;
use std::ops::Range;

use super::map::{CLUSTER_LENGTH, to_usize};

/// 32 MiB. A restore that goes through the disk in order needs a few for each thread.
const CLUSTERS_MAX: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Assembly {
    clusters: BTreeMap<u64, Part>,
}

#[derive(Debug)]
struct Part {
    bytes: Vec<u8>,
    /// What is known: ascending, disjoint, not touching.
    known: Vec<Range<usize>>,
}

impl Assembly {
    /// Adds a piece; gives the cluster back when it is whole.
    pub(super) fn add(&mut self, cluster: u64, within: u64, piece: &[u8]) -> Option<Vec<u8>> {
        if piece.len() == CLUSTER_LENGTH {
            self.clusters.remove(&cluster);
            return Some(piece.to_vec());
        }
        let new = || Part { bytes: vec![0; CLUSTER_LENGTH], known: Vec::new() };
        let part = self.clusters.entry(cluster).or_insert_with(new);
        patch(&mut part.bytes, within, piece);
        let start = to_usize(within);
        part.know(start..start.saturating_add(piece.len()));
        let is_whole = part.known.first().is_some_and(|range| range.len() == CLUSTER_LENGTH);
        if is_whole { self.clusters.remove(&cluster).map(|part| part.bytes) } else { None }
    }

    /// The first cluster, when there are too many. Its unknown bytes are zeros.
    pub(super) fn take_crowded(&mut self) -> Option<(u64, Vec<u8>)> {
        if self.clusters.len() <= CLUSTERS_MAX {
            return None;
        }
        self.clusters.pop_first().map(|(cluster, part)| (cluster, part.bytes))
    }

    /// All clusters; what nobody wrote is zeros.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = (u64, Vec<u8>)> + use<> {
        std::mem::take(&mut self.clusters).into_iter().map(|(cluster, part)| (cluster, part.bytes))
    }
}

impl Part {
    fn know(&mut self, new: Range<usize>) {
        let touches = |range: &Range<usize>| range.start <= new.end && new.start <= range.end;
        let start = self.known.iter().filter(|range| touches(range)).map(|range| range.start).min();
        let end = self.known.iter().filter(|range| touches(range)).map(|range| range.end).max();
        self.known.retain(|range| !touches(range));
        let merged = new.start.min(start.unwrap_or(new.start))..new.end.max(end.unwrap_or(new.end));
        let at = self.known.partition_point(|range| range.start < merged.start);
        self.known.insert(at, merged);
    }
}

/// Puts `piece` into a cluster.
pub(super) fn patch(cluster: &mut [u8], within: u64, piece: &[u8]) {
    let start = to_usize(within);
    if let Some(place) = cluster.get_mut(start..start.saturating_add(piece.len())) {
        place.copy_from_slice(piece);
    }
}
