//! Words about places: what another key says of where a chunk lies is believed only if the table of that very pack says
//! the same. A liar can so spoil nothing but his own packs, and whoever does not trust him does without these.

use std::sync::{Arc, Mutex};

use sancerre_engine::backup::{BackupOptions, BackupReport, Dedup, backup};
use sancerre_engine::check::{CheckOptions, ReadData, Severity, check};
use sancerre_engine::index::{merge_index, rebuild_index};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::session::Session;
use sancerre_format::certificate::Role;
use sancerre_format::chunk::{Chunker, PieceKind};
use sancerre_format::config::Layout;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::{ContentId, FramePlace, Place, SessionId};
use sancerre_format::index::{IndexEntry, SegmentName};
use sancerre_format::log::{Distrust, Kind};
use sancerre_format::names;
use sancerre_format::node::{LeafEntry, Node, NodeKey, chunk_id};
use sancerre_format::outcome::{Body, Chunking, Member, MemberKind, MemberWords, Root};
use sancerre_format::pack::{Pack, PackBuilder, PackHead, PackKind, SealedSession};
use sancerre_format::seal::{UnitKind, UnitName, seal_raw};
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::repo::{TestRepo, back_up, dump_bytes, name, options, small_layout, zone};

use crate::gc::{collect, drop_snapshot};

const MIB: usize = 1 << 20;

/// A zone in which host1 has saved web01, and of which hv2 has a key.
struct Scene {
    repo: TestRepo,
    host1: Repository,
    hv2: Repository,
    /// A sound data frame of host1's, and the pack it lies in.
    frame: FramePlace,
    pack: String,
    warnings: Arc<Mutex<Vec<String>>>,
}

impl Scene {
    async fn new(seed: u64) -> Self {
        let repo = TestRepo::new(seed).await;
        let host1 = repo.as_writer().await;
        let hv2 = writer(&repo, "hv2").await;
        let warnings = Arc::default();
        let web01 = MemoryDisk::new(noise(seed, MIB));
        backup(&host1, options("web01", vec![("disk0", web01)]), &Monitor::silent()).await.unwrap();
        let (pack, frame) = data_frame(&repo).await;
        Self { repo, host1, hv2, frame, pack, warnings }
    }

    /// Entries that say that the chunks of `bytes` lie in the sound frame.
    fn lies(&self, bytes: &[u8]) -> Vec<IndexEntry> {
        let lie = |(_, id, size_bytes)| IndexEntry { id, place: self.false_place(size_bytes) };
        chunks(&self.repo, bytes).into_iter().map(lie).collect()
    }

    fn false_place(&self, size_bytes: u32) -> Place {
        Place { frame: self.frame, offset_bytes: 0, size_bytes }
    }

    async fn save(&self, host: &Repository, vm: &str, dedup: Dedup, bytes: &[u8]) -> BackupReport {
        let options = options(vm, vec![("disk0", MemoryDisk::new(bytes.to_vec()))]);
        let heard = Arc::clone(&self.warnings);
        let monitor = Monitor::new(move |event| heard.lock().unwrap().push(event.message));
        backup(host, BackupOptions { dedup, ..options }, &monitor).await.unwrap()
    }

    /// Saves a machine whose chunks were lied about: all of it is stored anew, and restores.
    async fn survives(&self, host: &Repository, vm: &str, dedup: Dedup, bytes: &[u8]) {
        let report = self.save(host, vm, dedup, bytes).await;
        assert_eq!(report.new_bytes, bytes.len() as u64, "{vm} builds on a lie");
        let restored = dump_bytes(&self.repo.open, report.snapshot.unwrap(), "disk0").await;
        assert!(restored.unwrap() == bytes, "{vm}");
    }

    /// The warnings since the last time.
    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock().unwrap())
    }

    async fn distrust(&self, kind: fn(Distrust) -> Kind) {
        let distrust = Distrust { writer: name("hv2"), from: 1, reason: "test".into() };
        self.repo.append(kind(distrust), &[]).await;
    }

    /// Makes a snapshot of `vm` in the name of hv2 whose map says that the chunks of `bytes` lie in the sound frame.
    async fn false_snapshot(&self, vm: &str, bytes: &[u8]) -> SessionId {
        let host = &self.hv2;
        let mut log = Log::load(host).await.unwrap();
        let mut session = Session::announce(host, &mut log, &name(vm), None).await.unwrap();
        let entries: Vec<LeafEntry> = chunks(&self.repo, bytes)
            .into_iter()
            .map(|(at, id, size)| LeafEntry { offset_bytes: at, id, place: self.false_place(size) })
            .collect();
        let key = NodeKey::derive(&host.keys.zone_secrets().unwrap().keys.id);
        let (id, raw) = Node::Leaf(entries.clone()).encode_with_id(&key).unwrap();
        let root = host.keys.metadata_root(&session.id).unwrap();
        let head = PackHead {
            kind: PackKind::Metadata,
            repository: host.keys.trust.repository,
            ordinal: 0,
            sessions: vec![SealedSession { session: session.id, sealed_key: Vec::new() }],
        };
        let mut builder = PackBuilder::new(head).unwrap();
        let unit = UnitName { kind: UnitKind::Metadata, session: session.id, a: 0, b: 0 };
        let size_bytes = u32::try_from(raw.len()).unwrap();
        let frame = builder.append(&seal_raw(&root, &unit, 3, &raw).unwrap(), &[(id, size_bytes)]).unwrap();
        let pack = builder.finish(&root).unwrap();
        self.repo.tamper(&names::pack(&host.keys.zone, pack.name, &pack.hash), pack.bytes.clone()).await;
        session.publish(host, vec![pack.listed()], Vec::new()).await.unwrap();
        let mut uses = FrameSet::default();
        [frame.frame, self.frame.frame].into_iter().for_each(|frame| uses.insert(frame));
        let place = Place { frame, offset_bytes: 0, size_bytes };
        let member = Member {
            name: name("disk0"),
            kind: MemberKind::Disk,
            chunking: Chunking::Disk,
            phase_bytes: 0,
            size_bytes: bytes.len() as u64,
            data_bytes: bytes.len() as u64,
            new_bytes: 0,
            chunks: entries.len() as u64,
            new_chunks: 0,
            fuzzy: false,
            root: Some(Root { level: 0, id, place }),
            words: MemberWords::default(),
        };
        let mut manifest = session.manifest(host);
        (manifest.disks, manifest.size_bytes, manifest.data_bytes) =
            (1, member.size_bytes, member.data_bytes);
        let body = Body { vm: None, tags: Vec::new(), members: vec![member], annexes: Vec::new() };
        let unit = UnitName { kind: UnitKind::Body, session: session.id, a: 0, b: 0 };
        let body = seal_raw(&root, &unit, 3, body.encode().as_bytes()).unwrap();
        session.commit(host, &mut log, &manifest, &uses.encode().unwrap(), &body).await.unwrap();
        session.id
    }
}

/// The repository as another host opens it.
async fn writer(repo: &TestRepo, host: &str) -> Repository {
    repo.with_key_file(&repo.certify(host, Role::Writer).await).await
}

/// The first data pack of session 1, and its first frame.
async fn data_frame(repo: &TestRepo) -> (String, FramePlace) {
    for key in repo.keys_with("/packs/0000000000000001/").await {
        let bytes = repo.object(&key).await;
        let pack = Pack::decode(&bytes).unwrap();
        if pack.head().kind == PackKind::Data {
            return (key, pack.directory()[0].place());
        }
    }
    panic!("there is no data pack");
}

/// Offset, id and size of the chunks of a disk of one region.
fn chunks(repo: &TestRepo, bytes: &[u8]) -> Vec<(u32, ContentId, u32)> {
    assert!(bytes.len() <= MIB);
    let keys = &repo.open.keys.zone_secrets().unwrap().keys;
    let chunker = Chunker::disk(&keys.cut, small_layout().disk).unwrap();
    let (mut at, mut found) = (0, Vec::new());
    while let Some(piece) = chunker.next_piece(&bytes[at..]).filter(|_| at < bytes.len()) {
        let chunk = &bytes[at..at + piece.length_bytes];
        if piece.kind == PieceKind::Data {
            found.push((at as u32, chunk_id(&keys.id, chunk), chunk.len() as u32));
        }
        at += piece.length_bytes;
    }
    found
}

fn key_of(log: &Log, segment: SegmentName) -> String {
    names::index(&zone(), &log.entry(segment.session).unwrap().session, 0)
}

/// Reads after the manifest, before "saved" is said.
const SAVED: u64 = 3;

#[tokio::test(start_paused = true)]
async fn a_false_word_is_not_believed_and_told_once() {
    let scene = Scene::new(900).await;
    let db01 = noise(901, MIB);
    let lie = scene.repo.say(&scene.hv2, scene.lies(&db01)).await;
    scene.survives(&scene.host1, "db01", Dedup::Zone, &db01).await;
    let (heard, log) = (scene.heard(), Log::load(&scene.host1).await.unwrap());
    let key = key_of(&log, lie);
    assert!(heard.len() == 1 && heard[0].contains(&key) && heard[0].contains("hv2"), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn own_cannot_be_poisoned_by_others() {
    let scene = Scene::new(902).await;
    let (db01, mail01) = (noise(903, MIB), noise(904, MIB));
    scene.repo.say(&scene.hv2, scene.lies(&db01)).await;
    scene.survives(&scene.host1, "db01", Dedup::Own, &db01).await;
    scene.false_snapshot("mail01", &mail01).await;
    scene.survives(&scene.host1, "mail01", Dedup::Own, &mail01).await;
    // What others say was not even asked.
    assert_eq!(scene.heard(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn the_words_of_a_tainted_writer_are_not_heard() {
    let scene = Scene::new(905).await;
    let db01 = noise(906, MIB);
    scene.repo.say(&scene.hv2, scene.lies(&db01)).await;
    scene.distrust(Kind::Taint).await;
    scene.survives(&scene.host1, "db01", Dedup::Zone, &db01).await;
    assert_eq!(scene.heard(), Vec::<String>::new());
}

/// An honest host merges the lies into a segment that it signs, and only then the liar is revoked.
#[tokio::test(start_paused = true)]
async fn a_lie_does_not_outlive_its_liar_in_a_merge() {
    let scene = Scene::new(907).await;
    let (db01, mail01) = (noise(908, MIB), noise(909, MIB));
    scene.repo.say(&scene.hv2, scene.lies(&db01)).await;
    scene.repo.say(&scene.hv2, scene.lies(&mail01)).await;
    let mut log = Log::load(&scene.host1).await.unwrap();
    merge_index(&scene.host1, &mut log, &Monitor::silent()).await.unwrap().unwrap();
    scene.distrust(Kind::Revoke).await;
    let host3 = writer(&scene.repo, "host3").await;
    scene.survives(&scene.host1, "db01", Dedup::Zone, &db01).await;
    scene.survives(&host3, "mail01", Dedup::Zone, &mail01).await;
    let heard = scene.heard();
    assert!(heard.len() == 2 && heard.iter().all(|warning| warning.contains("merged")), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_false_map_is_no_base() {
    for distrust in [None, Some(Kind::Taint as fn(Distrust) -> Kind), Some(Kind::Revoke)] {
        let scene = Scene::new(910).await;
        let db01 = noise(911, MIB);
        let lie = scene.false_snapshot("db01", &db01).await;
        if let Some(distrust) = distrust {
            scene.distrust(distrust).await;
        }
        scene.survives(&scene.host1, "db01", Dedup::Zone, &db01).await;
        let heard = scene.heard();
        let is_told = |warning: &String| warning.contains(&lie.intent.to_string()[..8]);
        assert_eq!(heard.iter().filter(|warning| is_told(warning)).count(), heard.len(), "{heard:?}");
        // The next night builds on the own snapshot, in which no lie is left.
        let again = scene.save(&scene.host1, "db01", Dedup::Zone, &db01).await;
        assert_eq!(again.new_bytes, 0);
        assert!(dump_bytes(&scene.repo.open, again.snapshot.unwrap(), "disk0").await.unwrap() == db01);
        assert_eq!(scene.heard(), Vec::<String>::new());
    }
}

/// Who has a key of the zone and may write over objects changes the table of an honest pack to fit his lie, and leaves
/// every frame as it was.
#[tokio::test(start_paused = true)]
async fn a_table_counts_only_as_its_writer_signed_it() {
    let scene = Scene::new(912).await;
    let db01 = noise(913, MIB);
    let lies = scene.lies(&db01);
    let sound = scene.repo.object(&scene.pack).await;
    let pack = Pack::decode(&sound).unwrap();
    let mut builder = PackBuilder::new(pack.head().clone()).unwrap();
    for position in 0..pack.directory().len() {
        let table = pack.open_table(&scene.hv2.keys.metadata_root(&pack.head().writer()).unwrap()).unwrap();
        let pieces: Vec<_> = match position {
            0 => table[0]
                .iter()
                .zip(lies.iter().cycle())
                .map(|(_, lie)| (lie.id, lie.place.size_bytes))
                .collect(),
            _ => table[position].clone(),
        };
        builder.append(pack.frame(position).unwrap(), &pieces).unwrap();
    }
    let root = scene.hv2.keys.metadata_root(&pack.head().writer()).unwrap();
    let forged = builder.finish(&root).unwrap().bytes;
    assert!(forged.len() == sound.len() && forged != sound);
    let before: usize = pack.directory()[0].offset_bytes as usize;
    assert_eq!(forged[..before + 100], sound[..before + 100], "only the table is another");
    // The lie fits this table.
    let table = Pack::decode(&forged).unwrap().open_table(&root).unwrap();
    let first = IndexEntry { id: table[0][0].0, place: scene.false_place(table[0][0].1) };
    scene.repo.tamper(&scene.pack, forged).await;
    scene.repo.say(&scene.hv2, vec![first]).await;
    let mut victim = db01[..lies[0].place.size_bytes as usize].to_vec();
    victim.resize(MIB, 0);
    let report = scene.save(&scene.host1, "db01", Dedup::Zone, &victim).await;
    assert!(report.new_bytes > 0);
    let heard = scene.heard();
    assert!(heard.len() == 1 && heard[0].contains(&scene.pack), "{heard:?}");
    scene.repo.tamper(&scene.pack, sound).await;
    assert!(dump_bytes(&scene.repo.open, report.snapshot.unwrap(), "disk0").await.unwrap() == victim);
}

/// Who signs a size that no chunk of that id has must not spoil the map.
#[tokio::test(start_paused = true)]
async fn a_false_size_is_no_word() {
    let scene = Scene::new(914).await;
    let db01 = noise(915, MIB);
    let mut lies = scene.lies(&db01);
    lies.iter_mut().for_each(|lie| lie.place.size_bytes += 1);
    scene.repo.say(&scene.hv2, lies).await;
    scene.survives(&scene.host1, "db01", Dedup::Zone, &db01).await;
}

/// What a writer who is not trusted has put into the index is not even fetched, and neither is what lies under a session
/// that has no segments.
#[tokio::test(start_paused = true)]
async fn segments_that_nobody_may_hear_cost_nothing() {
    let scene = Scene::new(916).await;
    let web01 = noise(916, MIB);
    for seed in 917..920 {
        scene.repo.say(&scene.hv2, scene.lies(&noise(seed, MIB))).await;
    }
    scene.distrust(Kind::Revoke).await;
    let log = Log::load(&scene.host1).await.unwrap();
    let revoking = log.entry(log.highest()).unwrap().session;
    scene.repo.tamper(&names::index(&zone(), &revoking, 0), noise(920, 5000)).await;
    scene.repo.store.take_calls();
    assert_eq!(scene.save(&scene.host1, "web01", Dedup::Zone, &web01).await.new_bytes, 0);
    let with = scene.repo.store.take_calls().get;
    let mut junk = scene.repo.keys_with("/index/").await;
    junk.retain(|key| !key.contains("/index/0000000000000001-"));
    assert_eq!(junk.len(), 4);
    scene.repo.lose(&junk).await;
    scene.save(&scene.host1, "web01", Dedup::Zone, &web01).await;
    // One log entry and one outcome more.
    assert_eq!(scene.repo.store.take_calls().get, with + 2);
    assert_eq!(scene.heard(), Vec::<String>::new());
}

/// Two hosts save the same: the second one stores nothing new, and asks each pack once whether it is true. From then on
/// it is its own word, and no night asks again.
#[tokio::test(start_paused = true)]
async fn honest_words_cost_one_request_a_pack_and_only_once() {
    let scene = Scene::new(921).await;
    let disk = noise(922, 8 * MIB);
    let gets = async |host: &Repository, vm: &str| {
        scene.repo.store.take_calls();
        let report = scene.save(host, vm, Dedup::Zone, &disk).await;
        (scene.repo.store.take_calls().get, report)
    };
    gets(&scene.host1, "db01").await;
    let packs = scene.repo.keys_with("/packs/0000000000000002/").await.len() as u64;
    let host3 = writer(&scene.repo, "host3").await;
    let (others, report) = gets(&host3, "db03").await;
    assert_eq!((report.new_bytes, report.parent), (0, None));
    let (own, report) = gets(&scene.host1, "db04").await;
    assert_eq!((report.new_bytes, report.parent), (0, None));
    // A log entry, an outcome, a list and a segment more; and one of the packs holds the map, not data.
    assert_eq!(
        others - (packs - 1),
        own - 4,
        "{others} requests, {own} by the key whose packs they are, {packs} packs"
    );
    // Four sessions, each with entry, outcome, list and segment; the map of the night before; what W7 asks.
    let (night, report) = gets(&host3, "db03").await;
    assert_eq!((night, report.new_bytes), (4 * 4 + 1 + SAVED, 0));
    // A machine that moves to another host: each pack that its map names is asked once, and never again.
    let (moved, report) = gets(&host3, "db01").await;
    assert_eq!((moved, report.new_bytes), (4 * 4 + 1 + SAVED + 2 + (packs - 1), 0));
    let (night, report) = gets(&host3, "db01").await;
    assert_eq!((night, report.new_bytes), (4 * 4 + 1 + SAVED + 4, 0));
    assert_eq!(scene.heard(), Vec::<String>::new());
    assert!(dump_bytes(&scene.repo.open, report.snapshot.unwrap(), "disk0").await.unwrap() == disk);
}

/// Frames that a collector moved are proven by the table of the pack in which they lie now.
#[tokio::test(start_paused = true)]
async fn words_about_moved_frames_are_proven_too() {
    let layout = Layout { pack_bytes: 4 << 20, ..small_layout() };
    let repo = TestRepo::with_layout(923, layout).await;
    let (host1, keeper) = (repo.as_writer().await, repo.as_keeper().await);
    let mut disk = noise(924, 6 * MIB);
    let first = back_up(&host1, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
    for region in [0, 2, 4] {
        disk[region * MIB..(region + 1) * MIB].copy_from_slice(&noise(925 + region as u64, MIB));
    }
    back_up(&host1, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
    drop_snapshot(&keeper, first.snapshot.unwrap()).await.unwrap();
    assert!(collect(&keeper).await.unwrap().plan.moved_bytes > 2 << 20);
    let host3 = writer(&repo, "host3").await;
    let other = back_up(&host3, "web03", MemoryDisk::new(disk.clone())).await.unwrap();
    assert_eq!(other.new_bytes, 0, "by the index");
    let moved = back_up(&host3, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
    assert_eq!((moved.new_bytes, moved.parent.is_some()), (0, true), "by the map of another key");
    // A rebuilt index says where the frames lie now.
    rebuild_index(&host1, &Monitor::silent()).await.unwrap();
    let host4 = writer(&repo, "host4").await;
    let rebuilt = back_up(&host4, "web04", MemoryDisk::new(disk.clone())).await.unwrap();
    assert_eq!(rebuilt.new_bytes, 0);
    assert!(dump_bytes(&repo.open, rebuilt.snapshot.unwrap(), "disk0").await.unwrap() == disk);
}

/// What foreign words cost with packs of the usual size: `--no-capture` shows the numbers of decisions/0010.
#[allow(clippy::print_stderr)]
#[tokio::test(start_paused = true)]
async fn foreign_words_cost_two_thousandths_of_the_data() {
    let repo = TestRepo::with_layout(930, Layout::default()).await;
    let (host1, host3) = (repo.as_writer().await, writer(&repo, "host3").await);
    let disk = noise(931, 40 * MIB);
    let cost = async |host: &Repository, vm: &str| {
        repo.store.take_calls();
        let received = || host.store.traffic().totals().received_bytes;
        let before = received();
        let report = back_up(host, vm, MemoryDisk::new(disk.clone())).await.unwrap();
        let cost = (repo.store.take_calls().all(), received() - before);
        eprintln!("{vm}: {} requests, {} bytes received, {} new", cost.0, cost.1, report.new_bytes);
        cost
    };
    cost(&host1, "web01").await;
    let own = cost(&host1, "web02").await;
    let others = cost(&host3, "web03").await;
    let again = cost(&host3, "web03").await;
    // Two packs of data; besides them what the session before adds to every night: entry, outcome, list and segment.
    assert_eq!(others.0, own.0 + 2 + 4);
    assert!(others.1 - own.1 < ((2 * 64 + 16) << 10), "{own:?} {others:?}");
    assert!(again.1 < others.1);
}

/// A map whose word about a place contradicts the table of the pack: `check` finds it without opening content, and says
/// which snapshot it costs.
#[tokio::test(start_paused = true)]
async fn check_compares_maps_with_tables() {
    let scene = Scene::new(930).await;
    let lie = scene.false_snapshot("db01", &noise(931, MIB)).await;
    for keys in [&scene.repo.open, &scene.host1] {
        let options = CheckOptions { read_data: ReadData::All, quarantine: false };
        let report = check(keys, &options, &Monitor::silent()).await.unwrap();
        let bad: Vec<_> = report.findings.iter().filter(|found| found.severity != Severity::Note).collect();
        let [found] = bad.as_slice() else { panic!("{bad:?}") };
        let costs: Vec<_> = found.costs.iter().map(|cost| cost.snapshot).collect();
        assert_eq!((found.severity, costs), (Severity::Damaged, vec![lie]), "{found:?}");
    }
}
