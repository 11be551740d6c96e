//! Log entries: what a session announces before it does anything (FORMAT.md §7).

use crate::certificate::{Role, Signer};
use crate::error::{Result, ensure, unsupported};
use crate::id::{Hash, RepositoryId, SessionId};
use crate::names::{Name, Time, Zone};
use crate::record::{Fields, SignedBy, read_zone, signer_fits, write_zone};
use crate::text::{TextReader, TextWriter};

/// What a backup announces: whose disks, under which keys, after which earlier outcomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The VM.
    pub vm: Name,
    /// Generation of the zone's keys.
    pub generation: u16,
    /// Identity epoch the session key is sealed to.
    pub epoch: u16,
    /// Commitment to the session key.
    pub commitment: Hash,
    /// The VM's newest manifests and aborts that the writer saw, ascending.
    pub parents: Vec<SessionId>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A backup begins.
    Backup(Intent),
    /// A garbage collection begins; the public part holds its proposal.
    Gc {
        /// Generation of the zone's keys: that of every frame it moves, and of what it seals.
        generation: u16,
    },
    /// Snapshots may go.
    Forget(Snapshots),
    /// Takes a forget back, while no gc has acted on it.
    Undelete(Snapshots),
    /// Snapshots must stay whatever is forgotten.
    Hold(Snapshots),
    /// Ends holds.
    Release(Snapshots),
    /// Frames named in the public part are damaged or missing: nobody reuses them, the next backup stores them anew.
    Quarantine {
        /// Why.
        reason: String,
    },
    /// Packs of this writer's sessions from a number on are not reused.
    Taint(Distrust),
    /// Nothing this writer signs from a number on is trusted.
    Revoke(Distrust),
    /// Owns index segments that were built anew from packs, of whatever session.
    Index,
    /// The state of the zone as a keeper saw it, in the public part.
    Checkpoint,
    /// A gc whose outcome is not what it should be counts as ended with nothing.
    Abandon(Abandon),
}

/// A gc that the admin gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abandon {
    /// Its session.
    pub session: SessionId,
    /// Why.
    pub reason: String,
}

/// Snapshots named by an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshots {
    /// Their sessions, ascending, at least one.
    pub snapshots: Vec<SessionId>,
    /// Why.
    pub reason: String,
}

/// A writer and the log number from which it is not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distrust {
    /// Name of its certificate.
    pub writer: Name,
    /// First number.
    pub from: u64,
    /// Why.
    pub reason: String,
}

/// The roles that may collect garbage, and end the sessions of others.
pub const KEEPERS: &[Role] = &[Role::Keeper, Role::Admin];

/// A log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The repository.
    pub repository: RepositoryId,
    /// The zone.
    pub zone: Zone,
    /// Its place in the log; must agree with its key.
    pub number: u64,
    /// Who signed.
    pub by: SignedBy,
    /// The signer's clock.
    pub time: Time,
    /// What it is.
    pub kind: Kind,
}

impl Kind {
    /// Its name in text.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Backup(_) => "backup",
            Self::Gc { .. } => "gc",
            Self::Forget(_) => "forget",
            Self::Undelete(_) => "undelete",
            Self::Hold(_) => "hold",
            Self::Release(_) => "release",
            Self::Quarantine { .. } => "quarantine",
            Self::Taint(_) => "taint",
            Self::Revoke(_) => "revoke",
            Self::Index => "index",
            Self::Checkpoint => "checkpoint",
            Self::Abandon(_) => "abandon",
        }
    }

    /// Whether the entry opens a session that an outcome must end.
    pub fn needs_outcome(&self) -> bool {
        matches!(self, Self::Backup(_) | Self::Gc { .. })
    }

    /// The roles that may sign such an entry.
    pub fn roles(&self) -> &'static [Role] {
        match self {
            Self::Backup(_) => &[Role::Writer],
            Self::Quarantine { .. } | Self::Index => &[Role::Writer, Role::Keeper, Role::Admin],
            Self::Taint(_) | Self::Revoke(_) | Self::Abandon(_) => &[Role::Admin],
            _ => KEEPERS,
        }
    }

    fn write(&self, text: &mut TextWriter) {
        match self {
            Self::Backup(intent) => {
                text.field("vm", &intent.vm)
                    .field("generation", intent.generation)
                    .field("epoch", intent.epoch);
                text.field("commitment", intent.commitment).repeated("parent", &intent.parents);
            }
            Self::Forget(named) | Self::Undelete(named) | Self::Hold(named) | Self::Release(named) => {
                text.repeated("snapshot", &named.snapshots).field("reason", &named.reason);
            }
            Self::Quarantine { reason } => {
                text.field("reason", reason);
            }
            Self::Taint(distrust) | Self::Revoke(distrust) => {
                text.field("writer", &distrust.writer).field("from", distrust.from);
                text.field("reason", &distrust.reason);
            }
            Self::Gc { generation } => {
                text.field("generation", generation);
            }
            Self::Index | Self::Checkpoint => {}
            Self::Abandon(abandon) => {
                text.field("session", abandon.session).field("reason", &abandon.reason);
            }
        }
    }

    fn read(name: &str, text: &mut TextReader<'_>) -> Result<Self> {
        Ok(match name {
            "backup" => Self::Backup(Intent {
                vm: text.parsed("vm", Name::new)?,
                generation: text.number("generation")?,
                epoch: text.number("epoch")?,
                commitment: text.parsed("commitment", Hash::from_hex)?,
                parents: sessions(text, "parent")?,
            }),
            "gc" => Self::Gc { generation: text.number("generation")? },
            "forget" => Self::Forget(Snapshots::read(text)?),
            "undelete" => Self::Undelete(Snapshots::read(text)?),
            "hold" => Self::Hold(Snapshots::read(text)?),
            "release" => Self::Release(Snapshots::read(text)?),
            "quarantine" => Self::Quarantine { reason: reason(text)? },
            "taint" => Self::Taint(Distrust::read(text)?),
            "revoke" => Self::Revoke(Distrust::read(text)?),
            "index" => Self::Index,
            "checkpoint" => Self::Checkpoint,
            "abandon" => Self::Abandon(Abandon {
                session: text.parsed("session", SessionId::parse)?,
                reason: reason(text)?,
            }),
            other => return Err(unsupported(Entry::KIND, format!("log entries of kind {other:?}"))),
        })
    }
}

impl Snapshots {
    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let snapshots = sessions(text, "snapshot")?;
        ensure(!snapshots.is_empty(), Entry::KIND, || "names no snapshot".into())?;
        Ok(Self { snapshots, reason: reason(text)? })
    }
}

impl Distrust {
    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        Ok(Self {
            writer: text.parsed("writer", Name::new)?,
            from: text.number("from")?,
            reason: reason(text)?,
        })
    }
}

/// Session ids under one key, strictly ascending.
pub(crate) fn sessions(text: &mut TextReader<'_>, key: &str) -> Result<Vec<SessionId>> {
    let ids = text.repeated(key, SessionId::parse)?;
    ensure(ids.is_sorted_by(|a, b| a < b), "session ids", || format!("{key} lines are not ascending"))?;
    Ok(ids)
}

fn reason(text: &mut TextReader<'_>) -> Result<String> {
    text.value("reason").map(str::to_owned)
}

impl Fields for Entry {
    const KIND: &'static str = "sancerre-log-v1";

    fn write(&self, text: &mut TextWriter) {
        write_zone(text, &self.repository, &self.zone);
        text.field("number", self.number).field("kind", self.kind.name());
        self.by.write(text);
        text.field("time", self.time);
        self.kind.write(text);
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let (repository, zone) = read_zone(text)?;
        let number = text.number("number")?;
        ensure(number > 0, Self::KIND, || "the log starts at number 1".into())?;
        let kind = text.value("kind")?;
        let by = SignedBy::read(text)?;
        let time = text.parsed("time", Time::parse)?;
        Ok(Self { repository, zone, number, by, time, kind: Kind::read(kind, text)? })
    }

    fn allows(&self, signer: &Signer) -> bool {
        signer_fits(signer, &self.by, &self.zone, Some(self.time), self.kind.roles())
    }
}
