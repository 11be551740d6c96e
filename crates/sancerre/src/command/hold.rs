//! `hold`, `release` and `undelete`: one signed entry about named snapshots, or about all of a machine.

use std::collections::BTreeSet;

use clap::Args;
use sancerre_engine::forget::{self, Released};
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::select::{Selector, names_of_machines, public_names};
use sancerre_format::id::SessionId;
use sancerre_format::names::Title;
use serde_json::json;

use super::{Context, done};
use crate::access::Access;
use crate::arguments::parse_title;
use crate::exit::{Done, Exit, Failure};
use crate::repository;
use crate::units::count;

/// Most forgotten snapshots that a message lists.
const SHOWN: usize = 10;

/// Needs a keeper's key file or the administrator's passphrase.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Which; forgotten ones by the beginning of their id
    #[arg(value_name = "SNAPSHOT", value_parser = Selector::parse, required = true)]
    snapshots: Vec<Selector>,
    /// Why, for the log
    #[arg(long, value_name = "TEXT", default_value = "asked for")]
    reason: String,
}

/// Needs a keeper's key file or the administrator's passphrase.
#[derive(Debug, Args)]
pub(crate) struct Held {
    /// Which; forgotten ones by the beginning of their id
    #[arg(value_name = "SNAPSHOT", value_parser = Selector::parse, required_unless_present = "vm")]
    snapshots: Vec<Selector>,
    /// All snapshots under this machine's public name, those to come too, and under the other names that it had by its id
    /// (--machine); not under one that it gets later. May be given several times
    #[arg(long, value_name = "NAME", value_parser = parse_title, conflicts_with = "snapshots")]
    vm: Vec<Title>,
    /// Why, for the log
    #[arg(long, value_name = "TEXT", default_value = "asked for")]
    reason: String,
}

pub(crate) async fn undelete(options: Named, context: &Context) -> Result<Done, Failure> {
    let (repository, log) = open(context).await?;
    let named = |failure: Failure| match failure.exit {
        Exit::Usage => Failure::usage(format!("{}. {}", failure.message, to_be_had_back(&log))),
        _ => failure,
    };
    let snapshots = resolved(&repository, &log, &options.snapshots).map_err(named)?;
    let undeleted = forget::undelete(&repository, &snapshots, &options.reason).await;
    let entry = undeleted.map_err(|error| named(error.into()))?;
    Ok(of_snapshots(context, entry, &snapshots, "taken back"))
}

/// What is forgotten and can be taken back, the newest first, by the ids that do that.
fn to_be_had_back(log: &Log) -> String {
    let retention = log.retention();
    let mut remaining = log.remaining_below(Log::END);
    remaining.retain(|snapshot| !retention.is_live(&snapshot.session()));
    let shown: Vec<String> = remaining
        .iter()
        .rev()
        .take(SHOWN)
        .map(|snapshot| {
            let fields = &snapshot.manifest.fields;
            format!("{} ({}, {})", snapshot.session().short(), fields.vm, fields.finished)
        })
        .collect();
    let more = match remaining.len().saturating_sub(shown.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    match shown.is_empty() {
        true => "Nothing is forgotten that could be taken back".to_owned(),
        false => format!("Forgotten, and taken back by id: {}{more}", shown.join(", ")),
    }
}

pub(crate) async fn hold(options: Held, context: &Context) -> Result<Done, Failure> {
    let (repository, log) = open(context).await?;
    if options.vm.is_empty() {
        let snapshots = resolved(&repository, &log, &options.snapshots)?;
        let entry = forget::hold(&repository, &snapshots, &options.reason).await?;
        return Ok(of_snapshots(context, entry, &snapshots, "held"));
    }
    let vms = machines(&repository, &log, &options.vm);
    let entry = forget::hold_vms(&repository, &vms, &options.reason).await?;
    Ok(of_machines(context, entry, &vms, "held, with all snapshots to come"))
}

pub(crate) async fn release(options: Held, context: &Context) -> Result<Done, Failure> {
    let (repository, log) = open(context).await?;
    if options.vm.is_empty() {
        let snapshots = resolved(&repository, &log, &options.snapshots)?;
        let released = forget::release(&repository, &snapshots, &options.reason).await?;
        let done = of_snapshots(context, released.entry, &snapshots, what(&released));
        return Ok(waits(context, &released, done));
    }
    let vms = held(&log, machines(&repository, &log, &options.vm));
    let released = forget::release_vms(&repository, &vms, &options.reason).await?;
    let done = of_machines(context, released.entry, &vms, what(&released));
    Ok(waits(context, &released, done))
}

fn what(released: &Released) -> &'static str {
    if released.approvals_needed > 0 { "to be released" } else { "released" }
}

fn waits(context: &Context, released: &Released, mut done: Done) -> Done {
    let Released { entry, approvals_needed, .. } = released;
    if *approvals_needed > 0 {
        context.output.message(&format!(
            "it counts once {} approved it: `sancerre approve {entry}` with another keeper's key; `sancerre hold` takes it back",
            count((*approvals_needed).into(), "other keeper"),
        ));
    }
    done.summary.insert("approvals_needed".into(), json!(approvals_needed));
    done
}

async fn open(context: &Context) -> Result<(Repository, Log), Failure> {
    let repository = repository::open(context, Access::Keeper).await?;
    let log = repository::load_log(context, &repository).await?;
    Ok((repository, log))
}

fn resolved(
    repository: &Repository,
    log: &Log,
    selectors: &[Selector],
) -> Result<BTreeSet<SessionId>, Failure> {
    Ok(selectors.iter().map(|selector| selector.resolve_any(repository, log)).collect::<Result<_, _>>()?)
}

/// Records are public, so they call machines by their public names. What is not known the engine refuses.
fn machines(repository: &Repository, log: &Log, names: &[Title]) -> BTreeSet<Title> {
    let public = names.iter().map(|name| match public_names(repository, log, name) {
        known if known.is_empty() => [name.clone()].into(),
        known => known,
    });
    names_of_machines(log, public.flatten().collect())
}

/// Those that are held; all where none is, which the engine refuses. A machine may have got a name since it was held.
fn held(log: &Log, vms: BTreeSet<Title>) -> BTreeSet<Title> {
    let retention = log.retention();
    let held: BTreeSet<Title> = vms.iter().filter(|vm| retention.vm_held_by(vm).is_some()).cloned().collect();
    if held.is_empty() { vms } else { held }
}

fn of_snapshots(context: &Context, entry: u64, snapshots: &BTreeSet<SessionId>, what: &str) -> Done {
    let number = count(snapshots.len() as u64, "snapshot");
    context.output.message(&format!("{number} {what}, as log entry {entry}"));
    let ids: Vec<String> = snapshots.iter().map(|session| session.intent.to_string()).collect();
    done([("entry", json!(entry)), ("snapshots", json!(ids)), ("vms", json!([]))])
}

fn of_machines(context: &Context, entry: u64, vms: &BTreeSet<Title>, what: &str) -> Done {
    let names: Vec<&str> = vms.iter().map(Title::as_str).collect();
    context.output.message(&format!("{} {what}, as log entry {entry}", names.join(", ")));
    done([("entry", json!(entry)), ("snapshots", json!([])), ("vms", json!(names))])
}
