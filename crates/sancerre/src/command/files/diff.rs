//! `diff --files`: which files of a guest are others in another snapshot.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use sancerre_engine::repository::snapshot_disk::ChunkCache;
use sancerre_engine::restore::SnapshotReader;
use sancerre_engine::select::Selector;
use sancerre_format::FormatError;
use sancerre_format::file_catalogue::NamesReader;
use sancerre_guest::{FileNode, NodeKind};
use serde_json::{Value, json};

use super::{Context, Opened, Sandbox, open, waiting};
use crate::catalogue::{Catalogue, CatalogueUse, Memo, Said, file_node, joined};
use crate::command::{ended, restore};
use crate::exit::{Done, Exit, Failure};
use crate::guest_names::shown;
use crate::guest_place::{readable, root};

const DEPTH_MAX: usize = 1000;

/// Names of a volume, and what they name.
type Names = BTreeMap<String, FileNode>;

/// What became of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Added,
    Removed,
    Changed,
    Renamed { from: String },
}

/// All volumes of a snapshot, and what of them could not be read.
#[derive(Default)]
struct Tree {
    volumes: BTreeMap<String, Names>,
    faults: Vec<String>,
}

/// By size, kind, time, mode and owner: no content is read.
pub(crate) async fn run(
    before: &Selector,
    after: &Selector,
    (catalogue, sandbox): (CatalogueUse, &Sandbox),
    context: &Context,
) -> Result<Done, Failure> {
    let only = before.member.as_ref().or(after.member.as_ref()).map(ToString::to_string);
    let readers = (restore::open(before, context).await?, restore::open(after, context).await?);
    let catalogued = match catalogue.no_catalogue || sandbox.unlocks() {
        true => None,
        false => by_catalogues(&readers, only.as_deref(), context).await?,
    };
    let by_catalogue = catalogued.is_some();
    let (old, new) = match catalogued {
        Some(trees) => trees,
        None => {
            let old = tree(&readers.0, only.clone(), sandbox, context).await?;
            (old, tree(&readers.1, only, sandbox, context).await?)
        }
    };
    let id = |reader: &SnapshotReader| reader.manifest().session.intent.to_string();
    let mut changes = Vec::new();
    let empty = Names::new();
    let volumes =
        old.volumes.keys().chain(new.volumes.keys().filter(|name| !old.volumes.contains_key(*name)));
    for volume in volumes {
        let (old, new) = (old.volumes.get(volume), new.volumes.get(volume));
        for (name, change) in compare(old.unwrap_or(&empty), new.unwrap_or(&empty)) {
            changes.push((format!("{volume}{name}"), change, volume.clone()));
        }
    }
    context.output.result(&changes.iter().map(line).collect::<String>())?;
    let faults: Vec<&String> = old.faults.iter().chain(&new.faults).collect();
    for fault in &faults {
        context.output.warning(&format!("left out: {fault}"));
    }
    let described: Vec<Value> = changes.iter().map(describe).collect();
    let exit = if faults.is_empty() { Exit::Done } else { Exit::Damaged };
    Ok(ended(
        exit,
        [
            ("before", json!(id(&readers.0))),
            ("after", json!(id(&readers.1))),
            ("by_catalogue", json!(by_catalogue)),
            ("files", json!(described)),
            ("left_out", json!(faults)),
        ],
    ))
}

async fn tree(
    reader: &SnapshotReader,
    only: Option<String>,
    sandbox: &Sandbox,
    context: &Context,
) -> Result<Tree, Failure> {
    let opened = open(reader, sandbox, context).await?;
    waiting(move || read(&opened, only.as_deref())).await
}

/// By the catalogues of both snapshots, of which what they share is left out; none where one has none that can be read.
async fn by_catalogues(
    (before, after): &(SnapshotReader, SnapshotReader),
    only: Option<&str>,
    context: &Context,
) -> Result<Option<(Tree, Tree)>, Failure> {
    let (cache, monitor, mut memo) =
        (ChunkCache::new(context.global.memory), context.monitor(), Memo::default());
    let mut said = Vec::new();
    for reader in [before, after] {
        let Some(catalogue) = Catalogue::of(reader, &cache, &monitor).await? else { return Ok(None) };
        let asked =
            catalogue.ask(&mut memo, &mut |names: &NamesReader<'_>, _| Ok(names.content().to_vec())).await;
        match asked {
            Ok(one) if one.volumes.is_empty() => return Ok(None),
            Ok(one) => said.push(one),
            Err(error) if error.is_damage() => {
                context.output.warning(&format!("{error}; the disks are looked at in its place"));
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let [old, new] = said.as_slice() else { return Ok(None) };
    let differing = |one: &Said<Vec<u8>>, other: &Said<Vec<u8>>| {
        catalogued(one, other, only).map_err(|error| Failure::new(Exit::Damaged, error.to_string()))
    };
    Ok(Some((differing(old, new)?, differing(new, old)?)))
}

/// The names of one catalogue in pieces that the other has not.
fn catalogued(said: &Said<Vec<u8>>, other: &Said<Vec<u8>>, only: Option<&str>) -> Result<Tree, FormatError> {
    let mut tree = Tree { faults: said.faults.clone(), ..Tree::default() };
    for volume in said.volumes.iter().filter(|volume| volume.info.has_names) {
        let place = said.place(volume, "");
        let same = other.volumes.iter().find(|same| other.place(same, "") == place);
        let shared: HashSet<*const Vec<u8>> =
            same.iter().flat_map(|volume| &volume.parts).map(Arc::as_ptr).collect();
        let disk = place.strip_suffix(&format!(":{}", volume.info.name)).unwrap_or_default();
        if only.is_some_and(|only| only != disk) {
            continue;
        }
        let mut names = Names::new();
        for part in volume.parts.iter().filter(|part| !shared.contains(&Arc::as_ptr(part))) {
            NamesReader::new(part).each(&mut |folder, file| {
                names.insert(format!("/{}", shown(&joined(&folder.path, &file.name))), file_node(file));
            })?;
        }
        tree.volumes.insert(place, names);
    }
    Ok(tree)
}

fn read(opened: &Opened, only: Option<&str>) -> Result<Tree, Failure> {
    let mut tree = Tree::default();
    for volume in readable(&opened.guest, None) {
        let Some(info) = opened.guest.volumes().get(usize::from(volume)) else { continue };
        let disk = info.disk.and_then(|disk| opened.disks.get(usize::from(disk)));
        // A volume that lies on several has the name of the first.
        let disk = disk.or(opened.disks.first()).cloned().unwrap_or_default();
        if only.is_some_and(|only| only != disk) {
            continue;
        }
        let name = format!("{disk}:{}", info.name);
        let mut names = Names::new();
        let mut todo = vec![(String::new(), root(&opened.guest, volume)?, 0_usize)];
        while let Some((base, id, depth)) = todo.pop() {
            let listed = opened.guest.list(volume, id, &mut |entry| {
                let path = format!("{base}/{}", shown(&entry.name));
                if entry.node.kind == NodeKind::Directory && depth < DEPTH_MAX {
                    todo.push((path.clone(), entry.node.id, depth.saturating_add(1)));
                }
                names.insert(path, entry.node);
            });
            if let Err(error) = listed {
                tree.faults.push(format!("{name}{base}: {error}"));
            }
        }
        tree.volumes.insert(name, names);
    }
    Ok(tree)
}

/// What is the same file under another name: its number, what it is, and when it changed.
fn identity(node: &FileNode) -> (u64, NodeKind, u64, Option<sancerre_guest::Moment>) {
    (node.id, node.kind, node.size_bytes, node.modified)
}

fn is_changed(old: &FileNode, new: &FileNode) -> bool {
    let seen = |node: &FileNode| {
        // A folder's size and time follow from what is in it.
        let is_folder = node.kind == NodeKind::Directory;
        let content = (!is_folder).then_some((node.size_bytes, node.modified));
        (node.kind, content, node.mode, node.owner)
    };
    seen(old) != seen(new)
}

fn compare(old: &Names, new: &Names) -> BTreeMap<String, Change> {
    let mut changes = BTreeMap::new();
    let mut gone: HashMap<_, Vec<&String>> = HashMap::new();
    for (name, node) in old {
        match new.get(name) {
            None => gone.entry(identity(node)).or_default().push(name),
            Some(now) if is_changed(node, now) => {
                changes.insert(name.clone(), Change::Changed);
            }
            Some(_) => {}
        }
    }
    for (name, node) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
        let from = gone.get_mut(&identity(node)).and_then(Vec::pop);
        changes
            .insert(name.clone(), from.map_or(Change::Added, |from| Change::Renamed { from: from.clone() }));
    }
    for name in gone.into_values().flatten() {
        changes.insert(name.clone(), Change::Removed);
    }
    changes
}

fn line((name, change, volume): &(String, Change, String)) -> String {
    match change {
        Change::Added => format!("+ {name}\n"),
        Change::Removed => format!("- {name}\n"),
        Change::Changed => format!("M {name}\n"),
        Change::Renamed { from } => format!("R {volume}{from} -> {name}\n"),
    }
}

fn describe((name, change, volume): &(String, Change, String)) -> Value {
    match change {
        Change::Added => json!({"change": "added", "place": name}),
        Change::Removed => json!({"change": "removed", "place": name}),
        Change::Changed => json!({"change": "changed", "place": name}),
        Change::Renamed { from } => {
            json!({"change": "renamed", "place": name, "from": format!("{volume}{from}")})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, size_bytes: u64) -> FileNode {
        let (mode, owner, modified) = (Some(0o644), Some((0, 0)), None);
        FileNode { id, kind: NodeKind::File, size_bytes, mode, owner, modified, links: 1 }
    }

    #[test]
    fn names_come_go_change_and_move() {
        let names = |all: &[(&str, u64, u64)]| -> Names {
            all.iter().map(|(name, id, size)| ((*name).to_owned(), node(*id, *size))).collect()
        };
        let old = names(&[("/same", 1, 1), ("/grown", 2, 1), ("/moved", 3, 1), ("/gone", 4, 1)]);
        let new = names(&[("/same", 1, 1), ("/grown", 2, 2), ("/to", 3, 1), ("/new", 5, 1)]);
        let changes = compare(&old, &new);
        assert_eq!(changes.len(), 4);
        assert_eq!(changes["/to"], Change::Renamed { from: "/moved".to_owned() });
        assert_eq!((&changes["/gone"], &changes["/new"]), (&Change::Removed, &Change::Added));
        assert_eq!(changes["/grown"], Change::Changed);
    }
}
