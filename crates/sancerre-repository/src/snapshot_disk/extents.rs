//! Data and holes, from the map alone: nothing of the disk's data is fetched.

use std::ops::Range;
use std::sync::Arc;

use sancerre_format::id::ContentId;
use sancerre_format::node::{Geometry, Node};

use super::SnapshotDisk;
use crate::error::Result;

/// A stretch of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Where it is.
    pub range: Range<u64>,
    /// Whether it is stored; all else reads as zeros.
    pub is_data: bool,
}

impl SnapshotDisk {
    /// The extents of a range from its start on: adjacent, and alternately data and holes. At most `most` of them, so that
    /// they may end before the range does; at least one of a range that is not empty.
    ///
    /// Errors: as [`SnapshotDisk::read`], for damage of the map.
    pub async fn extents(self: &Arc<Self>, range: Range<u64>, most: usize) -> Result<Vec<Extent>> {
        let range = self.inside(range.start, range.end.saturating_sub(range.start))?;
        let mut extents = Extents { at: range.start, end: range.end, found: Vec::new() };
        if range.is_empty() {
            return Ok(extents.found);
        }
        let geometry = *self.map.geometry();
        let last = geometry.leaf_of(range.end.saturating_sub(1));
        let mut leaf = geometry.leaf_of(range.start);
        for chunk in self.reaching(leaf).await? {
            extents.data(chunk.at..chunk.end());
        }
        while let Some(next) = self.next_leaf(leaf, last).await? {
            for chunk in self.leaf(next).await? {
                extents.data(chunk.at..chunk.end());
            }
            // One more may grow by what follows.
            if extents.found.len() > most {
                extents.found.truncate(most.max(1));
                return Ok(extents.found);
            }
            leaf = next.saturating_add(1);
        }
        extents.close();
        extents.found.truncate(most.max(1));
        Ok(extents.found)
    }

    /// The chunks that touch a range, by the places where they begin, from the map alone: where they are the same on two disks of
    /// one zone, the bytes of the range are.
    ///
    /// Errors: as [`SnapshotDisk::extents`].
    pub async fn content_ids(self: &Arc<Self>, range: Range<u64>) -> Result<Vec<(u64, ContentId)>> {
        let range = self.inside(range.start, range.end.saturating_sub(range.start))?;
        Ok(self.chunks(range).await?.into_iter().map(|chunk| (chunk.at, chunk.id)).collect())
    }

    /// The first leaf of some that may hold data. Whole stretches without any are passed over by the node above them.
    async fn next_leaf(self: &Arc<Self>, mut leaf: u64, last: u64) -> Result<Option<u64>> {
        if self.map.geometry().levels() == 0 {
            return Ok((leaf <= last).then_some(leaf));
        }
        while leaf <= last {
            let above = leaf >> 8;
            if let Some(node) = self.node(1, above).await?
                && let Node::Inner { children, .. } = &node.node
            {
                let numbers = children.iter().map(|child| Geometry::child_number(above, child.child));
                if let Some(next) = numbers.into_iter().find(|number| *number >= leaf) {
                    return Ok((next <= last).then_some(next));
                }
            }
            leaf = self.behind_gap(leaf).await?;
        }
        Ok(None)
    }

    /// The first leaf behind the largest stretch around this one that has no node, or no node any more that could follow.
    async fn behind_gap(self: &Arc<Self>, leaf: u64) -> Result<u64> {
        let (mut level, levels) = (1_u32, u32::from(self.map.geometry().levels()));
        let number = |level: u32| leaf.checked_shr(level.saturating_mul(8)).unwrap_or(0);
        while level < levels {
            let above = level.saturating_add(1);
            let node = self.node(u8::try_from(above).unwrap_or(u8::MAX), number(above)).await?;
            let children = match node.as_deref().map(|node| &node.node) {
                Some(Node::Inner { children, .. }) => children.as_slice(),
                _ => &[],
            };
            let here = number(level).to_le_bytes()[0];
            if let Some(next) = children.iter().find(|child| child.child > here) {
                let next = Geometry::child_number(number(above), next.child);
                return Ok(next.checked_shl(level.saturating_mul(8)).unwrap_or(u64::MAX));
            }
            level = above;
        }
        Ok(u64::MAX)
    }
}

/// Extents as they are found, from the start of a range on.
struct Extents {
    at: u64,
    end: u64,
    found: Vec<Extent>,
}

impl Extents {
    /// Data, behind all that came before; what lies outside the range is left out.
    fn data(&mut self, range: Range<u64>) {
        let range = range.start.max(self.at)..range.end.min(self.end);
        if range.is_empty() {
            return;
        }
        if self.at < range.start {
            self.found.push(Extent { range: self.at..range.start, is_data: false });
        }
        self.at = range.end;
        match self.found.last_mut() {
            Some(last) if last.is_data => last.range.end = range.end,
            _ => self.found.push(Extent { range, is_data: true }),
        }
    }

    fn close(&mut self) {
        if self.at < self.end {
            self.found.push(Extent { range: self.at..self.end, is_data: false });
            self.at = self.end;
        }
    }
}
