//! The index: within any memory it says what a plain map would, or less; merging changes nothing but its shape.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;

use sancerre_engine::ErrorKind;
use sancerre_engine::backup::{BackupOptions, BackupReport, backup};
use sancerre_engine::dedup::{ReusePolicy, Word};
use sancerre_engine::index::{Index, Lookup, MergeReport, merge_index, rebuild_index};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::catalogue::{Catalogue, Present};
use sancerre_engine::repository::log::Log;
use sancerre_format::config::ProfileSizes;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::{ContentId, FrameName, FramePlace, Hash, PackName, Place, SessionId};
use sancerre_format::index::IndexEntry;
use sancerre_format::log::Kind;
use sancerre_tests::disk::{MemoryDisk, guest, noise};
use sancerre_tests::model::Model;
use sancerre_tests::repo::{TestRepo, back_up, options, small_layout};
use sancerre_tests::store::Cut;

use crate::block_on;

/// Memory with some hundred KiB left for the index: no segment of more than a few thousand chunks is kept whole.
const TIGHT: u64 = (42 << 20) + (8 << 20) + (8 << 20) + (600 << 10);

type Model32 = BTreeMap<ContentId, Place>;

fn id(number: u32) -> ContentId {
    ContentId(Hash::of(&number.to_le_bytes()).0)
}

/// A place in a pack that is there; `version` tells places of one id apart.
fn place(version: u32, number: u32) -> Place {
    let frame = FrameName { pack: PackName { session: 1, ordinal: 0 }, index: version };
    let frame = FramePlace { frame, offset_bytes: number, sealed_bytes: 560 };
    Place { frame, offset_bytes: number % 4096, size_bytes: 1 + number % 5000 }
}

/// A repository with one pack, to which all forged entries point.
async fn repo_with_pack(seed: u64) -> TestRepo {
    let repo = TestRepo::new(seed).await;
    back_up(&repo.open, "web01", MemoryDisk::new(noise(1, 50_000))).await.unwrap();
    repo
}

/// Overlapping segments, and what they say together.
async fn overlapping(repo: &TestRepo, ranges: &[std::ops::Range<u32>]) -> Model32 {
    let mut model = Model32::new();
    for (version, range) in (1..).zip(ranges) {
        let entries =
            range.clone().map(|number| IndexEntry { id: id(number), place: place(version, number) });
        repo.publish_index(entries.clone().collect()).await;
        // Newer segments win.
        model.extend(entries.map(|entry| (entry.id, entry.place)));
    }
    model
}

fn listening() -> (Monitor, Arc<Mutex<Vec<String>>>) {
    let warnings: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&warnings);
    (Monitor::new(move |event| kept.lock().unwrap().push(event.message)), warnings)
}

async fn load(repo: &TestRepo, budget_bytes: u64, monitor: &Monitor) -> (Index, ReusePolicy) {
    let log = Log::load(&repo.open).await.unwrap();
    let catalogue = Catalogue::load_all(&repo.open, &log).await.unwrap().0;
    let present = Present::load(&repo.open).await.unwrap();
    let usable = ReusePolicy { own: None, avoid: log.avoid(Log::END).unwrap(), catalogue, present };
    let index = Index::load(&repo.open, &log, &usable, budget_bytes, monitor).await.unwrap();
    (index, usable)
}

/// What the index says of these ids, and how many it had to read pages for.
async fn ask(repo: &TestRepo, index: &Index, usable: &ReusePolicy, ids: &[ContentId]) -> (Model32, usize) {
    let mut said = Model32::new();
    let mut open = Vec::new();
    for id in ids {
        match index.find(id) {
            Lookup::Known(place) | Lookup::Said(Word { place, .. }) => {
                said.insert(*id, place);
            }
            Lookup::Unknown => {}
            Lookup::Perhaps => open.push(*id),
        }
    }
    let found = index.resolve(&repo.open, usable, &Monitor::silent(), &open).await.unwrap();
    // The first of each id, as a backup takes them.
    said.extend(found.into_iter().rev().map(|(id, word)| (id, word.place)));
    (said, open.len())
}

async fn merge(repo: &TestRepo) -> Option<MergeReport> {
    let mut log = Log::load(&repo.open).await.unwrap();
    merge_index(&repo.open, &mut log, &Monitor::silent()).await.unwrap()
}

#[tokio::test]
async fn within_any_memory_it_says_what_a_plain_map_would_or_less() {
    let repo = repo_with_pack(100).await;
    let model = overlapping(&repo, &[0..20_000, 10_000..30_000, 29_000..29_010, 5000..6000]).await;
    let ids: Vec<ContentId> = (0..40_000).map(id).collect();
    let missing = ids.len() - model.len();
    for (budget_bytes, everything) in
        [(64 << 20, true), (400 << 10, true), (60 << 10, true), (20 << 10, false), (0, false)]
    {
        let (index, usable) = load(&repo, budget_bytes, &Monitor::silent()).await;
        let (said, open) = ask(&repo, &index, &usable, &ids).await;
        let wrong: Vec<_> = said.iter().filter(|(id, place)| model.get(id) != Some(place)).collect();
        if everything {
            assert_eq!(said, model, "{budget_bytes} bytes");
            assert!(open <= model.len() + missing / 100, "{open} of {missing} unknown ids need a page");
        } else {
            // An older place, where the newer segment did not fit.
            assert!(wrong.iter().all(|(id, _)| model.contains_key(id)), "{budget_bytes} bytes");
            assert!(said.len() < model.len());
        }
    }
}

#[tokio::test]
async fn merged_it_says_the_same_and_asks_less() {
    let repo = repo_with_pack(101).await;
    let ranges: Vec<_> = (0..20).map(|part| part * 900..part * 900 + 1000).collect();
    let model = overlapping(&repo, &ranges).await;
    let ids: Vec<ContentId> = (0..30_000).map(id).collect();
    // The one segment of the backup that made the pack is merged too.
    let report = merge(&repo).await.unwrap();
    assert_eq!((report.replaced, report.segments), (21, 1));
    for budget_bytes in [64 << 20, 30 << 10] {
        let (index, usable) = load(&repo, budget_bytes, &Monitor::silent()).await;
        assert_eq!(index.runs(), 1);
        assert_eq!(ask(&repo, &index, &usable, &ids).await.0, model, "{budget_bytes} bytes");
    }
    assert_eq!(merge(&repo).await, None, "once is enough");
}

/// More entries than a segment takes: two segments of one run, of which the last one covers.
#[tokio::test]
async fn a_large_merge_is_a_row_of_segments() {
    let repo = repo_with_pack(102).await;
    let model = overlapping(&repo, &[0..320_000, 300_000..600_000]).await;
    let report = merge(&repo).await.unwrap();
    assert_eq!((report.replaced, report.segments), (3, 2));
    assert!(report.entries >= 600_000);
    let (monitor, warnings) = listening();
    let (index, usable) = load(&repo, 2 << 20, &monitor).await;
    assert_eq!(index.runs(), 1);
    let ids: Vec<ContentId> = (0..700_000).step_by(37).map(id).collect();
    let (said, open) = ask(&repo, &index, &usable, &ids).await;
    let expected: Model32 = ids.iter().filter_map(|id| Some((*id, *model.get(id)?))).collect();
    assert_eq!(said, expected);
    assert!(open <= expected.len() + (ids.len() - expected.len()) / 50, "{open}");
    assert_eq!(*warnings.lock().unwrap(), Vec::<String>::new(), "1.4 bytes a chunk fit into 2 MiB");
}

/// What is avoided does not come back through a merge; an older copy that may be used takes its place.
#[tokio::test]
async fn a_merge_leaves_out_what_is_avoided() {
    let repo = repo_with_pack(103).await;
    let model = overlapping(&repo, &[0..3000, 2000..4000, 5000..5010]).await;
    let mut set = FrameSet::default();
    set.insert(place(2, 0).frame.frame);
    repo.append(Kind::Quarantine { reason: "test".into() }, &set.encode().unwrap()).await;
    let expected: Model32 = (0..3000)
        .map(|number| (id(number), place(1, number)))
        .chain((5000..5010).map(|number| (id(number), model[&id(number)])))
        .collect();
    let ids: Vec<ContentId> = (0..6000).map(id).collect();
    for round in 0..2 {
        let (index, usable) = load(&repo, 300 << 10, &Monitor::silent()).await;
        assert_eq!(ask(&repo, &index, &usable, &ids).await.0, expected, "round {round}");
        assert_eq!(merge(&repo).await.is_some(), round == 0);
    }
}

/// One page of a large segment is damaged, or gone with all the pages: its chunks are unknown, no others, and no
/// place is wrong.
#[tokio::test]
async fn damaged_pages_cost_deduplication_only() {
    for cut in [false, true] {
        let repo = repo_with_pack(104).await;
        let model = overlapping(&repo, std::slice::from_ref(&(0..80_000))).await;
        let key = repo.keys_with("/index/0000000000000002-").await.remove(0);
        let mut bytes = repo.object(&key).await;
        let at = bytes.len() - 70_000;
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1;
        }
        repo.tamper(&key, bytes).await;
        let ids: Vec<ContentId> = (0..81_000).map(id).collect();
        let (monitor, warnings) = listening();
        let (index, usable) = load(&repo, 200 << 10, &monitor).await;
        let open: Vec<ContentId> =
            ids.iter().filter(|id| index.find(id) == Lookup::Perhaps).copied().collect();
        assert!(open.len() >= 80_000);
        let said = index.resolve(&repo.open, &usable, &monitor, &open).await;
        let warnings = warnings.lock().unwrap().clone();
        match said {
            // A read past the end is a failure of the store, not damage.
            Err(error) => assert!(cut && error.kind() == ErrorKind::Failed, "{error}"),
            Ok(said) => {
                assert!(said.iter().all(|(id, word)| model[id] == word.place));
                assert!(said.len() > 77_000 && said.len() < 80_000, "{}", said.len());
                assert_eq!(warnings.len(), 1, "{warnings:?}");
                assert!(
                    warnings[0].contains(&key) && warnings[0].contains("`rebuild_index`"),
                    "{warnings:?}"
                );
                let again = index.resolve(&repo.open, &usable, &Monitor::silent(), &open).await.unwrap();
                assert!(again.is_empty(), "a damaged segment is left alone");
            }
        }
    }
}

/// Chunks of 4 KiB, so that a small disk has thousands.
async fn repo_of_blocks(seed: u64) -> TestRepo {
    let disk = ProfileSizes { min_bytes: 4096, target_bytes: 4096, max_bytes: 4096 };
    TestRepo::with_layout(seed, sancerre_format::config::Layout { disk, ..small_layout() }).await
}

async fn back_up_tight(repo: &TestRepo, vm: &str, bytes: &[u8], monitor: &Monitor) -> BackupReport {
    let disk = MemoryDisk::new(bytes.to_vec());
    let options = BackupOptions { memory_bytes: TIGHT, ..options(vm, vec![("disk0", disk)]) };
    backup(&repo.open, options, monitor).await.unwrap()
}

/// A machine that is known only through pages: nothing is stored again, and requests are few. What merely seems known
/// is read again and stored.
#[tokio::test]
async fn a_backup_finds_known_chunks_through_pages() {
    let repo = repo_of_blocks(105).await;
    let (mut model, mut bytes) = (Model::default(), noise(3, 16 << 20));
    let first = back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
    assert_eq!(first.members[0].new_chunks, 4096);
    repo.store.take_calls();
    let (monitor, warnings) = listening();
    let second = back_up_tight(&repo, "web02", &bytes, &monitor).await;
    let gets = repo.store.take_calls().get;
    assert_eq!((second.new_bytes, second.parent), (0, None));
    assert_eq!(*warnings.lock().unwrap(), Vec::<String>::new());
    assert!(gets < 16 * 4 + 30, "{gets} reads: of four pages, at most once a region");
    // New content: one chunk in 512 seems known, and is stored all the same.
    let fresh = noise(4, 16 << 20);
    bytes[8 << 20..].copy_from_slice(&fresh[8 << 20..]);
    let third = back_up_tight(&repo, "web03", &bytes, &monitor).await;
    assert_eq!(third.new_bytes, 8 << 20);
    let fourth = back_up_tight(&repo, "web04", &bytes, &monitor).await;
    assert_eq!(fourth.new_bytes, 0);
    model.add_disk(second.snapshot.unwrap(), &noise(3, 16 << 20));
    model.add_disk(third.snapshot.unwrap(), &bytes);
    model.add_disk(fourth.snapshot.unwrap(), &bytes);
    model.check(&repo.open).await;
}

/// So many nights that the segments are merged by the way.
async fn nights(repo: &TestRepo, model: &mut Model, count: usize) -> Vec<u8> {
    let mut bytes = guest(5, 2 << 20);
    for night in 0..count {
        bytes[night * 80_000] ^= 0x55;
        let report = back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
        model.add_disk(report.snapshot.unwrap(), &bytes);
    }
    bytes
}

async fn last_entry(repo: &TestRepo) -> (SessionId, bool) {
    let log = Log::load(&repo.open).await.unwrap();
    let entry = log.entry(log.highest()).unwrap();
    let merged = matches!(entry.entry.as_ref().unwrap().fields.kind, Kind::Index);
    (entry.session, merged)
}

#[tokio::test(start_paused = true)]
async fn a_backup_merges_small_segments_when_they_are_many() {
    let (repo, mut model) = (TestRepo::new(106).await, Model::default());
    nights(&repo, &mut model, 16).await;
    assert!(!last_entry(&repo).await.1);
    let segments = repo.keys_with("/index/").await.len();
    let bytes = nights(&repo, &mut model, 1).await;
    assert!(last_entry(&repo).await.1, "the seventeenth");
    assert_eq!(repo.keys_with("/index/").await.len(), segments + 2, "its own and the merged one");
    let (index, _) = load(&repo, 64 << 20, &Monitor::silent()).await;
    assert_eq!(index.runs(), 1);
    // Another machine with the same content knows all of it, with the old segments gone too.
    let old: Vec<String> = repo.keys_with("/index/").await.into_iter().take(segments + 1).collect();
    repo.lose(&old).await;
    let other = back_up(&repo.open, "web02", MemoryDisk::new(bytes)).await.unwrap();
    assert_eq!((other.new_bytes, other.parent), (0, None));
    model.check(&repo.open).await;
}

/// Whatever call of a merge is the last: nothing is hidden, and the next one ends it.
#[test]
fn a_merge_may_die_anywhere() {
    for cut in [Cut::Before, Cut::After] {
        let reached = (0..).take_while(|call| block_on(crash(*call, cut))).count();
        assert!(reached > 10, "{reached}");
    }
}

async fn crash(call: u64, cut: Cut) -> bool {
    let repo = repo_with_pack(107).await;
    let model = overlapping(&repo, &[0..500, 400..900, 800..1300]).await;
    let mut log = Log::load(&repo.open).await.unwrap();
    repo.store.crash_at(call, cut);
    let merged = merge_index(&repo.open, &mut log, &Monitor::silent()).await;
    let crashed = repo.store.crashed();
    repo.store.recover();
    let ids: Vec<ContentId> = (0..2000).map(id).collect();
    let (index, usable) = load(&repo, 64 << 20, &Monitor::silent()).await;
    assert_eq!(ask(&repo, &index, &usable, &ids).await.0, model, "call {call}, {cut:?}");
    assert!(merged.is_ok() || crashed);
    merge(&repo).await;
    let (index, usable) = load(&repo, 64 << 20, &Monitor::silent()).await;
    assert_eq!((index.runs(), ask(&repo, &index, &usable, &ids).await.0), (1, model));
    crashed
}

/// The same for a rebuild, which reads packs instead.
#[test]
fn a_rebuild_may_die_anywhere() {
    for cut in [Cut::Before, Cut::After] {
        let reached = (0..).take_while(|call| block_on(crash_rebuild(*call, cut))).count();
        assert!(reached > 10, "{reached}");
    }
}

async fn crash_rebuild(call: u64, cut: Cut) -> bool {
    let (repo, mut model) = (TestRepo::new(108).await, Model::default());
    let bytes = nights(&repo, &mut model, 2).await;
    repo.store.crash_at(call, cut);
    let rebuilt = rebuild_index(&repo.open, &Monitor::silent()).await;
    let crashed = repo.store.crashed();
    repo.store.recover();
    assert!(rebuilt.is_ok() || crashed);
    let options = options("web02", vec![("disk0", MemoryDisk::new(bytes))]);
    let options = BackupOptions { dry_run: true, ..options };
    let known = backup(&repo.open, options, &Monitor::silent()).await.unwrap();
    assert_eq!(known.new_bytes, 0, "call {call}, {cut:?}");
    crashed
}
