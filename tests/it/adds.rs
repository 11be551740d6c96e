//! No object that somebody adds stops a restore: junk of all sorts at every key that is free, and entries that a thief of
//! keys signs, for now, for later, and for elsewhere.

use std::sync::Arc;

use sancerre_engine::keys::Keys;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::store::Store;
use sancerre_format::certificate::{Certificate, Role, portable};
use sancerre_format::id::{Hash, PackName, SessionId};
use sancerre_format::key::{KeyFile, Secret};
use sancerre_format::log::{Entry, Kind, Snapshots};
use sancerre_format::names::{self, Time, Zone};
use sancerre_format::record::{self, SignedBy};
use sancerre_format::sign::SigningKey;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::forge::signed_with;
use sancerre_tests::odd::{OddStore, bad_sector, forbidden};
use sancerre_tests::repo::{TestRepo, back_up, dump_bytes, name, passphrase, zone};

const SIZE: usize = 100_000;

struct Scene {
    repo: TestRepo,
    odd: Arc<OddStore>,
    saved: Vec<(SessionId, Vec<u8>)>,
}

impl Scene {
    async fn new(seed: u64) -> Self {
        let (repo, mut saved) = (TestRepo::new(seed).await, Vec::new());
        for (vm, seed) in [("web01", seed), ("db01", seed + 1)] {
            let bytes = noise(seed, SIZE);
            let report = back_up(&repo.open, vm, MemoryDisk::new(bytes.clone())).await.unwrap();
            saved.push((report.snapshot.unwrap(), bytes));
        }
        let odd = OddStore::new(repo.memory.clone());
        Self { repo, odd, saved }
    }

    /// As on a rescue machine: the program, the bucket and the passphrase.
    async fn open(&self) -> Repository {
        let store = Store::new(self.odd.clone(), "odd");
        let keys = Keys::from_passphrase(&store, &zone(), &passphrase()).await.unwrap();
        Repository::open(store, self.repo.host.clone(), keys).await.unwrap()
    }

    async fn everything_restores(&self, after: &str) {
        self.all_restores(&self.open().await, after).await;
    }

    async fn all_restores(&self, open: &Repository, after: &str) {
        let log = Log::load(open).await.unwrap();
        let listed: Vec<SessionId> = log.snapshots().iter().map(|snapshot| snapshot.session()).collect();
        let expected: Vec<SessionId> = self.saved.iter().map(|(session, _)| *session).collect();
        assert_eq!(listed, expected, "after {after}");
        for (session, bytes) in &self.saved {
            let restored = dump_bytes(open, *session, "disk0").await;
            assert!(
                restored.unwrap_or_else(|error| panic!("after {after}: {error}")) == *bytes,
                "after {after}"
            );
        }
    }

    /// Free keys of every form of FORMAT §1.2, with names that sort before and after what is there, and of no form.
    fn free_keys(&self) -> Vec<String> {
        let (first, zone) = (self.saved[0].0, zone());
        let junk = Hash::of(b"junk");
        let (never, next) = (
            SessionId { number: first.number, intent: junk },
            SessionId { number: self.saved.len() as u64 + 1, intent: junk },
        );
        let far = SessionId { number: u64::MAX, intent: junk };
        let mut keys: Vec<String> =
            ["0000", "0002", "ffff"].map(|epoch| format!("keys/identities/{epoch}")).into();
        keys.extend(
            ["0000-a", "0001-a", "0001-zzz", "ffff-a"].map(|label| format!("keys/recipients/{label}")),
        );
        keys.extend(["a", "zzz"].map(|label| format!("keys/admin/{label}")));
        keys.extend(["0000", "0001", "0002", "ffff"].map(|number| format!("keys/admins/{number}")));
        keys.extend(
            ["default-0000", "default-0002", "default-ffff", "a-0001"]
                .map(|zone| format!("keys/zones/{zone}")),
        );
        keys.extend(["a", "admin", "zzz"].map(|name| format!("keys/certificates/{name}")));
        for session in [never, next, far] {
            keys.push(names::outcome(&zone, &session));
            keys.push(names::list(&zone, &session, 0));
            keys.push(names::index(&zone, &session, 0));
            keys.push(names::pack(&zone, PackName { session: session.number, ordinal: 0 }, &junk));
        }
        keys.extend([0, 3, 9, u64::MAX].map(|number| names::log(&zone, number)));
        keys.extend([1, u32::MAX].map(|sequence| names::list(&zone, &first, sequence)));
        keys.extend([1, u32::MAX].map(|sequence| names::index(&zone, &first, sequence)));
        keys.extend([1, 77].map(|ordinal| names::pack(&zone, PackName { session: 1, ordinal }, &junk)));
        keys.extend(["config2", "keys/x", "x", "probe/a/b", "zones/x", "zones/default/x"].map(str::to_owned));
        keys.extend(["zones/other/log/0000000000000001", "zones/a/log/0000000000000001"].map(str::to_owned));
        keys
    }
}

#[tokio::test(start_paused = true)]
async fn junk_at_every_free_key_stops_no_restore() {
    for manner in ["junk", "empty", "one byte", "folder", "huge", "403", "EIO"] {
        let scene = Scene::new(1).await;
        for key in scene.free_keys() {
            assert!(!scene.repo.objects().await.iter().any(|(there, _)| *there == key), "{key} is not free");
            let bytes = match manner {
                "empty" => Vec::new(),
                "one byte" => vec![b's'],
                _ => b"sancerre-junk-v1\n".to_vec(),
            };
            let key = if manner == "folder" { format!("{key}/0000/x") } else { key };
            scene.repo.tamper(&key, bytes).await;
            match manner {
                "huge" => scene.odd.seems(&key, 5 << 40),
                "403" => scene.odd.breaks(&key, forbidden),
                "EIO" => scene.odd.breaks(&key, bad_sector),
                _ => {}
            }
        }
        scene.everything_restores(manner).await;
    }
}

/// Sound objects of this repository, at every free key.
#[tokio::test(start_paused = true)]
async fn copies_at_every_free_key_stop_no_restore() {
    let scene = Scene::new(3).await;
    let kinds = [
        "config",
        "keys/identities/",
        "keys/recipients/",
        "keys/admin/",
        "keys/zones/",
        "keys/certificates/",
    ];
    let kinds = kinds.into_iter().chain(["/log/", "/outcome/", "/lists/", "/index/", "/packs/"]);
    for kind in kinds {
        let from = scene.repo.keys_with(kind).await.remove(0);
        let bytes = scene.repo.object(&from).await;
        for key in scene.free_keys() {
            scene.repo.tamper(&key, bytes.clone()).await;
        }
        scene.everything_restores(&format!("copies of {from}")).await;
    }
}

/// What is done to a text before it is signed.
type Change = fn(String) -> String;

/// A key that somebody stole, and its certificate.
struct Thief {
    by: SignedBy,
    key: SigningKey,
}

impl Scene {
    async fn writer(&self) -> Thief {
        let key = KeyFile::decode(self.repo.key_file.as_bytes()).unwrap().key.clone();
        let certificate = portable(&self.repo.object("keys/certificates/host1").await).unwrap();
        Thief { by: SignedBy { name: name("host1"), certificate: Some(certificate) }, key }
    }

    /// A key that the admin certified for this zone with this word for a role.
    async fn certified(&self, label: &str, zone: &str, role: &str) -> Thief {
        let key = SigningKey::from_seed([label.len() as u8; 32]);
        let certificate = Certificate {
            repository: self.repo.open.keys.trust.repository,
            zone: Zone::new(zone).unwrap(),
            name: name(label),
            role_name: name(role),
            key: key.public(),
            issued: self.repo.host.clock.now(),
            expires: None,
        };
        let bytes = record::encode(&certificate, "test", &self.repo.admin_key().await, &[], &[]).unwrap();
        Thief { by: SignedBy { name: name(label), certificate: Some(portable(&bytes).unwrap()) }, key }
    }

    fn everything(&self) -> Vec<SessionId> {
        self.saved.iter().map(|(session, _)| *session).collect()
    }
}

/// What a thief signs: as it is, as a later version or kind would, for another zone, number or time.
#[tokio::test(start_paused = true)]
async fn no_signed_entry_stops_a_restore() {
    let scene = Scene::new(5).await;
    let all = Snapshots { snapshots: scene.everything(), reason: "gone".into() };
    let keeper = scene.certified("keeper-of-elsewhere", "other", "keeper").await;
    let unknown = scene.certified("inspector", "default", "inspector").await;
    let writer = scene.writer().await;
    let kinds = [Kind::Forget(all)];
    let changes: [(&str, Change); 4] = [
        ("as it is", |text| text),
        ("critical", |text| text.replacen("critical: -", "critical: teleport", 1)),
        ("unknown kind", |text| text.replacen("kind: ", "kind: un", 1)),
        ("unknown field", |text| text.replacen("public: ", "later: 1\npublic: ", 1)),
    ];
    let late = Time::parse("2999-12-31T23:59:59Z").unwrap();
    for kind in &kinds {
        for thief in [&writer, &keeper, &unknown] {
            for (what, change) in changes {
                for place in ["here", "other zone", "other number", "far", "late"] {
                    let mut entry =
                        Entry { by: thief.by.clone(), ..scene.repo.next_entry(kind.clone()).await };
                    let at = if place == "far" { 1 << 40 } else { entry.number };
                    match place {
                        "other zone" => entry.zone = Zone::new("other").unwrap(),
                        "other number" => (entry.number, entry.previous) = (1, None),
                        "far" => entry.number = at,
                        "late" => entry.time = late,
                        _ => {}
                    }
                    let bytes = signed_with(&entry, &thief.key, &[], change);
                    scene.repo.put_log(at, bytes).await;
                    // Opening with the passphrase takes a while, and entries have no part in it.
                    scene
                        .all_restores(&scene.repo.open, &format!("{what} of {} {place}", thief.by.name))
                        .await;
                    scene.repo.lose(&[names::log(&zone(), at)]).await;
                }
            }
        }
    }
}

/// The last of them stay in the log together, and a second restore key is of no matter.
#[tokio::test(start_paused = true)]
async fn a_log_full_of_them_stops_no_restore() {
    let scene = Scene::new(7).await;
    let writer = scene.writer().await;
    for round in 0..40_u64 {
        let kind = Kind::Quarantine { reason: format!("round {round}") };
        let entry = Entry { by: writer.by.clone(), ..scene.repo.next_entry(kind).await };
        let later = |text: String| match round % 3 {
            0 => text.replacen("critical: -", "critical: teleport", 1),
            1 => text.replacen("kind: ", "kind: un", 1),
            _ => text,
        };
        scene.repo.put_log(entry.number, signed_with(&entry, &writer.key, &[], later)).await;
    }
    scene.everything_restores("forty entries").await;
    let file = scene.repo.certify("hv2", Role::Writer).await;
    let log = Log::load(&scene.repo.with_key_file(&file).await).await.unwrap();
    assert_eq!(log.snapshots().len(), 2);
}
