//! Everything that is public about the keys of a repository.

use std::collections::BTreeSet;

use sancerre_format::certificate::Certificate;
use sancerre_format::config::{Identity, ZoneRecord};
use sancerre_format::log::{Distrust, Kind};
use sancerre_format::names::{self, Name, Zone};
use sancerre_format::recipient::Recipient;
use sancerre_format::record::{self, Fields};

use super::{Keys, recipients};
use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::repository::log::Log;

/// A writer's or keeper's key.
#[derive(Debug, Clone)]
pub struct CertifiedKey {
    /// Its certificate.
    pub certificate: Certificate,
    /// The number from which nothing it signs is trusted.
    pub revoked_from: Option<u64>,
    /// The number from which its packs are not built upon.
    pub tainted_from: Option<u64>,
}

/// A restore recipient, over all epochs.
#[derive(Debug, Clone)]
pub struct RestoreKey {
    /// Its record in the newest epoch it belongs to.
    pub newest: Recipient,
    /// Whether it opens what is saved now.
    pub is_current: bool,
}

/// The keys of a repository.
#[derive(Debug, Clone)]
pub struct Overview {
    /// Writers and keepers, by name.
    pub keys: Vec<CertifiedKey>,
    /// Restore recipients, by label.
    pub recipients: Vec<RestoreKey>,
    /// Identity epochs, ascending.
    pub epochs: Vec<Identity>,
    /// Zones and the generations of their keys, ascending.
    pub zones: Vec<ZoneRecord>,
    /// Objects that do not verify and were left out.
    pub bad: Vec<String>,
}

impl Overview {
    /// Reads it. Needs no secret.
    pub async fn read(repository: &Repository) -> Result<Self> {
        let mut bad = Vec::new();
        let zones: Vec<ZoneRecord> = all(repository, names::ZONES, &mut bad).await?;
        let epochs: Vec<Identity> = all(repository, names::IDENTITIES, &mut bad).await?;
        let certificates: Vec<Certificate> = all(repository, names::CERTIFICATES, &mut bad).await?;
        let (records, bad_recipients) = recipients::read(&repository.store, &repository.keys.trust).await?;
        bad.extend(bad_recipients);

        let newest = epochs.iter().map(|identity| identity.epoch).max();
        let mut seen = BTreeSet::new();
        let mut restore: Vec<RestoreKey> = records
            .into_iter()
            .filter(|record| seen.insert(record.fields.label.clone()))
            .map(|record| RestoreKey {
                is_current: Some(record.fields.epoch) == newest,
                newest: record.fields,
            })
            .collect();
        restore.sort_by(|a, b| a.newest.label.cmp(&b.newest.label));
        let distrust = distrust(repository, &zones).await?;
        let keys = certificates.into_iter().map(|certificate| certified(certificate, &distrust)).collect();
        Ok(Self { keys, recipients: restore, epochs, zones, bad })
    }
}

/// All records below a prefix, by key.
async fn all<F: Fields>(repository: &Repository, prefix: &str, bad: &mut Vec<String>) -> Result<Vec<F>> {
    let listed = repository.store.list(prefix).await?;
    let mut keys: Vec<String> = listed.into_iter().map(|listed| listed.key).collect();
    keys.sort();
    let mut found = Vec::new();
    for (key, bytes) in repository.store.get_all(keys).await? {
        let Ok(Some(bytes)) = bytes else {
            bad.extend(bytes.is_err().then_some(key));
            continue;
        };
        match record::decode::<F>(&repository.keys.trust, &bytes) {
            Ok(record) => found.push(record.fields),
            Err(_) => bad.push(key),
        }
    }
    Ok(found)
}

/// What the logs of all zones say against keys.
async fn distrust(repository: &Repository, zones: &[ZoneRecord]) -> Result<Vec<(Zone, Kind)>> {
    let names: BTreeSet<&Zone> = zones.iter().map(|record| &record.zone).collect();
    let mut found = Vec::new();
    for zone in names {
        let keys = Keys::public(repository.keys.trust, zone.clone());
        let log = Log::load(&Repository { keys, ..repository.clone() }).await?;
        let kinds =
            log.entries().filter_map(|entry| entry.entry.as_deref().ok().map(|entry| &entry.fields.kind));
        found.extend(kinds.map(|kind| (zone.clone(), kind.clone())));
    }
    Ok(found)
}

fn certified(certificate: Certificate, distrust: &[(Zone, Kind)]) -> CertifiedKey {
    let first = |wanted: fn(&Kind) -> Option<&Distrust>| {
        let about = distrust.iter().filter(|(zone, _)| *zone == certificate.zone);
        let mine =
            about.filter_map(|(_, kind)| wanted(kind)).filter(|found| found.writer == certificate.name);
        mine.map(|found| found.from).min()
    };
    let revoked_from = first(|kind| if let Kind::Revoke(found) = kind { Some(found) } else { None });
    let tainted_from = first(|kind| if let Kind::Taint(found) = kind { Some(found) } else { None });
    CertifiedKey { certificate, revoked_from, tainted_from }
}

/// The certificate of a name.
///
/// Errors: [`Error::Usage`] when there is none; [`Error::Object`] when it does not verify.
pub async fn certificate(repository: &Repository, name: &Name) -> Result<Certificate> {
    let key = names::certificate(name);
    let bytes = repository.store.get(&key).await?;
    let bytes = bytes
        .ok_or_else(|| Error::Usage(format!("there is no key {name}; `sancerre key list` shows all")))?;
    let record =
        record::decode::<Certificate>(&repository.keys.trust, &bytes).map_err(Error::object(&key))?;
    Ok(record.fields)
}
