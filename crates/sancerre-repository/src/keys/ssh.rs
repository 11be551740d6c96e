//! OpenSSH Ed25519 keys as recipients and identities of age files.
//!
//! The stanza is age's own `ssh-ed25519` (documented beside its reference implementation), so `age` opens what is
//! sealed here and the other way round. It is written out because the `age` crate has it only together with RSA,
//! whose library has an open advisory (RUSTSEC-2023-0071).

use std::collections::HashSet;

use age_core::format::{FILE_KEY_BYTES, FileKey, Stanza};
use age_core::primitives::{aead_decrypt, aead_encrypt, hkdf};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use sancerre_format::sign::SigningKey;
use sha2::{Digest, Sha256};
use ssh_key::private::KeypairData;
use ssh_key::{Kdf, PrivateKey};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::identity::{unusable, wrong_passphrase};
use super::{ExposeSecret, SecretString, passphrase};
use crate::error::{Error, Result};

/// Tag of the stanza, and how the key's text starts.
const TAG: &str = "ssh-ed25519";
const LABEL: &[u8] = b"age-encryption.org/v1/ssh-ed25519";
/// Most rounds of bcrypt that a key file may ask for; ssh-keygen takes 16 or 24 unless told.
const BCRYPT_ROUNDS_MAX: u32 = 1024;

/// An Ed25519 public key that files are sealed to, once: `ephemeral` must be fresh for each file.
pub struct SshRecipient {
    wire: Vec<u8>,
    montgomery: PublicKey,
    ephemeral: StaticSecret,
}

impl SshRecipient {
    /// From `ssh-ed25519 <base64>` and 32 random bytes.
    ///
    /// Errors: [`Error::WrongKey`] for any other kind of key.
    pub fn new(text: &str, ephemeral: [u8; 32]) -> Result<Self> {
        let bad = |why: &str| Error::WrongKey {
            what: format!("{text:?} cannot be a restore recipient: {why}"),
            advice: "give an age recipient (age1…) or the line of an Ed25519 key's .pub file (ssh-ed25519 …)"
                .into(),
        };
        let key = ssh_key::PublicKey::from_openssh(text).map_err(|error| bad(&error.to_string()))?;
        let ed25519 = key.key_data().ed25519().ok_or_else(|| bad("it is no Ed25519 key"))?;
        let point = ed25519_dalek::VerifyingKey::from_bytes(&ed25519.0);
        let point = point.map_err(|_| bad("it is not on the curve"))?;
        if point.is_weak() {
            return Err(bad("it is a weak key"));
        }
        Ok(Self {
            wire: key.to_bytes().map_err(|error| bad(&error.to_string()))?,
            montgomery: PublicKey::from(point.to_montgomery().to_bytes()),
            ephemeral: StaticSecret::from(ephemeral),
        })
    }
}

impl age::Recipient for SshRecipient {
    fn wrap_file_key(
        &self,
        file_key: &FileKey,
    ) -> std::result::Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        let share = PublicKey::from(&self.ephemeral);
        let secret = tweak(&self.wire, *self.ephemeral.diffie_hellman(&self.montgomery).as_bytes());
        let body = aead_encrypt(&wrap_key(&share, &self.montgomery, &secret), file_key.expose_secret());
        let args = vec![BASE64.encode(tag(&self.wire)), BASE64.encode(share.as_bytes())];
        Ok((vec![Stanza { tag: TAG.to_owned(), args, body }], HashSet::new()))
    }
}

/// An Ed25519 private key that opens age files.
pub(super) struct Identity {
    wire: Vec<u8>,
    secret: StaticSecret,
}

impl Identity {
    /// Of a key without a passphrase.
    ///
    /// Errors: [`Error::WrongKey`] for any other kind of key.
    pub(super) fn new(key: &PrivateKey) -> Result<Self> {
        let KeypairData::Ed25519(pair) = key.key_data() else { return Err(other_kind(key)) };
        let seed = Zeroizing::new(pair.private.to_bytes());
        let scalar = Zeroizing::new(ed25519_dalek::SigningKey::from_bytes(&seed).to_scalar_bytes());
        let wire = key.public_key().to_bytes().map_err(|error| unusable(error.to_string()))?;
        Ok(Self { wire, secret: StaticSecret::from(*scalar) })
    }
}

impl age::Identity for Identity {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<std::result::Result<FileKey, age::DecryptError>> {
        let [found, share] = stanza.args.as_slice() else { return None };
        if stanza.tag != TAG || *found != BASE64.encode(tag(&self.wire)) {
            return None;
        }
        let share: [u8; 32] = BASE64.decode(share).ok()?.try_into().ok()?;
        let share = PublicKey::from(share);
        let secret = tweak(&self.wire, *self.secret.diffie_hellman(&share).as_bytes());
        let key = wrap_key(&share, &PublicKey::from(&self.secret), &secret);
        let opened = aead_decrypt(&key, FILE_KEY_BYTES, &stanza.body).map(Zeroizing::new);
        Some(
            opened
                .map_err(|_| age::DecryptError::DecryptionFailed)
                .map(|file_key| FileKey::init_with_mut(|bytes| bytes.copy_from_slice(&file_key))),
        )
    }
}

/// Reads an OpenSSH private key, which may be under a passphrase.
pub(super) fn parse(bytes: &[u8]) -> Result<PrivateKey> {
    let key = PrivateKey::from_openssh(bytes).map_err(|error| unusable(error.to_string()))?;
    match key.algorithm() {
        ssh_key::Algorithm::Ed25519 => Ok(key),
        _ => Err(other_kind(&key)),
    }
}

/// Opens a key with its passphrase.
pub(super) fn open(key: &PrivateKey, passphrase: &SecretString) -> Result<PrivateKey> {
    if let Kdf::Bcrypt { rounds, .. } = key.kdf()
        && *rounds > BCRYPT_ROUNDS_MAX
    {
        return Err(unusable(format!(
            "it asks for {rounds} rounds of bcrypt to try a passphrase, more than the {BCRYPT_ROUNDS_MAX} allowed"
        )));
    }
    let mut failed = wrong_passphrase();
    for form in passphrase::forms(passphrase) {
        match key.decrypt(form.expose_secret()) {
            Ok(key) => return Ok(key),
            Err(ssh_key::Error::Crypto) => {}
            Err(other) => failed = unusable(other.to_string()),
        }
    }
    Err(failed)
}

/// The key, for signing.
pub(super) fn signing_key(key: &PrivateKey) -> Result<SigningKey> {
    match key.key_data() {
        KeypairData::Ed25519(pair) => Ok(SigningKey::from_seed(pair.private.to_bytes())),
        _ => Err(other_kind(key)),
    }
}

fn other_kind(key: &PrivateKey) -> Error {
    unusable(format!("it is a key of kind {}, and only ssh-ed25519 can be used", key.algorithm()))
}

/// Names a key without giving it away: the start of its hash.
fn tag(wire: &[u8]) -> [u8; 4] {
    let hash: [u8; 32] = Sha256::digest(wire).into();
    let [a, b, c, d, ..] = hash;
    [a, b, c, d]
}

/// Binds the shared secret to the SSH key as such, so that it is no plain X25519 key.
fn tweak(wire: &[u8], shared: [u8; 32]) -> Zeroizing<[u8; 32]> {
    let tweak = StaticSecret::from(hkdf(wire, LABEL, &[]));
    Zeroizing::new(*tweak.diffie_hellman(&PublicKey::from(shared)).as_bytes())
}

fn wrap_key(share: &PublicKey, recipient: &PublicKey, secret: &[u8; 32]) -> [u8; 32] {
    let salt = [share.as_bytes().as_slice(), recipient.as_bytes().as_slice()].concat();
    hkdf(&salt, LABEL, secret)
}
