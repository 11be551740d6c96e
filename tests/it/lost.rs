//! A small record is lost, rotten or cannot be read, and everything else is whole: it costs nothing that the rest proves, and
//! what it does cost an administrator can give up by name.

use std::sync::Arc;

use sancerre_engine::check::{CheckOptions, Finding, ReadData, Severity, check};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repair::{RepairOptions, RepairReport, repair};
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::{Log, Lost, Outcome};
use sancerre_engine::restore::{self, RestoreOptions};
use sancerre_engine::revoke::revoke;
use sancerre_engine::{Error, ErrorKind};
use sancerre_format::certificate::Role;
use sancerre_format::id::SessionId;
use sancerre_format::log::{Kind, Note};
use sancerre_format::names;
use sancerre_image::{Continue, Left, RawTarget};
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::model::Model;
use sancerre_tests::odd::{OddStore, Refusal, bad_sector, forbidden};
use sancerre_tests::repo::{TestRepo, back_up, dump_bytes, name, zone};

use crate::gc::{collect, drop_snapshot};

pub(crate) const MIB: usize = 1 << 20;

/// How something small is lost.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Harm {
    Gone,
    Rotten,
    Unread(Refusal),
}

pub(crate) const HARMS: [Harm; 4] =
    [Harm::Gone, Harm::Rotten, Harm::Unread(bad_sector), Harm::Unread(forbidden)];

/// Two machines whose disks are the same, so that the second one's snapshot lies in packs of the first one's session, and a
/// third.
pub(crate) struct Scene {
    pub(crate) repo: TestRepo,
    pub(crate) odd: Arc<OddStore>,
    pub(crate) admin: Repository,
    pub(crate) model: Model,
    pub(crate) disk: Vec<u8>,
}

impl Scene {
    pub(crate) async fn new(seed: u64) -> Self {
        let repo = TestRepo::new(seed).await;
        let odd = OddStore::new(repo.memory.clone());
        let store = repo.through(odd.clone()).store;
        let admin = Repository { store, ..repo.as_admin().await };
        let disk = noise(seed, 3 * MIB);
        let mut scene = Self { repo, odd, admin, model: Model::default(), disk };
        for vm in ["web01", "web02"] {
            scene.back_up(vm, scene.disk.clone()).await;
        }
        scene.back_up("db01", noise(seed + 1, MIB)).await;
        scene
    }

    /// A backup; how much of it was new.
    pub(crate) async fn back_up(&mut self, vm: &str, disk: Vec<u8>) -> u64 {
        let report = back_up(&self.admin, vm, MemoryDisk::new(disk.clone())).await.unwrap();
        self.model.add_disk(report.snapshot.unwrap(), &disk);
        report.new_bytes
    }

    pub(crate) fn session(&self, at: usize) -> SessionId {
        self.model.snapshots[at].0
    }

    pub(crate) async fn harm(&self, key: &str, harm: Harm) {
        match harm {
            Harm::Gone => self.repo.lose(&[key.to_owned()]).await,
            Harm::Rotten => {
                let mut bytes = self.repo.object(key).await;
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                self.repo.tamper(key, bytes).await;
            }
            Harm::Unread(refusal) => self.odd.breaks(key, refusal),
        }
    }

    pub(crate) async fn everything_restores(&self) {
        self.model.check(&self.admin).await;
    }

    /// What a check that reads everything finds, but for notes.
    pub(crate) async fn findings(&self) -> Vec<Finding> {
        let options = CheckOptions { read_data: ReadData::All, quarantine: false };
        let report = check(&self.admin, &options, &Monitor::silent()).await.unwrap();
        let orphans =
            report.findings.iter().find(|finding| finding.problem.contains("belong to no snapshot"));
        assert_eq!(orphans, None, "needed packs are no garbage");
        report.findings.into_iter().filter(|finding| finding.severity != Severity::Note).collect()
    }

    pub(crate) async fn repair(&self, give_up: &[&str]) -> sancerre_engine::Result<RepairReport> {
        let give_up = give_up.iter().map(|key| (*key).to_owned()).collect();
        let options = RepairOptions { dry_run: true, give_up, reason: "test".into() };
        let before = self.repo.objects().await;
        let dry = repair(&self.admin, &options, &Monitor::silent()).await?;
        assert_eq!(self.repo.objects().await, before, "a dry run writes nothing");
        let report =
            repair(&self.admin, &RepairOptions { dry_run: false, ..options }, &Monitor::silent()).await?;
        assert_eq!(dry.done.len(), report.done.len(), "{dry:?} {report:?}");
        let now = self.repo.objects().await;
        assert!(before.iter().all(|object| now.contains(object)), "nothing is deleted or changed");
        Ok(report)
    }
}

pub(crate) fn severity(harm: Harm) -> Severity {
    if matches!(harm, Harm::Gone) { Severity::Missing } else { Severity::Damaged }
}

#[tokio::test(start_paused = true)]
async fn a_lost_pack_list_costs_no_restore_and_is_made_anew() {
    for harm in HARMS {
        let mut scene = Scene::new(1).await;
        let key = names::list(&zone(), &scene.session(0), 0);
        scene.harm(&key, harm).await;
        scene.everything_restores().await;
        let found = scene.findings().await;
        assert_eq!(
            (found.len(), found[0].object.as_str(), found[0].severity),
            (1, key.as_str(), severity(harm))
        );
        assert!(found[0].costs.is_empty() && found[0].problem.contains("`repair`"), "{found:?}");
        // Collectors leave what they do not know, and backups store it anew.
        let packs = scene.repo.keys_with("/packs/0000000000000001/").await;
        collect(&scene.admin).await.unwrap();
        assert_eq!(scene.repo.keys_with("/packs/0000000000000001/").await, packs, "{harm:?}");
        assert!(scene.back_up("mail01", scene.disk.clone()).await > 2 * MIB as u64, "{harm:?}");

        let report = scene.repair(&[]).await.unwrap();
        assert!(report.left.is_empty() && report.note.is_some(), "{report:?}");
        assert_eq!(scene.findings().await, [], "{harm:?}");
        scene.everything_restores().await;
        assert_eq!(scene.repair(&[]).await.unwrap(), RepairReport::default(), "once is enough");
        collect(&scene.admin).await.unwrap();
        scene.everything_restores().await;
    }
}

/// Once the list was made anew, its packs are built on as before.
#[tokio::test(start_paused = true)]
async fn packs_of_a_list_made_anew_are_used_again() {
    let mut scene = Scene::new(2).await;
    scene.harm(&names::list(&zone(), &scene.session(0), 0), Harm::Rotten).await;
    scene.repair(&[]).await.unwrap();
    assert_eq!(scene.back_up("mail01", scene.disk.clone()).await, 0);
    // Who reads the lists by name finds it too.
    let writer = scene.repo.as_writer().await;
    let report = back_up(&writer, "mail02", MemoryDisk::new(scene.disk.clone())).await.unwrap();
    assert_eq!(report.new_bytes, 0);
    scene.everything_restores().await;
}

/// What somebody puts beside the packs of a lost list is no part of it.
#[tokio::test(start_paused = true)]
async fn junk_beside_the_packs_of_a_lost_list_is_not_listed() {
    let scene = Scene::new(3).await;
    scene.harm(&names::list(&zone(), &scene.session(0), 0), Harm::Gone).await;
    let packs = scene.repo.keys_with("/packs/0000000000000001/").await;
    let copy = scene.repo.object(&packs[0]).await;
    let other = format!("{}{}", &packs[1][..packs[1].len() - 64], "ab".repeat(32));
    scene.repo.tamper(&other, copy).await;
    let free = "zones/default/packs/0000000000000001/000000ff-".to_owned() + &"cd".repeat(32);
    scene.repo.tamper(&free, b"junk".to_vec()).await;
    scene.everything_restores().await;
    let report = scene.repair(&[]).await.unwrap();
    // Of the one that has a double nobody can say which it is, so both stay as they are.
    assert!(report.left.iter().any(|(key, _)| packs[1].starts_with(key.trim_end_matches('*'))), "{report:?}");
    scene.everything_restores().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_log_entry_of_a_snapshot_costs_nothing() {
    for harm in HARMS {
        for at in [0, 1] {
            let mut scene = Scene::new(4).await;
            let session = scene.session(at);
            let key = names::log(&zone(), session.number);
            scene.harm(&key, harm).await;
            scene.everything_restores().await;
            let found = scene.findings().await;
            assert_eq!(
                (found.len(), found[0].object.as_str(), found[0].severity),
                (1, key.as_str(), severity(harm))
            );
            assert!(
                found[0].costs.is_empty() && found[0].problem.contains("outcome stands for it"),
                "{found:?}"
            );

            // Everybody goes on, and builds on what that session stored.
            assert_eq!(scene.back_up("web01", scene.disk.clone()).await, 0, "{harm:?}");
            scene.back_up("db01", noise(44, MIB)).await;
            collect(&scene.admin).await.unwrap();
            drop_snapshot(&scene.admin, scene.session(2)).await.unwrap();
            scene.model.snapshots.remove(2);
            assert!(collect(&scene.admin).await.unwrap().deleted_packs > 0, "{harm:?}");
            scene.everything_restores().await;
            // Nobody can put another entry there.
            assert!(scene.repo.keys_with("/log/").await.contains(&key), "{harm:?}");
            if matches!(harm, Harm::Gone) {
                assert_eq!(scene.findings().await, [], "it was filled");
            }
            // The right bytes are as good as ever.
            let log = Log::load(&scene.admin).await.unwrap();
            let lost: Vec<SessionId> = log.lost_entries().map(|(session, _)| session).collect();
            assert_eq!(lost, [session]);
        }
    }
}

/// Its word is what readers and writers had before: who signed it, and what that key may not do.
#[tokio::test(start_paused = true)]
async fn a_lost_log_entry_of_a_revoked_writer_stays_void() {
    let scene = Scene::new(5).await;
    let mut log = Log::load(&scene.admin).await.unwrap();
    let thief = scene.repo.with_key_file(&scene.repo.certify("thief", Role::Writer).await).await;
    let saved = back_up(&thief, "web03", MemoryDisk::new(noise(9, MIB))).await.unwrap().snapshot.unwrap();
    log.refresh(&scene.admin).await.unwrap();
    revoke(&scene.admin, &mut log, &name("thief"), Some(1), "stolen").await.unwrap();
    scene.harm(&names::log(&zone(), saved.number), Harm::Gone).await;
    let log = Log::load(&scene.admin).await.unwrap();
    assert_eq!(log.lost_entries().next(), Some((saved, Lost::Missing)));
    assert!(!log.snapshots().iter().any(|snapshot| snapshot.session() == saved));
    scene.everything_restores().await;
}

/// Where frames lie that a gc moved its commit says. It stands for its entry once the administrator has admitted it: until then
/// it costs no restore and no backup.
#[tokio::test(start_paused = true)]
async fn a_lost_log_entry_of_a_gc_costs_no_restore_and_is_admitted() {
    for harm in HARMS {
        let mut scene = Scene::new(6).await;
        let mut disk = scene.disk.clone();
        for region in [0, 2] {
            disk[region * MIB..(region + 1) * MIB].copy_from_slice(&noise(60 + region as u64, MIB));
        }
        scene.back_up("web01", disk).await;
        scene.back_up("web02", noise(63, MIB)).await;
        for at in [1, 0] {
            drop_snapshot(&scene.admin, scene.session(at)).await.unwrap();
            scene.model.snapshots.remove(at);
        }
        let report = collect(&scene.admin).await.unwrap();
        assert!(report.deleted_packs > 0, "{report:?}");
        let before = Log::load(&scene.admin).await.unwrap();
        let gc = report.number.unwrap();
        // Something must be above it, that says what stood there.
        scene.back_up("db01", noise(61, MIB)).await;
        scene.harm(&names::log(&zone(), gc), harm).await;
        scene.everything_restores().await;
        scene.back_up("mail01", noise(62, MIB)).await;
        let error = collect(&scene.admin).await.unwrap_err();
        assert!(matches!(error, Error::Unresolved { session, .. } if session.number == gc), "{error}");
        let report = scene.repair(&[]).await.unwrap();
        assert!(report.left.is_empty() && report.note.is_some(), "{harm:?}: {report:?}");
        let log = Log::load(&scene.admin).await.unwrap();
        assert!(matches!(log.entry(gc).unwrap().outcome, Outcome::Commit(..)), "{harm:?}");
        assert_eq!(log.burnt(Log::END), before.burnt(Log::END), "{harm:?}");
        assert_eq!(scene.findings().await, [], "{harm:?}");
        scene.everything_restores().await;
        collect(&scene.admin).await.unwrap();
        scene.everything_restores().await;
    }
}

/// Revocations are kept twice.
#[tokio::test(start_paused = true)]
async fn a_lost_revocation_is_put_back() {
    let mut scene = Scene::new(11).await;
    scene.repo.certify("thief", Role::Writer).await;
    let mut log = Log::load(&scene.admin).await.unwrap();
    let revoked = revoke(&scene.admin, &mut log, &name("thief"), Some(1), "stolen").await.unwrap();
    scene.back_up("db01", noise(111, MIB)).await;
    let key = names::log(&zone(), revoked.number);
    let bytes = scene.repo.object(&key).await;
    scene.harm(&key, Harm::Gone).await;
    let report = scene.repair(&[]).await.unwrap();
    assert!(report.left.is_empty(), "{report:?}");
    assert_eq!(scene.repo.object(&key).await, bytes);
    let log = Log::load(&scene.admin).await.unwrap();
    assert!(log.revocation(&name("thief")).is_some() && log.lost_entries().next().is_none());
}

/// A sector of one pack is bad: all else is restored, and the ranges are named.
#[tokio::test(start_paused = true)]
async fn a_restore_goes_on_behind_a_pack_that_cannot_be_read() {
    for harm in HARMS {
        let scene = Scene::new(12).await;
        let log = Log::load(&scene.admin).await.unwrap();
        let packs = scene.repo.keys_with("/packs/0000000000000001/").await;
        // The first of them holds data.
        scene.harm(&packs[0], harm).await;
        let reader = restore::open(&scene.admin, &log, scene.session(1)).await.unwrap();
        let member = reader.member("disk0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let target = Box::new(RawTarget::create(&path, member.size_bytes, false).unwrap());
        let options = RestoreOptions::new(64 << 20);
        let restored = restore::restore(&reader, member, target, &options, &Monitor::silent()).await;
        let failure = restored.unwrap_err();
        let error = failure.error;
        assert!(matches!(&error, Error::Unrestorable { .. }), "{harm:?}: {error}");
        assert!(matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Missing), "{error}");
        assert!(error.to_string().contains("bytes ") && error.to_string().contains(&packs[0]), "{error}");
        let Left::Partial { path, next: Some(Continue::Resume) } = failure.left else { panic!("{harm:?}") };
        let partial = std::fs::read(path).unwrap();
        let same = partial.iter().zip(&scene.disk).filter(|(one, other)| one == other).count();
        assert!(same > MIB && same < 3 * MIB, "{harm:?}: {same} bytes are in place");
        let dumped = dump_bytes(&scene.admin, scene.session(1), "disk0").await.unwrap_err();
        assert!(matches!(&dumped, Error::Unrestorable { .. }), "{dumped}");
        // The other machine does not need it.
        dump_bytes(&scene.admin, scene.session(2), "disk0").await.unwrap();
    }
}

/// An index segment is a hint.
#[tokio::test(start_paused = true)]
async fn an_index_segment_that_cannot_be_read_stops_nobody() {
    for harm in HARMS {
        let mut scene = Scene::new(13).await;
        let key = names::index(&zone(), &scene.session(0), 0);
        scene.harm(&key, harm).await;
        scene.back_up("mail01", scene.disk.clone()).await;
        collect(&scene.admin).await.unwrap();
        scene.everything_restores().await;
        if matches!(harm, Harm::Rotten) {
            scene.repair(&[]).await.unwrap();
            assert_eq!(scene.back_up("mail02", scene.disk.clone()).await, 0);
        }
    }
}

/// Two copies of a repository both went on, and somebody put them together.
#[tokio::test(start_paused = true)]
async fn snapshots_of_a_copy_that_went_on_by_itself_are_told_loudly() {
    let scene = Scene::new(14).await;
    let shared = scene.repo.objects().await;
    let bytes = noise(141, MIB);
    let here = back_up(&scene.repo.open, "db01", MemoryDisk::new(bytes.clone())).await.unwrap();
    // The other copy: the same objects before, and another backup at the same number.
    let mut made = Vec::new();
    for (key, _) in scene.repo.objects().await.into_iter().filter(|object| !shared.contains(object)) {
        made.push((key.clone(), scene.repo.object(&key).await));
        scene.repo.lose(&[key]).await;
    }
    let there =
        back_up(&scene.repo.open, "web09", MemoryDisk::new(noise(142, MIB))).await.unwrap().snapshot.unwrap();
    assert_eq!(here.snapshot.unwrap().number, there.number);
    for (key, bytes) in made {
        // The log entry of the second copy is the one that is kept.
        if !key.contains("/log/") {
            scene.repo.tamper(&key, bytes).await;
        }
    }
    let options = CheckOptions { read_data: ReadData::No, quarantine: false };
    let report = check(&scene.admin, &options, &Monitor::silent()).await.unwrap();
    let key = names::outcome(&zone(), &here.snapshot.unwrap());
    let found: Vec<_> = report.findings.iter().filter(|finding| finding.object == key).collect();
    assert_eq!(found.len(), 1, "{:#?}", report.findings);
    assert_eq!((found[0].severity, found[0].costs.len()), (Severity::Damaged, 1));
    assert!(
        found[0].problem.contains("two copies") && found[0].problem.contains("do not run gc"),
        "{found:?}"
    );
    assert!(!report.findings.iter().any(|finding| finding.problem.contains("gc removes the rest")));
}

/// Something stands for a missing entry, but somebody else puts one there first.
#[tokio::test(start_paused = true)]
async fn an_entry_that_comes_back_in_between_is_not_overlooked() {
    let scene = Scene::new(15).await;
    let key = names::log(&zone(), 1);
    let bytes = scene.repo.object(&key).await;
    scene.harm(&key, Harm::Gone).await;
    let mut log = Log::load(&scene.admin).await.unwrap();
    scene.repo.tamper(&key, bytes).await;
    let note = Kind::Note(Note { topic: name("drill"), result: None, snapshots: Vec::new() });
    let error =
        sancerre_engine::repository::session::append(&scene.admin, &log, note, &[]).await.unwrap_err();
    assert!(error.to_string().contains("is there again"), "{error}");
    log = Log::load(&scene.admin).await.unwrap();
    assert_eq!(log.lost_entries().next(), None);
    scene.everything_restores().await;
}
