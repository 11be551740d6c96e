//! A tree of a guest as a tar stream, in the form of POSIX: what the old header has no room for stands in a record before it.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sancerre_guest::{Extra, FileNode, FolderEntry, Guest, GuestError, GuestFile, NodeKind};

use crate::exit::{Exit, Failure};
use crate::extract::{Account, path_text};

const BLOCK: usize = 512;
const PIECE_BYTES: u64 = 4 << 20;
/// The end of a stream: two blocks of zeros.
const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
/// What fits eight digits of eight, with one place for the end.
const OCTAL_SIZE_MAX: u64 = 0o777_7777_7777;
const OCTAL_OWNER_MAX: u32 = 0o777_7777;
const DEPTH_MAX: usize = 1000;

/// Writes a tree to a stream.
pub(crate) struct Tar<'a, W: Write> {
    guest: Arc<Guest>,
    to: W,
    stop: &'a AtomicBool,
    several: HashMap<(u16, u64), Vec<u8>>,
    pub(crate) account: Account,
}

/// What a header says.
struct Header<'a> {
    path: &'a [u8],
    kind: u8,
    size_bytes: u64,
    target: &'a [u8],
    node: &'a FileNode,
}

impl<'a, W: Write> Tar<'a, W> {
    pub(crate) fn new(guest: Arc<Guest>, to: W, stop: &'a AtomicBool) -> Self {
        Self { guest, to, stop, several: HashMap::new(), account: Account::default() }
    }

    /// One file, link or folder with all in it, and the end of the stream.
    pub(crate) fn write(mut self, volume: u16, name: &[u8], node: FileNode) -> Result<Account, Failure> {
        let entry = FolderEntry { name: name.to_vec(), node };
        match entry.name.is_empty() {
            true => self.content(volume, &entry.node, &mut Vec::new())?,
            false => self.one(volume, entry, &mut Vec::new())?,
        }
        self.to.write_all(&END).and_then(|()| self.to.flush()).map_err(|error| unwritten(&error))?;
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
        let text = path.join(&b'/');
        match node.kind {
            NodeKind::Directory => {
                let text = [&text[..], b"/"].concat();
                self.header(
                    volume,
                    &Header { path: &text, kind: b'5', size_bytes: 0, target: b"", node: &node },
                    path,
                )?;
                self.account.folders = self.account.folders.saturating_add(1);
                self.content(volume, &node, path)?;
            }
            NodeKind::File => self.file(volume, &node, &text, path)?,
            NodeKind::Link => match self.guest.link(volume, node.id) {
                Ok(target) => {
                    let header =
                        Header { path: &text, kind: b'2', size_bytes: 0, target: &target, node: &node };
                    self.header(volume, &header, path)?;
                    self.account.links = self.account.links.saturating_add(1);
                }
                Err(error) => self.account.fail(path, &error),
            },
            NodeKind::Special => self.account.lose("devices, sockets and pipes, left out", path),
            NodeKind::Broken => {
                let error = GuestError::Fault("its record in the file system makes no sense".to_owned());
                self.account.fail(path, &error);
            }
        }
        path.pop();
        Ok(())
    }

    fn file(&mut self, volume: u16, node: &FileNode, text: &[u8], path: &[Vec<u8>]) -> Result<(), Failure> {
        if node.links > 1
            && let Some(first) = self.several.get(&(volume, node.id)).cloned()
        {
            self.account.files = self.account.files.saturating_add(1);
            let header = Header { path: text, kind: b'1', size_bytes: 0, target: &first, node };
            return self.header(volume, &header, path);
        }
        let mut file = GuestFile::new(Arc::clone(&self.guest), volume, node.id, b"", node.size_bytes);
        // The first bytes are read before the header is written: what cannot be had at all is left out.
        let mut piece = vec![0; usize::try_from(node.size_bytes.min(PIECE_BYTES)).unwrap_or(0)];
        if let Err(error) = file.read_at(0, &mut piece) {
            self.account.fail(path, &error);
            return Ok(());
        }
        self.header(
            volume,
            &Header { path: text, kind: b'0', size_bytes: node.size_bytes, target: b"", node },
            path,
        )?;
        let mut at = 0;
        loop {
            self.to.write_all(&piece).map_err(|error| unwritten(&error))?;
            at += piece.len() as u64;
            if at >= node.size_bytes {
                break;
            }
            piece.resize(usize::try_from((node.size_bytes - at).min(PIECE_BYTES)).unwrap_or(0), 0);
            if let Err(error) = file.read_at(at, &mut piece) {
                // The header promised bytes: a stream cannot take them back.
                return Err(Failure::new(
                    Exit::Damaged,
                    format!(
                        "{}: {error}. The stream ends here, in the middle of that file; `sancerre get` into a directory leaves such \
                         a file out and goes on",
                        path_text(path)
                    ),
                ));
            }
        }
        let rest = usize::try_from(node.size_bytes % BLOCK as u64).unwrap_or(0);
        if rest > 0 {
            self.to.write_all(&END[rest..BLOCK]).map_err(|error| unwritten(&error))?;
        }
        self.account.files = self.account.files.saturating_add(1);
        self.account.bytes = self.account.bytes.saturating_add(node.size_bytes);
        if node.links > 1 {
            self.several.insert((volume, node.id), text.to_vec());
        }
        Ok(())
    }

    /// A header, and before it a record of what does not fit it.
    fn header(&mut self, volume: u16, header: &Header<'_>, path: &[Vec<u8>]) -> Result<(), Failure> {
        let node = header.node;
        let mut records = Vec::new();
        if header.path.len() > 100 || !header.path.is_ascii() {
            record(&mut records, b"path", header.path);
        }
        if header.target.len() > 100 || !header.target.is_ascii() {
            record(&mut records, b"linkpath", header.target);
        }
        if header.size_bytes > OCTAL_SIZE_MAX {
            record(&mut records, b"size", header.size_bytes.to_string().as_bytes());
        }
        let (user, group) = node.owner.unwrap_or_default();
        for (name, number) in [(b"uid", user), (b"gid", group)] {
            if number > OCTAL_OWNER_MAX {
                record(&mut records, name, number.to_string().as_bytes());
            }
        }
        if let Some(moment) = node.modified {
            let fraction = format!("{:09}", moment.nanoseconds);
            // A fraction counts forwards from the second, also before 1970; tar's goes away from zero.
            let time = match moment.seconds < 0 && moment.nanoseconds > 0 {
                false => format!("{}.{fraction}", moment.seconds),
                true => format!("-{}.{:09}", -(moment.seconds + 1), 1_000_000_000 - moment.nanoseconds),
            };
            record(&mut records, b"mtime", time.as_bytes());
        }
        if header.kind != b'1' {
            self.extras(volume, node, &mut records, path);
        }
        if !records.is_empty() {
            let size = records.len() as u64;
            self.block(&plain(b"././@PaxHeader", b'x', size, b"", 0o644, (0, 0), 0))?;
            self.to.write_all(&records).map_err(|error| unwritten(&error))?;
            let rest = records.len() % BLOCK;
            if rest > 0 {
                self.to.write_all(&END[rest..BLOCK]).map_err(|error| unwritten(&error))?;
            }
        }
        let mode = node.mode.unwrap_or(if header.kind == b'5' { 0o755 } else { 0o644 });
        let seconds = node.modified.map_or(0, |moment| u64::try_from(moment.seconds).unwrap_or(0));
        self.block(&plain(
            header.path,
            header.kind,
            header.size_bytes,
            header.target,
            mode,
            (user, group),
            seconds,
        ))
    }

    fn extras(&mut self, volume: u16, node: &FileNode, records: &mut Vec<u8>, path: &[Vec<u8>]) {
        let Ok(extras) = self.guest.extras(volume, node.id) else {
            return self.account.lose("attributes that cannot be read", path);
        };
        for extra in extras {
            match extra {
                Extra::Attribute { name, value } if !name.contains(&b'=') => {
                    record(records, &[b"SCHILY.xattr.", name.as_slice()].concat(), &value);
                }
                Extra::Attribute { .. } => self.account.lose("attributes whose name no tar can hold", path),
                Extra::Stream { .. } => {
                    self.account.lose("further streams (`sancerre cat --stream` writes one)", path);
                }
            }
        }
    }

    fn block(&mut self, block: &[u8; BLOCK]) -> Result<(), Failure> {
        self.to.write_all(block).map_err(|error| unwritten(&error))
    }
}

fn unwritten(error: &io::Error) -> Failure {
    Failure::failed(format!("cannot write the stream: {error}; it is not whole"))
}

/// A line that begins with its own length.
fn record(records: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let bare = name.len() + value.len() + 3;
    let mut length = bare + 1;
    while length != bare + length.to_string().len() {
        length = bare + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(name);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn plain(
    path: &[u8],
    kind: u8,
    size_bytes: u64,
    target: &[u8],
    mode: u32,
    (user, group): (u32, u32),
    seconds: u64,
) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        let length = bytes.len().min(100);
        block[at..at + length].copy_from_slice(&bytes[..length]);
    };
    put(0, path);
    put(100, format!("{:07o}", mode & 0o7777).as_bytes());
    put(108, format!("{:07o}", user.min(OCTAL_OWNER_MAX)).as_bytes());
    put(116, format!("{:07o}", group.min(OCTAL_OWNER_MAX)).as_bytes());
    put(124, format!("{:011o}", size_bytes.min(OCTAL_SIZE_MAX)).as_bytes());
    put(136, format!("{:011o}", seconds.min(OCTAL_SIZE_MAX)).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, target);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::record;

    #[test]
    fn a_record_counts_itself() {
        for length in [0, 1, 85, 86, 87, 88, 89, 90, 91, 980, 985, 990, 995] {
            let mut records = Vec::new();
            record(&mut records, b"path", &vec![b'x'; length]);
            let text = String::from_utf8(records.clone()).unwrap();
            assert_eq!(text.split(' ').next().unwrap().parse::<usize>().unwrap(), records.len());
        }
    }
}
