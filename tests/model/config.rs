//! What a run of the model explores, and the flaws that can be put in.

use crate::state::{Budget, By, Id, Outcome, Session, Set, State};

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

/// Whom the doubtful key belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Doubt {
    Nobody,
    /// Keeps to the protocol, but may be revoked.
    Writer,
    Keeper,
    /// A thief with a keeper's key.
    Hostile,
    /// The same with a writer's key too, which his own backups are signed with.
    HostileTwice,
}

/// What a newer program writes that others can't read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Newer {
    /// Entries of unknown kinds, which burn or use packs.
    Entry,
    /// Outcomes of backups.
    Outcome,
}

/// A deliberate departure from the protocol; each must be found out.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
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
    /// Revoking a keeper also voids what it committed before.
    RevokeVoidsEarlierCommits,
    /// The open gc of a revoked keeper is taken for aborted, without an ABORT.
    RevokedGcTakenForAborted,
    /// A collector doesn't look whether its own key was revoked below it.
    RevokedCollectorGoesOn,
    /// Readers don't read packs of sessions that a revocation made void.
    RevokedPacksUnreadable,
    /// Writers reuse frames of sessions that a revocation made void.
    RevokedFramesReused,
    /// Writers know only the void sessions that W2 saw.
    RevokedSeenInW2Only,
    /// A certificate that has ended bars outcomes, not only entries.
    ExpiryBarsOutcomes,
    /// Any keeper may sign a commit.
    CommitByAnotherKeeper,
    /// A commit's word that snapshots are gone counts without a record.
    ForgottenAsListed,
    /// A commit may burn what a snapshot needs.
    NeededDeadCounts,
    /// A commit may burn what its entry did not propose.
    UnannouncedDeadCounts,
    /// A commit counts while sessions below it are open.
    UnsettledCommitCounts,
    /// A commit is judged by all revocations, not only those below it.
    JudgedByLaterRevokes,
    /// Writers don't avoid what a commit above open sessions proposed.
    UnsettledNotAvoided,
    /// A commit may burn what forgotten snapshots need without saying that they are gone, and the proof before
    /// deletion asks for live ones only.
    UnlistedForgottenCounts,
    /// Collectors delete what others' commits say was moved, without looking at the copies.
    DeletesWithoutProof,
    /// Before they delete they ask only what live snapshots need.
    ProofOfLiveOnly,
    /// Before they delete they take any other place of a frame for a reason, also one that is burnt itself.
    ProofByAnyPlace,
    /// Before they delete they ask where commits say that frames lie, and not whether it is a copy of an abandoned gc.
    AbandonedCopiesNotAsked,
    WriterIgnoresUnsupported,
    CollectorIgnoresUnsupported,
    RescueIgnoresUnsupported,
    CheckpointOmitsOpen,
    CheckpointOmitsHolds,
    CheckpointOmitsForgets,
    CheckpointOmitsMoves,
    /// A checkpoint does not say whose snapshots it names.
    CheckpointOmitsSigners,
    /// A checkpoint is written while a gc below it is open.
    CheckpointBesideOpenGc,
    /// A checkpoint is taken to know everything below its own number.
    CheckpointAtItsNumber,
    StartsAtRevokedCheckpoint,
    /// Packs of sessions without a manifest are garbage.
    NotePacksDead,
    /// Packs of a note that no list names yet are garbage.
    UnlistedNotePacksDead,
    /// G5 does not look again at the snapshots that notes name.
    NotesJudgedOnce,
    /// After an abandon writers use again what the abandoned gc proposed.
    AbandonForgetsProposal,
    /// Collectors take the packs of an abandoned gc for garbage.
    AbandonedCopiesAreGarbage,
    /// G5 strikes only where commits say that frames lie, not copies of an abandoned gc that a snapshot needs which came or
    /// came back since the plan.
    AbandonedCopiesNotStruck,
    /// Readers don't look into the packs of an abandoned gc.
    AbandonedCopiesNotRead,
    /// What was forgotten below an abandoned gc can be had back.
    AbandonRevives,
    /// Suspicions hold nothing.
    SuspicionHoldsNothing,
    /// Collectors don't look at suspicions above their number.
    SuspicionAboveNotRead,
    /// Writers say that a snapshot is suspect once it is saved.
    SuspicionAfterManifest,
    CheckpointOmitsSuspicions,
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
    pub(crate) doubt: Doubt,
    pub(crate) newer: Newer,
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
            doubt: Doubt::Nobody,
            newer: Newer::Entry,
            flaw: None,
            must_happen: &["a snapshot commits", "gc deletes"],
        }
    }

    pub(crate) fn has_thief(&self) -> bool {
        matches!(self.doubt, Doubt::Hostile | Doubt::HostileTwice)
    }

    pub(crate) fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// Written by a newer program below this number: writers and collectors of older ones stop.
    pub(crate) fn is_puzzled(&self, state: &State, limit: u8) -> bool {
        state
            .sessions
            .iter()
            .filter(|s| s.by == By::Newer && s.number < limit && s.intent)
            .any(|session| self.newer == Newer::Entry || session.manifest().is_some())
    }

    /// The same for writers and records, which need no manifests.
    pub(crate) fn is_puzzled_by_entries(&self, state: &State, id: Id) -> bool {
        let Session { by, number, .. } = *state.session(id);
        self.newer == Newer::Entry && by != By::Newer && self.is_puzzled(state, number)
    }

    /// The avoid set as the writer sees it: the careless one knows nothing of newer collectors.
    pub(crate) fn avoid_set_of(&self, state: &State, id: Id, number: u8) -> Set {
        let careless = self.has(Flaw::WriterIgnoresUnsupported) && state.session(id).by != By::Newer;
        if !careless {
            return state.avoid_set(number);
        }
        let mut known = state.clone();
        let newer = known.sessions.iter_mut().filter(|s| s.by == By::Newer && s.proposal().is_some());
        newer.for_each(|session| session.outcome = Outcome::Abort);
        known.avoid_set(number)
    }

    /// A process may be delayed between choosing a number and creating the entry.
    pub(crate) fn delays_numbers(&self) -> bool {
        self.fold == Fold::IntentsAndAborts || self.stepwise_numbers
    }
}
