//! Audit: what somebody without any secret notices, with and without a memory.

use sancerre_engine::ErrorKind;
use sancerre_engine::audit::{AuditOptions, AuditReport, AuditState, Fate, audit};
use sancerre_engine::backup::{BackupOptions, Dedup, backup};
use sancerre_engine::check::{CheckOptions, Finding, ReadData, Sample, Severity, check};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::session::Session;
use sancerre_format::certificate::Role;
use sancerre_format::id::SessionId;
use sancerre_format::log::{Distrust, Kind};
use sancerre_format::names;
use sancerre_tests::disk::{MemoryDisk, guest};
use sancerre_tests::model::Model;
use sancerre_tests::repo::{TestRepo, back_up, name, options as disks_of, zone};

use crate::gc::{collect, drop_snapshot};

const SIZE: usize = 3 << 20;
const DAY: i64 = 86_400;

pub(crate) fn options(repo: &TestRepo) -> AuditOptions {
    AuditOptions {
        trust: repo.open.keys.trust.admin.fingerprint(),
        zone: None,
        read_data: ReadData::No,
        max_age_seconds: None,
        max_drill_age_seconds: None,
        retired: Vec::new(),
        state: None,
    }
}

pub(crate) async fn run(repo: &TestRepo, options: &AuditOptions) -> AuditReport {
    audit(&repo.open.store, &repo.host, options, &Monitor::silent()).await.unwrap()
}

async fn with_memory(repo: &TestRepo, state: &Option<AuditState>) -> AuditReport {
    run(repo, &AuditOptions { state: state.clone(), ..options(repo) }).await
}

fn worse_than_notes(report: &AuditReport) -> Vec<&Finding> {
    report.all_findings().filter(|found| found.severity != Severity::Note).collect()
}

fn objects(report: &AuditReport) -> Vec<(Severity, String)> {
    worse_than_notes(report).iter().map(|found| (found.severity, found.object.clone())).collect()
}

/// Two machines over three nights, one of them backed up twice at once, one run aborted.
async fn scene(seed: u64) -> (TestRepo, Model, Vec<SessionId>) {
    let (repo, mut model, mut saved) = (TestRepo::new(seed).await, Model::default(), Vec::new());
    for night in 0..3u64 {
        for vm in ["web01", "db01"] {
            let bytes = guest(seed + night, SIZE);
            let report = back_up(&repo.open, vm, MemoryDisk::new(bytes.clone())).await.unwrap();
            model.add_disk(report.snapshot.unwrap(), &bytes);
            saved.push(report.snapshot.unwrap());
        }
        repo.clock.advance(DAY);
    }
    let mut log = Log::load(&repo.open).await.unwrap();
    // Two runs of one machine that do not see each other: the first one gives up, the other goes on later.
    let dead = Session::announce(&repo.open, &mut log, &name("web01"), None).await.unwrap();
    let open = Session::announce(&repo.open, &mut log, &name("web01"), None).await.unwrap();
    dead.abort(&repo.open, "test").await.unwrap();
    assert_eq!(dead.parents, open.parents);
    back_up(&repo.open, "web01", MemoryDisk::new(guest(seed, SIZE))).await.unwrap();
    (repo, model, saved)
}

#[tokio::test(start_paused = true)]
async fn parallel_and_aborted_runs_are_no_findings() {
    let (repo, _, _) = scene(700).await;
    let before = repo.objects().await;
    let report = run(&repo, &AuditOptions { read_data: ReadData::All, ..options(&repo) }).await;
    let notes: Vec<_> = report.all_findings().collect();
    assert!(notes.is_empty(), "{notes:#?}");
    let checked = &report.zones[0].check;
    assert_eq!((report.zones.len(), checked.snapshots, checked.content_opened), (1, 7, false));
    assert!(checked.packs > 3 && checked.read_packs >= checked.packs, "{checked:?}");
    let web = report.zones[0].machines.iter().find(|machine| machine.vm.as_str() == "web01").unwrap();
    let fates: Vec<Fate> = web.runs.iter().map(|run| run.fate).collect();
    assert_eq!(fates, [Fate::Saved, Fate::Saved, Fate::Saved, Fate::Aborted, Fate::Open, Fate::Saved]);
    assert_eq!(repo.objects().await, before, "an audit writes nothing");
}

#[tokio::test(start_paused = true)]
async fn another_trust_anchor_is_refused_in_its_own_words() {
    let (repo, other) = (TestRepo::new(701).await, TestRepo::new(702).await);
    let wrong = AuditOptions { trust: other.open.keys.trust.admin.fingerprint(), ..options(&repo) };
    let error = audit(&repo.open.store, &repo.host, &wrong, &Monitor::silent()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    assert!(error.to_string().contains("the trust anchor does not fit"), "{error}");
    // Somebody puts a whole repository of his own in its place.
    repo.tamper(names::CONFIG, other.object(names::CONFIG).await).await;
    let error = audit(&repo.open.store, &repo.host, &options(&repo), &Monitor::silent()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_cut_short_is_whole_only_to_who_forgot() {
    let (repo, model, saved) = scene(703).await;
    let state = with_memory(&repo, &None).await.state;
    assert!(state.is_some());
    let text = state.as_ref().unwrap().encode();
    assert_eq!(AuditState::decode(&text).unwrap(), state.clone().unwrap());
    assert_eq!(objects(&with_memory(&repo, &state).await), []);

    let last = Log::load(&repo.open).await.unwrap().highest();
    for folder in ["log", "outcome", "packs", "lists", "index"] {
        repo.lose(&repo.keys_with(&format!("/{folder}/{last:016x}")).await).await;
    }
    assert_eq!(objects(&with_memory(&repo, &None).await), [], "nothing in the store tells");
    let report = with_memory(&repo, &state).await;
    assert_eq!(objects(&report), [(Severity::Missing, names::log(&zone(), last))]);
    assert!(report.state.is_none(), "what contradicts the memory is not remembered");

    // The number is taken again: the history has forked.
    back_up(&repo.open, "db01", MemoryDisk::new(guest(9, SIZE))).await.unwrap();
    let report = with_memory(&repo, &state).await;
    assert_eq!(objects(&report), [(Severity::Damaged, names::log(&zone(), last))]);
    assert!(saved.len() == 6);
    model.check(&repo.open).await;
}

#[tokio::test(start_paused = true)]
async fn what_gc_gave_up_is_no_hole() {
    let (repo, _, saved) = scene(704).await;
    let keeper = repo.as_keeper().await;
    let state = with_memory(&repo, &None).await.state;
    collect(&keeper).await.unwrap();
    drop_snapshot(&keeper, saved[0]).await.unwrap();
    repo.clock.advance(200 * DAY);
    let report = collect(&keeper).await.unwrap();
    assert!(report.number.is_some());
    repo.lose(&repo.keys_with(&format!("/outcome/{:016x}", saved[0].number)).await).await;
    let report = with_memory(&repo, &state).await;
    assert_eq!(objects(&report), []);
    assert!(report.state.is_some());
    // Another manifest that is gone is a hole.
    repo.lose(&repo.keys_with(&format!("/outcome/{:016x}", saved[1].number)).await).await;
    let key = names::outcome(&zone(), &saved[1]);
    assert!(objects(&with_memory(&repo, &state).await).contains(&(Severity::Missing, key.clone())));
    assert!(objects(&with_memory(&repo, &None).await).contains(&(Severity::Missing, key)), "gc counted it");
}

#[tokio::test(start_paused = true)]
async fn a_machine_without_a_fresh_snapshot_is_named() {
    let (repo, _, _) = scene(705).await;
    repo.clock.advance(25 * 3600);
    let asked = AuditOptions { max_age_seconds: Some(26 * 3600), ..options(&repo) };
    let stale = |report: &AuditReport| -> Vec<String> {
        report.stale().map(|(_, machine, _)| machine.vm.to_string()).collect()
    };
    assert_eq!(stale(&run(&repo, &asked).await), ["db01"]);
    let retired = AuditOptions { retired: vec![name("db01")], ..asked };
    assert_eq!(stale(&run(&repo, &retired).await), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_loss_is_charged_to_snapshots_without_their_maps() {
    let (repo, _, saved) = scene(706).await;
    let packs = repo.keys_with("/packs/0000000000000001/").await;
    repo.lose(&packs[..1]).await;
    let report = run(&repo, &options(&repo)).await;
    assert_eq!(objects(&report), [(Severity::Missing, packs[0].clone())]);
    let costs = &worse_than_notes(&report)[0].costs;
    assert!(costs.iter().any(|cost| cost.snapshot == saved[0]), "{costs:?}");
    let keyed =
        check(&repo.open, &CheckOptions { read_data: ReadData::No, quarantine: false }, &Monitor::silent())
            .await
            .unwrap();
    let snapshots = |costs: &[sancerre_engine::check::Cost]| -> std::collections::BTreeSet<SessionId> {
        costs.iter().map(|cost| cost.snapshot).collect()
    };
    let of_pack = keyed.findings.iter().find(|found| found.object == packs[0]).unwrap();
    assert_eq!(snapshots(&of_pack.costs), snapshots(costs), "as whoever can read the maps says");
}

#[tokio::test(start_paused = true)]
async fn a_sample_reads_as_many_packs_as_it_says() {
    let (repo, _, _) = scene(707).await;
    let sample = Sample { loss_percent: 20.0, confidence_percent: 90.0, seed: [3; 32] };
    let report = run(&repo, &AuditOptions { read_data: ReadData::Sample(sample), ..options(&repo) }).await;
    let check = &report.zones[0].check;
    let sampled = check.sampled.unwrap();
    assert_eq!(sampled.population, check.packs);
    assert_eq!((sampled.drawn, check.read_packs), (sample.draws(check.packs), sampled.drawn));
    assert!(sampled.drawn < sampled.population, "{sampled:?}");
}

/// A revoked writer's packs stay readable for the snapshots of others that were made meanwhile, are named as theirs,
/// and nobody builds on them any more.
#[tokio::test(start_paused = true)]
async fn snapshots_that_stand_on_a_distrusted_writer() {
    for revoke in [false, true] {
        let (repo, mut model, bytes) = (TestRepo::new(708).await, Model::default(), guest(709, SIZE));
        let thief = repo.with_key_file(&repo.certify("hv2", Role::Writer).await).await;
        let stolen = back_up(&thief, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
        let honest = back_up(&repo.open, "db01", MemoryDisk::new(bytes.clone())).await.unwrap();
        assert_eq!(honest.new_bytes, 0, "it stands on the other's packs");
        model.add_disk(honest.snapshot.unwrap(), &bytes);
        let distrust = Distrust { writer: name("hv2"), from: 1, reason: "stolen".into() };
        let kind = if revoke { Kind::Revoke(distrust) } else { Kind::Taint(distrust) };
        let entry = repo.append(kind, &[]).await;
        let report = run(&repo, &options(&repo)).await;
        assert_eq!(objects(&report), [], "revoke {revoke}");
        let object = names::log(&zone(), entry.number);
        let note = report.all_findings().find(|found| found.object == object).unwrap();
        let mut concerned: Vec<SessionId> = note.costs.iter().map(|cost| cost.snapshot).collect();
        concerned.sort_unstable();
        let both = [stolen.snapshot.unwrap(), honest.snapshot.unwrap()];
        assert_eq!(concerned, if revoke { &both[1..] } else { &both[..] }, "{note:?}");
        model.check(&repo.open).await;
        let again = back_up(&repo.open, "db01", MemoryDisk::new(bytes.clone())).await.unwrap();
        assert_eq!(again.new_bytes, stolen.new_bytes, "stored anew");
        let after = run(&repo, &options(&repo)).await;
        let note = after.all_findings().find(|found| found.object == object).unwrap();
        assert!(!note.costs.iter().any(|cost| Some(cost.snapshot) == again.snapshot));
    }
}

/// With `own`, nothing of another writer is built on, by whichever way it could be known: base, map nodes, index.
#[tokio::test(start_paused = true)]
async fn a_backup_that_trusts_only_its_own_writer() {
    let (repo, mut model, mut bytes) = (TestRepo::new(710).await, Model::default(), guest(711, SIZE));
    let other = repo.with_key_file(&repo.certify("hv2", Role::Writer).await).await;
    let first = back_up(&other, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
    bytes[SIZE / 2] ^= 1;
    let mut numbers = Vec::new();
    for vm in ["web01", "db01", "web01"] {
        let disks: Vec<(_, std::sync::Arc<dyn sancerre_image::Disk>)> =
            vec![("disk0", MemoryDisk::new(bytes.clone()))];
        let own = BackupOptions { dedup: Dedup::Own, ..disks_of(vm, disks) };
        let report = backup(&repo.open, own, &Monitor::silent()).await.unwrap();
        model.add_disk(report.snapshot.unwrap(), &bytes);
        numbers.push(report.snapshot.unwrap().number);
        let is_first = numbers.len() == 1;
        assert_eq!(report.new_bytes, if is_first { first.new_bytes } else { 0 }, "{vm}: {report:?}");
    }
    let log = Log::load(&repo.open).await.unwrap();
    for snapshot in log.snapshots().iter().filter(|snapshot| numbers.contains(&snapshot.session().number)) {
        let uses = snapshot.uses().unwrap();
        assert!(uses.packs().all(|pack| numbers.contains(&pack.session)), "{uses:?}");
    }
    model.check(&repo.open).await;
    let zone = back_up(&repo.open, "mail01", MemoryDisk::new(guest(711, SIZE))).await.unwrap();
    assert_eq!(zone.new_bytes, 0, "without it the other's packs are known");
}
