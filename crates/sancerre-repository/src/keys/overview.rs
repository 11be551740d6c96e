//! Everything that is public about the keys of a repository.

use std::collections::BTreeSet;

use sancerre_format::certificate::Certificate;
use sancerre_format::config::{Identity, ZoneRecord};
use sancerre_format::log::{Distrust, Kind};
use sancerre_format::names::{self, Name, Zone};
use sancerre_format::recipient::{AdminKey, Recipient};

use super::Keys;
use super::objects::{self, KeyRecord, LeftOut};
use crate::error::{Error, Result};
use crate::log::Log;
use crate::repository::Repository;

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
#[derive(Debug)]
pub struct Overview {
    /// Writers and keepers, by name.
    pub keys: Vec<CertifiedKey>,
    /// Restore recipients, by label.
    pub recipients: Vec<RestoreKey>,
    /// Identity epochs, ascending.
    pub epochs: Vec<Identity>,
    /// Zones and the generations of their keys, ascending.
    pub zones: Vec<ZoneRecord>,
    /// Objects that were left out, and why.
    pub left_out: Vec<LeftOut>,
}

impl Overview {
    /// Reads it. Needs no secret.
    pub async fn read(repository: &Repository) -> Result<Self> {
        let mut left_out = Vec::new();
        let zones: Vec<ZoneRecord> = all(repository, &mut left_out).await?;
        let epochs: Vec<Identity> = all(repository, &mut left_out).await?;
        let certificates: Vec<Certificate> = all(repository, &mut left_out).await?;
        let mut recipients: Vec<Recipient> = all(repository, &mut left_out).await?;
        recipients.sort_by_key(|recipient| std::cmp::Reverse(recipient.epoch));
        let _: Vec<AdminKey> = all(repository, &mut left_out).await?;

        let newest = epochs.iter().map(|identity| identity.epoch).max();
        let mut seen = BTreeSet::new();
        let mut restore: Vec<RestoreKey> = recipients
            .into_iter()
            .filter(|recipient| seen.insert(recipient.label.clone()))
            .map(|recipient| RestoreKey { is_current: Some(recipient.epoch) == newest, newest: recipient })
            .collect();
        restore.sort_by(|a, b| a.newest.label.cmp(&b.newest.label));
        let distrust = distrust(repository, &zones).await?;
        let keys = certificates.into_iter().map(|certificate| certified(certificate, &distrust)).collect();
        Ok(Self { keys, recipients: restore, epochs, zones, left_out })
    }
}

/// All records of a kind, by key.
async fn all<F: KeyRecord>(repository: &Repository, left_out: &mut Vec<LeftOut>) -> Result<Vec<F>> {
    let mut found = objects::read::<F>(&repository.store, &repository.keys.trust).await?;
    left_out.append(&mut found.left_out);
    Ok(found.records.into_iter().map(|(record, _)| record.fields).collect())
}

/// What the logs of all zones say against keys.
async fn distrust(repository: &Repository, zones: &[ZoneRecord]) -> Result<Vec<(Zone, Kind)>> {
    let names: BTreeSet<&Zone> = zones.iter().map(|record| &record.zone).collect();
    let mut found = Vec::new();
    for zone in names {
        let keys = Keys::public(repository.keys.trust.clone(), zone.clone());
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
    let record = objects::decode::<Certificate>(&repository.keys.trust, &key, &bytes);
    Ok(record.map_err(Error::object(&key))?.fields)
}
