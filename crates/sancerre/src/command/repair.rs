//! `repair`: what is lost and can be told again is written anew.

use std::time::Instant;

use clap::Args;
use sancerre_engine::repair::{RepairOptions, RepairReport, repair};
use serde_json::{Value, json};

use super::{Context, ended};
use crate::access::Access;
use crate::exit::{Done, Exit, Failure};
use crate::progress::Work;
use crate::repository;
use crate::units::{count, duration, seconds};

/// Write anew what small lost records said, and give up by name what cannot be had back.
///
/// Without --yes it only says what it would do. Pack lists that are lost are made anew from the packs, which are read whole
/// and verified; numbers of the log whose entry is lost are filled where the outcome of their session stands for it; a
/// revocation that is lost is put back from its copy; the index is made anew if a part of it does not verify. Nothing is
/// deleted or changed. Restores need none of that: they find what they need by themselves, as far as it is there.
///
/// What nobody can make anew is named with its key. A log entry that is gone for good stops backups and gc, for it may have
/// announced anything, and so does an outcome that cannot be read: --give-up ends that. Bring things back from a copy of
/// the repository instead, if there is one. Needs the administrator's passphrase.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre repair
  sancerre repair --yes
  sancerre repair --give-up zones/default/log/000000000000002a --yes --reason 'bad sector, no copy'")]
pub(crate) struct Repair {
    /// Do it; without this nothing is written
    #[arg(long)]
    yes: bool,
    /// A log entry or an outcome that is gone for good, by its key; may be given several times
    #[arg(long, value_name = "KEY")]
    give_up: Vec<String>,
    /// Why, for the log
    #[arg(long, value_name = "TEXT", default_value = "lost, and no copy was found")]
    reason: String,
}

pub(crate) async fn run(options: Repair, context: &Context) -> Result<Done, Failure> {
    let started = Instant::now();
    let repository = repository::open(context, Access::Keeper).await?;
    let settings = RepairOptions { dry_run: !options.yes, give_up: options.give_up, reason: options.reason };
    let (monitor, watched) = context.watched(Work::Check)?;
    let report = repair(&repository, &settings, &monitor).await?;
    drop(watched);
    tell(context, &report, settings.dry_run);
    let took = started.elapsed();
    context.output.message(&match (report.done.len(), settings.dry_run) {
        (0, _) => "nothing that could be made anew".to_owned(),
        (did, true) => {
            format!("{} would be written; nothing was done (--yes does it)", count(did as u64, "thing"))
        }
        (did, false) => format!("{} written, in {}", count(did as u64, "thing"), duration(took)),
    });
    let exit = if report.left.is_empty() { Exit::Done } else { Exit::NotAsAsked };
    let left: Vec<Value> =
        report.left.iter().map(|(object, advice)| json!({ "object": object, "advice": advice })).collect();
    Ok(ended(
        exit,
        [
            ("dry_run", json!(settings.dry_run)),
            ("done", json!(report.done)),
            ("left", json!(left)),
            ("entry", json!(report.note)),
            ("duration_seconds", json!(seconds(took))),
        ],
    ))
}

fn tell(context: &Context, report: &RepairReport, dry_run: bool) {
    for done in &report.done {
        let would = if dry_run { "would write " } else { "" };
        context.output.message(&format!("{would}{done}"));
    }
    for (object, advice) in &report.left {
        context.output.warning(&format!("{object}: {advice}"));
    }
}
