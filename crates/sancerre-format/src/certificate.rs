//! Who may sign what: certificates by the admin, and the signer of a record (FORMAT.md §4.4).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::error::{Result, corrupt, ensure};
use crate::id::RepositoryId;
use crate::names::{Name, Time, Zone};
use crate::record::{Fields, Trust, Unverified, field, read_zone, refuse_replaced, write_zone};
use crate::sign::PublicKey;
use crate::text::{TextReader, TextWriter, optional, or_dash};

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Backs up; reads maps and index of its zone, never content.
    Writer,
    /// Forgets and collects garbage; never on a hypervisor.
    Keeper,
    /// Certifies the others. Never in a certificate: there is one admin key, in `config`.
    Admin,
    /// A role that this version does not know. Its holder may sign notes, and nothing else.
    Other,
}

impl Role {
    /// Every role that a certified key of a zone can have, and the admin's.
    pub const ALL: &'static [Self] = &[Self::Writer, Self::Keeper, Self::Admin, Self::Other];
    /// The roles that store packs, lists and index segments.
    pub const STORING: &'static [Self] = &[Self::Writer, Self::Keeper, Self::Admin];

    /// The word for it in a certificate.
    pub fn to_name(self) -> Result<Name> {
        Name::new(&self.to_string())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Writer => "writer",
            Self::Keeper => "keeper",
            Self::Admin => "admin",
            Self::Other => "unknown role",
        })
    }
}

/// The admin's word that a key may act in a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The repository in which it is valid.
    pub repository: RepositoryId,
    /// The zone in which it is valid.
    pub zone: Zone,
    /// Name of the key, unique in the repository.
    pub name: Name,
    /// The role, as it is spelled: a later version may know more of them.
    pub role_name: Name,
    /// The certified key.
    pub key: PublicKey,
    /// When the admin issued it, by the admin's clock.
    pub issued: Time,
    /// Log entries that say to be later are refused.
    pub expires: Option<Time>,
}

impl Certificate {
    /// What the key is for.
    pub fn role(&self) -> Role {
        match self.role_name.as_str() {
            "writer" => Role::Writer,
            "keeper" => Role::Keeper,
            _ => Role::Other,
        }
    }
}

impl Fields for Certificate {
    const KIND: &'static str = "sancerre-certificate-v1";

    fn write(&self, text: &mut TextWriter) {
        write_zone(text, &self.repository, &self.zone);
        text.field("name", &self.name).field("role", &self.role_name).field("key", self.key);
        text.field("issued", self.issued).field("expires", or_dash(&self.expires));
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let (repository, zone) = read_zone(text)?;
        Ok(Self {
            repository,
            zone,
            name: text.parsed("name", Name::new)?,
            role_name: text.parsed("role", role_name)?,
            key: text.parsed("key", PublicKey::parse)?,
            issued: text.parsed("issued", Time::parse)?,
            expires: text.parsed("expires", |value| optional(value, Time::parse))?,
        })
    }

    fn allows(&self, signer: &Signer) -> bool {
        matches!(signer, Signer::Admin) && self.name.as_str() != "admin"
    }
}

/// Any role but the admin's, which no certificate gives.
fn role_name(text: &str) -> Result<Name> {
    ensure(text != "admin", Certificate::KIND, || "it makes an admin".into())?;
    Name::new(text)
}

/// Who signed a record, after the certificate was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// The admin key itself.
    Admin,
    /// A certified key.
    Certified(Box<Certificate>),
}

impl Signer {
    /// Finds and verifies the certificate that a record's text carries.
    pub(crate) fn of_text(text: &[u8], trust: &Trust, in_force: usize) -> Result<Self> {
        match field(text, b"certificate: ") {
            None | Some(b"-") => Ok(Self::Admin),
            Some(encoded) => Self::of_portable_where(encoded, trust, in_force),
        }
    }

    /// Verifies a certificate in the form that [`portable`] makes.
    pub fn of_portable(encoded: &[u8], trust: &Trust) -> Result<Self> {
        Self::of_portable_where(encoded, trust, trust.admins().count().saturating_sub(1))
    }

    /// The same where this admin key is in force.
    fn of_portable_where(encoded: &[u8], trust: &Trust, in_force: usize) -> Result<Self> {
        let verified = match verified_before(encoded, trust) {
            Some(verified) => verified,
            None => {
                let verified = Verified::new(encoded, trust)?;
                remember(verified.clone());
                verified
            }
        };
        refuse_replaced(Certificate::KIND, trust, verified.signed_by, in_force, &verified.head)?;
        Ok(Self::Certified(verified.certificate))
    }

    /// Verifies a certificate given as text and signature, whichever admin key signed it.
    fn of_certificate(head: &[u8], trust: &Trust) -> Result<Box<Certificate>> {
        let unverified = Unverified::split_head(Certificate::KIND, head)?;
        ensure(unverified.head() == head, Certificate::KIND, || {
            "carries more than text and signature".into()
        })?;
        let (certificate, _) = unverified.verify_head_where::<Certificate>(trust, 0)?;
        Ok(Box::new(certificate))
    }

    /// What the key is for.
    pub fn role(&self) -> Role {
        match self {
            Self::Admin => Role::Admin,
            Self::Certified(certificate) => certificate.role(),
        }
    }

    /// Whether the key may open something new at this time; what it opened before counts by that.
    pub fn is_valid_at(&self, time: Time) -> bool {
        match self {
            Self::Admin => true,
            Self::Certified(certificate) => certificate.expires.is_none_or(|expires| time <= expires),
        }
    }

    /// The name of the key.
    pub fn name(&self) -> &str {
        match self {
            Self::Admin => "admin",
            Self::Certified(certificate) => certificate.name.as_str(),
        }
    }
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => f.write_str("the admin key"),
            Self::Certified(certificate) => write!(f, "{} {}", certificate.role_name, certificate.name),
        }
    }
}

/// A certificate in its portable form that verified.
#[derive(Clone)]
struct Verified {
    under: Trust,
    encoded: Vec<u8>,
    /// Text and signature.
    head: Vec<u8>,
    /// Which admin key.
    signed_by: usize,
    certificate: Box<Certificate>,
}

impl Verified {
    fn new(encoded: &[u8], trust: &Trust) -> Result<Self> {
        let head = BASE64.decode(encoded).map_err(|_| corrupt(Certificate::KIND, "is not base64"))?;
        ensure(BASE64.encode(&head).as_bytes() == encoded, Certificate::KIND, || {
            "base64 is not canonical".into()
        })?;
        let certificate = Signer::of_certificate(&head, trust)?;
        let signed_by = Unverified::split_head(Certificate::KIND, &head)?.signed_by(trust);
        Ok(Self { under: trust.clone(), encoded: encoded.to_vec(), head, signed_by, certificate })
    }
}

/// More writers than one zone has.
const VERIFIED_MAX: usize = 64;

thread_local! {
    /// Certificates that verified on this thread: a log of ten thousand records carries a dozen of them, and to verify
    /// one costs as much as to verify its record.
    static VERIFIED: RefCell<VecDeque<Verified>> = const { RefCell::new(VecDeque::new()) };
}

fn verified_before(encoded: &[u8], trust: &Trust) -> Option<Verified> {
    VERIFIED.with_borrow(|verified| {
        verified.iter().find(|known| known.under == *trust && known.encoded == encoded).cloned()
    })
}

fn remember(new: Verified) {
    VERIFIED.with_borrow_mut(|verified| {
        if verified.len() >= VERIFIED_MAX {
            verified.pop_front();
        }
        verified.push_back(new);
    });
}

/// Text and signature of an encoded certificate as base64: how other records carry it.
pub fn portable(certificate: &[u8]) -> Result<String> {
    Ok(BASE64.encode(Unverified::split(Certificate::KIND, certificate)?.head()))
}
