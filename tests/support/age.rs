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

/// Seals up to 64 KiB.
pub fn seal(recipient: &str, secret: &[u8], fill: impl Fn(&mut [u8])) -> Vec<u8> {
    assert!(secret.len() <= 64 << 10, "one chunk is enough for keys");
    let (mut file_key, mut nonce) = ([0; 16], [0; 16]);
    [&mut file_key, &mut nonce].into_iter().for_each(|bytes| fill(bytes));
    let head = format!("age-encryption.org/v1\n{}\n---", stanza(recipient, &file_key, fill));
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&derive(&[], &file_key, b"header")).unwrap();
    mac.update(head.as_bytes());
    let mac = STANDARD_NO_PAD.encode(mac.finalize().into_bytes());
    let payload = derive(&nonce, &file_key, b"payload");
    // The first chunk, and the last.
    let body = encrypt(&payload, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], secret);
    [format!("{head} {mac}\n").as_bytes(), &nonce, &body].concat()
}

fn stanza(recipient: &str, file_key: &[u8; 16], fill: impl Fn(&mut [u8])) -> String {
    if let Some((share, body)) = sancerre_engine::keys::seal_hybrid(recipient, file_key, &fill) {
        return format!("-> mlkem768x25519 {share}\n{body}");
    }
    let (prefix, bytes) = bech32::decode(recipient).unwrap();
    assert_eq!(prefix.as_str(), "age");
    let recipient: [u8; 32] = bytes.try_into().unwrap();
    let mut ephemeral = [0; 32];
    fill(&mut ephemeral);
    let ephemeral = StaticSecret::from(ephemeral);
    let share = PublicKey::from(&ephemeral);
    let shared = ephemeral.diffie_hellman(&PublicKey::from(recipient));
    let salt = [share.as_bytes().as_slice(), &recipient].concat();
    let wrap = derive(&salt, shared.as_bytes(), b"age-encryption.org/v1/X25519");
    format!(
        "-> X25519 {}\n{}",
        STANDARD_NO_PAD.encode(share.as_bytes()),
        STANDARD_NO_PAD.encode(encrypt(&wrap, [0; 12], file_key))
    )
}

fn derive(salt: &[u8], key: &[u8], info: &[u8]) -> [u8; 32] {
    let mut derived = [0; 32];
    Hkdf::<Sha256>::new(Some(salt), key).expand(info, &mut derived).unwrap();
    derived
}

fn encrypt(key: &[u8; 32], nonce: [u8; 12], text: &[u8]) -> Vec<u8> {
    ChaCha20Poly1305::new(key.into()).encrypt(Nonce::from_slice(&nonce), text).unwrap()
}
