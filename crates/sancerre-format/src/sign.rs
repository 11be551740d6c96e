//! Ed25519 keys and SSHSIG signatures, so that `ssh-keygen -Y verify` can check what this program signs.

use std::fmt;

use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey};
use ssh_key::public::{Ed25519PublicKey, KeyData};
use ssh_key::{Algorithm, HashAlg, LineEnding, SshSig};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::error::{Result, corrupt, ensure, forged};

/// First line of a signature's armour.
pub(crate) const ARMOR_BEGIN: &str = "-----BEGIN SSH SIGNATURE-----\n";
/// Last line of a signature's armour.
pub(crate) const ARMOR_END: &str = "-----END SSH SIGNATURE-----\n";

/// An Ed25519 public key; in text `ssh-ed25519 <base64>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Parses `ssh-ed25519 <base64>` without a comment.
    pub fn parse(text: &str) -> Result<Self> {
        let parsed = ssh_key::PublicKey::from_openssh(text).ok();
        let key = parsed.as_ref().and_then(|key| key.key_data().ed25519()).map(|key| Self(key.0));
        key.filter(|key| key.to_string() == text)
            .ok_or_else(|| corrupt("public key", format!("{text:?} is not \"ssh-ed25519 <base64>\"")))
    }

    fn openssh(&self) -> ssh_key::PublicKey {
        KeyData::from(Ed25519PublicKey(self.0)).into()
    }

    /// OpenSSH's fingerprint, `SHA256:…`: of the admin key it is the repository's trust anchor.
    pub fn fingerprint(&self) -> String {
        self.openssh().fingerprint(HashAlg::Sha256).to_string()
    }

    /// Checks `armor` over `text`, strictly, in `namespace`; `what` names the structure in errors.
    pub fn verify(&self, what: &'static str, namespace: &str, text: &[u8], armor: &str) -> Result<()> {
        let bad = |why: &str| forged(what, format!("signature: {why}"));
        let signature =
            SshSig::from_pem(armor).map_err(|error| corrupt(what, format!("signature: {error}")))?;
        ensure(canonical_armor(&signature).as_deref() == Some(armor), what, || {
            "signature: its armour is not canonical".into()
        })?;
        if signature.namespace() != namespace || signature.hash_alg() != HashAlg::Sha512 {
            return Err(bad("made for another purpose"));
        }
        if signature.public_key().ed25519().map(|key| key.0) != Some(self.0) {
            return Err(bad("made by another key"));
        }
        ensure(signature.algorithm() == Algorithm::Ed25519, what, || "signature: not Ed25519".into())?;
        let signed = SshSig::signed_data(namespace, HashAlg::Sha512, text).map_err(|_| bad("malformed"))?;
        let bytes = ed25519_dalek::Signature::from_slice(signature.signature_bytes())
            .map_err(|_| bad("malformed"))?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(&self.0)
            .map_err(|_| bad("its key is not on the curve"))?;
        key.verify_strict(&signed, &bytes).map_err(|_| bad("does not fit the text"))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.openssh().to_openssh().map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

/// An Ed25519 signing key: the 32-byte seed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SigningKey([u8; 32]);

impl SigningKey {
    /// The key of a random seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(seed)
    }

    /// The seed, to be stored in a secret place.
    pub fn seed(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(Ed25519PublicKey::from(Ed25519PrivateKey::from_bytes(&self.0)).0)
    }

    /// Signs `text` and returns the armoured signature. Deterministic, as Ed25519 is.
    pub fn sign(&self, namespace: &'static str, text: &[u8]) -> Result<String> {
        let pair = ssh_key::PrivateKey::from(Ed25519Keypair::from_seed(&self.0));
        let signature = SshSig::sign(&pair, namespace, HashAlg::Sha512, text).ok();
        let armor = signature.as_ref().and_then(canonical_armor);
        armor.ok_or_else(|| corrupt(namespace, "cannot be signed"))
    }
}

/// The key that an armour says it was made with, before anything is verified.
pub(crate) fn signing_key_of(armor: &str) -> Option<PublicKey> {
    let signature = SshSig::from_pem(armor).ok()?;
    signature.public_key().ed25519().map(|key| PublicKey(key.0))
}

/// The one armour of what the signature says. It is built anew, so that what no signature covers cannot vary:
/// SSHSIG's version and its reserved field.
fn canonical_armor(signature: &SshSig) -> Option<String> {
    let key = signature.public_key().clone();
    let bytes = signature.signature().clone();
    let plain = SshSig::new(key, signature.namespace(), signature.hash_alg(), bytes).ok()?;
    let pem = plain.to_pem(LineEnding::LF).ok()?;
    Some(if pem.ends_with('\n') { pem } else { pem + "\n" })
}
