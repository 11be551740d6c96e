//! G1, second half: the plan. Log and listing in, packs that may go out. Pure.

use std::collections::BTreeSet;

use sancerre_format::FormatError;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::PackName;
use sancerre_format::names::Time;

use crate::error::{Error, Result};
use crate::repository::catalogue::Present;
use crate::repository::log::{Log, LogEntry, Outcome, Snapshot};

/// Packs and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub packs: u64,
    /// Bytes of the objects.
    pub bytes: u64,
}

impl Tally {
    pub(super) fn add(&mut self, found: &[(sancerre_format::id::Hash, u64)]) {
        self.packs = self.packs.saturating_add(1);
        self.bytes = found.iter().fold(self.bytes, |sum, (_, bytes)| sum.saturating_add(*bytes));
    }
}

/// What is to be done with every pack that the store lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Packs that no snapshot needs.
    pub dead: FrameSet,
    /// The same, counted.
    pub garbage: Tally,
    /// In an earlier final list, and still or again there.
    pub leftover: Tally,
    /// Needed by snapshots.
    pub live: Tally,
    /// Of sessions that are under way or cannot be verified: left alone.
    pub pinned: Tally,
    /// No snapshot needs them, but they are locked.
    pub locked: Tally,
    /// When the last of those locks ends.
    pub locked_until: Option<Time>,
}

impl Plan {
    /// Whether there is nothing to delete.
    pub fn is_empty(&self) -> bool {
        self.garbage.packs == 0 && self.leftover.packs == 0
    }
}

/// Plans from everything that the log and the listing say.
///
/// Errors: [`Error::Object`] for a snapshot whose frame set cannot be read; [`Error::Refused`] when a later version
/// moved frames.
pub(super) fn plan(log: &Log, present: &Present, now: Time) -> Result<Plan> {
    let used = used(log.snapshots())?;
    let burnt = burnt(log, u64::MAX)?;
    let mut plan = Plan::default();
    for pack in present.names() {
        let found = present.found(pack);
        if burnt.contains_pack(&pack) {
            plan.leftover.add(found);
        } else if used.contains(&pack) {
            plan.live.add(found);
        } else if let Some(until) = locked_until(log, pack).filter(|until| *until > now) {
            plan.locked.add(found);
            plan.locked_until = plan.locked_until.max(Some(until));
        } else if log.entry(pack.session).is_some_and(is_decided) {
            plan.dead.insert_pack(pack);
            plan.garbage.add(found);
        } else {
            plan.pinned.add(found);
        }
    }
    Ok(plan)
}

/// Only what ended by a record that verifies can be judged.
fn is_decided(entry: &LogEntry) -> bool {
    entry.entry.is_ok()
        && matches!(entry.outcome, Outcome::Manifest(_) | Outcome::Abort(_) | Outcome::Commit(..))
}

/// Until when the pack's writer asked the store to lock it.
fn locked_until(log: &Log, pack: PackName) -> Option<Time> {
    log.entry(pack.session)?.snapshot()?.manifest.fields.lock_until
}

/// Packs of which snapshots need something.
pub(super) fn used<'a>(snapshots: impl IntoIterator<Item = Snapshot<'a>>) -> Result<BTreeSet<PackName>> {
    let mut used = BTreeSet::new();
    for snapshot in snapshots {
        let uses = FrameSet::decode(&snapshot.manifest.public);
        used.extend(uses.map_err(|source| unreadable(&snapshot, source))?.packs());
    }
    Ok(used)
}

fn unreadable(snapshot: &Snapshot<'_>, source: FormatError) -> Error {
    let fields = &snapshot.manifest.fields;
    Error::Object { key: sancerre_format::names::outcome(&fields.zone, &fields.session), source }
}

/// Every pack that a commit below `number` gave up.
pub(super) fn burnt(log: &Log, number: u64) -> Result<FrameSet> {
    let mut burnt = FrameSet::default();
    for entry in log.entries().filter(|entry| entry.session.number < number) {
        let Outcome::Commit(_, lists) = &entry.outcome else { continue };
        if !lists.moves.is_empty() {
            let number = entry.session.number;
            return Err(Error::Refused(format!(
                "gc {number} moved frames, which this version cannot follow; use a newer one"
            )));
        }
        burnt.union(&lists.burnt);
        burnt.union(&lists.dead);
    }
    Ok(burnt)
}
