//! Which files a program has open, and whether they were written to.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{ChangedError, Disk, OpenError, RawDisk, raw};

/// The files that a program reads a disk from, as they were when it had opened them. They are opened here as well, whatever has
/// their names by now, and watched as every other file that a disk is read from.
#[derive(Debug)]
pub(super) struct Watch(Vec<RawDisk>);

impl Watch {
    /// All regular files that the process has open, but those that are `its_own` to write; `image` must be among them.
    pub(super) fn of(process: u32, image: &Path, its_own: &[PathBuf]) -> io::Result<Self> {
        let mut files: Vec<RawDisk> = Vec::new();
        let identity = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
        let its_own = its_own.iter().map(|path| identity(path)).collect::<io::Result<Vec<_>>>()?;
        for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
            let descriptor = entry?.path();
            // It may be closed by now.
            let Ok(metadata) = fs::metadata(&descriptor) else { continue };
            if metadata.is_file() && !its_own.contains(&(metadata.dev(), metadata.ino())) {
                let file = raw::of_file(&fs::read_link(&descriptor)?, File::open(&descriptor)?);
                files.push(file.map_err(opening)?);
            }
        }
        let wanted = identity(image)?;
        match files.iter().any(|file| file.identity().is_ok_and(|identity| identity == wanted)) {
            true => Ok(Self(files)),
            false => Err(io::Error::other("the program that reads it does not have it open")),
        }
    }

    /// As [`Disk::check_unchanged`], for each of them. The program itself holds no lock that says that it writes.
    pub(super) fn check(&self) -> Result<(), ChangedError> {
        self.0.iter().try_for_each(Disk::check_unchanged)
    }
}

fn opening(error: OpenError) -> io::Error {
    match error {
        OpenError::Io { source, .. } => source,
        other => io::Error::other(other.to_string()),
    }
}
