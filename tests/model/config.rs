//! What a run of the model explores, and the flaws that can be put in.

use crate::state::Budget;

/// Where writers find chunks that are already stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Hints {
    /// Any pack ever uploaded: no index is trusted for anything.
    AnyEverUploaded,
    /// Packs that a listing shows at that moment (W4).
    Listed,
    /// Only an index that writers publish to and collectors clean.
    Index,
}

/// Which packs collectors rewrite.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Repack {
    Never,
    /// Packs of which a part is unused.
    Partial,
    /// Any pack in use.
    Any,
}

/// What may be deleted below a COMMIT.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fold {
    Nothing,
    Aborts,
    IntentsAndAborts,
}

/// A deliberate departure from the protocol; each must be found out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Flaw {
    /// Writers forget a tombstone once its packs are deleted.
    TombstoneRetired,
    /// Packs are deleted after the proposal, before the COMMIT.
    DeleteBeforeDecision,
    /// W2 before W1.
    TombstonesBeforeIntent,
    /// The collector takes K when it creates its intent, after the plan.
    KnownTakenAtIntent,
    /// G5 strikes packs from the dead list only, not those that are moved.
    RepackIgnoresLateUsers,
    /// The writer relies on a listing instead of the avoid set.
    IndexTrusted,
    /// The index is trusted, collectors clean it and retire tombstones, an aborted writer publishes later.
    LateIndexSegment,
    /// Map nodes of an earlier snapshot are taken over without looking at the avoid set.
    BaseMapBypassesAvoidSet,
    /// Holds and undeletes don't wait for lower collectors.
    RescueIgnoresUndecidedGc,
    /// A collector takes an unreadable outcome for a missing one.
    HiddenOutcomeAsAbsent,
    /// A writer doesn't look for a COMMIT above it.
    WriterSkipsW7,
    /// A collector deletes after its COMMIT without looking for a COMMIT above it.
    CollectorSkipsW7,
    /// The same for hold, undelete and quarantine.
    RecordSkipsW7,
    /// Folding doesn't carry the records.
    FoldDropsRecords,
    /// The burnt list names packs by number instead of by session (n, h).
    BurntByNumber,
    /// Sessions without packs join the burnt list as a whole without being struck in G5.
    WholeSessionsNotChecked,
    /// Writers avoid the packs of a tainted session, not copies of its frames.
    TaintByPack,
    /// A collector counts frames as moved that it could not copy.
    MovesWhatWasNotCopied,
    /// A restore gives up at the first pack that is not where it looked.
    ReaderKeepsItsView,
    /// A manifest names the session that sealed a frame, not the pack in which it was found.
    FrameNamedByOrigin,
}

/// One exploration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) name: &'static str,
    pub(crate) budget: Budget,
    /// Disks that a backup may meet: chunks as bits.
    pub(crate) disks: &'static [u8],
    /// The snapshot that is there at the start: chunks as bits.
    pub(crate) old_disk: u8,
    pub(crate) hints: Hints,
    pub(crate) repack: Repack,
    pub(crate) fold: Fold,
    /// Collectors also burn sessions that have no pack (yet), so that the burnt list can name whole sessions.
    pub(crate) burns_whole_sessions: bool,
    /// Collectors may see one pack only.
    pub(crate) stale_lists: bool,
    /// Numbers are taken in single steps: read the highest, create, on AlreadyExists take the next.
    pub(crate) stepwise_numbers: bool,
    /// Manifests name frames by the session that sealed them, and copies count only where a COMMIT below moved them.
    pub(crate) names_origins: bool,
    pub(crate) flaw: Option<Flaw>,
    /// What must be seen to happen, by the name of the property.
    pub(crate) must_happen: &'static [&'static str],
}

impl Config {
    pub(crate) fn new(name: &'static str, budget: Budget) -> Config {
        Config {
            name,
            budget,
            disks: &[0b01],
            old_disk: 0b01,
            hints: Hints::AnyEverUploaded,
            repack: Repack::Never,
            fold: Fold::Nothing,
            burns_whole_sessions: false,
            stale_lists: false,
            stepwise_numbers: false,
            names_origins: false,
            flaw: None,
            must_happen: &["a snapshot commits", "gc deletes"],
        }
    }

    pub(crate) fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// A process may be delayed between choosing a number and creating the entry.
    pub(crate) fn delays_numbers(&self) -> bool {
        self.fold == Fold::IntentsAndAborts || self.stepwise_numbers
    }
}
