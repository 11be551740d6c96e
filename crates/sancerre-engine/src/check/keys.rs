//! `config` and the objects below `keys/`: without them a passphrase opens nothing.

use std::collections::BTreeSet;

use sancerre_format::FormatError;
use sancerre_format::certificate::Certificate;
use sancerre_format::config::{Config, Identity, ZoneRecord};
use sancerre_format::log::Kind;
use sancerre_format::names::{self, Name};
use sancerre_format::recipient::Recipient;
use sancerre_format::record::{self, Fields, Trust};

use super::report::{Finding, Severity};
use super::run::tolerate;
use crate::error::Result;
use crate::keys::ZoneSecrets;
use crate::repository::Repository;
use crate::repository::log::{Log, LogEntry};

/// First line of every age file.
const AGE: &[u8] = b"age-encryption.org/v1\n";
const FOLDER: &str = "keys/";

/// Verifies the key objects, and that those which are in use are there.
pub(super) async fn check(repository: &Repository, log: &Log) -> Result<Vec<Finding>> {
    let mut keys = vec![names::CONFIG.to_owned()];
    keys.extend(repository.store.list(FOLDER).await?.into_iter().map(|listed| listed.key));
    let mut findings = Vec::new();
    for key in &keys {
        let bytes = match repository.store.get(key).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => continue,
            Err(error) => {
                findings.push(finding(Severity::Damaged, key, tolerate(repository, error).await?));
                continue;
            }
        };
        match verify(repository, key, &bytes) {
            Some(Ok(())) => {}
            Some(Err(error)) => findings.push(finding(Severity::Damaged, key, error.to_string())),
            None => {
                findings.push(finding(Severity::Note, key, "it belongs to nothing and is ignored".into()));
            }
        }
    }
    findings.extend(missing(repository, log, &keys));
    Ok(findings)
}

fn finding(severity: Severity, key: &str, problem: String) -> Finding {
    Finding { severity, object: key.to_owned(), problem, costs: Vec::new() }
}

/// None when the key is of no form that the format knows.
fn verify(repository: &Repository, key: &str, bytes: &[u8]) -> Option<std::result::Result<(), FormatError>> {
    let trust = &repository.keys.trust;
    if key == names::CONFIG {
        let fits = |config: &Config| config.repository == trust.repository && config.admin == trust.admin;
        return Some(placed::<Config>(trust, bytes, fits));
    }
    if key.starts_with(names::ADMINS) {
        return Some(age_file(bytes));
    }
    if key.starts_with(names::RECIPIENTS) {
        return Some(placed::<Recipient>(trust, bytes, |recipient| {
            names::recipient(recipient.epoch, &recipient.label) == key
        }));
    }
    if key.starts_with(names::IDENTITIES) {
        return Some(placed::<Identity>(trust, bytes, |identity| {
            identity.repository == trust.repository && names::identity(identity.epoch) == key
        }));
    }
    if key.starts_with(names::ZONES) {
        return Some(placed::<ZoneRecord>(trust, bytes, |zone| {
            zone.repository == trust.repository && names::zone(&zone.zone, zone.generation) == key
        }));
    }
    key.starts_with(names::CERTIFICATES).then(|| {
        placed::<Certificate>(trust, bytes, |certificate| {
            certificate.repository == trust.repository && names::certificate(&certificate.name) == key
        })
    })
}

fn placed<F: Fields>(
    trust: &Trust,
    bytes: &[u8],
    fits: impl FnOnce(&F) -> bool,
) -> std::result::Result<(), FormatError> {
    let record = record::decode::<F>(trust, bytes)?;
    if fits(&record.fields) {
        return Ok(());
    }
    Err(FormatError::Forged { what: F::KIND, detail: "it was made for another place".into() })
}

/// What is in it only its passphrase or token can tell.
fn age_file(bytes: &[u8]) -> std::result::Result<(), FormatError> {
    // Recipient stanza, its body, the header's MAC and a sealed payload follow.
    const LEAST_BYTES: usize = 150;
    if bytes.starts_with(AGE) && bytes.len() >= LEAST_BYTES {
        return Ok(());
    }
    Err(FormatError::Corrupt { what: "age file", detail: "it does not start as one, or is cut short".into() })
}

/// The identity epoch and the generation of the zone's keys that a backup was made with.
fn made_with(entry: &LogEntry) -> Option<(u16, u16)> {
    match &entry.entry.as_deref().ok()?.fields.kind {
        Kind::Backup(intent) => Some((intent.epoch, intent.generation)),
        _ => None,
    }
}

fn missing(repository: &Repository, log: &Log, keys: &[String]) -> Vec<Finding> {
    let here: BTreeSet<&str> = keys.iter().map(String::as_str).collect();
    let signers: BTreeSet<&Name> = log
        .entries()
        .filter_map(|entry| entry.entry.as_deref().ok())
        .filter(|entry| entry.fields.by.certificate.is_some())
        .map(|entry| &entry.fields.by.name)
        .collect();
    let secrets = repository.keys.zone_secrets().ok();
    let own = secrets.map(|ZoneSecrets { epoch, generation, .. }| (*epoch, *generation));
    let used: BTreeSet<(u16, u16)> = log.entries().filter_map(made_with).chain(own).collect();
    let pair = |(epoch, generation)| [names::identity(epoch), names::zone(&repository.keys.zone, generation)];
    let mut needed: BTreeSet<String> = used.into_iter().flat_map(pair).collect();
    needed.extend(signers.into_iter().map(names::certificate));
    let mut findings: Vec<Finding> = needed
        .iter()
        .filter(|key| !here.contains(key.as_str()))
        .map(|key| finding(Severity::Missing, key, "it is missing".into()))
        .collect();
    for (folder, consequence) in [
        (
            names::RECIPIENTS,
            "no restore recipient is there: no passphrase or token opens this repository's content",
        ),
        (names::ADMINS, "the admin's signing key is not there: keep your copy of it"),
    ] {
        if !here.iter().any(|key| key.starts_with(folder)) {
            findings.push(finding(Severity::Missing, folder, consequence.into()));
        }
    }
    findings
}
