//! `find`: names in one or in all snapshots of a machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Args;
use sancerre_engine::Error;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::snapshot_disk::ChunkCache;
use sancerre_engine::restore::{KnownLists, SnapshotReader, open_one_of};
use sancerre_format::id::SessionId;
use sancerre_guest::{FileNode, FolderEntry, Moment};
use serde_json::{Value, json};

use super::history::nights;
use super::{Context, Opened, Sandbox, entry_json, open_with, time, waiting, walk};
use crate::access::Access;
use crate::catalogue::Spot as CatalogueSpot;
use crate::catalogue::{Catalogue, CatalogueUse, Memo, PathStep, Said, Wanted, file_node, joined};
use crate::command::{ended, restore};
use crate::exit::{Done, Exit, Failure};
use crate::guest_names::{fits, shown};
use crate::guest_place::{GuestPlace, Spot, is_folded};
use crate::repository;

const ID_DIGITS: usize = 8;

/// Find files of a guest by their names.
///
/// Reads the catalogue of the snapshot (backup --catalogue), or its folders, and no content. Needs the passphrase: a writer's key file opens no content.
#[derive(Debug, Args)]
#[command(after_help = "\
In a pattern, * stands for any letters and ? for one. Where a file system takes upper and lower
case for one, so does this. Without a disk or path, all file systems are looked through.

Examples:
  sancerre find '*.xlsx' web01:latest
  sancerre find 'invoice-2026-*' web01:latest~7:/srv/share
  sancerre find '*.locked' web01:latest --all      # the night in which it began")]
pub(crate) struct Find {
    /// What the name must fit
    #[arg(value_name = "PATTERN")]
    pattern: String,
    /// The snapshot, and a disk or folder of it
    #[arg(value_name = "SNAPSHOT[:DISK[:PATH]]", value_parser = GuestPlace::parse)]
    place: GuestPlace,
    /// In all snapshots of the machine, oldest first: a line where a name appears, changes its size or time, or is gone
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    catalogue: CatalogueUse,
    #[command(flatten)]
    sandbox: Sandbox,
}

/// What is kept of a piece of a catalogue.
struct Kept {
    /// What fits, by its path in the volume.
    hits: Vec<(Vec<u8>, FileNode)>,
    steps: Vec<PathStep>,
}

struct Hit {
    /// As `ls` and `get` take it.
    place: String,
    name: Vec<u8>,
    node: FileNode,
}

#[derive(Default)]
struct Search {
    pattern: Vec<u8>,
    hits: Vec<Hit>,
    faults: Vec<String>,
    /// Whether some of the disks could not be read when they were backed up.
    is_damaged: bool,
    by_catalogue: bool,
}

pub(crate) async fn run(options: Find, context: &Context) -> Result<Done, Failure> {
    if options.all {
        return all(options, context).await;
    }
    let reader = restore::open(&options.place.snapshot, context).await?;
    let (cache, monitor) = (ChunkCache::new(context.global.memory), context.monitor());
    reader.warn(&monitor);
    let search = search(&reader, &options, context, &cache, &mut Memo::default()).await?;
    let line =
        |hit: &Hit| format!("{}  {:>12}  {}\n", time(hit.node.modified), hit.node.size_bytes, hit.place);
    context.output.result(&search.hits.iter().map(line).collect::<String>())?;
    for fault in &search.faults {
        context.output.warning(&format!("left out: {fault}"));
    }
    let found: Vec<Value> = search
        .hits
        .iter()
        .map(|hit| {
            let mut entry = entry_json(&hit.name, &hit.node, None);
            if let Some(fields) = entry.as_object_mut() {
                fields.insert("place".to_owned(), json!(hit.place));
            }
            entry
        })
        .collect();
    let exit = match (search.faults.is_empty(), search.is_damaged) {
        (false, _) => Exit::Damaged,
        (true, true) => Exit::NotAsAsked,
        (true, false) => Exit::Done,
    };
    let (_, fetched_bytes) = cache.fetched();
    Ok(ended(
        exit,
        [
            ("snapshot", json!(reader.manifest().session.intent.to_string())),
            ("vm", json!(reader.vm().to_string())),
            ("entries", json!(found)),
            ("left_out", json!(search.faults)),
            ("by_catalogue", json!(search.by_catalogue)),
            ("fetched_bytes", json!(fetched_bytes)),
        ],
    ))
}

/// By the catalogue of the snapshot where there is one and it can tell, else by its disks.
async fn search(
    reader: &SnapshotReader,
    options: &Find,
    context: &Context,
    cache: &Arc<ChunkCache>,
    memo: &mut Memo<Kept>,
) -> Result<Search, Failure> {
    let monitor = context.monitor();
    if !options.catalogue.no_catalogue && !options.sandbox.unlocks() {
        match by_catalogue(reader, options, cache, &monitor, memo).await {
            Ok(Some(search)) => return Ok(search),
            Ok(None) => {}
            Err(error) if error.is_damage() => {
                context.output.warning(&format!("{error}; the disks are looked at in its place"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let opened = open_with(reader, &options.sandbox, context, Arc::clone(cache), &monitor).await?;
    let (place, pattern) = (options.place.clone(), options.pattern.clone().into_bytes());
    waiting(move || {
        let mut search = Search { pattern, is_damaged: !opened.is_whole, ..Search::default() };
        search.all(&place, &opened)?;
        Ok(search)
    })
    .await
}

async fn by_catalogue(
    reader: &SnapshotReader,
    options: &Find,
    cache: &Arc<ChunkCache>,
    monitor: &Monitor,
    memo: &mut Memo<Kept>,
) -> Result<Option<Search>, Error> {
    let Some(catalogue) = Catalogue::of(reader, cache, monitor).await? else { return Ok(None) };
    let (wanted, pattern) = (Wanted::new(&options.place.rest), options.pattern.as_bytes());
    let said = catalogue
        .ask(memo, &mut |names, folds| {
            let mut kept = Kept { hits: Vec::new(), steps: Vec::new() };
            names.each(&mut |folder, file| {
                if is_wanted(pattern, &file.name, folds) {
                    kept.hits.push((joined(&folder.path, &file.name), file_node(file)));
                }
                kept.steps.extend(wanted.step(folder, file, folds));
            })?;
            Ok(kept)
        })
        .await?;
    let hits = hits(&said, &wanted, &options.place.rest);
    Ok(hits.map(|hits| Search { hits, faults: said.faults, by_catalogue: true, ..Search::default() }))
}

/// What fits below a place; none where a catalogue cannot tell what the place is.
fn hits(said: &Said<Kept>, wanted: &Wanted, rest: &str) -> Option<Vec<Hit>> {
    let (volumes, below) = match wanted.find(said, |kept| kept.steps.as_slice()) {
        _ if said.volumes.is_empty() => return None,
        CatalogueSpot::Unknown | CatalogueSpot::Missing => return None,
        CatalogueSpot::Volumes(volumes) => (volumes, None),
        CatalogueSpot::Inside { volume, path, .. } => (vec![volume], Some(path)),
    };
    let mut hits = Vec::new();
    for volume in volumes.iter().filter_map(|at| said.volumes.get(*at)) {
        let base = match below {
            Some(_) => rest.trim_end_matches(['/', '\\']).to_owned(),
            None => said.place(volume, rest),
        };
        let mut found: Vec<(&[u8], &FileNode)> = Vec::new();
        for (path, node) in volume.parts.iter().flat_map(|kept| &kept.hits) {
            let inside = match below.as_deref() {
                None | Some([]) => Some(path.as_slice()),
                Some(below) => path.strip_prefix(below).and_then(|rest| rest.strip_prefix(b"/")),
            };
            found.extend(inside.map(|inside| (inside, node)));
        }
        let parts = |path: &[u8]| path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
        found.sort_by_cached_key(|(path, _)| parts(path));
        hits.extend(found.into_iter().map(|(path, node)| Hit {
            place: format!("{base}/{}", shown(path)),
            name: path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec(),
            node: node.clone(),
        }));
    }
    Some(hits)
}

/// What is known of a name from one night to the next.
type Seen = BTreeMap<String, (u64, Option<Moment>)>;

/// All snapshots of a machine, one after the other.
struct Nights<'a> {
    options: &'a Find,
    context: &'a Context,
    repository: Repository,
    log: Log,
    cache: Arc<ChunkCache>,
    lists: KnownLists,
}

impl Nights<'_> {
    async fn search(&mut self, session: SessionId, memo: &mut Memo<Kept>) -> Result<Search, Failure> {
        let reader = open_one_of(&self.repository, &self.log, session, &mut self.lists).await?;
        match search(&reader, self.options, self.context, &self.cache, memo).await {
            // A folder that is not there in a night has no names in it.
            Err(failure) if failure.exit == Exit::Usage => Ok(Search::default()),
            other => other,
        }
    }

    /// What is new, changed or gone since the night before.
    fn tell(&self, id: &str, hits: &[Hit], seen: &Seen, found: &mut Vec<Value>) -> Result<Seen, Failure> {
        let now: Seen =
            hits.iter().map(|hit| (hit.place.clone(), (hit.node.size_bytes, hit.node.modified))).collect();
        let short: String = id.chars().take(ID_DIGITS).collect();
        for hit in hits.iter().filter(|hit| seen.get(&hit.place) != now.get(&hit.place)) {
            let (time, size) = (time(hit.node.modified), hit.node.size_bytes);
            self.context.output.result(&format!("{short}  {time}  {size:>12}  {}\n", hit.place))?;
            let mut entry = entry_json(&hit.name, &hit.node, None);
            if let Some(fields) = entry.as_object_mut() {
                fields.insert("place".to_owned(), json!(hit.place));
                fields.insert("snapshot".to_owned(), json!(id));
            }
            found.push(entry);
        }
        for place in seen.keys().filter(|place| !now.contains_key(*place)) {
            self.context.output.result(&format!("{short}  gone  {place}\n"))?;
            found.push(json!({"place": place, "snapshot": id, "kind": "gone"}));
        }
        Ok(now)
    }
}

async fn all(options: Find, context: &Context) -> Result<Done, Failure> {
    let repository = repository::open(context, Access::Content).await?;
    let log = repository::load_log(context, &repository).await?;
    let named = options.place.snapshot.resolve(&repository, &log)?;
    let mut lists = KnownLists::default();
    let vm = open_one_of(&repository, &log, named, &mut lists).await?.vm().clone();
    let sessions = nights(&repository, &log, &vm)?;
    let cache = ChunkCache::new(context.global.memory);
    let mut nights = Nights { options: &options, context, repository, log, cache, lists };
    let (mut seen, mut found, mut faults, mut memo) = (Seen::new(), Vec::new(), Vec::new(), Memo::default());
    let mut by_catalogue = 0_usize;
    for (session, _) in sessions {
        let id = session.intent.to_string();
        let search = nights.search(session, &mut memo).await?;
        by_catalogue += usize::from(search.by_catalogue);
        faults.extend(search.faults.iter().map(|fault| format!("{id}: {fault}")));
        seen = nights.tell(&id, &search.hits, &seen, &mut found)?;
    }
    for fault in &faults {
        context.output.warning(&format!("left out: {fault}"));
    }
    let exit = if faults.is_empty() { Exit::Done } else { Exit::Damaged };
    let (_, fetched_bytes) = nights.cache.fetched();
    Ok(ended(
        exit,
        [
            ("vm", json!(vm.to_string())),
            ("entries", json!(found)),
            ("left_out", json!(faults)),
            ("by_catalogue", json!(by_catalogue)),
            ("fetched_bytes", json!(fetched_bytes)),
        ],
    ))
}

impl Search {
    fn all(&mut self, place: &GuestPlace, opened: &Opened) -> Result<(), Failure> {
        let spot = place.find(&opened.guest, &opened.disks, true)?;
        let (pattern, hits) = (&self.pattern, &mut self.hits);
        let mut look = |volume: u16, place: &str, entry: &FolderEntry| {
            if is_wanted(pattern, &entry.name, is_folded(&opened.guest, volume)) {
                let (name, node) = (entry.name.clone(), entry.node.clone());
                hits.push(Hit { place: place.to_owned(), name, node });
            }
        };
        let faults = match spot {
            Spot::FolderEntry(spotted) => {
                let base = place.rest.trim_end_matches(['/', '\\']);
                walk::below(opened, (spotted.volume, spotted.node.id), base, &mut look)
            }
            Spot::Disk(disk) => walk::everything(opened, Some(disk), &mut look)?,
            Spot::Guest => walk::everything(opened, None, &mut look)?,
        };
        self.faults.extend(faults);
        Ok(())
    }
}

fn is_wanted(pattern: &[u8], name: &[u8], folds: bool) -> bool {
    if !folds {
        return fits(pattern, name);
    }
    let lower = |bytes: &[u8]| String::from_utf8_lossy(bytes).to_lowercase();
    fits(lower(pattern).as_bytes(), lower(name).as_bytes())
}
