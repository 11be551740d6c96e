//! What a check found: one finding per object, each with the byte ranges of the snapshots that it costs.

use std::collections::BTreeMap;
use std::ops::Range;

use sancerre_advice::Verb::Quarantine;
use sancerre_format::FormatError;
use sancerre_format::id::SessionId;
use sancerre_format::names::Title;

use super::sample::Sampled;
use super::subjects::CheckedSnapshot;

/// How bad a finding is; the worst comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Something is not what it was.
    Damaged,
    /// Something is gone.
    Missing,
    /// Something needs a newer version of the program: what it says or holds is not known.
    Unsupported,
    /// Nothing was saved yet, or all of it is lost: nothing tells the two apart.
    Empty,
    /// A place is lost or damaged, and restores find all that snapshots need of it elsewhere.
    Healed,
    /// Worth knowing; nothing is lost.
    Note,
}

impl Severity {
    /// Of an object that could not be read: what is only too new is not damaged.
    pub(super) fn of(error: &FormatError) -> Self {
        match error {
            FormatError::Unsupported { .. } => Self::Unsupported,
            _ => Self::Damaged,
        }
    }
}

/// What is wrong with one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The object's key, or the folder when it speaks of many.
    pub object: String,
    /// What is wrong, and what to do where something can be done.
    pub problem: String,
    /// What cannot be restored because of it, by snapshot and disk; of [`Severity::Healed`] what other copies restore.
    pub costs: Vec<Cost>,
}

impl Finding {
    /// One that costs no snapshot anything, or not as far as is known.
    pub(crate) fn new(severity: Severity, object: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { severity, object: object.into(), problem: problem.into(), costs: Vec::new() }
    }
}

/// What a finding costs one disk of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// The snapshot.
    pub snapshot: SessionId,
    /// Its VM.
    pub vm: Title,
    /// The disk; none when all of the snapshot is concerned, or when no key is at hand that tells which part.
    pub disk: Option<Title>,
    /// Byte ranges of the disk, ascending and merged; none when all of the snapshot is concerned.
    pub ranges: Vec<Range<u64>>,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CheckReport {
    /// Snapshots checked.
    pub snapshots: u64,
    /// Disks, streams and files in them.
    pub disks: u64,
    /// Packs they need.
    pub packs: u64,
    /// Bytes of those packs.
    pub pack_bytes: u64,
    /// Packs that were read and hashed.
    pub read_packs: u64,
    /// Bytes of those.
    pub read_bytes: u64,
    /// Packs that could be read: listed, there, and of their right size, needed or not.
    pub readable_packs: u64,
    /// How they were drawn, if they were.
    pub sampled: Option<Sampled>,
    /// Whether data frames were opened and their chunks' ids recomputed.
    pub content_opened: bool,
    /// What was found, by object.
    pub findings: Vec<Finding>,
    /// Number of the log entry that quarantines the damage.
    pub quarantined: Option<u64>,
}

impl CheckReport {
    /// The worst finding.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).min()
    }
}

/// What is said of a loss that costs no snapshot anything.
fn said_of_healed() -> String {
    format!(
        "; restores find other copies of all that snapshots need of it, and gc keeps these while it is missing or quarantined \
         ({Quarantine}). Restore once to be sure; new backups use the copies"
    )
}

/// Most problems spelled out for one object.
const PROBLEMS_TOLD: usize = 3;

/// One disk of one snapshot, by their places in the list of subjects; no disk for all of the snapshot.
pub(super) type Affected = (usize, Option<usize>);

/// A finding in the making.
#[derive(Debug)]
struct Draft {
    severity: Severity,
    problems: Vec<String>,
    more: u64,
    /// Everything wrong with it was quarantined by an earlier check.
    is_quarantined: bool,
    costs: BTreeMap<Affected, Vec<Range<u64>>>,
    /// What it would cost, were there no other copies.
    healed: BTreeMap<Affected, Vec<Range<u64>>>,
}

/// Findings by object.
#[derive(Debug, Default)]
pub(super) struct Findings(BTreeMap<String, Draft>);

impl Findings {
    /// Notes a problem of an object.
    pub(super) fn blame(&mut self, object: &str, severity: Severity, problem: impl Into<String>) {
        self.draft(object, severity, problem.into()).is_quarantined = false;
    }

    /// Notes a problem that an earlier check has quarantined: when it costs nothing, it is history.
    pub(super) fn blame_quarantined(&mut self, object: &str, severity: Severity, problem: impl Into<String>) {
        self.draft(object, severity, problem.into());
    }

    fn draft(&mut self, object: &str, severity: Severity, problem: String) -> &mut Draft {
        let draft = self.0.entry(object.to_owned()).or_insert_with(|| Draft {
            severity,
            problems: Vec::new(),
            more: 0,
            is_quarantined: true,
            costs: BTreeMap::new(),
            healed: BTreeMap::new(),
        });
        draft.severity = draft.severity.min(severity);
        if !draft.problems.contains(&problem) {
            if draft.problems.len() < PROBLEMS_TOLD {
                draft.problems.push(problem);
            } else {
                draft.more = draft.more.saturating_add(1);
            }
        }
        draft
    }

    /// Adds what the object's problems cost; ranges of one victim come in ascending order. Nothing without a problem.
    pub(super) fn cost(&mut self, object: &str, victim: Affected, range: Option<Range<u64>>) {
        let Some(draft) = self.0.get_mut(object) else { return };
        let ranges = draft.costs.entry(victim).or_default();
        range.into_iter().for_each(|range| push_merged(ranges, range));
    }

    /// Adds what another copy restores although the object's problems would cost it.
    pub(super) fn heal(&mut self, object: &str, victim: Affected, range: Range<u64>) {
        let Some(draft) = self.0.get_mut(object) else { return };
        push_merged(draft.healed.entry(victim).or_default(), range);
    }

    /// Whether something costs this subject anything.
    pub(super) fn is_spoiled(&self, subject: usize) -> bool {
        self.0.values().any(|draft| draft.costs.keys().any(|(spoiled, _)| *spoiled == subject))
    }

    /// Notes that a subject needs nothing of what an object lost, unless it is told already which part other copies restore.
    pub(super) fn heal_unseen(&mut self, object: &str, subject: usize) {
        let Some(draft) = self.0.get_mut(object) else { return };
        if !draft.healed.keys().any(|(healed, _)| *healed == subject) {
            draft.healed.entry((subject, None)).or_default();
        }
    }

    /// The findings, in the order of their keys.
    pub(super) fn finish(self, subjects: &[CheckedSnapshot]) -> Vec<Finding> {
        self.0.into_iter().map(|(object, draft)| draft.finish(object, subjects)).collect()
    }
}

impl Draft {
    fn finish(self, object: String, subjects: &[CheckedSnapshot]) -> Finding {
        let told = |victims: BTreeMap<Affected, Vec<Range<u64>>>| -> Vec<Cost> {
            let victims = victims.into_iter();
            let cost = |((subject, disk), ranges)| cost(subjects.get(subject)?, disk, ranges);
            victims.filter_map(cost).collect()
        };
        let (costs, healed) = (told(self.costs), told(self.healed));
        let history = self.is_quarantined && costs.is_empty() && healed.is_empty();
        let mut problem = self.problems.join("; ");
        if self.more > 0 {
            problem.push_str(&format!("; and {} more", self.more));
        }
        if history && self.severity != Severity::Note {
            problem.push_str("; it is quarantined, and no snapshot needs what is lost");
        }
        let severity = if history { Severity::Note } else { self.severity };
        match (costs.is_empty(), healed.is_empty() || severity == Severity::Note) {
            (_, true) => Finding { severity, object, problem, costs },
            (true, false) => {
                problem.push_str(&said_of_healed());
                Finding { severity: Severity::Healed, object, problem, costs: healed }
            }
            (false, false) => {
                problem.push_str("; of more that snapshots need of it restores find other copies");
                Finding { severity, object, problem, costs }
            }
        }
    }
}

fn cost(subject: &CheckedSnapshot, disk: Option<usize>, ranges: Vec<Range<u64>>) -> Option<Cost> {
    let disk = match disk {
        Some(disk) => Some(subject.members.get(disk)?.name.clone()),
        None => None,
    };
    Some(Cost { snapshot: subject.session, vm: subject.vm.clone(), disk, ranges: merged(ranges) })
}

/// Appends a range; joins it to the last one when they touch.
fn push_merged(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.start <= range.start && range.start <= last.end => {
            last.end = last.end.max(range.end);
        }
        _ => ranges.push(range),
    }
}

/// Ascending, disjoint and maximal.
pub(super) fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| (range.start, range.end));
    let mut merged = Vec::with_capacity(ranges.len());
    ranges.into_iter().for_each(|range| push_merged(&mut merged, range));
    merged
}
