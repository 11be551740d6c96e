//! Log entries: what a session announces before it does anything (FORMAT.md §7).

use crate::certificate::{Role, Signer};
use crate::error::{Result, ensure, unsupported};
use crate::id::{Hash, RepositoryId, SessionId};
use crate::names::{MachineId, Name, Time, Title, Zone};
use crate::record::{Fields, SignedBy, read_zone, signer_fits, write_zone};
use crate::text::{TextReader, TextWriter, optional, or_dash};

/// What a backup announces: whose disks, under which keys, after which earlier outcomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The VM's public name.
    pub vm: Title,
    /// What the hypervisor knows the VM by, whatever its name is.
    pub machine: Option<MachineId>,
    /// Generation of the zone's keys.
    pub generation: u16,
    /// Identity epoch the session key is sealed to.
    pub epoch: u16,
    /// Commitment to the session key.
    pub commitment: Hash,
    /// The VM's newest manifests and aborts that the writer saw, ascending.
    pub parents: Vec<SessionId>,
}

impl Intent {
    /// Whether it is of the machine of this id; where one of both has no id, of this name.
    pub fn is_of(&self, vm: &Title, machine: Option<MachineId>) -> bool {
        match (self.machine, machine) {
            (Some(one), Some(other)) => one == other,
            _ => self.vm == *vm,
        }
    }
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
    Hold(Held),
    /// Ends holds.
    Release(Held),
    /// Another keeper's consent to entries that need more than one.
    Approve(Approval),
    /// How many keepers must approve a forget from now on.
    Quorum(Quorum),
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
    /// Something that happened: without effect on what is live, trusted or stored. May own annex packs.
    Note(Note),
    /// A gc whose outcome is not what it should be counts as ended with nothing.
    Abandon(Abandon),
}

/// How many keepers besides its signer must approve what needs approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    /// So many.
    pub approvals_needed: u32,
    /// Why.
    pub reason: String,
}

/// A gc that the admin gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abandon {
    /// Its session.
    pub session: SessionId,
    /// Why.
    pub reason: String,
}

/// What a note is about; its parts hold whatever the topic says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What kind of thing happened, such as `drill`.
    pub topic: Name,
    /// What came of it, in a word.
    pub result: Option<Name>,
    /// The snapshots it is about, ascending. Annex packs of this entry stay while one of them is not gone.
    pub snapshots: Vec<SessionId>,
}

/// Snapshots named by a hold or a release, and machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Their sessions, ascending.
    pub snapshots: Vec<SessionId>,
    /// Machines of which all snapshots are meant, those to come too; ascending.
    pub vms: Vec<Title>,
    /// Why.
    pub reason: String,
}

/// Entries that a keeper consents to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Their sessions, ascending, at least one.
    pub entries: Vec<SessionId>,
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
    /// BLAKE3 of the object at the number before this one, which the signer has read; none at number 1, and above an
    /// object that is larger than an entry can be.
    pub previous: Option<Hash>,
    /// The newest checkpoint that the signer knew, by the number up to which it speaks.
    pub checkpoint: Option<u64>,
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
            Self::Approve(_) => "approve",
            Self::Quorum(_) => "quorum",
            Self::Note(_) => "note",
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
            Self::Quarantine { .. } | Self::Index => Role::STORING,
            Self::Note(_) => Role::ALL,
            Self::Taint(_) | Self::Revoke(_) | Self::Abandon(_) | Self::Quorum(_) => &[Role::Admin],
            // The admin can make keepers, but is none of them.
            Self::Approve(_) => &[Role::Keeper],
            _ => KEEPERS,
        }
    }

    /// Whether it speaks of numbers above its own.
    fn reaches_beyond(&self, number: u64) -> bool {
        matches!(self, Self::Taint(distrust) | Self::Revoke(distrust) if distrust.from > number)
    }

    fn write(&self, text: &mut TextWriter) {
        match self {
            Self::Backup(intent) => {
                text.field("vm", intent.vm.encoded()).field("machine", or_dash(&intent.machine));
                text.field("generation", intent.generation).field("epoch", intent.epoch);
                text.field("commitment", intent.commitment).repeated("parent", &intent.parents);
            }
            Self::Forget(named) | Self::Undelete(named) => {
                text.repeated("snapshot", &named.snapshots).field("reason", &named.reason);
            }
            Self::Hold(held) | Self::Release(held) => {
                text.repeated("snapshot", &held.snapshots)
                    .repeated("vm", held.vms.iter().map(Title::encoded));
                text.field("reason", &held.reason);
            }
            Self::Approve(approval) => {
                text.repeated("entry", &approval.entries).field("reason", &approval.reason);
            }
            Self::Quorum(quorum) => {
                text.field("approvals-needed", quorum.approvals_needed).field("reason", &quorum.reason);
            }
            Self::Note(note) => {
                text.field("topic", &note.topic).field("result", or_dash(&note.result));
                text.repeated("snapshot", &note.snapshots);
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
            Self::Index => {}
            Self::Abandon(abandon) => {
                text.field("session", abandon.session).field("reason", &abandon.reason);
            }
        }
    }

    fn read(name: &str, text: &mut TextReader<'_>) -> Result<Self> {
        Ok(match name {
            "backup" => Self::Backup(Intent {
                vm: text.parsed("vm", Title::decode)?,
                machine: text.parsed("machine", |value| optional(value, MachineId::parse))?,
                generation: text.number("generation")?,
                epoch: text.number("epoch")?,
                commitment: text.parsed("commitment", Hash::from_hex)?,
                parents: sessions(text, "parent")?,
            }),
            "gc" => Self::Gc { generation: text.number("generation")? },
            "forget" => Self::Forget(Snapshots::read(text)?),
            "undelete" => Self::Undelete(Snapshots::read(text)?),
            "hold" => Self::Hold(Held::read(text)?),
            "release" => Self::Release(Held::read(text)?),
            "approve" => Self::Approve(Approval::read(text)?),
            "quorum" => {
                let approvals_needed = crate::limits::approvals(text.number("approvals-needed")?)?;
                Self::Quorum(Quorum { approvals_needed, reason: reason(text)? })
            }
            "note" => Self::Note(Note::read(text)?),
            "quarantine" => Self::Quarantine { reason: reason(text)? },
            "taint" => Self::Taint(Distrust::read(text)?),
            "revoke" => Self::Revoke(Distrust::read(text)?),
            "index" => Self::Index,
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

impl Held {
    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let (snapshots, vms) = (sessions(text, "snapshot")?, text.repeated("vm", Title::decode)?);
        ensure(vms.is_sorted_by(|a, b| a < b), Entry::KIND, || "vm lines are not ascending".into())?;
        ensure(!(snapshots.is_empty() && vms.is_empty()), Entry::KIND, || "names nothing".into())?;
        Ok(Self { snapshots, vms, reason: reason(text)? })
    }
}

impl Approval {
    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let entries = sessions(text, "entry")?;
        ensure(!entries.is_empty(), Entry::KIND, || "names no entry".into())?;
        Ok(Self { entries, reason: reason(text)? })
    }
}

impl Note {
    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        Ok(Self {
            topic: text.parsed("topic", Name::new)?,
            result: text.parsed("result", |value| optional(value, Name::new))?,
            snapshots: sessions(text, "snapshot")?,
        })
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
        text.field("time", self.time).field("previous", or_dash(&self.previous));
        text.field("checkpoint", or_dash(&self.checkpoint));
        self.kind.write(text);
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let (repository, zone) = read_zone(text)?;
        let number = text.number("number")?;
        ensure(number > 0, Self::KIND, || "the log starts at number 1".into())?;
        let kind = text.value("kind")?;
        let by = SignedBy::read(text)?;
        let time = text.parsed("time", Time::parse)?;
        let previous = text.parsed("previous", |value| optional(value, Hash::from_hex))?;
        ensure(number > 1 || previous.is_none(), Self::KIND, || "nothing is before the first entry".into())?;
        let checkpoint = text.parsed("checkpoint", |value| optional(value, checkpoint_number))?;
        let kind = Kind::read(kind, text)?;
        ensure(checkpoint.is_none_or(|upto| upto <= number), Self::KIND, || {
            "its checkpoint is not before it".into()
        })?;
        ensure(!kind.reaches_beyond(number), Self::KIND, || "it distrusts what is not signed yet".into())?;
        Ok(Self { repository, zone, number, by, time, previous, checkpoint, kind })
    }

    fn allows(&self, signer: &Signer) -> bool {
        signer_fits(signer, &self.by, &self.zone, self.kind.roles()) && signer.is_valid_at(self.time)
    }
}

fn checkpoint_number(text: &str) -> Result<u64> {
    crate::text::number(Entry::KIND, text)
}
