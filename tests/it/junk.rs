//! Junk beside and in place of the objects below `keys/`: whatever an attacker with stolen write credentials puts there,
//! what was saved restores, and nobody is stopped.

use std::sync::Arc;

use sancerre_engine::check::{CheckOptions, CheckReport, ReadData, check};
use sancerre_engine::keys::certify::make_generation;
use sancerre_engine::keys::overview::Overview;
use sancerre_engine::keys::recipients::{self, To};
use sancerre_engine::keys::{Keys, SecretString, Unlock};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::session::append;
use sancerre_engine::store::Store;
use sancerre_engine::{Error, ErrorKind};
use sancerre_format::certificate::Role;
use sancerre_format::config::Identity;
use sancerre_format::id::SessionId;
use sancerre_format::log::{Distrust, Kind};
use sancerre_format::names;
use sancerre_format::recipient::Opener;
use sancerre_format::sign::SigningKey;
use sancerre_tests::disk::{MemoryDisk, guest};
use sancerre_tests::forge::signed_with;
use sancerre_tests::repo::{TestRepo, back_up, name, passphrase, restore_bytes, zone};

const SIZE: usize = 1 << 20;

/// Every folder of keys, with a name that sorts first and names that are the newest of their kind.
const PLACES: [&str; 12] = [
    "keys/identities/0002",
    "keys/identities/ffff",
    "keys/recipients/ffff-aaa",
    "keys/recipients/0001-aaa",
    "keys/recipients/aaa",
    "keys/admin/aaa",
    "keys/zones/default-0002",
    "keys/zones/default-ffff",
    "keys/zones/aaa",
    "keys/certificates/aaa",
    "keys/certificates/zzz",
    "keys/aaa",
];

/// One good object of each kind, to be copied elsewhere.
const COPIED: [&str; 5] = [
    "keys/identities/0001",
    "keys/recipients/0001-passphrase",
    "keys/admin/passphrase",
    "keys/zones/default-0001",
    "keys/certificates/host1",
];

struct Scene {
    repo: TestRepo,
    bytes: Vec<u8>,
    saved: SessionId,
    planted: Vec<String>,
}

async fn scene(seed: u64) -> Scene {
    let repo = TestRepo::new(seed).await;
    let bytes = guest(seed, SIZE);
    let saved = back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap().snapshot.unwrap();
    Scene { repo, bytes, saved, planted: Vec::new() }
}

async fn checked(repository: &Repository) -> CheckReport {
    let options = CheckOptions { read_data: ReadData::All, quarantine: false };
    check(repository, &options, &Monitor::silent()).await.unwrap()
}

impl Scene {
    async fn plant(&mut self, key: &str, bytes: Vec<u8>) {
        self.repo.tamper(key, bytes).await;
        self.planted.push(key.to_owned());
    }

    /// All that people do goes on, and `check` names every object that was planted.
    async fn everything_works(&self, round: usize) {
        let repository = self.repo.reopen().await;
        assert_eq!(restore_bytes(&repository, self.saved, "disk0").await.unwrap(), self.bytes);
        let report = checked(&repository).await;
        for key in &self.planted {
            assert!(report.findings.iter().any(|finding| finding.object == *key), "{key} is not named");
        }
        for keys in [repository, self.repo.as_writer().await] {
            let disk = MemoryDisk::new(guest(round as u64, SIZE));
            let saved = back_up(&keys, "db01", disk).await.unwrap().snapshot.unwrap();
            let again = self.repo.reopen().await;
            assert_eq!(restore_bytes(&again, saved, "disk0").await.unwrap(), guest(round as u64, SIZE));
        }
        self.keys_work(round).await;
    }

    async fn keys_work(&self, round: usize) {
        let mut admin = self.repo.reopen().await;
        let unlock = Unlock::default().with_passphrase(passphrase());
        admin.keys.unlock_admin(&admin.store, &unlock).await.unwrap();
        let label = format!("hv{round}");
        let file = self.repo.certify(&label, Role::Writer).await;
        let as_new = self.repo.with_key_file(&file).await;
        back_up(&as_new, "web02", MemoryDisk::new(vec![7; 100_000])).await.unwrap();
        let listed = Overview::read(&admin).await.unwrap();
        assert!(listed.keys.iter().any(|key| key.certificate.name == name(&label)));
        let log = Log::load(&admin).await.unwrap();
        let distrust = Distrust { writer: name(&label), from: log.highest() + 1, reason: "test".into() };
        append(&admin, &log, Kind::Revoke(distrust), &[]).await.unwrap();
        let other = To::Passphrase(SecretString::from(format!("another {round}")));
        recipients::add(&admin, &name(&format!("r{round}")), &other).await.unwrap();
    }
}

#[tokio::test]
async fn junk_beside_every_key_form_stops_nobody() {
    let mut scene = scene(51).await;
    for place in PLACES {
        scene.plant(place, b"junk".to_vec()).await;
        scene.plant(&format!("{place}-1"), vec![0]).await;
        scene.plant(&format!("{place}/folder/0001"), b"junk".to_vec()).await;
    }
    // The store writes it in another way than it lists it, so it cannot be read, and nobody misses it.
    scene.repo.tamper("keys/zones/../0001", b"junk".to_vec()).await;
    scene.plant("keys/identities/0003", vec![0; (1 << 20) + 1]).await;
    scene.everything_works(1).await;
}

#[tokio::test]
async fn good_objects_in_other_places_stop_nobody() {
    let mut scene = scene(52).await;
    for (round, from) in COPIED.into_iter().enumerate() {
        let bytes = scene.repo.object(from).await;
        for to in PLACES {
            // A junk object of one copy is that of the next.
            scene.plant(to, bytes.clone()).await;
        }
        scene.everything_works(round + 1).await;
    }
}

#[tokio::test]
async fn what_nobody_may_read_stops_nobody() {
    let mut scene = scene(53).await;
    for place in PLACES {
        scene.plant(place, b"junk".to_vec()).await;
        scene.repo.store.deny(place);
    }
    scene.everything_works(1).await;
}

#[tokio::test]
async fn junk_in_place_of_what_a_restore_does_not_need_does_not_stop_it() {
    let scene = scene(54).await;
    for key in ["keys/identities/0001", "keys/certificates/host1", "keys/admin/passphrase"] {
        scene.repo.tamper(key, b"junk".to_vec()).await;
    }
    let repository = scene.repo.reopen().await;
    assert_eq!(repository.keys.left_out().len(), 2, "{:?}", repository.keys.left_out());
    assert_eq!(restore_bytes(&repository, scene.saved, "disk0").await.unwrap(), scene.bytes);
    let as_writer = scene.repo.as_writer().await;
    back_up(&as_writer, "web01", MemoryDisk::new(scene.bytes.clone())).await.unwrap();
}

/// An identity of a later version, signed by the admin.
async fn later_identity(repo: &TestRepo, epoch: u16) -> Vec<u8> {
    let (_, recipient) = recipients::new_key(&repo.host).unwrap();
    let (repository, created) = (repo.open.keys.trust.repository, repo.host.clock.now());
    let identity = Identity { repository, epoch, created, recipient };
    let later = |text: String| text.replacen("critical: -", "critical: teleport", 1);
    signed_with(&identity, &repo.admin_key().await, &[], later)
}

#[tokio::test]
async fn a_newer_version_is_named_where_nothing_else_serves() {
    let mut scene = scene(55).await;
    let later = later_identity(&scene.repo, 2).await;
    scene.plant(&names::identity(2), later).await;
    // Reading goes on. A writer must not seal to an epoch that was given up.
    let repository = scene.repo.reopen().await;
    assert_eq!(restore_bytes(&repository, scene.saved, "disk0").await.unwrap(), scene.bytes);
    let refused = back_up(&repository, "web01", MemoryDisk::new(vec![1; 5000])).await.unwrap_err();
    assert!(refused.to_string().contains("newer version"), "{refused}");

    let repo = TestRepo::new(56).await;
    let key = "keys/recipients/0001-passphrase";
    let bytes = repo.object(key).await;
    let record = sancerre_format::record::decode::<sancerre_format::recipient::Recipient>(
        &repo.open.keys.trust,
        &bytes,
    );
    let later = |text: String| text.replacen("critical: -", "critical: teleport", 1);
    let bytes = signed_with(&record.unwrap().fields, &repo.admin_key().await, &[], later);
    repo.tamper(key, bytes).await;
    let store = Store::new(repo.store.clone(), "memory");
    let refused = Keys::from_passphrase(&store, &zone(), &passphrase()).await.err().unwrap();
    assert!(refused.to_string().contains("newer version"), "{refused}");
}

#[tokio::test]
async fn a_hidden_epoch_is_not_rolled_back() {
    let scene = scene(57).await;
    let admin = scene.repo.as_admin().await;
    recipients::add(&admin, &name("vault"), &To::Key(a_key(&scene.repo))).await.unwrap();
    recipients::remove(&admin, &name("vault"), Some(&passphrase())).await.unwrap();
    let writer = scene.repo.as_writer().await;
    back_up(&writer, "web01", MemoryDisk::new(vec![1; 100_000])).await.unwrap();

    let hidden = names::identity(2);
    scene.repo.lose(std::slice::from_ref(&hidden)).await;
    for junk in [None, Some(b"junk".to_vec())] {
        if let Some(junk) = junk {
            scene.repo.tamper(&hidden, junk).await;
        }
        let refused = back_up(&writer, "web01", MemoryDisk::new(vec![2; 100_000])).await.unwrap_err();
        let said = refused.to_string();
        assert!(matches!(refused, Error::Refused(_)) && said.contains("identity epoch 2"), "{said}");
        assert!(said.contains(&hidden) && said.contains("log entry 2 of host1"), "{said}");
    }
}

fn a_key(repo: &TestRepo) -> Opener {
    Opener::Age(recipients::new_key(&repo.host).unwrap().1)
}

#[tokio::test]
async fn junk_uses_up_no_epochs_but_its_own() {
    let scene = scene(58).await;
    scene.repo.tamper("keys/identities/ffff", b"junk".to_vec()).await;
    scene.repo.tamper("keys/identities/0002", b"junk".to_vec()).await;
    let admin = scene.repo.as_admin().await;
    recipients::add(&admin, &name("vault"), &To::Key(a_key(&scene.repo))).await.unwrap();
    let removed = recipients::remove(&admin, &name("vault"), Some(&passphrase())).await.unwrap();
    assert_eq!(removed.epoch, 3);
    assert_eq!(restore_bytes(&scene.repo.reopen().await, scene.saved, "disk0").await.unwrap(), scene.bytes);
}

#[tokio::test]
async fn the_admins_key_of_somebody_else_is_not_tried() {
    let scene = scene(59).await;
    let stranger = SigningKey::from_seed([9; 32]);
    let fields = sancerre_format::recipient::AdminKey {
        repository: scene.repo.open.keys.trust.repository,
        label: name("aaa"),
        created: scene.repo.host.clock.now(),
    };
    let bytes = signed_with(&fields, &stranger, &[], |text| text);
    scene.repo.tamper("keys/admin/aaa", bytes).await;
    scene.repo.as_admin().await;
    let listed = Overview::read(&scene.repo.open).await.unwrap();
    assert!(listed.left_out.iter().any(|left_out| left_out.key == "keys/admin/aaa"));
}

#[tokio::test]
async fn generations_live_side_by_side() {
    let scene = scene(60).await;
    let old_file = scene.repo.as_writer().await;
    let mut admin = scene.repo.as_admin().await;
    assert_eq!(make_generation(&mut admin).await.unwrap(), 2);
    let new_file = scene.repo.with_key_file(&scene.repo_certify("hv2").await).await;
    assert_eq!(new_file.keys.generation(), Some(2));

    // Nothing of the first generation is reused by the second, and the base map of the first is not looked at.
    let again = back_up(&new_file, "web01", MemoryDisk::new(scene.bytes.clone())).await.unwrap();
    let stored = |report: &sancerre_engine::backup::BackupReport| (report.new_bytes, report.data_bytes);
    assert_eq!(stored(&again).0, stored(&again).1);
    let more = back_up(&new_file, "web01", MemoryDisk::new(scene.bytes.clone())).await.unwrap();
    assert_eq!(more.new_bytes, 0);
    // A key file of the first generation still works, in it.
    let old = back_up(&old_file, "web01", MemoryDisk::new(scene.bytes.clone())).await.unwrap();
    assert_eq!(old.new_bytes, 0);

    let repository = scene.repo.reopen().await;
    assert_eq!(repository.keys.generation(), Some(2));
    for session in [scene.saved, again.snapshot.unwrap(), more.snapshot.unwrap(), old.snapshot.unwrap()] {
        assert_eq!(restore_bytes(&repository, session, "disk0").await.unwrap(), scene.bytes);
    }
    for keys in [&repository, &new_file, &old_file] {
        let report = checked(keys).await;
        assert!(
            report.findings.iter().all(|finding| finding.severity == sancerre_engine::check::Severity::Note),
            "{:?}",
            report.findings
        );
    }
    assert_eq!(checked(&repository).await.findings, []);
    let refused =
        sancerre_engine::restore::open(&new_file, Arc::new(Log::load(&new_file).await.unwrap()), scene.saved);
    let refused = refused.await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::WrongKey);
    assert!(refused.to_string().contains("generation 1"), "{refused}");
}

impl Scene {
    async fn repo_certify(&self, label: &str) -> String {
        let mut admin = self.repo.reopen().await;
        let unlock = Unlock::default().with_passphrase(passphrase());
        admin.keys.unlock_admin(&admin.store, &unlock).await.unwrap();
        let new =
            sancerre_engine::keys::certify::NewKey { name: name(label), role: Role::Writer, expires: None };
        sancerre_engine::keys::certify::certify(&admin, &new).await.unwrap().to_string()
    }
}
