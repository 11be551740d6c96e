//! The chain of admin keys (FORMAT.md §4.6): walking it, and handing over to a new key.
//!
//! Every record is created once, at the first free number, and signed by the key before it. So of two that follow on one
//! key the lower number stands for ever, and whoever steals a key that was replaced comes too late to fork the chain.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{StreamExt, stream};
use sancerre_advice::Setting::DropObjects;
use sancerre_format::FormatError;
use sancerre_format::certificate::{Certificate, Role};
use sancerre_format::config::{Config, IdentityRecord, ZoneRecord};
use sancerre_format::id::Hash;
use sancerre_format::names::{self, Zone};
use sancerre_format::recipient::{AdminKey, RecipientRecord};
use sancerre_format::record::{self, Record, Trust};
use sancerre_format::sign::{PublicKey, SigningKey};
use sancerre_format::trust::Succession;

use super::objects::{self, KeyRecord, LeftOut};
use super::recipients::{self, Removed};
use super::{Keys, SecretString, read_config};
use crate::error::{Error, Result, StoreError};
use crate::log::{Log, UNKNOWN};
use crate::repository::Repository;
use sancerre_store::{Creation, Listed, Put, Store};

/// Objects in flight at once.
const READS_IN_FLIGHT: usize = 32;

/// What a repository is verified against, as its store says it.
pub struct Anchored {
    /// Its constants.
    pub config: Config,
    /// Its admin keys, as far as the chain goes.
    pub trust: Trust,
    /// Objects in the place of the chain that are none of it.
    pub left_out: Vec<LeftOut>,
    /// The last object of the chain.
    last: Hash,
}

impl Anchored {
    /// Reads `config`, against the trust anchor that is known if one is, and follows the chain of admin keys.
    ///
    /// Errors: as [`read_config`]; the store's.
    pub async fn read(store: &Store, known: Option<&Trust>) -> Result<Self> {
        let config = read_config(store, known);
        let (config, objects) = futures::try_join!(config, read_chain(store))?;
        let mut anchored = Self {
            trust: config.fields.trust(),
            config: config.fields,
            left_out: Vec::new(),
            last: config.hash,
        };
        for (key, read) in objects {
            match read.and_then(|bytes| anchored.follow(&key, &bytes).map_err(Error::object(&key))) {
                Ok(()) => {}
                Err(why) => anchored.left_out.push(LeftOut { key, why }),
            }
        }
        Ok(anchored)
    }

    fn follow(&mut self, key: &str, bytes: &[u8]) -> std::result::Result<(), FormatError> {
        let record = objects::decode::<Succession>(&self.trust, key, bytes)?;
        self.trust.follow(&record, self.last)?;
        self.last = record.hash;
        Ok(())
    }
}

/// The objects that may be of the chain, ascending.
async fn read_chain(store: &Store) -> Result<Vec<(String, Result<Bytes>)>> {
    let mut listed = store.list(names::SUCCESSIONS).await?;
    listed.retain(|listed| names::succession_number(&listed.key).is_some());
    listed.sort_by(|a, b| a.key.cmp(&b.key));
    let reads = listed.into_iter().map(|Listed { key, size_bytes, .. }| async move {
        let read = async {
            objects::refuse_size(&key, size_bytes)?;
            let gone = || Error::Store(StoreError::Missing { key: key.clone() });
            store.get(&key).await?.ok_or_else(gone)
        };
        let read = read.await;
        (key, read)
    });
    let mut reads = stream::iter(reads).buffered(READS_IN_FLIGHT);
    let mut found = Vec::new();
    while let Some((key, read)) = reads.next().await {
        let read = match read {
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(objects::of_one_object(store, error).await?),
        };
        found.push((key, read));
    }
    Ok(found)
}

/// What handing over came to.
#[derive(Debug)]
pub struct Rotated {
    /// The number of the new key.
    pub number: u16,
    /// The new key.
    pub admin: PublicKey,
    /// Objects below `keys/` that go on to count.
    pub kept: Vec<String>,
    /// Those that do not, of keys that were revoked or named by the caller.
    pub dropped: Vec<String>,
    /// What holds the old key and could not be removed.
    pub removed: Removed,
}

/// Hands over to a new admin key, sealed under the passphrase. What the old one signed before counts on, but for the
/// objects in `drop` and certificates of revoked keys; it signs nothing any more.
///
/// Errors: [`Error::WrongKey`] without the admin's key, or with one that was replaced; [`Error::Usage`] for objects to
/// drop that are none; [`StoreError::Occupied`] when somebody else hands over at the same time; the store's.
pub async fn rotate(
    repository: &Repository,
    passphrase: &SecretString,
    drop: &BTreeSet<String>,
) -> Result<Rotated> {
    let (store, host) = (&repository.store, &repository.host);
    let old = repository.signer(&[Role::Admin])?.key.clone();
    let anchored = Anchored::read(store, Some(&repository.keys.trust)).await?;
    refuse_unknown(&anchored)?;
    if *anchored.trust.current() != old.public() {
        return Err(replaced());
    }
    let trust = &anchored.trust;
    let zones = zones(repository).await?;
    let (kept, dropped) = inventory(repository, trust, &zones, drop).await?;
    let new = SigningKey::from_seed(host.random());
    let label = recipients::free_label(repository, &recipients::read(store, trust).await?).await?;
    let holders = objects::read::<AdminKey>(store, trust).await?.records;
    // Before the chain names the new key, its holder is junk; after that nobody may be without it.
    recipients::put_admin(store, host, trust.repository, &new, &label, passphrase).await?;
    let number = free_number(store, trust).await?;
    let succession = Succession {
        repository: trust.repository,
        number,
        admin: new.public(),
        previous: anchored.last,
        created: host.clock.now(),
        from: zones.iter().map(|(zone, (from, _))| (zone.clone(), *from)).collect(),
        keeps: kept.clone().into_iter().collect(),
        proof: String::new(),
    };
    put(store, host.tool, trust, &old, succession.prove(&new)?).await?;
    let mut removed = Removed::default();
    for (record, _) in holders {
        recipients::delete(repository, record.fields.key(), &mut removed).await;
    }
    Ok(Rotated { number, admin: new.public(), kept: kept.into_keys().collect(), dropped, removed })
}

fn replaced() -> Error {
    Error::WrongKey {
        what: "the admin's key at hand was replaced: what it signs does not count".into(),
        advice: "use the passphrase that opens the present one".into(),
    }
}

/// Beyond a record of a later version the chain may go on.
fn refuse_unknown(anchored: &Anchored) -> Result<()> {
    match anchored.left_out.iter().find(|left_out| left_out.is_unsupported()) {
        Some(LeftOut { key, why: Error::Object { source, .. } }) => {
            Err(Error::Object { key: key.clone(), source: source.clone() })
        }
        _ => Ok(()),
    }
}

async fn put(store: &Store, tool: &str, trust: &Trust, old: &SigningKey, new: Succession) -> Result<()> {
    let key = names::succession(new.number);
    let bytes = record::encode(&new, tool, old, &[], &[])?;
    let too_many = format!("it names too many objects: let some go with {DropObjects}");
    sancerre_format::limits::check(&key, sancerre_format::bytes::to_u64(bytes.len())).map_err(|error| {
        Error::Usage(format!("the record of the new admin key cannot be made: {error}; {too_many}"))
    })?;
    let unreadable = |source| Error::Unreadable { signer: "the admin".into(), source };
    let read = record::decode::<Succession>(trust, &bytes).map_err(unreadable)?;
    trust.clone().follow(&read, new.previous).map_err(unreadable)?;
    match store.put_new(&key, bytes.into()).await? {
        Put::Created => Ok(()),
        Put::Occupied(_) => Err(Error::Store(StoreError::Occupied {
            key,
            advice:
                "somebody else hands over at the same time, or put something there; run the command again"
                    .into(),
        })),
    }
}

/// The first number above the last of the chain at which nothing is: below it nobody can put anything any more.
async fn free_number(store: &Store, trust: &Trust) -> Result<u16> {
    let listed = store.list(names::SUCCESSIONS).await?;
    let used: BTreeSet<u16> =
        listed.iter().filter_map(|listed| names::succession_number(&listed.key)).collect();
    let free = (trust.number()..=u16::MAX).skip(1).find(|number| !used.contains(number));
    free.ok_or_else(|| Error::Lost { what: "a free number for an admin key".into() })
}

/// Every zone: the first number of its log that is free, and its log.
async fn zones(repository: &Repository) -> Result<BTreeMap<Zone, (u64, Log)>> {
    let listed = repository.store.list(names::ZONES).await?;
    let mut zones: BTreeSet<Zone> =
        listed.iter().filter_map(|listed| names::zone_of_key(&listed.key)).collect();
    let folders = repository.store.folders(names::ZONE_FOLDERS).await?;
    zones.extend(folders.iter().filter_map(|folder| Zone::new(folder).ok()));
    let mut found = BTreeMap::new();
    for zone in zones {
        let keys = Keys::public(repository.keys.trust.clone(), zone.clone()).into();
        let there = Repository { keys, ..repository.clone() };
        let mut log = Log::load(&there).await?;
        let from = loop {
            // What a listing left out is read by name. Beyond a gap numbers are free to whoever has the old key.
            match log.complete(&there, log.end()).await {
                Ok(()) | Err(Error::Gap { .. } | Error::Store(StoreError::Missing { .. })) => {}
                Err(error) => return Err(error),
            }
            let free = log.first_gap(Log::END).unwrap_or(u64::MAX);
            match repository.store.get(&names::log(&zone, free)).await? {
                None => break free,
                Some(_) => log.refresh(&there).await?,
            }
        };
        // So that no entry of the old key can be put where one is lost.
        log.fill_lost(&there, from).await?;
        found.insert(zone, (from, log));
    }
    Ok(found)
}

/// The objects that earlier keys signed: those that go on to count, with their hashes, and those that do not.
async fn inventory(
    repository: &Repository,
    trust: &Trust,
    zones: &BTreeMap<Zone, (u64, Log)>,
    drop: &BTreeSet<String>,
) -> Result<(BTreeMap<String, Hash>, Vec<String>)> {
    let store = &repository.store;
    let mut found = BTreeMap::new();
    add(store, trust, &mut found, |_: &Record<IdentityRecord>| true).await?;
    add(store, trust, &mut found, |_: &Record<RecipientRecord>| true).await?;
    add(store, trust, &mut found, |_: &Record<ZoneRecord>| true).await?;
    // They hold a key that is good for nothing any more, and are no damage where nobody can remove them.
    add(store, trust, &mut found, |_: &Record<AdminKey>| true).await?;
    let is_revoked = |certificate: &Certificate| {
        let log = zones.get(&certificate.zone).map(|(_, log)| log);
        log.is_some_and(|log| log.revocation(&certificate.name).is_some())
    };
    add(store, trust, &mut found, |record: &Record<Certificate>| !is_revoked(&record.fields)).await?;
    add_given_up(repository, zones, &mut found).await?;
    if let Some(stranger) = drop.iter().find(|key| !found.contains_key(*key)) {
        return Err(Error::Usage(format!("there is no object {stranger} that the admin's key signed")));
    }
    let keeps = |key: &String, kept: bool| kept && !drop.contains(key);
    let dropped = found.iter().filter(|(key, (_, kept))| !keeps(key, *kept)).map(|(key, _)| key.clone());
    let dropped = dropped.collect();
    let kept = found.into_iter().filter(|(key, (_, kept))| keeps(key, *kept));
    Ok((kept.map(|(key, (hash, _))| (key, hash)).collect(), dropped))
}

/// With these aborts an admin gave up entries of which nothing is known: without them nobody could go on.
async fn add_given_up(
    repository: &Repository,
    zones: &BTreeMap<Zone, (u64, Log)>,
    found: &mut BTreeMap<String, (Hash, bool)>,
) -> Result<()> {
    for (zone, (_, log)) in zones {
        let lost = log.lost_entries().map(|(session, _)| session);
        for session in lost.filter(|session| session.intent == UNKNOWN) {
            let key = names::outcome(zone, &session);
            let bytes = repository.store.get(&key).await?;
            let bytes = bytes.ok_or_else(|| Error::Store(StoreError::Missing { key: key.clone() }))?;
            let hash = record::head_hash(&bytes).map_err(Error::object(&key))?;
            found.insert(key, (hash, true));
        }
    }
    Ok(())
}

async fn add<F: KeyRecord>(
    store: &Store,
    trust: &Trust,
    found: &mut BTreeMap<String, (Hash, bool)>,
    is_kept: impl Fn(&Record<F>) -> bool,
) -> Result<()> {
    for (record, bytes) in objects::read::<F>(store, trust).await?.records {
        let key = record.fields.key();
        let hash = record::head_hash(&bytes).map_err(Error::object(&key))?;
        found.insert(key, (hash, is_kept(&record)));
    }
    Ok(())
}
