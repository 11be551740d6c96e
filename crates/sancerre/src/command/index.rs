//! `index`: a cache, made anew from the packs or put in better order.

use std::time::Instant;

use sancerre_engine::index::{merge_index, rebuild_index};
use sancerre_engine::repository::log::Log;
use serde_json::json;

use super::{Context, done, ended};
use crate::access::Access;
use crate::exit::{Done, Exit, Failure};
use crate::progress::Work;
use crate::repository;
use crate::units::{count, duration, seconds};

pub(crate) async fn rebuild(context: &Context) -> Result<Done, Failure> {
    let started = Instant::now();
    let repository = repository::open(context, Access::Metadata).await?;
    let (monitor, watched) = context.watched(Work::Check)?;
    let report = rebuild_index(&repository, &monitor).await?;
    drop(watched);
    for pack in &report.unreadable {
        context.output.warning(&format!(
            "pack {pack}; what is in it is stored again when it is met; run `sancerre check`"
        ));
    }
    let took = started.elapsed();
    context.output.message(&format!(
        "index of {} from {}, in {}",
        count(report.entries, "chunk"),
        count(report.packs, "pack"),
        duration(took)
    ));
    let exit = if report.unreadable.is_empty() { Exit::Done } else { Exit::NotAsAsked };
    Ok(ended(
        exit,
        [
            ("packs", json!(report.packs)),
            ("entries", json!(report.entries)),
            ("unreadable", json!(report.unreadable)),
            ("duration_seconds", json!(seconds(took))),
        ],
    ))
}

pub(crate) async fn merge(context: &Context) -> Result<Done, Failure> {
    let started = Instant::now();
    let repository = repository::open(context, Access::Metadata).await?;
    let (monitor, watched) = context.watched(Work::Check)?;
    let mut log = Log::load(&repository).await?;
    let report = merge_index(&repository, &mut log, &monitor).await?;
    drop(watched);
    let took = started.elapsed();
    let (replaced, segments, entries) =
        report.map_or((0, 0, 0), |report| (report.replaced, report.segments, report.entries));
    context.output.message(&match report {
        None => "no small segments that are worth merging".to_owned(),
        Some(_) => format!(
            "{} of {} instead of {}, in {}",
            count(segments, "segment"),
            count(entries, "chunk"),
            replaced,
            duration(took)
        ),
    });
    Ok(done([
        ("replaced", json!(replaced)),
        ("segments", json!(segments)),
        ("entries", json!(entries)),
        ("duration_seconds", json!(seconds(took))),
    ]))
}
