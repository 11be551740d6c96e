//! Outcomes: the one object that ends a session (FORMAT.md §8). A manifest is the commit point of a snapshot.

use std::fmt;

use crate::certificate::{Role, Signer};
use crate::error::{Result, corrupt, ensure};
use crate::id::{ContentId, FrameName, FramePlace, Hash, PackName, Place, RepositoryId, SessionId};
use crate::log::sessions;
use crate::names::{Name, Tag, Time, Zone};
use crate::record::{Fields, SignedBy, read_zone, signer_fits, write_zone};
use crate::text::{TextReader, TextWriter, number, optional, or_dash};

/// What the source did while it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// It did not change: the disk as after a power cut.
    Crash,
    /// It changed: parts of it are from different moments.
    Fuzzy,
}

/// The public head of a snapshot: readable and verifiable without any secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The repository.
    pub repository: RepositoryId,
    /// The zone.
    pub zone: Zone,
    /// The session; its hash is the snapshot's id.
    pub session: SessionId,
    /// Who signed: the signer of the log entry.
    pub by: SignedBy,
    /// The VM.
    pub vm: Name,
    /// When reading began: the writer's claim.
    pub started: Time,
    /// When the manifest was made: the writer's claim.
    pub finished: Time,
    /// As in the log entry.
    pub parents: Vec<SessionId>,
    /// Disks, streams and files in it.
    pub disks: u32,
    /// Sum of their sizes.
    pub size_bytes: u64,
    /// Without holes.
    pub data_bytes: u64,
    /// Plain bytes that were not known before.
    pub new_bytes: u64,
    /// Bytes of this session's packs.
    pub stored_bytes: u64,
    /// Whether the source changed.
    pub consistency: Consistency,
    /// How the source was scanned: `full`.
    pub scan: String,
    /// Number of this session's pack lists.
    pub lists: u32,
    /// Lock the writer asked for.
    pub lock_until: Option<Time>,
}

impl Fields for Manifest {
    const KIND: &'static str = "sancerre-manifest-v1";

    fn write(&self, text: &mut TextWriter) {
        write_zone(text, &self.repository, &self.zone);
        text.field("session", self.session);
        self.by.write(text);
        text.field("vm", &self.vm).field("started", self.started).field("finished", self.finished);
        text.repeated("parent", &self.parents);
        text.field("disks", self.disks)
            .field("size-bytes", self.size_bytes)
            .field("data-bytes", self.data_bytes);
        text.field("new-bytes", self.new_bytes).field("stored-bytes", self.stored_bytes);
        let consistency = match self.consistency {
            Consistency::Crash => "crash",
            Consistency::Fuzzy => "fuzzy",
        };
        text.field("consistency", consistency).field("scan", &self.scan).field("lists", self.lists);
        text.field("lock-until", or_dash(&self.lock_until));
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let (repository, zone) = read_zone(text)?;
        Ok(Self {
            repository,
            zone,
            session: text.parsed("session", SessionId::parse)?,
            by: SignedBy::read(text)?,
            vm: text.parsed("vm", Name::new)?,
            started: text.parsed("started", Time::parse)?,
            finished: text.parsed("finished", Time::parse)?,
            parents: sessions(text, "parent")?,
            disks: text.number("disks")?,
            size_bytes: text.number("size-bytes")?,
            data_bytes: text.number("data-bytes")?,
            new_bytes: text.number("new-bytes")?,
            stored_bytes: text.number("stored-bytes")?,
            consistency: text.parsed("consistency", |value| match value {
                "crash" => Ok(Consistency::Crash),
                "fuzzy" => Ok(Consistency::Fuzzy),
                other => Err(corrupt(Self::KIND, format!("unknown consistency {other:?}"))),
            })?,
            scan: text.value("scan")?.to_owned(),
            lists: text.number("lists")?,
            lock_until: text.parsed("lock-until", |value| optional(value, Time::parse))?,
        })
    }

    fn allows(&self, signer: &Signer) -> bool {
        signer_fits(signer, &self.by, &self.zone, Some(self.finished), &[Role::Writer])
    }
}

/// The end of a session that made nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abort {
    /// The repository.
    pub repository: RepositoryId,
    /// The zone.
    pub zone: Zone,
    /// The session.
    pub session: SessionId,
    /// Who signed: the session's writer (the engine compares), a keeper or the admin.
    pub by: SignedBy,
    /// When: a claim.
    pub time: Time,
    /// Why.
    pub reason: String,
}

impl Fields for Abort {
    const KIND: &'static str = "sancerre-abort-v1";

    fn write(&self, text: &mut TextWriter) {
        write_zone(text, &self.repository, &self.zone);
        text.field("session", self.session);
        self.by.write(text);
        text.field("time", self.time).field("reason", &self.reason);
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let (repository, zone) = read_zone(text)?;
        Ok(Self {
            repository,
            zone,
            session: text.parsed("session", SessionId::parse)?,
            by: SignedBy::read(text)?,
            time: text.parsed("time", Time::parse)?,
            reason: text.value("reason")?.to_owned(),
        })
    }

    fn allows(&self, signer: &Signer) -> bool {
        signer_fits(signer, &self.by, &self.zone, Some(self.time), &[Role::Writer, Role::Keeper, Role::Admin])
    }
}

/// The commit of a garbage collection; its lists are in the public part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The repository.
    pub repository: RepositoryId,
    /// The zone.
    pub zone: Zone,
    /// The session.
    pub session: SessionId,
    /// Who signed.
    pub by: SignedBy,
    /// When: a claim.
    pub time: Time,
    /// Number and hash of the commit before this one.
    pub previous: Option<SessionId>,
    /// Digest of all records up to this number.
    pub records: Hash,
}

impl Fields for Commit {
    const KIND: &'static str = "sancerre-commit-v1";

    fn write(&self, text: &mut TextWriter) {
        write_zone(text, &self.repository, &self.zone);
        text.field("session", self.session);
        self.by.write(text);
        text.field("time", self.time)
            .field("previous", or_dash(&self.previous))
            .field("records", self.records);
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let (repository, zone) = read_zone(text)?;
        Ok(Self {
            repository,
            zone,
            session: text.parsed("session", SessionId::parse)?,
            by: SignedBy::read(text)?,
            time: text.parsed("time", Time::parse)?,
            previous: text.parsed("previous", |value| optional(value, SessionId::parse))?,
            records: text.parsed("records", Hash::from_hex)?,
        })
    }

    fn allows(&self, signer: &Signer) -> bool {
        signer_fits(signer, &self.by, &self.zone, Some(self.time), &[Role::Keeper, Role::Admin])
    }
}

/// How a source is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunking {
    /// At multiples of 4 KiB.
    Disk,
    /// Anywhere.
    Stream,
}

/// What a member of a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberKind {
    /// A virtual disk.
    Disk,
    /// A stream read from standard input.
    Stream,
    /// A file that belongs to the VM, such as its configuration.
    File,
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
    pub name: Name,
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
}

/// The sealed body of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    /// Labels.
    pub tags: Vec<Tag>,
    /// Members, in the user's order.
    pub members: Vec<Member>,
}

const BODY: &str = "sancerre-body-v1";
/// Highest level of a map's node (FORMAT.md §10.1).
const LEVEL_MAX: u8 = 7;

impl Body {
    /// The raw bytes to be sealed.
    pub fn encode(&self) -> String {
        self.text(&[])
    }

    fn text(&self, extensions: &[String]) -> String {
        let mut text = TextWriter::new(BODY);
        text.repeated("tag", &self.tags).repeated("disk", &self.members).extensions(extensions);
        text.finish()
    }

    /// Reads the raw bytes of a body.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut text = TextReader::new(BODY, bytes)?;
        let body =
            Self { tags: text.repeated("tag", Tag::new)?, members: text.repeated("disk", Member::parse)? };
        let extensions = text.extensions()?;
        text.finish()?;
        let mut names: Vec<&Name> = body.members.iter().map(|member| &member.name).collect();
        names.sort();
        ensure(names.is_sorted_by(|a, b| a < b), BODY, || "two disks have one name".into())?;
        ensure(body.text(&extensions).as_bytes() == bytes, BODY, || "not in its one spelling".into())?;
        Ok(body)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            MemberKind::Disk => "disk",
            MemberKind::Stream => "stream",
            MemberKind::File => "file",
        };
        let chunking = match self.chunking {
            Chunking::Disk => "disk",
            Chunking::Stream => "stream",
        };
        write!(f, "{} {kind} {chunking} phase={} size={}", self.name, self.phase_bytes, self.size_bytes)?;
        write!(f, " data={} new={} chunks={}", self.data_bytes, self.new_bytes, self.chunks)?;
        write!(f, " new-chunks={} fuzzy={}", self.new_chunks, u8::from(self.fuzzy))?;
        match &self.root {
            None => f.write_str(" root=-"),
            Some(Root { level, id, place }) => {
                let FramePlace { frame, offset_bytes, sealed_bytes } = place.frame;
                write!(f, " root={level}/{id}/{frame}@{offset_bytes}+{sealed_bytes}")?;
                write!(f, ":{}+{}", place.offset_bytes, place.size_bytes)
            }
        }
    }
}

impl Member {
    fn parse(line: &str) -> Result<Self> {
        let bad = || corrupt(BODY, "a disk line is malformed");
        let mut words = line.split(' ');
        let mut next = |key: &str| words.next().and_then(|word| word.strip_prefix(key)).ok_or_else(bad);
        let member = Self {
            name: Name::new(next("")?)?,
            kind: match next("")? {
                "disk" => MemberKind::Disk,
                "stream" => MemberKind::Stream,
                "file" => MemberKind::File,
                _ => return Err(bad()),
            },
            chunking: match next("")? {
                "disk" => Chunking::Disk,
                "stream" => Chunking::Stream,
                _ => return Err(bad()),
            },
            phase_bytes: number(BODY, next("phase=")?)?,
            size_bytes: number(BODY, next("size=")?)?,
            data_bytes: number(BODY, next("data=")?)?,
            new_bytes: number(BODY, next("new=")?)?,
            chunks: number(BODY, next("chunks=")?)?,
            new_chunks: number(BODY, next("new-chunks=")?)?,
            fuzzy: number::<u8>(BODY, next("fuzzy=")?)? == 1,
            root: optional(next("root=")?, |root| parse_root(root).ok_or_else(bad))?,
        };
        if words.next().is_some() { Err(bad()) } else { Ok(member) }
    }
}

/// `<level>/<id>/<n>/<k>/<i>@<offset>+<sealed>:<offset>+<size>`
fn parse_root(text: &str) -> Option<Root> {
    fn num<T: std::str::FromStr>(text: &str) -> Option<T> {
        number(BODY, text).ok()
    }
    let mut parts = text.splitn(5, '/');
    let level = num(parts.next()?).filter(|level| *level <= LEVEL_MAX)?;
    let id = ContentId::from_hex(parts.next()?).ok()?;
    let pack = PackName { session: num(parts.next()?)?, ordinal: num(parts.next()?)? };
    let (index, rest) = parts.next()?.split_once('@')?;
    let (sealed, raw) = rest.split_once(':')?;
    let (offset, size) = sealed.split_once('+')?;
    let frame = FrameName { pack, index: num(index)? };
    let frame = FramePlace { frame, offset_bytes: num(offset)?, sealed_bytes: num(size)? };
    let (offset, size) = raw.split_once('+')?;
    Some(Root { level, id, place: Place { frame, offset_bytes: num(offset)?, size_bytes: num(size)? } })
}
