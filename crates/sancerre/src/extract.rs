//! A tree of a guest into a directory of this machine: nothing outside of it, nothing that is there without leave, links
//! last, no devices, and an account of what could not be kept.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown, fsetxattr, futimens};
use sancerre_guest::{Extra, GuestError, GuestFile, Moment, RunPlace};

use crate::beneath::{Folder, Named};
use crate::exit::{Exit, Failure};
use crate::guest_tree::{Account, Found, PIECE_BYTES, Tree, TreeSink, path_text};

/// What an interrupt leaves.
const INTERRUPTED: &str = "interrupted; what was written stays";
/// What is told of a file whose name something else has.
const TAKEN: &str = "files in whose place is something else, left out";

/// A link, which is made when all else is there.
struct Link {
    folder: Vec<Vec<u8>>,
    name: Vec<u8>,
    target: Vec<u8>,
}

/// The folder and the name of a file.
type Written = (Vec<Vec<u8>>, Vec<u8>);

/// A folder that is being written.
pub(crate) struct Target {
    folder: Folder,
    /// Not made by us: it stays as it is.
    was_there: bool,
}

/// Writes a tree below a folder.
pub(crate) struct Extraction {
    target: Folder,
    overwrite: bool,
    is_root: bool,
    own: (u32, u32),
    token: String,
    links: Vec<Link>,
    /// Files with several names, by the first that was written.
    several: HashMap<(u16, u64), Written>,
    account: Account,
}

impl Extraction {
    /// Into `target`; `token` makes names of unfinished files that nobody else has.
    pub(crate) fn new(target: Folder, overwrite: bool, token: String) -> io::Result<Self> {
        Ok(Self {
            is_root: rustix::process::geteuid().is_root(),
            own: target.owner()?,
            target,
            overwrite,
            token,
            links: Vec::new(),
            several: HashMap::new(),
            account: Account::default(),
        })
    }

    /// Writes all of a tree.
    pub(crate) fn write(mut self, tree: &Tree<'_>) -> Result<Account, Failure> {
        let folder = self.target.reach(&[]).map_err(|error| failed(&[], &error))?;
        tree.walk(&mut self, &Target { folder, was_there: true })?;
        self.finish()?;
        Ok(self.account)
    }

    /// What of a folder stands in the way of a file.
    fn in_the_way(&self, name: &[u8], folder: &Folder) -> Option<&'static str> {
        match (folder.has(name), self.overwrite) {
            (false, _) => None,
            (true, false) => {
                Some("files that are there already, left as they are (--overwrite replaces them)")
            }
            (true, true) => (!folder.is_regular(name)).then_some(TAKEN),
        }
    }

    /// Writes a file under another name; false when it cannot be had of the guest.
    fn partial(&mut self, found: &Found<'_>, name: &[u8], folder: &Folder) -> Result<bool, Failure> {
        let mut file = folder.create(name).map_err(|error| failed(found.path, &error))?;
        let copied = copy(&mut found.open(), &mut file, found.stop);
        if copied.is_err() {
            let _ = folder.remove(name);
        }
        match copied {
            Ok(()) => self.keep(found, &file),
            Err(CopyError::Guest(error)) => {
                self.account.fail(found.path, &error);
                return Ok(false);
            }
            Err(CopyError::Target(error)) => return Err(failed(found.path, &error)),
            Err(CopyError::Stopped) => return Err(Failure::new(Exit::Interrupted, INTERRUPTED)),
        }
        Ok(true)
    }

    /// A further name of a file that was written before. False when that cannot be had: it is written again.
    fn hard_link(&mut self, found: &Found<'_>, name: &[u8], folder: &Folder) -> bool {
        let Some((parent, old)) = self.several.get(&found.key()) else { return false };
        if folder.has(name) {
            return false;
        }
        let linked = self.target.reach(parent).and_then(|from| folder.hard_link(&from, old, name));
        if linked.is_ok() {
            self.account.add_file(0);
        }
        linked.is_ok()
    }

    /// Owner, attributes, mode and time, in the order in which one does not undo the other.
    fn keep(&mut self, found: &Found<'_>, to: &impl AsFd) {
        let (node, path) = (found.node, found.path);
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
        match found.guest.extras(found.volume, node.id) {
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
                Ok(Named::Done) => self.account.add_link(),
                Ok(Named::Exists) => self.account.lose("links in whose place is something, left out", &path),
                Err(error) => return Err(failed(&path, &error)),
            }
        }
        Ok(())
    }
}

impl TreeSink for Extraction {
    type Folder = Target;
    const INTERRUPTED: &'static str = INTERRUPTED;

    fn account(&mut self) -> &mut Account {
        &mut self.account
    }

    fn folder(&mut self, found: &Found<'_>, into: &Target) -> Result<Option<Target>, Failure> {
        let (name, _) = found.name();
        let was_there = into.folder.has(name);
        match into.folder.folder(name) {
            Ok(folder) => {
                self.account.add_folder();
                Ok(Some(Target { folder, was_there }))
            }
            // Something else has the name.
            Err(_) if was_there => {
                self.account.lose("folders in whose place is something else, left out", found.path);
                Ok(None)
            }
            Err(error) => Err(failed(found.path, &error)),
        }
    }

    fn leave(&mut self, found: &Found<'_>, target: &Target) {
        if !target.was_there {
            self.keep(found, &target.folder);
        }
    }

    fn file(&mut self, found: &Found<'_>, into: &Target) -> Result<(), Failure> {
        let (folder, (name, parents)) = (&into.folder, found.name());
        if let Some(why) = self.in_the_way(name, folder) {
            self.account.lose(why, found.path);
            return Ok(());
        }
        let has_more_names = found.node.links > 1;
        if has_more_names && self.hard_link(found, name, folder) {
            return Ok(());
        }
        let partial = format!(".{}.sancerre-partial", self.token).into_bytes();
        if !self.partial(found, &partial, folder)? {
            return Ok(());
        }
        let named = folder.rename(&partial, name, self.overwrite);
        if !matches!(named, Ok(Named::Done)) {
            let _ = folder.remove(&partial);
        }
        match named {
            Ok(Named::Done) => {
                self.account.add_file(found.node.size_bytes);
                if has_more_names {
                    self.several.insert(found.key(), (parents.to_vec(), name.to_vec()));
                }
            }
            Ok(Named::Exists) => self.account.lose(TAKEN, found.path),
            Err(error) => return Err(failed(found.path, &error)),
        }
        Ok(())
    }

    fn link(&mut self, found: &Found<'_>, target: Vec<u8>) -> Result<(), Failure> {
        if target.contains(&0) || target.is_empty() {
            self.account.lose("links whose target is no path, left out", found.path);
            return Ok(());
        }
        let (name, parents) = found.name();
        self.links.push(Link { folder: parents.to_vec(), name: name.to_vec(), target });
        Ok(())
    }
}

fn failed(path: &[Vec<u8>], error: &io::Error) -> Failure {
    let what = if path.is_empty() { "the target".to_owned() } else { path_text(path) };
    Failure::failed(format!(
        "cannot write {what}: {error}; look at the target's space and permissions; what was written stays"
    ))
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
