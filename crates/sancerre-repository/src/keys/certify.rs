//! New zones, and new keys of writers and keepers, all signed by the admin.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use sancerre_format::certificate::{Certificate, Role, portable};
use sancerre_format::config::ZoneRecord;
use sancerre_format::key::{KeyFile, Secret, ZoneKeys, ZoneSecret};
use sancerre_format::names::{self, Name, Time};
use sancerre_format::record::{self, Fields};
use sancerre_format::sign::SigningKey;
use zeroize::Zeroizing;

use super::{epoch, lost, newest_generation};
use crate::error::{Error, Result};
use crate::repository::Repository;
use sancerre_store::{Creation, Put};

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Its name: unique in the repository for ever.
    pub name: Name,
    /// [`Role::Writer`] or [`Role::Keeper`].
    pub role: Role,
    /// When it stops being good for new records.
    pub expires: Option<Time>,
}

impl NewKey {
    /// One that stays good until it is revoked.
    pub fn new(name: Name, role: Role) -> Self {
        Self { name, role, expires: None }
    }
}

/// Certifies a new key for the repository's zone, whose secrets must be open; returns the key file's text.
///
/// Errors: [`Error::Usage`] for a name that was used before; [`Error::WrongKey`] without the admin's key.
pub async fn certify(repository: &Repository, new: &NewKey) -> Result<Zeroizing<String>> {
    let secrets = repository.keys.zone_secrets()?;
    // The log of the zone is at hand where sessions start; here the identity that just opened is the newest known.
    let (epoch, recipient) = epoch::current(&repository.store, &repository.keys.trust, secrets, None).await?;
    if new.name.as_str() == "admin" {
        return Err(Error::Usage("a key cannot be named admin: that is the administrator's own".into()));
    }
    let now = repository.host.clock.now();
    if new.expires.is_some_and(|expires| expires <= now) {
        return Err(Error::Usage("the key would have expired already; give a later date".into()));
    }
    let key = SigningKey::from_seed(repository.host.random());
    let certificate = Certificate {
        repository: repository.keys.trust.repository,
        zone: repository.keys.zone.clone(),
        name: new.name.clone(),
        role_name: new.role.to_name()?,
        key: key.public(),
        issued: now,
        expires: new.expires,
    };
    let certificate = sign(repository, &certificate, &[])?;
    match repository.store.put_new(&names::certificate(&new.name), certificate.clone()).await? {
        Put::Created => {}
        Put::Occupied(_) => return Err(name_taken(&new.name)),
    }
    let file = KeyFile {
        trust: repository.keys.trust.anchor(),
        certifier: *repository.keys.trust.current(),
        zone: repository.keys.zone.clone(),
        generation: secrets.generation,
        epoch,
        recipient,
        certificate: portable(&certificate)?,
        key,
        keys: secrets.keys.clone(),
    };
    Ok(file.encode())
}

fn name_taken(name: &Name) -> Error {
    Error::Usage(format!(
        "there is a key named {name} already, and a name is used once, so that records stay clear; give another one"
    ))
}

/// Makes a generation of the keys of the repository's zone, the first or one more; its secrets are then open, those of
/// earlier generations as they were. Returns its number.
///
/// Errors: [`Error::WrongKey`] without the admin's key and an identity; [`Error::KeyLost`] while another generation is lost;
/// [`StoreError::Occupied`](crate::StoreError::Occupied) when somebody else does the same.
pub async fn make_generation(repository: &mut Repository) -> Result<u16> {
    lost::refuse_lost_generation(repository).await?;
    let (store, trust) = (&repository.store, &repository.keys.trust);
    let newest = epoch::newest_identity(store, trust).await?;
    let newest = newest.ok_or_else(|| lost::identity(&repository.keys))?.fields;
    let (epoch, recipient) = (newest.epoch, newest.recipient);
    let (id, zone) = (trust.repository, repository.keys.zone.clone());
    let generation = free_generation(repository).await?;
    let host = &repository.host;
    let keys = ZoneKeys { id: host.random(), cut: host.random(), metadata: host.random() };
    let secret = ZoneSecret { repository: id, zone: zone.clone(), generation, keys: keys.clone() };
    let sealed = host.sealer.seal(&recipient, secret.encode().as_bytes())?;
    let created = host.clock.now();
    let record = ZoneRecord { repository: id, zone: zone.clone(), generation, created, epoch };
    let record = sign(repository, &record, &sealed)?;
    let advice = "somebody else made the same generation of this zone just now; run the command again";
    repository.store.put_own(&names::zone(&zone, generation), record, advice).await?;
    Arc::make_mut(&mut repository.keys).add_generation(generation, keys, epoch, recipient);
    Ok(generation)
}

/// The first number above the newest that verifies of which nothing is there: junk takes its own number and no other.
async fn free_generation(repository: &Repository) -> Result<u16> {
    let (store, zone) = (&repository.store, &repository.keys.zone);
    let newest = newest_generation(store, &repository.keys.trust, zone).await?.unwrap_or(0);
    let listed = store.list(names::ZONES).await?;
    let used: BTreeSet<u16> =
        listed.iter().filter_map(|listed| names::zone_generation(zone, &listed.key)).collect();
    let free = (newest..=u16::MAX).skip(1).find(|generation| !used.contains(generation));
    free.ok_or_else(|| Error::Lost { what: format!("a free generation of zone {zone}") })
}

/// Signs a record as the admin.
pub(super) fn sign<F: Fields>(repository: &Repository, fields: &F, sealed: &[u8]) -> Result<Bytes> {
    let admin = repository.signer(&[Role::Admin])?;
    Ok(record::encode(fields, repository.host.tool, &admin.key, &[], sealed)?.into())
}
