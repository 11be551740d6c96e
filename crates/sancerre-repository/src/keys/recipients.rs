//! Restore recipients: who opens the repository's identity, and the epochs in which that changes.
//!
//! Adding a recipient seals the newest identity to it: one object, which opens all older snapshots too. Removing one
//! starts an epoch: a new identity, sealed to those who stay, for all sessions from then on. What the removed one could
//! open stays open to whoever kept a copy of the old identity or of its object.

use std::collections::BTreeSet;
use std::str::FromStr;

use sancerre_format::certificate::Role;
use sancerre_format::config::IdentityRecord;
use sancerre_format::id::RepositoryId;
use sancerre_format::key::{AdminSecret, IdentitySecret, Secret};
use sancerre_format::names::{self, Name};
use sancerre_format::recipient::{AdminKey, Opener, RecipientRecord};
use sancerre_format::record::{self, Record, Trust};
use sancerre_format::sign::SigningKey;

use sancerre_advice::Setting::Label;
use sancerre_advice::Verb::ListKeys;
use zeroize::Zeroizing;

use super::SecretString;
use super::certify::sign;
use super::epoch::newest_identity;
use super::hybrid;
use super::objects::{self, KeyRecord};
use super::passphrase::normal;
use super::unlock::{identity_from_random, passphrase_opens};
use crate::error::{Error, Result, StoreError};
use crate::host::Host;
use crate::repository::Repository;
use sancerre_store::{Creation, Put, Removal, Store};

/// The label of the passphrase with which a repository is made.
pub const INIT_LABEL: &str = "passphrase";

/// To whom an identity is sealed.
#[derive(Clone)]
pub enum To {
    /// Whoever knows it.
    Passphrase(SecretString),
    /// Whoever has its secret: [`Opener::Age`] or [`Opener::Ssh`].
    Key(Opener),
}

/// A fresh `age` key: its secret as text, and its recipient.
pub fn new_key(host: &Host) -> Result<(Zeroizing<String>, String)> {
    identity_from_random(host)
}

/// Whether files can be sealed to it: a key that is not one, or a weak one, is refused before anything is written.
pub fn is_usable(opener: &Opener) -> bool {
    match opener {
        Opener::Passphrase => true,
        Opener::Age(recipient) if hybrid::is_recipient(recipient) => {
            hybrid::HybridRecipient::new(recipient, [0; hybrid::RANDOM_BYTES]).is_some()
        }
        Opener::Age(recipient) => age::x25519::Recipient::from_str(recipient).is_ok(),
        Opener::Ssh(key) => super::ssh::SshRecipient::new(&key.to_string(), [0; 32]).is_ok(),
    }
}

/// What removing a recipient came to.
#[derive(Debug, Default)]
pub struct Removed {
    /// The epoch that new sessions belong to.
    pub epoch: u16,
    /// Objects that still open what they opened, and why they could not be removed.
    pub kept: Vec<(String, String)>,
}

/// Every recipient's record that verifies, newest epoch first, then by label.
pub async fn read(store: &Store, trust: &Trust) -> Result<Vec<Record<RecipientRecord>>> {
    let found = objects::read::<RecipientRecord>(store, trust).await?;
    let mut records: Vec<Record<RecipientRecord>> =
        found.records.into_iter().map(|(record, _)| record).collect();
    records.sort_by_key(|record| std::cmp::Reverse(record.fields.epoch));
    Ok(records)
}

/// Lets a recipient restore: every snapshot there is and will be.
///
/// Errors: [`Error::Usage`] for a label or recipient that was used before; [`Error::WrongKey`] without the admin's key.
pub async fn add(repository: &Repository, label: &Name, to: &To) -> Result<()> {
    let newest = newest_epoch(repository).await?;
    let records = read(&repository.store, &repository.keys.trust).await?;
    let mut current = records.iter().filter(|record| record.fields.epoch == newest);
    if let To::Key(opener) = to
        && let Some(same) = current.find(|record| record.fields.opener == *opener)
    {
        return Err(Error::Usage(format!("{opener} can restore already, as {}", same.fields.label)));
    }
    if records.iter().any(|record| record.fields.label == *label) {
        return Err(label_taken(label));
    }
    let secret = repository.keys.identity(newest)?;
    match put(repository, secret, label, to).await? {
        Put::Created => Ok(()),
        Put::Occupied(_) => Err(label_taken(label)),
    }
}

fn label_taken(label: &Name) -> Error {
    Error::Usage(format!("there is a restore recipient {label}, or there was; give another {Label}"))
}

/// Keeps a recipient from what is saved from now on, by a new epoch for all others, and removes its objects where the
/// store allows. `passphrase` carries the others over whose passphrase it is.
///
/// Errors: [`Error::Usage`] for the last recipient, an unknown one, and when another cannot be carried over.
pub async fn remove(
    repository: &Repository,
    label: &Name,
    passphrase: Option<&SecretString>,
) -> Result<Removed> {
    let stay = carried_over(repository, label, passphrase).await?;
    let epoch = start_epoch(repository, &stay).await?;
    let mut removed = Removed { epoch, kept: Vec::new() };
    delete_recipient(repository, label, &mut removed).await?;
    Ok(removed)
}

/// Replaces the passphrase under `label` by a new one, which opens content and the admin's key; returns its label.
///
/// Errors: as [`remove`].
pub async fn replace_passphrase(
    repository: &Repository,
    old: &SecretString,
    new: &SecretString,
) -> Result<(Name, Removed)> {
    let records = read(&repository.store, &repository.keys.trust).await?;
    let newest = newest_epoch(repository).await?;
    let opened = records.iter().find(|record| {
        record.fields.epoch == newest
            && record.fields.opener == Opener::Passphrase
            && passphrase_opens(old, record)
    });
    let former = opened.map(|record| record.fields.label.clone()).ok_or_else(|| {
        Error::Usage("the passphrase is no restore recipient any more; use the present one".into())
    })?;
    let label = free_label(repository, &records).await?;
    let mut stay = carried_over(repository, &former, None).await?;
    stay.push((label.clone(), To::Passphrase(new.clone())));

    let admin = repository.signer(&[Role::Admin])?.key.clone();
    put_admin(&repository.store, &repository.host, repository.keys.trust.repository, &admin, &label, new)
        .await?;
    let mut removed = Removed { epoch: start_epoch(repository, &stay).await?, kept: Vec::new() };
    delete_recipient(repository, &former, &mut removed).await?;
    delete_admins(repository, old, &label, &mut removed).await?;
    Ok((label, removed))
}

/// Seals the admin's key under a passphrase, and signs that.
pub async fn put_admin(
    store: &Store,
    host: &Host,
    repository: RepositoryId,
    admin: &SigningKey,
    label: &Name,
    passphrase: &SecretString,
) -> Result<()> {
    let secret = AdminSecret { repository, key: admin.clone() };
    let sealed = host.sealer.seal_with_passphrase(&normal(passphrase), secret.encode().as_bytes())?;
    let fields = AdminKey { repository, label: label.clone(), created: host.clock.now() };
    let record = record::encode(&fields, host.tool, admin, &[], &sealed)?;
    Ok(store.put_own(&names::admin(label), record.into(), "run the command again").await?)
}

/// Seals an identity for a recipient, as a record's sealed part.
pub fn seal_identity(host: &Host, to: &To, secret: &IdentitySecret) -> Result<(Opener, Vec<u8>)> {
    let secret = secret.encode();
    match to {
        To::Passphrase(passphrase) => {
            let passphrase = normal(passphrase);
            Ok((Opener::Passphrase, host.sealer.seal_with_passphrase(&passphrase, secret.as_bytes())?))
        }
        To::Key(opener) => Ok((opener.clone(), host.sealer.seal(&opener.to_string(), secret.as_bytes())?)),
    }
}

async fn put(repository: &Repository, secret: &IdentitySecret, label: &Name, to: &To) -> Result<Put> {
    let (opener, sealed) = seal_identity(&repository.host, to, secret)?;
    let recipient = RecipientRecord {
        repository: repository.keys.trust.repository,
        epoch: secret.epoch,
        label: label.clone(),
        created: repository.host.clock.now(),
        opener,
    };
    let record = sign(repository, &recipient, &sealed)?;
    Ok(repository.store.put_new(&names::recipient(secret.epoch, label), record).await?)
}

/// The newest epoch, of which one that was just opened must not be hidden: its number would be given to another identity.
async fn newest_epoch(repository: &Repository) -> Result<u16> {
    let newest = newest_identity(&repository.store, &repository.keys.trust).await?;
    let newest = newest.map(|record| record.fields.epoch);
    let opened = repository.keys.identities.iter().map(|identity| identity.epoch).max();
    match opened.filter(|opened| newest.is_none_or(|newest| newest < *opened)) {
        Some(hidden) => Err(Error::Store(StoreError::Missing { key: names::identity(hidden) })),
        None => newest.ok_or_else(|| Error::Lost { what: "every identity's record".into() }),
    }
}

/// The recipients that stay when `label` goes.
async fn carried_over(
    repository: &Repository,
    label: &Name,
    passphrase: Option<&SecretString>,
) -> Result<Vec<(Name, To)>> {
    let newest = newest_epoch(repository).await?;
    let records = read(&repository.store, &repository.keys.trust).await?;
    let current: Vec<_> = records.iter().filter(|record| record.fields.epoch == newest).collect();
    if !current.iter().any(|record| record.fields.label == *label) {
        return Err(Error::Usage(format!("there is no restore recipient {label}; {ListKeys} shows all")));
    }
    let mut stay = Vec::new();
    for record in current.into_iter().filter(|record| record.fields.label != *label) {
        let to = match (&record.fields.opener, passphrase) {
            (Opener::Passphrase, Some(passphrase)) if passphrase_opens(passphrase, record) => {
                To::Passphrase(passphrase.clone())
            }
            (Opener::Passphrase, _) => {
                return Err(Error::Usage(format!(
                    "recipient {} is another passphrase, which must be given to be kept",
                    record.fields.label
                )));
            }
            (opener, _) => To::Key(opener.clone()),
        };
        stay.push((record.fields.label.clone(), to));
    }
    Ok(stay)
}

/// A new identity for all sessions from now on, sealed to these. Its record comes last: before it there is no epoch.
async fn start_epoch(repository: &Repository, stay: &[(Name, To)]) -> Result<u16> {
    if stay.is_empty() {
        return Err(Error::Usage(
            "it is the only restore recipient: without one nothing can be restored; add another one first"
                .into(),
        ));
    }
    let former = repository.keys.identity(newest_epoch(repository).await?)?;
    let epoch = free_epoch(&repository.store, former.epoch).await?;
    let (identity, recipient) = identity_from_random(&repository.host)?;
    let secret = IdentitySecret { trust: repository.keys.trust.anchor(), epoch, identity };
    for (label, to) in stay {
        if let Put::Occupied(_) = put(repository, &secret, label, to).await? {
            return Err(occupied(names::recipient(epoch, label)));
        }
    }
    let sealed = repository.host.sealer.seal(&recipient, former.encode().as_bytes())?;
    let created = repository.host.clock.now();
    let record = IdentityRecord { repository: repository.keys.trust.repository, epoch, created, recipient };
    let record = sign(repository, &record, &sealed)?;
    match repository.store.put_new(&names::identity(epoch), record).await? {
        Put::Created => Ok(epoch),
        Put::Occupied(_) => Err(occupied(names::identity(epoch))),
    }
}

fn occupied(key: String) -> Error {
    Error::Store(StoreError::Occupied {
        key,
        advice: "somebody else changes recipients at the same time; run the command again".into(),
    })
}

/// The first epoch above `newest` of which nothing is there, be it junk or from a command that was interrupted.
async fn free_epoch(store: &Store, newest: u16) -> Result<u16> {
    let mut used: BTreeSet<u16> = BTreeSet::new();
    for listed in store.list(names::IDENTITIES).await? {
        used.extend(names::identity_epoch(&listed.key));
    }
    for listed in store.list(names::RECIPIENTS).await? {
        used.extend(names::recipient_parts(&listed.key).map(|(epoch, _)| epoch));
    }
    let free = (newest..=u16::MAX).skip(1).find(|epoch| !used.contains(epoch));
    free.ok_or_else(|| Error::Lost { what: "a free identity epoch".into() })
}

/// `passphrase`, `passphrase-2`, … whichever was never used, for a recipient or for the admin's key.
pub(super) async fn free_label(repository: &Repository, records: &[Record<RecipientRecord>]) -> Result<Name> {
    let admins: BTreeSet<String> =
        repository.store.list(names::ADMINS).await?.into_iter().map(|listed| listed.key).collect();
    let is_free = |label: &Name| {
        !admins.contains(&names::admin(label)) && !records.iter().any(|record| record.fields.label == *label)
    };
    let labels = (2..=u16::MAX).filter_map(|number| Name::new(&format!("passphrase-{number}")).ok());
    labels.into_iter().find(is_free).ok_or_else(|| Error::Lost { what: "a free label".into() })
}

async fn delete_recipient(repository: &Repository, label: &Name, removed: &mut Removed) -> Result<()> {
    let records = read(&repository.store, &repository.keys.trust).await?;
    for record in records.iter().filter(|record| record.fields.label == *label) {
        delete(repository, names::recipient(record.fields.epoch, label), removed).await;
    }
    Ok(())
}

/// The admin's key under the old passphrase.
async fn delete_admins(
    repository: &Repository,
    old: &SecretString,
    keep: &Name,
    removed: &mut Removed,
) -> Result<()> {
    let found = objects::read::<AdminKey>(&repository.store, &repository.keys.trust).await?;
    for (record, _) in found.records.iter().filter(|(record, _)| record.fields.label != *keep) {
        if passphrase_opens(old, record) {
            delete(repository, record.fields.key(), removed).await;
        }
    }
    Ok(())
}

/// A refused delete, which a locked bucket must refuse, is reported and is no error.
pub(super) async fn delete(repository: &Repository, key: String, removed: &mut Removed) {
    if let Err(error) = repository.store.delete(&key).await {
        removed.kept.push((key, error.to_string()));
    }
}
