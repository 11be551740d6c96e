//! What people call a file of a guest: `SNAPSHOT[:DISK[:PATH]]`, or a path as the guest's user knows it.

use std::collections::VecDeque;

use sancerre_engine::Error;
use sancerre_engine::select::Selector;
use sancerre_guest::{FileNode, Guest, GuestError, NodeKind, VolumeContent};

use crate::exit::{Exit, Failure};
use crate::guest_mounts::Mounts;
use crate::guest_names::{shown, unescaped};

/// Links that one path may lead through.
const LINKS_MAX: u32 = 40;
/// File systems in which upper and lower case are one.
const FOLDED: [&str; 5] = ["NTFS", "FAT12", "FAT16", "FAT32", "exFAT"];

/// A snapshot, and what of it is meant, as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestPlace {
    pub(crate) snapshot: Selector,
    /// What follows the snapshot.
    pub(crate) rest: String,
}

impl GuestPlace {
    /// Parses what the user typed. Parts from the first with a slash on are a path, whatever is in them.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let parts: Vec<&str> = text.split(':').collect();
        let words = parts.iter().position(|part| part.contains(['/', '\\'])).unwrap_or(parts.len());
        let is_latest = |part: &&str| **part == *"latest" || part.starts_with("latest~");
        let named = parts.iter().take(words).skip(1).position(is_latest).map(|at| at.saturating_add(2));
        let head = named.filter(|_| !is_latest(&parts.first().copied().unwrap_or_default())).unwrap_or(1);
        let (head, rest) = parts.split_at_checked(head).unwrap_or((&parts, &[]));
        Ok(Self { snapshot: Selector::parse(&head.join(":"))?, rest: rest.join(":") })
    }

    /// What is meant of a guest whose disks have these names.
    pub(crate) fn find(&self, guest: &Guest, disks: &[String], follows: bool) -> Result<Spot, Failure> {
        find(guest, disks, &self.rest, follows)
    }
}

/// What a place turned out to be.
#[derive(Debug, Clone)]
pub(crate) enum Spot {
    /// All disks.
    Guest,
    /// One disk.
    Disk(u16),
    /// Something in a file system.
    FolderEntry(Spotted),
}

/// A file or folder, and where it was found.
#[derive(Debug, Clone)]
pub(crate) struct Spotted {
    pub(crate) volume: u16,
    pub(crate) node: FileNode,
    /// Its last name; none for the root of a volume.
    pub(crate) name: Option<Vec<u8>>,
}

/// What `text`, which follows a snapshot or a machine, means.
pub(crate) fn find(guest: &Guest, disks: &[String], text: &str, follows: bool) -> Result<Spot, Failure> {
    if text.is_empty() {
        return Ok(Spot::Guest);
    }
    if let Some((letter, path)) = windows(text) {
        let volume = Mounts::letter(guest, letter)?;
        return walk(guest, volume, path.split(['\\', '/']), follows, text);
    }
    if text.starts_with('/') {
        return in_guest(guest, text, follows);
    }
    let is_disk = |name: &&String| {
        text.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    let disk = disks.iter().filter(is_disk).max_by_key(|name| name.len());
    let Some(disk) = disk else {
        return Err(Failure::usage(format!(
            "there is no disk {}; there are {}; a path of the guest begins with / or with a letter such as C:\\",
            text.split(':').next().unwrap_or_default(),
            disks.join(", ")
        )));
    };
    let number =
        disks.iter().position(|name| name == disk).and_then(|at| u16::try_from(at).ok()).unwrap_or(0);
    match text
        .strip_prefix(disk.as_str())
        .and_then(|rest| rest.strip_prefix(':'))
        .filter(|rest| !rest.is_empty())
    {
        None => Ok(Spot::Disk(number)),
        Some(path) => in_disk(guest, number, path, follows, text),
    }
}

/// A letter of a drive, and what follows.
pub(crate) fn windows(text: &str) -> Option<(char, &str)> {
    let (letter, rest) = text.split_once(':')?;
    let mut letters = letter.chars();
    let first = letters.next().filter(char::is_ascii_alphabetic)?;
    let is_one = letters.next().is_none() && (rest.is_empty() || rest.starts_with(['\\', '/']));
    is_one.then(|| (first.to_ascii_uppercase(), rest))
}

/// A path of the guest: by its own table of mounts, or in the only file system that there is.
fn in_guest(guest: &Guest, text: &str, follows: bool) -> Result<Spot, Failure> {
    let readable = readable(guest, None);
    match (Mounts::of_linux(guest)?, readable.as_slice()) {
        (Some(mounts), _) => {
            PathWalk { guest, mounts: Some(&mounts), text, follows }.from(mounts.root, text.split('/'))
        }
        (None, [only]) => walk(guest, *only, text.split('/'), follows, text),
        (None, _) => Err(Failure::usage(format!(
            "no file system of this guest has a table of mounts (/etc/fstab), so {text} could be in any; write \
             DISK:VOLUME/PATH; `sancerre ls SNAPSHOT` lists them"
        ))),
    }
}

fn in_disk(guest: &Guest, disk: u16, path: &str, follows: bool, text: &str) -> Result<Spot, Failure> {
    if path.starts_with('/') {
        return match readable(guest, Some(disk)).as_slice() {
            [only] => walk(guest, *only, path.split('/'), follows, text),
            _ => Err(Failure::usage(format!(
                "this disk has not one file system alone, so {text} could be in any; write DISK:VOLUME/PATH with one of {}",
                names(guest, disk)
            ))),
        };
    }
    let (name, inner) = path.split_once(['/', '\\']).unwrap_or((path, ""));
    let volume = guest
        .volumes()
        .iter()
        .position(|volume| volume.name == name && volume.disk.is_none_or(|on| on == disk))
        .and_then(|at| u16::try_from(at).ok());
    let volume = volume.ok_or_else(|| {
        Failure::usage(format!("this disk has no volume {name}; it has {}", names(guest, disk)))
    })?;
    walk(guest, volume, inner.split('/'), follows, text)
}

fn names(guest: &Guest, disk: u16) -> String {
    let on = guest.volumes().iter().filter(|volume| volume.disk.is_none_or(|on| on == disk));
    on.map(|volume| volume.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The volumes with a file system that can be read.
pub(crate) fn readable(guest: &Guest, disk: Option<u16>) -> Vec<u16> {
    let volumes = guest.volumes().iter().zip(0_u16..);
    let is_one = |volume: &sancerre_guest::VolumeInfo| {
        matches!(volume.content, VolumeContent::Files(_))
            && (disk.is_none() || volume.disk.is_none() || volume.disk == disk)
    };
    volumes.filter(|(volume, _)| is_one(volume)).map(|(_, number)| number).collect()
}

/// The number of a volume's root.
pub(crate) fn root(guest: &Guest, volume: u16) -> Result<u64, Failure> {
    let info = guest.volumes().get(usize::from(volume));
    match info.map(|info| &info.content) {
        Some(VolumeContent::Files(files)) => Ok(files.root),
        Some(VolumeContent::Known(what)) if what.starts_with("LUKS") => Err(Failure::new(
            Exit::Unsupported,
            format!("it is {what}: --unlock FILE opens it with its passphrase"),
        )),
        Some(VolumeContent::Known(what)) => Err(Failure::new(
            Exit::Unsupported,
            format!(
                "it is {what}, which is not read here; `sancerre nbd` serves the disk to programs that read it"
            ),
        )),
        Some(VolumeContent::Broken(why)) => Err(Failure::new(
            Exit::Damaged,
            format!("its file system cannot be read: {why}; `sancerre dump` gives the whole disk"),
        )),
        _ => Err(Failure::usage("there is no file system in it that is known here")),
    }
}

fn walk<'a>(
    guest: &Guest,
    volume: u16,
    parts: impl Iterator<Item = &'a str>,
    follows: bool,
    text: &str,
) -> Result<Spot, Failure> {
    PathWalk { guest, mounts: None, text, follows }.from(volume, parts)
}

/// A walk along a path, inside of the guest whatever links and dots say.
struct PathWalk<'a> {
    guest: &'a Guest,
    mounts: Option<&'a Mounts>,
    text: &'a str,
    /// Whether a link at the end is followed too.
    follows: bool,
}

impl PathWalk<'_> {
    fn from<'a>(&self, volume: u16, parts: impl Iterator<Item = &'a str>) -> Result<Spot, Failure> {
        let start = self.spotted(volume, root(self.guest, volume)?)?;
        let mut todo: VecDeque<Vec<u8>> = parts.map(|part| part.as_bytes().to_vec()).collect();
        let mut stack = vec![start];
        let mut links = 0_u32;
        while let Some(part) = todo.pop_front() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    if stack.len() > 1 {
                        stack.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let Some(at) = stack.last() else { break };
            let (node, name) = self.child(at, &part)?;
            let volume = at.volume;
            let is_last = todo.iter().all(Vec::is_empty);
            if node.kind == NodeKind::Link && (self.follows || !is_last) {
                links = links.saturating_add(1);
                if links > LINKS_MAX {
                    return Err(Failure::usage(format!("{} leads through links without an end", self.text)));
                }
                let target = self.guest.link(volume, node.id).map_err(|error| self.failed(error))?;
                if target.starts_with(b"/") {
                    stack.truncate(1);
                }
                for part in target.split(|byte| *byte == b'/').rev() {
                    todo.push_front(part.to_vec());
                }
                continue;
            }
            stack.push(Spotted { volume, node, name: Some(name) });
            self.cross(&mut stack)?;
        }
        stack.pop().map(Spot::FolderEntry).ok_or_else(|| self.failed(GuestError::Missing))
    }

    /// Where another volume is mounted, its root stands in.
    fn cross(&self, stack: &mut [Spotted]) -> Result<(), Failure> {
        let Some(mounts) = self.mounts else { return Ok(()) };
        let path: Vec<u8> = stack
            .iter()
            .filter_map(|spotted| spotted.name.as_ref())
            .flat_map(|name| [b"/".as_slice(), name].concat())
            .collect();
        let Some(volume) = mounts.at(&path) else { return Ok(()) };
        let root = self.spotted(volume, root(self.guest, volume)?)?;
        if let Some(last) = stack.last_mut() {
            (last.volume, last.node) = (root.volume, root.node);
        }
        Ok(())
    }

    fn spotted(&self, volume: u16, id: u64) -> Result<Spotted, Failure> {
        let node = self.guest.node(volume, id).map_err(|error| self.failed(error))?;
        Ok(Spotted { volume, node, name: None })
    }

    /// By the exact name; else as `ls` writes it, or in another case where that is the same.
    fn child(&self, at: &Spotted, part: &[u8]) -> Result<(FileNode, Vec<u8>), Failure> {
        let tries = [Some(part.to_vec()), unescaped(part)];
        for name in tries.into_iter().flatten() {
            match self.guest.find(at.volume, at.node.id, &name) {
                Ok(node) => return Ok((node, name)),
                Err(GuestError::Missing) => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        if !is_folded(self.guest, at.volume) {
            return Err(self.missing(part));
        }
        let wanted = String::from_utf8_lossy(part).to_lowercase();
        let mut found = None;
        let listed = self.guest.list(at.volume, at.node.id, &mut |entry| {
            if String::from_utf8_lossy(&entry.name).to_lowercase() == wanted {
                found = Some((entry.node, entry.name));
            }
        });
        match (found, listed) {
            (Some(found), _) => Ok(found),
            (None, Err(error)) => Err(self.failed(error)),
            (None, Ok(())) => Err(self.missing(part)),
        }
    }

    fn missing(&self, part: &[u8]) -> Failure {
        Failure::usage(format!(
            "there is no {} in {}; `sancerre ls` shows what there is",
            shown(part),
            self.text
        ))
    }

    fn failed(&self, error: GuestError) -> Failure {
        failure(self.text, error)
    }
}

/// Whether upper and lower case are one in a volume.
pub(crate) fn is_folded(guest: &Guest, volume: u16) -> bool {
    let info = guest.volumes().get(usize::from(volume));
    let kind = info.and_then(|info| match &info.content {
        VolumeContent::Files(files) => Some(files.kind.as_str()),
        _ => None,
    });
    kind.is_some_and(|kind| FOLDED.contains(&kind))
}

/// What became of something of a guest.
pub(crate) fn failure(what: &str, error: GuestError) -> Failure {
    let exit = match &error {
        GuestError::Missing => Exit::Usage,
        GuestError::Damage(_) | GuestError::Fault(_) => Exit::Damaged,
        GuestError::Reader(_) => Exit::Failed,
    };
    Failure::new(exit, format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_snapshot_and_the_rest() {
        let rest = |text: &str| GuestPlace::parse(text).unwrap().rest;
        assert_eq!(rest("web01:latest"), "");
        assert_eq!(rest("latest:disk0"), "disk0");
        assert_eq!(rest("web01:latest~3:disk0:p1/etc/a:b"), "disk0:p1/etc/a:b");
        assert_eq!(rest("3f9a:/srv/x:latest/y"), "/srv/x:latest/y");
        assert_eq!(rest("beef:latest:/x"), "/x");
        assert_eq!(rest("3f9a:C:\\Users\\x"), "C:\\Users\\x");
        assert!(GuestPlace::parse("web01").is_err());
    }

    #[test]
    fn letters_are_drives() {
        assert_eq!(windows("c:\\Users"), Some(('C', "\\Users")));
        assert_eq!(windows("D:"), Some(('D', "")));
        assert_eq!((windows("disk0:x"), windows("a:b"), windows("/a:/b")), (None, None, None));
    }
}
