//! What outcomes say by themselves of numbers at which no entry is theirs (FORMAT.md §7.2). A manifest or a commit is not
//! made without an entry: where one is that the log does not have, the entry was lost, or its signer lies. Who steals a
//! writer's key can lie so about what is lost, or take its number. Readers and writers go on by the rules that say which of
//! several they take. Collectors do not: what the others need would look like garbage.

use std::collections::{BTreeMap, BTreeSet};

use sancerre_format::certificate::Signer;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::names::Name;

use super::lost::filler;
use super::stand_in::{Claim, ClaimKind};
use super::{Log, LogEntry, Lost, Outcome, UNKNOWN};

/// Sessions that nobody can tell which of them stood at a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispute {
    /// The number.
    pub number: u64,
    /// What stands there now, if anything does.
    pub standing: Option<SessionId>,
    /// The others that claim to have stood there, each with its signer, and whether it is a backup and no gc.
    pub claims: Vec<(SessionId, Name, bool)>,
}

impl Log {
    /// The manifests and commits without an entry at a number, by keys that are trusted there.
    pub(super) fn claims_at(&self, number: u64) -> Vec<(SessionId, &Claim)> {
        let is_trusted = |claim: &Claim| {
            let revoked = self.revocations().any(|(_, one)| one.writer == claim.by && one.from <= number);
            claim.kind != ClaimKind::Abort && !revoked
        };
        self.alone_at(number).filter(|(_, claim)| is_trusted(claim)).collect()
    }

    fn alone_at(&self, number: u64) -> impl Iterator<Item = (SessionId, &Claim)> {
        let at = |hash: u8| SessionId { number, intent: Hash([hash; 32]) };
        self.alone.range(at(0)..=at(0xff)).map(|(session, claim)| (*session, claim))
    }

    /// Whether these are the bytes that fill a number for a session whose manifest or commit is there, trusted or not.
    pub(super) fn is_filled_by(&self, number: u64, hash: &Hash) -> bool {
        let fills = |(session, claim): (SessionId, &Claim)| {
            claim.kind != ClaimKind::Abort && Hash::of(&filler(&session)) == *hash
        };
        self.alone_at(number).any(fills)
    }

    /// Which session is claimed at a number: the one that the administrator admitted, else that for which it was filled, else
    /// the least of one signer.
    ///
    /// Errors: one of those that several signers claim; nobody can tell which it was.
    pub(super) fn claim_at(&self, number: u64) -> Result<Option<SessionId>, SessionId> {
        let (claims, admitted) = (self.claims_at(number), self.admitted());
        let filled = self.entries.get(&number).map(|entry| entry.session.intent);
        let is_filled = |session: &SessionId| filled == Some(Hash::of(&filler(session)));
        let mut chosen = claims.iter().filter(|(session, _)| admitted.contains_key(session));
        let chosen = chosen.next().or_else(|| claims.iter().find(|(session, _)| is_filled(session)));
        match (chosen, claims.first()) {
            (Some((session, _)), _) => Ok(Some(*session)),
            (None, Some((session, first))) if claims.iter().any(|(_, claim)| claim.by != first.by) => {
                Err(*session)
            }
            (None, first) => Ok(first.map(|(session, _)| *session)),
        }
    }

    /// A session that several keys claim at the highest number or above it: whoever adds to the log would take the place of what
    /// was there.
    pub(crate) fn unclear(&self) -> Option<SessionId> {
        let highest = self.highest();
        let is_open = |session: &SessionId| self.is_lost(session);
        [highest, highest.saturating_add(1)]
            .into_iter()
            .filter_map(|at| self.claim_at(at).err())
            .find(is_open)
    }

    /// A session that claims a number at which no object is known: it must be filled before an entry is made there.
    pub(crate) fn claimed_free(&self, number: u64) -> Option<SessionId> {
        let is_free = self.entries.get(&number).is_none_or(|entry| entry.lost == Some(Lost::Missing));
        let claim = is_free.then(|| self.claims_at(number).first().map(|(session, _)| *session));
        claim.flatten()
    }

    /// What somebody claims of a number, other than what stands there, unless the administrator decided it.
    pub fn dispute(&self, number: u64) -> Option<Dispute> {
        self.alone_at(number).next()?;
        self.dispute_but(number, &self.admitted())
    }

    fn dispute_but(&self, number: u64, admitted: &BTreeMap<SessionId, u64>) -> Option<Dispute> {
        let entry = self.entry(number);
        let is_given_up =
            |entry: &LogEntry| matches!(entry.outcome, Outcome::Abort(_)) && entry.session.intent == UNKNOWN;
        let is_decided = |entry: &LogEntry| {
            is_given_up(entry) || entry.opaque_by.is_some() || admitted.contains_key(&entry.session)
        };
        if number < self.start() || entry.is_some_and(is_decided) {
            return None;
        }
        let is_whole = entry.is_some_and(|entry| entry.lost.is_none() && entry.entry.is_ok());
        // Beside an entry that is whole who was revoked is not heard at all: else he could stop collectors for ever.
        let is_heard = |claim: &Claim| !is_whole || self.revocation(&claim.by).is_none();
        let standing = entry.map(|entry| entry.session);
        let claims = self.claims_at(number).into_iter();
        let others = claims.filter(|(session, claim)| standing != Some(*session) && is_heard(claim));
        let others: Vec<_> = others
            .map(|(session, claim)| (session, claim.by.clone(), claim.kind == ClaimKind::Manifest))
            .collect();
        // One that nothing stands against stands itself, or is waited for as what is lost.
        let is_disputed = if entry.is_some() { !others.is_empty() } else { others.len() > 1 };
        is_disputed.then_some(Dispute { number, standing, claims: others })
    }

    /// All disputes at numbers below `end`, ascending.
    pub fn disputes(&self, end: u64) -> Vec<Dispute> {
        let numbers = self.alone.keys().map(|session| session.number).filter(|number| *number < end);
        let (numbers, admitted) = (numbers.collect::<BTreeSet<_>>(), self.admitted());
        numbers.into_iter().filter_map(|number| self.dispute_but(number, &admitted)).collect()
    }

    /// What commits claim that do not count, whatever stands at their number: hints of where frames lie, and what a writer
    /// keeps away from. Its signer's process may go on deleting.
    pub fn hinted(&self) -> impl Iterator<Item = (SessionId, &GcLists)> {
        let is_whole = |session: &SessionId| {
            self.entries.get(&session.number).is_some_and(|entry| entry.lost.is_none() && entry.entry.is_ok())
        };
        let is_heard = move |session: &SessionId, claim: &Claim| {
            let is_known = self.doubted.contains_key(session) || self.has(session);
            !is_known && (!is_whole(session) || self.revocation(&claim.by).is_none())
        };
        let alone = self.alone.iter().filter(move |(session, claim)| is_heard(session, claim));
        let alone = alone.filter_map(|(session, claim)| Some((*session, claim.lists.as_deref()?)));
        self.doubted().chain(alone)
    }

    /// Snapshots that a commit saw, and at whose outcome an abort is now: the manifest was lost, and whoever could sign an abort put
    /// that in its place. An abort takes nothing away that was saved: only who may forget it does, or the administrator, who gave up
    /// the lost entry with it.
    pub fn replaced(&self, number: u64) -> impl Iterator<Item = SessionId> {
        let retention = self.retention_below(number);
        let is_replaced = move |session: &SessionId| {
            let entry = self.entry(session.number).filter(|entry| entry.session == *session);
            let aborted =
                entry.filter(|entry| entry.revoked.is_none()).and_then(|entry| match &entry.outcome {
                    Outcome::Abort(abort) => Some(entry.lost.is_none() || abort.signer != Signer::Admin),
                    _ => None,
                });
            aborted == Some(true)
                && retention.forgotten_by(session).is_none()
                && retention.collected_by(session).is_none()
        };
        let seen = self.commits().take_while(move |(gc, ..)| gc.number < number);
        seen.flat_map(|(_, _, lists)| lists.seen.iter().copied()).filter(is_replaced)
    }
}
