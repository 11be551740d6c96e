//! A tree of a guest as a tar stream, in the form of POSIX: what the old header has no room for stands in a record before it.

use std::collections::HashMap;
use std::io::Write;

use sancerre_guest::{Extra, FileNode, Moment};

use crate::exit::Failure;
use crate::guest_tree::{Account, Found, Pieces, STREAM_INTERRUPTED, Tree, TreeSink, unwritten};

const BLOCK: usize = 512;
/// The end of a stream: two blocks of zeros.
const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
/// What fits eight digits of eight, with one place for the end.
const OCTAL_SIZE_MAX: u64 = 0o777_7777_7777;
const OCTAL_OWNER_MAX: u32 = 0o777_7777;

/// Writes a tree to a stream.
pub(crate) struct Tar<W: Write> {
    to: W,
    /// Files with several names, by the first that was written.
    several: HashMap<(u16, u64), Vec<u8>>,
    account: Account,
}

/// What a header says.
struct Header<'a> {
    path: &'a [u8],
    kind: u8,
    size_bytes: u64,
    target: &'a [u8],
    node: &'a FileNode,
}

impl<W: Write> Tar<W> {
    /// All of a tree, and the end of the stream.
    pub(crate) fn write(tree: &Tree<'_>, to: W) -> Result<Account, Failure> {
        let mut tar = Self { to, several: HashMap::new(), account: Account::default() };
        tree.walk(&mut tar, &())?;
        tar.put(&END)?;
        tar.to.flush().map_err(|error| unwritten(&error))?;
        Ok(tar.account)
    }

    /// A header, and before it a record of what does not fit it.
    fn header(&mut self, found: &Found<'_>, header: &Header<'_>) -> Result<(), Failure> {
        let node = header.node;
        let mut records = unfit(header);
        if header.kind != b'1' {
            self.extras(found, &mut records);
        }
        if !records.is_empty() {
            let size = records.len() as u64;
            self.put(&plain(b"././@PaxHeader", b'x', size, b"", 0o644, (0, 0), 0))?;
            self.put(&records)?;
            self.fill(size)?;
        }
        let mode = node.mode.unwrap_or(if header.kind == b'5' { 0o755 } else { 0o644 });
        let seconds = node.modified.map_or(0, |moment| u64::try_from(moment.seconds).unwrap_or(0));
        self.put(&plain(
            header.path,
            header.kind,
            header.size_bytes,
            header.target,
            mode,
            node.owner.unwrap_or_default(),
            seconds,
        ))
    }

    fn extras(&mut self, found: &Found<'_>, records: &mut Vec<u8>) {
        let Ok(extras) = found.guest.extras(found.volume, found.node.id) else {
            return self.account.lose("attributes that cannot be read", found.path);
        };
        for extra in extras {
            match extra {
                Extra::Attribute { name, value } if !name.contains(&b'=') => {
                    record(records, &[b"SCHILY.xattr.", name.as_slice()].concat(), &value);
                }
                Extra::Attribute { .. } => {
                    self.account.lose("attributes whose name no tar can hold", found.path);
                }
                Extra::Stream { .. } => {
                    self.account.lose("further streams (`sancerre cat --stream` writes one)", found.path);
                }
            }
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.to.write_all(bytes).map_err(|error| unwritten(&error))
    }

    /// Zeros to the end of a block, after so many bytes.
    fn fill(&mut self, bytes: u64) -> Result<(), Failure> {
        match usize::try_from(bytes % BLOCK as u64).unwrap_or(0) {
            0 => Ok(()),
            rest => self.put(&END[rest..BLOCK]),
        }
    }
}

impl<W: Write> TreeSink for Tar<W> {
    type Folder = ();
    const INTERRUPTED: &'static str = STREAM_INTERRUPTED;

    fn account(&mut self) -> &mut Account {
        &mut self.account
    }

    fn folder(&mut self, found: &Found<'_>, (): &()) -> Result<Option<()>, Failure> {
        let path = [&found.path.join(&b'/'), b"/".as_slice()].concat();
        let header = Header { path: &path, kind: b'5', size_bytes: 0, target: b"", node: found.node };
        self.header(found, &header)?;
        self.account.add_folder();
        Ok(Some(()))
    }

    fn file(&mut self, found: &Found<'_>, (): &()) -> Result<(), Failure> {
        let (node, path) = (found.node, found.path.join(&b'/'));
        if node.links > 1
            && let Some(first) = self.several.get(&found.key()).cloned()
        {
            self.account.add_file(0);
            let header = Header { path: &path, kind: b'1', size_bytes: 0, target: &first, node };
            return self.header(found, &header);
        }
        let pieces = match Pieces::of(found) {
            Ok(pieces) => pieces,
            Err(error) => {
                self.account.fail(found.path, &error);
                return Ok(());
            }
        };
        let size_bytes = node.size_bytes;
        self.header(found, &Header { path: &path, kind: b'0', size_bytes, target: b"", node })?;
        pieces.write(&mut |piece| self.to.write_all(piece))?;
        self.fill(size_bytes)?;
        self.account.add_file(size_bytes);
        if node.links > 1 {
            self.several.insert(found.key(), path);
        }
        Ok(())
    }

    fn link(&mut self, found: &Found<'_>, target: Vec<u8>) -> Result<(), Failure> {
        let path = found.path.join(&b'/');
        let header = Header { path: &path, kind: b'2', size_bytes: 0, target: &target, node: found.node };
        self.header(found, &header)?;
        self.account.add_link();
        Ok(())
    }
}

/// Records of what a plain header has no room for.
fn unfit(header: &Header<'_>) -> Vec<u8> {
    let mut records = Vec::new();
    for (name, text) in [(b"path".as_slice(), header.path), (b"linkpath".as_slice(), header.target)] {
        if text.len() > 100 || !text.is_ascii() {
            record(&mut records, name, text);
        }
    }
    if header.size_bytes > OCTAL_SIZE_MAX {
        record(&mut records, b"size", header.size_bytes.to_string().as_bytes());
    }
    let (user, group) = header.node.owner.unwrap_or_default();
    for (name, number) in [(b"uid", user), (b"gid", group)] {
        if number > OCTAL_OWNER_MAX {
            record(&mut records, name, number.to_string().as_bytes());
        }
    }
    if let Some(moment) = header.node.modified {
        record(&mut records, b"mtime", time(moment).as_bytes());
    }
    records
}

/// A fraction counts forwards from the second, also before 1970; tar's goes away from zero.
fn time(moment: Moment) -> String {
    match moment.seconds < 0 && moment.nanoseconds > 0 {
        false => format!("{}.{:09}", moment.seconds, moment.nanoseconds),
        true => format!("-{}.{:09}", -(moment.seconds + 1), 1_000_000_000 - moment.nanoseconds),
    }
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
