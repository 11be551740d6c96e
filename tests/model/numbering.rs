//! W1 and G2: a process takes a number by creating `log/<n>`.

use crate::config::{Config, Flaw};
use crate::protocol::Action;
use crate::state::{By, Id, Kind, NOW, Phase, Record, Session, Set, Starter, State};

impl Config {
    pub(crate) fn numbering_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (position, starter) in state.starters.iter().enumerate() {
            let last = position + 1 == state.starters.len();
            if !last && state.starters[position + 1] == *starter {
                continue; // an equal process makes the same steps
            }
            self.create_actions(state, position, starter.next, actions);
        }
        for id in state.ids().filter(|&id| !state.session(id).acknowledged) {
            actions.push(Action::ReadIntentBack(id));
        }
    }

    fn create_actions(&self, state: &State, starter: usize, next: u8, actions: &mut Vec<Action>) {
        let exists = |number| state.sessions.iter().any(|s| s.intent && s.number == number);
        let highest = state.highest_number();
        if self.stepwise_numbers && exists(next) {
            actions.push(Action::TakeNextNumber(starter));
            return;
        }
        // Without single steps: any free number that the process may have come to by taking the next.
        let end = if self.stepwise_numbers { next } else { next.max(highest + 1) };
        for number in (next..=end).filter(|&number| !exists(number)) {
            actions.push(Action::CreateIntent { starter, number, acknowledged: true });
            if state.budget.lost_acks > 0 {
                actions.push(Action::CreateIntent { starter, number, acknowledged: false });
            }
        }
    }

    /// A process begins. Where numbers can't have holes the number is chosen when the intent is created, and
    /// writers and records do both in one step: nobody sees what lies between reading the highest number and
    /// the create that succeeds. Collectors plan in between (G1), so theirs stay two steps.
    pub(crate) fn begin(&self, state: &mut State, kind: Kind, by: By, known: Set) {
        let early = self.has(Flaw::TombstonesBeforeIntent) && matches!(kind, Kind::Backup(_));
        let avoid = early.then(|| state.avoid_set(NOW));
        let highest = state.highest_number();
        let next = if self.delays_numbers() { highest + 1 } else { 1 };
        let starter = Starter { kind, by, next, known, avoid };
        if self.delays_numbers() || early || matches!(kind, Kind::Gc(_)) {
            state.add_starter(starter);
        } else {
            self.create_session(state, starter, highest + 1, true);
        }
    }

    pub(crate) fn create_intent(&self, state: &mut State, starter: usize, number: u8, acknowledged: bool) {
        let starter = state.starters.remove(starter);
        self.create_session(state, starter, number, acknowledged);
    }

    fn create_session(&self, state: &mut State, starter: Starter, number: u8, acknowledged: bool) {
        let newest = state.newest_commit(NOW).map_or(0, |gc| state.session(gc).number);
        let phase = match (starter.kind, starter.avoid) {
            (Kind::Gc(_), _) if self.has_thief() && starter.by == By::Doubtful => Phase::Done,
            (Kind::Gc(_), _) if self.has(Flaw::KnownTakenAtIntent) => {
                Phase::Proposed { known: state.decided(NOW) }
            }
            (Kind::Gc(_), _) => Phase::Proposed { known: starter.known },
            (
                Kind::Record(
                    Record::Forget(_) | Record::Release(_) | Record::Checkpoint | Record::Abandon(_),
                ),
                _,
            ) => Phase::Done,
            (_, Some(avoid)) => Phase::Avoiding(avoid),
            _ => Phase::Announced,
        };
        let void = number < newest;
        let session = Session::new(number, starter.kind);
        state.sessions.push(Session { by: starter.by, phase, void, acknowledged, ..session });
        if !acknowledged {
            state.budget.lost_acks -= 1;
        }
    }

    /// Ours is there: go on. Nothing is there (folded meanwhile): create it again. Another's: take the next.
    pub(crate) fn read_intent_back(&self, state: &mut State, id: Id) {
        let number = state.session(id).number;
        let taken = state.ids().any(|other| {
            let session = state.session(other);
            other != id && session.intent && session.number == number
        });
        let session = state.session_mut(id);
        session.acknowledged = true;
        if !taken {
            session.intent = true;
            return;
        }
        let known = match session.phase {
            Phase::Proposed { known } => known,
            _ => Set::default(),
        };
        let kind = session.kind;
        session.phase = Phase::Done;
        let by = session.by;
        state.add_starter(Starter { kind, by, next: number + 1, known, avoid: None });
    }
}

pub(crate) fn take_next_number(state: &mut State, starter: usize) {
    state.starters[starter].next += 1;
    state.starters.sort_unstable();
}
