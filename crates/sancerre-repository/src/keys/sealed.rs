//! Opening age files: whose work is bounded, and which epoch's identity fits.

use std::io::Read;
use std::str::FromStr;

use sancerre_advice::Verb::ListKeys;
use sancerre_format::FormatError;
use sancerre_format::key::IdentitySecret;
use sancerre_format::names;
use zeroize::Zeroizing;

use super::{SecretString, hybrid, passphrase};
use crate::error::{Error, Result};

/// scrypt's work factor of all that this program seals under a passphrase: about a second and 256 MiB on a common server.
/// Fixed, so that a slow rescue laptop opens what a fast server wrote; and the most that a repository's object may ask for.
pub(crate) const SCRYPT_LOG_N: u8 = 18;
/// Most work that a user's own identity file may ask for: 4 GiB of memory. Other programs choose it by the machine.
pub(super) const SCRYPT_LOG_N_MAX: u8 = 22;

/// Where an age file with a passphrase says so.
const HEADER_BYTES: usize = 256;
/// Memory besides that of scrypt itself.
const SPARE_MIB: usize = 8;

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

/// Opens an age file with a passphrase in any of its forms, at no more work than this for each.
pub(super) fn open_with_passphrase(
    passphrase: &SecretString,
    sealed: &[u8],
    log_n_max: u8,
) -> std::result::Result<Zeroizing<Vec<u8>>, age::DecryptError> {
    // More than is allowed is refused for that reason, below.
    if let Some(log_n) = asked(sealed).filter(|log_n| *log_n <= log_n_max) {
        has_memory(log_n).map_err(|error| std::io::Error::new(std::io::ErrorKind::OutOfMemory, error))?;
    }
    let mut failed = age::DecryptError::NoMatchingKeys;
    for form in passphrase::forms(passphrase) {
        let mut identity = age::scrypt::Identity::new(form);
        identity.set_max_work_factor(log_n_max);
        match open(&identity, sealed) {
            Ok(secret) => return Ok(secret),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// The work that an age file asks for to try a passphrase, if it is under one.
fn asked(sealed: &[u8]) -> Option<u8> {
    const STANZA: &[u8] = b"\n-> scrypt ";
    let at = sealed.windows(STANZA.len()).take(HEADER_BYTES).position(|bytes| bytes == STANZA)?;
    let line = sealed.get(at.saturating_add(1)..)?.split(|byte| *byte == b'\n').next()?;
    std::str::from_utf8(line).ok()?.rsplit(' ').next()?.parse().ok()
}

/// Fails when there is no memory to try a passphrase with so much work. The libraries would end the whole process.
pub(crate) fn has_memory(log_n: u8) -> Result<()> {
    // scrypt with blocks of 1 KiB, as age has them, and a little for the rest.
    let mib = 1_usize.checked_shl(u32::from(log_n).saturating_sub(10)).unwrap_or(usize::MAX);
    let bytes = mib.saturating_add(SPARE_MIB).saturating_mul(1 << 20);
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| {
        Error::Refused(format!(
            "to try a passphrase takes {mib} MiB of memory, which this process cannot get; allow it more (ulimit -v, or the \
             limit of its unit or container), or use a key file or an identity where one is enough"
        ))
    })
}

/// The key of an identity of the repository.
pub(super) enum AgeIdentity {
    /// The hybrid of ML-KEM-768 and X25519, which new ones are.
    Hybrid(Box<hybrid::HybridIdentity>),
    /// X25519 alone.
    X25519(age::x25519::Identity),
}

impl AgeIdentity {
    /// Its public half.
    pub(super) fn recipient(&self) -> std::result::Result<String, FormatError> {
        match self {
            Self::Hybrid(identity) => identity.recipient().ok_or_else(|| malformed("it has no public half")),
            Self::X25519(identity) => Ok(identity.to_public().to_string()),
        }
    }
}

impl age::Identity for AgeIdentity {
    fn unwrap_stanza(
        &self,
        stanza: &age_core::format::Stanza,
    ) -> Option<std::result::Result<age_core::format::FileKey, age::DecryptError>> {
        match self {
            Self::Hybrid(identity) => identity.unwrap_stanza(stanza),
            Self::X25519(identity) => identity.unwrap_stanza(stanza),
        }
    }
}

fn malformed(reason: &str) -> FormatError {
    FormatError::Corrupt { what: "identity secret", detail: reason.to_owned() }
}

/// The key of an identity's secret.
pub(super) fn parse_identity(secret: &IdentitySecret) -> std::result::Result<AgeIdentity, FormatError> {
    if let Some(identity) = hybrid::HybridIdentity::parse(&secret.identity) {
        return Ok(AgeIdentity::Hybrid(Box::new(identity)));
    }
    age::x25519::Identity::from_str(&secret.identity).map(AgeIdentity::X25519).map_err(malformed)
}

/// The key that opens what an epoch sealed.
pub(super) fn age_identity(secret: &IdentitySecret) -> Result<AgeIdentity> {
    parse_identity(secret).map_err(Error::object(&names::identity(secret.epoch)))
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
        advice: format!("use a passphrase or identity that is a restore recipient of that epoch: {ListKeys}"),
    })?;
    let forged = |_| FormatError::Forged { what: "sealed secret", detail: "it does not open".into() };
    open(&age_identity(identity)?, sealed).map_err(forged).map_err(Error::object(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "u\u{308}ber\r\n";
    const NORMAL: &str = "\u{fc}ber";

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    /// What another program sealed under exactly these bytes.
    fn sealed_under(passphrase: &str) -> Vec<u8> {
        let mut recipient = age::scrypt::Recipient::new(secret(passphrase));
        recipient.set_work_factor(4);
        age::encrypt(&recipient, b"content").unwrap()
    }

    #[test]
    fn the_work_that_is_asked_for_is_known_before_it_is_done() {
        assert_eq!(asked(&sealed_under(NORMAL)), Some(4));
        assert_eq!(asked(b"age-encryption.org/v1\n-> X25519 abc\n"), None);
        assert_eq!(asked(b""), None);
    }

    #[test]
    fn memory_that_is_not_to_be_had_is_an_error() {
        has_memory(SCRYPT_LOG_N).unwrap();
        // 2^64 bytes.
        let error = has_memory(54).unwrap_err();
        assert!(error.to_string().contains("ulimit -v"), "{error}");
    }

    #[test]
    fn both_forms_of_a_passphrase_are_tried() {
        let opens = |passphrase: &str, sealed: &str| {
            open_with_passphrase(&secret(passphrase), &sealed_under(sealed), SCRYPT_LOG_N).is_ok()
        };
        for passphrase in [NORMAL, GIVEN, "\u{feff}\u{fc}ber\n"] {
            assert!(opens(passphrase, NORMAL), "{passphrase:?}");
        }
        // As it was given, where a program took the bytes as they came.
        assert!(opens(GIVEN, GIVEN) && !opens(NORMAL, GIVEN));
        assert!(!opens("uber", NORMAL) && !opens(" \u{fc}ber", NORMAL), "spaces are a part of it");
    }
}
