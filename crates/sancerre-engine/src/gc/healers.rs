//! G1, between weights and plan: packs that no set of frames names, and by which a snapshot that lost something is whole
//! all the same.
//!
//! A restore that finds a pack missing or damaged asks the index for other copies of what lay in it. Whose snapshot stored
//! them does not matter to it, so it must not matter here: while a snapshot that is not forgotten lacks frames, packs with
//! copies of what lay in these stay, and none of them is rewritten.
//!
//! ```text
//! frames that are gone or quarantined ─> maps of the snapshots that need them ─> ids ─> tables of packs that could go
//!                                          ^                                                     │
//!                                          └────────────── copies of lost nodes <────────────────┘
//! ```
//!
//! Nothing of this is read while everything is there. What cannot be known keeps everything that could hold a copy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::TryStreamExt;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::{ContentId, FrameName, PackName, Place};
use sancerre_format::node::{Geometry, LeafEntry, Node};
use sancerre_format::pack::DirectoryEntry;

use super::packs::Packs;
use super::weigh::is_partial;
use crate::error::{Error, Result, StoreError};
use crate::frames::Frames;
use crate::map::MapReader;
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::log::{Log, Moves, PackAndFrameSet, Snapshot, open_body};
use crate::repository::pack_ends::{Contents, PackEnds, PackRef, fetch_all};

/// Ids sought at most, some 300 MB: of a repository that lost more, everything stays.
const WANTED_MAX: usize = 4 << 20;

/// What is there.
pub(super) struct Stock<'a> {
    pub(super) log: &'a Log,
    pub(super) packs: &'a Packs,
    pub(super) moves: &'a Moves,
    /// What snapshots need, by the pack in which it lies.
    pub(super) lying: &'a BTreeMap<PackName, FrameSet>,
}

/// Packs, needed in part or not at all, that hold a copy of what one of these snapshots needs and lost.
///
/// Errors: the store's; the user's wish to stop.
pub(super) async fn healers(
    repository: &Repository,
    stock: &Stock<'_>,
    snapshots: &[Snapshot<'_>],
    monitor: &Monitor,
) -> Result<BTreeSet<PackName>> {
    let quarantined = stock.log.quarantined(Log::END);
    let lost = stock.lost(&quarantined);
    let candidates = stock.candidates();
    if lost.is_empty() || candidates.is_empty() {
        return Ok(BTreeSet::new());
    }
    let frames = Arc::new(Frames::new(repository, stock.log, &stock.packs.catalogue));
    let mut search = Search::new(stock, quarantined, frames, monitor);
    for snapshot in snapshots {
        let uses = snapshot.uses()?;
        if !stock.moves.packs(&uses).is_disjoint(&lost) {
            search.frames.learn(&uses).await?;
            search.start(repository, snapshot)?;
            search.walk().await?;
        }
    }
    while !search.fresh.is_empty() && !search.knows_too_little() {
        search.scan(repository, &candidates).await?;
        search.walk().await?;
    }
    Ok(if search.knows_too_little() { candidates } else { search.found })
}

impl Stock<'_> {
    /// Whether a pack is there as it was listed; one that no list names restores find in the store's listing.
    fn has(&self, pack: &PackName) -> bool {
        match self.packs.catalogue.pack(*pack) {
            Some(_) => self.packs.has(*pack),
            None => !self.packs.lacks(*pack),
        }
    }

    /// Packs of which something is needed and cannot be had, or may be damaged.
    fn lost(&self, quarantined: &PackAndFrameSet) -> BTreeSet<PackName> {
        let is_lost = |(pack, needed): &(&PackName, &FrameSet)| {
            let mut named = needed.packs();
            !self.has(pack)
                || quarantined.has_pack(pack)
                || named.any(|named| needed.shares(quarantined.frames(), &named))
        };
        self.lying.iter().filter(is_lost).map(|(pack, _)| *pack).collect()
    }

    /// Packs of which not everything is needed.
    fn candidates(&self) -> BTreeSet<PackName> {
        let could_go = |pack: &PackName| match (self.lying.get(pack), self.packs.catalogue.pack(*pack)) {
            (None, _) => true,
            (Some(needed), Some(listed)) => is_partial(needed, listed.frames),
            (Some(_), None) => false,
        };
        self.packs.present.names().filter(could_go).collect()
    }

    fn needs(&self, frame: &FrameName, pack: &PackName) -> bool {
        self.lying.get(pack).is_some_and(|needed| needed.contains(frame))
    }
}

/// A node that is to be read.
struct Pending {
    map: Arc<MapReader>,
    level: u8,
    number: u64,
    id: ContentId,
    place: Place,
}

struct Search<'a> {
    stock: &'a Stock<'a>,
    quarantined: PackAndFrameSet,
    frames: Arc<Frames>,
    monitor: &'a Monitor,
    /// Of everything that is lost.
    wanted: BTreeSet<ContentId>,
    /// Those of which no table was asked yet.
    fresh: BTreeSet<ContentId>,
    /// Nodes among them, and where in a map they belong.
    nodes: BTreeMap<ContentId, (Arc<MapReader>, u8, u64)>,
    pending: Vec<Pending>,
    seen: BTreeSet<(ContentId, Place)>,
    found: BTreeSet<PackName>,
    /// There is something that cannot be read now and that says what is needed.
    is_blind: bool,
}

impl<'a> Search<'a> {
    fn new(
        stock: &'a Stock<'a>,
        quarantined: PackAndFrameSet,
        frames: Arc<Frames>,
        monitor: &'a Monitor,
    ) -> Self {
        Self {
            stock,
            quarantined,
            frames,
            monitor,
            wanted: BTreeSet::new(),
            fresh: BTreeSet::new(),
            nodes: BTreeMap::new(),
            pending: Vec::new(),
            seen: BTreeSet::new(),
            found: BTreeSet::new(),
            is_blind: false,
        }
    }

    fn knows_too_little(&self) -> bool {
        self.is_blind || self.wanted.len() > WANTED_MAX
    }

    /// Goes to the roots of a snapshot's maps.
    ///
    /// Errors: the store's. Of a snapshot whose body or root is damaged nothing can be restored by anybody.
    fn start(&mut self, repository: &Repository, snapshot: &Snapshot<'_>) -> Result<()> {
        let Some(keys) = snapshot.generation().and_then(|made| repository.keys.zone_keys(made).ok()) else {
            self.is_blind = true;
            return Ok(());
        };
        let members = match open_body(repository, snapshot) {
            Ok(body) => body.members,
            Err(error) if error.is_damage() => return Ok(()),
            Err(error) => return Err(error),
        };
        for member in &members {
            let map = match MapReader::with_id_key(Arc::clone(&self.frames), member, &keys.id) {
                Ok(map) => Arc::new(map),
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            };
            let root = map.root().map(|root| (root.level, root.id, root.place));
            self.pending.extend(root.map(|(level, id, place)| Pending { map, level, number: 0, id, place }));
        }
        Ok(())
    }

    /// Reads all nodes that are pending, and what lies below them.
    async fn walk(&mut self) -> Result<()> {
        while let Some(pending) = self.pending.pop() {
            self.monitor.check()?;
            if self.knows_too_little() {
                self.pending.clear();
            } else if self.seen.insert((pending.id, pending.place)) {
                self.visit(pending).await?;
            }
        }
        Ok(())
    }

    async fn visit(&mut self, pending: Pending) -> Result<()> {
        let node = self.open(&pending).await?;
        if node.is_none() || !self.reach(&pending.place.frame.frame) {
            self.want(pending.id);
            let place = (Arc::clone(&pending.map), pending.level, pending.number);
            self.nodes.entry(pending.id).or_insert(place);
        }
        match node {
            Some(Node::Leaf(entries)) => entries.iter().for_each(|entry| self.chunk(entry)),
            Some(Node::Inner { children, .. }) => {
                let level = pending.level.saturating_sub(1); // invariant: inner nodes have level 1 and more
                self.pending.extend(children.into_iter().map(|child| {
                    let number = Geometry::child_number(pending.number, child.child);
                    Pending { map: Arc::clone(&pending.map), level, number, id: child.id, place: child.place }
                }));
            }
            None => {}
        }
        Ok(())
    }

    /// A node as it should be; none when it is lost.
    async fn open(&mut self, pending: &Pending) -> Result<Option<Node>> {
        let Pending { map, level, number, id, place } = pending;
        match self.frames.metadata(&place.frame).await {
            Ok(raw) => Ok(map.decode(*level, *number, id, place, &raw).ok().map(|stored| stored.node)),
            Err(Error::Store(StoreError::Withheld { .. })) => {
                self.is_blind = true;
                Ok(None)
            }
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn chunk(&mut self, entry: &LeafEntry) {
        if !self.reach(&entry.place.frame.frame) {
            self.want(entry.id);
        }
    }

    /// Whether a frame is there and nothing is known against it. Then its pack stays, which is the case already where a
    /// snapshot names the frame; but a copy of a node leads to frames of the snapshot that stored the copy.
    fn reach(&mut self, frame: &FrameName) -> bool {
        let pack = self.stock.moves.pack(frame);
        if !self.stock.has(&pack) || self.quarantined.contains(frame, &pack) {
            return false;
        }
        if !self.stock.needs(frame, &pack) {
            self.found.insert(pack);
        }
        true
    }

    fn want(&mut self, id: ContentId) {
        if self.wanted.insert(id) {
            self.fresh.insert(id);
        }
    }

    /// Asks the tables of the packs that could go for what is wanted. A pack whose table cannot be read may hold anything.
    async fn scan(&mut self, repository: &Repository, candidates: &BTreeSet<PackName>) -> Result<()> {
        let ids = std::mem::take(&mut self.fresh);
        let find = |pack: &PackName| PackRef::find(&self.stock.packs.catalogue, *pack);
        // What was uploaded and never listed nobody finds; the list of a snapshot may come back.
        let was_listed = |pack: &&PackName| {
            find(pack).is_none()
                && self.stock.log.entry(pack.session).is_some_and(|entry| entry.snapshot().is_some())
        };
        let unlisted: Vec<PackName> = candidates.iter().filter(was_listed).copied().collect();
        let sources = candidates.iter().filter_map(find).collect();
        self.found.extend(unlisted);
        let mut read = std::pin::pin!(fetch_all(repository, sources, self.monitor));
        while let Some((source, ends)) = read.try_next().await? {
            let contents = match ends {
                Ok(ends) => table(repository, self.stock.log, source, ends).await,
                Err(error) => Err(error),
            };
            match contents {
                Ok(contents) => self.look(source, contents, &ids),
                Err(error) if error.is_damage() || matches!(error, Error::WrongKey { .. }) => {
                    self.found.insert(source.name);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Keeps a pack of which a frame holds one of these ids; goes on at nodes.
    fn look(&mut self, source: PackRef, contents: Contents, ids: &BTreeSet<ContentId>) {
        for (frame, pieces) in contents {
            if self.stock.needs(&frame.frame, &source.name) {
                continue;
            }
            let mut offset_bytes = 0u32;
            for (id, size_bytes) in pieces {
                if ids.contains(&id) {
                    self.found.insert(source.name);
                    let place = Place { frame, offset_bytes, size_bytes };
                    let node = self.nodes.get(&id).cloned();
                    let node = node.map(|(map, level, number)| Pending { map, level, number, id, place });
                    self.pending.extend(node);
                }
                offset_bytes = offset_bytes.saturating_add(size_bytes); // invariant: a frame has 1 MiB at most
            }
        }
    }
}

/// The frames of a pack and what is in each, by its own table.
async fn table(repository: &Repository, log: &Log, source: PackRef, ends: PackEnds) -> Result<Contents> {
    let root = repository.keys.metadata_root_in(&source.session, log.generation(source.name.session))?;
    let read = move || {
        let tail = ends.decode()?;
        let table = tail.open_table(&root)?;
        Ok(tail.directory().iter().map(DirectoryEntry::place).zip(table).collect())
    };
    repository.host.compute(read).await?.map_err(Error::object(&source.key(repository)))
}
