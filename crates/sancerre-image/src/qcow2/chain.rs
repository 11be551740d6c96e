//! From an image to all that it stands on.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::bytes::to_usize;
use super::header::{AREA_BYTES, Header};
use super::layer::{Caches, Image};
use super::{Layer, Qcow2Disk, Qcow2Fault as Fault};
use crate::beneath::{Directory, References};
use crate::{Disk, OpenError, RawDisk, ReadError};

/// Each layer is a file held open, and a table in memory.
const LAYERS_MAX: usize = 64;
/// Entries of all L1 tables of a chain: what one image may have (32 MiB), twice.
const L1_ENTRIES_MAX: u64 = 8 << 20;

/// As the longest path of the system. A data file's name could be as long as a cluster.
const NAME_BYTES_MAX: usize = 4096;

/// What a file is to the image that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// What it shows where it has nothing itself.
    Backing,
    /// Where it has the guest's clusters.
    Data,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Backing => "backing file",
            Self::Data => "data file",
        }
    }
}

/// Whoever opens the files that an image names.
pub(crate) trait Files {
    /// Whether images may have files of this role at all.
    fn allows(&self, role: Role) -> bool;

    /// Opens what the image at `image` calls `name`. Refuses what is not allowed, and a file that is open already.
    fn refer(&mut self, image: &Path, name: &[u8], role: Role) -> Result<Arc<dyn Disk>, OpenError>;
}

/// Opens the image in `container` and what it stands on.
pub(super) fn open(container: Arc<dyn Disk>, files: &mut dyn Files) -> Result<Qcow2Disk, OpenError> {
    let path = container.path().to_owned();
    Chain { layers: Vec::new(), l1_entries: 0, files, opened: 1 }.open(&path, container)
}

struct Chain<'a> {
    layers: Vec<Layer>,
    l1_entries: u64,
    files: &'a mut dyn Files,
    /// How many files there are.
    opened: usize,
}

enum Backing {
    Qcow2(Arc<dyn Disk>),
    Raw(Arc<dyn Disk>),
}

impl Chain<'_> {
    fn open(mut self, path: &Path, mut container: Arc<dyn Disk>) -> Result<Qcow2Disk, OpenError> {
        loop {
            let image = self.image(container)?;
            let backing = self.backing(&image)?;
            self.layers.push(Layer::Qcow2(Box::new(image)));
            if self.layers.len() >= LAYERS_MAX && backing.is_some() {
                return Err(fault(path, Fault::Deep { limit: LAYERS_MAX }));
            }
            match backing {
                Some(Backing::Qcow2(disk)) => container = disk,
                Some(Backing::Raw(disk)) => {
                    self.layers.push(Layer::Raw { disk, file: self.last_opened() });
                    break;
                }
                None => break,
            }
        }
        let size_bytes = self.layers.first().map_or(0, Layer::size_bytes);
        Ok(Qcow2Disk { path: path.to_owned(), size_bytes, layers: self.layers, caches: Caches::new() })
    }

    fn last_opened(&self) -> usize {
        self.opened.saturating_sub(1)
    }

    /// The image in the file that was opened last.
    fn image(&mut self, container: Arc<dyn Disk>) -> Result<Image, OpenError> {
        let path = container.path().to_owned();
        let file = self.last_opened();
        let file_bytes = container.size_bytes();
        let mut area = vec![0; to_usize(AREA_BYTES.min(file_bytes))];
        container.read_at(0, &mut area).map_err(opening(&path))?;
        let header = Header::parse(&area, file_bytes).map_err(|wrong| fault(&path, wrong))?;
        drop(area);
        self.l1_entries = self.l1_entries.saturating_add(header.l1_entries);
        if self.l1_entries > L1_ENTRIES_MAX {
            let (length_bytes, limit_bytes) =
                (self.l1_entries.saturating_mul(8), L1_ENTRIES_MAX.saturating_mul(8));
            let table = "L1 table, with those of what it stands on,";
            return Err(fault(&path, Fault::Huge { table, length_bytes, limit_bytes }));
        }
        let data = match &header.data_file {
            Some(name) => Some(self.refer(&path, name, Role::Data)?),
            None => None,
        };
        Image::new(header, container, data, self.layers.len(), file).map_err(opening(&path))
    }

    fn refer(&mut self, path: &Path, name: &[u8], role: Role) -> Result<Arc<dyn Disk>, OpenError> {
        let disk = self.files.refer(path, name, role)?;
        self.opened = self.opened.saturating_add(1);
        Ok(disk)
    }

    fn backing(&mut self, image: &Image) -> Result<Option<Backing>, OpenError> {
        let Some(name) = &image.header.backing else { return Ok(None) };
        let path = image.container.path();
        let shown = || String::from_utf8_lossy(name).into_owned();
        // The gate first: whether a file exists is told only where it may be read. Who opens files says why not.
        let is_allowed = self.files.allows(Role::Backing);
        let is_raw = match image.header.backing_format.as_deref() {
            _ if !is_allowed => true,
            Some(b"raw") => true,
            Some(b"qcow2") => false,
            Some(other) => {
                let format = String::from_utf8_lossy(other).into_owned();
                return Err(fault(path, Fault::BackingFormat { name: shown(), format }));
            }
            None => return Err(fault(path, Fault::NoBackingFormat { name: shown() })),
        };
        let disk = self.refer(path, name, Role::Backing)?;
        Ok(Some(if is_raw { Backing::Raw(disk) } else { Backing::Qcow2(disk) }))
    }
}

/// What the caller allows, and the files that are open already.
pub(crate) struct Policy {
    allowed: Option<Allowed>,
    seen: BTreeSet<(u64, u64)>,
}

struct Allowed {
    directory: Directory,
    backing: bool,
    data_file: bool,
}

impl Policy {
    pub(crate) fn new(references: Option<&References<'_>>) -> Result<Self, OpenError> {
        let allowed = references.map(|references| {
            let (backing, data_file) = (references.backing, references.data_file);
            Ok(Allowed { directory: Directory::open(references.directory)?, backing, data_file })
        });
        Ok(Self { allowed: allowed.transpose()?, seen: BTreeSet::new() })
    }

    /// As [`Files::refer`].
    pub(crate) fn open(&mut self, path: &Path, name: &[u8], role: Role) -> Result<RawDisk, OpenError> {
        let shown = || String::from_utf8_lossy(name).into_owned();
        let Some(allowed) = self.allowed.as_ref().filter(|allowed| allowed.has(role)) else {
            return Err(fault(path, Fault::NotAllowed { role: role.name(), name: shown() }));
        };
        let Some(plain) = plain_path(name) else {
            return Err(fault(path, Fault::NotAPath { role: role.name(), name: shown() }));
        };
        let disk = match allowed.directory.open_beneath(path, plain) {
            Ok(Some(disk)) => disk,
            Err(OpenError::Io { path: place, source }) if source.kind() == ErrorKind::NotFound => {
                let fault = Fault::NotThere { role: role.name(), name: shown(), path: place };
                return Err(OpenError::Qcow2 { path: path.to_owned(), fault: Box::new(fault) });
            }
            Err(error) => return Err(error),
            Ok(None) => {
                let directory = allowed.directory.named().to_owned();
                return Err(fault(path, Fault::NotInside { role: role.name(), name: shown(), directory }));
            }
        };
        if role == Role::Data {
            refuse_other_here(path, plain, &disk)?;
        }
        self.refuse_seen(&disk)?;
        Ok(disk)
    }

    pub(crate) fn refuse_seen(&mut self, disk: &RawDisk) -> Result<(), OpenError> {
        let path = disk.path();
        let identity = disk.identity().map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        match self.seen.insert(identity) {
            true => Ok(()),
            false => Err(fault(path, Fault::Loop)),
        }
    }
}

/// A relative name of a data file is looked up beside the image, as that of a backing file is. QEMU looks in the folder that it
/// was started in: if there is another file of that name here, nobody can tell which of them has the data.
fn refuse_other_here(image: &Path, name: &Path, found: &RawDisk) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io { path: image.to_owned(), source };
    let here = match std::fs::metadata(name) {
        Ok(here) => here,
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {
            return Ok(());
        }
        Err(error) => return Err(failed(error)),
    };
    if (here.dev(), here.ino()) == found.identity().map_err(failed)? {
        return Ok(());
    }
    Err(fault(image, Fault::TwoDataFiles { name: name.display().to_string() }))
}

impl Allowed {
    fn has(&self, role: Role) -> bool {
        match role {
            Role::Backing => self.backing,
            Role::Data => self.data_file,
        }
    }
}

impl Files for Policy {
    fn allows(&self, role: Role) -> bool {
        self.allowed.as_ref().is_some_and(|allowed| allowed.has(role))
    }

    fn refer(&mut self, image: &Path, name: &[u8], role: Role) -> Result<Arc<dyn Disk>, OpenError> {
        Ok(Arc::new(self.open(image, name, role)?))
    }
}

/// A name as QEMU reads it: before the first slash a colon ends the name of a protocol, of which one means files.
fn plain_path(name: &[u8]) -> Option<&Path> {
    let name = name.strip_prefix(b"file:").unwrap_or(name);
    let first = name.split(|byte| *byte == b'/').next().unwrap_or_default();
    let is_path =
        !name.is_empty() && name.len() <= NAME_BYTES_MAX && !first.contains(&b':') && !name.contains(&0);
    is_path.then(|| Path::new(OsStr::from_bytes(name)))
}

fn fault(path: &Path, fault: Fault) -> OpenError {
    OpenError::Qcow2 { path: path.to_owned(), fault: Box::new(fault) }
}

/// A failure to read `path` while opening.
fn opening(path: &Path) -> impl FnOnce(ReadError) -> OpenError {
    |error| match error {
        ReadError::Qcow2 { path, fault } => OpenError::Qcow2 { path, fault },
        ReadError::Unreadable { path, source, .. } => OpenError::Io { path, source },
        other => OpenError::Io { path: path.to_owned(), source: std::io::Error::other(other.to_string()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_are_taken_for_paths() {
        let shown = |name: &[u8]| plain_path(name).map(|path| path.display().to_string());
        assert_eq!(shown(b"base.raw").as_deref(), Some("base.raw"));
        assert_eq!(shown(b"/a/b:c").as_deref(), Some("/a/b:c"));
        assert_eq!(shown(b"./b:c").as_deref(), Some("./b:c"));
        assert_eq!(shown(b"file:base.raw").as_deref(), Some("base.raw"));
        for name in ["", "nbd:unix:/s", "json:{}", "nbd://h/x", "https://h/x", "file:", "a\0b"] {
            assert_eq!(shown(name.as_bytes()), None, "{name:?}");
        }
    }
}
