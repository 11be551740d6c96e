//! `backup`: all disks of one machine become one snapshot.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sancerre_engine::backup::{self, BackupOptions, BackupReport, Input, Source};
use sancerre_engine::cache::Cache;
use sancerre_format::id::SessionId;
use sancerre_format::outcome::MemberKind;
use sancerre_image::open_raw;
use serde_json::{Value, json};

use super::{Context, ended, member};
use crate::access::Access;
use crate::arguments::Backup;
use crate::exit::{Done, Exit, Failure};
use crate::metrics::{self, Run, Saved};
use crate::progress::Work;
use crate::repository;
use crate::sources::{self, Planned};
use crate::units::{duration, seconds, size};

/// Most that the cache takes: the page tables of an index of 100 TB.
const CACHE_BYTES: u64 = 2 << 30;

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
    let Some(path) = options.metrics_file.as_ref().filter(|_| !options.dry_run) else { return true };
    let written = metrics::update(path, &options.vm, &measured(context, took, report));
    if let Err(failure) = &written {
        context.output.warning(&failure.message);
    }
    written.is_ok()
}

async fn save(options: &Backup, context: &Context) -> Result<BackupReport, Failure> {
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
        sources,
        tags: options.tags.clone(),
        allow_changing: options.allow_changing,
        dedup: options.dedup.into(),
        dry_run: options.dry_run,
        memory_bytes: context.global.memory,
    };
    Ok(backup::backup(&repository, options, &monitor).await?)
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

fn summary(options: &Backup, report: &BackupReport, took: Duration) -> [(&'static str, Value); 12] {
    let id = |session: &Option<SessionId>| session.as_ref().map(|session| session.intent.to_string());
    [
        ("snapshot", json!(id(&report.snapshot))),
        ("parent", json!(id(&report.parent))),
        ("vm", json!(options.vm.to_string())),
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
