//! Sealed units: compress-then-encrypt with keys derived from the content (FORMAT.md §3).

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::bytes::{Reader, to_u32, to_u64, to_usize};
use crate::error::{Result, corrupt, ensure, forged};
use crate::id::{Hash, SessionId};

const WHAT: &str = "sealed unit";
const S_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const INNER_HEAD_BYTES: usize = 12;
const PADDING_BYTES: usize = 256;
/// Most raw or coded bytes in a unit that a reader accepts.
pub const UNIT_BYTES_MAX: usize = 16 << 20;
/// Most inner bytes that a reader accepts: a writer of a later version may pad more.
const INNER_BYTES_MAX: usize = 18 << 20;
/// Largest sealed unit that a reader accepts.
pub const SEALED_BYTES_MAX: usize = S_BYTES + INNER_BYTES_MAX + TAG_BYTES;

/// What a unit holds; part of its associated data, so that one kind never passes for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitKind {
    /// Frame of chunks, under the session key.
    Data,
    /// Frame of map nodes, under the metadata root.
    Metadata,
    /// Table of a pack's chunks.
    PackTable,
    /// Page table of an index segment.
    IndexTable,
    /// Page of an index segment.
    IndexPage,
    /// Sealed body of a manifest.
    Body,
    /// Sealed part of a note.
    Note,
    /// Frame of an annex: pieces that this version does not read.
    Annex,
}

impl UnitKind {
    const fn code(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Metadata => 2,
            Self::PackTable => 3,
            Self::IndexTable => 4,
            Self::IndexPage => 5,
            Self::Body => 6,
            Self::Note => 7,
            Self::Annex => 8,
        }
    }
}

/// How the raw bytes are coded inside a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// As they are.
    Stored,
    /// One zstd frame.
    Zstd,
}

/// The unit's place in the repository: what its associated data binds it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitName {
    /// What it holds.
    pub kind: UnitKind,
    /// The session it belongs to.
    pub session: SessionId,
    /// Pack ordinal or segment number.
    pub a: u32,
    /// Frame index or page number.
    pub b: u32,
}

impl UnitName {
    fn associated_data(&self, inner_bytes: u32) -> [u8; 64] {
        let mut data = [0; 64];
        let fields: [&[u8]; 8] = [
            b"SNC1",
            &[self.kind.code(), 1, 0, 0],
            &self.session.number.to_le_bytes(),
            &self.session.intent.0,
            &self.a.to_le_bytes(),
            &self.b.to_le_bytes(),
            &inner_bytes.to_le_bytes(),
            &[0; 4],
        ];
        let all = fields.into_iter().flatten();
        data.iter_mut().zip(all).for_each(|(byte, field)| *byte = *field);
        data
    }
}

/// The key that opens all units of one kind of one session.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct RootKey {
    salt: [u8; 32],
    seal: [u8; 32],
}

impl RootKey {
    fn new(root: &[u8; 32]) -> Self {
        Self {
            salt: blake3::derive_key("sancerre v1 seal salt", root),
            seal: blake3::derive_key("sancerre v1 seal key", root),
        }
    }

    /// The metadata root of a session: its zone's writers and keepers can open what it seals.
    pub fn metadata(metadata_key: &[u8; 32], session: &SessionId) -> Self {
        let mut material = [0; 64];
        let all = metadata_key.iter().chain(&session.intent.0);
        material.iter_mut().zip(all).for_each(|(byte, key)| *byte = *key);
        let root = Self::new(&blake3::derive_key("sancerre v1 metadata", &material));
        material.zeroize();
        root
    }

    /// S: a commitment to the key and to all that is sealed.
    fn synthetic(&self, associated: &[u8; 64], inner: &[u8]) -> [u8; S_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.salt);
        hasher.update(associated).update(inner);
        *hasher.finalize().as_bytes()
    }

    fn cipher(&self, synthetic: &[u8; S_BYTES]) -> Aes256Gcm {
        let mut key = *blake3::keyed_hash(&self.seal, synthetic).as_bytes();
        let cipher = Aes256Gcm::new(&key.into());
        key.zeroize();
        cipher
    }
}

/// The random key of one backup session. It seals the session's data frames and lives in memory only.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SessionKey(pub [u8; 32]);

impl SessionKey {
    /// The root for data frames.
    pub fn root(&self) -> RootKey {
        RootKey::new(&self.0)
    }

    /// What the signed log entry says of the key, so that another key cannot be put in its place.
    pub fn commitment(&self) -> Hash {
        Hash(blake3::derive_key("sancerre v1 session commitment", &self.0))
    }
}

/// Size of the sealed unit that holds so many coded bytes.
pub fn sealed_bytes(coded_bytes: usize) -> usize {
    padded_bytes(INNER_HEAD_BYTES.saturating_add(coded_bytes)).saturating_add(S_BYTES + TAG_BYTES)
}

/// Inner bytes with their padding: Padmé (Nikitin et al., PURBs, 2019) keeps of a size with e bits only its highest
/// log2(e) + 1, so that a size tells log2(log2(size)) bits of itself; then whole blocks.
pub fn padded_bytes(used_bytes: usize) -> usize {
    let exponent = used_bytes.max(2).ilog2();
    let kept = exponent.ilog2().saturating_add(1);
    let step = 1usize.checked_shl(exponent.saturating_sub(kept)).unwrap_or(1).max(PADDING_BYTES);
    used_bytes.checked_next_multiple_of(step).unwrap_or(usize::MAX)
}

/// Whether a sealed unit can have this size: whole padding blocks between S and the tag, however many.
pub fn is_sealed_size(bytes: usize) -> bool {
    let inner = bytes.saturating_sub(S_BYTES + TAG_BYTES);
    inner >= PADDING_BYTES && inner.is_multiple_of(PADDING_BYTES) && bytes <= SEALED_BYTES_MAX
}

/// Seals `raw` bytes, compressed with zstd at `level` when that makes them smaller.
pub fn seal_raw(root: &RootKey, name: &UnitName, level: i32, raw: &[u8]) -> Result<Vec<u8>> {
    let coded = zstd::bulk::compress(raw, level).map_err(|error| corrupt(WHAT, format!("zstd: {error}")))?;
    if coded.len() < raw.len() {
        seal(root, name, Codec::Zstd, raw.len(), &coded)
    } else {
        seal(root, name, Codec::Stored, raw.len(), raw)
    }
}

/// Seals `coded` bytes, which decode to `raw_bytes` bytes.
///
/// Returns S ‖ ciphertext ‖ tag. Deterministic: the same input gives the same bytes.
pub fn seal(
    root: &RootKey,
    name: &UnitName,
    codec: Codec,
    raw_bytes: usize,
    coded: &[u8],
) -> Result<Vec<u8>> {
    let used = INNER_HEAD_BYTES.saturating_add(coded.len());
    ensure(coded.len() <= UNIT_BYTES_MAX && raw_bytes <= UNIT_BYTES_MAX, WHAT, || {
        format!("{raw_bytes} bytes are too many for one unit")
    })?;
    ensure(codec == Codec::Zstd || coded.len() == raw_bytes, WHAT, || {
        format!("{} stored bytes cannot be {raw_bytes} raw bytes", coded.len())
    })?;
    let padded = padded_bytes(used);
    let mut sealed = Vec::with_capacity(padded.saturating_add(S_BYTES + TAG_BYTES));
    sealed.extend_from_slice(&[0; S_BYTES]);
    sealed.extend_from_slice(&[u8::from(codec == Codec::Zstd), 0, 0, 0]);
    sealed.extend_from_slice(&to_u32(WHAT, raw_bytes)?.to_le_bytes());
    sealed.extend_from_slice(&to_u32(WHAT, coded.len())?.to_le_bytes());
    sealed.extend_from_slice(coded);
    sealed.resize(padded.saturating_add(S_BYTES), 0);

    let associated = name.associated_data(to_u32(WHAT, padded)?);
    let (head, inner) = sealed.split_at_mut(S_BYTES);
    let synthetic = root.synthetic(&associated, inner);
    head.copy_from_slice(&synthetic);
    let tag = root
        .cipher(&synthetic)
        .encrypt_inout_detached(&Nonce::default(), &associated, inner.into())
        .map_err(|_| corrupt(WHAT, "too large to encrypt"))?;
    sealed.extend_from_slice(&tag);
    Ok(sealed)
}

/// Opens a sealed unit and returns its raw bytes.
///
/// Errors: [`Forged`](crate::FormatError::Forged) when the key, the name or a single bit is wrong;
/// [`Corrupt`](crate::FormatError::Corrupt) when the inner bytes break a rule.
pub fn open(root: &RootKey, name: &UnitName, sealed: &[u8]) -> Result<Vec<u8>> {
    let mut inner = Vec::new();
    open_into(root, name, sealed, &mut inner)
}

/// [`open`] with a buffer for the decrypted bytes that the caller reuses.
pub fn open_into(root: &RootKey, name: &UnitName, sealed: &[u8], scratch: &mut Vec<u8>) -> Result<Vec<u8>> {
    let mut reader = Reader::new(WHAT, sealed);
    let synthetic: [u8; S_BYTES] = reader.array()?;
    let inner_bytes = reader.remaining().saturating_sub(TAG_BYTES);
    let ciphertext = reader.take(inner_bytes)?;
    let tag: [u8; TAG_BYTES] = reader.array()?;
    ensure(is_sealed_size(sealed.len()), WHAT, || {
        format!("{inner_bytes} inner bytes are not whole blocks of {PADDING_BYTES}, or too many")
    })?;

    scratch.clear();
    scratch.extend_from_slice(ciphertext);
    let associated = name.associated_data(to_u32(WHAT, inner_bytes)?);
    root.cipher(&synthetic)
        .decrypt_inout_detached(
            &Nonce::default(),
            &associated,
            scratch.as_mut_slice().into(),
            &Tag::from(tag),
        )
        .map_err(|_| forged(WHAT, "wrong key, or changed since it was sealed"))?;
    ensure_synthetic(root, &associated, scratch, &synthetic)?;
    decode_inner(scratch)
}

fn ensure_synthetic(root: &RootKey, associated: &[u8; 64], inner: &[u8], expected: &[u8; 32]) -> Result<()> {
    // blake3::Hash compares in constant time.
    if blake3::Hash::from(root.synthetic(associated, inner)) == blake3::Hash::from(*expected) {
        return Ok(());
    }
    Err(forged(WHAT, "its commitment does not fit its content"))
}

fn decode_inner(inner: &[u8]) -> Result<Vec<u8>> {
    let mut reader = Reader::new(WHAT, inner);
    let codec = reader.u8()?;
    reader.zeros::<3>()?;
    let (raw_bytes, coded_bytes) = (to_usize(reader.u32()?), to_usize(reader.u32()?));
    ensure(raw_bytes.max(coded_bytes) <= UNIT_BYTES_MAX, WHAT, || {
        format!("announces {raw_bytes} raw bytes in {coded_bytes}")
    })?;
    let coded = reader.take(coded_bytes)?;
    let padding = reader.rest();
    ensure(padding.iter().all(|byte| *byte == 0), WHAT, || "its padding is not zeros".into())?;
    let raw = match codec {
        0 => coded.to_vec(),
        1 => decompress(WHAT, coded, raw_bytes)?,
        other => return Err(crate::error::unsupported(WHAT, format!("codec {other}"))),
    };
    ensure(raw.len() == raw_bytes, WHAT, || format!("holds {} bytes instead of {raw_bytes}", raw.len()))?;
    Ok(raw)
}

/// Decompresses exactly one zstd frame that announces exactly `raw_bytes`: no second frame, skippable or not.
pub(crate) fn decompress(what: &'static str, coded: &[u8], raw_bytes: usize) -> Result<Vec<u8>> {
    let frame = zstd::zstd_safe::find_frame_compressed_size(coded).ok();
    ensure(frame == Some(coded.len()), what, || "is not one zstd frame".into())?;
    let announced = zstd::zstd_safe::get_frame_content_size(coded).ok().flatten();
    ensure(announced == Some(to_u64(raw_bytes)), what, || {
        format!("its zstd frame announces {announced:?} bytes instead of {raw_bytes}")
    })?;
    let raw =
        zstd::bulk::decompress(coded, raw_bytes).map_err(|error| corrupt(what, format!("zstd: {error}")))?;
    ensure(raw.len() == raw_bytes, what, || format!("zstd: {} bytes instead of {raw_bytes}", raw.len()))?;
    Ok(raw)
}
