//! The shape of a disk's tree: a function of the disk's size alone.

use std::ops::Range;

use super::{LeafEntry, Node, WHAT};
use crate::error::{Result, corrupt, ensure};

/// The shape of the tree over a disk of a given size.
///
/// A node of level L has a number: the disk is cut into stretches of leaf-bytes · 256^L, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    size_bytes: u64,
    leaf_bytes: u32,
    region_bytes: u32,
}

impl Geometry {
    /// The tree over `size_bytes`. Errors unless leaf and region are powers of two, leaf at most region.
    pub fn new(size_bytes: u64, leaf_bytes: u32, region_bytes: u32) -> Result<Self> {
        let sound =
            leaf_bytes.is_power_of_two() && region_bytes.is_power_of_two() && leaf_bytes <= region_bytes;
        ensure(sound, WHAT, || format!("leaves of {leaf_bytes} bytes in regions of {region_bytes}"))?;
        Ok(Self { size_bytes, leaf_bytes, region_bytes })
    }

    /// Size of the disk.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// What a leaf covers.
    pub fn leaf_bytes(&self) -> u32 {
        self.leaf_bytes
    }

    /// No chunk crosses a multiple of this.
    pub fn region_bytes(&self) -> u32 {
        self.region_bytes
    }

    /// Level of the root: the smallest L with leaf-bytes · 256^L ≥ size.
    pub fn levels(&self) -> u8 {
        let covers = |level: &u8| self.count(*level) <= 1;
        // 256^8 stretches of a byte cover every u64.
        (0..=8).find(covers).unwrap_or(8)
    }

    /// How many leaves cover the disk, absent ones included.
    pub fn leaf_count(&self) -> u64 {
        self.count(0)
    }

    /// How many nodes of a level cover the disk, absent ones included.
    pub fn count(&self, level: u8) -> u64 {
        let shift = self.shift(level);
        let whole = self.size_bytes.checked_shr(shift).unwrap_or(0);
        whole.saturating_add(u64::from(whole.checked_shl(shift).unwrap_or(0) != self.size_bytes))
    }

    /// The leaf in which a byte of the disk lies.
    pub fn leaf_of(&self, offset_bytes: u64) -> u64 {
        offset_bytes.checked_shr(self.shift(0)).unwrap_or(0)
    }

    /// What a node covers of the disk; empty behind its end.
    pub fn range(&self, level: u8, number: u64) -> Range<u64> {
        let stretch = 1u128.checked_shl(self.shift(level)).unwrap_or(u128::MAX);
        let bound = |number: u128| {
            u64::try_from(number.saturating_mul(stretch))
                .map_or(self.size_bytes, |at| at.min(self.size_bytes))
        };
        bound(u128::from(number))..bound(u128::from(number).saturating_add(1))
    }

    /// Which child to take at an inner node of `level` on the way to a leaf.
    pub(crate) fn child_towards(level: u8, leaf: u64) -> u8 {
        let below = u32::from(level).saturating_sub(1).saturating_mul(8);
        let [child, ..] = leaf.checked_shr(below).unwrap_or(0).to_le_bytes();
        child
    }

    /// The children from the root down to a leaf; empty when the root is the leaf.
    pub fn path(&self, leaf: u64) -> impl Iterator<Item = u8> + use<> {
        (1..=self.levels()).rev().map(move |level| Self::child_towards(level, leaf))
    }

    /// The number of a child.
    pub fn child_number(number: u64, child: u8) -> u64 {
        number.saturating_mul(256).saturating_add(u64::from(child))
    }

    /// Checks that a decoded node can stand at this place of this disk: chunks and children lie on the disk, and
    /// chunks stay in their region.
    pub fn check(&self, node: &Node, level: u8, number: u64) -> Result<()> {
        ensure(node.level() == level, WHAT, || format!("level {} instead of {level}", node.level()))?;
        match node {
            Node::Leaf(entries) => self.check_leaf(entries, number),
            Node::Inner { children, .. } => children.iter().try_for_each(|child| {
                let covered = self.range(level.saturating_sub(1), Self::child_number(number, child.child));
                ensure(!covered.is_empty(), WHAT, || {
                    format!("child {} lies behind the disk's end", child.child)
                })
            }),
        }
    }

    fn check_leaf(&self, entries: &[LeafEntry], number: u64) -> Result<()> {
        let leaf = self.range(0, number);
        entries.iter().try_for_each(|entry| {
            let start = leaf.start.checked_add(u64::from(entry.offset_bytes));
            let end = start.and_then(|start| start.checked_add(u64::from(entry.place.size_bytes)));
            let (start, end) = start.zip(end).ok_or_else(|| corrupt(WHAT, "a chunk's offset overflows"))?;
            let region = self.region_bytes.trailing_zeros();
            let whole = start.checked_shr(region) == end.saturating_sub(1).checked_shr(region);
            ensure(whole && leaf.contains(&start) && end <= self.size_bytes, WHAT, || {
                format!(
                    "chunk {start}..{end} crosses the end of its region, or of the disk at {}",
                    self.size_bytes
                )
            })
        })
    }

    fn shift(&self, level: u8) -> u32 {
        self.leaf_bytes.trailing_zeros().saturating_add(u32::from(level).saturating_mul(8))
    }
}
