//! The newest log entry is lost, of which nothing above says what it was; bytes that rotted are there for ever; and entry and
//! outcome are both lost. Whatever it is, the number is not taken again, somebody can go on, and once the administrator has
//! seen it and said so, nothing calls for him any more.

use std::collections::BTreeSet;

use sancerre_engine::check::{CheckOptions, Finding, ReadData, Severity, check};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repair::{RepairOptions, RepairReport, repair};
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::{Log, Outcome, filler};
use sancerre_engine::repository::session::append;
use sancerre_engine::revoke::revoke;
use sancerre_engine::{Error, ErrorKind, StoreError};
use sancerre_format::certificate::Role;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::{Kind, Note};
use sancerre_format::names;
use sancerre_format::outcome::Manifest;
use sancerre_format::record;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::odd::bad_sector;
use sancerre_tests::repo::{back_up, name, zone};

use crate::gc::{collect, drop_snapshot};
use crate::lost::{HARMS, Harm, MIB, Scene, severity};

fn note(result: &str) -> Kind {
    Kind::Note(Note { topic: name("drill"), result: Some(name(result)), snapshots: Vec::new() })
}

/// What calls for somebody. Unlike [`Scene::findings`] it lets packs be garbage.
async fn alarms(scene: &Scene) -> Vec<Finding> {
    let options = CheckOptions { read_data: ReadData::All, quarantine: false };
    let report = check(&scene.admin, &options, &Monitor::silent()).await.unwrap();
    report.findings.into_iter().filter(|finding| finding.severity != Severity::Note).collect()
}

/// Its number is the next session's, unless somebody looks: the outcome says that it was there, and stands for it.
#[tokio::test(start_paused = true)]
async fn a_lost_newest_log_entry_keeps_its_number_and_its_snapshot() {
    for harm in HARMS {
        let mut scene = Scene::new(989).await;
        let newest = scene.session(2);
        let entry = names::log(&zone(), newest.number);
        scene.harm(&entry, harm).await;
        scene.everything_restores().await;
        let found = scene.findings().await;
        let said: Vec<_> = found.iter().map(|one| (one.severity, one.object.as_str())).collect();
        assert_eq!(said, [(severity(harm), entry.as_str())], "{found:?}");
        assert!(found[0].costs.is_empty() && found[0].problem.contains("outcome stands for it"), "{found:?}");

        let report = back_up(&scene.admin, "db01", MemoryDisk::new(noise(990, MIB))).await.unwrap();
        assert_eq!((report.snapshot.unwrap().number, report.new_bytes), (newest.number + 1, 0), "{harm:?}");
        scene.everything_restores().await;
        let log = Log::load(&scene.repo.as_writer().await).await.unwrap();
        assert!(log.snapshots().iter().any(|snapshot| snapshot.session() == newest), "{harm:?}");
        collect(&scene.admin).await.unwrap();
        drop_snapshot(&scene.admin, newest).await.unwrap();
        scene.model.snapshots.remove(2);
        collect(&scene.admin).await.unwrap();
        scene.everything_restores().await;
        scene.repair(&[]).await.unwrap();
        assert_eq!(scene.findings().await, [], "{harm:?}");
    }
}

/// What it moved lies where its commit says, and nobody else gets its number.
#[tokio::test(start_paused = true)]
async fn a_lost_newest_log_entry_of_a_gc_keeps_its_moves() {
    for harm in HARMS {
        let mut scene = after_a_gc(991).await;
        let before = Log::load(&scene.admin).await.unwrap();
        let gc = before.highest();
        scene.harm(&names::log(&zone(), gc), harm).await;
        scene.everything_restores().await;
        scene.back_up("db01", noise(61, MIB)).await;
        assert_eq!(scene.session(3).number, gc + 1, "{harm:?}");
        collect(&scene.admin).await.unwrap_err();
        scene.repair(&[]).await.unwrap();
        let log = Log::load(&scene.admin).await.unwrap();
        assert!(matches!(log.entry(gc).unwrap().outcome, Outcome::Commit(..)), "{harm:?}");
        assert_eq!(log.burnt(Log::END), before.burnt(Log::END), "{harm:?}");
        collect(&scene.admin).await.unwrap();
        scene.everything_restores().await;
    }
}

/// Frames of the first two sessions were moved, and their packs deleted.
async fn after_a_gc(seed: u64) -> Scene {
    let mut scene = Scene::new(seed).await;
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
    assert!(report.deleted_packs > 0 && report.written_packs > 0, "{report:?}");
    scene
}

/// Whoever filled the number died, and somebody who read the log before goes on above it without a word about the entry.
#[tokio::test(start_paused = true)]
async fn what_fills_the_newest_number_says_what_stood_there() {
    let mut scene = Scene::new(992).await;
    let early = Log::load(&scene.admin).await.unwrap();
    let saved = back_up(&scene.admin, "mail01", MemoryDisk::new(noise(993, MIB))).await.unwrap();
    let newest = saved.snapshot.unwrap();
    scene.model.add_disk(newest, &noise(993, MIB));
    let key = names::log(&zone(), newest.number);
    scene.harm(&key, Harm::Gone).await;
    scene.repo.tamper(&key, format!("sancerre-lost-v1\nsession: {newest}\n").into_bytes()).await;
    let above = append(&scene.admin, &early, note("early"), &[]).await.unwrap();
    assert_eq!(above.number, newest.number + 1);
    let log = Log::load(&scene.admin).await.unwrap();
    assert_eq!(log.lost_entries().map(|(session, _)| session).collect::<Vec<_>>(), [newest]);
    assert_eq!(log.breaks().count(), 0);
    scene.everything_restores().await;
    assert_eq!(scene.findings().await, []);
    assert_eq!(scene.back_up("mail01", noise(993, MIB)).await, 0);
    // Nobody read the entry itself.
    collect(&scene.admin).await.unwrap_err();
    scene.repair(&[]).await.unwrap();
    collect(&scene.admin).await.unwrap();
    scene.everything_restores().await;
}

/// A signed outcome with no entry counts at the top alone: below, it would be slipped in under what others built on.
#[tokio::test(start_paused = true)]
async fn an_outcome_without_an_entry_counts_at_the_top_alone() {
    let mut scene = Scene::new(994).await;
    let junk = names::log(&zone(), 4);
    scene.repo.tamper(&junk, b"junk".to_vec()).await;
    scene.back_up("db01", noise(995, MIB)).await;
    assert_eq!(scene.session(3).number, 5);
    // The same key signs one for the number of the junk.
    let lie = SessionId { number: 4, intent: scene.session(3).intent };
    sign_for(&scene, scene.session(3), lie).await;
    let log = Log::load(&scene.admin).await.unwrap();
    assert!(log.entry(4).unwrap().entry.is_err() && log.lost_entries().next().is_none());
    scene.everything_restores().await;
}

/// Two signed outcomes for one number whose entry is lost: all readers take that with the least hash, and another one than
/// the snapshot's own changes nothing once it was said which it is.
#[tokio::test(start_paused = true)]
async fn of_two_outcomes_of_a_lost_newest_entry_the_least_hash_stands() {
    for byte in [0, u8::MAX] {
        let mut scene = Scene::new(986).await;
        let newest = scene.session(2);
        let mut other = newest;
        other.intent.0[0] = if newest.intent.0[0] == byte { byte ^ 1 } else { byte };
        sign_for(&scene, newest, other).await;
        scene.harm(&names::log(&zone(), newest.number), Harm::Gone).await;
        let lost = async || {
            let log = Log::load(&scene.admin).await.unwrap();
            log.lost_entries().map(|(session, _)| session).collect::<Vec<_>>()
        };
        let least = newest.min(other);
        assert_eq!(lost().await, [least]);
        let log = Log::load(&scene.admin).await.unwrap();
        append(&scene.admin, &log, note("above"), &[]).await.unwrap();
        assert_eq!(lost().await, [least], "and it stays so");
        if least == newest {
            scene.everything_restores().await;
            scene.back_up("db01", noise(987, MIB)).await;
        }
    }
}

/// What fills the number says which session it is, so none that is signed later takes its place.
#[tokio::test(start_paused = true)]
async fn what_fills_the_newest_number_counts_before_the_least_hash() {
    let scene = Scene::new(988).await;
    let newest = scene.session(2);
    let key = names::log(&zone(), newest.number);
    scene.harm(&key, Harm::Gone).await;
    scene.repo.tamper(&key, filler(&newest).to_vec()).await;
    sign_for(&scene, newest, SessionId { intent: Hash([1; 32]), ..newest }).await;
    let log = Log::load(&scene.admin).await.unwrap();
    assert_eq!(log.lost_entries().map(|(session, _)| session).collect::<Vec<_>>(), [newest]);
    scene.everything_restores().await;
}

/// The manifest of one session, signed by the same key for another.
async fn sign_for(scene: &Scene, of: SessionId, lie: SessionId) {
    let trust = &scene.repo.open.keys.trust;
    let bytes = scene.repo.object(&names::outcome(&zone(), &of)).await;
    let manifest = record::decode::<Manifest>(trust, &bytes).unwrap();
    let fields = Manifest { session: lie, ..manifest.fields.clone() };
    let (public, sealed) = (manifest.public().unwrap(), manifest.sealed().unwrap());
    let signed = scene.admin.sign(scene.admin.writer().unwrap(), &fields, public, sealed).unwrap();
    record::decode::<Manifest>(trust, &signed).unwrap();
    scene.repo.tamper(&names::outcome(&zone(), &lie), signed.to_vec()).await;
}

/// Of the lower of two nothing is known, and the upper one says so: nobody goes on below it without the administrator's word.
#[tokio::test(start_paused = true)]
async fn two_lost_newest_entries_are_not_taken_again() {
    let mut scene = Scene::new(996).await;
    let below = scene.repo.append(note("below"), &[]).await;
    scene.back_up("db01", noise(997, MIB)).await;
    let keys = [names::log(&zone(), below.number), names::log(&zone(), scene.session(3).number)];
    scene.repo.lose(&keys).await;
    scene.everything_restores().await;
    let refused = back_up(&scene.admin, "web01", MemoryDisk::new(scene.disk.clone())).await.unwrap_err();
    assert!(matches!(refused, Error::Gap { number, .. } if number == below.number), "{refused}");
    assert!(refused.to_string().contains("`repair`"), "{refused}");
    let left = scene.repair(&[]).await.unwrap().left;
    assert!(left.iter().any(|(key, advice)| *key == keys[0] && advice.contains("`give_up`")), "{left:?}");
    scene.repair(&[&keys[0]]).await.unwrap();
    scene.back_up("web01", scene.disk.clone()).await;
    collect(&scene.admin).await.unwrap();
    scene.everything_restores().await;
    assert_eq!(scene.findings().await, []);
}

/// Revocations are kept twice, also the newest entry of the log.
#[tokio::test(start_paused = true)]
async fn a_lost_newest_revocation_is_put_back() {
    let scene = Scene::new(998).await;
    scene.repo.certify("thief", Role::Writer).await;
    let mut log = Log::load(&scene.admin).await.unwrap();
    let revoked = revoke(&scene.admin, &mut log, &name("thief"), Some(1), "stolen").await.unwrap();
    let key = names::log(&zone(), revoked.number);
    let bytes = scene.repo.object(&key).await;
    scene.harm(&key, Harm::Gone).await;
    scene.repair(&[]).await.unwrap();
    assert_eq!(scene.repo.object(&key).await, bytes);
    assert!(Log::load(&scene.admin).await.unwrap().revocation(&name("thief")).is_some());
}

/// A process that goes on after its entry was taken away deletes nothing: who came after it did not see what it proposed.
#[tokio::test(start_paused = true)]
async fn a_gc_whose_own_entry_is_gone_deletes_nothing() {
    let mut scene = Scene::new(999).await;
    scene.back_up("db01", noise(1000, MIB)).await;
    drop_snapshot(&scene.admin, scene.session(2)).await.unwrap();
    scene.model.snapshots.remove(2);
    let through = Repository { store: scene.repo.open.store.clone(), ..scene.admin.clone() };
    let packs = scene.repo.keys_with("/packs/").await;
    let number = Log::load(&scene.admin).await.unwrap().highest() + 1;
    scene.repo.store.pause_before("/outcome/");
    let lose = async {
        scene.repo.store.paused().await;
        scene.repo.lose(&[names::log(&zone(), number)]).await;
        scene.repo.store.go_on();
    };
    let (report, ()) = futures::future::join(collect(&through), lose).await;
    let error = report.unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::Vanished { .. })), "{error}");
    assert_eq!(scene.repo.keys_with("/packs/").await, packs);
    scene.everything_restores().await;
}

/// What is there cannot be replaced. Once it is on record that something else stands for it, `check` is content; and not if it
/// rots on.
#[tokio::test(start_paused = true)]
async fn a_rotten_entry_that_is_on_record_is_no_damage() {
    for harm in [Harm::Rotten, Harm::Unread(bad_sector)] {
        let scene = Scene::new(1001).await;
        let key = names::log(&zone(), 1);
        scene.harm(&key, harm).await;
        assert_eq!(scene.findings().await.len(), 1);
        let report = scene.repair(&[]).await.unwrap();
        assert!(report.left.is_empty() && report.note.is_some(), "{report:?}");
        assert_eq!(scene.findings().await, [], "{harm:?}");
        assert_eq!(scene.repair(&[]).await.unwrap(), RepairReport::default(), "once is enough");
        scene.everything_restores().await;
        scene.odd.mend();
        scene.repo.tamper(&key, b"it rotted on".to_vec()).await;
        let found = scene.findings().await;
        assert_eq!((found.len(), found[0].severity), (1, Severity::Damaged), "{found:?}");
    }
}

/// Junk that never was an entry, or of which nobody can tell: it stops nobody, and calls for somebody until it is on record.
#[tokio::test(start_paused = true)]
async fn junk_in_the_log_is_put_on_record_by_name() {
    let mut scene = Scene::new(1002).await;
    let key = names::log(&zone(), 4);
    scene.repo.tamper(&key, b"junk".to_vec()).await;
    scene.back_up("web01", scene.disk.clone()).await;
    let found = scene.findings().await;
    assert!(found.len() == 1 && found[0].problem.contains(&format!("`give_up({key})`")), "{found:?}");
    assert_eq!(scene.repair(&[]).await.unwrap(), RepairReport::default());
    scene.repair(&[&key]).await.unwrap();
    assert_eq!(scene.findings().await, []);
    let error = scene.repair(&[&key]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    scene.everything_restores().await;
}

/// Entry and outcome are lost, each in any way: what is left names the way on, which works, and then nobody is called for.
#[tokio::test(start_paused = true)]
async fn whoever_gives_up_what_repair_names_goes_on_and_check_is_content() {
    for entry in [Harm::Gone, Harm::Rotten, Harm::Unread(bad_sector)] {
        for outcome in [Harm::Gone, Harm::Rotten, Harm::Unread(bad_sector)] {
            let what = format!("entry {entry:?}, outcome {outcome:?}");
            let mut scene = Scene::new(1003).await;
            let session = scene.session(0);
            scene.harm(&names::log(&zone(), session.number), entry).await;
            scene.harm(&names::outcome(&zone(), &session), outcome).await;
            scene.model.snapshots.remove(0);
            gives_up_and_goes_on(&mut scene, &what).await;
            assert_eq!(alarms(&scene).await, [], "{what}");
        }
    }
}

/// The same of one that a later snapshot of its machine and a gc saw.
#[tokio::test(start_paused = true)]
async fn whoever_gives_up_what_others_saw_goes_on_and_check_is_content() {
    for entry in [Harm::Gone, Harm::Rotten] {
        for outcome in [Harm::Gone, Harm::Rotten] {
            let what = format!("entry {entry:?}, outcome {outcome:?}");
            let mut scene = Scene::new(1006).await;
            scene.back_up("web01", scene.disk.clone()).await;
            collect(&scene.admin).await.unwrap();
            let session = scene.session(0);
            scene.harm(&names::log(&zone(), session.number), entry).await;
            scene.harm(&names::outcome(&zone(), &session), outcome).await;
            scene.model.snapshots.remove(0);
            gives_up_and_goes_on(&mut scene, &what).await;
            assert_eq!(alarms(&scene).await, [], "{what}");
        }
    }
}

/// The same of a gc. Where frames lie is then found by looking, which `check` does not do.
#[tokio::test(start_paused = true)]
async fn whoever_gives_up_a_gc_that_is_lost_goes_on() {
    for outcome in [Harm::Gone, Harm::Rotten] {
        let mut scene = after_a_gc(1004).await;
        let log = Log::load(&scene.admin).await.unwrap();
        let gc = log.entry(log.highest()).unwrap().session;
        scene.back_up("db01", noise(61, MIB)).await;
        scene.harm(&names::log(&zone(), gc.number), Harm::Gone).await;
        scene.harm(&names::outcome(&zone(), &gc), outcome).await;
        gives_up_and_goes_on(&mut scene, &format!("{outcome:?}")).await;
    }
}

/// An outcome alone, which a commit saw.
#[tokio::test(start_paused = true)]
async fn whoever_gives_up_a_lost_outcome_goes_on_and_check_is_content() {
    let mut scene = Scene::new(1005).await;
    collect(&scene.admin).await.unwrap();
    let key = names::outcome(&zone(), &scene.session(0));
    scene.harm(&key, Harm::Gone).await;
    scene.model.snapshots.remove(0);
    let error = collect(&scene.admin).await.unwrap_err();
    assert!(error.to_string().contains(&format!("`give_up({key})`")), "{error}");
    gives_up_and_goes_on(&mut scene, "outcome").await;
    assert_eq!(alarms(&scene).await, []);
}

async fn repair_now(scene: &Scene, keys: &[String], what: &str) -> RepairReport {
    let options = RepairOptions { dry_run: false, give_up: keys.to_vec(), reason: "test".into() };
    let repaired = repair(&scene.admin, &options, &Monitor::silent()).await;
    repaired.unwrap_or_else(|error| panic!("{what}: {keys:?}: {error}"))
}

async fn gives_up_and_goes_on(scene: &mut Scene, what: &str) {
    scene.everything_restores().await;
    let mut given_up = BTreeSet::new();
    loop {
        let left = repair_now(scene, &[], what).await.left;
        let named = |advice: &str| {
            Some(advice.split_once("`give_up` ")?.1.split([' ', ',', '.', ':']).next()?.to_owned())
        };
        let keys: Vec<String> = left.iter().filter_map(|(_, advice)| named(advice)).collect();
        if keys.is_empty() {
            break;
        }
        repair_now(scene, &keys, what).await;
        for key in keys {
            assert!(given_up.insert(key.clone()), "{what}: {key} is named again: {left:?}");
        }
    }
    scene.back_up("mail01", noise(70, MIB)).await;
    collect(&scene.admin).await.unwrap_or_else(|error| panic!("{what}, given up {given_up:?}: {error}"));
    scene.everything_restores().await;
}
