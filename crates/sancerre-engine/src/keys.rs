//! Opening keys: from a writer's key file or from a passphrase (FORMAT.md §4).

use std::io::Read;
use std::str::FromStr;

/// A passphrase: wiped from memory, never shown, read only where `ExposeSecret` says so.
pub use age::secrecy::{ExposeSecret, SecretString};
use base64::Engine;
use sancerre_format::certificate::{Certificate, Signer};
use sancerre_format::config::{Config, Identity, ZoneRecord};
use sancerre_format::id::SessionId;
use sancerre_format::key::{
    AdminSecret, IdentitySecret, KeyFile, Secret, WriterSecret, ZoneKeys, ZoneSecret,
};
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::{self, Name, Zone};
use sancerre_format::record::{self, Record, SignedBy, Trust};
use sancerre_format::seal::{RootKey, SessionKey};
use sancerre_format::sign::SigningKey;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::store::Store;

/// Most work a key file may ask for: 4 GiB of memory; more is an attack.
const SCRYPT_LOG_N_MAX: u8 = 22;

/// A key that signs, and its certificate.
#[derive(Clone)]
pub struct WriterKey {
    /// Name and portable certificate, as records carry them.
    pub by: SignedBy,
    /// The key.
    pub key: SigningKey,
}

/// Keys in memory: what this process may do.
#[derive(Clone)]
pub struct Keys {
    /// Repository and admin key.
    pub trust: Trust,
    /// The zone it works in.
    pub zone: Zone,
    /// Generation of the zone's keys.
    pub generation: u16,
    /// Identity epoch new session keys are sealed to.
    pub epoch: u16,
    /// That epoch's recipient.
    pub recipient: String,
    /// The zone's keys: maps and index, never content.
    pub zone_keys: ZoneKeys,
    /// May sign backups.
    pub writer: Option<WriterKey>,
    /// Opens content: the identities by epoch.
    identities: Vec<IdentitySecret>,
}

impl Keys {
    /// From a writer's key file. Nothing is read from the store.
    pub fn from_key_file(bytes: &[u8]) -> Result<Self> {
        let bad = |error: &dyn std::fmt::Display| Error::WrongKey {
            what: format!("the key file cannot be used: {error}"),
            advice: "give a key file that `sancerre init` or `sancerre key add writer` wrote",
        };
        let file = KeyFile::decode(bytes).map_err(|error| bad(&error))?;
        let head = base64::engine::general_purpose::STANDARD
            .decode(&file.certificate)
            .map_err(|error| bad(&error))?;
        let signer = Signer::of_certificate(&head, &file.trust).map_err(|error| bad(&error))?;
        let name = match &signer {
            Signer::Certified(certificate) if certificate.key == file.key.public() => {
                certificate.name.clone()
            }
            _ => return Err(bad(&"its certificate is for another key")),
        };
        Ok(Self {
            trust: file.trust,
            zone: file.zone,
            generation: file.generation,
            epoch: file.epoch,
            recipient: file.recipient,
            zone_keys: file.keys,
            writer: Some(WriterKey {
                by: SignedBy { name, certificate: Some(file.certificate) },
                key: file.key,
            }),
            identities: Vec::new(),
        })
    }

    /// With a passphrase: opens the repository's identity and all that is sealed to it.
    pub async fn from_passphrase(store: &Store, zone: &Zone, passphrase: &SecretString) -> Result<Self> {
        let identities = open_identities(store, passphrase).await?;
        let newest =
            identities.iter().max_by_key(|identity| identity.epoch).ok_or_else(|| no_recipient(store))?;
        let trust = newest.trust;
        let recipient = age_identity(newest)?.to_public().to_string();
        let (record, secret) = open_zone(store, &trust, zone, &identities).await?;
        Ok(Self {
            trust,
            zone: zone.clone(),
            generation: record.fields.generation,
            epoch: newest.epoch,
            recipient,
            zone_keys: secret.keys.clone(),
            writer: open_writer(store, &trust, zone, &identities).await?,
            identities,
        })
    }

    /// Whether content can be opened.
    pub fn can_open_content(&self) -> bool {
        !self.identities.is_empty()
    }

    /// The key that signs backups.
    ///
    /// Errors: [`Error::WrongKey`] when there is none.
    pub fn writer(&self) -> Result<&WriterKey> {
        self.writer.as_ref().ok_or_else(|| Error::WrongKey {
            what: "this key cannot sign a backup".into(),
            advice: "use a writer's key file (--key-file), or the repository's passphrase",
        })
    }

    /// The root that opens a session's metadata.
    pub fn metadata_root(&self, session: &SessionId) -> RootKey {
        RootKey::metadata(&self.zone_keys.metadata, session)
    }

    /// The root that opens a session's content; `entry` is its log entry.
    ///
    /// Errors: [`Error::WrongKey`] without an identity; [`Error::Object`] when the sealed key is not the committed one.
    pub fn content_root(&self, entry: &Record<Entry>, key_of_entry: &str) -> Result<RootKey> {
        let Kind::Backup(intent) = &entry.fields.kind else {
            return Err(Error::Lost { what: format!("the session key of {key_of_entry}") });
        };
        let identity = self.identities.iter().find(|identity| identity.epoch == intent.epoch);
        let identity = identity.ok_or_else(|| Error::WrongKey {
            what: "this key cannot open the content of backups".into(),
            advice: "use the repository's passphrase or a restore identity",
        })?;
        let damaged = |detail: &str| Error::Object {
            key: key_of_entry.to_owned(),
            source: sancerre_format::FormatError::Forged { what: "session key", detail: detail.to_owned() },
        };
        let secret =
            open_sealed(&age_identity(identity)?, &entry.sealed).map_err(|_| damaged("it does not open"))?;
        let key: [u8; 32] = secret.as_slice().try_into().map_err(|_| damaged("it has another size"))?;
        let key = SessionKey(key);
        if key.commitment() != intent.commitment {
            return Err(damaged("it is not the key that the session committed to"));
        }
        Ok(key.root())
    }
}

/// The configuration, verified against `trust`, or on first sight against itself.
pub async fn read_config(store: &Store, trust: Option<&Trust>) -> Result<Record<Config>> {
    let bytes = store.get(names::CONFIG).await?;
    let bytes = bytes.ok_or_else(|| Error::NoRepository { location: store.location().to_owned() })?;
    let claimed = match trust {
        Some(trust) => *trust,
        None => record::claimed_trust(&bytes).map_err(Error::object(names::CONFIG))?,
    };
    record::decode::<Config>(&claimed, &bytes).map_err(|error| not_trusted(store, &claimed, &bytes, error))
}

/// A whole config of another repository means that the key is the wrong one, not that the config is damaged.
fn not_trusted(store: &Store, trust: &Trust, bytes: &[u8], error: sancerre_format::FormatError) -> Error {
    let whole = |other: &Trust| other != trust && record::decode::<Config>(other, bytes).is_ok();
    match record::claimed_trust(bytes).ok().filter(whole) {
        Some(other) => Error::WrongKey {
            what: format!(
                "the key was made for repository {} and its admin key, not for repository {} at {}",
                trust.repository,
                other.repository,
                store.location()
            ),
            advice: "use this repository's own key file or passphrase; if that is what you use, somebody replaced its config",
        },
        None => Error::object(names::CONFIG)(error),
    }
}

async fn open_identities(store: &Store, passphrase: &SecretString) -> Result<Vec<IdentitySecret>> {
    // `init` writes `config` last: before it there is no repository, whatever else it left.
    if store.get(names::CONFIG).await?.is_none() {
        return Err(Error::NoRepository { location: store.location().to_owned() });
    }
    let files = store.list(names::RECIPIENTS).await?;
    let mut opened = Vec::new();
    for file in &files {
        let bytes = store.need(&file.key).await?;
        if let Some(secret) = open_with_passphrase(&bytes, passphrase) {
            opened.push(IdentitySecret::decode(&secret).map_err(Error::object(&file.key))?);
        }
    }
    match (opened.is_empty(), files.is_empty()) {
        (false, _) => Ok(opened),
        (true, true) => Err(no_recipient(store)),
        (true, false) => Err(Error::WrongKey {
            what: format!("the passphrase does not open the repository at {}", store.location()),
            advice: "check SANCERRE_PASSWORD, SANCERRE_PASSWORD_FILE or SANCERRE_PASSWORD_COMMAND, and the location",
        }),
    }
}

fn no_recipient(store: &Store) -> Error {
    Error::WrongKey {
        what: format!("the repository at {} has no restore recipient for a passphrase", store.location()),
        advice: "use a restore identity, or the recovery sheet",
    }
}

fn open_with_passphrase(sealed: &[u8], passphrase: &SecretString) -> Option<Zeroizing<Vec<u8>>> {
    let mut identity = age::scrypt::Identity::new(passphrase.clone());
    identity.set_max_work_factor(SCRYPT_LOG_N_MAX);
    open_sealed(&identity, sealed).ok()
}

fn open_sealed(
    identity: &dyn age::Identity,
    sealed: &[u8],
) -> std::result::Result<Zeroizing<Vec<u8>>, age::DecryptError> {
    let mut reader = age::Decryptor::new(sealed)?.decrypt(std::iter::once(identity))?;
    let mut secret = Zeroizing::new(Vec::new());
    reader.read_to_end(&mut secret)?;
    Ok(secret)
}

fn age_identity(secret: &IdentitySecret) -> Result<age::x25519::Identity> {
    age::x25519::Identity::from_str(&secret.identity).map_err(|reason| Error::WrongKey {
        what: format!("the repository's identity is malformed: {reason}"),
        advice: "use another restore recipient",
    })
}

fn open_by_identity(
    sealed: &[u8],
    epoch: u16,
    identities: &[IdentitySecret],
    key: &str,
) -> Result<Zeroizing<Vec<u8>>> {
    let identity = identities.iter().find(|identity| identity.epoch == epoch);
    let identity = identity.ok_or_else(|| Error::WrongKey {
        what: format!("object {key} is sealed to identity epoch {epoch}, which this key does not open"),
        advice: "use a recipient of that epoch",
    })?;
    let forged =
        |_| sancerre_format::FormatError::Forged { what: "sealed secret", detail: "it does not open".into() };
    open_sealed(&age_identity(identity)?, sealed).map_err(forged).map_err(Error::object(key))
}

/// The newest generation of a zone.
async fn open_zone(
    store: &Store,
    trust: &Trust,
    zone: &Zone,
    identities: &[IdentitySecret],
) -> Result<(Record<ZoneRecord>, ZoneSecret)> {
    let listed = store.list(names::ZONES).await?;
    let newest = listed.iter().filter_map(|listed| names::zone_generation(zone, &listed.key)).max();
    let key = names::zone(zone, newest.ok_or_else(|| Error::Usage(format!("there is no zone {zone}")))?);
    let bytes = store.need(&key).await?;
    let record = record::decode::<ZoneRecord>(trust, &bytes).map_err(Error::object(&key))?;
    let secret = open_by_identity(&record.sealed, record.fields.epoch, identities, &key)?;
    let secret = ZoneSecret::decode(&secret).map_err(Error::object(&key))?;
    Ok((record, secret))
}

/// The first certificate of the zone whose key is kept for whoever holds the identity.
async fn open_writer(
    store: &Store,
    trust: &Trust,
    zone: &Zone,
    identities: &[IdentitySecret],
) -> Result<Option<WriterKey>> {
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
            open_sealed(&identity, &record.sealed).ok()
        });
        let Some(secret) = opened else { continue };
        let secret = WriterSecret::decode(&secret).map_err(Error::object(&key))?;
        let certificate = sancerre_format::certificate::portable(&bytes).map_err(Error::object(&key))?;
        let by = SignedBy { name: record.fields.name.clone(), certificate: Some(certificate) };
        return Ok(Some(WriterKey { by, key: secret.key.clone() }));
    }
    Ok(None)
}

/// The admin's key, by passphrase.
pub async fn open_admin(store: &Store, passphrase: &SecretString) -> Result<SigningKey> {
    for file in store.list(names::ADMINS).await? {
        let bytes = store.need(&file.key).await?;
        if let Some(secret) = open_with_passphrase(&bytes, passphrase) {
            return Ok(AdminSecret::decode(&secret).map_err(Error::object(&file.key))?.key);
        }
    }
    Err(Error::WrongKey {
        what: "the passphrase does not open the admin key".into(),
        advice: "use the admin's passphrase",
    })
}

/// A fresh identity: its secret as text, and its recipient.
pub(crate) fn identity_from_random() -> (Zeroizing<String>, String) {
    let identity = age::x25519::Identity::generate();
    (Zeroizing::new(identity.to_string().expose_secret().to_owned()), identity.to_public().to_string())
}

/// Checks that a label for key objects is a name.
pub(crate) fn label(text: &str) -> Result<Name> {
    Name::new(text).map_err(|error| Error::Usage(error.to_string()))
}

/// The identity record of an epoch.
pub async fn read_identity(store: &Store, trust: &Trust, epoch: u16) -> Result<Record<Identity>> {
    let key = names::identity(epoch);
    record::decode::<Identity>(trust, &store.need(&key).await?).map_err(Error::object(&key))
}
