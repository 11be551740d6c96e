//! Files that an image names, opened only inside the directory that the operator named.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::{Errno, retry_on_intr};

use crate::open::{Wanted, refuse_other_kinds};
use crate::raw::of_file;
use crate::{OpenError, RawDisk};

/// The other files that an image may have. Whoever writes an image chooses what it names, so nothing outside
/// `directory` is opened, whatever links, dots or absolute paths say.
#[derive(Debug, Clone, Copy)]
pub struct References<'a> {
    /// Where they must be, also if a name leads through links.
    pub directory: &'a Path,
    /// Whether images may stand on backing files.
    pub backing: bool,
    /// Whether the guest's clusters may be in a data file.
    pub data_file: bool,
}

/// Another process that renames directories makes the kernel give up and ask to be called again (openat2(2)).
const TRIES: usize = 32;
const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOCTTY).union(OFlags::NONBLOCK);

/// The named directory, held open: what its name means later does not matter.
pub(crate) struct Directory {
    handle: OwnedFd,
    /// The spellings by which a name may begin inside it: as it was named, and without links.
    roots: [PathBuf; 2],
    named: PathBuf,
}

impl Directory {
    pub(crate) fn open(named: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io { path: named.to_owned(), source };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = retry_on_intr(|| rustix::fs::open(named, flags, Mode::empty()));
        let roots = [std::path::absolute(named), std::fs::canonicalize(named)];
        let [absolute, canonical] = roots.map(|root| root.map_err(failed));
        let handle = handle.map_err(|errno| failed(errno.into()))?;
        Ok(Self { handle, roots: [absolute?, canonical?], named: named.to_owned() })
    }

    pub(crate) fn named(&self) -> &Path {
        &self.named
    }

    /// Opens what the image at `image` calls `name`, which is relative to the image's folder; none when that is not
    /// inside this directory.
    pub(crate) fn open_beneath(&self, image: &Path, name: &Path) -> Result<Option<RawDisk>, OpenError> {
        let Some((root, inner)) = self.inner(image, name) else { return Ok(None) };
        let path = root.join(&inner);
        let failed = |source| OpenError::Io { path: path.clone(), source };
        let open = |flags| match open_inside(&self.handle, &inner, flags) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::XDEV) => Ok(None),
            Err(errno) => Err(failed(errno.into())),
        };
        // To open some devices is to start something, so what it is must be known before.
        let Some(seen) = open(OFlags::PATH | OFlags::CLOEXEC)? else { return Ok(None) };
        refuse_other_kinds(&path, &seen.metadata().map_err(failed)?, Wanted::Disk)?;
        open(FLAGS)?.map(|file| of_file(&path, file)).transpose()
    }

    /// The name as it is seen from this directory. What leads up or through links of folders is resolved first, since a
    /// name may go out and come back; that looks at names only, and the kernel decides whether the file is inside.
    fn inner(&self, image: &Path, name: &Path) -> Option<(&Path, PathBuf)> {
        let spelled = std::path::absolute(image).ok()?.parent()?.join(name);
        let folder = spelled.parent().and_then(|folder| std::fs::canonicalize(folder).ok());
        let resolved = folder.zip(spelled.file_name()).map(|(folder, file)| folder.join(file));
        let spellings = resolved.iter().chain([&spelled]);
        spellings.flat_map(|spelling| self.roots.iter().map(move |root| (root, spelling))).find_map(
            |(root, spelling)| {
                let inner = spelling.strip_prefix(root).ok()?;
                (!inner.as_os_str().is_empty()).then(|| (root.as_path(), inner.to_owned()))
            },
        )
    }
}

fn open_inside(directory: &OwnedFd, inner: &Path, flags: OFlags) -> Result<File, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut result = Err(Errno::AGAIN);
    for _ in 0..TRIES {
        result = openat2(directory, inner, flags, Mode::empty(), resolve);
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    match result {
        // Kernels before 5.6, and sandboxes that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => step_by_step(directory, inner, flags),
        other => other.map(File::from),
    }
}

/// Without the call no link is followed at all, and no step goes up.
fn step_by_step(directory: &OwnedFd, inner: &Path, flags: OFlags) -> Result<File, Errno> {
    let names: Option<Vec<&OsStr>> = inner
        .components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    let names = names.ok_or(Errno::XDEV)?;
    let (last, folders) = names.split_last().ok_or(Errno::INVAL)?;
    let mut at = directory.try_clone().map_err(|_| Errno::MFILE)?;
    for folder in folders {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at = retry_on_intr(|| openat(&at, *folder, flags, Mode::empty()))?;
    }
    retry_on_intr(|| openat(&at, *last, flags | OFlags::NOFOLLOW, Mode::empty())).map(File::from)
}

#[cfg(test)]
mod tests;
