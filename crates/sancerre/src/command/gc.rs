//! `gc`: what no snapshot needs is deleted.

use std::time::{Duration, Instant};

use clap::Args;
use sancerre_engine::gc::plan::{Plan, Tally};
use sancerre_engine::gc::{self, GcOptions, GcReport};
use sancerre_format::id::SessionId;
use serde_json::{Value, json};

use super::{Context, ended};
use crate::access::Access;
use crate::exit::{Done, Exit, Failure};
use crate::progress::Work;
use crate::repository;
use crate::units::{count, duration, parse_seconds, seconds, size};

/// Delete what no snapshot needs.
///
/// Runs beside backups, restores and other collections; it waits for backups under way, so the best time is after
/// them. It also records which snapshots there are: the rules of `forget` count only recorded ones. Needs a keeper's
/// key file or the administrator's passphrase, and store credentials that may delete.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre gc --dry-run
  sancerre gc --key-file keeper.key --wait 4h")]
pub(crate) struct Gc {
    /// Only say what would be deleted
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// How long to wait for backups under way
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, default_value = "1h")]
    wait: u64,
    /// A backup that the store has heard nothing of for so long is taken for dead, and ended
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, default_value = "12h")]
    silent: u64,
}

pub(crate) async fn run(options: Gc, context: &Context) -> Result<Done, Failure> {
    let started = Instant::now();
    let repository = repository::open(context, Access::Keeper).await?;
    let settings =
        GcOptions { dry_run: options.dry_run, wait_seconds: options.wait, silent_seconds: options.silent };
    let (monitor, watched) = context.watched(Work::Check)?;
    let report = gc::gc(&repository, &settings, &monitor).await?;
    drop(watched);
    let took = started.elapsed();
    tell(context, &report, took);
    let is_complete = report.waits_for.is_empty() && report.left.is_empty();
    let exit = if is_complete { Exit::Done } else { Exit::NotAsAsked };
    Ok(ended(exit, summary(&options, &report, took)))
}

fn tell(context: &Context, report: &GcReport, took: Duration) {
    for session in &report.ended {
        context.output.message(&format!("session {} had stopped and was ended", session.number));
    }
    for session in &report.waits_for {
        context.output.warning(&format!(
            "session {} is under way, so nothing was deleted; run gc after the backups, or with a longer --wait",
            session.number
        ));
    }
    for left in &report.left {
        context.output.warning(&format!("{left}; the next gc tries again"));
    }
    if !report.waits_for.is_empty() {
        return;
    }
    context.output.message(&describe(&report.plan));
    context.output.message(&match report.number {
        None => "nothing was done".to_owned(),
        Some(number) => format!(
            "gc {number}: {} deleted, {} freed, in {}",
            count(report.deleted_packs, "pack"),
            size(report.freed_bytes),
            duration(took)
        ),
    });
}

fn describe(plan: &Plan) -> String {
    let tally = |tally: &Tally| format!("{} ({})", count(tally.packs, "pack"), size(tally.bytes));
    let mut parts =
        vec![format!("{} needed", tally(&plan.live)), format!("{} garbage", tally(&plan.garbage))];
    if plan.leftover.packs > 0 {
        parts.push(format!("{} left over by earlier collections", tally(&plan.leftover)));
    }
    if plan.pinned.packs > 0 {
        parts.push(format!("{} of sessions that are open or do not verify", tally(&plan.pinned)));
    }
    if let Some(until) = plan.locked_until {
        parts.push(format!("{} garbage, but locked until {until} at the latest", tally(&plan.locked)));
    }
    parts.join(", ")
}

fn summary(options: &Gc, report: &GcReport, took: Duration) -> [(&'static str, Value); 14] {
    let plan = &report.plan;
    let tally = |tally: &Tally| json!({ "packs": tally.packs, "bytes": tally.bytes });
    let numbers = |sessions: &[SessionId]| sessions.iter().map(|session| session.number).collect::<Vec<_>>();
    [
        ("dry_run", json!(options.dry_run)),
        ("number", json!(report.number)),
        ("committed", json!(report.committed)),
        ("live", tally(&plan.live)),
        ("garbage", tally(&plan.garbage)),
        ("leftover", tally(&plan.leftover)),
        ("pinned", tally(&plan.pinned)),
        ("locked", tally(&plan.locked)),
        ("locked_until", json!(plan.locked_until.map(|until| until.to_string()))),
        ("deleted_packs", json!(report.deleted_packs)),
        ("freed_bytes", json!(report.freed_bytes)),
        ("left", json!(report.left)),
        ("sessions", json!({ "ended": numbers(&report.ended), "under_way": numbers(&report.waits_for) })),
        ("duration_seconds", json!(seconds(took))),
    ]
}
