//! Forgeries on the level of the whole repository: each object in turn is replaced by something that an attacker could
//! put there. Whoever audits or checks is told which object it is; restores give the true bytes or none.

use sancerre_engine::check::{CheckOptions, Finding, ReadData, Severity, check};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::log::Log;
use sancerre_engine::{ErrorKind, audit};
use sancerre_format::certificate::{Role, portable};
use sancerre_format::id::SessionId;
use sancerre_format::key::{KeyFile, Secret};
use sancerre_format::names;
use sancerre_format::sign::SigningKey;
use sancerre_tests::disk::{MemoryDisk, guest};
use sancerre_tests::repo::{TestRepo, back_up, dump_bytes, zone};

use crate::audit::{options, run};

const SIZE: usize = 1 << 20;
const BEGIN: &[u8] = b"-----BEGIN SSH SIGNATURE-----\n";
const END: &[u8] = b"-----END SSH SIGNATURE-----\n";

/// Ways to forge a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Unsigned,
    EmptySignature,
    SignedByAStranger,
    /// The text names one key, another certified one signed.
    TwoKeys,
    SignatureOfAnother,
    TwoSignatures,
    AnotherNamespace,
    Foreign,
    Replayed,
    Edited,
    Downgraded,
    NewerFromAStranger,
    PartAdded,
    CutShort,
    Noise,
}

use Manner::{
    AnotherNamespace, CutShort, Downgraded, Edited, EmptySignature, Foreign, NewerFromAStranger, Noise,
    PartAdded, Replayed, SignatureOfAnother, SignedByAStranger, TwoKeys, TwoSignatures, Unsigned,
};

const MANNERS: [Manner; 15] = [
    Unsigned,
    EmptySignature,
    SignedByAStranger,
    TwoKeys,
    SignatureOfAnother,
    TwoSignatures,
    AnotherNamespace,
    Foreign,
    Replayed,
    Edited,
    Downgraded,
    NewerFromAStranger,
    PartAdded,
    CutShort,
    Noise,
];

/// A repository with a victim and a bystander, another repository, and a second writer's key.
struct Scene {
    repo: TestRepo,
    other: TestRepo,
    victim: (SessionId, Vec<u8>),
    bystander: (SessionId, Vec<u8>),
    writer: SigningKey,
    thief: SigningKey,
    admin: SigningKey,
}

fn signing_key(file: &str) -> SigningKey {
    KeyFile::decode(file.as_bytes()).unwrap().key.clone()
}

impl Scene {
    async fn new() -> Self {
        let (repo, other) = (TestRepo::new(800).await, TestRepo::new(801).await);
        let thief = signing_key(&repo.certify("hv2", Role::Writer).await);
        let mut saved = Vec::new();
        for (vm, seed) in [("web01", 1), ("db01", 2), ("web01", 3)] {
            let bytes = guest(seed, SIZE);
            let report = back_up(&repo.open, vm, MemoryDisk::new(bytes.clone())).await.unwrap();
            back_up(&other.open, vm, MemoryDisk::new(bytes.clone())).await.unwrap();
            saved.push((report.snapshot.unwrap(), bytes));
        }
        let (writer, admin) = (signing_key(&repo.key_file), repo.admin_key().await);
        let [victim, bystander, _] = saved.try_into().unwrap();
        Self { repo, other, victim, bystander, writer, thief, admin }
    }

    /// The objects to be forged: what it is, its key, the key that signed it, and another object to replay.
    async fn records(&self) -> Vec<(&'static str, String, &SigningKey, String)> {
        let session = &self.victim.0;
        let one = async |part: &str| self.repo.keys_with(part).await.remove(0);
        let certificate = one("keys/certificates/host1").await;
        vec![
            ("log entry", names::log(&zone(), 1), &self.writer, names::log(&zone(), 2)),
            (
                "manifest",
                names::outcome(&zone(), session),
                &self.writer,
                names::outcome(&zone(), &self.bystander.0),
            ),
            (
                "pack list",
                names::list(&zone(), session, 0),
                &self.writer,
                names::list(&zone(), &self.bystander.0, 0),
            ),
            ("certificate", certificate.clone(), &self.admin, one("keys/certificates/hv2").await),
            ("identity", one("keys/identities/").await, &self.admin, certificate.clone()),
            ("zone", one("keys/zones/").await, &self.admin, certificate.clone()),
            ("config", names::CONFIG.to_owned(), &self.admin, certificate),
        ]
    }

    /// The forged bytes.
    async fn forge(&self, manner: Manner, key: &str, signer: &SigningKey, replay: &str) -> Vec<u8> {
        let sound = self.repo.object(key).await;
        let (text, armor, parts) = pieces(&sound);
        let kind = kind(text);
        let stranger = SigningKey::from_seed([9; 32]);
        match manner {
            Unsigned => [text, parts].concat(),
            EmptySignature => [text, BEGIN, END, parts].concat(),
            SignedByAStranger => signed(&stranger, kind, text, parts),
            TwoKeys => signed(&self.thief, kind, text, parts),
            SignatureOfAnother => {
                let other = self.repo.object(replay).await;
                [text, pieces(&other).1, parts].concat()
            }
            TwoSignatures => [text, armor, armor, parts].concat(),
            AnotherNamespace => signed(signer, "sancerre-other-v1", text, parts),
            Foreign => {
                // There the hash in the key is another one.
                let prefix = key.split('-').next().unwrap();
                let is_hashed = ["/outcome/", "/lists/"].iter().any(|folder| key.contains(folder));
                let same = self.other.keys_with(if is_hashed { prefix } else { key }).await;
                self.other.object(&same[0]).await
            }
            Replayed => self.repo.object(replay).await,
            Edited => {
                let edited = replaced(text, b"tool: sancerre", b"tool: Sancerre");
                [&edited[..], armor, parts].concat()
            }
            Downgraded => signed(signer, kind, &replaced(text, b"-v1\n", b"-v0\n"), parts),
            NewerFromAStranger => signed(&stranger, kind, &replaced(text, b"-v1\n", b"-v2\n"), parts),
            PartAdded => [&sound[..], b"x"].concat(),
            CutShort => sound[..sound.len() / 2].to_vec(),
            Noise => guest(9, sound.len()),
        }
    }

    /// Dumps never give other bytes than were backed up.
    async fn restores_truly(&self, what: &str, must: bool, saved: &(SessionId, Vec<u8>)) {
        match dump_bytes(&self.repo.open, saved.0, "disk0").await {
            Ok(bytes) => assert!(bytes == saved.1, "{what}: other bytes were restored"),
            Err(error) => assert!(!must, "{what}: {error}"),
        }
    }
}

/// Text, signature and parts.
fn pieces(bytes: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let find = |line: &[u8]| bytes.windows(line.len()).position(|window| window == line).unwrap();
    let (begin, end) = (find(BEGIN), find(END) + END.len());
    (&bytes[..begin], &bytes[begin..end], &bytes[end..])
}

fn kind(text: &[u8]) -> &'static str {
    const KINDS: [&str; 7] = [
        "sancerre-log-v1",
        "sancerre-manifest-v1",
        "sancerre-list-v1",
        "sancerre-certificate-v1",
        "sancerre-identity-v1",
        "sancerre-zone-v1",
        "sancerre-config-v1",
    ];
    KINDS.into_iter().find(|kind| text.starts_with(kind.as_bytes())).unwrap()
}

fn signed(key: &SigningKey, namespace: &'static str, text: &[u8], parts: &[u8]) -> Vec<u8> {
    [text, key.sign(namespace, text).unwrap().as_bytes(), parts].concat()
}

fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = text.windows(from.len()).position(|window| window == from).unwrap();
    [&text[..at], to, &text[at + from.len()..]].concat()
}

fn damaged<'a>(mut findings: impl Iterator<Item = &'a Finding>, key: &str) -> bool {
    findings.any(|found| found.object == key && found.severity == Severity::Damaged)
}

async fn checked(scene: &Scene, read_data: ReadData) -> Vec<Finding> {
    let options = CheckOptions { read_data, quarantine: false };
    check(&scene.repo.open, &options, &Monitor::silent()).await.unwrap().findings
}

#[tokio::test(start_paused = true)]
async fn every_forged_record_is_named_and_none_is_believed() {
    let scene = Scene::new().await;
    let mut forged = 0;
    for (what, key, signer, replay) in scene.records().await {
        let sound = scene.repo.object(&key).await;
        for manner in MANNERS {
            let name = format!("{what}: {manner:?}");
            let bytes = scene.forge(manner, &key, signer, &replay).await;
            assert_ne!(bytes, sound, "{name}: nothing is forged");
            scene.repo.tamper(&key, bytes).await;
            assert!(damaged(checked(&scene, ReadData::No).await.iter(), &key), "{name}: check says nothing");
            let options = options(&scene.repo);
            match audit(&scene.repo.open.store, &scene.repo.host, &options, &Monitor::silent()).await {
                Ok(report) => assert!(damaged(report.all_findings(), &key), "{name}: audit says nothing"),
                Err(error) => {
                    assert_eq!(what, "config", "{name}: {error}");
                    assert!(
                        matches!(error.kind(), ErrorKind::Damaged | ErrorKind::WrongKey),
                        "{name}: {error}"
                    );
                    assert!(error.to_string().contains("config"), "{name}: {error}");
                }
            }
            scene.restores_truly(&name, true, &scene.bystander).await;
            scene.restores_truly(&name, false, &scene.victim).await;
            scene.repo.tamper(&key, sound.clone()).await;
            forged += 1;
        }
    }
    assert_eq!(forged, 105);
    assert!(run(&scene.repo, &options(&scene.repo)).await.all_findings().next().is_none());
}

#[tokio::test(start_paused = true)]
async fn every_forged_pack_is_named() {
    let scene = Scene::new().await;
    let (packs, others) = (scene.repo.keys_with("/packs/").await, scene.other.keys_with("/packs/").await);
    let all = audit::AuditOptions { read_data: ReadData::All, ..options(&scene.repo) };
    for (at, key) in packs.iter().enumerate() {
        let sound = scene.repo.object(key).await;
        let next = scene.repo.object(&packs[(at + 1) % packs.len()]).await;
        let mut flipped = sound.clone();
        flipped[sound.len() / 2] ^= 1;
        let forgeries = [
            ("swapped", next),
            ("foreign", scene.other.object(&others[at]).await),
            ("cut short", sound[..sound.len() - 1].to_vec()),
            ("longer", [&sound[..], b"x"].concat()),
            ("one bit", flipped),
            ("zeros", vec![0; sound.len()]),
        ];
        for (name, bytes) in forgeries {
            scene.repo.tamper(key, bytes).await;
            let report = run(&scene.repo, &all).await;
            assert!(
                damaged(report.all_findings(), key),
                "{name} {key}: {:#?}",
                report.zones[0].check.findings
            );
            assert!(damaged(checked(&scene, ReadData::All).await.iter(), key), "{name} {key}");
            scene.restores_truly(name, false, &scene.victim).await;
            scene.restores_truly(name, false, &scene.bystander).await;
        }
        scene.repo.tamper(key, sound).await;
    }
}

/// A writer whose key was stolen, with a store that lets him overwrite: he signs what his key may sign, in the place of
/// somebody else's.
#[tokio::test(start_paused = true)]
async fn a_compromised_writer_cannot_take_the_place_of_older_snapshots() {
    let scene = Scene::new().await;
    let seen = run(&scene.repo, &options(&scene.repo)).await.state;
    let remembering = audit::AuditOptions { state: seen, ..options(&scene.repo) };
    let text_of = async |key: &str| {
        let sound = scene.repo.object(key).await;
        let (text, _, parts) = pieces(&sound);
        (String::from_utf8(text.to_vec()).unwrap(), parts.to_vec())
    };
    let thief = portable(&scene.repo.object("keys/certificates/hv2").await).unwrap();
    let as_thief = |text: &str| -> String {
        let lines = text.lines().map(|line| match line.split_once(": ").unwrap_or_default().0 {
            "signer" => "signer: hv2".to_owned(),
            "certificate" => format!("certificate: {thief}"),
            _ => line.to_owned(),
        });
        lines.map(|line| line + "\n").collect()
    };
    // His own manifest in the place of the victim's: the session was somebody else's.
    let key = names::outcome(&zone(), &scene.victim.0);
    let sound = scene.repo.object(&key).await;
    let (text, parts) = text_of(&key).await;
    let forged = signed(&scene.thief, "sancerre-manifest-v1", as_thief(&text).as_bytes(), &parts);
    scene.repo.tamper(&key, forged).await;
    assert!(damaged(run(&scene.repo, &options(&scene.repo)).await.all_findings(), &key));
    scene.repo.tamper(&key, sound).await;

    // His own log entry in the place of the victim's: what was built on it still names the true one.
    let key = names::log(&zone(), 1);
    let (text, parts) = text_of(&key).await;
    let forged = signed(&scene.thief, "sancerre-log-v1", as_thief(&text).as_bytes(), &parts);
    scene.repo.tamper(&key, forged).await;
    let report = run(&scene.repo, &options(&scene.repo)).await;
    let child = names::log(&zone(), 3);
    assert!(damaged(report.all_findings(), &child), "{:#?}", report.zones[0].check.findings);
    let report = run(&scene.repo, &remembering).await;
    assert!(damaged(report.all_findings(), &key) && report.state.is_none());
    scene.restores_truly("a replaced log entry", true, &scene.bystander).await;
}

/// Back-dated and post-dated snapshots are told, and neither displaces what is newer in the log.
#[tokio::test(start_paused = true)]
async fn false_dates_are_told() {
    let scene = Scene::new().await;
    scene.repo.clock.advance(30 * 86_400);
    for vm in ["web01", "db01"] {
        back_up(&scene.repo.open, vm, MemoryDisk::new(guest(5, SIZE))).await.unwrap();
    }
    scene.repo.clock.advance(-20 * 86_400);
    let false_one = back_up(&scene.repo.open, "web01", MemoryDisk::new(guest(6, SIZE))).await.unwrap();
    scene.repo.clock.advance(25 * 86_400);
    back_up(&scene.repo.open, "web01", MemoryDisk::new(guest(7, SIZE))).await.unwrap();
    let told = |report: &audit::AuditReport| -> Vec<String> {
        report.all_findings().map(|found| found.object.clone()).collect()
    };
    let dated = names::log(&zone(), false_one.snapshot.unwrap().number);
    assert_eq!(told(&run(&scene.repo, &options(&scene.repo)).await), [dated]);
    let log = Log::load(&scene.repo.open).await.unwrap();
    assert_eq!(log.snapshots().last().unwrap().session().number, 7, "the order of the log counts");
}
