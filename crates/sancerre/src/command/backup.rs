//! `backup`: all disks of one machine become one snapshot.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use sancerre_engine::backup::{self, BackupOptions, BackupReport, Input, Source};
use sancerre_engine::cache::Cache;
use sancerre_format::id::SessionId;
use sancerre_format::names::{MachineId, Name, Tag, Time, Title};
use sancerre_format::outcome::MemberKind;
use sancerre_image::open_raw;
use serde_json::{Value, json};

use super::{Context, ended, member};
use crate::access::Access;
use crate::arguments::{DedupScope, parse_name, parse_tag, parse_title, parse_until, rule};
use crate::exit::{Done, Exit, Failure};
use crate::metrics::{self, Run, Saved};
use crate::progress::Work;
use crate::repository;
use crate::sources::{self, Attachment, DiskSource, Planned};
use crate::units::{duration, seconds, size};

/// Most that the cache takes: the page tables of an index of 100 TB.
const CACHE_BYTES: u64 = 2 << 30;

/// Back up the disks of one virtual machine.
///
/// The disks are read as they are: give snapshots or quiesced disks, see docs/QUIESCE.md. All of them become one
/// snapshot, or none does.
#[derive(Debug, Args)]
#[command(after_help = "\
A bare PATH is named disk0, the next one disk1, and so on.

Examples:
  sancerre backup --vm web01 /dev/vg0/web01-snap
  sancerre backup --vm db01 system=/dev/vg0/db01-root-snap data=/dev/vg0/db01-data-snap --attach db01.xml
  sancerre backup --vm web01 --machine $(virsh domuuid web01) --retain-until 2027-01-31 /dev/vg0/web01-snap
  sancerre backup --vm 'Büro Server' --public-name m17 'Platte 1=/dev/vg0/m17-snap'
  pg_dumpall | sancerre backup --vm db01 --stdin dump.sql --tag nightly")]
pub(crate) struct Backup {
    /// The machine's name, as the hypervisor has it; everybody who reads the bucket sees it, unless --public-name is given
    #[arg(long, value_name = "NAME", value_parser = parse_title)]
    vm: Title,
    /// A pseudonym that stands for the machine's name in all that can be read without a key; always give the same one
    #[arg(long, value_name = "NAME", value_parser = parse_title)]
    public_name: Option<Title>,
    /// The hypervisor's id of the machine, which everybody sees; with it the history goes on when the machine is renamed
    #[arg(long, value_name = "UUID", value_parser = parse_machine)]
    machine: Option<MachineId>,
    /// A word to group snapshots by, which everybody sees
    #[arg(long, value_name = "WORD", value_parser = parse_name)]
    class: Option<Name>,
    /// Until then no `forget` counts for this snapshot; a day, or a time in UTC
    #[arg(long, value_name = "TIME", value_parser = parse_until)]
    retain_until: Option<Time>,
    /// Its disks: raw files or block devices
    #[arg(value_name = "[NAME=]PATH", required_unless_present_any = ["stdin", "attach"])]
    disks: Vec<DiskSource>,
    /// A label for the snapshot; may be given several times
    #[arg(long = "tag", value_name = "TAG", value_parser = parse_tag)]
    tags: Vec<Tag>,
    /// Read and compare everything, but store nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Save even if a disk changes while it is read; the snapshot is marked fuzzy, and the exit code is 3
    #[arg(long)]
    allow_changing: bool,
    /// Whose stored data counts as known: that of all hosts of the zone, or only this writer's own, which no other host
    /// can have spoiled
    #[arg(long, value_enum, default_value_t = DedupScope::Zone)]
    dedup: DedupScope,
    /// Keep log, index and maps, as the store has them, in this folder, so that the next backup need not fetch them;
    /// 2 GiB at most, may be deleted at any time [env: SANCERRE_CACHE_DIR] [default, for buckets: ~/.cache/sancerre]
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    cache_dir: Option<PathBuf>,
    /// Fetch all from the store, and keep nothing
    #[arg(long)]
    no_cache: bool,
    /// Write Prometheus metrics to this file, also when the backup fails
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
    /// Back up standard input under this name
    #[arg(long, value_name = "NAME", value_parser = parse_title)]
    stdin: Option<Title>,
    /// A file that belongs to the machine, such as its configuration; may be given several times
    #[arg(long, value_name = "[NAME=]FILE")]
    attach: Vec<Attachment>,
}

impl Backup {
    /// What it writes besides the repository, in words, and where.
    pub(crate) fn written(&self, context: &Context) -> Vec<(&'static str, PathBuf)> {
        let cache = cache_folder(self, context, false).map(|folder| ("the cache", folder));
        let metrics = self.metrics_file.clone().map(|path| ("the metrics file", path));
        cache.into_iter().chain(metrics).collect()
    }
}

/// Hypervisors write it in either case.
fn parse_machine(text: &str) -> Result<MachineId, String> {
    MachineId::parse(&text.to_ascii_lowercase()).map_err(rule)
}

pub(crate) async fn run(options: Backup, context: &Context) -> Result<Done, Failure> {
    let started = Instant::now();
    let result = save(&options, context).await;
    let took = started.elapsed();
    let is_measured = measure(&options, context, took, result.as_ref().ok());
    let report = result?;
    tell(&options, context, &report, took);
    let exit = if report.fuzzy || !is_measured { Exit::NotAsAsked } else { Exit::Done };
    Ok(ended(exit, summary(&options, &report, took)))
}

/// Writes the metrics, if asked to. A failure is only warned of: whatever the backup did, it did.
fn measure(options: &Backup, context: &Context, took: Duration, report: Option<&BackupReport>) -> bool {
    let path = options.metrics_file.as_ref().filter(|path| !options.dry_run && context.may_write(path));
    let Some(path) = path else { return true };
    let written = metrics::update(path, &options.vm, &measured(context, took, report));
    if let Err(failure) = &written {
        context.output.warning(&failure.message);
    }
    written.is_ok()
}

async fn save(options: &Backup, context: &Context) -> Result<BackupReport, Failure> {
    refuse_past(options, context)?;
    let planned = sources::plan(&options.disks, options.stdin.as_ref(), &options.attach)?;
    // Before the repository is opened: a typing error should cost nothing.
    let sources = planned.into_iter().map(|source| open(source, context)).collect::<Result<_, _>>()?;
    let mut repository = repository::open(context, Access::Metadata).await?;
    let (monitor, _watched) = context.watched(Work::Backup)?;
    if let Some(folder) = cache_folder(options, context, repository.store.is_remote()) {
        context.output.detail(&format!("cache {}", folder.display()));
        let warned = monitor.clone();
        repository.cache = Cache::new(folder, CACHE_BYTES, move |warning| warned.warn(warning));
    }
    let options = BackupOptions {
        vm: options.vm.clone(),
        public_name: options.public_name.clone(),
        machine: options.machine,
        class: options.class.clone(),
        retain_until: options.retain_until,
        sources,
        tags: options.tags.clone(),
        allow_changing: options.allow_changing,
        dedup: options.dedup.into(),
        dry_run: options.dry_run,
        memory_bytes: context.global.memory,
    };
    Ok(backup::backup(&repository, options, &monitor).await?)
}

/// A year too early would keep nothing, and nobody would notice.
fn refuse_past(options: &Backup, context: &Context) -> Result<(), Failure> {
    match options.retain_until {
        Some(until) if until <= context.host.clock.now() => {
            Err(Failure::usage(format!("--retain-until {until} is over; give a time to come")))
        }
        _ => Ok(()),
    }
}

/// Where to keep what the next backup would fetch again. A repository on this machine needs no copy of itself.
fn cache_folder(options: &Backup, context: &Context, is_remote: bool) -> Option<PathBuf> {
    let variable = |name| context.environment.get(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let given = options.cache_dir.clone().or_else(|| variable("SANCERRE_CACHE_DIR"));
    let usual = || {
        let home = || variable("HOME").map(|home| home.join(".cache"));
        Some(variable("XDG_CACHE_HOME").or_else(home)?.join("sancerre"))
    };
    match given {
        _ if options.no_cache => None,
        None if is_remote => usual(),
        given => given,
    }
}

fn open(source: Planned, context: &Context) -> Result<Source, Failure> {
    let input = match (&source.path, &source.kind) {
        (Some(path), MemberKind::Disk) => Input::Disk(Arc::new(open_raw(path)?)),
        (Some(path), _) => {
            let file = File::open(path).map_err(|error| {
                Failure::failed(format!(
                    "cannot read {}: {error}; check the path and its permissions",
                    path.display()
                ))
            })?;
            Input::Stream(Box::new(file))
        }
        (None, _) if context.stdin_is_terminal => {
            return Err(Failure::usage("--stdin reads what is piped in, but standard input is a terminal"));
        }
        (None, _) => {
            let stdin = context.take_stdin();
            Input::Stream(stdin.ok_or_else(|| Failure::usage("standard input can be backed up only once"))?)
        }
    };
    Ok(Source { name: source.name, kind: source.kind, input })
}

fn measured(context: &Context, duration: Duration, report: Option<&BackupReport>) -> Run {
    let saved = report.map(|report| Saved {
        unix_seconds: context.host.clock.now().unix_seconds(),
        size_bytes: report.size_bytes,
        data_bytes: report.data_bytes,
        new_bytes: report.new_bytes,
        stored_bytes: report.stored_bytes,
    });
    Run { duration, saved }
}

fn tell(options: &Backup, context: &Context, report: &BackupReport, took: Duration) {
    if report.fuzzy {
        let changed: Vec<&str> =
            report.members.iter().filter(|member| member.fuzzy).map(|member| member.name.as_str()).collect();
        context.output.warning(&format!(
            "{} changed while read, so parts of it are from different moments and a guest may not start from it; \
             docs/QUIESCE.md has recipes",
            changed.join(", ")
        ));
    }
    let what = match &report.snapshot {
        Some(session) => format!("snapshot {} of {}", short(session), options.vm),
        None => format!("{}, nothing stored", options.vm),
    };
    context.output.message(&format!(
        "{what}: {} of data, {} new, {} stored, in {}",
        size(report.data_bytes),
        size(report.new_bytes),
        size(report.stored_bytes),
        duration(took)
    ));
}

fn short(session: &SessionId) -> String {
    session.intent.to_string().chars().take(8).collect()
}

fn summary(options: &Backup, report: &BackupReport, took: Duration) -> [(&'static str, Value); 16] {
    let id = |session: &Option<SessionId>| session.as_ref().map(|session| session.intent.to_string());
    [
        ("snapshot", json!(id(&report.snapshot))),
        ("parent", json!(id(&report.parent))),
        ("vm", json!(options.vm.to_string())),
        ("public_name", json!(options.public_name.as_ref().unwrap_or(&options.vm).to_string())),
        ("machine", json!(options.machine.map(|id| id.to_string()))),
        ("class", json!(options.class.as_ref().map(ToString::to_string))),
        ("retain_until", json!(options.retain_until.map(|until| until.to_string()))),
        ("tags", json!(options.tags.iter().map(ToString::to_string).collect::<Vec<_>>())),
        ("dry_run", json!(options.dry_run)),
        ("fuzzy", json!(report.fuzzy)),
        ("members", json!(report.members.iter().map(member).collect::<Vec<_>>())),
        ("size_bytes", json!(report.size_bytes)),
        ("data_bytes", json!(report.data_bytes)),
        ("new_bytes", json!(report.new_bytes)),
        ("stored_bytes", json!(report.stored_bytes)),
        ("duration_seconds", json!(seconds(took))),
    ]
}
