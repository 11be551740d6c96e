//! A file that is there, and is written over where it differs. Until the restore ends it is neither the old disk nor the new.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::retry_on_intr;

use super::refuse_in_use;
use super::zero::Zeroing;
use crate::raw::size_of;
use crate::{TargetError, kind};

/// An open file of exactly the size of the disk, locked.
#[derive(Debug)]
pub(super) struct Present {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) zeroing: Zeroing,
}

impl Present {
    /// # Errors
    /// A path that is no file, a file that is in use, and one of another size.
    pub(super) fn open(path: &Path, disk_bytes: u64) -> Result<Self, TargetError> {
        let failed = |step, source| TargetError::Io { step, path: path.to_owned(), source };
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let opened = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()));
        let file = File::from(opened.map_err(|error| failed("open", error.into()))?);
        let metadata = file.metadata().map_err(|error| failed("look at", error))?;
        if !metadata.is_file() {
            let advice = "name a file or a block device";
            let kind = kind::name(metadata.file_type());
            return Err(TargetError::NotATarget { path: path.to_owned(), kind, advice: advice.into() });
        }
        refuse_in_use(&file, path)?;
        // Where there are no locks the look for those of others is all there is.
        let _ = file.try_lock();
        let found_bytes = size_of(&file).map_err(|error| failed("measure", error))?;
        if found_bytes != disk_bytes {
            return Err(TargetError::OtherSize { path: path.to_owned(), found_bytes, disk_bytes });
        }
        Ok(Self { file, path: path.to_owned(), zeroing: Zeroing::new() })
    }
}
