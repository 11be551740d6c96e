//! G1-G8: a collector from its plan to the deletion.

use crate::config::{Config, Doubt, Flaw, Fold, Hints, Newer, Repack};
use crate::protocol::Action;
use crate::state::{
    By, CHUNKS, Commit, Id, Kind, NOW, Outcome, Pack, Phase, Proposal, Record, Set, State, Stored,
};

impl Config {
    pub(crate) fn collector_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.budget.gcs > 0 && self.can_account(state, By::Sound, NOW) {
            self.plan_actions(state, By::Sound, None, actions);
            if self.stale_lists {
                let stored = state.ids().filter(|&id| state.session(id).is_stored());
                stored.for_each(|pack| self.plan_actions(state, By::Sound, Some(pack), actions));
            }
        }
        if state.budget.newer > 0 && self.newer == Newer::Entry && self.can_account(state, By::Newer, NOW) {
            self.plan_actions(state, By::Newer, None, actions);
        }
        let honest = self.doubt == Doubt::Keeper && !state.expired;
        if state.budget.doubtful > 0 && honest && self.can_account(state, By::Doubtful, NOW) {
            self.plan_actions(state, By::Doubtful, None, actions);
        }
        for id in state.ids() {
            self.gc_actions(state, id, actions);
            if state.session(id).outcome == Outcome::None && self.may_be_aborted(state, id) {
                actions.push(Action::CreateAbort(id));
            }
            if state.session(id).is_stored() && self.may_be_deleted(state, id) {
                let proven = !self.proves() || state.proven.contains(id);
                actions.push(if proven { Action::DeletePack(id) } else { Action::ProveUnneeded(id) });
            }
        }
    }

    /// G1: an outcome that can't be read, or a commit that lies, stops gc, but for that of a backup that was forgotten all
    /// the same and a commit that the admin gave up. So does what a newer program wrote.
    fn can_account(&self, state: &State, by: By, limit: u8) -> bool {
        let gave_up = |id: Id| {
            let (forgotten, held) = state.retention_below(id, limit);
            let backup = state.session(id).proposal().is_none() && forgotten && !held;
            backup || state.is_abandoned(id, limit)
        };
        let readable = state.hidden.is_none_or(gave_up) || self.has(Flaw::HiddenOutcomeAsAbsent);
        let lies = |id: Id| {
            let below = state.session(id).number < limit && !state.is_void(id, limit);
            below && state.is_lie(id) && !state.is_abandoned(id, limit)
        };
        let unknown = by != By::Newer && self.is_puzzled(state, limit);
        readable && !state.ids().any(lies) && (!unknown || self.has(Flaw::CollectorIgnoresUnsupported))
    }

    fn plan_actions(&self, state: &State, by: By, only: Option<Id>, actions: &mut Vec<Action>) {
        let plain = self.plan(state, false, only);
        if plain != Proposal::default() {
            actions.push(Action::StartGc { by, repack: false, only });
        }
        if self.repack != Repack::Never && self.plan(state, true, only) != plain {
            actions.push(Action::StartGc { by, repack: true, only });
        }
    }

    fn gc_actions(&self, state: &State, id: Id, actions: &mut Vec<Action>) {
        let session = state.session(id);
        let Kind::Gc(proposal) = &session.kind else { return };
        if self.has_thief() && session.by == By::Doubtful {
            return;
        }
        let moves = proposal.moved.iter().any(|sources| !sources.is_empty());
        match session.phase {
            _ if !session.acknowledged => {}
            Phase::Proposed { .. } if moves => actions.push(Action::CopyFrames(id)),
            Phase::Proposed { .. } | Phase::Copied { .. } if self.may_decide(state, id) => {
                actions.push(Action::DecideFinalList(id));
            }
            Phase::Decided(_) => actions.push(Action::CreateCommit(id)),
            Phase::Done if self.has(Flaw::LateIndexSegment) && !state.retired.contains(id) => {
                let deleted = |pack: Id| !state.session(pack).is_stored();
                if session.commit().is_some_and(|commit| commit.dead.iter().all(deleted)) {
                    actions.push(Action::RetireTombstone(id));
                }
            }
            _ => {}
        }
    }

    /// G4: collectors above it; a collector also by holders above it.
    fn may_be_aborted(&self, state: &State, id: Id) -> bool {
        let target = state.session(id);
        if state.is_decided(id, NOW) {
            return false;
        }
        state.sessions.iter().any(|other| {
            let collects = matches!(other.phase, Phase::Proposed { .. } | Phase::Copied { .. });
            let waits = other.phase == Phase::Announced;
            let rescues = matches!(other.record(), Some(Record::Hold(_) | Record::Undelete(_))) && waits;
            let revokes = matches!(other.record(), Some(Record::Revoke { .. })) && waits;
            let entitled =
                collects || rescues && target.proposal().is_some() || revokes && target.by == By::Doubtful;
            other.number > target.number && other.acknowledged && entitled
        })
    }

    /// G4 and G5: all lower sessions are decided and can be read.
    fn may_decide(&self, state: &State, id: Id) -> bool {
        let number = state.session(id).number;
        let decided = |other: Id| state.session(other).number >= number || state.is_decided(other, number);
        let blind = |other: Id| self.is_blind_to(state, other);
        let by = state.session(id).by;
        state.log_is_complete(number)
            && (!state.is_void(id, number) || self.has(Flaw::RevokedCollectorGoesOn))
            && self.can_account(state, by, number)
            && !self.lets_go_of_kept(state, id)
            && state.ids().all(|other| decided(other) || blind(other))
    }

    /// G7. Whoever deletes has made sure that no COMMIT above leaves this one out.
    fn may_be_deleted(&self, state: &State, pack: Id) -> bool {
        state.ids().any(|gc| {
            let session = state.session(gc);
            if self.has(Flaw::DeleteBeforeDecision) && session.outcome == Outcome::None {
                return session.proposal().is_some_and(|proposal| proposal.dead.contains(pack));
            }
            let Some(commit) = session.commit() else { return false };
            if self.proves() && !state.proven.contains(pack) && state.is_needed(pack) {
                return false;
            }
            // The collector's own process may not know that its commit was given up, or counts for nobody.
            let unaware = state.is_abandoned(gc, NOW) && session.by == By::Sound
                || self.has(Flaw::RevokedCollectorGoesOn)
                || self.has(Flaw::ExpiryBarsOutcomes);
            let stands = state.counts(gc, NOW) || unaware || self.has(Flaw::CollectorSkipsW7);
            stands && self.names_pack(state, commit.dead, pack)
        })
    }

    fn names_pack(&self, state: &State, list: Set, pack: Id) -> bool {
        let number = |id: Id| state.session(id).number;
        let by_number = self.has(Flaw::BurntByNumber) && list.iter().any(|id| number(id) == number(pack));
        list.contains(pack) || by_number
    }

    /// What it goes on without: an outcome that was given up, and the careless one any.
    fn is_blind_to(&self, state: &State, id: Id) -> bool {
        state.hidden == Some(id)
            || self.has(Flaw::CollectorIgnoresUnsupported) && state.session(id).by == By::Newer
    }

    /// Chunks of every pack that somebody needs.
    fn used_chunks(&self, state: &State) -> Vec<u8> {
        let seen = |&id: &Id| !self.is_blind_to(state, id) && !self.is_blind_to(state, state.owner(id));
        state.used_chunks(state.alive().filter(seen).filter(|&id| self.minds(state, id)))
    }

    /// G1: packs of decided sessions that no live snapshot uses, and those worth rewriting;
    /// `only`: the listing showed no other pack.
    fn plan(&self, state: &State, repack: bool, only: Option<Id>) -> Proposal {
        let used = self.used_chunks(state);
        let burnt = state.burnt(NOW);
        let mut proposal = Proposal::default();
        for id in state.ids().filter(|&id| only.is_none_or(|pack| pack == id)) {
            let session = state.session(id);
            let decided = state.is_decided(id, NOW) || self.is_blind_to(state, id);
            if self.burns_whole_sessions && decided && session.pack.stored == Stored::Never {
                proposal.empty.insert(id);
            }
            let abandoned = state.is_abandoned(id, NOW);
            if !session.is_stored() || !decided || burnt.contains(id) {
                continue;
            }
            let used = used[usize::from(id)];
            let worth = match self.repack {
                Repack::Never => false,
                Repack::Partial => used != session.pack.chunks,
                Repack::Any => true,
            };
            if used == 0 || repack && worth && !abandoned {
                proposal.dead.insert(id);
                for chunk in (0..CHUNKS).filter(|chunk| used & (1 << chunk) != 0) {
                    proposal.moved[chunk].insert(id);
                }
            }
        }
        proposal
    }

    pub(crate) fn start_gc(&self, state: &mut State, by: By, repack: bool, only: Option<Id>) {
        *state.budget.of(by, |budget| &mut budget.gcs) -= 1;
        let mut known = state.decided(NOW);
        state.ids().filter(|&id| self.is_blind_to(state, id)).for_each(|id| known.remove(id));
        let proposal = self.plan(state, repack, only);
        self.begin(state, Kind::Gc(proposal), by, known);
    }

    /// G5, and without folding G6 in the same step: nothing that G5 reads can change any more.
    pub(crate) fn decide_final_list(&self, state: &mut State, id: Id) {
        let commit = self.final_list(state, id);
        state.session_mut(id).phase = Phase::Decided(commit);
        if self.fold == Fold::Nothing {
            self.create_commit(state, id);
        }
    }

    fn final_list(&self, state: &State, id: Id) -> Commit {
        let session = state.session(id);
        let (known, copied) = match session.phase {
            Phase::Proposed { known } => (known, [Set::default(); CHUNKS]),
            Phase::Copied { known, copied } => (known, copied),
            _ => return Commit::default(),
        };
        let proposal = session.proposal().copied().unwrap_or_default();
        let proposed = proposal.dead.union(proposal.empty);
        let copied = if self.has(Flaw::MovesWhatWasNotCopied) { proposal.moved } else { copied };
        let mut commit = Commit { dead: proposed, moved: copied, ..Commit::default() };
        for pack in proposed.iter() {
            if self.is_struck(state, id, pack, known, &commit) {
                commit.dead.remove(pack);
                commit.moved.iter_mut().for_each(|sources| sources.remove(pack));
            }
        }
        if self.has(Flaw::WholeSessionsNotChecked) {
            commit.dead = commit.dead.union(proposal.empty);
        }
        let lower = session.number;
        let gone = |&other: &Id| {
            state.session(other).is_backup() && state.retention_below(other, lower) == (true, false)
        };
        state.ids().filter(gone).for_each(|other| commit.forgotten.insert(other));
        for other in state.counted(lower) {
            let keeps = state.session(other).record().is_none() || !self.has(Flaw::FoldDropsRecords);
            if keeps {
                commit.counted.insert(other);
            }
        }
        commit
    }

    /// Burnt already; a frame could not be copied; used by an outcome that the plan didn't know; or used by a
    /// snapshot that was held or undeleted, unless the frames it uses were copied.
    fn is_struck(&self, state: &State, gc: Id, pack: Id, known: Set, commit: &Commit) -> bool {
        let lower = state.session(gc).number;
        // Planned when the commit could still be read: its copies may be all there is.
        let abandons = |id: Id| state.session(id).record() == Some(Record::Abandon(pack));
        let unforeseen = |id: Id| abandons(id) && !known.contains(id) && state.session(id).number < lower;
        let surprised = state.ids().any(unforeseen) && !self.has(Flaw::AbandonedCopiesAreGarbage);
        if state.burnt(lower).contains(pack) || surprised {
            return true;
        }
        let moved = state.session(gc).proposal().map(|proposal| proposal.moved).unwrap_or_default();
        if (0..CHUNKS).any(|c| moved[c].contains(pack) && !commit.moved[c].contains(pack)) {
            return true;
        }
        let moves = moved.iter().any(|sources| sources.contains(pack));
        let careless = self.has(Flaw::RepackIgnoresLateUsers) && moves;
        state.counted(lower).filter(|&id| !self.is_blind_to(state, id)).any(|id| {
            let snapshot = state.owner(id);
            let late = !known.contains(id) || !known.contains(snapshot);
            let careless = careless || snapshot != id && self.has(Flaw::NotesJudgedOnce);
            let uses = state.uses(id);
            let rescued = !late && state.is_rescued(snapshot, lower) && !careless;
            uses.iter().any(|(chunk, place)| {
                let mut copies = state.abandoned_copies(chunk, place, lower);
                let is_copy = copies.any(|copy| copy == pack) && !self.has(Flaw::AbandonedCopiesNotStruck);
                let lies = place == pack || state.follow_moves(chunk, place, lower, lower) == Some(pack);
                let here = lies || is_copy;
                here && (late && !careless || rescued && !commit.moved[chunk].contains(pack))
            })
        })
    }

    pub(crate) fn create_commit(&self, state: &mut State, id: Id) {
        let Phase::Decided(commit) = state.session(id).phase else { return };
        state.create_outcome(id, Outcome::Commit(commit));
        let lost = state.session(id).commit().is_none();
        let request_may_linger = lost && self.fold != Fold::Nothing && self.budget.late_puts > 0;
        if !request_may_linger {
            state.session_mut(id).phase = Phase::Done;
        }
        if self.hints == Hints::Index && !lost {
            state.index = Set(state.index.0 & !commit.dead.0);
        }
    }
}

/// G3: frames are read, verified and stored in the collector's own pack; a damaged or missing source can't be.
pub(crate) fn copy_frames(state: &mut State, id: Id) {
    let Phase::Proposed { known } = state.session(id).phase else { return };
    let proposal = state.session(id).proposal().copied().unwrap_or_default();
    let damaged = state.quarantined(NOW);
    let mut copied = [Set::default(); CHUNKS];
    let mut chunks = 0;
    for (chunk, sources) in proposal.moved.iter().enumerate() {
        for source in sources.iter().filter(|&p| state.session(p).is_stored() && !damaged.contains(p)) {
            copied[chunk].insert(source);
            chunks |= 1 << chunk;
        }
    }
    let session = state.session_mut(id);
    if chunks != 0 {
        session.pack = Pack { stored: Stored::Now, chunks };
    }
    session.phase = Phase::Copied { known, copied };
}

pub(crate) fn retire_tombstone(state: &mut State, id: Id) {
    state.retired.insert(id);
}
