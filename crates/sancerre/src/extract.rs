//! A tree of a guest into a directory of this machine: nothing outside of it, nothing that is there without leave, links
//! last, no devices, and an account of what could not be kept.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown, fsetxattr, futimens};
use sancerre_guest::{
    Extra, FileNode, FolderEntry, Guest, GuestError, GuestFile, Moment, NodeKind, RunPlace,
};

use crate::beneath::{Folder, Named};
use crate::exit::{Exit, Failure};
use crate::guest_names::shown;

/// What is read at once.
const PIECE_BYTES: u64 = 4 << 20;
/// Folders within each other; deeper ones are a circle.
const DEPTH_MAX: usize = 1000;
/// Names that are told of one kind of loss.
const TOLD_MAX: usize = 5;

/// What a tree becomes.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) files: u64,
    pub(crate) folders: u64,
    pub(crate) links: u64,
    pub(crate) bytes: u64,
    /// What could not be kept, and of which names.
    lost: BTreeMap<&'static str, (u64, Vec<String>)>,
    /// Files that could not be had, and why.
    pub(crate) failed: Vec<(String, String)>,
    pub(crate) is_damaged: bool,
}

impl Account {
    /// Of one file that went elsewhere.
    pub(crate) fn of_file(bytes: u64) -> Self {
        Self { files: 1, bytes, ..Self::default() }
    }

    pub(crate) fn lose(&mut self, what: &'static str, path: &[Vec<u8>]) {
        let (count, names) = self.lost.entry(what).or_default();
        *count = count.saturating_add(1);
        if names.len() < TOLD_MAX {
            names.push(path_text(path));
        }
    }

    pub(crate) fn fail(&mut self, path: &[Vec<u8>], error: &GuestError) {
        self.is_damaged |= !matches!(error, GuestError::Reader(_));
        self.failed.push((path_text(path), error.to_string()));
    }

    /// What could not be kept: how often, and of which names some.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (&'static str, u64, &[String])> {
        self.lost.iter().map(|(what, (count, names))| (*what, *count, names.as_slice()))
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.lost.is_empty() && self.failed.is_empty()
    }
}

/// Names one after the other, for people.
pub(crate) fn path_text(path: &[Vec<u8>]) -> String {
    path.iter().map(|name| shown(name)).collect::<Vec<_>>().join("/")
}

/// A link, which is made when all else is there.
struct Link {
    folder: Vec<Vec<u8>>,
    name: Vec<u8>,
    target: Vec<u8>,
}

/// The folder and the name of a file.
type Written = (Vec<Vec<u8>>, Vec<u8>);

/// Writes trees below a folder.
pub(crate) struct Extraction<'a> {
    guest: Arc<Guest>,
    target: Folder,
    overwrite: bool,
    is_root: bool,
    own: (u32, u32),
    token: String,
    stop: &'a AtomicBool,
    links: Vec<Link>,
    /// Files with several names, by the first that was written.
    several: HashMap<(u16, u64), Written>,
    pub(crate) account: Account,
}

impl<'a> Extraction<'a> {
    /// Into `target`; `token` makes names of unfinished files that nobody else has.
    pub(crate) fn new(
        guest: Arc<Guest>,
        target: Folder,
        overwrite: bool,
        token: String,
        stop: &'a AtomicBool,
    ) -> io::Result<Self> {
        let is_root = rustix::process::geteuid().is_root();
        let own = target.owner()?;
        Ok(Self {
            guest,
            target,
            overwrite,
            is_root,
            own,
            token,
            stop,
            links: Vec::new(),
            several: HashMap::new(),
            account: Account::default(),
        })
    }

    /// Writes what is in a folder of the guest into the target.
    pub(crate) fn tree(&mut self, volume: u16, node: &FileNode) -> Result<(), Failure> {
        let target = self.target.reach(&[]).map_err(|error| self.failed(&[], &error))?;
        self.content(volume, node, &target, &mut Vec::new())?;
        self.finish()
    }

    /// Writes one file, folder or link of the guest as `name`.
    pub(crate) fn entry(&mut self, volume: u16, name: &[u8], node: FileNode) -> Result<(), Failure> {
        let target = self.target.reach(&[]).map_err(|error| self.failed(&[], &error))?;
        let entry = FolderEntry { name: name.to_vec(), node };
        self.one(volume, entry, &target, &mut Vec::new())?;
        self.finish()
    }

    fn failed(&self, path: &[Vec<u8>], error: &io::Error) -> Failure {
        let what = if path.is_empty() { "the target".to_owned() } else { path_text(path) };
        Failure::failed(format!(
            "cannot write {what}: {error}; look at the target's space and permissions; what was written stays"
        ))
    }

    fn content(
        &mut self,
        volume: u16,
        node: &FileNode,
        folder: &Folder,
        path: &mut Vec<Vec<u8>>,
    ) -> Result<(), Failure> {
        if path.len() > DEPTH_MAX {
            self.account.lose("folders that are deeper than can be, left out", path);
            return Ok(());
        }
        let mut entries = Vec::new();
        if let Err(error) = self.guest.list(volume, node.id, &mut |entry| entries.push(entry)) {
            self.account.fail(path, &error);
        }
        entries.into_iter().try_for_each(|entry| self.one(volume, entry, folder, path))
    }

    fn one(
        &mut self,
        volume: u16,
        entry: FolderEntry,
        folder: &Folder,
        path: &mut Vec<Vec<u8>>,
    ) -> Result<(), Failure> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::new(Exit::Interrupted, "interrupted; what was written stays"));
        }
        let FolderEntry { name, node } = entry;
        path.push(name.clone());
        match node.kind {
            NodeKind::Directory => self.directory(volume, &node, &name, folder, path)?,
            NodeKind::File => self.file(volume, &node, &name, folder, path)?,
            NodeKind::Link => self.link(volume, &node, name, path),
            NodeKind::Special => self.account.lose("devices, sockets and pipes, left out", path),
            NodeKind::Broken => {
                let error = GuestError::Fault("its record in the file system makes no sense".to_owned());
                self.account.fail(path, &error);
            }
        }
        path.pop();
        Ok(())
    }

    fn link(&mut self, volume: u16, node: &FileNode, name: Vec<u8>, path: &[Vec<u8>]) {
        let folder = path.split_last().map(|(_, folder)| folder.to_vec()).unwrap_or_default();
        match self.guest.link(volume, node.id) {
            Ok(target) if target.contains(&0) || target.is_empty() => {
                self.account.lose("links whose target is no path, left out", path);
            }
            Ok(target) => self.links.push(Link { folder, name, target }),
            Err(error) => self.account.fail(path, &error),
        }
    }

    fn directory(
        &mut self,
        volume: u16,
        node: &FileNode,
        name: &[u8],
        folder: &Folder,
        path: &mut Vec<Vec<u8>>,
    ) -> Result<(), Failure> {
        let was_there = folder.has(name);
        let inner = match folder.folder(name) {
            Ok(inner) => inner,
            // Something else has the name.
            Err(_) if was_there => {
                self.account.lose("folders in whose place is something else, left out", path);
                return Ok(());
            }
            Err(error) => return Err(self.failed(path, &error)),
        };
        self.account.folders = self.account.folders.saturating_add(1);
        self.content(volume, node, &inner, path)?;
        if !was_there {
            self.keep(volume, node, &inner, path);
        }
        Ok(())
    }

    fn file(
        &mut self,
        volume: u16,
        node: &FileNode,
        name: &[u8],
        folder: &Folder,
        path: &[Vec<u8>],
    ) -> Result<(), Failure> {
        if !self.overwrite && folder.has(name) {
            self.account
                .lose("files that are there already, left as they are (--overwrite replaces them)", path);
            return Ok(());
        }
        if self.overwrite && folder.has(name) && !folder.is_regular(name) {
            self.account.lose("files in whose place is something else, left out", path);
            return Ok(());
        }
        if node.links > 1 && self.hard_link(volume, node, name, folder) {
            return Ok(());
        }
        let partial = format!(".{}.sancerre-partial", self.token).into_bytes();
        let mut file = folder.create(&partial).map_err(|error| self.failed(path, &error))?;
        let mut source = GuestFile::new(Arc::clone(&self.guest), volume, node.id, b"", node.size_bytes);
        let copied = copy(&mut source, &mut file, self.stop);
        if let Err(error) = copied {
            let _ = folder.remove(&partial);
            return match error {
                CopyError::Guest(error) => {
                    self.account.fail(path, &error);
                    Ok(())
                }
                CopyError::Target(error) => Err(self.failed(path, &error)),
                CopyError::Stopped => {
                    Err(Failure::new(Exit::Interrupted, "interrupted; what was written stays"))
                }
            };
        }
        self.keep(volume, node, &file, path);
        match folder.rename(&partial, name, self.overwrite) {
            Ok(Named::Done) => {
                self.account.files = self.account.files.saturating_add(1);
                self.account.bytes = self.account.bytes.saturating_add(node.size_bytes);
                if node.links > 1 {
                    let parent = path.split_last().map(|(_, parent)| parent.to_vec()).unwrap_or_default();
                    self.several.insert((volume, node.id), (parent, name.to_vec()));
                }
                Ok(())
            }
            Ok(Named::Exists) => {
                let _ = folder.remove(&partial);
                self.account.lose("files in whose place is something else, left out", path);
                Ok(())
            }
            Err(error) => {
                let _ = folder.remove(&partial);
                Err(self.failed(path, &error))
            }
        }
    }

    /// A further name of a file that was written before. False when that cannot be had: it is written again.
    fn hard_link(&mut self, volume: u16, node: &FileNode, name: &[u8], folder: &Folder) -> bool {
        let Some((parent, old)) = self.several.get(&(volume, node.id)) else { return false };
        if folder.has(name) {
            return false;
        }
        let linked = self.target.reach(parent).and_then(|from| folder.hard_link(&from, old, name));
        if linked.is_ok() {
            self.account.files = self.account.files.saturating_add(1);
        }
        linked.is_ok()
    }

    /// Owner, attributes, mode and time, in the order in which one does not undo the other.
    fn keep(&mut self, volume: u16, node: &FileNode, to: &impl AsFd, path: &[Vec<u8>]) {
        let mut is_owned = true;
        if let Some((user, group)) = node.owner {
            is_owned = match self.is_root {
                true => fchown(to, Some(Uid::from_raw(user)), Some(Gid::from_raw(group))).is_ok(),
                false => (user, group) == self.own,
            };
            if !is_owned {
                self.account.lose("owners, which only root can keep", path);
            }
        }
        match self.guest.extras(volume, node.id) {
            Ok(extras) => extras.into_iter().for_each(|extra| self.keep_extra(&extra, to, path)),
            Err(_) => self.account.lose("attributes that cannot be read", path),
        }
        if let Some(mode) = node.mode {
            // Rights of another owner are none that this one should give.
            let kept = if is_owned { mode } else { mode & 0o777 };
            if kept != mode {
                self.account.lose("set-user and set-group bits of files whose owner was not kept", path);
            }
            if fchmod(to, Mode::from_raw_mode(kept)).is_err() {
                self.account.lose("modes", path);
            }
        }
        if node.modified.is_some_and(|moment| set_time(to, moment).is_err()) {
            self.account.lose("times", path);
        }
    }

    fn keep_extra(&mut self, extra: &Extra, to: &impl AsFd, path: &[Vec<u8>]) {
        match extra {
            Extra::Stream { .. } => {
                self.account.lose("further streams (`sancerre cat --stream` writes one)", path);
            }
            Extra::Attribute { name, value } => {
                let set = fsetxattr(to, name.as_slice(), value, XattrFlags::empty());
                if set.is_err() {
                    self.account.lose("extended attributes that the target does not take", path);
                }
            }
        }
    }

    /// Links come last: nothing is written after them that could be led astray.
    fn finish(&mut self) -> Result<(), Failure> {
        for link in std::mem::take(&mut self.links) {
            let path = [link.folder.as_slice(), std::slice::from_ref(&link.name)].concat();
            let made =
                self.target.reach(&link.folder).and_then(|folder| folder.symlink(&link.name, &link.target));
            match made {
                Ok(Named::Done) => self.account.links = self.account.links.saturating_add(1),
                Ok(Named::Exists) => self.account.lose("links in whose place is something, left out", &path),
                Err(error) => return Err(self.failed(&path, &error)),
            }
        }
        Ok(())
    }
}

fn set_time(to: &impl AsFd, moment: Moment) -> io::Result<()> {
    let time = Timespec { tv_sec: moment.seconds, tv_nsec: i64::from(moment.nanoseconds) };
    Ok(futimens(to, &Timestamps { last_access: time, last_modification: time })?)
}

/// Why a file was not copied.
pub(crate) enum CopyError {
    Guest(GuestError),
    Target(io::Error),
    Stopped,
}

/// The bytes of a file; holes stay holes.
pub(crate) fn copy(source: &mut GuestFile, file: &mut File, stop: &AtomicBool) -> Result<(), CopyError> {
    let size_bytes = source.size_bytes();
    // A size may be any number: what is no data is never written.
    file.set_len(size_bytes).map_err(CopyError::Target)?;
    let mut at = 0;
    while let Some(run) = source.run(at).map_err(CopyError::Guest)? {
        if stop.load(Ordering::Relaxed) {
            return Err(CopyError::Stopped);
        }
        if run.place == RunPlace::Hole {
            at = at.saturating_add(run.length_bytes);
            continue;
        }
        let length = run.length_bytes.min(PIECE_BYTES);
        let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
        source.read_at(at, &mut piece).map_err(CopyError::Guest)?;
        file.seek(SeekFrom::Start(at)).map_err(CopyError::Target)?;
        file.write_all(&piece).map_err(CopyError::Target)?;
        at = at.saturating_add(length);
    }
    Ok(())
}
