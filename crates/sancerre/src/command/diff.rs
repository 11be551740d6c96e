//! `diff`: what changed between two snapshots, by their maps alone.

use std::time::Instant;

use clap::Args;
use sancerre_engine::diff::{self, MemberDiff};
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::restore::{self, SnapshotReader};
use sancerre_engine::select::Selector;
use sancerre_format::names::Title;
use sancerre_format::outcome::Member;
use sancerre_image::change_map::ChangeMap;
use serde_json::{Value, json};

use super::files::{self, Sandbox};
use super::{Context, done};
use crate::access::Access;
use crate::catalogue::CatalogueUse;
use crate::exit::{Done, Failure};
use crate::output::{Align, table};
use crate::progress::Work;
use crate::repository;
use crate::units::{count, seconds, size};

/// What made a map that this command writes.
const SOURCE: &str = "diff";

const COLUMNS: [(&str, Align); 6] = [
    ("disk", Align::Left),
    ("kind", Align::Left),
    ("before", Align::Right),
    ("after", Align::Right),
    ("changed", Align::Right),
    ("ranges", Align::Right),
];

/// Say what changed between two snapshots.
///
/// Only their maps are read, and of them only what differs: a writer's key file is enough. What changed is told in whole
/// chunks.
#[derive(Debug, Args)]
#[command(after_help = "\
Without a disk's name all disks of the same name are compared. With --json the summary has the changes of each disk as a
change map, as `backup --changed` reads it.

Examples:
  sancerre diff web01:latest~1 web01:latest
  sancerre diff 3f9a12cc:disk0 web01:latest:disk0 --json | jq '.disks[0].map' > disk0.map")]
pub(crate) struct Diff {
    /// The earlier snapshot, and one disk of it if only that is meant: see `sancerre --help`
    #[arg(value_name = "SNAPSHOT[:DISK]", value_parser = Selector::parse)]
    before: Selector,
    /// The later one
    #[arg(value_name = "SNAPSHOT[:DISK]", value_parser = Selector::parse)]
    after: Selector,
    /// Say which files of the guest were added, removed, changed or renamed; needs the passphrase
    #[arg(long)]
    files: bool,
    #[command(flatten)]
    catalogue: CatalogueUse,
    #[command(flatten)]
    sandbox: Sandbox,
}

pub(crate) async fn run(options: Diff, context: &Context) -> Result<Done, Failure> {
    if options.files {
        return files::diff::run(
            &options.before,
            &options.after,
            (options.catalogue, &options.sandbox),
            context,
        )
        .await;
    }
    let started = Instant::now();
    let repository = repository::open(context, Access::Metadata).await?;
    let log = repository::load_recent_log(context, &repository).await?;
    let before = open(&repository, &log, &options.before).await?;
    let after = open(&repository, &log, &options.after).await?;
    let (monitor, watched) = context.watched(Work::Log)?;
    let diffs = match options.before.member.as_ref().or(options.after.member.as_ref()) {
        None => diff::diff(&before, &after, &monitor).await?,
        Some(name) => {
            let old = named(&before, options.before.member.as_ref().unwrap_or(name))?;
            let new = named(&after, options.after.member.as_ref().unwrap_or(name))?;
            vec![diff::member((&before, old), (&after, new), &monitor).await?]
        }
    };
    drop(watched);
    context.output.result(&table(&COLUMNS, &diffs.iter().map(row).collect::<Vec<_>>()))?;
    let changed = diffs.iter().fold(0, |sum: u64, diff| sum.saturating_add(diff.changed_bytes()));
    context.output.message(&format!("{} changed in {}", size(changed), count(diffs.len() as u64, "disk")));
    let base = id(&before);
    // Maps of large disks are long: they are made for whoever wants them.
    let described = match context.output.is_json() {
        true => diffs.iter().map(|diff| describe(diff, &base)).collect::<Result<Vec<_>, _>>()?,
        false => Vec::new(),
    };
    Ok(done([
        ("before", json!(base)),
        ("after", json!(id(&after))),
        ("changed_bytes", json!(changed)),
        ("disks", json!(described)),
        ("duration_seconds", json!(seconds(started.elapsed()))),
    ]))
}

async fn open(repository: &Repository, log: &Log, selector: &Selector) -> Result<SnapshotReader, Failure> {
    let session = selector.resolve(repository, log)?;
    Ok(restore::open(repository, log, session).await?)
}

fn named<'a>(reader: &'a SnapshotReader, name: &Title) -> Result<&'a Member, Failure> {
    reader.member(name.as_str()).ok_or_else(|| {
        let names: Vec<&str> = reader.body().members.iter().map(|member| member.name.as_str()).collect();
        Failure::usage(format!(
            "snapshot {} has no disk {name}; it has {}",
            reader.manifest().session.short(),
            names.join(", ")
        ))
    })
}

fn id(reader: &SnapshotReader) -> String {
    reader.manifest().session.intent.to_string()
}

fn row(diff: &MemberDiff) -> Vec<String> {
    let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), size);
    vec![
        diff.name.to_string(),
        diff.kind.to_string(),
        bytes(diff.before_bytes),
        bytes(diff.after_bytes),
        size(diff.changed_bytes()),
        diff.changed.len().to_string(),
    ]
}

fn describe(diff: &MemberDiff, base: &str) -> Result<Value, Failure> {
    Ok(json!({
        "name": diff.name.to_string(),
        "kind": diff.kind.to_string(),
        "before_bytes": diff.before_bytes,
        "after_bytes": diff.after_bytes,
        "changed_bytes": diff.changed_bytes(),
        "map": map(diff, base)?,
    }))
}

/// As `backup --changed` reads it; none of what is not there any more.
fn map(diff: &MemberDiff, base: &str) -> Result<Option<Value>, Failure> {
    let Some(size_bytes) = diff.after_bytes else { return Ok(None) };
    let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("{}: {error}", diff.name));
    let map = ChangeMap::new(SOURCE, size_bytes, diff.changed.iter().cloned());
    let map = map.map_err(|error| failed(&error))?.since(base.to_owned());
    let mut text = Vec::new();
    map.write(&mut text).map_err(|error| failed(&error))?;
    serde_json::from_slice(&text).map(Some).map_err(|error| failed(&error))
}
