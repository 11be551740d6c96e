//! Suspect snapshots: while one is not cleared, nothing from before it is let go (FORMAT.md §7.3). By entries of the log alone,
//! so all readers judge alike, for ever.

use std::collections::BTreeMap;

use sancerre_format::certificate::{Role, Signer};
use sancerre_format::id::SessionId;
use sancerre_format::log::{Entry, Kind, Note};
use sancerre_format::names::{MachineId, Name, Title};
use sancerre_format::record::Record;

/// The topic of notes that say that a snapshot is suspect, or that it is not any more.
pub const TOPIC: &str = "suspicion";
/// The result that says so.
pub const SUSPECT: &str = "suspect";
/// The result that takes it back.
pub const CLEARED: &str = "cleared";
/// With more machines than these nothing at all is let go.
pub const MACHINES_MAX: usize = 3;

/// Whose backup a session is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Backed {
    vm: Title,
    machine: Option<MachineId>,
    by: Name,
    /// The number of the revocation that made it void.
    void_by: Option<u64>,
}

impl Backed {
    /// Whether both are of one machine (FORMAT.md §7).
    fn is_of(&self, other: &Self) -> bool {
        match (self.machine, other.machine) {
            (Some(one), Some(other)) => one == other,
            _ => self.vm == other.vm,
        }
    }
}

/// What came of a note.
#[derive(Debug)]
pub(super) enum Said {
    /// Nothing that counts.
    Nothing,
    /// These are suspect.
    Suspect(Vec<SessionId>),
    /// What it names is to be cleared.
    Clear,
}

/// Snapshots that are suspect and were not cleared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suspects {
    backups: BTreeMap<SessionId, Backed>,
    /// With the number of the note.
    suspects: BTreeMap<SessionId, u64>,
    /// Those that were, with the number of the note that cleared them.
    cleared: BTreeMap<SessionId, u64>,
}

impl Suspects {
    /// Takes note of whose backup a session is, and of what made it void.
    pub(super) fn backup(&mut self, session: SessionId, entry: &Record<Entry>, void_by: Option<u64>) {
        if let Kind::Backup(intent) = &entry.fields.kind {
            let by = entry.fields.by.name.clone();
            let backed = Backed { vm: intent.vm.clone(), machine: intent.machine, by, void_by };
            self.backups.insert(session, backed);
        }
    }

    /// Takes note of what a note says. Who made a backup may call it suspect, and keepers and the admin may; only they may ask
    /// that one is cleared, which the caller does.
    pub(super) fn note(&mut self, number: u64, entry: &Record<Entry>, note: &Note) -> Said {
        let is_keeper = match &entry.signer {
            Signer::Admin => true,
            Signer::Certified(certificate) => certificate.role() == Role::Keeper,
        };
        match note.result.as_ref().map(Name::as_str) {
            _ if note.topic.as_str() != TOPIC => Said::Nothing,
            Some(CLEARED) if is_keeper => Said::Clear,
            Some(SUSPECT) => {
                // What was void already is none: who starts at a checkpoint above that knows nothing of it.
                let counts = |session: &&SessionId| {
                    self.backups.get(*session).is_some_and(|backed| {
                        let is_void = backed.void_by.is_some_and(|by| by < number);
                        !is_void && (is_keeper || backed.by == entry.fields.by.name)
                    })
                };
                let counted: Vec<SessionId> = note.snapshots.iter().filter(counts).copied().collect();
                for session in &counted {
                    self.suspects.entry(*session).or_insert(number);
                    self.cleared.remove(session);
                }
                Said::Suspect(counted)
            }
            _ => Said::Nothing,
        }
    }

    /// These are not suspect any more.
    pub(super) fn clear(&mut self, number: u64, snapshots: &[SessionId]) {
        for session in snapshots {
            self.suspects.remove(session);
            self.cleared.insert(*session, number);
        }
    }

    /// The suspects that count: not those that are gone.
    fn counted<'a>(
        &'a self,
        is_gone: &'a impl Fn(&SessionId) -> bool,
    ) -> impl Iterator<Item = (&'a SessionId, &'a Backed, u64)> {
        let known = |(session, number): (&'a SessionId, &'a u64)| {
            Some((session, self.backups.get(session)?, *number))
        };
        self.suspects.iter().filter_map(known).filter(move |(session, ..)| !is_gone(session))
    }

    /// The note because of which a snapshot stays: its machine's first suspect one is above it, it is suspect itself, or too
    /// many machines are suspect.
    pub(super) fn keeps(&self, snapshot: &SessionId, is_gone: impl Fn(&SessionId) -> bool) -> Option<u64> {
        let newest = self.counted(&is_gone).map(|(.., number)| number).max()?;
        if self.machines(&is_gone).len() > MACHINES_MAX {
            return Some(newest);
        }
        let own = self.backups.get(snapshot)?;
        let mut of_machine = self.counted(&is_gone).filter(|(_, backed, _)| backed.is_of(own));
        let (first, _, number) = of_machine.next()?;
        if snapshot.number <= first.number {
            return Some(number);
        }
        of_machine.find(|(session, ..)| *session == snapshot).map(|(.., number)| number)
    }

    /// The note that says that a snapshot is suspect, if it was not cleared.
    pub(super) fn noted(&self, snapshot: &SessionId) -> Option<u64> {
        self.suspects.get(snapshot).copied()
    }

    /// The note that cleared it, if none called it suspect since.
    pub(super) fn cleared(&self, snapshot: &SessionId) -> Option<u64> {
        self.cleared.get(snapshot).copied()
    }

    /// The suspects that count, with the public names of their machines.
    pub(super) fn all<'a>(
        &'a self,
        is_gone: &'a impl Fn(&SessionId) -> bool,
    ) -> impl Iterator<Item = (SessionId, &'a Title)> {
        self.counted(is_gone).map(|(session, backed, _)| (*session, &backed.vm))
    }

    /// One suspect snapshot of each machine that has one.
    pub(super) fn machines(&self, is_gone: &impl Fn(&SessionId) -> bool) -> Vec<SessionId> {
        let mut found: Vec<(&SessionId, &Backed)> = Vec::new();
        for (session, backed, _) in self.counted(is_gone) {
            if !found.iter().any(|(_, other)| other.is_of(backed)) {
                found.push((session, backed));
            }
        }
        found.into_iter().map(|(session, _)| *session).collect()
    }
}
