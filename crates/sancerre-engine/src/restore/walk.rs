//! Walking a map from the disk's start to its end, a window at a time, so that a plan needs little memory on any disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use sancerre_format::FormatError;
use sancerre_format::id::{ContentId, FramePlace, Place};
use sancerre_format::node::{Geometry, Node};
use sancerre_format::outcome::Member;

use crate::error::Result;
use crate::frames::PackedFrame;
use crate::map::{MapReader, StoredNode};
use crate::restore::fallback::{Copies, Gone};
use crate::restore::fetch::{Failed, Fetched, Fetcher};
use crate::restore::plan::{Piece, WantedFrame, plan};

/// What a window covers of the disk, at least one node of level 1: some 25,000 chunks, 3 MB of plan.
const WINDOW_BYTES: u64 = 2 << 30;
/// Requests for map nodes in flight: a window's leaves lie in few frames unless many nights each changed some.
const REQUESTS_IN_FLIGHT: usize = 16;

/// Chunks and their frames, ascending by offset on the disk.
pub(super) type Window = Vec<(PackedFrame, Piece)>;

/// A node to be read.
#[derive(Debug, Clone, Copy)]
struct Pending {
    level: u8,
    number: u64,
    id: ContentId,
    place: Place,
}

type Decoded = std::result::Result<StoredNode, FormatError>;

/// Nodes by their number in their level.
type Nodes = BTreeMap<u64, Node>;

/// A walk over one map.
pub(super) struct MapWalk<'a> {
    fetcher: &'a Fetcher<'a>,
    member: &'a Member,
    map: MapReader,
    /// Nodes not read yet, the next one last.
    pending: Vec<Pending>,
    /// What lay under nodes of which no copy is left: the walk goes on behind it.
    gone: Gone,
}

impl<'a> MapWalk<'a> {
    /// Starts at the root.
    pub(super) fn new(fetcher: &'a Fetcher<'a>, member: &'a Member) -> Result<Self> {
        let map = MapReader::new(Arc::clone(fetcher.frames()), member)?;
        let root =
            map.root().map(|root| Pending { level: root.level, number: 0, id: root.id, place: root.place });
        let (pending, gone) = (root.into_iter().collect(), Gone::default());
        Ok(Self { fetcher, member, map, pending, gone })
    }

    /// What could not be walked.
    pub(super) fn into_gone(self) -> Gone {
        self.gone
    }

    /// Fails when something could not be walked so far: for who cannot leave it out.
    pub(super) fn refuse_gone(&mut self) -> Result<()> {
        std::mem::take(&mut self.gone).verdict(self.member)
    }

    /// The next chunks, or none at the end of the disk.
    pub(super) async fn next(&mut self) -> Result<Option<Window>> {
        loop {
            let group = self.take();
            let Some(level) = group.first().map(|node| node.level) else { return Ok(None) };
            let nodes = self.load(level, group).await?;
            if level == 0 {
                return self.fetcher.find(self.chunks(&nodes)).await.map(Some);
            }
            let children = children(&nodes);
            if level == 1 {
                let leaves = self.load(0, children).await?;
                return self.fetcher.find(self.chunks(&leaves)).await.map(Some);
            }
            self.pending.extend(children.into_iter().rev());
        }
    }

    /// The next node; of those just over the leaves, as many as a window covers.
    fn take(&mut self) -> Vec<Pending> {
        let Some(level) = self.pending.last().map(|node| node.level) else { return Vec::new() };
        let covered = u64::from(self.map.geometry().leaf_bytes()).saturating_mul(256);
        let most = if level == 1 { (WINDOW_BYTES / covered).max(1) } else { 1 };
        let mut group = Vec::new();
        while u64::try_from(group.len()).is_ok_and(|taken| taken < most) {
            match self.pending.pop_if(|node| node.level == level) {
                Some(node) => group.push(node),
                None => break,
            }
        }
        group
    }

    fn chunks(&self, leaves: &Nodes) -> Vec<(FramePlace, Piece)> {
        let geometry = self.map.geometry();
        let chunks = leaves.iter().map(|(number, node)| {
            let start = geometry.range(0, *number).start;
            let entries = if let Node::Leaf(entries) = node { entries.as_slice() } else { &[] };
            entries.iter().map(move |entry| {
                let at = start.saturating_add(u64::from(entry.offset_bytes));
                piece(at, entry.id, &entry.place)
            })
        });
        chunks.flatten().collect()
    }

    /// Reads nodes of one level.
    async fn load(&mut self, level: u8, nodes: Vec<Pending>) -> Result<Nodes> {
        let wanted = nodes.iter().map(|node| piece(node.number, node.id, &node.place)).collect();
        let wanted = self.fetcher.find(wanted).await?;
        let (fetcher, merge) = (self.fetcher, self.fetcher.merge(&wanted));
        let requests = stream::iter(plan(wanted, merge)).map(|range| fetcher.map(range));
        let mut arriving = requests.flatten_unordered(REQUESTS_IN_FLIGHT);
        let (mut loaded, mut lost) = (Nodes::new(), Vec::new());
        while let Some(arrival) = arriving.try_next().await? {
            match arrival {
                Ok(fetched) => self.decode(level, &fetched, &mut loaded, &mut lost),
                Err(failed) => lost.push(failed),
            }
        }
        let gone = self.mend(level, lost, &mut loaded).await?;
        self.gone.extend(gone);
        Ok(loaded)
    }

    fn decode(&self, level: u8, fetched: &Fetched, loaded: &mut Nodes, lost: &mut Vec<Failed>) {
        let Fetched { frames, frame, sealed, .. } = fetched;
        let raw = match frames.open_metadata(&frame.place, sealed) {
            Ok(raw) => raw,
            Err(error) => return lost.push(Failed { frames: vec![frame.clone()], error }),
        };
        for piece in &frame.pieces {
            match self.node(level, piece, &place(frame.place, piece), &raw) {
                Ok(node) => drop(loaded.insert(piece.at, node.node)),
                Err(error) => {
                    let frame = WantedFrame { pieces: vec![*piece], ..frame.clone() };
                    let error = frames.blame(&frame.place, error);
                    lost.push(Failed { frames: vec![frame], error });
                }
            }
        }
    }

    fn node(&self, level: u8, piece: &Piece, place: &Place, raw: &[u8]) -> Decoded {
        self.map.decode(level, piece.at, &piece.id, place, raw)
    }

    /// Looks for other copies of nodes.
    async fn mend(&self, level: u8, mut lost: Vec<Failed>, loaded: &mut Nodes) -> Result<Gone> {
        let mut gone = Gone::default();
        if lost.is_empty() {
            return Ok(gone);
        }
        let mut copies = Copies::locate(self.fetcher, &mut lost).await?;
        for failed in lost {
            for (frame, piece) in failed.pieces() {
                let check = |place: &Place, raw: &[u8]| self.node(level, piece, place, raw).ok();
                match copies.metadata(frame, piece, check).await? {
                    Some(node) => drop(loaded.insert(piece.at, node.node)),
                    None => gone.add(self.map.geometry().range(level, piece.at)),
                }
            }
            gone.because(failed.error);
        }
        Ok(gone)
    }
}

fn children(nodes: &Nodes) -> Vec<Pending> {
    let inner = nodes.iter().filter_map(|(number, node)| match node {
        Node::Inner { level, children } => Some((*number, level.saturating_sub(1), children)),
        Node::Leaf(_) => None,
    });
    inner
        .flat_map(|(parent, level, children)| {
            children.iter().map(move |child| {
                let number = Geometry::child_number(parent, child.child);
                Pending { level, number, id: child.id, place: child.place }
            })
        })
        .collect()
}

fn piece(at: u64, id: ContentId, place: &Place) -> (FramePlace, Piece) {
    (place.frame, Piece { at, id, offset_bytes: place.offset_bytes, size_bytes: place.size_bytes })
}

fn place(frame: FramePlace, piece: &Piece) -> Place {
    Place { frame, offset_bytes: piece.offset_bytes, size_bytes: piece.size_bytes }
}
