//! `history`: a file of a guest in each snapshot of its machine. Nights in which it lies where it lay, in the same chunks, cost
//! no read of its content.

use std::ops::Range;
use std::sync::Arc;

use clap::Args;
use sancerre_engine::Error;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::snapshot_disk::{ChunkCache, SnapshotDisk};
use sancerre_engine::restore::{self, SnapshotReader};
use sancerre_engine::select::{names_of_machines, public_names};
use sancerre_format::file_catalogue::{CataloguedFile, FileSpot, SpotPlace};
use sancerre_format::id::{ContentId, SessionId};
use sancerre_format::names::{Time, Title};
use sancerre_guest::{FileNode, GuestError, GuestFile, NodeKind, RunPlace};
use serde_json::{Value, json};

use super::{Context, Opened, Sandbox, open_with, time, waiting};
use crate::access::Access;
use crate::catalogue::Spot as CatalogueSpot;
use crate::catalogue::{Catalogue, CatalogueUse, Memo, PathStep, Wanted, file_node};
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
    catalogue: CatalogueUse,
    #[command(flatten)]
    sandbox: Sandbox,
}

/// A file in one snapshot.
struct Night {
    content: Content,
    node: FileNode,
    places: Vec<Part>,
}

/// How its bytes are read.
enum Content {
    /// By the child that told of it.
    Guest { opened: Opened, volume: u16 },
    /// By its places.
    Places(Vec<Arc<SnapshotDisk>>),
}

/// What all nights share.
struct Nights<'a> {
    options: &'a History,
    context: &'a Context,
    path: &'a str,
    repository: Repository,
    log: Log,
    cache: Arc<ChunkCache>,
    memo: Memo<Vec<PathStep>>,
    by_catalogue: usize,
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
enum FileChange {
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
    state: FileChange,
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
    let sessions = nights(&repository, &log, &vm)?;
    let cache = ChunkCache::new(context.global.memory);
    let (memo, by_catalogue) = (Memo::default(), 0);
    let mut nights = Nights { options: &options, context, path, repository, log, cache, memo, by_catalogue };
    let (mut rows, mut last, mut worst) = (Vec::new(), None::<Night>, Exit::Done);
    for (session, time) in sessions {
        let id = session.intent.to_string();
        let (node, state) = match nights.look(session).await {
            Ok(None) => (None, FileChange::Missing),
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
                (None, FileChange::Unreadable)
            }
        };
        rows.push(Row { id, time, node, state });
    }
    if rows.iter().all(|row| row.state == FileChange::Missing) {
        return Err(Failure::usage(format!("no snapshot of {vm} has {path}")));
    }
    context.output.result(&table(&COLUMNS, &rows.iter().map(cells).collect::<Vec<_>>()))?;
    let (_, fetched_bytes) = nights.cache.fetched();
    let described: Vec<Value> = rows.iter().map(describe).collect();
    Ok(ended(
        worst,
        [
            ("vm", json!(vm.to_string())),
            ("path", json!(path)),
            ("snapshots", json!(described)),
            ("by_catalogue", json!(nights.by_catalogue)),
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

impl Nights<'_> {
    /// The file in one snapshot; none when it is not there.
    async fn look(&mut self, session: SessionId) -> Result<Option<Night>, Failure> {
        let reader = restore::open(&self.repository, &self.log, session).await?;
        if !self.options.catalogue.no_catalogue && !self.options.sandbox.unlocks() {
            match self.by_catalogue(&reader).await {
                Ok(Some(found)) => {
                    self.by_catalogue += 1;
                    return Ok(found);
                }
                Ok(None) => {}
                Err(error) if error.is_damage() => {
                    self.context.output.warning(&format!("{error}; the disks are looked at in its place"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let (monitor, cache) = (self.context.monitor(), Arc::clone(&self.cache));
        let opened = open_with(&reader, &self.options.sandbox, self.context, cache, &monitor).await?;
        by_disks(opened, self.path.to_owned()).await
    }

    /// The same by the catalogue; none where there is none, or it cannot tell.
    async fn by_catalogue(&mut self, reader: &SnapshotReader) -> Result<Option<Option<Night>>, Error> {
        let monitor = self.context.monitor();
        let Some(catalogue) = Catalogue::of(reader, &self.cache, &monitor).await? else { return Ok(None) };
        let wanted = Wanted::new(self.path);
        let said = catalogue
            .ask(&mut self.memo, &mut |names, folds| {
                let mut steps = Vec::new();
                names.each(&mut |folder, file| steps.extend(wanted.step(folder, file, folds)))?;
                Ok(steps)
            })
            .await?;
        let file = match wanted.find(&said, Vec::as_slice) {
            _ if said.volumes.is_empty() || !said.faults.is_empty() => return Ok(None),
            CatalogueSpot::Missing => return Ok(Some(None)),
            CatalogueSpot::Inside { file, .. } => file,
            CatalogueSpot::Volumes(_) | CatalogueSpot::Unknown => return Ok(None),
        };
        let mut disks = Vec::new();
        for name in &said.disks {
            let Some(member) = reader.member(name) else { return Ok(None) };
            disks.push(SnapshotDisk::open(reader, member, &self.cache, &monitor)?);
        }
        let node = file_node(&file);
        let places = match node.kind {
            NodeKind::File => catalogued_places(&file, &disks).await?,
            _ => Some(Vec::new()),
        };
        Ok(places.map(|places| Some(Night { content: Content::Places(disks), node, places })))
    }
}

/// What is known of a file's content by its places; none where those are not told.
async fn catalogued_places(
    file: &CataloguedFile,
    disks: &[Arc<SnapshotDisk>],
) -> Result<Option<Vec<Part>>, Error> {
    let Some(spots) = &file.spots else { return Ok(None) };
    let mut parts = Vec::new();
    for FileSpot { length_bytes, place } in spots {
        parts.push(match place {
            SpotPlace::Hole => Part::Hole(*length_bytes),
            SpotPlace::Held => return Ok(None),
            SpotPlace::Disk { disk, offset } => {
                let range = *offset..offset.saturating_add(*length_bytes);
                let Some(reader) = disks.get(usize::from(*disk)) else { return Ok(None) };
                // A catalogue may lie.
                if range.end > reader.size_bytes() {
                    return Ok(None);
                }
                Part::Chunks { disk: *disk, chunks: reader.content_ids(range.clone()).await?, range }
            }
        });
    }
    Ok(Some(parts))
}

/// The same by the disks.
async fn by_disks(opened: Opened, path: String) -> Result<Option<Night>, Failure> {
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
        Ok(Some(Night { content: Content::Guest { opened, volume }, node, places }))
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
async fn compared(last: Option<Night>, night: Night) -> Result<(Night, FileChange), Failure> {
    let Some(last) = last else { return Ok((night, FileChange::First)) };
    if (last.node.kind, last.node.size_bytes) != (night.node.kind, night.node.size_bytes) {
        return Ok((night, FileChange::Changed));
    }
    if last.places == night.places {
        return Ok((night, FileChange::Same));
    }
    waiting(move || {
        let (mut one, mut other) = (last.file(), night.file());
        let mut at = 0;
        while at < night.node.size_bytes {
            let length = night.node.size_bytes.saturating_sub(at).min(PIECE_BYTES);
            let mut pieces = [0, 1].map(|_| vec![0; usize::try_from(length).unwrap_or(0)]);
            let [before, after] = &mut pieces;
            last.read(&mut one, at, before)?;
            night.read(&mut other, at, after)?;
            if before != after {
                return Ok((night, FileChange::Changed));
            }
            at = at.saturating_add(length);
        }
        Ok((night, FileChange::Same))
    })
    .await
}

impl Night {
    /// As the child reads it, where there is one.
    fn file(&self) -> Option<GuestFile> {
        let Content::Guest { opened, volume } = &self.content else { return None };
        Some(GuestFile::new(Arc::clone(&opened.guest), *volume, self.node.id, b"", self.node.size_bytes))
    }

    fn read(&self, file: &mut Option<GuestFile>, offset: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        match (&self.content, file) {
            (Content::Places(disks), _) => self.read_places(disks, offset, buffer),
            (_, Some(file)) => {
                file.read_at(offset, buffer).map_err(|error| failure("the content of the file", error))
            }
            (_, None) => Err(Error::bug("a file that nobody reads").into()),
        }
    }

    fn read_places(
        &self,
        disks: &[Arc<SnapshotDisk>],
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), Failure> {
        let (mut start, end) = (0, offset.saturating_add(buffer.len() as u64));
        buffer.fill(0);
        for part in &self.places {
            let length = match part {
                Part::Hole(length) => *length,
                Part::Held(bytes) => bytes.len() as u64,
                Part::Chunks { range, .. } => range.end.saturating_sub(range.start),
            };
            let (from, to) = (offset.max(start), end.min(start.saturating_add(length)));
            if let Part::Chunks { disk, range, .. } = part
                && from < to
                && let Some(disk) = disks.get(usize::from(*disk))
            {
                let within = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
                let piece = buffer.get_mut(within(from)..within(to)).unwrap_or_default();
                let at = range.start.saturating_add(from.saturating_sub(start));
                tokio::runtime::Handle::current().block_on(disk.read(at, piece))?;
            }
            start = start.saturating_add(length);
        }
        Ok(())
    }
}

fn word(state: FileChange) -> &'static str {
    match state {
        FileChange::First => "first",
        FileChange::Same => "same",
        FileChange::Changed => "changed",
        FileChange::Missing => "missing",
        FileChange::Unreadable => "unreadable",
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
