//! A thief with the key of a keeper: he announces what he likes, and signs any commit for it at any time. He does not
//! delete: that is what he wants honest collectors to do.

use crate::config::{Config, Flaw};
use crate::protocol::Action;
use crate::state::{By, CHUNKS, Commit, Kind, Outcome, Proposal, Set, State};
use crate::trust::everything;

impl Config {
    /// A collector believes no list: before it deletes a pack it proves that nobody needs it.
    pub(crate) fn proves(&self) -> bool {
        self.has_thief() && !self.has(Flaw::DeletesWithoutProof)
    }

    pub(crate) fn hostile_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if !self.has_thief() {
            return;
        }
        if state.budget.doubtful > 0 {
            actions.extend(proposals(state).into_iter().map(Action::StartHostileGc));
        }
        for id in state.ids().filter(|&id| state.session(id).outcome == Outcome::None) {
            let session = state.session(id);
            let entitled = session.by == By::Doubtful || self.has(Flaw::CommitByAnotherKeeper);
            if let (Kind::Gc(proposal), true) = (session.kind, entitled) {
                actions
                    .extend(commits(state, &proposal).into_iter().map(|c| Action::SignHostileCommit(id, c)));
            }
        }
    }

    pub(crate) fn start_hostile_gc(&self, state: &mut State, proposal: Proposal) {
        state.budget.doubtful -= 1;
        self.begin(state, Kind::Gc(proposal), By::Doubtful, Set::default());
    }
}

/// Nothing; everything; everything, as if all of it were moved.
fn proposals(state: &State) -> Vec<Proposal> {
    let dead = stored(state);
    let moved = everything(dead);
    vec![
        Proposal::default(),
        Proposal { dead, ..Proposal::default() },
        Proposal { dead, moved, ..Proposal::default() },
    ]
}

fn stored(state: &State) -> Set {
    let mut packs = Set::default();
    state.ids().filter(|&id| state.session(id).is_stored()).for_each(|id| packs.insert(id));
    packs
}

/// Burns nothing, what was announced, or all; says that it was moved or not, and that all snapshots or none are gone.
fn commits(state: &State, proposal: &Proposal) -> Vec<Commit> {
    let mut all = Set::default();
    state.ids().filter(|&id| state.session(id).is_backup()).for_each(|id| all.insert(id));
    let mut commits = Vec::new();
    for dead in [Set::default(), proposal.dead, stored(state)] {
        for moved in [[Set::default(); CHUNKS], everything(dead)] {
            for forgotten in [Set::default(), all] {
                let commit = Commit { dead, moved, forgotten, ..Commit::default() };
                if !commits.contains(&commit) {
                    commits.push(commit);
                }
            }
        }
    }
    commits
}
