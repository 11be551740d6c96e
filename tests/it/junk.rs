//! Junk beside and in place of the objects below `keys/`: whatever an attacker with stolen write credentials puts there,
//! what was saved restores, and nobody is stopped.

use std::sync::Arc;

use object_store::ObjectStoreExt;
use object_store::path::Path;
use sancerre_engine::check::{CheckOptions, CheckReport, ReadData, Severity, check};
use sancerre_engine::keys::certify::{NewKey, certify, make_generation};
use sancerre_engine::keys::overview::Overview;
use sancerre_engine::keys::recipients::{self, To};
use sancerre_engine::keys::{Keys, SecretString, Unlock};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::session::append;
use sancerre_engine::stats::stats;
use sancerre_engine::store::Store;
use sancerre_engine::{Error, ErrorKind};
use sancerre_format::certificate::Role;
use sancerre_format::config::IdentityRecord;
use sancerre_format::id::SessionId;
use sancerre_format::log::{Distrust, Kind};
use sancerre_format::names;
use sancerre_format::recipient::Opener;
use sancerre_format::sign::SigningKey;
use sancerre_tests::disk::{MemoryDisk, guest, noise};
use sancerre_tests::forge::signed_with;
use sancerre_tests::repo::{TestRepo, back_up, name, passphrase, restore_bytes, zone};

use crate::gc::{collect, drop_snapshot};

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
    scene_of(seed, guest(seed, SIZE)).await
}

async fn scene_of(seed: u64, bytes: Vec<u8>) -> Scene {
    let repo = TestRepo::new(seed).await;
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
        Arc::make_mut(&mut admin.keys).unlock_admin(&admin.store, &unlock).await.unwrap();
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
    // Spelled as the store lists `..`.
    let odd = "keys/zones/%2E%2E/0001";
    scene.repo.memory.put(&Path::parse(odd).unwrap(), b"junk".to_vec().into()).await.unwrap();
    scene.planted.push(odd.to_owned());
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
    let identity = IdentityRecord { repository, epoch, created, recipient };
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
    let record = sancerre_format::record::decode::<sancerre_format::recipient::RecipientRecord>(
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
    // Nor is its number given to another identity.
    let admin = scene.repo.as_admin().await;
    let keys = Keys::clone(&scene.repo.reopen().await.keys).signing_with(Keys::clone(&admin.keys)).into();
    let admin = Repository { keys, ..admin };
    let refused = recipients::remove(&admin, &name("passphrase"), Some(&passphrase())).await.unwrap_err();
    assert!(refused.to_string().contains(&hidden), "{refused}");
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

impl Scene {
    /// A key file of the newest generation.
    async fn certify(&self, label: &str, role: Role) -> String {
        let mut admin = self.repo.reopen().await;
        let unlock = Unlock::default().with_passphrase(passphrase());
        Arc::make_mut(&mut admin.keys).unlock_admin(&admin.store, &unlock).await.unwrap();
        let new = NewKey { name: name(label), role, expires: None };
        certify(&admin, &new).await.unwrap().to_string()
    }
}

/// Two generations of the zone's keys, and what was saved in each of them.
struct Generations {
    scene: Scene,
    old_file: Repository,
    new_file: Repository,
    saved: Vec<SessionId>,
}

/// Nothing of the first generation is reused by the second, and a key file of the first still works in it.
async fn generations(seed: u64) -> Generations {
    let scene = scene_of(seed, noise(seed, SIZE)).await;
    let old_file = scene.repo.as_writer().await;
    let mut admin = scene.repo.as_admin().await;
    assert_eq!(make_generation(&mut admin).await.unwrap(), 2);
    let new_file = scene.repo.with_key_file(&scene.certify("hv2", Role::Writer).await).await;
    assert_eq!(new_file.keys.generation(), Some(2));
    let mut saved = vec![scene.saved];
    for (vm, keys, all_is_new) in
        [("web01", &new_file, true), ("web01", &new_file, false), ("web01", &old_file, false)]
    {
        let report = back_up(keys, vm, MemoryDisk::new(scene.bytes.clone())).await.unwrap();
        assert_eq!(report.new_bytes, if all_is_new { report.data_bytes } else { 0 });
        saved.push(report.snapshot.unwrap());
    }
    Generations { scene, old_file, new_file, saved }
}

impl Generations {
    async fn all_restore(&self) {
        let repository = self.scene.repo.reopen().await;
        for session in &self.saved {
            assert_eq!(restore_bytes(&repository, *session, "disk0").await.unwrap(), self.scene.bytes);
        }
        assert_eq!(checked(&repository).await.findings, []);
    }
}

#[tokio::test]
async fn generations_live_side_by_side() {
    let all = generations(60).await;
    all.all_restore().await;
    assert_eq!(all.scene.repo.reopen().await.keys.generation(), Some(2));
    for keys in [&all.new_file, &all.old_file] {
        let findings = checked(keys).await.findings;
        assert!(findings.iter().all(|finding| finding.severity == Severity::Note), "{findings:?}");
        stats(keys, &Monitor::silent()).await.unwrap();
    }
    let log = Log::load(&all.new_file).await.unwrap();
    let refused = sancerre_engine::restore::open(&all.new_file, &log, all.scene.saved).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::WrongKey);
    assert!(refused.to_string().contains("generation 1"), "{refused}");
}

#[tokio::test]
async fn a_collector_mixes_no_generations() {
    let mut all = generations(61).await;
    let keeper = all.scene.repo.with_key_file(&all.scene.certify("vault", Role::Keeper).await).await;
    // One of each generation that shares half of its bytes with what stays.
    for keys in [all.new_file.clone(), all.old_file.clone()] {
        let mut bytes = all.scene.bytes.clone();
        bytes[SIZE / 2..].copy_from_slice(&noise(62, SIZE / 2));
        let report = back_up(&keys, "web01", MemoryDisk::new(bytes)).await.unwrap();
        drop_snapshot(&keeper, report.snapshot.unwrap()).await.unwrap();
    }
    for session in [all.saved.remove(0), all.saved.remove(0)] {
        drop_snapshot(&keeper, session).await.unwrap();
    }
    all.scene.repo.clock.advance(100_000);
    collect(&keeper).await.unwrap();
    all.all_restore().await;
    collect(&all.scene.repo.as_admin().await).await.unwrap();
    all.all_restore().await;
}

/// Signed by the admin, and no key: nobody seals to it, and what was saved restores.
#[tokio::test]
async fn a_hybrid_recipient_that_is_none_stops_no_restore() {
    let scene = scene(63).await;
    let (repository, created) = (scene.repo.open.keys.trust.repository, scene.repo.host.clock.now());
    let recipient = format!("age1pq1{}", "q".repeat(1952));
    let identity = IdentityRecord { repository, epoch: 2, created, recipient };
    let bytes = signed_with(&identity, &scene.repo.admin_key().await, &[], |text| text);
    scene.repo.tamper(&names::identity(2), bytes).await;
    let real = sancerre_engine::host::Host::real("sancerre test");
    let refused = real.sealer.seal(&identity.recipient, b"secret").unwrap_err();
    assert!(refused.to_string().contains("mistyped"), "{refused}");
    let repository = scene.repo.reopen().await;
    assert_eq!(restore_bytes(&repository, scene.saved, "disk0").await.unwrap(), scene.bytes);
}

#[tokio::test]
async fn a_passphrase_is_the_same_in_every_spelling() {
    let scene = scene(64).await;
    let admin = scene.repo.as_admin().await;
    let given = SecretString::from("u\u{308}ber\r\n".to_owned());
    recipients::add(&admin, &name("second"), &To::Passphrase(given)).await.unwrap();
    let store = Store::new(scene.repo.store.clone(), "memory");
    for text in ["\u{fc}ber", "u\u{308}ber", "\u{feff}\u{fc}ber\n"] {
        Keys::from_passphrase(&store, &zone(), &SecretString::from(text.to_owned())).await.unwrap();
    }
}
