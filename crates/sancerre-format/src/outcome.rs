//! Outcomes: the one object that ends a session (FORMAT.md §8). A manifest is the commit point of a snapshot.

mod body;
mod unreadable;

use std::fmt;

use crate::certificate::{Role, Signer};
use crate::error::Result;
use crate::id::{Hash, RepositoryId, SessionId};
use crate::log::{KEEPERS, sessions};
use crate::names::{MachineId, Name, Time, Title, Zone};
use crate::record::{Fields, SignedBy, read_zone, signer_fits, write_zone};
use crate::text::{TextReader, TextWriter, optional, or_dash};

pub use body::{Annex, Body, Chunking, Member, MemberKind, MemberWords, Root};
pub use unreadable::Unreadable;

/// What the source did while it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consistency {
    /// It did not change: the disk as after a power cut.
    Crash,
    /// File systems were frozen at the moment that was saved.
    Frozen,
    /// Applications had written out what they held, too.
    Application,
    /// It changed: parts of it are from different moments.
    Fuzzy,
    /// Parts of it could not be read, and stand as zeros; the body names them.
    Partial,
    /// A word of a later version.
    Other(Name),
}

impl Consistency {
    fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "crash" => Self::Crash,
            "frozen" => Self::Frozen,
            "application" => Self::Application,
            "fuzzy" => Self::Fuzzy,
            "partial" => Self::Partial,
            other => Self::Other(Name::new(other)?),
        })
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crash => "crash",
            Self::Frozen => "frozen",
            Self::Application => "application",
            Self::Fuzzy => "fuzzy",
            Self::Partial => "partial",
            Self::Other(word) => word.as_str(),
        })
    }
}

/// What public sums of bytes are rounded up to: exact ones would tell which known file came in a night.
pub const PUBLIC_STEP_BYTES: u64 = 1 << 20;

/// A sum of bytes as a manifest publishes it.
pub fn public_bytes(exact_bytes: u64) -> u64 {
    exact_bytes.checked_next_multiple_of(PUBLIC_STEP_BYTES).unwrap_or(u64::MAX)
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
    /// The VM's public name, as in the log entry.
    pub vm: Title,
    /// What the hypervisor knows the VM by, as in the log entry.
    pub machine: Option<MachineId>,
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
    /// Bytes without holes, by [`public_bytes`] as the next two.
    pub data_bytes: u64,
    /// Plain bytes that were not known before.
    pub new_bytes: u64,
    /// Bytes of this session's packs.
    pub stored_bytes: u64,
    /// Whether the source changed.
    pub consistency: Consistency,
    /// How the source was scanned: `full`, or `map` with what the map came from.
    pub scan: String,
    /// A word to group snapshots by, such as `daily`; without any effect.
    pub class: Option<Name>,
    /// A forget that is signed earlier has no effect.
    pub retain_until: Option<Time>,
    /// Number of this session's pack lists.
    pub lists: u32,
    /// Number of this session's index segments.
    pub segments: u32,
    /// Until when the store locks the session's log entry, as the store said.
    pub lock_until: Option<Time>,
}

impl Fields for Manifest {
    const KIND: &'static str = "sancerre-manifest-v1";

    fn write(&self, text: &mut TextWriter) {
        write_zone(text, &self.repository, &self.zone);
        text.field("session", self.session);
        self.by.write(text);
        text.field("vm", self.vm.encoded()).field("machine", or_dash(&self.machine));
        text.field("started", self.started).field("finished", self.finished);
        text.repeated("parent", &self.parents);
        text.field("disks", self.disks)
            .field("size-bytes", self.size_bytes)
            .field("data-bytes", self.data_bytes);
        text.field("new-bytes", self.new_bytes).field("stored-bytes", self.stored_bytes);
        text.field("consistency", &self.consistency).field("scan", &self.scan);
        text.field("class", or_dash(&self.class)).field("retain-until", or_dash(&self.retain_until));
        text.field("lists", self.lists).field("segments", self.segments);
        text.field("lock-until", or_dash(&self.lock_until));
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let (repository, zone) = read_zone(text)?;
        Ok(Self {
            repository,
            zone,
            session: text.parsed("session", SessionId::parse)?,
            by: SignedBy::read(text)?,
            vm: text.parsed("vm", Title::decode)?,
            machine: text.parsed("machine", |value| optional(value, MachineId::parse))?,
            started: text.parsed("started", Time::parse)?,
            finished: text.parsed("finished", Time::parse)?,
            parents: sessions(text, "parent")?,
            disks: text.number("disks")?,
            size_bytes: text.number("size-bytes")?,
            data_bytes: text.number("data-bytes")?,
            new_bytes: text.number("new-bytes")?,
            stored_bytes: text.number("stored-bytes")?,
            consistency: text.parsed("consistency", Consistency::parse)?,
            scan: text.value("scan")?.to_owned(),
            class: text.parsed("class", |value| optional(value, Name::new))?,
            retain_until: text.parsed("retain-until", |value| optional(value, Time::parse))?,
            lists: text.number("lists")?,
            segments: text.number("segments")?,
            lock_until: text.parsed("lock-until", |value| optional(value, Time::parse))?,
        })
    }

    fn allows(&self, signer: &Signer) -> bool {
        signer_fits(signer, &self.by, &self.zone, &[Role::Writer])
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
        signer_fits(signer, &self.by, &self.zone, Role::STORING)
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
        signer_fits(signer, &self.by, &self.zone, KEEPERS)
    }
}
