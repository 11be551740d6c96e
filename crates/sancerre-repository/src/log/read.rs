//! Reading the log: listings, then the entries and outcomes that are new, each verified and at its place.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use sancerre_format::certificate::Role;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::{Distrust, Entry};
use sancerre_format::names::{self, Folder, Name, ZoneKey};
use sancerre_format::record::{Fields, Record};

use super::decode::{Found, Verified, decode_entry, decode_outcome, forged};
use super::stand_in::{self, Claim};
use super::{Log, LogEntry, Outcome, UNKNOWN};
use crate::cache::{Read, Wanted};
use crate::error::{Error, Result, StoreError};
use crate::monitor::{Monitor, Topic, add};
use crate::repository::Repository;
use sancerre_store::Listed;

/// Entries that are read one after the other, before many are read at once.
const NAMED_MAX: u32 = 16;

/// Whether a revocation, whose own number comes first, makes an entry void.
fn reaches(own: u64, revoke: &Distrust, entry: &Record<Entry>) -> bool {
    let from = if entry.signer.role() == Role::Keeper { own } else { revoke.from };
    entry.fields.by.name == revoke.writer && entry.fields.number >= from
}

impl Log {
    /// Reads the whole log: two listings, then every entry and outcome.
    ///
    /// Errors: the store's.
    pub async fn load(repository: &Repository) -> Result<Self> {
        Self::load_watched(repository, &Monitor::silent()).await
    }

    /// The same; progress counts the bytes of entries and outcomes.
    pub async fn load_watched(repository: &Repository, monitor: &Monitor) -> Result<Self> {
        let mut log = Self::default();
        log.read(repository, monitor).await?;
        Ok(log)
    }

    /// Reads what was added since: nothing that was read once can change.
    pub async fn refresh(&mut self, repository: &Repository) -> Result<()> {
        self.read(repository, &Monitor::silent()).await
    }

    /// Lists and reads what is not known yet: everything, or what follows what is.
    pub(super) async fn read(&mut self, repository: &Repository, monitor: &Monitor) -> Result<()> {
        let zone = &repository.keys.zone;
        self.approvals_needed = repository.approvals_needed;
        self.retry_unread(zone);
        let (entry, outcome) = (self.first_unknown(), self.first_undecided());
        let entry = entry.checked_sub(1).filter(|known| *known > 0).map(|known| names::log(zone, known));
        let outcome = (outcome > 1).then(|| names::outcomes_from(zone, outcome));
        let (entries, outcomes) = futures::try_join!(
            repository.list_after(Folder::Log, entry.as_deref()),
            repository.list_after(Folder::Outcome, outcome.as_deref())
        )?;
        let entries = self.not_known(repository, entries, monitor);
        self.read_entries(repository, entries, monitor).await?;
        self.distrust_revoked();
        let outcomes = self.not_known(repository, outcomes, monitor);
        self.read_outcomes(repository, outcomes, monitor).await?;
        self.stand_in(repository).await?;
        self.settle_below_commits(repository).await
    }

    /// A collector waits for all below it: where a listing shows a commit and a session below that is open, it was too old.
    async fn settle_below_commits(&mut self, repository: &Repository) -> Result<()> {
        match self.newest_commit(Log::END) {
            Some((newest, _)) => self.settle(repository, newest).await,
            None => Ok(()),
        }
    }

    /// The first number that was never read.
    fn first_unknown(&self) -> u64 {
        let end = self.end();
        self.first_gap(end).unwrap_or_else(|| end.max(self.start()))
    }

    /// The first number whose outcome may still come, or come right.
    fn first_undecided(&self) -> u64 {
        let unknown = self.first_unknown();
        let open = self.entries.range(self.start()..unknown).find(|(_, entry)| {
            let needs_one = entry.announced().is_none_or(|entry| entry.fields.kind.needs_outcome());
            needs_one && !self.is_decided(&entry.session)
        });
        open.map_or(unknown, |(number, _)| *number)
    }

    /// Those whose bytes are not known, or may be others by now. Keys that name nothing are unknown keys.
    fn not_known(&mut self, repository: &Repository, listed: Vec<Listed>, monitor: &Monitor) -> Vec<Wanted> {
        let mut unread = Vec::new();
        for listed in listed {
            let is_known = match ZoneKey::parse(&repository.keys.zone, &listed.key) {
                Ok(ZoneKey::Log(number)) => number < self.start() || self.entries.contains_key(&number),
                Ok(ZoneKey::Outcome(session)) => session.number < self.start() || self.is_decided(&session),
                _ => {
                    self.unknown_keys.insert(listed.key);
                    continue;
                }
            };
            if !is_known {
                add(&monitor.counters.total_bytes, listed.size_bytes);
                unread.push(Wanted::listed(listed));
            }
        }
        unread
    }

    fn is_decided(&self, session: &SessionId) -> bool {
        let entry = self.entries.get(&session.number).filter(|entry| entry.session == *session);
        entry.is_some_and(|entry| !matches!(entry.outcome, Outcome::Undecided | Outcome::Invalid(_)))
    }

    pub(super) async fn read_entries(
        &mut self,
        repository: &Repository,
        wanted: Vec<Wanted>,
        monitor: &Monitor,
    ) -> Result<()> {
        let decode = |key: &str, bytes: &Bytes| decode_entry(repository, key, bytes);
        for Read { key, hash, value, unread } in repository.read_all(wanted, monitor, decode).await? {
            let hash = if unread.is_some() { UNKNOWN } else { hash };
            self.note_unread(&key, unread);
            let Ok(ZoneKey::Log(number)) = ZoneKey::parse(&repository.keys.zone, &key) else { continue };
            let entry = LogEntry::new(number, hash, value);
            if let (Some(by), Err(error)) = (&entry.opaque_by, &entry.entry) {
                let goes_on = "what is known without it is read; nothing is added or deleted";
                monitor.warn(Topic::Damage, format!("log entry {number} of {by}: {error}; {goes_on}"));
            }
            self.insert(number, entry);
        }
        Ok(())
    }

    /// Nothing a revoked key signed counts: a writer's from the number that the revocation says, for whoever took its host
    /// over may have signed before it was noticed; a keeper's from the revocation on, for what it deleted before is gone.
    pub(super) fn distrust_revoked(&mut self) {
        self.distrust_old_admins();
        let mut revoked: HashMap<Name, Vec<(u64, u64)>> = HashMap::new();
        for (number, distrust) in self.revocations() {
            revoked.entry(distrust.writer.clone()).or_default().push((distrust.from, number));
        }
        for (number, entry) in &mut self.entries {
            let by = entry.announced().map(|entry| &entry.fields.by.name).or(entry.opaque_by.as_ref());
            let Some(revoked) = by.and_then(|name| revoked.get(name)) else { continue };
            let is_keeper = entry.announced().is_some_and(|entry| entry.signer.role() == Role::Keeper);
            let reaches = |(from, own): &&(u64, u64)| number >= if is_keeper { own } else { from };
            let lowest = revoked.iter().filter(reaches).map(|(_, own)| *own).min();
            let Some(lowest) = lowest else { continue };
            let entry = Arc::make_mut(entry);
            entry.void_by = Some(lowest);
            if entry.revoked.is_none() {
                let void = Err(forged(Entry::KIND, "its writer's key was revoked"));
                entry.revoked = std::mem::replace(&mut entry.entry, void).ok();
                entry.opaque_by = None;
            }
        }
    }

    /// A number whose entry is lost is free to a key that was replaced above it. What it signs there is none when the next
    /// entry read another one.
    fn distrust_old_admins(&mut self) {
        for number in self.contradicted() {
            let why = "an admin key signed it that was replaced, and the entry above follows on another one";
            let forged = forged(Entry::KIND, why);
            self.change(number, |entry| {
                (entry.entry, entry.opaque_by) = (Err(forged), None);
            });
        }
    }

    /// The numbers of such entries. An entry that a revocation makes void says nothing of the one below it; but a revocation
    /// that is contradicted in this way itself makes nothing void here.
    fn contradicted(&self) -> Vec<u64> {
        let counts = |entry: &LogEntry| entry.entry.is_ok() || entry.opaque_by.is_some();
        let is_old = |entry: &LogEntry| entry.is_of_old_admin && counts(entry);
        if !self.entries().any(is_old) {
            return Vec::new();
        }
        let told = self.told_by(self.entries().filter_map(LogEntry::announced));
        let is_other =
            |session: &SessionId| told.get(&session.number).is_some_and(|told| *told != session.intent);
        let old = self.entries().filter(|entry| is_old(entry) && is_other(&entry.session));
        let old: BTreeSet<u64> = old.map(|entry| entry.session.number).collect();
        let heard: Vec<_> = self.revocations().filter(|(own, _)| !old.contains(own)).collect();
        let speaks = |number: &u64| {
            let above = number.checked_add(1).and_then(|above| self.entries.get(&above)?.announced());
            above.is_some_and(|above| !heard.iter().any(|(own, revoke)| reaches(*own, revoke, above)))
        };
        old.iter().copied().filter(speaks).collect()
    }

    /// Takes in an entry that this process has just made.
    pub fn add_own(&mut self, repository: &Repository, key: &str, bytes: &[u8]) -> Result<()> {
        let entry = decode_entry(repository, key, bytes).map_err(Error::object(key))?;
        if let Found::Known(record) | Found::OfOldAdmin(record) = &entry {
            let number = record.fields.number;
            self.insert(number, LogEntry::new(number, Hash::of(bytes), Ok(entry)));
        }
        Ok(())
    }

    /// Reads what follows the highest entry, by name, up to the first number that nobody has: no listing can be too old
    /// for that. Outcomes are read of what collects.
    pub async fn extend(&mut self, repository: &Repository) -> Result<()> {
        let mut found = 0u32;
        loop {
            let next = self.end();
            let key = names::log(&repository.keys.zone, next);
            self.read_entries(repository, vec![Wanted::by_name(key)], &Monitor::silent()).await?;
            if !self.entries.contains_key(&next) {
                break;
            }
            found = found.saturating_add(1);
            if found.is_multiple_of(NAMED_MAX) {
                // Of so many, most are read faster from a listing; the walk goes on behind them.
                self.refresh(repository).await?;
            }
        }
        self.stand_in(repository).await?;
        self.settle_gcs(repository, Log::END).await?;
        self.settle_below_commits(repository).await
    }

    /// Reads by name what a stale listing may have left out below `end`.
    ///
    /// Errors: [`Error::Gap`] for an entry that is not there: without it nothing can be reused safely.
    pub async fn complete(&mut self, repository: &Repository, end: u64) -> Result<()> {
        while let Some(gap) = self.first_gap(end) {
            let key = names::log(&repository.keys.zone, gap);
            self.read_entries(repository, vec![Wanted::by_name(key.clone())], &Monitor::silent()).await?;
            if !self.entries.contains_key(&gap) {
                self.stand_in(repository).await?;
            }
            let entry = self.entries.get(&gap).ok_or_else(|| self.gap(gap, key))?;
            if entry.lost.is_some() {
                continue;
            }
            let outcome = names::outcome(&repository.keys.zone, &entry.session);
            self.read_outcomes(repository, vec![Wanted::by_name(outcome)], &Monitor::silent()).await?;
        }
        self.stand_in(repository).await?;
        self.settle_gcs(repository, end).await?;
        self.settle_below_commits(repository).await
    }

    fn gap(&self, number: u64, key: String) -> Error {
        match self
            .entries
            .range(number..)
            .find_map(|(above, entry)| Some((*above, entry.entry.as_ref().ok()?)))
        {
            Some((above, entry)) => Error::Gap { number, above, by: entry.fields.by.name.clone() },
            None => Error::Store(StoreError::Missing { key }),
        }
    }

    async fn settle_gcs(&mut self, repository: &Repository, end: u64) -> Result<()> {
        let gcs: Vec<SessionId> =
            self.undecided(end).filter(|entry| entry.is_gc()).map(|entry| entry.session).collect();
        self.read_outcomes_of(repository, gcs).await
    }

    /// Reads by name the outcomes below `end` that a stale listing may have left out.
    pub async fn settle(&mut self, repository: &Repository, end: u64) -> Result<()> {
        let open: Vec<SessionId> = self.undecided(end).map(|entry| entry.session).collect();
        self.read_outcomes_of(repository, open).await
    }

    pub(super) async fn read_outcomes_of(
        &mut self,
        repository: &Repository,
        of: Vec<SessionId>,
    ) -> Result<()> {
        let zone = &repository.keys.zone;
        let wanted = of.iter().map(|session| Wanted::by_name(names::outcome(zone, session))).collect();
        self.read_outcomes(repository, wanted, &Monitor::silent()).await
    }

    /// Reads the outcome of one session by name.
    pub(crate) async fn read_outcome(&mut self, repository: &Repository, session: SessionId) -> Result<()> {
        self.read_outcomes_of(repository, vec![session]).await
    }

    async fn read_outcomes(
        &mut self,
        repository: &Repository,
        wanted: Vec<Wanted>,
        monitor: &Monitor,
    ) -> Result<()> {
        let zone = &repository.keys.zone;
        let decode = |key: &str, bytes: &Bytes| self.decode_outcome(repository, key, bytes);
        for Read { key, value, unread, .. } in repository.read_all(wanted, monitor, decode).await? {
            self.note_unread(&key, unread);
            let outcome = match (ZoneKey::parse(zone, &key), value) {
                (Ok(ZoneKey::Outcome(session)), Ok(Ok(outcome))) => Some((session, outcome)),
                (Ok(ZoneKey::Outcome(session)), Err(error)) if self.has(&session) => {
                    Some((session, Outcome::Invalid(error)))
                }
                // An outcome of an intent that is not in the log belongs to nothing, unless its entry is lost.
                (Ok(ZoneKey::Outcome(session)), Ok(Err(claim))) => {
                    self.alone.insert(session, claim);
                    None
                }
                _ => None,
            };
            match outcome {
                Some((session, outcome)) => {
                    self.unknown_keys.remove(&key);
                    self.change(session.number, |entry| entry.outcome = outcome);
                }
                None => drop(self.unknown_keys.insert(key)),
            }
        }
        Ok(())
    }

    /// Of a session whose entry is not known, what it claims.
    fn decode_outcome(
        &self,
        repository: &Repository,
        key: &str,
        bytes: &[u8],
    ) -> Verified<std::result::Result<Outcome, Claim>> {
        let ZoneKey::Outcome(session) = ZoneKey::parse(&repository.keys.zone, key)? else {
            return Err(forged("outcome", "its key is another object's"));
        };
        let Some(entry) = self.entries.get(&session.number).filter(|entry| entry.session == session) else {
            return stand_in::verify(repository, key, bytes).map(Err);
        };
        // Also of one that was revoked since: commits below the revocation are judged by it.
        match entry.announced() {
            Some(announced) => decode_outcome(&repository.keys.trust, announced, session, bytes).map(Ok),
            _ => Err(forged("outcome", "its log entry is void")),
        }
    }
}
