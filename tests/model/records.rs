//! Single-step entries: forget, undelete, hold, release, quarantine, taint.

use crate::config::{Config, Flaw};
use crate::protocol::Action;
use crate::state::{Id, Kind, NOW, Outcome, Phase, Record, Set, State};

impl Config {
    pub(crate) fn record_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for snapshot in state.counted(NOW).filter(|&id| state.session(id).manifest().is_some()) {
            self.snapshot_actions(state, snapshot, actions);
        }
        if state.budget.quarantines > 0 {
            let packs = state.ids().filter(|&id| state.session(id).is_stored());
            actions.extend(packs.map(|pack| Action::StartRecord(Record::Quarantine(pack))));
        }
        if state.budget.taints > 0 {
            let uploaders = state.ids().filter(|&id| matches!(state.session(id).kind, Kind::Backup(_)));
            actions.extend(uploaders.map(|id| Action::StartRecord(Record::Taint(id))));
        }
        for id in state.ids().filter(|&id| state.session(id).phase == Phase::Announced) {
            if state.session(id).record().is_some() && self.may_conclude(state, id) {
                actions.push(Action::LookForCommitAbove(id));
            }
        }
    }

    fn snapshot_actions(&self, state: &State, snapshot: Id, actions: &mut Vec<Action>) {
        let budget = &state.budget;
        let (forgotten, held) = state.standing(snapshot, NOW);
        let possible = [
            (budget.forgets > 0 && !forgotten, Record::Forget(snapshot)),
            (budget.rescues > 0 && forgotten, Record::Undelete(snapshot)),
            (budget.rescues > 0 && !held, Record::Hold(snapshot)),
            (budget.releases > 0 && held, Record::Release(snapshot)),
        ];
        let chosen = possible.into_iter().filter(|(possible, _)| *possible);
        actions.extend(chosen.map(|(_, record)| Action::StartRecord(record)));
    }

    /// Holds and undeletes wait until every lower collector is decided; they may decide it by an ABORT.
    fn may_conclude(&self, state: &State, id: Id) -> bool {
        let rescue = matches!(state.session(id).record(), Some(Record::Hold(_) | Record::Undelete(_)));
        if !rescue || self.has(Flaw::RescueIgnoresUndecidedGc) {
            return true;
        }
        let number = state.session(id).number;
        state.sessions.iter().enumerate().all(|(position, session)| {
            let undecided = session.outcome == Outcome::None
                && !state.is_decided(u8::try_from(position).unwrap_or(u8::MAX), NOW);
            session.proposal().is_none() || session.number >= number || !undecided
        })
    }

    pub(crate) fn start_record(&self, state: &mut State, record: Record) {
        let budget = &mut state.budget;
        match record {
            Record::Forget(_) => budget.forgets -= 1,
            Record::Undelete(_) | Record::Hold(_) => budget.rescues -= 1,
            Record::Release(_) => budget.releases -= 1,
            Record::Quarantine(_) => budget.quarantines -= 1,
            Record::Taint(_) => budget.taints -= 1,
        }
        self.begin(state, Kind::Record(record), Set::default());
    }

    /// W7, for whoever created something that a COMMIT above might leave out. A rescue also sees whether a
    /// lower collector burnt what it wanted to keep.
    pub(crate) fn look_for_commit_above(&self, state: &mut State, id: Id) {
        let record = state.session(id).record();
        let skips = record.is_some() && self.has(Flaw::RecordSkipsW7);
        let works = match record {
            // The careless one doesn't look at collectors at all.
            Some(_) if self.has(Flaw::RescueIgnoresUndecidedGc) => true,
            Some(Record::Hold(snapshot) | Record::Undelete(snapshot)) => {
                state.rescue_works(id, snapshot, NOW)
            }
            _ => true,
        };
        let stands = skips || state.counts(id, NOW);
        state.session_mut(id).phase = if stands && works { Phase::Confirmed } else { Phase::Failed(None) };
    }
}
