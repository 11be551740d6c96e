//! The file a disk grows in until it is whole: `NAME.sancerre-partial`, locked by the process that writes it.
//!
//! Invariant: whoever removes or renames a partial file holds its lock and has seen that the name still means the
//! locked file. So no restore can publish or remove the half-written file of another.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Mode, OFlags};
use rustix::io::retry_on_intr;
use rustix::process::geteuid;
use sancerre_advice::Setting::Resume;

use super::limit;
use super::zero::Zeroing;
use crate::holes::data_ranges;
use crate::{TargetError, kind};

const SUFFIX: &str = ".sancerre-partial";

/// A new, sparse, locked file with the size of the disk.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    name: PathBuf,
    overwrite: bool,
    /// Set when it was there before, so that a hole may have to be made.
    used: Option<Zeroing>,
}

impl Partial {
    pub(super) fn create(name: &Path, size_bytes: u64, overwrite: bool) -> Result<Self, TargetError> {
        refuse_used(name, overwrite)?;
        let path = partial_path(name)?;
        remove_stale(&path)?;
        // O_EXCL follows no link and takes no existing file; 0600 because a disk holds secrets.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = open(&path, flags).map_err(|source| failed("create", &path, source))?;
        lock(&file, &path)?;
        let partial = Self { file, path, name: name.to_owned(), overwrite, used: None };
        if let Err(source) = partial.file.set_len(size_bytes) {
            let error = size_failed(&partial, size_bytes, source);
            // The file is empty and the size is what matters to the caller: report that error.
            let _ = partial.remove();
            return Err(error);
        }
        Ok(partial)
    }

    /// Takes up what an interrupted restore left, of whichever disk it was; none where nothing was left.
    pub(super) fn take_up(
        name: &Path,
        size_bytes: u64,
        overwrite: bool,
    ) -> Result<Option<Self>, TargetError> {
        let path = partial_path(name)?;
        let Some(file) = open_left(&path)? else { return Ok(None) };
        refuse_used(name, overwrite)?;
        refuse_foreign(&file, &path)?;
        let partial = Self { file, path, name: name.to_owned(), overwrite, used: Some(Zeroing::new()) };
        match partial.file.set_len(size_bytes) {
            Ok(()) => Ok(Some(partial)),
            Err(source) => Err(size_failed(&partial, size_bytes, source)),
        }
    }

    /// Whether it was there before.
    pub(super) fn is_used(&self) -> bool {
        self.used.is_some()
    }

    /// Makes `range` read as zeros. In a new file it does.
    pub(super) fn zero(&self, range: Range<u64>) -> io::Result<()> {
        let Some(zeroing) = &self.used else { return Ok(()) };
        let found = data_ranges(&self.file, range).map_err(|(_, error)| error)?;
        found.into_iter().try_for_each(|data| zeroing.zero(&self.file, data))
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The name that the file gets.
    pub(super) fn name(&self) -> &Path {
        &self.name
    }

    /// Gives the flushed file its name and makes the name durable.
    pub(super) fn publish(self) -> Result<(), TargetError> {
        refuse_used(&self.name, self.overwrite)?;
        if !is_named(&self.file, &self.path) {
            return Err(match fs::symlink_metadata(&self.path) {
                Err(source) => failed(GONE, &self.path, source),
                Ok(_) => TargetError::AnotherRestore { path: self.path },
            });
        }
        fs::rename(&self.path, &self.name).map_err(|source| failed("rename", &self.path, source))?;
        let directory = directory_of(&self.name);
        File::open(directory)
            .and_then(|opened| opened.sync_all())
            .map_err(|source| failed("flush the directory", directory, source))
    }

    pub(super) fn remove(self) -> Result<(), TargetError> {
        if !is_named(&self.file, &self.path) {
            return Ok(());
        }
        fs::remove_file(&self.path).map_err(|source| failed("remove", &self.path, source))
    }
}

/// Nobody replaced it: it has no name here any more.
const GONE: &str = "find again, as it or its folder was moved or removed meanwhile,";

fn size_failed(partial: &Partial, size_bytes: u64, source: io::Error) -> TargetError {
    match source.kind() {
        io::ErrorKind::FileTooLarge => limit::too_large(&partial.path, &partial.file, size_bytes),
        _ => failed("set the size of", &partial.path, source),
    }
}

/// Fails for a name that is taken, and in a directory that this user may not write to.
pub(super) fn refuse_name(name: &Path, overwrite: bool, resume: bool) -> Result<(), TargetError> {
    // What an interrupted restore finished is compared, not replaced.
    refuse_used(name, overwrite || resume)?;
    partial_path(name)?;
    let directory = directory_of(name);
    let allowed = rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK);
    allowed.map_err(|error| failed("write into", directory, error.into()))
}

/// A name is free when nothing has it or an empty file has it; with `overwrite` any file may have it. A symbolic
/// link is refused: the rename would replace the link and not what it points to.
fn refuse_used(name: &Path, overwrite: bool) -> Result<(), TargetError> {
    let metadata = match fs::symlink_metadata(name) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed("look at", name, source)),
    };
    if metadata.is_symlink() {
        return Err(not_a_target(name, &metadata, "name the file it points to"));
    }
    if !metadata.is_file() {
        return Err(not_a_target(name, &metadata, "name a file or a block device"));
    }
    if metadata.len() > 0 && !overwrite {
        return Err(TargetError::Exists { path: name.to_owned() });
    }
    Ok(())
}

/// Removes what a killed restore left, unless its process is alive.
fn remove_stale(path: &Path) -> Result<(), TargetError> {
    match open_left(path)? {
        Some(_locked) => fs::remove_file(path).map_err(|source| failed("remove", path, source)),
        None => Ok(()),
    }
}

/// Opens and locks a partial file that is there already.
fn open_left(path: &Path) -> Result<Option<File>, TargetError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed("look at", path, source)),
    };
    if !metadata.is_file() {
        return Err(not_a_target(path, &metadata, "remove it if it is not needed"));
    }
    let left = open(path, OFlags::RDWR | OFlags::NONBLOCK).map_err(|e| failed("open", path, e))?;
    lock(&left, path)?;
    Ok(Some(left))
}

/// A disk holds secrets: a file that somebody else could read, or has another name for, is not filled with them.
fn refuse_foreign(file: &File, path: &Path) -> Result<(), TargetError> {
    let metadata = file.metadata().map_err(|source| failed("look at", path, source))?;
    let is_ours =
        metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o077 == 0 && metadata.nlink() == 1;
    match is_ours {
        true => Ok(()),
        false => Err(TargetError::NotATarget {
            path: path.to_owned(),
            kind: "file that others can read or own",
            advice: format!("remove it, or restore without {Resume}, which replaces it"),
        }),
    }
}

/// Locks the file and makes sure that it has not lost its name to another restore before the lock was ours.
fn lock(file: &File, path: &Path) -> Result<(), TargetError> {
    // Some network file systems have no locks (ENOLCK, EOPNOTSUPP): the check of the name is then all there is.
    let is_taken = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    if is_taken || !is_named(file, path) {
        return Err(TargetError::AnotherRestore { path: path.to_owned() });
    }
    Ok(())
}

/// Whether `path` is still the name of the open `file`.
fn is_named(file: &File, path: &Path) -> bool {
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(opened), Ok(named)) => identity(opened) == identity(named),
        _ => false,
    }
}

fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    let descriptor = retry_on_intr(|| rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR))?;
    Ok(File::from(descriptor))
}

fn partial_path(name: &Path) -> Result<PathBuf, TargetError> {
    let Some(file_name) = name.file_name() else {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in a file name");
        return Err(failed("restore to", name, source));
    };
    let mut partial: OsString = file_name.to_owned();
    partial.push(SUFFIX);
    Ok(name.with_file_name(partial))
}

fn directory_of(name: &Path) -> &Path {
    name.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn not_a_target(path: &Path, metadata: &Metadata, advice: &'static str) -> TargetError {
    TargetError::NotATarget {
        path: path.to_owned(),
        kind: kind::name(metadata.file_type()),
        advice: advice.into(),
    }
}

fn failed(step: &'static str, path: &Path, source: io::Error) -> TargetError {
    TargetError::Io { step, path: path.to_owned(), source }
}
