//! The table of forgeries: what they share, and how each is asserted to be refused for its own reason.

use sancerre_format::FormatError;
use sancerre_format::error::Result;
use sancerre_format::log::Kind;
use sancerre_format::record::{self, Fields, SignedBy};

use super::sshsig::SshSig;
use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Corrupt,
    Unsupported,
    Forged,
}

use Class::{Corrupt, Forged, Unsupported};

/// A forgery: its name, its bytes, who reads it, and the class and a part of the message of the refusal.
pub(crate) struct Forgery {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) read: fn(&[u8]) -> Result<()>,
    pub(crate) class: Class,
    pub(crate) says: &'static str,
}

pub(crate) fn forgery<F: Fields>(
    name: &'static str,
    bytes: Vec<u8>,
    class: Class,
    says: &'static str,
) -> Forgery {
    Forgery { name, bytes, read: read::<F>, class, says }
}

pub(crate) fn read<F: Fields>(bytes: &[u8]) -> Result<()> {
    record::decode::<F>(&trust(), bytes).map(|_| ())
}

/// Asserts that each forgery is refused, and for its own reason.
pub(crate) fn refuse(forgeries: Vec<Forgery>) {
    let mut wrong = Vec::new();
    for Forgery { name, bytes, read, class, says } in forgeries {
        let found = match read(&bytes) {
            Err(error) => {
                let found = match error {
                    FormatError::Corrupt { .. } => Corrupt,
                    FormatError::Unsupported { .. } => Unsupported,
                    FormatError::Forged { .. } => Forged,
                };
                (Some(found), error.to_string())
            }
            Ok(()) => (None, "it was read".into()),
        };
        if found.0 != Some(class) || !found.1.contains(says) {
            wrong.push(format!("{name}: expected {class:?} with {says:?}, got {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Text, armour and parts of a record.
pub(crate) fn pieces(bytes: &[u8]) -> (String, String, Vec<u8>) {
    let find = |line: &str| bytes.windows(line.len()).position(|window| window == line.as_bytes()).unwrap();
    let end_line = "-----END SSH SIGNATURE-----\n";
    let (begin, end) = (find("-----BEGIN SSH"), find(end_line) + end_line.len());
    let text = |range: std::ops::Range<usize>| String::from_utf8(bytes[range].to_vec()).unwrap();
    (text(0..begin), text(begin..end), bytes[end..].to_vec())
}

/// Signs any text, however wrong, with the key of `seed`.
pub(crate) fn resign(text: &str, seed: u8, parts: &[u8]) -> Vec<u8> {
    let namespace = text.lines().next().unwrap_or_default();
    [text.as_bytes(), SshSig::new(seed, namespace).armor(text.as_bytes()).as_bytes(), parts].concat()
}

/// The hold that most forgeries start from; it verifies.
pub(crate) fn hold() -> Vec<u8> {
    sign(&entry(Kind::Hold(held()), keeper()), KEEPER)
}

/// [`hold`] with its text changed and signed anew.
pub(crate) fn edited(from: &str, to: &str) -> Vec<u8> {
    let (text, _, parts) = pieces(&hold());
    assert!(text.contains(from), "{from:?} is not in the text");
    resign(&text.replacen(from, to, 1), KEEPER, &parts)
}

/// A backup's log entry by a signer.
pub(crate) fn backup(by: SignedBy, seed: u8) -> Vec<u8> {
    sign(&entry(Kind::Backup(intent()), by), seed)
}

/// A manifest whose announcement of parts was changed, signed by its writer.
pub(crate) fn manifest_with(
    parts: &[&[u8]; 2],
    change: impl FnOnce(&mut [(String, Hash); 2], &mut Vec<u8>),
) -> Vec<u8> {
    let whole = record::encode(&manifest(), TOOL, &key(WRITER), parts[0], parts[1]).unwrap();
    let (text, _, mut bytes) = pieces(&whole);
    let mut announced = parts.map(|part| (part.len().to_string(), Hash::of(part)));
    change(&mut announced, &mut bytes);
    let head = text.split("public: ").next().unwrap();
    let [(public, public_hash), (sealed, sealed_hash)] = announced;
    resign(&format!("{head}public: {public} {public_hash}\nsealed: {sealed} {sealed_hash}\n"), WRITER, &bytes)
}
