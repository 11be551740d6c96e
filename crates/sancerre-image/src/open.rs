//! Opening what was named, without ever waiting for it: a pipe without a writer would keep us for ever.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::retry_on_intr;
use sancerre_advice::Setting::{Attach, Stdin};

use crate::{OpenError, kind};

/// What may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A regular file or a block device.
    Disk,
    /// A regular file.
    File,
}

/// Opens a regular file to be read as it is. Symbolic links are followed: the operator named them.
///
/// # Errors
/// [`OpenError::NotAFile`] for anything else, with what to do instead.
pub fn open_file(path: &Path) -> Result<File, OpenError> {
    open(path, Wanted::File).map(|(file, _)| file)
}

/// Opens what `path` names, if it is what is wanted.
pub(crate) fn open(path: &Path, wanted: Wanted) -> Result<(File, Metadata), OpenError> {
    let fail = |source| OpenError::Io { path: path.to_owned(), source };
    let named = std::fs::metadata(path).map_err(fail)?;
    refuse_other_kinds(path, &named, wanted)?;
    let file = open_without_waiting(path, &named).map_err(fail)?;
    // What was opened counts, should the name have changed its meaning in between.
    let metadata = file.metadata().map_err(fail)?;
    refuse_other_kinds(path, &metadata, wanted)?;
    Ok((file, metadata))
}

pub(crate) fn refuse_other_kinds(path: &Path, metadata: &Metadata, wanted: Wanted) -> Result<(), OpenError> {
    let file_type = metadata.file_type();
    let (path, kind) = (path.to_owned(), kind::name(file_type));
    match wanted {
        Wanted::Disk if kind::is_disk(file_type) => Ok(()),
        Wanted::File if file_type.is_file() => Ok(()),
        Wanted::Disk => {
            let advice = match () {
                () if file_type.is_fifo() => format!("pass what comes from a pipe with {Stdin}"),
                () if file_type.is_dir() => "name the disk images in it".into(),
                () if file_type.is_char_device() => "name the block device of the disk".into(),
                () => "name a raw image file or a block device".into(),
            };
            Err(OpenError::NotADisk { path, kind, advice })
        }
        Wanted::File => {
            let advice = match () {
                () if file_type.is_block_device() => format!("name it as a disk, without {Attach}"),
                () if file_type.is_dir() => "name each file in it, or a tar archive of it".into(),
                () => "write what comes from it to a file first".into(),
            };
            Err(OpenError::NotAFile { path, kind, advice })
        }
    }
}

/// A pipe put in place of the file must not make us wait for a writer: hence `O_NONBLOCK`, which a regular file
/// ignores. A block device is opened without it, because some drivers then skip the test for a medium.
fn open_without_waiting(path: &Path, named: &Metadata) -> io::Result<File> {
    let base = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let flags = if named.file_type().is_block_device() { base } else { base | OFlags::NONBLOCK };
    let descriptor = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))?;
    Ok(File::from(descriptor))
}
