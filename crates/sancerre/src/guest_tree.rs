//! The walk of a tree of a guest: all that is in it, one after the other, for whatever takes it, and an account of what became
//! of it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sancerre_guest::{FileNode, FolderEntry, Guest, GuestError, GuestFile, NodeKind};

use crate::exit::{Exit, Failure};
use crate::guest_names::shown;

/// What is read at once.
pub(crate) const PIECE_BYTES: u64 = 4 << 20;
/// Folders within each other; deeper ones are a circle.
const DEPTH_MAX: usize = 1000;
/// Names that are told of one kind of loss.
const TOLD_MAX: usize = 5;
/// What an interrupt leaves of a stream.
pub(crate) const STREAM_INTERRUPTED: &str = "interrupted; the stream is not whole";

/// What a tree becomes.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) files: u64,
    pub(crate) folders: u64,
    pub(crate) links: u64,
    pub(crate) bytes: u64,
    /// What could not be kept, and of which names.
    lost: BTreeMap<&'static str, (u64, Vec<String>)>,
    /// Files that could not be had, and why.
    pub(crate) failed: Vec<(String, String)>,
    pub(crate) is_damaged: bool,
}

impl Account {
    /// Of one file that went elsewhere.
    pub(crate) fn of_file(bytes: u64) -> Self {
        Self { files: 1, bytes, ..Self::default() }
    }

    pub(crate) fn lose(&mut self, what: &'static str, path: &[Vec<u8>]) {
        let (count, names) = self.lost.entry(what).or_default();
        *count = count.saturating_add(1);
        if names.len() < TOLD_MAX {
            names.push(path_text(path));
        }
    }

    pub(crate) fn fail(&mut self, path: &[Vec<u8>], error: &GuestError) {
        self.is_damaged |= !matches!(error, GuestError::Reader(_));
        self.failed.push((path_text(path), error.to_string()));
    }

    /// What could not be kept: how often, and of which names some.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (&'static str, u64, &[String])> {
        self.lost.iter().map(|(what, (count, names))| (*what, *count, names.as_slice()))
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.lost.is_empty() && self.failed.is_empty()
    }

    /// One more file, of so many bytes of its own.
    pub(crate) fn add_file(&mut self, bytes: u64) {
        self.files = self.files.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(crate) fn add_folder(&mut self) {
        self.folders = self.folders.saturating_add(1);
    }

    pub(crate) fn add_link(&mut self) {
        self.links = self.links.saturating_add(1);
    }
}

/// Names one after the other, for people.
pub(crate) fn path_text(path: &[Vec<u8>]) -> String {
    path.iter().map(|name| shown(name)).collect::<Vec<_>>().join("/")
}

/// What takes a tree. What it leaves out, it writes down in its account; an error ends the walk.
pub(crate) trait TreeSink {
    /// A folder while what is in it is taken.
    type Folder;
    /// What an interrupt leaves.
    const INTERRUPTED: &'static str;

    fn account(&mut self) -> &mut Account;

    /// A folder, before what is in it; none when it is left out with all of that.
    fn folder(&mut self, found: &Found<'_>, into: &Self::Folder) -> Result<Option<Self::Folder>, Failure>;

    /// The same folder, after what is in it.
    fn leave(&mut self, _found: &Found<'_>, _folder: &Self::Folder) {}

    fn file(&mut self, found: &Found<'_>, into: &Self::Folder) -> Result<(), Failure>;

    fn link(&mut self, found: &Found<'_>, target: Vec<u8>) -> Result<(), Failure>;
}

/// A file, folder or link that the walk came to.
pub(crate) struct Found<'a> {
    pub(crate) guest: &'a Arc<Guest>,
    pub(crate) stop: &'a AtomicBool,
    pub(crate) volume: u16,
    pub(crate) node: &'a FileNode,
    /// The names from the tree's own on.
    pub(crate) path: &'a [Vec<u8>],
}

impl Found<'_> {
    /// What files with several names are known by.
    pub(crate) fn key(&self) -> (u16, u64) {
        (self.volume, self.node.id)
    }

    /// Its last name, and those before it.
    pub(crate) fn name(&self) -> (&[u8], &[Vec<u8>]) {
        self.path.split_last().map_or((&[], &[]), |(name, parents)| (name, parents))
    }

    /// The bytes of a file.
    pub(crate) fn open(&self) -> GuestFile {
        GuestFile::new(Arc::clone(self.guest), self.volume, self.node.id, b"", self.node.size_bytes)
    }
}

/// A file, a link, or a folder with all that is in it.
pub(crate) struct Tree<'a> {
    pub(crate) guest: Arc<Guest>,
    pub(crate) stop: &'a AtomicBool,
    pub(crate) volume: u16,
    /// None for a folder of which only the content is meant.
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) node: FileNode,
}

impl Tree<'_> {
    /// Gives all of it to a sink; folders before what is in them.
    pub(crate) fn walk<S: TreeSink>(&self, sink: &mut S, into: &S::Folder) -> Result<(), Failure> {
        match &self.name {
            None => self.content(&self.node, &mut Vec::new(), sink, into),
            Some(name) => {
                let entry = FolderEntry { name: name.clone(), node: self.node.clone() };
                self.entry(entry, &mut Vec::new(), sink, into)
            }
        }
    }

    fn content<S: TreeSink>(
        &self,
        node: &FileNode,
        path: &mut Vec<Vec<u8>>,
        sink: &mut S,
        into: &S::Folder,
    ) -> Result<(), Failure> {
        if path.len() > DEPTH_MAX {
            sink.account().lose("folders that are deeper than can be, left out", path);
            return Ok(());
        }
        let mut entries = Vec::new();
        if let Err(error) = self.guest.list(self.volume, node.id, &mut |entry| entries.push(entry)) {
            sink.account().fail(path, &error);
        }
        entries.into_iter().try_for_each(|entry| self.entry(entry, path, sink, into))
    }

    fn entry<S: TreeSink>(
        &self,
        entry: FolderEntry,
        path: &mut Vec<Vec<u8>>,
        sink: &mut S,
        into: &S::Folder,
    ) -> Result<(), Failure> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::new(Exit::Interrupted, S::INTERRUPTED));
        }
        let FolderEntry { name, node } = entry;
        path.push(name);
        match node.kind {
            NodeKind::Directory => {
                if let Some(folder) = sink.folder(&self.found(&node, path), into)? {
                    self.content(&node, path, sink, &folder)?;
                    sink.leave(&self.found(&node, path), &folder);
                }
            }
            NodeKind::File => sink.file(&self.found(&node, path), into)?,
            NodeKind::Link => match self.guest.link(self.volume, node.id) {
                Ok(target) => sink.link(&self.found(&node, path), target)?,
                Err(error) => sink.account().fail(path, &error),
            },
            NodeKind::Special => sink.account().lose("devices, sockets and pipes, left out", path),
            NodeKind::Broken => {
                let error = GuestError::Fault("its record in the file system makes no sense".to_owned());
                sink.account().fail(path, &error);
            }
        }
        path.pop();
        Ok(())
    }

    fn found<'b>(&'b self, node: &'b FileNode, path: &'b [Vec<u8>]) -> Found<'b> {
        Found { guest: &self.guest, stop: self.stop, volume: self.volume, node, path }
    }
}

/// The bytes of a file on their way into a stream.
pub(crate) struct Pieces<'a> {
    found: &'a Found<'a>,
    file: GuestFile,
    piece: Vec<u8>,
}

impl<'a> Pieces<'a> {
    /// Reads the first ones. A stream promises a file before its bytes: what cannot be had at all is not promised.
    pub(crate) fn of(found: &'a Found<'a>) -> Result<Self, GuestError> {
        let mut file = found.open();
        let mut piece = vec![0; piece_length(file.size_bytes())];
        file.read_at(0, &mut piece)?;
        Ok(Self { found, file, piece })
    }

    /// Writes all of them, in their order.
    ///
    /// Errors: that of `take`; the file ends early, which a stream cannot take back; an interrupt.
    pub(crate) fn write(mut self, take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), Failure> {
        let size_bytes = self.file.size_bytes();
        let mut done = 0;
        loop {
            take(&self.piece).map_err(|error| unwritten(&error))?;
            done += self.piece.len() as u64;
            if done >= size_bytes {
                return Ok(());
            }
            if self.found.stop.load(Ordering::Relaxed) {
                return Err(Failure::new(Exit::Interrupted, STREAM_INTERRUPTED));
            }
            self.piece.resize(piece_length(size_bytes - done), 0);
            self.file.read_at(done, &mut self.piece).map_err(|error| cut_off(self.found.path, &error))?;
        }
    }
}

fn piece_length(bytes: u64) -> usize {
    usize::try_from(bytes.min(PIECE_BYTES)).unwrap_or(0)
}

/// A stream cannot take back what it promised.
fn cut_off(path: &[Vec<u8>], error: &GuestError) -> Failure {
    Failure::new(
        Exit::Damaged,
        format!(
            "{}: {error}. The stream ends here, in the middle of that file; `sancerre get` into a directory leaves such \
             a file out and goes on",
            path_text(path)
        ),
    )
}

pub(crate) fn unwritten(error: &io::Error) -> Failure {
    Failure::failed(format!("cannot write the stream: {error}; it is not whole"))
}
