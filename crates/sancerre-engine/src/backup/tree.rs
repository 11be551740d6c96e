//! Building a disk's map from left to right: leaves, then the nodes over them, as each becomes complete.

use sancerre_format::bytes::to_u32;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::{ContentId, Place};
use sancerre_format::node::{ChildEntry, Geometry, LeafEntry, Node, NodeKey};
use sancerre_format::outcome::Root;
use sancerre_format::pack::PackKind;

use super::Shared;
use super::packer::{Frame, places};
use crate::error::Result;
use crate::map::{MapReader, StoredNode};

/// Where a node lies, or which piece of the metadata frame in the making it is.
#[derive(Debug, Clone, Copy)]
enum Slot {
    At(Place),
    Pending(usize),
}

struct Child {
    child: u8,
    id: ContentId,
    slot: Slot,
}

/// A map in the making. Holds one path of it.
pub(super) struct Tree<'a> {
    shared: &'a Shared,
    base: Option<&'a MapReader>,
    geometry: Geometry,
    node_key: NodeKey,
    /// Children seen of the incomplete node of each level above.
    levels: Vec<Vec<Child>>,
    frame: Vec<u8>,
    pieces: Vec<(ContentId, u32)>,
    /// Every frame the map needs.
    uses: FrameSet,
}

impl<'a> Tree<'a> {
    pub(super) fn new(shared: &'a Shared, base: Option<&'a MapReader>, geometry: Geometry) -> Self {
        Self {
            shared,
            base,
            geometry,
            node_key: NodeKey::derive(&shared.zone_keys.id),
            levels: (0..=geometry.levels()).map(|_| Vec::new()).collect(),
            frame: Vec::new(),
            pieces: Vec::new(),
            uses: FrameSet::default(),
        }
    }

    /// Adds the leaf with this number; leaves come in order, empty ones too.
    pub(super) async fn leaf(&mut self, number: u64, entries: Vec<LeafEntry>) -> Result<()> {
        if !entries.is_empty() {
            entries.iter().for_each(|entry| self.uses.insert(entry.place.frame.frame));
            self.node(0, number, &Node::Leaf(entries)).await?;
        }
        let (mut level, mut number) = (0, number);
        let last = number.saturating_add(1) == self.geometry.leaf_count();
        while level < self.geometry.levels() && (last || number.to_le_bytes()[0] == u8::MAX) {
            (level, number) = (level + 1, number >> 8);
            self.close(level, number).await?;
        }
        Ok(())
    }

    /// Completes an inner node. Its children's places must be known, so their frame goes first.
    async fn close(&mut self, level: u8, number: u64) -> Result<()> {
        self.flush()?;
        let below = self.levels.get_mut(usize::from(level) - 1).map(std::mem::take).unwrap_or_default();
        let placed = below.into_iter().filter_map(|child| match child.slot {
            Slot::At(place) => Some(ChildEntry { child: child.child, id: child.id, place }),
            Slot::Pending(_) => None,
        });
        let children: Vec<ChildEntry> = placed.collect();
        if children.is_empty() {
            return Ok(());
        }
        self.node(level, number, &Node::Inner { level, children }).await
    }

    async fn node(&mut self, level: u8, number: u64, node: &Node) -> Result<()> {
        let (id, bytes) = node.encode_with_id(&self.node_key)?;
        let known = self.base_node(level, number).await;
        let known = known.filter(|known| known.bytes == bytes && self.shared.usable.allows(&known.place));
        let slot = match known {
            Some(known) => {
                self.uses.insert(known.place.frame.frame);
                Slot::At(known.place)
            }
            None => Slot::Pending(self.add(id, &bytes)?),
        };
        let child = number.to_le_bytes()[0];
        if let Some(siblings) = self.levels.get_mut(usize::from(level)) {
            siblings.push(Child { child, id, slot });
        }
        Ok(())
    }

    /// The node at the same place of the snapshot before. One that cannot be read is stored anew.
    async fn base_node(&self, level: u8, number: u64) -> Option<std::sync::Arc<StoredNode>> {
        self.base?.node(level, number).await.ok().flatten()
    }

    fn add(&mut self, id: ContentId, bytes: &[u8]) -> Result<usize> {
        if self.frame.len().saturating_add(bytes.len()) > self.shared.frame_bytes {
            self.flush()?;
        }
        self.frame.extend_from_slice(bytes);
        self.pieces.push((id, to_u32("map node", bytes.len())?));
        Ok(self.pieces.len() - 1)
    }

    fn flush(&mut self) -> Result<()> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        let (shared, pieces) = (self.shared, std::mem::take(&mut self.pieces));
        let place = shared.scratch.with(|scratch| {
            scratch.frame.clear();
            scratch.frame.append(&mut self.frame);
            let raw_bytes = scratch.frame.len();
            let (codec, coded) = scratch.compress()?;
            shared.packer.append(&Frame {
                kind: PackKind::Metadata,
                codec,
                raw_bytes,
                coded,
                pieces: &pieces,
            })
        })?;
        self.uses.insert(place.frame);
        let placed: Vec<Place> = places(place, &pieces).map(|(_, place)| place).collect();
        for child in self.levels.iter_mut().flatten() {
            if let Slot::Pending(piece) = child.slot
                && let Some(place) = placed.get(piece)
            {
                child.slot = Slot::At(*place);
            }
        }
        Ok(())
    }

    /// The root, once every leaf was added, and the frames that the map needs.
    pub(super) fn finish(mut self) -> Result<(Option<Root>, FrameSet)> {
        self.flush()?;
        let level = self.geometry.levels();
        let top = self.levels.pop().and_then(|mut nodes| nodes.pop());
        let root = top.and_then(|child| match child.slot {
            Slot::At(place) => Some(Root { level, id: child.id, place }),
            Slot::Pending(_) => None,
        });
        Ok((root, self.uses))
    }
}
