//! Quarantine: a signed log entry that keeps every writer from building on what was found damaged or missing.

use sancerre_format::frames::FrameSet;
use sancerre_format::id::{FrameName, PackName};
use sancerre_format::log::Kind;

use crate::error::Result;
use crate::repository::Repository;
use crate::repository::log::Log;
use crate::repository::session;

/// What is quarantined, and what should be.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    already: FrameSet,
    new: FrameSet,
}

impl Quarantine {
    /// What the log's entries quarantine.
    pub(super) fn of(log: &Log) -> Self {
        let mut already = FrameSet::default();
        for entry in log.entries().filter_map(|entry| entry.entry.as_deref().ok()) {
            if matches!(entry.fields.kind, Kind::Quarantine { .. }) {
                // As in the avoid set: what does not decode names nothing.
                already.union(&FrameSet::decode(&entry.public).unwrap_or_default());
            }
        }
        Self { already, new: FrameSet::default() }
    }

    /// Packs of which something is quarantined already.
    pub(super) fn packs(&self) -> impl Iterator<Item = PackName> + '_ {
        self.already.packs()
    }

    /// Whether the whole pack is quarantined already.
    pub(super) fn has_pack(&self, pack: PackName) -> bool {
        self.already.contains_pack(&pack)
    }

    /// Whether the frame is quarantined already, alone or with its pack.
    pub(super) fn has(&self, frame: &FrameName) -> bool {
        self.already.contains(frame)
    }

    /// Adds a pack; says whether it was quarantined already.
    pub(super) fn add_pack(&mut self, pack: PackName) -> bool {
        let already = self.has_pack(pack);
        if !already {
            self.new.insert_pack(pack);
        }
        already
    }

    /// Adds a frame; says whether it was quarantined already.
    pub(super) fn add(&mut self, frame: FrameName) -> bool {
        let already = self.has(&frame);
        if !already {
            self.new.insert(frame);
        }
        already
    }

    /// Publishes what is new. Returns the number of the log entry, or none when nothing is new.
    pub(super) async fn publish(&self, repository: &Repository, log: &Log) -> Result<Option<u64>> {
        if self.new.is_empty() {
            return Ok(None);
        }
        let entry = session::append(repository, log, entry(), &self.new.encode()?).await?;
        Ok(Some(entry.number))
    }
}

/// The entry that says so.
pub(super) fn entry() -> Kind {
    Kind::Quarantine { reason: "found damaged or missing by check".into() }
}
