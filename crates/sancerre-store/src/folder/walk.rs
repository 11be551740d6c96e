//! Listing a folder so that nothing in it stops the listing.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::ObjectMeta;
use object_store::path::Path;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;
use sancerre_format::names::Time;

use crate::strange::{Strange, why_strange};

/// The end of the year 9999: times that a damaged or hostile file system may show are no reason to stop.
pub(super) const LAST_TIME: Duration = Duration::from_secs(253_402_300_799);

/// A file of a write that is under way, or died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leftover {
    pub(crate) key: String,
    /// What it takes: nothing if it is a second name for an object.
    pub(crate) size_bytes: u64,
    pub(crate) modified: Time,
}

#[derive(Default)]
pub(super) struct FolderWalk {
    strange: Arc<Strange>,
    pub(super) objects: Vec<ObjectMeta>,
    /// Those directly below the prefix.
    pub(super) folders: Vec<Path>,
    pub(super) leftovers: Vec<Leftover>,
    /// Folders that are still to be read, in their own place.
    own: Vec<String>,
    /// Folders behind links. They come last, and no folder is read twice: links that lead to each other end.
    linked: Vec<String>,
    seen: HashSet<(u64, u64)>,
}

impl FolderWalk {
    pub(super) fn new(strange: Arc<Strange>) -> Self {
        Self { strange, ..Self::default() }
    }

    /// Errors: that the prefix itself cannot be read. If it is not there nothing is.
    pub(super) fn run(&mut self, root: &OwnedFd, prefix: &str, deep: bool) -> Result<(), Errno> {
        match self.read(root, prefix, false) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            read => read?,
        }
        let (own, linked) = (std::mem::take(&mut self.own), std::mem::take(&mut self.linked));
        self.folders = own.iter().chain(&linked).filter_map(|key| Path::parse(key).ok()).collect();
        if !deep {
            return Ok(());
        }
        (self.own, self.linked) = (own, linked);
        loop {
            let (key, is_linked) = match self.own.pop() {
                Some(key) => (key, false),
                None => match self.linked.pop() {
                    Some(key) => (key, true),
                    None => return Ok(()),
                },
            };
            match self.read(root, &key, is_linked) {
                // It was cleared away since.
                Err(Errno::NOENT) => {}
                Err(errno) => self.strange.cannot_list(&key, std::io::Error::from(errno).to_string()),
                Ok(()) => {}
            }
        }
    }

    fn read(&mut self, root: &OwnedFd, key: &str, is_linked: bool) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(root, if key.is_empty() { "." } else { key }, flags, Mode::empty())?;
        let stat = fstat(&folder)?;
        let is_new = self.seen.insert((stat.st_dev, stat.st_ino));
        if is_linked && !is_new {
            return Ok(());
        }
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if [c".", c".."].contains(&name) {
                continue;
            }
            let separator = if key.is_empty() { "" } else { "/" };
            let own_key = format!("{key}{separator}{}", name.to_string_lossy());
            match name.to_str() {
                Err(_) => self.strange.leave_out(&own_key, "its name is not UTF-8".into()),
                Ok(_) => self.take(&folder, (name, entry.file_type()), own_key, is_linked),
            }
        }
        Ok(())
    }

    fn take(&mut self, folder: &OwnedFd, (name, kind): (&CStr, FileType), key: String, is_linked: bool) {
        let is_link = match kind {
            // Not all file systems say it in a listing.
            FileType::Unknown => statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink),
            kind => kind == FileType::Symlink,
        };
        let stat = match statat(folder, name, AtFlags::empty()) {
            Ok(stat) => stat,
            // A broken link, or gone since.
            Err(errno) if is_link || errno == Errno::NOENT => return,
            // It may be something that is needed: who would delete must know.
            Err(errno) => return self.strange.cannot_list(&key, std::io::Error::from(errno).to_string()),
        };
        let (kind, strange) = (FileType::from_raw_mode(stat.st_mode), why_strange(&key));
        if kind == FileType::Directory {
            match strange.or_else(|| is_deep(&key).then(|| "it lies deeper than any of ours".into())) {
                Some(why) => self.strange.leave_out(&key, why),
                None if is_link || is_linked => self.linked.push(key),
                None => self.own.push(key),
            }
        } else if is_staging(&key) {
            self.take_leftover(key, kind, &stat);
        } else if let Some(why) =
            strange.or_else(|| (kind != FileType::RegularFile).then(|| "it is not a plain file".into()))
        {
            self.strange.leave_out(&key, why);
        } else if let Ok(location) = Path::parse(&key) {
            self.objects.push(object(location, &stat));
        }
    }

    /// Of a write that is under way, or died.
    fn take_leftover(&mut self, key: String, kind: FileType, stat: &Stat) {
        if kind != FileType::RegularFile {
            return;
        }
        let size_bytes = if stat.st_nlink > 1 { 0 } else { size(stat) };
        self.leftovers.push(Leftover { key, size_bytes, modified: Time::from_unix_seconds(stat.st_mtime) });
    }
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// When a file was written, since 1970.
pub(super) fn since(stat: &Stat) -> Duration {
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0).min(999_999_999);
    u64::try_from(stat.st_mtime).map_or(Duration::ZERO, |seconds| Duration::new(seconds, nanoseconds))
}

/// The same whenever the file is the same.
pub(super) fn tag(stat: &Stat) -> String {
    let since = since(stat).min(LAST_TIME);
    format!("\"{:x}-{:x}-{:x}\"", stat.st_ino, since.as_micros(), size(stat))
}

pub(super) fn object(location: Path, stat: &Stat) -> ObjectMeta {
    let last_modified = (SystemTime::UNIX_EPOCH + since(stat).min(LAST_TIME)).into();
    ObjectMeta { location, last_modified, size: size(stat), e_tag: Some(tag(stat)), version: None }
}

/// Whether nothing of ours can lie below this folder: no key of the format has more than five parts.
fn is_deep(folder: &str) -> bool {
    folder.matches('/').count() > 3
}

/// `NAME#1`: what is written before it gets its name.
fn is_staging(key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or_default();
    let number = name.rsplit_once('#').map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}
