//! The disks of a guest as a tree for the kernel's FUSE: `DISK/disk.raw`, and `DISK/VOLUME/…` with its files. Read-only; the
//! kernel sees answers of ours, and no byte of a foreign file system.

mod requests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo};
use sancerre_guest::{Extra, FileNode, Guest, GuestError, GuestFile, Moment, NodeKind, VolumeContent};

use crate::guest_names::shown;

/// A snapshot never changes: what the kernel knows it may keep.
const KEPT: Duration = Duration::from_secs(3600);
/// The name of a whole disk.
pub(crate) const RAW: &str = "disk.raw";
/// Blocks that sizes are counted in.
const BLOCK_BYTES: u64 = 512;
const NO_FILE: u64 = 0;

/// What a number of the kernel's stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Thing {
    Root,
    Disk(u16),
    Raw(u16),
    FolderEntry { volume: u16, node: FileNode },
}

/// Which thing it is, however it was come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Root,
    Disk(u16),
    Raw(u16),
    FolderEntry(u16, u64),
}

impl Thing {
    fn key(&self) -> Key {
        match self {
            Self::Root => Key::Root,
            Self::Disk(disk) => Key::Disk(*disk),
            Self::Raw(disk) => Key::Raw(*disk),
            Self::FolderEntry { volume, node } => Key::FolderEntry(*volume, node.id),
        }
    }
}

/// What the kernel holds.
#[derive(Debug, Default)]
struct Numbers {
    things: HashMap<u64, (Thing, u64)>,
    by_key: HashMap<Key, u64>,
    last: u64,
}

type Listed = Arc<Vec<(Vec<u8>, FileType)>>;

/// The tree.
pub(crate) struct GuestTree {
    guest: Arc<Guest>,
    disks: Vec<String>,
    owner: (u32, u32),
    numbers: Mutex<Numbers>,
    files: Mutex<HashMap<u64, Arc<Mutex<GuestFile>>>>,
    folders: Mutex<HashMap<u64, Listed>>,
    last_handle: AtomicU64,
    warn: Box<dyn Fn(String) + Send + Sync>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GuestTree {
    /// What cannot be read goes to `warn`.
    pub(crate) fn new(
        guest: Arc<Guest>,
        disks: Vec<String>,
        warn: impl Fn(String) + Send + Sync + 'static,
    ) -> Self {
        let mut numbers = Numbers { last: 1, ..Numbers::default() };
        numbers.things.insert(1, (Thing::Root, 1));
        numbers.by_key.insert(Key::Root, 1);
        Self {
            guest,
            disks,
            owner: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            numbers: Mutex::new(numbers),
            files: Mutex::default(),
            folders: Mutex::default(),
            last_handle: AtomicU64::new(NO_FILE),
            warn: Box::new(warn),
        }
    }

    fn thing(&self, number: INodeNo) -> Result<Thing, Errno> {
        lock(&self.numbers).things.get(&number.0).map(|(thing, _)| thing.clone()).ok_or(Errno::ENOENT)
    }

    /// The number of a thing, which the kernel then holds once more.
    fn hold(&self, thing: Thing) -> (INodeNo, FileAttr) {
        let mut numbers = lock(&self.numbers);
        let key = thing.key();
        let number = match numbers.by_key.get(&key) {
            Some(number) => *number,
            None => {
                numbers.last = numbers.last.saturating_add(1);
                let number = numbers.last;
                numbers.by_key.insert(key, number);
                number
            }
        };
        let attributes = self.attributes(INodeNo(number), &thing);
        let held = numbers.things.entry(number).or_insert((thing, 0));
        held.1 = held.1.saturating_add(1);
        (INodeNo(number), attributes)
    }

    fn attributes(&self, number: INodeNo, thing: &Thing) -> FileAttr {
        let (kind, size, mode, links, modified, owner) = match thing {
            Thing::Root | Thing::Disk(_) => (FileType::Directory, 0, 0o555, 2, None, None),
            Thing::Raw(disk) => {
                let size = self.guest.disks().get(usize::from(*disk)).map_or(0, |disk| disk.size_bytes());
                (FileType::RegularFile, size, 0o444, 1, None, None)
            }
            Thing::FolderEntry { node, .. } => {
                let is_folder = node.kind == NodeKind::Directory;
                let mode = node.mode.unwrap_or(if is_folder { 0o555 } else { 0o444 });
                (file_type(node.kind), node.size_bytes, mode, node.links, node.modified, node.owner)
            }
        };
        let (uid, gid) = owner.unwrap_or(self.owner);
        let time = modified.map_or(UNIX_EPOCH, system_time);
        FileAttr {
            ino: number,
            size,
            blocks: size.div_ceil(BLOCK_BYTES),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: u16::try_from(mode & 0o7777).unwrap_or(0),
            nlink: links,
            uid,
            gid,
            rdev: 0,
            blksize: 128 << 10,
            flags: 0,
        }
    }

    fn failed(&self, what: &str, error: &GuestError) -> Errno {
        if matches!(error, GuestError::Missing) {
            return Errno::ENOENT;
        }
        (self.warn)(format!("{what} cannot be read: {error}"));
        Errno::EIO
    }

    /// Volumes that are in the folder of a disk: those that lie on several are with the first.
    fn volumes(&self, disk: u16) -> impl Iterator<Item = (u16, &str, u64)> {
        self.guest.volumes().iter().zip(0_u16..).filter_map(move |(volume, number)| match &volume.content {
            VolumeContent::Files(files) if volume.disk.unwrap_or(0) == disk => {
                Some((number, volume.name.as_str(), files.root))
            }
            _ => None,
        })
    }

    fn child(&self, parent: &Thing, name: &[u8]) -> Result<Thing, Errno> {
        let text = std::str::from_utf8(name).ok();
        let fault = |error: GuestError| self.failed(&shown(name), &error);
        match parent {
            Thing::Root => {
                let disk =
                    self.disks.iter().position(|disk| text.is_some_and(|text| folder_name(disk) == text));
                disk.and_then(|disk| u16::try_from(disk).ok()).map(Thing::Disk).ok_or(Errno::ENOENT)
            }
            Thing::Disk(disk) if text == Some(RAW) => Ok(Thing::Raw(*disk)),
            Thing::Disk(disk) => {
                let found = self.volumes(*disk).find(|(_, known, _)| text == Some(*known));
                let (volume, _, root) = found.ok_or(Errno::ENOENT)?;
                Ok(Thing::FolderEntry { volume, node: self.guest.node(volume, root).map_err(fault)? })
            }
            Thing::FolderEntry { volume, node } if node.kind == NodeKind::Directory => {
                let node = self.guest.find(*volume, node.id, name).map_err(fault)?;
                Ok(Thing::FolderEntry { volume: *volume, node })
            }
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn names(&self, thing: &Thing) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
        let mut names = vec![(b".".to_vec(), FileType::Directory), (b"..".to_vec(), FileType::Directory)];
        match thing {
            Thing::Root => {
                names.extend(
                    self.disks.iter().map(|disk| (folder_name(disk).into_bytes(), FileType::Directory)),
                );
            }
            Thing::Disk(disk) => {
                names.push((RAW.into(), FileType::RegularFile));
                names.extend(
                    self.volumes(*disk).map(|(_, name, _)| (name.as_bytes().to_vec(), FileType::Directory)),
                );
            }
            Thing::FolderEntry { volume, node } => {
                let mut add =
                    |entry: sancerre_guest::FolderEntry| names.push((entry.name, file_type(entry.node.kind)));
                // What was told before a fault is there all the same.
                if let Err(error) = self.guest.list(*volume, node.id, &mut add) {
                    self.failed("a folder", &error);
                }
            }
            Thing::Raw(_) => return Err(Errno::ENOTDIR),
        }
        Ok(names)
    }

    fn handle(&self) -> u64 {
        self.last_handle.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    fn bytes(&self, thing: &Thing, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let whole = self.attributes(INodeNo::ROOT, thing).size;
        let length = whole.saturating_sub(offset).min(u64::from(size));
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        match thing {
            Thing::Raw(disk) => {
                let disk = self.guest.disks().get(usize::from(*disk)).ok_or(Errno::ENOENT)?;
                disk.read_at(offset, &mut bytes).map_err(|error| self.failed(RAW, &error.into()))?;
            }
            _ => {
                let file = lock(&self.files).get(&handle).cloned().ok_or(Errno::EBADF)?;
                let read = lock(&file).read_at(offset, &mut bytes);
                read.map_err(|error| self.failed("a file", &error))?;
            }
        }
        Ok(bytes)
    }

    /// The attributes of a file by their names, as the kernel asks for them.
    fn attribute(&self, number: INodeNo, wanted: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        let Thing::FolderEntry { volume, node } = self.thing(number)? else {
            return if wanted.is_some() { Err(Errno::ENODATA) } else { Ok(Vec::new()) };
        };
        let extras = self.guest.extras(volume, node.id).map_err(|error| self.failed("attributes", &error))?;
        let mut names = Vec::new();
        for extra in extras {
            if let Extra::Attribute { name, value } = extra {
                if wanted == Some(&name) {
                    return Ok(value);
                }
                names.extend_from_slice(&name);
                names.push(0);
            }
        }
        if wanted.is_some() { Err(Errno::ENODATA) } else { Ok(names) }
    }
}

/// A disk's name as one step of a path.
pub(crate) fn folder_name(disk: &str) -> String {
    disk.replace('/', "%2f")
}

fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::Directory => FileType::Directory,
        NodeKind::Link => FileType::Symlink,
        NodeKind::File | NodeKind::Broken => FileType::RegularFile,
        // Whatever it is there, here it is nothing that could be opened for real.
        NodeKind::Special => FileType::Socket,
    }
}

fn system_time(moment: Moment) -> SystemTime {
    let part = Duration::from_nanos(u64::from(moment.nanoseconds));
    let seconds = Duration::from_secs(moment.seconds.unsigned_abs());
    let whole = match moment.seconds < 0 {
        true => UNIX_EPOCH.checked_sub(seconds),
        false => UNIX_EPOCH.checked_add(seconds),
    };
    whole.and_then(|time| time.checked_add(part)).unwrap_or(UNIX_EPOCH)
}
