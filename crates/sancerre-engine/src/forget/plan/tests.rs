//! Rules on nights made up, and what a host can do that lies.

use sancerre_format::id::{Hash, SessionId};
use sancerre_format::names::{MachineId, Name, Time, Title};

use super::super::evidence::{Candidate, Doubt, EvidenceRecord, MachineEvidence};
use super::{Decision, Keep, Period, Rules, Verdict, plan};

/// Monday, 2 November 2026, 01:00.
const START: i64 = 1_793_581_200;
const DAY: i64 = 86_400;

fn time(seconds: i64) -> Time {
    Time::from_unix_seconds(seconds)
}

fn session(number: u64) -> SessionId {
    SessionId { number, intent: Hash::of(&number.to_le_bytes()) }
}

/// A night's gc, five hours after the backup.
fn record(night: i64) -> EvidenceRecord {
    let at = |night: i64| time(START + night * DAY + 5 * 3600);
    EvidenceRecord {
        number: 1_000_000 + u64::try_from(night).unwrap(),
        time: at(night),
        after: Some(at(night - 1)),
    }
}

fn snapshot(number: u64, night: i64, vm: &str, writer: &str) -> Candidate {
    let at = time(START + night * DAY);
    Candidate {
        session: session(number),
        vm: Title::new(vm).unwrap(),
        machine: MachineEvidence::Named(Title::new(vm).unwrap()),
        writer: Name::new(writer).unwrap(),
        signed: at,
        stored: Some(at),
        record: Some(record(night)),
        is_held: false,
        retained: None,
        asked: None,
    }
}

fn nights(count: i64) -> Vec<Candidate> {
    (0..count)
        .map(|night| snapshot(u64::try_from(night).unwrap() * 20_000 + 1, night, "web01", "hv1"))
        .collect()
}

fn kept(decisions: &[Decision]) -> Vec<u64> {
    let stays = |decision: &&Decision| matches!(decision.verdict, Verdict::Keep(_));
    decisions.iter().filter(stays).map(|decision| decision.session.number).collect()
}

fn run(rules: &Rules, all: &[Candidate]) -> Vec<Decision> {
    plan(rules, all, all)
}

fn night_numbers(nights: &[u64]) -> Vec<u64> {
    nights.iter().map(|night| night * 20_000 + 1).collect()
}

#[test]
fn rules_keep_what_they_say() {
    let all = nights(70);
    let daily = Rules { daily: 3, ..Rules::default() };
    assert_eq!(kept(&run(&daily, &all)), night_numbers(&[67, 68, 69]));
    let last = Rules { last: 2, ..Rules::default() };
    assert_eq!(kept(&run(&last, &all)), night_numbers(&[68, 69]));
    // Weeks start on a Monday, as does the first night.
    let weekly = Rules { weekly: 3, ..Rules::default() };
    assert_eq!(kept(&run(&weekly, &all)), night_numbers(&[49, 56, 63]));
    // 1 December and 1 January.
    let monthly = Rules { monthly: 2, ..Rules::default() };
    assert_eq!(kept(&run(&monthly, &all)), night_numbers(&[29, 60]));
    let yearly = Rules { yearly: 5, ..Rules::default() };
    assert_eq!(kept(&run(&yearly, &all)), night_numbers(&[0, 60]));
    let within = Rules { within_seconds: Some(2 * 86_400), ..Rules::default() };
    assert_eq!(kept(&run(&within, &all)), night_numbers(&[67, 68, 69]));
    let hourly = Rules { hourly: 1, ..Rules::default() };
    assert_eq!(kept(&run(&hourly, &all)), night_numbers(&[69]));
    let several = Rules { daily: 1, weekly: 1, ..Rules::default() };
    let decisions = run(&several, &all);
    assert_eq!(kept(&decisions), night_numbers(&[63, 69]));
    let reasons = vec![Keep::First(Period::Day, "2027-01-10".into())];
    assert_eq!(decisions[69].verdict, Verdict::Keep(reasons));
}

#[test]
fn what_no_keeper_recorded_is_kept_and_counts_for_nothing() {
    let mut all = nights(3);
    all[2].record = None;
    let decisions = run(&Rules { last: 1, ..Rules::default() }, &all);
    assert_eq!(kept(&decisions), night_numbers(&[1, 2]));
    assert_eq!(decisions[2].verdict, Verdict::Keep(vec![Keep::Doubt(Doubt::Unrecorded)]));
}

#[test]
fn held_snapshots_and_the_last_of_a_machine_stay() {
    let mut all = nights(4);
    all[0].is_held = true;
    all.push(snapshot(90_000, 0, "old01", "hv2"));
    let rules = Rules { within_seconds: Some(0), ..Rules::default() };
    assert_eq!(kept(&run(&rules, &all)), [1, 60_001, 90_000]);
    // A rule that counts nothing of a machine still leaves its newest.
    let decisions = run(&Rules { last: 0, daily: 0, yearly: 0, ..Rules::default() }, &all);
    assert_eq!(kept(&decisions), [1, 90_000]);
    assert_eq!(decisions[4].verdict, Verdict::Keep(vec![Keep::LastOfVm]));
}

/// A writer that fell on night 9 floods its own machine's history, with all times it can think of.
#[test]
fn ten_thousand_bogus_snapshots_displace_no_good_one() {
    let good = nights(10);
    let rules = Rules {
        last: 3,
        hourly: 4,
        daily: 7,
        weekly: 2,
        monthly: 2,
        yearly: 2,
        within_seconds: Some(172_800),
    };
    let expected = kept(&run(&rules, &good));
    let bogus = (0..10_000u64).map(|number| {
        let mut one = snapshot(180_002 + number, 9, "web01", "hv1");
        let minutes = i64::try_from(number).unwrap() % 240;
        one.stored = Some(time(START + 9 * DAY + 60 * minutes + 1));
        // A third dated back, a third in the future, a third as it was.
        one.signed = match number % 3 {
            0 => time(START - i64::try_from(number).unwrap() * 3600),
            1 => time(START + i64::try_from(number).unwrap() * DAY),
            _ => one.stored.unwrap(),
        };
        one
    });
    let all: Vec<Candidate> = good.iter().cloned().chain(bogus).collect();
    let decisions = run(&rules, &all);
    let kept = kept(&decisions);
    assert!(expected.iter().all(|good| kept.contains(good)), "{expected:?} of {}", kept.len());
    let extra = decisions.iter().filter(|decision| {
        matches!(&decision.verdict, Verdict::Keep(reasons) if matches!(reasons.last(), Some(Keep::Doubt(_))))
    });
    assert_eq!(extra.count(), 6_667, "what is dated wrongly is kept, and said");
}

/// The same flood signed by another host: its snapshots are counted apart.
#[test]
fn a_host_cannot_fill_the_rules_of_another() {
    let good = nights(10);
    let rules = Rules { last: 2, daily: 2, ..Rules::default() };
    let bogus = (0..50).map(|number| snapshot(180_002 + number, 9, "web01", "hv2"));
    let all: Vec<Candidate> = good.iter().cloned().chain(bogus).collect();
    let kept = kept(&run(&rules, &all));
    assert!(kept.contains(&160_001) && kept.contains(&180_001));
}

#[test]
fn a_copied_repository_is_kept_whole_and_says_why() {
    let mut all = nights(30);
    let copied = Some(time(START + 400 * DAY));
    all.iter_mut().for_each(|candidate| candidate.stored = copied);
    let decisions = run(&Rules { daily: 1, ..Rules::default() }, &all);
    assert_eq!(kept(&decisions).len(), 30);
    assert!(decisions[0].verdict.to_string().contains("or a copied repository"), "{}", decisions[0].verdict);
}

#[test]
fn clocks_may_be_an_hour_apart_and_no_second_more() {
    let agree = |seconds: i64| {
        let mut night = nights(1).remove(0);
        night.stored = Some(time(night.signed.unix_seconds() + seconds));
        !matches!(night.time(), Err(Doubt::Disagree { .. }))
    };
    assert_eq!([-3601, -3600, 0, 3600, 3601].map(agree), [false, true, true, true, false]);
}

#[test]
fn a_time_outside_its_records_counts_for_nothing() {
    let mut all = nights(5);
    // Store and writer agree on a time ten days back; the keeper's records say that it was not there then.
    (all[4].stored, all[4].signed) = (Some(time(START - 6 * DAY)), time(START - 6 * DAY));
    let decisions = run(&Rules { daily: 9, ..Rules::default() }, &all);
    assert!(
        matches!(&decisions[4].verdict, Verdict::Keep(reasons) if matches!(reasons[..], [Keep::Doubt(Doubt::Misdated { .. })]))
    );
}

#[test]
fn a_machine_under_two_names_is_counted_once() {
    let mut all = nights(4);
    let rules = Rules { daily: 2, ..Rules::default() };
    all.iter_mut().skip(2).for_each(|candidate| candidate.vm = Title::new("Web 1 (new)").unwrap());
    assert_eq!(kept(&run(&rules, &all)), night_numbers(&[2, 3]));
    // Two machines that happen to be called alike are two.
    let other = MachineEvidence::Id(MachineId::parse("6f1c3f5e-8f3b-4c59-9c3e-0a1b2c3d4e5f").unwrap());
    all.iter_mut().skip(2).for_each(|candidate| candidate.machine = other.clone());
    assert_eq!(kept(&run(&rules, &all)), night_numbers(&[0, 1, 2, 3]));
}

#[test]
fn rules_that_keep_nothing_are_refused() {
    assert!(Rules::default().validate().is_err());
    let kept = Rules { within_seconds: Some(0), ..Rules::default() };
    assert!(kept.validate().is_ok() && Rules { yearly: 1, ..Rules::default() }.validate().is_ok());
}

#[test]
fn what_only_clocks_keep_is_told_apart() {
    let decide = |verdict| Decision::new(&nights(1)[0], verdict);
    let at = time(START);
    let clocks = || Keep::Doubt(Doubt::Disagree { stored: at, signed: at });
    assert!(decide(Verdict::Keep(vec![clocks()])).is_kept_by_clocks());
    assert!(!decide(Verdict::Keep(vec![clocks(), Keep::Held])).is_kept_by_clocks());
    assert!(!decide(Verdict::Keep(vec![Keep::Doubt(Doubt::Unrecorded)])).is_kept_by_clocks());
    assert!(!decide(Verdict::Drop(super::ForgetReason::NoRule)).is_kept_by_clocks());
}

#[test]
fn reasons_are_said_in_words() {
    let day = |period| Keep::First(period, "2026".into()).to_string();
    let periods = [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year].map(day);
    assert_eq!(periods, ["hourly 2026", "daily 2026", "weekly 2026", "monthly 2026", "yearly 2026"]);
    let kept = Verdict::Keep(vec![Keep::Last(1), Keep::Within, Keep::LastOfVm]).to_string();
    assert_eq!(kept, "new at the last gc that found new ones, within, the last of its machine");
    assert_eq!(Verdict::Drop(super::ForgetReason::NoRule).to_string(), "no rule keeps it");
    let one = session(1);
    assert_eq!(one.short(), one.intent.to_string()[..8]);
}

#[test]
fn what_is_retained_stays() {
    let mut all = nights(4);
    all[0].retained = Some(time(START + 100 * DAY));
    let decisions = run(&Rules { daily: 1, ..Rules::default() }, &all);
    assert_eq!(kept(&decisions), night_numbers(&[0, 3]));
    assert!(decisions[0].verdict.to_string().starts_with("retained until 2027-"));
}
