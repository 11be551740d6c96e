//! The folder itself: opened once, so that all that a command reads and writes is in one and the same repository,
//! whatever is mounted at its path or moved there meanwhile.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::fs::{AtFlags, Mode, OFlags, Stat, fgetxattr_query, fstat, open, openat, statat};
use rustix::io::Errno;
use sancerre_format::names;

use super::refused::Refused;

/// What the owner may do with folders and files, whatever the umask.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// The bits of the group, and the one that hands a folder's group on to what is made in it.
const GROUP: u32 = 0o070;
pub(super) const SETGID: u32 = 0o2000;
/// Where Linux keeps the access list that new files get.
const DEFAULT_ACL: &str = "system.posix_acl_default";

/// A folder that holds a repository.
#[derive(Debug)]
pub(crate) struct FolderPlace {
    /// As it was found when the command began.
    pub(super) path: PathBuf,
    root: RwLock<Arc<OwnedFd>>,
    /// What it was known by then; none where there is no repository yet.
    identity: Option<Identity>,
    pub(super) modes: Modes,
    /// Tells apart what processes and threads have under way.
    pub(super) number: AtomicU64,
    /// Held while folders are made, until they are on the disk.
    pub(super) making: RwLock<()>,
    /// There are no hard links here.
    pub(super) lacks_links: AtomicBool,
    /// What was said to whoever wanted to flush a folder; none while all goes well.
    pub(super) weak: Mutex<Option<String>>,
    /// The room that is kept for emergencies may be used.
    pub(super) spends: AtomicBool,
}

/// The permissions of what is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Modes {
    pub(super) folder: u32,
    pub(super) file: u32,
}

impl Modes {
    /// For the owner alone; for the group too where a folder is shared deliberately, as its group may use it.
    fn of(is_shared: bool, mode: u32) -> Self {
        let group = if is_shared { mode & GROUP } else { 0 };
        Self { folder: FOLDER_MODE | group, file: FILE_MODE | (group & 0o060) }
    }
}

/// The root's number, and of `config` number, size and time.
type Identity = (u64, u64, i64, i64);

impl FolderPlace {
    /// Opens the folder at an absolute path. `number` differs between processes.
    ///
    /// Errors: the kernel's.
    pub(crate) fn open_at(path: PathBuf, number: u64) -> io::Result<Self> {
        let root = open_folder(&path)?;
        let mode = fstat(&root)?.st_mode;
        let is_shared = mode & SETGID != 0 || fgetxattr_query(&root, DEFAULT_ACL).is_ok();
        Ok(Self {
            identity: identity(&root),
            path,
            root: RwLock::new(Arc::new(root)),
            modes: Modes::of(is_shared, mode),
            number: AtomicU64::new(number),
            making: RwLock::default(),
            lacks_links: AtomicBool::default(),
            weak: Mutex::default(),
            spends: AtomicBool::default(),
        })
    }

    pub(super) fn root(&self) -> Arc<OwnedFd> {
        self.root.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The whole path of a key, for messages and for looking whether it is what leads here.
    pub(super) fn path_of(&self, key: &str) -> PathBuf {
        if key.is_empty() { self.path.clone() } else { self.path.join(key) }
    }

    /// What is under a key, links followed.
    pub(super) fn stat(&self, key: &str) -> Result<Stat, Refused> {
        let failed = |errno| Refused::call("read", &self.path_of(key), errno);
        statat(self.root(), key, AtFlags::empty()).map_err(failed)
    }

    /// Opens a file to read it.
    pub(super) fn file(&self, key: &str) -> Result<File, Refused> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
        let opened = openat(self.root(), key, flags, Mode::empty());
        opened.map(File::from).map_err(|errno| Refused::call("open", &self.path_of(key), errno))
    }

    /// Fails unless the path still leads to the folder in which `key`, a file of this process, lies: as elsewhere when only
    /// the open folder has it, and as cleared away when not even that does.
    ///
    /// To compare numbers of folders would not do: some network file systems give them anew.
    pub(super) fn must_be_here(&self, key: &str) -> Result<(), Refused> {
        let path = self.path_of(key);
        match path.symlink_metadata() {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                match statat(self.root(), key, AtFlags::SYMLINK_NOFOLLOW) {
                    // Nor is it in the folder that is open: somebody removed it, and not the folder.
                    Err(Errno::NOENT) => Err(Refused::Cleared { path: path.display().to_string() }),
                    _ => Err(self.elsewhere()),
                }
            }
            Err(error) => Err(Refused::call("see", &path, error)),
        }
    }

    pub(super) fn elsewhere(&self) -> Refused {
        Refused::Elsewhere { path: self.path.display().to_string() }
    }

    /// After a server forgot the folder that is open: the same one is opened again. Another one is not taken.
    pub(super) fn reopen(&self) {
        let Ok(root) = open_folder(&self.path) else { return };
        if self.identity.is_some() && identity(&root) == self.identity {
            *self.root.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(root);
        }
    }
}

fn open_folder(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn identity(root: &OwnedFd) -> Option<Identity> {
    let (folder, config) = (fstat(root).ok()?, statat(root, names::CONFIG, AtFlags::empty()).ok()?);
    Some((folder.st_ino, config.st_ino, config.st_size, config.st_mtime))
}

/// Makes a folder and those above it, for their owner alone, whatever the umask; for the group too where the folder
/// above hands its group on.
///
/// Errors: the kernel's.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    if let Some(above) = above {
        make(above)?;
    }
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        made => made?,
    }
    // The new folder inherits the bit, and a umask may have taken what the owner needs.
    let inherited = above.map(Path::metadata).transpose()?.map_or(0, |above| above.mode());
    let modes = Modes::of(inherited & SETGID != 0, inherited);
    let mode = path.metadata()?.mode();
    if mode & 0o777 != modes.folder {
        std::fs::set_permissions(path, Permissions::from_mode(mode & SETGID | modes.folder))?;
    }
    // Not all can be flushed; where one cannot, that is found out and said later.
    let _ = above.map(File::open).transpose()?.map(|above| above.sync_all());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_shared_folder_is_for_its_group() {
        assert_eq!(Modes::of(false, 0o777), Modes { folder: 0o700, file: 0o600 });
        assert_eq!(Modes::of(true, 0o2770), Modes { folder: 0o770, file: 0o660 });
        assert_eq!(Modes::of(true, 0o2757), Modes { folder: 0o750, file: 0o640 });
    }

    #[test]
    fn a_folder_that_hands_its_group_on_makes_shared_ones() {
        let outer = tempfile::tempdir().unwrap();
        std::fs::set_permissions(outer.path(), Permissions::from_mode(0o2770)).unwrap();
        let path = outer.path().join("a/b");
        make(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o2770);
        let place = FolderPlace::open_at(path, 0).unwrap();
        assert_eq!(place.modes, Modes { folder: 0o770, file: 0o660 });
    }
}
