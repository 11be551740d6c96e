//! Signing keys that are kept in the repository for whoever can open them.

use sancerre_format::FormatError;
use sancerre_format::certificate::{Certificate, portable};
use sancerre_format::key::{AdminSecret, IdentitySecret, Secret, WriterSecret};
use sancerre_format::names::{self, Zone};
use sancerre_format::recipient::AdminKey;
use sancerre_format::record::{Record, SignedBy, Trust};
use sancerre_format::sign::SigningKey;

use super::{Opened, Unlock};
use crate::error::{Error, Result};
use crate::keys::objects::{self, Found, KeyRecord, LeftOut};
use crate::keys::sealed::{self, age_identity};
use crate::keys::{LostKey, SignerKey};
use sancerre_store::Store;

/// The first certificate of the zone whose key is kept for whoever holds the identity.
pub(super) async fn open_writer(
    store: &Store,
    trust: &Trust,
    zone: &Zone,
    identities: &[IdentitySecret],
) -> Result<Opened<Option<SignerKey>>> {
    let Found { records, mut left_out } = match objects::read::<Certificate>(store, trust).await {
        // A folder that cannot be read costs the key that may be kept in it, and of what others open nothing.
        Err(why @ Error::Store(_)) => {
            let why = objects::of_one_object(store, why).await?;
            let left_out = vec![LeftOut { key: names::CERTIFICATES.to_owned(), why }];
            return Ok(Opened { found: None, left_out });
        }
        found => found?,
    };
    for (record, bytes) in records.iter().filter(|(record, _)| record.fields.zone == *zone) {
        let sealed = record.sealed().map_err(Error::object(&record.fields.key()))?;
        let opened = identities.iter().filter(|_| !sealed.is_empty()).find_map(|identity| {
            let identity = age_identity(identity).ok()?;
            sealed::open(&identity, sealed).ok()
        });
        let Some(secret) = opened else { continue };
        match kept_signer(record, bytes, &secret) {
            Ok(signer) => return Ok(Opened { found: Some(signer), left_out }),
            Err(why) => {
                let key = record.fields.key();
                left_out.push(LeftOut { why: Error::object(&key)(why), key });
            }
        }
    }
    Ok(Opened { found: None, left_out })
}

fn kept_signer(
    record: &Record<Certificate>,
    bytes: &[u8],
    secret: &[u8],
) -> std::result::Result<SignerKey, FormatError> {
    let secret = WriterSecret::decode(secret)?;
    if secret.key.public() != record.fields.key {
        let detail = "the key kept with it is another one".into();
        return Err(FormatError::Forged { what: "certificate", detail });
    }
    let by = SignedBy { name: record.fields.name.clone(), certificate: Some(portable(bytes)?) };
    let (role, expires) = (record.fields.role(), record.fields.expires);
    Ok(SignerKey { by, key: secret.key.clone(), role, expires })
}

/// The admin's key, if the passphrase opens it.
pub(super) async fn open_admin(store: &Store, trust: &Trust, unlock: &Unlock) -> Result<SigningKey> {
    let Found { records, left_out } = objects::read::<AdminKey>(store, trust).await?;
    let mut is_replaced = false;
    for (record, _) in &records {
        let sealed = record.sealed().map_err(Error::object(&record.fields.key()))?;
        let opened = unlock.try_passphrase(sealed).and_then(|secret| AdminSecret::decode(&secret).ok());
        match opened {
            Some(secret) if secret.key.public() == *trust.current() => return Ok(secret.key),
            opened => is_replaced |= opened.is_some(),
        }
    }
    // The right passphrase, which opens nothing but a key that was replaced.
    let is_lost = is_replaced || (records.is_empty() && left_out.is_empty());
    Err(match objects::worst(left_out, !records.is_empty()) {
        Some(error) => error,
        None if is_lost => LostKey::admin().into(),
        None => unlock.not_opened("the admin's key", store),
    })
}
