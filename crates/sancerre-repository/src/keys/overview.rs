//! Everything that is public about the keys of a repository.

use std::collections::{BTreeMap, BTreeSet};

use sancerre_advice::Verb::ListKeys;
use sancerre_format::certificate::Certificate;
use sancerre_format::config::{IdentityRecord, ZoneRecord};
use sancerre_format::log::{Distrust, Kind};
use sancerre_format::names::{self, Name, Zone};
use sancerre_format::recipient::{AdminKey, RecipientRecord};

use super::Keys;
use super::lost::{self, LostKey, Needed};
use super::objects::{self, KeyRecord, LeftOut};
use crate::error::{Error, Result};
use crate::log::{Log, LogEntry};
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
    pub newest: RecipientRecord,
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
    pub epochs: Vec<IdentityRecord>,
    /// Zones and the generations of their keys, ascending.
    pub zones: Vec<ZoneRecord>,
    /// Objects that were left out, and why.
    pub left_out: Vec<LeftOut>,
    /// Objects that must be there and are not.
    pub lost: Vec<LostKey>,
}

impl Overview {
    /// Reads it. Needs no secret.
    pub async fn read(repository: &Repository) -> Result<Self> {
        let mut found = All::default();
        let zones: Vec<ZoneRecord> = found.all(repository).await?;
        let epochs: Vec<IdentityRecord> = found.all(repository).await?;
        let certificates: Vec<Certificate> = found.all(repository).await?;
        let mut recipients: Vec<RecipientRecord> = found.all(repository).await?;
        recipients.sort_by_key(|recipient| std::cmp::Reverse(recipient.epoch));
        let _: Vec<AdminKey> = found.all(repository).await?;

        let newest = epochs.iter().map(|identity| identity.epoch).max();
        let mut seen = BTreeSet::new();
        let mut restore: Vec<RestoreKey> = recipients
            .into_iter()
            .filter(|recipient| seen.insert(recipient.label.clone()))
            .map(|recipient| RestoreKey { is_current: Some(recipient.epoch) == newest, newest: recipient })
            .collect();
        restore.sort_by(|a, b| a.newest.label.cmp(&b.newest.label));
        let logs = logs(repository, lost::zones(repository, &zones, &certificates).await?).await?;
        let lost = found.lost(repository, &logs, newest).await?;
        let distrust = distrust(&logs);
        let keys = certificates.into_iter().map(|certificate| certified(certificate, &distrust)).collect();
        Ok(Self { keys, recipients: restore, epochs, zones, left_out: found.left_out, lost })
    }
}

/// The keys of all objects that were read.
#[derive(Default)]
struct All {
    good: BTreeSet<String>,
    left_out: Vec<LeftOut>,
}

impl All {
    /// All records of a kind, by key.
    async fn all<F: KeyRecord>(&mut self, repository: &Repository) -> Result<Vec<F>> {
        let mut found = objects::read::<F>(&repository.store, &repository.keys.trust).await?;
        self.left_out.append(&mut found.left_out);
        let records = found.records.into_iter().map(|(record, _)| record.fields);
        let records: Vec<F> = records.collect();
        self.good.extend(records.iter().map(KeyRecord::key));
        Ok(records)
    }

    async fn lost(
        &self,
        repository: &Repository,
        logs: &BTreeMap<Zone, Log>,
        newest: Option<u16>,
    ) -> Result<Vec<LostKey>> {
        let mut there = self.good.clone();
        there.extend(self.left_out.iter().map(|left_out| left_out.key.clone()));
        let mut lost = Vec::new();
        for (zone, log) in logs {
            let public = Keys::public(repository.keys.trust.clone(), zone.clone());
            let keys = if *zone == repository.keys.zone { &repository.keys } else { &public };
            lost.extend(Needed::of(log, keys).lost(zone, &there, true));
        }
        lost.extend(lost::recipients(&self.good, newest));
        let has_admin = lost::has_admin(&repository.store, &repository.keys.trust, &self.good).await?;
        lost.extend((!has_admin).then(LostKey::admin));
        // An epoch is of several zones.
        lost.sort_by(|one, other| one.object.cmp(&other.object));
        lost.dedup();
        Ok(lost)
    }
}

/// The logs of zones.
async fn logs(repository: &Repository, zones: BTreeSet<Zone>) -> Result<BTreeMap<Zone, Log>> {
    let mut logs = BTreeMap::new();
    for zone in zones {
        let keys = Keys::public(repository.keys.trust.clone(), zone.clone()).into();
        logs.insert(zone, Log::load(&Repository { keys, ..repository.clone() }).await?);
    }
    Ok(logs)
}

/// What they say against keys.
fn distrust(logs: &BTreeMap<Zone, Log>) -> Vec<(Zone, Kind)> {
    let kinds = |log: &Log| {
        let kind = |entry: &LogEntry| Some(entry.entry.as_deref().ok()?.fields.kind.clone());
        log.entries().filter_map(kind).collect::<Vec<_>>()
    };
    logs.iter().flat_map(|(zone, log)| kinds(log).into_iter().map(|kind| (zone.clone(), kind))).collect()
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

/// The certificate of a name; and what is lost, where its object is and records that it signed carry it.
///
/// Errors: [`Error::Usage`] when there is none; [`Error::Object`] when it does not verify.
pub async fn certificate(repository: &Repository, name: &Name) -> Result<(Certificate, Option<LostKey>)> {
    let key = names::certificate(name);
    let Some(bytes) = repository.store.get(&key).await? else {
        let signed = lost::signed_certificate(repository, name).await?;
        let signed = signed.map(|certificate| (certificate, Some(LostKey::certificate(name))));
        return signed.ok_or_else(|| Error::Usage(format!("there is no key {name}; {ListKeys} shows all")));
    };
    let record = objects::decode::<Certificate>(&repository.keys.trust, &key, &bytes);
    Ok((record.map_err(Error::object(&key))?.fields, None))
}
