//! What only a folder of this machine has: a path, files of writes that died, and room for emergencies.

use std::path::Path;
use std::sync::Arc;

use rustix::fs::Access;
use rustix::io::Errno;
use sancerre_format::names::Time;

use crate::clock::Random;
use crate::error::{Result, StoreError};
use crate::folder::{Folder, FolderPlace, Leftover, make};
use crate::{Store, StoreOptions};

/// No write takes so long that its file, dated when its last byte came, is older than this; and whoever did sleep so long
/// writes it again.
const LEFTOVER_SECONDS: i64 = 24 * 60 * 60;

/// Files of writes that are under way, or died.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// How many.
    pub files: u64,
    /// What they take.
    pub bytes: u64,
    /// The key of the largest.
    pub largest: Option<String>,
    /// Those that could not be removed, with the reason.
    pub left: Vec<String>,
}

impl Leftovers {
    fn of(found: &[Leftover]) -> Self {
        let largest = found.iter().max_by_key(|leftover| leftover.size_bytes);
        let bytes = found.iter().fold(0, |sum: u64, leftover| sum.saturating_add(leftover.size_bytes));
        let files = u64::try_from(found.len()).unwrap_or(u64::MAX);
        Self { files, bytes, largest: largest.map(|leftover| leftover.key.clone()), left: Vec::new() }
    }
}

impl Store {
    /// An empty store in memory, which ends with the process: for tests and to try things out.
    pub fn in_memory() -> Self {
        Self::new(Arc::new(object_store::memory::InMemory::new()), "memory")
    }

    /// Opens a folder of this machine; with `create`, makes it first.
    ///
    /// Errors: [`StoreError::NoFolder`] where no folder is; [`StoreError::File`].
    pub(crate) fn open_folder(
        location: &str,
        path: &Path,
        create: bool,
        options: &StoreOptions,
    ) -> Result<Self> {
        let failed =
            |operation, source| StoreError::File { operation, path: path.display().to_string(), source };
        let path = std::path::absolute(path).map_err(|source| failed("find", source))?;
        let refuse = |reason: String| StoreError::Location { location: location.to_owned(), reason };
        // Behind a folder that may not be searched nobody sees what is there.
        if let Err(denied) = path.metadata()
            && denied.kind() == std::io::ErrorKind::PermissionDenied
        {
            return Err(failed("look at the folder", denied));
        }
        if path.exists() && !path.is_dir() {
            let reason = "that is no folder: give one, or a path where one can be made. A disk is not written to as it \
                          is: make a file system on it, mount that, and give a folder in it";
            return Err(refuse(reason.into()));
        }
        if create {
            if let Some(of) = system_folder(&path).filter(|_| !path.is_dir()) {
                return Err(refuse(format!(
                    "{of} belongs to the system and lies in memory, so nothing in it outlasts a restart. A device of this name \
                     is not there; to use a disk, make a file system on it, mount that, and give a folder in it"
                )));
            }
            make(&path).map_err(|source| failed("create the folder", source))?;
        } else if !path.is_dir() {
            return Err(StoreError::NoFolder { location: location.to_owned() });
        }
        let place =
            FolderPlace::open_at(path, options.salt).map_err(|source| failed("open the folder", source))?;
        let strange = Arc::default();
        let folder = Folder::new(place, Arc::clone(&strange));
        Ok(Self::of_local(Arc::new(folder.clone()), location, options, strange, Some(folder)))
    }

    /// The folder, if it is one of this machine.
    pub fn folder_path(&self) -> Option<&Path> {
        self.shared.folder.as_ref().map(Folder::path)
    }

    /// What is written from now on may use the room that is kept for emergencies: for commands that lead to more room.
    pub fn spend_reserve(&self) {
        if let Some(folder) = &self.shared.folder {
            folder.spend_reserve();
        }
    }

    /// Fails where nothing at all can be written: before somebody waits in vain.
    ///
    /// Errors: [`StoreError::File`] for a folder that is mounted read-only.
    pub fn refuse_read_only(&self) -> Result<()> {
        let Some(path) = self.folder_path() else { return Ok(()) };
        match rustix::fs::access(path, Access::WRITE_OK) {
            // Rights may differ from folder to folder below it, and are found out there.
            Err(errno @ Errno::ROFS) => Err(StoreError::File {
                operation: "write into",
                path: path.display().to_string(),
                source: errno.into(),
            }),
            _ => Ok(()),
        }
    }

    /// Keeps some room on the disk, so that one that is full can be emptied. On other stores that is not needed.
    ///
    /// Errors: the store's, also when there is no room for it.
    pub async fn keep_reserve(&self, random: Arc<dyn Random>) -> Result<()> {
        let Some(folder) = &self.shared.folder else { return Ok(()) };
        let kept = folder.keep_reserve(move |bytes| random.fill(bytes)).await;
        kept.map_err(|source| failed("keep room in", self, source))
    }

    /// Whether folders can be flushed, as far as was tried; what the mount said if not. None where there are none.
    pub(crate) fn weakness(&self) -> Option<Option<String>> {
        Some(self.shared.folder.as_ref()?.weakness())
    }

    /// Files of writes that are under way, or died. Elsewhere than in folders there are none.
    ///
    /// Errors: the store's.
    pub async fn leftovers(&self) -> Result<Leftovers> {
        let Some(folder) = &self.shared.folder else { return Ok(Leftovers::default()) };
        let found = folder.leftovers().await.map_err(|source| failed("list", self, source))?;
        Ok(Leftovers::of(&found))
    }

    /// Removes those that nobody can be writing any more, by the clock that dates them. Says what was removed.
    ///
    /// Errors: the store's, before anything is removed.
    pub async fn clear_leftovers(&self) -> Result<Leftovers> {
        let Some(folder) = &self.shared.folder else { return Ok(Leftovers::default()) };
        let failed = |source| failed("list", self, source);
        let found = folder.leftovers().await.map_err(failed)?;
        if found.is_empty() {
            return Ok(Leftovers::default());
        }
        let now = folder.now().await.map_err(failed)?;
        let is_old = |leftover: &Leftover| is_old(leftover.modified, now);
        let (mut cleared, mut left) = (Vec::new(), Vec::new());
        for leftover in found.into_iter().filter(is_old) {
            match folder.clear(leftover.clone()).await {
                Ok(()) => cleared.push(leftover),
                Err(error) => {
                    left.push(format!("{} was not removed: {}", leftover.key, crate::explain(&error)));
                }
            }
        }
        Ok(Leftovers { left, ..Leftovers::of(&cleared) })
    }
}

/// The folder of the system in which nothing is kept, if a path that is to be made leads into one.
fn system_folder(path: &Path) -> Option<&'static str> {
    const OF_SYSTEM: [&str; 3] = ["/dev", "/proc", "/sys"];
    const SHARED_MEMORY: &str = "/dev/shm";
    let real = path.ancestors().find_map(|above| above.canonicalize().ok())?;
    let is_below = |folder: &str| real.starts_with(folder) && !real.starts_with(SHARED_MEMORY);
    OF_SYSTEM.into_iter().find(|folder| is_below(folder))
}

fn is_old(modified: Time, now: Time) -> bool {
    now.unix_seconds().saturating_sub(modified.unix_seconds()) >= LEFTOVER_SECONDS
}

fn failed(operation: &'static str, store: &Store, source: object_store::Error) -> StoreError {
    StoreError::Failed { operation, key: store.location().to_owned(), source }
}
