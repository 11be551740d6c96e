//! The map of a source while its regions come.

use sancerre_format::bytes::to_u64;
use sancerre_format::config::Layout;
use sancerre_format::node::{Geometry, LeafEntry};

use super::Shared;
use super::member::Scanned;
use super::region::{MapChunk, RegionMap};
use super::tree::{Grown, Tree};
use crate::error::{Result, invariant};
use crate::map::MapReader;

/// A map that regions are added to, in their order.
pub(super) struct Growing<'a> {
    shared: &'a Shared,
    base: Option<&'a MapReader>,
    layout: Layout,
    seed: u64,
    tree: Option<Tree<'a>>,
    /// A stream's size is known at its end: its regions wait for the tree until then.
    late: Vec<Scanned>,
    regions: u64,
}

impl<'a> Growing<'a> {
    /// Of a source of `size_bytes`, where that is known before its end.
    pub(super) fn new(
        shared: &'a Shared,
        base: Option<&'a MapReader>,
        layout: Layout,
        seed: u64,
        size_bytes: Option<u64>,
    ) -> Result<Self> {
        let mut growing = Self { shared, base, layout, seed, tree: None, late: Vec::new(), regions: 0 };
        growing.tree = size_bytes.map(|size| growing.plant(size)).transpose()?;
        Ok(growing)
    }

    fn plant(&self, size_bytes: u64) -> Result<Tree<'a>> {
        let geometry = Geometry::new(size_bytes, self.layout.leaf_bytes, self.layout.region_bytes)?;
        Ok(Tree::new(self.shared, self.base, geometry, self.seed))
    }

    /// Adds the next region, or a hole of any number of them.
    pub(super) async fn add(&mut self, map: RegionMap, length_bytes: u64) -> Result<()> {
        match &mut self.tree {
            Some(tree) => add_region(tree, self.regions, &map, &self.layout, length_bytes).await?,
            None => self.late.push((map, length_bytes)),
        }
        self.regions += length_bytes.div_ceil(u64::from(self.layout.region_bytes).max(1));
        Ok(())
    }

    /// The whole map of a source that turned out to have `size_bytes`.
    pub(super) async fn finish(mut self, size_bytes: u64) -> Result<Grown> {
        let mut tree = match self.tree.take() {
            Some(tree) => tree,
            None => self.plant(size_bytes)?,
        };
        for (number, (map, length_bytes)) in self.late.into_iter().enumerate() {
            add_region(&mut tree, to_u64(number), &map, &self.layout, length_bytes).await?;
        }
        tree.finish()
    }
}

/// Divides a region's chunks among its leaves; of a hole there are none.
async fn add_region(
    tree: &mut Tree<'_>,
    number: u64,
    map: &RegionMap,
    layout: &Layout,
    length_bytes: u64,
) -> Result<()> {
    let leaf_bytes = layout.leaf_bytes;
    if map.chunks.is_empty() {
        return tree.skip(length_bytes.div_ceil(u64::from(leaf_bytes).max(1))).await;
    }
    let first = number * u64::from(layout.region_bytes / leaf_bytes);
    let mut chunks = map.chunks.as_slice();
    for within in 0..length_bytes.div_ceil(u64::from(leaf_bytes)) {
        let end = (within + 1) * u64::from(leaf_bytes);
        let cut = chunks.partition_point(|chunk| u64::from(chunk.offset_bytes) < end);
        let (here, rest) = chunks.split_at(cut);
        chunks = rest;
        let entry = |chunk: &MapChunk| LeafEntry {
            offset_bytes: chunk.offset_bytes % leaf_bytes,
            id: chunk.id,
            place: chunk.place,
        };
        tree.leaf(first + within, here.iter().map(entry).collect()).await?;
    }
    invariant!(chunks.is_empty(), "{} chunks lie behind the end of their region", chunks.len());
    Ok(())
}
