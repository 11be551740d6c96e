//! What of the log below a number still matters: what a checkpoint carries (FORMAT.md §9.4). Pure.

use std::collections::{BTreeMap, BTreeSet};

use sancerre_format::frames::FrameSet;
use sancerre_format::id::{PackName, SessionId};
use sancerre_format::log::{Entry, Held, Kind, Note};
use sancerre_format::record::{Cut, Record};

use super::suspects;
use super::{Avoid, Log, LogEntry, Moves, Outcome, Retention};
use crate::error::Result;

/// What a checkpoint is made of: which packs may be used, where frames lie, and which records are carried, by number.
#[derive(Debug, Default)]
pub struct Carried {
    /// Packs and frames that may be used.
    pub kept: FrameSet,
    /// Frames that were moved, by the pack that they were moved to.
    pub moves: BTreeMap<PackName, FrameSet>,
    /// Sessions whose packs hold such frames.
    pub heads: BTreeSet<SessionId>,
    /// Log entries, by number.
    pub entries: BTreeMap<u64, Cut>,
    /// Outcomes, by the number of their session.
    pub outcomes: BTreeMap<u64, Cut>,
}

impl Log {
    /// What matters below `upto`: every session there has ended. `present` are the packs that the store lists, `indexed`
    /// the sessions of which it lists index segments.
    ///
    /// Errors: a proposal of an abandoned gc that does not decode.
    pub fn carried(
        &self,
        upto: u64,
        present: impl Iterator<Item = PackName>,
        indexed: &BTreeSet<u64>,
    ) -> Result<Carried> {
        let mut avoid = Avoid::default();
        self.avoid_gcs(&mut avoid, upto)?;
        let is_kept = |pack: &PackName| {
            let announced = self.entry(pack.session).and_then(LogEntry::announced);
            pack.session < upto && announced.is_some() && !avoid.has_pack(pack)
        };
        let mut carried = Carried::default();
        present.filter(is_kept).for_each(|pack| carried.kept.insert_pack(pack));
        let moves = Moves::below(self, upto);
        carried.moves = moves.settled(&carried.kept);
        carried.carry_owners(indexed);
        carried.carry_snapshots(self, upto);
        carried.carry_words(self, upto, &moves);
        // A collector's pack is of no use without its entry, and an entry that is not there cannot be carried.
        carried.entries.retain(|number, _| *number < upto && self.entry(*number).is_some_and(is_readable));
        Ok(carried)
    }
}

fn is_readable(entry: &LogEntry) -> bool {
    entry.announced().is_some()
}

impl Carried {
    fn entry(&mut self, number: u64, cut: Cut) {
        // The least that is cut off counts.
        self.entries.entry(number).and_modify(|carried| *carried = cut.min(*carried)).or_insert(cut);
    }

    /// Whoever sealed or stored something that may be used.
    fn carry_owners(&mut self, indexed: &BTreeSet<u64>) {
        let named = self.moves.values().flat_map(FrameSet::packs);
        let owners: BTreeSet<u64> = self.kept.packs().chain(named).map(|pack| pack.session).collect();
        owners.union(indexed).for_each(|number| self.entry(*number, Cut::Head));
    }

    /// Snapshots that are not given up, and what the next backup of each machine follows on.
    fn carry_snapshots(&mut self, log: &Log, upto: u64) {
        let retention = log.retention_below(upto);
        let stay = log.committed().map(|snapshot| snapshot.session());
        let stay = stay.filter(|session| session.number < upto && retention.collected_by(session).is_none());
        self.heads = log.heads_below(upto);
        for session in stay.chain(self.heads.clone()) {
            self.entry(session.number, Cut::Head);
            // With its outcome a head that was given up would look like a snapshot that is there.
            if retention.collected_by(&session).is_none() {
                self.outcomes.insert(session.number, Cut::Sealed);
            }
        }
        let epochs = log.entries.range(..upto).filter_map(|(number, entry)| {
            match &entry.entry.as_deref().ok()?.fields.kind {
                Kind::Backup(intent) => Some((intent.epoch, *number)),
                _ => None,
            }
        });
        if let Some((_, newest)) = epochs.max() {
            self.entry(newest, Cut::Head);
        }
    }

    /// What keepers, the admin and writers said that still has an effect.
    fn carry_words(&mut self, log: &Log, upto: u64, moves: &Moves) {
        let retention = log.retention_below(upto);
        let speaks = log
            .entries
            .range(..upto)
            .filter_map(|(number, entry)| Some((*number, entry.entry.as_deref().ok()?)));
        let mut approvals = Vec::new();
        for (number, entry) in speaks {
            match &entry.fields.kind {
                Kind::Taint(_) | Kind::Revoke(_) | Kind::Quorum(_) => self.entry(number, Cut::Head),
                Kind::Abandon(abandon) => {
                    self.entry(number, Cut::Head);
                    self.entry(abandon.session.number, Cut::Whole);
                }
                Kind::Forget(named) | Kind::Undelete(named) if matter(&retention, &named.snapshots) => {
                    self.entry(number, Cut::Head);
                }
                Kind::Hold(Held { snapshots, vms, .. }) | Kind::Release(Held { snapshots, vms, .. })
                    if !vms.is_empty() || matter(&retention, snapshots) =>
                {
                    self.entry(number, Cut::Head);
                }
                Kind::Approve(approval) => approvals.push((number, &approval.entries)),
                Kind::Quarantine { .. } if self.touches(entry, moves) => self.entry(number, Cut::Whole),
                // Without what it says in public: its signer may make that as long as an entry may be.
                Kind::Note(note) if matter(&retention, &note.snapshots) => {
                    self.entry(number, Cut::Head);
                    if note.topic.as_str() == suspects::TOPIC {
                        self.carry_suspects(log, &retention, note);
                    }
                }
                _ => {}
            }
        }
        for (number, of) in approvals {
            if of.iter().any(|entry| self.entries.contains_key(&entry.number)) {
                self.entry(number, Cut::Head);
            }
        }
    }

    /// Whose backups a note calls suspect. One that a revocation made void since is no snapshot, and is suspect all the same:
    /// its outcome tells it from one that is gone.
    fn carry_suspects(&mut self, log: &Log, retention: &Retention, note: &Note) {
        let suspects = note.snapshots.iter().filter(|session| {
            retention.suspected_by(session).is_some() && retention.collected_by(session).is_none()
        });
        for session in suspects {
            self.entry(session.number, Cut::Head);
            if log.entry(session.number).is_some_and(|entry| matches!(entry.outcome, Outcome::Manifest(_))) {
                self.outcomes.insert(session.number, Cut::Sealed);
            }
        }
    }

    /// Whether a quarantine names something that lies in a kept pack.
    fn touches(&self, entry: &Record<Entry>, moves: &Moves) -> bool {
        let named = entry.public().and_then(|part| FrameSet::decode(part, entry.fields.number));
        named.is_ok_and(|named| moves.packs(&named).iter().any(|pack| self.kept.contains_pack(pack)))
    }
}

/// Whether one of these snapshots may still be had.
fn matter(retention: &Retention, snapshots: &[SessionId]) -> bool {
    snapshots.iter().any(|snapshot| retention.collected_by(snapshot).is_none())
}
