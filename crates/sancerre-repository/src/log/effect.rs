//! Which commits have effect (FORMAT.md §8.3): not those that the administrator gave up, and not those above a session of
//! which nobody knows yet what it needs. What a thief signs without waiting for others must not burn what they use.

use std::collections::{BTreeMap, BTreeSet};

use sancerre_format::gc::GcLists;
use sancerre_format::id::SessionId;
use sancerre_format::log::Kind;

use super::retention::{Effect, Retention};
use super::{Log, LogEntry, Outcome, Snapshot};

/// What the entries below a number say, and which commits among them do not count yet.
pub(super) struct Survey {
    pub(super) retention: Retention,
    /// The first session that each of these commits did not wait for.
    pub(super) waiting: BTreeMap<u64, SessionId>,
}

impl Log {
    /// The sessions of collectors that the admin gave up. They ended with nothing, whatever their outcome is or becomes.
    /// Each with the number of the entry that says so.
    pub fn abandoned(&self) -> BTreeMap<SessionId, u64> {
        self.abandoned_below(Log::END)
    }

    /// The same by the entries below `number`.
    ///
    /// To give a gc up has no effect when one above may have built on it: one that has an outcome which is no abort, and
    /// that was not given up itself.
    pub fn abandoned_below(&self, number: u64) -> BTreeMap<SessionId, u64> {
        let mut abandoned = BTreeMap::new();
        for (at, entry) in self.entries.range(..number) {
            let Ok(Kind::Abandon(named)) = entry.entry.as_deref().map(|entry| &entry.fields.kind) else {
                continue;
            };
            if self.built_on(named.session, *at, &abandoned).is_none() {
                abandoned.entry(named.session).or_insert(*at);
            }
        }
        abandoned
    }

    /// The first gc above `gc` and below `number` that may have read its commit, and that ended with one itself.
    pub fn built_on(
        &self,
        gc: SessionId,
        number: u64,
        abandoned: &BTreeMap<SessionId, u64>,
    ) -> Option<SessionId> {
        let above = self
            .entries
            .range(..number)
            .map(|(_, entry)| &**entry)
            .filter(|entry| entry.session.number > gc.number);
        let may_build = |entry: &&LogEntry| {
            entry.is_gc() && matches!(entry.outcome, Outcome::Commit(..) | Outcome::Invalid(_))
        };
        let mut built = above.filter(may_build).map(|entry| entry.session);
        built.find(|session| !abandoned.contains_key(session))
    }

    /// Commits that have no effect yet, each with the first session below it that had no outcome that can be read, and that
    /// nothing below it gave up.
    pub fn waiting(&self) -> BTreeMap<u64, SessionId> {
        self.survey(Log::END).waiting
    }

    /// What the entries below `number` come to. Each commit is judged by what is below itself alone, so all readers judge
    /// alike, for ever.
    pub(super) fn survey(&self, number: u64) -> Survey {
        let abandoned = self.abandoned_below(number);
        let removed = self.removed();
        let retention = Retention::new(self.approvals_needed, self.start());
        let mut survey = Survey { retention, waiting: BTreeMap::new() };
        let mut open: Vec<&LogEntry> = Vec::new();
        for (at, entry) in self.entries.range(..number) {
            let mut effect = Effect::Nothing;
            if abandoned.contains_key(&entry.session) {
                effect = Effect::GivenUp;
            } else if entry.commit().is_some() {
                let is_open = |below: &&&LogEntry| {
                    !removed.contains(&below.session) && below.is_open_at(*at, &survey.retention, &abandoned)
                };
                match open.iter().find(is_open) {
                    Some(below) => drop(survey.waiting.insert(*at, below.session)),
                    None => effect = Effect::Commit,
                }
            }
            survey.retention.apply(entry, effect);
            // Below a checkpoint all have ended, also those whose outcome it does not carry.
            if *at >= self.start()
                && matches!(entry.outcome, Outcome::Undecided | Outcome::Invalid(_))
                && entry.announced().is_some_and(|entry| entry.fields.kind.needs_outcome())
            {
                open.push(entry);
            }
        }
        survey
    }

    /// Sessions without an outcome that some commit gives up, and that records below it forgot. Nothing needs what they
    /// name: their manifests may have been removed since.
    fn removed(&self) -> BTreeSet<SessionId> {
        let (mut records, mut removed) =
            (Retention::new(self.approvals_needed, self.start()), BTreeSet::new());
        for entry in self.entries() {
            let given_up = entry.commit().map_or(&[][..], |(_, lists)| lists.forgotten.as_slice());
            let gone: Vec<SessionId> =
                given_up.iter().filter(|session| !records.is_live(session)).copied().collect();
            removed.extend(gone.iter().filter(|session| {
                let below = self.entries.get(&session.number).filter(|below| below.session == **session);
                below.is_some_and(|below| matches!(below.outcome, Outcome::Undecided))
            }));
            records.apply(entry, Effect::Nothing);
            // What is gone is not suspect any more, and keeps nothing.
            records.let_go(entry.session.number, &gone);
        }
        removed
    }

    /// The commits that say where frames lie: all but those known to be wrong. Those that have no effect yet too: to look
    /// there harms nobody, for ids prove what is found.
    pub(crate) fn claimed_commits(&self) -> impl Iterator<Item = (u64, &GcLists)> {
        let commits = self.commits().map(|(session, _, lists)| (session.number, lists));
        commits.filter(|(number, _)| !self.flaws().contains_key(number))
    }

    /// The commits that burn and move: all but those known to be wrong, and those that have no effect yet.
    pub fn sound_commits(&self) -> impl Iterator<Item = (u64, &GcLists)> {
        let waiting = self.waiting();
        self.claimed_commits().filter(move |(number, _)| !waiting.contains_key(number))
    }
}

impl LogEntry {
    /// Whether a revocation below `number` made it void.
    pub(super) fn is_void_below(&self, number: u64) -> bool {
        self.void_by.is_some_and(|by| by < number)
    }

    /// The snapshot this entry became, by the revocations below `number`.
    pub fn snapshot_below(&self, number: u64) -> Option<Snapshot<'_>> {
        match (self.announced().filter(|_| !self.is_void_below(number)), &self.outcome) {
            (Some(entry), Outcome::Manifest(manifest)) => Some(Snapshot { entry, manifest }),
            _ => None,
        }
    }

    /// Whether this session, which has no outcome that can be read, may still become something for who asks at `number`.
    fn is_open_at(&self, number: u64, retention: &Retention, abandoned: &BTreeMap<SessionId, u64>) -> bool {
        let is_backup = self.announced().is_some_and(|entry| matches!(entry.fields.kind, Kind::Backup(_)));
        let given_up = match self.outcome {
            // One whose outcome is there and does not verify is a forgotten snapshot like others.
            Outcome::Invalid(_) => is_backup && !retention.is_live(&self.session),
            _ => retention.collected_by(&self.session).is_some(),
        };
        let abandoned = abandoned.get(&self.session).is_some_and(|at| *at < number);
        !given_up && !abandoned && !self.is_void_below(number)
    }
}
