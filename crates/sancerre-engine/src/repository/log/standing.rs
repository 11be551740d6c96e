//! What the records say of snapshots: which are forgotten, held, or removed for good.

use std::collections::BTreeMap;

use sancerre_format::id::SessionId;
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::Name;
use sancerre_format::record::Record;

use super::{Log, LogEntry, Outcome, Snapshot};
use crate::error::{Error, Forgotten, Result};

/// Snapshots by what was decided about them, each with the number of the entry that decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    forgotten: BTreeMap<SessionId, u64>,
    held: BTreeMap<SessionId, u64>,
    collected: BTreeMap<SessionId, u64>,
}

impl Standing {
    /// Whether a committed snapshot counts: neither forgotten, or held all the same, nor given up by a gc.
    pub fn is_live(&self, snapshot: &SessionId) -> bool {
        !self.collected.contains_key(snapshot)
            && (!self.forgotten.contains_key(snapshot) || self.held.contains_key(snapshot))
    }

    /// The entry that forgot it, if that was not taken back.
    pub fn forgotten_by(&self, snapshot: &SessionId) -> Option<u64> {
        self.forgotten.get(snapshot).copied()
    }

    /// The entry that holds it, if that was not released.
    pub fn held_by(&self, snapshot: &SessionId) -> Option<u64> {
        self.held.get(snapshot).copied()
    }

    /// The gc that gave it up: nothing brings it back.
    pub fn collected_by(&self, snapshot: &SessionId) -> Option<u64> {
        self.collected.get(snapshot).copied()
    }

    /// Whether a backup's outcome does not verify and a keeper's record gave it up all the same. Should the right bytes
    /// come back, it is a snapshot like others that are forgotten.
    pub fn gave_up(&self, entry: &LogEntry) -> bool {
        entry.damaged().is_some() && !self.is_live(&entry.session)
    }

    fn apply(&mut self, entry: &LogEntry) {
        let number = entry.session.number;
        if let Outcome::Commit(_, lists) = &entry.outcome {
            for snapshot in &lists.forgotten {
                self.collected.entry(*snapshot).or_insert(number);
            }
        }
        let Ok(record) = &entry.entry else { return };
        match &record.fields.kind {
            Kind::Forget(named) => self.forgotten.extend(numbered(&named.snapshots, number)),
            Kind::Hold(named) => self.held.extend(numbered(&named.snapshots, number)),
            Kind::Undelete(named) => {
                self.forgotten.retain(|snapshot, _| named.snapshots.binary_search(snapshot).is_err());
            }
            Kind::Release(named) => {
                self.held.retain(|snapshot, _| named.snapshots.binary_search(snapshot).is_err());
            }
            _ => {}
        }
    }
}

fn numbered(snapshots: &[SessionId], number: u64) -> impl Iterator<Item = (SessionId, u64)> + '_ {
    snapshots.iter().map(move |snapshot| (*snapshot, number))
}

impl LogEntry {
    /// The entry and the machine of a backup whose outcome does not verify: it may have been a snapshot.
    pub fn damaged(&self) -> Option<(&Record<Entry>, &Name)> {
        match (self.entry.as_deref(), &self.outcome) {
            (Ok(entry), Outcome::Invalid(_)) => match &entry.fields.kind {
                Kind::Backup(intent) => Some((entry, &intent.vm)),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Log {
    /// Every backup whose outcome does not verify, and its machine.
    pub fn damaged(&self) -> impl Iterator<Item = (SessionId, &Name)> {
        self.entries.values().filter_map(|entry| Some((entry.session, entry.damaged()?.1)))
    }

    /// What the entries below `number` say of snapshots.
    pub fn standing(&self, number: u64) -> Standing {
        let mut standing = Standing::default();
        self.entries.range(..number).for_each(|(_, entry)| standing.apply(entry));
        standing
    }

    /// Every committed snapshot that is not forgotten, or is held, in log order.
    pub fn snapshots(&self) -> Vec<Snapshot<'_>> {
        self.snapshots_below(u64::MAX)
    }

    /// The same, by the entries below `number`.
    pub fn snapshots_below(&self, number: u64) -> Vec<Snapshot<'_>> {
        let standing = self.standing(number);
        let committed = self.entries.range(..number).filter_map(|(_, entry)| entry.snapshot());
        committed.filter(|snapshot| standing.is_live(&snapshot.session())).collect()
    }

    /// Every committed snapshot, forgotten or not, in log order.
    pub fn committed(&self) -> impl Iterator<Item = Snapshot<'_>> {
        self.entries.values().filter_map(LogEntry::snapshot)
    }

    /// Fails when the snapshot is forgotten, saying by whom, when, and whether it can be had back.
    pub fn refuse_forgotten(&self, snapshot: &SessionId) -> Result<()> {
        let standing = self.standing(u64::MAX);
        if standing.is_live(snapshot) {
            return Ok(());
        }
        let collected = standing.collected_by(snapshot);
        let number = standing.forgotten_by(snapshot).or(collected).unwrap_or_default();
        let record = self.entry(number).and_then(|entry| entry.entry.as_deref().ok());
        let record = record.ok_or_else(|| Error::Lost { what: format!("log entry {number}") })?;
        let reason = match &record.fields.kind {
            Kind::Forget(named) => named.reason.clone(),
            _ => "garbage collection".to_owned(),
        };
        Err(Error::Forgotten(Box::new(Forgotten {
            snapshot: *snapshot,
            by: record.fields.by.name.clone(),
            time: record.fields.time,
            entry: number,
            reason,
            collected,
        })))
    }
}
