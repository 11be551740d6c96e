//! Two persons for forgetting, for ending holds and for clearing what is suspect: what one keeper asks for counts when others approved it.

use std::collections::BTreeSet;

use sancerre_engine::forget::{approve, hold, hold_vms, release, release_vms, set_quorum, undelete};
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::revoke::revoke;
use sancerre_engine::suspicion::{clear, suspect};
use sancerre_engine::{Error, ErrorKind};
use sancerre_format::certificate::{Certificate, Role, portable};
use sancerre_format::id::SessionId;
use sancerre_format::log::{Approval, Kind, Snapshots};
use sancerre_format::names;
use sancerre_format::record::{self, SignedBy};
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::repo::{TestRepo, back_up, dump_bytes, name, zone};

use crate::gc::{collect, drop_snapshot};

const SIZE: usize = 300_000;

/// A repository that asks for approvals, two nights of a machine, and its keepers.
struct Scene {
    repo: TestRepo,
    saved: Vec<SessionId>,
    keepers: Vec<Repository>,
}

async fn scene(seed: u64, approvals_needed: u32) -> Scene {
    let repo = TestRepo::needing(seed, approvals_needed).await;
    let (mut saved, mut keepers) = (Vec::new(), Vec::new());
    for night in 0..2 {
        let disk = MemoryDisk::new(noise(night, SIZE));
        saved.push(back_up(&repo.open, "web01", disk).await.unwrap().snapshot.unwrap());
    }
    for label in ["alice", "bob", "carol"] {
        keepers.push(repo.with_key_file(&repo.certify(label, Role::Keeper).await).await);
    }
    Scene { repo, saved, keepers }
}

impl Scene {
    async fn live(&self) -> Vec<SessionId> {
        let log = Log::load(&self.repo.open).await.unwrap();
        log.snapshots().iter().map(|snapshot| snapshot.session()).collect()
    }

    async fn forget(&self, keeper: usize) -> u64 {
        drop_snapshot(&self.keepers[keeper], self.saved[0]).await.unwrap()
    }

    async fn approve(&self, keeper: usize, number: u64) -> Result<usize, Error> {
        let approved = approve(&self.keepers[keeper], &BTreeSet::from([number]), "seen").await?;
        Ok(approved.pending.len())
    }
}

#[tokio::test(start_paused = true)]
async fn a_lone_forget_does_not_count() {
    let scene = scene(720, 1).await;
    let number = scene.forget(0).await;
    assert_eq!(scene.live().await, scene.saved);
    let report = collect(&scene.keepers[0]).await.unwrap();
    assert_eq!((report.deleted_packs, report.pending.len()), (0, 1), "{report:?}");
    assert!(report.pending[0].to_string().contains("alice: forget 1 snapshots, 0 of 1 approvals"));
    assert!(dump_bytes(&scene.repo.open, scene.saved[0], "disk0").await.is_ok());

    // Whoever asked cannot approve, and asks once; nor can the admin, who can make keepers.
    let refused = scene.approve(0, number).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused(why) if why.contains("another keeper")), "{refused}");
    let again = drop_snapshot(&scene.keepers[0], scene.saved[0]).await.unwrap_err();
    assert!(again.to_string().contains("waits for approval already"), "{again}");
    let admin = scene.repo.as_admin().await;
    let refused = approve(&admin, &BTreeSet::from([number]), "seen").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WrongKey, "{refused}");
    for other in [1, number + 1, 99] {
        let refused = scene.approve(1, other).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Usage, "{other}: {refused}");
    }
    assert_eq!(scene.live().await, scene.saved, "nothing of that was signed");

    assert_eq!(scene.approve(1, number).await.unwrap(), 0);
    assert_eq!(scene.live().await, scene.saved[1..]);
    let report = collect(&scene.keepers[0]).await.unwrap();
    assert!(report.deleted_packs > 0 && report.pending.is_empty(), "{report:?}");
}

/// What is signed past the engine counts no more than what it signs.
#[tokio::test(start_paused = true)]
async fn approvals_that_are_none_do_not_count() {
    let scene = scene(721, 1).await;
    let number = scene.forget(0).await;
    let asked = Log::load(&scene.repo.open).await.unwrap().entry(number).unwrap().session;
    let approval = |entries| Kind::Approve(Approval { entries, reason: "test".into() });
    // By the forgetter; of a snapshot; of another entry at that number.
    let other = SessionId { number, intent: scene.saved[0].intent };
    for (keeper, entry) in [(0, asked), (1, scene.saved[0]), (1, other)] {
        scene.repo.append_as(&scene.keepers[keeper], approval(vec![entry]), &[]).await;
        assert_eq!(scene.live().await, scene.saved);
    }
    // By the admin, and by the forgetter's key under another name.
    let alice = scene.keepers[0].signer(&[Role::Keeper]).unwrap().clone();
    let trust = &scene.repo.open.keys.trust;
    let certificate = Certificate {
        repository: trust.repository,
        zone: scene.repo.open.keys.zone.clone(),
        name: name("alias"),
        role_name: Role::Keeper.to_name().unwrap(),
        key: alice.key.public(),
        issued: scene.repo.host.clock.now(),
        expires: None,
    };
    let admin = scene.repo.admin_key().await;
    let certificate = record::encode(&certificate, "sancerre test", &admin, &[], &[]).unwrap();
    let by = SignedBy { name: name("alias"), certificate: Some(portable(&certificate).unwrap()) };
    let entry = scene.repo.next_entry(approval(vec![asked])).await;
    let entry = sancerre_format::log::Entry { by, ..entry };
    let bytes = record::encode(&entry, "sancerre test", &alice.key, &[], &[]).unwrap();
    scene.repo.put_log(entry.number, bytes).await;
    scene.repo.append(approval(vec![asked]), &[]).await;
    assert_eq!(scene.live().await, scene.saved);
    let pending = Log::load(&scene.repo.open).await.unwrap().pending();
    assert_eq!(pending[0].approved_by().count(), 0, "{pending:?}");
}

#[tokio::test(start_paused = true)]
async fn a_revoked_keeper_approves_nothing_from_then_on() {
    for revoked_first in [true, false] {
        let scene = scene(722, 1).await;
        let number = scene.forget(0).await;
        let asked = Log::load(&scene.repo.open).await.unwrap().entry(number).unwrap().session;
        let approval = Kind::Approve(Approval { entries: vec![asked], reason: "test".into() });
        let admin = scene.repo.as_admin().await;
        if !revoked_first {
            assert_eq!(scene.approve(1, number).await.unwrap(), 0);
        }
        let mut log = Log::load(&admin).await.unwrap();
        revoke(&admin, &mut log, &name("bob"), None, "stolen").await.unwrap();
        if revoked_first {
            scene.repo.append_as(&scene.keepers[1], approval, &[]).await;
        }
        let live = if revoked_first { &scene.saved[..] } else { &scene.saved[1..] };
        assert_eq!(scene.live().await, live, "revoked first: {revoked_first}");
    }
}

#[tokio::test(start_paused = true)]
async fn as_many_keepers_as_are_needed_and_each_once() {
    let scene = scene(723, 2).await;
    let number = scene.forget(0).await;
    assert_eq!(scene.approve(1, number).await.unwrap(), 1, "it waits for another one");
    scene.approve(1, number).await.unwrap_err();
    assert_eq!(scene.live().await, scene.saved);
    assert_eq!(scene.approve(2, number).await.unwrap(), 0);
    assert_eq!(scene.live().await, scene.saved[1..]);
    undelete(&scene.keepers[1], &BTreeSet::from([scene.saved[0]]), "no").await.unwrap();
    assert_eq!(scene.live().await, scene.saved, "nobody needs to approve that");
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_back_is_not_approved_any_more() {
    let scene = scene(724, 1).await;
    let number = scene.forget(0).await;
    undelete(&scene.keepers[1], &BTreeSet::from([scene.saved[0]]), "no").await.unwrap();
    assert_eq!(scene.approve(1, number).await.unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(scene.live().await, scene.saved);
}

/// More at once, fewer only with those that are needed now: the admin's key alone does not end it.
#[tokio::test(start_paused = true)]
async fn the_number_is_raised_by_the_admin_and_lowered_by_the_keepers() {
    let scene = scene(725, 0).await;
    let admin = scene.repo.as_admin().await;
    assert!(!set_quorum(&admin, 1, "two persons").await.unwrap().1);
    assert_eq!(set_quorum(&admin, 1, "again").await.unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(set_quorum(&scene.keepers[0], 0, "no").await.unwrap_err().kind(), ErrorKind::WrongKey);
    let first = scene.forget(0).await;
    assert_eq!(scene.live().await, scene.saved);

    let (lower, waits) = set_quorum(&admin, 0, "one is enough").await.unwrap();
    assert!(waits);
    let second = scene.forget(1).await;
    assert_eq!(scene.live().await, scene.saved, "it does not count yet");
    assert_eq!(scene.approve(2, lower).await.unwrap(), 0);
    assert_eq!(scene.live().await, scene.saved, "what was asked for before needs as many as then");
    scene.forget(2).await;
    assert_eq!(scene.live().await, scene.saved[1..]);
    // A lowering that waited does not outlive a raise.
    set_quorum(&admin, 2, "more").await.unwrap();
    let (lower, _) = set_quorum(&admin, 1, "less").await.unwrap();
    set_quorum(&admin, 3, "more still").await.unwrap();
    assert_eq!(scene.approve(2, lower).await.unwrap_err().kind(), ErrorKind::Usage);
    assert!(first < second);
}

/// What was held may go once it is released, so that needs as many as a forget does.
#[tokio::test(start_paused = true)]
async fn a_lone_release_ends_no_hold() {
    let scene = scene(726, 1).await;
    let one = BTreeSet::from([scene.saved[0]]);
    let vm = BTreeSet::from([name("web01")]);
    hold(&scene.keepers[0], &one, "court").await.unwrap();
    hold_vms(&scene.keepers[0], &vm, "court").await.unwrap();
    let forget = Kind::Forget(Snapshots { snapshots: vec![scene.saved[0]], reason: "test".into() });
    let number = scene.repo.append_as(&scene.keepers[0], forget, &[]).await.number;
    scene.approve(1, number).await.unwrap();
    assert_eq!(scene.live().await, scene.saved, "it is held");

    let released = release(&scene.keepers[0], &one, "over").await.unwrap();
    assert_eq!(released.approvals_needed, 1);
    let of_vm = release_vms(&scene.keepers[0], &vm, "over").await.unwrap();
    assert_eq!(scene.live().await, scene.saved);
    let report = collect(&scene.keepers[0]).await.unwrap();
    assert_eq!((report.deleted_packs, report.pending.len()), (0, 2), "{report:?}");
    assert!(report.pending[0].to_string().contains("release 1 snapshots and 0 machines, 0 of 1 approvals"));
    release(&scene.keepers[0], &one, "again").await.unwrap_err();
    scene.approve(0, released.entry).await.unwrap_err();
    // Who holds it anew means it, whatever was asked for before.
    hold(&scene.keepers[2], &one, "not over").await.unwrap();
    assert_eq!(scene.approve(1, released.entry).await.unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(scene.approve(1, of_vm.entry).await.unwrap(), 0);
    assert_eq!(scene.live().await, scene.saved, "it is held itself");
    let released = release(&scene.keepers[2], &one, "over").await.unwrap();
    assert_eq!(scene.approve(0, released.entry).await.unwrap(), 0);
    assert_eq!(scene.live().await, scene.saved[1..]);
}

/// What stays because of a suspect night may go once that is cleared, so clearing needs as many as a forget does.
#[tokio::test(start_paused = true)]
async fn a_lone_clear_does_not_end_that_deletion_stands_still() {
    let scene = scene(729, 1).await;
    let (alice, bob) = (&scene.keepers[0], &scene.keepers[1]);
    let log = async || Log::load(&scene.repo.open).await.unwrap();
    let forget = Kind::Forget(Snapshots { snapshots: vec![scene.saved[0]], reason: "test".into() });
    let number = scene.repo.append_as(alice, forget, &[]).await.number;
    suspect(alice, &log().await, scene.saved[1]).await.unwrap();
    scene.approve(1, number).await.unwrap();
    assert_eq!(scene.live().await, scene.saved, "it stays because of the night after it");

    let asked = clear(alice, &log().await, &name("web01"), "it was an update").await.unwrap();
    assert_eq!((asked.approvals_needed, asked.snapshots.as_slice()), (1, &scene.saved[1..]));
    assert!(log().await.retention().suspected_by(&scene.saved[1]).is_some());
    let report = collect(alice).await.unwrap();
    assert_eq!((report.deleted_packs, report.pending.len()), (0, 1), "{report:?}");
    assert!(report.pending[0].to_string().contains("clear 1 suspect snapshots, 0 of 1 approvals"));
    let again = clear(alice, &log().await, &name("web01"), "again").await.unwrap_err();
    assert!(again.to_string().contains("waits for approval already"), "{again}");
    scene.approve(0, asked.entry).await.unwrap_err();
    // Who calls it suspect anew means it, whatever was asked for before.
    suspect(bob, &log().await, scene.saved[1]).await.unwrap();
    assert_eq!(scene.approve(1, asked.entry).await.unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(scene.live().await, scene.saved);

    let asked = clear(bob, &log().await, &name("web01"), "looked at").await.unwrap();
    assert_eq!(scene.approve(2, asked.entry).await.unwrap(), 0);
    assert_eq!(log().await.retention().suspected_by(&scene.saved[1]), None);
    assert_eq!(log().await.retention().cleared_by(&scene.saved[1]), Some(asked.entry));
    assert_eq!(scene.live().await, scene.saved[1..]);
    assert!(collect(alice).await.unwrap().deleted_packs > 0);
}

/// How many must approve is kept twice: lost it would let count what was forgotten above it.
#[tokio::test(start_paused = true)]
async fn a_lost_number_of_approvals_counts_by_its_copy() {
    let scene = scene(727, 0).await;
    let (number, _) = set_quorum(&scene.repo.as_admin().await, 1, "two persons").await.unwrap();
    let forget = Kind::Forget(Snapshots { snapshots: vec![scene.saved[0]], reason: "theft".into() });
    scene.repo.append_as(&scene.keepers[0], forget, &[]).await;
    scene.repo.lose(&[names::log(&zone(), number)]).await;
    assert_eq!(scene.live().await, scene.saved);
    assert!(dump_bytes(&scene.repo.open, scene.saved[0], "disk0").await.is_ok());
    assert_eq!(collect(&scene.keepers[1]).await.unwrap().deleted_packs, 0);
    assert_eq!(scene.live().await, scene.saved);
    let log = Log::load(&scene.repo.open).await.unwrap();
    assert!(log.entry(number).unwrap().lost.is_none(), "whoever adds to the log puts it back");
}

/// So many that nobody could ever lower them again are none; and a wish for fewer that waits can be withdrawn.
#[tokio::test(start_paused = true)]
async fn nobody_asks_for_more_approvals_than_there_can_be() {
    let scene = scene(728, 1).await;
    let admin = scene.repo.as_admin().await;
    assert!(set_quorum(&admin, 17, "theft").await.is_err());
    let (lower, waits) = set_quorum(&admin, 0, "less").await.unwrap();
    assert!(waits);
    assert!(!set_quorum(&admin, 1, "no").await.unwrap().1, "that waits for nobody");
    assert_eq!(scene.approve(1, lower).await.unwrap_err().kind(), ErrorKind::Usage);
    set_quorum(&admin, 1, "again").await.unwrap_err();
}
