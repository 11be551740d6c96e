//! `history`: a file of a guest in each snapshot of its machine. Nights in which it lies where it lay, in the same chunks, cost
//! no read of its content.

mod night;

use std::sync::Arc;

use clap::Args;
use sancerre_engine::Error;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::snapshot_disk::{ChunkCache, SnapshotDisk};
use sancerre_engine::restore::{self, KnownLists, SnapshotReader};
use sancerre_engine::select::{names_of_machines, public_names};
use sancerre_format::id::SessionId;
use sancerre_format::names::{Time, Title};
use sancerre_guest::FileNode;
use serde_json::{Value, json};

use super::{Context, Sandbox, open_with, time};
use crate::access::Access;
use crate::catalogue::Spot as CatalogueSpot;
use crate::catalogue::{Catalogue, CatalogueUse, Memo, PathStep, Wanted};
use crate::command::ended;
use crate::exit::{Done, Exit, Failure};
use crate::output::{Align, table};
use crate::repository;
use night::{FileChange, Night, by_disks, compared};

const COLUMNS: [(&str, Align); 5] = [
    ("id", Align::Left),
    ("time (UTC)", Align::Left),
    ("size", Align::Right),
    ("modified (UTC)", Align::Left),
    ("content", Align::Left),
];
const ID_DIGITS: usize = 8;

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

/// What all nights share.
struct Nights<'a> {
    options: &'a History,
    context: &'a Context,
    path: &'a str,
    repository: Repository,
    log: Log,
    cache: Arc<ChunkCache>,
    lists: KnownLists,
    memo: Memo<Vec<PathStep>>,
    by_catalogue: usize,
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
    let (lists, memo, by_catalogue) = (KnownLists::default(), Memo::default(), 0);
    let mut nights =
        Nights { options: &options, context, path, repository, log, cache, lists, memo, by_catalogue };
    let (rows, worst) = nights.rows(sessions).await?;
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
    /// What became of the file in one snapshot after the other, and the worst that came in between.
    async fn rows(&mut self, sessions: Vec<(SessionId, Time)>) -> Result<(Vec<Row>, Exit), Failure> {
        let (mut rows, mut last, mut worst) = (Vec::new(), None::<Night>, Exit::Done);
        for (session, time) in sessions {
            let id = session.intent.to_string();
            let (node, state) = match self.look(session).await {
                Ok(None) => (None, FileChange::Missing),
                Ok(Some(night)) => {
                    let node = night.node.clone();
                    let (night, state) = compared(last.take(), night).await?;
                    last = Some(night);
                    (Some(node), state)
                }
                Err(failure) if failure.exit == Exit::Interrupted => return Err(failure),
                Err(failure) => {
                    self.context.output.warning(&format!("{id}: {}", failure.message));
                    worst = failure.exit;
                    (None, FileChange::Unreadable)
                }
            };
            rows.push(Row { id, time, node, state });
        }
        Ok((rows, worst))
    }

    /// The file in one snapshot; none when it is not there.
    async fn look(&mut self, session: SessionId) -> Result<Option<Night>, Failure> {
        let reader = restore::open_one_of(&self.repository, &self.log, session, &mut self.lists).await?;
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
        Ok(Night::of_catalogue(&file, disks).await?.map(Some))
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
