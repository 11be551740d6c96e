//! The newest log entry is lost, and a thief of a writer's key is faster than anybody who could say what it was. He cannot have
//! its snapshot collected as garbage, in whichever of the ways he says that something else stood there (FORMAT.md §7.2).

use std::collections::BTreeSet;

use sancerre_engine::check::{CheckOptions, ReadData, Severity, check};
use sancerre_engine::forget::{hold, undelete};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::{Log, filler};
use sancerre_engine::repository::session::append;
use sancerre_engine::revoke::revoke;
use sancerre_engine::{Error, ErrorKind};
use sancerre_format::certificate::Role;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{Hash, PackName, SessionId};
use sancerre_format::log::{Entry, Kind, Note, Snapshots};
use sancerre_format::names;
use sancerre_format::outcome::{Abort, Manifest};
use sancerre_format::record;
use sancerre_tests::disk::noise;
use sancerre_tests::repo::{name, zone};

use crate::gc::{collect, drop_snapshot};
use crate::lost::{Harm, MIB, Scene};

fn note() -> Kind {
    Kind::Note(Note { topic: name("drill"), result: None, snapshots: Vec::new() })
}

/// A scene whose newest entry is that of a snapshot, and a writer whose key is stolen.
async fn scene(seed: u64) -> (Scene, Repository, SessionId) {
    let scene = Scene::new(seed).await;
    let file = scene.repo.certify("thief", Role::Writer).await;
    let thief = scene.repo.with_key_file(&file).await;
    let newest = scene.session(2);
    (scene, thief, newest)
}

/// A manifest that needs what the first snapshot needs, for another session.
async fn claim(scene: &Scene, by: &Repository, lie: SessionId) -> String {
    let bytes = scene.repo.object(&names::outcome(&zone(), &scene.session(0))).await;
    let manifest = record::decode::<Manifest>(&scene.repo.open.keys.trust, &bytes).unwrap();
    let signer = by.writer().unwrap();
    let fields = Manifest { session: lie, by: signer.by.clone(), ..manifest.fields.clone() };
    let signed = by.sign(signer, &fields, manifest.public().unwrap(), manifest.sealed().unwrap()).unwrap();
    let key = names::outcome(&zone(), &lie);
    scene.repo.tamper(&key, signed.to_vec()).await;
    key
}

/// An entry that says of the one below whatever its signer likes.
async fn entry_at(scene: &Scene, by: &Repository, number: u64, previous: Option<Hash>) -> SessionId {
    let signer = by.writer().unwrap();
    let entry = scene.repo.next_entry(note()).await;
    let entry = Entry { by: signer.by.clone(), number, previous, ..entry };
    let bytes = record::encode(&entry, "sancerre test", &signer.key, &[], &[]).unwrap();
    scene.repo.put_log(number, bytes).await
}

async fn stops_until_said(mut scene: Scene, lie: &str, revokes: bool) {
    let newest = scene.session(2);
    let packs = scene.repo.keys_with("/packs/").await;
    let error = collect(&scene.admin).await.unwrap_err();
    assert!(matches!(error, Error::Unresolved { session, .. } if session.number == newest.number), "{error}");
    assert_eq!(scene.repo.keys_with("/packs/").await, packs);
    let left = scene.repair(&[]).await.unwrap().left;
    let log_key = names::log(&zone(), newest.number);
    assert!(left.iter().any(|(key, advice)| *key == log_key && advice.contains(lie)), "{left:?}");
    if revokes {
        let mut log = Log::load(&scene.admin).await.unwrap();
        revoke(&scene.admin, &mut log, &name("thief"), Some(newest.number), "stolen").await.unwrap();
    }
    let done = scene.repair(&[lie]).await.unwrap();
    assert!(done.left.is_empty() && done.note.is_some(), "{done:?}");
    scene.everything_restores().await;
    collect(&scene.admin).await.unwrap();
    scene.everything_restores().await;
    scene.back_up("db01", noise(1, MIB)).await;
    drop_snapshot(&scene.admin, newest).await.unwrap();
    scene.model.snapshots.remove(2);
    collect(&scene.admin).await.unwrap();
    scene.everything_restores().await;
}

#[tokio::test(start_paused = true)]
async fn by_another_outcome_of_the_same_key() {
    let (scene, _, newest) = scene(3100).await;
    scene.harm(&names::log(&zone(), newest.number), Harm::Gone).await;
    let mut least = [0; 32];
    least[31] = 1;
    let lie = claim(&scene, &scene.admin, SessionId { intent: Hash(least), ..newest }).await;
    stops_until_said(scene, &lie, false).await;
}

#[tokio::test(start_paused = true)]
async fn by_filling_the_number() {
    let (scene, thief, newest) = scene(3101).await;
    let key = names::log(&zone(), newest.number);
    let lie = SessionId { intent: Hash([7; 32]), ..newest };
    scene.repo.tamper(&key, filler(&lie).to_vec()).await;
    let lie = claim(&scene, &thief, lie).await;
    stops_until_said(scene, &lie, false).await;
}

#[tokio::test(start_paused = true)]
async fn by_an_entry_above_that_says_what_it_was() {
    let (scene, thief, newest) = scene(3102).await;
    scene.harm(&names::log(&zone(), newest.number), Harm::Gone).await;
    let lie = SessionId { intent: Hash([7; 32]), ..newest };
    entry_at(&scene, &thief, newest.number + 1, Some(lie.intent)).await;
    let lie = claim(&scene, &thief, lie).await;
    stops_until_said(scene, &lie, false).await;
}

/// What is there was never an entry, says the thief.
#[tokio::test(start_paused = true)]
async fn by_an_entry_above_that_read_what_is_rotten() {
    let (scene, thief, newest) = scene(3103).await;
    let key = names::log(&zone(), newest.number);
    scene.harm(&key, Harm::Rotten).await;
    let there = Hash::of(&scene.repo.object(&key).await);
    entry_at(&scene, &thief, newest.number + 1, Some(there)).await;
    let lie = names::outcome(&zone(), &SessionId { intent: there, ..newest });
    stops_until_said(scene, &lie, false).await;
}

#[tokio::test(start_paused = true)]
async fn by_taking_its_number() {
    let (scene, thief, newest) = scene(3104).await;
    let below = scene.session(1).intent;
    scene.repo.lose(&[names::log(&zone(), newest.number)]).await;
    let taken = entry_at(&scene, &thief, newest.number, Some(below)).await;
    stops_until_said(scene, &names::outcome(&zone(), &taken), true).await;
}

/// What a commit burnt may be on its way to be deleted, whoever has its number now.
#[tokio::test(start_paused = true)]
async fn no_writer_uses_what_a_displaced_commit_burnt() {
    for takes in [true, false] {
        let (mut scene, thief, newest) = scene(3105).await;
        let forget = Snapshots { snapshots: vec![newest], reason: "test".into() };
        scene.repo.append(Kind::Forget(forget), &[]).await;
        scene.model.snapshots.remove(2);
        let mut dead = FrameSet::default();
        for ordinal in 0..scene.repo.keys_with(&format!("/packs/{:016x}/", newest.number)).await.len() {
            dead.insert_pack(PackName { session: newest.number, ordinal: u32::try_from(ordinal).unwrap() });
        }
        let gc = scene.repo.propose(&dead).await;
        let lists = GcLists { dead, forgotten: vec![newest], ..GcLists::default() };
        scene.repo.commit_gc_as(&scene.admin, gc, &lists).await;
        let below = Log::load(&scene.admin).await.unwrap().hash_at(gc.number - 1);
        scene.repo.lose(&[names::log(&zone(), gc.number)]).await;
        match takes {
            true => {
                entry_at(&scene, &thief, gc.number, below).await;
            }
            false => {
                let lie = SessionId { intent: Hash([7; 32]), ..gc };
                entry_at(&scene, &thief, gc.number + 1, Some(lie.intent)).await;
                claim(&scene, &thief, lie).await;
            }
        }
        let new = scene.back_up("db01", noise(3106, MIB)).await;
        assert!(new > MIB as u64 / 2, "{takes}: {new}");
    }
}

/// Revoking a key does not take the number of what was lost, be it of that key or of another.
#[tokio::test(start_paused = true)]
async fn a_revocation_takes_no_number_that_is_claimed() {
    for harm in [Harm::Gone, Harm::Rotten] {
        let (scene, thief, newest) = scene(3107).await;
        claim(&scene, &thief, SessionId { intent: Hash([1; 32]), ..newest }).await;
        scene.harm(&names::log(&zone(), newest.number), harm).await;
        let mut log = Log::load(&scene.admin).await.unwrap();
        let revoked =
            revoke(&scene.admin, &mut log, &name("thief"), Some(newest.number), "stolen").await.unwrap();
        assert_eq!(revoked.number, newest.number + 1, "{harm:?}");
        scene.everything_restores().await;
        scene.repair(&[]).await.unwrap();
        collect(&scene.admin).await.unwrap();
        scene.everything_restores().await;
    }
}

/// A manifest is lost, and somebody who may end sessions puts an abort in its place: what the snapshot needs stays until it is
/// forgotten.
#[tokio::test(start_paused = true)]
async fn by_an_abort_where_a_manifest_was() {
    let mut scene = Scene::new(3108).await;
    let snapshot = scene.session(2);
    collect(&scene.admin).await.unwrap();
    let keeper = scene.repo.with_key_file(&scene.repo.certify("vault", Role::Keeper).await).await;
    let key = names::outcome(&zone(), &snapshot);
    scene.repo.lose(std::slice::from_ref(&key)).await;
    let signer = keeper.signer(&[Role::Keeper]).unwrap();
    let abort = Abort {
        repository: keeper.keys.trust.repository,
        zone: zone(),
        session: snapshot,
        by: signer.by.clone(),
        time: keeper.host.clock.now(),
        reason: "theft".into(),
    };
    scene.repo.tamper(&key, keeper.sign(signer, &abort, &[], &[]).unwrap().to_vec()).await;
    let packs = scene.repo.keys_with("/packs/").await;
    let error = collect(&scene.admin).await.unwrap_err();
    assert!(matches!(error, Error::Replaced { session, .. } if session == snapshot), "{error}");
    assert_eq!(scene.repo.keys_with("/packs/").await, packs);
    let options = CheckOptions { read_data: ReadData::No, quarantine: false };
    let found = check(&scene.admin, &options, &Monitor::silent()).await.unwrap().findings;
    assert!(found.iter().any(|finding| finding.object == key && finding.severity == Severity::Damaged));
    let left = scene.repair(&[]).await.unwrap().left;
    assert!(left.iter().any(|(left, _)| *left == key), "{left:?}");
    scene.model.snapshots.remove(2);
    scene.repair(&[&key]).await.unwrap();
    assert!(collect(&scene.admin).await.unwrap().deleted_packs > 0);
    scene.everything_restores().await;
}

/// A revocation that is lost counts by its copy, for who only reads too: else what a thief signed above it would count.
#[tokio::test(start_paused = true)]
async fn by_a_revocation_that_is_lost() {
    let scene = Scene::new(3109).await;
    let keeper = scene.repo.with_key_file(&scene.repo.certify("vault", Role::Keeper).await).await;
    let mut log = Log::load(&scene.admin).await.unwrap();
    let revoked = revoke(&scene.admin, &mut log, &name("vault"), None, "stolen").await.unwrap();
    let forget = Snapshots { snapshots: vec![scene.session(2)], reason: "theft".into() };
    scene.repo.append_as(&keeper, Kind::Forget(forget), &[]).await;
    scene.everything_restores().await;
    for harm in [Harm::Rotten, Harm::Gone] {
        scene.harm(&names::log(&zone(), revoked.number), harm).await;
        scene.everything_restores().await;
        collect(&scene.admin).await.unwrap();
        scene.everything_restores().await;
    }
    let log = Log::load(&scene.admin).await.unwrap();
    append(&scene.admin, &log, note(), &[]).await.unwrap();
    let log = Log::load(&scene.admin).await.unwrap();
    assert!(log.lost_entries().next().is_none(), "whoever writes puts it back");
    let one = BTreeSet::from([scene.session(2)]);
    let error = undelete(&scene.admin, &one, "no need").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    hold(&scene.admin, &one, "needed").await.unwrap();
}
