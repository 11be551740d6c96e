//! Owner, mode and extended attributes of a file whose place another one takes: the machine that uses it must find them
//! as they were, or it does not start.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{
    Gid, Mode, Uid, XattrFlags, fchmod, fchown, fgetxattr, fgetxattr_query, flistxattr, flistxattr_query,
    fremovexattr, fsetxattr,
};
use rustix::io::Errno;

/// An access list is given last: it opens the file to whom it names.
const ACCESS_LIST: &CStr = c"system.posix_acl_access";
/// What belongs to the bytes of the old file, or to the place where its file system put it.
const NOT_KEPT: [&[u8]; 8] = [
    b"security.ima",
    b"security.evm",
    b"security.capability",
    b"trusted.overlay.",
    b"trusted.gfid",
    b"trusted.glusterfs.",
    b"ceph.",
    b"lustre.",
];

/// What is kept of a file.
#[derive(Debug)]
pub(super) struct Attributes {
    owner: (u32, u32),
    mode: u32,
    extended: Vec<(CString, Vec<u8>)>,
}

impl Attributes {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let mut extended = Vec::new();
        for name in names(file)? {
            let is_kept = !NOT_KEPT.iter().any(|prefix| name.to_bytes().starts_with(prefix));
            if let (true, Some(value)) = (is_kept, value(file, &name)?) {
                extended.push((name, value));
            }
        }
        let owner = (metadata.uid(), metadata.gid());
        Ok(Self { owner, mode: metadata.mode() & 0o7777, extended })
    }

    /// Finds out whether `file` can be given these, before hours of work: gives what opens it to nobody, and gives the
    /// owner and takes it back.
    pub(super) fn try_on(&self, file: &File) -> io::Result<()> {
        let own = owner(file)?;
        if own != self.owner {
            chown(file, self.owner)?;
            chown(file, own)?;
        }
        self.extend(file, |name| name != ACCESS_LIST)
    }

    /// Gives `file` all of them.
    pub(super) fn give(&self, file: &File) -> io::Result<()> {
        if owner(file)? != self.owner {
            chown(file, self.owner)?;
        }
        // Without an access list of its own: the folder may have given it one, which the mode then opens.
        match fremovexattr(file, ACCESS_LIST) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        fchmod(file, Mode::from_raw_mode(self.mode))?;
        self.extend(file, |_| true)
    }

    fn extend(&self, file: &File, is_wanted: impl Fn(&CStr) -> bool) -> io::Result<()> {
        for (name, wanted) in self.extended.iter().filter(|(name, _)| is_wanted(name)) {
            if value(file, name)?.as_ref() != Some(wanted) {
                fsetxattr(file, name.as_c_str(), wanted, XattrFlags::empty())?;
            }
        }
        Ok(())
    }
}

fn owner(file: &File) -> io::Result<(u32, u32)> {
    file.metadata().map(|metadata| (metadata.uid(), metadata.gid()))
}

fn chown(file: &File, (uid, gid): (u32, u32)) -> io::Result<()> {
    Ok(fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
}

/// The names of a file's extended attributes; none where the file system has no such thing.
fn names(file: &File) -> io::Result<Vec<CString>> {
    let mut list = match flistxattr_query(file) {
        Ok(bytes) => vec![0; bytes],
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let filled = flistxattr(file, list.as_mut_slice())?;
    list.truncate(filled);
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.filter_map(|name| CString::new(name).ok()).collect())
}

/// The value of an extended attribute; none where there is none.
fn value(file: &File, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = match fgetxattr_query(file, name) {
        Ok(bytes) => vec![0; bytes],
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let filled = fgetxattr(file, name, value.as_mut_slice())?;
    value.truncate(filled);
    Ok(Some(value))
}

#[cfg(test)]
mod tests;
