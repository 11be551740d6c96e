//! Who else may write to a disk while it is read: a file system that is mounted for writing, or a running guest.

use std::collections::BTreeSet;
use std::fs::{File, Metadata, TryLockError};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};
use rustix::process::{Flock, FlockType, fcntl_getlk};

const MOUNTS: &str = "/proc/self/mountinfo";
const SWAPS: &str = "/proc/swaps";
const DEVICES: &str = "/sys/dev/block";
const BLOCK: &str = "/sys/block";
/// A device, its partitions, what LVM and RAID make of them, and so on.
const DEPTH_MAX: usize = 8;
/// QEMU locks a byte of an image for each thing that it does with it (`block/file-posix.c`): from 100 on in the order
/// of its permissions. The second is to write, the fourth to change the size. Who only reads, as of the backing file of
/// a running guest, holds neither.
const QEMU_WRITES: [u64; 2] = [101, 103];
/// Length of a lock up to the end, wherever that is.
const TO_THE_END: u64 = 0;

/// Numbers of a device.
type Number = (u32, u32);

/// The devices through which a disk can be mounted.
#[derive(Debug, Default)]
pub(crate) struct Usage(BTreeSet<Number>);

impl Usage {
    /// Of a device: itself, its partitions, and what is built on them. Of a file: loop devices over it, and theirs.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let mut devices = BTreeSet::new();
        if metadata.file_type().is_block_device() {
            let device = metadata.rdev();
            add((major(device), minor(device)), 0, &mut devices);
        } else {
            loops_over(metadata).into_iter().for_each(|number| add(number, 0, &mut devices));
        }
        Self(devices)
    }

    /// Who may write to the disk now, in words that follow its path; none as far as the system tells.
    pub(crate) fn writer(&self, file: &File) -> Option<String> {
        if let Some(place) = self.mounted() {
            return Some(format!("is mounted read-write at {place}"));
        }
        let swaps = std::fs::read_to_string(SWAPS).unwrap_or_default();
        if swaps.lines().filter_map(swap).any(|path| self.is_at(&path, file)) {
            return Some("is swap space of this machine".to_owned());
        }
        (is_locked(file) || is_locked_whole(file))
            .then(|| "is open for writing in another program, as a running guest has it".to_owned())
    }

    /// Where one of the devices is mounted for writing. Where there is no `/proc` nobody can be asked.
    fn mounted(&self) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let mounts = std::fs::read_to_string(MOUNTS).ok()?;
        let mut writable = mounts.lines().filter_map(Mount::parse).filter(|mount| mount.is_writable);
        writable.find(|mount| self.is_one(mount)).map(|mount| unescaped(mount.place))
    }

    /// Whether a path leads to this file, or to one of the devices.
    fn is_at(&self, path: &Path, file: &File) -> bool {
        let (Ok(found), Ok(own)) = (path.metadata(), file.metadata()) else { return false };
        match found.file_type().is_block_device() {
            true => self.0.contains(&(major(found.rdev()), minor(found.rdev()))),
            false => (found.dev(), found.ino()) == (own.dev(), own.ino()),
        }
    }

    fn is_one(&self, mount: &Mount<'_>) -> bool {
        if mount.number.0 != 0 {
            return self.0.contains(&mount.number);
        }
        // btrfs and others have numbers of their own, and say what they were mounted from.
        let source = Path::new(mount.source);
        let is_device = source.is_absolute() && source.starts_with("/dev");
        let metadata = if is_device { std::fs::metadata(source).ok() } else { None };
        let block = metadata.filter(|metadata| metadata.file_type().is_block_device());
        block.is_some_and(|block| self.0.contains(&(major(block.rdev()), minor(block.rdev()))))
    }
}

/// A line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
struct Mount<'a> {
    number: Number,
    place: &'a str,
    source: &'a str,
    /// By the file system's own option: a mount of it that is read-only may have another beside it.
    is_writable: bool,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(2);
        let (number, place) = (parse_number(left.next()?)?, left.nth(1)?);
        let mut right = right.split(' ').skip(1);
        let (source, options) = (right.next()?, right.next()?);
        let is_writable = options.split(',').any(|option| option == "rw");
        Some(Self { number, place, source, is_writable })
    }
}

/// The path in a line of `/proc/swaps`; none in its head.
fn swap(line: &str) -> Option<PathBuf> {
    let path = line.split_whitespace().next().filter(|path| path.starts_with('/'))?;
    Some(PathBuf::from(unescaped(path)))
}

/// `8:1`, as `/proc` and `/sys` write it.
fn parse_number(text: &str) -> Option<Number> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Spaces and the like are octal there.
fn unescaped(place: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(place.to_owned(), |text, (octal, plain)| text.replace(octal, plain))
}

fn add(number: Number, depth: usize, devices: &mut BTreeSet<Number>) {
    if depth > DEPTH_MAX || !devices.insert(number) {
        return;
    }
    let folder = PathBuf::from(format!("{DEVICES}/{}:{}", number.0, number.1));
    let partitions = entries(&folder).filter(|entry| entry.join("partition").exists());
    for below in partitions.chain(entries(&folder.join("holders"))) {
        if let Some(number) = number_in(&below) {
            add(number, depth.saturating_add(1), devices);
        }
    }
}

/// Entries of a folder of `/sys`; none where it is missing.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path()))
}

fn number_in(folder: &Path) -> Option<Number> {
    parse_number(&std::fs::read_to_string(folder.join("dev")).ok()?)
}

/// Loop devices whose file this is.
fn loops_over(file: &Metadata) -> Vec<Number> {
    let is_over = |folder: &PathBuf| {
        let named = std::fs::read_to_string(folder.join("loop/backing_file")).ok();
        let backing = named.and_then(|name| std::fs::metadata(name.trim_end_matches('\n')).ok());
        backing.is_some_and(|backing| (backing.dev(), backing.ino()) == (file.dev(), file.ino()))
    };
    entries(Path::new(BLOCK)).filter(is_over).filter_map(|folder| number_in(&folder)).collect()
}

/// Whether another process locked the file to write to it: all or part of it for itself alone, or as QEMU does. File
/// systems without locks refuse to answer.
fn is_locked(file: &File) -> bool {
    is_held(file, 0, TO_THE_END, FlockType::ReadLock)
        || QEMU_WRITES.iter().any(|byte| is_held(file, *byte, 1, FlockType::WriteLock))
}

/// Whether somebody has all of it for himself by flock(2), which cannot be asked for without taking it; it is given back at
/// once.
pub(crate) fn is_locked_whole(file: &File) -> bool {
    match file.try_lock_shared() {
        Ok(()) => {
            // What cannot be unlocked goes with the descriptor.
            let _ = file.unlock();
            false
        }
        Err(error) => matches!(error, TryLockError::WouldBlock),
    }
}

/// Whether somebody else's lock, of an open file or of a process, is in the way of this one.
fn is_held(file: &File, start: u64, length: u64, kind: FlockType) -> bool {
    let lock = Flock { start, length, ..Flock::from(kind) };
    fcntl_getlk(file, &lock).is_ok_and(|held| held.is_some())
}

#[cfg(test)]
mod tests;
