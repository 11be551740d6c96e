//! The history that the records tell: each session names the ones of its VM that it builds on, by number and hash, and
//! each collector's commit names the commit before it. What was removed, replaced or put in between does not fit.
//!
//! Two sessions of one VM may build on the same one: they ran at the same time. Two VMs of one writer have nothing to
//! do with each other. A snapshot that a commit names as forgotten may be gone.

use std::collections::BTreeSet;

use sancerre_format::id::SessionId;
use sancerre_format::log::{Entry, Intent, Kind};
use sancerre_format::names::{self, Time, Zone};
use sancerre_format::outcome::Commit;
use sancerre_format::record::Record;

use super::report::{Cost, Finding, Severity};
use crate::repository::log::{Complaint, Log, Outcome, UNKNOWN};

/// Clocks of hosts may differ by so much before a date is called wrong.
pub(crate) const CLOCK_SECONDS: i64 = 15 * 60;

/// Checks what records say of each other. `now` is the clock of whoever checks.
pub(super) fn check(zone: &Zone, log: &Log, now: Time) -> Vec<Finding> {
    let mut findings: Vec<Finding> = log
        .entries()
        .filter_map(|entry| entry.entry.as_deref().ok())
        .flat_map(|entry| check_parents(zone, log, entry))
        .collect();
    findings.extend(check_commits(zone, log));
    findings.extend(check_dates(zone, log, now));
    findings
}

fn check_parents(zone: &Zone, log: &Log, entry: &Record<Entry>) -> Vec<Finding> {
    let Kind::Backup(intent) = &entry.fields.kind else { return Vec::new() };
    let number = entry.fields.number;
    let wrong = |parent: &SessionId| {
        let problem = parent_problem(log, number, intent, parent)?;
        Some(Finding::new(Severity::Damaged, names::log(zone, number), problem))
    };
    intent.parents.iter().filter_map(wrong).collect()
}

/// Why a session cannot build on this parent; none when it can, or when the parent is missing, which is told elsewhere.
fn parent_problem(log: &Log, number: u64, of: &Intent, parent: &SessionId) -> Option<String> {
    if parent.number >= number {
        return Some(format!("it builds on session {parent}, which does not come before it"));
    }
    let found = log.entry(parent.number)?;
    // What was given up keeps its number, and not always its hash.
    let is_given_up = found.lost.is_some() && found.session.intent == UNKNOWN;
    if found.session != *parent && !is_given_up {
        return Some(format!(
            "it builds on session {parent}, but log entry {} is another one: the history was replaced or forked, or \
             the signer of this entry did not tell the truth",
            parent.number
        ));
    }
    // Void: by a revocation, or told elsewhere.
    let announced = found.entry.as_deref().ok()?;
    let is_of_vm = matches!(&announced.fields.kind, Kind::Backup(intent) if intent.is_of(&of.vm, of.machine));
    (!is_of_vm).then(|| format!("it builds on session {parent}, which is no backup of {}", of.vm))
}

/// The commits of collectors, each against the one before it and against the records below it.
fn check_commits(zone: &Zone, log: &Log) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut last: Option<SessionId> = None;
    let mut known: BTreeSet<SessionId> = BTreeSet::new();
    for (gc, commit, lists) in log.commits() {
        let object = names::outcome(zone, &gc);
        let blame = |problem| Finding::new(Severity::Damaged, object.clone(), problem);
        findings.extend(commit_problems(log, commit, last).into_iter().map(blame));
        known.extend(lists.seen.iter().chain(&lists.forgotten).copied());
        findings.extend(left_out(zone, log, gc, &known));
        last = Some(SessionId { number: gc.number, intent: commit.hash });
    }
    findings.extend(log.complaints().into_iter().map(|Complaint { gc, problem, .. }| {
        let problem = format!("{problem}; it is not believed, and gc stops until that key is revoked");
        Finding::new(Severity::Damaged, names::outcome(zone, &gc), problem)
    }));
    findings
}

fn commit_problems(log: &Log, commit: &Record<Commit>, expected: Option<SessionId>) -> Vec<String> {
    let mut problems = Vec::new();
    let told = |id: Option<SessionId>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
    if commit.fields.previous != expected {
        problems.push(format!(
            "it follows commit {}, but the one before it in the log is {}: a commit was removed, replaced or forked",
            told(commit.fields.previous),
            told(expected)
        ));
    }
    if !agrees_with_records(log, commit) {
        problems.push(
            "the records below it are not those that it saw: one of them was replaced, or added late".into(),
        );
    }
    problems
}

/// Whether the records below a commit are those that it read, as far as they are still there.
pub(crate) fn agrees_with_records(log: &Log, commit: &Record<Commit>) -> bool {
    let number = commit.fields.session.number;
    !is_complete(log, number) || commit.fields.records == log.digest(number)
}

/// Whether everything that a commit read is still there to be read: manifests of snapshots that were given up may be
/// gone, and a revocation takes outcomes back.
fn is_complete(log: &Log, number: u64) -> bool {
    let retention = log.retention();
    let mut below = log.entries().take_while(|entry| entry.session.number < number);
    below.all(|entry| {
        let is_gone = matches!(entry.outcome, Outcome::Undecided | Outcome::Invalid(_))
            && retention.collected_by(&entry.session).is_some();
        // What was given up, with its log entry or alone, got an outcome that no commit saw.
        let is_forgotten = retention.forgotten_by(&entry.session).is_some();
        let is_given_up =
            (entry.lost.is_some() || is_forgotten) && matches!(entry.outcome, Outcome::Abort(_));
        entry.revoked.is_none() && !is_gone && !is_given_up
    })
}

/// Snapshots below a commit that neither it nor one before it knows: the collector did not keep their packs.
fn left_out(zone: &Zone, log: &Log, commit: SessionId, known: &BTreeSet<SessionId>) -> Vec<Finding> {
    let below = log.entries().take_while(|entry| entry.session.number < commit.number);
    let unknown =
        below.filter_map(|entry| entry.snapshot()).filter(|snapshot| !known.contains(&snapshot.session()));
    let tell = |snapshot: crate::repository::log::Snapshot<'_>| {
        let session = snapshot.session();
        let problem = format!(
            "garbage collection {} did not see it, so packs that it needs may be gone: back this VM up again",
            commit.number
        );
        let cost = Cost {
            snapshot: session,
            vm: snapshot.manifest.fields.vm.clone(),
            disk: None,
            ranges: Vec::new(),
        };
        let mut found = Finding::new(Severity::Damaged, names::outcome(zone, &session), problem);
        found.costs.push(cost);
        found
    };
    unknown.map(tell).collect()
}

/// Dates that do not fit the order of the log. The order counts; the date was signed by whoever wrote it.
fn check_dates(zone: &Zone, log: &Log, now: Time) -> Vec<Finding> {
    let dated: Vec<(u64, Time)> = log
        .entries()
        .filter_map(|entry| entry.entry.as_deref().ok())
        .map(|entry| (entry.fields.number, entry.fields.time))
        .collect();
    let note = |number: u64, problem: String| Finding::new(Severity::Note, names::log(zone, number), problem);
    let mut findings = Vec::new();
    for (number, time) in &dated {
        if time.unix_seconds() > now.unix_seconds().saturating_add(CLOCK_SECONDS) {
            findings.push(note(*number, format!("it is dated {time}, which is in the future")));
        }
    }
    let past: Vec<(u64, Time)> = dated
        .into_iter()
        .filter(|(_, time)| time.unix_seconds() <= now.unix_seconds().saturating_add(CLOCK_SECONDS))
        .collect();
    for Misdated { at, neighbour } in misdated(&past) {
        let ((number, time), (other, of_other)) = (at, neighbour);
        let side = if other < number { "before" } else { "after" };
        findings.push(note(
            number,
            format!("it is dated {time}, but entry {other} {side} it is dated {of_other}: the order of the log counts"),
        ));
    }
    findings
}

/// An entry and a neighbour in the log that contradicts its date.
#[derive(Debug, PartialEq, Eq)]
struct Misdated {
    at: (u64, Time),
    neighbour: (u64, Time),
}

/// The fewest entries whose dates would have to be wrong for all the others to ascend.
fn misdated(dated: &[(u64, Time)]) -> Vec<Misdated> {
    let ascending = ascending(dated);
    let mut found = Vec::new();
    for at in dated {
        let next = ascending.partition_point(|(number, _)| number < &at.0);
        let before = next.checked_sub(1).and_then(|place| ascending.get(place));
        let after = ascending.get(next);
        let seconds = |time: &Time| time.unix_seconds();
        let early = before.filter(|(_, time)| seconds(time) > seconds(&at.1).saturating_add(CLOCK_SECONDS));
        let late = after.filter(|(_, time)| seconds(&at.1) > seconds(time).saturating_add(CLOCK_SECONDS));
        found.extend(early.or(late).map(|neighbour| Misdated { at: *at, neighbour: *neighbour }));
    }
    found
}

/// A longest row of entries whose dates do not descend, by patience sorting.
fn ascending(dated: &[(u64, Time)]) -> Vec<(u64, Time)> {
    // Per length: where the row of that length with the earliest end ends. Per entry: what comes before it in its row.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(dated.len());
    let time = |at: &usize| dated.get(*at).map(|(_, time)| *time);
    for (at, (_, dated_at)) in dated.iter().enumerate() {
        let length = ends.partition_point(|end| time(end) <= Some(*dated_at));
        before.push(length.checked_sub(1).and_then(|shorter| ends.get(shorter).copied()));
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let back = std::iter::successors(ends.last().copied(), |at| before.get(*at).copied().flatten());
    let mut row: Vec<(u64, Time)> = back.filter_map(|at| dated.get(at).copied()).collect();
    row.reverse();
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dated(times: &[i64]) -> Vec<(u64, Time)> {
        let hour = |(number, hours): (u64, &i64)| (number, Time::from_unix_seconds(hours * 3600));
        (1..).zip(times).map(hour).collect()
    }

    fn wrong(times: &[i64]) -> Vec<(u64, u64)> {
        misdated(&dated(times)).iter().map(|found| (found.at.0, found.neighbour.0)).collect()
    }

    #[test]
    fn the_one_wrong_date_is_named_and_not_all_the_others() {
        assert_eq!(wrong(&[1, 2, 3, 4]), []);
        assert_eq!(wrong(&[1, 2, 2, 2, 3]), []);
        assert_eq!(wrong(&[10, 11, 3, 12, 13]), [(3, 2)], "back-dated");
        assert_eq!(wrong(&[10, 11, 90, 12, 13]), [(3, 4)], "dated ahead");
        assert_eq!(wrong(&[90, 11, 12, 13]), [(1, 2)]);
        assert_eq!(wrong(&[10, 11, 12, 3]), [(4, 3)]);
        assert_eq!(wrong(&[10, 3, 4, 11, 12]), [(1, 2)], "one wrong date explains it, not two");
        assert_eq!(wrong(&[]), []);
    }

    #[test]
    fn clocks_that_differ_a_little_are_no_matter() {
        let at = |seconds: i64| Time::from_unix_seconds(1_795_000_000 + seconds);
        let skewed = [(1, at(0)), (2, at(-CLOCK_SECONDS)), (3, at(60)), (4, at(30))];
        assert_eq!(misdated(&skewed), []);
        let wrong = [(1, at(0)), (2, at(-CLOCK_SECONDS - 1)), (3, at(60))];
        assert_eq!(misdated(&wrong).len(), 1);
    }
}
