//! `dump`: one disk, stream or file to standard output.

use std::io::Write;
use std::time::Instant;

use sancerre_engine::restore::{self, RestoreOptions};
use serde_json::json;

use super::restore::UNREADABLE;
use super::{Context, ended};
use crate::arguments::Dump;
use crate::exit::{Done, Exit, Failure};
use crate::progress::Work;
use crate::units::seconds;
use crate::unreadable;

pub(crate) async fn run(options: Dump, context: &Context) -> Result<Done, Failure> {
    let started = Instant::now();
    context.needs_stdout()?;
    // First of all, so that whatever is said goes to standard error and never between the data.
    let Some(mut stdout) = context.output.take_stdout() else {
        return Err(Failure::failed("standard output is in use already; this is a bug, please report it"));
    };
    if context.stdout_is_terminal {
        return Err(Failure::usage("standard output is a terminal; pipe the disk into a file or a program"));
    }
    let reader = super::restore::open(&options.snapshot, context).await?;
    let member = super::restore::one(&reader, &options.snapshot)?;
    let is_whole = unreadable::tell(context, member, UNREADABLE)?;
    let (monitor, watched) = context.watched(Work::Restore)?;
    let settings = RestoreOptions::new(context.global.memory);
    let report = restore::dump(&reader, member, &mut *stdout, &settings, &monitor).await?;
    drop(watched);
    stdout.flush().map_err(|error| Failure::failed(format!("cannot write to standard output: {error}")))?;
    let exit = if is_whole { Exit::Done } else { Exit::NotAsAsked };
    let summary = [
        ("snapshot", json!(reader.manifest().session.intent.to_string())),
        ("vm", json!(reader.vm().to_string())),
        ("member", json!(member.name.to_string())),
        ("unreadable", unreadable::json(member)),
        ("size_bytes", json!(report.size_bytes)),
        ("data_bytes", json!(report.data_bytes)),
        ("fetched_bytes", json!(report.fetched_bytes)),
        ("requests", json!(report.requests)),
        ("duration_seconds", json!(seconds(started.elapsed()))),
    ];
    Ok(ended(exit, summary))
}
