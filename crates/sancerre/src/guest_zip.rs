//! A tree of a guest as a zip stream (PKWARE's APPNOTE 6.3.10): what is not known before the bytes were written stands behind
//! them, so nothing is sought in. Every member has its entry in the directory at the end, by which most programs read.

mod headers;

use std::io::{self, Write};

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};
use sancerre_guest::{Extra, NodeKind};

use crate::exit::Failure;
use crate::guest_names::shown;
use crate::guest_tree::{Account, Found, Pieces, STREAM_INTERRUPTED, Tree, TreeSink, unwritten};
use headers::{Directory, Member, Method, Sizes};

/// Longest name of a member.
const NAME_BYTES_MAX: usize = 65_535;

/// Writes a tree to a stream.
pub(crate) struct Zip<W: Write> {
    to: Counted<W>,
    directory: Directory,
    account: Account,
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

impl<W: Write> Zip<W> {
    /// All of a tree, and the end of the stream.
    pub(crate) fn write(tree: &Tree<'_>, to: W) -> Result<Account, Failure> {
        let to = Counted { to, at: 0 };
        let mut zip = Self { to, directory: Directory::default(), account: Account::default() };
        tree.walk(&mut zip, &())?;
        let end = zip.directory.end(zip.to.at);
        zip.put(&end)?;
        zip.to.flush().map_err(|error| unwritten(&error))?;
        Ok(zip.account)
    }

    /// A member that begins here, under a name that is text, as names in a zip are. None when that is too long.
    fn member(&mut self, found: &Found<'_>) -> Option<Member> {
        let mut name = match String::from_utf8(found.path.join(&b'/')) {
            Ok(name) => name,
            Err(error) => {
                self.account.lose("names that are no text, written as they are shown", found.path);
                shown(error.as_bytes())
            }
        };
        if found.node.kind == NodeKind::Directory {
            name.push('/');
        }
        if name.len() > NAME_BYTES_MAX {
            self.account.lose("names that are longer than a zip holds, left out", found.path);
            return None;
        }
        Some(Member::new(name, found.node, self.to.at))
    }

    fn deflated(&mut self, member: &Member, pieces: Pieces<'_>, size_bytes: u64) -> Result<(), Failure> {
        let is_large = headers::is_large(size_bytes);
        let header = member.local(Method::Deflated, None, is_large);
        self.put(&header)?;
        let (start, mut crc) = (self.to.at, Crc::new());
        let mut encoder = DeflateEncoder::new(&mut self.to, Compression::fast());
        pieces.write(&mut |piece| {
            crc.update(piece);
            encoder.write_all(piece)
        })?;
        encoder.finish().map_err(|error| unwritten(&error))?;
        let sizes = Sizes { crc: crc.sum(), packed: self.to.at - start, plain: size_bytes };
        self.put(&sizes.descriptor(is_large))?;
        self.directory.add(member, Method::Deflated, sizes);
        Ok(())
    }

    /// What is known whole before it is written.
    fn small(&mut self, member: &Member, bytes: &[u8]) -> Result<(), Failure> {
        let mut crc = Crc::new();
        crc.update(bytes);
        let length = bytes.len() as u64;
        let sizes = Sizes { crc: crc.sum(), packed: length, plain: length };
        let header = member.local(Method::Stored, Some(sizes), false);
        self.put(&header)?;
        self.put(bytes)?;
        self.directory.add(member, Method::Stored, sizes);
        Ok(())
    }

    fn extras(&mut self, found: &Found<'_>) {
        let Ok(extras) = found.guest.extras(found.volume, found.node.id) else {
            return self.account.lose("attributes that cannot be read", found.path);
        };
        let has = |is_it: fn(&Extra) -> bool| extras.iter().any(is_it);
        if has(|extra| matches!(extra, Extra::Attribute { .. })) {
            self.account.lose("attributes, which a zip does not hold", found.path);
        }
        if has(|extra| matches!(extra, Extra::Stream { .. })) {
            self.account.lose("further streams (`sancerre cat --stream` writes one)", found.path);
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.to.write_all(bytes).map_err(|error| unwritten(&error))
    }
}

impl<W: Write> TreeSink for Zip<W> {
    type Folder = ();
    const INTERRUPTED: &'static str = STREAM_INTERRUPTED;

    fn account(&mut self) -> &mut Account {
        &mut self.account
    }

    fn folder(&mut self, found: &Found<'_>, (): &()) -> Result<Option<()>, Failure> {
        let Some(member) = self.member(found) else { return Ok(None) };
        self.extras(found);
        self.small(&member, b"")?;
        self.account.add_folder();
        Ok(Some(()))
    }

    fn file(&mut self, found: &Found<'_>, (): &()) -> Result<(), Failure> {
        let Some(member) = self.member(found) else { return Ok(()) };
        let pieces = match Pieces::of(found) {
            Ok(pieces) => pieces,
            Err(error) => {
                self.account.fail(found.path, &error);
                return Ok(());
            }
        };
        self.extras(found);
        if found.node.links > 1 {
            self.account.lose("further names of a file, each a file of its own", found.path);
        }
        match found.node.size_bytes {
            0 => self.small(&member, b"")?,
            size_bytes => self.deflated(&member, pieces, size_bytes)?,
        }
        self.account.add_file(found.node.size_bytes);
        Ok(())
    }

    fn link(&mut self, found: &Found<'_>, target: Vec<u8>) -> Result<(), Failure> {
        let Some(member) = self.member(found) else { return Ok(()) };
        self.small(&member, &target)?;
        self.account.add_link();
        Ok(())
    }
}
