//! Checkpoints: what a reader knows below a number, so that another may go on from there. Their effect must be none.

use crate::config::{Config, Doubt, Flaw};
use crate::protocol::Action;
use crate::state::{By, CHUNKS, Commit, Id, Kind, NOW, Outcome, Record, Set, State};

/// Sessions that fit into a configuration with checkpoints.
const SESSIONS: usize = 12;
const NOWHERE: Id = Id::MAX;

/// What a reader makes of the log, entry after entry.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Facts {
    /// Entries below this number are in it.
    upto: u8,
    /// Committed and not collected.
    snapshots: Set,
    /// Nothing brings these back.
    collected: Set,
    forgotten: Set,
    held: Set,
    suspects: Set,
    burnt: Set,
    /// Where the frame of a chunk lies that once lay in the pack of a session.
    places: [[Id; SESSIONS]; CHUNKS],
    quarantined: Set,
    tainted: Set,
    /// (from, number).
    revoked: Option<(u8, u8)>,
    open: Set,
}

impl Facts {
    fn nothing() -> Facts {
        let mut places = [[NOWHERE; SESSIONS]; CHUNKS];
        for row in &mut places {
            row.iter_mut().zip(0..).for_each(|(place, id)| *place = id);
        }
        let none = Set::default();
        Facts {
            upto: 1,
            snapshots: none,
            collected: none,
            forgotten: none,
            held: none,
            suspects: none,
            burnt: none,
            places,
            quarantined: none,
            tainted: none,
            revoked: None,
            open: none,
        }
    }

    /// What became of the open sessions, then every entry from `upto` on.
    fn read_on(mut self, state: &State, limit: u8) -> Facts {
        let open = std::mem::take(&mut self.open);
        open.iter().for_each(|id| self.decide(state, id));
        for id in state.ids() {
            let session = state.session(id);
            if session.number >= self.upto && session.number < limit {
                match session.kind {
                    Kind::Record(record) => self.record(state, session.number, record),
                    _ => self.decide(state, id),
                }
            }
        }
        Facts { upto: limit, ..self }
    }

    fn decide(&mut self, state: &State, id: Id) {
        if self.is_void(state, id) {
            return;
        }
        match state.session(id).outcome {
            Outcome::None => self.open.insert(id),
            Outcome::Manifest(_) if !self.collected.contains(id) => self.snapshots.insert(id),
            Outcome::Commit(commit) => self.commit(state, id, commit),
            _ => {}
        }
    }

    fn is_void(&self, state: &State, id: Id) -> bool {
        let session = state.session(id);
        session.by == By::Doubtful
            && self.revoked.is_some_and(|(from, number)| session.number >= from.min(number))
    }

    fn record(&mut self, state: &State, number: u8, record: Record) {
        match record {
            Record::Forget(snapshot) => self.forgotten.insert(snapshot),
            Record::Undelete(snapshot) => self.forgotten.remove(snapshot),
            Record::Hold(snapshot) => self.held.insert(snapshot),
            Record::Release(snapshot) => self.held.remove(snapshot),
            Record::Quarantine(pack) => self.quarantined.insert(pack),
            Record::Taint(session) => self.tainted.insert(session),
            Record::Revoke { from } => {
                self.revoked = Some((from, number));
                // The checkpoint must say who signed what it names.
                let known = |id: Id| {
                    let above = state.session(id).number >= self.upto;
                    above || !state.has(Flaw::CheckpointOmitsSigners)
                };
                let voids: Vec<Id> = state.ids().filter(|&id| self.is_void(state, id) && known(id)).collect();
                voids.iter().for_each(|&id| {
                    self.snapshots.remove(id);
                    self.open.remove(id);
                });
            }
            Record::Suspect(snapshot) => self.suspects.insert(snapshot),
            Record::Clear(snapshot) => self.suspects.remove(snapshot),
            Record::Abandon(_) | Record::Checkpoint | Record::Note(_) => {}
        }
    }

    /// Held, or from before a suspect snapshot.
    fn is_held(&self, state: &State, id: Id) -> bool {
        let number = state.session(id).number;
        let mut suspects = self.suspects.iter();
        self.held.contains(id) || suspects.any(|suspect| state.session(suspect).number >= number)
    }

    fn commit(&mut self, state: &State, gc: Id, commit: Commit) {
        self.burnt = self.burnt.union(commit.dead);
        for (chunk, row) in self.places.iter_mut().enumerate() {
            for place in row.iter_mut().filter(|place| usize::from(**place) < SESSIONS) {
                if commit.moved[chunk].contains(*place) {
                    *place = gc;
                } else if commit.dead.contains(*place) {
                    *place = NOWHERE;
                }
            }
        }
        for snapshot in commit.forgotten.iter() {
            // Judged by what is known at the commit's own number: that is why no gc below may be open.
            if self.forgotten.contains(snapshot) && !self.is_held(state, snapshot) {
                self.collected.insert(snapshot);
                self.snapshots.remove(snapshot);
            }
        }
    }

    fn is_live(&self, state: &State, id: Id) -> bool {
        let stands = !self.forgotten.contains(id) || self.is_held(state, id);
        self.snapshots.contains(id) && stands
    }

    fn avoid_set(&self, state: &State) -> Set {
        let mut avoid = self.burnt.union(self.quarantined).union(self.tainted);
        for id in state.ids() {
            if self.is_void(state, id) {
                avoid.insert(id);
            } else if let (true, Some(proposal)) = (self.open.contains(id), state.session(id).proposal()) {
                avoid = avoid.union(proposal.dead.union(proposal.empty));
            }
        }
        avoid
    }

    /// A reader that has read the whole log sees the same.
    fn agrees(&self, state: &State) -> bool {
        let place =
            |chunk: usize, pack: Id| Some(self.places[chunk][usize::from(pack)]).filter(|p| *p != NOWHERE);
        let same = |id: Id| {
            let live = state.is_live(id, NOW);
            let uses = state.session(id).manifest().unwrap_or_default();
            let places = uses
                .iter()
                .all(|(chunk, pack)| state.follow_moves(chunk, pack, NOW, NOW) == place(chunk, pack));
            live == self.is_live(state, id)
                && (!live || places)
                && (!live
                    || state.retention_below(id, NOW)
                        == (self.forgotten.contains(id), self.is_held(state, id)))
        };
        let open = |id: Id| state.is_decided(id, NOW) != self.open.contains(id);
        state.ids().all(|id| same(id) && open(id)) && state.avoid_set(NOW) == self.avoid_set(state)
    }
}

impl Config {
    pub(crate) fn checkpoint_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let open_gc = |&id: &Id| state.session(id).proposal().is_some() && !state.is_decided(id, NOW);
        let waits = state.ids().any(|id| open_gc(&id)) && !self.has(Flaw::CheckpointBesideOpenGc);
        if state.budget.checkpoints > 0 && !waits {
            actions.push(Action::WriteCheckpoint);
        }
        if state.draft.is_some() {
            actions.push(Action::CreateCheckpoint(By::Sound));
            if state.budget.doubtful > 0 && self.doubt == Doubt::Keeper {
                actions.push(Action::CreateCheckpoint(By::Doubtful));
            }
        }
    }

    /// The keeper reads the log and writes down what it says.
    pub(crate) fn write_checkpoint(&self, state: &mut State) {
        state.budget.checkpoints -= 1;
        let mut facts = Facts::nothing().read_on(state, state.highest_number() + 1);
        match self.flaw {
            Some(Flaw::CheckpointOmitsOpen) => facts.open = Set::default(),
            Some(Flaw::CheckpointOmitsHolds) => facts.held = Set::default(),
            Some(Flaw::CheckpointOmitsSuspicions) => facts.suspects = Set::default(),
            Some(Flaw::CheckpointOmitsMoves) => facts.places = Facts::nothing().places,
            Some(Flaw::CheckpointOmitsForgets) => facts.forgotten = Set::default(),
            _ => {}
        }
        state.draft = Some(facts);
    }

    /// Others may have taken numbers since: the facts are those below `upto`, not those below the record.
    pub(crate) fn create_checkpoint(&self, state: &mut State, by: By) {
        let Some(mut facts) = state.draft.take() else { return };
        if by == By::Doubtful {
            state.budget.doubtful -= 1;
            facts.snapshots = Set::default();
        }
        let number = state.highest_number() + 1;
        if self.has(Flaw::CheckpointAtItsNumber) {
            facts.upto = number;
        }
        let id = u8::try_from(state.sessions.len()).unwrap_or(NOWHERE);
        self.begin(state, Kind::Record(Record::Checkpoint), by, Set::default());
        state.checkpoint = Some((id, facts));
    }
}

/// Whoever starts from the checkpoint sees what one sees who reads all. Nobody starts at one of a key that was revoked
/// anywhere; one of a thief who was not found out is believed (and found by comparing).
pub(crate) fn has_no_effect(state: &State) -> bool {
    let Some((id, facts)) = state.checkpoint else { return true };
    let doubtful = state.session(id).by == By::Doubtful;
    let revoked = state.revokes(NOW).next().is_some();
    let read = !doubtful || revoked && state.has(Flaw::StartsAtRevokedCheckpoint);
    !read || facts.read_on(state, NOW).agrees(state)
}

/// A checkpoint is used while the log goes on above it.
pub(crate) fn is_used(state: &State) -> bool {
    state.checkpoint.is_some_and(|(id, facts)| {
        state.session(id).by == By::Sound
            && !facts.open.is_empty()
            && state.highest_number() > state.session(id).number
    })
}
