//! A committed snapshot: who it is, which frames it needs, what is in it.

use sancerre_format::frames::FrameSet;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names;
use sancerre_format::outcome::{Body, Manifest};
use sancerre_format::record::Record;
use sancerre_format::seal::{self, UnitKind, UnitName};

use super::lost::GENERATION_UNKNOWN;
use crate::error::{Error, Result};
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
