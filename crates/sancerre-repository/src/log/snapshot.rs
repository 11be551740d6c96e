//! A committed snapshot: who it is, which frames it needs, what is in it; and which there are of a log.

use sancerre_format::frames::FrameSet;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::{self, Title};
use sancerre_format::outcome::{Body, Manifest};
use sancerre_format::record::Record;
use sancerre_format::seal::{self, UnitKind, UnitName};

use super::lost::GENERATION_UNKNOWN;
use super::{Log, LogEntry, Outcome, Retention};
use crate::error::{Error, Forgotten, Result};
use crate::repository::Repository;

/// A committed snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// Its log entry.
    pub entry: &'a Record<Entry>,
    /// Its manifest.
    pub manifest: &'a Record<Manifest>,
}

impl Snapshot<'_> {
    /// Its session; the hash is the snapshot's id.
    pub fn session(&self) -> SessionId {
        self.manifest.fields.session
    }

    /// The snapshot's id.
    pub fn id(&self) -> Hash {
        self.session().intent
    }

    /// The generation of the zone's keys it was made with.
    pub fn generation(&self) -> Option<u16> {
        match &self.entry.fields.kind {
            Kind::Backup(intent) => Some(intent.generation).filter(|made| *made != GENERATION_UNKNOWN),
            _ => None,
        }
    }

    /// Key of its manifest.
    pub fn key(&self) -> String {
        names::outcome(&self.manifest.fields.zone, &self.session())
    }

    /// The frames it needs, by their names; where they lie says [`Moves`](super::Moves).
    ///
    /// Errors: [`Error::Object`] when its manifest holds no set of frames.
    pub fn uses(&self) -> Result<FrameSet> {
        let key = self.key();
        let part = self.manifest.public().map_err(Error::object(&key))?;
        FrameSet::decode(part, self.session().number).map_err(Error::object(&key))
    }
}

/// The frames that any of these snapshots needs.
///
/// Errors: as [`Snapshot::uses`].
pub fn needed<'a>(snapshots: impl IntoIterator<Item = Snapshot<'a>>) -> Result<FrameSet> {
    let mut needed = FrameSet::default();
    for snapshot in snapshots {
        needed.union(&snapshot.uses()?);
    }
    Ok(needed)
}

/// The sealed body of a snapshot: tags and disks.
pub fn open_body(repository: &Repository, snapshot: &Snapshot<'_>) -> Result<Body> {
    let (session, key) = (snapshot.session(), snapshot.key());
    let name = UnitName { kind: UnitKind::Body, session, a: 0, b: 0 };
    let root = repository.keys.metadata_root_in(&session, snapshot.generation())?;
    let sealed = snapshot.manifest.sealed().map_err(Error::object(&key))?;
    let raw = seal::open(&root, &name, sealed).map_err(Error::object(&key))?;
    Body::decode(&raw).map_err(Error::object(&key))
}

impl LogEntry {
    /// The entry and the machine of a backup whose outcome does not verify: it may have been a snapshot.
    pub fn damaged(&self) -> Option<(&Record<Entry>, &Title)> {
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
    pub fn damaged(&self) -> impl Iterator<Item = (SessionId, &Title)> {
        self.entries().filter_map(|entry| Some((entry.session, entry.damaged()?.1)))
    }

    /// What all entries say of snapshots.
    pub fn retention(&self) -> Retention {
        self.retention_below(Log::END)
    }

    /// What the entries below `number` say of snapshots.
    pub fn retention_below(&self, number: u64) -> Retention {
        self.survey(number).retention
    }

    /// Every committed snapshot that is not forgotten, or is held, in log order.
    pub fn snapshots(&self) -> Vec<Snapshot<'_>> {
        self.snapshots_below(Log::END)
    }

    /// The same, by the entries below `number`.
    pub fn snapshots_below(&self, number: u64) -> Vec<Snapshot<'_>> {
        let retention = self.retention_below(number);
        self.committed_below(number).filter(|snapshot| retention.is_live(&snapshot.session())).collect()
    }

    /// Every committed snapshot, forgotten or not, in log order.
    pub fn committed(&self) -> impl Iterator<Item = Snapshot<'_>> {
        self.committed_below(Log::END)
    }

    /// The same by the entries below `number`: revocations above do not count.
    pub fn committed_below(&self, number: u64) -> impl Iterator<Item = Snapshot<'_>> {
        self.entries.range(..number).filter_map(move |(_, entry)| entry.snapshot_below(number))
    }

    /// Every committed snapshot below `number` of which no gc there says that it is gone: what is forgotten can be had back
    /// until then.
    pub fn remaining_below(&self, number: u64) -> Vec<Snapshot<'_>> {
        let retention = self.retention_below(number);
        let remains = |snapshot: &Snapshot<'_>| retention.collected_by(&snapshot.session()).is_none();
        self.committed_below(number).filter(remains).collect()
    }

    /// Fails when the snapshot is forgotten, saying by whom, when, and whether it can be had back.
    pub fn refuse_forgotten(&self, snapshot: &SessionId) -> Result<()> {
        let retention = self.retention();
        if retention.is_live(snapshot) {
            return Ok(());
        }
        let collected = retention.collected_by(snapshot);
        let number = retention.forgotten_by(snapshot).or(collected).unwrap_or_default();
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
