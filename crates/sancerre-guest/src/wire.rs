//! The packets between this program and its confined reader of file systems: from bytes to values and back.
//!
//! Both ends are the same program on the same machine, so there are no versions. What comes from the reader is decoded here
//! and believed nowhere: `None` is a broken protocol.

use std::ops::Range;

use sancerre_confine::PacketFields;
use zeroize::Zeroizing;

mod placed;

use placed::{decode_placed, encode_placed};

use crate::node::{Extra, FileNode, FileRun, FolderEntry, Moment, NodeKind, PlacedEntry, RunPlace};

/// Bytes of a disk or file in one packet.
pub(crate) const BYTES_MAX: usize = 64 << 10;
/// Bytes of a name or text in one packet.
pub(crate) const TEXT_MAX: usize = 8 << 10;

/// A file system, or what else is in a part of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeInfo {
    /// `whole`, `p1`, or group and name in LVM.
    pub name: String,
    /// The disk that it is on; none for a volume that may lie on several.
    pub disk: Option<u16>,
    /// How the table of partitions calls it.
    pub label: Vec<u8>,
    /// Its size.
    pub size_bytes: u64,
    /// What is in it.
    pub content: VolumeContent,
}

/// What is in a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeContent {
    /// A file system that can be read.
    Files(FileSystemInfo),
    /// Something that is known by name, and not read.
    Known(String),
    /// A file system that cannot be read, and why.
    Broken(String),
    /// Nothing that is known.
    Unknown,
}

/// A file system that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystemInfo {
    /// Its kind, such as ext4.
    pub kind: String,
    /// Its own label.
    pub label: Vec<u8>,
    /// Its identifier, as tables of mounts write it.
    pub uuid: String,
    /// What a reader should know of its state.
    pub notes: Vec<String>,
    /// The number of its root.
    pub root: u64,
}

/// What the reader is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ask<'a> {
    /// Look at disks of these sizes, but at none of these volumes, and open encrypted ones with these.
    Start { sizes: Vec<u64>, skip: Vec<String>, secrets: Vec<Zeroizing<Vec<u8>>> },
    /// Tell of something in a volume.
    Of { volume: u16, id: u64, what: What<'a> },
    /// Here are the bytes.
    Bytes(&'a [u8]),
    /// They cannot be read.
    Unreadable,
}

/// What to tell of a file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What<'a> {
    FileNode,
    List,
    /// As [`What::List`], with the places of files, of which no more than so many are told.
    ListPlaced(u16),
    Find(&'a [u8]),
    Runs(&'a [u8], Range<u64>),
    Bytes(&'a [u8], Range<u64>),
    Link,
    Extras,
}

/// What the reader says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// Bytes of a disk are needed.
    Need {
        disk: u16,
        offset: u64,
        length_bytes: u32,
    },
    /// This volume is looked at next.
    Trying(String),
    Volume(VolumeInfo),
    FolderEntry(FolderEntry),
    Placed(Vec<PlacedEntry>),
    FileNode(FileNode),
    Runs(Vec<FileRun>),
    Bytes(&'a [u8]),
    Link(&'a [u8]),
    Extra(Extra),
    /// There is no more.
    Done,
    /// There is no such thing.
    Missing,
    /// It cannot be told.
    Fault(String),
}

/// Puts packets together.
struct Packet(Vec<u8>);

impl Packet {
    fn new(kind: u8) -> Self {
        Self(vec![kind])
    }

    fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    fn short(mut self, number: u16) -> Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn word(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn long(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn text(mut self, text: &[u8]) -> Self {
        let text = text.get(..TEXT_MAX).unwrap_or(text);
        self.0.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_le_bytes());
        self.0.extend_from_slice(text);
        self
    }

    fn rest(mut self, bytes: &[u8]) -> Vec<u8> {
        self.0.extend_from_slice(bytes);
        self.0
    }

    fn node(self, node: &FileNode) -> Self {
        let mut packet = self.long(node.id).byte(kind_byte(node.kind)).long(node.size_bytes).word(node.links);
        packet = match node.mode {
            Some(mode) => packet.byte(1).word(mode),
            None => packet.byte(0),
        };
        packet = match node.owner {
            Some((user, group)) => packet.byte(1).word(user).word(group),
            None => packet.byte(0),
        };
        match node.modified {
            Some(moment) => packet.byte(1).long(moment.seconds.cast_unsigned()).word(moment.nanoseconds),
            None => packet.byte(0),
        }
    }
}

const KINDS: [NodeKind; 5] =
    [NodeKind::File, NodeKind::Directory, NodeKind::Link, NodeKind::Special, NodeKind::Broken];

fn kind_byte(kind: NodeKind) -> u8 {
    KINDS.iter().position(|known| *known == kind).and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
}

impl Ask<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Start { sizes, skip, secrets } => {
                let count = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
                let mut packet = Packet::new(b's').short(count(sizes.len()));
                packet = sizes.iter().fold(packet, |packet, size| packet.long(*size));
                packet = packet.short(count(skip.len()));
                packet = skip.iter().fold(packet, |packet, name| packet.text(name.as_bytes()));
                packet = packet.short(count(secrets.len()));
                secrets.iter().fold(packet, |packet, secret| packet.text(secret)).0
            }
            Self::Of { volume, id, what } => {
                let head = |kind: u8| Packet::new(kind).short(*volume).long(*id);
                match what {
                    What::FileNode => head(b'n').0,
                    What::List => head(b'l').0,
                    What::ListPlaced(most) => head(b'p').short(*most).0,
                    What::Find(name) => head(b'f').rest(name),
                    What::Runs(stream, range) => head(b'r').long(range.start).long(range.end).rest(stream),
                    What::Bytes(stream, range) => head(b'b').long(range.start).long(range.end).rest(stream),
                    What::Link => head(b'k').0,
                    What::Extras => head(b'x').0,
                }
            }
            Self::Bytes(bytes) => Packet::new(b'd').rest(bytes),
            Self::Unreadable => vec![b'u'],
        }
    }
}

impl<'a> Ask<'a> {
    pub(crate) fn decode(packet: &'a [u8]) -> Option<Self> {
        let (kind, rest) = packet.split_first()?;
        let mut fields = PacketFields::of(rest);
        let ask = match kind {
            b's' => {
                let sizes = (0..fields.short()?).map(|_| fields.long()).collect::<Option<_>>()?;
                let skip = (0..fields.short()?).map(|_| fields.text()).collect::<Option<_>>()?;
                let secrets = (0..fields.short()?).map(|_| Some(Zeroizing::new(fields.bytes()?.to_vec())));
                let secrets = secrets.collect::<Option<_>>()?;
                Self::Start { sizes, skip, secrets }
            }
            b'd' => Self::Bytes(rest),
            b'u' => Self::Unreadable,
            kind => {
                let (volume, id) = (fields.short()?, fields.long()?);
                let what = match kind {
                    b'n' => What::FileNode,
                    b'l' => What::List,
                    b'p' => What::ListPlaced(fields.short()?),
                    b'f' => What::Find(fields.rest()),
                    b'r' => ranged(&mut fields, What::Runs)?,
                    b'b' => ranged(&mut fields, What::Bytes)?,
                    b'k' => What::Link,
                    b'x' => What::Extras,
                    _ => return None,
                };
                Self::Of { volume, id, what }
            }
        };
        Some(ask)
    }
}

/// What is asked of a range of a stream, whose name comes last.
fn ranged<'a>(
    fields: &mut PacketFields<'a>,
    what: impl Fn(&'a [u8], Range<u64>) -> What<'a>,
) -> Option<What<'a>> {
    let range = fields.range()?;
    Some(what(fields.rest(), range))
}

impl Answer<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Need { disk, offset, length_bytes } => {
                Packet::new(b'N').short(*disk).long(*offset).word(*length_bytes).0
            }
            Self::Trying(name) => Packet::new(b'T').rest(name.as_bytes()),
            Self::Volume(volume) => volume.encode(),
            Self::FolderEntry(entry) => Packet::new(b'E').node(&entry.node).rest(&entry.name),
            Self::Placed(entries) => entries.iter().fold(Packet::new(b'P'), encode_placed).0,
            Self::FileNode(node) => Packet::new(b'I').node(node).0,
            Self::Runs(runs) => runs.iter().fold(Packet::new(b'R'), encode_run).0,
            Self::Bytes(bytes) => Packet::new(b'B').rest(bytes),
            Self::Link(bytes) => Packet::new(b'K').rest(bytes),
            Self::Extra(Extra::Attribute { name, value }) => Packet::new(b'A').text(name).rest(value),
            Self::Extra(Extra::Stream { name, size_bytes }) => Packet::new(b'S').long(*size_bytes).rest(name),
            Self::Done => vec![b'.'],
            Self::Missing => vec![b'0'],
            Self::Fault(text) => {
                Packet::new(b'F').rest(text.as_bytes().get(..TEXT_MAX).unwrap_or(text.as_bytes()))
            }
        }
    }
}

fn encode_run(packet: Packet, run: &FileRun) -> Packet {
    let (kind, disk, offset) = match run.place {
        RunPlace::Hole => (0, 0, 0),
        RunPlace::Disk { disk, offset } => (1, disk, offset),
        RunPlace::Held => (2, 0, 0),
    };
    packet.byte(kind).short(disk).long(run.length_bytes).long(offset)
}

impl<'a> Answer<'a> {
    pub(crate) fn decode(packet: &'a [u8]) -> Option<Self> {
        let (kind, rest) = packet.split_first()?;
        let mut fields = PacketFields::of(rest);
        Some(match kind {
            b'N' => {
                Self::Need { disk: fields.short()?, offset: fields.long()?, length_bytes: fields.word()? }
            }
            b'T' => Self::Trying(std::str::from_utf8(rest).ok()?.to_owned()),
            b'V' => Self::Volume(VolumeInfo::decode(&mut fields)?),
            b'E' => Self::FolderEntry(FolderEntry {
                node: decode_node(&mut fields)?,
                name: fields.rest().to_vec(),
            }),
            b'P' => Self::Placed(decode_placed(fields)?),
            b'I' => Self::FileNode(decode_node(&mut fields)?),
            b'R' => Self::Runs(decode_runs(rest)?),
            b'B' => Self::Bytes(rest),
            b'K' => Self::Link(rest),
            b'A' => Self::Extra(Extra::Attribute {
                name: fields.bytes()?.to_vec(),
                value: fields.rest().to_vec(),
            }),
            b'S' => Self::Extra(Extra::Stream { size_bytes: fields.long()?, name: fields.rest().to_vec() }),
            b'.' => Self::Done,
            b'0' => Self::Missing,
            b'F' => Self::Fault(String::from_utf8_lossy(rest).into_owned()),
            _ => return None,
        })
    }
}

fn decode_run(fields: &mut PacketFields<'_>) -> Option<FileRun> {
    let (kind, disk, length_bytes, offset) =
        (fields.byte()?, fields.short()?, fields.long()?, fields.long()?);
    let place = match kind {
        0 => RunPlace::Hole,
        1 => RunPlace::Disk { disk, offset },
        2 => RunPlace::Held,
        _ => return None,
    };
    (length_bytes > 0).then_some(FileRun { length_bytes, place })
}

fn decode_runs(bytes: &[u8]) -> Option<Vec<FileRun>> {
    let (records, rest) = bytes.as_chunks::<19>();
    if records.is_empty() || !rest.is_empty() {
        return None;
    }
    records.iter().map(|record| decode_run(&mut PacketFields::of(record))).collect()
}

impl VolumeInfo {
    fn encode(&self) -> Vec<u8> {
        let mut packet = Packet::new(b'V').text(self.name.as_bytes());
        packet = match self.disk {
            Some(disk) => packet.byte(1).short(disk),
            None => packet.byte(0),
        };
        packet = packet.text(&self.label).long(self.size_bytes);
        match &self.content {
            VolumeContent::Files(files) => {
                packet =
                    packet.byte(0).text(files.kind.as_bytes()).text(&files.label).text(files.uuid.as_bytes());
                // What is counted is what follows: a reader makes a few notes, and never more than a number holds.
                let notes = files.notes.get(..usize::from(u16::MAX)).unwrap_or(&files.notes);
                packet = packet.long(files.root).short(u16::try_from(notes.len()).unwrap_or(u16::MAX));
                notes.iter().fold(packet, |packet, note| packet.text(note.as_bytes())).0
            }
            VolumeContent::Known(what) => packet.byte(1).text(what.as_bytes()).0,
            VolumeContent::Broken(why) => packet.byte(2).text(why.as_bytes()).0,
            VolumeContent::Unknown => packet.byte(3).0,
        }
    }

    fn decode(fields: &mut PacketFields<'_>) -> Option<Self> {
        let name = fields.text()?;
        let disk = if fields.flag()? { Some(fields.short()?) } else { None };
        let (label, size_bytes) = (fields.bytes()?.to_vec(), fields.long()?);
        let content = match fields.byte()? {
            0 => {
                let (kind, label, uuid) = (fields.text()?, fields.bytes()?.to_vec(), fields.text()?);
                let root = fields.long()?;
                let notes = (0..fields.short()?).map(|_| fields.text()).collect::<Option<_>>()?;
                VolumeContent::Files(FileSystemInfo { kind, label, uuid, notes, root })
            }
            1 => VolumeContent::Known(fields.text()?),
            2 => VolumeContent::Broken(fields.text()?),
            3 => VolumeContent::Unknown,
            _ => return None,
        };
        Some(Self { name, disk, label, size_bytes, content })
    }
}

fn decode_node(fields: &mut PacketFields<'_>) -> Option<FileNode> {
    let id = fields.long()?;
    let kind = *KINDS.get(usize::from(fields.byte()?))?;
    let (size_bytes, links) = (fields.long()?, fields.word()?);
    let mode = if fields.flag()? { Some(fields.word()?) } else { None };
    let owner = if fields.flag()? { Some((fields.word()?, fields.word()?)) } else { None };
    let modified = match fields.flag()? {
        true => Some(Moment { seconds: fields.long()?.cast_signed(), nanoseconds: fields.word()? }),
        false => None,
    };
    let is_fine = modified.is_none_or(|moment| moment.nanoseconds < 1_000_000_000)
        && mode.is_none_or(|mode| mode <= 0o7777);
    is_fine.then_some(FileNode { id, kind, size_bytes, mode, owner, modified, links })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> FileNode {
        FileNode {
            id: 7 << 40,
            kind: NodeKind::Link,
            size_bytes: u64::MAX,
            mode: Some(0o4755),
            owner: Some((1, u32::MAX)),
            modified: Some(Moment { seconds: -1, nanoseconds: 999_999_999 }),
            links: 2,
        }
    }

    fn volume(content: VolumeContent) -> VolumeInfo {
        VolumeInfo { name: "p1".into(), disk: Some(3), label: b"x".to_vec(), size_bytes: 9, content }
    }

    fn placed() -> Vec<PlacedEntry> {
        let entry = |name: &[u8]| FolderEntry { name: name.to_vec(), node: node() };
        let run = FileRun { length_bytes: 5, place: RunPlace::Disk { disk: 1, offset: 1 << 50 } };
        vec![
            PlacedEntry { entry: entry(b"a"), runs: Some(vec![run, run]) },
            PlacedEntry { entry: entry(b"\xff"), runs: None },
            PlacedEntry { entry: entry(b"empty"), runs: Some(Vec::new()) },
        ]
    }

    #[test]
    fn every_word_survives_the_socket() {
        let files = FileSystemInfo {
            kind: "ext4".into(),
            label: vec![0xff],
            uuid: "u".into(),
            notes: vec!["n".into()],
            root: 2,
        };
        let runs = [RunPlace::Hole, RunPlace::Disk { disk: 1, offset: 5 }, RunPlace::Held];
        for answer in [
            Answer::Need { disk: 1, offset: u64::MAX, length_bytes: 4 },
            Answer::Trying("p1".into()),
            Answer::Volume(volume(VolumeContent::Files(files))),
            Answer::Volume(volume(VolumeContent::Known("LVM".into()))),
            Answer::Volume(volume(VolumeContent::Unknown)),
            Answer::Volume(VolumeInfo { disk: None, ..volume(VolumeContent::Broken("why".into())) }),
            Answer::FolderEntry(FolderEntry { name: b"a".to_vec(), node: node() }),
            Answer::FileNode(FileNode { mode: None, owner: None, modified: None, ..node() }),
            Answer::Runs(runs.map(|place| FileRun { length_bytes: 3, place }).to_vec()),
            Answer::Bytes(b"b"),
            Answer::Link(b"l"),
            Answer::Extra(Extra::Attribute { name: b"user.a".to_vec(), value: vec![0; 9] }),
            Answer::Extra(Extra::Stream { name: b"s".to_vec(), size_bytes: 1 }),
            Answer::Placed(placed()),
            Answer::Done,
            Answer::Missing,
            Answer::Fault("f".into()),
        ] {
            let packet = answer.encode();
            assert_eq!(Answer::decode(&packet), Some(answer));
        }
        let of = |what| Ask::Of { volume: 2, id: 3, what };
        for ask in [
            Ask::Start {
                sizes: vec![1, u64::MAX],
                skip: vec!["0/p1".into()],
                secrets: vec![Zeroizing::new(vec![0xff])],
            },
            of(What::FileNode),
            of(What::List),
            of(What::ListPlaced(7)),
            of(What::Find(b"name")),
            of(What::Runs(b"stream", 1..2)),
            of(What::Bytes(b"", 0..u64::MAX)),
            of(What::Link),
            of(What::Extras),
            Ask::Bytes(b"bytes"),
            Ask::Unreadable,
        ] {
            let packet = ask.encode();
            assert_eq!(Ask::decode(&packet), Some(ask));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_packet_makes_it_panic(packet in proptest::collection::vec(proptest::num::u8::ANY, 0..90)) {
            crate::fuzzing::fuzz_packet(&packet);
        }
    }
}
