//! Somebody's own SSH key, to sign with: an auditor's under a report.

use sancerre_format::sign::SigningKey;

use super::{SecretString, ssh};
use crate::error::Result;

/// An OpenSSH private key, read.
pub enum PersonalKey {
    /// It is usable.
    Open(SigningKey),
    /// It needs its passphrase.
    Protected(ProtectedKey),
}

/// A key under a passphrase.
pub struct ProtectedKey(Box<ssh_key::PrivateKey>);

impl PersonalKey {
    /// Reads the bytes of a private key file.
    ///
    /// Errors: [`Error::WrongKey`](crate::Error::WrongKey) for anything but an Ed25519 key as `ssh-keygen` makes it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let key = ssh::parse(bytes)?;
        match key.is_encrypted() {
            true => Ok(Self::Protected(ProtectedKey(Box::new(key)))),
            false => ssh::signing_key(&key).map(Self::Open),
        }
    }
}

impl ProtectedKey {
    /// Opens it.
    ///
    /// Errors: [`Error::WrongKey`](crate::Error::WrongKey) for a wrong passphrase, and for absurd work factors.
    pub fn open(&self, passphrase: &SecretString) -> Result<SigningKey> {
        ssh::signing_key(&ssh::open(&self.0, passphrase)?)
    }
}
