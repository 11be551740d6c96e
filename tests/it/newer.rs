//! What a later version wrote: only the object itself is out of reach. It is never called damaged, never quarantined, and
//! nobody is advised to forget it; and a key that wrote it can be revoked.

use std::collections::BTreeSet;

use sancerre_engine::check::{CheckOptions, CheckReport, ReadData, Severity, check};
use sancerre_engine::forget::hold;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::revoke::revoke;
use sancerre_engine::{Error, ErrorKind};
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::key::{KeyFile, Secret};
use sancerre_format::list::PackList;
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names;
use sancerre_format::pack::{Pack, PackKind};
use sancerre_format::record;
use sancerre_format::sign::SigningKey;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::forge::signed_with;
use sancerre_tests::repo::{TestRepo, back_up, dump_bytes, name, zone};
use sha2::{Digest, Sha256};

use crate::gc::collect;

const SIZE: usize = 1 << 20;
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----\n";
const END: &[u8] = b"-----END SSH SIGNATURE-----\n";

/// Two machines, saved by host1.
struct Scene {
    repo: TestRepo,
    writer: Repository,
    saved: [(SessionId, Vec<u8>); 2],
}

impl Scene {
    async fn new(seed: u64) -> Self {
        let repo = TestRepo::new(seed).await;
        let writer = repo.as_writer().await;
        let mut saved = Vec::new();
        for (vm, seed) in [("web01", seed), ("db01", seed + 1)] {
            let bytes = noise(seed, SIZE);
            let report = back_up(&writer, vm, MemoryDisk::new(bytes.clone())).await.unwrap();
            saved.push((report.snapshot.unwrap(), bytes));
        }
        Self { repo, writer, saved: saved.try_into().unwrap() }
    }

    fn writer_key(&self) -> SigningKey {
        KeyFile::decode(self.repo.key_file.as_bytes()).unwrap().key.clone()
    }

    /// Rewrites the text of a record that host1 signed, and signs it again under its own first line.
    async fn rewrite(&self, key: &str, change: impl Fn(&str) -> String) {
        let bytes = self.repo.object(key).await;
        let at = |part: &[u8]| bytes.windows(part.len()).position(|window| window == part).unwrap();
        let text = change(std::str::from_utf8(&bytes[..at(BEGIN.as_bytes())]).unwrap());
        let parts = &bytes[at(END) + END.len()..];
        let namespace: &'static str = text.lines().next().unwrap().to_owned().leak();
        let armor = self.writer_key().sign(namespace, text.as_bytes()).unwrap();
        self.repo.tamper(key, [text.as_bytes(), armor.as_bytes(), parts].concat()).await;
    }

    async fn restores(&self, which: usize) {
        let (session, bytes) = &self.saved[which];
        assert!(dump_bytes(&self.repo.open, *session, "disk0").await.unwrap() == *bytes);
    }

    async fn check(&self, quarantine: bool) -> CheckReport {
        let options = CheckOptions { read_data: ReadData::All, quarantine };
        check(&self.repo.open, &options, &Monitor::silent()).await.unwrap()
    }

    /// `check` calls this object too new, and nothing in the repository worse; nothing is quarantined.
    async fn only_too_new(&self, object: &str) {
        let before = self.repo.objects().await;
        let report = self.check(true).await;
        assert!(report.quarantined.is_none(), "{report:?}");
        let worst = report.findings.iter().map(|finding| finding.severity).min();
        assert_eq!(worst, Some(Severity::Unsupported), "{:?}", report.findings);
        let about = report.findings.iter().filter(|finding| finding.severity == Severity::Unsupported);
        let about: Vec<_> =
            about.map(|finding| (finding.object.as_str(), finding.problem.as_str())).collect();
        assert!(about.iter().any(|(found, _)| *found == object), "{about:?}");
        let told = format!("{:?}", report.findings);
        assert!(!told.contains("forget"), "{told}");
        assert_eq!(self.repo.objects().await, before);
        let audited = crate::audit::run(&self.repo, &crate::audit::options(&self.repo)).await;
        assert!(audited.all_findings().all(|finding| finding.severity >= Severity::Unsupported));
    }

    /// Who writes or deletes stops before anything is done, and says why.
    async fn refused(&self, error: Error) {
        let told = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{told}");
        assert!(told.contains("newer version") && !told.contains("forget"), "{told}");
    }
}

/// Ways in which a later version may write a log entry.
pub(crate) const LATER: [fn(&str) -> String; 3] = [
    |text| text.replacen("critical: -", "critical: teleport", 1),
    |text| text.replacen("kind: quarantine", "kind: bequeath", 1),
    |text| text.replacen("sancerre-log-v1", "sancerre-log-v2", 1),
];

/// An entry of host1 that needs a later version, at the next number.
async fn entry_of_the_future(scene: &Scene, change: fn(&str) -> String) -> String {
    let kind = Kind::Quarantine { reason: "test".into() };
    let signer = scene.writer.signer(kind.roles()).unwrap();
    let entry = Entry { by: signer.by.clone(), ..scene.repo.next_entry(kind).await };
    let bytes = signed_with(&entry, &signer.key, &[], |text| text);
    scene.repo.put_log(entry.number, bytes).await;
    let key = names::log(&zone(), entry.number);
    scene.rewrite(&key, change).await;
    key
}

#[tokio::test(start_paused = true)]
async fn an_entry_stops_writers_and_collectors_alone() {
    for (round, change) in LATER.into_iter().enumerate() {
        let scene = Scene::new(10 + 2 * round as u64).await;
        let keeper = scene.repo.as_keeper().await;
        let key = entry_of_the_future(&scene, change).await;
        scene.restores(0).await;
        scene.restores(1).await;
        scene.only_too_new(&key).await;
        let before = scene.repo.objects().await;
        let web01 = || MemoryDisk::new(scene.saved[0].1.clone());
        scene.refused(back_up(&scene.writer, "web01", web01()).await.unwrap_err()).await;
        scene.refused(collect(&keeper).await.unwrap_err()).await;
        let snapshots = BTreeSet::from([scene.saved[0].0]);
        scene.refused(hold(&keeper, &snapshots, "test").await.unwrap_err()).await;
        assert_eq!(scene.repo.objects().await, before, "nothing was added or deleted");

        let admin = scene.repo.as_admin().await;
        let mut log = Log::load(&admin).await.unwrap();
        let revoked = revoke(&admin, &mut log, &name("host1"), Some(3), "a test").await.unwrap();
        assert_eq!((revoked.number, revoked.from), (4, 3));
        let hv2 = scene.repo.certify("hv2", sancerre_format::certificate::Role::Writer).await;
        let hv2 = scene.repo.with_key_file(&hv2).await;
        assert_eq!(back_up(&hv2, "web01", web01()).await.unwrap().snapshot.unwrap().number, 5);
        collect(&keeper).await.unwrap();
        scene.restores(0).await;
        scene.restores(1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_stops_its_snapshot_and_collectors() {
    let changes: [fn(&str) -> String; 2] = [LATER[0], |text| text.replacen("manifest-v1", "manifest-v2", 1)];
    for (round, change) in changes.into_iter().enumerate() {
        let scene = Scene::new(20 + 2 * round as u64).await;
        let key = names::outcome(&zone(), &scene.saved[0].0);
        scene.rewrite(&key, change).await;
        scene.restores(1).await;
        let log = Log::load(&scene.repo.open).await.unwrap();
        assert_eq!(log.snapshots().len(), 1);
        scene.only_too_new(&key).await;
        let keeper = scene.repo.as_keeper().await;
        let before = scene.repo.objects().await;
        scene.refused(collect(&keeper).await.unwrap_err()).await;
        assert_eq!(scene.repo.objects().await, before);
        // Backups go on: what such a session stored may be reused.
        let bytes = &scene.saved[1].1;
        back_up(&scene.writer, "db01", MemoryDisk::new(bytes.clone())).await.unwrap();
    }
}

/// Another word where words are open is no reason to stop anybody.
#[tokio::test(start_paused = true)]
async fn an_unknown_word_stops_nobody() {
    let scene = Scene::new(30).await;
    let key = names::outcome(&zone(), &scene.saved[0].0);
    scene.rewrite(&key, |text| text.replacen("consistency: crash", "consistency: serene", 1)).await;
    scene.restores(0).await;
    assert_eq!(scene.check(true).await.findings, []);
    collect(&scene.repo.as_keeper().await).await.unwrap();
    scene.restores(0).await;
}

/// Replaces the first data pack of session 1 by one whose head says something else, under a list that names it.
async fn pack_of_the_future(scene: &Scene, at: usize, value: u8) -> String {
    let session = &scene.saved[0].0;
    for key in scene.repo.keys_with("/packs/0000000000000001/").await {
        let sound = scene.repo.object(&key).await;
        let (mut bytes, pack) = (sound.clone(), Pack::decode(&sound).unwrap());
        if pack.head().kind != PackKind::Data {
            continue;
        }
        let ordinal = pack.head().ordinal;
        let frames: Vec<_> = pack.directory().iter().map(|entry| entry.place()).collect();
        bytes[at] = value;
        let trailer = bytes.len() - 64;
        // Sealed in another way than this program knows.
        for (number, frame) in frames.iter().enumerate() {
            let at = frame.offset_bytes as usize;
            bytes[at + 7] ^= 1;
            let hash = Hash::of(&bytes[at..at + frame.sealed_bytes as usize]);
            let entry = trailer - 48 * (frames.len() - number);
            bytes[entry + 16..entry + 48].copy_from_slice(&hash.0);
        }
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let (head, table) = (number(trailer + 4), number(trailer + 12));
        let covered = [&bytes[..head], &bytes[table..trailer]].concat();
        bytes[trailer + 16..trailer + 48].copy_from_slice(&Hash::of(&covered).0);
        let (hash, tail) = (Hash::of(&bytes), Hash::of(&bytes[table..]));
        let list = names::list(&zone(), session, 0);
        let record = record::decode::<PackList>(&scene.repo.open.keys.trust, &scene.repo.object(&list).await);
        let mut fields = record.unwrap().fields;
        let listed = fields.packs.iter_mut().find(|listed| listed.ordinal == ordinal).unwrap();
        (listed.hash, listed.tail) = (hash, tail);
        listed.sha256 = Hash(Sha256::digest(&bytes).into());
        scene.repo.tamper(&list, signed_with(&fields, &scene.writer_key(), &[], |text| text)).await;
        scene.repo.lose(&[key]).await;
        let name = sancerre_format::id::PackName { session: 1, ordinal };
        let key = names::pack(&zone(), name, &hash);
        scene.repo.tamper(&key, bytes).await;
        return key;
    }
    panic!("there is no data pack");
}

#[tokio::test(start_paused = true)]
async fn a_pack_takes_its_frames_out_of_reach() {
    // Version, kind, suite, critical features.
    for (round, (at, value)) in [(8, 2), (10, 9), (11, 2), (12, 1)].into_iter().enumerate() {
        let scene = Scene::new(40 + 2 * round as u64).await;
        let key = pack_of_the_future(&scene, at, value).await;
        scene.restores(1).await;
        scene.refused(dump_bytes(&scene.repo.open, scene.saved[0].0, "disk0").await.unwrap_err()).await;
        scene.only_too_new(&key).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_costs_nothing_that_its_packs_prove() {
    let scene = Scene::new(50).await;
    let key = names::list(&zone(), &scene.saved[0].0, 0);
    scene.rewrite(&key, LATER[0]).await;
    scene.restores(0).await;
    scene.restores(1).await;
    scene.only_too_new(&key).await;
}
