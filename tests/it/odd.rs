//! Keys and files that no program of ours would make: nobody is stopped by them, on any kind of store, and `check` names
//! them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sancerre_engine::check::{CheckOptions, CheckReport, ReadData, Severity, check};
use sancerre_engine::gc::gc;
use sancerre_engine::keys::{Keys, Unlock};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::store::{Store, StoreOptions};
use sancerre_engine::{Error, location};
use sancerre_format::id::SessionId;
use sancerre_tests::bucket::{FakeBucket, Features};
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::host::host;
use sancerre_tests::odd::OddStore;
use sancerre_tests::repo::{TestRepo, back_up, make, passphrase, restore_bytes, zone};

const SIZE: usize = 1 << 20;
/// Folders in which the program lists something.
const FOLDERS: [&str; 11] = [
    "keys",
    "keys/zones",
    "keys/certificates",
    "keys/recipients",
    "keys/identities",
    "zones/default",
    "zones/default/log",
    "zones/default/outcome",
    "zones/default/packs/0000000000000001",
    "zones/default/lists",
    "zones/default/index",
];
/// Names that can be spelled in a path of ours, after some way or other.
const SPELLED: [&str; 6] = ["%2E%2E", "100%", "a~b", "*?", "\u{202e}tset", "a\\b"];
/// Names that cannot.
const UNSPELLED: [&str; 8] = ["a//b", "../b", "./b", "a/", "/a", "a\nb", " a ", "\u{7f}"];

struct Scene {
    /// Opens the store anew.
    open: Box<dyn Fn() -> Store>,
    repository: Repository,
    saved: SessionId,
    bytes: Vec<u8>,
}

impl Scene {
    async fn new(seed: u64, open: Box<dyn Fn() -> Store>) -> Self {
        let repository = make(&open(), &host(seed).0).await.unwrap();
        let bytes = noise(seed, SIZE);
        let report = back_up(&repository, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
        Self { open, saved: report.snapshot.unwrap(), repository, bytes }
    }

    async fn as_admin(&self) -> Repository {
        let store = (self.open)();
        let mut keys = Keys::from_passphrase(&store, &zone(), &passphrase()).await.unwrap();
        keys.unlock_admin(&store, &Unlock::default().with_passphrase(passphrase())).await.unwrap();
        Repository::open(store, self.repository.host.clone(), keys).await.unwrap()
    }

    /// Everybody goes on, and `check` finds nothing worse than unknown keys; returns what it names.
    async fn everything_works(&self) -> BTreeSet<String> {
        let admin = self.as_admin().await;
        assert!(restore_bytes(&admin, self.saved, "disk0").await.unwrap() == self.bytes);
        let report = back_up(&admin, "web01", MemoryDisk::new(self.bytes.clone())).await.unwrap();
        assert_eq!(report.new_bytes, 0);
        assert!(gc(&admin, &crate::gc::OPTIONS, &Monitor::silent()).await.unwrap().committed);
        let checked = checked(&self.as_admin().await).await;
        let bad: Vec<_> = checked
            .findings
            .iter()
            .filter(|found| found.severity != Severity::Note && !found.object.starts_with("keys/"))
            .collect();
        assert!(bad.is_empty(), "{bad:?}");
        assert!(restore_bytes(&self.as_admin().await, self.saved, "disk0").await.unwrap() == self.bytes);
        checked.findings.into_iter().map(|finding| finding.object).collect()
    }
}

async fn checked(repository: &Repository) -> CheckReport {
    let options = CheckOptions { read_data: ReadData::All, quarantine: false };
    check(repository, &options, &Monitor::silent()).await.unwrap()
}

fn impatient() -> StoreOptions {
    StoreOptions { retry_for: Duration::ZERO, ..StoreOptions::default() }
}

async fn a_bucket(seed: u64, bucket: &FakeBucket, (place, variables): (String, Vec<(String, String)>)) {
    let open = move || location::open(&place, variables.clone(), false, &impatient()).unwrap();
    let scene = Scene::new(seed, Box::new(open)).await;
    let mut planted = BTreeSet::new();
    for folder in FOLDERS {
        for name in SPELLED.into_iter().chain(UNSPELLED) {
            let key = format!("{folder}/{name}");
            bucket.plant(&key, b"junk");
            planted.insert(key);
        }
    }
    // As consoles make folders, over what is there and where the next ones come.
    for key in ["zones/default/log/0000000000000001/", "zones/default/log/0000000000000002/"] {
        bucket.plant(key, b"");
        planted.insert(key.to_owned());
    }
    let named = scene.everything_works().await;
    let silent: Vec<_> = planted.difference(&named).collect();
    assert!(silent.is_empty(), "not named: {silent:?}");
}

#[tokio::test]
async fn keys_of_any_spelling_stop_nobody_on_s3() {
    let bucket = FakeBucket::start(Features::default()).await;
    a_bucket(1, &bucket, bucket.s3()).await;
}

#[tokio::test]
async fn keys_of_any_spelling_stop_nobody_where_versions_are_kept() {
    let bucket = FakeBucket::start(Features { versions: true, ..Features::default() }).await;
    a_bucket(2, &bucket, bucket.s3()).await;
}

#[tokio::test]
async fn keys_of_any_spelling_stop_nobody_on_gcs() {
    let bucket = FakeBucket::start(Features::default()).await;
    a_bucket(3, &bucket, bucket.gcs()).await;
}

struct Folder {
    folder: tempfile::TempDir,
    scene: Scene,
}

impl Folder {
    async fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_str().unwrap().to_owned();
        let open = move || location::open(&place, [], true, &impatient()).unwrap();
        Self { folder, scene: Scene::new(seed, Box::new(open)).await }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join(key)
    }
}

#[tokio::test]
async fn files_of_any_name_stop_nobody() {
    let place = Folder::new(4).await;
    let mut planted = BTreeSet::new();
    for folder in FOLDERS {
        let unspelled = ["a\nb", " a ", "\u{7f}"];
        for name in SPELLED.into_iter().chain(unspelled) {
            std::fs::write(place.path(folder).join(name), b"junk").unwrap();
            planted.insert(format!("{folder}/{name}"));
        }
        std::fs::write(place.path(folder).join(OsStr::from_bytes(b"\xff\xfe")), b"junk").unwrap();
        std::fs::create_dir(place.path(folder).join(OsStr::from_bytes(b"d\xff"))).unwrap();
        std::fs::write(place.path(folder).join(OsStr::from_bytes(b"d\xff")).join("x"), b"junk").unwrap();
        std::fs::create_dir_all(place.path(folder).join("a\tb/c")).unwrap();
        planted.insert(format!("{folder}/a\tb"));
        planted.insert(format!("{folder}/\u{fffd}\u{fffd}"));
    }
    let named = place.scene.everything_works().await;
    let silent: Vec<_> = planted.difference(&named).collect();
    assert!(silent.is_empty(), "not named: {silent:?}");
}

fn link(to: &Path, at: PathBuf) {
    std::os::unix::fs::symlink(to, at).unwrap();
}

/// Links that lead in circles and to each other many times over, to devices and to nothing; pipes, sockets, times.
#[tokio::test]
async fn what_is_no_plain_file_stops_nobody() {
    let place = Folder::new(5).await;
    let next = place.path("zones/default/log/0000000000000009");
    for folder in FOLDERS {
        let at = |name: &str| place.path(folder).join(name);
        for twin in 0..20 {
            link(Path::new("."), at(&format!("circle{twin}")));
            link(place.folder.path(), at(&format!("up{twin}")));
        }
        link(Path::new("nowhere"), at("broken"));
        link(Path::new("self"), at("self"));
        link(Path::new("/dev/zero"), at("zero"));
        pipe(&at("pipe"));
        drop(std::os::unix::net::UnixListener::bind(at("socket")).unwrap());
    }
    pipe(&next);
    let odd = place.path("keys/certificates/old");
    std::fs::write(&odd, b"junk").unwrap();
    let late = std::time::UNIX_EPOCH + Duration::from_secs(1 << 40);
    // Not every file system can tell such a time.
    drop(std::fs::File::options().write(true).open(&odd).unwrap().set_modified(late));
    let named = tokio::time::timeout(Duration::from_secs(60), place.scene.everything_works()).await.unwrap();
    for key in ["keys/zones/pipe", "zones/default/log/zero", "zones/default/outcome/socket"] {
        assert!(named.contains(key), "{key}: {named:?}");
    }
}

/// Folders in folders, to a path that is longer than the system takes.
#[tokio::test]
async fn a_deep_folder_stops_nobody() {
    let place = Folder::new(7).await;
    let name = "d".repeat(250);
    let script = format!("for i in $(seq 30); do mkdir {name} && cd -P {name} || exit 1; done");
    for folder in ["keys", "zones/default/lists"] {
        let at = place.path(folder);
        let made = std::process::Command::new("bash").args(["-c", &script]).current_dir(at).status();
        assert!(made.unwrap().success());
    }
    place.scene.everything_works().await;
    let removed = std::process::Command::new("rm").arg("-rf").arg(place.folder.path()).status();
    assert!(removed.unwrap().success());
}

/// The manifest has its name, and the disk did not keep it: whoever asks is told neither that it is saved nor that it is not.
#[tokio::test(start_paused = true)]
async fn a_manifest_that_the_disk_did_not_confirm_is_not_called_saved() {
    let repo = TestRepo::new(8).await;
    let odd = OddStore::new(repo.memory.clone());
    odd.loses_flushes("/outcome/");
    let through = repo.through(odd);
    let bytes = noise(8, SIZE);
    let error = back_up(&through, "web01", MemoryDisk::new(bytes.clone())).await.unwrap_err();
    let told = error.to_string();
    assert!(matches!(error, Error::Undecided { .. }) && told.contains("did not confirm"), "{told}");
    assert!(told.contains("`snapshots`"), "{told}");
    // Anything else that is not flushed is no part of a snapshot.
    for part in ["/log/", "/packs/", "/lists/"] {
        let odd = OddStore::new(repo.memory.clone());
        odd.loses_flushes(part);
        let snapshots = Log::load(&repo.open).await.unwrap().snapshots().len();
        back_up(&repo.through(odd), "db01", MemoryDisk::new(noise(9, SIZE))).await.unwrap_err();
        assert_eq!(Log::load(&repo.open).await.unwrap().snapshots().len(), snapshots, "{part}");
    }
}

fn pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

/// A repository whose parts lie behind links is whole, whatever else leads there.
#[tokio::test]
async fn a_linked_folder_is_part_of_the_repository() {
    let place = Folder::new(6).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let packs = place.path("zones/default/packs");
    let moved = elsewhere.path().join("packs");
    std::fs::rename(&packs, &moved).unwrap_or_else(|_| {
        let copied = std::process::Command::new("cp").args(["-a"]).arg(&packs).arg(&moved).status();
        assert!(copied.unwrap().success());
        std::fs::remove_dir_all(&packs).unwrap();
    });
    link(&moved, packs);
    link(Path::new("default"), place.path("zones/aaa"));
    place.scene.everything_works().await;
}
