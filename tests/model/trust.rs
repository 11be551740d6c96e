//! Whose words count: revoked keys, commits of a thief, commits that were given up, ended certificates.

use crate::config::Flaw;
use crate::state::{By, CHUNKS, Id, NOW, Outcome, Record, Set, State};

impl State {
    pub(crate) fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// Signed by the doubtful key at a number from which a revocation below `limit` says that nothing counts.
    pub(crate) fn is_void(&self, id: Id, limit: u8) -> bool {
        let session = self.session(id);
        // What a keeper committed before the revocation stands: others rely on it.
        let early = session.is_backup() || self.has(Flaw::RevokeVoidsEarlierCommits);
        let start = |from: u8, number: u8| if early { from.min(number) } else { number };
        session.by == By::Doubtful
            && self.revokes(limit).any(|(from, number)| session.number >= start(from, number))
    }

    /// (from, number) of each revocation.
    pub(crate) fn revokes(&self, limit: u8) -> impl Iterator<Item = (u8, u8)> + '_ {
        self.sessions.iter().filter(move |s| s.number < limit && s.intent).filter_map(|s| match s.record() {
            Some(Record::Revoke { from }) => Some((from, s.number)),
            _ => None,
        })
    }

    /// Void sessions: their frames are not used again.
    pub(crate) fn voids(&self, limit: u8) -> Set {
        let mut voids = Set::default();
        if !self.has(Flaw::RevokedFramesReused) {
            self.ids().filter(|&id| self.is_void(id, limit)).for_each(|id| voids.insert(id));
        }
        voids
    }

    /// Given up by the admin; without effect when somebody above could read the commit and committed, unless that was given
    /// up before.
    pub(crate) fn is_abandoned(&self, gc: Id, limit: u8) -> bool {
        if self.session(gc).proposal().is_none() {
            return false;
        }
        let number = self.session(gc).number;
        let abandons = |s: &&crate::state::Session| {
            s.number < limit && s.intent && s.record() == Some(Record::Abandon(gc))
        };
        self.sessions.iter().filter(abandons).any(|record| {
            let between = |id: &Id| (number + 1..record.number).contains(&self.session(*id).number);
            let stands =
                |id: Id| self.session(id).commit().is_some() && !self.is_abandoned(id, record.number);
            !self.ids().filter(between).any(stands)
        })
    }

    /// A commit of the doubtful key that all can judge, and that says what it may not say.
    pub(crate) fn is_lie(&self, gc: Id) -> bool {
        self.session(gc).commit().is_some()
            && self.session(gc).by == By::Doubtful
            && self.is_settled(gc)
            && self.is_damaged(gc)
    }

    /// Whether readers take this commit's word.
    pub(crate) fn is_sound(&self, gc: Id) -> bool {
        self.session(gc).by != By::Doubtful || self.is_settled(gc) && !self.is_damaged(gc)
    }

    /// Everything below is decided: only then is it known what a commit may burn.
    pub(crate) fn is_settled(&self, gc: Id) -> bool {
        let number = self.session(gc).number;
        self.has(Flaw::UnsettledCommitCounts)
            || self.ids().all(|id| self.session(id).number >= number || self.is_decided(id, number))
    }

    /// Burns what it did not announce, moves from elsewhere, or burns without moving what a snapshot needs that is not
    /// gone with this commit or an earlier one.
    pub(crate) fn is_damaged(&self, gc: Id) -> bool {
        let number = self.session(gc).number;
        let Some(commit) = self.session(gc).commit() else { return false };
        let announced = self.session(gc).proposal().map(|p| p.dead.union(p.empty)).unwrap_or_default();
        let exceeds = !commit.dead.is_within(announced) && !self.has(Flaw::UnannouncedDeadCounts);
        if exceeds || commit.moved.iter().any(|sources| !sources.is_within(commit.dead)) {
            return true;
        }
        if self.has(Flaw::NeededDeadCounts) {
            return false;
        }
        self.holders(number).any(|id| {
            let snapshot = self.owner(id);
            let gone = match () {
                () if self.has(Flaw::UnlistedForgottenCounts) => !self.is_live(snapshot, number),
                () => self.is_collected(snapshot, number, number) || self.honours(gc, snapshot),
            };
            let burns = |(chunk, pack): (usize, Id)| {
                let place = self.follow_moves(chunk, pack, number, number);
                place.is_some_and(|p| commit.dead.contains(p) && !commit.moved[chunk].contains(p))
            };
            let later = self.has(Flaw::JudgedByLaterRevokes) && self.is_void(snapshot, NOW);
            !gone && !later && self.uses(id).iter().any(burns)
        })
    }

    /// What a commit says of snapshots counts only where records had forgotten them and none held them.
    pub(crate) fn honours(&self, gc: Id, snapshot: Id) -> bool {
        let Some(commit) = self.session(gc).commit() else { return false };
        let justified = self.session(gc).by != By::Doubtful
            || self.has(Flaw::ForgottenAsListed)
            || self.retention_below(snapshot, self.session(gc).number) == (true, false);
        commit.forgotten.contains(snapshot) && justified
    }

    /// A collector below `below` gave the snapshot up: nothing brings it back.
    pub(crate) fn is_collected(&self, snapshot: Id, below: u8, limit: u8) -> bool {
        let lower = |&gc: &Id| self.session(gc).number < below;
        // What an abandoned collector found forgotten it may have deleted.
        let abandoned = |gc: Id| {
            self.is_abandoned(gc, limit)
                && self.retention_below(snapshot, self.session(gc).number) == (true, false)
                && !self.has(Flaw::AbandonRevives)
        };
        let mut commits = self.ids().filter(|&gc| self.session(gc).commit().is_some()).filter(lower);
        commits.any(|gc| self.counts(gc, limit) && self.honours(gc, snapshot) || abandoned(gc))
    }

    /// Packs of abandoned collectors that hold the frame: further places of it.
    pub(crate) fn abandoned_copies(
        &self,
        chunk: usize,
        pack: Id,
        limit: u8,
    ) -> impl Iterator<Item = Id> + '_ {
        let holds = move |gc: &Id| {
            let session = self.session(*gc);
            session.proposal().is_some()
                && session.pack.chunks & (1 << chunk) != 0
                && self.is_abandoned(*gc, limit)
                && self.origins(chunk, *gc).intersects(self.origins(chunk, pack))
        };
        self.ids().filter(holds)
    }

    /// Deleting this pack would take a frame from somebody, whatever the log says of where frames lie. Not only from live
    /// snapshots: what was forgotten can be had back until a commit says that it is gone.
    pub(crate) fn is_needed(&self, pack: Id) -> bool {
        // Each of the two rules alone would save what a commit burns silently.
        let live_only = self.has(Flaw::ProofOfLiveOnly) || self.has(Flaw::UnlistedForgottenCounts);
        let remains = |&id: &Id| match live_only {
            true => self.is_live(self.owner(id), NOW),
            false => !self.is_collected(self.owner(id), NOW, NOW),
        };
        let mut needs =
            self.holders(NOW).filter(remains).flat_map(|id| self.uses(id).iter().collect::<Vec<_>>());
        needs.any(|(chunk, first)| self.has_its_last(chunk, first, pack))
    }

    /// The pack holds the frame, and no place is there to rest a proof on. That is only one to which it was moved later,
    /// or a copy of an abandoned collector: what lies there does not go because of an earlier place. Two packs of which
    /// each is unneeded because of the other would both go.
    fn has_its_last(&self, chunk: usize, first: Id, pack: Id) -> bool {
        let holds = |place: Id| {
            self.session(place).is_stored() && self.session(place).pack.chunks & (1 << chunk) != 0
        };
        let mut copies = self.abandoned_copies(chunk, first, NOW);
        let passed = self.places(chunk, first);
        let (at, is_copy) = (passed.iter().position(|&place| place == pack), copies.any(|copy| copy == pack));
        let mut others = self.abandoned_copies(chunk, first, NOW).filter(|&copy| copy != pack);
        if self.has(Flaw::ProofByAnyPlace) {
            let is_one = (at.is_some() || is_copy) && holds(pack);
            return is_one
                && !others.any(holds)
                && !passed.iter().any(|&place| place != pack && holds(place));
        }
        let is_last =
            at.is_some_and(|at| !passed[at + 1..].iter().any(|&place| holds(place)) && !others.any(holds));
        holds(pack) && (is_last || is_copy && !self.has(Flaw::AbandonedCopiesNotAsked))
    }

    /// The packs in which commits say that the frame lay, in their order, and where it lies now.
    fn places(&self, chunk: usize, first: Id) -> Vec<Id> {
        let mut places = vec![first];
        for gc in self.counted_commits(NOW) {
            let place = places.last().copied().unwrap_or(first);
            if self.session(gc).commit().is_some_and(|commit| commit.moved[chunk].contains(place)) {
                places.push(gc);
            }
        }
        places
    }

    /// Open, or its commit has no effect yet: what it proposes may still be burnt.
    pub(crate) fn may_still_burn(&self, gc: Id, limit: u8) -> bool {
        let taken_for_aborted = self.has(Flaw::RevokedGcTakenForAborted)
            && self.session(gc).by == By::Doubtful
            && self.revokes(limit).next().is_some()
            && self.session(gc).outcome == Outcome::None;
        let abandoned = self.is_abandoned(gc, limit) && !self.has(Flaw::AbandonForgetsProposal);
        let unsettled = self.session(gc).commit().is_some()
            && !self.is_settled(gc)
            && !self.has(Flaw::UnsettledNotAvoided);
        let waits = !self.is_decided(gc, limit) || unsettled && !self.is_void(gc, limit);
        (waits || abandoned) && !taken_for_aborted
    }
}

impl Set {
    pub(crate) fn is_within(self, other: Set) -> bool {
        self.0 & !other.0 == 0
    }
}

/// All chunks of all packs, as moves say that claim to have moved everything.
pub(crate) fn everything(packs: Set) -> [Set; CHUNKS] {
    [packs; CHUNKS]
}
