//! Opening the repository: where it is, with which keys, and what its log says.

use std::path::PathBuf;

use sancerre_engine::location;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::{Log, LogEntry, Outcome};
use sancerre_engine::store::Store;

use crate::access::{self, Access};
use crate::command::Context;
use crate::exit::Failure;
use crate::limits;
use crate::plain;
use crate::progress::Work;
use crate::variables::{self, AROUND};

/// Variable that stands in for `--repo`.
const REPOSITORY: &str = "SANCERRE_REPOSITORY";

/// Opens the repository.
pub(crate) async fn open(context: &Context, access: Access) -> Result<Repository, Failure> {
    let store = store(context, false)?;
    let keys = access::keys(context, &store, access).await?;
    Ok(Repository::open(store, context.host.clone(), keys).await?)
}

/// The store at the location that was given.
///
/// Errors: no location; one that cannot be used.
pub(crate) fn store(context: &Context, create: bool) -> Result<Store, Failure> {
    let location = given(context)?;
    let cloud = if location.contains("://") { variables::cloud(&context.environment)? } else { Vec::new() };
    let names: Vec<String> = cloud.iter().map(|(name, _)| name.clone()).collect();
    let options = limits::store_options(context, &context.cancel);
    let store = location::open(location, cloud, create, &options)?;
    let (used, ignored): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|name| store.settings().contains(name));
    context.output.detail(&format!(
        "repository {}; provider's variables: {}{}",
        plain::line(location),
        if used.is_empty() { "none".into() } else { used.join(", ") },
        if ignored.is_empty() { String::new() } else { format!("; ignored: {}", ignored.join(", ")) }
    ));
    context.uses(&store)?;
    Ok(store)
}

/// The folder at the location that was given, which is one of this machine.
///
/// Errors: no location; one that cannot be used.
pub(crate) fn folder(context: &Context) -> Result<PathBuf, Failure> {
    Ok(location::folder(given(context)?)?)
}

/// The location that was given, to name the repository by; nothing where none was.
pub(crate) fn named(context: &Context) -> String {
    given(context).unwrap_or_default().to_owned()
}

/// The location that was given, without the line end that a file or another program left behind it.
fn given(context: &Context) -> Result<&str, Failure> {
    let (given, place) = match context.global.repo.as_deref() {
        Some(given) => (Some(given.trim_matches(AROUND)), "--repo"),
        None => (context.environment.setting(REPOSITORY)?, REPOSITORY),
    };
    let location = given.filter(|location| !location.is_empty()).ok_or_else(|| {
        Failure::usage(format!("which repository? Give its location with --repo, or set {REPOSITORY}"))
    })?;
    let odd = |letter: char| letter.is_control() || letter == '\u{feff}';
    if location.contains(odd) || location.trim() != location {
        return Err(Failure::usage(format!(
            "the location in {place} begins or ends with a blank, or has a line end or another control character in it: \
             {location:?}; give it without"
        )));
    }
    Ok(location)
}

/// Objects that cannot be read, told one by one: so many, for a folder that was taken away has thousands.
const UNREAD_TOLD: usize = 10;

/// The whole log, with progress, and with warnings about what in it cannot be trusted.
pub(crate) async fn load_log(context: &Context, repository: &Repository) -> Result<Log, Failure> {
    let (monitor, watched) = context.watched(Work::Log)?;
    let log = Log::load_watched(repository, &monitor).await?;
    drop(watched);
    warn(context, &log);
    Ok(log)
}

/// The same from the newest checkpoint on: all that is needed to read snapshots.
pub(crate) async fn load_recent_log(context: &Context, repository: &Repository) -> Result<Log, Failure> {
    let (monitor, watched) = context.watched(Work::Log)?;
    let log = Log::load_recent(repository, &monitor).await?;
    drop(watched);
    warn(context, &log);
    Ok(log)
}

fn warn(context: &Context, log: &Log) {
    for unread in log.unread().iter().take(UNREAD_TOLD) {
        context.output.warning(&format!(
            "object {} cannot be read: {}; what it says is not known, so snapshots may be missing; run `sancerre check`",
            unread.key, unread.reason
        ));
    }
    let more = log.unread().len().saturating_sub(UNREAD_TOLD);
    if more > 0 {
        context.output.warning(&format!("{more} more objects of the log cannot be read"));
    }
    let retention = log.retention();
    let is_void = |entry: &&LogEntry| match &entry.outcome {
        Outcome::Invalid(_) => !retention.gave_up(entry),
        _ => entry.entry.is_err(),
    };
    let void = log.entries().filter(is_void);
    let (void, gap) = (void.count(), log.missing().next());
    if void > 0 || gap.is_some() {
        let void = match void {
            0 => None,
            1 => Some("1 record of the log does not verify".to_owned()),
            more => Some(format!("{more} records of the log do not verify")),
        };
        let missing = gap.map(|number| format!("number {number} of the log is missing"));
        let what = void.into_iter().chain(missing).collect::<Vec<_>>().join(", and ");
        context.output.warning(&format!("{what}, so snapshots may be missing from it; run `sancerre check`"));
    }
}
