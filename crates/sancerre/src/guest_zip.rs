//! A tree of a guest as a zip stream (PKWARE's APPNOTE 6.3.10): what is not known before the bytes were written stands behind
//! them, so nothing is sought in. Every member has its entry in the directory at the end, by which most programs read.

mod headers;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};
use sancerre_guest::{Extra, FileNode, FolderEntry, Guest, GuestError, GuestFile, NodeKind};

use crate::exit::{Exit, Failure};
use crate::extract::{Account, path_text};
use crate::guest_names::shown;
use headers::{Directory, Member, Method, Sizes};

const PIECE_BYTES: u64 = 4 << 20;
const DEPTH_MAX: usize = 1000;
/// Longest name of a member.
const NAME_BYTES_MAX: usize = 65_535;

/// Writes a tree to a stream.
pub(crate) struct Zip<'a, W: Write> {
    guest: Arc<Guest>,
    to: Counted<W>,
    stop: &'a AtomicBool,
    directory: Directory,
    pub(crate) account: Account,
}

/// A stream that knows how long it is.
struct Counted<W> {
    to: W,
    at: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.at = self.at.saturating_add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<'a, W: Write> Zip<'a, W> {
    pub(crate) fn new(guest: Arc<Guest>, to: W, stop: &'a AtomicBool) -> Self {
        let to = Counted { to, at: 0 };
        Self { guest, to, stop, directory: Directory::default(), account: Account::default() }
    }

    /// One file, link or folder with all in it, and the end of the stream.
    pub(crate) fn write(mut self, volume: u16, name: &[u8], node: FileNode) -> Result<Account, Failure> {
        let entry = FolderEntry { name: name.to_vec(), node };
        match entry.name.is_empty() {
            true => self.content(volume, &entry.node, &mut Vec::new())?,
            false => self.one(volume, entry, &mut Vec::new())?,
        }
        let end = self.directory.end(self.to.at);
        self.put(&end)?;
        self.to.flush().map_err(|error| unwritten(&error))?;
        Ok(self.account)
    }

    fn content(&mut self, volume: u16, node: &FileNode, path: &mut Vec<Vec<u8>>) -> Result<(), Failure> {
        if path.len() > DEPTH_MAX {
            self.account.lose("folders that are deeper than can be, left out", path);
            return Ok(());
        }
        let mut entries = Vec::new();
        if let Err(error) = self.guest.list(volume, node.id, &mut |entry| entries.push(entry)) {
            self.account.fail(path, &error);
        }
        entries.into_iter().try_for_each(|entry| self.one(volume, entry, path))
    }

    fn one(&mut self, volume: u16, entry: FolderEntry, path: &mut Vec<Vec<u8>>) -> Result<(), Failure> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::new(Exit::Interrupted, "interrupted; the stream is not whole"));
        }
        let FolderEntry { name, node } = entry;
        path.push(name);
        match self.name(path, node.kind == NodeKind::Directory) {
            None => self.account.lose("names that are longer than a zip holds, left out", path),
            Some(name) => self.named(volume, &node, name, path)?,
        }
        path.pop();
        Ok(())
    }

    fn named(
        &mut self,
        volume: u16,
        node: &FileNode,
        name: String,
        path: &mut Vec<Vec<u8>>,
    ) -> Result<(), Failure> {
        match node.kind {
            NodeKind::Directory => {
                self.extras(volume, node, path);
                self.small(Member::new(name, node, self.to.at), b"")?;
                self.account.folders = self.account.folders.saturating_add(1);
                self.content(volume, node, path)
            }
            NodeKind::File => self.file(volume, node, name, path),
            NodeKind::Link => {
                match self.guest.link(volume, node.id) {
                    Ok(target) => {
                        self.small(Member::new(name, node, self.to.at), &target)?;
                        self.account.links = self.account.links.saturating_add(1);
                    }
                    Err(error) => self.account.fail(path, &error),
                }
                Ok(())
            }
            NodeKind::Special => {
                self.account.lose("devices, sockets and pipes, left out", path);
                Ok(())
            }
            NodeKind::Broken => {
                let error = GuestError::Fault("its record in the file system makes no sense".to_owned());
                self.account.fail(path, &error);
                Ok(())
            }
        }
    }

    /// Names in a zip are text.
    fn name(&mut self, path: &[Vec<u8>], is_folder: bool) -> Option<String> {
        let text = path.join(&b'/');
        let mut name = match String::from_utf8(text) {
            Ok(name) => name,
            Err(error) => {
                self.account.lose("names that are no text, written as they are shown", path);
                shown(error.as_bytes())
            }
        };
        if is_folder {
            name.push('/');
        }
        (name.len() <= NAME_BYTES_MAX).then_some(name)
    }

    fn file(&mut self, volume: u16, node: &FileNode, name: String, path: &[Vec<u8>]) -> Result<(), Failure> {
        let mut file = GuestFile::new(Arc::clone(&self.guest), volume, node.id, b"", node.size_bytes);
        // The first bytes are read before the header is written: what cannot be had at all is left out.
        let mut piece = vec![0; usize::try_from(node.size_bytes.min(PIECE_BYTES)).unwrap_or(0)];
        if let Err(error) = file.read_at(0, &mut piece) {
            self.account.fail(path, &error);
            return Ok(());
        }
        self.extras(volume, node, path);
        if node.links > 1 {
            self.account.lose("further names of a file, each a file of its own", path);
        }
        let member = Member::new(name, node, self.to.at);
        match node.size_bytes {
            0 => self.small(member, b"")?,
            _ => self.deflated(member, &mut file, piece, path)?,
        }
        self.account.files = self.account.files.saturating_add(1);
        self.account.bytes = self.account.bytes.saturating_add(node.size_bytes);
        Ok(())
    }

    fn deflated(
        &mut self,
        member: Member,
        file: &mut GuestFile,
        mut piece: Vec<u8>,
        path: &[Vec<u8>],
    ) -> Result<(), Failure> {
        let size_bytes = file.size_bytes();
        let is_large = headers::is_large(size_bytes);
        let header = member.local(Method::Deflated, None, is_large);
        self.put(&header)?;
        let (start, mut crc, mut done) = (self.to.at, Crc::new(), 0);
        let mut encoder = DeflateEncoder::new(&mut self.to, Compression::fast());
        loop {
            crc.update(&piece);
            encoder.write_all(&piece).map_err(|error| unwritten(&error))?;
            done += piece.len() as u64;
            if done >= size_bytes {
                break;
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(Failure::new(Exit::Interrupted, "interrupted; the stream is not whole"));
            }
            piece.resize(usize::try_from((size_bytes - done).min(PIECE_BYTES)).unwrap_or(0), 0);
            file.read_at(done, &mut piece).map_err(|error| cut_off(path, &error))?;
        }
        encoder.finish().map_err(|error| unwritten(&error))?;
        let sizes = Sizes { crc: crc.sum(), packed: self.to.at - start, plain: size_bytes };
        self.put(&sizes.descriptor(is_large))?;
        self.directory.add(&member, Method::Deflated, sizes);
        Ok(())
    }

    /// What is known whole before it is written.
    fn small(&mut self, member: Member, bytes: &[u8]) -> Result<(), Failure> {
        let mut crc = Crc::new();
        crc.update(bytes);
        let length = bytes.len() as u64;
        let sizes = Sizes { crc: crc.sum(), packed: length, plain: length };
        let header = member.local(Method::Stored, Some(sizes), false);
        self.put(&header)?;
        self.put(bytes)?;
        self.directory.add(&member, Method::Stored, sizes);
        Ok(())
    }

    fn extras(&mut self, volume: u16, node: &FileNode, path: &[Vec<u8>]) {
        let Ok(extras) = self.guest.extras(volume, node.id) else {
            return self.account.lose("attributes that cannot be read", path);
        };
        let has = |is_it: fn(&Extra) -> bool| extras.iter().any(is_it);
        if has(|extra| matches!(extra, Extra::Attribute { .. })) {
            self.account.lose("attributes, which a zip does not hold", path);
        }
        if has(|extra| matches!(extra, Extra::Stream { .. })) {
            self.account.lose("further streams (`sancerre cat --stream` writes one)", path);
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.to.write_all(bytes).map_err(|error| unwritten(&error))
    }
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

fn unwritten(error: &io::Error) -> Failure {
    Failure::failed(format!("cannot write the stream: {error}; it is not whole"))
}
