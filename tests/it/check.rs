//! What check finds when single objects are removed, cut short, changed or swapped; healing; a rebuilt index.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use sancerre_engine::StoreError;
use sancerre_engine::backup::BackupReport;
use sancerre_engine::check::{CheckOptions, CheckReport, Finding, ReadData, Severity, check};
use sancerre_engine::index::rebuild_index;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::{Log, open_body};
use sancerre_engine::repository::session::Session;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::{PackName, Place, SessionId};
use sancerre_format::index::IndexEntry;
use sancerre_format::pack::{Pack, PackKind};
use sancerre_format::seal::{UnitKind, UnitName, seal_raw};
use sancerre_tests::disk::{MemoryDisk, guest};
use sancerre_tests::repo::{TestRepo, back_up, name, restore_bytes, zone};

const SIZE: usize = 6 << 20;

/// Two VMs; of the first one two snapshots, the second of which shares most of the first.
struct Scene {
    repo: TestRepo,
    web: Vec<u8>,
    snapshots: Vec<BackupReport>,
}

async fn scene(seed: u64) -> Scene {
    let repo = TestRepo::new(seed).await;
    let web = guest(seed, SIZE);
    let mut changed = web.clone();
    changed[3 << 20..(3 << 20) + 70_000].fill(0x5a);
    let mut snapshots = Vec::new();
    for (vm, bytes) in [("web01", web.clone()), ("web01", changed), ("db01", guest(seed + 100, SIZE))] {
        snapshots.push(back_up(&repo.open, vm, MemoryDisk::new(bytes)).await.unwrap());
    }
    Scene { repo, web, snapshots }
}

async fn run(repository: &Repository, read_data: ReadData, quarantine: bool) -> CheckReport {
    check(repository, &CheckOptions { read_data, quarantine }, &Monitor::silent()).await.unwrap()
}

impl Scene {
    async fn keys(&self, folder: &str) -> Vec<String> {
        let prefix = Path::from(folder);
        let listed: Vec<_> = self.repo.memory.list(Some(&prefix)).try_collect().await.unwrap();
        let mut keys: Vec<String> = listed.into_iter().map(|meta| meta.location.to_string()).collect();
        keys.sort();
        keys
    }

    async fn get(&self, key: &str) -> Vec<u8> {
        self.repo.memory.get(&Path::from(key)).await.unwrap().bytes().await.unwrap().to_vec()
    }

    /// Writes past the engine, as decay or an attacker does.
    async fn set(&self, key: &str, bytes: Vec<u8>) {
        self.repo.memory.put(&Path::from(key), PutPayload::from(Bytes::from(bytes))).await.unwrap();
    }

    async fn remove(&self, key: &str) {
        self.repo.memory.delete(&Path::from(key)).await.unwrap();
    }

    /// Snapshots and the bytes of them that a finding costs.
    fn costs(&self, finding: &Finding) -> Vec<(usize, u64)> {
        let place = |cost: &sancerre_engine::check::Cost| {
            let place = self.snapshots.iter().position(|report| report.snapshot == Some(cost.snapshot));
            let bytes = cost.ranges.iter().map(|range| range.end - range.start).sum();
            assert!(cost.ranges.is_sorted_by(|a, b| a.end < b.start), "not merged: {:?}", cost.ranges);
            (place.unwrap(), bytes)
        };
        finding.costs.iter().map(place).collect()
    }
}

fn of<'a>(report: &'a CheckReport, object: &str) -> &'a Finding {
    let found = report.findings.iter().find(|finding| finding.object == object);
    found.unwrap_or_else(|| panic!("nothing about {object}: {:#?}", report.findings))
}

#[tokio::test]
async fn a_sound_repository_has_no_findings() {
    let scene = scene(1).await;
    let report = run(&scene.repo.open, ReadData::All, true).await;
    assert_eq!(report.findings, [], "{report:#?}");
    assert_eq!((report.snapshots, report.disks, report.quarantined), (3, 3, None));
    let packs = scene.keys("zones/default/packs").await.len() as u64;
    assert_eq!((report.packs, report.read_packs, report.read_bytes), (packs, packs, report.pack_bytes));
    assert!(report.content_opened && packs > 4, "{report:?}");

    let writer = run(&scene.repo.as_writer().await, ReadData::All, false).await;
    assert_eq!(writer.findings, []);
    assert!(!writer.content_opened && writer.read_packs == packs);

    let mut parts = 0;
    for part in 1..=3 {
        parts += run(&scene.repo.open, ReadData::Part { part, of: 3 }, false).await.read_packs;
    }
    assert_eq!(parts, packs);
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Harm {
    Remove,
    Truncate,
    Flip,
    Swap,
}

/// Every object of a folder, harmed in every way, is named; the check goes on to its end; sound again, all is well.
async fn harm_all(scene: &Scene, folder: &str, expect: impl Fn(&str, Harm, &CheckReport)) {
    let keys = scene.keys(folder).await;
    assert!(keys.len() > 1, "{folder}: {keys:?}");
    for (at, key) in keys.iter().enumerate() {
        let sound = scene.get(key).await;
        for harm in [Harm::Remove, Harm::Truncate, Harm::Flip, Harm::Swap] {
            match harm {
                Harm::Remove => scene.remove(key).await,
                Harm::Truncate => scene.set(key, sound[..sound.len() / 2].to_vec()).await,
                Harm::Flip => {
                    let mut bytes = sound.clone();
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    scene.set(key, bytes).await;
                }
                Harm::Swap => scene.set(key, scene.get(&keys[(at + 1) % keys.len()]).await).await,
            }
            let report = run(&scene.repo.open, ReadData::All, false).await;
            assert!(report.snapshots > 0, "{key} {harm:?}: it did not go on");
            expect(key, harm, &report);
            scene.set(key, sound.clone()).await;
        }
    }
    assert_eq!(run(&scene.repo.open, ReadData::All, false).await.findings, []);
}

fn severity(harm: Harm) -> Severity {
    if harm == Harm::Remove { Severity::Missing } else { Severity::Damaged }
}

#[tokio::test]
async fn a_harmed_pack_costs_ranges_of_the_snapshots_that_need_it() {
    let scene = scene(2).await;
    let mut charged = std::collections::BTreeSet::new();
    let sizes: Vec<u64> = scene.snapshots.iter().map(|report| report.size_bytes).collect();
    let charged_of = std::cell::RefCell::new(&mut charged);
    harm_all(&scene, "zones/default/packs", |key, harm, report| {
        let finding = of(report, key);
        assert_eq!(finding.severity, severity(harm), "{key} {harm:?}: {finding:?}");
        let costs = scene.costs(finding);
        assert!(costs.iter().all(|(at, bytes)| *bytes > 0 && *bytes <= sizes[*at]), "{costs:?}");
        if harm != Harm::Flip {
            assert!(!costs.is_empty(), "{key} {harm:?}: {finding:?}");
        }
        let writer = u64::from_str_radix(&key["zones/default/packs/".len()..][..16], 16).unwrap();
        for (at, _) in &costs {
            assert!(scene.snapshots[*at].snapshot.unwrap().number >= writer, "{key} costs an older snapshot");
            charged_of.borrow_mut().insert((writer, *at));
        }
    })
    .await;
    let first = scene.snapshots[0].snapshot.unwrap().number;
    assert!(charged.contains(&(first, 0)) && charged.contains(&(first, 1)), "{charged:?}");
    assert!(!charged.contains(&(first, 2)), "the other VM shares nothing: {charged:?}");
}

#[tokio::test]
async fn harmed_lists_outcomes_and_log_entries_cost_their_snapshots() {
    let scene = scene(3).await;
    let number = |key: &str| u64::from_str_radix(&key.rsplit_once('/').unwrap().1[..16], 16).unwrap();
    harm_all(&scene, "zones/default/lists", |key, harm, report| {
        let finding = of(report, key);
        assert_eq!(finding.severity, severity(harm), "{finding:?}");
        // The packs are there, and say themselves what they are.
        assert_eq!(scene.costs(finding), [], "{finding:?}");
    })
    .await;
    harm_all(&scene, "zones/default/log", |key, harm, report| {
        let finding = of(report, key);
        assert_eq!(finding.severity, severity(harm), "{finding:?}");
        // The outcome of that session stands for it. What stood there the entry above says, and of the newest its outcome.
        assert_eq!(scene.costs(finding), [], "{finding:?}");
    })
    .await;
    harm_all(&scene, "zones/default/outcome", |key, harm, report| {
        let finding = report.findings.iter().find(|finding| finding.object == key);
        // An outcome that is gone is known only from a session that names it as its parent.
        if harm == Harm::Remove && number(key) != 1 {
            assert!(finding.is_none());
            return;
        }
        let finding = finding.unwrap();
        assert_eq!(finding.severity, severity(harm), "{finding:?}");
        assert_eq!(scene.costs(finding), [(number(key) as usize - 1, 0)]);
    })
    .await;
}

#[tokio::test]
async fn harmed_segments_and_keys_are_named_and_cost_nothing() {
    let scene = scene(4).await;
    harm_all(&scene, "zones/default/index", |key, harm, report| {
        if harm == Harm::Remove {
            assert_eq!(report.findings, []);
            return;
        }
        let finding = of(report, key);
        assert_eq!((finding.severity, finding.costs.len()), (Severity::Damaged, 0));
        assert!(finding.problem.contains("`rebuild_index`"), "{}", finding.problem);
    })
    .await;
    for key in scene.keys("keys").await {
        let sound = scene.get(&key).await;
        scene.remove(&key).await;
        let folder = format!("{}/", key.rsplit_once('/').unwrap().0);
        let report = run(&scene.repo.open, ReadData::No, false).await;
        let named = |finding: &&Finding| finding.object == key || finding.object == folder;
        let finding = report.findings.iter().find(named);
        assert_eq!(finding.map(|finding| finding.severity), Some(Severity::Missing), "{key}");
        scene.set(&key, sound[..100].to_vec()).await;
        assert_eq!(of(&run(&scene.repo.open, ReadData::No, false).await, &key).severity, Severity::Damaged);
        scene.set(&key, sound).await;
    }
    scene.set("zones/default/packs/readme", b"hello".to_vec()).await;
    scene.set("keys/surprise", b"hello".to_vec()).await;
    let report = run(&scene.repo.open, ReadData::No, false).await;
    for stranger in ["zones/default/packs/readme", "keys/surprise"] {
        assert_eq!(of(&report, stranger).severity, Severity::Note);
    }
    assert_eq!(report.worst(), Some(Severity::Note));
}

/// Commits a snapshot with the maps of another one, and a frame set that lacks one pack.
async fn commit_with_too_few_frames(scene: &Scene) -> (SessionId, PackName) {
    let repository = &scene.repo.open;
    let mut log = Log::load(repository).await.unwrap();
    let (body, uses) = {
        let snapshot = log.latest(&name("db01")).unwrap();
        (open_body(repository, &snapshot).unwrap(), snapshot.uses().unwrap())
    };
    let left_out = uses.packs().next().unwrap();
    let mut fewer = FrameSet::default();
    for pack in uses.packs().filter(|pack| *pack != left_out) {
        fewer.insert_pack(pack);
    }
    let session = Session::announce(repository, &mut log, &name("db01"), None).await.unwrap();
    let unit = UnitName { kind: UnitKind::Body, session: session.id, a: 0, b: 0 };
    let root = repository.keys.metadata_root(&session.id).unwrap();
    let sealed = seal_raw(&root, &unit, 3, body.encode().as_bytes()).unwrap();
    let manifest = session.manifest(repository);
    session.commit(repository, &mut log, &manifest, &fewer.encode().unwrap(), &sealed).await.unwrap();
    (session.id, left_out)
}

#[tokio::test]
async fn a_frame_set_that_is_too_small_is_found_before_gc_acts_on_it() {
    let scene = scene(9).await;
    let (session, left_out) = commit_with_too_few_frames(&scene).await;
    let report = run(&scene.repo.open, ReadData::No, false).await;
    let finding = of(&report, &sancerre_format::names::outcome(&zone(), &session));
    assert_eq!(finding.severity, Severity::Damaged);
    assert!(finding.problem.contains(&format!("frame {left_out}/")), "{}", finding.problem);
    assert!(finding.problem.contains("gc would delete"), "{}", finding.problem);
    assert_eq!(finding.costs.len(), 1);
    assert_eq!((finding.costs[0].snapshot, finding.costs[0].ranges.is_empty()), (session, false));
    assert_eq!(report.findings.len(), 1, "the snapshot it copies is sound: {:#?}", report.findings);
}

#[tokio::test]
async fn packs_of_sessions_that_died_are_told_with_their_size() {
    let scene = scene(10).await;
    let last = scene.snapshots[2].snapshot.unwrap();
    let packs = scene.keys(&format!("zones/default/packs/{:016x}", last.number)).await;
    let mut bytes = 0;
    for key in &packs {
        bytes += scene.get(key).await.len();
    }
    // The backup died before its manifest; nobody names it as a parent.
    scene.remove(&sancerre_format::names::outcome(&zone(), &last)).await;
    let report = run(&scene.repo.open, ReadData::All, false).await;
    assert_eq!((report.worst(), report.snapshots), (Some(Severity::Note), 2));
    let problem = &of(&report, "zones/default/packs/").problem;
    assert!(problem.starts_with(&format!("{} packs of {bytes} bytes", packs.len())), "{problem}");
}

#[tokio::test]
async fn what_is_quarantined_is_stored_anew_by_the_next_backup() {
    let scene = scene(5).await;
    let first = scene.snapshots[0].snapshot.unwrap().number;
    let packs = scene.keys(&format!("zones/default/packs/{first:016x}")).await;
    // One pack is lost; in another one byte decays.
    scene.remove(&packs[0]).await;
    let mut bytes = scene.get(&packs[1]).await;
    bytes[5000] ^= 0x10;
    scene.set(&packs[1], bytes).await;

    let found = run(&scene.repo.open, ReadData::All, true).await;
    assert_eq!(of(&found, &packs[0]).severity, Severity::Missing);
    let decayed = of(&found, &packs[1]);
    assert!(decayed.problem.starts_with("one of its frames"), "{}", decayed.problem);
    assert!(found.quarantined.is_some());
    let again = run(&scene.repo.open, ReadData::No, true).await;
    assert_eq!(again.quarantined, None, "nothing new to quarantine");
    assert_eq!(of(&again, &packs[0]).costs, of(&found, &packs[0]).costs);
    assert_eq!(of(&again, &packs[1]).costs, decayed.costs, "quarantined packs are read in any case");

    let healed = back_up(&scene.repo.open, "web01", MemoryDisk::new(scene.web.clone())).await.unwrap();
    assert!(healed.new_bytes > 0, "{healed:?}");
    let after = run(&scene.repo.open, ReadData::All, true).await;
    assert_eq!(after.quarantined, None);
    let costs = after.findings.iter().flat_map(|finding| &finding.costs);
    assert!(costs.clone().count() > 0, "the old snapshots are still damaged");
    assert!(costs.clone().all(|cost| Some(cost.snapshot) != healed.snapshot), "{:#?}", after.findings);
}

impl Scene {
    /// The chunks that a snapshot's own data packs hold, and where they lie.
    async fn chunks(&self, snapshot: usize) -> Vec<IndexEntry> {
        let session = self.snapshots[snapshot].snapshot.unwrap();
        let root = self.repo.open.keys.metadata_root(&session).unwrap();
        let mut chunks = Vec::new();
        for key in self.keys(&format!("zones/default/packs/{:016x}", session.number)).await {
            let bytes = self.get(&key).await;
            let pack = Pack::decode(&bytes).unwrap();
            if pack.head().kind != PackKind::Data {
                continue;
            }
            for (entry, pieces) in pack.directory().iter().zip(pack.open_table(&root).unwrap()) {
                let mut offset_bytes = 0;
                for (id, size_bytes) in pieces {
                    chunks.push(IndexEntry {
                        id,
                        place: Place { frame: entry.place(), offset_bytes, size_bytes },
                    });
                    offset_bytes += size_bytes;
                }
            }
        }
        chunks
    }

    /// Publishes an index that knows every chunk of one snapshot, and sends it to where another's chunks lie.
    async fn lie_about(&self, sought: usize, lies: usize) {
        let places = self.chunks(lies).await;
        let lie = |(entry, other): (IndexEntry, &IndexEntry)| IndexEntry {
            id: entry.id,
            place: Place { size_bytes: entry.place.size_bytes, ..other.place },
        };
        let entries = self.chunks(sought).await.into_iter().zip(places.iter().cycle()).map(lie).collect();
        self.repo.publish_index(entries).await;
    }
}

/// The packs are sound and the maps are signed by an honest writer: only a comparison of both tells.
#[tokio::test]
async fn an_index_that_lies_about_a_sound_pack_is_not_believed() {
    let scene = scene(11).await;
    scene.lie_about(2, 0).await;
    let bytes = guest(111, SIZE);
    let saved = back_up(&scene.repo.open, "clone", MemoryDisk::new(bytes.clone())).await.unwrap();
    // What the lie hides is found all the same: the same chunks of the other VM.
    assert_eq!(saved.new_bytes, 0);
    assert_eq!(run(&scene.repo.open, ReadData::All, false).await.findings, []);
    let restored = restore_bytes(&scene.repo.open, saved.snapshot.unwrap(), "disk0").await.unwrap();
    assert!(restored == bytes);
}

#[tokio::test]
async fn a_rebuilt_index_knows_everything_again() {
    let scene = scene(6).await;
    for key in scene.keys("zones/default/index").await {
        scene.remove(&key).await;
    }
    // Another VM has no base snapshot to compare with: without an index all is new.
    let options =
        || sancerre_tests::repo::options("clone", vec![("disk0", MemoryDisk::new(scene.web.clone()))]);
    let dry = async || {
        let options = sancerre_engine::backup::BackupOptions { dry_run: true, ..options() };
        sancerre_engine::backup::backup(&scene.repo.open, options, &Monitor::silent())
            .await
            .unwrap()
            .new_bytes
    };
    assert!(dry().await > 0);
    let packs = scene.keys("zones/default/packs").await;
    for round in 0..2 {
        let rebuilt = rebuild_index(&scene.repo.as_writer().await, &Monitor::silent()).await.unwrap();
        assert_eq!((rebuilt.packs, rebuilt.unreadable), (packs.len() as u64, Vec::new()));
        assert!(rebuilt.entries > 0);
        assert_eq!(dry().await, 0, "round {round}");
        assert_eq!(run(&scene.repo.open, ReadData::All, false).await.findings, []);
    }
    let saved = back_up(&scene.repo.open, "clone", MemoryDisk::new(scene.web.clone())).await.unwrap();
    assert_eq!(saved.new_bytes, 0);
    assert_eq!(run(&scene.repo.open, ReadData::All, false).await.findings, []);
}

#[tokio::test]
async fn a_rebuild_goes_on_over_a_pack_it_cannot_read() {
    let scene = scene(7).await;
    let packs = scene.keys("zones/default/packs").await;
    let bytes = scene.get(&packs[0]).await;
    let mut harmed = bytes.clone();
    let last = harmed.len() - 1;
    harmed[last] ^= 1;
    scene.set(&packs[0], harmed).await;
    let rebuilt = rebuild_index(&scene.repo.open, &Monitor::silent()).await.unwrap();
    assert_eq!(rebuilt.packs, packs.len() as u64 - 1);
    assert_eq!(rebuilt.unreadable.len(), 1);
    assert!(rebuilt.unreadable[0].starts_with(&packs[0]), "{:?}", rebuilt.unreadable);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_gone_stops_the_check() {
    let scene = scene(8).await;
    scene.repo.store.crash_at(20, sancerre_tests::store::Cut::Before);
    let options = CheckOptions { read_data: ReadData::All, quarantine: false };
    let stopped = check(&scene.repo.open, &options, &Monitor::silent()).await;
    assert!(matches!(stopped, Err(sancerre_engine::Error::Store(StoreError::Failed { .. }))), "{stopped:?}");
    scene.repo.store.recover();
    let monitor = Monitor::silent();
    monitor.interrupt();
    let stopped = check(&scene.repo.open, &options, &monitor).await;
    assert!(matches!(stopped, Err(sancerre_engine::Error::Interrupted)));
}
