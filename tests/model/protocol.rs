//! The model: which steps are possible in a state, and what each does.

use stateright::{Model, Property};

use crate::config::Config;
use crate::state::{
    By, CHUNKS, Commit, First, Id, Kind, Outcome, Pack, Phase, Proposal, Record, Session, Set, Starter,
    State, Stored, Uses,
};

/// One step of one party, or one fault. Positions are those in [`State::sessions`] or [`State::starters`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    /// A process begins: backups read the highest number, collectors plan (G1).
    StartBackup {
        disk: u8,
        by: By,
    },
    StartGc {
        by: By,
        repack: bool,
        /// A stale listing showed no other pack.
        only: Option<Id>,
    },
    StartRecord(Record),
    /// A thief announces what he likes.
    StartHostileGc(Proposal),
    /// W1, G2: create `log/<number>`; the acknowledgement may be lost.
    CreateIntent {
        starter: usize,
        number: u8,
        acknowledged: bool,
    },
    /// W1: AlreadyExists, and not ours.
    TakeNextNumber(usize),
    /// W1: after a lost acknowledgement.
    ReadIntentBack(Id),
    /// W2.
    ReadTombstones(Id),
    /// W3-W5: decide where each chunk is, upload the rest.
    Upload(Id, Uses),
    PublishSegment(Id),
    /// W6.
    CreateManifest {
        writer: Id,
        acknowledged: bool,
    },
    ReadOutcomeBack(Id),
    /// W6: after an ambiguous answer the writer may create the ABORT itself.
    GiveUp(Id),
    /// W7, for writers and records.
    LookForCommitAbove(Id),
    /// G3.
    CopyFrames(Id),
    /// G4; also holders.
    CreateAbort(Id),
    /// G5.
    DecideFinalList(Id),
    /// G6.
    CreateCommit(Id),
    /// G7, by any collector.
    DeletePack(Id),
    RetireTombstone(Id),
    /// Folding below a COMMIT.
    DeleteIntent(Id),
    DeleteAbort(Id),
    /// A PUT that the network delivers late or twice.
    LatePack(Id),
    LateOutcome(Id),
    HideOutcome(Id),
    StartRestore(Id),
    /// One try to read the next chunk, or a look at what was committed since.
    ReadChunk,
    RepairOutcome,
    /// A thief signs a commit for his open gc, or another's.
    SignHostileCommit(Id, Commit),
    /// A collector reads the whole log, before it deletes this pack.
    ProveUnneeded(Id),
    /// The doubtful key's certificate ends.
    Expire,
    WriteCheckpoint,
    CreateCheckpoint(By),
    UploadAnnex(Id),
    ListAnnex(Id),
}

impl Model for Config {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut uses = Uses::default();
        for chunk in (0..CHUNKS).filter(|chunk| self.old_disk & (1 << chunk) != 0) {
            uses.0[chunk] = Some(0);
        }
        let old = Session {
            outcome: Outcome::Manifest(uses),
            first: First::Success,
            pack: Pack { stored: Stored::Now, chunks: self.old_disk },
            phase: Phase::Done,
            ..Session::new(1, Kind::Backup(self.old_disk))
        };
        let index = Set(1);
        vec![State {
            sessions: vec![old],
            starters: Vec::new(),
            budget: self.budget,
            hidden: None,
            reader: None,
            published: index,
            index,
            retired: Set::default(),
            expired: false,
            proven: Set::default(),
            draft: None,
            checkpoint: None,
            flaw: self.flaw,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.numbering_actions(state, actions);
        self.writer_actions(state, actions);
        self.collector_actions(state, actions);
        self.record_actions(state, actions);
        self.store_actions(state, actions);
        self.reader_actions(state, actions);
        self.hostile_actions(state, actions);
        self.checkpoint_actions(state, actions);
        self.note_actions(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::StartBackup { disk, by } => self.start_backup(&mut state, disk, by),
            Action::StartGc { by, repack, only } => self.start_gc(&mut state, by, repack, only),
            Action::StartHostileGc(proposal) => self.start_hostile_gc(&mut state, proposal),
            Action::StartRecord(record) => self.start_record(&mut state, record),
            Action::CreateIntent { starter, number, acknowledged } => {
                self.create_intent(&mut state, starter, number, acknowledged);
            }
            Action::TakeNextNumber(starter) => take_next_number(&mut state, starter),
            Action::ReadIntentBack(id) => self.read_intent_back(&mut state, id),
            Action::ReadTombstones(id) => self.read_tombstones(&mut state, id),
            Action::Upload(id, uses) => self.upload(&mut state, id, uses),
            Action::PublishSegment(id) => publish_segment(&mut state, id),
            Action::CreateManifest { writer, acknowledged } => {
                self.create_manifest(&mut state, writer, acknowledged);
            }
            Action::GiveUp(id) => self.give_up(&mut state, id),
            Action::ReadOutcomeBack(id) => self.read_outcome_back(&mut state, id),
            Action::LookForCommitAbove(id) => self.look_for_commit_above(&mut state, id),
            Action::CopyFrames(id) => copy_frames(&mut state, id),
            Action::CreateAbort(id) => state.create_outcome(id, Outcome::Abort),
            Action::DecideFinalList(id) => self.decide_final_list(&mut state, id),
            Action::CreateCommit(id) => self.create_commit(&mut state, id),
            Action::DeletePack(id) => state.session_mut(id).pack.stored = Stored::Deleted,
            Action::RetireTombstone(id) => retire_tombstone(&mut state, id),
            Action::DeleteIntent(id) => state.session_mut(id).intent = false,
            Action::DeleteAbort(id) => state.session_mut(id).outcome = Outcome::None,
            Action::LatePack(id) => late_pack(&mut state, id),
            Action::LateOutcome(id) => late_outcome(&mut state, id),
            Action::HideOutcome(id) => hide_outcome(&mut state, id),
            Action::StartRestore(id) => start_restore(&mut state, id),
            Action::ReadChunk => self.read_chunk(&mut state),
            Action::RepairOutcome => state.hidden = None,
            Action::SignHostileCommit(id, commit) => state.create_outcome(id, Outcome::Commit(commit)),
            Action::ProveUnneeded(pack) => state.proven.insert(pack),
            Action::Expire => expire(&mut state),
            Action::WriteCheckpoint => self.write_checkpoint(&mut state),
            Action::CreateCheckpoint(by) => self.create_checkpoint(&mut state, by),
            Action::UploadAnnex(id) => upload_annex(&mut state, id),
            Action::ListAnnex(id) => state.session_mut(id).phase = Phase::Done,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        crate::properties::all()
    }
}

use crate::collector::{copy_frames, retire_tombstone};
use crate::notes::upload_annex;
use crate::numbering::take_next_number;
use crate::reader::start_restore;
use crate::store::{expire, hide_outcome, late_outcome, late_pack};
use crate::writer::publish_segment;

impl Session {
    pub(crate) fn new(number: u8, kind: Kind) -> Session {
        Session {
            number,
            kind,
            by: By::Sound,
            late: false,
            intent: true,
            outcome: Outcome::None,
            first: First::None,
            void: false,
            acknowledged: true,
            pack: Pack { stored: Stored::Never, chunks: 0 },
            phase: Phase::Announced,
        }
    }
}

impl State {
    pub(crate) fn add_starter(&mut self, starter: Starter) {
        self.starters.push(starter);
        self.starters.sort_unstable();
    }

    /// Create-only: nothing happens when an outcome is there.
    pub(crate) fn create_outcome(&mut self, id: Id, outcome: Outcome) {
        let expired = self.expired;
        let session = self.session_mut(id);
        if session.outcome != Outcome::None {
            return;
        }
        session.late = expired && session.by == By::Doubtful;
        session.outcome = outcome;
        if session.first == First::None {
            session.first = if outcome == Outcome::Abort { First::Abort } else { First::Success };
        }
    }
}
