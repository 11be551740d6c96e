//! Building a disk's map from left to right: leaves, then the nodes over them, as each becomes complete.

use sancerre_format::bytes::to_u32;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::{ContentId, Place};
use sancerre_format::node::{ChildEntry, Geometry, LeafEntry, Node, NodeKey};
use sancerre_format::outcome::Root;
use sancerre_format::pack::PackKind;

use super::Shared;
use super::packer::{Frame, places};
use super::sample::Sample;
use crate::error::{Error, Result, invariant};
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
    /// Sum of the sizes of all chunks on the map.
    data_bytes: u64,
    /// Leaves added so far, empty ones too.
    leaves: u64,
    sample: Sample,
}

/// A finished map.
pub(super) struct Grown {
    /// None when the disk is all zeros.
    pub(super) root: Option<Root>,
    /// Every frame that the map needs.
    pub(super) uses: FrameSet,
    /// Sum of the sizes of all chunks on it.
    pub(super) data_bytes: u64,
    /// Some of its new leaves, to be read back.
    pub(super) sample: Sample,
}

impl<'a> Tree<'a> {
    /// `seed` chooses which leaves are read back.
    pub(super) fn new(
        shared: &'a Shared,
        base: Option<&'a MapReader>,
        geometry: Geometry,
        seed: u64,
    ) -> Self {
        Self {
            shared,
            base,
            geometry,
            node_key: NodeKey::derive(&shared.zone_keys.id),
            levels: (0..=geometry.levels()).map(|_| Vec::new()).collect(),
            frame: Vec::new(),
            pieces: Vec::new(),
            uses: FrameSet::default(),
            data_bytes: 0,
            leaves: 0,
            sample: Sample::new(seed),
        }
    }

    /// Adds the leaf with this number; leaves come in order, empty ones too.
    pub(super) async fn leaf(&mut self, number: u64, entries: Vec<LeafEntry>) -> Result<()> {
        invariant!(number == self.leaves, "leaf {number} of a map came as leaf {}", self.leaves);
        self.leaves += 1;
        if !entries.is_empty() {
            self.data_bytes += entries.iter().map(|entry| u64::from(entry.place.size_bytes)).sum::<u64>();
            entries.iter().for_each(|entry| self.uses.insert(entry.place.frame.frame));
            self.node(0, number, &Node::Leaf(entries)).await?;
        }
        self.close_ended().await
    }

    /// Adds so many leaves without chunks. Where no node is under way they are passed at once: a disk may be a hole for exbibytes.
    pub(super) async fn skip(&mut self, leaves: u64) -> Result<()> {
        let end = self.leaves + leaves;
        while self.leaves < end {
            let lowest = self.levels.iter().position(|siblings| !siblings.is_empty());
            // The node over the lowest siblings ends there; what would end before has no children.
            let border = lowest.and_then(|level| {
                let covered =
                    1_u64.checked_shl(u32::try_from(level).ok()?.checked_add(1)?.checked_mul(8)?)?;
                (self.leaves / covered).checked_add(1)?.checked_mul(covered)
            });
            self.leaves = border.unwrap_or(end).min(end);
            self.close_ended().await?;
        }
        Ok(())
    }

    /// Completes the nodes that end with the last leaf that was added.
    async fn close_ended(&mut self) -> Result<()> {
        let (mut level, mut number) = (0, self.leaves - 1);
        let last = self.leaves == self.geometry.leaf_count();
        while level < self.geometry.levels() && (last || number.to_le_bytes()[0] == u8::MAX) {
            (level, number) = (level + 1, number >> 8);
            self.close(level, number).await?;
        }
        Ok(())
    }

    /// Completes an inner node. Its children's places must be known, so their frame goes first.
    async fn close(&mut self, level: u8, number: u64) -> Result<()> {
        if self.siblings(level - 1)?.is_empty() {
            return Ok(());
        }
        self.flush()?;
        let below = std::mem::take(self.siblings(level - 1)?);
        let placed = below
            .into_iter()
            .map(|child| Ok(ChildEntry { child: child.child, id: child.id, place: child.slot.placed()? }));
        let children: Vec<ChildEntry> = placed.collect::<Result<_>>()?;
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
            None => {
                if let Node::Leaf(entries) = node {
                    self.sample.offer(number, &id, entries);
                }
                Slot::Pending(self.add(id, &bytes)?)
            }
        };
        let child = number.to_le_bytes()[0];
        self.siblings(level)?.push(Child { child, id, slot });
        Ok(())
    }

    fn siblings(&mut self, level: u8) -> Result<&mut Vec<Child>> {
        let none = || Error::bug(format!("a map has a node of level {level}, above its root"));
        self.levels.get_mut(usize::from(level)).ok_or_else(none)
    }

    /// The node at the same place of the snapshot before. One that cannot be read is stored anew.
    async fn base_node(&self, level: u8, number: u64) -> Option<std::sync::Arc<StoredNode>> {
        self.base?.node(level, number).await.ok().flatten()
    }

    fn add(&mut self, id: ContentId, bytes: &[u8]) -> Result<usize> {
        if self.frame.len() + bytes.len() > self.shared.frame_bytes {
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
            if let Slot::Pending(piece) = child.slot {
                let none = || Error::bug(format!("map node {piece} is not in the frame that holds it"));
                child.slot = Slot::At(*placed.get(piece).ok_or_else(none)?);
            }
        }
        Ok(())
    }

    /// The map, once every leaf was added.
    pub(super) fn finish(mut self) -> Result<Grown> {
        self.flush()?;
        let expected = self.geometry.leaf_count();
        invariant!(self.leaves == expected, "a map ends after {} of {expected} leaves", self.leaves);
        let level = self.geometry.levels();
        let mut top = std::mem::take(self.siblings(level)?);
        let root = match top.pop() {
            Some(child) => Some(Root { level, id: child.id, place: child.slot.placed()? }),
            None => None,
        };
        invariant!(
            top.is_empty() && self.levels.iter().all(Vec::is_empty),
            "a map has nodes that no other names"
        );
        invariant!(
            root.is_some() == (self.data_bytes > 0),
            "a map of {} bytes of data has no root",
            self.data_bytes
        );
        Ok(Grown { root, uses: self.uses, data_bytes: self.data_bytes, sample: self.sample })
    }
}

impl Slot {
    /// Errors: a bug, for a node whose frame was not written.
    fn placed(self) -> Result<Place> {
        match self {
            Self::At(place) => Ok(place),
            Self::Pending(piece) => Err(Error::bug(format!("map node {piece} was never placed"))),
        }
    }
}
