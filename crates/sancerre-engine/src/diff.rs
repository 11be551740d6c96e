//! What changed between two snapshots: their maps side by side, and nothing else. Content is never opened, so a writer's
//! key is enough; where both maps have the same node, what lies below it is not even fetched.

use std::collections::BTreeMap;
use std::ops::Range;

use sancerre_format::FormatError;
use sancerre_format::id::{ContentId, Place};
use sancerre_format::names::Title;
use sancerre_format::node::{Geometry, LeafEntry, Node};
use sancerre_format::outcome::{Member, MemberKind, Root};

use crate::error::{Error, Result};
use crate::map::MapReader;
use crate::monitor::Monitor;
use crate::restore::SnapshotReader;

/// One disk, stream or file of two snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberDiff {
    /// What it is called, in the later snapshot if it is there.
    pub name: Title,
    /// What it is.
    pub kind: MemberKind,
    /// Its size in the first snapshot; none if it was not there.
    pub before_bytes: Option<u64>,
    /// Its size in the second one; none if it is not there any more.
    pub after_bytes: Option<u64>,
    /// Where it changed, as offsets in the second one: ascending, disjoint and not touching. Whole chunks, what it grew by,
    /// and what either snapshot could not read.
    pub changed: Vec<Range<u64>>,
    /// Nodes of maps that had to be looked at.
    pub nodes: u64,
}

impl MemberDiff {
    /// How many bytes of it changed.
    pub fn changed_bytes(&self) -> u64 {
        self.changed.iter().fold(0, |sum, range| sum.saturating_add(range.end.saturating_sub(range.start)))
    }

    fn gone(member: &Member) -> Self {
        Self {
            name: member.name.clone(),
            kind: member.kind.clone(),
            before_bytes: Some(member.size_bytes),
            after_bytes: None,
            changed: Vec::new(),
            nodes: 0,
        }
    }

    fn new(member: &Member) -> Self {
        Self {
            before_bytes: None,
            after_bytes: Some(member.size_bytes),
            changed: joined(std::iter::once(0..member.size_bytes).collect(), member.size_bytes),
            ..Self::gone(member)
        }
    }
}

/// All that two snapshots have, in the order of the second one; what only the first one has comes last.
///
/// Errors: as [`member`].
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.in"));
/// # #[tokio::main] async fn main() -> Shown {
/// # let scene = Scene::new().await?;
/// # let (repository, monitor) = (scene.by_host().await?, &scene.monitor);
/// # save(&repository).await?;
/// # save(&repository).await?;
/// use sancerre_engine::{diff, open_snapshot};
///
/// let before = open_snapshot(&repository, "web01:latest~1", monitor).await?;
/// let after = open_snapshot(&repository, "web01:latest", monitor).await?;
/// assert_eq!(diff(&before, &after, monitor).await?[0].changed_bytes(), 0);
/// # Ok(()) }
/// ```
pub async fn diff(
    before: &SnapshotReader,
    after: &SnapshotReader,
    monitor: &Monitor,
) -> Result<Vec<MemberDiff>> {
    let mut diffs = Vec::new();
    for new in &after.body().members {
        diffs.push(match before.member(new.name.as_str()) {
            Some(old) => member((before, old), (after, new), monitor).await?,
            None => MemberDiff::new(new),
        });
    }
    let is_gone = |old: &&Member| after.member(old.name.as_str()).is_none();
    diffs.extend(before.body().members.iter().filter(is_gone).map(MemberDiff::gone));
    Ok(diffs)
}

/// Two members, whatever they are called.
///
/// Errors: [`Error::Usage`] for snapshots of different generations of the zone's keys, under which equal content has
/// different ids; what keeps a map from being read.
pub async fn member(
    (before, old): (&SnapshotReader, &Member),
    (after, new): (&SnapshotReader, &Member),
    monitor: &Monitor,
) -> Result<MemberDiff> {
    let generation = |reader: &SnapshotReader| reader.frames().repository().keys.generation();
    if generation(before) != generation(after) {
        return Err(Error::Usage(
            "the zone's keys were changed between these two snapshots, so their maps cannot be compared; compare two that \
             were made with the same keys, or restore both"
                .into(),
        ));
    }
    let old_map = MapReader::new(before.frames().clone(), old)?;
    let new_map = MapReader::new(after.frames().clone(), new)?;
    let (mut changed, nodes) = walk(&old_map, &new_map, monitor).await?;
    // Zeros there say nothing of what stands on the disk.
    changed.extend(old.unreadable()?.ranges().iter().chain(new.unreadable()?.ranges()).cloned());
    changed.push(old.size_bytes..new.size_bytes);
    Ok(MemberDiff {
        name: new.name.clone(),
        kind: new.kind.clone(),
        before_bytes: Some(old.size_bytes),
        after_bytes: Some(new.size_bytes),
        changed: joined(changed, new.size_bytes),
        nodes,
    })
}

/// What one of two maps has at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Zeros.
    Nothing,
    /// A node of the level that is looked at.
    Node(ContentId, Place),
    /// The root of a map that is lower than the other: all of it lies below the first child, and again, down to its level.
    Below(Root),
}

/// What lies below a side.
enum Below {
    Chunks(Vec<LeafEntry>),
    Nodes(BTreeMap<u8, Side>),
}

impl Side {
    fn of(root: Option<&Root>, level: u8) -> Self {
        match root {
            None => Self::Nothing,
            Some(root) if root.level >= level => Self::Node(root.id, root.place),
            Some(root) => Self::Below(*root),
        }
    }

    /// Equal ids are equal content, wherever the nodes lie.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nothing, Self::Nothing) => true,
            (Self::Node(one, _), Self::Node(other, _)) => one == other,
            _ => false,
        }
    }

    async fn open(&self, map: &MapReader, level: u8, number: u64) -> Result<Below> {
        let (id, place) = match self {
            Self::Nothing => return Ok(empty(level)),
            Self::Below(root) => {
                let below = Self::of(Some(root), level.saturating_sub(1));
                return Ok(Below::Nodes(BTreeMap::from([(0, below)])));
            }
            Self::Node(id, place) => (id, place),
        };
        Ok(match &map.read(level, number, id, place).await?.node {
            Node::Leaf(entries) => Below::Chunks(entries.clone()),
            Node::Inner { children, .. } => Below::Nodes(
                children.iter().map(|child| (child.child, Self::Node(child.id, child.place))).collect(),
            ),
        })
    }
}

fn empty(level: u8) -> Below {
    match level {
        0 => Below::Chunks(Vec::new()),
        _ => Below::Nodes(BTreeMap::new()),
    }
}

/// Where two maps differ, in order, and how many of their nodes were opened.
async fn walk(old: &MapReader, new: &MapReader, monitor: &Monitor) -> Result<(Vec<Range<u64>>, u64)> {
    let levels = old.geometry().levels().max(new.geometry().levels());
    let mut changed: Vec<Range<u64>> = Vec::new();
    let mut nodes = 0_u64;
    let mut waiting = vec![(levels, 0, Side::of(old.root(), levels), Side::of(new.root(), levels))];
    while let Some((level, number, one, other)) = waiting.pop() {
        if one.is_same(&other) {
            continue;
        }
        monitor.check()?;
        let opened = [one, other].iter().filter(|side| matches!(side, Side::Node(..))).count();
        nodes = nodes.saturating_add(sancerre_format::bytes::to_u64(opened));
        let below = futures::try_join!(one.open(old, level, number), other.open(new, level, number))?;
        match below {
            (Below::Chunks(one), Below::Chunks(other)) => {
                let start = number.saturating_mul(u64::from(new.geometry().leaf_bytes()));
                add(&mut changed, start, &one, &other);
            }
            (Below::Nodes(one), Below::Nodes(other)) => {
                let mut children: Vec<u8> = one.keys().chain(other.keys()).copied().collect();
                children.sort_unstable();
                children.dedup();
                let side = |of: &BTreeMap<u8, Side>, child| of.get(child).copied().unwrap_or(Side::Nothing);
                // The last one pushed is looked at first.
                waiting.extend(children.iter().rev().map(|child| {
                    let number = Geometry::child_number(number, *child);
                    (level.saturating_sub(1), number, side(&one, child), side(&other, child))
                }));
            }
            _ => {
                let detail = format!("nodes of level {level} have different heights");
                return Err(Error::object("map")(FormatError::Corrupt { what: "map", detail }));
            }
        }
    }
    Ok((changed, nodes))
}

/// Adds the chunks that only one of two leaves has at their place.
fn add(changed: &mut Vec<Range<u64>>, start: u64, one: &[LeafEntry], other: &[LeafEntry]) {
    let mut ranges: Vec<Range<u64>> =
        alone(one, other).chain(alone(other, one)).map(|entry| extent(start, entry)).collect();
    ranges.sort_unstable_by_key(|range| range.start);
    for range in ranges {
        match changed.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => changed.push(range),
        }
    }
}

fn alone<'a>(entries: &'a [LeafEntry], others: &'a [LeafEntry]) -> impl Iterator<Item = &'a LeafEntry> {
    let what = |entry: &LeafEntry| (entry.id, entry.place.size_bytes);
    entries.iter().filter(move |entry| {
        let found = others.binary_search_by_key(&entry.offset_bytes, |other| other.offset_bytes);
        found.ok().and_then(|at| others.get(at)).is_none_or(|other| what(other) != what(entry))
    })
}

fn extent(start: u64, entry: &LeafEntry) -> Range<u64> {
    let from = start.saturating_add(u64::from(entry.offset_bytes));
    from..from.saturating_add(u64::from(entry.place.size_bytes))
}

/// In order, joined where they touch, and inside of so many bytes.
fn joined(mut ranges: Vec<Range<u64>>, size_bytes: u64) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    let clipped = ranges.into_iter().map(|range| range.start..range.end.min(size_bytes));
    for range in clipped.filter(|range| range.start < range.end) {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}
