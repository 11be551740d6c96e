//! What must not be done, is not; and whoever asked is told why, in a kind that scripts can tell apart.

use std::sync::Arc;

use sancerre_engine::backup::{Allow, BackupOptions, BackupReport, backup};
use sancerre_engine::keys::{Keys, SecretString};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::{Log, Outcome};
use sancerre_engine::restore::{self, RestoreOptions};
use sancerre_engine::store::Store;
use sancerre_engine::{Error, ErrorKind, StoreError};
use sancerre_format::log::Kind;
use sancerre_format::outcome::Consistency;
use sancerre_format::record;
use sancerre_image::Disk;
use sancerre_tests::disk::{MemoryDisk, guest, noise};
use sancerre_tests::forge::signed_with;
use sancerre_tests::model::Model;
use sancerre_tests::repo::{TestRepo, back_up, options, passphrase, zone};
use sancerre_tests::store::Cut;

/// A repository with one snapshot.
async fn repo_with(seed: u64, bytes: &[u8]) -> (TestRepo, Model, BackupReport) {
    let (repo, mut model) = (TestRepo::new(seed).await, Model::default());
    let report = back_up(&repo.open, "web01", MemoryDisk::new(bytes.to_vec())).await.unwrap();
    model.add_disk(report.snapshot.unwrap(), bytes);
    (repo, model, report)
}

/// The backup fails, nothing is saved, and what it uploaded is not uploaded again.
async fn fails(disk: Arc<dyn Disk>, bytes: &[u8], expected: fn(&Error) -> bool) {
    let (repo, mut model, _) = repo_with(50, &guest(51, 1 << 20)).await;
    let error = back_up(&repo.open, "web01", disk).await.unwrap_err();
    assert!(expected(&error), "{error}");
    assert_eq!(error.kind(), ErrorKind::Failed);
    let log = Log::load(&repo.open).await.unwrap();
    assert_eq!(log.snapshots().len(), 1, "nothing was saved");
    let last = log.entry(log.highest()).unwrap();
    assert!(matches!(&last.outcome, Outcome::Abort(_)), "the session was ended");
    assert!(repo.keys_with("/packs/0000000000000002/").await.len() > 2, "something was uploaded before");
    let again = back_up(&repo.open, "web01", MemoryDisk::new(bytes.to_vec())).await.unwrap();
    assert!(again.new_bytes < again.data_bytes, "uploaded packs are reused: {again:?}");
    model.add_disk(again.snapshot.unwrap(), bytes);
    model.check(&repo.open).await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_changes_while_it_is_read() {
    let bytes = noise(52, 8 << 20);
    fails(MemoryDisk::changing(bytes.clone(), 6), &bytes, |error| matches!(error, Error::Changed { .. }))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_with_a_bad_block() {
    let bytes = noise(53, 8 << 20);
    let disk = MemoryDisk::unreadable(bytes.clone(), (6 << 20) + 12_345);
    fails(disk, &bytes, |error| matches!(error, Error::Read(_)) && error.to_string().contains("6303801"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_shrinks() {
    let bytes = noise(54, 8 << 20);
    fails(MemoryDisk::shrunk(bytes.clone(), 6 << 20), &bytes, |error| error.to_string().contains("shrank"))
        .await;
}

/// One disk of a VM that changes after it was read, while another is read: their bytes are of different times.
#[tokio::test(start_paused = true)]
async fn a_disk_that_changes_while_another_is_read() {
    let (repo, bytes) = (TestRepo::new(55).await, noise(56, 3 << 20));
    let first = MemoryDisk::new(bytes.clone());
    let writer = first.clone();
    let second = MemoryDisk::watched(bytes, move |_| writer.touch());
    let disks: Vec<(_, Arc<dyn Disk>)> = vec![("system", first), ("data", second)];
    let error = backup(&repo.open, options("web01", disks), &Monitor::silent()).await.unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    assert!(Log::load(&repo.open).await.unwrap().snapshots().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_changing_disk_is_saved_when_allowed_and_said_to_be_fuzzy() {
    let (repo, bytes) = (TestRepo::new(57).await, guest(58, 5 << 20));
    let disks: Vec<(_, Arc<dyn Disk>)> =
        vec![("system", MemoryDisk::changing(bytes.clone(), 2)), ("data", MemoryDisk::new(bytes.clone()))];
    let allowed =
        BackupOptions { allow: Allow { changing: true, ..Allow::default() }, ..options("web01", disks) };
    let report = backup(&repo.open, allowed, &Monitor::silent()).await.unwrap();
    let fuzzy: Vec<bool> = report.members.iter().map(|member| member.fuzzy).collect();
    assert_eq!((report.fuzzy, fuzzy), (true, vec![true, false]));
    let log = Log::load(&repo.open).await.unwrap();
    assert_eq!(log.snapshots()[0].manifest.fields.consistency, Consistency::Fuzzy);
    let mut model = Model::default();
    model.add(report.snapshot.unwrap(), vec![("system".into(), bytes.clone()), ("data".into(), bytes)]);
    model.check(&repo.open).await;
}

fn kind<T>(result: sancerre_engine::Result<T>) -> ErrorKind {
    result.err().expect("it must be refused").kind()
}

#[tokio::test(start_paused = true)]
async fn keys_that_do_not_fit() {
    let (repo, other) = (TestRepo::new(60).await, TestRepo::new(61).await);
    let wrong = SecretString::from("incorrect horse".to_owned());
    assert_eq!(kind(Keys::from_passphrase(&repo.open.store, &zone(), &wrong).await), ErrorKind::WrongKey);
    let foreign = Keys::from_key_file(other.key_file.as_bytes()).unwrap();
    let opened = Repository::open(repo.open.store.clone(), repo.host.clone(), foreign).await;
    assert_eq!(kind(opened), ErrorKind::WrongKey);
    let broken = repo.key_file.replace("signing-key: ", "signing-key: 00");
    assert_eq!(kind(Keys::from_key_file(broken.as_bytes())), ErrorKind::WrongKey);
    let empty = Store::new(Arc::new(object_store::memory::InMemory::new()), "empty");
    assert_eq!(kind(Keys::from_passphrase(&empty, &zone(), &passphrase()).await), ErrorKind::NoRepository);
    let keys = Keys::from_key_file(repo.key_file.as_bytes()).unwrap();
    assert_eq!(kind(Repository::open(empty, repo.host.clone(), keys).await), ErrorKind::NoRepository);
}

#[tokio::test(start_paused = true)]
async fn a_writers_key_opens_no_content() {
    let (repo, _, report) = repo_with(62, &guest(63, 1 << 20)).await;
    let writer = repo.as_writer().await;
    let log = Log::load(&writer).await.unwrap();
    let reader = restore::open(&writer, &log, report.snapshot.unwrap()).await.unwrap();
    repo.store.take_calls();
    let (mut bytes, options) = (Vec::new(), RestoreOptions::new(1 << 20));
    let member = reader.member("disk0").unwrap();
    let dumped = restore::dump(&reader, member, &mut bytes, &options, &Monitor::silent()).await;
    assert_eq!(kind(dumped), ErrorKind::WrongKey);
    assert_eq!((repo.store.take_calls().all(), bytes.len()), (0, 0), "refused before anything is fetched");
}

#[tokio::test(start_paused = true)]
async fn a_config_that_was_tampered_with() {
    let (repo, _, _) = repo_with(64, &guest(65, 100_000)).await;
    let config = repo.object("config").await;
    for at in (0..config.len()).step_by(97) {
        let mut changed = config.clone();
        changed[at] ^= 1;
        repo.tamper("config", changed).await;
        let opened =
            Repository::open(repo.open.store.clone(), repo.host.clone(), Keys::clone(&repo.open.keys)).await;
        assert!(matches!(kind(opened), ErrorKind::Damaged | ErrorKind::WrongKey), "byte {at}");
    }
    repo.tamper("config", config).await;
    repo.reopen().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_vanishes_or_is_full() {
    for full in [false, true] {
        let (repo, mut model, _) = repo_with(66, &guest(67, 1 << 20)).await;
        let bytes = noise(68, 6 << 20);
        if full {
            repo.store.fill_after(5);
        } else {
            repo.store.crash_at(20, Cut::Before);
        }
        let error = back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap_err();
        assert!(matches!(&error, Error::Store(StoreError::Failed { operation: "write", .. })), "{error}");
        assert!(error.to_string().contains("free space"), "{error}");
        repo.store.recover();
        assert_eq!(Log::load(&repo.open).await.unwrap().snapshots().len(), 1);
        model.check(&repo.open).await;
        let report = back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
        model.add_disk(report.snapshot.unwrap(), &bytes);
        model.check(&repo.open).await;
    }
}

fn quarantine() -> Kind {
    Kind::Quarantine { reason: "test".into() }
}

#[tokio::test(start_paused = true)]
async fn a_log_entry_from_the_future_stops_the_writer() {
    let (repo, model, _) = repo_with(70, &guest(71, 100_000)).await;
    let entry = repo.next_entry(quarantine()).await;
    let newer = |text: String| text.replacen("critical: -", "critical: teleport", 1);
    let bytes = signed_with(&entry, &repo.admin_key().await, &[], newer);
    repo.put_log(entry.number, bytes).await;
    let before = repo.objects().await;
    let error = back_up(&repo.open, "web01", MemoryDisk::new(vec![1; 4096])).await.unwrap_err();
    assert!(error.to_string().contains("teleport"), "{error}");
    assert_eq!(repo.objects().await, before, "nothing was announced");
    repo.lose(&repo.keys_with(&format!("/log/{:016x}", entry.number)).await).await;
    model.check(&repo.open).await;
}

/// The set of a quarantine may need a newer version as well as its text: what it names is not known, so it is not nothing.
#[tokio::test(start_paused = true)]
async fn a_public_part_from_the_future_stops_the_writer() {
    for (kind, text) in [(quarantine(), "sancerre-frames-v1"), (Kind::Gc { generation: 1 }, "sancerre-gc-v1")]
    {
        let (repo, model, _) = repo_with(70, &guest(71, 100_000)).await;
        let part = zstd::bulk::compress(format!("{text}\ncritical: teleport\n").as_bytes(), 1).unwrap();
        let session = repo.append(kind, &part).await;
        let error = back_up(&repo.open, "web01", MemoryDisk::new(vec![1; 4096])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("teleport"), "{error}");
        repo.lose(&repo.keys_with(&format!("/log/{:016x}", session.number)).await).await;
        model.check(&repo.open).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_void_log_entry_stops_nobody() {
    let (repo, mut model, _) = repo_with(72, &guest(73, 100_000)).await;
    let entry = repo.next_entry(quarantine()).await;
    let stranger = sancerre_format::sign::SigningKey::from_seed([7; 32]);
    let forged = record::encode(&entry, "sancerre test", &stranger, &[], &[]).unwrap();
    // Not even one that claims to need a newer version: it was signed by nobody.
    let newer = |text: String| text.replacen("critical: -", "critical: teleport", 1);
    repo.put_log(entry.number, forged).await;
    repo.put_log(entry.number + 1, signed_with(&entry, &stranger, &[], newer)).await;
    repo.put_log(entry.number + 2, b"noise".to_vec()).await;
    let report = back_up(&repo.open, "web01", MemoryDisk::new(vec![1; 4096])).await.unwrap();
    assert_eq!(report.snapshot.unwrap().number, entry.number + 3);
    model.add_disk(report.snapshot.unwrap(), &[1; 4096]);
    model.check(&repo.open).await;
}

#[tokio::test(start_paused = true)]
async fn a_gap_in_the_log_stops_the_writer() {
    let (repo, _, _) = repo_with(74, &guest(75, 100_000)).await;
    back_up(&repo.open, "web01", MemoryDisk::new(vec![1; 4096])).await.unwrap();
    // With its outcome, which would stand for it.
    for lost in ["/log/0000000000000001", "/outcome/0000000000000001"] {
        repo.lose(&repo.keys_with(lost).await).await;
    }
    let error = back_up(&repo.open, "web01", MemoryDisk::new(vec![2; 4096])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    assert!(error.to_string().contains("log entry 1 is missing: entry 2 of host1"), "{error}");
}
