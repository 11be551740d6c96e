//! What a machine asked for until it was up comes first when it starts again, in its order; a trace that cannot be read costs nothing.

use std::sync::{Arc, Mutex};

use sancerre_engine::SnapshotReader;
use sancerre_engine::boot_trace::{StoredTrace, keep, newest};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::snapshot_disk::{BootRecorder, ChunkCache, SnapshotDisk, fetch_first};
use sancerre_engine::restore::open;
use sancerre_format::boot_trace::BootTrace;
use sancerre_format::id::SessionId;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::repo::{TestRepo, back_up};

const MIB: usize = 1 << 20;
const BUDGET: u64 = 64 << 20;
/// Where the machine reads until it is up, some of it twice.
const ASKED: [usize; 5] = [5 * MIB + 9000, 0, 3 * MIB, 5 * MIB + 9000, MIB + 77];
const LENGTH: usize = 4096;

struct Scene {
    repo: TestRepo,
    bytes: Vec<u8>,
    first: SessionId,
}

impl Scene {
    /// A machine, saved once.
    async fn new(seed: u64) -> Self {
        let (repo, bytes) = (TestRepo::new(seed).await, noise(seed, 6 * MIB));
        let first = save(&repo, "web01", &bytes).await;
        Self { repo, bytes, first }
    }

    async fn reader(&self, session: SessionId) -> SnapshotReader {
        let log = Log::load_recent(&self.repo.open, &Monitor::silent()).await.unwrap();
        open(&self.repo.open, &log, session).await.unwrap()
    }

    async fn disk(&self, session: SessionId, budget: u64) -> (Arc<SnapshotDisk>, Arc<ChunkCache>) {
        let (reader, cache) = (self.reader(session).await, ChunkCache::new(budget));
        let member = reader.member("disk0").unwrap();
        (SnapshotDisk::open(&reader, member, &cache, &Monitor::silent()).unwrap(), cache)
    }

    /// The machine starts, and is recorded.
    async fn start(&self) -> BootTrace {
        let (disk, _) = self.disk(self.first, BUDGET).await;
        let recorder = Arc::new(BootRecorder::default());
        disk.record(&recorder);
        disk.read_ahead(2 << 20..3 << 20).unwrap();
        for at in ASKED {
            assert!(read(&disk, at).await == self.bytes[at..at + LENGTH]);
        }
        recorder.trace()
    }

    /// The newest trace for a machine's snapshot, and what was said meanwhile.
    async fn newest(&self, session: SessionId) -> (Option<StoredTrace>, String) {
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let hears = Arc::clone(&told);
        let monitor = Monitor::new(move |event| hears.lock().unwrap().push(event.message));
        let reader = self.reader(session).await;
        let frames = reader.frames();
        let found = newest(frames.repository(), &frames.log(), reader.manifest(), &monitor).await;
        let told = told.lock().unwrap().join("\n");
        (found, told)
    }

    /// Changes a byte in the middle of a note's annex.
    async fn damage(&self, number: u64) {
        let key = self.repo.keys_with(&format!("/packs/{number:016x}/")).await.remove(0);
        let mut bytes = self.repo.object(&key).await;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        self.repo.tamper(&key, bytes).await;
    }
}

async fn save(repo: &TestRepo, vm: &str, disk: &[u8]) -> SessionId {
    back_up(&repo.open, vm, MemoryDisk::new(disk.to_vec())).await.unwrap().snapshot.unwrap()
}

async fn read(disk: &Arc<SnapshotDisk>, at: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; LENGTH];
    disk.read(at as u64, &mut bytes).await.unwrap();
    bytes
}

#[tokio::test(start_paused = true)]
async fn the_first_reads_of_a_later_snapshot_are_there_before_they_are_asked() {
    let scene = Scene::new(5100).await;
    let trace = scene.start().await;
    assert!((4..10).contains(&trace.chunks.len()), "each once, and nothing that was read ahead: {trace:?}");
    let number = keep(&scene.repo.open, scene.first, &trace).await.unwrap();

    let mut bytes = scene.bytes.clone();
    bytes[..MIB / 2].copy_from_slice(&noise(1, MIB / 2));
    let later = save(&scene.repo, "web01", &bytes).await;
    let other = save(&scene.repo, "db01", &bytes).await;
    assert_eq!(scene.newest(other).await.0, None, "of another machine");
    let (found, _) = scene.newest(later).await;
    let found = found.unwrap();
    assert_eq!(found, StoredTrace { number, trace });

    let (disk, cache) = scene.disk(later, BUDGET).await;
    let came = fetch_first(std::slice::from_ref(&disk), &found.trace).await;
    assert!(came.absent > 0 && came.left == 0 && came.bytes > 0, "{came:?}");
    assert_eq!(came.chunks + came.absent, found.trace.chunks.len());
    let frames = cache.fetched().0;
    scene.repo.store.take_calls();
    for at in [ASKED[0], ASKED[2], ASKED[4]] {
        assert!(read(&disk, at).await == bytes[at..at + LENGTH]);
    }
    assert_eq!((cache.fetched().0, scene.repo.store.take_calls().get), (frames, 0));
    assert!(read(&disk, 0).await == bytes[..LENGTH]);
    assert_eq!(cache.fetched().0, frames + 1, "what is new there is in no trace");
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_first_comes_first_where_not_all_has_room() {
    let scene = Scene::new(5200).await;
    let trace = scene.start().await;
    // Room for one frame and a half.
    let frame = u64::from(scene.repo.open.layout.frame_bytes);
    let (disk, cache) = scene.disk(scene.first, frame * 7 / 2).await;
    let came = fetch_first(std::slice::from_ref(&disk), &trace).await;
    assert_eq!(cache.fetched().0, 1);
    assert!(came.chunks > 0 && came.left > 0 && came.absent == 0, "{came:?}");
    scene.repo.store.take_calls();
    let at = ASKED[0];
    assert!(read(&disk, at).await == scene.bytes[at..at + LENGTH]);
    assert_eq!(scene.repo.store.take_calls().get, 0);
    assert!(read(&disk, 0).await == scene.bytes[..LENGTH]);
    assert!(scene.repo.store.take_calls().get > 0);
}

#[tokio::test(start_paused = true)]
async fn a_trace_that_is_damaged_is_named_and_an_older_one_is_used() {
    let scene = Scene::new(5300).await;
    let trace = scene.start().await;
    let older = keep(&scene.repo.open, scene.first, &trace).await.unwrap();
    let newer =
        keep(&scene.repo.open, scene.first, &BootTrace { chunks: Vec::new(), ..trace }).await.unwrap();
    assert_eq!(scene.newest(scene.first).await.0.unwrap().number, newer);
    scene.damage(newer).await;
    let (found, told) = scene.newest(scene.first).await;
    assert_eq!(found.unwrap().number, older);
    assert!(told.contains(&format!("log entry {newer} is not used")), "{told}");
    scene.damage(older).await;
    assert_eq!(scene.newest(scene.first).await.0, None);
    // What is gone is no word worth.
    let packs = scene.repo.keys_with(&format!("/packs/{newer:016x}/")).await;
    scene.repo.lose(&packs).await;
    let (found, told) = scene.newest(scene.first).await;
    assert!(found.is_none() && !told.contains(&format!("entry {newer} ")), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_keeper_may_store_one() {
    let scene = Scene::new(5400).await;
    let trace = scene.start().await;
    let keeper = scene.repo.as_keeper().await;
    let number = keep(&keeper, scene.first, &trace).await.unwrap();
    assert_eq!(scene.newest(scene.first).await.0.unwrap().number, number);
    let restored = sancerre_tests::repo::restore_bytes(&scene.repo.open, scene.first, "disk0").await.unwrap();
    assert!(restored == scene.bytes);
}
