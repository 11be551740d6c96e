//! Reading a disk's map: from its root to the leaves, node by node, each verified by its id.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use sancerre_format::FormatError;
use sancerre_format::bytes::to_usize;
use sancerre_format::id::{ContentId, Place};
use sancerre_format::node::{Geometry, Node, NodeKey, NodeLimits};
use sancerre_format::outcome::{Member, Root};

use crate::error::Result;
use crate::frames::Frames;

/// Decoded nodes, some 4 KiB each: a backup reads the leaves of the regions ahead, and again when it builds the
/// new map behind them.
const NODES_KEPT: usize = 256;

/// A node as it lies in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredNode {
    /// The node.
    pub node: Node,
    /// Its id.
    pub id: ContentId,
    /// Where it lies.
    pub place: Place,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

type CachedNode = ((u8, u64), Arc<StoredNode>);

/// The map of one disk of one snapshot.
pub struct MapReader {
    frames: Arc<Frames>,
    geometry: Geometry,
    root: Option<Root>,
    node_key: NodeKey,
    cached: Mutex<VecDeque<CachedNode>>,
}

impl MapReader {
    /// The map of `member`.
    ///
    /// Errors: a root whose level does not fit the disk's size.
    pub fn new(frames: Arc<Frames>, member: &Member) -> Result<Self> {
        let id_key = frames.repository().keys.zone_secrets()?.keys.id;
        Self::with_id_key(frames, member, &id_key)
    }

    /// The same of a snapshot whose ids were made with this key.
    ///
    /// Errors: as [`MapReader::new`].
    pub fn with_id_key(frames: Arc<Frames>, member: &Member, id_key: &[u8; 32]) -> Result<Self> {
        let layout = frames.repository().layout;
        let geometry = Geometry::new(member.size_bytes, layout.leaf_bytes, layout.region_bytes)?;
        let node_key = NodeKey::derive(id_key);
        let reader = Self { frames, geometry, root: member.root, node_key, cached: Mutex::default() };
        match &reader.root {
            Some(root) if root.level != geometry.levels() => Err(reader.frames.blame(
                &root.place.frame,
                FormatError::Corrupt { what: "map", detail: format!("its root has level {}", root.level) },
            )),
            _ => Ok(reader),
        }
    }

    /// Its shape.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The frames it reads from.
    pub fn frames(&self) -> &Arc<Frames> {
        &self.frames
    }

    /// The node of `level` with this number, or none where the disk holds no data.
    pub async fn node(&self, level: u8, number: u64) -> Result<Option<Arc<StoredNode>>> {
        if let Some(node) = self.find(level, number) {
            return Ok(Some(node));
        }
        let Some(root) = self.root.filter(|root| level <= root.level) else { return Ok(None) };
        if number >= self.geometry.count(level) {
            return Ok(None);
        }
        let mut node = self.read(root.level, 0, &root.id, &root.place).await?;
        for below in (level..root.level).rev() {
            let shift = u32::from(below.saturating_sub(level)).saturating_mul(8);
            let number = number.checked_shr(shift).unwrap_or(0);
            let Some((id, place)) = child(&node.node, number) else { return Ok(None) };
            node = self.read(below, number, &id, &place).await?;
        }
        Ok(Some(node))
    }

    /// The same if it was read lately.
    pub(crate) fn find(&self, level: u8, number: u64) -> Option<Arc<StoredNode>> {
        let cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.iter().find(|(at, _)| *at == (level, number)).map(|(_, node)| Arc::clone(node))
    }

    /// The node with this id, from this place, or from another place of its frame.
    pub async fn read(
        &self,
        level: u8,
        number: u64,
        id: &ContentId,
        place: &Place,
    ) -> Result<Arc<StoredNode>> {
        if let Some(node) = self.find(level, number) {
            return Ok(node);
        }
        let decode = |raw: &[u8]| self.decode(level, number, id, place, raw);
        let node = Arc::new(self.frames.metadata_as(&place.frame, decode).await?);
        self.keep(level, number, &node);
        Ok(node)
    }

    /// Keeps a node that was verified, wherever it came from.
    pub(crate) fn keep(&self, level: u8, number: u64, node: &Arc<StoredNode>) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.push_back(((level, number), Arc::clone(node)));
        if cached.len() > NODES_KEPT {
            cached.pop_front();
        }
    }

    /// Its root; none when the disk is all zeros.
    pub fn root(&self) -> Option<&Root> {
        self.root.as_ref()
    }

    /// Decodes and verifies a node that lies in the raw bytes of its frame.
    pub fn decode(
        &self,
        level: u8,
        number: u64,
        id: &ContentId,
        place: &Place,
        raw: &[u8],
    ) -> std::result::Result<StoredNode, FormatError> {
        let corrupt = |detail: &str| FormatError::Corrupt { what: "map node", detail: detail.to_owned() };
        let start = to_usize(place.offset_bytes);
        let bytes = raw.get(start..start.saturating_add(to_usize(place.size_bytes)));
        let bytes = bytes.ok_or_else(|| corrupt("it lies outside its frame"))?;
        let node = Node::decode(bytes, &NodeLimits { leaf_bytes: self.geometry.leaf_bytes() })?;
        self.geometry.check(&node, level, number)?;
        if node.id(&self.node_key)? != *id {
            return Err(FormatError::Forged {
                what: "map node",
                detail: "its id does not fit its content".into(),
            });
        }
        Ok(StoredNode { node, id: *id, place: *place, bytes: bytes.to_vec() })
    }
}

/// The child that covers `number` on its level.
pub(crate) fn child(node: &Node, number: u64) -> Option<(ContentId, Place)> {
    let Node::Inner { children, .. } = node else { return None };
    let [wanted, ..] = number.to_le_bytes();
    let at = children.binary_search_by_key(&wanted, |child| child.child).ok()?;
    children.get(at).map(|child| (child.id, child.place))
}
