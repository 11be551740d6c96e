//! Nodes: the tree that maps a disk's offsets to chunks (FORMAT.md §10.1).
//!
//! A node has two parts. The *ids part* says what is there, and its hash is the node's id: equal content has equal
//! ids, wherever it was stored, so unchanged subtrees are found by id alone. The *place part* says where each chunk
//! or child lies; it is proven by the ids after reading, not by the hash.

mod geometry;
mod places;
#[cfg(test)]
mod tests;

use crate::bytes::{Reader, to_u32, to_usize};
use crate::error::{Result, corrupt, ensure};
use crate::id::{ContentId, Place};
use crate::seal::UNIT_BYTES_MAX;

pub use geometry::Geometry;

const WHAT: &str = "node";
const LEVEL_MAX: u8 = 7;
/// Children of an inner node.
pub const FANOUT: usize = 256;
const LEAF_ENTRY_BYTES: usize = 40;
const CHILD_ENTRY_BYTES: usize = 36;
/// A leaf holds at most one chunk per so many bytes it covers.
const BYTES_PER_CHUNK_MIN: u32 = 512;
/// What a leaf covers at most in any repository.
const LEAF_BYTES_MAX: u32 = 32 << 20;

/// The id of a chunk in its zone: what deduplication compares.
pub fn chunk_id(id_key: &[u8; 32], chunk: &[u8]) -> ContentId {
    ContentId(*blake3::keyed_hash(id_key, chunk).as_bytes())
}

/// The key of node ids, derived once from a zone's id key, so that no chunk can pass for a node.
#[derive(Clone, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct NodeKey([u8; 32]);

impl NodeKey {
    /// Derives the key.
    pub fn derive(id_key: &[u8; 32]) -> Self {
        Self(blake3::derive_key("sancerre v1 node id", id_key))
    }

    /// The id of a node with this ids part.
    pub fn id(&self, ids_part: &[u8]) -> ContentId {
        ContentId(*blake3::keyed_hash(&self.0, ids_part).as_bytes())
    }
}

/// The repository's constants that bound a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeLimits {
    /// What a leaf covers.
    pub leaf_bytes: u32,
}

/// A chunk of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafEntry {
    /// Where the chunk starts in the leaf.
    pub offset_bytes: u32,
    /// Its id.
    pub id: ContentId,
    /// Where it lies, and its size.
    pub place: Place,
}

/// A child of an inner node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildEntry {
    /// Which of the 256.
    pub child: u8,
    /// Its id.
    pub id: ContentId,
    /// Where its bytes lie.
    pub place: Place,
}

/// One node of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// The chunks that start in one stretch of `leaf-bytes`, ascending.
    Leaf(Vec<LeafEntry>),
    /// The nodes one level below, ascending; a child without chunks is absent.
    Inner {
        /// 1 to 7.
        level: u8,
        /// At least one.
        children: Vec<ChildEntry>,
    },
}

impl Node {
    /// Height over the leaves.
    pub fn level(&self) -> u8 {
        match self {
            Self::Leaf(_) => 0,
            Self::Inner { level, .. } => *level,
        }
    }

    /// Where its chunks or children lie, in their order.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        let (leaf, inner): (&[LeafEntry], &[ChildEntry]) = match self {
            Self::Leaf(entries) => (entries, &[]),
            Self::Inner { children, .. } => (&[], children),
        };
        leaf.iter().map(|entry| &entry.place).chain(inner.iter().map(|child| &child.place))
    }

    /// The part that is hashed into the node's id.
    pub fn ids_part(&self) -> Result<Vec<u8>> {
        self.check(NodeLimits { leaf_bytes: LEAF_BYTES_MAX })?;
        let mut out = vec![self.level(), 0, 0, 0];
        match self {
            Self::Leaf(entries) => {
                out.extend_from_slice(&to_u32(WHAT, entries.len())?.to_le_bytes());
                for entry in entries {
                    out.extend_from_slice(&entry.offset_bytes.to_le_bytes());
                    out.extend_from_slice(&entry.place.size_bytes.to_le_bytes());
                    out.extend_from_slice(&entry.id.0);
                }
            }
            Self::Inner { children, .. } => {
                out.extend_from_slice(&to_u32(WHAT, children.len())?.to_le_bytes());
                for child in children {
                    out.extend_from_slice(&u32::from(child.child).to_le_bytes());
                    out.extend_from_slice(&child.id.0);
                }
            }
        }
        Ok(out)
    }

    /// The node's id. Errors when it breaks a rule of the format.
    pub fn id(&self, key: &NodeKey) -> Result<ContentId> {
        Ok(key.id(&self.ids_part()?))
    }

    /// Encodes the node; [`Node::encode_with_id`] when the id is wanted too.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = self.ids_part()?;
        places::encode(self, &mut out)?;
        Ok(out)
    }

    /// The node's id and bytes.
    pub fn encode_with_id(&self, key: &NodeKey) -> Result<(ContentId, Vec<u8>)> {
        let mut out = self.ids_part()?;
        let id = key.id(&out);
        places::encode(self, &mut out)?;
        Ok((id, out))
    }

    /// Decodes a node of exactly these bytes. Nothing else than what [`Node::encode`] writes is accepted.
    pub fn decode(bytes: &[u8], limits: &NodeLimits) -> Result<Self> {
        let mut reader = Reader::new(WHAT, bytes);
        let node = match decode_ids(&mut reader)? {
            Ids::Leaf(ids) => Self::Leaf(places::decode_leaf(&mut reader, &ids)?),
            Ids::Inner(level, ids) => {
                Self::Inner { level, children: places::decode_inner(&mut reader, &ids)? }
            }
        };
        reader.finish()?;
        node.check(*limits)?;
        Ok(node)
    }

    fn check(&self, limits: NodeLimits) -> Result<()> {
        match self {
            Self::Leaf(entries) => check_leaf(entries, limits),
            Self::Inner { level, children } => check_inner(*level, children),
        }?;
        let inside = |place: &Place| {
            let end = to_usize(place.offset_bytes).saturating_add(to_usize(place.size_bytes));
            place.size_bytes > 0 && end <= UNIT_BYTES_MAX
        };
        match self.places().find(|place| !inside(place)) {
            Some(Place { frame, offset_bytes, size_bytes }) => Err(corrupt(
                WHAT,
                format!("{size_bytes} bytes at {offset_bytes} cannot lie in frame {}", frame.frame),
            )),
            None => Ok(()),
        }
    }
}

fn check_leaf(entries: &[LeafEntry], limits: NodeLimits) -> Result<()> {
    let most = to_usize(limits.leaf_bytes / BYTES_PER_CHUNK_MIN);
    ensure((1..=most).contains(&entries.len()), WHAT, || format!("a leaf with {} chunks", entries.len()))?;
    let ends_before = |a: &LeafEntry, b: &LeafEntry| {
        a.offset_bytes.checked_add(a.place.size_bytes).is_some_and(|end| end <= b.offset_bytes)
    };
    let disjoint = entries.is_sorted_by(ends_before);
    ensure(disjoint, WHAT, || "its chunks overlap or are not ascending".into())?;
    let last = entries.last().map_or(0, |entry| entry.offset_bytes);
    ensure(last < limits.leaf_bytes, WHAT, || format!("a chunk starts at {last}, behind the leaf's end"))
}

fn check_inner(level: u8, children: &[ChildEntry]) -> Result<()> {
    ensure((1..=LEVEL_MAX).contains(&level), WHAT, || format!("an inner node of level {level}"))?;
    ensure((1..=FANOUT).contains(&children.len()), WHAT, || format!("{} children", children.len()))?;
    let ascending = children.is_sorted_by(|a, b| a.child < b.child);
    ensure(ascending, WHAT, || "its children are not ascending".into())
}

struct LeafIds {
    offset_bytes: u32,
    size_bytes: u32,
    id: ContentId,
}

struct ChildIds {
    child: u8,
    id: ContentId,
}

enum Ids {
    Leaf(Vec<LeafIds>),
    Inner(u8, Vec<ChildIds>),
}

fn decode_ids(reader: &mut Reader<'_>) -> Result<Ids> {
    let level = reader.u8()?;
    reader.zeros::<3>()?;
    if level == 0 {
        let count = reader.count(LEAF_ENTRY_BYTES)?;
        let ids = (0..count).map(|_| {
            Ok(LeafIds {
                offset_bytes: reader.u32()?,
                size_bytes: reader.u32()?,
                id: ContentId(reader.array()?),
            })
        });
        return ids.collect::<Result<_>>().map(Ids::Leaf);
    }
    let count = reader.count(CHILD_ENTRY_BYTES)?;
    let ids = (0..count).map(|_| {
        let child = reader.u32()?;
        let child = u8::try_from(child).map_err(|_| corrupt(WHAT, format!("child {child} of 256")))?;
        Ok(ChildIds { child, id: ContentId(reader.array()?) })
    });
    Ok(Ids::Inner(level, ids.collect::<Result<_>>()?))
}
