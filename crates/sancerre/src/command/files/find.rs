//! `find`: names in one or in all snapshots of a machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Args;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::snapshot_disk::ChunkCache;
use sancerre_format::id::SessionId;
use sancerre_guest::{FileNode, FolderEntry, Moment};
use serde_json::{Value, json};

use super::history::nights;
use super::{Context, Opened, Sandbox, entry_json, open, open_with, time, waiting, walk};
use crate::access::Access;
use crate::command::{ended, restore};
use crate::exit::{Done, Exit, Failure};
use crate::guest_names::fits;
use crate::guest_place::{Place, Spot, is_folded};
use crate::repository;

const ID_DIGITS: usize = 8;

/// Find files of a guest by their names.
///
/// Reads the folders of the snapshot, and no content. Needs the passphrase: a writer's key file opens no content.
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
    #[arg(value_name = "SNAPSHOT[:DISK[:PATH]]", value_parser = Place::parse)]
    place: Place,
    /// In all snapshots of the machine, oldest first: a line where a name appears, changes its size or time, or is gone
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    sandbox: Sandbox,
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
}

pub(crate) async fn run(options: Find, context: &Context) -> Result<Done, Failure> {
    if options.all {
        return all(options, context).await;
    }
    let reader = restore::open(&options.place.snapshot, context).await?;
    let opened = open(&reader, options.sandbox, context).await?;
    let (place, looking) = (options.place.clone(), opened.clone());
    let pattern = options.pattern.into_bytes();
    let search = waiting(move || {
        let mut search = Search { pattern, ..Search::default() };
        search.all(&place, &looking)?;
        Ok(search)
    })
    .await?;
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
    let exit = match (search.faults.is_empty(), opened.is_whole) {
        (false, _) => Exit::Damaged,
        (true, false) => Exit::NotAsAsked,
        (true, true) => Exit::Done,
    };
    let (_, fetched_bytes) = opened.cache.fetched();
    Ok(ended(
        exit,
        [
            ("snapshot", json!(reader.manifest().session.intent.to_string())),
            ("vm", json!(reader.vm().to_string())),
            ("entries", json!(found)),
            ("left_out", json!(search.faults)),
            ("fetched_bytes", json!(fetched_bytes)),
        ],
    ))
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
}

impl Nights<'_> {
    async fn search(&self, session: SessionId) -> Result<Search, Failure> {
        let reader = sancerre_engine::restore::open(&self.repository, &self.log, session).await?;
        let (monitor, cache) = (self.context.monitor(), Arc::clone(&self.cache));
        let opened = open_with(&reader, self.options.sandbox, self.context, cache, &monitor).await?;
        let (place, pattern) = (self.options.place.clone(), self.options.pattern.clone().into_bytes());
        waiting(move || {
            let mut search = Search { pattern, ..Search::default() };
            match search.all(&place, &opened) {
                // A folder that is not there in a night has no names in it.
                Err(failure) if failure.exit == Exit::Usage => {}
                other => other?,
            }
            Ok(search)
        })
        .await
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
    let vm = sancerre_engine::restore::open(&repository, &log, named).await?.vm().clone();
    let sessions = nights(&repository, &log, &vm)?;
    let cache = ChunkCache::new(context.global.memory);
    let nights = Nights { options: &options, context, repository, log, cache };
    let (mut seen, mut found, mut faults) = (Seen::new(), Vec::new(), Vec::new());
    for (session, _) in sessions {
        let id = session.intent.to_string();
        let search = nights.search(session).await?;
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
            ("fetched_bytes", json!(fetched_bytes)),
        ],
    ))
}

impl Search {
    fn all(&mut self, place: &Place, opened: &Opened) -> Result<(), Failure> {
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
