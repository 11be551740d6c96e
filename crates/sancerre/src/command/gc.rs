//! `gc`: what no snapshot needs is deleted, and packs that are mostly garbage are rewritten without it.

use std::time::{Duration, Instant};

use clap::Args;
use sancerre_engine::gc::plan::{Plan, Tally};
use sancerre_engine::gc::{self, GcOptions, GcReport};
use sancerre_format::id::SessionId;
use sancerre_format::names;
use serde_json::{Value, json};

use super::{Context, MetricsFile, approve, done, ended};
use crate::access::{self, Access};
use crate::clocks;
use crate::exit::{Done, Exit, Failure};
use crate::interrupt::until_signal;
use crate::progress::Work;
use crate::repository;
use crate::suspicion;
use crate::units::{
    age, count, duration, parse_seconds, parse_share, parse_size, seconds, size, typed_seconds, typed_share,
    typed_size,
};

/// Delete what no snapshot needs.
///
/// Packs of which little is needed are rewritten without the rest, sealed as they are: that needs no key that opens
/// content. Those with the most garbage come first, until little enough is left or the budget is used up; a pack with
/// less than a fifth of garbage is left alone. What counts are the bytes of whole frames, the units in which data is
/// sealed: one of which a snapshot needs a part is needed. Directories of packs are read for that. What is being rewritten is not reused by backups that start meanwhile.
///
/// Runs beside backups, restores and other collections; it waits for backups under way, so the best time is after
/// them. It also records which snapshots there are: the rules of `forget` count only recorded ones. Needs a keeper's
/// key file or the administrator's passphrase, and store credentials that may delete.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre gc --dry-run
  sancerre gc --key-file keeper.key --wait 4h
  sancerre gc --key-file keeper.key --max-repack 0
  sancerre gc --abandon 4711")]
pub(crate) struct Gc {
    /// Only say what would be deleted
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// How long to wait for backups under way
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, default_value = typed_seconds(GcOptions::default().wait_seconds))]
    wait: u64,
    /// A backup that the store has heard nothing of for so long is taken for dead, and ended
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, default_value = typed_seconds(GcOptions::default().silent_seconds))]
    silent: u64,
    /// Keep so many bytes at most of packs that are rewritten: they are read and written again
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = typed_size(GcOptions::default().max_repack_bytes))]
    max_repack: u64,
    /// How much garbage may stay in the packs that snapshots need, all of them together
    #[arg(long, value_name = "N%", value_parser = parse_share, default_value = typed_share(GcOptions::default().max_unused_percent))]
    max_unused: u8,
    /// Most of a machine's snapshots that may have gone since the last gc, by `forget` or by `key revoke`
    #[arg(long, value_name = "N%", value_parser = parse_share, default_value = typed_share(GcOptions::default().max_drop_percent))]
    max_drop: u8,
    /// Only end this gc, whose outcome is damaged or wrong, with nothing; needs the administrator's passphrase
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    abandon: Option<u64>,
    /// Why it is abandoned, for the log
    #[arg(long, value_name = "TEXT", requires = "abandon", default_value = "by the administrator")]
    reason: String,
    #[command(flatten)]
    pub(crate) metrics: MetricsFile,
}

impl Gc {
    /// Whether it is more than a look, or the end of another one.
    pub(crate) fn collects(&self) -> bool {
        !self.dry_run && self.abandon.is_none()
    }
}

pub(crate) async fn run(options: Gc, context: &Context) -> Result<Done, Failure> {
    if let Some(number) = options.abandon {
        return abandon(number, &options.reason, context).await;
    }
    let started = Instant::now();
    let repository = repository::open(context, Access::Keeper).await?;
    let settings = GcOptions {
        dry_run: options.dry_run,
        wait_seconds: options.wait,
        silent_seconds: options.silent,
        max_repack_bytes: options.max_repack,
        max_unused_percent: options.max_unused,
        max_drop_percent: options.max_drop,
        checkpoint_after_entries: GcOptions::default().checkpoint_after_entries,
    };
    let (monitor, watched) = context.watched(Work::Collect)?;
    let began = context.host.clock.now();
    let report = gc::gc(&repository, &settings, &monitor).await?;
    drop(watched);
    let took = started.elapsed();
    if let Some(number) = report.number {
        clocks::compare(context, &repository, &[names::log(&repository.keys.zone, number)], began).await;
    }
    tell(&options, context, &report, took);
    let is_complete = report.waits_for.is_empty() && report.left.is_empty();
    let exit = if is_complete { Exit::Done } else { Exit::NotAsAsked };
    Ok(ended(exit, summary(&options, &report, took)))
}

async fn abandon(number: u64, reason: &str, context: &Context) -> Result<Done, Failure> {
    let (repository, _) = access::repository_as_admin(context).await?;
    let entry = until_signal(async { Ok(gc::abandon(&repository, number, reason).await?) }).await?;
    context.output.message(&format!("gc {number} ended with nothing (log entry {entry})"));
    Ok(done([("abandoned", json!(number)), ("entry", json!(entry))]))
}

fn tell(options: &Gc, context: &Context, report: &GcReport, took: Duration) {
    suspicion::tell_locks(context, report.clean_locks.as_ref());
    for session in &report.ended {
        context.output.message(&format!("session {} had stopped and was ended", session.number));
    }
    for session in &report.waits_for {
        context.output.warning(&format!(
            "session {} is under way, so nothing was deleted; run gc after the backups, or with a longer --wait. If its host \
             is gone for good, --silent 1h takes it for dead once the store has heard nothing of it for an hour; it is \
             {} now",
            session.number,
            age(options.silent)
        ));
    }
    for pending in &report.pending {
        context
            .output
            .message(&format!("{pending}: what it is about stays as it is until then (`sancerre approve`)"));
    }
    for left in report.left.iter().chain(&report.leftovers.left) {
        context.output.warning(&format!("{left}; the next gc tries again"));
    }
    if report.leftovers.files > 0 {
        context.output.message(&format!(
            "{} of writes that died removed, {}",
            count(report.leftovers.files, "file"),
            size(report.leftovers.bytes)
        ));
    }
    if !report.waits_for.is_empty() {
        return;
    }
    context.output.message(&describe(&report.plan));
    context.output.message(&match report.number {
        None => "nothing was done".to_owned(),
        Some(number) => told(number, report, took),
    });
}

fn told(number: u64, report: &GcReport, took: Duration) -> String {
    let mut parts = vec![format!("gc {number}: {} deleted", count(report.deleted_packs, "pack"))];
    if report.written_packs > 0 {
        parts.push(format!(
            "{} written ({})",
            count(report.written_packs, "pack"),
            size(report.written_bytes)
        ));
    }
    let gained = report.freed_bytes.saturating_sub(report.written_bytes);
    parts.push(format!("{} freed, in {}", size(gained), duration(took)));
    parts.join(", ")
}

fn describe(plan: &Plan) -> String {
    let tally = |tally: &Tally| format!("{} ({})", count(tally.packs, "pack"), size(tally.bytes));
    let mut parts =
        vec![format!("{} needed", tally(&plan.live)), format!("{} garbage", tally(&plan.garbage))];
    if plan.rewritten.packs > 0 {
        parts.push(format!(
            "{} to be rewritten, of which {} are kept",
            tally(&plan.rewritten),
            size(plan.moved_bytes)
        ));
    }
    parts.push(format!("{} of garbage left in packs that are needed", size(plan.unused_bytes)));
    if plan.leftover.packs > 0 {
        parts.push(format!("{} left over by earlier collections", tally(&plan.leftover)));
    }
    if plan.pinned.packs > 0 {
        parts.push(format!(
            "{} of sessions that are open or do not verify, or kept by notes",
            tally(&plan.pinned)
        ));
    }
    if plan.healing.packs > 0 {
        parts.push(format!("{} kept as other copies of what was lost", tally(&plan.healing)));
    }
    if let Some(until) = plan.locked_until {
        parts.push(format!("{} garbage, but locked until {until} at the latest", tally(&plan.locked)));
    }
    parts.join(", ")
}

fn summary(options: &Gc, report: &GcReport, took: Duration) -> [(&'static str, Value); 24] {
    let plan = &report.plan;
    let tally = |tally: &Tally| json!({ "packs": tally.packs, "bytes": tally.bytes });
    let numbers = |sessions: &[SessionId]| sessions.iter().map(|session| session.number).collect::<Vec<_>>();
    [
        ("dry_run", json!(options.dry_run)),
        ("number", json!(report.number)),
        ("committed", json!(report.committed)),
        ("live", tally(&plan.live)),
        ("garbage", tally(&plan.garbage)),
        ("rewritten", tally(&plan.rewritten)),
        ("moved_bytes", json!(plan.moved_bytes)),
        ("unused_bytes", json!(plan.unused_bytes)),
        ("leftover", tally(&plan.leftover)),
        ("pinned", tally(&plan.pinned)),
        ("healing", tally(&plan.healing)),
        ("locked", tally(&plan.locked)),
        ("locked_until", json!(plan.locked_until.map(|until| until.to_string()))),
        ("deleted_packs", json!(report.deleted_packs)),
        ("freed_bytes", json!(report.freed_bytes)),
        ("written_packs", json!(report.written_packs)),
        ("written_bytes", json!(report.written_bytes)),
        ("written_frame_bytes", json!(report.moved_bytes)),
        ("left", json!(report.left)),
        ("clean_locks", suspicion::locks(report.clean_locks.as_ref())),
        ("leftovers", json!({ "files": report.leftovers.files, "bytes": report.leftovers.bytes })),
        ("pending", json!(report.pending.iter().map(approve::describe).collect::<Vec<_>>())),
        ("sessions", json!({ "ended": numbers(&report.ended), "under_way": numbers(&report.waits_for) })),
        ("duration_seconds", json!(seconds(took))),
    ]
}
