//! `doctor`: what the store does, what that means, and until when it keeps what is there.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use sancerre_engine::Error;
use sancerre_engine::lock::{Needs, SnapshotLock, short_seconds};
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::store::Store;
use sancerre_engine::store::probe::{self, Check, ProbeFinding, ProbeVerdict, Report};
use sancerre_format::names::{self, Zone};
use serde_json::{Value, json};

use super::{Context, ended, lock};
use crate::access;
use crate::exit::{Done, Exit, Failure};
use crate::interrupt::until_signal;
use crate::output::{Align, table};
use crate::progress::Work;
use crate::repository;
use crate::units::{age, count};

/// Try out the store: what it does, what it does not, and what that means.
///
/// Writes a few small objects under probe/, races for them, and tries to overwrite and to delete them, with the
/// credentials at hand. Needs no key. Run it with the credentials of each host: a writer's should not be able to delete.
///
/// With --read-only nothing is written: what objects of the repository tell by being read is shown, and what only a trial
/// would show is named. That is for an auditor, whose credentials only read.
///
/// Where the store locks objects and a repository is there, it also asks for the lock of every object that a live snapshot
/// needs (a request each), and shows until when each snapshot cannot be removed by anybody.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code 1: no repository should be there. 3: something is not as the store says or as it should be, or a snapshot
runs out of its lock soon.

Examples:
  sancerre doctor -r s3://bucket/backup
  sancerre doctor -r s3://bucket/backup --read-only
  sancerre doctor --json | jq '.findings[] | select(.verdict != \"yes\")'")]
pub(crate) struct Doctor {
    /// Write nothing: look only at what is there, and name what was not tried
    #[arg(long)]
    read_only: bool,
}

pub(crate) async fn run(options: Doctor, context: &Context) -> Result<Done, Failure> {
    if options.read_only {
        return look(context).await;
    }
    let (store, made) = open(context)?;
    let probed =
        until_signal(async { Ok(probe::probe(&store, &*context.host.clock, &*context.host.random).await?) })
            .await;
    if let Some(folder) = made {
        // If something stayed in it, that is told by what it held up.
        let _ = std::fs::remove_dir(folder);
    }
    tell(context, &store, &probed?, false).await
}

/// Without writing.
async fn look(context: &Context) -> Result<Done, Failure> {
    let store = repository::store(context, false)?;
    let looked = until_signal(async { Ok(probe::look(&store, &*context.host.clock).await?) }).await?;
    let report = looked.ok_or_else(|| {
        Failure::new(
            Exit::NoRepository,
            format!(
                "there is no repository at {}, and nothing but one can be looked at without writing; check --repo, or leave \
                 --read-only out to try the place out",
                store.location()
            ),
        )
    })?;
    tell(context, &store, &report, true).await
}

async fn tell(context: &Context, store: &Store, report: &Report, read_only: bool) -> Result<Done, Failure> {
    context.output.result(&text(report))?;
    let not_tried: Vec<Check> = if read_only { report.not_tried().collect() } else { Vec::new() };
    if read_only {
        let titles: Vec<&str> = not_tried.iter().map(|check| check.title()).collect();
        context
            .output
            .message(&format!("nothing was written, so these were not tried: {}", titles.join("; ")));
    }
    let locks = if locks_objects(report) { locks(context, store, report).await? } else { Locks::default() };
    let exit = if report.unsafe_findings().next().is_some() {
        Exit::Failed
    } else if report.doubtful_findings().next().is_some() || locks.short > 0 {
        Exit::NotAsAsked
    } else {
        Exit::Done
    };
    let fields = [
        ("location", json!(store.location())),
        ("findings", findings(report)),
        ("read_only", json!(read_only)),
        ("not_tried", not_tried.iter().map(|check| json!(check.name())).collect()),
        ("locks", locks.snapshots.map_or(Value::Null, |locks| locks.iter().map(lock::describe).collect())),
    ];
    Ok(ended(exit, fields))
}

/// The store; where it is a folder that is not there yet, one that was made for the trial, with its path.
fn open(context: &Context) -> Result<(Store, Option<PathBuf>), Failure> {
    match repository::store(context, false) {
        Err(failure) if failure.exit == Exit::NoRepository => {}
        store => return Ok((store?, None)),
    }
    let folder = repository::folder(context)?;
    match folder.parent() {
        Some(above) if !above.is_dir() => Err(Failure::new(
            Exit::NoRepository,
            format!(
                "there is no folder {}, in which {} could be tried out: make it, or mount what belongs there",
                above.display(),
                folder.display()
            ),
        )),
        _ => {
            let store = repository::store(context, true)?;
            context.output.message(&format!(
                "there is no folder {} yet: it is made for this trial, and removed again",
                folder.display()
            ));
            Ok((store, Some(folder)))
        }
    }
}

/// Until when snapshots are locked, as far as the store tells.
#[derive(Default)]
struct Locks {
    /// None where nothing can be said.
    snapshots: Option<Vec<SnapshotLock>>,
    /// How many run out of their lock soon.
    short: usize,
}

fn locks_objects(report: &Report) -> bool {
    let holds =
        |finding: &ProbeFinding| finding.check == Check::Retention && finding.verdict == ProbeVerdict::Holds;
    report.findings.iter().any(holds)
}

/// Asks for the locks of all zones, and shows them.
async fn locks(context: &Context, store: &Store, report: &Report) -> Result<Locks, Failure> {
    if store.get(names::CONFIG).await?.is_none() {
        return Ok(Locks::default());
    }
    let zones = match &context.global.zone {
        Some(zone) => BTreeSet::from([zone.clone()]),
        None => zones(store).await?,
    };
    let (now, seconds) = (context.host.clock.now(), short_seconds(report.lock_seconds));
    let (mut all, mut short) = (Vec::new(), 0);
    for zone in zones {
        let keys = access::public_keys(context, store, zone).await?;
        let repository = Repository::open(store.clone(), context.host.clone(), keys).await?;
        let locks = match zone_locks(context, &repository).await {
            Err(failure @ Failure { exit: Exit::Interrupted, .. }) => return Err(failure),
            Err(failure) => {
                context.output.warning(&failure.message);
                return Ok(Locks::default());
            }
            Ok(locks) => locks,
        };
        let soon = lock::short(&locks, now, seconds);
        if soon > 0 {
            context.output.warning(&format!(
                "{} of zone {} not locked for the next {}; have a keeper run `sancerre lock extend`, docs/STORES.md",
                count(soon as u64, "snapshot"),
                repository.keys.zone,
                age(seconds.unsigned_abs())
            ));
        }
        short += soon;
        all.extend(locks);
    }
    context.output.result(&lock::text(&all, now))?;
    Ok(Locks { snapshots: Some(all), short })
}

async fn zones(store: &Store) -> Result<BTreeSet<Zone>, Error> {
    let listed = store.list(names::ZONES).await?;
    Ok(listed.iter().filter_map(|listed| names::zone_of_key(&listed.key)).collect())
}

async fn zone_locks(context: &Context, repository: &Repository) -> Result<Vec<SnapshotLock>, Failure> {
    let needs = Needs::load(repository, &Log::load(repository).await?).await?;
    let (monitor, _watched) = context.watched(Work::Lock)?;
    Ok(needs.ask(&monitor).await?.snapshots()?)
}

/// The table, and a line for each thing that does not hold.
pub(crate) fn text(report: &Report) -> String {
    let row = |finding: &ProbeFinding| {
        vec![finding.check.title().to_owned(), finding.verdict.word().to_owned(), finding.seen.clone()]
    };
    let rows: Vec<Vec<String>> = report.findings.iter().map(row).collect();
    let mut text = table(&[("store", Align::Left), ("", Align::Left), ("seen", Align::Left)], &rows);
    let open = report.findings.iter().filter(|finding| finding.verdict != ProbeVerdict::Holds);
    for finding in open {
        let so = if finding.verdict == ProbeVerdict::Unknown { "not known. If not" } else { "no. So" };
        text.push_str(&format!("\n{}: {so}, {}.", finding.check.title(), finding.check.consequence()));
    }
    text.push('\n');
    text
}

/// The findings for JSON.
pub(crate) fn findings(report: &Report) -> Value {
    let of = |finding: &ProbeFinding| {
        let means = (finding.verdict != ProbeVerdict::Holds).then(|| finding.check.consequence());
        json!({
            "check": finding.check.name(),
            "verdict": finding.verdict.word().to_lowercase(),
            "seen": finding.seen,
            "means": means,
        })
    };
    report.findings.iter().map(of).collect()
}
