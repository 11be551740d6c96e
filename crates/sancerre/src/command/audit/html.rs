//! The report as one page: no scripts, nothing from elsewhere, to be filed and printed.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use sancerre_engine::audit::{AuditOptions, AuditReport, Fate, ZoneAudit};
use sancerre_engine::check::{Finding, ReadData, Severity};
use sancerre_format::id::{SessionId, to_hex};
use sancerre_format::names::Time;

use super::words::{self, Verdict};
use super::{sign, timeline};
use crate::command::check;
use crate::units::{age, duration};

const STYLE: &str = include_str!("report.css");
/// Most findings spelled out: a page that nobody can open is no report. The summary with `--json` has all.
const FINDINGS_SHOWN: usize = 200;

/// The whole page.
pub(super) fn page(report: &AuditReport, options: &AuditOptions, location: &str, took: Duration) -> String {
    let body = [
        header(report, location, took),
        checks(report, options),
        report.zones.iter().map(|zone| machines(zone, report)).collect(),
        findings(report),
        marks(report),
        limits(),
        verification(),
    ]
    .concat();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>Audit of repository {} on {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n\
         </body>\n</html>\n",
        report.trust.repository, report.time
    )
}

/// Whether a file that begins so is a report of ours.
pub(super) fn is_page(start: &[u8]) -> bool {
    let title = b"<title>Audit of repository ";
    start.starts_with(b"<!doctype html>") && start.windows(title.len()).any(|window| window == title)
}

/// Text between tags or in an attribute.
pub(super) fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, letter| {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter => escaped.push(letter),
        }
        escaped
    })
}

fn code(text: impl ToString) -> String {
    format!("<code>{}</code>", escape(&text.to_string()))
}

fn header(report: &AuditReport, location: &str, took: Duration) -> String {
    let verdict = Verdict::of(report);
    let class = if verdict.is_good() { "" } else { " bad" };
    let facts = [
        ("Repository", code(report.trust.repository)),
        ("At", escape(location)),
        ("Trust anchor", code(report.trust.admin.fingerprint())),
        ("Repository made", report.created.to_string()),
        ("Audited", format!("{}, in {}, by {}", report.time, duration(took), escape(crate::TOOL))),
    ];
    let facts: String =
        facts.iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{value}</dd>\n")).collect();
    format!(
        "<p class=\"kicker\">Audit of a backup repository</p>\n<h1>Report of {}</h1>\n\
         <p class=\"verdict{class}\">{}<small>{}</small></p>\n<h2>What was audited</h2>\n<dl>\n{facts}</dl>\n",
        date(&report.time.to_string()),
        escape(&verdict.headline()),
        escape(&totals(report)),
    )
}

/// The day of a time.
fn date(time: &str) -> String {
    time.split('T').next().unwrap_or_default().to_owned()
}

fn totals(report: &AuditReport) -> String {
    let zones: Vec<String> =
        report.zones.iter().map(|zone| format!("zone {}: {}", zone.zone, words::contents(zone))).collect();
    if zones.is_empty() { "no zone".into() } else { zones.join("; ") }
}

/// What was checked, each with its result.
fn checks(report: &AuditReport, options: &AuditOptions) -> String {
    let mut items = String::new();
    let mut item = |name: &str, is_good: Option<bool>, text: &str| {
        let (class, mark, but) = match is_good {
            Some(true) => ("good", "✓", ""),
            Some(false) => ("bad", "✗", " <strong>This does not hold: see the findings.</strong>"),
            None => ("none", "–", ""),
        };
        let text = escape(text);
        let _ = writeln!(items, "<li class=\"{class}\" data-mark=\"{mark}\"><b>{name}.</b> {text}{but}</li>");
    };
    let bad = |parts: &[&str]| {
        let is_bad = |found: &&Finding| found.severity != Severity::Note;
        report.all_findings().filter(is_bad).any(|found| parts.iter().any(|part| found.object.contains(part)))
    };
    let anchor = "The configuration is signed by the key of the trust anchor above, and that key signed the identities, \
                  the zones and the certificates of all who may write.";
    item("Trust", Some(!bad(&["config", "keys/"])), anchor);
    let history = "Each log entry and each outcome is signed by a certified key that may sign it, and made for its \
                   place. The log has no gap; each backup names those of its machine that it builds on by their hashes, \
                   and these are there; what is gone was forgotten by a signed decision.";
    item("History", Some(!bad(&["/log/", "/outcome/"])), history);
    let packs = "Every pack that a snapshot needs is named by a signed list and lies in the store with its right size.";
    item("Packs", Some(!bad(&["/packs/", "/lists/"])), packs);
    for zone in &report.zones {
        let is_read = !matches!(options.read_data, ReadData::No);
        let name = format!("Bytes, zone {}", zone.zone);
        item(&name, is_read.then(|| !bad(&["/packs/"])), &words::reading(&zone.check, options));
        let is_whole = zone.seen_before.map(|_| report.state.is_some());
        item(&format!("Memory, zone {}", zone.zone), is_whole, &words::memory(zone, options));
    }
    let fresh = match options.max_age_seconds {
        None => "No age was asked for.".to_owned(),
        Some(seconds) if options.retired.is_empty() => {
            format!("Each machine has a snapshot that began within the last {}.", age(seconds))
        }
        Some(seconds) => {
            let retired: Vec<&str> = options.retired.iter().map(|vm| vm.as_str()).collect();
            let age = age(seconds);
            format!(
                "Each machine but {} has a snapshot that began within the last {age}.",
                retired.join(", ")
            )
        }
    };
    item("Freshness", options.max_age_seconds.map(|_| report.stale().next().is_none()), &fresh);
    format!("<h2>What was checked</h2>\n<ul class=\"checks\">\n{items}</ul>\n")
}

/// Snapshots that something worse than a note concerns.
fn harmed(report: &AuditReport) -> BTreeSet<SessionId> {
    let bad = report.all_findings().filter(|found| found.severity < Severity::Healed);
    bad.flat_map(|found| found.costs.iter().map(|cost| cost.snapshot)).collect()
}

fn machines(zone: &ZoneAudit, report: &AuditReport) -> String {
    let harmed = harmed(report);
    let started = zone.machines.iter().flat_map(|machine| machine.runs.iter().map(|run| run.started));
    let Some(first) = started.min() else {
        return format!(
            "<h2>Zone {}</h2>\n<p class=\"soft\">No machine was backed up.</p>\n",
            escape(&zone.zone.to_string())
        );
    };
    let span = first.unix_seconds()..=report.time.unix_seconds();
    let mut rows = String::new();
    for machine in &zone.machines {
        let class = if machine.stale.is_some() { " class=\"bad\"" } else { "" };
        let _ = writeln!(
            rows,
            "<div class=\"machine\"><div class=\"name\">{}</div><div>{}<p{class}>{}</p></div></div>",
            escape(machine.vm.as_str()),
            timeline::draw(machine, &span, &harmed),
            escape(&(words::newest(machine, report.time) + &words::drilled(machine, report.time)))
        );
    }
    format!(
        "<h2>Machines, zone {}</h2>\n<div class=\"scale\"><span>{}</span><span>{}</span></div>\n{rows}{}",
        escape(&zone.zone.to_string()),
        edge(first, *span.end()),
        edge(report.time, *span.start()),
        legend(zone, &harmed)
    )
}

/// An end of the time scale: the day, or the hour when both ends are on one day.
fn edge(time: Time, other: i64) -> String {
    let (text, other) = (time.to_string(), Time::from_unix_seconds(other).to_string());
    match date(&text) == date(&other) {
        true => text.split_once('T').map_or(String::new(), |(_, hour)| hour.replace('Z', " UTC")),
        false => date(&text),
    }
}

/// Only the marks that are used.
fn legend(zone: &ZoneAudit, harmed: &BTreeSet<SessionId>) -> String {
    let marks = [
        (Fate::Saved, "snapshot"),
        (Fate::Fuzzy, "snapshot of a disk that changed meanwhile"),
        (Fate::Partial, "snapshot of a disk of which some could not be read"),
        (Fate::Forgotten, "forgotten by decision"),
        (Fate::Aborted, "aborted"),
        (Fate::Open, "running, or died"),
        (Fate::Void, "void"),
    ];
    let runs = || zone.machines.iter().flat_map(|machine| &machine.runs);
    let used = marks.into_iter().filter(|(fate, _)| runs().any(|run| run.fate == *fate));
    let mut shown: Vec<String> =
        used.map(|(fate, name)| one_mark(&timeline::mark(fate, false), name)).collect();
    if runs().any(|run| harmed.contains(&run.session)) {
        shown.push(one_mark(&timeline::mark(Fate::Saved, true), "lost or damaged"));
    }
    format!("<p class=\"key\">{}</p>\n", shown.concat())
}

fn one_mark(mark: &str, name: &str) -> String {
    format!("<span><svg viewBox=\"-7 -7 14 14\" aria-hidden=\"true\">{mark}</svg>{name}</span>")
}

fn findings(report: &AuditReport) -> String {
    let all: Vec<&Finding> = report.all_findings().collect();
    let mut text = "<h2>Findings</h2>\n".to_owned();
    if all.is_empty() {
        return text + "<p>None.</p>\n";
    }
    for finding in all.iter().take(FINDINGS_SHOWN) {
        let class = if finding.severity == Severity::Note { " note" } else { "" };
        let costs: Vec<String> =
            finding.costs.iter().map(|cost| escape(&check::describe_cost(cost))).collect();
        let verb = escape(check::verb(finding.severity));
        let costs = match costs.is_empty() {
            true => String::new(),
            false => format!("<p class=\"costs\">{verb}: {}</p>", costs.join("; ")),
        };
        let _ = writeln!(
            text,
            "<div class=\"finding{class}\"><b>{}</b>{}<p>{}</p>{costs}</div>",
            check::name(finding.severity),
            code(&finding.object),
            escape(&finding.problem)
        );
    }
    if let Some(more) = all.len().checked_sub(FINDINGS_SHOWN).filter(|more| *more > 0) {
        let _ = writeln!(text, "<p>And {more} more, which the summary with --json has.</p>");
    }
    text
}

/// What to write down, or to compare with what was written down.
fn marks(report: &AuditReport) -> String {
    let seed = |zone: &ZoneAudit| {
        let sampled = zone.check.sampled?;
        Some(format!("<dt>Seed of its sample</dt><dd>{}</dd>\n", code(to_hex(&sampled.sample.seed))))
    };
    let lines = report.zones.iter().map(|zone| {
        format!(
            "<dt>Zone {}</dt><dd>up to number {}<br>{}</dd>\n{}",
            escape(&zone.zone.to_string()),
            zone.mark.highest,
            code(zone.mark.records),
            seed(zone).unwrap_or_default()
        )
    });
    format!("<h2>Log mark</h2>\n<dl>\n{}</dl>\n", lines.collect::<String>())
}

fn limits() -> String {
    "<h2>What this does not say</h2>\n<p>Content was not opened, and no secret was used. That a snapshot holds what its \
     machine held is the word of the host that signed it. A pack that was not read may have changed without changing \
     its size. Times are those that the writers signed. That nothing newer existed only a memory outside of the store \
     can tell.</p>\n"
        .to_owned()
}

fn verification() -> String {
    format!(
        "<h2>Checking this page</h2>\n<p>If it was signed, the signature lies beside it with the ending <code>.sig</code>. \
         With the auditor’s public key in <code>allowed_signers</code>:</p>\n\
         <pre><code>ssh-keygen -Y verify -f allowed_signers -I AUDITOR -n {} -s REPORT.html.sig &lt; REPORT.html</code></pre>\n",
        sign::NAMESPACE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_its_place() {
        assert_eq!(escape("<b x='1' y=\"2\">&"), "&lt;b x=&#39;1&#39; y=&quot;2&quot;&gt;&amp;");
        assert_eq!(code("</code>"), "<code>&lt;/code&gt;</code>");
    }

    #[test]
    fn the_style_asks_for_nothing_from_elsewhere() {
        for word in ["url(", "@import", "http", "</"] {
            assert!(!STYLE.contains(word), "{word}");
        }
    }
}
