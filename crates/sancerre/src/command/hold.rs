//! `hold`, `release` and `undelete`: one signed entry about named snapshots.

use std::collections::BTreeSet;

use clap::Args;
use sancerre_engine::forget;
use sancerre_engine::select::Selector;
use sancerre_format::id::SessionId;
use serde_json::json;

use super::{Context, done};
use crate::access::Access;
use crate::exit::{Done, Failure};
use crate::repository;
use crate::units::count;

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

/// What is done to the snapshots.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Deed {
    Hold,
    Release,
    Undelete,
}

pub(crate) async fn run(options: Named, deed: Deed, context: &Context) -> Result<Done, Failure> {
    let repository = repository::open(context, Access::Keeper).await?;
    let log = repository::load_log(context, &repository).await?;
    let named = options.snapshots.iter().map(|selector| selector.resolve_any(&log));
    let snapshots = named.collect::<Result<BTreeSet<SessionId>, _>>()?;
    let reason = &options.reason;
    let (entry, what) = match deed {
        Deed::Hold => (forget::hold(&repository, &snapshots, reason).await?, "held"),
        Deed::Release => (forget::release(&repository, &snapshots, reason).await?, "released"),
        Deed::Undelete => (forget::undelete(&repository, &snapshots, reason).await?, "taken back"),
    };
    let number = count(snapshots.len() as u64, "snapshot");
    context.output.message(&format!("{number} {what}, as log entry {entry}"));
    let ids: Vec<String> = snapshots.iter().map(|session| session.intent.to_string()).collect();
    Ok(done([("entry", json!(entry)), ("snapshots", json!(ids))]))
}
