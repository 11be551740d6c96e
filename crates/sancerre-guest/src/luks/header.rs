//! Headers of LUKS 1 and 2, read into one form.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2_10::{Digest, Sha256};

use super::MAGIC;
use super::keys::{Derivation, HashKind, KeyDigest};
use crate::bytes::{to_u64, to_usize};
use crate::fault::{Fault, Result, unsupported};
use crate::volume::Volume;

const SECTOR: u64 = 512;
/// Of LUKS 2: the fixed part, and the most that it may have with its JSON.
const FIXED_BYTES: usize = 4096;
const AREA_BYTES_MAX: u64 = 4 << 20;
/// Where the second header of LUKS 2 may be.
const SECOND_AT: [u64; 9] = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096];
const SECOND_MAGIC: &[u8] = b"SKUL\xba\xbe";
/// Bytes of key material at most: 128 bytes over 4000 stripes, with much to spare.
const MATERIAL_BYTES_MAX: usize = 8 << 20;
const SLOTS_MAX: usize = 32;
const ACTIVE: u32 = 0x00ac_71f3;

/// How a volume is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) slots: Vec<Keyslot>,
    pub(super) digest: KeyDigest,
    /// Where the content begins.
    pub(super) offset: u64,
    /// How long it is; none for all that follows.
    pub(super) size_bytes: Option<u64>,
    pub(super) sector_bytes: u64,
    /// The number of its first sector.
    pub(super) first_sector: u64,
}

/// A place for the key of the volume, under one passphrase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keyslot {
    pub(super) kdf: Derivation,
    /// Bytes of the key of the volume, and of the key that encrypts the slot.
    pub(super) key_bytes: usize,
    pub(super) area_key_bytes: usize,
    pub(super) stripes: usize,
    pub(super) hash: HashKind,
    pub(super) offset: u64,
}

impl Keyslot {
    /// Bytes of the slot's material, in whole sectors.
    pub(super) fn area_bytes(&self) -> Result<usize> {
        let bytes =
            self.key_bytes.checked_mul(self.stripes).and_then(|bytes| bytes.checked_next_multiple_of(512));
        bytes.filter(|bytes| *bytes <= MATERIAL_BYTES_MAX).ok_or(CORRUPT)
    }
}

const CORRUPT: Fault = Fault::Corrupt("LUKS: its header makes no sense");
fn cipher() -> Fault {
    unsupported("LUKS with a cipher other than aes-xts-plain64")
}

impl Header {
    pub(super) fn read(volume: &Volume) -> Result<Self> {
        let start = volume.bytes(0, 1024)?;
        if start.get(..MAGIC.len()) != Some(MAGIC) {
            return Err(CORRUPT);
        }
        match start.get(6..8) {
            Some([0, 1]) => first(&start),
            Some([0, 2]) => second(volume),
            _ => Err(unsupported("LUKS of a version that is not known here")),
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(CORRUPT)?;
    Ok(u32::from_be_bytes(*word))
}

fn long(bytes: &[u8], at: usize) -> Result<u64> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(CORRUPT)?;
    Ok(u64::from_be_bytes(*word))
}

/// Up to the first zero.
fn name(bytes: &[u8], at: usize, length: usize) -> Result<&str> {
    let text = bytes.get(at..at.saturating_add(length)).ok_or(CORRUPT)?;
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    std::str::from_utf8(text).map_err(|_| CORRUPT)
}

/// LUKS 1: "LUKS On-Disk Format Specification", version 1.2.3.
fn first(start: &[u8]) -> Result<Header> {
    if name(start, 8, 32)? != "aes" || name(start, 40, 32)? != "xts-plain64" {
        return Err(cipher());
    }
    let hash = HashKind::of(name(start, 72, 32)?)?;
    let key_bytes = key_bytes(u64::from(word(start, 108)?))?;
    let array = |at: usize, length: usize| start.get(at..at.saturating_add(length)).map(<[u8]>::to_vec);
    let digest = KeyDigest {
        hash,
        rounds: word(start, 164)?,
        salt: array(132, 32).ok_or(CORRUPT)?,
        value: array(112, 20).ok_or(CORRUPT)?,
    };
    let mut slots = Vec::new();
    for number in 0..8_usize {
        let at = number.saturating_mul(48).saturating_add(208);
        if word(start, at)? != ACTIVE {
            continue;
        }
        let rounds = word(start, at.saturating_add(4))?;
        let salt = array(at.saturating_add(8), 32).ok_or(CORRUPT)?;
        slots.push(Keyslot {
            kdf: Derivation::Pbkdf2 { hash, rounds, salt },
            key_bytes,
            area_key_bytes: key_bytes,
            stripes: stripes(u64::from(word(start, at.saturating_add(44))?))?,
            hash,
            offset: u64::from(word(start, at.saturating_add(40))?).saturating_mul(SECTOR),
        });
    }
    let offset = u64::from(word(start, 104)?).saturating_mul(SECTOR);
    Ok(Header { slots, digest, offset, size_bytes: None, sector_bytes: SECTOR, first_sector: 0 })
}

fn key_bytes(count: u64) -> Result<usize> {
    match count {
        32 | 64 => Ok(to_usize(count)),
        _ => Err(unsupported("LUKS with a key of a length that is not known here")),
    }
}

fn stripes(count: u64) -> Result<usize> {
    if (1..=100_000).contains(&count) { Ok(to_usize(count)) } else { Err(CORRUPT) }
}

/// LUKS 2: "LUKS2 On-Disk Format Specification", version 1.1.4. The second header stands in for a first one that is damaged.
fn second(volume: &Volume) -> Result<Header> {
    let json = match area(volume, 0, MAGIC) {
        Err(Fault::Gone) => return Err(Fault::Gone),
        Err(fault) => {
            let places = SECOND_AT.iter().map(|kib| kib.saturating_mul(1024));
            let mut others = places.filter_map(|at| area(volume, at, SECOND_MAGIC).ok());
            others.next().ok_or(fault)?
        }
        json => json?,
    };
    parsed(&json)
}

/// The JSON of a header whose checksum is right.
fn area(volume: &Volume, at: u64, magic: &[u8]) -> Result<Value> {
    let fixed = volume.bytes(at, FIXED_BYTES)?;
    let size = long(&fixed, 8)?;
    let is_one = fixed.get(..6) == Some(magic) && name(&fixed, 72, 32)? == "sha256";
    if !is_one || size <= to_u64(FIXED_BYTES) || size > AREA_BYTES_MAX || long(&fixed, 256)? != at {
        return Err(CORRUPT);
    }
    let mut whole = volume.bytes(at, to_usize(size))?;
    let told: [u8; 32] = fixed.get(448..).and_then(|rest| rest.first_chunk()).copied().ok_or(CORRUPT)?;
    whole.get_mut(448..512).ok_or(CORRUPT)?.fill(0);
    if Sha256::digest(&whole)[..] != told {
        return Err(Fault::Corrupt("LUKS: the checksum of its header is another"));
    }
    let text = whole.get(FIXED_BYTES..).unwrap_or_default();
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    serde_json::from_slice(text).map_err(|_| CORRUPT)
}

fn number(value: &Value) -> Result<u64> {
    // What may need more than 53 bits is written as text.
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).ok_or(CORRUPT)
}

fn small(value: &Value) -> Result<u32> {
    u32::try_from(number(value)?).map_err(|_| CORRUPT)
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().ok_or(CORRUPT)
}

fn bytes(value: &Value) -> Result<Vec<u8>> {
    STANDARD.decode(text(value)?).map_err(|_| CORRUPT)
}

fn parsed(json: &Value) -> Result<Header> {
    let segments = json.get("segments").and_then(Value::as_object).ok_or(CORRUPT)?;
    let mut all = segments.iter();
    let (Some((id, segment)), None) = (all.next(), all.next()) else {
        return Err(unsupported("LUKS whose encryption is being changed"));
    };
    let get = |key: &str| segment.get(key).ok_or(CORRUPT);
    if segment.get("integrity").is_some() || text(get("type")?)? != "crypt" {
        return Err(unsupported("LUKS with integrity, or of another kind"));
    }
    if text(get("encryption")?)? != "aes-xts-plain64" {
        return Err(cipher());
    }
    let sector_bytes = number(get("sector_size")?)?;
    if ![512, 1024, 2048, 4096].contains(&sector_bytes) {
        return Err(CORRUPT);
    }
    let size_bytes = match text(get("size")?)? {
        "dynamic" => None,
        size => Some(size.parse().map_err(|_| CORRUPT)?),
    };
    let (digest, of_slots) = digest(json, id)?;
    Ok(Header {
        slots: slots(json, &of_slots)?,
        digest,
        offset: number(get("offset")?)?,
        size_bytes,
        sector_bytes,
        first_sector: number(get("iv_tweak")?)?,
    })
}

/// The digest of a segment's key, and the slots that hold that key.
fn digest(json: &Value, segment: &str) -> Result<(KeyDigest, Vec<String>)> {
    let digests = json.get("digests").and_then(Value::as_object).ok_or(CORRUPT)?;
    let names = |digest: &Value, key: &str| -> Vec<String> {
        let names = digest.get(key).and_then(Value::as_array).into_iter().flatten();
        names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let digest = digests.values().find(|digest| names(digest, "segments").iter().any(|name| name == segment));
    let digest = digest.ok_or(CORRUPT)?;
    let get = |key: &str| digest.get(key).ok_or(CORRUPT);
    if text(get("type")?)? != "pbkdf2" {
        return Err(unsupported("LUKS with a digest that is not known here"));
    }
    let found = KeyDigest {
        hash: HashKind::of(text(get("hash")?)?)?,
        rounds: small(get("iterations")?)?,
        salt: bytes(get("salt")?)?,
        value: bytes(get("digest")?)?,
    };
    Ok((found, names(digest, "keyslots")))
}

/// The slots of these names; one of a kind that is not known is passed over.
fn slots(json: &Value, names: &[String]) -> Result<Vec<Keyslot>> {
    let slots = json.get("keyslots").and_then(Value::as_object).ok_or(CORRUPT)?;
    let wanted = slots.iter().filter(|(name, _)| names.contains(name)).take(SLOTS_MAX);
    let mut found = Vec::new();
    let mut worst = None;
    for (_, slot) in wanted {
        match self::slot(slot) {
            Ok(slot) => found.push(slot),
            Err(fault) => worst = Some(fault),
        }
    }
    match (found.is_empty(), worst) {
        (true, Some(fault)) => Err(fault),
        _ => Ok(found),
    }
}

fn slot(slot: &Value) -> Result<Keyslot> {
    let at = |path: &str| slot.pointer(path).ok_or(CORRUPT);
    if text(at("/area/encryption")?)? != "aes-xts-plain64" {
        return Err(cipher());
    }
    let salt = bytes(at("/kdf/salt")?)?;
    let kdf = match text(at("/kdf/type")?)? {
        "pbkdf2" => {
            let (hash, rounds) = (HashKind::of(text(at("/kdf/hash")?)?)?, small(at("/kdf/iterations")?)?);
            Derivation::Pbkdf2 { hash, rounds, salt }
        }
        kind @ ("argon2i" | "argon2id") => Derivation::Argon2 {
            is_id: kind == "argon2id",
            passes: small(at("/kdf/time")?)?,
            memory_kib: small(at("/kdf/memory")?)?,
            lanes: small(at("/kdf/cpus")?)?,
            salt,
        },
        _ => return Err(unsupported("LUKS with a key derivation that is not known here")),
    };
    Ok(Keyslot {
        kdf,
        key_bytes: key_bytes(number(at("/key_size")?)?)?,
        area_key_bytes: key_bytes(number(at("/area/key_size")?)?)?,
        stripes: stripes(number(at("/af/stripes")?)?)?,
        hash: HashKind::of(text(at("/af/hash")?)?)?,
        offset: number(at("/area/offset")?)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn sound() -> Value {
        let slot = json!({"type": "luks2", "key_size": 64, "af": {"type": "luks1", "stripes": 4000, "hash": "sha256"},
            "area": {"type": "raw", "offset": "32768", "size": "258048", "encryption": "aes-xts-plain64", "key_size": 64},
            "kdf": {"type": "argon2id", "time": 4, "memory": 65536, "cpus": 2, "salt": "AAAA"}});
        json!({"keyslots": {"0": slot},
            "segments": {"0": {"type": "crypt", "offset": "16777216", "size": "dynamic", "iv_tweak": "0",
                "encryption": "aes-xts-plain64", "sector_size": 4096}},
            "digests": {"0": {"type": "pbkdf2", "keyslots": ["0"], "segments": ["0"], "hash": "sha256",
                "iterations": 1000, "salt": "AAAA", "digest": "AAAA"}}})
    }

    #[test]
    fn what_is_not_known_is_named() {
        let header = parsed(&sound()).unwrap();
        assert_eq!((header.offset, header.sector_bytes, header.slots.len()), (16 << 20, 4096, 1));
        for (place, value, word) in [
            ("/segments/0/encryption", json!("aes-cbc-essiv:sha256"), "cipher"),
            ("/segments/0/integrity", json!({}), "integrity"),
            ("/segments/1", json!({"type": "crypt"}), "changed"),
            ("/keyslots/0/kdf/type", json!("scrypt"), "derivation"),
            ("/digests/0/hash", json!("whirlpool"), "hash"),
            ("/segments/0/sector_size", json!(3), "no sense"),
        ] {
            let mut json = sound();
            let (above, key) = place.rsplit_once('/').unwrap();
            json.pointer_mut(above).unwrap().as_object_mut().unwrap().insert(key.to_owned(), value);
            let fault = parsed(&json).unwrap_err().to_string();
            assert!(fault.contains(word), "{place}: {fault}");
        }
    }

    proptest! {
        /// Any value in any place: an error or a header, never a panic.
        #[test]
        fn no_header_makes_it_panic(at in 0..40_usize, value in prop_oneof![
            any::<u64>().prop_map(|number| json!(number)),
            "[ -~]{0,12}".prop_map(|text| json!(text)),
            Just(json!([])), Just(json!({})), Just(Value::Null)]) {
            let mut json = sound();
            let mut places = Vec::new();
            fn walk(value: &Value, at: &str, places: &mut Vec<String>) {
                if let Some(fields) = value.as_object() {
                    for (key, value) in fields {
                        places.push(format!("{at}/{key}"));
                        walk(value, &format!("{at}/{key}"), places);
                    }
                }
            }
            walk(&json, "", &mut places);
            *json.pointer_mut(&places[at % places.len()]).unwrap() = value;
            if let Ok(header) = parsed(&json) {
                for slot in &header.slots {
                    let _ = slot.area_bytes();
                }
            }
        }

        #[test]
        fn no_first_header_makes_it_panic(noise in proptest::collection::vec(any::<u8>(), 1016)) {
            let mut start = [&b"LUKS\xba\xbe\0\x01"[..], &noise].concat();
            start[8..40].fill(0);
            start[8..11].copy_from_slice(b"aes");
            start[40..72].fill(0);
            start[40..51].copy_from_slice(b"xts-plain64");
            start[72..104].fill(0);
            start[72..78].copy_from_slice(b"sha256");
            let _ = first(&start);
        }
    }
}
