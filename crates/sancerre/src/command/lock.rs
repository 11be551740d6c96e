//! `lock`: how long the store keeps what live snapshots need.

use std::collections::BTreeMap;
use std::time::Instant;

use clap::{Args, Subcommand};
use sancerre_engine::lock::{Extended, Needs, SnapshotLock};
use sancerre_format::names::Time;
use serde_json::{Value, json};

use super::{Context, MetricsFile, ended};
use crate::access::Access;
use crate::exit::{Done, Exit, Failure};
use crate::output::{Align, table};
use crate::progress::Work;
use crate::repository;
use crate::units::{age, count, parse_seconds, seconds};

/// Nobody can take a lock back, also not the provider.
const SECONDS_MAX: u64 = 10 * 31_557_600;

/// Keep what live snapshots need locked for longer (S3 Object Lock).
#[derive(Debug, Args)]
pub(crate) struct Lock {
    #[command(subcommand)]
    command: LockCommand,
}

#[derive(Debug, Subcommand)]
enum LockCommand {
    /// Lock every object that a live snapshot needs at least until a date
    Extend(Extend),
}

/// Lock every object that a live snapshot needs at least until a date.
///
/// A pack is locked when it is uploaded, and later snapshots go on needing it when that lock has run out. Run this
/// where the keeper is, before that happens. It asks for the lock of each object (a request), and extends those that
/// fall short (a request). Packs, pack lists, the log and the keys are extended; a lock is never shortened, and nobody can take
/// one back. Needs store credentials that may do this, and no secret: any key file, or --trust.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code 3: the store refused some. With --dry-run: it locks nothing, as a folder and a bucket without versions.

Examples:
  sancerre lock extend --for 45d --dry-run
  sancerre lock extend --key-file keeper.key --for 45d
  sancerre lock extend --until 2027-12-31")]
struct Extend {
    /// For so long from now
    #[arg(long = "for", value_name = "TIME", value_parser = parse_seconds, required_unless_present = "until")]
    seconds: Option<u64>,
    /// Until this day or time (UTC)
    #[arg(long, value_name = "DATE", value_parser = parse_date, conflicts_with = "seconds")]
    until: Option<Time>,
    /// Only ask, and say what would be extended
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    metrics: MetricsFile,
}

impl Lock {
    /// Where its metrics go; none if it changes nothing.
    pub(super) fn metrics(&self) -> Option<&MetricsFile> {
        let LockCommand::Extend(options) = &self.command;
        (!options.dry_run).then_some(&options.metrics)
    }
}

/// Reasons that are spelled out for people.
const REFUSALS_SHOWN: usize = 3;

pub(crate) async fn run(options: Lock, context: &Context) -> Result<Done, Failure> {
    let LockCommand::Extend(options) = options.command;
    let started = Instant::now();
    let until = wanted(&options, context.host.clock.now())?;
    let repository = repository::open(context, Access::Public).await?;
    let log = repository::load_log(context, &repository).await?;
    let needs = Needs::load(&repository, &log).await?;
    let objects = u64::try_from(needs.objects()).unwrap_or(u64::MAX);
    context.output.message(&format!(
        "live snapshots need {}: {} to ask for their locks, and at most as many to extend them",
        count(objects, "object"),
        count(objects, "request")
    ));
    let (monitor, watched) = context.watched(Work::Lock)?;
    let locks = needs.ask(&monitor).await?;
    let short = u64::try_from(locks.short_of(until)).unwrap_or(u64::MAX);
    let extended = match options.dry_run {
        true => locks.foresee(until).await?,
        false => locks.extend(until, &monitor).await?,
    };
    drop(watched);
    tell(context, &options, &extended, short, until);
    let exit = if extended.refused.is_empty() { Exit::Done } else { Exit::NotAsAsked };
    Ok(ended(
        exit,
        [
            ("until", json!(until.to_string())),
            ("dry_run", json!(options.dry_run)),
            ("objects", json!(objects)),
            ("short", json!(short)),
            ("extended", json!(extended.objects)),
            ("refused", json!(extended.refused)),
            ("duration_seconds", json!(seconds(started.elapsed()))),
        ],
    ))
}

fn wanted(options: &Extend, now: Time) -> Result<Time, Failure> {
    let ahead = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    let after = |seconds| Time::from_unix_seconds(now.unix_seconds().saturating_add(ahead(seconds)));
    let until = options.until.unwrap_or_else(|| after(options.seconds.unwrap_or_default()));
    if until <= now {
        return Err(Failure::usage(format!("{until} is over; give a time that is still to come")));
    }
    if until > after(SECONDS_MAX) {
        return Err(Failure::usage(format!(
            "{until} is more than ten years ahead, and nobody could ever take that back; give an earlier time"
        )));
    }
    Ok(until)
}

fn tell(context: &Context, options: &Extend, extended: &Extended, short: u64, until: Time) {
    // A store that refuses one refuses most, and for one reason.
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    extended.refused.iter().for_each(|reason| *reasons.entry(reason).or_default() += 1);
    for (reason, times) in reasons.iter().take(REFUSALS_SHOWN) {
        let objects = if *times > 1 { format!(" ({times} objects)") } else { String::new() };
        context.output.warning(&format!("{reason}{objects}"));
    }
    let more = reasons.len().saturating_sub(REFUSALS_SHOWN);
    if more > 0 {
        context.output.warning(&format!("{} more; --json has all", count(more as u64, "reason")));
    }
    context.output.message(&match options.dry_run {
        true if !extended.refused.is_empty() => {
            "nothing would be extended, and nothing was changed".to_owned()
        }
        true => format!("{} to extend until {until}; nothing was changed", count(short, "request")),
        false => format!("{} extended until {until}", count(extended.objects, "lock")),
    });
}

/// A day, or a time in full.
fn parse_date(text: &str) -> Result<Time, String> {
    let time = Time::parse(text).or_else(|_| Time::parse(&format!("{text}T00:00:00Z")));
    time.map_err(|_| format!("{text:?} is not a date such as 2027-12-31 or 2027-12-31T18:00:00Z"))
}

/// The table that `doctor` shows, the weakest first.
pub(crate) fn text(locks: &[SnapshotLock], now: Time) -> String {
    let columns = [
        ("vm", Align::Left),
        ("snapshot", Align::Left),
        ("time (UTC)", Align::Left),
        ("locked until", Align::Left),
        ("left", Align::Right),
        ("first to go", Align::Left),
    ];
    let mut sorted: Vec<&SnapshotLock> = locks.iter().collect();
    sorted.sort_by_key(|lock| (lock.until, lock.session.number));
    let rows: Vec<Vec<String>> = sorted.into_iter().map(|lock| row(lock, now)).collect();
    table(&columns, &rows)
}

fn row(lock: &SnapshotLock, now: Time) -> Vec<String> {
    let left = lock.until.map_or(0, |until| left_seconds(until, now));
    vec![
        lock.vm.to_string(),
        lock.session.short(),
        lock.finished.to_string(),
        lock.until.map_or_else(|| "not locked".to_owned(), |until| until.to_string()),
        if left == 0 { "-".to_owned() } else { age(left) },
        lock.weakest.clone(),
    ]
}

fn left_seconds(until: Time, now: Time) -> u64 {
    u64::try_from(until.unix_seconds().saturating_sub(now.unix_seconds())).unwrap_or(0)
}

/// Snapshots that are not locked for at least so long from now.
pub(crate) fn short(locks: &[SnapshotLock], now: Time, seconds: i64) -> usize {
    let latest = Time::from_unix_seconds(now.unix_seconds().saturating_add(seconds));
    locks.iter().filter(|lock| lock.until < Some(latest)).count()
}

/// The same for JSON.
pub(crate) fn describe(lock: &SnapshotLock) -> Value {
    json!({
        "vm": lock.vm.to_string(),
        "id": lock.session.intent.to_string(),
        "finished": lock.finished.to_string(),
        "locked_until": lock.until.map(|until| until.to_string()),
        "first_to_go": lock.weakest,
    })
}
