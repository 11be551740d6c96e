//! From a passphrase to sectors: derivation, merging of stripes, XTS.

use aes::cipher::KeyInit;
use aes::{Aes128, Aes256};
use pbkdf2::pbkdf2_hmac;
use sha2_10::{Digest, Sha256, Sha512};
use xts_mode::Xts128;
use zeroize::Zeroizing;

use crate::bytes::{to_u64, to_usize};
use crate::fault::{Fault, Result, unsupported};

type Key = Zeroizing<Vec<u8>>;

/// The most that a header may ask for: 2 GiB, so many passes, so many rounds.
const MEMORY_KIB_MAX: u32 = 2 << 20;
const PASSES_MAX: u32 = 1000;
const ROUNDS_MAX: u32 = 200_000_000;

/// The hashes of LUKS that are known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HashKind {
    Sha1,
    Sha256,
    Sha512,
}

impl HashKind {
    pub(super) fn of(name: &str) -> Result<Self> {
        match name {
            "sha1" => Ok(Self::Sha1),
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(unsupported("LUKS with a hash that is not known here")),
        }
    }

    fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        fn of<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
            let mut hash = D::new();
            parts.iter().for_each(|part| hash.update(part));
            hash.finalize().to_vec()
        }
        match self {
            Self::Sha1 => of::<sha1::Sha1>(parts),
            Self::Sha256 => of::<Sha256>(parts),
            Self::Sha512 => of::<Sha512>(parts),
        }
    }

    fn pbkdf2(self, secret: &[u8], salt: &[u8], rounds: u32, out: &mut [u8]) {
        match self {
            Self::Sha1 => pbkdf2_hmac::<sha1::Sha1>(secret, salt, rounds, out),
            Self::Sha256 => pbkdf2_hmac::<Sha256>(secret, salt, rounds, out),
            Self::Sha512 => pbkdf2_hmac::<Sha512>(secret, salt, rounds, out),
        }
    }
}

/// How a key is derived from a passphrase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Derivation {
    Pbkdf2 { hash: HashKind, rounds: u32, salt: Vec<u8> },
    Argon2 { is_id: bool, passes: u32, memory_kib: u32, lanes: u32, salt: Vec<u8> },
}

impl Derivation {
    /// A key of so many bytes.
    pub(super) fn derive(&self, secret: &[u8], key_bytes: usize) -> Result<Key> {
        let mut key = Zeroizing::new(vec![0; key_bytes]);
        match self {
            Self::Pbkdf2 { hash, rounds, salt } => {
                if *rounds == 0 || *rounds > ROUNDS_MAX {
                    return Err(Fault::Corrupt("LUKS: a number of rounds that cannot be"));
                }
                hash.pbkdf2(secret, salt, *rounds, &mut key);
            }
            Self::Argon2 { is_id, passes, memory_kib, lanes, salt } => {
                if *memory_kib > MEMORY_KIB_MAX || *passes > PASSES_MAX {
                    return Err(unsupported("LUKS whose key takes more memory or time than is given to it"));
                }
                let bad = |_| Fault::Corrupt("LUKS: numbers of Argon2 that cannot be");
                let wanted =
                    argon2::Params::new(*memory_kib, *passes, *lanes, Some(key_bytes)).map_err(bad)?;
                let kind = if *is_id { argon2::Algorithm::Argon2id } else { argon2::Algorithm::Argon2i };
                let argon = argon2::Argon2::new(kind, argon2::Version::V0x13, wanted);
                argon.hash_password_into(secret, salt, &mut key).map_err(bad)?;
            }
        }
        Ok(key)
    }
}

/// What the key of the volume is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyDigest {
    pub(super) hash: HashKind,
    pub(super) rounds: u32,
    pub(super) salt: Vec<u8>,
    pub(super) value: Vec<u8>,
}

impl KeyDigest {
    pub(super) fn fits(&self, key: &[u8]) -> Result<bool> {
        let (hash, rounds, salt) = (self.hash, self.rounds, self.salt.clone());
        let found = Derivation::Pbkdf2 { hash, rounds, salt }.derive(key, self.value.len())?;
        Ok(!self.value.is_empty() && *found == self.value)
    }
}

/// Merges the stripes over which a key was split (AFsplitter of LUKS).
pub(super) fn merge(area: &[u8], key_bytes: usize, stripes: usize, hash: HashKind) -> Result<Key> {
    let short = Fault::Corrupt("LUKS: stripes that are not there");
    let mut merged = Zeroizing::new(vec![0; key_bytes]);
    let mut pieces = area.chunks_exact(key_bytes.max(1)).take(stripes);
    for number in 1..=stripes {
        let Some(stripe) = pieces.next() else { return Err(short) };
        merged.iter_mut().zip(stripe).for_each(|(byte, other)| *byte ^= other);
        if number < stripes {
            *merged = diffused(&merged, hash);
        }
    }
    Ok(merged)
}

/// Each part of the size of a hash becomes the hash of its number and itself.
fn diffused(bytes: &[u8], hash: HashKind) -> Vec<u8> {
    let width = hash.digest(&[]).len();
    let parts = bytes.chunks(width.max(1)).zip(0_u32..);
    let parts = parts.map(|(part, number)| {
        let mut mixed = hash.digest(&[&number.to_be_bytes(), part]);
        mixed.truncate(part.len());
        mixed
    });
    parts.collect::<Vec<_>>().concat()
}

/// `aes-xts-plain64`.
pub(crate) struct SectorCipher {
    xts: Xts,
    sector_bytes: u64,
    /// What the number of the first sector is, in units of 512 bytes.
    first: u64,
}

enum Xts {
    Aes128(Box<Xts128<Aes128>>),
    Aes256(Box<Xts128<Aes256>>),
}

impl SectorCipher {
    pub(crate) fn new(key: &[u8], sector_bytes: u64, first: u64) -> Result<Self> {
        let (one, other) = key.split_at(key.len() / 2);
        let bad = |_| unsupported("LUKS with a key of a length that is not known here");
        let xts = match key.len() {
            32 => Xts::Aes128(Box::new(Xts128::new(
                Aes128::new_from_slice(one).map_err(bad)?,
                Aes128::new_from_slice(other).map_err(bad)?,
            ))),
            _ => Xts::Aes256(Box::new(Xts128::new(
                Aes256::new_from_slice(one).map_err(bad)?,
                Aes256::new_from_slice(other).map_err(bad)?,
            ))),
        };
        Ok(Self { xts, sector_bytes, first })
    }

    pub(crate) fn sector_bytes(&self) -> u64 {
        self.sector_bytes
    }

    /// Decrypts whole sectors that lie `at` in the volume. Sectors are counted by 512 bytes, however large they are.
    pub(crate) fn decrypt(&self, at: u64, bytes: &mut [u8]) {
        let length = to_usize(self.sector_bytes).max(1);
        for (sector, number) in bytes.chunks_exact_mut(length).zip(0_u64..) {
            let within = number.saturating_mul(to_u64(length)).saturating_add(at) / 512;
            let mut tweak = [0; 16];
            let counted = self.first.wrapping_add(within).to_le_bytes();
            tweak.iter_mut().zip(counted).for_each(|(byte, other)| *byte = other);
            match &self.xts {
                Xts::Aes128(xts) => xts.decrypt_sector(sector, tweak.into()),
                Xts::Aes256(xts) => xts.decrypt_sector(sector, tweak.into()),
            }
        }
    }
}
