//! What a backup came to: for people, for scripts, for metrics.

use std::time::Duration;

use sancerre_engine::backup::BackupReport;
use sancerre_engine::suspicion::Suspicion;
use sancerre_engine::suspicion::stored::seen;
use sancerre_format::id::SessionId;
use serde_json::{Value, json};

use super::{Backup, Subject};
use crate::command::{Context, member};
use crate::exit::Failure;
use crate::metrics::{self, Run, Saved};
use crate::repository;
use crate::suspicion;
use crate::units::{duration, seconds, size};
use crate::unreadable;

/// Writes the metrics, if asked to. A failure is only warned of: whatever the backup did, it did.
pub(crate) fn measure(
    options: &Backup,
    subject: &Subject,
    context: &Context,
    took: Duration,
    report: Option<&BackupReport>,
) -> bool {
    let path = options.metrics_file.as_ref().filter(|path| !options.dry_run && context.may_write(path));
    let Some(path) = path else { return true };
    let repository = repository::named(context);
    let run = measured(context, &repository, took, report);
    let written = metrics::update(path, &subject.vm, &run, &context.host, &context.output);
    if let Err(failure) = &written {
        context.output.warning(&failure.message);
    }
    written.is_ok()
}

fn measured<'a>(
    context: &Context,
    repository: &'a str,
    duration: Duration,
    report: Option<&BackupReport>,
) -> Run<'a> {
    let saved = report.map(|report| Saved {
        unix_seconds: context.host.clock.now().unix_seconds(),
        size_bytes: report.size_bytes,
        data_bytes: report.data_bytes,
        new_bytes: report.new_bytes,
        stored_bytes: report.stored_bytes,
        suspicion: verdict(report),
    });
    Run { repository, duration, saved }
}

/// Says what it came to; false when that is not what was asked for.
pub(crate) fn tell(
    subject: &Subject,
    context: &Context,
    report: &BackupReport,
    took: Duration,
) -> Result<bool, Failure> {
    if report.fuzzy {
        let changed: Vec<&str> =
            report.members.iter().filter(|member| member.fuzzy).map(|member| member.name.as_str()).collect();
        context.output.warning(&format!(
            "{} changed or was in use while read, so parts of it may be from different moments and a guest may not start from \
             it; the snapshot is marked fuzzy; docs/QUIESCE.md has recipes",
            changed.join(", ")
        ));
    }
    let mut is_read = true;
    for member in &report.members {
        is_read &= unreadable::tell(context, member, "could not be read, and are zeros in the snapshot")?;
    }
    let what = match &report.snapshot {
        Some(session) => format!("snapshot {} of {}", session.short(), subject.vm),
        None => format!("{}, nothing stored", subject.vm),
    };
    context.output.message(&format!(
        "{what}: {} of data, {} new, {} stored, in {}",
        size(report.data_bytes),
        size(report.new_bytes),
        size(report.stored_bytes),
        duration(took)
    ));
    report.members.iter().for_each(|member| suspicion::tell(context, member));
    suspicion::tell_locks(context, report.clean_locks.as_ref());
    let is_restorable = !report.lost_keys.iter().any(|lost| lost.is_needed_to_restore);
    Ok(!report.fuzzy && report.shrunk.is_empty() && report.belied.is_empty() && is_read && is_restorable)
}

/// The worst verdict on any of its disks; none without statistics.
pub(super) fn verdict(report: &BackupReport) -> Option<Suspicion> {
    report.members.iter().filter_map(seen).map(|night| night.judgement.verdict).max()
}

pub(crate) fn summary(
    options: &Backup,
    subject: &Subject,
    report: &BackupReport,
    took: Duration,
) -> [(&'static str, Value); 23] {
    let id = |session: &Option<SessionId>| session.as_ref().map(|session| session.intent.to_string());
    [
        ("snapshot", json!(id(&report.snapshot))),
        ("parent", json!(id(&report.parent))),
        ("vm", json!(subject.vm.to_string())),
        ("public_name", json!(options.public_name.as_ref().unwrap_or(&subject.vm).to_string())),
        ("machine", json!(subject.machine.map(|id| id.to_string()))),
        ("class", json!(options.class.as_ref().map(ToString::to_string))),
        ("retain_until", json!(options.retain_until.map(|until| until.to_string()))),
        ("tags", json!(options.tags.iter().map(ToString::to_string).collect::<Vec<_>>())),
        ("dry_run", json!(options.dry_run)),
        ("fuzzy", json!(report.fuzzy)),
        ("frozen", json!(report.frozen)),
        ("scan", json!(report.scan)),
        ("belied", json!(report.belied.iter().map(ToString::to_string).collect::<Vec<_>>())),
        ("shrunk", json!(report.shrunk.iter().map(ToString::to_string).collect::<Vec<_>>())),
        ("lost_keys", json!(report.lost_keys.iter().map(|lost| &lost.object).collect::<Vec<_>>())),
        ("verdict", json!(verdict(report).map(Suspicion::word))),
        ("clean_locks", suspicion::locks(report.clean_locks.as_ref())),
        ("members", json!(report.members.iter().map(member).collect::<Vec<_>>())),
        ("size_bytes", json!(report.size_bytes)),
        ("data_bytes", json!(report.data_bytes)),
        ("new_bytes", json!(report.new_bytes)),
        ("stored_bytes", json!(report.stored_bytes)),
        ("duration_seconds", json!(seconds(took))),
    ]
}
