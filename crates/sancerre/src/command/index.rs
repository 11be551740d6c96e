//! `index rebuild`: the index is a cache, made anew from the packs.

use std::time::Instant;

use sancerre_engine::rebuild::rebuild_index;
use serde_json::json;

use super::{Context, ended};
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
