//! `doctor`: what the store does, and what that means.

use clap::Args;
use sancerre_engine::store::probe::{self, Finding, Report, Verdict};
use serde_json::{Value, json};

use super::{Context, ended};
use crate::exit::{Done, Exit, Failure};
use crate::interrupt::until_signal;
use crate::output::{Align, table};
use crate::repository;

/// Try out the store: what it does, what it does not, and what that means.
///
/// Writes a few small objects under probe/, races for them, and tries to overwrite and to delete them, with the
/// credentials at hand. Needs no key. Run it with the credentials of each host: a writer's should not be able to delete.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code 1: no repository should be there. 3: something is not as the store says or as it should be.

Examples:
  sancerre doctor -r s3://bucket/backup
  sancerre doctor --json | jq '.findings[] | select(.verdict != \"yes\")'")]
pub(crate) struct Doctor {}

pub(crate) async fn run(_: Doctor, context: &Context) -> Result<Done, Failure> {
    let store = repository::store(context, false)?;
    let report = until_signal(async { Ok(probe::probe(&store, &context.host).await?) }).await?;
    context.output.result(&text(&report))?;
    let exit = if report.unsafe_findings().next().is_some() {
        Exit::Failed
    } else if report.doubtful_findings().next().is_some() {
        Exit::NotAsAsked
    } else {
        Exit::Done
    };
    Ok(ended(exit, [("location", json!(store.location())), ("findings", findings(&report))]))
}

/// The table, and a line for each thing that does not hold.
pub(crate) fn text(report: &Report) -> String {
    let row = |finding: &Finding| {
        vec![finding.check.title().to_owned(), finding.verdict.word().to_owned(), finding.seen.clone()]
    };
    let rows: Vec<Vec<String>> = report.findings.iter().map(row).collect();
    let mut text = table(&[("store", Align::Left), ("", Align::Left), ("seen", Align::Left)], &rows);
    let open = report.findings.iter().filter(|finding| finding.verdict != Verdict::Holds);
    for finding in open {
        let what = if finding.verdict == Verdict::Unknown { "if not " } else { "not " };
        text.push_str(&format!("\n{what}({}): {}", finding.check.title(), finding.check.consequence()));
    }
    text.push('\n');
    text
}

/// The findings for JSON.
pub(crate) fn findings(report: &Report) -> Value {
    let of = |finding: &Finding| {
        let means = (finding.verdict != Verdict::Holds).then(|| finding.check.consequence());
        json!({
            "check": finding.check.name(),
            "verdict": finding.verdict.word().to_lowercase(),
            "seen": finding.seen,
            "means": means,
        })
    };
    report.findings.iter().map(of).collect()
}
