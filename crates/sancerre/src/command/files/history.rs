//! `history`: a file of a guest in each snapshot of its machine. Nights in which it lies where it lay, in the same chunks, cost
//! no read of its content.

use std::ops::Range;
use std::sync::Arc;

use clap::Args;
use sancerre_engine::Error;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::snapshot_disk::ChunkCache;
use sancerre_engine::restore;
use sancerre_engine::select::{names_of_machines, public_names};
use sancerre_format::id::{ContentId, SessionId};
use sancerre_format::names::{Time, Title};
use sancerre_guest::{FileNode, GuestError, GuestFile, NodeKind, RunPlace};
use serde_json::{Value, json};

use super::{Context, Opened, Sandbox, open_with, time, waiting};
use crate::access::Access;
use crate::command::ended;
use crate::exit::{Done, Exit, Failure};
use crate::guest_place::{self, Spot, Spotted, failure};
use crate::output::{Align, table};
use crate::repository;

const COLUMNS: [(&str, Align); 5] = [
    ("id", Align::Left),
    ("time (UTC)", Align::Left),
    ("size", Align::Right),
    ("modified (UTC)", Align::Left),
    ("content", Align::Left),
];
const ID_DIGITS: usize = 8;
/// What is compared at once where places do not tell.
const PIECE_BYTES: u64 = 4 << 20;

/// Say how a file of a guest was in each of its snapshots: its size, its time, and whether its content changed.
///
/// Where it lies in the same chunks as before, nothing of its content is read. Needs the passphrase.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre history web01:/srv/share/plan.xlsx
  sancerre history 'dc01:C:\\Users\\ada\\plan.xlsx'
  sancerre history web01:disk0:p1/etc/passwd --json")]
pub(crate) struct History {
    /// The machine, and the file
    #[arg(value_name = "VM:[DISK:]PATH")]
    place: String,
    #[command(flatten)]
    sandbox: Sandbox,
}

/// A file in one snapshot.
struct Night {
    opened: Opened,
    volume: u16,
    node: FileNode,
    places: Vec<Part>,
}

/// A stretch of a file, by what it says of its content without it being read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Hole(u64),
    /// Bytes in a structure of the file system, which are few.
    Held(Vec<u8>),
    Chunks {
        disk: u16,
        range: Range<u64>,
        chunks: Vec<(u64, ContentId)>,
    },
}

/// What became of the file in a night.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    First,
    Same,
    Changed,
    Missing,
    Unreadable,
}

struct Row {
    id: String,
    time: Time,
    node: Option<FileNode>,
    state: State,
}

pub(crate) async fn run(options: History, context: &Context) -> Result<Done, Failure> {
    let (vm, path) = options.place.split_once(':').filter(|(_, path)| !path.is_empty()).ok_or_else(|| {
        Failure::usage(format!(
            "{:?} names no file of a machine; write VM:PATH or VM:DISK:VOLUME/PATH",
            options.place
        ))
    })?;
    let vm = Title::typed(vm).map_err(|error| Failure::usage(error.to_string()))?;
    let repository = repository::open(context, Access::Content).await?;
    let log = repository::load_log(context, &repository).await?;
    let nights = nights(&repository, &log, &vm)?;
    let cache = ChunkCache::new(context.global.memory);
    let (mut rows, mut last, mut worst) = (Vec::new(), None::<Night>, Exit::Done);
    for (session, time) in nights {
        let id = session.intent.to_string();
        let found = look(&repository, &log, session, path, options.sandbox, context, &cache).await;
        let (node, state) = match found {
            Ok(None) => (None, State::Missing),
            Ok(Some(night)) => {
                let node = night.node.clone();
                let (night, state) = compared(last.take(), night).await?;
                last = Some(night);
                (Some(node), state)
            }
            Err(failure) if failure.exit == Exit::Interrupted => return Err(failure),
            Err(failure) => {
                context.output.warning(&format!("{id}: {}", failure.message));
                worst = failure.exit;
                (None, State::Unreadable)
            }
        };
        rows.push(Row { id, time, node, state });
    }
    if rows.iter().all(|row| row.state == State::Missing) {
        return Err(Failure::usage(format!("no snapshot of {vm} has {path}")));
    }
    context.output.result(&table(&COLUMNS, &rows.iter().map(cells).collect::<Vec<_>>()))?;
    let (_, fetched_bytes) = cache.fetched();
    let described: Vec<Value> = rows.iter().map(describe).collect();
    Ok(ended(
        worst,
        [
            ("vm", json!(vm.to_string())),
            ("path", json!(path)),
            ("snapshots", json!(described)),
            ("fetched_bytes", json!(fetched_bytes)),
        ],
    ))
}

/// The snapshots of a machine, oldest first.
pub(super) fn nights(
    repository: &Repository,
    log: &Log,
    vm: &Title,
) -> Result<Vec<(SessionId, Time)>, Failure> {
    let names = names_of_machines(log, public_names(repository, log, vm));
    let snapshots = log.snapshots();
    let of_vm = snapshots.iter().filter(|snapshot| names.contains(&snapshot.manifest.fields.vm));
    let found: Vec<_> =
        of_vm.map(|snapshot| (snapshot.session(), snapshot.manifest.fields.started)).collect();
    match found.is_empty() {
        false => Ok(found),
        true => Err(Failure::usage(format!("there are no snapshots of {vm}; see `sancerre snapshots`"))),
    }
}

/// The file in one snapshot; none when it is not there.
async fn look(
    repository: &Repository,
    log: &Log,
    session: SessionId,
    path: &str,
    sandbox: Sandbox,
    context: &Context,
    cache: &Arc<ChunkCache>,
) -> Result<Option<Night>, Failure> {
    let reader = restore::open(repository, log, session).await?;
    let monitor = context.monitor();
    let opened = open_with(&reader, sandbox, context, Arc::clone(cache), &monitor).await?;
    let path = path.to_owned();
    waiting(move || {
        let spot = match guest_place::find(&opened.guest, &opened.disks, &path, true) {
            Ok(spot) => spot,
            Err(failure) if failure.exit == Exit::Usage => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let Spot::FolderEntry(Spotted { volume, node, .. }) = spot else {
            return Err(Failure::usage("name a file; `sancerre diff` compares whole disks"));
        };
        let places =
            if node.kind == NodeKind::File { places(&opened, volume, &node, &path)? } else { Vec::new() };
        Ok(Some(Night { opened, volume, node, places }))
    })
    .await
}

/// What is known of a file's content without it.
fn places(opened: &Opened, volume: u16, node: &FileNode, path: &str) -> Result<Vec<Part>, Failure> {
    let mut file = GuestFile::new(Arc::clone(&opened.guest), volume, node.id, b"", node.size_bytes);
    let (mut parts, mut at) = (Vec::new(), 0);
    let failed = |error: GuestError| failure(path, error);
    while let Some(run) = file.run(at).map_err(failed)? {
        parts.push(match run.place {
            RunPlace::Hole => Part::Hole(run.length_bytes),
            RunPlace::Held => {
                let length = run.length_bytes.min(PIECE_BYTES);
                let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
                file.read_at(at, &mut bytes).map_err(failed)?;
                at = at.saturating_add(length);
                parts.push(Part::Held(bytes));
                continue;
            }
            RunPlace::Disk { disk, offset } => {
                let range = offset..offset.saturating_add(run.length_bytes);
                let reader = opened.snapshot_disks.get(usize::from(disk));
                let reader = reader.ok_or_else(|| Failure::from(Error::bug("a disk that is not there")))?;
                let chunks = tokio::runtime::Handle::current().block_on(reader.content_ids(range.clone()))?;
                Part::Chunks { disk, range, chunks }
            }
        });
        at = at.saturating_add(run.length_bytes);
    }
    Ok(parts)
}

/// By places where those are the same; else by all bytes.
async fn compared(last: Option<Night>, night: Night) -> Result<(Night, State), Failure> {
    let Some(last) = last else { return Ok((night, State::First)) };
    if (last.node.kind, last.node.size_bytes) != (night.node.kind, night.node.size_bytes) {
        return Ok((night, State::Changed));
    }
    if last.places == night.places {
        return Ok((night, State::Same));
    }
    waiting(move || {
        let file = |night: &Night| {
            let guest = Arc::clone(&night.opened.guest);
            GuestFile::new(guest, night.volume, night.node.id, b"", night.node.size_bytes)
        };
        let (mut one, mut other) = (file(&last), file(&night));
        let mut at = 0;
        while at < night.node.size_bytes {
            let length = night.node.size_bytes.saturating_sub(at).min(PIECE_BYTES);
            let mut pieces = [0, 1].map(|_| vec![0; usize::try_from(length).unwrap_or(0)]);
            let [before, after] = &mut pieces;
            one.read_at(at, before).map_err(|error| failure("the content of the file", error))?;
            other.read_at(at, after).map_err(|error| failure("the content of the file", error))?;
            if before != after {
                return Ok((night, State::Changed));
            }
            at = at.saturating_add(length);
        }
        Ok((night, State::Same))
    })
    .await
}

fn word(state: State) -> &'static str {
    match state {
        State::First => "first",
        State::Same => "same",
        State::Changed => "changed",
        State::Missing => "missing",
        State::Unreadable => "unreadable",
    }
}

fn cells(row: &Row) -> Vec<String> {
    vec![
        row.id.chars().take(ID_DIGITS).collect(),
        row.time.to_string(),
        row.node.as_ref().map_or_else(|| "-".to_owned(), |node| node.size_bytes.to_string()),
        time(row.node.as_ref().and_then(|node| node.modified)),
        word(row.state).to_owned(),
    ]
}

fn describe(row: &Row) -> Value {
    json!({
        "snapshot": row.id,
        "time": row.time.to_string(),
        "content": word(row.state),
        "size_bytes": row.node.as_ref().map(|node| node.size_bytes),
        "modified": row.node.as_ref().and_then(|node| node.modified).map(|moment| time(Some(moment))),
    })
}
