//! How an object comes into a folder: written beside its place, flushed, and given its name in one step that replaces
//! nothing.
//!
//! ```text
//! create NAME#n ─> write ─> flush ─> is the path still ours? ─> link, or rename without replacing ─> flush the folder
//! ```
//!
//! Whoever dies on the way leaves `NAME#n`, which no listing shows; `gc` removes it a day later. What has its name is
//! whole: nothing is ever written in its own place, for then a reader could see half of it, and two hosts could not tell
//! whose half that is.

use std::fs::File;
use std::io::Write;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use object_store::PutPayload;
use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, Stat, chmodat, fchmod, fstat, linkat, mkdirat, openat, renameat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use super::place::{FolderPlace, SETGID};
use super::refused::Refused;
use crate::naming::pack_folder;

/// Names that are tried for a file under way, and folders that are made for it while somebody clears them away.
const STAGE_ATTEMPTS: usize = 1000;
/// How often a file under way may be cleared away by somebody.
const CLEARED_MAX: usize = 3;

/// What mounts without hard links say to one. Some have no better word than that it failed, or that it is forbidden.
const NO_LINKS: [Errno; 9] = [
    Errno::PERM,
    Errno::OPNOTSUPP,
    Errno::NOSYS,
    Errno::MLINK,
    Errno::IO,
    Errno::ACCESS,
    Errno::INVAL,
    Errno::XDEV,
    Errno::NOTTY,
];
/// What mounts say that cannot rename without replacing.
const NO_RENAMES: [Errno; 4] = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOTTY];
/// What mounts say whose folders cannot be flushed.
const NO_FLUSHES: [Errno; 7] =
    [Errno::INVAL, Errno::OPNOTSUPP, Errno::NOTTY, Errno::ACCESS, Errno::NOSYS, Errno::PERM, Errno::BADF];

/// What may happen to an object of the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// It stays, and nothing is written.
    Create,
    /// It is replaced.
    Replace,
}

impl FolderPlace {
    /// Writes an object; durable when this returns. Where there is no room, what is kept for emergencies is used if it may
    /// be.
    pub(super) fn put(&self, key: &str, payload: &PutPayload, naming: Naming) -> Result<Stat, Refused> {
        let mut cleared = 0;
        loop {
            match self.try_put(key, payload, naming) {
                Err(refused) if refused.is_full() && self.may_spend(key) && self.spend_piece() => {}
                // Somebody took it for a leftover, whose clock or ours is wrong.
                Err(Refused::Cleared { .. }) if cleared < CLEARED_MAX => cleared += 1,
                done => return done,
            }
        }
    }

    /// Packs are what fills a disk: the room that is kept is for the small objects with which it can be emptied.
    fn may_spend(&self, key: &str) -> bool {
        self.spends.load(Ordering::Relaxed) && pack_folder(key).is_none()
    }

    fn try_put(&self, key: &str, payload: &PutPayload, naming: Naming) -> Result<Stat, Refused> {
        let (file, staged) = self.stage(key)?;
        let put = self.fill(file, &staged, payload).and_then(|stat| {
            self.must_be_here(&staged)?;
            match naming {
                Naming::Create => self.name(&staged, key)?,
                Naming::Replace => self.replace(&staged, key)?,
            }
            Ok(stat)
        });
        if put.is_err() {
            // What counts is the error; what stays is a leftover. Only a full disk would rather have it gone now.
            let _ = unlinkat(self.root(), &staged, AtFlags::empty());
        }
        let stat = put?;
        self.flush_folder(key)?;
        drop(self.making.read().unwrap_or_else(PoisonError::into_inner));
        self.must_be_here(key)?;
        Ok(stat)
    }

    /// A new file beside the place of `key`.
    fn stage(&self, key: &str) -> Result<(File, String), Refused> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(self.modes.file);
        let mut refused = Errno::EXIST;
        for _ in 0..STAGE_ATTEMPTS {
            let staged = format!("{key}#{}", self.number.fetch_add(1, Ordering::Relaxed));
            match openat(self.root(), &staged, flags, mode) {
                Ok(descriptor) => return Ok((File::from(descriptor), staged)),
                Err(errno @ Errno::EXIST) => refused = errno,
                // A collector clears empty folders away at any time.
                Err(errno @ Errno::NOENT) => {
                    refused = errno;
                    self.make_folders(key)?;
                }
                Err(errno) => return Err(Refused::call("create", &self.path_of(&staged), errno)),
            }
        }
        Err(Refused::call("create a file for", &self.path_of(key), refused))
    }

    /// Makes the folders above `key` that are missing, and flushes those in which one was made.
    pub(super) fn make_folders(&self, key: &str) -> Result<(), Refused> {
        // Whoever sees a folder of ours before it is on the disk waits for it: `try_put` does.
        let _making = self.making.write().unwrap_or_else(PoisonError::into_inner);
        let root = self.root();
        let above = || key.match_indices('/').filter_map(|(at, _)| key.get(..at));
        let is_there = |folder: &&str| statat(&root, *folder, AtFlags::empty()).is_ok();
        let there = above().filter(is_there).map(str::len).max().unwrap_or(0);
        above().filter(|folder| folder.len() > there).try_for_each(|folder| self.make_folder(folder))
    }

    fn make_folder(&self, folder: &str) -> Result<(), Refused> {
        let root = self.root();
        let mode = Mode::from_raw_mode(self.modes.folder);
        match mkdirat(&root, folder, mode) {
            Ok(()) => {
                let made = statat(&root, folder, AtFlags::empty()).map_or(0, |stat| stat.st_mode);
                if made & self.modes.folder != self.modes.folder {
                    // A umask took some of it. Where modes cannot be set, whatever they are must do.
                    let mode = Mode::from_raw_mode(made & SETGID | self.modes.folder);
                    let _ = chmodat(&root, folder, mode, AtFlags::empty());
                }
                self.flush_folder(folder)
            }
            Err(Errno::EXIST) => self.flush_folder(folder),
            // The folder that is open was deleted.
            Err(Errno::NOENT) => Err(self.elsewhere()),
            Err(errno) => Err(Refused::call("create the folder", &self.path_of(folder), errno)),
        }
    }

    /// Writes and flushes the bytes.
    fn fill(&self, mut file: File, staged: &str, payload: &PutPayload) -> Result<Stat, Refused> {
        let failed = |what| move |error: std::io::Error| Refused::call(what, &self.path_of(staged), error);
        payload.iter().try_for_each(|piece| file.write_all(piece)).map_err(failed("write"))?;
        file.sync_all().map_err(failed("flush"))?;
        let stat = fstat(&file).map_err(|errno| failed("read")(errno.into()))?;
        self.fit_mode(&file, &stat);
        Ok(stat)
    }

    /// Gives back what a umask took. Where modes cannot be set, whatever they are must do.
    pub(super) fn fit_mode(&self, file: &File, stat: &Stat) {
        if stat.st_mode & self.modes.file != self.modes.file {
            let _ = fchmod(file, Mode::from_raw_mode(self.modes.file));
        }
    }

    /// Gives a file its name, which nothing has.
    fn name(&self, staged: &str, key: &str) -> Result<(), Refused> {
        let root = self.root();
        if self.lacks_links.load(Ordering::Relaxed) {
            return self.name_by_rename(staged, key, Errno::OPNOTSUPP);
        }
        match linkat(&root, staged, &root, key, AtFlags::empty()) {
            Ok(()) => {
                // If it stays it is a second name for the same bytes, which `gc` removes.
                let _ = unlinkat(&root, staged, AtFlags::empty());
                Ok(())
            }
            Err(Errno::EXIST) => Err(self.exists(key)),
            Err(Errno::NOENT) => Err(Refused::Cleared { path: self.path_of(staged).display().to_string() }),
            Err(errno) if NO_LINKS.contains(&errno) => self.name_by_rename(staged, key, errno),
            Err(errno) => Err(Refused::call("name", &self.path_of(key), errno)),
        }
    }

    /// The same where a hard link was refused with `link`.
    fn name_by_rename(&self, staged: &str, key: &str, link: Errno) -> Result<(), Refused> {
        let root = self.root();
        match renameat_with(&root, staged, &root, key, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.lacks_links.store(true, Ordering::Relaxed);
                Ok(())
            }
            // A link that failed may have been made all the same: then nobody knows whether it was flushed.
            Err(Errno::EXIST) if link == Errno::IO => Err(Refused::call("name", &self.path_of(key), link)),
            Err(Errno::EXIST) => Err(self.exists(key)),
            Err(Errno::NOENT) => Err(Refused::Cleared { path: self.path_of(staged).display().to_string() }),
            Err(rename) if NO_RENAMES.contains(&rename) => Err(Refused::NoCreate {
                path: self.path.display().to_string(),
                link: link.into(),
                rename: rename.into(),
            }),
            Err(errno) => Err(Refused::call("name", &self.path_of(key), errno)),
        }
    }

    fn replace(&self, staged: &str, key: &str) -> Result<(), Refused> {
        let root = self.root();
        let renamed = renameat(&root, staged, &root, key);
        renamed.map_err(|errno| Refused::call("replace", &self.path_of(key), errno))
    }

    fn exists(&self, key: &str) -> Refused {
        Refused::Exists { path: self.path_of(key).display().to_string() }
    }

    /// Brings the names in the folder of `key` to the disk. A mount that cannot do that is remembered: whoever asks what
    /// the store does is told.
    fn flush_folder(&self, key: &str) -> Result<(), Refused> {
        let folder = key.rsplit_once('/').map_or(".", |(folder, _)| folder);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(self.root(), folder, flags, Mode::empty()).map_err(std::io::Error::from);
        let Err(error) = opened.and_then(|descriptor| File::from(descriptor).sync_all()) else {
            return Ok(());
        };
        if NO_FLUSHES.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
            *self.weak.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            return Ok(());
        }
        Err(Refused::call("flush the folder of", &self.path_of(key), error))
    }

    /// Removes an object, and the folders above that are empty then.
    pub(super) fn remove(&self, key: &str) -> Result<(), Refused> {
        let root = self.root();
        let removed = unlinkat(&root, key, AtFlags::empty());
        removed.map_err(|errno| Refused::call("remove", &self.path_of(key), errno))?;
        let above = key.match_indices('/').rev().filter_map(|(at, _)| key.get(..at));
        for folder in above {
            if unlinkat(&root, folder, AtFlags::REMOVEDIR).is_err() {
                break;
            }
        }
        Ok(())
    }
}
