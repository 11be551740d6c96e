//! Repositories of every released format open and restore for ever.
//!
//! `testdata/repos/v1` was written once by `SANCERRE_BLESS=1 cargo test -p sancerre-tests --test it compat` and is
//! never written again: a version that cannot read it breaks a promise, not a test.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sancerre_engine::keys::Keys;
use sancerre_engine::location;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::{Log, open_body};
use sancerre_engine::store::StoreOptions;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::PackName;
use sancerre_format::log::Kind;
use sancerre_image::Disk;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::host::host;
use sancerre_tests::repo::{TestRepo, back_up, dump_bytes, passphrase, restore_bytes, zone};

/// The snapshots of `v1`: log number, disk size, BLAKE3 of the disk.
const SNAPSHOTS: [(u64, usize, &str); 2] = [
    (1, 1_199_001, "3ee0572aa9aa4562027fce44f0c514bebbd110e0a6a32926ec811075ad073d9d"),
    (3, 1_203_097, "b3b66ba2ea92b975bac168035fda081fbdbeac97043c85e13457b4cbd32da984"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/repos/v1")
}

/// Text, noise, holes, an odd end; the second night some of it changed and it grew.
fn disks() -> [Vec<u8>; 2] {
    let mut disk = vec![0; 1_199_001];
    disk[4096..104_096].copy_from_slice(&noise(1, 100_000));
    let text = b"Consultation du 3 mars, tension 12/8. ".iter().cycle();
    disk[300_000..700_000].iter_mut().zip(text).for_each(|(byte, letter)| *byte = *letter);
    disk[1_190_000..].fill(0x5a);
    let mut second = disk.clone();
    second[310_000..330_000].copy_from_slice(&noise(2, 20_000));
    second.extend([7; 4096]);
    [disk, second]
}

/// Makes the repository. Its keys are opened with next to no work, so that the test is quick.
async fn bless() {
    let (folder, repo) = (folder(), TestRepo::new(1).await);
    assert!(!folder.exists(), "{} is there for ever: a new format gets a new folder", folder.display());
    let [first, second] = disks();
    for (disk, (_, _, hash)) in [&first, &second].into_iter().zip(SNAPSHOTS) {
        assert_eq!(blake3::hash(disk).to_string(), hash, "pin this first");
    }
    back_up(&repo.open, "web01", MemoryDisk::new(first)).await.unwrap();
    // The first night's map, so that the second one has a map of its own.
    let mut set = FrameSet::default();
    set.insert_pack(PackName { session: 1, ordinal: 1 });
    repo.append(Kind::Quarantine { reason: "golden".into() }, &set.encode().unwrap()).await;
    repo.clock.advance(86_400);
    back_up(&repo.open, "web01", MemoryDisk::new(second)).await.unwrap();
    for (key, _) in repo.objects().await {
        let path = folder.join(&key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, repo.object(&key).await).unwrap();
    }
    std::fs::write(folder.with_extension("key"), &repo.key_file).unwrap();
}

async fn open() -> Repository {
    let store = location::open(folder().to_str().unwrap(), [], false, &StoreOptions::default()).unwrap();
    let keys = Keys::from_passphrase(&store, &zone(), &passphrase()).await.unwrap();
    Repository::open(store, host(0).0, keys).await.unwrap()
}

#[tokio::test]
async fn version_1_opens_lists_and_restores() {
    if std::env::var("SANCERRE_BLESS").is_ok() {
        bless().await;
    }
    let repository = open().await;
    let log = Log::load(&repository).await.unwrap();
    assert!(log.unknown_keys().is_empty() && log.missing().next().is_none());
    let quarantine = log.entry(2).unwrap().entry.as_ref().unwrap();
    assert!(matches!(quarantine.fields.kind, Kind::Quarantine { .. }));
    assert_eq!(log.snapshots().len(), SNAPSHOTS.len());
    for (snapshot, (number, size, hash)) in log.snapshots().iter().zip(SNAPSHOTS) {
        let fields = &snapshot.manifest.fields;
        assert_eq!((snapshot.session().number, fields.vm.as_str(), fields.disks), (number, "web01", 1));
        let body = open_body(&repository, snapshot).unwrap();
        assert_eq!((body.members[0].name.as_str(), body.members[0].size_bytes), ("disk0", size as u64));
        let session = snapshot.session();
        for bytes in [
            restore_bytes(&repository, session, "disk0").await,
            dump_bytes(&repository, session, "disk0").await,
        ] {
            assert_eq!(blake3::hash(&bytes.unwrap()).to_string(), hash, "snapshot {number}");
        }
    }
}

/// Today's writer continues what an old one began, and honours its quarantine.
#[tokio::test]
async fn version_1_is_continued() {
    let copy = tempfile::tempdir().unwrap();
    copy_tree(&folder(), copy.path());
    let store = location::open(copy.path().to_str().unwrap(), [], false, &StoreOptions::default()).unwrap();
    let key_file = std::fs::read(folder().with_extension("key")).unwrap();
    let keys = Keys::from_key_file(&key_file).unwrap();
    // Another seed than the repository was made with: a key is drawn once.
    let writer = Repository::open(store, host(99).0, keys).await.unwrap();
    let [first, second] = disks();
    let disk: Arc<dyn Disk> = MemoryDisk::new(second);
    let report = back_up(&writer, "web01", disk).await.unwrap();
    assert_eq!((report.new_bytes, report.stored_bytes), (0, 0), "cuts, ids and nodes are what they were");
    let report = back_up(&writer, "web02", MemoryDisk::new(first)).await.unwrap();
    assert_eq!(report.new_bytes, 0, "through the index");
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_tree(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
