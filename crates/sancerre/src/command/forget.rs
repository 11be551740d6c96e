//! `forget`: what may go, with the reason for each snapshot.

use std::collections::BTreeSet;

use clap::Args;
use sancerre_engine::forget::plan::{Decision, ForgetReason, Rules, Verdict};
use sancerre_engine::forget::{self, ForgetOptions, ForgetReport, Selection};
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::select::Selector;
use sancerre_engine::suspicion;
use sancerre_format::id::SessionId;
use sancerre_format::names::{self, Tag, Title};
use serde_json::{Value, json};

use super::{Context, MetricsFile, ended};
use crate::access::Access;
use crate::arguments::{parse_tag, parse_title};
use crate::clocks;
use crate::exit::{Done, Exit, Failure};
use crate::output::{Align, table};
use crate::repository;
use crate::units::{count, parse_seconds, parse_share, typed_share};

const COLUMNS: [(&str, Align); 6] = [
    ("id", Align::Left),
    ("time (UTC)", Align::Left),
    ("vm", Align::Left),
    ("writer", Align::Left),
    ("", Align::Left),
    ("why", Align::Left),
];

/// Say which snapshots may go; `gc` then removes what only they need.
///
/// Writes one signed entry and removes nothing: until gc has run, `undelete` takes it back. A name that counts back,
/// such as web01:latest~2, means another snapshot once one that is newer was forgotten; it is then asked about, and
/// without a terminal refused unless --yes is given: name snapshots by their ids, which --dry-run shows. Rules are counted for each
/// machine and writer, in UTC, and the first snapshot of a period stands for it. A snapshot counts only once a gc has
/// recorded it, and only if its writer, the store and the records agree on its time; others are kept, and the table
/// says why. A backup whose end does not verify, which stops gc, goes by its id alone and never by a rule. Needs a
/// keeper's key file or the administrator's passphrase.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
  sancerre forget --vm test01 --keep-last 2 && sancerre gc
  sancerre forget 3f9a12cc --reason 'wrong disk'")]
pub(crate) struct Forget {
    /// These, instead of rules
    #[arg(value_name = "SNAPSHOT", value_parser = Selector::parse, conflicts_with_all = ["vm", "tags"])]
    snapshots: Vec<Selector>,
    /// Keep all that was new at each of the last N runs of gc that found new ones, however many that are
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    keep_last: u32,
    /// Keep one for each of the last N hours that have one
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    keep_hourly: u32,
    /// Keep one for each of the last N days that have one
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    keep_daily: u32,
    /// Keep one for each of the last N weeks that have one
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    keep_weekly: u32,
    /// Keep one for each of the last N months that have one
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    keep_monthly: u32,
    /// Keep one for each of the last N years that have one
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    keep_yearly: u32,
    /// Keep what is not older than the newest by more than this, such as 36h, 14d or 8w
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    keep_within: Option<u64>,
    /// Only this machine's; may be given several times
    #[arg(long, value_name = "NAME", value_parser = parse_title)]
    vm: Vec<Title>,
    /// Only those with this tag; given several times, with all of them
    #[arg(long = "tag", value_name = "TAG", value_parser = parse_tag)]
    tags: Vec<Tag>,
    /// Most of a machine's snapshots that may go in one run
    #[arg(long, value_name = "N%", value_parser = parse_share, default_value = typed_share(forget::MAX_DROP_PERCENT))]
    max_drop: u8,
    /// Named snapshots may be the last of their machine
    #[arg(long, requires = "snapshots")]
    even_last: bool,
    /// Do not ask whether names that count back mean the right snapshots
    #[arg(short = 'y', long, requires = "snapshots")]
    yes: bool,
    /// Why, for the log
    #[arg(long, value_name = "TEXT", default_value = "retention")]
    reason: String,
    /// Only say what would happen
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) metrics: MetricsFile,
}

impl Forget {
    fn rules(&self) -> Rules {
        Rules {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within_seconds: self.keep_within,
        }
    }
}

pub(crate) async fn run(options: Forget, context: &Context) -> Result<Done, Failure> {
    let rules = options.rules();
    if !options.snapshots.is_empty() && rules != Rules::default() {
        return Err(Failure::usage("give rules or name snapshots, not both"));
    }
    let repository = repository::open(context, Access::Keeper).await?;
    let mut log = repository::load_log(context, &repository).await?;
    if let Some(stays) = suspicion::what_stays(&log) {
        context.output.warning(&stays);
    }
    let selection = if options.snapshots.is_empty() {
        Selection::Rules { rules, vms: options.vm, tags: options.tags }
    } else {
        Selection::Named {
            snapshots: named(&repository, &log, &options, context)?,
            even_last: options.even_last,
        }
    };
    let began = context.host.clock.now();
    let settings = ForgetOptions {
        selection,
        reason: options.reason,
        max_drop_percent: options.max_drop,
        dry_run: options.dry_run,
    };
    let report = forget::forget(&repository, &mut log, &settings).await?;
    if let Some(entry) = report.entry {
        clocks::compare(context, &repository, &[names::log(&repository.keys.zone, entry)], began).await;
    }
    let by_clocks = report.decisions.iter().filter(|decision| decision.is_kept_by_clocks()).count();
    warn_of_clocks(context, by_clocks);
    tell(context, &report, options.dry_run)?;
    let dropped = dropped(&report);
    let exit = if by_clocks > 0 { Exit::NotAsAsked } else { Exit::Done };
    Ok(ended(
        exit,
        [
            ("dry_run", json!(options.dry_run)),
            ("entry", json!(report.entry)),
            ("approvals_needed", json!(report.approvals_needed)),
            ("kept", json!(report.decisions.len().saturating_sub(dropped))),
            ("forgotten", json!(dropped)),
            ("kept_by_clocks", json!(by_clocks)),
            ("snapshots", json!(report.decisions.iter().map(describe).collect::<Vec<_>>())),
        ],
    ))
}

/// The snapshots that were named. Whoever runs the same command twice must not lose two of them.
fn named(
    repository: &Repository,
    log: &Log,
    options: &Forget,
    context: &Context,
) -> Result<BTreeSet<SessionId>, Failure> {
    let mut snapshots = BTreeSet::new();
    for selector in &options.snapshots {
        let found = selector.resolve_damaged(repository, log)?;
        snapshots.insert(found);
        let Some(gone) = selector.has_moved(log, &found).filter(|_| !options.yes && !options.dry_run) else {
            continue;
        };
        let (found, gone) = (found.short(), gone.short());
        let moved = format!(
            "snapshot {gone}, which is newer, was forgotten already, so the name that was given now means {found}"
        );
        if !context.agrees(&format!("{moved}. Forget {found}?"))? {
            return Err(Failure::usage(format!(
                "{moved}; nothing was forgotten. If that one is meant, name it: `sancerre forget {found}`, or say --yes"
            )));
        }
    }
    Ok(snapshots)
}

/// Rules that never apply fill the disk, and nobody looks at a table that cron throws away.
fn warn_of_clocks(context: &Context, number: usize) {
    if number > 0 {
        context.output.warning(&format!(
            "{} kept because the times that their writer, the store and gc noted differ, so no rule counts them: the clock \
             of the store or of a host is or was wrong, or the repository was copied. Set the clocks (NTP); what is there \
             can be forgotten by its id",
            match number {
                1 => "1 snapshot is".to_owned(),
                number => format!("{number} snapshots are"),
            }
        ));
    }
}

fn dropped(report: &ForgetReport) -> usize {
    let goes = |decision: &&Decision| matches!(decision.verdict, Verdict::Drop(_));
    report.decisions.iter().filter(goes).count()
}

fn tell(context: &Context, report: &ForgetReport, dry_run: bool) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = report.decisions.iter().map(row).collect();
    // Cron mails whatever is printed, and each night that would be the same table.
    if !context.global.quiet || dry_run {
        context.output.result(&table(&COLUMNS, &rows))?;
    }
    for decision in report.decisions.iter().filter(|one| one.verdict == Verdict::Drop(ForgetReason::Damaged))
    {
        context.output.warning(&damaged(decision));
    }
    let dropped = dropped(report);
    let number = count(dropped as u64, "snapshot");
    let entry = report.entry.unwrap_or_default();
    context.output.message(&match (dropped, dry_run) {
        (0, _) => "nothing to forget".into(),
        (_, true) => format!("{number} would be forgotten; nothing was done"),
        (_, false) if report.approvals_needed > 0 => format!(
            "{number} to be forgotten, as log entry {entry}, once {} approved it: `sancerre approve {entry}` with another \
             keeper's key; `sancerre undelete` takes it back",
            count(report.approvals_needed.into(), "other keeper"),
        ),
        (_, false) => format!(
            "{number} forgotten, as log entry {entry}; `sancerre undelete` takes it back until gc has run"
        ),
    });
    Ok(())
}

/// What it means to give up something that nobody can read.
fn damaged(decision: &Decision) -> String {
    format!(
        "what ended the backup {} of {} does not verify: it may have been a snapshot, or never one. Once it is forgotten, gc \
         deletes what only it needs, and bringing the right bytes back helps no more; `sancerre undelete` keeps it until gc \
         has run",
        decision.session.short(),
        decision.vm
    )
}

fn action(decision: &Decision) -> &'static str {
    match decision.verdict {
        Verdict::Keep(_) => "keep",
        Verdict::Drop(_) => "forget",
    }
}

fn row(decision: &Decision) -> Vec<String> {
    vec![
        decision.session.short(),
        decision.time.to_string().replace('T', " ").replace('Z', ""),
        decision.vm.to_string(),
        decision.writer.to_string(),
        action(decision).into(),
        decision.verdict.to_string(),
    ]
}

fn describe(decision: &Decision) -> Value {
    let reasons: Vec<String> = match &decision.verdict {
        Verdict::Keep(reasons) => reasons.iter().map(ToString::to_string).collect(),
        Verdict::Drop(_) => vec![decision.verdict.to_string()],
    };
    json!({
        "id": decision.session.intent.to_string(),
        "session": decision.session.number,
        "vm": decision.vm.to_string(),
        "writer": decision.writer.to_string(),
        "time": decision.time.to_string(),
        "action": action(decision),
        "reasons": reasons,
    })
}
