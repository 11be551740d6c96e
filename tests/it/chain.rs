//! The log is a chain: who replaces an entry, or signs one for other bytes than stand below it, is found; nobody pushes
//! others beyond a gap; and the power of a key ends with its revocation, whatever it has under way.

use sancerre_engine::ErrorKind;
use sancerre_engine::check::{CheckOptions, ReadData, Severity, check};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::{Log, Outcome};
use sancerre_engine::revoke::revoke;
use sancerre_format::certificate::Role;
use sancerre_format::id::Hash;
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::forge::signed_with;
use sancerre_tests::model::Model;
use sancerre_tests::repo::{TestRepo, back_up, name, zone};

use crate::gc::{collect, drop_snapshot};

const SIZE: usize = 1 << 20;

async fn scene(seed: u64) -> (TestRepo, Model, Repository) {
    let (repo, mut model) = (TestRepo::new(seed).await, Model::default());
    for (vm, seed) in [("web01", seed), ("web01", seed + 1), ("db01", seed + 2)] {
        let bytes = noise(seed, SIZE);
        let report = back_up(&repo.open, vm, MemoryDisk::new(bytes.clone())).await.unwrap();
        model.add_disk(report.snapshot.unwrap(), &bytes);
    }
    let thief = repo.with_key_file(&repo.certify("thief", Role::Writer).await).await;
    (repo, model, thief)
}

/// An entry of the thief's at this number, that follows on these bytes.
async fn sign(repo: &TestRepo, thief: &Repository, number: u64, previous: Option<Hash>) -> String {
    let kind = Kind::Quarantine { reason: "test".into() };
    let signer = thief.signer(kind.roles()).unwrap();
    let entry = Entry { by: signer.by.clone(), number, previous, ..repo.next_entry(kind).await };
    repo.put_log(number, signed_with(&entry, &signer.key, &[], |text| text)).await;
    names::log(&zone(), number)
}

async fn findings(repo: &TestRepo) -> Vec<(Severity, String)> {
    let options = CheckOptions { read_data: ReadData::No, quarantine: false };
    let report = check(&repo.open, &options, &Monitor::silent()).await.unwrap();
    let told = report
        .findings
        .into_iter()
        .map(|found| (found.severity, format!("{}: {}", found.object, found.problem)));
    told.filter(|(severity, _)| *severity != Severity::Note).collect()
}

/// Ends what the thief signed, in any case.
async fn revoke_thief(repo: &TestRepo, from: u64) -> u64 {
    let admin = repo.as_admin().await;
    let mut log = Log::load(&admin).await.unwrap();
    revoke(&admin, &mut log, &name("thief"), Some(from), "test").await.unwrap().number
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_follows_on_other_bytes_is_named_and_stops_collectors() {
    let (repo, mut model, thief) = scene(100).await;
    sign(&repo, &thief, 4, Some(Hash::of(b"other bytes"))).await;
    let told = findings(&repo).await;
    assert!(
        told.iter().any(|(severity, text)| *severity == Severity::Damaged
            && text.contains("thief")
            && text.contains("/log/0000000000000003: entry 4 of thief follows on another one")),
        "{told:?}"
    );
    model.check(&repo.open).await;
    let keeper = repo.as_keeper().await;
    let before = repo.objects().await;
    let error = collect(&keeper).await.unwrap_err();
    assert!(error.to_string().contains("thief"), "{error}");
    assert_eq!(repo.objects().await, before);
    // Backups go on, and so does everything once the liar is revoked.
    let bytes = noise(103, SIZE);
    let report = back_up(&repo.open, "db01", MemoryDisk::new(bytes.clone())).await.unwrap();
    model.add_disk(report.snapshot.unwrap(), &bytes);
    revoke_thief(&repo, 4).await;
    assert_eq!(findings(&repo).await, []);
    collect(&keeper).await.unwrap();
    model.check(&repo.open).await;
}

/// An entry that was replaced is seen by the one that follows on it.
#[tokio::test(start_paused = true)]
async fn a_replaced_entry_is_seen() {
    let (repo, _, thief) = scene(110).await;
    let before = Log::load(&repo.open).await.unwrap().entry(1).map(|entry| entry.session.intent);
    sign(&repo, &thief, 2, before).await;
    let told = findings(&repo).await;
    assert!(told.iter().any(|(_, text)| text.contains("/log/0000000000000002: entry 3")), "{told:?}");
    assert!(collect(&repo.as_keeper().await).await.is_err());
}

/// A far number that somebody signed: nobody takes the next one, and the revocation of his key takes the first free one.
#[tokio::test(start_paused = true)]
async fn nobody_pushes_others_beyond_a_gap() {
    for far in [6, 1 << 40, u64::MAX] {
        let (repo, mut model, thief) = scene(120).await;
        sign(&repo, &thief, far, Some(Hash::of(b"nothing"))).await;
        model.check(&repo.open).await;
        let before = repo.objects().await;
        let keeper = repo.as_keeper().await;
        let before =
            before.into_iter().chain(repo.objects().await).collect::<std::collections::BTreeSet<_>>();
        let error = back_up(&repo.open, "web01", MemoryDisk::new(noise(123, SIZE))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        assert!(error.to_string().contains("thief"), "{error}");
        assert!(drop_snapshot(&keeper, model.snapshots[0].0).await.is_err());
        assert!(collect(&keeper).await.is_err());
        let now: std::collections::BTreeSet<_> = repo.objects().await.into_iter().collect();
        assert_eq!(now, before, "nothing was written at any number");
        assert_eq!(revoke_thief(&repo, 1).await, 4);
        let bytes = noise(124, SIZE);
        let report = back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
        assert_eq!(report.snapshot.unwrap().number, 5);
        model.add_disk(report.snapshot.unwrap(), &bytes);
        collect(&keeper).await.unwrap();
        model.check(&repo.open).await;
    }
}

/// Junk at a far number is nobody's entry: numbers go on where they were.
#[tokio::test(start_paused = true)]
async fn junk_at_a_far_number_pushes_nobody() {
    let (repo, mut model, _) = scene(130).await;
    repo.tamper(&names::log(&zone(), u64::MAX), b"junk".to_vec()).await;
    repo.tamper(&names::log(&zone(), 77), b"junk".to_vec()).await;
    let bytes = noise(133, SIZE);
    let report = back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
    assert_eq!(report.snapshot.unwrap().number, 4);
    model.add_disk(report.snapshot.unwrap(), &bytes);
    collect(&repo.as_keeper().await).await.unwrap();
    model.check(&repo.open).await;
}

/// A keeper is revoked while his gc is about to commit: it ends with nothing, and nothing is lost.
#[tokio::test(start_paused = true)]
async fn a_keeper_who_is_revoked_commits_nothing() {
    let (repo, mut model, _) = scene(140).await;
    let keeper = repo.as_keeper().await;
    collect(&keeper).await.unwrap();
    drop_snapshot(&keeper, model.snapshots[0].0).await.unwrap();
    repo.store.pause_before("/outcome/");
    let admin = Repository {
        store: sancerre_engine::store::Store::new(repo.memory.clone(), "memory"),
        ..repo.as_admin().await
    };
    let meanwhile = async {
        repo.store.paused().await;
        let before = repo.objects().await;
        let mut log = Log::load(&admin).await.unwrap();
        let revoked = revoke(&admin, &mut log, &name("keeper1"), Some(1), "stolen").await.unwrap();
        assert_eq!((revoked.from, revoked.ended.len()), (revoked.number, 1), "what he did before stays");
        // Who saves meanwhile builds on packs that the gc proposed to delete, for it ended with nothing.
        let report = back_up(&admin, "web01", MemoryDisk::new(noise(140, SIZE))).await.unwrap();
        repo.store.go_on();
        (before, report)
    };
    let (collected, (before, report)) = futures::join!(collect(&keeper), meanwhile);
    let error = collected.unwrap_err();
    assert!(error.to_string().contains("nothing was deleted"), "{error}");
    for (key, _) in before {
        assert!(repo.objects().await.iter().any(|(there, _)| *there == key), "{key} was deleted");
    }
    // What the keeper forgot before he was revoked stays forgotten.
    model.snapshots.remove(0);
    model.add_disk(report.snapshot.unwrap(), &noise(140, SIZE));
    model.check(&repo.open).await;
    let log = Log::load(&repo.open).await.unwrap();
    let gcs =
        log.entries().filter(|entry| entry.is_gc()).map(|entry| matches!(entry.outcome, Outcome::Commit(..)));
    assert_eq!(gcs.collect::<Vec<_>>(), [true, false]);
    // Another keeper finishes the work.
    let other = repo.with_key_file(&repo.certify("keeper2", Role::Keeper).await).await;
    collect(&other).await.unwrap();
    model.check(&repo.open).await;
}
