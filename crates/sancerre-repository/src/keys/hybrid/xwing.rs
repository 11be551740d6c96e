//! X-Wing, the hybrid of ML-KEM-768 and X25519 (draft-connolly-cfrg-xwing-kem), and HPKE (RFC 9180) in base mode with it,
//! HKDF-SHA256 and ChaCha20-Poly1305, for one message.
//!
//! The crates that have both need another release of `ml-kem` than the `age` crate does, and the two do not go together:
//! docs/decisions/0012-hybrid-identities.md. ML-KEM, X25519, the hashes and the AEAD are those of the crates here.

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use hkdf::Hkdf;
use ml_kem::kem::{Decapsulate, DecapsulationKey, EncapsulationKey};
use ml_kem::{B32, EncapsulateDeterministic, EncodedSizeUser, KemCore, MlKem768, MlKem768Params};
use sha2_10::Sha256;
use sha3::digest::{ExtendableOutput, Update, XofReader};
use sha3::{Digest, Sha3_256, Shake256};
use x25519_dalek::{PublicKey as Point, StaticSecret};
use zeroize::Zeroizing;

const ML_KEM_PUBLIC_BYTES: usize = 1184;
const ML_KEM_SHARE_BYTES: usize = 1088;
/// `\.//^\`
const LABEL: &[u8] = br"\.//^\";
/// HPKE's name of X-Wing, HKDF-SHA256 and ChaCha20-Poly1305.
const SUITE: &[u8] = b"HPKE\x64\x7a\x00\x01\x00\x03";

/// A public key.
pub(super) struct Public {
    lattice: EncapsulationKey<MlKem768Params>,
    point: Point,
}

/// A secret key.
pub(super) struct Secret {
    lattice: DecapsulationKey<MlKem768Params>,
    scalar: StaticSecret,
    point: Point,
}

impl Public {
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (lattice, point) = bytes.split_at_checked(ML_KEM_PUBLIC_BYTES)?;
        let key = EncapsulationKey::from_bytes(&lattice.try_into().ok()?);
        // Coefficients that are not reduced have another spelling (FIPS 203 asks for this check).
        (key.as_bytes().as_slice() == lattice).then_some(())?;
        Some(Self { lattice: key, point: Point::from(<[u8; 32]>::try_from(point).ok()?) })
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        [self.lattice.as_bytes().as_slice(), self.point.as_bytes()].concat()
    }

    /// Seals with these random bytes: the share that goes with it, and the text.
    pub(super) fn seal(&self, random: &[u8; 64], info: &[u8], text: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let (message, scalar) = random.split_at_checked(32)?;
        let (share, lattice) = self.lattice.encapsulate_deterministic(&B32::try_from(message).ok()?).ok()?;
        let scalar = StaticSecret::from(<[u8; 32]>::try_from(scalar).ok()?);
        let point = Point::from(&scalar);
        let shared = scalar.diffie_hellman(&self.point);
        let secret = combine(&lattice, shared.as_bytes(), &point, &self.point);
        let sealed = context(&secret, info)?.encrypt(text)?;
        Some(([share.as_slice(), point.as_bytes()].concat(), sealed))
    }
}

impl Secret {
    pub(super) fn from_seed(seed: &[u8; 32]) -> Option<Self> {
        let mut expanded = Zeroizing::new([0; 96]);
        let mut shake = Shake256::default();
        Update::update(&mut shake, seed);
        shake.finalize_xof().read(expanded.as_mut_slice());
        let (d, rest) = expanded.split_at_checked(32)?;
        let (z, scalar) = rest.split_at_checked(32)?;
        let (lattice, _) = MlKem768::generate_deterministic(&B32::try_from(d).ok()?, &B32::try_from(z).ok()?);
        let scalar = StaticSecret::from(<[u8; 32]>::try_from(scalar).ok()?);
        let point = Point::from(&scalar);
        Some(Self { lattice, scalar, point })
    }

    pub(super) fn public(&self) -> Public {
        Public { lattice: self.lattice.encapsulation_key().clone(), point: self.point }
    }

    /// Opens what [`Public::seal`] made.
    pub(super) fn open(&self, share: &[u8], info: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (lattice, point) = share.split_at_checked(ML_KEM_SHARE_BYTES)?;
        let point = Point::from(<[u8; 32]>::try_from(point).ok()?);
        let lattice = self.lattice.decapsulate(&lattice.try_into().ok()?).ok()?;
        let shared = self.scalar.diffie_hellman(&point);
        let secret = combine(&lattice, shared.as_bytes(), &point, &self.point);
        context(&secret, info)?.decrypt(sealed)
    }
}

fn combine(lattice: &[u8], shared: &[u8], share: &Point, public: &Point) -> Zeroizing<[u8; 32]> {
    let mut hash = Sha3_256::new();
    for part in [lattice, shared, share.as_bytes(), public.as_bytes(), LABEL] {
        Digest::update(&mut hash, part);
    }
    Zeroizing::new(hash.finalize().into())
}

/// Key and nonce of the one message.
struct Context {
    key: Zeroizing<[u8; 32]>,
    nonce: [u8; 12],
}

/// HPKE's key schedule in base mode.
fn context(secret: &[u8; 32], info: &[u8]) -> Option<Context> {
    let extract = |salt: &[u8], label: &[u8], key: &[u8]| {
        Hkdf::<Sha256>::extract(Some(salt), &[b"HPKE-v1", SUITE, label, key].concat())
    };
    let (psk, _) = extract(b"", b"psk_id_hash", b"");
    let (info, _) = extract(b"", b"info_hash", info);
    let schedule = [&[0], psk.as_slice(), info.as_slice()].concat();
    let (_, root) = extract(secret, b"secret", b"");
    let expand = |label: &[u8], into: &mut [u8]| {
        let length = u16::try_from(into.len()).ok()?.to_be_bytes();
        root.expand_multi_info(&[&length, b"HPKE-v1", SUITE, label, &schedule], into).ok()
    };
    let mut context = Context { key: Zeroizing::new([0; 32]), nonce: [0; 12] };
    expand(b"key", context.key.as_mut_slice())?;
    expand(b"base_nonce", &mut context.nonce)?;
    Some(context)
}

impl Context {
    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(self.key.as_slice().into())
    }

    fn encrypt(&self, text: &[u8]) -> Option<Vec<u8>> {
        self.cipher().encrypt(Nonce::from_slice(&self.nonce), text).ok()
    }

    fn decrypt(&self, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.cipher().decrypt(Nonce::from_slice(&self.nonce), sealed).ok().map(Zeroizing::new)
    }
}
