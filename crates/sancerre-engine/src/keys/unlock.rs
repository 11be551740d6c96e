//! Opening a repository's own keys with a passphrase or with identities.

use sancerre_format::certificate::{Certificate, Role, portable};
use sancerre_format::config::ZoneRecord;
use sancerre_format::key::{AdminSecret, IdentitySecret, Secret, WriterSecret, ZoneSecret};
use sancerre_format::names::{self, Name, Zone};
use sancerre_format::record::{self, Record, SignedBy, Trust};
use zeroize::Zeroizing;

use super::identity::OpenIdentity;
use super::sealed::{self, SCRYPT_LOG_N_MAX, age_identity, open_by_epoch};
use super::{ExposeSecret, Keys, SecretString, SignerKey, ZoneSecrets};
use crate::error::{Error, Result};
use crate::store::Store;

/// What opens age files: a passphrase, identities, or both.
#[derive(Default)]
pub struct Unlock {
    passphrase: Option<SecretString>,
    identities: Vec<OpenIdentity>,
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

    /// The secret, if any of them opens it.
    ///
    /// Errors: [`Error::WrongKey`] when a passphrase would need absurd work to be tried.
    fn open(&self, key: &str, file: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>> {
        if let Some(secret) =
            self.identities.iter().find_map(|identity| sealed::open(identity.as_ref(), file).ok())
        {
            return Ok(Some(secret));
        }
        let Some(passphrase) = &self.passphrase else { return Ok(None) };
        let mut identity = age::scrypt::Identity::new(passphrase.clone());
        identity.set_max_work_factor(SCRYPT_LOG_N_MAX);
        match sealed::open(&identity, file) {
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
        let mut keys = Self::unlock_identities(store, zone, unlock).await?;
        keys.enter_zone(store).await?;
        Ok(keys)
    }

    /// Opens the repository's identity alone; the zone need not exist.
    ///
    /// Errors: as [`Keys::unlock`].
    pub async fn unlock_identities(store: &Store, zone: &Zone, unlock: &Unlock) -> Result<Self> {
        let identities = open_identities(store, unlock).await?;
        let trust = newest(&identities)?.trust;
        Ok(Self { identities, ..Self::public(trust, zone.clone()) })
    }

    /// Opens the zone's secrets, and the key of a writer that is kept with them.
    ///
    /// Errors: as [`Keys::unlock`].
    pub async fn enter_zone(&mut self, store: &Store) -> Result<()> {
        let (epoch, recipient) = self.newest_identity()?;
        let (record, secret) = open_zone(store, &self.trust, &self.zone, &self.identities).await?;
        let (generation, keys) = (record.fields.generation, secret.keys.clone());
        self.secrets = Some(ZoneSecrets { generation, epoch, recipient, keys });
        self.signers.extend(open_writer(store, &self.trust, &self.zone, &self.identities).await?);
        Ok(())
    }

    /// Epoch and recipient of the newest identity at hand.
    pub(super) fn newest_identity(&self) -> Result<(u16, String)> {
        let newest = newest(&self.identities)?;
        Ok((newest.epoch, age_identity(newest)?.to_public().to_string()))
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

async fn open_identities(store: &Store, unlock: &Unlock) -> Result<Vec<IdentitySecret>> {
    // `init` writes `config` last: before it there is no repository, whatever else it left.
    if store.get(names::CONFIG).await?.is_none() {
        return Err(Error::NoRepository { location: store.location().to_owned() });
    }
    let files = store.list(names::RECIPIENTS).await?;
    let mut opened = Vec::new();
    let mut refused = None;
    for file in &files {
        let bytes = store.need(&file.key).await?;
        match unlock.open(&file.key, &bytes) {
            Ok(Some(secret)) => {
                opened.push(IdentitySecret::decode(&secret).map_err(Error::object(&file.key))?);
            }
            Ok(None) => {}
            Err(error) => refused = Some(error),
        }
    }
    match (opened.is_empty(), files.is_empty(), refused) {
        (false, ..) => Ok(opened),
        (true, true, _) => Err(no_recipient(store)),
        (true, false, Some(refused)) => Err(refused),
        (true, false, None) => Err(unlock.not_opened("the repository", store)),
    }
}

fn no_recipient(store: &Store) -> Error {
    Error::WrongKey {
        what: format!("the repository at {} has no restore recipient", store.location()),
        advice: "find out who removed the objects below keys/recipients/; a copy of them restores access",
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
        let (role, expires) = (record.fields.role, record.fields.expires);
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
        match unlock.open(&file.key, &bytes) {
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

/// A fresh identity: its secret as text, and its recipient.
pub(crate) fn identity_from_random() -> (Zeroizing<String>, String) {
    let identity = age::x25519::Identity::generate();
    (Zeroizing::new(identity.to_string().expose_secret().to_owned()), identity.to_public().to_string())
}
