//! The signed objects below `keys/`, each read for itself.
//!
//! An attacker with stolen write credentials can put anything under any free key, and on a locked bucket nobody can
//! remove it again. So an object that does not serve is left out by name, and never stops what the others open.

use futures::{StreamExt, stream};
use sancerre_format::FormatError;
use sancerre_format::certificate::Certificate;
use sancerre_format::config::{IdentityRecord, ZoneRecord};
use sancerre_format::recipient::{AdminKey, RecipientRecord};
use sancerre_format::record::{self, Fields, Record, Trust};
use sancerre_format::trust::Succession;
use sancerre_format::{limits, names};

use crate::error::{Error, Result, StoreError};
use sancerre_store::{Listed, Store};

/// Objects in flight at once.
const READS_IN_FLIGHT: usize = 32;

/// A record that stands at the key which its own fields make.
pub trait KeyRecord: Fields {
    /// Prefix of all of its kind.
    const FOLDER: &'static str;

    /// Where it must stand.
    fn key(&self) -> String;
}

impl KeyRecord for IdentityRecord {
    const FOLDER: &'static str = names::IDENTITIES;

    fn key(&self) -> String {
        names::identity(self.epoch)
    }
}

impl KeyRecord for RecipientRecord {
    const FOLDER: &'static str = names::RECIPIENTS;

    fn key(&self) -> String {
        names::recipient(self.epoch, &self.label)
    }
}

impl KeyRecord for AdminKey {
    const FOLDER: &'static str = names::ADMINS;

    fn key(&self) -> String {
        names::admin(&self.label)
    }
}

impl KeyRecord for Succession {
    const FOLDER: &'static str = names::SUCCESSIONS;

    fn key(&self) -> String {
        names::succession(self.number)
    }
}

impl KeyRecord for ZoneRecord {
    const FOLDER: &'static str = names::ZONES;

    fn key(&self) -> String {
        names::zone(&self.zone, self.generation)
    }
}

impl KeyRecord for Certificate {
    const FOLDER: &'static str = names::CERTIFICATES;

    fn key(&self) -> String {
        names::certificate(&self.name)
    }
}

/// Decodes the record at a key, which must be made for this place.
pub fn decode<F: KeyRecord>(
    trust: &Trust,
    key: &str,
    bytes: &[u8],
) -> std::result::Result<Record<F>, FormatError> {
    let record = record::decode::<F>(trust, bytes)?;
    if record.fields.key() == key {
        return Ok(record);
    }
    Err(FormatError::Forged { what: F::KIND, detail: "it was made for another place".into() })
}

/// An object that was not used.
#[derive(Debug)]
pub struct LeftOut {
    /// Its key.
    pub key: String,
    /// Why.
    pub why: Error,
}

impl LeftOut {
    /// Whether the admin wrote it with a newer version: it is no junk.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.why, Error::Object { source: FormatError::Unsupported { .. }, .. })
    }
}

/// What lies in a folder.
pub struct Found<F> {
    /// What verifies and stands at its place, with the bytes, by key.
    pub records: Vec<(Record<F>, bytes::Bytes)>,
    /// The others, by key.
    pub left_out: Vec<LeftOut>,
}

/// Reads all records of a kind.
///
/// Errors: the store's, when it cannot be listed, or does not answer for anything any more.
pub async fn read<F: KeyRecord>(store: &Store, trust: &Trust) -> Result<Found<F>> {
    read_those(store, trust, |_| true).await
}

/// Reads those whose key is wanted.
///
/// Errors: as [`read`].
pub(crate) async fn read_those<F: KeyRecord>(
    store: &Store,
    trust: &Trust,
    wanted: impl Fn(&str) -> bool,
) -> Result<Found<F>> {
    let mut listed = store.list(F::FOLDER).await?;
    listed.retain(|listed| wanted(&listed.key));
    read_listed(store, trust, listed).await
}

/// Reads those that were listed.
///
/// Errors: as [`read`].
pub(crate) async fn read_listed<F: KeyRecord>(
    store: &Store,
    trust: &Trust,
    mut listed: Vec<Listed>,
) -> Result<Found<F>> {
    listed.sort_by(|a, b| a.key.cmp(&b.key));
    let reads = listed.into_iter().map(|listed| async move {
        let read = read_one::<F>(store, trust, &listed).await;
        (listed.key, read)
    });
    let mut reads = stream::iter(reads).buffered(READS_IN_FLIGHT);
    let (mut records, mut left_out) = (Vec::new(), Vec::new());
    while let Some((key, read)) = reads.next().await {
        match read {
            Ok(Some(record)) => records.push(record),
            // It was removed since the listing: `key passwd` does that.
            Ok(None) => {}
            Err(error) => left_out.push(LeftOut { key, why: of_one_object(store, error).await? }),
        }
    }
    Ok(Found { records, left_out })
}

async fn read_one<F: KeyRecord>(
    store: &Store,
    trust: &Trust,
    listed: &Listed,
) -> Result<Option<(Record<F>, bytes::Bytes)>> {
    let key = &listed.key;
    refuse_size(key, listed.size_bytes)?;
    let Some(bytes) = store.get(key).await? else { return Ok(None) };
    let record = decode::<F>(trust, key, &bytes).map_err(Error::object(key))?;
    Ok(Some((record, bytes)))
}

/// Refuses what is too large to be a key object, by its listed size.
///
/// Errors: [`Error::Object`] then.
pub fn refuse_size(key: &str, size_bytes: u64) -> Result<()> {
    limits::check(key, size_bytes).map_err(Error::object(key))
}

/// The error again, if it is this object's alone: a store that is away must not look like one without keys.
pub(crate) async fn of_one_object(store: &Store, error: Error) -> Result<Error> {
    match &error {
        Error::Store(StoreError::Failed { .. }) => match store.get(names::CONFIG).await {
            Ok(_) => Ok(error),
            Err(_) => Err(error),
        },
        Error::Interrupted | Error::Worker | Error::Bug { .. } => Err(error),
        _ => Ok(error),
    }
}

/// The error that explains best why nothing served: first what a newer version wrote; then, if nothing that verifies was
/// there to be tried, what cannot be read.
pub fn worst(left_out: Vec<LeftOut>, tried: bool) -> Option<Error> {
    let rank = |left_out: &LeftOut| match &left_out.why {
        _ if left_out.is_unsupported() => Some(0),
        Error::Store(StoreError::Failed { .. }) if !tried => Some(1),
        _ => None,
    };
    let ranked = left_out.into_iter().filter_map(|left_out| Some((rank(&left_out)?, left_out.why)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, why)| why)
}
