//! The sealed body of a manifest: its tags and members, and where their maps begin (FORMAT.md §8.1).

use std::fmt;

use super::unreadable::Unreadable;
use crate::error::{Result, corrupt, ensure};
use crate::id::{ContentId, FrameName, FramePlace, PackName, Place};
use crate::names::{Name, Tag, Title};
use crate::text::{TextReader, TextWriter, number, optional, or_dash};

/// How a source is cut. Only the next backup needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunking {
    /// At multiples of 4 KiB.
    Disk,
    /// Anywhere.
    Stream,
    /// Where its own bytes say so.
    Pieces,
    /// A word of a later version.
    Other(Name),
}

impl Chunking {
    fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "disk" => Self::Disk,
            "stream" => Self::Stream,
            "pieces" => Self::Pieces,
            other => Self::Other(Name::new(other)?),
        })
    }
}

impl fmt::Display for Chunking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "disk",
            Self::Stream => "stream",
            Self::Pieces => "pieces",
            Self::Other(word) => word.as_str(),
        })
    }
}

/// What a member of a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A virtual disk.
    Disk,
    /// A stream read from standard input.
    Stream,
    /// A file that belongs to the VM, such as its configuration.
    File,
    /// A word of a later version: this member cannot be restored, the others can.
    Other(Name),
}

impl MemberKind {
    fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "disk" => Self::Disk,
            "stream" => Self::Stream,
            "file" => Self::File,
            other => Self::Other(Name::new(other)?),
        })
    }
}

impl fmt::Display for MemberKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "disk",
            Self::Stream => "stream",
            Self::File => "file",
            Self::Other(word) => word.as_str(),
        })
    }
}

/// What there is to say of a member besides its bytes: `<key>=<value>` words, all of them optional.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberWords(Vec<String>);

/// Keys of words in their order; those that begin with `x-` follow in any order.
const WORD_KEYS: [&str; 6] = ["role", "serial", "bus", "lsize", "psize", UNREADABLE];
const UNREADABLE: &str = "unreadable";

impl MemberWords {
    /// Takes words that are in their one spelling: known keys in order and once each, then ignorable ones.
    pub fn new(words: Vec<String>) -> Result<Self> {
        let bad = || corrupt(BODY, "a word of a disk line is not <key>=<value> in its order");
        let mut least = 0;
        for word in &words {
            let (key, value) = word.split_once('=').ok_or_else(bad)?;
            let printable = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
            let at = WORD_KEYS.iter().position(|known| *known == key);
            let at = at.or(key.strip_prefix("x-").filter(|rest| printable(rest)).map(|_| WORD_KEYS.len()));
            let at = at.filter(|at| *at >= least && printable(value)).ok_or_else(bad)?;
            least = at.saturating_add(usize::from(at < WORD_KEYS.len()));
        }
        Ok(Self(words))
    }

    /// The word for what a file is to the machine, and no other.
    pub fn of_role(role: &Name) -> Self {
        Self(vec![format!("role={role}")])
    }

    /// The word for what could not be read, and no other; none when there is nothing to say.
    pub fn of_unreadable(unreadable: &Unreadable) -> Self {
        let word = format!("{UNREADABLE}={unreadable}");
        Self(if unreadable.is_empty() { Vec::new() } else { vec![word] })
    }

    /// Adds an ignorable word, whose key begins with `x-`.
    pub fn push(&mut self, key: &str, value: &str) -> Result<()> {
        let mut words = self.0.clone();
        words.push(format!("{key}={value}"));
        let is_ignorable = key.starts_with("x-");
        ensure(is_ignorable, BODY, || format!("the word {key} of a disk line may not be ignored"))?;
        *self = Self::new(words)?;
        Ok(())
    }

    /// The value of a word.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }
}

/// Root of a member's map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// Its level in the tree.
    pub level: u8,
    /// Node id.
    pub id: ContentId,
    /// Where the node lies.
    pub place: Place,
}

/// One disk, stream or file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name in the VM.
    pub name: Title,
    /// What it is.
    pub kind: MemberKind,
    /// How it was cut.
    pub chunking: Chunking,
    /// Where the block grid starts, in bytes.
    pub phase_bytes: u32,
    /// Its size.
    pub size_bytes: u64,
    /// Without holes.
    pub data_bytes: u64,
    /// Plain bytes that were not known before.
    pub new_bytes: u64,
    /// Chunks in it.
    pub chunks: u64,
    /// Chunks that were not known before.
    pub new_chunks: u64,
    /// Whether it changed while it was read.
    pub fuzzy: bool,
    /// Its map; none when it is all zeros.
    pub root: Option<Root>,
    /// What else there is to say of it.
    pub words: MemberWords,
}

impl Member {
    /// Whether it is the file catalogue of the disks beside it (FORMAT.md §5.3).
    pub fn is_catalogue(&self) -> bool {
        self.kind == MemberKind::File && self.words.get("role") == Some(crate::file_catalogue::ROLE)
    }
}

/// Where bytes of an annex lie that belong to a snapshot (FORMAT.md §5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annex {
    /// What they say.
    pub topic: Name,
    /// The piece that says it, or says where the others are.
    pub place: Place,
}

/// The sealed body of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    /// What the VM is called, where the public records call it something else.
    pub vm: Option<Title>,
    /// Labels.
    pub tags: Vec<Tag>,
    /// Members, in the user's order.
    pub members: Vec<Member>,
    /// What else belongs to it. A line that does not read as one is ignored, as every `x-` line may be.
    pub annexes: Vec<Annex>,
}

const ANNEX: &str = "x-annex: ";
const BODY: &str = "sancerre-body-v1";
/// Highest level of a map's node (FORMAT.md §10.1).
const LEVEL_MAX: u8 = 7;

impl Body {
    /// The raw bytes to be sealed.
    pub fn encode(&self) -> String {
        self.text(&self.annexes.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn text(&self, extensions: &[String]) -> String {
        let mut text = TextWriter::new(BODY);
        text.no_features().field("vm", or_dash(&self.vm.as_ref().map(Title::encoded)));
        text.repeated("tag", &self.tags).repeated("disk", &self.members).extensions(extensions);
        text.finish()
    }

    /// Reads the raw bytes of a body.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut text = TextReader::new(BODY, bytes)?;
        text.no_features()?;
        let mut body = Self {
            vm: text.parsed("vm", |value| optional(value, Title::decode))?,
            tags: text.repeated("tag", Tag::new)?,
            members: text.repeated("disk", Member::parse)?,
            annexes: Vec::new(),
        };
        let extensions = text.extensions()?;
        body.annexes = extensions.iter().filter_map(|line| Annex::parse(line)).collect();
        text.finish()?;
        let mut names: Vec<&Title> = body.members.iter().map(|member| &member.name).collect();
        names.sort();
        ensure(names.is_sorted_by(|a, b| a < b), BODY, || "two disks have one name".into())?;
        ensure(body.text(&extensions).as_bytes() == bytes, BODY, || "not in its one spelling".into())?;
        Ok(body)
    }
}

impl fmt::Display for Annex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ANNEX}{} ", self.topic)?;
        write_place(f, &self.place)
    }
}

impl Annex {
    fn parse(line: &str) -> Option<Self> {
        let (topic, place) = line.strip_prefix(ANNEX)?.split_once(' ')?;
        Some(Self { topic: Name::new(topic).ok()?, place: parse_place(place)? })
    }
}

/// `<n>/<k>/<i>@<offset>+<sealed>:<offset>+<size>`
fn write_place(f: &mut fmt::Formatter<'_>, place: &Place) -> fmt::Result {
    let FramePlace { frame, offset_bytes, sealed_bytes } = place.frame;
    write!(f, "{frame}@{offset_bytes}+{sealed_bytes}:{}+{}", place.offset_bytes, place.size_bytes)
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kind, chunking, phase_bytes, size_bytes, .. } = self;
        write!(f, "{} {kind} {chunking} phase={phase_bytes} size={size_bytes}", name.encoded())?;
        write!(f, " data={} new={} chunks={}", self.data_bytes, self.new_bytes, self.chunks)?;
        write!(f, " new-chunks={} fuzzy={}", self.new_chunks, u8::from(self.fuzzy))?;
        match &self.root {
            None => f.write_str(" root=-")?,
            Some(Root { level, id, place }) => {
                write!(f, " root={level}/{id}/")?;
                write_place(f, place)?;
            }
        }
        self.words.0.iter().try_for_each(|word| write!(f, " {word}"))
    }
}

impl Member {
    /// What of it could not be read, and stands as zeros.
    pub fn unreadable(&self) -> Result<Unreadable> {
        match self.words.get(UNREADABLE) {
            Some(text) => Unreadable::parse(text, self.size_bytes),
            None => Ok(Unreadable::default()),
        }
    }

    fn parse(line: &str) -> Result<Self> {
        let bad = || corrupt(BODY, "a disk line is malformed");
        let mut words = line.split(' ');
        let mut next = |key: &str| words.next().and_then(|word| word.strip_prefix(key)).ok_or_else(bad);
        let mut member = Self {
            name: Title::decode(next("")?)?,
            kind: MemberKind::parse(next("")?)?,
            chunking: Chunking::parse(next("")?)?,
            phase_bytes: number(BODY, next("phase=")?)?,
            size_bytes: number(BODY, next("size=")?)?,
            data_bytes: number(BODY, next("data=")?)?,
            new_bytes: number(BODY, next("new=")?)?,
            chunks: number(BODY, next("chunks=")?)?,
            new_chunks: number(BODY, next("new-chunks=")?)?,
            fuzzy: number::<u8>(BODY, next("fuzzy=")?)? == 1,
            root: optional(next("root=")?, |root| parse_root(root).ok_or_else(bad))?,
            words: MemberWords::default(),
        };
        member.words = MemberWords::new(words.map(str::to_owned).collect())?;
        member.unreadable()?;
        Ok(member)
    }
}

/// `<level>/<id>/<place>`
fn parse_root(text: &str) -> Option<Root> {
    let mut parts = text.splitn(3, '/');
    let level = num(parts.next()?).filter(|level| *level <= LEVEL_MAX)?;
    let id = ContentId::from_hex(parts.next()?).ok()?;
    Some(Root { level, id, place: parse_place(parts.next()?)? })
}

fn num<T: std::str::FromStr>(text: &str) -> Option<T> {
    number(BODY, text).ok()
}

fn parse_place(text: &str) -> Option<Place> {
    let mut parts = text.splitn(3, '/');
    let pack = PackName { session: num(parts.next()?)?, ordinal: num(parts.next()?)? };
    let (index, rest) = parts.next()?.split_once('@')?;
    let (sealed, raw) = rest.split_once(':')?;
    let (offset, size) = sealed.split_once('+')?;
    let frame = FrameName { pack, index: num(index)? };
    let frame = FramePlace { frame, offset_bytes: num(offset)?, sealed_bytes: num(size)? };
    let (offset, size) = raw.split_once('+')?;
    Some(Place { frame, offset_bytes: num(offset)?, size_bytes: num(size)? })
}
