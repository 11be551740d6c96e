//! Making a repository: its id, identity, zone, admin and first writer.

use age::secrecy::SecretString;
use bytes::Bytes;
use sancerre_advice::Verb::Init;
use sancerre_format::certificate::{Certificate, Role, portable};
use sancerre_format::config::{Config, IdentityRecord, Layout, ZoneRecord};
use sancerre_format::id::RepositoryId;
use sancerre_format::key::{IdentitySecret, KeyFile, Secret, WriterSecret, ZoneKeys, ZoneSecret};
use sancerre_format::names::{self, Name, Time, Zone};
use sancerre_format::recipient::RecipientRecord;
use sancerre_format::record::{self, Fields, Trust};
use sancerre_format::sign::SigningKey;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::keys::recipients::{INIT_LABEL, To, put_admin, seal_identity};
use crate::keys::{identity_from_random, refuse_lost_config};
use crate::store::{Creation, Put, Store};

/// What a new repository is made of.
pub struct NewRepository {
    /// Opens everything, and the admin key.
    pub passphrase: SecretString,
    /// The first zone.
    pub zone: Zone,
    /// Name of the first writer.
    pub writer: Name,
    /// How many other keepers must approve a forget.
    pub approvals_needed: u32,
    /// Sizes.
    pub layout: Layout,
}

impl NewRepository {
    /// One with the usual sizes, in which nobody needs to approve a forget.
    pub fn new(passphrase: SecretString, zone: Zone, writer: Name) -> Self {
        Self { passphrase, zone, writer, approvals_needed: 0, layout: Layout::default() }
    }
}

/// What the user must keep.
#[non_exhaustive]
pub struct Made {
    /// Repository and admin key.
    pub trust: Trust,
    /// The first writer's key file.
    pub key_file: Zeroizing<String>,
}

/// The secrets of a repository in the making.
struct Secrets {
    trust: Trust,
    admin: SigningKey,
    writer: SigningKey,
    zone: ZoneKeys,
    identity: Zeroizing<String>,
    recipient: String,
}

const EPOCH: u16 = 1;
const GENERATION: u16 = 1;

/// Makes a repository. `config` is written last: before it there is no repository.
///
/// Errors: [`Error::RepositoryExists`]; [`StoreError::Occupied`](crate::StoreError::Occupied) when an earlier `init` stopped halfway.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sancerre_engine::{Host, Name, NewRepository, SecretString, Store, Zone, init};
///
/// let store = Store::in_memory();
/// let passphrase = SecretString::from("correct horse".to_owned());
/// let new = NewRepository::new(passphrase, Zone::new("default")?, Name::new("host1")?);
/// let made = init(&store, &Host::real("example 1.0"), &new).await?;
/// // To be kept apart from the repository: whom to trust, and what this host signs with.
/// assert!(made.trust.admin.fingerprint().starts_with("SHA256:"));
/// assert!(!made.key_file.is_empty());
/// # Ok(()) }
/// ```
pub async fn init(store: &Store, host: &Host, new: &NewRepository) -> Result<Made> {
    let exists = || Error::RepositoryExists { location: store.location().to_owned() };
    if store.get(names::CONFIG).await?.is_some() {
        return Err(exists());
    }
    refuse_lost_config(store).await?;
    let secrets = Secrets::random(host)?;
    let now = host.clock.now();
    let Trust { repository, admin, .. } = secrets.trust;
    let writing = Writing { store, host, new, secrets: &secrets, repository, now };
    let certificate = writing.keys().await?;

    let config = Config {
        repository,
        created: now,
        admin,
        approvals_needed: new.approvals_needed,
        layout: new.layout,
    };
    let config = sign(host, &secrets.admin, &config, &[])?;
    match store.put_new(names::CONFIG, config).await? {
        Put::Created => {}
        Put::Occupied(_) => return Err(exists()),
    }
    // A repository without it is one all the same; the next backup warns if there is no room for it then.
    drop(store.keep_reserve(host.random.clone()).await);
    let key_file = KeyFile {
        trust: secrets.trust.clone(),
        certifier: secrets.trust.admin,
        zone: new.zone.clone(),
        generation: GENERATION,
        epoch: EPOCH,
        recipient: secrets.recipient.clone(),
        certificate: portable(&certificate)?,
        key: secrets.writer.clone(),
        keys: secrets.zone.clone(),
    };
    Ok(Made { trust: secrets.trust, key_file: key_file.encode() })
}

impl Secrets {
    fn random(host: &Host) -> Result<Self> {
        let admin = SigningKey::from_seed(host.random());
        let (identity, recipient) = identity_from_random(host)?;
        Ok(Self {
            trust: Trust::new(RepositoryId(host.random()), admin.public()),
            admin,
            writer: SigningKey::from_seed(host.random()),
            zone: ZoneKeys { id: host.random(), cut: host.random(), metadata: host.random() },
            identity,
            recipient,
        })
    }
}

fn sign<F: Fields>(host: &Host, admin: &SigningKey, fields: &F, sealed: &[u8]) -> Result<Bytes> {
    Ok(record::encode(fields, host.tool, admin, &[], sealed)?.into())
}

/// Writes the first objects of a repository.
struct Writing<'a> {
    store: &'a Store,
    host: &'a Host,
    new: &'a NewRepository,
    secrets: &'a Secrets,
    repository: RepositoryId,
    now: Time,
}

impl Writing<'_> {
    /// Everything but `config`; returns the writer's certificate.
    async fn keys(&self) -> Result<Bytes> {
        self.identity().await?;
        self.passphrase().await?;
        self.zone().await?;
        self.writer().await
    }

    async fn put(&self, key: String, bytes: Bytes) -> Result<()> {
        let advice = format!(
            "another {Init} is at work at this location, or an earlier one stopped halfway: look again in a minute, and if \
             no repository is there then, empty the location or use another"
        );
        Ok(self.store.put_own(&key, bytes, &advice).await?)
    }

    fn sign<F: Fields>(&self, fields: &F, sealed: &[u8]) -> Result<Bytes> {
        sign(self.host, &self.secrets.admin, fields, sealed)
    }

    async fn identity(&self) -> Result<()> {
        let Self { repository, now, .. } = *self;
        let recipient = self.secrets.recipient.clone();
        let identity = IdentityRecord { repository, epoch: EPOCH, created: now, recipient };
        self.put(names::identity(EPOCH), self.sign(&identity, &[])?).await
    }

    /// What the passphrase opens: the identity and the admin key.
    async fn passphrase(&self) -> Result<()> {
        let Self { store, host, secrets, repository, now, .. } = *self;
        let passphrase = &self.new.passphrase;
        let label = crate::keys::label(INIT_LABEL)?;
        let secret =
            IdentitySecret { trust: secrets.trust.clone(), epoch: EPOCH, identity: secrets.identity.clone() };
        let (opener, sealed) = seal_identity(host, &To::Passphrase(passphrase.clone()), &secret)?;
        let recipient =
            RecipientRecord { repository, epoch: EPOCH, label: label.clone(), created: now, opener };
        self.put(names::recipient(EPOCH, &label), self.sign(&recipient, &sealed)?).await?;
        put_admin(store, host, repository, &secrets.admin, &label, passphrase).await
    }

    async fn zone(&self) -> Result<()> {
        let Self { host, secrets, repository, now, .. } = *self;
        let zone = &self.new.zone;
        let record =
            ZoneRecord { repository, zone: zone.clone(), generation: GENERATION, created: now, epoch: EPOCH };
        let secret =
            ZoneSecret { repository, zone: zone.clone(), generation: GENERATION, keys: secrets.zone.clone() };
        let sealed = host.sealer.seal(&secrets.recipient, secret.encode().as_bytes())?;
        self.put(names::zone(zone, GENERATION), self.sign(&record, &sealed)?).await
    }

    /// The first writer's certificate, and its key for whoever can restore.
    async fn writer(&self) -> Result<Bytes> {
        let Self { host, secrets, repository, now, .. } = *self;
        let name = &self.new.writer;
        let certificate = Certificate {
            repository,
            zone: self.new.zone.clone(),
            name: name.clone(),
            role_name: Role::Writer.to_name()?,
            key: secrets.writer.public(),
            issued: now,
            expires: None,
        };
        let secret = WriterSecret { repository, name: name.clone(), key: secrets.writer.clone() };
        let sealed = host.sealer.seal(&secrets.recipient, secret.encode().as_bytes())?;
        let certificate = self.sign(&certificate, &sealed)?;
        self.put(names::certificate(name), certificate.clone()).await?;
        Ok(certificate)
    }
}
