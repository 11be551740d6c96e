//! `explain`: where on its disks a night left its traces, and which files lay there the night before.

use std::ops::Range;
use std::sync::Arc;

use clap::Args;
use sancerre_engine::restore::{self, SnapshotReader};
use sancerre_engine::select::Selector;
use sancerre_engine::suspicion;
use sancerre_engine::suspicion::explain::{self, Explained, TracePlace};
use sancerre_format::names::Title;
use sancerre_format::outcome::MemberKind;
use sancerre_guest::{FolderEntry, GuestFile, Moment, NodeKind};
use serde_json::{Value, json};

use super::Context;
use crate::access::Access;
use crate::command::ended;
use crate::command::files::{self, Opened, Sandbox, walk};
use crate::exit::{Done, Exit, Failure};
use crate::output::{Align, table};
use crate::repository;
use crate::units::{count, size};

/// Say where on its disks a night left its traces.
///
/// Reads the statistics of the snapshot, and no content: a writer's or keeper's key file is enough. With --files it looks into
/// the file systems of the snapshot before, and needs the passphrase or a restore identity.
#[derive(Debug, Args)]
#[command(after_help = "\
Of each stretch: what changed and what of that looks random, and how many files (or pages of
databases) were lost where they stood, are gone (discarded, or something else lies there), and
begin random where none began.

Examples:
  sancerre explain files01:latest
  sancerre explain 3f9a12cc:disk0
  sancerre explain files01:latest --files      # then: sancerre get SNAPSHOT:PLACE --target DIR")]
pub(crate) struct Explain {
    /// The snapshot, and one disk of it if only that is meant: see `sancerre --help`
    #[arg(value_name = "SNAPSHOT[:DISK]", value_parser = Selector::parse)]
    snapshot: Selector,
    /// Name the files of the snapshot before that began as files of a known kind do, and at whose place something else stands
    /// in this one
    #[arg(long)]
    files: bool,
    #[command(flatten)]
    sandbox: Sandbox,
}

const BLOCK_BYTES: u64 = 4096;

const PLACES: [(&str, Align); 8] = [
    ("disk", Align::Left),
    ("from", Align::Right),
    ("bytes", Align::Right),
    ("changed", Align::Right),
    ("random", Align::Right),
    ("lost", Align::Right),
    ("gone", Align::Right),
    ("headless", Align::Right),
];

pub(crate) async fn run(options: Explain, context: &Context) -> Result<Done, Failure> {
    let access = if options.files { Access::Content } else { Access::Metadata };
    let repository = repository::open(context, access).await?;
    let log = repository::load_recent_log(context, &repository).await?;
    let session = options.snapshot.resolve(&repository, &log)?;
    let reader = restore::open(&repository, &log, session).await?;
    let wanted = options.snapshot.member.as_ref();
    let explained = explain::explain(&reader, wanted).await?;
    let rows: Vec<Vec<String>> = explained.iter().flat_map(rows).collect();
    for disk in &explained {
        let why = disk.night.as_ref().and_then(|night| suspicion::why(&night.judgement, &night.counts));
        let text = match (&disk.night, why) {
            (None, _) => "no statistics were made of it".to_owned(),
            (Some(night), Some(why)) => format!("{}: {why}", night.judgement.verdict),
            (Some(night), None) => night.judgement.verdict.to_string(),
        };
        context.output.message(&format!("{}: {text}", disk.name));
    }
    if !rows.is_empty() && !options.files {
        context.output.result(&table(&PLACES, &rows))?;
    }
    let mut summary = vec![
        ("snapshot", json!(session.intent.to_string())),
        ("disks", json!(explained.iter().map(explained_json).collect::<Vec<_>>())),
    ];
    if !options.files {
        return Ok(ended(Exit::Done, summary));
    }
    let Some(before) = super::before(&repository, &log, &reader).await? else {
        return Err(Failure::usage("this is the first snapshot of its machine: there is none before it"));
    };
    let lost = look(&reader, &before, wanted, &options.sandbox, context).await?;
    tell(&lost, &before, context)?;
    summary.push(("before", json!(before.manifest().session.intent.to_string())));
    summary.push(("files", json!(lost.files.iter().map(LostFile::json).collect::<Vec<_>>())));
    summary.push(("left_out", json!(lost.faults)));
    let exit = if lost.faults.is_empty() { Exit::Done } else { Exit::Damaged };
    Ok(ended(exit, summary))
}

fn rows(disk: &Explained) -> Vec<Vec<String>> {
    let row = |place: &TracePlace| {
        let counts = &place.counts;
        vec![
            disk.name.to_string(),
            place.range.start.to_string(),
            size(place.range.end.saturating_sub(place.range.start)),
            size(counts.changed.saturating_mul(BLOCK_BYTES)),
            size(counts.random.saturating_mul(BLOCK_BYTES)),
            counts.lost.saturating_add(counts.pages_lost).to_string(),
            counts.vanished.saturating_add(counts.covered).to_string(),
            counts.headless.to_string(),
        ]
    };
    disk.places.iter().map(row).collect()
}

fn explained_json(disk: &Explained) -> Value {
    let place = |place: &TracePlace| {
        let counts = &place.counts;
        json!({
            "offset": place.range.start,
            "length": place.range.end.saturating_sub(place.range.start),
            "changed_blocks": counts.changed,
            "random_blocks": counts.random,
            "lost_files": counts.lost,
            "lost_pages": counts.pages_lost,
            "covered_files": counts.covered,
            "vanished_files": counts.vanished,
            "headless_files": counts.headless,
        })
    };
    json!({
        "name": disk.name.to_string(),
        "suspicion": disk.night.as_ref().map(crate::suspicion::json),
        "places": disk.places.iter().map(place).collect::<Vec<_>>(),
    })
}

/// A file of the snapshot before.
struct LostFile {
    /// As `ls` and `get` take it.
    place: String,
    size_bytes: u64,
    modified: Option<Moment>,
    /// How many starts of it are gone: of a file that is no database, one.
    starts: usize,
}

impl LostFile {
    fn json(&self) -> Value {
        json!({
            "place": self.place,
            "size_bytes": self.size_bytes,
            "modified": self.modified.map(|moment| files::time(Some(moment))),
            "starts": self.starts,
        })
    }
}

#[derive(Default)]
struct LostFiles {
    files: Vec<LostFile>,
    /// What could not be read.
    faults: Vec<String>,
}

/// Looks through the file systems of the snapshot before for what lay where something else begins now.
async fn look(
    reader: &SnapshotReader,
    before: &SnapshotReader,
    wanted: Option<&Title>,
    sandbox: &Sandbox,
    context: &Context,
) -> Result<LostFiles, Failure> {
    let opened = files::open(before, sandbox, context).await?;
    let disks = before.body().members.iter().filter(|member| member.kind == MemberKind::Disk);
    let (mut starts, mut is_known) = (Vec::new(), false);
    for member in disks {
        let is_meant = wanted.is_none_or(|wanted| *wanted == member.name);
        let ended = if is_meant { explain::ended(before, reader, &member.name).await? } else { None };
        is_known |= ended.is_some();
        starts.push(ended.unwrap_or_default());
    }
    if !is_known {
        return Err(Failure::usage(
            "this snapshot or the one before has no statistics, so nothing tells which files; `sancerre diff --files` compares \
             both",
        ));
    }
    files::waiting(move || search(&opened, &starts)).await
}

/// `starts`: of each disk, the blocks at which something started that does not any more.
fn search(opened: &Opened, starts: &[Vec<u64>]) -> Result<LostFiles, Failure> {
    let mut lost = LostFiles::default();
    let mut unread = Vec::new();
    let gone = |disk: u16, range: &Range<u64>| {
        let starts = starts.get(usize::from(disk)).map(Vec::as_slice).unwrap_or_default();
        let before = |end: u64| starts.partition_point(|block| block.saturating_mul(BLOCK_BYTES) < end);
        before(range.end).saturating_sub(before(range.start))
    };
    let faults = walk::everything(opened, None, &mut |volume: u16, place: &str, entry: &FolderEntry| {
        let node = &entry.node;
        if node.kind != NodeKind::File {
            return;
        }
        let mut file = GuestFile::new(Arc::clone(&opened.guest), volume, node.id, b"", node.size_bytes);
        match file.places() {
            Ok(places) => {
                let starts: usize = places.iter().map(|(disk, range)| gone(*disk, range)).sum();
                let (size_bytes, modified) = (node.size_bytes, node.modified);
                if starts > 0 {
                    lost.files.push(LostFile { place: place.to_owned(), size_bytes, modified, starts });
                }
            }
            Err(error) => unread.push(format!("{place}: {error}")),
        }
    })?;
    lost.faults = [faults, unread].concat();
    Ok(lost)
}

fn tell(lost: &LostFiles, before: &SnapshotReader, context: &Context) -> Result<(), Failure> {
    let line = |file: &LostFile| {
        format!("{}  {:>12}  {}\n", files::time(file.modified), file.size_bytes, file.place)
    };
    context.output.result(&lost.files.iter().map(line).collect::<String>())?;
    for fault in &lost.faults {
        context.output.warning(&format!("left out: {fault}"));
    }
    let id = before.manifest().session.short();
    context.output.message(&format!(
        "{} of the snapshot before, {id}, do not begin any more as they did; `sancerre get {id}:PLACE --target DIR` gets one back",
        count(lost.files.len() as u64, "file")
    ));
    Ok(())
}
