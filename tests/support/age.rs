//! Sealing to an X25519 recipient as the age format says it, with randomness from the caller: `age` itself always
//! takes the system's, and a run could not be replayed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};

/// The key of an `age1…` recipient; none of other kinds.
pub fn public_key(recipient: &str) -> Option<[u8; 32]> {
    let (prefix, bytes) = bech32::decode(recipient).ok()?;
    (prefix.as_str() == "age").then(|| bytes.try_into().unwrap())
}

/// Seals up to 64 KiB.
pub fn seal(recipient: &[u8; 32], secret: &[u8], fill: impl Fn(&mut [u8])) -> Vec<u8> {
    assert!(secret.len() <= 64 << 10, "one chunk is enough for keys");
    let (mut ephemeral, mut file_key, mut nonce) = ([0; 32], [0; 16], [0; 16]);
    [&mut ephemeral[..], &mut file_key, &mut nonce].into_iter().for_each(fill);
    let ephemeral = StaticSecret::from(ephemeral);
    let share = PublicKey::from(&ephemeral);
    let shared = ephemeral.diffie_hellman(&PublicKey::from(*recipient));
    let salt = [share.as_bytes().as_slice(), recipient].concat();
    let wrap = derive(&salt, shared.as_bytes(), b"age-encryption.org/v1/X25519");
    let head = format!(
        "age-encryption.org/v1\n-> X25519 {}\n{}\n---",
        STANDARD_NO_PAD.encode(share.as_bytes()),
        STANDARD_NO_PAD.encode(encrypt(&wrap, [0; 12], &file_key))
    );
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&derive(&[], &file_key, b"header")).unwrap();
    mac.update(head.as_bytes());
    let mac = STANDARD_NO_PAD.encode(mac.finalize().into_bytes());
    let payload = derive(&nonce, &file_key, b"payload");
    // The first chunk, and the last.
    let body = encrypt(&payload, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], secret);
    [format!("{head} {mac}\n").as_bytes(), &nonce, &body].concat()
}

fn derive(salt: &[u8], key: &[u8], info: &[u8]) -> [u8; 32] {
    let mut derived = [0; 32];
    Hkdf::<Sha256>::new(Some(salt), key).expand(info, &mut derived).unwrap();
    derived
}

fn encrypt(key: &[u8; 32], nonce: [u8; 12], text: &[u8]) -> Vec<u8> {
    ChaCha20Poly1305::new(key.into()).encrypt(Nonce::from_slice(&nonce), text).unwrap()
}
