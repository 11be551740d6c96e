//! Quarantine: a signed log entry that keeps every writer from building on what was found damaged or missing.

use sancerre_format::frames::FrameSet;
use sancerre_format::id::{FrameName, PackName};
use sancerre_format::log::Kind;

use crate::error::Result;
use crate::repository::Repository;
use crate::repository::log::{Log, Moves, PackAndFrameSet};
use crate::repository::session;

/// What is quarantined, and what should be.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    already: PackAndFrameSet,
    new: PackAndFrameSet,
}

impl Quarantine {
    /// What the log's entries quarantine.
    pub(super) fn of(log: &Log) -> Self {
        Self { already: log.quarantined(Log::END), new: PackAndFrameSet::default() }
    }

    /// Packs of which something is quarantined already.
    pub(super) fn packs(&self, moves: &Moves) -> FrameSet {
        self.already.touched(moves)
    }

    /// Frames that are quarantined already, one by one.
    pub(super) fn frames(&self) -> &FrameSet {
        self.already.frames()
    }

    /// Whether the whole pack is quarantined already.
    pub(super) fn has_pack(&self, pack: PackName) -> bool {
        self.already.has_pack(&pack)
    }

    /// Adds a pack; says whether it was quarantined already.
    pub(super) fn add_pack(&mut self, pack: PackName) -> bool {
        let already = self.has_pack(pack);
        if !already {
            self.new.add_pack(pack);
        }
        already
    }

    /// Adds a frame that lies in `pack`; says whether it was quarantined already.
    pub(super) fn add(&mut self, frame: FrameName, pack: &PackName) -> bool {
        let already = self.already.contains(&frame, pack);
        if !already {
            self.new.add(frame);
        }
        already
    }

    /// Adds frames that lie in `pack`; says whether all were quarantined already.
    pub(super) fn add_all(&mut self, frames: &FrameSet, pack: &PackName) -> bool {
        let new = frames.without(self.already.frames());
        if self.already.has_pack(pack) || new.is_empty() {
            return true;
        }
        self.new.extend(&new);
        false
    }

    /// Publishes what is new. Returns the number of the log entry, or none when nothing is new.
    pub(super) async fn publish(&self, repository: &Repository, log: &Log) -> Result<Option<u64>> {
        let new = self.new.to_set();
        if new.is_empty() {
            return Ok(None);
        }
        let entry = session::append(repository, log, entry(), &new.encode()?).await?;
        Ok(Some(entry.number))
    }
}

/// The entry that says so.
pub(super) fn entry() -> Kind {
    Kind::Quarantine { reason: "found damaged or missing by check".into() }
}
