//! Sessions whose log entry is lost, rotten or out of reach (FORMAT.md §7.2).
//!
//! What stood at a number the entries above it say: the one that follows on it by the hash of its bytes, and only if that one
//! is lost too, others by its session id. The outcome of that very session is an object of its own. A manifest stands for its
//! entry, and nothing is lost but the entry; an abort says that whatever stood there came to nothing. A commit deletes, so it
//! counts only once the administrator has said so: until then readers look where it moved frames to, writers keep away from
//! what it burnt, and collectors stop. They stop as well while nothing says what became of a session that was there.
//!
//! A manifest that no commit above it knew of came too late. Nobody can make another entry at that number either: whoever
//! adds to the log above it fills it first. Of the newest entry nothing above says what it was; there a signed manifest says
//! it, if it is the only one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::{self, Folder, ZoneKey};
use sancerre_format::record::{Fields, Record};

use super::decode::forged;
use super::stand_in::{ClaimKind, StandIn, decode};
use super::{Log, LogEntry, Outcome};
use crate::cache::{Read, Wanted};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::repository::Repository;
use sancerre_store::{Creation, Put};

/// Numbers that are looked at: who signs entries can name as many as he likes, and each costs requests.
const LOST_MAX: usize = 256;
/// The same of numbers of which no entry says what stood there.
const UNSAID_MAX: usize = 16;
/// How far above the highest number an outcome may speak for itself: entries that were lost with all above them.
const ABOVE_MAX: u64 = 16;
/// A generation that no zone has: it is not known which one it was.
pub(super) const GENERATION_UNKNOWN: u16 = 0;
/// The hash of an entry whose bytes are not known.
pub const UNKNOWN: Hash = Hash([0; 32]);

/// How a filled number begins.
const FILLER: &[u8] = b"sancerre-lost-v1\n";

/// Why an entry is not what its signer wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Nothing is at its key.
    Missing,
    /// Other bytes are.
    Rotten,
    /// What is there cannot be read.
    Unread,
}

/// What stands for lost entries, by their numbers.
type StandIns = BTreeMap<u64, (SessionId, StandIn)>;

/// What fills a number whose entry is lost: it does not verify, so it is void, and nobody can put anything else there.
pub fn filler(session: &SessionId) -> Bytes {
    [FILLER, format!("session: {session}\n").as_bytes()].concat().into()
}

impl Log {
    /// Looks for outcomes that stand for lost entries. What a listing left out is read by name first.
    ///
    /// Errors: the store's.
    pub(super) async fn stand_in(&mut self, repository: &Repository) -> Result<()> {
        self.take_admitted(repository);
        self.distrust_revoked();
        loop {
            let (zone, before) = (&repository.keys.zone, self.lost());
            if before.is_empty() {
                return Ok(());
            }
            let missing = before.keys().filter(|number| !self.entries.contains_key(number));
            let by_name = missing.map(|number| Wanted::by_name(names::log(zone, *number))).collect();
            self.read_entries(repository, by_name, &Monitor::silent()).await?;
            let back = before.into_values().filter(|session| self.has(session)).collect();
            self.read_outcomes_of(repository, back).await?;
            // What the administrator gave up without knowing what it was stands where nothing is known.
            let both = |session: SessionId| [session, SessionId { intent: UNKNOWN, ..session }];
            let sessions: BTreeSet<SessionId> = self.lost().into_values().flat_map(both).collect();
            let (found, mut doubted) = self.stand_ins(repository, &sessions).await?;
            self.doubted.retain(|session, _| !found.contains_key(&session.number));
            doubted.retain(|number, (session, _)| {
                !found.contains_key(number) && !self.doubted.contains_key(session)
            });
            let is_done = found.is_empty() && doubted.is_empty();
            for (session, stand_in) in found.into_values() {
                self.insert_lost(repository, session, stand_in);
            }
            for (session, stand_in) in doubted.into_values() {
                let entry =
                    Err(forged(Entry::KIND, "it is lost, and nobody has admitted the commit of its session"));
                self.insert_lost(repository, session, StandIn { entry, outcome: Outcome::Undecided });
                self.doubted.insert(session, stand_in);
            }
            self.distrust_revoked();
            if is_done && !self.stand_copies(repository).await? {
                return Ok(());
            }
        }
    }

    /// What stands for these sessions, by their numbers; and commits of which nobody said yet that they count.
    async fn stand_ins(
        &mut self,
        repository: &Repository,
        sessions: &BTreeSet<SessionId>,
    ) -> Result<(StandIns, StandIns)> {
        let zone = &repository.keys.zone;
        let wanted = sessions.iter().map(|session| Wanted::by_name(names::outcome(zone, session))).collect();
        let decode = |key: &str, bytes: &Bytes| decode(repository, key, bytes);
        let (mut found, mut doubted) = (StandIns::new(), StandIns::new());
        // Ascending: what was given up unseen comes first.
        for Read { key, value, .. } in repository.read_all(wanted, &Monitor::silent(), decode).await? {
            // What stands there and says nothing certain is told as a key that belongs to nothing.
            let (Ok(ZoneKey::Outcome(session)), Ok(stand_in)) = (ZoneKey::parse(zone, &key), value) else {
                continue;
            };
            self.unknown_keys.remove(&key);
            match &stand_in.outcome {
                Outcome::Commit(..) if !self.admitted().contains_key(&session) => {
                    doubted.insert(session.number, (session, stand_in));
                }
                // It came too late.
                Outcome::Manifest(_) if self.closed_by_gc(&session) => {}
                // What the administrator gave up unseen stays so, whatever turns up later.
                _ => drop(found.entry(session.number).or_insert((session, stand_in))),
            }
        }
        Ok((found, doubted))
    }

    /// Commits that were doubted, and that the administrator has admitted since.
    fn take_admitted(&mut self, repository: &Repository) {
        if self.doubted.is_empty() {
            return;
        }
        for session in self.admitted().into_keys() {
            if let Some(stand_in) = self.doubted.remove(&session) {
                self.insert_lost(repository, session, stand_in);
            }
        }
    }

    /// The log as it would be if the administrator admitted this commit, judged; none if nobody doubts it.
    pub fn as_admitted(&self, repository: &Repository, session: SessionId) -> Option<Self> {
        let mut log = self.clone();
        let stand_in = log.doubted.remove(&session)?;
        log.insert_lost(repository, session, stand_in);
        log.distrust_revoked();
        log.judge();
        Some(log)
    }

    fn insert_lost(&mut self, repository: &Repository, session: SessionId, stand_in: StandIn) {
        let key = names::log(&repository.keys.zone, session.number);
        let known = self.entries.get(&session.number).map(|entry| entry.lost);
        let why = match known {
            None => Lost::Missing,
            Some(Some(why)) => why,
            Some(None) if self.unread.iter().any(|unread| unread.key == key) => Lost::Unread,
            Some(None) => Lost::Rotten,
        };
        let StandIn { entry, outcome } = stand_in;
        let (revoked, void_by, opaque_by, lost) = (None, None, None, Some(why));
        let is_of_old_admin = false;
        let entry = LogEntry { session, entry, revoked, void_by, opaque_by, outcome, lost, is_of_old_admin };
        self.insert(session.number, entry);
    }

    /// The sessions that stood at numbers whose entry is not what it was, by what the entries above say. The entry just above
    /// has read the bytes: if it is there, nobody else is asked.
    pub(super) fn lost(&self) -> BTreeMap<u64, SessionId> {
        let mut lost: BTreeMap<u64, SessionId> = self.displaced().collect();
        let mut add = |session: SessionId| {
            if lost.len() < LOST_MAX && self.is_lost(&session) {
                lost.entry(session.number).or_insert(session);
            }
        };
        let is_told = self.told();
        is_told
            .iter()
            .map(|(number, intent)| SessionId { number: *number, intent: *intent })
            .for_each(&mut add);
        let named = self.valid().filter_map(|entry| match &entry.fields.kind {
            Kind::Backup(intent) => Some((entry.fields.number, &intent.parents)),
            _ => None,
        });
        let seen = self.entries().filter_map(|entry| Some((entry.session.number, &entry.commit()?.1.seen)));
        for (number, sessions) in named.chain(seen) {
            let below = sessions.iter().filter(|session| session.number < number);
            below.filter(|session| !is_told.contains_key(&session.number)).copied().for_each(&mut add);
        }
        self.said_alone(&is_told).into_iter().for_each(&mut add);
        // Of whose bytes nobody says anything: only the administrator can say that they came to nothing.
        let untold = self.untold().into_iter().map(|session| session.number).take(UNSAID_MAX);
        let disputed = self.disputes(Self::END).into_iter().map(|dispute| dispute.number).take(UNSAID_MAX);
        let unsaid =
            self.unsaid_numbers().chain(self.missing().take(UNSAID_MAX)).chain(untold).chain(disputed);
        let unsaid = unsaid.collect::<BTreeSet<_>>();
        unsaid.into_iter().map(|number| SessionId { number, intent: UNKNOWN }).for_each(&mut add);
        lost
    }

    /// Sessions that the administrator admitted, whatever anybody else says, and that do not stand yet. No entry makes way
    /// that is there and whose signer is trusted.
    fn displaced(&self) -> impl Iterator<Item = (u64, SessionId)> + '_ {
        let gives_way = |entry: &LogEntry, session: &SessionId| {
            let is_sound = entry.lost.is_none() && (entry.entry.is_ok() || entry.opaque_by.is_some());
            let is_given_up = matches!(entry.outcome, Outcome::Abort(_)) && entry.session.intent == UNKNOWN;
            entry.session != *session && !is_sound && !is_given_up
        };
        let admitted = self.admitted().into_keys().filter(|session| session.number >= self.start());
        let displaced = admitted.filter(move |session| {
            self.entries.get(&session.number).is_none_or(|entry| gives_way(entry, session))
        });
        displaced.map(|session| (session.number, session))
    }

    /// What the valid entries say of the bytes just below them, which they have read. Who read what fills a number for a session
    /// whose outcome is there did not know of that, and says nothing of it.
    pub(super) fn told(&self) -> BTreeMap<u64, Hash> {
        self.told_by(self.valid())
    }

    /// The same of these entries.
    pub(super) fn told_by<'a>(
        &self,
        entries: impl Iterator<Item = &'a Record<Entry>>,
    ) -> BTreeMap<u64, Hash> {
        let told =
            entries.filter_map(|entry| Some((entry.fields.number.checked_sub(1)?, entry.fields.previous?)));
        told.filter(|(number, previous)| !self.is_filled_by(*number, previous)).collect()
    }

    /// From which number on a session whose entry is lost is certain: always by what the entry above read, else from the
    /// administrator's word on; none while others alone say it. That is good enough to read by, and not to convict.
    pub(super) fn certain_from(&self, session: &SessionId) -> Option<u64> {
        match self.told().get(&session.number) == Some(&session.intent) {
            true => Some(0),
            false => self.admitted().get(session).and_then(|note| note.checked_add(1)),
        }
    }

    /// Sessions of which no entry says that they were, but their own signed outcome does. That counts at the highest number
    /// and a little above it, where nobody could have said it; and of a snapshot where the entry that would have said it
    /// is lost as well. Where there are two nobody can tell which it was, and where it is an abort nothing is lost.
    fn said_alone(&self, is_told: &BTreeMap<u64, Hash>) -> Vec<SessionId> {
        let highest = self.highest();
        let only = |number: u64| self.claim_at(number).ok().flatten();
        let above = highest.saturating_add(1)..=highest.saturating_add(ABOVE_MAX);
        // What fills a number there is no entry either.
        let follow =
            above.filter(|number| self.entries.get(number).is_none_or(|entry| entry.announced().is_none()));
        let newest = std::iter::once(highest).chain(follow).filter_map(only);
        let below: BTreeSet<u64> = self.alone.keys().map(|session| session.number).collect();
        let is_snapshot = |session: &SessionId| {
            self.alone.get(session).is_some_and(|claim| claim.kind == ClaimKind::Manifest)
        };
        let below = below.into_iter().filter(|number| *number < highest && !is_told.contains_key(number));
        newest.chain(below.filter_map(only).filter(is_snapshot)).collect()
    }

    /// Sessions that were there and of which nothing says what became of them, and commits that nobody has admitted, below
    /// `end`, ascending: what a collector must not go on above.
    pub fn unresolved(&self, end: u64) -> Vec<SessionId> {
        let lost = self.lost().into_values().filter(|session| session.intent != UNKNOWN);
        let all = lost.chain(self.unclear()).chain(self.doubted.keys().copied()).chain(self.untold());
        let all: BTreeSet<SessionId> = all.filter(|session| session.number < end).collect();
        all.into_iter().collect()
    }

    /// Lost entries that nobody read who is still there: they may have said something else than what stands there now.
    pub fn untold(&self) -> Vec<SessionId> {
        let (told, admitted) = (self.told(), self.admitted());
        let is_given_up =
            |entry: &LogEntry| matches!(entry.outcome, Outcome::Abort(_)) && entry.session.intent == UNKNOWN;
        let from = self.start();
        let below = self.entries.range(from..self.highest().max(from)).map(|(_, entry)| entry);
        let lost = below.filter(|entry| entry.lost.is_some() || entry.announced().is_none());
        let is_copied = |entry: &LogEntry| self.is_copied(entry.session.number);
        let lost = lost.filter(|entry| entry.opaque_by.is_none() && !is_given_up(entry) && !is_copied(entry));
        let untold = lost.map(|entry| entry.session).filter(|session| !told.contains_key(&session.number));
        untold.filter(|session| !admitted.contains_key(session)).collect()
    }

    /// What commits say that nobody has admitted: hints of where frames lie, and what a writer keeps away from.
    pub fn doubted(&self) -> impl Iterator<Item = (SessionId, &GcLists)> {
        self.doubted.iter().filter_map(|(session, stand_in)| match &stand_in.outcome {
            Outcome::Commit(_, lists) => Some((*session, lists.as_ref())),
            _ => None,
        })
    }

    /// Numbers whose entry cannot be read, or that were filled without knowing what stood there.
    fn unsaid_numbers(&self) -> impl Iterator<Item = u64> + '_ {
        let void = self.entries().filter(|entry| entry.entry.is_err());
        let is_unsaid = |session: &SessionId| {
            let filled = filler(&SessionId { intent: UNKNOWN, ..*session });
            session.intent == UNKNOWN || session.intent == Hash::of(&filled)
        };
        void.map(|entry| entry.session).filter(is_unsaid).map(|session| session.number)
    }

    /// Whether this session stood at its number, and something else or nothing does now. Of bytes that are as they were and
    /// do not verify nothing was lost.
    pub(super) fn is_lost(&self, session: &SessionId) -> bool {
        if session.number < self.start() {
            return false;
        }
        if self.doubted.contains_key(session) {
            return true;
        }
        self.entries.get(&session.number).is_none_or(|entry| {
            let is_void = entry.entry.is_err() && entry.revoked.is_none() && entry.opaque_by.is_none();
            let is_other = entry.session != *session || session.intent == UNKNOWN;
            is_void && entry.lost.is_none() && is_other
        })
    }

    /// Fills the numbers below `end` at which nothing is, and whose sessions stand by their outcomes: from then on nobody can
    /// put an entry there.
    ///
    /// Errors: [`Error::Refused`] when somebody put something there meanwhile; the store's.
    pub async fn fill_lost(&self, repository: &Repository, end: u64) -> Result<()> {
        let missing = self.entries.range(..end).filter(|(_, entry)| entry.lost == Some(Lost::Missing));
        let missing: Vec<_> = missing.collect();
        // On a disk a folder of that name keeps others from the number as well.
        let folders = match missing.is_empty() || repository.store.is_remote() {
            true => Vec::new(),
            false => repository.store.folders(&repository.folder(Folder::Log)).await?,
        };
        for (number, entry) in missing {
            if folders.contains(&format!("{number:016x}")) {
                continue;
            }
            // Of several that claim it nobody says which it was.
            let intent = if self.dispute(*number).is_some() { UNKNOWN } else { entry.session.intent };
            let filler = filler(&SessionId { number: *number, intent });
            let filler = self.copies.get(number).cloned().unwrap_or(filler);
            let key = names::log(&repository.keys.zone, *number);
            match repository.store.put_new(&key, filler.clone()).await {
                Ok(Put::Occupied(found)) if found != filler => {
                    return Err(Error::Refused(format!(
                        "log entry {number} was missing, and is there again; nothing was done. Run the command again"
                    )));
                }
                Ok(_) => {}
                // A link that leads nowhere, or what else cannot be read: it does so too.
                Err(_) if repository.store.get(&key).await.is_err() && repository.store.works().await => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sessions whose log entry is lost, and why, ascending.
    pub fn lost_entries(&self) -> impl Iterator<Item = (SessionId, Lost)> {
        self.entries().filter_map(|entry| Some((entry.session, entry.lost?)))
    }

    /// What the entries above say that stood at a number.
    pub fn said_of(&self, number: u64) -> Option<SessionId> {
        self.lost().remove(&number)
    }

    /// Numbers of which nobody knows what stood there: entries that do not verify or are not there, and nothing stands for
    /// them.
    pub fn void_sessions(&self) -> BTreeSet<u64> {
        let is_void = |entry: &&LogEntry| entry.announced().is_none() && entry.opaque_by.is_none();
        let void = self.entries().filter(is_void).map(|entry| entry.session.number);
        void.chain(self.missing().take(UNSAID_MAX)).collect()
    }

    /// The highest number at which something was given up of which nothing is known: it may have been a gc that deletes
    /// packs of the sessions below it.
    pub(super) fn doubtful_below(&self, number: u64) -> Option<u64> {
        let mut below = self.entries.range(..number).rev();
        let is_doubtful = |entry: &LogEntry| entry.lost.is_some() && entry.session.intent == UNKNOWN;
        below.find(|(_, entry)| is_doubtful(entry)).map(|(number, _)| *number)
    }
}
