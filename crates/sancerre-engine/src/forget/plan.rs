//! The plan: rules and evidence in, a decision with its reason for every snapshot out. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sancerre_advice::Setting::Keep as KeepRules;
use sancerre_format::id::SessionId;
use sancerre_format::names::{Name, Time, Title};

use super::evidence::{Candidate, Doubt, MachineEvidence};
use crate::error::{Error, Result};

const DAY_SECONDS: i64 = 86_400;
/// 1 January 1970 was a Thursday: so many days after a Monday.
const DAYS_AFTER_MONDAY: i64 = 3;

/// How many of each to keep, of every machine and writer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    /// All snapshots that the last so many collections were the first to record.
    pub last: u32,
    /// The first of each of the last so many hours that have one; and so on.
    pub hourly: u32,
    /// Days.
    pub daily: u32,
    /// Weeks, from Monday.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
    /// Years.
    pub yearly: u32,
    /// Everything not older than the newest one by more than this.
    pub within_seconds: Option<u64>,
}

impl Rules {
    /// Fails when nothing is to be kept: that is more likely a mistake than a selection.
    pub(crate) fn validate(&self) -> Result<()> {
        match *self == Self::default() {
            true => Err(Error::Usage(format!(
                "say what to keep, for example {KeepRules}, or name the snapshots that may go"
            ))),
            false => Ok(()),
        }
    }
}

/// A stretch of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Period {
    fn name(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }

    /// Which one a time is in; later ones sort later.
    fn of(self, time: Time) -> String {
        let text = match self {
            Self::Week => {
                let days = time.unix_seconds().div_euclid(DAY_SECONDS);
                let monday = days.saturating_sub(days.saturating_add(DAYS_AFTER_MONDAY).rem_euclid(7));
                Time::from_unix_seconds(monday.saturating_mul(DAY_SECONDS)).to_string()
            }
            _ => time.to_string(),
        };
        // 2026-11-23T21:10:28Z
        let digits = match self {
            Self::Hour => 13,
            Self::Day | Self::Week => 10,
            Self::Month => 7,
            Self::Year => 4,
        };
        text.chars().take(digits).collect()
    }
}

/// Why a snapshot stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// One of the last so many collections was the first to record it.
    Last(u32),
    /// The first of its period.
    First(Period, String),
    /// Young enough.
    Within,
    /// Held by a record.
    Held,
    /// Its manifest says until when no forget counts.
    Retained(Time),
    /// That it goes was asked for already, and waits for approval.
    Asked(u64),
    /// It counts for no rule.
    Doubt(Doubt),
    /// None of its machine would be left.
    LastOfVm,
}

/// Why a snapshot goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForgetReason {
    /// Named by the user.
    Named,
    /// Named by the user, although its outcome does not verify.
    Damaged,
    /// No rule keeps it.
    NoRule,
}

/// What becomes of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It stays, for at least one reason.
    Keep(Vec<Keep>),
    /// It goes.
    Drop(ForgetReason),
}

/// A snapshot and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The snapshot.
    pub session: SessionId,
    /// Its machine's public name.
    pub vm: Title,
    /// Its machine.
    pub machine: MachineEvidence,
    /// Who signed it.
    pub writer: Name,
    /// When: the store's word, else the writer's.
    pub time: Time,
    /// Stays or goes.
    pub verdict: Verdict,
}

impl Decision {
    /// Whether it stays for no other reason than that clocks differ.
    pub fn is_kept_by_clocks(&self) -> bool {
        let of_clocks = |keep: &Keep| matches!(keep, Keep::Doubt(doubt) if doubt.is_of_clocks());
        matches!(&self.verdict, Verdict::Keep(reasons) if reasons.iter().all(of_clocks))
    }

    pub(super) fn new(candidate: &Candidate, verdict: Verdict) -> Self {
        Self {
            session: candidate.session,
            vm: candidate.vm.clone(),
            machine: candidate.machine.clone(),
            writer: candidate.writer.clone(),
            time: candidate.stored.unwrap_or(candidate.signed),
            verdict,
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last(1) => f.write_str("new at the last gc that found new ones"),
            Self::Last(number) => write!(f, "new at one of the last {number} gcs that found new ones"),
            Self::First(period, of) => write!(f, "{} {of}", period.name()),
            Self::Within => f.write_str("within"),
            Self::Held => f.write_str("held"),
            Self::Retained(until) => write!(f, "retained until {until}"),
            Self::Asked(entry) => write!(f, "to be forgotten by log entry {entry}, which waits for approval"),
            Self::Doubt(doubt) => doubt.fmt(f),
            Self::LastOfVm => f.write_str("the last of its machine"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep(reasons) => {
                let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                f.write_str(&reasons.join(", "))
            }
            Self::Drop(ForgetReason::Named) => f.write_str("named"),
            Self::Drop(ForgetReason::Damaged) => f.write_str("named, and what ended it does not verify"),
            Self::Drop(ForgetReason::NoRule) => f.write_str("no rule keeps it"),
        }
    }
}

/// Decides about `considered`; both lists are in log order, and `all` has every live snapshot.
///
/// Snapshots of one machine by different writers are counted apart: a host cannot fill another one's rules.
pub fn plan(rules: &Rules, considered: &[Candidate], all: &[Candidate]) -> Vec<Decision> {
    let mut groups: BTreeMap<(&Name, &MachineEvidence), Vec<usize>> = BTreeMap::new();
    for (at, candidate) in considered.iter().enumerate() {
        groups.entry((&candidate.writer, &candidate.machine)).or_default().push(at);
    }
    let mut kept: Vec<Vec<Keep>> = vec![Vec::new(); considered.len()];
    for members in groups.values() {
        let group: Vec<&Candidate> = members.iter().filter_map(|at| considered.get(*at)).collect();
        for (at, reasons) in members.iter().zip(keep(rules, &group)) {
            kept.get_mut(*at).into_iter().for_each(|slot| *slot = reasons.clone());
        }
    }
    keep_last_of_vm(considered, all, &mut kept);
    let decide = |(candidate, reasons): (&Candidate, Vec<Keep>)| {
        let verdict =
            if reasons.is_empty() { Verdict::Drop(ForgetReason::NoRule) } else { Verdict::Keep(reasons) };
        Decision::new(candidate, verdict)
    };
    considered.iter().zip(kept).map(decide).collect()
}

/// The reasons to keep each member of a group.
fn keep(rules: &Rules, group: &[&Candidate]) -> Vec<Vec<Keep>> {
    let mut reasons: Vec<Vec<Keep>> = vec![Vec::new(); group.len()];
    let mut counted = Vec::with_capacity(group.len());
    for (at, (candidate, reasons)) in group.iter().zip(&mut reasons).enumerate() {
        reasons.extend(candidate.is_held.then_some(Keep::Held));
        reasons.extend(candidate.retained.map(Keep::Retained));
        reasons.extend(candidate.asked.map(Keep::Asked));
        match candidate.time() {
            Ok((time, record)) => counted.push((at, time, record.number)),
            Err(doubt) => reasons.push(Keep::Doubt(doubt)),
        }
    }
    let mut note =
        |at: usize, reason: Keep| reasons.get_mut(at).into_iter().for_each(|of| of.push(reason.clone()));
    let turns: BTreeSet<u64> = counted.iter().map(|(_, _, turn)| *turn).collect();
    let oldest = turns.iter().rev().take(count(rules.last)).next_back();
    counted
        .iter()
        .filter(|(_, _, turn)| oldest.is_some_and(|oldest| turn >= oldest))
        .for_each(|(at, ..)| note(*at, Keep::Last(rules.last)));
    let periods = [
        (Period::Hour, rules.hourly),
        (Period::Day, rules.daily),
        (Period::Week, rules.weekly),
        (Period::Month, rules.monthly),
        (Period::Year, rules.yearly),
    ];
    for (period, number) in periods {
        // In log order, so the first of a period stays its representative whoever comes later.
        let mut firsts: BTreeMap<String, usize> = BTreeMap::new();
        for (at, time, _) in &counted {
            firsts.entry(period.of(*time)).or_insert(*at);
        }
        firsts.into_iter().rev().take(count(number)).for_each(|(of, at)| note(at, Keep::First(period, of)));
    }
    if let (Some(within), Some(newest)) =
        (rules.within_seconds, counted.iter().map(|(_, time, _)| *time).max())
    {
        let within = i64::try_from(within).unwrap_or(i64::MAX);
        let oldest = newest.unix_seconds().saturating_sub(within);
        counted
            .iter()
            .filter(|(_, time, _)| time.unix_seconds() >= oldest)
            .for_each(|(at, ..)| note(*at, Keep::Within));
    }
    reasons
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Where the rules would leave nothing of a machine, its newest snapshot stays.
fn keep_last_of_vm(considered: &[Candidate], all: &[Candidate], kept: &mut [Vec<Keep>]) {
    let staying: BTreeSet<&MachineEvidence> = considered
        .iter()
        .zip(kept.iter())
        .filter(|(_, reasons)| !reasons.is_empty())
        .map(|(candidate, _)| &candidate.machine)
        .collect();
    let touched: BTreeSet<SessionId> = considered.iter().map(|candidate| candidate.session).collect();
    let untouched = all.iter().filter(|candidate| !touched.contains(&candidate.session));
    let staying: BTreeSet<&MachineEvidence> =
        staying.into_iter().chain(untouched.map(|candidate| &candidate.machine)).collect();
    let newest: BTreeMap<&MachineEvidence, usize> =
        considered.iter().enumerate().map(|(at, candidate)| (&candidate.machine, at)).collect();
    for (machine, at) in newest {
        if !staying.contains(machine) {
            kept.get_mut(at).into_iter().for_each(|reasons| reasons.push(Keep::LastOfVm));
        }
    }
}

#[cfg(test)]
mod tests;
