//! Single-step entries: forget, undelete, hold, release, quarantine, taint.

use crate::config::{Config, Doubt, Flaw};
use crate::protocol::Action;
use crate::state::{By, Id, Kind, NOW, Outcome, Phase, Record, Set, State};

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
        self.distrust_actions(state, actions);
        self.suspect_actions(state, actions);
        for id in state.ids().filter(|&id| state.session(id).phase == Phase::Announced) {
            let concludes = state.session(id).record().is_some() && !state.is_note(id);
            if concludes && self.may_conclude(state, id) {
                actions.push(Action::LookForCommitAbove(id));
            }
        }
    }

    fn snapshot_actions(&self, state: &State, snapshot: Id, actions: &mut Vec<Action>) {
        let budget = &state.budget;
        let (forgotten, held) = state.retention_below(snapshot, NOW);
        let possible = [
            (budget.forgets > 0 && !forgotten, Record::Forget(snapshot)),
            (budget.rescues > 0 && forgotten, Record::Undelete(snapshot)),
            (budget.rescues > 0 && !held, Record::Hold(snapshot)),
            (budget.releases > 0 && held, Record::Release(snapshot)),
        ];
        let chosen = possible.into_iter().filter(|(possible, _)| *possible);
        actions.extend(chosen.map(|(_, record)| Action::StartRecord(record)));
    }

    fn distrust_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let doubtful = || state.sessions.iter().filter(|session| session.by == By::Doubtful);
        if state.budget.revokes > 0 && self.doubt != Doubt::Nobody {
            let mut starts = vec![NOW];
            if matches!(self.doubt, Doubt::Writer | Doubt::HostileTwice)
                || self.has(Flaw::RevokeVoidsEarlierCommits)
            {
                starts.extend(doubtful().map(|session| session.number));
            }
            actions.extend(starts.into_iter().map(|from| Action::StartRecord(Record::Revoke { from })));
        }
        if state.budget.abandons > 0 {
            let unread = |id: Id| state.hidden == Some(id) && state.session(id).commit().is_some();
            // What stands on one that must go may go before it, though nothing is wrong with it.
            let stands_on_unread = |id: Id| {
                let below = |other: &Id| state.session(*other).number < state.session(id).number;
                state.session(id).commit().is_some()
                    && state.ids().filter(below).any(|other| unread(other) && !state.is_abandoned(other, NOW))
            };
            // Collectors above are decided first, as before a hold; a commit above shows that it could be read.
            let settled = |id: Id| {
                let above = |other: &Id| state.session(*other).number > state.session(id).number;
                state.ids().filter(above).all(|other| {
                    let session = state.session(other);
                    let is_over = session.outcome == Outcome::Abort || state.is_abandoned(other, NOW);
                    session.proposal().is_none() || is_over
                })
            };
            let may_go = |id: Id| unread(id) || state.is_lie(id) || stands_on_unread(id);
            let given_up =
                state.ids().filter(|&id| may_go(id) && settled(id) && !state.is_abandoned(id, NOW));
            actions.extend(given_up.map(|id| Action::StartRecord(Record::Abandon(id))));
        }
    }

    /// Holds and undeletes wait until every lower collector is decided; they may decide it by an ABORT. They don't
    /// know what became of a collector whose outcome they can't read, or whether an unknown entry is one.
    fn may_conclude(&self, state: &State, id: Id) -> bool {
        let record = state.session(id).record();
        let rescue = matches!(record, Some(Record::Hold(_) | Record::Undelete(_)));
        if !rescue || self.has(Flaw::RescueIgnoresUndecidedGc) {
            return true;
        }
        let number = state.session(id).number;
        if self.is_puzzled_by_entries(state, id) && !self.has(Flaw::RescueIgnoresUnsupported) {
            return false;
        }
        state.ids().filter(|&gc| state.session(gc).proposal().is_some()).all(|gc| {
            let unknown = self.has(Flaw::RescueIgnoresUnsupported) && state.session(gc).by == By::Newer;
            let unread = state.hidden == Some(gc) && !state.is_abandoned(gc, number);
            let settled = state.session(gc).commit().is_none() || state.is_settled(gc);
            state.session(gc).number >= number || unknown || state.is_decided(gc, NOW) && !unread && settled
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
            Record::Revoke { .. } => budget.revokes -= 1,
            Record::Abandon(_) => budget.abandons -= 1,
            Record::Checkpoint => budget.checkpoints -= 1,
            Record::Note(_) => budget.notes -= 1,
            Record::Suspect(_) => budget.suspects -= 1,
            Record::Clear(_) => budget.clears -= 1,
        }
        self.begin(state, Kind::Record(record), By::Sound, Set::default());
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
