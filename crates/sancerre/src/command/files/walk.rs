//! All names of a guest, folder by folder.

use sancerre_guest::{FolderEntry, NodeKind};

use super::Opened;
use crate::exit::Failure;
use crate::guest_names::shown;
use crate::guest_place::{readable, root};

/// Folders that are open at once, and within each other.
const DEPTH_MAX: usize = 1000;

/// What is done with each name: its volume, its place as `ls` and `get` take it, and what it names.
pub(in crate::command) type Each<'a> = dyn FnMut(u16, &str, &FolderEntry) + 'a;

/// Names everything in the file systems of a disk, or of all. Returns what could not be read.
pub(in crate::command) fn everything(
    opened: &Opened,
    disk: Option<u16>,
    each: &mut Each<'_>,
) -> Result<Vec<String>, Failure> {
    let mut faults = Vec::new();
    for volume in readable(&opened.guest, disk) {
        let Some(info) = opened.guest.volumes().get(usize::from(volume)) else { continue };
        let on = info.disk.or(disk).unwrap_or(0);
        let name = opened.disks.get(usize::from(on)).cloned().unwrap_or_default();
        let base = format!("{name}:{}", info.name);
        folder(opened, (volume, root(&opened.guest, volume)?), &base, 0, each, &mut faults);
    }
    Ok(faults)
}

/// The same below one folder, of which the place is `base`.
pub(in crate::command) fn below(
    opened: &Opened,
    place: (u16, u64),
    base: &str,
    each: &mut Each<'_>,
) -> Vec<String> {
    let mut faults = Vec::new();
    folder(opened, place, base, 0, each, &mut faults);
    faults
}

fn folder(
    opened: &Opened,
    (volume, id): (u16, u64),
    base: &str,
    depth: usize,
    each: &mut Each<'_>,
    faults: &mut Vec<String>,
) {
    if depth > DEPTH_MAX {
        faults.push(format!("{base}: folders that are deeper than can be"));
        return;
    }
    let mut entries = Vec::new();
    if let Err(error) = opened.guest.list(volume, id, &mut |entry| entries.push(entry)) {
        faults.push(format!("{base}: {error}"));
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    for entry in entries {
        let place = format!("{base}/{}", shown(&entry.name));
        each(volume, &place, &entry);
        if entry.node.kind == NodeKind::Directory {
            folder(opened, (volume, entry.node.id), &place, depth.saturating_add(1), each, faults);
        }
    }
}
