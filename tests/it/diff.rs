//! What changed between two snapshots, by their maps.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use sancerre_engine::backup::{BackupOptions, backup};
use sancerre_engine::diff::{MemberDiff, diff};
use sancerre_engine::map::MapReader;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::restore::{self, SnapshotReader};
use sancerre_format::id::SessionId;
use sancerre_format::node::Node;
use sancerre_image::Disk;
use sancerre_tests::disk::{MemoryDisk, guest, noise};
use sancerre_tests::repo::{TestRepo, options};

const MIB: usize = 1 << 20;

async fn save(repository: &Repository, disks: &[(&str, &[u8])]) -> SessionId {
    let disk = |bytes: &[u8]| -> Arc<dyn Disk> { MemoryDisk::new(bytes.to_vec()) };
    let disks = disks.iter().map(|(name, bytes)| (*name, disk(bytes))).collect();
    let options: BackupOptions = options("web01", disks);
    backup(repository, options, &Monitor::silent()).await.unwrap().snapshot.unwrap()
}

async fn open(repository: &Repository, session: SessionId) -> SnapshotReader {
    let log = Log::load(repository).await.unwrap();
    restore::open(repository, &log, session).await.unwrap()
}

/// All chunks of a disk, leaf by leaf.
async fn chunks(reader: &SnapshotReader, disk: &str) -> BTreeMap<u64, (u64, [u8; 32])> {
    let map = MapReader::new(reader.frames().clone(), reader.member(disk).unwrap()).unwrap();
    let mut chunks = BTreeMap::new();
    for leaf in 0..map.geometry().leaf_count() {
        let node = map.node(0, leaf).await.unwrap();
        let Some(Node::Leaf(entries)) = node.as_deref().map(|node| &node.node) else { continue };
        let start = leaf * u64::from(map.geometry().leaf_bytes());
        for entry in entries {
            let at = start + u64::from(entry.offset_bytes);
            chunks.insert(at, (u64::from(entry.place.size_bytes), entry.id.0));
        }
    }
    chunks
}

/// The ranges of the chunks that only one of two disks has at their place.
async fn expected(before: &SnapshotReader, after: &SnapshotReader, disk: &str) -> Vec<Range<u64>> {
    let (old, new) = (chunks(before, disk).await, chunks(after, disk).await);
    let alone = |one: &BTreeMap<u64, (u64, [u8; 32])>, other: &BTreeMap<u64, (u64, [u8; 32])>| {
        let differs = |(at, what): &(&u64, &(u64, [u8; 32]))| other.get(*at) != Some(*what);
        let ranges = one.iter().filter(differs).map(|(at, (size, _))| *at..at + size);
        ranges.collect::<Vec<_>>()
    };
    let mut ranges = [alone(&old, &new), alone(&new, &old)].concat();
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// Where nothing is said to have changed the bytes are equal.
fn covers(diff: &MemberDiff, old: &[u8], new: &[u8]) {
    let mut at = 0;
    for range in &diff.changed {
        let (start, end) = (range.start as usize, range.end as usize);
        assert!(old[at..start] == new[at..start], "{at}..{start}");
        at = end;
    }
    assert!(old[at.min(old.len())..] == new[at..], "from {at} on");
}

#[tokio::test]
async fn what_changed_is_exactly_the_chunks_that_differ_and_all_else_is_not_looked_at() {
    let repo = TestRepo::new(800).await;
    let (system, old) = (guest(1, 9 * MIB + 4096), guest(2, 12 * MIB + 777));
    let first = save(&repo.open, &[("system", &system), ("data", &old)]).await;
    let mut new = old.clone();
    new[MIB + 99] ^= 1;
    new[4 * MIB..4 * MIB + 70_000].copy_from_slice(&noise(3, 70_000));
    new[7 * MIB - 200_000..7 * MIB + 200_000].fill(0);
    *new.last_mut().unwrap() ^= 1;
    let second = save(&repo.open, &[("system", &system), ("data", &new)]).await;
    // A writer's key file is enough: no content is opened.
    let writer = repo.as_writer().await;
    let (before, after) = (open(&writer, first).await, open(&writer, second).await);
    repo.store.take_calls();
    let diffs = diff(&before, &after, &Monitor::silent()).await.unwrap();
    let calls = repo.store.take_calls();
    let [system, data] = &diffs[..] else { panic!("{diffs:?}") };
    assert_eq!((system.name.as_str(), system.nodes, &system.changed), ("system", 0, &Vec::new()));
    assert_eq!(data.changed, expected(&before, &after, "data").await);
    covers(data, &old, &new);
    // Two roots, and at most two leaves for each MiB in which something changed: one that held only zeros has none.
    assert!((2..=2 + 2 * 5).contains(&data.nodes), "{}", data.nodes);
    assert!(calls.get <= data.nodes && calls.all() == calls.get, "{calls:?}");

    // What was expected was read too.
    repo.store.take_calls();
    let same = diff(&after, &after, &Monitor::silent()).await.unwrap();
    assert!(same.iter().all(|diff| diff.changed.is_empty() && diff.nodes == 0), "{same:?}");
    assert_eq!(repo.store.take_calls().all(), 0, "equal disks cost no request");
}

#[tokio::test]
async fn disks_of_other_sizes_and_disks_of_only_one_snapshot_are_told() {
    let repo = TestRepo::new(810).await;
    // One leaf, and a tree of leaves: the roots have different levels.
    let (small, large) = (noise(4, 900_000), [noise(4, 900_000), noise(5, 3 * MIB)].concat());
    let gone = noise(6, 65_536);
    let first = save(&repo.open, &[("a", &small), ("b", &large), ("gone", &gone)]).await;
    let second = save(&repo.open, &[("new", &gone), ("a", &large), ("b", &small)]).await;
    let (before, after) = (open(&repo.open, first).await, open(&repo.open, second).await);
    let diffs = diff(&before, &after, &Monitor::silent()).await.unwrap();
    let names: Vec<&str> = diffs.iter().map(|diff| diff.name.as_str()).collect();
    assert_eq!(names, ["new", "a", "b", "gone"]);
    let sizes = |at: usize| (diffs[at].before_bytes, diffs[at].after_bytes);
    assert_eq!(sizes(0), (None, Some(65_536)));
    assert_eq!(diffs[0].changed, [Range { start: 0, end: 65_536 }]);
    assert_eq!(sizes(1), (Some(900_000), Some(large.len() as u64)));
    assert_eq!(sizes(3), (Some(65_536), None));
    assert!(diffs[3].changed.is_empty());
    // All that it grew by changed, and of the rest only the last chunks; of one that shrank nothing lies behind its end.
    let [grown] = &diffs[1].changed[..] else { panic!("{:?}", diffs[1]) };
    assert!(grown.start <= 900_000 && grown.end == large.len() as u64, "{grown:?}");
    assert!(grown.start >= 900_000 - (512 << 10), "{grown:?}");
    assert!(diffs[2].changed.iter().all(|range| range.end <= 900_000), "{:?}", diffs[2]);
    covers(&diffs[2], &large[..900_000], &small);
}
