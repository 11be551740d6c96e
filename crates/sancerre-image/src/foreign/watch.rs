//! Which files a program has open, and whether they were written to.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::ChangedError;

/// The files that a program reads a disk from, as they were when it had opened them.
#[derive(Debug)]
pub(super) struct Watch {
    image: PathBuf,
    files: Vec<File>,
}

/// A descriptor of the program: its name in /proc leads to the file that is open, whatever has its name by now.
#[derive(Debug)]
struct File {
    descriptor: PathBuf,
    name: PathBuf,
    seen: Seen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    place: (u64, u64),
    size_bytes: u64,
    modified: (i64, i64),
    /// Whoever writes can set the time above back, and not this one.
    changed: (i64, i64),
}

impl Seen {
    fn of(metadata: &Metadata) -> Self {
        Self {
            place: (metadata.dev(), metadata.ino()),
            size_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Watch {
    /// All regular files that the process has open; `image` must be among them.
    pub(super) fn of(process: u32, image: &Path) -> io::Result<Self> {
        let mut files: Vec<File> = Vec::new();
        for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
            let descriptor = entry?.path();
            // It may be closed by now.
            let Ok(metadata) = fs::metadata(&descriptor) else { continue };
            if metadata.is_file() {
                let name = fs::read_link(&descriptor)?;
                files.push(File { descriptor, name, seen: Seen::of(&metadata) });
            }
        }
        let wanted = Seen::of(&fs::metadata(image)?).place;
        if files.iter().any(|file| file.seen.place == wanted) {
            return Ok(Self { image: image.to_owned(), files });
        }
        Err(io::Error::other("the program that reads it does not have it open"))
    }

    pub(super) fn check(&self) -> Result<(), ChangedError> {
        for file in &self.files {
            let unknown = |source| ChangedError::Unknown { path: self.image.clone(), source };
            let now = Seen::of(&fs::metadata(&file.descriptor).map_err(unknown)?);
            if now.size_bytes != file.seen.size_bytes {
                let (opened_bytes, now_bytes) = (file.seen.size_bytes, now.size_bytes);
                return Err(ChangedError::Size { path: file.name.clone(), opened_bytes, now_bytes });
            }
            if now.modified != file.seen.modified || now.place != file.seen.place {
                return Err(ChangedError::Modified { path: file.name.clone() });
            }
            if now != file.seen {
                return Err(ChangedError::Touched { path: file.name.clone() });
            }
        }
        Ok(())
    }
}
