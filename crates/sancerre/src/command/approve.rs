//! `approve`: the consent of another keeper, and how many must consent.

use std::collections::BTreeSet;

use clap::Args;
use sancerre_engine::forget;
use sancerre_engine::repository::log::{ApprovalRequest, Pending};
use sancerre_format::id::SessionId;
use sancerre_format::limits::APPROVALS_MAX;
use sancerre_format::names::Title;
use serde_json::{Value, json};

use super::{Context, done};
use crate::access::Access;
use crate::exit::{Done, Failure};
use crate::repository;
use crate::units::count;

/// Consent to what another keeper wants to forget, to release or to clear; without numbers, list what waits for that.
///
/// In a repository that asks for it (`init --approvals-needed`, `key approvals`) a forget, a release or a clear counts only
/// when so many other keepers approved it. Needs a keeper's key file; whoever signed it cannot approve it, nor can the administrator.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre approve
  sancerre approve 412 --key-file vault2.key --reason 'checked with ward 3'")]
pub(crate) struct Approve {
    /// Numbers of log entries
    #[arg(value_name = "NUMBER")]
    numbers: Vec<u64>,
    /// Why, for the log
    #[arg(long, value_name = "TEXT", default_value = "agreed")]
    reason: String,
}

pub(crate) async fn run(options: Approve, context: &Context) -> Result<Done, Failure> {
    if options.numbers.is_empty() {
        return list(context).await;
    }
    let repository = repository::open(context, Access::Keeper).await?;
    let numbers: BTreeSet<u64> = options.numbers.into_iter().collect();
    let approved = forget::approve(&repository, &numbers, &options.reason).await?;
    let number = count(numbers.len() as u64, "entry");
    context.output.message(&format!("{number} approved, as log entry {}", approved.entry));
    for pending in &approved.pending {
        context.output.message(&format!("{pending}: it waits for others still"));
    }
    Ok(done([
        ("entry", json!(approved.entry)),
        ("pending", json!(approved.pending.iter().map(describe).collect::<Vec<_>>())),
    ]))
}

async fn list(context: &Context) -> Result<Done, Failure> {
    let repository = repository::open(context, Access::Public).await?;
    let log = repository::load_log(context, &repository).await?;
    let (retention, pending) = (log.retention(), log.pending());
    for pending in &pending {
        context.output.result(&format!("{pending}\n"))?;
        let (snapshots, vms) = match &pending.request {
            ApprovalRequest::Forget(snapshots) => (snapshots.as_slice(), &[][..]),
            ApprovalRequest::Release(snapshots, vms) => (snapshots.as_slice(), vms.as_slice()),
            ApprovalRequest::Clear(snapshots) => (snapshots.as_slice(), &[][..]),
            ApprovalRequest::Quorum(_) => continue,
        };
        let vms = vms.iter().map(|vm| format!("  {vm}\n"));
        let lines = snapshots.iter().map(|one| format!("  {}\n", one.intent)).chain(vms);
        context.output.result(&lines.collect::<String>())?;
    }
    if pending.is_empty() {
        context.output.message("nothing waits for approval");
    }
    Ok(done([
        ("approvals_needed", json!(retention.approvals_needed())),
        ("pending", json!(pending.iter().map(describe).collect::<Vec<_>>())),
    ]))
}

/// How many other keepers must approve.
pub(crate) fn parse_approvals(text: &str) -> Result<u32, String> {
    let number = text.parse::<u32>().ok().filter(|number| *number <= APPROVALS_MAX);
    number.ok_or_else(|| format!("give a number of keepers from 0 to {APPROVALS_MAX}"))
}

/// What waits, for JSON.
pub(crate) fn describe(pending: &Pending) -> Value {
    let none: &[SessionId] = &[];
    let (forgets, releases, clears) = match &pending.request {
        ApprovalRequest::Forget(snapshots) => (snapshots.as_slice(), none, none),
        ApprovalRequest::Release(snapshots, _) => (none, snapshots.as_slice(), none),
        ApprovalRequest::Clear(snapshots) => (none, none, snapshots.as_slice()),
        ApprovalRequest::Quorum(_) => (none, none, none),
    };
    let (vms, quorum) = match &pending.request {
        ApprovalRequest::Release(_, vms) => (vms.as_slice(), None),
        ApprovalRequest::Quorum(needed) => (&[][..], Some(needed)),
        ApprovalRequest::Forget(_) | ApprovalRequest::Clear(_) => (&[][..], None),
    };
    let ids = |of: &[SessionId]| of.iter().map(|one| one.intent.to_string()).collect::<Vec<_>>();
    json!({
        "entry": pending.session.number,
        "by": pending.by.to_string(),
        "forgets": ids(forgets),
        "releases": ids(releases),
        "releases_vms": vms.iter().map(Title::as_str).collect::<Vec<_>>(),
        "clears": ids(clears),
        "would_need": quorum,
        "approvals_needed": pending.needed,
        "approved_by": pending.approved_by().collect::<Vec<_>>(),
    })
}

/// Ask for the approval of other keepers before a forget, a release or a clear counts.
///
/// At most 16.
///
/// More approvals are needed at once. Fewer are needed only when as many keepers as now approved that. Whoever has the
/// administrator's key can make keepers, so look at `key list` and `audit` too. Counts for one zone.
#[derive(Debug, Args)]
pub(crate) struct Approvals {
    /// So many other keepers
    #[arg(value_name = "NUMBER", value_parser = parse_approvals)]
    needed: u32,
    /// Why, for the log
    #[arg(long, value_name = "TEXT", default_value = "asked for")]
    reason: String,
}

/// `key approvals`.
pub(crate) async fn set(options: Approvals, context: &Context) -> Result<Done, Failure> {
    let repository = repository::open(context, Access::Admin).await?;
    let (entry, waits) = forget::set_quorum(&repository, options.needed, &options.reason).await?;
    let needed = options.needed;
    context.output.message(&match waits {
        false => format!("a forget, a release or a clear needs {needed} approvals from log entry {entry} on"),
        true => format!(
            "log entry {entry} asks for {needed} approvals only; it waits for approval itself: `sancerre approve {entry}`"
        ),
    });
    Ok(done([("entry", json!(entry)), ("approvals_needed", json!(needed)), ("waits", json!(waits))]))
}
