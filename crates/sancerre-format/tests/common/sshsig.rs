//! SSHSIG by hand, from OpenSSH's PROTOCOL.sshsig: makes the signatures that no honest tool makes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::Signer as _;
use sha2::{Digest, Sha256, Sha512};

/// What goes into a signature blob; the default is what a record must carry.
#[derive(Clone, Copy)]
pub(crate) struct SshSig<'a> {
    pub(crate) seed: u8,
    pub(crate) namespace: &'a str,
    pub(crate) reserved: &'a [u8],
    pub(crate) hash: &'a str,
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn public_key(key: &[u8; 32]) -> Vec<u8> {
    string(&[string(b"ssh-ed25519"), string(key)].concat())
}

impl<'a> SshSig<'a> {
    pub(crate) fn new(seed: u8, namespace: &'a str) -> Self {
        Self { seed, namespace, reserved: b"", hash: "sha512" }
    }

    /// Signs `text`; returns the raw 64-byte signature.
    pub(crate) fn raw(&self, text: &[u8]) -> [u8; 64] {
        let digest =
            if self.hash == "sha256" { Sha256::digest(text).to_vec() } else { Sha512::digest(text).to_vec() };
        let (namespace, hash) = (string(self.namespace.as_bytes()), string(self.hash.as_bytes()));
        // The reserved field stays empty in what is signed: the attack is to fill it afterwards.
        let signed = [&b"SSHSIG"[..], &namespace, &string(b""), &hash, &string(&digest)].concat();
        ed25519_dalek::SigningKey::from_bytes(&[self.seed; 32]).sign(&signed).to_bytes()
    }

    /// The blob around a raw signature that claims to be by `key`.
    pub(crate) fn blob(&self, key: &[u8; 32], raw: &[u8; 64]) -> Vec<u8> {
        let signature = string(&[string(b"ssh-ed25519"), string(raw)].concat());
        let (namespace, hash) = (string(self.namespace.as_bytes()), string(self.hash.as_bytes()));
        let head = [&b"SSHSIG"[..], &1u32.to_be_bytes(), &public_key(key), &namespace];
        [head.concat(), string(self.reserved), hash, signature].concat()
    }

    /// The armoured signature over `text`.
    pub(crate) fn armor(&self, text: &[u8]) -> String {
        let key = ed25519_dalek::SigningKey::from_bytes(&[self.seed; 32]).verifying_key().to_bytes();
        armor(&self.blob(&key, &self.raw(text)), 70, "\n")
    }
}

/// Armours a blob with `columns` of base64 and `feed` as line end.
pub(crate) fn armor(blob: &[u8], columns: usize, feed: &str) -> String {
    let encoded = BASE64.encode(blob);
    let lines = encoded.as_bytes().chunks(columns).map(|line| str::from_utf8(line).unwrap());
    let all = std::iter::once("-----BEGIN SSH SIGNATURE-----").chain(lines);
    all.chain(["-----END SSH SIGNATURE-----"]).map(|line| format!("{line}{feed}")).collect()
}

/// The raw signature with S replaced by S + L: the same equation holds, but it is not canonical.
pub(crate) fn add_group_order(raw: &[u8; 64]) -> [u8; 64] {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut changed = *raw;
    let mut carry = 0;
    for (byte, order) in changed[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    changed
}
