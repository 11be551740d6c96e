//! What became of each machine's backups, as the public records tell it, and whether the newest one is new enough.

use std::collections::BTreeMap;

use sancerre_format::id::SessionId;
use sancerre_format::log::{Intent, Kind};
use sancerre_format::names::{Name, Time, Title};
use sancerre_format::outcome::Consistency;

use crate::check::CLOCK_SECONDS;
use crate::drill::{self, DrillRecord};
use crate::repository::log::{Log, LogEntry, Outcome, Retention};

/// A machine and all its backups, in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineAudit {
    /// Its name.
    pub vm: Title,
    /// Its backups.
    pub runs: Vec<Run>,
    /// Set when its newest snapshot is older than was allowed.
    pub stale: Option<Stale>,
    /// The newest drill that counts, and whether it passed.
    pub drill: Option<Drill>,
    /// Set when its last drill that passed is older than was allowed.
    pub undrilled: Option<Undrilled>,
}

/// A drill of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drill {
    /// When, as its signer signed.
    pub time: Time,
    /// Whether the machine came up.
    pub is_passed: bool,
    /// When one last passed.
    pub passed: Option<Time>,
}

/// Why a machine's drills are not new enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undrilled {
    /// When one that counts last passed; none when none did.
    pub passed: Option<Time>,
}

/// One backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its session; the hash is the snapshot's id.
    pub session: SessionId,
    /// When it began, as its writer signed.
    pub started: Time,
    /// When it was saved, as its writer signed; none when it was not.
    pub finished: Option<Time>,
    /// Who ran it.
    pub writer: Name,
    /// What became of it.
    pub fate: Fate,
    /// Sum of the disks' sizes.
    pub size_bytes: u64,
    /// Bytes it added to the store.
    pub stored_bytes: u64,
    /// The log entry that calls it suspect, if none cleared it.
    pub suspected_by: Option<u64>,
}

/// What became of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// A snapshot.
    Saved,
    /// A snapshot of a disk that changed while it was read.
    Fuzzy,
    /// A snapshot of a disk of which some could not be read.
    Partial,
    /// A snapshot that was given up by decision.
    Forgotten,
    /// It ended with nothing.
    Aborted,
    /// Running, or dead.
    Open,
    /// Its outcome does not verify, or its writer was revoked.
    Void,
}

/// Why a machine's newest snapshot is not new enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale {
    /// When the newest snapshot that counts began; none when there is none.
    pub newest: Option<Time>,
}

impl Fate {
    /// Whether there is a snapshot to restore.
    pub fn is_snapshot(self) -> bool {
        matches!(self, Self::Saved | Self::Fuzzy | Self::Partial)
    }
}

/// Every machine of a zone, by name.
pub(super) fn machines(log: &Log) -> Vec<MachineAudit> {
    let retention = log.retention();
    let mut machines: BTreeMap<Title, Vec<Run>> = BTreeMap::new();
    for entry in log.entries() {
        let Some(announced) = entry.announced() else { continue };
        let Kind::Backup(Intent { vm, .. }) = &announced.fields.kind else { continue };
        let fate = fate(entry, &retention);
        let mut run = Run {
            session: entry.session,
            started: announced.fields.time,
            finished: None,
            writer: announced.fields.by.name.clone(),
            fate,
            size_bytes: 0,
            stored_bytes: 0,
            suspected_by: retention.suspected_by(&entry.session),
        };
        if let Outcome::Manifest(manifest) = &entry.outcome {
            let fields = &manifest.fields;
            (run.started, run.finished) = (fields.started, Some(fields.finished));
            (run.size_bytes, run.stored_bytes) = (fields.size_bytes, fields.stored_bytes);
        }
        machines.entry(vm.clone()).or_default().push(run);
    }
    let drills = drill::records(log);
    let machine = |(vm, runs): (Title, Vec<Run>)| {
        let drill = last_drill(&runs, &drills);
        MachineAudit { vm, runs, stale: None, drill, undrilled: None }
    };
    machines.into_iter().map(machine).collect()
}

/// The newest drill of these backups, by the log's order.
fn last_drill(runs: &[Run], drills: &[DrillRecord]) -> Option<Drill> {
    let is_of = |record: &&DrillRecord| runs.iter().any(|run| run.session == record.drilled.snapshot);
    drills.iter().filter(is_of).fold(None, |before: Option<Drill>, record| {
        let is_passed = record.drilled.is_passed;
        let passed = if is_passed { Some(record.time) } else { before.and_then(|before| before.passed) };
        Some(Drill { time: record.time, is_passed, passed })
    })
}

fn fate(entry: &LogEntry, retention: &Retention) -> Fate {
    match &entry.outcome {
        _ if entry.entry.is_err() => Fate::Void,
        Outcome::Undecided if retention.collected_by(&entry.session).is_some() => Fate::Forgotten,
        Outcome::Undecided => Fate::Open,
        Outcome::Abort(_) => Fate::Aborted,
        Outcome::Manifest(_) if !retention.is_live(&entry.session) => Fate::Forgotten,
        Outcome::Manifest(manifest) => match manifest.fields.consistency {
            Consistency::Fuzzy => Fate::Fuzzy,
            Consistency::Partial => Fate::Partial,
            _ => Fate::Saved,
        },
        Outcome::Invalid(_) | Outcome::Commit(..) => Fate::Void,
    }
}

impl MachineAudit {
    /// Whether its newest snapshot began more than `seconds` before `now`.
    ///
    /// A snapshot dated in the future counts for nothing: else one lie would keep an alarm quiet for ever. A machine
    /// whose snapshots were all forgotten was given up on purpose.
    pub(super) fn judge(&mut self, now: Time, seconds: u64) {
        let latest = now.unix_seconds().saturating_add(CLOCK_SECONDS);
        let oldest = now.unix_seconds().saturating_sub(i64::try_from(seconds).unwrap_or(i64::MAX));
        let counts = |run: &&Run| run.fate.is_snapshot() && run.started.unix_seconds() <= latest;
        let newest = self.runs.iter().filter(counts).map(|run| run.started).max();
        let given_up = newest.is_none() && self.runs.iter().any(|run| run.fate == Fate::Forgotten);
        let is_fresh = newest.is_some_and(|newest| newest.unix_seconds() >= oldest);
        self.stale = (!is_fresh && !given_up).then_some(Stale { newest });
    }

    /// Whether it last passed a drill more than `seconds` before `now`. One that is dated in the future counts for nothing, and
    /// a machine without a snapshot cannot be drilled.
    pub(super) fn judge_drill(&mut self, now: Time, seconds: u64) {
        let latest = now.unix_seconds().saturating_add(CLOCK_SECONDS);
        let oldest = now.unix_seconds().saturating_sub(i64::try_from(seconds).unwrap_or(i64::MAX));
        let passed = self.drill.and_then(|drill| drill.passed);
        let passed = passed.filter(|passed| passed.unix_seconds() <= latest);
        let is_fresh = passed.is_some_and(|passed| passed.unix_seconds() >= oldest);
        let has_snapshot = self.runs.iter().any(|run| run.fate.is_snapshot());
        self.undrilled = (!is_fresh && has_snapshot).then_some(Undrilled { passed });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sancerre_format::id::Hash;

    const NOW: i64 = 1_795_000_000;

    fn machine(runs: &[(i64, Fate)]) -> MachineAudit {
        let run = |(hours, fate): &(i64, Fate)| Run {
            session: SessionId { number: 1, intent: Hash::of(&hours.to_le_bytes()) },
            started: Time::from_unix_seconds(NOW - hours * 3600),
            finished: None,
            writer: Name::new("hv1").unwrap(),
            fate: *fate,
            size_bytes: 0,
            stored_bytes: 0,
            suspected_by: None,
        };
        let runs = runs.iter().map(run).collect();
        MachineAudit { vm: Title::new("web01").unwrap(), runs, stale: None, drill: None, undrilled: None }
    }

    /// The age in hours of what counts as newest, when that is too old.
    fn stale(runs: &[(i64, Fate)]) -> Option<Option<i64>> {
        let mut machine = machine(runs);
        machine.judge(Time::from_unix_seconds(NOW), 26 * 3600);
        machine.stale.map(|stale| stale.newest.map(|newest| (NOW - newest.unix_seconds()) / 3600))
    }

    #[test]
    fn a_machine_is_stale_without_a_fresh_snapshot() {
        assert_eq!(stale(&[(50, Fate::Saved), (26, Fate::Saved)]), None);
        assert_eq!(stale(&[(50, Fate::Saved), (27, Fate::Fuzzy)]), Some(Some(27)));
        assert_eq!(
            stale(&[(2, Fate::Saved), (50, Fate::Saved)]),
            None,
            "the order of the log does not matter"
        );
        for fate in [Fate::Aborted, Fate::Open, Fate::Void] {
            assert_eq!(stale(&[(30, Fate::Saved), (1, fate)]), Some(Some(30)), "{fate:?}");
            assert_eq!(stale(&[(1, fate)]), Some(None), "{fate:?}");
        }
        assert_eq!(stale(&[(30, Fate::Forgotten), (29, Fate::Forgotten)]), None, "given up on purpose");
        assert_eq!(stale(&[(30, Fate::Saved), (1, Fate::Forgotten)]), Some(Some(30)));
    }

    #[test]
    fn a_date_in_the_future_keeps_no_alarm_quiet() {
        assert_eq!(stale(&[(30, Fate::Saved), (-1, Fate::Saved)]), Some(Some(30)));
        assert_eq!(stale(&[(-1, Fate::Saved)]), Some(None));
        let mut skewed = machine(&[(0, Fate::Saved)]);
        skewed.runs[0].started = Time::from_unix_seconds(NOW + CLOCK_SECONDS);
        skewed.judge(Time::from_unix_seconds(NOW), 60);
        assert_eq!(skewed.stale, None);
    }

    #[test]
    fn a_machine_must_have_passed_lately() {
        let at = |hours: i64| Time::from_unix_seconds(NOW - hours * 3600);
        let judged = |drill: Option<Drill>, fate: Fate| {
            let mut machine = MachineAudit { drill, ..machine(&[(1, fate)]) };
            machine.judge_drill(at(0), 48 * 3600);
            machine.undrilled
        };
        let drill = |time, is_passed, passed| Some(Drill { time, is_passed, passed });
        assert_eq!(judged(drill(at(47), true, Some(at(47))), Fate::Saved), None);
        assert_eq!(judged(drill(at(1), false, Some(at(47))), Fate::Saved), None);
        let old = Some(Undrilled { passed: Some(at(49)) });
        assert_eq!(judged(drill(at(1), false, Some(at(49))), Fate::Saved), old);
        let never = Some(Undrilled { passed: None });
        assert_eq!(judged(None, Fate::Saved), never);
        assert_eq!(judged(drill(at(-9), true, Some(at(-9))), Fate::Saved), never, "a date in the future");
        assert_eq!(judged(None, Fate::Aborted), None, "nothing to drill");
    }
}
