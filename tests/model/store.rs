//! What happens to objects without a party's will: folding by any keeper, late requests, unreadable outcomes.

use crate::config::{Config, Fold};
use crate::protocol::Action;
use crate::state::{First, Id, NOW, Outcome, Phase, State, Stored};

impl Config {
    pub(crate) fn store_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.fold != Fold::Nothing {
            self.fold_actions(state, actions);
        }
        if state.budget.late_puts > 0 {
            let packs = state.ids().filter(|&id| state.session(id).pack.stored == Stored::Deleted);
            actions.extend(packs.map(Action::LatePack));
            let outcomes = state.ids().filter(|&id| has_lingering_outcome(state, id));
            actions.extend(outcomes.map(Action::LateOutcome));
        }
        if state.budget.expiries > 0 && !state.expired {
            actions.push(Action::Expire);
        }
        if state.hidden.is_some() {
            actions.push(Action::RepairOutcome);
        } else if state.budget.hides > 0 {
            let succeeded =
                |&id: &Id| matches!(state.session(id).outcome, Outcome::Manifest(_) | Outcome::Commit(_));
            actions.extend(state.ids().filter(succeeded).map(Action::HideOutcome));
        }
    }

    /// Intents and ABORTs below the newest COMMIT may go, in any order.
    fn fold_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let Some(gc) = state.newest_commit(NOW) else { return };
        let newest = state.session(gc).number;
        for id in state.ids().filter(|&id| state.session(id).number < newest) {
            if state.session(id).intent && self.fold == Fold::IntentsAndAborts {
                actions.push(Action::DeleteIntent(id));
            }
            if state.session(id).outcome != Outcome::None && deleting_matters(state, id) {
                actions.push(Action::DeleteAbort(id));
            }
        }
    }
}

/// Deleting the ABORT of a process that will never write again changes nothing for anyone. A repeated DELETE
/// may also hit what a zombie wrote to the same key.
fn deleting_matters(state: &State, id: Id) -> bool {
    let session = state.session(id);
    session.first == First::Abort && !matches!(session.phase, Phase::Done | Phase::Failed(None))
}

fn has_lingering_outcome(state: &State, id: Id) -> bool {
    let session = state.session(id);
    // A collector that lost stays in `Decided`: its own next step is the late request.
    session.outcome == Outcome::None && matches!(session.phase, Phase::Failed(Some(_)))
}

pub(crate) fn late_pack(state: &mut State, id: Id) {
    state.budget.late_puts -= 1;
    state.session_mut(id).pack.stored = Stored::Now;
}

pub(crate) fn late_outcome(state: &mut State, id: Id) {
    state.budget.late_puts -= 1;
    if let Phase::Failed(Some(uses)) = state.session(id).phase {
        state.create_outcome(id, Outcome::Manifest(uses));
        state.session_mut(id).phase = Phase::Failed(None);
    }
}

pub(crate) fn expire(state: &mut State) {
    state.budget.expiries -= 1;
    state.expired = true;
}

pub(crate) fn hide_outcome(state: &mut State, id: Id) {
    state.budget.hides -= 1;
    state.hidden = Some(id);
}
