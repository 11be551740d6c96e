//! Opening age files: whose work is bounded, and which epoch's identity fits.

use std::io::Read;
use std::str::FromStr;

use sancerre_format::FormatError;
use sancerre_format::key::IdentitySecret;
use zeroize::Zeroizing;

use super::SecretString;
use crate::error::{Error, Result};

/// Most work that a passphrase's age file may ask for: 4 GiB of memory; more is an attack.
pub(super) const SCRYPT_LOG_N_MAX: u8 = 22;

/// Opens an age file with one identity.
pub(super) fn open(
    identity: &dyn age::Identity,
    sealed: &[u8],
) -> std::result::Result<Zeroizing<Vec<u8>>, age::DecryptError> {
    let mut reader = age::Decryptor::new(sealed)?.decrypt(std::iter::once(identity))?;
    let mut secret = Zeroizing::new(Vec::new());
    reader.read_to_end(&mut secret)?;
    Ok(secret)
}

/// Opens an age file with a passphrase, at bounded work.
pub(super) fn open_with_passphrase(
    passphrase: &SecretString,
    sealed: &[u8],
) -> std::result::Result<Zeroizing<Vec<u8>>, age::DecryptError> {
    let mut identity = age::scrypt::Identity::new(passphrase.clone());
    identity.set_max_work_factor(SCRYPT_LOG_N_MAX);
    open(&identity, sealed)
}

/// The key that opens what an epoch sealed.
pub(super) fn age_identity(secret: &IdentitySecret) -> Result<age::x25519::Identity> {
    age::x25519::Identity::from_str(&secret.identity).map_err(|reason| Error::WrongKey {
        what: format!("the repository's identity is malformed: {reason}"),
        advice: "use another restore recipient",
    })
}

/// Opens what is sealed to the repository's identity of an epoch; `key` names the object in errors.
pub(super) fn open_by_epoch(
    sealed: &[u8],
    epoch: u16,
    identities: &[IdentitySecret],
    key: &str,
) -> Result<Zeroizing<Vec<u8>>> {
    let identity = identities.iter().find(|identity| identity.epoch == epoch);
    let identity = identity.ok_or_else(|| Error::WrongKey {
        what: format!("object {key} is sealed to identity epoch {epoch}, which this key does not open"),
        advice: "use a passphrase or identity that is a restore recipient of that epoch: `sancerre key list`",
    })?;
    let forged = |_| FormatError::Forged { what: "sealed secret", detail: "it does not open".into() };
    open(&age_identity(identity)?, sealed).map_err(forged).map_err(Error::object(key))
}
