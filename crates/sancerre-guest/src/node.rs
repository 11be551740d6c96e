//! What a file system tells of a file, whichever it is.

/// What something with a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NodeKind {
    /// A file with bytes.
    File,
    /// A folder.
    Directory,
    /// A symbolic link, or a junction.
    Link,
    /// A device, socket or pipe.
    Special,
    /// Its record cannot be read.
    Broken,
}

impl NodeKind {
    /// What the upper four bits of a Unix mode say.
    pub(crate) fn of_mode(mode: u16) -> Self {
        match mode & 0xf000 {
            0x8000 => Self::File,
            0x4000 => Self::Directory,
            0xa000 => Self::Link,
            0x1000 | 0x2000 | 0x6000 | 0xc000 => Self::Special,
            _ => Self::Broken,
        }
    }
}

/// A moment, as the file system has it. Where that keeps local time, it is taken as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// Since 1970.
    pub seconds: i64,
    /// Of the second.
    pub nanoseconds: u32,
}

/// Something with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileNode {
    /// Its number in the file system: two names with one number are the same file.
    pub id: u64,
    /// What it is.
    pub kind: NodeKind,
    /// How long it is.
    pub size_bytes: u64,
    /// Its permission bits; none where the file system has none.
    pub mode: Option<u32>,
    /// Its user and group; none where the file system has none.
    pub owner: Option<(u32, u32)>,
    /// When its content changed.
    pub modified: Option<Moment>,
    /// How many names it has.
    pub links: u32,
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderEntry {
    /// As bytes: UTF-8 by custom, and nothing sees to it.
    pub name: Vec<u8>,
    /// What it names.
    pub node: FileNode,
}

/// A name in a folder, and where the bytes of what it names are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedEntry {
    /// The name and what it names.
    pub entry: FolderEntry,
    /// Where all bytes of a file are; none for what is no file, of which it cannot be told, or that lies at too many places.
    pub runs: Option<Vec<FileRun>>,
}

/// Where the next bytes of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRun {
    /// How many.
    pub length_bytes: u64,
    /// Where.
    pub place: RunPlace,
}

/// A place of bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunPlace {
    /// Nowhere: zeros.
    Hole,
    /// On a disk, as they are.
    Disk {
        /// Which, in the order in which disks were given.
        disk: u16,
        /// Where on it.
        offset: u64,
    },
    /// In a structure of the file system: compressed, or among its records.
    Held,
}

/// Something beside the bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extra {
    /// An extended attribute, as Linux names it.
    Attribute {
        /// With its class, such as `user.`.
        name: Vec<u8>,
        /// Its bytes.
        value: Vec<u8>,
    },
    /// A further stream of bytes.
    Stream {
        /// Its name.
        name: Vec<u8>,
        /// How long it is.
        size_bytes: u64,
    },
}
