//! Opening a repository's own keys with a passphrase or with identities.

use std::str::FromStr;

use sancerre_format::FormatError;
use sancerre_format::certificate::{Certificate, Role, portable};
use sancerre_format::config::ZoneRecord;
use sancerre_format::key::{AdminSecret, IdentitySecret, Secret, WriterSecret, ZoneSecret};
use sancerre_format::names::{self, Name, Zone};
use sancerre_format::recipient::Opener;
use sancerre_format::record::{self, Record, SignedBy, Trust};
use zeroize::Zeroizing;

use super::identity::OpenIdentity;
use super::sealed::{self, SCRYPT_LOG_N_MAX, age_identity, open_by_epoch};
use super::{Keys, SecretString, SignerKey, ZoneSecrets, read_config, read_identity, recipients};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::store::Store;

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

    fn try_identities(&self, file: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.identities.iter().find_map(|identity| sealed::open(identity.as_ref(), file).ok())
    }

    /// The secret, if there is a passphrase and it opens it; `key` names the object in errors.
    ///
    /// Errors: [`Error::WrongKey`] when to try it would need absurd work.
    fn try_passphrase(&self, key: &str, file: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let Some(passphrase) = &self.passphrase else { return Ok(None) };
        match sealed::open_with_passphrase(passphrase, file) {
            Ok(secret) => Ok(Some(secret)),
            Err(age::DecryptError::ExcessiveWork { required, .. }) => Err(Error::WrongKey {
                what: format!(
                    "object {key} asks for 2^{required} units of work to try a passphrase, more than the 2^{SCRYPT_LOG_N_MAX} allowed"
                ),
                advice: "this program does not write such files: find out who did, and remove it",
            }),
            Err(_) => Ok(None),
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

    fn not_opened(&self, what: &str, store: &Store) -> Error {
        let verb = if self.what().starts_with("neither") { "opens" } else { "does not open" };
        Error::WrongKey {
            what: format!("{} {verb} {what} at {}", self.what(), store.location()),
            advice: match self.passphrase {
                Some(_) => {
                    "check SANCERRE_PASSWORD, SANCERRE_PASSWORD_FILE or SANCERRE_PASSWORD_COMMAND, and the location"
                }
                None => {
                    "give the identity (--identity) of a restore recipient; `sancerre key list` shows them"
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
        let config = read_config(store, unlock.anchor.as_ref()).await?.fields;
        let mut keys = Self::unlock_identities(store, config.trust(), zone, unlock).await?;
        keys.enter_zone(store).await?;
        Ok(keys)
    }

    /// Opens the repository's identity alone, which is that of `trust`; the zone need not exist.
    ///
    /// Errors: as [`Keys::unlock`].
    pub async fn unlock_identities(
        store: &Store,
        trust: Trust,
        zone: &Zone,
        unlock: &Unlock,
    ) -> Result<Self> {
        let (identities, vouched) = open_identities(store, &trust, unlock).await?;
        Ok(Self {
            identities,
            vouched: vouched || unlock.anchor.is_some(),
            ..Self::public(trust, zone.clone())
        })
    }

    /// Opens the zone's secrets, and the key of a writer that is kept with them.
    ///
    /// Errors: as [`Keys::unlock`].
    pub async fn enter_zone(&mut self, store: &Store) -> Result<()> {
        let newest = newest(&self.identities)?;
        let (epoch, recipient) = (newest.epoch, age_identity(newest)?.to_public().to_string());
        let ((record, secret), writer) = futures::try_join!(
            open_zone(store, &self.trust, &self.zone, &self.identities),
            open_writer(store, &self.trust, &self.zone, &self.identities),
        )?;
        let (generation, keys) = (record.fields.generation, secret.keys.clone());
        self.secrets = Some(ZoneSecrets { generation, epoch, recipient, keys });
        self.signers.extend(writer);
        Ok(())
    }

    /// The identity of an epoch.
    pub(super) fn identity(&self, epoch: u16) -> Result<&IdentitySecret> {
        let found = self.identities.iter().find(|identity| identity.epoch == epoch);
        found.ok_or_else(|| Error::WrongKey {
            what: format!("this key does not open the repository's identity of epoch {epoch}"),
            advice: "use the passphrase or identity (--identity) of a present restore recipient: `sancerre key list`",
        })
    }

    /// Adds the admin's key, for what only the admin or a keeper may sign.
    ///
    /// Errors: [`Error::WrongKey`] when it does not open.
    pub async fn unlock_admin(&mut self, store: &Store, unlock: &Unlock) -> Result<()> {
        let key = open_admin(store, &self.trust, unlock).await?;
        let name = Name::new("admin")?;
        let by = SignedBy { name, certificate: None };
        self.signers.push(SignerKey { by, key, role: Role::Admin, expires: None });
        Ok(())
    }
}

fn newest(identities: &[IdentitySecret]) -> Result<&IdentitySecret> {
    identities.iter().max_by_key(|identity| identity.epoch).ok_or_else(|| Error::WrongKey {
        what: "this key does not open the repository's identity".into(),
        advice: "use the repository's passphrase or a restore identity (--identity)",
    })
}

/// The newest identity that opens, and through it all older ones; and whether that vouches for the trust anchor.
async fn open_identities(
    store: &Store,
    trust: &Trust,
    unlock: &Unlock,
) -> Result<(Vec<IdentitySecret>, bool)> {
    let (records, bad) = recipients::read(store, trust).await?;
    let mut refused = None;
    for record in &records {
        let key = names::recipient(record.fields.epoch, &record.fields.label);
        let is_passphrase = record.fields.opener == Opener::Passphrase;
        let opened = match is_passphrase {
            true => unlock.try_passphrase(&key, &record.sealed),
            false => Ok(unlock.try_identities(&record.sealed)),
        };
        match opened {
            Ok(Some(secret)) => {
                let secret = IdentitySecret::decode(&secret).map_err(Error::object(&key))?;
                if secret.trust != *trust {
                    return Err(another_admin(store, trust, &secret.trust));
                }
                return Ok((chain(store, trust, secret).await?, is_passphrase));
            }
            Ok(None) => {}
            Err(error) => refused = Some(error),
        }
    }
    match (records.is_empty(), refused) {
        (_, Some(refused)) => Err(refused),
        (true, None) => Err(no_recipient(store, &bad)),
        (false, None) => Err(unlock.not_opened("the repository", store)),
    }
}

/// From an identity to all before it: each is sealed to the next.
async fn chain(store: &Store, trust: &Trust, newest: IdentitySecret) -> Result<Vec<IdentitySecret>> {
    let mut identities = vec![newest];
    while let Some(last) = identities.last() {
        let key = names::identity(last.epoch);
        let record = read_identity(store, trust, last.epoch).await?;
        let identity = age_identity(last)?;
        let forged = |detail: &str| {
            Error::object(&key)(FormatError::Forged { what: "identity", detail: detail.to_owned() })
        };
        if identity.to_public().to_string() != record.fields.recipient {
            return Err(forged("its secret belongs to another recipient"));
        }
        if record.sealed.is_empty() {
            break;
        }
        let former =
            sealed::open(&identity, &record.sealed).map_err(|_| forged("the one before does not open"))?;
        let former = IdentitySecret::decode(&former).map_err(Error::object(&key))?;
        // Epochs fall, so this ends.
        if former.epoch >= last.epoch || former.trust != *trust {
            return Err(forged("the one before is of another place"));
        }
        identities.push(former);
    }
    Ok(identities)
}

fn another_admin(store: &Store, config: &Trust, sealed: &Trust) -> Error {
    Error::WrongKey {
        what: format!(
            "the config at {} is of repository {} and its admin key, but the key was sealed for repository {}",
            store.location(),
            config.repository,
            sealed.repository
        ),
        advice: "somebody may have replaced objects there: compare the trust anchor with the one you wrote down",
    }
}

fn no_recipient(store: &Store, bad: &[String]) -> Error {
    let verified = if bad.is_empty() { "" } else { " that verifies" };
    Error::WrongKey {
        what: format!("the repository at {} has no restore recipient{verified}", store.location()),
        advice: "find out who changed the objects below keys/recipients/; a copy of them restores access",
    }
}

/// The newest generation of a zone; none when there is no such zone.
pub async fn newest_generation(store: &Store, zone: &Zone) -> Result<Option<u16>> {
    let listed = store.list(names::ZONES).await?;
    Ok(listed.iter().filter_map(|listed| names::zone_generation(zone, &listed.key)).max())
}

/// The error of a zone that does not exist.
pub fn no_zone(zone: &Zone) -> Error {
    Error::Usage(format!("there is no zone {zone}; `sancerre key list` shows all"))
}

/// The newest generation of a zone.
async fn open_zone(
    store: &Store,
    trust: &Trust,
    zone: &Zone,
    identities: &[IdentitySecret],
) -> Result<(Record<ZoneRecord>, ZoneSecret)> {
    let key = names::zone(zone, newest_generation(store, zone).await?.ok_or_else(|| no_zone(zone))?);
    let bytes = store.need(&key).await?;
    let record = record::decode::<ZoneRecord>(trust, &bytes).map_err(Error::object(&key))?;
    let secret = open_by_epoch(&record.sealed, record.fields.epoch, identities, &key)?;
    let secret = ZoneSecret::decode(&secret).map_err(Error::object(&key))?;
    Ok((record, secret))
}

/// The first certificate of the zone whose key is kept for whoever holds the identity.
async fn open_writer(
    store: &Store,
    trust: &Trust,
    zone: &Zone,
    identities: &[IdentitySecret],
) -> Result<Option<SignerKey>> {
    let mut keys: Vec<String> =
        store.list(names::CERTIFICATES).await?.into_iter().map(|listed| listed.key).collect();
    keys.sort();
    for key in keys {
        let bytes = store.need(&key).await?;
        let record = record::decode::<Certificate>(trust, &bytes).map_err(Error::object(&key))?;
        if record.sealed.is_empty() || record.fields.zone != *zone {
            continue;
        }
        let opened = identities.iter().find_map(|identity| {
            let identity = age_identity(identity).ok()?;
            sealed::open(&identity, &record.sealed).ok()
        });
        let Some(secret) = opened else { continue };
        let secret = WriterSecret::decode(&secret).map_err(Error::object(&key))?;
        let certificate = portable(&bytes).map_err(Error::object(&key))?;
        let by = SignedBy { name: record.fields.name.clone(), certificate: Some(certificate) };
        let (role, expires) = (record.fields.role(), record.fields.expires);
        return Ok(Some(SignerKey { by, key: secret.key.clone(), role, expires }));
    }
    Ok(None)
}

async fn open_admin(
    store: &Store,
    trust: &Trust,
    unlock: &Unlock,
) -> Result<sancerre_format::sign::SigningKey> {
    let mut refused = None;
    for file in store.list(names::ADMINS).await? {
        let bytes = store.need(&file.key).await?;
        match unlock.try_passphrase(&file.key, &bytes) {
            Ok(Some(secret)) => {
                let key = AdminSecret::decode(&secret).map_err(Error::object(&file.key))?.key;
                if key.public() == trust.admin {
                    return Ok(key);
                }
            }
            Ok(None) => {}
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or_else(|| unlock.not_opened("the admin's key", store)))
}

/// Whether a passphrase opens an age file.
pub(super) fn passphrase_opens(passphrase: &SecretString, file: &[u8]) -> bool {
    sealed::open_with_passphrase(passphrase, file).is_ok()
}

/// A fresh identity: its secret as text, and its recipient.
pub(crate) fn identity_from_random(host: &Host) -> Result<(Zeroizing<String>, String)> {
    // age would draw the bytes itself; its text form takes any 32 of them.
    let bytes = Zeroizing::new(host.random::<32>());
    let bad = |reason: &dyn std::fmt::Display| Error::WrongKey {
        what: format!("cannot make an age identity: {reason}"),
        advice: "please report it",
    };
    let prefix = bech32::Hrp::parse("age-secret-key-").map_err(|reason| bad(&reason))?;
    let text =
        bech32::encode_upper::<bech32::Bech32>(prefix, bytes.as_slice()).map_err(|reason| bad(&reason))?;
    let text = Zeroizing::new(text);
    let identity = age::x25519::Identity::from_str(&text).map_err(|reason| bad(&reason))?;
    Ok((text, identity.to_public().to_string()))
}
