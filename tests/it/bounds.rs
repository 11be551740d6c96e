//! Objects that nobody can want: huge ones, junk in any number, and those that cannot be read. None stops a restore, none
//! is fetched beyond what its kind may have, and what writers must know is never guessed.

use std::sync::Arc;

use sancerre_engine::cache::Cache;
use sancerre_engine::check::{CheckOptions, ReadData, check};
use sancerre_engine::gc::{GcOptions, gc};
use sancerre_engine::keys::{Keys, Unlock};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::store::{Creation, Store};
use sancerre_engine::{Error, ErrorKind, StoreError};
use sancerre_format::frames::{FrameSet, Members, Ranges};
use sancerre_format::id::{Hash, PackName, SessionId};
use sancerre_format::log::Kind;
use sancerre_format::{limits, names};
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::odd::{Fetched, OddStore, Refusal, bad_sector, forbidden};
use sancerre_tests::repo::{TestRepo, back_up, passphrase, restore_bytes, zone};

const MIB: usize = 1 << 20;
const GC: GcOptions = crate::gc::OPTIONS;
const CHECK: CheckOptions = CheckOptions { read_data: ReadData::No, quarantine: false };

/// A repository with two machines, and a way to it on which objects are odd.
struct Scene {
    repo: TestRepo,
    odd: Arc<OddStore>,
    /// What each of the machines has.
    disks: Vec<Vec<u8>>,
    sessions: Vec<SessionId>,
}

impl Scene {
    async fn new(seed: u64) -> Self {
        let (repo, mut sessions) = (TestRepo::new(seed).await, Vec::new());
        let disks = vec![noise(2 * seed, 3 * MIB), noise(2 * seed + 1, 2 * MIB)];
        for (vm, disk) in ["web01", "db01"].into_iter().zip(&disks) {
            let report = back_up(&repo.open, vm, MemoryDisk::new(disk.clone())).await.unwrap();
            sessions.push(report.snapshot.unwrap());
        }
        let odd = OddStore::new(repo.memory.clone());
        Self { repo, odd, disks, sessions }
    }

    /// As a process that starts on a rescue machine: with the passphrase alone.
    async fn open(&self) -> Repository {
        let store = Store::new(self.odd.clone(), "odd");
        let keys = Keys::from_passphrase(&store, &zone(), &passphrase()).await.unwrap();
        Repository::open(store, self.repo.host.clone(), keys).await.unwrap()
    }

    /// With the admin's key besides.
    async fn as_admin(&self) -> Repository {
        let mut open = self.open().await;
        let unlock = Unlock::default().with_passphrase(passphrase());
        Arc::make_mut(&mut open.keys).unlock_admin(&open.store, &unlock).await.unwrap();
        open
    }

    async fn restores(&self, session: SessionId) {
        let bytes = restore_bytes(&self.open().await, session, "disk0").await.unwrap();
        let at = self.sessions.iter().position(|known| *known == session).unwrap();
        assert!(bytes == self.disks[at]);
    }

    /// What `check` says of an object.
    async fn finding(&self, key: &str) -> Option<String> {
        let report = check(&self.open().await, &CHECK, &Monitor::silent()).await.unwrap();
        report.findings.into_iter().find(|finding| finding.object == key).map(|finding| finding.problem)
    }
}

/// Keys of all kinds under which anybody with the store's credentials can put something.
fn free_keys(sessions: &[SessionId]) -> Vec<String> {
    let next = SessionId { number: sessions.len() as u64 + 1, intent: Hash::of(&[]) };
    vec![
        "keys/recipients/0001-zzz".to_owned(),
        "keys/recipients/0009-aaa".to_owned(),
        "keys/identities/0002".to_owned(),
        names::log(&zone(), next.number),
        names::outcome(&zone(), &next),
        names::list(&zone(), &sessions[0], 7),
        names::list(&zone(), &sessions[1], 1),
        names::index(&zone(), &sessions[0], 7),
        names::index(&zone(), &sessions[1], 1),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_huge_object_is_not_fetched_and_stops_nobody() {
    for size_bytes in [200 << 20, 5 << 40] {
        let scene = Scene::new(1).await;
        let keys = free_keys(&scene.sessions);
        for key in &keys {
            scene.repo.tamper(key, b"junk".to_vec()).await;
            scene.odd.seems(key, size_bytes);
        }
        scene.odd.take_fetched();
        for session in &scene.sessions {
            scene.restores(*session).await;
        }
        let log = Log::load(&scene.open().await).await.unwrap();
        assert_eq!(log.snapshots().len(), 2);
        let error = log.entry(3).unwrap().entry.as_ref().unwrap_err().to_string();
        assert!(error.contains(&format!("too large: {size_bytes} bytes, at most")), "{error}");
        let report =
            back_up(&scene.open().await, "web01", MemoryDisk::new(scene.disks[0].clone())).await.unwrap();
        assert_eq!((report.snapshot.unwrap().number, report.new_bytes), (4, 0));
        for key in keys.iter().filter(|key| !key.contains("/outcome/")) {
            let told = scene.finding(key).await.unwrap_or_default();
            assert!(told.contains("too large") || told.contains("belongs to nothing"), "{key}: {told}");
        }
        let fetched = scene.odd.take_fetched();
        for key in &keys {
            let Fetched { bytes, .. } = fetched.get(key).copied().unwrap_or_default();
            assert!(bytes < limits::of_key(key).1.min(1 << 20), "{key}: {bytes} bytes were fetched");
        }
    }
}

/// In the way of a writer: it must see that the number is taken, and not read what takes it.
#[tokio::test(start_paused = true)]
async fn a_huge_object_in_the_way_of_a_create_is_not_fetched() {
    let scene = Scene::new(2).await;
    let key = names::log(&zone(), 3);
    scene.repo.tamper(&key, b"junk".to_vec()).await;
    scene.odd.seems(&key, 5 << 40);
    let store = scene.open().await.store;
    scene.odd.take_fetched();
    let put = store.put_new(&key, vec![1; 100].into()).await.unwrap();
    assert_eq!(put, sancerre_engine::store::Put::Occupied(bytes::Bytes::new()));
    assert_eq!(scene.odd.take_fetched()[&key].bytes, 0);
    let error = store.put_new(&names::list(&zone(), &scene.sessions[0], 9), vec![0; 33 << 20].into()).await;
    assert!(error.unwrap_err().to_string().contains("too large"), "nobody writes what nobody reads");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_stops_no_reader() {
    let refusals: [(Refusal, &str); 2] = [(bad_sector, "os error 5"), (forbidden, "InvalidObjectState")];
    for (refusal, says) in refusals {
        let scene = Scene::new(3).await;
        let [web01, db01] = scene.sessions[..] else { panic!("two machines") };
        // For an entry the outcome of its session stands; for an outcome nothing does.
        let both = [web01, db01];
        let objects =
            [(names::log(&zone(), web01.number), &both[..]), (names::outcome(&zone(), &web01), &both[1..])];
        for (key, expected) in objects {
            scene.odd.breaks(&key, refusal);
            scene.restores(db01).await;
            let log = Log::load(&scene.open().await).await.unwrap();
            let snapshots: Vec<SessionId> =
                log.snapshots().iter().map(|snapshot| snapshot.session()).collect();
            assert_eq!(snapshots, expected, "{key}");
            assert!(
                log.unread().iter().any(|unread| unread.key == key && unread.reason.contains(says)),
                "{key}"
            );
            let told = scene.finding(&key).await.unwrap();
            assert!(told.contains("cannot be read") && told.contains(says), "{told}");

            log.refuse_unread(&zone()).unwrap();
            if key.contains("/outcome/") {
                collectors_stop_at(&scene, &key).await;
            }
            scene.odd.mend();
            let mut healed = log;
            healed.refresh(&scene.open().await).await.unwrap();
            assert_eq!((healed.snapshots().len(), healed.unread().len()), (2, 0), "{key}");
        }
        back_up(&scene.open().await, "web01", MemoryDisk::new(scene.disks[0].clone())).await.unwrap();
    }
}

async fn collectors_stop_at(scene: &Scene, key: &str) {
    let before = scene.repo.objects().await;
    let error = gc(&scene.as_admin().await, &GC, &Monitor::silent()).await.unwrap_err();
    assert!(matches!(&error, Error::Unverified { key: named, .. } if named == key), "{error}");
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert_eq!(scene.repo.objects().await, before, "nothing was written");
}

/// What only a pack list that cannot be read names, readers find all the same, and collectors leave.
#[tokio::test(start_paused = true)]
async fn a_list_that_cannot_be_read_stops_nobody() {
    let scene = Scene::new(4).await;
    let [web01, _] = scene.sessions[..] else { panic!("two machines") };
    let report = back_up(&scene.repo.open, "mail01", MemoryDisk::new(noise(5, MIB))).await.unwrap();
    let key = names::list(&zone(), &web01, 0);
    scene.odd.breaks(&key, bad_sector);
    let mail01 = report.snapshot.unwrap();
    let bytes = restore_bytes(&scene.open().await, mail01, "disk0").await.unwrap();
    assert!(bytes == noise(5, MIB));
    scene.restores(web01).await;
    gc(&scene.as_admin().await, &GC, &Monitor::silent()).await.unwrap();
    scene.restores(web01).await;
}

/// When nothing can be read any more, no object is at fault.
#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_work_stops_everybody() {
    let scene = Scene::new(6).await;
    let open = scene.open().await;
    for key in [names::CONFIG.to_owned(), names::log(&zone(), 1)] {
        scene.odd.breaks(&key, forbidden);
    }
    assert!(matches!(Log::load(&open).await, Err(Error::Store(StoreError::Failed { .. }))));
}

/// Junk of every kind that backups read, by the hundred.
#[test]
fn junk_is_fetched_once_and_named_every_time() {
    const EACH: u64 = 250;
    crate::block_on(async {
        let scene = Scene::new(7).await;
        let [first, _] = scene.sessions[..] else { panic!("two machines") };
        let mut junk = Vec::new();
        for at in 0..EACH {
            let stranger = SessionId { number: first.number, intent: Hash::of(&at.to_le_bytes()) };
            let sequence = 100 + at as u32;
            junk.push(names::log(&zone(), 3 + at));
            junk.push(names::outcome(&zone(), &stranger));
            junk.push(names::list(&zone(), &first, sequence));
            junk.push(names::index(&zone(), &first, sequence));
        }
        for (at, key) in junk.iter().enumerate() {
            scene.repo.tamper(key, format!("junk {at}").into_bytes()).await;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut counts: Vec<(u64, usize)> = Vec::new();
        for night in 0..3 {
            let mut repository = scene.open().await;
            repository.cache =
                Cache::new(folder.path().join("cache"), 1 << 30, |warning| panic!("{warning}"));
            scene.odd.take_fetched();
            let warnings = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
            let monitor = listening(&warnings);
            let mut disk = scene.disks[0].clone();
            disk[night] ^= 1;
            let options = sancerre_tests::repo::options("web01", vec![("disk0", MemoryDisk::new(disk))]);
            sancerre_engine::backup::backup(&repository, options, &monitor).await.unwrap();
            let fetched = scene.odd.take_fetched();
            let requests =
                junk.iter().filter_map(|key| fetched.get(key)).map(|fetched| fetched.requests).sum();
            let warned = warnings.lock().unwrap();
            counts.push((requests, warned.iter().filter(|told| told.contains("is ignored")).count()));
        }
        assert!(counts[0].0 >= 4 * EACH, "{counts:?}");
        // Of log entries, outcomes, lists and segments 16 each are looked at again: a bad line may have made them junk.
        assert!(counts[1].0 <= 4 * 16 && counts[2].0 <= 4 * 16, "{counts:?}");
        assert_eq!(counts[0].1, 2 * EACH as usize, "lists and segments are named: {counts:?}");
        assert_eq!((counts[1].1, counts[2].1), (counts[0].1, counts[0].1), "{counts:?}");
    });
}

fn listening(warnings: &Arc<std::sync::Mutex<Vec<String>>>) -> Monitor {
    let warnings = Arc::clone(warnings);
    Monitor::new(move |event| warnings.lock().unwrap().push(event.message))
}

/// The mark of junk is bound to what was there: other bytes are looked at.
#[test]
fn what_takes_the_place_of_junk_is_read() {
    crate::block_on(async {
        let scene = Scene::new(8).await;
        let folder = tempfile::tempdir().unwrap();
        let key = names::list(&zone(), &scene.sessions[0], 0);
        let list = scene.repo.object(&key).await;
        let open = async || {
            let mut repository = scene.open().await;
            repository.cache = Cache::new(folder.path().join("cache"), 1 << 30, |_| {});
            repository
        };
        scene.repo.tamper(&key, b"junk".to_vec()).await;
        let night = async |disk: &[u8]| {
            back_up(&open().await, "db01", MemoryDisk::new(disk.to_vec())).await.unwrap().new_bytes
        };
        let fetched = async || {
            scene.odd.take_fetched();
            let new_bytes = night(&scene.disks[1]).await;
            (new_bytes, scene.odd.take_fetched().get(&key).map_or(0, |fetched| fetched.requests))
        };
        let disk_bytes = scene.disks[0].len() as u64;
        assert_eq!(night(&scene.disks[0]).await, disk_bytes, "nobody knows what lies in web01's packs");
        assert_eq!(fetched().await, (0, 1), "few are looked at again each time");
        scene.repo.tamper(&key, list).await;
        assert_eq!((fetched().await.1, fetched().await.1), (1, 0));
    });
}

/// A quarantine of a few bytes that names all the packs there can be.
async fn sign_quarantine(scene: &Scene, set: &FrameSet) {
    let kind = Kind::Quarantine { reason: "found damaged or missing by check".into() };
    scene.repo.append(kind, &set.encode().unwrap()).await;
}

/// Sets that name very much in a few bytes cost time and memory by their text.
#[tokio::test(start_paused = true)]
async fn sets_that_name_very_much_cost_little() {
    let scene = Scene::new(9).await;
    let mut all = Ranges::default();
    (0..65_536).for_each(|index| all.insert(index));
    for session in 1..=8 {
        let mut whole = FrameSet::default();
        // Every session, from a pack on that is not there.
        (0..1 << 17).for_each(|ordinal| whole.insert_pack(PackName { session, ordinal: 1000 + ordinal }));
        let mut single = FrameSet::default();
        let packs = (0..1 << 14).map(|ordinal| PackName { session, ordinal: 1 << 20 | ordinal });
        packs.for_each(|pack| single.insert_members(pack, Members::Frames(&all)));
        for set in [whole, single].iter().filter(|_| session <= 2) {
            sign_quarantine(&scene, set).await;
        }
    }
    let started = std::time::Instant::now();
    let report =
        back_up(&scene.open().await, "web01", MemoryDisk::new(scene.disks[0].clone())).await.unwrap();
    assert_eq!(report.new_bytes, 0);
    let checked = check(&scene.open().await, &CHECK, &Monitor::silent()).await.unwrap();
    assert!(checked.findings.is_empty(), "{:?}", checked.findings);
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_quarantine_of_later_sessions_names_nothing() {
    let scene = Scene::new(10).await;
    let mut set = FrameSet::default();
    set.insert_pack(PackName { session: 1, ordinal: 0 });
    set.insert_pack(PackName { session: 4, ordinal: 0 });
    sign_quarantine(&scene, &set).await;
    let marks = Log::load(&scene.repo.open).await.unwrap().quarantined(Log::END);
    assert!(marks.to_set().is_empty(), "it cannot know of session 4");
}
