//! `ls`: what is on the disks of a snapshot: volumes, file systems, folders and files.

use clap::Args;
use sancerre_guest::{FileNode, Guest, NodeKind, VolumeContent, VolumeInfo};
use serde_json::{Value, json};

use super::{Context, Opened, Sandbox, entry_json, letter, open, time, waiting};
use crate::command::restore;
use crate::exit::{Done, Failure};
use crate::guest_names::shown;
use crate::guest_place::{GuestPlace, Spot, Spotted, failure, root};
use crate::output::{Align, table};
use crate::units::size;

const VOLUMES: [(&str, Align); 6] = [
    ("disk", Align::Left),
    ("volume", Align::Left),
    ("size", Align::Right),
    ("content", Align::Left),
    ("label", Align::Left),
    ("note", Align::Left),
];
const LONG: [(&str, Align); 5] = [
    ("mode", Align::Left),
    ("owner", Align::Left),
    ("size", Align::Right),
    ("modified (UTC)", Align::Left),
    ("name", Align::Left),
];

/// List what is on the disks of a snapshot: partitions, volumes, then folders and files.
///
/// Nothing is mounted: a confined child reads the file systems. Needs the passphrase: a writer's key file opens no content.
#[derive(Debug, Args)]
#[command(after_help = "\
A path is DISK:VOLUME/PATH, or as the guest's user knows it: /srv/share through the guest's own
/etc/fstab, C:\\Users with letters in the order of partitions.

Examples:
  sancerre ls web01:latest
  sancerre ls web01:latest:disk0:p1/etc -l
  sancerre ls 'dc01:latest~2:C:\\Users'
  sancerre ls 3f9a12cc:/srv --json")]
pub(crate) struct Ls {
    /// The snapshot, and a disk or path of it
    #[arg(value_name = "SNAPSHOT[:DISK[:PATH]]", value_parser = GuestPlace::parse)]
    place: GuestPlace,
    /// With modes, owners, sizes and times
    #[arg(short, long)]
    long: bool,
    #[command(flatten)]
    sandbox: Sandbox,
}

/// A name that is listed.
struct Row {
    name: Vec<u8>,
    node: FileNode,
    target: Option<Vec<u8>>,
}

/// What was found.
enum Found {
    Volumes(Vec<usize>),
    Rows(Vec<Row>, Option<Failure>),
}

pub(crate) async fn run(options: Ls, context: &Context) -> Result<Done, Failure> {
    let reader = restore::open(&options.place.snapshot, context).await?;
    let opened = open(&reader, &options.sandbox, context).await?;
    let (place, looking) = (options.place.clone(), opened.clone());
    let wants_targets = options.long || context.output.is_json();
    let found = waiting(move || look(&place, &looking, wants_targets)).await?;
    let (name, listed, problem) = match found {
        Found::Volumes(numbers) => {
            let volumes: Vec<&VolumeInfo> =
                numbers.iter().filter_map(|number| opened.guest.volumes().get(*number)).collect();
            context.output.result(&volume_table(&volumes, &opened))?;
            ("volumes", volumes.iter().map(|volume| volume_json(volume, &opened)).collect(), None)
        }
        Found::Rows(rows, problem) => {
            context.output.result(&text(&rows, options.long))?;
            let json = |row: &Row| entry_json(&row.name, &row.node, row.target.as_deref());
            ("entries", rows.iter().map(json).collect::<Vec<Value>>(), problem)
        }
    };
    if let Some(problem) = problem {
        return Err(problem);
    }
    Ok(opened.ended(&reader, Some((name, json!(listed)))))
}

fn look(place: &GuestPlace, opened: &Opened, wants_targets: bool) -> Result<Found, Failure> {
    let guest = &opened.guest;
    match place.find(guest, &opened.disks, false)? {
        Spot::Guest => Ok(Found::Volumes((0..guest.volumes().len()).collect())),
        Spot::Disk(disk) => {
            let is_on = |volume: &VolumeInfo| volume.disk.is_none_or(|on| on == disk);
            let volumes = guest.volumes().iter().enumerate().filter(|(_, volume)| is_on(volume));
            Ok(Found::Volumes(volumes.map(|(number, _)| number).collect()))
        }
        Spot::FolderEntry(Spotted { volume, node, name }) if node.kind != NodeKind::Directory => {
            let name = name.unwrap_or_default();
            Ok(Found::Rows(vec![row(guest, volume, name, node, wants_targets)], None))
        }
        Spot::FolderEntry(Spotted { volume, node, .. }) => {
            root(guest, volume)?;
            let mut entries = Vec::new();
            let listed = guest.list(volume, node.id, &mut |entry| entries.push(entry));
            entries.sort_by(|one, other| one.name.cmp(&other.name));
            let rows =
                entries.into_iter().map(|entry| row(guest, volume, entry.name, entry.node, wants_targets));
            Ok(Found::Rows(rows.collect(), listed.err().map(|error| failure(&place.rest, error))))
        }
    }
}

fn row(guest: &Guest, volume: u16, name: Vec<u8>, node: FileNode, wants_target: bool) -> Row {
    let is_link = node.kind == NodeKind::Link && wants_target;
    let target = if is_link { guest.link(volume, node.id).ok() } else { None };
    Row { name, node, target }
}

fn text(rows: &[Row], long: bool) -> String {
    if !long {
        let name = |row: &Row| {
            let slash = if row.node.kind == NodeKind::Directory { "/" } else { "" };
            format!("{}{slash}\n", shown(&row.name))
        };
        return rows.iter().map(name).collect();
    }
    let cells = |row: &Row| {
        let node = &row.node;
        let mode = node.mode.map_or_else(|| "    ".to_owned(), |mode| format!("{mode:04o}"));
        let owner = node.owner.map_or_else(|| "-".to_owned(), |(user, group)| format!("{user}:{group}"));
        let target = row.target.as_ref().map(|target| format!(" -> {}", shown(target))).unwrap_or_default();
        vec![
            format!("{}{mode}", letter(node.kind)),
            owner,
            node.size_bytes.to_string(),
            time(node.modified),
            shown(&row.name) + &target,
        ]
    };
    table(&LONG, &rows.iter().map(cells).collect::<Vec<_>>())
}

fn disk_name(volume: &VolumeInfo, opened: &Opened) -> String {
    let name = volume.disk.and_then(|disk| opened.disks.get(usize::from(disk)));
    name.cloned().unwrap_or_else(|| "(LVM)".to_owned())
}

fn volume_table(volumes: &[&VolumeInfo], opened: &Opened) -> String {
    let cells = |volume: &&VolumeInfo| {
        let (content, label, note) = match &volume.content {
            VolumeContent::Files(files) => (files.kind.clone(), shown(&files.label), files.notes.join("; ")),
            VolumeContent::Known(what) => (what.clone(), String::new(), "not read here".to_owned()),
            VolumeContent::Broken(why) => ("damaged".to_owned(), String::new(), why.clone()),
            VolumeContent::Unknown => ("-".to_owned(), String::new(), String::new()),
        };
        let label = if label.is_empty() { shown(&volume.label) } else { label };
        vec![disk_name(volume, opened), volume.name.clone(), size(volume.size_bytes), content, label, note]
    };
    table(&VOLUMES, &volumes.iter().map(cells).collect::<Vec<_>>())
}

fn volume_json(volume: &VolumeInfo, opened: &Opened) -> Value {
    let (state, content, label, uuid, notes) = match &volume.content {
        VolumeContent::Files(files) => {
            ("files", files.kind.clone(), shown(&files.label), files.uuid.clone(), files.notes.clone())
        }
        VolumeContent::Known(what) => ("unread", what.clone(), String::new(), String::new(), Vec::new()),
        VolumeContent::Broken(why) => {
            ("damaged", String::new(), String::new(), String::new(), vec![why.clone()])
        }
        VolumeContent::Unknown => ("unknown", String::new(), String::new(), String::new(), Vec::new()),
    };
    json!({
        "disk": volume.disk.and_then(|disk| opened.disks.get(usize::from(disk))),
        "name": volume.name,
        "size_bytes": volume.size_bytes,
        "state": state,
        "content": content,
        "label": label,
        "partition_label": shown(&volume.label),
        "uuid": uuid,
        "notes": notes,
    })
}
