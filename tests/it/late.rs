//! What is signed later for a log entry that is lost, or never was: it takes nothing away from anybody, whoever signs it, and
//! what a commit says counts only once the administrator has looked (FORMAT.md §7.2).

use std::collections::BTreeSet;

use sancerre_engine::backup::{BackupOptions, backup};
use sancerre_engine::forget::{hold, undelete};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::{Log, UNKNOWN, filler};
use sancerre_engine::repository::session::append;
use sancerre_engine::revoke::revoke;
use sancerre_engine::{Error, ErrorKind};
use sancerre_format::certificate::Role;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{Hash, PackName, SessionId};
use sancerre_format::log::{Held, Kind, Note, Snapshots};
use sancerre_format::names::{self, Time};
use sancerre_format::outcome::{Abort, Manifest};
use sancerre_format::record;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::odd::forbidden;
use sancerre_tests::repo::{back_up, name, options, zone};

use crate::gc::{collect, drop_snapshot};
use crate::lost::{Harm, MIB, Scene};

fn note() -> Kind {
    Kind::Note(Note { topic: name("drill"), result: None, snapshots: Vec::new() })
}

async fn thief(scene: &Scene, role: Role) -> Repository {
    scene.repo.with_key_file(&scene.repo.certify("thief", role).await).await
}

async fn revoke_thief(scene: &Scene) {
    let mut log = Log::load(&scene.admin).await.unwrap();
    revoke(&scene.admin, &mut log, &name("thief"), None, "stolen").await.unwrap();
}

/// The manifest of a session, signed by somebody for another.
async fn claim(scene: &Scene, by: &Repository, of: SessionId, lie: SessionId) {
    let trust = &scene.repo.open.keys.trust;
    let bytes = scene.repo.object(&names::outcome(&zone(), &of)).await;
    let manifest = record::decode::<Manifest>(trust, &bytes).unwrap();
    let signer = by.writer().unwrap();
    let fields = Manifest { session: lie, by: signer.by.clone(), ..manifest.fields.clone() };
    let signed = by.sign(signer, &fields, manifest.public().unwrap(), manifest.sealed().unwrap()).unwrap();
    scene.repo.tamper(&names::outcome(&zone(), &lie), signed.to_vec()).await;
}

/// The number was filled before anybody knew of a session there; the key that commits for it later has been revoked meanwhile.
#[tokio::test(start_paused = true)]
async fn a_commit_for_a_number_that_was_filled_gives_nothing_up() {
    let mut scene = Scene::new(2001).await;
    let snapshot = scene.session(2);
    let thief = thief(&scene, Role::Keeper).await;
    let forget = Snapshots { snapshots: vec![snapshot], reason: "theft".into() };
    scene.repo.append_as(&thief, Kind::Forget(forget), &[]).await;
    let number = Log::load(&scene.admin).await.unwrap().highest() + 1;
    let lie = SessionId { number, intent: Hash([0x11; 32]) };
    scene.repo.tamper(&names::log(&zone(), number), filler(&lie).to_vec()).await;
    undelete(&scene.admin, &BTreeSet::from([snapshot]), "mine").await.unwrap();
    hold(&scene.admin, &BTreeSet::from([snapshot]), "mine").await.unwrap();
    revoke_thief(&scene).await;
    let lists = GcLists { forgotten: vec![snapshot], ..GcLists::default() };
    scene.repo.commit_gc_as(&thief, lie, &lists).await;
    scene.everything_restores().await;
    scene.back_up("web01", scene.disk.clone()).await;
    let error = collect(&scene.admin).await.unwrap_err();
    assert!(matches!(error, Error::Unresolved { session, .. } if session.number == number), "{error}");
    let key = names::log(&zone(), number);
    let left = scene.repair(&[]).await.unwrap().left;
    assert!(left.iter().any(|(_, advice)| advice.contains(&format!("`give_up` {key}"))), "{left:?}");
    scene.repair(&[&key]).await.unwrap();
    collect(&scene.admin).await.unwrap();
    scene.everything_restores().await;
}

/// A record has no outcome, so anybody can sign one for it once it is lost.
#[tokio::test(start_paused = true)]
async fn a_commit_for_a_lost_record_stops_gc_and_burns_nothing() {
    let mut scene = Scene::new(2002).await;
    let snapshot = scene.session(2);
    let thief = thief(&scene, Role::Keeper).await;
    let held = Held { snapshots: vec![snapshot], vms: Vec::new(), reason: "court".into() };
    let record = scene.repo.append(Kind::Hold(held), &[]).await;
    collect(&scene.admin).await.unwrap();
    revoke_thief(&scene).await;
    scene.harm(&names::log(&zone(), record.number), Harm::Rotten).await;
    let mut dead = FrameSet::default();
    dead.insert_pack(PackName { session: snapshot.number, ordinal: 0 });
    scene.repo.commit_gc_as(&thief, record, &GcLists { dead, ..GcLists::default() }).await;
    scene.everything_restores().await;
    // Whoever backs up keeps away from what may go.
    scene.back_up("db01", noise(2003, MIB)).await;
    let error = collect(&scene.admin).await.unwrap_err();
    assert!(matches!(error, Error::Unresolved { session, .. } if session == record), "{error}");
    let left = scene.repair(&[]).await.unwrap().left;
    let key = names::log(&zone(), record.number);
    let named = |(_, advice): &(String, String)| advice.contains(&format!("`give_up` {key}"));
    assert!(left.iter().any(named), "{left:?}");
    scene.repair(&[&key]).await.unwrap();
    collect(&scene.admin).await.unwrap();
    scene.everything_restores().await;
}

/// A hold that is lost must be said again before anything is deleted: gc waits for the administrator's word.
#[tokio::test(start_paused = true)]
async fn gc_does_not_go_on_above_a_lost_record() {
    for harm in [Harm::Rotten, Harm::Unread(forbidden)] {
        let mut scene = Scene::new(2004).await;
        let record = scene.repo.append(note(), &[]).await;
        scene.repo.append(note(), &[]).await;
        scene.harm(&names::log(&zone(), record.number), harm).await;
        scene.everything_restores().await;
        collect(&scene.admin).await.unwrap_err();
        let key = names::log(&zone(), record.number);
        scene.repair(&[&key]).await.unwrap();
        collect(&scene.admin).await.unwrap();
        scene.back_up("web01", scene.disk.clone()).await;
        scene.everything_restores().await;
    }
}

/// It would need what an honest gc has burnt since, and call that one a liar.
#[tokio::test(start_paused = true)]
async fn a_manifest_for_a_lost_record_accuses_nobody() {
    let mut scene = Scene::new(2005).await;
    let thief = thief(&scene, Role::Writer).await;
    let record = scene.repo.append(note(), &[]).await;
    let gone = scene.session(2);
    scene.back_up("db01", noise(3006, MIB)).await;
    let manifest = scene.repo.object(&names::outcome(&zone(), &gone)).await;
    drop_snapshot(&scene.admin, gone).await.unwrap();
    scene.model.snapshots.remove(2);
    assert!(collect(&scene.admin).await.unwrap().deleted_packs > 0);
    scene.harm(&names::log(&zone(), record.number), Harm::Rotten).await;
    scene.repo.tamper(&names::outcome(&zone(), &gone), manifest).await;
    claim(&scene, &thief, gone, record).await;
    let mut log = Log::load(&scene.admin).await.unwrap();
    log.judge();
    assert_eq!(log.complaints(), []);
    assert!(!log.snapshots().iter().any(|snapshot| snapshot.session() == record), "it came too late");
    scene.repair(&[&names::log(&zone(), record.number)]).await.unwrap();
    scene.back_up("web01", scene.disk.clone()).await;
    collect(&scene.admin).await.unwrap();
    scene.everything_restores().await;
}

/// Who followed on a number has read what is there, and no other word about it is believed: it is a dispute, which only the
/// administrator ends.
#[tokio::test(start_paused = true)]
async fn what_the_next_entry_read_is_not_overridden() {
    let scene = Scene::new(2006).await;
    let number = Log::load(&scene.admin).await.unwrap().highest() + 1;
    scene.repo.tamper(&names::log(&zone(), number), b"junk".to_vec()).await;
    let log = Log::load(&scene.admin).await.unwrap();
    append(&scene.admin, &log, note(), &[]).await.unwrap();
    let thief = thief(&scene, Role::Keeper).await;
    let lie = SessionId { number, intent: Hash([1; 32]) };
    claim(&scene, &scene.admin, scene.session(2), lie).await;
    let gc = Kind::Gc { generation: 1 };
    let gc = scene.repo.append_as(&thief, gc, &GcLists::default().encode().unwrap()).await;
    scene.repo.commit_gc_as(&thief, gc, &GcLists { seen: vec![lie], ..GcLists::default() }).await;
    let log = Log::load(&scene.admin).await.unwrap();
    assert!(log.lost_entries().next().is_none());
    assert_eq!(log.said_of(number), Some(SessionId { number, intent: UNKNOWN }));
    assert_eq!(log.dispute(number).map(|dispute| dispute.claims.len()), Some(1));
    scene.everything_restores().await;
}

/// Entry rotten, and its outcome is there and cannot be read: it needs what it needs.
#[tokio::test(start_paused = true)]
async fn what_an_unreadable_outcome_of_a_lost_entry_needs_is_kept() {
    let mut scene = Scene::new(2007).await;
    let session = scene.session(2);
    scene.back_up("web01", scene.disk.clone()).await;
    scene.harm(&names::log(&zone(), session.number), Harm::Rotten).await;
    scene.harm(&names::outcome(&zone(), &session), Harm::Unread(forbidden)).await;
    let packs = scene.repo.keys_with("/packs/").await;
    let error = collect(&scene.admin).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    assert_eq!(scene.repo.keys_with("/packs/").await, packs);
    scene.odd.mend();
    scene.everything_restores().await;
}

/// A writer may abort nobody's session but its own.
#[tokio::test(start_paused = true)]
async fn an_abort_hides_no_lost_newest_snapshot() {
    let scene = Scene::new(2008).await;
    let thief = thief(&scene, Role::Writer).await;
    let newest = scene.session(2);
    let mut least = [0; 32];
    least[31] = 1;
    let lie = SessionId { intent: Hash(least), ..newest };
    let signer = thief.writer().unwrap();
    let abort = Abort {
        repository: thief.keys.trust.repository,
        zone: zone(),
        session: lie,
        by: signer.by.clone(),
        time: thief.host.clock.now(),
        reason: "theft".into(),
    };
    let bytes = thief.sign(signer, &abort, &[], &[]).unwrap();
    scene.repo.tamper(&names::outcome(&zone(), &lie), bytes.to_vec()).await;
    scene.harm(&names::log(&zone(), newest.number), Harm::Gone).await;
    scene.everything_restores().await;
}

/// Two keys claim the newest number: nobody takes it, and what was there comes back once one of them is revoked.
#[tokio::test(start_paused = true)]
async fn nobody_takes_a_number_that_several_keys_claim() {
    let mut scene = Scene::new(2009).await;
    let thief = thief(&scene, Role::Writer).await;
    let newest = scene.session(2);
    claim(&scene, &thief, newest, SessionId { intent: Hash([1; 32]), ..newest }).await;
    scene.harm(&names::log(&zone(), newest.number), Harm::Gone).await;
    let error = back_up(&scene.admin, "web01", MemoryDisk::new(scene.disk.clone())).await.unwrap_err();
    assert!(matches!(error, Error::Unresolved { .. }), "{error}");
    let key = names::outcome(&zone(), &SessionId { intent: Hash([1; 32]), ..newest });
    scene.repo.lose(&[key]).await;
    scene.everything_restores().await;
    scene.back_up("web01", scene.disk.clone()).await;
    scene.everything_restores().await;
}

/// Two entries beside each other are lost: the outcome of the lower one speaks for itself.
#[tokio::test(start_paused = true)]
async fn two_lost_entries_beside_each_other_cost_nothing() {
    for harm in [Harm::Gone, Harm::Rotten] {
        let mut scene = Scene::new(2010).await;
        scene.repo.append(note(), &[]).await;
        for at in [1, 2] {
            scene.harm(&names::log(&zone(), scene.session(at).number), harm).await;
        }
        scene.everything_restores().await;
        scene.back_up("web01", scene.disk.clone()).await;
        // Nobody is there who read the lower one: it may have been something else.
        let error = collect(&scene.admin).await.unwrap_err();
        assert!(matches!(error, Error::Unresolved { session, .. } if session == scene.session(1)), "{error}");
        let report = scene.repair(&[]).await.unwrap();
        assert!(report.left.is_empty(), "{report:?}");
        collect(&scene.admin).await.unwrap();
        scene.everything_restores().await;
    }
}

/// Whoever forgets says when; what a manifest keeps goes by the clock of who deletes.
#[tokio::test(start_paused = true)]
async fn a_forget_that_lies_about_its_time_deletes_nothing() {
    let mut scene = Scene::new(2011).await;
    let until = Time::from_unix_seconds(scene.repo.host.clock.now().unix_seconds() + 100_000);
    let disk = noise(2012, MIB);
    let kept = options("court", vec![("disk0", MemoryDisk::new(disk.clone()))]);
    let kept = BackupOptions { retain_until: Some(until), ..kept };
    let snapshot = backup(&scene.admin, kept, &Monitor::silent()).await.unwrap().snapshot.unwrap();
    scene.model.add_disk(snapshot, &disk);
    scene.back_up("court", noise(2013, MIB)).await;
    let later = Time::from_unix_seconds(until.unix_seconds() + 1);
    let forget = Snapshots { snapshots: vec![snapshot], reason: "theft".into() };
    let entry = scene.repo.next_entry(Kind::Forget(forget)).await;
    let entry = sancerre_format::log::Entry { time: later, ..entry };
    let bytes = record::encode(&entry, "test", &scene.repo.admin_key().await, &[], &[]).unwrap();
    scene.repo.put_log(entry.number, bytes).await;
    let error = collect(&scene.admin).await.unwrap_err();
    assert!(error.to_string().contains("`undelete("), "{error}");
    // Nor by a collector that lies as well, as long as it says its true time.
    let gc = scene.repo.propose(&FrameSet::default()).await;
    scene.repo.commit_gc(gc, &GcLists { forgotten: vec![snapshot], ..GcLists::default() }).await;
    let log = Log::load(&scene.admin).await.unwrap();
    assert_eq!(log.retention().collected_by(&snapshot), None);
    undelete(&scene.admin, &BTreeSet::from([snapshot]), "mine").await.unwrap();
    scene.everything_restores().await;
}
