//! Hybrid recipients and identities of age files: ML-KEM-768 and X25519 together, so that whoever records what is sealed
//! today must break both.
//!
//! The stanza is age's own `mlkem768x25519` (C2SP, age 1.3): HPKE with X-Wing, HKDF-SHA256 and ChaCha20-Poly1305. It is
//! written out because the `age` crate does not have it yet.

mod xwing;

use std::collections::HashSet;

use age_core::format::{FILE_KEY_BYTES, FileKey, Stanza};
use age_core::primitives::{bech32_decode, bech32_encode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use bech32::Hrp;
use zeroize::Zeroizing;

use super::ExposeSecret;
use xwing::{Public, Secret};

const TAG: &str = "mlkem768x25519";
const INFO: &[u8] = b"age-encryption.org/mlkem768x25519";
/// What the labels of a file's recipients must agree on: nobody adds one that is not safe against quantum computers.
const LABEL: &str = "postquantum";
const PUBLIC: &str = "age1pq";
const SECRET: &str = "age-secret-key-pq-";
/// Random bytes that one sealing takes.
pub(crate) const RANDOM_BYTES: usize = 64;

/// Whether a text claims to be a hybrid recipient.
pub(crate) fn is_recipient(text: &str) -> bool {
    text.starts_with("age1pq1")
}

/// Argument and body of the stanza that holds a file's key, in base64, for a host that writes age files itself; none for a
/// recipient of another kind.
pub fn seal_hybrid(
    recipient: &str,
    file_key: &[u8; FILE_KEY_BYTES],
    fill: impl FnOnce(&mut [u8]),
) -> Option<(String, String)> {
    let mut random = [0; RANDOM_BYTES];
    let recipient = is_recipient(recipient).then_some(recipient)?;
    fill(&mut random);
    let recipient = HybridRecipient::new(recipient, random)?;
    let file_key = FileKey::init_with_mut(|bytes| bytes.copy_from_slice(file_key));
    let (stanzas, _) = age::Recipient::wrap_file_key(&recipient, &file_key).ok()?;
    let stanza = stanzas.into_iter().next()?;
    Some((stanza.args.into_iter().next()?, BASE64.encode(stanza.body)))
}

/// A public key that files are sealed to, once: the random bytes must be fresh for each file.
pub struct HybridRecipient {
    key: Public,
    random: Zeroizing<[u8; RANDOM_BYTES]>,
}

impl HybridRecipient {
    /// From `age1pq1…`; none for any other text.
    pub fn new(text: &str, random: [u8; RANDOM_BYTES]) -> Option<Self> {
        let key = Public::from_bytes(&decode(text, PUBLIC)?)?;
        Some(Self { key, random: Zeroizing::new(random) })
    }
}

impl age::Recipient for HybridRecipient {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        let sealed = self.key.seal(&self.random, INFO, file_key.expose_secret());
        let (share, body) = sealed.ok_or_else(|| std::io::Error::other("ML-KEM failed"))?;
        let stanza = Stanza { tag: TAG.to_owned(), args: vec![BASE64.encode(share)], body };
        Ok((vec![stanza], HashSet::from([LABEL.to_owned()])))
    }
}

/// A secret key that opens age files.
pub struct HybridIdentity {
    key: Secret,
}

impl HybridIdentity {
    /// From `AGE-SECRET-KEY-PQ-1…`; none for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(decode(text, SECRET)?);
        let seed = Zeroizing::new(<[u8; 32]>::try_from(bytes.as_slice()).ok()?);
        Some(Self { key: text.starts_with("AGE-").then(|| Secret::from_seed(&seed))?? })
    }

    /// Its text, and its recipient.
    pub fn of_seed(seed: &[u8; 32]) -> Option<(Zeroizing<String>, String)> {
        let mut text = Zeroizing::new(bech32_encode(Hrp::parse(SECRET).ok()?, seed));
        text.make_ascii_uppercase();
        let recipient = Self::parse(&text)?.recipient()?;
        Some((text, recipient))
    }

    /// Its public half, `age1pq1…`.
    pub fn recipient(&self) -> Option<String> {
        Some(bech32_encode(Hrp::parse(PUBLIC).ok()?, &self.key.public().to_bytes()))
    }
}

impl age::Identity for HybridIdentity {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        let [share] = stanza.args.as_slice() else { return None };
        // A body of another size could hold keys for several readers.
        if stanza.tag != TAG || stanza.body.len() != FILE_KEY_BYTES.saturating_add(16) {
            return None;
        }
        let share = BASE64.decode(share).ok()?;
        let file_key = self.key.open(&share, INFO, &stanza.body)?;
        Some(Ok(FileKey::init_with_mut(|bytes| bytes.copy_from_slice(&file_key))))
    }
}

fn decode(text: &str, prefix: &str) -> Option<Vec<u8>> {
    let is_wanted = |found: Hrp| if found.to_string().to_lowercase() == prefix { Ok(()) } else { Err(()) };
    bech32_decode(text, |_| (), is_wanted, |_, bytes| Ok(bytes.collect())).ok()
}

#[cfg(test)]
mod tests {
    use age::Identity as _;

    use super::*;

    /// Made by another implementation, age-encryption 0.3.1 for JavaScript: a secret key, its recipient, a file.
    const SECRET_KEY: &str = include_str!("../../testdata/hybrid.key");
    const RECIPIENT: &str = include_str!("../../testdata/hybrid.pub");
    const FILE: &[u8] = include_bytes!("../../testdata/hybrid.age");

    fn identity() -> HybridIdentity {
        HybridIdentity::parse(SECRET_KEY.trim()).unwrap()
    }

    #[test]
    fn a_file_of_another_program_opens() {
        assert_eq!(identity().recipient().unwrap(), RECIPIENT.trim());
        let opened = super::super::sealed::open(&identity(), FILE).unwrap();
        assert_eq!(opened.as_slice(), b"sealed by another program");
    }

    #[test]
    fn what_is_sealed_opens_and_nothing_else_does() {
        let recipient = HybridRecipient::new(RECIPIENT.trim(), [3; RANDOM_BYTES]).unwrap();
        let file = age::encrypt(&recipient, b"a session key").unwrap();
        assert_eq!(super::super::sealed::open(&identity(), &file).unwrap().as_slice(), b"a session key");
        let (other, _) = HybridIdentity::of_seed(&[7; 32]).unwrap();
        let other = HybridIdentity::parse(&other).unwrap();
        assert!(super::super::sealed::open(&other, &file).is_err());
        let stanza = |body: Vec<u8>| Stanza { tag: TAG.into(), args: vec!["AAAA".into()], body };
        assert!(identity().unwrap_stanza(&stanza(vec![0; 32])).is_none(), "a share that is none");
        assert!(identity().unwrap_stanza(&stanza(vec![0; 48])).is_none(), "a key that is none");
    }

    /// Identities of both kinds are those of a repository.
    #[test]
    fn identities_of_before_open_too() {
        use sancerre_format::key::IdentitySecret;
        use sancerre_format::record::Trust;
        let old = age::x25519::Identity::generate();
        let trust = Trust::new(
            sancerre_format::id::RepositoryId([1; 16]),
            sancerre_format::sign::SigningKey::from_seed([2; 32]).public(),
        );
        let texts = [old.to_string().expose_secret().to_owned(), SECRET_KEY.trim().to_owned()];
        for (text, recipient) in
            texts.into_iter().zip([old.to_public().to_string(), RECIPIENT.trim().to_owned()])
        {
            let secret = IdentitySecret { trust: trust.clone(), epoch: 1, identity: text.into() };
            let identity = super::super::sealed::parse_identity(&secret).unwrap();
            assert_eq!(identity.recipient().unwrap(), recipient);
        }
    }

    #[test]
    fn texts_of_other_kinds_are_none() {
        let (secret, recipient) = HybridIdentity::of_seed(&[7; 32]).unwrap();
        assert!(secret.starts_with("AGE-SECRET-KEY-PQ-1") && is_recipient(&recipient));
        let mut mistyped = recipient.clone().into_bytes();
        mistyped[100] ^= 1;
        for text in ["", &secret, &recipient[..900], std::str::from_utf8(&mistyped).unwrap()] {
            assert!(HybridRecipient::new(text, [0; RANDOM_BYTES]).is_none());
        }
        for text in ["", &recipient, &secret[..40], &secret.to_lowercase(), "AGE-SECRET-KEY-1QQQ"] {
            assert!(HybridIdentity::parse(text).is_none());
        }
    }
}
