//! `config` and the objects below `keys/`: without them a passphrase opens nothing.

use std::collections::BTreeSet;

use sancerre_format::FormatError;
use sancerre_format::certificate::Certificate;
use sancerre_format::config::{Config, IdentityRecord, ZoneRecord};
use sancerre_format::log::Entry;
use sancerre_format::names::{self, Folder, Name, Zone};
use sancerre_format::recipient::{AdminKey, RecipientRecord};
use sancerre_format::record::{self, Fields, Trust};

use super::report::{Finding, Severity};
use super::run::tolerate;
use crate::error::Result;
use crate::keys::lost::{self, Needed};
use crate::keys::{LostKey, objects};
use crate::repository::Repository;
use crate::repository::log::{COPIES, Log, copy_key};
use crate::store::Listed;

/// Verifies the key objects, and that those which are in use are there.
pub(super) async fn check(repository: &Repository, log: &Log) -> Result<Vec<Finding>> {
    let mut keys = vec![names::CONFIG.to_owned()];
    let mut findings = Vec::new();
    let mut listed = repository.store.list(names::KEYS).await?;
    listed.sort_by(|a, b| a.key.cmp(&b.key));
    for Listed { key, size_bytes, .. } in listed {
        // What systems leave in every folder, or somebody left beside ours: no reader looks at it.
        if !has_form(&key) {
            findings.push(Finding::new(Severity::Note, &key, "it belongs to nothing and is ignored"));
            continue;
        }
        match objects::refuse_size(&key, size_bytes) {
            Ok(()) => keys.push(key),
            Err(problem) => findings.push(Finding::new(Severity::Damaged, &key, problem.to_string())),
        }
    }
    let mut present: BTreeSet<String> = findings.iter().map(|finding| finding.object.clone()).collect();
    let mut good = BTreeSet::new();
    for key in keys {
        match read(repository, &key).await? {
            Some(Read::Good) => drop(good.insert(key.clone())),
            Some(Read::Bad(finding)) => findings.push(finding),
            Some(Read::Unread(finding)) => {
                // It is there: nothing says that it is not what it was.
                good.insert(key.clone());
                findings.push(finding);
            }
            None => continue,
        }
        present.insert(key);
    }
    findings.extend(missing(repository, log, &present, &good).await?);
    findings.extend(no_session(&repository.keys.zone, log));
    Ok(findings)
}

/// What an object is that was read.
enum Read {
    Good,
    Bad(Finding),
    Unread(Finding),
}

/// Whether an object is what its key says; none when it is gone since the listing.
async fn read(repository: &Repository, key: &str) -> Result<Option<Read>> {
    let bytes = match repository.store.get(key).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error) => {
            let problem = tolerate(repository, error).await?;
            return Ok(Some(Read::Unread(Finding::new(Severity::Damaged, key, problem))));
        }
    };
    let (severity, problem) = match verify(repository, key, &bytes) {
        Some(Ok(())) => return Ok(Some(Read::Good)),
        Some(Err(error @ FormatError::Unsupported { .. })) => (Severity::Note, error.to_string()),
        Some(Err(error)) if record::is_replaced(&repository.keys.trust, &bytes) => {
            (Severity::Note, error.to_string())
        }
        // A copy: the log has the entry itself.
        Some(Err(error)) if COPIES.iter().any(|folder| key.starts_with(folder)) => {
            (Severity::Note, error.to_string())
        }
        Some(Err(error)) => (Severity::Damaged, error.to_string()),
        None => (Severity::Note, "it belongs to nothing and is ignored".into()),
    };
    Ok(Some(Read::Bad(Finding::new(severity, key, problem))))
}

/// Whether a key below `keys/` is one that a record of ours could stand at. Of folders that this version does not know the
/// object says more.
fn has_form(key: &str) -> bool {
    let is_name = |folder: &str| key.strip_prefix(folder).is_some_and(|name| Name::new(name).is_ok());
    match key {
        _ if key.starts_with(names::ADMINS) => is_name(names::ADMINS),
        _ if key.starts_with(names::SUCCESSIONS) => names::succession_number(key).is_some(),
        _ if key.starts_with(names::RECIPIENTS) => names::recipient_parts(key).is_some(),
        _ if key.starts_with(names::IDENTITIES) => names::identity_epoch(key).is_some(),
        _ if key.starts_with(names::ZONES) => names::zone_parts(key).is_some(),
        _ if key.starts_with(names::CERTIFICATES) => is_name(names::CERTIFICATES),
        _ => true,
    }
}

/// None when the key is of no form that the format knows.
fn verify(repository: &Repository, key: &str, bytes: &[u8]) -> Option<std::result::Result<(), FormatError>> {
    let trust = &repository.keys.trust;
    if key == names::CONFIG {
        return Some(record::decode::<Config>(&trust.anchor(), bytes).map(drop));
    }
    let verified = match key {
        _ if key.starts_with(names::ADMINS) => objects::decode::<AdminKey>(trust, key, bytes).map(drop),
        _ if key.starts_with(names::SUCCESSIONS) => succession(repository, key),
        _ if key.starts_with(names::RECIPIENTS) => {
            objects::decode::<RecipientRecord>(trust, key, bytes).map(drop)
        }
        _ if key.starts_with(names::IDENTITIES) => {
            objects::decode::<IdentityRecord>(trust, key, bytes).map(drop)
        }
        _ if key.starts_with(names::ZONES) => objects::decode::<ZoneRecord>(trust, key, bytes).map(drop),
        _ if key.starts_with(names::CERTIFICATES) => {
            objects::decode::<Certificate>(trust, key, bytes).map(drop)
        }
        _ if COPIES.iter().any(|folder| key.starts_with(folder)) => copy(trust, key, bytes),
        _ => return None,
    };
    Some(verified)
}

/// Whether an object is the copy of the log entry that it is named after.
fn copy(trust: &Trust, key: &str, bytes: &[u8]) -> std::result::Result<(), FormatError> {
    let entry = record::decode::<Entry>(trust, bytes)?.fields;
    match copy_key(&entry.zone, &entry) {
        Some(own) if own == key => Ok(()),
        _ => {
            let detail = "it is no copy of the log entry that it is named after".to_owned();
            Err(FormatError::Forged { what: Entry::KIND, detail })
        }
    }
}

/// Whether an object is one of the chain of admin keys: it was walked when the repository was opened.
fn succession(repository: &Repository, key: &str) -> std::result::Result<(), FormatError> {
    match repository.keys.left_out().get(key) {
        None if names::succession_number(key).is_some() => Ok(()),
        why => {
            let detail = why.map_or("it belongs to nothing", String::as_str).to_owned();
            Err(FormatError::Forged { what: "admin key", detail })
        }
    }
}

/// What is needed and is not there. What is there but is not good has a finding already.
async fn missing(
    repository: &Repository,
    log: &Log,
    present: &BTreeSet<String>,
    good: &BTreeSet<String>,
) -> Result<Vec<Finding>> {
    let keys = &repository.keys;
    let newest = good.iter().filter_map(|key| names::identity_epoch(key)).max();
    let mut lost = Needed::of(log, keys).lost(&keys.zone, present, true);
    lost.extend(lost::recipients(good, newest));
    let has_admin = lost::has_admin(&repository.store, &keys.trust, good).await?;
    lost.extend((!has_admin).then(LostKey::admin));
    let told = |lost: LostKey| {
        Finding::new(Severity::Missing, &lost.object, format!("it is missing: {}", lost.words))
    };
    Ok(lost.into_iter().map(told).collect())
}

/// A zone is made to save something in it. Nothing tells one in which nothing was saved yet from one of which all is lost.
fn no_session(zone: &Zone, log: &Log) -> Option<Finding> {
    let problem = "no session of this zone is there. If backups were made, all of them are lost with the folder: bring it back \
                   from a copy before the next one. If none was made yet, the first one ends this";
    let folder = names::folder(zone, Folder::Log);
    log.entries().next().is_none().then(|| Finding::new(Severity::Empty, &folder, problem))
}
