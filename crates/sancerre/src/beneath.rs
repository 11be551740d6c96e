//! Writing below one directory that stays open, by names that anybody may have chosen: each step is one name, no link is
//! followed, and the kernel refuses what would lead out.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, fstat, linkat, mkdirat, openat, openat2,
    renameat, renameat_with, statat, symlinkat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};

/// Directories are made so that others see nothing of them until they are whole.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A directory, held open.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

/// What became of a file that is to get a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    Done,
    /// Something has the name, and may not be replaced.
    Exists,
}

impl Folder {
    /// The directory that the user named, made if it is not there.
    pub(crate) fn of_user(path: &Path) -> io::Result<Self> {
        match std::fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(retry_on_intr(|| openat(CWD, path, flags, Mode::empty()))?))
    }

    /// A folder in this one, made if it is not there. A link in its place is an error.
    pub(crate) fn folder(&self, name: &[u8]) -> io::Result<Self> {
        let name = one(name)?;
        match mkdirat(&self.0, name, Mode::from_raw_mode(DIRECTORY_MODE)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(Self(inside(&self.0, name, OFlags::RDONLY | OFlags::DIRECTORY)?))
    }

    /// A new file, which nobody else has.
    pub(crate) fn create(&self, name: &[u8]) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        Ok(File::from(inside(&self.0, one(name)?, flags)?))
    }

    /// Gives what is called `from` the name `to`, in place of what has it only if it may be replaced.
    pub(crate) fn rename(&self, from: &[u8], to: &[u8], overwrite: bool) -> io::Result<Named> {
        let (from, to) = (one(from)?, one(to)?);
        if overwrite {
            // A folder is never replaced.
            return match renameat(&self.0, from, &self.0, to) {
                Ok(()) => Ok(Named::Done),
                Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => Ok(Named::Exists),
                Err(errno) => Err(errno.into()),
            };
        }
        match renameat_with(&self.0, from, &self.0, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(Named::Done),
            Err(Errno::EXIST) => Ok(Named::Exists),
            // File systems that do not know the flag: a further name, which replaces nothing.
            Err(Errno::INVAL | Errno::NOSYS) => match linkat(&self.0, from, &self.0, to, AtFlags::empty()) {
                Ok(()) => self.remove(from.as_bytes()).map(|()| Named::Done),
                Err(Errno::EXIST) => Ok(Named::Exists),
                Err(errno) => Err(errno.into()),
            },
            Err(errno) => Err(errno.into()),
        }
    }

    pub(crate) fn remove(&self, name: &[u8]) -> io::Result<()> {
        Ok(unlinkat(&self.0, one(name)?, AtFlags::empty())?)
    }

    /// Whether something has this name.
    pub(crate) fn has(&self, name: &[u8]) -> bool {
        one(name).is_ok_and(|name| statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW).is_ok())
    }

    pub(crate) fn symlink(&self, name: &[u8], target: &[u8]) -> io::Result<Named> {
        match symlinkat(OsStr::from_bytes(target), &self.0, one(name)?) {
            Ok(()) => Ok(Named::Done),
            Err(Errno::EXIST) => Ok(Named::Exists),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A further name for a file in another folder.
    pub(crate) fn hard_link(&self, from: &Self, old: &[u8], name: &[u8]) -> io::Result<()> {
        Ok(linkat(&from.0, one(old)?, &self.0, one(name)?, AtFlags::empty())?)
    }

    /// The folder behind names, each in the one before.
    pub(crate) fn reach(&self, names: &[Vec<u8>]) -> io::Result<Self> {
        let mut at = Self(self.0.try_clone()?);
        for name in names {
            at = Self(inside(&at.0, one(name)?, OFlags::RDONLY | OFlags::DIRECTORY)?);
        }
        Ok(at)
    }

    pub(crate) fn is_regular(&self, name: &[u8]) -> bool {
        let found = one(name).and_then(|name| Ok(statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?));
        found.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
    }

    /// Who owns what is made here.
    pub(crate) fn owner(&self) -> io::Result<(u32, u32)> {
        let stat = fstat(&self.0)?;
        Ok((stat.st_uid, stat.st_gid))
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One name, which leads nowhere else.
fn one(name: &[u8]) -> io::Result<&OsStr> {
    let leads = name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0);
    match leads {
        false => Ok(OsStr::from_bytes(name)),
        true => Err(io::Error::new(io::ErrorKind::InvalidInput, "a name that would lead elsewhere")),
    }
}

fn inside(folder: &OwnedFd, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(FILE_MODE) } else { Mode::empty() };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match retry_on_intr(|| openat2(folder, name, flags, mode, resolve)) {
        // Kernels before 5.6: one name and no link leads nowhere else either.
        Err(Errno::NOSYS | Errno::PERM) => Ok(retry_on_intr(|| openat(folder, name, flags, mode))?),
        opened => Ok(opened?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_outside() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("out")).unwrap();
        std::fs::create_dir(place.path().join("in")).unwrap();
        std::os::unix::fs::symlink("../out", place.path().join("in/link")).unwrap();
        let folder = Folder::of_user(&place.path().join("in")).unwrap();
        for name in ["..", ".", "", "a/b", "/etc", "a\0b"] {
            assert!(
                folder.folder(name.as_bytes()).is_err() && folder.create(name.as_bytes()).is_err(),
                "{name}"
            );
        }
        folder.folder(b"link").unwrap_err();
        folder.create(b"link").unwrap_err();
        folder.reach(&[b"link".to_vec()]).unwrap_err();
        assert_eq!(std::fs::read_dir(place.path().join("out")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_there_is_replaced_only_where_it_may_be() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::of_user(place.path()).unwrap();
        std::fs::write(place.path().join("a"), "old").unwrap();
        folder.create(b"new").unwrap();
        assert_eq!(folder.rename(b"new", b"a", false).unwrap(), Named::Exists);
        assert_eq!(std::fs::read(place.path().join("a")).unwrap(), b"old");
        assert_eq!(folder.rename(b"new", b"a", true).unwrap(), Named::Done);
        assert_eq!(std::fs::read(place.path().join("a")).unwrap(), b"");
        std::fs::create_dir(place.path().join("d")).unwrap();
        folder.create(b"new").unwrap();
        assert_eq!(folder.rename(b"new", b"d", true).unwrap(), Named::Exists);
    }
}
