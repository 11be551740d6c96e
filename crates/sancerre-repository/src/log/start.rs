//! Reading the log from its newest checkpoint on (FORMAT.md §9.4). For who restores or backs up: it takes as many
//! requests however long the log is. Whoever deletes or judges reads it whole.

use std::collections::BTreeSet;
use std::sync::Arc;

use sancerre_advice::Verb::Check;
use sancerre_format::checkpoint::{Checkpoint, CheckpointState};
use sancerre_format::id::Hash;
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::{self, Folder, Name, ZoneKey};
use sancerre_format::record::{self, Fields, Record};
use sancerre_format::{FormatError, limits};

use super::basis::Basis;
use super::decode::{carried_entry, carried_outcome};
use super::{Log, LogEntry, Outcome};
use crate::cache::{Read, Wanted};
use crate::error::{Error, Result, StoreError};
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use sancerre_store::Listed;

/// So many of the newest checkpoints are tried: an attacker with stolen write credentials can put junk above them.
const TRIED_MAX: usize = 4;

impl Log {
    /// Reads the log from its newest checkpoint on, or whole where there is none that serves. Entries and outcomes that the
    /// checkpoint carries may lack their parts; see [`Log::fill`].
    ///
    /// Errors: the store's.
    pub async fn load_recent(repository: &Repository, monitor: &Monitor) -> Result<Self> {
        match Self::from_checkpoint(repository, monitor).await? {
            Some(log) => Ok(log),
            None => Self::load_watched(repository, monitor).await,
        }
    }

    async fn from_checkpoint(repository: &Repository, monitor: &Monitor) -> Result<Option<Self>> {
        let mut listed = repository.list(Folder::Checkpoints).await?;
        listed.retain(|listed| {
            limits::check(&listed.key, listed.size_bytes).is_ok() && upto(repository, listed).is_some()
        });
        listed.sort_by(|one, other| other.key.cmp(&one.key));
        listed.truncate(TRIED_MAX);
        if listed.is_empty() {
            return Ok(None);
        }
        let keys = repository.store.list(names::KEYS).await?;
        let revoked = revoked(repository, &keys).await?;
        for candidate in listed {
            let Some(mut log) = read(repository, candidate, &revoked, monitor).await? else { continue };
            log.read(repository, monitor).await?;
            match log.contradiction(&revoked) {
                None => {
                    log.key_objects = Some(keys);
                    return Ok(Some(log));
                }
                Some(why) => {
                    monitor.warn(
                        Topic::Damage,
                        format!("a checkpoint is not used, the whole log is read: {why}; run {Check}"),
                    );
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// The log from what a checkpoint carries.
    ///
    /// Errors: a record of it that does not verify, or does not stand where it says.
    pub fn of_checkpoint(
        repository: &Repository,
        checkpoint: &Record<Checkpoint>,
        state: &CheckpointState,
    ) -> std::result::Result<Self, FormatError> {
        let basis = Some(Arc::new(Basis::new(checkpoint, state)));
        let mut log = Self { basis, ..Self::default() };
        log.approvals_needed = repository.approvals_needed;
        log.checkpoint = Some(checkpoint.fields.upto);
        for carried in &state.entries {
            log.insert(carried.session.number, carried_entry(repository, carried)?);
        }
        for carried in &state.outcomes {
            let entry = log.entries.get_mut(&carried.session.number).map(Arc::make_mut);
            let entry = entry.filter(|entry| entry.session == carried.session);
            let Some((entry, announced)) = entry.and_then(|entry| Some((entry.entry.clone().ok()?, entry)))
            else {
                return Err(forged("it carries an outcome without its entry"));
            };
            announced.outcome = carried_outcome(&repository.keys.trust, &entry, carried)?;
        }
        log.distrust_revoked();
        Ok(log)
    }

    /// Why the log above a checkpoint does not let a reader start there.
    fn contradiction(&self, revoked: &BTreeSet<Name>) -> Option<String> {
        let basis = self.basis.as_ref()?;
        if self.breaks().any(|(below, _)| basis.hash_of(below).is_some()) {
            return Some(format!("log entry {} follows on another one than the checkpoint says", basis.upto));
        }
        if revoked.contains(&basis.by) || self.revocation(&basis.by).is_some() {
            return Some(format!("the key of {}, who signed it, was revoked", basis.by));
        }
        let above = self.entries.range(basis.upto..).filter_map(|(_, entry)| entry.entry.as_deref().ok());
        let mut abandoned = above.filter_map(|entry| match &entry.fields.kind {
            Kind::Abandon(abandon) if abandon.session.number < basis.upto => Some(abandon.session.number),
            _ => None,
        });
        abandoned.next().map(|gc| format!("gc {gc} was given up after it"))
    }

    /// Reads in whole what a checkpoint carried without its parts: the entries of these sessions, and their manifests.
    ///
    /// Errors: [`StoreError::Missing`]; [`Error::Object`] for an object that is not the one which the checkpoint names.
    pub async fn fill(
        &mut self,
        repository: &Repository,
        entries: &BTreeSet<u64>,
        manifests: &BTreeSet<u64>,
    ) -> Result<()> {
        let zone = &repository.keys.zone;
        let wanted = self.not_whole(repository, entries, manifests);
        let unique = wanted.iter().map(|(key, hash)| Wanted::with_hash(key.clone(), hash)).collect();
        let decode = |_: &str, bytes: &bytes::Bytes| Ok(bytes.clone());
        let mut found = std::collections::BTreeMap::new();
        for Read { key, hash, value, unread } in
            repository.read_all(unique, &Monitor::silent(), decode).await?
        {
            let is_needed = manifests.iter().any(|number| {
                self.entries.get(number).is_some_and(|entry| names::outcome(zone, &entry.session) == key)
            });
            match (value, unread) {
                (Ok(bytes), None) => drop(found.insert(key, (hash, bytes))),
                // What it sealed is in the heads of packs too.
                _ if !is_needed => {}
                (_, Some(reason)) => return Err(Error::Store(StoreError::Withheld { key, reason })),
                (value, None) => drop(value.map_err(Error::object(&key))?),
            }
        }
        for (key, expected) in wanted {
            let is_entry = matches!(ZoneKey::parse(zone, &key), Ok(ZoneKey::Log(_)));
            match found.remove(&key) {
                Some((hash, bytes)) if hash == expected => {
                    self.put_whole(repository, &key, &bytes).map_err(Error::object(&key))?;
                }
                _ if is_entry => {}
                Some(_) => {
                    return Err(Error::object(&key)(forged("a checkpoint names another object at its key")));
                }
                None => return Err(Error::Store(StoreError::Missing { key })),
            }
        }
        Ok(())
    }

    /// Which of them are here without their parts: their keys and hashes.
    fn not_whole(
        &self,
        repository: &Repository,
        entries: &BTreeSet<u64>,
        manifests: &BTreeSet<u64>,
    ) -> Vec<(String, Hash)> {
        let zone = &repository.keys.zone;
        let mut wanted = Vec::new();
        for number in entries {
            // Frames of a session without an entry are missed when they are opened.
            // What a lost one said is looked for in the heads of packs.
            let entry = self.entries.get(number).filter(|entry| entry.lost.is_none());
            let Some(entry) = entry else { continue };
            if entry.announced().is_some_and(|record| !record.is_whole()) {
                wanted.push((names::log(zone, *number), entry.session.intent));
            }
        }
        for snapshot in manifests.iter().filter_map(|number| self.entries.get(number)?.snapshot()) {
            if !snapshot.manifest.is_whole() {
                wanted.push((snapshot.key(), snapshot.manifest.hash));
            }
        }
        wanted
    }

    fn put_whole(
        &mut self,
        repository: &Repository,
        key: &str,
        bytes: &[u8],
    ) -> std::result::Result<(), FormatError> {
        let trust = &repository.keys.trust;
        match ZoneKey::parse(&repository.keys.zone, key)? {
            ZoneKey::Log(number) => {
                let whole = record::decode::<Entry>(trust, bytes)?;
                let entry = self.entries.get_mut(&number).map(Arc::make_mut);
                let record = entry.and_then(|entry| entry.entry.as_mut().ok().or(entry.revoked.as_mut()));
                **record.ok_or_else(|| forged("it carries no entry with this number"))? = whole;
                Ok(())
            }
            ZoneKey::Outcome(session) => {
                let whole = record::decode(trust, bytes)?;
                match self.entries.get_mut(&session.number).map(Arc::make_mut) {
                    Some(LogEntry { outcome: Outcome::Manifest(manifest), .. }) => **manifest = whole,
                    _ => return Err(forged("it carries no manifest of this session")),
                }
                Ok(())
            }
            _ => Err(forged("no record of the log has such a key")),
        }
    }
}

fn forged(detail: &str) -> FormatError {
    FormatError::Forged { what: Checkpoint::KIND, detail: detail.to_owned() }
}

fn upto(repository: &Repository, listed: &Listed) -> Option<u64> {
    match ZoneKey::parse(&repository.keys.zone, &listed.key) {
        Ok(ZoneKey::Checkpoint(upto)) => Some(upto),
        _ => None,
    }
}

/// One checkpoint and what it carries; none if it is junk, newer than this program, or of a revoked key.
async fn read(
    repository: &Repository,
    listed: Listed,
    revoked: &BTreeSet<Name>,
    monitor: &Monitor,
) -> Result<Option<Log>> {
    let decode = |key: &str, bytes: &bytes::Bytes| {
        let (checkpoint, state) = decode(repository, key, bytes)?;
        if revoked.contains(&checkpoint.fields.by.name) {
            return Err(forged("its signer's key was revoked"));
        }
        Log::of_checkpoint(repository, &checkpoint, &state)
    };
    let mut read = repository.read_all(vec![Wanted::listed(listed)], monitor, decode).await?;
    let Some(Read { key, value, .. }) = read.pop() else { return Ok(None) };
    match value {
        Ok(log) => Ok(Some(log)),
        Err(error) => {
            monitor.warn(Topic::Damage, format!("checkpoint {key} is not used: {error}; run {Check}"));
            Ok(None)
        }
    }
}

/// A checkpoint that stands at its key.
///
/// Errors: what is wrong with it.
pub fn decode(
    repository: &Repository,
    key: &str,
    bytes: &[u8],
) -> std::result::Result<(Record<Checkpoint>, CheckpointState), FormatError> {
    let checkpoint = record::decode::<Checkpoint>(&repository.keys.trust, bytes)?;
    let fields = &checkpoint.fields;
    if fields.zone != repository.keys.zone || names::checkpoint(&fields.zone, fields.upto) != key {
        return Err(forged("it was made for another place"));
    }
    let state = CheckpointState::decode(checkpoint.public()?, fields.upto)?;
    Ok((checkpoint, state))
}

/// The names of revoked keys, by the copies of their revocations.
///
/// Errors: the store's.
async fn revoked(repository: &Repository, keys: &[Listed]) -> Result<BTreeSet<Name>> {
    let listed = keys.iter().filter(|listed| listed.key.starts_with(names::REVOKED)).cloned();
    let decode = |key: &str, bytes: &bytes::Bytes| {
        let entry = record::decode::<Entry>(&repository.keys.trust, bytes)?;
        match entry.fields.kind {
            Kind::Revoke(distrust) if names::revoked(&distrust.writer) == key => Ok(distrust.writer),
            _ => Err(forged("it is no revocation of the key that it is named after")),
        }
    };
    let wanted = listed.map(Wanted::listed).collect();
    let read = repository.read_all(wanted, &Monitor::silent(), decode).await?;
    Ok(read.into_iter().filter_map(|read| read.value.ok()).collect())
}
