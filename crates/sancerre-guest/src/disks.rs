//! What is on the disks of a guest: partitions, volumes, and the file systems in them.

use std::rc::Rc;

use crate::fault::{Fault, Result};
use crate::fs::{self, FileSystem};
use crate::luks;
use crate::lvm;
use crate::partitions::{self, Partition};
use crate::source::{Blocks, Opened};
use crate::volume::Volume;
use zeroize::Zeroizing;

/// Volumes of a guest beyond this number are left out.
const VOLUMES_MAX: usize = 4096;

/// A volume and what is in it.
pub(crate) struct Room {
    /// `whole`, `p1`, or group and name in LVM.
    pub(crate) name: String,
    /// None for a volume that may lie on several.
    pub(crate) disk: Option<u16>,
    /// How the table of partitions calls it.
    pub(crate) label: Vec<u8>,
    pub(crate) size_bytes: u64,
    pub(crate) content: Content,
    pub(crate) volume: Option<Volume>,
}

pub(crate) enum Content {
    /// A file system that can be read.
    Files(Box<dyn FileSystem>),
    /// Something that is known, and not read here.
    Known(&'static str),
    /// A file system that cannot be read.
    Broken(String),
    /// Nothing that is known.
    Unknown,
}

/// All volumes of these disks, in the order of disks and partitions; those of LVM come last.
/// Each is named to `trying` before it is looked at, which says whether it may be. Encrypted ones are opened with what fits of
/// `secrets`.
pub(crate) fn explore(
    blocks: &Blocks,
    disks: u16,
    secrets: &[Zeroizing<Vec<u8>>],
    trying: &mut dyn FnMut(&str) -> bool,
) -> Vec<Room> {
    let mut rooms = Vec::new();
    let mut members = Vec::new();
    for disk in 0..disks {
        let found = match trying(&format!("{disk}")) {
            true => stretches(blocks, disk),
            false => vec![("whole".to_owned(), Partition { number: 0, range: 0..0, label: Vec::new() })],
        };
        for (name, partition) in found {
            if rooms.len() >= VOLUMES_MAX {
                return rooms;
            }
            if !trying(&format!("{disk}/{name}")) {
                rooms.push(ended(name, Some(disk)));
                continue;
            }
            let volume = Volume::of_disk(blocks.clone(), disk, partition.range.clone());
            let opened = opened(blocks, &volume, secrets);
            members.extend(lvm::member(opened.as_ref().unwrap_or(&volume)).ok().flatten());
            rooms.push(room(name, Some(disk), partition.label, opened));
        }
    }
    for logical in lvm::volumes(blocks, &members) {
        if rooms.len() >= VOLUMES_MAX {
            break;
        }
        let may_be = trying(&format!("/{}", logical.name));
        rooms.push(match logical.volume {
            _ if !may_be => ended(logical.name, None),
            Ok(volume) => room(logical.name, None, Vec::new(), opened(blocks, &volume, secrets)),
            Err(fault) => Room {
                name: logical.name,
                disk: None,
                label: Vec::new(),
                size_bytes: 0,
                content: Content::Broken(fault.to_string()),
                volume: None,
            },
        });
    }
    rooms
}

/// A volume at which a reader ended before.
fn ended(name: String, disk: Option<u16>) -> Room {
    let content = Content::Broken("its reader ended without a word".to_owned());
    Room { name, disk, label: Vec::new(), size_bytes: 0, content, volume: None }
}

/// The partitions of a disk, or all of it.
fn stretches(blocks: &Blocks, disk: u16) -> Vec<(String, Partition)> {
    let size = blocks.size_bytes(disk).unwrap_or(0);
    let whole = || vec![("whole".to_owned(), Partition { number: 0, range: 0..size, label: Vec::new() })];
    let named = |found: Vec<Partition>| -> Vec<(String, Partition)> {
        found.into_iter().map(|partition| (format!("p{}", partition.number), partition)).collect()
    };
    if let Ok(Some(found)) = partitions::gpt(blocks, disk) {
        return named(found);
    }
    let volume = Volume::of_disk(blocks.clone(), disk, 0..size);
    // The first sector of a file system may look like a table of partitions.
    if !matches!(fs::open(&volume), Ok(None)) || fs::known(&volume).is_some() {
        return whole();
    }
    match partitions::mbr(blocks, disk) {
        Ok(Some(found)) if !found.is_empty() => named(found),
        _ => whole(),
    }
}

/// A volume, or what is in it where it is encrypted and one of the passphrases is its own.
fn opened(
    blocks: &Blocks,
    volume: &Volume,
    secrets: &[Zeroizing<Vec<u8>>],
) -> std::result::Result<Volume, String> {
    if secrets.is_empty() || !luks::is_one(volume) {
        return Ok(volume.clone());
    }
    let unlocked = luks::unlock(volume, secrets).map_err(|fault| fault.to_string())?;
    let unlocked = unlocked.ok_or("LUKS encryption, which none of the passphrases opens")?;
    let size = unlocked.size_bytes();
    let number = blocks.add(Rc::new(unlocked)).ok_or("more encrypted volumes than can be")?;
    Ok(Volume::of_disk(blocks.clone(), number, 0..size))
}

fn room(
    name: String,
    disk: Option<u16>,
    label: Vec<u8>,
    volume: std::result::Result<Volume, String>,
) -> Room {
    let volume = match volume {
        Ok(volume) => volume,
        Err(why) => {
            let content = Content::Broken(why);
            return Room { name, disk, label, size_bytes: 0, content, volume: None };
        }
    };
    let volume = &volume;
    let content = match fs::open(volume) {
        Ok(Some(fs)) => Content::Files(fs),
        Ok(None) => fs::known(volume).map_or(Content::Unknown, Content::Known),
        Err(fault) => Content::Broken(fault.to_string()),
    };
    Room { name, disk, label, size_bytes: volume.size_bytes(), content, volume: Some(volume.clone()) }
}

/// A file system by the number of its volume.
pub(crate) fn files(rooms: &mut [Room], number: usize) -> Result<(&mut Box<dyn FileSystem>, &Volume)> {
    let room = rooms.get_mut(number).ok_or(Fault::Missing)?;
    match (&mut room.content, &room.volume) {
        (Content::Files(fs), Some(volume)) => Ok((fs, volume)),
        _ => Err(Fault::Missing),
    }
}
