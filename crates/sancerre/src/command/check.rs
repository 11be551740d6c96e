//! `check`: whether everything is there and whole, and what is lost if not.

mod files;

use std::time::{Duration, Instant};

use sancerre_engine::check::{self, CheckOptions, CheckReport, Cost, Finding, ReadData, Severity};
use sancerre_engine::repository::Repository;
use serde_json::{Value, json};

use self::files::LostFiles;
use super::{Context, ended};
use crate::access::Access;
use crate::arguments::{Check, Subset};
use crate::exit::{Done, Exit, Failure};
use crate::plain;
use crate::progress::Work;
use crate::repository;
use crate::units::{count, duration, seconds, size};

/// Most ranges of a disk that are spelled out for people; JSON has all.
const RANGES_SHOWN: usize = 3;

pub(crate) async fn run(options: Check, context: &Context) -> Result<Done, Failure> {
    let started = Instant::now();
    let repository = repository::open(context, Access::ContentIfGiven).await?;
    let settings = CheckOptions {
        read_data: read_data(context, options.read_data, options.read_data_subset),
        quarantine: options.quarantine,
    };
    let (monitor, watched) = context.watched(Work::Check)?;
    let report = check::check(&repository, &settings, &monitor).await?;
    drop(watched);
    let took = started.elapsed();
    let files = lost_files(&repository, &report, context).await?;
    for finding in &report.findings {
        context.output.result(&describe_with(finding, &files))?;
    }
    tell(context, &report, took);
    Ok(ended(exit(&report.findings), summary(&report, &files, took)))
}

/// The files of guests that losses touch, where a key opens catalogues that tell.
async fn lost_files(
    repository: &Repository,
    report: &CheckReport,
    context: &Context,
) -> Result<LostFiles, Failure> {
    let is_asked = repository.keys.can_open_content()
        && report.findings.iter().flat_map(|finding| &finding.costs).any(|cost| cost.disk.is_some());
    if !is_asked {
        return Ok(LostFiles::new());
    }
    let log = repository::load_log(context, repository).await?;
    files::touched(repository, &log, &report.findings, context.global.memory, &context.monitor()).await
}

/// What the options mean that `check` and `audit` share.
pub(super) fn read_data(context: &Context, all: bool, subset: Option<Subset>) -> ReadData {
    match (all, subset) {
        (true, _) => ReadData::All,
        (false, Some(Subset::Percent(share))) => {
            ReadData::Percent { percent: share, seed: context.host.random() }
        }
        (false, Some(Subset::Part { part, of })) => ReadData::Part { part, of },
        (false, None) => ReadData::No,
    }
}

/// Damage weighs more than absence: somebody or something changed what was there.
pub(super) fn exit<'a>(findings: impl IntoIterator<Item = &'a Finding> + Clone) -> Exit {
    let has = |severity: Severity| findings.clone().into_iter().any(|finding| finding.severity == severity);
    let worst = [
        (Severity::Damaged, Exit::Damaged),
        (Severity::Missing, Exit::Missing),
        (Severity::Unsupported, Exit::Unsupported),
        (Severity::Empty, Exit::NotAsAsked),
        (Severity::Healed, Exit::NotAsAsked),
    ];
    worst.into_iter().find(|(severity, _)| has(*severity)).map_or(Exit::Done, |(_, exit)| exit)
}

pub(super) fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Damaged => "damaged",
        Severity::Missing => "missing",
        Severity::Unsupported => "unsupported",
        Severity::Empty => "empty",
        Severity::Healed => "healed",
        Severity::Note => "note",
    }
}

/// What a finding does to a disk.
pub(super) fn verb(severity: Severity) -> &'static str {
    match severity {
        Severity::Damaged | Severity::Missing | Severity::Unsupported => "costs",
        Severity::Healed => "other copies restore",
        Severity::Empty | Severity::Note => "concerns",
    }
}

pub(super) fn describe(finding: &Finding) -> String {
    describe_with(finding, &LostFiles::new())
}

fn describe_with(finding: &Finding, files: &LostFiles) -> String {
    let line = format!("{}: {}: {}", name(finding.severity), finding.object, finding.problem);
    let mut text = format!("{}\n", plain::line(&line));
    let verb = verb(finding.severity);
    for cost in &finding.costs {
        text.push_str(&format!("  {verb} {}\n", describe_cost(cost)));
        text.push_str(&files::describe(cost, files));
    }
    text
}

pub(super) fn describe_cost(cost: &Cost) -> String {
    let id = cost.snapshot.short();
    let Some(disk) = &cost.disk else { return format!("{id} ({})", cost.vm) };
    let lost: u64 = cost.ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum();
    let shown: Vec<String> =
        cost.ranges.iter().take(RANGES_SHOWN).map(|range| format!("{}-{}", range.start, range.end)).collect();
    let more = cost.ranges.len().saturating_sub(RANGES_SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let place =
        if shown.is_empty() { String::new() } else { format!(" at bytes {}{more}", shown.join(", ")) };
    format!("{id} ({}), {disk}: {}{place}", cost.vm, size(lost))
}

fn tell(context: &Context, report: &CheckReport, took: Duration) {
    let lost = report.findings.iter().filter(|finding| finding.severity != Severity::Note).count();
    let content = match (report.content_opened, report.read_packs) {
        (true, _) => " and opened",
        (false, 0) => "",
        (false, _) => " and hashed",
    };
    context.output.message(&format!(
        "checked {}, {}, {} ({}); {} ({}) read{content}; in {}",
        count(report.snapshots, "snapshot"),
        count(report.disks, "disk"),
        count(report.packs, "pack"),
        size(report.pack_bytes),
        count(report.read_packs, "pack"),
        size(report.read_bytes),
        duration(took)
    ));
    if report.read_packs > 0 && !report.content_opened {
        context.output.message("content was not opened: that needs the passphrase or a restore identity");
    }
    if let Some(number) = report.quarantined {
        context
            .output
            .message(&format!("quarantined as log entry {number}: the next backups store it again"));
    }
    context.output.message(&conclusion(report, lost as u64));
}

/// The last line: what was found, and in how much.
fn conclusion(report: &CheckReport, lost: u64) -> String {
    let found = if lost == 0 { "no damage found".to_owned() } else { count(lost, "problem") };
    match (report.read_packs, report.readable_packs) {
        (0, 0) => found,
        (0, _) if lost == 0 => format!(
            "{found} in what was looked at; no pack was read: `--read-data-subset 5%` reads some, `--read-data` all"
        ),
        (0, all) => format!("{found}; none of {} was read", count(all, "pack")),
        (read, all) => format!("{found}; {read} of {} read", count(all, "pack")),
    }
}

fn summary(report: &CheckReport, files: &LostFiles, took: Duration) -> [(&'static str, Value); 11] {
    [
        ("snapshots", json!(report.snapshots)),
        ("disks", json!(report.disks)),
        ("packs", json!(report.packs)),
        ("pack_bytes", json!(report.pack_bytes)),
        ("read_packs", json!(report.read_packs)),
        ("read_bytes", json!(report.read_bytes)),
        ("readable_packs", json!(report.readable_packs)),
        ("content_opened", json!(report.content_opened)),
        (
            "findings",
            json!(report.findings.iter().map(|found| finding_with(found, files)).collect::<Vec<_>>()),
        ),
        ("quarantined", json!(report.quarantined)),
        ("duration_seconds", json!(seconds(took))),
    ]
}

pub(super) fn finding(finding: &Finding) -> Value {
    finding_with(finding, &LostFiles::new())
}

fn finding_with(finding: &Finding, files: &LostFiles) -> Value {
    json!({
        "severity": name(finding.severity),
        "object": finding.object,
        "problem": finding.problem,
        "costs": finding.costs.iter().map(|found| cost(found, files)).collect::<Vec<_>>(),
    })
}

fn cost(cost: &Cost, files: &LostFiles) -> Value {
    let mut described = json!({
        "snapshot": cost.snapshot.intent.to_string(),
        "vm": cost.vm.to_string(),
        "disk": cost.disk.as_ref().map(ToString::to_string),
        "ranges": cost.ranges.iter().map(|range| [range.start, range.end]).collect::<Vec<_>>(),
    });
    if let (Some(fields), Some(found)) = (described.as_object_mut(), files::of_cost(cost, files)) {
        fields.insert("files".to_owned(), json!(found));
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(severity: Severity) -> Finding {
        Finding { severity, object: "zones/default/packs/x".into(), problem: "p".into(), costs: Vec::new() }
    }

    /// Whoever may create objects chooses their keys.
    #[test]
    fn a_finding_is_one_line_whatever_its_key_is() {
        let object = "zones/default/log/x\u{1b}[2K\rnote: nothing\nnote: all is well\u{202e}".to_owned();
        let text = describe(&Finding { object, ..found(Severity::Damaged) });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.trim_end().chars().any(char::is_control) && !text.contains('\u{202e}'), "{text}");
    }

    #[test]
    fn the_exit_code_follows_the_worst_finding() {
        let (damaged, missing, note) = (Severity::Damaged, Severity::Missing, Severity::Note);
        let newer = Severity::Unsupported;
        let healed = Severity::Healed;
        let cases: [(&[Severity], Exit); 9] = [
            (&[note, healed], Exit::NotAsAsked),
            (&[healed, newer], Exit::Unsupported),
            (&[note, newer], Exit::Unsupported),
            (&[newer, missing], Exit::Missing),
            (&[], Exit::Done),
            (&[note], Exit::Done),
            (&[note, missing], Exit::Missing),
            (&[damaged, note], Exit::Damaged),
            (&[missing, damaged], Exit::Damaged),
        ];
        for (severities, expected) in cases {
            let findings: Vec<_> = severities.iter().copied().map(found).collect();
            assert_eq!(exit(&findings), expected);
        }
    }
}
