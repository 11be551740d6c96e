//! Secrets as text: what age files hold, and the key file of a writer (FORMAT.md §4.2–4.5).

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::certificate::Signer;
use crate::config::recipient;
use crate::error::{Result, ensure};
use crate::id::{RepositoryId, from_hex, to_hex};
use crate::names::{Name, Zone};
use crate::record::{Trust, read_zone, write_zone};
use crate::sign::{PublicKey, SigningKey};
use crate::text::{TextReader, TextWriter};

/// A zone's three keys. Writers and keepers of the zone hold them; they open no content.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ZoneKeys {
    /// Keys chunk and node ids.
    pub id: [u8; 32],
    /// Keys the chunkers' cuts.
    pub cut: [u8; 32],
    /// Opens maps, indexes and manifest bodies.
    pub metadata: [u8; 32],
}

impl ZoneKeys {
    fn write(&self, text: &mut TextWriter) {
        for (key, value) in [("id-key", &self.id), ("cut-key", &self.cut), ("metadata-key", &self.metadata)] {
            text.field(key, Zeroizing::new(to_hex(value)).as_str());
        }
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let mut key = |name| text.parsed(name, |value| from_hex("zone key", value));
        Ok(Self { id: key("id-key")?, cut: key("cut-key")?, metadata: key("metadata-key")? })
    }
}

/// A text that travels only inside an age file or a private local file.
pub trait Secret: Sized {
    /// First line.
    const KIND: &'static str;

    /// Writes the lines.
    fn write(&self, text: &mut TextWriter);

    /// Reads the lines.
    fn read(text: &mut TextReader<'_>) -> Result<Self>;

    /// The secret as text; wiped when dropped.
    fn encode(&self) -> Zeroizing<String> {
        let mut text = TextWriter::new(Self::KIND);
        text.no_features();
        self.write(&mut text);
        Zeroizing::new(text.finish())
    }

    /// Reads what [`Secret::encode`] wrote.
    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut text = TextReader::new(Self::KIND, bytes)?;
        text.no_features()?;
        let secret = Self::read(&mut text)?;
        let extensions = text.extensions()?;
        text.finish()?;
        let mut again = secret.encode();
        extensions.iter().for_each(|line| again.extend([line.as_str(), "\n"]));
        ensure(again.as_bytes() == bytes, Self::KIND, || "not in its one spelling".into())?;
        Ok(secret)
    }
}

/// Payload of `keys/recipients/…`: the identity that opens everything. It vouches for the admin key, too.
#[derive(Clone)]
pub struct IdentitySecret {
    /// The repository and its admin key, as whoever sealed this knew them.
    pub trust: Trust,
    /// Which epoch.
    pub epoch: u16,
    /// `AGE-SECRET-KEY-1…`.
    pub identity: Zeroizing<String>,
}

impl Secret for IdentitySecret {
    const KIND: &'static str = "sancerre-identity-secret-v1";

    fn write(&self, text: &mut TextWriter) {
        text.field("repository", self.trust.repository).field("admin", self.trust.admin);
        text.field("epoch", self.epoch).field("identity", self.identity.as_str());
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let trust = read_trust(text)?;
        Ok(Self {
            trust,
            epoch: text.number("epoch")?,
            identity: Zeroizing::new(text.value("identity")?.to_owned()),
        })
    }
}

fn read_trust(text: &mut TextReader<'_>) -> Result<Trust> {
    let repository = text.parsed("repository", RepositoryId::from_hex)?;
    Ok(Trust::new(repository, text.parsed("admin", PublicKey::parse)?))
}

/// Payload of `keys/admin/…`.
#[derive(Clone)]
pub struct AdminSecret {
    /// The repository.
    pub repository: RepositoryId,
    /// The key that certifies.
    pub key: SigningKey,
}

impl Secret for AdminSecret {
    const KIND: &'static str = "sancerre-admin-secret-v1";

    fn write(&self, text: &mut TextWriter) {
        text.field("repository", self.repository)
            .field("signing-key", Zeroizing::new(to_hex(self.key.seed())).as_str());
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let repository = text.parsed("repository", RepositoryId::from_hex)?;
        Ok(Self { repository, key: text.parsed("signing-key", signing_key)? })
    }
}

fn signing_key(text: &str) -> Result<SigningKey> {
    from_hex("signing key", text).map(SigningKey::from_seed)
}

/// Sealed part of `keys/zones/…`.
#[derive(Clone)]
pub struct ZoneSecret {
    /// The repository.
    pub repository: RepositoryId,
    /// The zone.
    pub zone: Zone,
    /// Which generation of its keys.
    pub generation: u16,
    /// The keys.
    pub keys: ZoneKeys,
}

impl Secret for ZoneSecret {
    const KIND: &'static str = "sancerre-zone-secret-v1";

    fn write(&self, text: &mut TextWriter) {
        write_zone(text, &self.repository, &self.zone);
        text.field("generation", self.generation);
        self.keys.write(text);
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let (repository, zone) = read_zone(text)?;
        Ok(Self { repository, zone, generation: text.number("generation")?, keys: ZoneKeys::read(text)? })
    }
}

/// Sealed part of a certificate whose key a passphrase may use.
#[derive(Clone)]
pub struct WriterSecret {
    /// The repository.
    pub repository: RepositoryId,
    /// The certificate's name.
    pub name: Name,
    /// The key.
    pub key: SigningKey,
}

impl Secret for WriterSecret {
    const KIND: &'static str = "sancerre-writer-secret-v1";

    fn write(&self, text: &mut TextWriter) {
        text.field("repository", self.repository).field("name", &self.name);
        text.field("signing-key", Zeroizing::new(to_hex(self.key.seed())).as_str());
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let repository = text.parsed("repository", RepositoryId::from_hex)?;
        let name = text.parsed("name", Name::new)?;
        Ok(Self { repository, name, key: text.parsed("signing-key", signing_key)? })
    }
}

/// The key file that cron uses on a hypervisor: backs up, deduplicates, opens no content.
#[derive(Clone)]
pub struct KeyFile {
    /// The repository and the admin key of its `config`: the trust anchor travels with the key.
    pub trust: Trust,
    /// The admin key that signed the certificate: the chain of admin keys reaches at least to it.
    pub certifier: PublicKey,
    /// The zone.
    pub zone: Zone,
    /// Which generation of its keys.
    pub generation: u16,
    /// Which identity epoch session keys are sealed to.
    pub epoch: u16,
    /// That epoch's recipient.
    pub recipient: String,
    /// The key's certificate: base64 of its text and signature.
    pub certificate: String,
    /// The key that signs.
    pub key: SigningKey,
    /// The zone's keys.
    pub keys: ZoneKeys,
}

impl KeyFile {
    /// Whose it is, by its certificate.
    pub fn signer(&self) -> Result<Signer> {
        let certifier = Trust::new(self.trust.repository, self.certifier);
        Signer::of_portable(self.certificate.as_bytes(), &certifier)
    }
}

impl Secret for KeyFile {
    const KIND: &'static str = "sancerre-key-v1";

    fn write(&self, text: &mut TextWriter) {
        text.field("repository", self.trust.repository).field("admin", self.trust.admin);
        text.field("certifier", self.certifier);
        text.field("zone", &self.zone).field("generation", self.generation);
        text.field("epoch", self.epoch).field("recipient", &self.recipient);
        text.field("certificate", &self.certificate);
        text.field("signing-key", Zeroizing::new(to_hex(self.key.seed())).as_str());
        self.keys.write(text);
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let file = Self {
            trust: read_trust(text)?,
            certifier: text.parsed("certifier", PublicKey::parse)?,
            zone: text.parsed("zone", Zone::new)?,
            generation: text.number("generation")?,
            epoch: text.number("epoch")?,
            recipient: text.parsed("recipient", recipient)?,
            certificate: text.value("certificate")?.to_owned(),
            key: text.parsed("signing-key", signing_key)?,
            keys: ZoneKeys::read(text)?,
        };
        let certified = match file.signer()? {
            Signer::Certified(certificate) => {
                certificate.zone == file.zone && certificate.key == file.key.public()
            }
            Signer::Admin => false,
        };
        ensure(certified, Self::KIND, || "its certificate is not for its zone and signing key".into())?;
        Ok(file)
    }
}
