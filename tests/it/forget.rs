//! Forgetting, holding and taking back, as a keeper's key signs it.

use std::collections::BTreeSet;
use std::sync::Arc;

use sancerre_engine::backup::{BackupOptions, backup};
use sancerre_engine::forget::plan::{Decision, ForgetReason, Rules, Verdict};
use sancerre_engine::forget::{
    ForgetOptions, ForgetReport, Selection, forget, hold, hold_vms, release, undelete,
};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::suspicion::suspect;
use sancerre_engine::{Error, ErrorKind};
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::SessionId;
use sancerre_format::names::{self, MachineId, Time};
use sancerre_image::Disk;
use sancerre_tests::disk::{MemoryDisk, guest};
use sancerre_tests::repo::{TestRepo, back_up, dump_bytes, name, options, zone};

use crate::gc::collect;

async fn nights(repo: &TestRepo, count: u64) -> Vec<SessionId> {
    let mut saved = Vec::new();
    for night in 0..count {
        let report = back_up(&repo.open, "web01", MemoryDisk::new(guest(night, 200_000))).await.unwrap();
        saved.push(report.snapshot.unwrap());
    }
    saved
}

fn only(snapshot: SessionId) -> BTreeSet<SessionId> {
    BTreeSet::from([snapshot])
}

fn named(snapshots: BTreeSet<SessionId>) -> ForgetOptions {
    let selection = Selection::Named { snapshots, even_last: false };
    ForgetOptions { selection, reason: "test".into(), max_drop_percent: 50, dry_run: false }
}

pub(crate) async fn decide(
    repository: &Repository,
    options: &ForgetOptions,
) -> sancerre_engine::Result<ForgetReport> {
    forget(repository, &mut Log::load(repository).await?, options).await
}

async fn live(repository: &Repository) -> Vec<SessionId> {
    Log::load(repository).await.unwrap().snapshots().iter().map(|snapshot| snapshot.session()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_snapshot_says_by_whom_and_comes_back() {
    let repo = TestRepo::new(300).await;
    let saved = nights(&repo, 3).await;
    let keeper = repo.as_keeper().await;
    let report = decide(&keeper, &named(only(saved[0]))).await.unwrap();
    assert!(report.entry.is_some());
    assert_eq!(live(&repo.open).await, saved[1..]);
    let error = dump_bytes(&repo.open, saved[0], "disk0").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forgotten);
    let text = error.to_string();
    assert!(text.contains("keeper1") && text.contains("test") && text.contains("undelete"), "{text}");
    undelete(&keeper, &only(saved[0]), "not so").await.unwrap();
    assert_eq!(live(&repo.open).await, saved);
    assert_eq!(dump_bytes(&repo.open, saved[0], "disk0").await.unwrap(), guest(0, 200_000));
}

#[tokio::test(start_paused = true)]
async fn limits_refuse_and_change_nothing() {
    let repo = TestRepo::new(301).await;
    let saved = nights(&repo, 3).await;
    let keeper = repo.as_keeper().await;
    let refused = |error: Error, part: &str| assert!(error.to_string().contains(part), "{error}");
    let two: BTreeSet<_> = saved[..2].iter().copied().collect();
    refused(decide(&keeper, &named(two)).await.unwrap_err(), "2 of 3 snapshots of web01");
    let all: BTreeSet<_> = saved.iter().copied().collect();
    refused(decide(&keeper, &named(all)).await.unwrap_err(), "`even_last`");
    hold(&keeper, &only(saved[0]), "trial").await.unwrap();
    refused(decide(&keeper, &named(only(saved[0]))).await.unwrap_err(), "is held");
    let writer = repo.as_writer().await;
    let error = decide(&writer, &named(only(saved[1]))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    let dry = ForgetOptions { dry_run: true, ..named(only(saved[1])) };
    assert_eq!(decide(&keeper, &dry).await.unwrap().entry, None);
    assert_eq!(live(&repo.open).await, saved);
}

#[tokio::test(start_paused = true)]
async fn a_hold_outlives_a_forget_until_its_release() {
    let repo = TestRepo::new(302).await;
    let saved = nights(&repo, 2).await;
    let keeper = repo.as_keeper().await;
    decide(&keeper, &named(only(saved[0]))).await.unwrap();
    hold(&keeper, &only(saved[0]), "trial").await.unwrap();
    assert_eq!(live(&repo.open).await, saved);
    release(&keeper, &only(saved[0]), "over").await.unwrap();
    assert_eq!(live(&repo.open).await, saved[1..]);
    assert_eq!(release(&keeper, &only(saved[0]), "again").await.unwrap_err().kind(), ErrorKind::Usage);
}

/// C8: what a gc with a lower number gave up cannot be had back, and whoever asks is told.
#[tokio::test(start_paused = true)]
async fn nothing_brings_back_what_a_gc_gave_up() {
    let repo = TestRepo::new(303).await;
    let saved = nights(&repo, 2).await;
    let keeper = repo.as_keeper().await;
    decide(&keeper, &named(only(saved[0]))).await.unwrap();
    let gc = repo.propose(&FrameSet::default()).await;
    let lists = GcLists { seen: vec![saved[1]], forgotten: vec![saved[0]], ..GcLists::default() };
    repo.commit_gc(gc, &lists).await;
    for error in [
        undelete(&keeper, &only(saved[0]), "late").await.unwrap_err(),
        hold(&keeper, &only(saved[0]), "late").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Forgotten);
        assert!(error.to_string().contains("made that final"), "{error}");
    }
    assert_eq!(live(&repo.open).await, saved[1..]);
}

/// A collector that has announced itself may have read the records already: it is ended.
#[tokio::test(start_paused = true)]
async fn taking_back_ends_a_gc_that_is_under_way() {
    let repo = TestRepo::new(304).await;
    let saved = nights(&repo, 2).await;
    let keeper = repo.as_keeper().await;
    decide(&keeper, &named(only(saved[0]))).await.unwrap();
    let gc = repo.propose(&FrameSet::default()).await;
    undelete(&keeper, &only(saved[0]), "wait").await.unwrap();
    let log = Log::load(&repo.open).await.unwrap();
    assert!(log.undecided(u64::MAX).next().is_none(), "{gc} is ended");
    assert_eq!(live(&repo.open).await, saved);
}

#[tokio::test(start_paused = true)]
async fn what_no_gc_recorded_is_kept_by_every_rule() {
    let repo = TestRepo::new(305).await;
    nights(&repo, 3).await;
    let rules = Rules { daily: 1, ..Rules::default() };
    let selection = Selection::Rules { rules, vms: Vec::new(), tags: Vec::new() };
    let options = ForgetOptions { selection, ..named(BTreeSet::new()) };
    let report = decide(&repo.as_keeper().await, &options).await.unwrap();
    assert_eq!((report.entry, report.decisions.len()), (None, 3));
    for decision in report.decisions {
        assert!(
            matches!(decision.verdict, Verdict::Keep(_)) && decision.verdict.to_string().contains("no gc")
        );
    }
}

/// Each night a machine, the name under which it is sealed if it has one, and its tags.
const NIGHTS: [(&str, &str, &str); 7] = [
    ("web01", "", "a"),
    ("web01", "", "a b"),
    ("web01", "", "b"),
    ("db01", "", "a b"),
    ("db01", "", ""),
    ("m1", "payroll", "a"),
    ("m2", "research", "b"),
];

async fn nights_of_many(repo: &TestRepo) -> Vec<SessionId> {
    let mut saved = Vec::new();
    for (night, (public, sealed, tags)) in NIGHTS.into_iter().enumerate() {
        let disk: Arc<dyn Disk> = MemoryDisk::new(guest(night as u64, 200_000));
        let (vm, public_name) = match sealed {
            "" => (public, None),
            sealed => (sealed, Some(name(public))),
        };
        let tags = tags.split_whitespace().map(name).collect();
        let options = BackupOptions { public_name, tags, ..options(vm, vec![("disk0", disk)]) };
        let report = backup(&repo.open, options, &Monitor::silent()).await.unwrap();
        saved.push(report.snapshot.unwrap());
    }
    saved
}

/// A snapshot has all the tags that were named; a machine is found by its public name and by the sealed one.
#[tokio::test(start_paused = true)]
async fn rules_reach_what_was_named_and_nothing_else() {
    let repo = TestRepo::new(306).await;
    let saved = nights_of_many(&repo).await;
    let planned = async |vms: &str, tags: &str| {
        let rules = Rules { last: 1, ..Rules::default() };
        let vms = vms.split_whitespace().map(name).collect();
        let tags = tags.split_whitespace().map(name).collect();
        let selection = Selection::Rules { rules, vms, tags };
        let options =
            ForgetOptions { selection, dry_run: true, max_drop_percent: 100, ..named(BTreeSet::new()) };
        let report = decide(&repo.open, &options).await?;
        let number = |session| saved.iter().position(|known| *known == session).unwrap();
        let mut numbers: Vec<_> = report.decisions.iter().map(|one| number(one.session)).collect();
        numbers.sort_unstable();
        sancerre_engine::Result::Ok(numbers)
    };
    for (vms, tags, expected) in [
        ("", "", &[0, 1, 2, 3, 4, 5, 6][..]),
        ("web01", "", &[0, 1, 2]),
        ("web01 db01", "", &[0, 1, 2, 3, 4]),
        ("web01", "a", &[0, 1]),
        ("", "a b", &[1, 3]),
        ("db01", "b", &[3]),
        ("payroll", "", &[5]),
        ("m2", "", &[6]),
        ("web01 research", "b", &[1, 2, 6]),
        ("db01", "none", &[]),
    ] {
        assert_eq!(planned(vms, tags).await.unwrap(), expected, "{vms:?} {tags:?}");
    }
    let stranger = planned("web01 web02", "").await.unwrap_err();
    assert_eq!(stranger.kind(), ErrorKind::Usage);
    assert!(stranger.to_string().contains("no snapshots of web02"), "{stranger}");
}

async fn saved_with(repo: &TestRepo, vm: &str, more: impl FnOnce(&mut BackupOptions)) -> SessionId {
    let mut options = options(vm, vec![("disk0", MemoryDisk::new(guest(7, 200_000)) as Arc<dyn Disk>)]);
    more(&mut options);
    backup(&repo.open, options, &Monitor::silent()).await.unwrap().snapshot.unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_a_backup_wanted_kept_is_forgotten_from_that_second_on() {
    let repo = TestRepo::new(307).await;
    let until = Time::from_unix_seconds(repo.host.clock.now().unix_seconds() + 1000);
    let kept = saved_with(&repo, "web01", |options| options.retain_until = Some(until)).await;
    nights(&repo, 2).await;
    let keeper = repo.as_keeper().await;
    repo.clock.advance(999);
    let early = decide(&keeper, &named(only(kept))).await.unwrap_err();
    assert!(early.to_string().contains("was made to be kept until"), "{early}");
    repo.clock.advance(1);
    assert!(decide(&keeper, &named(only(kept))).await.unwrap().entry.is_some());
    assert!(!live(&repo.open).await.contains(&kept));
}

/// A machine is what its hypervisor says it is: one that got another name has a snapshot left, and its first one, of before
/// there were ids, is of the same machine.
#[tokio::test(start_paused = true)]
async fn a_machine_with_another_name_has_snapshots_left() {
    let repo = TestRepo::new(308).await;
    let id = MachineId::parse("11111111-2222-3333-4444-555555555555").unwrap();
    let first = saved_with(&repo, "web01", |_| {}).await;
    let second = saved_with(&repo, "web01", |options| options.machine = Some(id)).await;
    saved_with(&repo, "web02", |options| options.machine = Some(id)).await;
    let other = saved_with(&repo, "web03", |_| {}).await;
    let of = |snapshots: &[SessionId]| {
        let all = named(snapshots.iter().copied().collect());
        ForgetOptions { max_drop_percent: 70, dry_run: true, ..all }
    };
    let last = decide(&repo.open, &of(&[other])).await.unwrap_err();
    assert!(last.to_string().contains("no snapshot of web03 would be left"), "{last}");
    assert_eq!(decide(&repo.open, &of(&[first, second])).await.unwrap().decisions.len(), 2);
    // Also where only the log knows whose the damaged one is.
    let id = MachineId::parse("11111111-2222-3333-4444-666666666666").unwrap();
    let damaged = saved_with(&repo, "db01", |options| options.machine = Some(id)).await;
    saved_with(&repo, "db02", |options| options.machine = Some(id)).await;
    repo.tamper(&names::outcome(&zone(), &damaged), b"junk".to_vec()).await;
    let report = decide(&repo.open, &of(&[damaged])).await.unwrap();
    assert_eq!(report.decisions[0].verdict, Verdict::Drop(ForgetReason::Damaged));
}

/// A rule of the calendar counts what the writer, the store and a keeper's record say alike; what they do not agree on stays.
#[tokio::test(start_paused = true)]
async fn rules_of_the_calendar_count_nights_that_three_witnesses_saw() {
    const DAY: i64 = 86_400;
    let repo = TestRepo::new(309).await;
    let keeper = repo.as_keeper().await;
    let mut saved = Vec::new();
    for night in 0..4 {
        saved.extend(nights(&repo, 1).await);
        if night < 3 {
            collect(&keeper).await.unwrap();
        }
        repo.clock.advance(DAY);
    }
    let rules = Rules { daily: 1, ..Rules::default() };
    let selection = Selection::Rules { rules, vms: Vec::new(), tags: Vec::new() };
    let options = ForgetOptions { selection, ..named(BTreeSet::new()) };
    let report = decide(&keeper, &options).await.unwrap();
    let goes = |one: &&Decision| matches!(one.verdict, Verdict::Drop(_));
    let dropped: Vec<_> = report.decisions.iter().filter(goes).map(|one| one.session).collect();
    assert_eq!(dropped, saved[..2], "{report:?}");
    assert_eq!(live(&repo.open).await, saved[2..], "the newest has no record yet");
}

#[tokio::test(start_paused = true)]
async fn what_is_held_with_its_machine_is_released_with_it() {
    let repo = TestRepo::new(312).await;
    let saved = nights(&repo, 1).await;
    let keeper = repo.as_keeper().await;
    hold_vms(&keeper, &BTreeSet::from([name("web01")]), "trial").await.unwrap();
    let error = release(&keeper, &only(saved[0]), "no").await.unwrap_err();
    assert!(error.to_string().contains("is held because its machine is"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_stays_for_a_suspicion_is_not_released_as_if_it_was_held() {
    let repo = TestRepo::new(310).await;
    let saved = nights(&repo, 3).await;
    let keeper = repo.as_keeper().await;
    hold(&keeper, &only(saved[0]), "trial").await.unwrap();
    suspect(&keeper, &Log::load(&keeper).await.unwrap(), saved[2]).await.unwrap();
    let error = release(&keeper, &only(saved[1]), "no").await.unwrap_err();
    assert!(error.to_string().contains("stays because a snapshot is suspect"), "{error}");
    release(&keeper, &only(saved[0]), "over").await.unwrap();
}

/// Only a gc whose commit cannot be read may have given it up.
#[tokio::test(start_paused = true)]
async fn a_damaged_backup_puts_no_hold_in_doubt() {
    let repo = TestRepo::new(311).await;
    let saved = nights(&repo, 2).await;
    let keeper = repo.as_keeper().await;
    decide(&keeper, &named(only(saved[0]))).await.unwrap();
    let above = nights(&repo, 1).await[0];
    repo.tamper(&names::outcome(&zone(), &above), b"junk".to_vec()).await;
    hold(&keeper, &only(saved[0]), "trial").await.unwrap();
}
