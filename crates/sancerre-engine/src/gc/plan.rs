//! G1, last: the plan. Log, lists, listing and weights in; packs that may go and packs worth rewriting out. Pure.
//!
//! A pack of which something is needed can only go when that is moved, so it costs a read and a write of what is kept.
//! The packs with the largest share of garbage are taken first, until what would be left is within the limit, the rest
//! is not worth it, or the budget is used up.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use sancerre_format::frames::FrameSet;
use sancerre_format::id::{Hash, PackName};
use sancerre_format::log::Kind;
use sancerre_format::names::Time;

use super::GcOptions;
use super::packs::Packs;
use super::weigh::Weight;
use crate::notes;
use crate::repository::log::{Log, LogEntry, Moves, Outcome, Retention};

/// A pack with less garbage than this is not rewritten: more than four bytes would be moved for each that is freed.
const WORTH_PERCENT: u64 = 20;

/// Packs and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub packs: u64,
    /// Bytes of the objects.
    pub bytes: u64,
}

impl Tally {
    pub(super) fn add(&mut self, found: &[(Hash, u64)]) {
        self.packs = self.packs.saturating_add(1);
        self.bytes = found.iter().fold(self.bytes, |sum, (_, bytes)| sum.saturating_add(*bytes));
    }
}

/// What is kept of a pack that is rewritten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survivors {
    /// The frames.
    pub frames: FrameSet,
    /// Their sealed bytes.
    pub bytes: u64,
    /// Those of the frames that are left behind.
    pub unused_bytes: u64,
}

/// What is to be done with every pack that the store lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Packs that no snapshot needs.
    pub dead: FrameSet,
    /// The same, counted.
    pub garbage: Tally,
    /// Packs to rewrite, and what of them is kept.
    pub moves: BTreeMap<PackName, Survivors>,
    /// The same, counted.
    pub rewritten: Tally,
    /// Sealed bytes of their frames that are kept, and so read and written.
    pub moved_bytes: u64,
    /// Sealed bytes of frames that no snapshot needs and that stay, in packs of which something else is needed.
    pub unused_bytes: u64,
    /// In an earlier final list, and still or again there.
    pub leftover: Tally,
    /// Needed by snapshots, in whole or in part; those to rewrite too.
    pub live: Tally,
    /// Of sessions that are under way or cannot be verified: left alone.
    pub pinned: Tally,
    /// No snapshot names anything in them, but one that lost something is restored by what they hold.
    pub healing: Tally,
    /// Those, and others of which something is named: nothing in them may go.
    pub healers: BTreeSet<PackName>,
    /// No snapshot needs them, but they are locked.
    pub locked: Tally,
    /// When the last of those locks ends.
    pub locked_until: Option<Time>,
}

impl Plan {
    /// Whether there is nothing to delete.
    pub fn is_empty(&self) -> bool {
        self.garbage.packs == 0 && self.leftover.packs == 0 && self.rewritten.packs == 0
    }

    /// Adds a pack of which something is needed to those to rewrite.
    pub(super) fn rewrite(&mut self, pack: PackName, kept: Survivors, found: &[(Hash, u64)]) {
        self.rewritten.add(found);
        self.moved_bytes = self.moved_bytes.saturating_add(kept.bytes);
        self.unused_bytes = self.unused_bytes.saturating_sub(kept.unused_bytes);
        self.moves.insert(pack, kept);
    }

    /// Leaves all packs to be rewritten as they are; returns them.
    pub(super) fn take_moves(&mut self) -> BTreeMap<PackName, Survivors> {
        let unused = self.moves.values().map(|kept| kept.unused_bytes);
        self.unused_bytes = unused.fold(self.unused_bytes, u64::saturating_add);
        (self.rewritten, self.moved_bytes) = (Tally::default(), 0);
        std::mem::take(&mut self.moves)
    }

    /// All packs that it wants gone.
    pub(super) fn proposed(&self) -> FrameSet {
        let mut proposed = self.dead.clone();
        self.moves.keys().for_each(|pack| proposed.insert_pack(*pack));
        proposed
    }
}

/// What a plan is made from.
pub(super) struct PlanInput<'a> {
    pub(super) log: &'a Log,
    pub(super) packs: &'a Packs,
    /// What snapshots need, by the pack in which it lies.
    pub(super) lying: &'a BTreeMap<PackName, FrameSet>,
    /// How much that is, of packs of which something else is not needed.
    pub(super) weights: &'a BTreeMap<PackName, Weight>,
    /// Packs of gcs that were given up, in which a frame may be found that a snapshot needs which is not gone.
    pub(super) copies: &'a BTreeSet<PackName>,
    /// Packs that hold copies of what a snapshot lost: they stay as they are.
    pub(super) healers: &'a BTreeSet<PackName>,
    /// Generation of the keys at hand, which open the tables of packs.
    pub(super) generation: Option<u16>,
}

/// Plans from everything that the log and the listing say.
pub(super) fn plan(input: &PlanInput<'_>, options: &GcOptions) -> Plan {
    let log = input.log;
    let (burnt, retention, abandoned) = (log.burnt(Log::END), log.retention(), log.abandoned());
    let quarantined = log.quarantined(Log::END).touched(&Moves::below(log, Log::END));
    let mut plan = Plan { healers: input.healers.clone(), ..Plan::default() };
    let mut candidates = Vec::new();
    for pack in input.packs.present.names() {
        let found = input.packs.present.found(pack);
        let entry = log.entry(pack.session);
        let kept_by_note = entry.and_then(|entry| notes::keeps(log, &retention, entry));
        let is_decided = match kept_by_note {
            Some(keeps) => !keeps,
            None => entry
                .is_some_and(|entry| is_decided(entry, &retention) || abandoned.contains_key(&entry.session)),
        };
        if input.lying.contains_key(&pack) {
            plan.live.add(found);
            let Some(candidate) = candidate(input, pack) else { continue };
            plan.unused_bytes = plan.unused_bytes.saturating_add(candidate.weight.unused_bytes);
            if is_decided && can_be_rewritten(input, &quarantined, &pack) {
                candidates.push(candidate);
            }
        } else if input.healers.contains(&pack) {
            plan.healing.add(found);
        } else if burnt.contains_pack(&pack) && kept_by_note != Some(true) {
            plan.leftover.add(found);
        } else if is_decided && !input.copies.contains(&pack) {
            plan.dead.insert_pack(pack);
            plan.garbage.add(found);
        } else {
            plan.pinned.add(found);
        }
    }
    for one in choose(candidates, plan.live.bytes, plan.unused_bytes, options) {
        let Weight { kept_bytes, unused_bytes } = one.weight;
        let kept = Survivors { frames: one.frames.clone(), bytes: kept_bytes, unused_bytes };
        plan.rewrite(one.pack, kept, input.packs.present.found(one.pack));
    }
    plan
}

/// A pack of which something is needed, and something is not.
#[derive(Debug)]
struct Candidate<'a> {
    pack: PackName,
    frames: &'a FrameSet,
    size_bytes: u64,
    weight: Weight,
}

impl Candidate<'_> {
    fn is_worth_it(&self) -> bool {
        let unused_bytes = self.weight.unused_bytes;
        unused_bytes > 0 && unused_bytes.saturating_mul(100) >= self.size_bytes.saturating_mul(WORTH_PERCENT)
    }

    /// Garbage in a million bytes.
    fn share(&self) -> u64 {
        self.weight.unused_bytes.saturating_mul(1_000_000) / self.size_bytes.max(1)
    }
}

fn candidate<'a>(input: &PlanInput<'a>, pack: PackName) -> Option<Candidate<'a>> {
    let (frames, weight) = (input.lying.get(&pack)?, *input.weights.get(&pack)?);
    Some(Candidate { pack, frames, size_bytes: input.packs.catalogue.pack(pack)?.size_bytes, weight })
}

/// What can be rewritten at all: what may be damaged is not passed on, but stored anew by backups, and then it is garbage.
fn can_be_rewritten(input: &PlanInput<'_>, quarantined: &FrameSet, pack: &PackName) -> bool {
    let made = input.log.generation(pack.session);
    made.is_some()
        && made == input.generation
        && input.packs.has(*pack)
        && !quarantined.contains_pack(pack)
        && !input.healers.contains(pack)
}

/// The packs that are worth it, those with the most garbage for their size first. `live_bytes` and `unused_bytes` are
/// those of all packs of which something is needed.
fn choose<'a>(
    mut candidates: Vec<Candidate<'a>>,
    mut live_bytes: u64,
    mut unused_bytes: u64,
    options: &GcOptions,
) -> Vec<Candidate<'a>> {
    candidates.retain(Candidate::is_worth_it);
    candidates.sort_by_key(|one| (Reverse(one.share()), one.pack));
    let mut moved_bytes = 0u64;
    let chosen = candidates.into_iter().take_while(|one| {
        let limit_bytes = u128::from(live_bytes).saturating_mul(options.max_unused_percent.into()) / 100;
        moved_bytes = moved_bytes.saturating_add(one.weight.kept_bytes);
        let taken = u128::from(unused_bytes) > limit_bytes && moved_bytes <= options.max_repack_bytes;
        live_bytes = live_bytes.saturating_sub(one.weight.unused_bytes);
        unused_bytes = unused_bytes.saturating_sub(one.weight.unused_bytes);
        taken
    });
    chosen.collect()
}

/// Only what ended by a record that verifies can be judged, what a keeper gave up, and what a revoked key made: nothing
/// that this one signs can become a snapshot any more, and nobody reuses it. What was lost with its log entry and given up
/// ended too.
fn is_decided(entry: &LogEntry, retention: &Retention) -> bool {
    if entry.lost.is_some() && matches!(entry.outcome, Outcome::Abort(_)) {
        return true;
    }
    if let Some(revoked) = &entry.revoked {
        return matches!(revoked.fields.kind, Kind::Backup(_));
    }
    entry.entry.is_ok() && (entry.has_ended() || retention.gave_up(entry))
}

#[cfg(test)]
mod tests;
