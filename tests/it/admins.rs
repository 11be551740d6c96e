//! Handing over to another admin key, on the engine: what the old one signed stays, and it signs nothing more that counts.

use std::collections::BTreeSet;

use sancerre_engine::ErrorKind;
use sancerre_engine::check::{CheckOptions, ReadData, Severity, check};
use sancerre_engine::keys::certify::{NewKey, certify};
use sancerre_engine::keys::recipients::{self, To};
use sancerre_engine::keys::{self, Keys, Rotated, SecretString};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repair::{RepairOptions, repair};
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::session::append;
use sancerre_engine::revoke::revoke;
use sancerre_format::certificate::Role;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::{Entry, Held, Kind, Note};
use sancerre_format::names;
use sancerre_format::outcome::Abort;
use sancerre_format::record;
use sancerre_format::sign::SigningKey;
use sancerre_format::trust::Succession;
use sancerre_tests::disk::{MemoryDisk, guest};
use sancerre_tests::forge::signed_with;
use sancerre_tests::repo::{TestRepo, back_up, name, passphrase, restore_bytes, zone};

use crate::gc::{collect, drop_snapshot};

pub(crate) async fn rotated(repo: &TestRepo) -> Rotated {
    keys::rotate(&repo.as_fresh_admin().await, &passphrase(), &BTreeSet::new()).await.unwrap()
}

pub(crate) async fn saved(repository: &Repository, seed: u64) -> SessionId {
    back_up(repository, "web01", MemoryDisk::new(guest(seed, 200_000))).await.unwrap().snapshot.unwrap()
}

async fn restores(repo: &TestRepo, session: SessionId, seed: u64) {
    let repository = repo.reopen().await;
    assert_eq!(restore_bytes(&repository, session, "disk0").await.unwrap(), guest(seed, 200_000));
}

pub(crate) fn hold(snapshot: SessionId) -> Kind {
    Kind::Hold(Held { snapshots: vec![snapshot], vms: Vec::new(), reason: "test".into() })
}

async fn is_clean(repo: &TestRepo) {
    let options = CheckOptions { read_data: ReadData::All, quarantine: false };
    let report = check(&repo.reopen().await, &options, &Monitor::silent()).await.unwrap();
    assert!(report.findings.iter().all(|one| one.severity == Severity::Note), "{:?}", report.findings);
}

#[tokio::test(start_paused = true)]
async fn everything_goes_on_with_the_new_key() {
    let repo = TestRepo::new(700).await;
    let keeper = repo.certify("vault", Role::Keeper).await;
    let first = saved(&repo.as_writer().await, 1).await;
    let done = rotated(&repo).await;
    assert!(done.number == 1 && done.dropped.is_empty() && done.removed.kept.is_empty());
    assert!(done.kept.contains(&"keys/certificates/host1".to_owned()), "{:?}", done.kept);

    // The key files of before, a new one, the passphrase, another recipient, forget and gc.
    let second = saved(&repo.as_writer().await, 2).await;
    let admin = repo.as_fresh_admin().await;
    let new = NewKey { name: name("hv2"), role: Role::Writer, expires: None };
    let file = certify(&admin, &new).await.unwrap();
    let third = saved(&repo.with_key_file(&file).await, 3).await;
    let other = To::Passphrase(SecretString::from("another"));
    recipients::add(&admin, &name("vault"), &other).await.unwrap();
    drop_snapshot(&repo.with_key_file(&keeper).await, first).await.unwrap();
    collect(&repo.with_key_file(&keeper).await).await.unwrap();
    for (session, seed) in [(second, 2), (third, 3)] {
        restores(&repo, session, seed).await;
    }
    let mut log = Log::load(&admin).await.unwrap();
    revoke(&admin, &mut log, &name("hv2"), None, "test").await.unwrap();
    is_clean(&repo).await;

    // And once more, from the new key to a third.
    let again = rotated(&repo).await;
    assert!(again.number == 2 && again.dropped == ["keys/certificates/hv2"], "{:?}", again.dropped);
    saved(&repo.as_writer().await, 4).await;
    restores(&repo, third, 3).await;
    is_clean(&repo).await;
}

#[tokio::test(start_paused = true)]
async fn the_old_key_signs_nothing_that_counts() {
    let repo = TestRepo::new(701).await;
    let first = saved(&repo.open, 1).await;
    // Its holder opened the repository before, and knows nothing of the new key.
    let old = repo.as_admin().await;
    rotated(&repo).await;

    let log = Log::load(&old).await.unwrap();
    let entry = append(&old, &log, hold(first), &[]).await.unwrap();
    let new = NewKey { name: name("thief"), role: Role::Writer, expires: None };
    let file = certify(&old, &new).await.unwrap();
    recipients::add(&old, &name("thief"), &To::Passphrase(SecretString::from("mine"))).await.unwrap();
    let error = keys::rotate(&old, &passphrase(), &BTreeSet::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");

    let fresh = repo.reopen().await;
    let log = Log::load(&fresh).await.unwrap();
    assert!(log.entry(entry.number).unwrap().entry.is_err(), "its entry is void");
    assert_eq!(log.retention().held_by(&first), None);
    let refused = back_up(&repo.with_key_file(&file).await, "web01", MemoryDisk::new(vec![1; 5000])).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::WrongKey, "its certificate is none");
    let readers = recipients::read(&fresh.store, &fresh.keys.trust).await.unwrap();
    assert!(readers.iter().all(|record| record.fields.label != name("thief")));
    saved(&repo.as_writer().await, 2).await;
    restores(&repo, first, 1).await;
}

/// Who signs an entry says what he has read, and a stolen key may lie: of what a replaced admin key signed just below only
/// until the liar is revoked.
#[tokio::test(start_paused = true)]
async fn what_a_revoked_liar_read_voids_nothing_of_the_old_key() {
    let repo = TestRepo::new(706).await;
    let first = saved(&repo.open, 1).await;
    let record = repo.append(hold(first), &[]).await;
    let thief = repo.with_key_file(&repo.certify("thief", Role::Writer).await).await;
    let signer = thief.writer().unwrap();
    let note = Kind::Note(Note { topic: name("drill"), result: None, snapshots: Vec::new() });
    let entry = repo.next_entry(note).await;
    let (number, previous) = (entry.number, Some(Hash([9; 32])));
    let entry = Entry { by: signer.by.clone(), previous, ..entry };
    let bytes = record::encode(&entry, "sancerre test", &signer.key, &[], &[]).unwrap();
    repo.put_log(number, bytes).await;
    rotated(&repo).await;

    let admin = repo.as_fresh_admin().await;
    let mut log = Log::load(&admin).await.unwrap();
    assert_eq!(log.retention().held_by(&first), None, "he says that another entry was there");
    revoke(&admin, &mut log, &name("thief"), Some(number), "stolen").await.unwrap();
    let log = Log::load(&repo.reopen().await).await.unwrap();
    assert_eq!(log.retention().held_by(&first), Some(record.number));
}

/// Nor does it stop anybody with an entry that needs a newer version.
#[tokio::test(start_paused = true)]
async fn the_old_key_stops_nobody_where_an_entry_is_lost() {
    let repo = TestRepo::new(707).await;
    let first = saved(&repo.open, 1).await;
    let (old, second) = (repo.as_admin().await, saved(&repo.open, 2).await);
    saved(&repo.open, 3).await;
    rotated(&repo).await;
    let signer = old.signer(&[Role::Admin]).unwrap();
    let entry = repo.next_entry(hold(first)).await;
    let entry = Entry { by: signer.by.clone(), number: second.number, previous: Some(first.intent), ..entry };
    let later = |text: String| text.replacen("critical: -", "critical: teleport", 1);
    let bytes = signed_with(&entry, &signer.key, &[], later);
    repo.lose(&[names::log(&zone(), second.number)]).await;
    repo.put_log(second.number, bytes).await;
    restores(&repo, second, 2).await;
    saved(&repo.as_writer().await, 4).await;
    collect(&repo.as_fresh_admin().await).await.unwrap();
    restores(&repo, second, 2).await;
}

/// A record of the chain that this key signed.
async fn forged(repo: &TestRepo, number: u16, signer: &SigningKey, seed: u8) -> Vec<u8> {
    let config = Hash::of(&repo.object("config").await);
    let new = SigningKey::from_seed([seed; 32]);
    let succession = Succession {
        repository: repo.open.keys.trust.repository,
        number,
        admin: new.public(),
        previous: config,
        created: repo.host.clock.now(),
        from: Vec::new(),
        keeps: Vec::new(),
        proof: String::new(),
    };
    record::encode(&succession.prove(&new).unwrap(), "sancerre test", signer, &[], &[]).unwrap()
}

/// Whoever stole the old key comes too late: the lower number stands, and nobody can put anything below it.
#[tokio::test(start_paused = true)]
async fn junk_and_forks_beside_the_chain_stop_nobody() {
    let repo = TestRepo::new(702).await;
    let first = saved(&repo.as_writer().await, 1).await;
    let old = repo.admin_key().await;
    let stranger = SigningKey::from_seed([77; 32]);
    let mut planted = vec![names::succession(1), names::succession(2), "keys/admins/aaa".to_owned()];
    repo.tamper(&planted[0], b"junk".to_vec()).await;
    repo.tamper(&planted[1], forged(&repo, 2, &stranger, 78).await).await;
    repo.tamper(&planted[2], b"junk".to_vec()).await;
    restores(&repo, first, 1).await;
    assert_eq!(rotated(&repo).await.number, 3);

    // The old key forks; and an object of a number that was skipped, huge ones, ones that nobody may read.
    repo.tamper(&names::succession(4), forged(&repo, 4, &old, 79).await).await;
    repo.tamper(&names::succession(9), vec![0; (1 << 20) + 1]).await;
    repo.tamper(&names::succession(10), b"junk".to_vec()).await;
    repo.store.deny(&names::succession(10));
    planted.extend([4, 9, 10].map(names::succession));
    saved(&repo.as_writer().await, 2).await;
    restores(&repo, first, 1).await;
    let options = CheckOptions { read_data: ReadData::All, quarantine: false };
    let report = check(&repo.reopen().await, &options, &Monitor::silent()).await.unwrap();
    for key in &planted {
        assert!(report.findings.iter().any(|finding| finding.object == *key), "{key} is not named");
    }
    assert_eq!(report.findings.len(), planted.len(), "{:?}", report.findings);
    assert_eq!(rotated(&repo).await.number, 5, "the first free one");
    restores(&repo, first, 1).await;
}

/// A key file of the new key knows that it exists: who hides the record does not make it believe the old one.
#[tokio::test(start_paused = true)]
async fn a_hidden_record_stops_who_knows_of_it_from_signing() {
    let repo = TestRepo::new(703).await;
    let first = saved(&repo.as_writer().await, 1).await;
    rotated(&repo).await;
    let admin = repo.as_fresh_admin().await;
    let new = NewKey { name: name("hv2"), role: Role::Writer, expires: None };
    let file = certify(&admin, &new).await.unwrap();
    repo.lose(&[names::succession(1)]).await;
    let writer = repo.with_key_file(&file).await;
    let error = back_up(&writer, "web01", MemoryDisk::new(vec![1; 5000])).await.unwrap_err();
    assert!(error.to_string().contains("hides or removed"), "{error}");
    assert_eq!(Log::load(&writer).await.unwrap().snapshots()[0].session(), first, "it reads");
    restores(&repo, first, 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_admin_does_not_know_is_dropped() {
    let repo = TestRepo::new(704).await;
    let file = repo.certify("odd", Role::Writer).await;
    let admin = repo.as_admin().await;
    let drop = BTreeSet::from(["keys/certificates/odd".to_owned()]);
    let stranger = BTreeSet::from(["keys/certificates/none".to_owned()]);
    let error = keys::rotate(&admin, &passphrase(), &stranger).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    let done = keys::rotate(&admin, &passphrase(), &drop).await.unwrap();
    assert_eq!(done.dropped, ["keys/certificates/odd"]);
    let refused = back_up(&repo.with_key_file(&file).await, "web01", MemoryDisk::new(vec![1; 5000])).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::WrongKey);
    // Who wrote down the new key's fingerprint may use that: the chain proves that both are one admin.
    let anchors: Vec<String> =
        repo.reopen().await.keys.trust.admins().map(|admin| admin.fingerprint()).collect();
    assert!(anchors.len() == 2 && anchors[1] == done.admin.fingerprint());
    let keys = Keys::from_key_file(repo.key_file.as_bytes()).unwrap();
    assert_eq!(keys.trust.admin.fingerprint(), anchors[0]);
}

/// With an abort at zeros the admin ends the number of an entry that is lost. The old key may say so of no number any more, also
/// not beforehand of entries that are lost later; what it said before the hand-over stays.
#[tokio::test(start_paused = true)]
async fn the_old_key_gives_up_no_lost_entry() {
    let repo = TestRepo::new(705).await;
    let first = saved(&repo.open, 1).await;
    let record = repo.append(hold(first), &[]).await;
    let second = saved(&repo.open, 2).await;
    let old = repo.as_admin().await;
    let key = names::log(&zone(), record.number);
    repo.lose(std::slice::from_ref(&key)).await;
    // Something lies at its own outcome, so it ends at zeros.
    repo.tamper(&names::outcome(&zone(), &record), b"junk".to_vec()).await;
    let options = RepairOptions { give_up: vec![key], reason: "gone".into(), ..RepairOptions::default() };
    repair(&old, &options, &Monitor::silent()).await.unwrap();
    let third = saved(&repo.open, 3).await;
    rotated(&repo).await;

    let unseen = SessionId { number: second.number, intent: Hash([0; 32]) };
    let signer = old.signer(&[Role::Admin]).unwrap();
    let abort = Abort {
        repository: old.keys.trust.repository,
        zone: zone(),
        session: unseen,
        by: signer.by.clone(),
        time: old.host.clock.now(),
        reason: "theft".into(),
    };
    let bytes = old.sign(signer, &abort, &[], &[]).unwrap();
    repo.tamper(&names::outcome(&zone(), &unseen), bytes.to_vec()).await;
    repo.lose(&[names::log(&zone(), second.number)]).await;
    for (session, seed) in [(first, 1), (second, 2), (third, 3)] {
        restores(&repo, session, seed).await;
    }
    collect(&repo.as_fresh_admin().await).await.unwrap();
    // And once more.
    assert_eq!(rotated(&repo).await.number, 2);
    saved(&repo.as_writer().await, 4).await;
    collect(&repo.as_fresh_admin().await).await.unwrap();
    restores(&repo, second, 2).await;
}
