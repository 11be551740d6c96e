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

use super::nodes::{NodeFrames, Opened};
use super::packs;
use super::report::{Severity, Victim};
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
    let mut walk = Walk {
        limits: NodeLimits { leaf_bytes: run.repository.layout.leaf_bytes },
        frames: NodeFrames::default(),
        tables: Tables::default(),
        run,
    };
    for group in &groups {
        walk.group(group).await?;
    }
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

struct Walk<'a, 'b> {
    run: &'a mut Run<'b>,
    frames: NodeFrames,
    tables: Tables,
    limits: NodeLimits,
}

impl Walk<'_, '_> {
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
                share(&mut nodes, root.id, root.place, &[(*subject, *disk)]);
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
            let wanted: BTreeSet<FramePlace> = nodes
                .iter()
                .filter(|shared| {
                    self.check_place(shared, true, &shared.place.frame, std::slice::from_ref(&range))
                })
                .map(|shared| shared.place.frame)
                .collect();
            let opened = self.frames.open(self.run.repository, &self.run.frames, &wanted).await?;
            for shared in nodes {
                match self.node(group, step, shared, &opened, &range) {
                    Some(Node::Leaf(entries)) => self.leaf(shared, range.start, &entries).await?,
                    Some(Node::Inner { children, .. }) => {
                        for ChildEntry { child, id, place } in children {
                            share(below.entry(child).or_default(), id, place, &shared.disks);
                        }
                    }
                    None => {}
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

    /// Decodes and verifies a node; none when it is lost, which is then noted.
    fn node(
        &mut self,
        group: &Group,
        step: &Step,
        shared: &Shared,
        opened: &HashMap<FramePlace, Opened>,
        range: &Range<u64>,
    ) -> Option<Node> {
        // Not wanted: its loss is noted already.
        let place = &shared.place.frame;
        let (problem, transient) = match opened.get(place)? {
            Ok(raw) => match self.decode(group, step, shared, raw) {
                Ok(node) => return Some(node),
                Err(error) => (format!("frame {}: {error}", place.frame), false),
            },
            Err(unopened) => (format!("frame {}: {}", place.frame, unopened.problem), unopened.transient),
        };
        let object = self.object(place);
        let settled =
            !transient && self.run.quarantine.add(place.frame, &self.run.inventory.moves.pack(&place.frame));
        if settled {
            self.run.findings.blame_settled(&object, Severity::Damaged, problem);
        } else {
            self.run.findings.blame(&object, Severity::Damaged, problem);
        }
        self.charge(&object, &shared.disks, std::slice::from_ref(range));
        None
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
            if !self.check_place(shared, false, &place, &ranges) {
                continue;
            }
            self.retain_wrong(&place, &mut chunks).await?;
            let ranges: Vec<Range<u64>> = chunks.iter().map(range).collect();
            self.misnamed(shared, &place, &ranges);
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
    fn misnamed(&mut self, shared: &Shared, place: &FramePlace, ranges: &[Range<u64>]) {
        if ranges.is_empty() {
            return;
        }
        let (holder, frame) = (self.object(&shared.place.frame), place.frame);
        let problem = format!(
            "a map in it names chunks of frame {frame} that do not lie there: whoever wrote the map, or the index \
             that it was made with, did not tell the truth; once that is quarantined the next backup of this VM stores \
             them again"
        );
        if self.run.quarantine.add(frame, &self.run.inventory.moves.pack(&frame)) {
            self.run.findings.blame_settled(&holder, Severity::Damaged, problem);
        } else {
            self.run.findings.blame(&holder, Severity::Damaged, problem);
        }
        self.charge(&holder, &shared.disks, ranges);
    }

    /// Whether a frame is there and kept for all its snapshots; what is not is noted with the ranges it costs.
    fn check_place(
        &mut self,
        shared: &Shared,
        metadata: bool,
        place: &FramePlace,
        ranges: &[Range<u64>],
    ) -> bool {
        self.check_uses(shared, place, ranges);
        let pack = self.run.inventory.moves.pack(&place.frame);
        if let Some(fault) = self.run.inventory.fault(self.run.repository, pack) {
            if !self.run.lost.contains(&place.frame, &pack) {
                // In no snapshot's frame set, so nobody looked for its pack yet.
                self.run.lost.add(place.frame);
                self.run.findings.blame(&fault.object, fault.severity, fault.problem);
            }
            self.charge(&fault.object, &shared.disks, ranges);
            return false;
        }
        if self.run.lost.contains(&place.frame, &pack) {
            let object = self.object(place);
            self.charge(&object, &shared.disks, ranges);
            return false;
        }
        let Some(problem) = self.run.inventory.misplaced(place, metadata) else { return true };
        let holder = self.object(&shared.place.frame);
        self.run.findings.blame(&holder, Severity::Damaged, problem);
        self.charge(&holder, &shared.disks, ranges);
        false
    }

    /// A frame outside a snapshot's frame set is one that a collector will not keep for it.
    fn check_uses(&mut self, shared: &Shared, place: &FramePlace, ranges: &[Range<u64>]) {
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
            let victim: Victim = (*subject, Some(*disk));
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

type Nodes = BTreeMap<(ContentId, Place), Vec<(usize, usize)>>;

fn share(nodes: &mut Nodes, id: ContentId, place: Place, disks: &[(usize, usize)]) {
    nodes.entry((id, place)).or_default().extend_from_slice(disks);
}

fn collect(nodes: Nodes) -> Vec<Shared> {
    let shared = |((id, place), disks)| Shared { id, place, disks: Arc::new(disks) };
    nodes.into_iter().map(shared).collect()
}
