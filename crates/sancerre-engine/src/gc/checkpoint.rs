//! After the commit: what still matters of the log is written down in one object, so that who restores on the worst day
//! reads that, and not ten years of nights (FORMAT.md §9.4).

use std::collections::BTreeMap;

use bytes::Bytes;
use sancerre_format::FormatError;
use sancerre_format::checkpoint::{CarriedRecord, Checkpoint, CheckpointState};
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::{Entry, KEEPERS};
use sancerre_format::names::{self, Folder, ZoneKey};
use sancerre_format::outcome::{Abort, Manifest};
use sancerre_format::record::{self, Cut};

use crate::cache::{Read, Wanted};
use crate::error::{Error, Result, StoreError};
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use crate::repository::catalogue::Present;
use crate::repository::log::{Carried, Log, LogEntry, Outcome, decode_checkpoint};
use crate::store::{Creation, Put, Removal};

/// Checkpoints that stay besides the new one: a reader may be about to read the last, and one may be damaged.
const KEPT: usize = 3;

/// Writes a checkpoint after the commit of `gc`, if so many entries came since the last, and deletes old ones. What goes
/// wrong is told: the next gc writes one.
pub(super) async fn follow(
    repository: &Repository,
    log: &Log,
    gc: SessionId,
    after_entries: u64,
    monitor: &Monitor,
) {
    if let Err(error) = write(repository, log, gc, after_entries).await {
        monitor.warn(
            Topic::Aside,
            format!("no checkpoint of the log was written, so that it is read from further back: {error}"),
        );
    }
}

async fn write(repository: &Repository, log: &Log, gc: SessionId, after_entries: u64) -> Result<()> {
    let upto = gc.number + 1;
    let mut listed = repository.list(Folder::Checkpoints).await?;
    let number = |key: &str| match ZoneKey::parse(&repository.keys.zone, key) {
        Ok(ZoneKey::Checkpoint(upto)) => Some(upto),
        _ => None,
    };
    listed.retain(|listed| number(&listed.key).is_some_and(|older| older < upto));
    listed.sort_by(|one, other| other.key.cmp(&one.key));
    let mut old = Vec::new();
    let mut last = None;
    for listed in listed {
        if last.is_none() {
            last = read(repository, Wanted::listed(listed.clone())).await?;
        }
        old.push(listed.key);
    }
    let since = last.as_ref().map_or(0, |(checkpoint, _)| checkpoint.upto);
    if upto - since < after_entries {
        return Ok(());
    }
    let (checkpoint, state) = make(repository, log, gc, last.map(|(_, state)| state)).await?;
    let signer = repository.signer(KEEPERS)?;
    let bytes = repository.sign(signer, &checkpoint, &state.encode()?, &[])?;
    prove(repository, log, &bytes)?;
    let key = names::checkpoint(&repository.keys.zone, upto);
    if let Put::Occupied(_) = repository.store.put_new(&key, bytes).await? {
        return Err(Error::Lost { what: format!("a free key for a checkpoint: something lies at {key}") });
    }
    for key in old.into_iter().skip(KEPT) {
        match repository.store.delete(&key).await {
            // It is locked for as long as the rest.
            Err(StoreError::DeleteRefused { .. }) => {}
            deleted => deleted?,
        }
    }
    Ok(())
}

/// A checkpoint and its state; none that does not serve.
async fn read(repository: &Repository, wanted: Wanted) -> Result<Option<(Checkpoint, CheckpointState)>> {
    let decode = |key: &str, bytes: &Bytes| decode_checkpoint(repository, key, bytes);
    let read = repository.read_all(vec![wanted], &Monitor::silent(), decode).await?.pop();
    Ok(read.and_then(|read| read.value.ok()).map(|(record, state)| (record.fields, state)))
}

async fn make(
    repository: &Repository,
    log: &Log,
    gc: SessionId,
    last: Option<CheckpointState>,
) -> Result<(Checkpoint, CheckpointState)> {
    let upto = gc.number + 1;
    log.refuse_unread(&repository.keys.zone)?;
    log.refuse_opaque(&repository.keys.zone, upto)?;
    let commit = log.entry(gc.number).and_then(LogEntry::outcome_hash);
    let checkpoint = Checkpoint {
        repository: repository.keys.trust.repository,
        zone: repository.keys.zone.clone(),
        upto,
        previous: gc.intent,
        commit: commit.ok_or_else(|| Error::Lost { what: format!("the commit of gc {}", gc.number) })?,
        by: repository.signer(KEEPERS)?.by.clone(),
        time: repository.host.clock.now(),
    };
    let indexed =
        repository.list(Folder::Index).await?.into_iter().filter_map(|listed| {
            match ZoneKey::parse(&repository.keys.zone, &listed.key) {
                Ok(ZoneKey::Index(session, _)) if log.has(&session) => Some(session.number),
                _ => None,
            }
        });
    // As it is now: with the copies that this gc made, and without what it deleted.
    let present = Present::load(repository).await?;
    let carried = log.carried(upto, present.names(), &indexed.collect())?;
    // invariant: from no checkpoint nothing is carried over, and all is read from the store
    let state = gather(repository, log, carried, last.unwrap_or_default()).await?;
    Ok((checkpoint, state))
}

/// Brings together the bytes of what is carried: from the last checkpoint, or from the store.
async fn gather(
    repository: &Repository,
    log: &Log,
    carried: Carried,
    last: CheckpointState,
) -> Result<CheckpointState> {
    let lost = |number: &u64| Error::Lost {
        what: format!("log entry {number} as it was read before, or its outcome"),
    };
    let entries = carried.entries.iter().map(|(number, cut)| {
        let entry = log.entry(*number).ok_or_else(|| lost(number))?;
        Ok((entry, entry.session.intent, *cut))
    });
    let outcomes = carried.outcomes.iter().map(|(number, cut)| {
        let entry = log.entry(*number).ok_or_else(|| lost(number))?;
        Ok((entry, entry.outcome_hash().ok_or_else(|| lost(number))?, *cut))
    });
    let entries: Vec<_> = entries.collect::<Result<_>>()?;
    let outcomes: Vec<_> = outcomes.collect::<Result<_>>()?;
    let zone = &repository.keys.zone;
    let entries =
        of_records(repository, entries, &last.entries, |entry| names::log(zone, entry.session.number))
            .await?;
    let outcomes =
        of_records(repository, outcomes, &last.outcomes, |entry| names::outcome(zone, &entry.session))
            .await?;
    let heads = carried.heads.into_iter().collect();
    let extensions = Vec::new();
    Ok(CheckpointState { kept: carried.kept, moves: carried.moves, heads, entries, outcomes, extensions })
}

async fn of_records(
    repository: &Repository,
    wanted: Vec<(&LogEntry, Hash, Cut)>,
    last: &[CarriedRecord],
    key_of: impl Fn(&LogEntry) -> String,
) -> Result<Vec<CarriedRecord>> {
    let last: BTreeMap<(Hash, Cut), &CarriedRecord> =
        last.iter().map(|one| ((one.hash, one.cut), one)).collect();
    let (mut records, mut fetch) = (Vec::new(), BTreeMap::new());
    for (entry, hash, cut) in wanted {
        match last.get(&(hash, cut)) {
            // The hash was this signer's word when he wrote it; the record is that of a log that he has read since.
            Some(known) if known.session == entry.session => records.push(CarriedRecord::clone(known)),
            _ => drop(fetch.insert(key_of(entry), (entry, hash, cut))),
        }
    }
    let keys = fetch.iter().map(|(key, (_, hash, _))| Wanted::with_hash(key.clone(), hash)).collect();
    let decode = |_: &str, bytes: &Bytes| Ok(bytes.clone());
    for Read { key, hash, value, .. } in repository.read_all(keys, &Monitor::silent(), decode).await? {
        let Some((entry, expected, cut)) = fetch.remove(&key) else { continue };
        let bytes = value.map_err(Error::object(&key))?;
        if hash != expected {
            return Err(Error::Lost { what: format!("the object {key} as it was read before") });
        }
        let bytes = cut_of(entry, &key, &bytes, cut).map_err(Error::object(&key))?;
        records.push(CarriedRecord { session: entry.session, hash, cut, bytes });
    }
    if let Some((key, _)) = fetch.pop_first() {
        return Err(Error::Store(StoreError::Missing { key }));
    }
    records.sort_by_key(|record| record.session);
    Ok(records)
}

fn cut_of(entry: &LogEntry, key: &str, bytes: &[u8], cut: Cut) -> std::result::Result<Vec<u8>, FormatError> {
    if !key.contains("/outcome/") {
        return record::cut::<Entry>(bytes, cut);
    }
    match entry.outcome {
        Outcome::Manifest(_) => record::cut::<Manifest>(bytes, cut),
        _ => record::cut::<Abort>(bytes, cut),
    }
}

/// Reads the checkpoint as every reader will, and compares what he will see with the log.
///
/// Errors: [`Error::Lost`] when it is not the same: nothing is published then.
fn prove(repository: &Repository, log: &Log, bytes: &[u8]) -> Result<()> {
    let what = |why: String| Error::Lost { what: format!("a checkpoint that says what the log says: {why}") };
    let checkpoint = record::decode::<Checkpoint>(&repository.keys.trust, bytes)?;
    let key = names::checkpoint(&repository.keys.zone, checkpoint.fields.upto);
    let (checkpoint, state) =
        decode_checkpoint(repository, &key, bytes).map_err(|error| what(error.to_string()))?;
    let recent =
        Log::of_checkpoint(repository, &checkpoint, &state).map_err(|error| what(error.to_string()))?;
    recent.differs_from(log)?.map_or(Ok(()), |why| Err(what(why)))
}
