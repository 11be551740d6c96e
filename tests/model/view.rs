//! What a party makes of the objects it reads: which sessions count, which snapshots are live, where frames are.
//!
//! Every function takes a `limit`: only entries with a lower number are looked at ([`NOW`]: all there are).

use crate::config::Flaw;
use crate::state::{By, Id, Kind, NOW, Outcome, Record, Session, Set, State, Stored};

impl State {
    pub(crate) fn session(&self, id: Id) -> &Session {
        &self.sessions[usize::from(id)]
    }

    pub(crate) fn session_mut(&mut self, id: Id) -> &mut Session {
        &mut self.sessions[usize::from(id)]
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        0..u8::try_from(self.sessions.len()).unwrap_or(u8::MAX)
    }

    pub(crate) fn highest_number(&self) -> u8 {
        self.sessions.iter().filter(|session| session.intent).map(|session| session.number).max().unwrap_or(0)
    }

    /// The one whose digest folding relies on; a thief's is not believed.
    pub(crate) fn newest_commit(&self, limit: u8) -> Option<Id> {
        let believed = |&id: &Id| self.session(id).commit().is_some() && self.session(id).by != By::Doubtful;
        let commits = self.ids().filter(believed);
        commits.filter(|&id| self.session(id).number < limit).max_by_key(|&id| self.session(id).number)
    }

    /// Whether a backup or gc succeeded, or a record exists. Numbers up to the newest COMMIT are taken from its
    /// digest, whatever objects lie there.
    pub(crate) fn counts(&self, id: Id, limit: u8) -> bool {
        let session = self.session(id);
        let late = session.late && self.has(Flaw::ExpiryBarsOutcomes);
        if session.number >= limit || late || self.is_void(id, limit) || self.is_abandoned(id, limit) {
            return false;
        }
        if session.commit().is_some() && !self.is_sound(id) {
            return false;
        }
        match self.newest_commit(limit) {
            Some(gc) if gc == id => true,
            Some(gc) if session.number <= self.session(gc).number => {
                self.session(gc).commit().is_some_and(|commit| commit.counted.contains(id))
            }
            _ => match session.kind {
                Kind::Record(_) => session.intent,
                _ => matches!(session.outcome, Outcome::Manifest(_) | Outcome::Commit(_)),
            },
        }
    }

    pub(crate) fn is_decided(&self, id: Id, limit: u8) -> bool {
        let session = self.session(id);
        let folded = self.newest_commit(limit).is_some_and(|gc| session.number <= self.session(gc).number);
        folded || session.outcome != Outcome::None || session.record().is_some() || self.is_void(id, limit)
    }

    pub(crate) fn decided(&self, limit: u8) -> Set {
        let mut decided = Set::default();
        self.ids().filter(|&id| self.is_decided(id, limit)).for_each(|id| decided.insert(id));
        decided
    }

    /// Sessions that count, in the order of the log: void sessions are the only ones out of order.
    pub(crate) fn counted(&self, limit: u8) -> impl Iterator<Item = Id> + '_ {
        self.ids().filter(move |&id| self.counts(id, limit))
    }

    pub(crate) fn counted_commits(&self, limit: u8) -> impl Iterator<Item = Id> + '_ {
        self.counted(limit).filter(|&id| self.session(id).commit().is_some())
    }

    /// Every number from the newest COMMIT to `limit` has its intent: otherwise the view is stale or folded.
    pub(crate) fn log_is_complete(&self, limit: u8) -> bool {
        let from = self.newest_commit(limit).map_or(1, |gc| self.session(gc).number);
        let present = |number| self.sessions.iter().any(|s| s.intent && s.number == number);
        (from..limit).all(present)
    }

    /// The pack in which the moves of COMMITs below `below` leave the frame; `None` when one burnt it without.
    pub(crate) fn follow_moves(&self, chunk: usize, pack: Id, below: u8, limit: u8) -> Option<Id> {
        let mut place = pack;
        for gc in self.counted_commits(limit).filter(|&gc| self.session(gc).number < below) {
            let Some(commit) = self.session(gc).commit() else { continue };
            if commit.moved[chunk].contains(place) {
                place = gc;
            } else if commit.dead.contains(place) {
                return None;
            }
        }
        Some(place)
    }

    /// Whether a reader gets the frame: at its place, or following committed moves.
    /// Of a moved frame that is not where it should be also the places before, and the copies of abandoned
    /// collectors. `without`: as if this pack were deleted.
    pub(crate) fn is_reachable(&self, chunk: usize, pack: Id, without: Option<Id>) -> bool {
        let holds = |place: Id| {
            let unread = self.has(Flaw::RevokedPacksUnreadable) && self.is_void(place, NOW);
            let pack = self.session(place).pack;
            pack.stored == Stored::Now && pack.chunks & (1 << chunk) != 0 && without != Some(place) && !unread
        };
        let reads_copies = !self.has(Flaw::AbandonedCopiesNotRead);
        if reads_copies && self.abandoned_copies(chunk, pack, NOW).any(holds) {
            return true;
        }
        let mut place = pack;
        for gc in self.counted_commits(NOW) {
            if holds(place) {
                return true;
            }
            if self.session(gc).commit().is_some_and(|commit| commit.moved[chunk].contains(place)) {
                place = gc;
            }
        }
        holds(place)
    }

    /// A hold or undelete has no effect on a snapshot that a lower gc gave up.
    pub(crate) fn rescue_works(&self, record: Id, snapshot: Id, limit: u8) -> bool {
        !self.is_collected(snapshot, self.session(record).number, limit)
    }

    /// (forgotten, held) according to the records below `limit`.
    pub(crate) fn retention_below(&self, snapshot: Id, limit: u8) -> (bool, bool) {
        let (mut forgotten, mut held) = (false, false);
        for id in self.counted(limit) {
            match self.session(id).record() {
                Some(Record::Forget(s)) if s == snapshot => forgotten = true,
                Some(Record::Undelete(s)) if s == snapshot => forgotten = false,
                Some(Record::Hold(s)) if s == snapshot => held = true,
                Some(Record::Release(s)) if s == snapshot => held = false,
                _ => {}
            }
        }
        (forgotten, held || self.is_kept(snapshot, limit))
    }

    /// Live because of a hold or undelete.
    pub(crate) fn is_rescued(&self, snapshot: Id, limit: u8) -> bool {
        let rescues = |id| match self.session(id).record() {
            Some(Record::Hold(s) | Record::Undelete(s)) => s == snapshot,
            _ => false,
        };
        let is_rescued = self.counted(limit).any(rescues) || self.is_kept(snapshot, limit);
        is_rescued && self.is_live(snapshot, limit)
    }

    /// A committed snapshot that nobody forgot, or that is held.
    pub(crate) fn is_live(&self, id: Id, limit: u8) -> bool {
        if self.session(id).manifest().is_none() || !self.counts(id, limit) {
            return false;
        }
        let (forgotten, held) = self.retention_below(id, limit);
        (!forgotten || held) && !self.is_collected(id, limit, limit)
    }

    pub(crate) fn burnt(&self, limit: u8) -> Set {
        let commits = self.counted_commits(limit).filter_map(|gc| self.session(gc).commit());
        commits.fold(Set::default(), |burnt, commit| burnt.union(commit.dead))
    }

    pub(crate) fn quarantined(&self, limit: u8) -> Set {
        let mut packs = Set::default();
        for id in self.counted(limit) {
            if let Some(Record::Quarantine(pack)) = self.session(id).record() {
                packs.insert(pack);
            }
        }
        packs
    }

    pub(crate) fn tainted(&self, limit: u8) -> Set {
        let mut sessions = Set::default();
        for id in self.counted(limit) {
            if let Some(Record::Taint(session)) = self.session(id).record() {
                sessions.insert(session);
            }
        }
        sessions
    }

    /// The sessions that sealed the frames of this chunk in the pack: a collector's are copies.
    pub(crate) fn origins(&self, chunk: usize, pack: Id) -> Set {
        match self.session(pack).proposal() {
            Some(proposal) => proposal.moved[chunk]
                .iter()
                .fold(Set::default(), |origins, source| origins.union(self.origins(chunk, source))),
            None => Set(1 << pack),
        }
    }

    /// What a session with number `limit` must not refer to.
    pub(crate) fn avoid_set(&self, limit: u8) -> Set {
        let mut avoid = self.burnt(limit).union(self.quarantined(limit)).union(self.tainted(limit));
        avoid = avoid.union(self.voids(limit));
        for id in self.ids() {
            let session = self.session(id);
            let Some(proposal) = session.proposal() else { continue };
            if session.number < limit && self.may_still_burn(id, limit) {
                avoid = avoid.union(proposal.dead.union(proposal.empty));
            }
        }
        avoid
    }

    /// Chunks of every pack that live snapshots use, as bits, after committed moves.
    pub(crate) fn used_chunks(&self, snapshots: impl Iterator<Item = Id>) -> Vec<u8> {
        let mut used = vec![0; self.sessions.len()];
        for id in snapshots {
            for (chunk, pack) in self.uses(id).iter() {
                let place = self.follow_moves(chunk, pack, NOW, NOW).unwrap_or(pack);
                used[usize::from(place)] |= 1 << chunk;
                if !self.has(Flaw::AbandonedCopiesAreGarbage) {
                    self.abandoned_copies(chunk, pack, NOW)
                        .for_each(|copy| used[usize::from(copy)] |= 1 << chunk);
                }
            }
        }
        used
    }
}
