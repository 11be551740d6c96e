//! Who can restore: the repository's identity, sealed to one restore recipient; and the admin's own key under a
//! passphrase (FORMAT.md §4.2).

use std::fmt;

use crate::certificate::Signer;
use crate::config::recipient;
use crate::error::Result;
use crate::id::RepositoryId;
use crate::names::{Name, Time};
use crate::record::Fields;
use crate::sign::PublicKey;
use crate::text::{TextReader, TextWriter};

/// What opens a recipient's age file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Opener {
    /// A passphrase.
    Passphrase,
    /// The secret of an `age1…` recipient.
    Age(String),
    /// An OpenSSH Ed25519 private key.
    Ssh(PublicKey),
}

impl Opener {
    /// Parses `passphrase`, `age1…` or `ssh-ed25519 <base64>`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "passphrase" => Ok(Self::Passphrase),
            text if text.starts_with("ssh-") => PublicKey::parse(text).map(Self::Ssh),
            text => recipient(text).map(Self::Age),
        }
    }
}

impl fmt::Display for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passphrase => f.write_str("passphrase"),
            Self::Age(recipient) => f.write_str(recipient),
            Self::Ssh(key) => key.fmt(f),
        }
    }
}

/// `keys/recipients/<epoch>-<label>`: its sealed part holds the identity of the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientRecord {
    /// The repository.
    pub repository: RepositoryId,
    /// Which identity.
    pub epoch: u16,
    /// What people call the recipient.
    pub label: Name,
    /// When it was made.
    pub created: Time,
    /// What opens it.
    pub opener: Opener,
}

impl Fields for RecipientRecord {
    const KIND: &'static str = "sancerre-recipient-v1";

    fn write(&self, text: &mut TextWriter) {
        text.field("repository", self.repository).field("epoch", self.epoch).field("label", &self.label);
        text.field("created", self.created).field("recipient", &self.opener);
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        Ok(Self {
            repository: text.parsed("repository", RepositoryId::from_hex)?,
            epoch: text.number("epoch")?,
            label: text.parsed("label", Name::new)?,
            created: text.parsed("created", Time::parse)?,
            opener: text.parsed("recipient", Opener::parse)?,
        })
    }

    fn allows(&self, signer: &Signer) -> bool {
        matches!(signer, Signer::Admin)
    }
}

/// `keys/admin/<label>`: its sealed part holds the admin's signing key, under a passphrase. Signed, so that nobody is made
/// to try a passphrase on what somebody else put there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminKey {
    /// The repository.
    pub repository: RepositoryId,
    /// The label of the recipient that the same passphrase opens.
    pub label: Name,
    /// When it was made.
    pub created: Time,
}

impl Fields for AdminKey {
    const KIND: &'static str = "sancerre-admin-key-v1";

    fn write(&self, text: &mut TextWriter) {
        text.field("repository", self.repository).field("label", &self.label).field("created", self.created);
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        Ok(Self {
            repository: text.parsed("repository", RepositoryId::from_hex)?,
            label: text.parsed("label", Name::new)?,
            created: text.parsed("created", Time::parse)?,
        })
    }

    fn allows(&self, signer: &Signer) -> bool {
        matches!(signer, Signer::Admin)
    }
}
