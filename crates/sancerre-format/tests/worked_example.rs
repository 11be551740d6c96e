//! The worked example of docs/FORMAT.md §12 is true: its blocks are read from the document, decoded and made again.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "reads files, which the package may not"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use sancerre_format::id::{Hash, RepositoryId, SessionId, from_hex, to_hex};
use sancerre_format::log::{Entry, Kind};
use sancerre_format::record::{self, Trust};
use sancerre_format::seal::{Codec, SessionKey, UnitKind, UnitName, open, seal};
use sancerre_format::sign::{PublicKey, SigningKey};

/// The fenced blocks of chapter 12, in their order.
fn blocks() -> Vec<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/FORMAT.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (_, chapter) = document.split_once("\n## 12. Worked example\n").expect("FORMAT.md has a chapter 12");
    let chapter = chapter.split("\n## ").next().unwrap_or(chapter);
    let fenced = chapter.split("```\n").skip(1).step_by(2);
    fenced.map(str::to_owned).collect()
}

/// `name: value` lines; lines that start with a space go on with the value above.
fn values(block: &str) -> BTreeMap<String, String> {
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut last = String::new();
    for line in block.lines() {
        if !line.starts_with(' ') {
            last = line.split(':').next().unwrap().to_owned();
            values.insert(last.clone(), String::new());
        }
        let value = if line.starts_with(' ') { line } else { line.split_once(": ").unwrap().1 };
        values.get_mut(&last).unwrap().push_str(value.trim());
    }
    values
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// What chapter 12 gives of a unit.
struct Unit {
    values: BTreeMap<String, String>,
    name: UnitName,
    root: [u8; 32],
}

fn unit() -> Unit {
    let values = values(&blocks()[0]);
    let number = |key: &str| values[key].parse::<u32>().unwrap();
    assert_eq!(number("kind"), 1);
    let session = SessionId { number: number("n").into(), intent: Hash::from_hex(&values["h"]).unwrap() };
    let name = UnitName { kind: UnitKind::Data, session, a: number("a"), b: number("b") };
    let root = from_hex("root", &values["root"]).unwrap();
    Unit { values, name, root }
}

#[test]
fn the_sealed_unit_opens_and_is_made_again() {
    let Unit { values, name, root } = unit();
    let (root, sealed) = (SessionKey(root).root(), unhex(&values["sealed"]));
    assert_eq!(open(&root, &name, &sealed).unwrap(), b"Sancerre");
    assert_eq!(unhex(&values["raw"]), b"Sancerre");
    assert_eq!(to_hex(&seal(&root, &name, Codec::Stored, 8, b"Sancerre").unwrap()), values["sealed"]);
}

#[test]
fn every_step_to_the_sealed_unit_is_as_shown() {
    let Unit { values, name, root } = unit();
    let inner = [&[0; 4][..], &[8, 0, 0, 0, 8, 0, 0, 0], b"Sancerre", &[0; 236]].concat();
    assert_eq!(to_hex(&inner), values["inner"]);

    let (n, h) = (name.session.number.to_le_bytes(), name.session.intent.0);
    let numbers = [name.a, name.b, 256, 0].map(u32::to_le_bytes).concat();
    let associated = [&b"SNC1\x01\x01\0\0"[..], &n, &h, &numbers].concat();
    assert_eq!(to_hex(&associated), values["associated data"]);

    let salt = blake3::derive_key("sancerre v1 seal salt", &root);
    assert_eq!(to_hex(&salt), values["salt"]);
    let synthetic = blake3::keyed_hash(&salt, &[associated.clone(), inner.clone()].concat());
    assert_eq!(synthetic.to_hex().as_str(), values["S"]);
    let seal_key = blake3::derive_key("sancerre v1 seal key", &root);
    let key = blake3::keyed_hash(&seal_key, synthetic.as_bytes());
    assert_eq!(key.to_hex().as_str(), values["key"]);
    let payload = Payload { msg: &inner, aad: &associated };
    let text = Aes256Gcm::new(key.as_bytes().into()).encrypt(&Nonce::default(), payload).unwrap();
    assert_eq!(to_hex(&[&synthetic.as_bytes()[..], &text].concat()), values["sealed"]);
}

#[test]
fn the_log_entry_verifies_and_is_made_again() {
    let blocks = blocks();
    let (given, object) = (values(&blocks[1]), &blocks[2]);
    let admin = SigningKey::from_seed(from_hex("seed", &given["admin seed"]).unwrap());
    let repository = RepositoryId::from_hex(&given["repository"]).unwrap();
    let trust = Trust::new(repository, PublicKey::parse(&given["admin"]).unwrap());
    assert_eq!(admin.public(), trust.admin);
    assert_eq!(trust.admin.fingerprint(), given["trust anchor"]);

    let entry = record::decode::<Entry>(&trust, object.as_bytes()).unwrap();
    let Kind::Hold(held) = &entry.fields.kind else { panic!("{:?} is no hold", entry.fields.kind) };
    assert_eq!((entry.signer.name(), held.snapshots.len()), ("admin", 1));
    let session = SessionId { number: entry.fields.number, intent: entry.hash };
    assert_eq!(session.to_string(), given["session id"]);

    let again = record::encode(&entry.fields, &entry.tool, &admin, b"", b"").unwrap();
    assert_eq!(String::from_utf8(again).unwrap(), *object);
}

#[test]
fn the_chapter_holds_these_three_blocks() {
    assert_eq!(blocks().len(), 3);
}
