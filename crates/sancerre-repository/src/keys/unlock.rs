//! Opening a repository's own keys with a passphrase or with identities.

mod refused;
mod signers;

use std::collections::{BTreeMap, BTreeSet};

use sancerre_advice::Setting::{Identity, Passphrase};
use sancerre_advice::Verb::{ListKeys, RemoveRecipient};
use sancerre_format::FormatError;
use sancerre_format::certificate::Role;
use sancerre_format::config::{IdentityRecord, ZoneRecord};
use sancerre_format::key::{IdentitySecret, Secret, ZoneKeys, ZoneSecret};
use sancerre_format::names::{self, Name, Zone};
use sancerre_format::recipient::{Opener, RecipientRecord};
use sancerre_format::record::{Fields, Record, SignedBy, Trust};
use zeroize::Zeroizing;

use super::hybrid;
use super::identity::OpenIdentity;
use super::lost::{LostKey, no_zone};
use super::objects::{self, Found, KeyRecord, LeftOut};
use super::sealed::{self, SCRYPT_LOG_N, age_identity, open_by_epoch};
use super::{Anchored, Keys, SecretString, SignerKey, ZoneSecrets};
use crate::error::{Error, Result};
use crate::host::Host;
use refused::{and_unread, another_admin};
use sancerre_store::Store;
use signers::{open_admin, open_writer};

/// What opens age files: a passphrase, identities, or both.
#[derive(Default)]
pub struct Unlock {
    passphrase: Option<SecretString>,
    identities: Vec<OpenIdentity>,
    anchor: Option<Trust>,
}

impl Unlock {
    /// With a passphrase.
    pub fn with_passphrase(mut self, passphrase: SecretString) -> Self {
        self.passphrase = Some(passphrase);
        self
    }

    /// With identities from a file.
    pub fn with_identities(mut self, identities: Vec<OpenIdentity>) -> Self {
        self.identities.extend(identities);
        self
    }

    /// Only of this repository.
    pub fn anchored(mut self, trust: Option<Trust>) -> Self {
        self.anchor = trust;
        self
    }

    /// The passphrase, if it is one of them.
    pub fn passphrase(&self) -> Option<&SecretString> {
        self.passphrase.as_ref()
    }

    /// Whether a passphrase can be tried at all; if it cannot, that must not look like a wrong one.
    fn has_memory(&self) -> Result<()> {
        self.passphrase.as_ref().map_or(Ok(()), |_| sealed::has_memory(SCRYPT_LOG_N))
    }

    fn try_identities(&self, file: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.identities.iter().find_map(|identity| sealed::open(identity.as_ref(), file).ok())
    }

    /// The secret, if there is a passphrase and it opens it.
    fn try_passphrase(&self, file: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let passphrase = self.passphrase.as_ref()?;
        sealed::open_with_passphrase(passphrase, file, SCRYPT_LOG_N).ok()
    }

    /// The secret sealed to a recipient, if that is one of those at hand.
    fn try_recipient(&self, record: &Record<RecipientRecord>) -> Option<Zeroizing<Vec<u8>>> {
        match record.fields.opener {
            Opener::Passphrase => self.try_passphrase(record.sealed().ok()?),
            Opener::Age(_) | Opener::Ssh(_) => self.try_identities(record.sealed().ok()?),
        }
    }

    /// What was tried, for messages.
    fn what(&self) -> &'static str {
        match (&self.passphrase, self.identities.is_empty()) {
            (Some(_), true) => "the passphrase",
            (None, _) => "the identity",
            (Some(_), false) => "neither the identity nor the passphrase",
        }
    }

    /// Why none of these opens, all of which verify: what was given may be of a kind of which there is none.
    fn fits_none(&self, records: &[(Record<RecipientRecord>, bytes::Bytes)], store: &Store) -> Error {
        let is_passphrase = |record: &RecipientRecord| record.opener == Opener::Passphrase;
        let passphrases = records.iter().filter(|(record, _)| is_passphrase(&record.fields)).count();
        let epoch = records.iter().map(|(record, _)| record.fields.epoch).max();
        let what = match (&self.passphrase, self.identities.is_empty()) {
            (Some(_), true) if passphrases == 0 && epoch == Some(1) => return LostKey::passphrase().into(),
            (Some(_), true) if passphrases == 0 => "is a passphrase",
            (None, _) if passphrases == records.len() => "is a key, all are passphrases",
            _ => return self.not_opened("the repository", store),
        };
        Error::WrongKey {
            what: format!(
                "{} does not open the repository at {}: no restore recipient {what}",
                self.what(),
                store.location()
            ),
            advice: format!(
                "use a recipient that {ListKeys} shows. If this was one, it was removed with {RemoveRecipient}, or its object \
                 below keys/recipients/ was lost: bring that back from a copy"
            ),
        }
    }

    fn not_opened(&self, what: &str, store: &Store) -> Error {
        let verb = if self.what().starts_with("neither") { "opens" } else { "does not open" };
        Error::WrongKey {
            what: format!("{} {verb} {what} at {}", self.what(), store.location()),
            advice: match self.passphrase {
                Some(_) => format!("check {Passphrase}, and the location"),
                None => {
                    format!("give the identity ({Identity}) of a restore recipient; {ListKeys} shows them")
                }
            },
        }
    }
}

impl Keys {
    /// With a passphrase: [`Keys::unlock`].
    pub async fn from_passphrase(store: &Store, zone: &Zone, passphrase: &SecretString) -> Result<Self> {
        Self::unlock(store, zone, &Unlock::default().with_passphrase(passphrase.clone())).await
    }

    /// Opens the repository's identity and all that is sealed to it.
    ///
    /// Errors: [`Error::NoRepository`]; [`Error::WrongKey`] when nothing opens; [`Error::Usage`] when there is no such
    /// zone; damage of key objects.
    pub async fn unlock(store: &Store, zone: &Zone, unlock: &Unlock) -> Result<Self> {
        // `init` writes `config` last: before it there is no repository, whatever else it left.
        let anchored = Anchored::read(store, unlock.anchor.as_ref()).await?;
        let mut keys = Self::unlock_identities(store, anchored, zone, unlock).await?;
        keys.enter_zone(store).await?;
        Ok(keys)
    }

    /// Opens the repository's identity alone, which is that of `anchored`; the zone need not exist.
    ///
    /// Errors: as [`Keys::unlock`].
    pub async fn unlock_identities(
        store: &Store,
        anchored: Anchored,
        zone: &Zone,
        unlock: &Unlock,
    ) -> Result<Self> {
        unlock.has_memory()?;
        let trust = anchored.trust.clone();
        let Opened { found: (identities, vouched), left_out } =
            open_identities(store, &trust, unlock).await?;
        let mut keys = Self {
            identities,
            vouched: vouched || unlock.anchor.is_some(),
            ..Self::public(trust, zone.clone())
        };
        keys.anchor(anchored);
        keys.note(left_out);
        Ok(keys)
    }

    /// Opens the zone's secrets, and the key of a writer that is kept with them.
    ///
    /// Errors: as [`Keys::unlock`].
    pub async fn enter_zone(&mut self, store: &Store) -> Result<()> {
        let newest = newest(&self.identities)?;
        let (epoch, recipient) = (newest.epoch, recipient_of(newest)?);
        let (zone, writer) = futures::try_join!(
            open_zone(store, &self.trust, &self.zone, &self.identities),
            open_writer(store, &self.trust, &self.zone, &self.identities),
        )?;
        let Generations { keys, there } = zone.found;
        (self.secrets, self.generations) = (ZoneSecrets::of(keys, epoch, recipient), Some(there));
        self.signers.extend(writer.found);
        self.note(zone.left_out);
        self.note(writer.left_out);
        Ok(())
    }

    /// The identity of an epoch.
    pub(super) fn identity(&self, epoch: u16) -> Result<&IdentitySecret> {
        let found = self.identities.iter().find(|identity| identity.epoch == epoch);
        found.ok_or_else(|| Error::WrongKey {
            what: format!("this key does not open the repository's identity of epoch {epoch}"),
            advice: format!(
                "use the passphrase or identity ({Identity}) of a present restore recipient: {ListKeys}"
            ),
        })
    }

    /// Adds the admin's key, for what only the admin or a keeper may sign.
    ///
    /// Errors: [`Error::WrongKey`] when it does not open.
    pub async fn unlock_admin(&mut self, store: &Store, unlock: &Unlock) -> Result<()> {
        unlock.has_memory()?;
        let key = open_admin(store, &self.trust, unlock).await?;
        let name = Name::new("admin")?;
        let by = SignedBy { name, certificate: None };
        self.signers.push(SignerKey { by, key, role: Role::Admin, expires: None });
        Ok(())
    }
}

fn recipient_of(secret: &IdentitySecret) -> Result<String> {
    age_identity(secret)?.recipient().map_err(Error::object(&names::identity(secret.epoch)))
}

fn newest(identities: &[IdentitySecret]) -> Result<&IdentitySecret> {
    identities.iter().max_by_key(|identity| identity.epoch).ok_or_else(|| Error::WrongKey {
        what: "this key does not open the repository's identity".into(),
        advice: format!("use the repository's passphrase or a restore identity ({Identity})"),
    })
}

/// What was opened, and what was left out on the way.
struct Opened<T> {
    found: T,
    left_out: Vec<LeftOut>,
}

/// The identities that open, newest first through it all older ones; and whether that vouches for the trust anchor.
async fn open_identities(
    store: &Store,
    trust: &Trust,
    unlock: &Unlock,
) -> Result<Opened<(Vec<IdentitySecret>, bool)>> {
    let Found { mut records, mut left_out } = objects::read::<RecipientRecord>(store, trust).await?;
    records.sort_by_key(|(record, _)| std::cmp::Reverse(record.fields.epoch));
    let any = !records.is_empty();
    let (mut identities, mut vouched): (Vec<IdentitySecret>, bool) = (Vec::new(), false);
    for (record, _) in &records {
        // What an older record holds was opened already, or is what a broken chain still lacks.
        if identities.iter().any(|identity| identity.epoch == record.fields.epoch) {
            continue;
        }
        let Some(secret) = unlock.try_recipient(record) else { continue };
        let key = record.fields.key();
        let read = match IdentitySecret::decode(&secret) {
            Ok(secret) if !secret.trust.is_same(trust) => {
                return Err(another_admin(store, trust, &secret.trust));
            }
            Ok(secret) => chain(store, trust, secret, &mut left_out).await?,
            Err(why) => Err(why),
        };
        match read {
            Ok((chained, whole)) => {
                vouched |= record.fields.opener == Opener::Passphrase;
                let known: Vec<u16> = identities.iter().map(|identity| identity.epoch).collect();
                identities.extend(chained.into_iter().filter(|found| !known.contains(&found.epoch)));
                if whole {
                    break;
                }
            }
            Err(why) => left_out.push(LeftOut { why: Error::object(&key)(why), key }),
        }
    }
    if identities.is_empty() {
        let lost = LostKey::recipients(left_out.first());
        let is_unread = |left_out: &&LeftOut| matches!(left_out.why, Error::Store(_));
        let unread = left_out.iter().find(is_unread).map(|unread| unread.why.to_string());
        return Err(match objects::worst(left_out, any) {
            Some(error) => error,
            None if any => and_unread(unlock.fits_none(&records, store), unread),
            None => lost.into(),
        });
    }
    Ok(Opened { found: (identities, vouched), left_out })
}

/// From an identity to those before it, each sealed to the next; and whether that reached the first.
///
/// What is wrong with the identity itself is the inner error. A break further down is named and costs only what lies
/// below it.
async fn chain(
    store: &Store,
    trust: &Trust,
    newest: IdentitySecret,
    left_out: &mut Vec<LeftOut>,
) -> Result<std::result::Result<(Vec<IdentitySecret>, bool), FormatError>> {
    let epochs = |key: &str| names::identity_epoch(key).is_some_and(|epoch| epoch <= newest.epoch);
    let mut found = objects::read_those::<IdentityRecord>(store, trust, epochs).await?;
    left_out.append(&mut found.left_out);
    let mut identities: Vec<IdentitySecret> = Vec::new();
    let mut next = Some(newest);
    while let Some(secret) = next.take() {
        let record = found.records.iter().find(|(record, _)| record.fields.epoch == secret.epoch);
        let step = match record {
            Some((record, _)) => step(trust, &secret, record),
            // Its record is needed for those before it, not to open what it opens.
            None => Ok(Step::Lost),
        };
        let first = identities.is_empty();
        match step {
            Ok(Step::First) => {
                identities.push(secret);
                return Ok(Ok((identities, true)));
            }
            Ok(Step::Lost) => identities.push(secret),
            Ok(Step::Before(former)) => {
                identities.push(secret);
                next = Some(*former);
            }
            Err(why) if first => return Ok(Err(why)),
            Err(why) => {
                let key = names::identity(secret.epoch);
                left_out.push(LeftOut { why: Error::object(&key)(why), key });
            }
        }
    }
    Ok(Ok((identities, false)))
}

/// Where the chain of identities goes on.
enum Step {
    First,
    /// The record is not to be had.
    Lost,
    Before(Box<IdentitySecret>),
}

fn step(
    trust: &Trust,
    secret: &IdentitySecret,
    record: &Record<IdentityRecord>,
) -> std::result::Result<Step, FormatError> {
    let forged = |detail: &str| FormatError::Forged { what: "identity", detail: detail.to_owned() };
    let identity = sealed::parse_identity(secret)?;
    if identity.recipient()? != record.fields.recipient {
        return Err(forged("its secret belongs to another recipient"));
    }
    let sealed_former = record.sealed()?;
    if sealed_former.is_empty() {
        return Ok(Step::First);
    }
    let former =
        sealed::open(&identity, sealed_former).map_err(|_| forged("the one before does not open"))?;
    let former = IdentitySecret::decode(&former)?;
    // Epochs fall, so this ends.
    if former.epoch >= secret.epoch || !former.trust.is_same(trust) {
        return Err(forged("the one before is of another place"));
    }
    Ok(Step::Before(Box::new(former)))
}

/// The newest generation of a zone that verifies; none when there is no such zone.
///
/// Errors: the store's; [`Error::Object`] when all that is there needs a newer version, or cannot be read.
pub async fn newest_generation(store: &Store, trust: &Trust, zone: &Zone) -> Result<Option<u16>> {
    let found = objects::read_those::<ZoneRecord>(store, trust, is_of(zone)).await?;
    let newest = found.records.iter().map(|(record, _)| record.fields.generation).max();
    match (newest, objects::worst(found.left_out, false)) {
        (None, Some(error)) => Err(error),
        _ => Ok(newest),
    }
}

fn is_of(zone: &Zone) -> impl Fn(&str) -> bool {
    |key| names::zone_generation(zone, key).is_some()
}

/// The secrets of a zone.
struct Generations {
    keys: BTreeMap<u16, ZoneKeys>,
    /// All whose objects are there, whether they open or not.
    there: BTreeSet<u16>,
}

/// All generations of a zone's keys that open; at least one.
async fn open_zone(
    store: &Store,
    trust: &Trust,
    zone: &Zone,
    identities: &[IdentitySecret],
) -> Result<Opened<Generations>> {
    let Found { records, mut left_out } =
        objects::read_those::<ZoneRecord>(store, trust, is_of(zone)).await?;
    let exists = !records.is_empty();
    let left_out_keys = left_out.iter().filter_map(|left_out| names::zone_generation(zone, &left_out.key));
    let there = records.iter().map(|(record, _)| record.fields.generation).chain(left_out_keys).collect();
    let (mut keys, mut refused) = (BTreeMap::new(), None);
    for (record, _) in &records {
        let key = record.fields.key();
        match open_generation(record, identities, &key) {
            Ok(secret) => drop(keys.insert(record.fields.generation, secret.keys.clone())),
            Err(why @ Error::Object { .. }) => left_out.push(LeftOut { key, why }),
            // An identity of before a rotation does not open what came later; it still opens what was before.
            Err(why) => refused = Some(why),
        }
    }
    match (keys.is_empty(), refused, exists) {
        (false, ..) => Ok(Opened { found: Generations { keys, there }, left_out }),
        (true, Some(refused), _) => Err(refused),
        (true, None, _) => match (objects::worst(left_out, exists), exists) {
            (Some(error), _) => Err(error),
            (None, true) => Err(Error::Lost { what: format!("every readable secret of zone {zone}") }),
            (None, false) => Err(no_zone(store, trust, zone).await),
        },
    }
}

fn open_generation(
    record: &Record<ZoneRecord>,
    identities: &[IdentitySecret],
    key: &str,
) -> Result<ZoneSecret> {
    let sealed = record.sealed().map_err(Error::object(key))?;
    let secret = open_by_epoch(sealed, record.fields.epoch, identities, key)?;
    let secret = ZoneSecret::decode(&secret).map_err(Error::object(key))?;
    let fields = &record.fields;
    let place = (secret.repository, &secret.zone, secret.generation);
    if place != (fields.repository, &fields.zone, fields.generation) {
        let detail = "its secret is of another place".into();
        return Err(Error::object(key)(FormatError::Forged { what: "zone secret", detail }));
    }
    Ok(secret)
}

/// Whether a passphrase opens what a record seals.
pub(super) fn passphrase_opens<F: Fields>(passphrase: &SecretString, record: &Record<F>) -> bool {
    let opened = |file: &[u8]| sealed::open_with_passphrase(passphrase, file, SCRYPT_LOG_N).is_ok();
    record.sealed().is_ok_and(opened)
}

/// A fresh identity, hybrid: its secret as text, and its recipient.
pub fn identity_from_random(host: &Host) -> Result<(Zeroizing<String>, String)> {
    let seed = Zeroizing::new(host.random::<32>());
    hybrid::HybridIdentity::of_seed(&seed).ok_or_else(|| Error::WrongKey {
        what: "cannot make an age identity".into(),
        advice: "please report it".into(),
    })
}
