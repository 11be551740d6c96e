//! Keys in memory: what this process can open and sign (FORMAT.md §4).
//!
//! A key file signs and reads a zone's metadata; what opens age files (a passphrase, identities) opens content; with
//! nothing but the trust anchor the public part can be read. `unlock` and `file` make [`Keys`] from these.

pub mod admins;
pub mod certify;
mod content;
mod epoch;
mod file;
pub mod hybrid;
mod identity;
pub mod lost;
pub mod objects;
pub mod overview;
pub mod passphrase;
mod personal;
pub mod recipients;
mod sealed;
pub mod ssh;
mod unlock;

use std::collections::{BTreeMap, BTreeSet};

/// A passphrase: wiped from memory, never shown, read only where `ExposeSecret` says so.
pub use age::secrecy::{ExposeSecret, SecretString};
use sancerre_advice::Setting::{Identity, KeyFile};
use sancerre_advice::Verb::{AddKey, Init};
use sancerre_format::FormatError;
use sancerre_format::certificate::Role;
use sancerre_format::config::Config;
use sancerre_format::id::SessionId;
use sancerre_format::key::{IdentitySecret, ZoneKeys};

use sancerre_format::names::{self, Name, Time, Zone};
use sancerre_format::record::{self, Record, SignedBy, Trust};
use sancerre_format::seal::RootKey;
use sancerre_format::sign::{PublicKey, SigningKey};

use crate::error::{Error, Result};
use sancerre_store::Store;

pub use admins::{Anchored, Rotated, rotate};
pub use hybrid::seal_hybrid;
pub use identity::{IdentityFile, OpenIdentity, ProtectedIdentity};
pub use lost::refuse_lost_config;
pub use lost::{LostKey, no_zone};
pub use objects::LeftOut;
pub use personal::PersonalKey;
pub use unlock::{Unlock, newest_generation};

pub(crate) use sealed::{SCRYPT_LOG_N, has_memory};
pub use unlock::identity_from_random;

/// A key that signs, and what it may sign until when.
#[derive(Clone)]
pub struct SignerKey {
    /// Name and portable certificate, as records carry them.
    pub by: SignedBy,
    /// The key.
    pub key: SigningKey,
    /// What it is for.
    pub role: Role,
    /// What it signs later is refused.
    pub expires: Option<Time>,
}

impl std::fmt::Display for SignerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.role, self.by.name)
    }
}

/// What members of a zone share: opens maps, indexes and manifest bodies, never content.
#[derive(Clone)]
pub struct ZoneSecrets {
    /// The generation that is worked in: what is written now belongs to it.
    pub generation: u16,
    /// Identity epoch new session keys are sealed to.
    pub epoch: u16,
    /// That epoch's recipient.
    pub recipient: String,
    /// That generation's keys.
    pub keys: ZoneKeys,
    /// The keys of the other generations, as far as they open.
    others: BTreeMap<u16, ZoneKeys>,
}

impl ZoneSecrets {
    /// Of all generations at hand; none of no generation.
    pub fn of(mut keys: BTreeMap<u16, ZoneKeys>, epoch: u16, recipient: String) -> Option<Self> {
        let (generation, newest) = keys.pop_last()?;
        Some(Self { generation, epoch, recipient, keys: newest, others: keys })
    }

    /// The same with this generation as the one that is worked in.
    fn with(self, generation: u16, keys: ZoneKeys, epoch: u16, recipient: String) -> Self {
        let mut others = self.others;
        others.insert(self.generation, self.keys);
        others.remove(&generation);
        Self { generation, epoch, recipient, keys, others }
    }

    /// The root that seals and opens the metadata of a session of the generation that is worked in.
    pub fn metadata_root(&self, session: &SessionId) -> RootKey {
        RootKey::metadata(&self.keys.metadata, session)
    }

    /// The keys of a generation, if they are at hand.
    pub(crate) fn keys_of(&self, generation: u16) -> Option<&ZoneKeys> {
        match generation == self.generation {
            true => Some(&self.keys),
            false => self.others.get(&generation),
        }
    }
}

/// Why the admin key in force is not known.
#[derive(Debug, Clone)]
enum UnknownAdmin {
    /// A record of the chain needs a newer version.
    Newer(String, FormatError),
    /// The chain ends before the key that made the key file.
    Hidden(PublicKey),
}

impl UnknownAdmin {
    fn error(&self) -> Error {
        match self {
            Self::Newer(key, source) => Error::Object { key: key.clone(), source: source.clone() },
            Self::Hidden(admin) => Error::Refused(format!(
                "the admin key {} that made this key file is not in the chain below {}: somebody hides or removed its \
                 record, and what a key that was replaced signs would be believed. Nothing was signed. Bring the record \
                 back, or have the administrator make a new key file",
                admin.fingerprint(),
                names::SUCCESSIONS
            )),
        }
    }
}

/// Keys in memory: what this process may do.
#[derive(Clone)]
pub struct Keys {
    /// Repository and admin key.
    pub trust: Trust,
    /// The zone it works in.
    pub zone: Zone,
    secrets: Option<ZoneSecrets>,
    /// The generations whose objects are there, if they were looked for.
    generations: Option<BTreeSet<u16>>,
    /// At most one of each role.
    signers: Vec<SignerKey>,
    /// Opens content: the identities by epoch.
    identities: Vec<IdentitySecret>,
    /// Whether a secret vouched for the trust anchor.
    vouched: bool,
    /// The admin key that made the key file.
    certifier: Option<PublicKey>,
    /// Why what is signed may be signed for an admin who was replaced.
    unknown_admin: Option<UnknownAdmin>,
    /// Objects below `keys/` that were left out, and why.
    left_out: BTreeMap<String, String>,
}

impl Keys {
    /// No secret at all: reads and verifies what is public of a zone.
    pub fn public(trust: Trust, zone: Zone) -> Self {
        Self {
            trust,
            zone,
            secrets: None,
            generations: None,
            signers: Vec::new(),
            identities: Vec::new(),
            vouched: true,
            certifier: None,
            unknown_admin: None,
            left_out: BTreeMap::new(),
        }
    }

    /// The same keys with the chain of admin keys as far as the store has it.
    ///
    /// Errors: as [`Anchored::read`].
    pub async fn anchored(mut self, store: &Store) -> Result<Self> {
        self.anchor(Anchored::read(store, Some(&self.trust)).await?);
        Ok(self)
    }

    /// Follows the chain of admin keys as far as the store has it.
    pub fn anchor(&mut self, anchored: Anchored) {
        let newer = anchored.left_out.iter().find_map(|left_out| match &left_out.why {
            Error::Object { key, source } if left_out.is_unsupported() => {
                Some(UnknownAdmin::Newer(key.clone(), source.clone()))
            }
            _ => None,
        });
        let hidden =
            self.certifier.filter(|certifier| !anchored.trust.admins().any(|admin| admin == certifier));
        self.unknown_admin = newer.or_else(|| hidden.map(UnknownAdmin::Hidden));
        self.trust = anchored.trust;
        self.note(anchored.left_out);
    }

    /// The admin's key in another zone, whose secrets are not open.
    pub fn elsewhere(mut self, zone: Zone) -> Self {
        (self.zone, self.secrets, self.generations) = (zone, None, None);
        self.signers.retain(|signer| signer.role == Role::Admin);
        self
    }

    /// Whether the trust anchor is more than what the store says: a key file and a passphrase vouch for it, and who
    /// calls [`Keys::public`]; an identity cannot, since anybody can seal to a public key.
    pub fn is_anchored(&self) -> bool {
        self.vouched
    }

    /// Objects below `keys/` that were left out when these keys were opened, and why each was.
    pub fn left_out(&self) -> &BTreeMap<String, String> {
        &self.left_out
    }

    fn note(&mut self, left_out: Vec<LeftOut>) {
        self.left_out.extend(left_out.into_iter().map(|left_out| (left_out.key, left_out.why.to_string())));
    }

    /// Whether content can be opened.
    pub fn can_open_content(&self) -> bool {
        !self.identities.is_empty()
    }

    /// Whether a key of this role is at hand.
    pub fn has_role(&self, role: Role) -> bool {
        self.signers.iter().any(|signer| signer.role == role)
    }

    /// The key that signs most, as words: `writer hv1`.
    pub fn describe_signer(&self) -> Option<String> {
        self.signers.first().map(|signer| format!("{} {}", signer.role, signer.by.name))
    }

    /// The same keys, but where `file` has a key for a role, that one signs.
    pub fn signing_with(mut self, file: Self) -> Self {
        if file.zone == self.zone {
            self.signers.retain(|signer| !file.has_role(signer.role));
            self.signers.extend(file.signers);
            self.certifier = file.certifier;
            self.stand_in(file.secrets);
        }
        self
    }

    /// The zone's secrets.
    ///
    /// Errors: [`Error::WrongKey`] when only the public part can be read.
    pub fn zone_secrets(&self) -> Result<&ZoneSecrets> {
        self.secrets.as_ref().ok_or_else(|| Error::WrongKey {
            what: format!("this key reads only what is public of zone {}", self.zone),
            advice: "use a key file of that zone, the repository's passphrase or a restore identity".into(),
        })
    }

    /// Works in a generation from now on.
    fn add_generation(&mut self, generation: u16, keys: ZoneKeys, epoch: u16, recipient: String) {
        self.secrets = match self.secrets.take() {
            Some(secrets) => Some(secrets.with(generation, keys, epoch, recipient)),
            None => ZoneSecrets::of(BTreeMap::from([(generation, keys)]), epoch, recipient),
        };
    }

    /// The generation of the zone's keys that is written now, if they are here.
    pub fn generation(&self) -> Option<u16> {
        self.secrets.as_ref().map(|secrets| secrets.generation)
    }

    /// The generations of the zone's keys at hand, the one that is written now first.
    pub fn generations(&self) -> Vec<u16> {
        let secrets = self.secrets.iter();
        secrets
            .flat_map(|secrets| std::iter::once(secrets.generation).chain(secrets.others.keys().copied()))
            .collect()
    }

    /// The zone's keys of a generation.
    ///
    /// Errors: as [`Keys::zone_secrets`]; [`Error::WrongKey`] when that generation is not at hand, [`Error::KeyLost`] when
    /// its object is not there.
    pub fn zone_keys(&self, generation: u16) -> Result<&ZoneKeys> {
        let found = self.zone_secrets()?.keys_of(generation);
        found.ok_or_else(|| match self.generations.as_ref().is_some_and(|there| !there.contains(&generation)) {
            true => LostKey::zone(&self.zone, generation).into(),
            false => Error::WrongKey {
                what: format!("this key does not open generation {generation} of the keys of zone {}", self.zone),
                advice: format!("use the repository's passphrase, a restore identity ({Identity}), or a key file of that generation"),
            },
        })
    }

    /// The root that seals and opens the metadata of a session of the generation that is written now.
    ///
    /// Errors: as [`Keys::zone_secrets`].
    pub fn metadata_root(&self, session: &SessionId) -> Result<RootKey> {
        Ok(self.zone_secrets()?.metadata_root(session))
    }

    /// The root that opens the metadata of a session which was announced in `generation`, as its log entry says.
    ///
    /// Errors: as [`Keys::zone_keys`]; [`Error::Lost`] without a generation.
    pub fn metadata_root_in(&self, session: &SessionId, generation: Option<u16>) -> Result<RootKey> {
        let unknown = || Error::Lost { what: format!("the log entry of session {session}") };
        Ok(RootKey::metadata(&self.zone_keys(generation.ok_or_else(unknown)?)?.metadata, session))
    }

    /// The same keys for reading what a generation made: ids, which are comparable only inside one, are those of it.
    ///
    /// Errors: as [`Keys::zone_keys`].
    pub(crate) fn in_generation(mut self, generation: u16) -> Result<Self> {
        let keys = self.zone_keys(generation)?.clone();
        let ZoneSecrets { epoch, recipient, .. } = self.zone_secrets()?.clone();
        self.add_generation(generation, keys, epoch, recipient);
        Ok(self)
    }

    /// The key that signs what these roles may sign: the least powerful of those at hand.
    ///
    /// Errors: [`Error::WrongKey`] when there is none, or its certificate expired.
    pub fn signer(&self, roles: &[Role], now: Time) -> Result<&SignerKey> {
        let fits =
            |role: &Role| self.signers.iter().find(|signer| roles.contains(role) && signer.role == *role);
        if let Some(unknown) = &self.unknown_admin {
            return Err(unknown.error());
        }
        let found = [Role::Writer, Role::Keeper, Role::Admin].iter().find_map(fits);
        let signer = found.ok_or_else(|| self.may_not_sign(roles))?;
        match signer.expires {
            Some(expires) if expires < now => Err(Error::WrongKey {
                what: format!("the certificate of {} {} expired at {expires}", signer.role, signer.by.name),
                advice: format!("have the administrator make a new key with {AddKey}"),
            }),
            _ => Ok(signer),
        }
    }

    fn may_not_sign(&self, roles: &[Role]) -> Error {
        let needed: Vec<String> = roles.iter().map(ToString::to_string).collect();
        let needed = format!("this must be signed by a {}'s key", needed.join("'s or a "));
        let what = match self.signers.first() {
            Some(other) => format!("{} {} may not sign this: {needed}", other.role, other.by.name),
            None => needed,
        };
        let advice = match roles.contains(&Role::Admin) {
            true => format!("use a fitting key file ({KeyFile}), or the administrator's passphrase"),
            false => {
                format!("use a writer's key file ({KeyFile}), or the passphrase if {Init} made a writer here")
            }
        };
        Error::WrongKey { what, advice }
    }
}

/// The configuration, verified against `trust`, or on first sight against itself.
pub async fn read_config(store: &Store, trust: Option<&Trust>) -> Result<Record<Config>> {
    let bytes = store.get(names::CONFIG).await?;
    let Some(bytes) = bytes else {
        refuse_lost_config(store).await?;
        return Err(Error::NoRepository { location: store.location().to_owned() });
    };
    let claimed = match trust {
        Some(trust) => trust.anchor(),
        None => record::claimed_trust(&bytes).map_err(Error::object(names::CONFIG))?,
    };
    record::decode::<Config>(&claimed, &bytes).map_err(|error| not_trusted(store, &claimed, &bytes, error))
}

/// A whole config of another repository means that the key is the wrong one, not that the config is damaged.
fn not_trusted(store: &Store, trust: &Trust, bytes: &[u8], error: FormatError) -> Error {
    let whole = |other: &Trust| !other.is_same(trust) && record::decode::<Config>(other, bytes).is_ok();
    match record::claimed_trust(bytes).ok().filter(whole) {
        Some(other) => Error::WrongKey {
            what: format!(
                "the key was made for repository {} and its admin key, not for repository {} at {}",
                trust.repository,
                other.repository,
                store.location()
            ),
            advice: "use this repository's own key file or passphrase; if that is what you use, somebody replaced its config".into(),
        },
        None => Error::object(names::CONFIG)(error),
    }
}

/// Checks that a label for key objects is a name.
pub fn label(text: &str) -> Result<Name> {
    Name::new(text).map_err(|error| Error::Usage(error.to_string()))
}
