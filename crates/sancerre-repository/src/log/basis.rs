//! What stands for the log below a number when a reader starts at a checkpoint (FORMAT.md §9.4).

use sancerre_format::checkpoint::{Checkpoint, CheckpointState};
use sancerre_format::frames::FrameSet;
use sancerre_format::id::{Hash, PackName, SessionId};
use sancerre_format::names::Name;
use sancerre_format::record::Record;

use super::{Log, Moves};

/// The sums of a checkpoint; its records are among the entries of the log.
#[derive(Debug, Clone)]
pub(super) struct Basis {
    /// Everything below this number has ended.
    pub(super) upto: u64,
    /// BLAKE3 of the entry below `upto`.
    previous: Hash,
    /// Who signed the checkpoint.
    pub(super) by: Name,
    /// The packs of sessions below `upto` that may be used.
    pub(super) kept: FrameSet,
    /// The newest outcomes of each machine.
    pub(super) heads: Vec<SessionId>,
    /// Where frames lie by the commits below `upto`.
    pub(super) moves: Moves,
}

impl Basis {
    pub(super) fn new(checkpoint: &Record<Checkpoint>, state: &CheckpointState) -> Self {
        let Checkpoint { upto, previous, by, .. } = &checkpoint.fields;
        let mut moves = Moves::default();
        state.moves.iter().for_each(|(to, frames)| moves.add(*to, frames));
        let (kept, heads) = (state.kept.clone(), state.heads.clone());
        Self { upto: *upto, previous: *previous, by: by.name.clone(), kept, heads, moves }
    }

    /// The hash of the log entry at `number`, if it is the one that the checkpoint names.
    pub(super) fn hash_of(&self, number: u64) -> Option<Hash> {
        (number.checked_add(1) == Some(self.upto)).then_some(self.previous)
    }
}

impl Log {
    /// The first number whose entry was looked for in the log itself: 1, or that of the checkpoint.
    pub fn start(&self) -> u64 {
        self.basis.as_ref().map_or(1, |basis| basis.upto)
    }

    /// Whether a commit gave up a pack; by a checkpoint also one of which it says nothing.
    pub fn gave_up(&self, pack: &PackName) -> bool {
        let below = |basis: &Basis| pack.session < basis.upto && !basis.kept.contains_pack(pack);
        self.basis.as_deref().is_some_and(below)
            || self.sound_commits().any(|(_, lists)| lists.dead.contains_pack(pack))
    }
}
