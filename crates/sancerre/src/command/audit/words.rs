//! What an audit did and found, in sentences: the same on the terminal and in the report.

use sancerre_engine::audit::{AuditOptions, AuditReport, Fate, MachineAudit, ZoneAudit};
use sancerre_engine::check::{CheckReport, ReadData, Sampled, Severity};
use sancerre_format::names::Time;

use crate::command::check;
use crate::units::{age, count, size};

/// Numbers of problems, by what they mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) damaged: usize,
    pub(super) missing: usize,
    pub(super) unsupported: usize,
    pub(super) healed: usize,
    pub(super) stale: usize,
    pub(super) undrilled: usize,
}

impl Verdict {
    pub(super) fn of(report: &AuditReport) -> Self {
        let of =
            |severity: Severity| report.all_findings().filter(|found| found.severity == severity).count();
        Self {
            damaged: of(Severity::Damaged),
            missing: of(Severity::Missing) + of(Severity::Empty),
            unsupported: of(Severity::Unsupported),
            healed: of(Severity::Healed),
            stale: report.stale().count(),
            undrilled: report.undrilled().count(),
        }
    }

    pub(super) fn is_good(self) -> bool {
        self == Self { damaged: 0, missing: 0, unsupported: 0, healed: 0, stale: 0, undrilled: 0 }
    }

    /// In a few words.
    pub(super) fn headline(self) -> String {
        let parts: Vec<String> = [
            (self.damaged, "object damaged or forged", "objects damaged or forged"),
            (self.missing, "object missing", "objects missing"),
            (self.unsupported, "object of a newer version", "objects of a newer version"),
            (self.healed, "object lost with another copy", "objects lost with other copies"),
            (self.stale, "machine without a fresh snapshot", "machines without a fresh snapshot"),
            (self.undrilled, "machine without a fresh drill", "machines without a fresh drill"),
        ]
        .into_iter()
        .filter(|(number, ..)| *number > 0)
        .map(|(number, one, several)| format!("{number} {}", if number == 1 { one } else { several }))
        .collect();
        match parts.is_empty() {
            true => "No damage, nothing missing".to_owned(),
            false => parts.join(", "),
        }
    }
}

/// Everything, for a terminal.
pub(super) fn text(report: &AuditReport, options: &AuditOptions) -> String {
    let mut text = format!(
        "repository {}, made {}\nadmin key {}, as given with --trust\n",
        report.trust.repository,
        report.created,
        report.trust.admin.fingerprint()
    );
    for zone in &report.zones {
        text.push_str(&format!("\nzone {}: {}\n", zone.zone, contents(zone)));
        for machine in &zone.machines {
            let drilled = drilled(machine, report.time);
            text.push_str(&format!("  {}: {}{drilled}\n", machine.vm, newest(machine, report.time)));
        }
        text.push_str(&format!("  {}\n", reading(&zone.check, options)));
        text.push_str(&format!("  {}\n", memory(zone, options)));
        text.push_str(&format!("  log mark {} {}\n", zone.mark.highest, zone.mark.records));
    }
    if report.all_findings().next().is_some() {
        text.push('\n');
    }
    report.all_findings().for_each(|finding| text.push_str(&check::describe(finding)));
    for (_, machine, _) in report.stale() {
        text.push_str(&format!("too old: {}: {}\n", machine.vm, newest(machine, report.time)));
    }
    for (_, machine, _) in report.undrilled() {
        text.push_str(&format!("not drilled: {}{}\n", machine.vm, drilled(machine, report.time)));
    }
    text.push_str(&format!("\n{}\n", Verdict::of(report).headline()));
    text
}

/// When a machine last came up in a drill, behind a comma; nothing where nobody ever tried.
pub(super) fn drilled(machine: &MachineAudit, now: Time) -> String {
    let Some(drill) = machine.drill else { return String::new() };
    let ago = |time: Time| match u64::try_from(now.unix_seconds().saturating_sub(time.unix_seconds())) {
        Ok(seconds) => format!("{} ago", age(seconds)),
        Err(_) => "dated in the future".into(),
    };
    match (drill.is_passed, drill.passed) {
        (true, _) => format!(", passed a drill {}", ago(drill.time)),
        (false, Some(passed)) => {
            format!(", FAILED a drill {}, and passed one {}", ago(drill.time), ago(passed))
        }
        (false, None) => format!(", FAILED a drill {}", ago(drill.time)),
    }
}

/// What a zone holds.
pub(super) fn contents(zone: &ZoneAudit) -> String {
    format!(
        "{} of {}, {} in {}, log up to number {}",
        count(zone.check.snapshots, "snapshot"),
        count(zone.machines.len() as u64, "machine"),
        size(zone.check.pack_bytes),
        count(zone.check.packs, "pack"),
        zone.mark.highest
    )
}

/// A machine's snapshots and how old the newest is.
pub(super) fn newest(machine: &MachineAudit, now: Time) -> String {
    let of = |fate: Fate| machine.runs.iter().filter(|run| run.fate == fate).count();
    let snapshots = of(Fate::Saved) + of(Fate::Fuzzy) + of(Fate::Partial);
    let others: Vec<String> = [Fate::Aborted, Fate::Open, Fate::Void, Fate::Forgotten]
        .into_iter()
        .filter(|fate| of(*fate) > 0)
        .map(|fate| format!("{} {}", of(fate), super::summary::fate(fate)))
        .collect();
    let others = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
    let last = machine.runs.iter().filter(|run| run.fate.is_snapshot()).map(|run| run.started).max();
    match last {
        None => format!("no snapshot{others}"),
        Some(last) => {
            let seconds = now.unix_seconds().saturating_sub(last.unix_seconds());
            let old = match u64::try_from(seconds) {
                Ok(seconds) => format!("{} old", age(seconds)),
                Err(_) => "dated in the future".into(),
            };
            format!("{}{others}, the newest of {last}, {old}", count(snapshots as u64, "snapshot"))
        }
    }
}

/// What was read, and what that proves.
pub(super) fn reading(check: &CheckReport, options: &AuditOptions) -> String {
    let read = format!("{} ({})", count(check.read_packs, "pack"), size(check.read_bytes));
    match (options.read_data, check.sampled) {
        (ReadData::No, _) => {
            "No pack was read: the store lists each with its right size; whether its bytes are \
                              still the same was not looked at."
                .to_owned()
        }
        (ReadData::All, _) => {
            format!("All packs were read: {read}. Each was compared with what its writer signed.")
        }
        (ReadData::Part { part, of }, _) => format!("Part {part} of {of} was read: {read}."),
        (ReadData::Percent { percent, .. }, _) => {
            format!("{read} were read, drawn at random: about {percent} % of all.")
        }
        (ReadData::Sample(_), None | Some(Sampled { population: 0, .. })) => {
            "There was no pack to draw from.".to_owned()
        }
        // Too few for a part to be enough.
        (ReadData::Sample(_), Some(Sampled { population, drawn, .. })) if drawn == population => {
            format!("{read} were read whole, which is all of them.")
        }
        (ReadData::Sample(_), Some(sampled)) => sample(&sampled, check),
    }
}

fn sample(sampled: &Sampled, check: &CheckReport) -> String {
    let Sampled { sample, population, drawn } = sampled;
    format!(
        "{drawn} of {population} packs ({}) were drawn at random and read whole. Had {} of them or more ({} %) been \
         bad, at least one would have been met with a probability of {} %. Smaller losses may have been missed.",
        size(check.read_bytes),
        sample.bad(*population),
        sample.loss_percent,
        sample.confidence_percent
    )
}

/// What the memory of earlier audits shows.
pub(super) fn memory(zone: &ZoneAudit, options: &AuditOptions) -> String {
    match (zone.seen_before, &options.state) {
        (Some(before), _) => format!("Compared with the audit of {before}."),
        (None, Some(_)) => "Not seen by an earlier audit: remembered from now on.".to_owned(),
        (None, None) => {
            "Not compared with an earlier audit: a store that was rolled back or cut short looks whole."
                .to_owned()
        }
    }
}
