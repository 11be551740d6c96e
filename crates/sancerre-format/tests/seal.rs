//! Sealed units against an implementation written from FORMAT.md §3 alone, and against every kind of damage.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "reads files, which the package may not"
)]

use std::collections::HashMap;
use std::path::PathBuf;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use proptest::prelude::*;
use sancerre_format::FormatError;
use sancerre_format::id::{Hash, SessionId, to_hex};
use sancerre_format::seal::{
    Codec, RootKey, SessionKey, UNIT_BYTES_MAX, UnitKind, UnitName, is_sealed_size, open, seal, seal_raw,
    sealed_bytes,
};

const KEY: [u8; 32] = [0x5a; 32];

fn unit() -> UnitName {
    let session = SessionId { number: 7, intent: Hash([0x77; 32]) };
    UnitName { kind: UnitKind::Data, session, a: 3, b: 4 }
}

fn root() -> RootKey {
    SessionKey(KEY).root()
}

fn open_here(sealed: &[u8]) -> Result<Vec<u8>, FormatError> {
    open(&root(), &unit(), sealed)
}

/// Inner bytes before padding.
fn inner(codec: u8, reserved: [u8; 3], raw_bytes: u32, coded_bytes: u32, coded: &[u8]) -> Vec<u8> {
    [&[codec][..], &reserved, &raw_bytes.to_le_bytes(), &coded_bytes.to_le_bytes(), coded].concat()
}

fn padded(mut inner: Vec<u8>) -> Vec<u8> {
    inner.resize(inner.len().next_multiple_of(256), 0);
    inner
}

/// Associated data of [`unit`], spelled out byte by byte.
fn associated(inner_bytes: usize) -> Vec<u8> {
    let mut data = b"SNC1\x01\x01\0\0".to_vec();
    data.extend(7u64.to_le_bytes());
    data.extend([0x77; 32]);
    for number in [3, 4, u32::try_from(inner_bytes).unwrap(), 0] {
        data.extend(number.to_le_bytes());
    }
    data
}

/// Seals any inner bytes, also those that break the rules.
fn seal_inner(root: &[u8; 32], inner: &[u8]) -> Vec<u8> {
    let associated = associated(inner.len());
    let salt = blake3::derive_key("sancerre v1 seal salt", root);
    let synthetic = *blake3::keyed_hash(&salt, &[&associated, inner].concat()).as_bytes();
    seal_with(root, &synthetic, &associated, inner)
}

fn seal_with(root: &[u8; 32], synthetic: &[u8; 32], associated: &[u8], inner: &[u8]) -> Vec<u8> {
    let key = *blake3::keyed_hash(&blake3::derive_key("sancerre v1 seal key", root), synthetic).as_bytes();
    let payload = Payload { msg: inner, aad: associated };
    let sealed = Aes256Gcm::new(&key.into()).encrypt(&Nonce::default(), payload).unwrap();
    [&synthetic[..], &sealed].concat()
}

fn assert_corrupt(what: &str, inner: &[u8]) {
    let opened = open_here(&seal_inner(&KEY, inner));
    assert!(matches!(opened, Err(FormatError::Corrupt { .. })), "{what}: {opened:?}");
}

#[test]
fn the_golden_unit_is_what_format_md_says() {
    let sealed = seal(&root(), &unit(), Codec::Stored, 8, b"Sancerre").unwrap();
    assert_eq!(sealed, seal_inner(&KEY, &padded(inner(0, [0; 3], 8, 8, b"Sancerre"))));

    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/v1/seal.bin");
    if std::env::var_os("SANCERRE_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &sealed).unwrap();
    }
    let golden = std::fs::read(path).unwrap();
    assert_eq!(to_hex(&golden), to_hex(&sealed));
    assert_eq!(open_here(&golden).unwrap(), b"Sancerre");
}

#[test]
fn the_metadata_root_and_the_commitment_are_what_format_md_says() {
    let name = UnitName { kind: UnitKind::Data, ..unit() };
    let derived = blake3::derive_key("sancerre v1 metadata", &[[0x13; 32], [0x77; 32]].concat());
    let sealed =
        seal(&RootKey::metadata(&[0x13; 32], &name.session), &name, Codec::Stored, 2, b"ab").unwrap();
    assert_eq!(sealed, seal_inner(&derived, &padded(inner(0, [0; 3], 2, 2, b"ab"))));
    let commitment = blake3::derive_key("sancerre v1 session commitment", &KEY);
    assert_eq!(SessionKey(KEY).commitment(), Hash(commitment));
}

#[test]
fn every_flipped_bit_is_found() {
    let mut sealed = seal(&root(), &unit(), Codec::Stored, 8, b"Sancerre").unwrap();
    for bit in 0..sealed.len() * 8 {
        sealed[bit / 8] ^= 1 << (bit % 8);
        let opened = open_here(&sealed);
        assert!(matches!(opened, Err(FormatError::Forged { .. })), "bit {bit}: {opened:?}");
        sealed[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(open_here(&sealed).is_ok());
}

#[test]
fn every_other_length_is_found() {
    let sealed = seal(&root(), &unit(), Codec::Stored, 300, &[1; 300]).unwrap();
    for length in 0..sealed.len() {
        let error = open_here(&sealed[..length]).unwrap_err();
        let whole_blocks = length >= 304 && (length - 48) % 256 == 0;
        assert_eq!(matches!(error, FormatError::Forged { .. }), whole_blocks, "{length}: {error}");
    }
    assert!(open_here(&[&sealed[..], &[0]].concat()).is_err());
    assert!(open_here(&[&sealed[..], &[0; 256]].concat()).is_err());
}

#[test]
fn every_field_of_the_name_and_the_key_matter() {
    let sealed = seal(&root(), &unit(), Codec::Stored, 8, b"Sancerre").unwrap();
    let session = unit().session;
    let kinds =
        [UnitKind::Metadata, UnitKind::PackTable, UnitKind::IndexTable, UnitKind::IndexPage, UnitKind::Body];
    let mut others: Vec<UnitName> = kinds.into_iter().map(|kind| UnitName { kind, ..unit() }).collect();
    others.push(UnitName { session: SessionId { number: 8, ..session }, ..unit() });
    others.push(UnitName { session: SessionId { intent: Hash([0x78; 32]), ..session }, ..unit() });
    others.push(UnitName { a: 4, ..unit() });
    others.push(UnitName { b: 3, ..unit() });
    others.push(UnitName { a: 4, b: 3, ..unit() });
    for other in others {
        assert!(matches!(open(&root(), &other, &sealed), Err(FormatError::Forged { .. })), "{other:?}");
    }
    let mut key = KEY;
    key[31] ^= 1;
    let roots = [SessionKey(key).root(), RootKey::metadata(&KEY, &session)];
    for other in roots {
        assert!(matches!(open(&other, &unit(), &sealed), Err(FormatError::Forged { .. })));
    }
}

#[test]
fn a_commitment_to_other_bytes_is_found_although_the_tag_fits() {
    let inner = padded(inner(0, [0; 3], 8, 8, b"Sancerre"));
    let sealed = seal_with(&KEY, &[0xee; 32], &associated(inner.len()), &inner);
    let error = open_here(&sealed).unwrap_err();
    assert!(matches!(&error, FormatError::Forged { detail, .. } if detail.contains("commitment")), "{error}");
}

#[test]
fn inner_bytes_that_break_a_rule_are_refused() {
    let zip = |raw: &[u8]| zstd::bulk::compress(raw, 3).unwrap();
    let zipped = |raw_bytes: u32, coded: &[u8]| {
        padded(inner(1, [0; 3], raw_bytes, u32::try_from(coded.len()).unwrap(), coded))
    };
    let good = zip(b"Sancerre");
    assert_eq!(open_here(&seal_inner(&KEY, &zipped(8, &good))).unwrap(), b"Sancerre");

    assert_corrupt("reserved byte", &padded(inner(0, [0, 1, 0], 8, 8, b"Sancerre")));
    assert_corrupt("stored, raw size too small", &padded(inner(0, [0; 3], 7, 8, b"Sancerre")));
    assert_corrupt("stored, raw size too large", &padded(inner(0, [0; 3], 9, 8, b"Sancerre")));
    assert_corrupt("coded size beyond the unit", &padded(inner(0, [0; 3], 8, 4000, b"Sancerre")));
    assert_corrupt("coded size that wraps", &padded(inner(0, [0; 3], 8, u32::MAX, b"Sancerre")));
    assert_corrupt("raw size above the limit", &zipped((16 << 20) + 1, &good));
    assert_corrupt("zstd, raw size too small", &zipped(7, &good));
    assert_corrupt("zstd, raw size too large", &zipped(9, &good));
    assert_corrupt("not zstd", &zipped(8, b"Sancerre"));
    assert_corrupt("two zstd frames", &zipped(8, &[good.as_slice(), &zip(b"")].concat()));
    assert_corrupt("a skippable frame", &zipped(8, &[good.as_slice(), b"\x50\x2a\x4d\x18\0\0\0\0"].concat()));
    assert_corrupt("garbage after the frame", &zipped(8, &[good.as_slice(), b"x"].concat()));
    let mut dirty = padded(inner(0, [0; 3], 8, 8, b"Sancerre"));
    *dirty.last_mut().unwrap() = 1;
    assert_corrupt("padding that is not zero", &dirty);
    let mut long = padded(inner(0, [0; 3], 8, 8, b"Sancerre"));
    long.resize(512, 0);
    // A later version may pad more: any number of whole blocks is read.
    assert_eq!(open_here(&seal_inner(&KEY, &long)).unwrap(), b"Sancerre");
    assert_corrupt("no whole block", &inner(0, [0; 3], 8, 8, b"Sancerre"));
    assert_corrupt("no inner bytes", b"");
}

#[test]
fn a_frame_without_its_content_size_is_refused() {
    use std::io::Write;
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(b"Sancerre").unwrap();
    let coded = encoder.finish().unwrap();
    assert_eq!(zstd::bulk::decompress(&coded, 8).unwrap(), b"Sancerre");
    let length = u32::try_from(coded.len()).unwrap();
    assert_corrupt("no content size", &padded(inner(1, [0; 3], 8, length, &coded)));
}

#[test]
fn an_unknown_codec_needs_a_newer_version() {
    for codec in [2, 3, 255] {
        let opened = open_here(&seal_inner(&KEY, &padded(inner(codec, [0; 3], 8, 8, b"Sancerre"))));
        assert!(matches!(opened, Err(FormatError::Unsupported { .. })), "{opened:?}");
    }
}

#[test]
fn the_writer_seals_nothing_that_cannot_be_opened() {
    let none = vec![0; UNIT_BYTES_MAX + 1];
    assert!(seal(&root(), &unit(), Codec::Stored, none.len(), &none).is_err());
    assert!(seal(&root(), &unit(), Codec::Zstd, UNIT_BYTES_MAX + 1, b"x").is_err());
    assert!(seal(&root(), &unit(), Codec::Stored, 9, b"Sancerre").is_err());
    let full = vec![7; UNIT_BYTES_MAX];
    let sealed = seal(&root(), &unit(), Codec::Stored, full.len(), &full).unwrap();
    assert_eq!(open_here(&sealed).unwrap(), full);
}

#[test]
fn one_s_never_seals_two_plaintexts() {
    let mut seen: HashMap<Vec<u8>, String> = HashMap::new();
    let mut insert = |sealed: Vec<u8>, what: String| {
        let earlier = seen.insert(sealed[..32].to_vec(), what.clone());
        assert_eq!(earlier, None, "the same S as {what}");
    };
    for value in 0..2000u32 {
        insert(
            seal(&root(), &unit(), Codec::Stored, 4, &value.to_le_bytes()).unwrap(),
            format!("value {value}"),
        );
        let name = UnitName { b: value + 5, ..unit() };
        insert(seal(&root(), &name, Codec::Stored, 8, b"Sancerre").unwrap(), format!("frame {value}"));
    }
    // The same coded bytes, differing in the inner head alone.
    insert(seal(&root(), &unit(), Codec::Zstd, 4, &0u32.to_le_bytes()).unwrap(), "codec".into());
    insert(seal(&root(), &unit(), Codec::Zstd, 5, &0u32.to_le_bytes()).unwrap(), "raw size".into());
}

fn kind() -> impl Strategy<Value = UnitKind> {
    use UnitKind::*;
    prop::sample::select(vec![Data, Metadata, PackTable, IndexTable, IndexPage, Body, Note, Annex])
}

proptest! {
    #[test]
    fn what_is_sealed_opens_and_has_the_announced_size(
        key: [u8; 32], kind in kind(), number: u64, intent: [u8; 32], a: u32, b: u32,
        raw in prop::collection::vec(any::<u8>(), 0..3000), zeros in 0usize..3000, level in 1i32..6,
    ) {
        let raw = [raw, vec![0; zeros]].concat();
        let name = UnitName { kind, session: SessionId { number, intent: Hash(intent) }, a, b };
        let root = SessionKey(key).root();
        let stored = seal(&root, &name, Codec::Stored, raw.len(), &raw).unwrap();
        prop_assert_eq!(&stored, &seal(&root, &name, Codec::Stored, raw.len(), &raw).unwrap());
        prop_assert_eq!(stored.len(), sealed_bytes(raw.len()));
        // Padding of at most 12 per cent, or one block.
        let inner = raw.len() + 12;
        prop_assert!(is_sealed_size(stored.len()) && stored.len() - 48 < inner + (inner / 8).max(256));
        prop_assert_eq!(&open(&root, &name, &stored).unwrap(), &raw);
        let small = seal_raw(&root, &name, level, &raw).unwrap();
        prop_assert!(small.len() <= stored.len());
        prop_assert_eq!(&open(&root, &name, &small).unwrap(), &raw);
    }

    #[test]
    fn arbitrary_bytes_never_open(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
        prop_assert!(open_here(&bytes).is_err());
    }
}
