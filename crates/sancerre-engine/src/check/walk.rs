//! The walk over all maps: every node verified once, every place compared with what is there.
//!
//! All snapshots of a disk are walked in step, from left to right: a node that several of them share is read once
//! for all, and what it costs is known for each. Memory is one path of the tree, however large the disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use sancerre_format::FormatError;
use sancerre_format::bytes::to_usize;
use sancerre_format::id::{ContentId, FramePlace, Place};
use sancerre_format::names::Title;
use sancerre_format::node::{ChildEntry, Geometry, LeafEntry, Node, NodeKey, NodeLimits};

use super::elsewhere::{Elsewhere, lies};
use super::nodes::{NodeFrames, Opened};
use super::packs;
use super::report::{Affected, Severity};
use super::run::Run;
use super::tables::Tables;
use crate::error::Result;
use crate::monitor::add;

/// Nodes of one place of the tree taken at a time: bounds the frames held beside the cache.
const NODES_AT_ONCE: usize = 32;

/// A node and the disks (subject, member) whose maps share it.
struct Shared {
    id: ContentId,
    place: Place,
    /// Below a copy of a lost node, which is that of another snapshot: its places are in other sets of frames.
    is_copied: bool,
    disks: Arc<Vec<(usize, usize)>>,
}

/// One place of the tree, and all nodes that snapshots have there.
struct Step {
    level: u8,
    number: u64,
    nodes: Vec<Shared>,
}

/// The same disk in several snapshots, whose ids are made with the same keys.
struct Group {
    geometry: Geometry,
    node_key: NodeKey,
    disks: Vec<(usize, usize)>,
}

/// Walks the maps of all snapshots.
///
/// Whoever holds no secret of the zone has no maps to walk: frame sets say which snapshots each loss concerns.
pub(super) async fn walk(run: &mut Run<'_>) -> Result<()> {
    if run.repository.keys.zone_secrets().is_err() {
        packs::charge(run);
        return Ok(());
    }
    let groups = group(run)?;
    for group in &groups {
        add(&run.monitor.counters.total_bytes, group.bytes(group.geometry.size_bytes()));
    }
    let mut walk = NodeWalk {
        limits: NodeLimits { leaf_bytes: run.repository.layout.leaf_bytes },
        frames: NodeFrames::default(),
        tables: Tables::default(),
        elsewhere: Elsewhere::new(run),
        run,
    };
    for group in &groups {
        walk.group(group).await?;
    }
    walk.elsewhere.judge(walk.run, &mut walk.tables).await?;
    walk.elsewhere.finish(walk.run);
    Ok(())
}

impl Group {
    /// So many bytes of each of its disks.
    fn bytes(&self, of_each: u64) -> u64 {
        of_each.saturating_mul(u64::try_from(self.disks.len()).unwrap_or(u64::MAX))
    }
}

/// Disks that are called the same in snapshots of the same VM and generation, and are of one size.
fn group(run: &mut Run<'_>) -> Result<Vec<Group>> {
    let layout = run.repository.layout;
    let mut groups: BTreeMap<(u16, Title, Title, u64), Group> = BTreeMap::new();
    for (place, subject) in run.subjects.iter().enumerate() {
        // Without these keys its disks are not known.
        let Some(generation) = subject.generation.filter(|_| !subject.members.is_empty()) else { continue };
        let id_key = run.repository.keys.zone_keys(generation)?.id;
        for (disk, member) in subject.members.iter().enumerate() {
            let geometry = Geometry::new(member.size_bytes, layout.leaf_bytes, layout.region_bytes);
            let geometry = match geometry {
                Ok(geometry) if member.root.is_none_or(|root| root.level == geometry.levels()) => geometry,
                _ => {
                    let problem = format!("the map of disk {} does not fit its size", member.name);
                    run.findings.blame(&subject.key, Severity::Damaged, problem);
                    run.findings.cost(&subject.key, (place, Some(disk)), Some(0..member.size_bytes));
                    continue;
                }
            };
            let key = (generation, subject.vm.clone(), member.name.clone(), member.size_bytes);
            let node_key = NodeKey::derive(&id_key);
            let group = groups.entry(key).or_insert_with(|| Group { geometry, node_key, disks: Vec::new() });
            group.disks.push((place, disk));
        }
    }
    Ok(groups.into_values().collect())
}

struct NodeWalk<'a, 'b> {
    run: &'a mut Run<'b>,
    frames: NodeFrames,
    tables: Tables,
    elsewhere: Elsewhere,
    limits: NodeLimits,
}

impl NodeWalk<'_, '_> {
    async fn group(&mut self, group: &Group) -> Result<()> {
        let mut reached = 0;
        let mut steps: Vec<Step> = self.roots(group).into_iter().collect();
        while let Some(step) = steps.pop() {
            self.run.monitor.check()?;
            let start = group.geometry.range(step.level, step.number).start;
            add(&self.run.monitor.counters.done_bytes, group.bytes(start.saturating_sub(reached)));
            reached = start.max(reached);
            let children = self.step(group, &step).await?;
            // The leftmost child is on top: ranges of a disk are found in ascending order.
            steps.extend(children.into_iter().rev());
        }
        add(
            &self.run.monitor.counters.done_bytes,
            group.bytes(group.geometry.size_bytes().saturating_sub(reached)),
        );
        Ok(())
    }

    fn roots(&self, group: &Group) -> Option<Step> {
        let mut nodes = BTreeMap::new();
        for (subject, disk) in &group.disks {
            let member = self.run.subjects.get(*subject).and_then(|subject| subject.members.get(*disk));
            if let Some(root) = member.and_then(|member| member.root.as_ref()) {
                share(&mut nodes, (root.id, root.place, false), &[(*subject, *disk)]);
            }
        }
        let level = group.geometry.levels();
        (!nodes.is_empty()).then(|| Step { level, number: 0, nodes: collect(nodes) })
    }

    /// Verifies the nodes of a step; returns the steps below it, ascending.
    async fn step(&mut self, group: &Group, step: &Step) -> Result<Vec<Step>> {
        let mut below: BTreeMap<u8, Nodes> = BTreeMap::new();
        let range = group.geometry.range(step.level, step.number);
        for nodes in step.nodes.chunks(NODES_AT_ONCE) {
            let mut placed = Vec::with_capacity(nodes.len());
            for shared in nodes {
                let ranges = std::slice::from_ref(&range);
                placed.push(self.check_place(shared, true, &shared.place.frame, ranges));
            }
            let found = nodes.iter().zip(&placed).filter(|(_, blamed)| blamed.is_none());
            let wanted: BTreeSet<FramePlace> = found.map(|(shared, _)| shared.place.frame).collect();
            let opened = self.frames.open(self.run.repository, &self.run.frames, &wanted).await?;
            for (shared, blamed) in nodes.iter().zip(placed) {
                let node = match blamed {
                    Some(object) => Err(object),
                    None => self.node(group, step, shared, &opened),
                };
                match node {
                    Ok(node) => self.enter(shared, node, range.start, &mut below).await?,
                    Err(object) => {
                        if let Some((copy, node)) = self.copied(group, step, shared, &object, &range).await? {
                            self.enter(&copy, node, range.start, &mut below).await?;
                        }
                    }
                }
            }
        }
        let level = step.level.saturating_sub(1);
        let step = |(child, nodes)| {
            let number = Geometry::child_number(step.number, child);
            Step { level, number, nodes: collect(nodes) }
        };
        Ok(below.into_iter().map(step).collect())
    }

    /// Checks the chunks of a leaf, or notes the nodes below an inner one.
    async fn enter(
        &mut self,
        shared: &Shared,
        node: Node,
        start: u64,
        below: &mut BTreeMap<u8, Nodes>,
    ) -> Result<()> {
        match node {
            Node::Leaf(entries) => self.leaf(shared, start, &entries).await?,
            Node::Inner { children, .. } => {
                for ChildEntry { child, id, place } in children {
                    share(below.entry(child).or_default(), (id, place, shared.is_copied), &shared.disks);
                }
            }
        }
        Ok(())
    }

    /// A node from the first copy that is what it should be; none when there is none, which is then charged.
    async fn copied(
        &mut self,
        group: &Group,
        step: &Step,
        shared: &Shared,
        object: &str,
        range: &Range<u64>,
    ) -> Result<Option<(Shared, Node)>> {
        let mut places = self.elsewhere.places(self.run, &BTreeSet::from([shared.id])).await?;
        for place in places.remove(&shared.id).unwrap_or_default() {
            if place.frame == shared.place.frame
                || !lies(self.run, &mut self.tables, &shared.id, &place, true).await?
            {
                continue;
            }
            let wanted = BTreeSet::from([place.frame]);
            let opened = self.frames.open(self.run.repository, &self.run.frames, &wanted).await?;
            let copy = Shared { id: shared.id, place, is_copied: true, disks: Arc::clone(&shared.disks) };
            let Some(Ok(raw)) = opened.get(&place.frame) else { continue };
            if let Ok(node) = self.decode(group, step, &copy, raw) {
                self.elsewhere.copied();
                for (subject, disk) in shared.disks.iter() {
                    self.run.findings.heal(object, (*subject, Some(*disk)), range.clone());
                }
                return Ok(Some((copy, node)));
            }
        }
        self.charge(object, &shared.disks, std::slice::from_ref(range));
        Ok(None)
    }

    /// Decodes and verifies a node. Errors: what is to blame for its loss, which is then noted.
    fn node(
        &mut self,
        group: &Group,
        step: &Step,
        shared: &Shared,
        opened: &HashMap<FramePlace, Opened>,
    ) -> std::result::Result<Node, String> {
        let place = &shared.place.frame;
        let (problem, transient) = match opened.get(place) {
            Some(Ok(raw)) => match self.decode(group, step, shared, raw) {
                Ok(node) => return Ok(node),
                Err(error) => (format!("frame {}: {error}", place.frame), false),
            },
            Some(Err(unopened)) => {
                (format!("frame {}: {}", place.frame, unopened.problem), unopened.transient)
            }
            // invariant: every frame that is asked for is answered
            None => (format!("frame {}: it was not read", place.frame), true),
        };
        let object = self.object(place);
        let is_quarantined =
            !transient && self.run.quarantine.add(place.frame, &self.run.inventory.moves.pack(&place.frame));
        if is_quarantined {
            self.run.findings.blame_quarantined(&object, Severity::Damaged, problem);
        } else {
            self.run.findings.blame(&object, Severity::Damaged, problem);
        }
        Err(object)
    }

    fn decode(
        &self,
        group: &Group,
        step: &Step,
        shared: &Shared,
        raw: &[u8],
    ) -> std::result::Result<Node, FormatError> {
        let start = to_usize(shared.place.offset_bytes);
        let bytes = raw.get(start..start.saturating_add(to_usize(shared.place.size_bytes)));
        let bytes = bytes.ok_or_else(|| FormatError::Corrupt {
            what: "map node",
            detail: "it lies outside its frame".into(),
        })?;
        let node = Node::decode(bytes, &self.limits)?;
        group.geometry.check(&node, step.level, step.number)?;
        if node.id(&group.node_key)? == shared.id {
            return Ok(node);
        }
        let detail = "its id does not fit its content".to_owned();
        Err(FormatError::Forged { what: "map node", detail })
    }

    /// Compares the places of a leaf's chunks with what is there, frame by frame.
    async fn leaf(&mut self, shared: &Shared, start: u64, entries: &[LeafEntry]) -> Result<()> {
        let mut frames: BTreeMap<FramePlace, Vec<&LeafEntry>> = BTreeMap::new();
        for entry in entries {
            frames.entry(entry.place.frame).or_default().push(entry);
        }
        let range = |entry: &&LeafEntry| {
            let from = start.saturating_add(u64::from(entry.offset_bytes));
            from..from.saturating_add(u64::from(entry.place.size_bytes))
        };
        for (place, mut chunks) in frames {
            let ranges: Vec<Range<u64>> = chunks.iter().map(range).collect();
            let blamed = match self.check_place(shared, false, &place, &ranges) {
                Some(object) => object,
                None => {
                    self.retain_wrong(&place, &mut chunks).await?;
                    if chunks.is_empty() {
                        continue;
                    }
                    self.misnamed(shared, &place)
                }
            };
            let lost = chunks.iter().map(|entry| (entry.id, range(entry)));
            self.elsewhere.lose(&blamed, &shared.disks, lost);
        }
        if self.elsewhere.is_full() {
            self.elsewhere.judge(self.run, &mut self.tables).await?;
        }
        Ok(())
    }

    /// Leaves those chunks of a frame that by the table of its pack do not lie there; none if the pack was not read.
    async fn retain_wrong(&mut self, place: &FramePlace, chunks: &mut Vec<&LeafEntry>) -> Result<()> {
        let pack = self.run.inventory.moves.pack(&place.frame);
        let table = self.tables.of(self.run, pack).await?;
        let moved = pack != place.frame.pack;
        let is_wrong = |entry: &&LeafEntry| {
            table.as_ref().is_some_and(|table| !table.has(&entry.id, &entry.place, moved))
        };
        chunks.retain(is_wrong);
        Ok(())
    }

    /// Notes what a map says of a sound frame and is not so. The frame is quarantined: who avoids it stores anew what
    /// that map, or the index it was made with, sought there.
    fn misnamed(&mut self, shared: &Shared, place: &FramePlace) -> String {
        let (holder, frame) = (self.object(&shared.place.frame), place.frame);
        let problem = format!(
            "a map in it names chunks of frame {frame} that do not lie there: whoever wrote the map, or the index \
             that it was made with, did not tell the truth; once that is quarantined the next backup of this VM stores \
             them again"
        );
        if self.run.quarantine.add(frame, &self.run.inventory.moves.pack(&frame)) {
            self.run.findings.blame_quarantined(&holder, Severity::Damaged, problem);
        } else {
            self.run.findings.blame(&holder, Severity::Damaged, problem);
        }
        holder
    }

    /// What is to blame when a frame is not there; none when it is. Notes it, and when it is not kept for all its snapshots.
    fn check_place(
        &mut self,
        shared: &Shared,
        metadata: bool,
        place: &FramePlace,
        ranges: &[Range<u64>],
    ) -> Option<String> {
        self.check_uses(shared, place, ranges);
        let pack = self.run.inventory.moves.pack(&place.frame);
        if let Some(fault) = self.run.inventory.fault(self.run.repository, pack) {
            if !self.run.lost.contains(&place.frame, &pack) {
                // In no snapshot's frame set, so nobody looked for its pack yet.
                self.run.lost.add(place.frame);
                self.run.findings.blame(&fault.object, fault.severity, fault.problem);
            }
            return Some(fault.object);
        }
        if self.run.lost.contains(&place.frame, &pack) {
            return Some(self.object(place));
        }
        let problem = self.run.inventory.misplaced(place, metadata)?;
        let holder = self.object(&shared.place.frame);
        self.run.findings.blame(&holder, Severity::Damaged, problem);
        Some(holder)
    }

    /// A frame outside a snapshot's frame set is one that a collector will not keep for it.
    fn check_uses(&mut self, shared: &Shared, place: &FramePlace, ranges: &[Range<u64>]) {
        if shared.is_copied {
            return;
        }
        for (at, disk) in shared.disks.iter() {
            let Some(subject) = self.run.subjects.get(*at) else { continue };
            if subject.uses.as_ref().is_none_or(|uses| uses.contains(&place.frame)) {
                continue;
            }
            let problem = format!(
                "its frame set lacks frame {}, which its maps need: gc would delete live data; \
                 do not run gc, and back this VM up again",
                place.frame
            );
            self.run.findings.blame(&subject.key, Severity::Damaged, problem);
            for range in ranges {
                self.run.findings.cost(&subject.key, (*at, Some(*disk)), Some(range.clone()));
            }
        }
    }

    fn charge(&mut self, object: &str, disks: &[(usize, usize)], ranges: &[Range<u64>]) {
        for (subject, disk) in disks {
            let victim: Affected = (*subject, Some(*disk));
            for range in ranges {
                self.run.findings.cost(object, victim, Some(range.clone()));
            }
        }
    }

    /// The object in which a frame lies, or that should name it.
    fn object(&self, place: &FramePlace) -> String {
        match self.run.frames.pack_key(place) {
            Ok(key) => key,
            Err(_) => format!("pack {}", self.run.frames.pack(&place.frame)),
        }
    }
}

/// Nodes by id, place, and whether they lie below a copy.
type Nodes = BTreeMap<(ContentId, Place, bool), Vec<(usize, usize)>>;

fn share(nodes: &mut Nodes, node: (ContentId, Place, bool), disks: &[(usize, usize)]) {
    nodes.entry(node).or_default().extend_from_slice(disks);
}

fn collect(nodes: Nodes) -> Vec<Shared> {
    let shared = |((id, place, is_copied), disks)| Shared { id, place, is_copied, disks: Arc::new(disks) };
    nodes.into_iter().map(shared).collect()
}
