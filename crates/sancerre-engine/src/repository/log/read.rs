//! Reading the log: listings, then the entries and outcomes that are new, each verified and at its place.

use std::collections::HashMap;

use bytes::Bytes;
use sancerre_format::FormatError;
use sancerre_format::certificate::{Role, Signer};
use sancerre_format::gc::GcLists;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::{self, Folder, Name, ZoneKey};
use sancerre_format::outcome::{Abort, Commit, Manifest};
use sancerre_format::record::{self, Fields, Record, Trust};

use super::{Log, LogEntry, Outcome};
use crate::cache::{Read, Wanted};
use crate::error::{Error, Result};
use crate::monitor::{Monitor, add};
use crate::repository::Repository;
use crate::store::Listed;

/// Entries that are read one after the other, before many are read at once.
const NAMED_MAX: u32 = 16;

type Verified<T> = std::result::Result<T, FormatError>;

impl Log {
    /// Reads the whole log: two listings, then every entry and outcome.
    ///
    /// Errors: the store's; [`Error::Object`] for an entry that verifies but needs a newer version.
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

    async fn read(&mut self, repository: &Repository, monitor: &Monitor) -> Result<()> {
        self.strangers.clear();
        let (entries, outcomes) =
            futures::try_join!(repository.list(Folder::Log), repository.list(Folder::Outcome))?;
        let entries = self.unread(repository, entries, monitor);
        self.read_entries(repository, entries, monitor).await?;
        self.distrust_revoked();
        let outcomes = self.unread(repository, outcomes, monitor);
        self.read_outcomes(repository, outcomes, monitor).await
    }

    /// Those whose bytes are not known, or may be others by now. Keys that name nothing are strangers.
    fn unread(&mut self, repository: &Repository, listed: Vec<Listed>, monitor: &Monitor) -> Vec<Wanted> {
        let mut unread = Vec::new();
        for Listed { key, size_bytes, tag, .. } in listed {
            let is_known = match ZoneKey::parse(&repository.keys.zone, &key) {
                Ok(ZoneKey::Log(number)) => self.entries.contains_key(&number),
                Ok(ZoneKey::Outcome(session)) => self.is_decided(&session),
                _ => {
                    self.strangers.push(key);
                    continue;
                }
            };
            if !is_known {
                add(&monitor.counters.total_bytes, size_bytes);
                unread.push(Wanted { key, tag });
            }
        }
        unread
    }

    fn is_decided(&self, session: &SessionId) -> bool {
        let entry = self.entries.get(&session.number).filter(|entry| entry.session == *session);
        entry.is_some_and(|entry| !matches!(entry.outcome, Outcome::Undecided | Outcome::Invalid(_)))
    }

    async fn read_entries(
        &mut self,
        repository: &Repository,
        wanted: Vec<Wanted>,
        monitor: &Monitor,
    ) -> Result<()> {
        let decode = |key: &str, bytes: &Bytes| decode_entry(repository, key, bytes);
        for Read { key, bytes, value } in repository.read_all(wanted, monitor, decode).await? {
            let Ok(ZoneKey::Log(number)) = ZoneKey::parse(&repository.keys.zone, &key) else { continue };
            let session = SessionId { number, intent: Hash::of(&bytes) };
            let entry = supported(&key, value)?.map(Box::new);
            self.entries
                .insert(number, LogEntry { session, entry, revoked: None, outcome: Outcome::Undecided });
        }
        Ok(())
    }

    /// Nothing a revoked writer signed at numbers from the given one on is trusted.
    fn distrust_revoked(&mut self) {
        let mut revoked: HashMap<Name, u64> = HashMap::new();
        for entry in self.valid() {
            if let Kind::Revoke(distrust) = &entry.fields.kind {
                let from = revoked.entry(distrust.writer.clone()).or_insert(distrust.from);
                *from = distrust.from.min(*from);
            }
        }
        for (number, entry) in &mut self.entries {
            let by = entry.entry.as_ref().ok().map(|entry| &entry.fields.by.name);
            if by.and_then(|name| revoked.get(name)).is_some_and(|from| number >= from) {
                let detail = "its writer's key was revoked".to_owned();
                let void = Err(FormatError::Forged { what: Entry::KIND, detail });
                entry.revoked = std::mem::replace(&mut entry.entry, void).ok();
            }
        }
    }

    /// Takes in an entry that this process has just made.
    pub(crate) fn add_own(&mut self, repository: &Repository, key: &str, bytes: &[u8]) -> Result<()> {
        let entry = decode_entry(repository, key, bytes).map_err(Error::object(key))?;
        let session = SessionId { number: entry.fields.number, intent: Hash::of(bytes) };
        let entry =
            LogEntry { session, entry: Ok(Box::new(entry)), revoked: None, outcome: Outcome::Undecided };
        self.entries.insert(session.number, entry);
        Ok(())
    }

    /// Reads what follows the highest entry, by name, up to the first number that nobody has: no listing can be too old
    /// for that. Outcomes are read of what collects.
    pub async fn extend(&mut self, repository: &Repository) -> Result<()> {
        let mut found = 0u32;
        loop {
            let next = self.highest().saturating_add(1);
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
        self.distrust_revoked();
        self.settle_gcs(repository, u64::MAX).await
    }

    /// Reads by name what a stale listing may have left out below `end`.
    ///
    /// Errors: [`Error::Missing`] for an entry that is not there: without it nothing can be reused safely.
    pub async fn complete(&mut self, repository: &Repository, end: u64) -> Result<()> {
        while let Some(gap) = self.first_gap(end) {
            let key = names::log(&repository.keys.zone, gap);
            self.read_entries(repository, vec![Wanted::by_name(key.clone())], &Monitor::silent()).await?;
            let entry = self.entries.get(&gap).ok_or(Error::Missing { key })?;
            let outcome = names::outcome(&repository.keys.zone, &entry.session);
            self.read_outcomes(repository, vec![Wanted::by_name(outcome)], &Monitor::silent()).await?;
        }
        self.distrust_revoked();
        self.settle_gcs(repository, end).await
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

    async fn read_outcomes_of(&mut self, repository: &Repository, of: Vec<SessionId>) -> Result<()> {
        let zone = &repository.keys.zone;
        let wanted = of.iter().map(|session| Wanted::by_name(names::outcome(zone, session))).collect();
        self.read_outcomes(repository, wanted, &Monitor::silent()).await
    }

    async fn read_outcomes(
        &mut self,
        repository: &Repository,
        wanted: Vec<Wanted>,
        monitor: &Monitor,
    ) -> Result<()> {
        let zone = &repository.keys.zone;
        let decode = |key: &str, bytes: &Bytes| self.decode_outcome(repository, key, bytes);
        for Read { key, value, .. } in repository.read_all(wanted, monitor, decode).await? {
            let outcome = supported(&key, value)?.unwrap_or_else(Outcome::Invalid);
            match ZoneKey::parse(zone, &key) {
                Ok(ZoneKey::Outcome(session)) if self.has(&session) => {
                    self.entries.entry(session.number).and_modify(|entry| entry.outcome = outcome);
                }
                // An outcome of an intent that is not in the log belongs to nothing.
                _ => self.strangers.push(key),
            }
        }
        Ok(())
    }

    fn decode_outcome(&self, repository: &Repository, key: &str, bytes: &[u8]) -> Verified<Outcome> {
        let ZoneKey::Outcome(session) = ZoneKey::parse(&repository.keys.zone, key)? else {
            return Err(forged("outcome", "its key is another object's"));
        };
        let entry = self.entries.get(&session.number).filter(|entry| entry.session == session);
        match entry.map(|entry| &entry.entry) {
            Some(Ok(announced)) => decode_outcome(&repository.keys.trust, announced, session, bytes),
            _ => Err(forged("outcome", "its log entry is void")),
        }
    }
}

/// What does not verify is void; what verifies and is newer than this program must stop it.
fn supported<T>(key: &str, value: Verified<T>) -> Result<Verified<T>> {
    match value {
        Err(source @ FormatError::Unsupported { .. }) => Err(Error::Object { key: key.to_owned(), source }),
        value => Ok(value),
    }
}

fn forged(what: &'static str, detail: &str) -> FormatError {
    FormatError::Forged { what, detail: detail.to_owned() }
}

fn decode_entry(repository: &Repository, key: &str, bytes: &[u8]) -> Verified<Record<Entry>> {
    let entry = record::decode::<Entry>(&repository.keys.trust, bytes)?;
    let fields = &entry.fields;
    let fits = fields.repository == repository.keys.trust.repository
        && fields.zone == repository.keys.zone
        && names::log(&fields.zone, fields.number) == key;
    if fits { Ok(entry) } else { Err(forged(Entry::KIND, "it was made for another place")) }
}

fn decode_outcome(
    trust: &Trust,
    announced: &Record<Entry>,
    session: SessionId,
    bytes: &[u8],
) -> Verified<Outcome> {
    let elsewhere = |what| forged(what, "it was made for another session");
    let writer = &announced.fields.by.name;
    match record::first_line(bytes) {
        line if line == Manifest::KIND.as_bytes() => {
            let record = record::decode::<Manifest>(trust, bytes)?;
            let fits = record.fields.session == session
                && record.fields.by.name == *writer
                && matches!(&announced.fields.kind, Kind::Backup(intent)
                    if intent.vm == record.fields.vm && intent.parents == record.fields.parents);
            if fits { Ok(Outcome::Manifest(Box::new(record))) } else { Err(elsewhere(Manifest::KIND)) }
        }
        line if line == Commit::KIND.as_bytes() => {
            let record = record::decode::<Commit>(trust, bytes)?;
            if record.fields.session != session || !matches!(announced.fields.kind, Kind::Gc { .. }) {
                return Err(elsewhere(Commit::KIND));
            }
            // A keeper may end another one's gc, but not decide what it gives up.
            if record.fields.by.name != *writer && record.signer != Signer::Admin {
                return Err(forged(Commit::KIND, "another keeper than the gc's own signed it"));
            }
            let lists = GcLists::decode(&record.public)?;
            Ok(Outcome::Commit(Box::new(record), Box::new(lists)))
        }
        _ => {
            let record = record::decode::<Abort>(trust, bytes)?;
            let by = &record.signer;
            let is_writer = matches!(by, Signer::Certified(certificate) if certificate.role == Role::Writer);
            if record.fields.session != session || (is_writer && record.fields.by.name != *writer) {
                return Err(elsewhere(Abort::KIND));
            }
            Ok(Outcome::Abort(Box::new(record)))
        }
    }
}
