//! The log of a zone: every session and its outcome, verified, and what follows from them.

mod avoid;
mod digest;
mod moves;
mod standing;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use sancerre_format::FormatError;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::{Distrust, Entry, Kind};
use sancerre_format::names::{self, Folder, Name, ZoneKey};
use sancerre_format::outcome::{Abort, Body, Commit, Manifest};
use sancerre_format::record::{self, Fields, Record, Trust};
use sancerre_format::seal::{UnitKind, UnitName};

use crate::error::{Error, Result};
use crate::repository::Repository;

pub use avoid::Avoid;
pub use moves::{Marks, Moves};
pub use standing::Standing;

/// A log entry and what became of it.
#[derive(Debug, Clone)]
pub struct LogEntry {
    /// Number and hash.
    pub session: SessionId,
    /// The entry; an entry that does not verify keeps its number and is void.
    pub entry: std::result::Result<Box<Record<Entry>>, FormatError>,
    /// The entry, if it is void only because its writer's key was revoked.
    pub revoked: Option<Box<Record<Entry>>>,
    /// Its outcome.
    pub outcome: Outcome,
}

/// What ended a session.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Nothing yet, or the entry needs none.
    Undecided,
    /// A snapshot.
    Manifest(Box<Record<Manifest>>),
    /// Nothing came of it.
    Abort(Box<Record<Abort>>),
    /// A garbage collection.
    Commit(Box<Record<Commit>>, Box<GcLists>),
    /// An object that does not verify: neither "absent" nor "aborted".
    Invalid(FormatError),
}

/// A committed snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// Its log entry.
    pub entry: &'a Record<Entry>,
    /// Its manifest.
    pub manifest: &'a Record<Manifest>,
}

impl Snapshot<'_> {
    /// Its session; the hash is the snapshot's id.
    pub fn session(&self) -> SessionId {
        self.manifest.fields.session
    }

    /// The snapshot's id.
    pub fn id(&self) -> Hash {
        self.session().intent
    }
}

/// Everything the log of a zone says.
#[derive(Debug, Clone, Default)]
pub struct Log {
    entries: BTreeMap<u64, LogEntry>,
    strangers: Vec<String>,
}

impl Log {
    /// Reads the whole log: two listings, then every entry and outcome.
    ///
    /// Errors: the store's; [`Error::Object`] for an entry that verifies but needs a newer version.
    pub async fn load(repository: &Repository) -> Result<Self> {
        let mut log = Self::default();
        log.refresh(repository).await?;
        Ok(log)
    }

    /// Reads what was added since: nothing that was read once can change.
    pub async fn refresh(&mut self, repository: &Repository) -> Result<()> {
        self.strangers.clear();
        let zone = &repository.keys.zone;
        let mut entries = self.list(repository, Folder::Log).await?;
        let mut outcomes = self.list(repository, Folder::Outcome).await?;
        entries.retain(|key| !matches!(ZoneKey::parse(zone, key), Ok(ZoneKey::Log(number)) if self.entries.contains_key(&number)));
        for (key, bytes) in repository.store.get_all(entries).await? {
            let Some(bytes) = bytes else { continue };
            self.add_entry(repository, &key, &bytes)?;
        }
        self.distrust_revoked();
        outcomes.retain(|key| !matches!(ZoneKey::parse(zone, key), Ok(ZoneKey::Outcome(session)) if self.is_decided(&session)));
        for (key, bytes) in repository.store.get_all(outcomes).await? {
            let Some(bytes) = bytes else { continue };
            self.add_outcome(repository, &key, &bytes)?;
        }
        Ok(())
    }

    fn is_decided(&self, session: &SessionId) -> bool {
        let entry = self.entries.get(&session.number).filter(|entry| entry.session == *session);
        entry.is_some_and(|entry| !matches!(entry.outcome, Outcome::Undecided | Outcome::Invalid(_)))
    }

    async fn list(&mut self, repository: &Repository, folder: Folder) -> Result<Vec<String>> {
        let listed = repository.store.list(&repository.folder(folder)).await?;
        let mut keys = Vec::new();
        for listed in listed {
            match ZoneKey::parse(&repository.keys.zone, &listed.key) {
                Ok(_) => keys.push(listed.key),
                Err(_) => self.strangers.push(listed.key),
            }
        }
        keys.sort();
        Ok(keys)
    }

    fn add_entry(&mut self, repository: &Repository, key: &str, bytes: &Bytes) -> Result<()> {
        let Ok(ZoneKey::Log(number)) = ZoneKey::parse(&repository.keys.zone, key) else { return Ok(()) };
        let session = SessionId { number, intent: Hash::of(bytes) };
        let entry = match record::decode::<Entry>(&repository.keys.trust, bytes) {
            Ok(entry) => place_fits(repository, &entry, number).map(|()| Box::new(entry)),
            Err(source @ FormatError::Unsupported { .. }) => {
                return Err(Error::Object { key: key.to_owned(), source });
            }
            Err(error) => Err(error),
        };
        self.entries.insert(number, LogEntry { session, entry, revoked: None, outcome: Outcome::Undecided });
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

    fn add_outcome(&mut self, repository: &Repository, key: &str, bytes: &Bytes) -> Result<()> {
        let Ok(ZoneKey::Outcome(session)) = ZoneKey::parse(&repository.keys.zone, key) else { return Ok(()) };
        // An outcome of an intent that is not in the log belongs to nothing.
        let Some(entry) = self.entries.get_mut(&session.number).filter(|entry| entry.session == session)
        else {
            self.strangers.push(key.to_owned());
            return Ok(());
        };
        entry.outcome = match &entry.entry {
            Err(_) => Outcome::Invalid(FormatError::Forged {
                what: "outcome",
                detail: "its log entry is void".into(),
            }),
            Ok(announced) => match decode_outcome(&repository.keys.trust, announced, session, bytes) {
                Err(source @ FormatError::Unsupported { .. }) => {
                    return Err(Error::Object { key: key.to_owned(), source });
                }
                other => other.unwrap_or_else(Outcome::Invalid),
            },
        };
        Ok(())
    }

    fn valid(&self) -> impl Iterator<Item = &Record<Entry>> {
        self.entries.values().filter_map(|entry| entry.entry.as_deref().ok())
    }

    /// What revokes a key, with the lowest number.
    pub fn revocation(&self, name: &Name) -> Option<&Distrust> {
        let distrusts = self.valid().filter_map(|entry| match &entry.fields.kind {
            Kind::Revoke(distrust) => Some(distrust),
            _ => None,
        });
        distrusts.filter(|distrust| distrust.writer == *name).min_by_key(|distrust| distrust.from)
    }

    /// All entries, ascending.
    pub fn entries(&self) -> impl Iterator<Item = &LogEntry> {
        self.entries.values()
    }

    /// The entry with this number.
    pub fn entry(&self, number: u64) -> Option<&LogEntry> {
        self.entries.get(&number)
    }

    /// Keys below `log/` and `outcome/` that belong to nothing.
    pub fn strangers(&self) -> &[String] {
        &self.strangers
    }

    /// The highest number taken; 0 in an empty log. Entries that do not verify count while they follow without a gap:
    /// junk under a far higher number is no part of the log.
    pub fn highest(&self) -> u64 {
        let verified = self.entries.iter().rfind(|(_, entry)| entry.entry.is_ok());
        let mut highest = verified.map_or(0, |(number, _)| *number);
        while let Some(next) = highest.checked_add(1).filter(|next| self.entries.contains_key(next)) {
            highest = next;
        }
        highest
    }

    /// The first number below `end` that has no entry: a stale view of the store, or damage.
    pub fn first_gap(&self, end: u64) -> Option<u64> {
        let mut expected = 1;
        for number in self.entries.range(..end).map(|(number, _)| *number) {
            if number != expected {
                return Some(expected);
            }
            expected = number.saturating_add(1);
        }
        (expected < end).then_some(expected)
    }

    /// The numbers below the highest that have no entry; there may be very many.
    pub fn missing(&self) -> impl Iterator<Item = u64> + '_ {
        (1..self.highest()).filter(|number| !self.entries.contains_key(number))
    }

    /// Reads by name what a stale listing may have left out below `end`.
    ///
    /// Errors: [`Error::Missing`] for an entry that is not there: without it nothing can be reused safely.
    pub async fn complete(&mut self, repository: &Repository, end: u64) -> Result<()> {
        while let Some(gap) = self.first_gap(end) {
            let key = names::log(&repository.keys.zone, gap);
            let bytes = repository.store.need(&key).await?;
            self.add_entry(repository, &key, &bytes)?;
            let entry = self.entries.get(&gap).map(|entry| entry.session);
            let outcome = entry.map(|session| names::outcome(&repository.keys.zone, &session));
            if let Some(key) = outcome
                && let Some(bytes) = repository.store.get(&key).await?
            {
                self.add_outcome(repository, &key, &bytes)?;
            }
        }
        self.distrust_revoked();
        let gcs: Vec<SessionId> =
            self.undecided(end).filter(|entry| entry.is_gc()).map(|entry| entry.session).collect();
        self.read_outcomes(repository, gcs).await
    }

    /// Sessions below `end` that no outcome has ended yet.
    pub fn undecided(&self, end: u64) -> impl Iterator<Item = &LogEntry> {
        let open = |entry: &LogEntry| {
            let announced = entry.entry.as_ref().is_ok_and(|entry| entry.fields.kind.needs_outcome());
            announced && matches!(entry.outcome, Outcome::Undecided)
        };
        self.entries.range(..end).map(|(_, entry)| entry).filter(move |entry| open(entry))
    }

    /// Reads by name the outcomes below `end` that a stale listing may have left out.
    pub async fn settle(&mut self, repository: &Repository, end: u64) -> Result<()> {
        let open: Vec<SessionId> = self.undecided(end).map(|entry| entry.session).collect();
        self.read_outcomes(repository, open).await
    }

    async fn read_outcomes(&mut self, repository: &Repository, of: Vec<SessionId>) -> Result<()> {
        let zone = &repository.keys.zone;
        let keys = of.iter().map(|session| names::outcome(zone, session)).collect();
        for (key, bytes) in repository.store.get_all(keys).await? {
            let Some(bytes) = bytes else { continue };
            self.add_outcome(repository, &key, &bytes)?;
        }
        Ok(())
    }

    /// The newest committed gc below `number`.
    pub fn newest_commit(&self, number: u64) -> Option<(u64, &Record<Commit>, &GcLists)> {
        self.entries.range(..number).rev().find_map(|(number, entry)| match &entry.outcome {
            Outcome::Commit(commit, lists) => Some((*number, commit.as_ref(), lists.as_ref())),
            _ => None,
        })
    }

    /// The VM's newest snapshot.
    pub fn latest(&self, vm: &Name) -> Option<Snapshot<'_>> {
        self.snapshots().into_iter().rfind(|snapshot| snapshot.manifest.fields.vm == *vm)
    }

    /// The VM's newest outcomes that no later session names as a parent: what the next one builds on.
    pub fn heads(&self, vm: &Name) -> Vec<SessionId> {
        let mut heads = BTreeSet::new();
        for entry in self.entries.values() {
            let Ok(Kind::Backup(intent)) = entry.entry.as_deref().map(|entry| &entry.fields.kind) else {
                continue;
            };
            if intent.vm == *vm && matches!(entry.outcome, Outcome::Manifest(_) | Outcome::Abort(_)) {
                intent.parents.iter().for_each(|parent| {
                    heads.remove(parent);
                });
                heads.insert(entry.session);
            }
        }
        heads.into_iter().collect()
    }

    /// Whether gc closed the session without a manifest (W7): commits above it, and none knows it.
    pub fn closed_by_gc(&self, session: &SessionId) -> bool {
        let above = self.entries.range(session.number.saturating_add(1)..);
        let mut commits = above.filter_map(|(_, entry)| match &entry.outcome {
            Outcome::Commit(_, lists) => Some(lists),
            _ => None,
        });
        let knows = |lists: &GcLists| {
            lists.live.binary_search(session).is_ok() || lists.forgotten.binary_search(session).is_ok()
        };
        commits.next().is_some_and(|first| !knows(first) && !commits.any(|lists| knows(lists)))
    }
}

impl LogEntry {
    /// What its signer announced, also if that is not trusted any more: it still says whose packs these are.
    pub fn announced(&self) -> Option<&Record<Entry>> {
        self.entry.as_deref().ok().or(self.revoked.as_deref())
    }

    /// Whether it announces a garbage collection.
    pub fn is_gc(&self) -> bool {
        self.entry.as_ref().is_ok_and(|entry| matches!(entry.fields.kind, Kind::Gc { .. }))
    }

    /// The snapshot this entry became.
    pub fn snapshot(&self) -> Option<Snapshot<'_>> {
        match (&self.entry, &self.outcome) {
            (Ok(entry), Outcome::Manifest(manifest)) => Some(Snapshot { entry, manifest }),
            _ => None,
        }
    }
}

fn place_fits(
    repository: &Repository,
    entry: &Record<Entry>,
    number: u64,
) -> std::result::Result<(), FormatError> {
    let fields = &entry.fields;
    if fields.repository == repository.keys.trust.repository
        && fields.zone == repository.keys.zone
        && fields.number == number
    {
        return Ok(());
    }
    Err(FormatError::Forged { what: Entry::KIND, detail: "it was made for another place".into() })
}

fn decode_outcome(
    trust: &Trust,
    announced: &Record<Entry>,
    session: SessionId,
    bytes: &[u8],
) -> std::result::Result<Outcome, FormatError> {
    let elsewhere = |what| FormatError::Forged { what, detail: "it was made for another session".into() };
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
            let lists = GcLists::decode(&record.public)?;
            Ok(Outcome::Commit(Box::new(record), Box::new(lists)))
        }
        _ => {
            let record = record::decode::<Abort>(trust, bytes)?;
            let by = &record.signer;
            let is_writer = matches!(by, sancerre_format::certificate::Signer::Certified(certificate)
                if certificate.role == sancerre_format::certificate::Role::Writer);
            if record.fields.session != session || (is_writer && record.fields.by.name != *writer) {
                return Err(elsewhere(Abort::KIND));
            }
            Ok(Outcome::Abort(Box::new(record)))
        }
    }
}

/// The sealed body of a snapshot: tags and disks.
pub fn open_body(repository: &Repository, snapshot: &Snapshot<'_>) -> Result<Body> {
    let session = snapshot.session();
    let key = names::outcome(&repository.keys.zone, &session);
    let name = UnitName { kind: UnitKind::Body, session, a: 0, b: 0 };
    let root = repository.keys.metadata_root(&session)?;
    let raw =
        sancerre_format::seal::open(&root, &name, &snapshot.manifest.sealed).map_err(Error::object(&key))?;
    Body::decode(&raw).map_err(Error::object(&key))
}
