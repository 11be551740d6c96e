//! Key objects that must be there and are not: what says so, what each costs, what goes on without it, and what to do.
//!
//! A recipient that was removed and one that was lost look the same. So only what some record says must be there is called
//! lost, and a folder in which nothing is left that serves.

use std::collections::BTreeSet;
use std::sync::Arc;

use sancerre_advice::Setting::{Identity, KeyFile};
use sancerre_advice::Verb::ListKeys;
use sancerre_format::certificate::{Certificate, Signer};
use sancerre_format::config::ZoneRecord;
use sancerre_format::log::Kind;
use sancerre_format::names::{self, Name, Zone};
use sancerre_format::recipient::AdminKey;
use sancerre_format::record::Trust;

use super::epoch::of_session;
use super::objects::{self, LeftOut};
use super::recipients::INIT_LABEL;
use super::{Anchored, Keys, SignerKey, ZoneSecrets};
use crate::error::{Error, Result};
use crate::log::{Log, LogEntry};
use crate::repository::Repository;
use sancerre_store::Store;

/// The generation of a zone that is made with it, and the epoch of a repository.
const FIRST: u16 = 1;
const BRING: &str = "Bring it back from a copy of the repository: it never changes";

/// A key object that is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostKey {
    /// Its key; the folder where none is left in it.
    pub object: String,
    /// What it costs, what goes on, and what to do.
    pub words: String,
    /// Whether nobody can restore by the usual means what is saved now.
    pub is_needed_to_restore: bool,
}

impl std::fmt::Display for LostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "object {} is missing: {}", self.object, self.words)
    }
}

impl From<LostKey> for Error {
    fn from(lost: LostKey) -> Self {
        Self::KeyLost(Box::new(lost))
    }
}

impl LostKey {
    /// The secrets of a generation of a zone.
    pub fn zone(zone: &Zone, generation: u16) -> Self {
        let words = format!(
            "it holds the secrets of generation {generation} of zone {zone}, without which the passphrase or an identity alone \
             restores nothing of it, and no key can be added. A key file of that generation holds them too: backups with it go \
             on, and with {KeyFile} besides the passphrase restore and dump do. {BRING}"
        );
        Self { object: names::zone(zone, generation), words, is_needed_to_restore: true }
    }

    fn identity(epoch: u16) -> Self {
        let words = format!(
            "it is the record of identity epoch {epoch}: nobody can be added to it, and it leads to the epochs before it. \
             Restores of what was saved in it go on. {BRING}"
        );
        Self { object: names::identity(epoch), words, is_needed_to_restore: false }
    }

    pub(super) fn certificate(name: &Name) -> Self {
        let words = format!(
            "what {name} signed verifies all the same, and its key file works; a key that was kept in it signs no backups with \
             the passphrase any more: use a key file. {BRING}"
        );
        Self { object: names::certificate(name), words, is_needed_to_restore: false }
    }

    /// Every restore recipient; `bad` says what is wrong with what is there.
    pub fn recipients(bad: Option<&LeftOut>) -> Self {
        let bad = bad.map_or_else(String::new, |bad| format!("; what is there does not serve ({})", bad.why));
        let words = format!(
            "no restore recipient is there{bad}, so no passphrase or identity opens this repository's content. Backups with key \
             files go on, and are restored once one is back. Bring them back from a copy of the repository; whoever keeps no \
             copy elsewhere should save the machines into another repository now"
        );
        Self { object: names::RECIPIENTS.to_owned(), words, is_needed_to_restore: true }
    }

    fn recipients_of(epoch: u16) -> Self {
        let words = format!(
            "no restore recipient of identity epoch {epoch} is there: nobody opens what is saved in it, and what earlier ones open \
             they still open. Bring them back from a copy of the repository"
        );
        Self { object: format!("{}{epoch:04x}-", names::RECIPIENTS), words, is_needed_to_restore: true }
    }

    /// What `init` sealed to the passphrase. No epoch but the first has it for certain.
    pub fn passphrase() -> Self {
        let words = format!(
            "the passphrase that the repository was made with opens nothing. The other restore recipients open it \
             ({Identity}; {ListKeys} shows them), and backups with key files go on. {BRING}"
        );
        let object = format!("{}{FIRST:04x}-{INIT_LABEL}", names::RECIPIENTS);
        Self { object, words, is_needed_to_restore: false }
    }

    /// Every holder of the admin's present key.
    pub fn admin() -> Self {
        let words = "the admin's signing key is not there: nothing that the administrator signs can be made (key add, revoke, \
                     rotate, repair). Backups, restores, and what the key files of keepers do, go on. Bring it back from a copy \
                     of the repository"
            .to_owned();
        Self { object: names::ADMINS.to_owned(), words, is_needed_to_restore: false }
    }
}

impl Keys {
    /// What is public of a zone where what opens the rest is lost: then nothing vouches for the trust anchor, but what was
    /// compared with it already.
    ///
    /// Errors: as [`super::read_config`].
    pub async fn without_lost(store: &Store, anchor: Option<&Trust>, zone: Zone) -> Result<Self> {
        let anchored = Anchored::read(store, anchor).await?;
        let mut keys = Self { vouched: anchor.is_some(), ..Self::public(anchored.trust.clone(), zone) };
        keys.anchor(anchored);
        Ok(keys)
    }
}

/// What must be there for a zone, as far as its records say.
#[derive(Debug, Default)]
pub struct Needed {
    generations: BTreeSet<u16>,
    epochs: BTreeSet<u16>,
    signers: BTreeSet<Name>,
}

impl Needed {
    /// As its log and the keys at hand say.
    pub fn of(log: &Log, keys: &Keys) -> Self {
        let mut needed = Self::default();
        for entry in log.entries() {
            needed.add(entry);
        }
        needed.epochs.extend(keys.identities.iter().map(|identity| identity.epoch));
        if let Some(secrets) = &keys.secrets {
            needed.generations.insert(secrets.generation);
        }
        let own = keys.signers.iter().filter(|signer| signer.by.certificate.is_some());
        needed.signers.extend(own.map(|signer| signer.by.name.clone()));
        needed
    }

    fn add(&mut self, of: &LogEntry) {
        let Ok(entry) = of.entry.as_deref() else { return };
        let fields = &entry.fields;
        if fields.by.certificate.is_some() {
            self.signers.insert(fields.by.name.clone());
        }
        // What stands for a lost entry does not say the rest.
        if let (Kind::Backup(intent), None) = (&fields.kind, &of.lost) {
            self.generations.insert(intent.generation);
            self.epochs.insert(intent.epoch);
        }
    }

    /// What of it is not among these keys. Somebody may work in the zone if `is_used`: it was made then.
    pub fn lost(&self, zone: &Zone, there: &BTreeSet<String>, is_used: bool) -> Vec<LostKey> {
        let mut generations = self.generations.clone();
        if is_used
            && generations.is_empty()
            && !there.iter().any(|key| names::zone_generation(zone, key).is_some())
        {
            generations.insert(FIRST);
        }
        let zones = generations.iter().map(|generation| LostKey::zone(zone, *generation));
        let identities = self.epochs.iter().map(|epoch| LostKey::identity(*epoch));
        let certificates = self.signers.iter().map(LostKey::certificate);
        zones.chain(identities).chain(certificates).filter(|lost| !there.contains(&lost.object)).collect()
    }
}

/// The restore recipients that are lost for certain, where these are all and the newest identity is of this epoch.
pub fn recipients(there: &BTreeSet<String>, newest: Option<u16>) -> Option<LostKey> {
    let found: Vec<_> = there.iter().filter_map(|key| names::recipient_parts(key)).collect();
    if found.is_empty() {
        return Some(LostKey::recipients(None));
    }
    let passphrase = LostKey::passphrase();
    match newest {
        Some(epoch) if !found.iter().any(|(of, _)| *of == epoch) => Some(LostKey::recipients_of(epoch)),
        // Who is removed is so by a new epoch: in the first one nobody was.
        Some(FIRST) if !there.contains(&passphrase.object) => Some(passphrase),
        _ => None,
    }
}

/// What a session that is about to be announced is signed with and sealed to.
pub struct Sealing {
    /// The key that signs the session.
    pub writer: SignerKey,
    /// Epoch of the identity to which it is sealed.
    pub epoch: u16,
    /// That identity's recipient.
    pub recipient: String,
    /// What of the key objects is lost.
    pub lost_keys: Vec<LostKey>,
}

/// Errors: no key that signs backups; an identity or newer secrets of the zone that are lost; the store's.
pub async fn sealing(repository: &Repository, log: &Log) -> Result<Sealing> {
    let keys = &repository.keys;
    let listed = match log.key_objects() {
        Some(listed) => listed.to_vec(),
        None => repository.store.list(names::KEYS).await?,
    };
    let there: BTreeSet<String> = listed.iter().map(|listed| listed.key.clone()).collect();
    let mut lost_keys = Needed::of(log, keys).lost(&keys.zone, &there, true);
    let writer = repository.writer().map_err(|error| instead_of_no_writer(&lost_keys, error))?.clone();
    let secrets = keys.zone_secrets()?;
    refuse_newer_generation(keys, secrets, &lost_keys)?;
    let (epoch, recipient) = of_session(repository, log, secrets, listed).await?;
    lost_keys.extend(recipients(&there, Some(epoch)));
    lost_keys.extend((!there.iter().any(|key| key.starts_with(names::ADMINS))).then(LostKey::admin));
    Ok(Sealing { writer, epoch, recipient, lost_keys })
}

/// Why there is no key that signs backups: it was kept in a certificate that is lost.
fn instead_of_no_writer(lost: &[LostKey], error: Error) -> Error {
    let certificate = lost.iter().find(|lost| lost.object.starts_with(names::CERTIFICATES));
    certificate.filter(|_| matches!(error, Error::WrongKey { .. })).map_or(error, |lost| lost.clone().into())
}

/// Fails when the repository's own secrets of a generation above the one at hand are lost. What is at hand then may be known
/// to whoever stole a key file.
fn refuse_newer_generation(keys: &Keys, at_hand: &ZoneSecrets, lost: &[LostKey]) -> Result<()> {
    let is_newer = |lost: &&LostKey| {
        names::zone_generation(&keys.zone, &lost.object)
            .is_some_and(|generation| generation > at_hand.generation)
    };
    match lost.iter().find(is_newer).filter(|_| keys.generations.is_some()) {
        Some(lost) => Err(lost.clone().into()),
        None => Ok(()),
    }
}

/// Whether an object of these holds the present admin's key. It signs its own holder, which tells it from one that was
/// replaced.
///
/// Errors: the store's.
pub async fn has_admin(store: &Store, trust: &Trust, there: &BTreeSet<String>) -> Result<bool> {
    if trust.number() == 0 {
        return Ok(there.iter().any(|key| key.starts_with(names::ADMINS)));
    }
    let own = Trust::new(trust.repository, *trust.current());
    Ok(!objects::read::<AdminKey>(store, &own).await?.records.is_empty())
}

/// Why there is no zone of this name: its secrets are lost, where somebody may work in it or somebody did; else it was never
/// made.
pub async fn no_zone(store: &Store, trust: &Trust, zone: &Zone) -> Error {
    match is_used(store, trust, zone).await {
        Ok(true) => LostKey::zone(zone, FIRST).into(),
        Ok(false) => Error::Usage(format!("there is no zone {zone}; {ListKeys} shows all")),
        Err(error) => error,
    }
}

async fn is_used(store: &Store, trust: &Trust, zone: &Zone) -> Result<bool> {
    let certificates = objects::read::<Certificate>(store, trust).await?.records;
    if certificates.iter().any(|(record, _)| record.fields.zone == *zone) {
        return Ok(true);
    }
    Ok(store.folders(names::ZONE_FOLDERS).await?.iter().any(|folder| *folder == zone.to_string()))
}

/// The newest identity of those at hand, where no record of any is there.
pub fn identity(keys: &Keys) -> Error {
    let newest = keys.identities.iter().map(|identity| identity.epoch).max();
    LostKey::identity(newest.unwrap_or(FIRST)).into()
}

/// Fails while a generation of the zone's secrets is lost: another one would get its number, and what was saved with the
/// first would never open again.
pub(crate) async fn refuse_lost_generation(repository: &Repository) -> Result<()> {
    let (store, trust, zone) = (&repository.store, &repository.keys.trust, &repository.keys.zone);
    let keys = Arc::new(Keys::public(trust.clone(), zone.clone()));
    let log = Log::load(&Repository { keys: Arc::clone(&keys), ..repository.clone() }).await?;
    let listed = store.list(names::ZONES).await?;
    let there: BTreeSet<String> = listed.into_iter().map(|listed| listed.key).collect();
    let used = is_used(store, trust, zone).await?;
    let lost = Needed::of(&log, &keys).lost(zone, &there, used);
    match lost.into_iter().find(|lost| lost.object.starts_with(names::ZONES)) {
        Some(lost) => Err(lost.into()),
        None => Ok(()),
    }
}

/// The certificate of a name whose object is lost, as its own records carry it, in whichever zone.
///
/// Errors: the store's.
pub(super) async fn signed_certificate(repository: &Repository, name: &Name) -> Result<Option<Certificate>> {
    for zone in zones(repository, &[], &[]).await? {
        let keys = Keys::public(repository.keys.trust.clone(), zone).into();
        let log = Log::load(&Repository { keys, ..repository.clone() }).await?;
        let certificates =
            log.entries().filter_map(LogEntry::announced).filter_map(|entry| match &entry.signer {
                Signer::Certified(certificate) if certificate.name == *name => Some((**certificate).clone()),
                _ => None,
            });
        if let Some(certificate) = certificates.last() {
            return Ok(Some(certificate));
        }
    }
    Ok(None)
}

/// All zones: of those whose secrets are there, of certificates, and those in which something was saved.
pub(super) async fn zones(
    repository: &Repository,
    records: &[ZoneRecord],
    certificates: &[Certificate],
) -> Result<BTreeSet<Zone>> {
    let folders = repository.store.folders(names::ZONE_FOLDERS).await?;
    let mut zones: BTreeSet<Zone> = folders.iter().filter_map(|folder| Zone::new(folder).ok()).collect();
    zones.extend(records.iter().map(|record| record.zone.clone()));
    zones.extend(certificates.iter().map(|certificate| certificate.zone.clone()));
    Ok(zones)
}

/// Fails where sessions saved something: without a `config` that is no empty place.
///
/// Errors: [`Error::ConfigLost`]; the store's.
pub async fn refuse_lost_config(store: &Store) -> Result<()> {
    match store.list(names::ZONE_FOLDERS).await?.is_empty() {
        true => Ok(()),
        false => Err(Error::ConfigLost { location: store.location().to_owned() }),
    }
}
