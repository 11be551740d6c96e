//! Forgeries by name: what an attacker, a careless signer or a later version might publish, and how it is refused.
//!
//! Most are signed by a key that may sign: a reader must refuse what breaks a rule even then.

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::samples::{self, key_file};
use common::sshsig::{self, SshSig};
use common::*;
use sancerre_format::FormatError;
use sancerre_format::certificate::{Certificate, Role};
use sancerre_format::config::{Config, Identity};
use sancerre_format::error::Result;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{Hash, RepositoryId};
use sancerre_format::key::{KeyFile, Secret};
use sancerre_format::list::PackList;
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::Zone;
use sancerre_format::outcome::{Abort, Body, Commit, Manifest};
use sancerre_format::record::{self, Fields, SignedBy};
use sancerre_format::sign::PublicKey;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Corrupt,
    Unsupported,
    Forged,
}
use Class::{Corrupt, Forged, Unsupported};

/// A forgery: its name, its bytes, who reads it, and the class and a part of the message of the refusal.
struct Forgery {
    name: &'static str,
    bytes: Vec<u8>,
    read: fn(&[u8]) -> Result<()>,
    class: Class,
    says: &'static str,
}

fn forgery<F: Fields>(name: &'static str, bytes: Vec<u8>, class: Class, says: &'static str) -> Forgery {
    Forgery { name, bytes, read: read::<F>, class, says }
}

fn read<F: Fields>(bytes: &[u8]) -> Result<()> {
    record::decode::<F>(&trust(), bytes).map(|_| ())
}

/// Asserts that each forgery is refused, and for its own reason.
fn refuse(forgeries: Vec<Forgery>) {
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
fn pieces(bytes: &[u8]) -> (String, String, Vec<u8>) {
    let find = |line: &str| bytes.windows(line.len()).position(|window| window == line.as_bytes()).unwrap();
    let end_line = "-----END SSH SIGNATURE-----\n";
    let (begin, end) = (find("-----BEGIN SSH"), find(end_line) + end_line.len());
    let text = |range: std::ops::Range<usize>| String::from_utf8(bytes[range].to_vec()).unwrap();
    (text(0..begin), text(begin..end), bytes[end..].to_vec())
}

/// Signs any text, however wrong, with the key of `seed`.
fn resign(text: &str, seed: u8, parts: &[u8]) -> Vec<u8> {
    let namespace = text.lines().next().unwrap_or_default();
    [text.as_bytes(), SshSig::new(seed, namespace).armor(text.as_bytes()).as_bytes(), parts].concat()
}

/// The hold that most forgeries start from; it verifies.
fn hold() -> Vec<u8> {
    sign(&entry(Kind::Hold(snapshots()), keeper()), KEEPER)
}

/// [`hold`] with its text changed and signed anew.
fn edited(from: &str, to: &str) -> Vec<u8> {
    let (text, _, parts) = pieces(&hold());
    assert!(text.contains(from), "{from:?} is not in the text");
    resign(&text.replacen(from, to, 1), KEEPER, &parts)
}

fn with_armor(armor: &str) -> Vec<u8> {
    [pieces(&hold()).0.as_bytes(), armor.as_bytes()].concat()
}

/// A backup's log entry by a signer.
fn backup(by: SignedBy, seed: u8) -> Vec<u8> {
    sign(&entry(Kind::Backup(intent()), by), seed)
}

#[test]
fn the_starting_points_verify() {
    record::decode::<Entry>(&trust(), &hold()).unwrap();
    record::decode::<Entry>(&trust(), &backup(writer(), WRITER)).unwrap();
    let (text, armor, parts) = pieces(&hold());
    assert_eq!(
        SshSig::new(KEEPER, Entry::KIND).armor(text.as_bytes()),
        armor,
        "the hand-made SSHSIG differs"
    );
    assert_eq!(resign(&text, KEEPER, &parts), hold());
    read::<Manifest>(&manifest_with(&[b"frames", b"body"], |_, _| {})).unwrap();
}

#[test]
fn signatures() {
    let (text, armor, _) = pieces(&hold());
    let text_bytes = text.as_bytes();
    let good = SshSig::new(KEEPER, Entry::KIND);
    let keeper_key = ed25519_dalek::SigningKey::from_bytes(&[KEEPER; 32]).verifying_key().to_bytes();
    let blob = good.blob(&keeper_key, &good.raw(text_bytes));
    let malleable = sshsig::add_group_order(&good.raw(text_bytes));
    let by = |signature: SshSig<'_>| with_armor(&signature.armor(text_bytes));
    let mut version_0 = blob.clone();
    version_0[9] = 0;
    let impostor = SshSig::new(STRANGER, Entry::KIND);
    let impostor = impostor.blob(&keeper_key, &impostor.raw(text_bytes));
    let f = forgery::<Entry>;
    refuse(vec![
        f("missing signature", text_bytes.to_vec(), Corrupt, "no signature"),
        f("signature without end", with_armor(&armor[..100]), Corrupt, "has no end"),
        f("empty signature", with_armor(&sshsig::armor(b"", 70, "\n")), Corrupt, "signature"),
        f("two signatures", with_armor(&armor.repeat(2)), Corrupt, "bytes follow the signature"),
        f("signature in front of the text", [armor.as_bytes(), &hold()].concat(), Corrupt, ""),
        f("another namespace", by(SshSig::new(KEEPER, "sancerre-abort-v1")), Forged, "another purpose"),
        f("namespace of a file", by(SshSig::new(KEEPER, "file")), Forged, "another purpose"),
        f("another key", by(SshSig::new(STRANGER, Entry::KIND)), Forged, "another key"),
        f(
            "the admin's key under a keeper's name",
            by(SshSig::new(ADMIN, Entry::KIND)),
            Forged,
            "another key",
        ),
        f(
            "another key that claims to be the keeper's",
            with_armor(&sshsig::armor(&impostor, 70, "\n")),
            Forged,
            "does not fit",
        ),
        f("another text", with_armor(&good.armor(b"sancerre-log-v1\n")), Forged, "does not fit"),
        f("SHA-256", by(SshSig { hash: "sha256", ..good }), Forged, "another purpose"),
        f("SHA-1", by(SshSig { hash: "sha1", ..good }), Corrupt, "signature"),
        f("reserved field", by(SshSig { reserved: b"x", ..good }), Corrupt, "not canonical"),
        f("SSHSIG version 0", with_armor(&sshsig::armor(&version_0, 70, "\n")), Corrupt, "not canonical"),
        f("CRLF in the armour", with_armor(&sshsig::armor(&blob, 70, "\r\n")), Corrupt, ""),
        f("64 columns", with_armor(&sshsig::armor(&blob, 64, "\n")), Corrupt, "signature"),
        f("76 columns", with_armor(&sshsig::armor(&blob, 76, "\n")), Corrupt, "signature"),
        f(
            "garbage behind the blob",
            with_armor(&sshsig::armor(&[&blob[..], b"x"].concat(), 70, "\n")),
            Corrupt,
            "signature",
        ),
        f(
            "malleable: S + L",
            with_armor(&sshsig::armor(&good.blob(&keeper_key, &malleable), 70, "\n")),
            Forged,
            "does not fit",
        ),
        f(
            "all zeros",
            with_armor(&sshsig::armor(&good.blob(&keeper_key, &[0; 64]), 70, "\n")),
            Forged,
            "does not fit",
        ),
    ]);
}

/// With a small-order key an all-purpose signature verifies in lax implementations: R = the identity, S = 0.
#[test]
fn small_order_public_key() {
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut raw = [0; 64];
    raw[..32].copy_from_slice(&identity);
    let encoded = BASE64.encode([&b"\0\0\0\x0bssh-ed25519\0\0\0\x20"[..], &identity].concat());
    let weak = PublicKey::parse(&format!("ssh-ed25519 {encoded}")).unwrap();
    let certificate = Certificate { key: weak, ..certificate(Role::Keeper) };
    let by = signed_by(&certificate, ADMIN);
    let (text, ..) = pieces(&sign(&entry(Kind::Hold(snapshots()), by), STRANGER));
    let armor = sshsig::armor(&SshSig::new(STRANGER, Entry::KIND).blob(&identity, &raw), 70, "\n");
    let bytes = [text.as_bytes(), armor.as_bytes()].concat();
    refuse(vec![forgery::<Entry>("small-order public key", bytes, Forged, "does not fit")]);
}

fn backup_by(change: impl FnOnce(&mut Certificate)) -> Vec<u8> {
    let mut changed = certificate(Role::Writer);
    change(&mut changed);
    backup(signed_by(&changed, ADMIN), WRITER)
}

fn with_certificate(certificate: Option<String>) -> Vec<u8> {
    let (text, _, parts) = pieces(&backup(writer(), WRITER));
    let line = text.lines().find(|line| line.starts_with("certificate: ")).unwrap();
    let value = certificate.unwrap_or_else(|| "-".into());
    resign(&text.replace(line, &format!("certificate: {value}")), WRITER, &parts)
}

#[test]
fn certificates() {
    let plain = sign(&certificate(Role::Writer), ADMIN);
    let head = |bytes: &[u8]| Some(BASE64.encode(bytes));
    let edited = |from: &str, to: &str| {
        let (text, ..) = pieces(&plain);
        resign(&text.replacen(from, to, 1), ADMIN, b"")
    };
    let extended = edited("public: ", "x-site: north\npublic: ");
    read::<Entry>(&with_certificate(head(&extended))).unwrap();
    let mut spare_bits = BASE64.encode([&plain[..], b"\n"].concat());
    spare_bits.truncate(spare_bits.len() - 3);
    let f = forgery::<Entry>;
    let c = forgery::<Certificate>;
    refuse(vec![
        f(
            "certificate of another repository",
            backup_by(|c| c.repository = RepositoryId([1; 16])),
            Forged,
            "another repository",
        ),
        f(
            "certificate of another zone",
            backup_by(|c| c.zone = Zone::new("ward-4").unwrap()),
            Forged,
            "may not sign",
        ),
        f(
            "expired certificate",
            backup_by(|c| c.expires = Some(time("2026-11-23T21:10:27Z"))),
            Forged,
            "may not sign",
        ),
        f("certificate of another key", backup_by(|c| c.key = key(STRANGER).public()), Forged, "another key"),
        f(
            "certificate signed by a writer",
            backup(signed_by(&certificate(Role::Writer), WRITER), WRITER),
            Forged,
            "another key",
        ),
        f(
            "certificate signed by a stranger",
            backup(signed_by(&certificate(Role::Writer), STRANGER), WRITER),
            Forged,
            "another key",
        ),
        f("certificate named admin", backup_by(|c| c.name = name("admin")), Forged, "may not sign"),
        f(
            "certificate of role admin",
            with_certificate(head(&edited("role: writer", "role: admin"))),
            Corrupt,
            "unknown role",
        ),
        f(
            "certificate with a changed name",
            with_certificate(head(
                &String::from_utf8(plain.clone()).unwrap().replace("host-1", "host-2").into_bytes(),
            )),
            Forged,
            "does not fit",
        ),
        f("no certificate", with_certificate(None), Forged, "another key"),
        f(
            "certificate with its parts",
            with_certificate(head(&[&plain[..], b"part"].concat())),
            Corrupt,
            "more than text",
        ),
        f("certificate that is not base64", with_certificate(Some("host-1!".into())), Corrupt, "not base64"),
        f("certificate cut short", with_certificate(Some(spare_bits)), Corrupt, ""),
        f(
            "certificate of a later version",
            with_certificate(head(&edited("-v1", "-v2"))),
            Unsupported,
            "certificate-v2",
        ),
        f(
            "certificate with an unknown feature",
            with_certificate(head(&edited("critical: -", "critical: hsm"))),
            Unsupported,
            "hsm",
        ),
        f(
            "another signer's name",
            {
                let mut by = writer();
                by.name = name("host-2");
                backup(by, WRITER)
            },
            Forged,
            "may not sign",
        ),
        c(
            "a certificate that a writer issued",
            sign(&certificate(Role::Keeper), WRITER),
            Forged,
            "another key",
        ),
    ]);
}

#[test]
fn the_last_second_of_a_certificate_counts() {
    let good = backup_by(|certificate| certificate.expires = Some(night()));
    read::<Entry>(&good).unwrap();
}

#[test]
fn roles() {
    let snapshots = || snapshots();
    let commit_by = |by: SignedBy, seed| sign(&Commit { by, ..samples::commit() }, seed);
    let log = |kind: Kind, by: SignedBy, seed| sign(&entry(kind, by), seed);
    let admin_named = SignedBy { name: name("root"), certificate: None };
    let identity =
        Identity { repository: repository(), epoch: 1, created: night(), recipient: RECIPIENT.into() };
    let f = forgery::<Entry>;
    let no = "may not sign";
    refuse(vec![
        f("keeper signs a backup", backup(keeper(), KEEPER), Forged, no),
        f("admin signs a backup", backup(admin(), ADMIN), Forged, no),
        f("writer signs gc", log(Kind::Gc, writer(), WRITER), Forged, no),
        f("writer signs forget", log(Kind::Forget(snapshots()), writer(), WRITER), Forged, no),
        f("writer signs undelete", log(Kind::Undelete(snapshots()), writer(), WRITER), Forged, no),
        f("writer signs hold", log(Kind::Hold(snapshots()), writer(), WRITER), Forged, no),
        f("writer signs release", log(Kind::Release(snapshots()), writer(), WRITER), Forged, no),
        f("writer signs checkpoint", log(Kind::Checkpoint, writer(), WRITER), Forged, no),
        f("writer signs taint", log(Kind::Taint(distrust()), writer(), WRITER), Forged, no),
        f("writer signs revoke", log(Kind::Revoke(distrust()), writer(), WRITER), Forged, no),
        f("keeper signs taint", log(Kind::Taint(distrust()), keeper(), KEEPER), Forged, no),
        f("keeper signs revoke", log(Kind::Revoke(distrust()), keeper(), KEEPER), Forged, no),
        f("admin by another name", log(Kind::Gc, admin_named, ADMIN), Forged, no),
        f("stranger without a certificate", log(Kind::Gc, admin(), STRANGER), Forged, "another key"),
        forgery::<Commit>("writer signs commit", commit_by(writer(), WRITER), Forged, no),
        forgery::<Manifest>(
            "keeper signs a manifest",
            sign(&Manifest { by: keeper(), ..manifest() }, KEEPER),
            Forged,
            no,
        ),
        forgery::<Manifest>(
            "admin signs a manifest",
            sign(&Manifest { by: admin(), ..manifest() }, ADMIN),
            Forged,
            no,
        ),
        forgery::<Config>("writer signs config", sign(&config(), WRITER), Forged, "another key"),
        forgery::<Identity>("keeper signs an identity", sign(&identity, KEEPER), Forged, "another key"),
        forgery::<Config>(
            "config that names another admin",
            sign(&Config { admin: key(STRANGER).public(), ..config() }, ADMIN),
            Forged,
            no,
        ),
    ]);
    for (kind, by, seed) in kinds() {
        read::<Entry>(&log(kind, by, seed)).unwrap();
    }
    read::<Abort>(&sign(&Abort { by: writer(), ..samples::abort() }, WRITER)).unwrap();
    read::<Abort>(&sign(&Abort { by: admin(), ..samples::abort() }, ADMIN)).unwrap();
    for (by, seed) in [(writer(), WRITER), (keeper(), KEEPER), (admin(), ADMIN)] {
        read::<PackList>(&sign(&PackList { by, ..samples::pack_list() }, seed)).unwrap();
    }
}

#[test]
fn later_versions_need_a_signature_before_they_stop_a_reader() {
    let unsigned = |bytes: Vec<u8>| {
        let (text, ..) = pieces(&bytes);
        [text.as_bytes(), pieces(&hold()).1.as_bytes()].concat()
    };
    let changes = [
        ("unknown critical feature", "critical: -", "critical: erasure-code", "erasure-code"),
        ("two unknown features", "critical: -", "critical: a b", "a b"),
        ("version 2", "-v1", "-v2", "sancerre-log-v2"),
        ("version 10", "-v1", "-v10", "sancerre-log-v10"),
        ("unknown log kind", "kind: hold", "kind: merge", "merge"),
    ];
    let mut forgeries = Vec::new();
    for (name, from, to, says) in changes {
        forgeries.push(forgery::<Entry>(name, edited(from, to), Unsupported, says));
        let (text, ..) = pieces(&edited(from, to));
        let foreign = text.replace(&repository().to_string(), &RepositoryId([1; 16]).to_string());
        forgeries.push(forgery::<Entry>(name, unsigned(edited(from, to)), Forged, "signature"));
        forgeries.push(forgery::<Entry>(name, resign(&text, STRANGER, b""), Forged, "another key"));
        forgeries.push(forgery::<Entry>(name, resign(&foreign, KEEPER, b""), Forged, "another repository"));
    }
    let f = forgery::<Entry>;
    forgeries.extend([
        f("no version", edited("-v1", "-v"), Corrupt, "first line"),
        f("a word for a version", edited("-v1", "-v1a"), Corrupt, "first line"),
        f("another kind of record", sign(&samples::abort(), KEEPER), Corrupt, "first line"),
        f("empty critical", edited("critical: -", "critical: "), Corrupt, "empty or padded"),
        f("no critical", edited("critical: -\n", ""), Corrupt, "expected \"critical\""),
    ]);
    refuse(forgeries);
}

#[test]
fn texts() {
    let first = session(3).to_string();
    let second = session(5).to_string();
    let (one, two) = (format!("snapshot: {first}\n"), format!("snapshot: {second}\n"));
    let both = format!("{one}{two}");
    let f = forgery::<Entry>;
    let no_feed = {
        let (text, ..) = pieces(&hold());
        resign(text.trim_end(), KEEPER, b"")
    };
    let upper_part = {
        let (text, ..) = pieces(&hold());
        text.lines().last().unwrap().to_owned()
    };
    refuse(vec![
        f(
            "reordered fields",
            edited("number: 7\nkind: hold\n", "kind: hold\nnumber: 7\n"),
            Corrupt,
            "expected \"number\"",
        ),
        f("duplicated field", edited("number: 7\n", "number: 7\nnumber: 7\n"), Corrupt, "expected \"kind\""),
        f("extra field", edited("reason: ", "colour: red\nreason: "), Corrupt, "expected \"reason\""),
        f(
            "extra field at the end",
            edited("public: ", "colour: red\npublic: "),
            Corrupt,
            "expected \"public\"",
        ),
        f(
            "line behind sealed",
            edited(&upper_part, &format!("{upper_part}\nx-late: 1")),
            Corrupt,
            "unexpected line",
        ),
        f("missing field", edited("number: 7\n", ""), Corrupt, "expected \"number\""),
        f("missing tool", edited("tool: sancerre 1.0.0\n", ""), Corrupt, "expected \"tool\""),
        f("x- line too early", edited("reason: ", "x-site: north\nreason: "), Corrupt, "expected \"reason\""),
        f("x- line without a value", edited("public: ", "x-site\npublic: "), Corrupt, "x- line"),
        f("x- line with an empty value", edited("public: ", "x-site: \npublic: "), Corrupt, "x- line"),
        f("x- line without a key", edited("public: ", "x-: north\npublic: "), Corrupt, "x- line"),
        f("x- line padded", edited("public: ", "x-site: north \npublic: "), Corrupt, "x- line"),
        f("trailing space", edited("number: 7", "number: 7 "), Corrupt, "padded"),
        f("leading space", edited("number: 7", "number:  7"), Corrupt, "padded"),
        f("no space", edited("number: 7", "number:7"), Corrupt, "expected \"number\""),
        f("empty line", edited("number: 7", "\nnumber: 7"), Corrupt, "expected \"number\""),
        f("tab", edited("older than", "older\tthan"), Corrupt, "printable"),
        f("CR", edited("policy\n", "policy\r\n"), Corrupt, "printable"),
        f("non-ASCII", edited("older than", "älter als"), Corrupt, "printable"),
        f("DEL", edited("older than", "older\x7fthan"), Corrupt, "printable"),
        f("NUL", edited("older than", "older\0than"), Corrupt, "printable"),
        f("no line feed at the end", no_feed, Corrupt, "no signature"),
        f("leading zero", edited("number: 7", "number: 07"), Corrupt, "not a number"),
        f("sign", edited("number: 7", "number: +7"), Corrupt, "not a number"),
        f("number 0", edited("number: 7", "number: 0"), Corrupt, "starts at number 1"),
        f(
            "number beyond 64 bits",
            edited("number: 7", "number: 18446744073709551616"),
            Corrupt,
            "not a number",
        ),
        f("uppercase hex", edited("repository: a5", "repository: A5"), Corrupt, "hexadecimal"),
        f("hex too short", edited("repository: a5", "repository: "), Corrupt, "hexadecimal"),
        f("capitals in a zone", edited("zone: ward-3", "zone: Ward-3"), Corrupt, "capitals"),
        f("zone with a slash", edited("zone: ward-3", "zone: ../log"), Corrupt, "name"),
        f("time with an offset", edited("21:10:28Z", "21:10:28+00:00"), Corrupt, "time"),
        f("time with fractions", edited("21:10:28Z", "21:10:28.5Z"), Corrupt, "time"),
        f("time that does not exist", edited("time: 2026-11-23", "time: 2026-11-31"), Corrupt, "time"),
        f("time before year 0", edited("time: 2026-11-23", "time: -002026-11-23"), Corrupt, "time"),
        f("no snapshot", edited(&both, ""), Corrupt, "names no snapshot"),
        f("snapshots unsorted", edited(&both, &format!("{two}{one}")), Corrupt, "not ascending"),
        f("snapshot twice", edited(&one, &one.repeat(2)), Corrupt, "not ascending"),
        f("session id without its hash", edited(&first, "0000000000000003"), Corrupt, "session id"),
        f(
            "session number in decimal",
            edited(&first, &first.replacen("0000000000000003", "3", 1)),
            Corrupt,
            "session id",
        ),
        f(
            "another repository's record",
            edited(&repository().to_string(), &"00".repeat(16)),
            Forged,
            "another repository",
        ),
    ]);
}

#[test]
fn limits_of_texts() {
    let long_line = format!("x-long: {}\n", "a".repeat((64 << 10) - 8));
    let longest = |extra: usize| {
        edited("public: ", &format!("{}public: ", long_line.replacen('a', &"a".repeat(1 + extra), 1)))
    };
    read::<Entry>(&longest(0)).unwrap();
    let many = edited("public: ", &format!("{}public: ", long_line.repeat(256)));
    refuse(vec![
        forgery::<Entry>("line too long", longest(1), Corrupt, "a line has"),
        forgery::<Entry>("text too long", many, Corrupt, "too long"),
    ]);
}

/// A manifest whose announcement of parts was changed, signed by its writer.
fn manifest_with(parts: &[&[u8]; 2], change: impl FnOnce(&mut [(String, Hash); 2], &mut Vec<u8>)) -> Vec<u8> {
    let whole = record::encode(&manifest(), TOOL, &key(WRITER), parts[0], parts[1]).unwrap();
    let (text, _, mut bytes) = pieces(&whole);
    let mut announced = parts.map(|part| (part.len().to_string(), Hash::of(part)));
    change(&mut announced, &mut bytes);
    let head = text.split("public: ").next().unwrap();
    let [(public, public_hash), (sealed, sealed_hash)] = announced;
    resign(&format!("{head}public: {public} {public_hash}\nsealed: {sealed} {sealed_hash}\n"), WRITER, &bytes)
}

#[test]
fn parts() {
    let parts: [&[u8]; 2] = [b"frames", b"body"];
    let sizes = |public: &str, sealed: &str| {
        let (public, sealed) = (public.to_owned(), sealed.to_owned());
        manifest_with(&parts, |announced, _| {
            announced[0].0 = public;
            announced[1].0 = sealed;
        })
    };
    let m = forgery::<Manifest>;
    let part = "part does not fit";
    refuse(vec![
        m("part size too small", sizes("5", "4"), Corrupt, "bytes follow"),
        m("part size too large", sizes("6", "5"), Corrupt, "bytes follow"),
        m("part sizes shifted", sizes("5", "5"), Forged, part),
        m(
            "part sizes that wrap around 64 bits",
            sizes("18446744073709551615", "11"),
            Corrupt,
            "bytes follow",
        ),
        m("part size beyond 64 bits", sizes("18446744073709551616", "4"), Corrupt, "not a number"),
        m("part size of an exabyte", sizes("1152921504606846976", "4"), Corrupt, "bytes follow"),
        m(
            "hash of the public part lies",
            manifest_with(&parts, |a, _| a[0].1 = Hash([0; 32])),
            Forged,
            "public part",
        ),
        m(
            "hash of the sealed part lies",
            manifest_with(&parts, |a, _| a[1].1 = Hash([0; 32])),
            Forged,
            "sealed part",
        ),
        m("parts swapped in the announcement", manifest_with(&parts, |a, _| a.swap(0, 1)), Forged, part),
        m(
            "parts swapped in the object",
            manifest_with(&[b"aaaa", b"bbbb"], |_, b| b.rotate_left(4)),
            Forged,
            part,
        ),
        m("a part is missing", manifest_with(&parts, |_, b| b.truncate(6)), Corrupt, "bytes follow"),
        m("garbage behind the parts", manifest_with(&parts, |_, b| b.push(0)), Corrupt, "bytes follow"),
        m(
            "a part without a hash",
            {
                let (text, _, bytes) = pieces(&manifest_with(&parts, |_, _| {}));
                resign(&text.replace("public: 6 ", "public: 6"), WRITER, &bytes)
            },
            Corrupt,
            "no hash",
        ),
    ]);
}

#[test]
fn fields_of_outcomes_and_lists() {
    let edit = |bytes: Vec<u8>, seed: u8, from: &str, to: &str| {
        let (text, _, parts) = pieces(&bytes);
        assert!(text.contains(from), "{from:?} is not in {text}");
        resign(&text.replacen(from, to, 1), seed, &parts)
    };
    let (one, two) = (format!("parent: {}\n", session(3)), format!("parent: {}\n", session(5)));
    let manifest = |from: &str, to: &str| edit(sign(&manifest(), WRITER), WRITER, from, to);
    let backup = |from: &str, to: &str| edit(backup(writer(), WRITER), WRITER, from, to);
    let list = |from: &str, to: &str| edit(sign(&samples::pack_list(), WRITER), WRITER, from, to);
    let config = |from: &str, to: &str| edit(sign(&config(), ADMIN), ADMIN, from, to);
    let both = format!("{one}{two}");
    let turned = format!("{two}{one}");
    let (m, l, c) = (forgery::<Manifest>, forgery::<PackList>, forgery::<Config>);
    refuse(vec![
        m("parents unsorted", manifest(&both, &turned), Corrupt, "not ascending"),
        m("parent twice", manifest(&one, &one.repeat(2)), Corrupt, "not ascending"),
        forgery::<Entry>("parents of a log entry unsorted", backup(&both, &turned), Corrupt, "not ascending"),
        forgery::<Entry>(
            "generation beyond 16 bits",
            backup("generation: 1", "generation: 65536"),
            Corrupt,
            "not a number",
        ),
        m("unknown consistency", manifest("crash", "application"), Corrupt, "unknown consistency"),
        m(
            "lock without a time",
            manifest("lock-until: 2026-12-23T21:10:28Z", "lock-until: never"),
            Corrupt,
            "time",
        ),
        l("pack of an unknown kind", list("0 data", "0 other"), Corrupt, "unknown kind"),
        l("pack ordinals unsorted", list("pack: 0 ", "pack: 2 "), Corrupt, "not ascending"),
        l("pack ordinal twice", list("pack: 0 ", "pack: 1 "), Corrupt, "not ascending"),
        l("pack with a field more", list(" 40\n", " 40 1\n"), Corrupt, "8 fields"),
        l("pack ordinal beyond 32 bits", list("pack: 1 ", "pack: 4294967296 "), Corrupt, "not a number"),
        c(
            "region too small",
            config("region-bytes: 33554432", "region-bytes: 524288"),
            Corrupt,
            "out of bounds",
        ),
        c(
            "region no power of two",
            config("region-bytes: 33554432", "region-bytes: 33554433"),
            Corrupt,
            "out of bounds",
        ),
        c(
            "leaf larger than a region",
            config("region-bytes: 33554432", "region-bytes: 2097152"),
            Corrupt,
            "leaf-bytes",
        ),
        c(
            "frame too large",
            config("frame-bytes: 1048576", "frame-bytes: 33554432"),
            Corrupt,
            "out of bounds",
        ),
        c(
            "pack too large",
            config("pack-bytes: 33554432", "pack-bytes: 2147483648"),
            Corrupt,
            "out of bounds",
        ),
        c("chunks of nothing", config("min=32768", "min=0"), Corrupt, "out of bounds"),
        c("minimum above target", config("min=32768", "min=262144"), Corrupt, "out of bounds"),
        c(
            "chunk larger than a frame",
            config("frame-bytes: 1048576", "frame-bytes: 65536"),
            Corrupt,
            "exceeds a frame",
        ),
        c("profile with a word more", config("max=524288", "max=524288 x=1"), Corrupt, "canonical"),
        c("RSA for an admin", config("ssh-ed25519 ", "ssh-rsa "), Corrupt, "public key"),
        c("admin key with a comment", config("\nregion", " me@here\nregion"), Corrupt, "public key"),
    ]);
}

fn public(name: &'static str, part: Vec<u8>, read: fn(&[u8]) -> Result<()>, says: &'static str) -> Forgery {
    Forgery { name, bytes: part, read, class: Corrupt, says }
}

fn frames(name: &'static str, lines: &str, says: &'static str) -> Forgery {
    let part = stored_zstd(format!("sancerre-frames-v1\n{lines}").as_bytes());
    public(name, part, |bytes| FrameSet::decode(bytes).map(|_| ()), says)
}

#[test]
fn frame_sets() {
    refuse(vec![
        frames("sessions unsorted", "frames: 2 0\nframes: 1 0\n", "one spelling"),
        frames("session twice", "frames: 1 0\nframes: 1 2\n", "one spelling"),
        frames("session without items", "frames: 1\n", "one spelling"),
        frames("packs unsorted", "frames: 1 2 0\n", "one spelling"),
        frames("packs overlap", "frames: 1 0-3 2-4\n", "one spelling"),
        frames("packs not maximal", "frames: 1 0 1\n", "one spelling"),
        frames("pack range of one", "frames: 1 3-3\n", "is empty"),
        frames("pack range backwards", "frames: 1 3-2\n", "is empty"),
        frames("pack whole and in frames", "frames: 1 0 0:1\n", "stands twice"),
        frames("pack in frames and whole", "frames: 1 0:1 0\n", "one spelling"),
        frames("frames unsorted", "frames: 1 0:3,1\n", "out of order"),
        frames("frames overlap", "frames: 1 0:1-4,4-6\n", "out of order"),
        frames("frames not maximal", "frames: 1 0:1,2\n", "out of order"),
        frames("frame twice", "frames: 1 0:1,1\n", "out of order"),
        frames("a pack's frames in two items", "frames: 1 0:1 0:3\n", "one spelling"),
        frames("no frames", "frames: 1 0:\n", "not a number"),
        frames("comma at the end", "frames: 1 0:1,\n", "not a number"),
        frames("two spaces", "frames: 1  0\n", "not a number"),
        frames("leading zero", "frames: 1 00\n", "not a number"),
        frames("hexadecimal", "frames: 1 a\n", "not a number"),
        frames("ordinal beyond 32 bits", "frames: 1 4294967296\n", "not a number"),
        frames("frame 65,536", "frames: 1 0:65536\n", "no pack has"),
        frames("all frames there can be", "frames: 1 0:0-4294967295\n", "no pack has"),
        frames("all packs there can be", "frames: 1 0-4294967295\n", "too many packs"),
        frames("line of another key", "packs: 1 0\n", "unexpected line"),
    ]);
}

#[test]
fn lists_of_garbage_collections() {
    let (three, five) = (session(3), session(5));
    let lists = |name, lines: &str, says| {
        let part = stored_zstd(format!("sancerre-gc-v1\n{lines}").as_bytes());
        public(name, part, |bytes| GcLists::decode(bytes).map(|_| ()), says)
    };
    refuse(vec![
        lists("dead frames", "dead: 1 0:1\n", "only whole packs"),
        lists("burnt frames", "burnt: 1 0:1\n", "only whole packs"),
        lists("moves unsorted", "move: 2/0/0 0/0\nmove: 1/0/0 0/1\n", "not ascending"),
        lists("frame moved twice", "move: 1/0/0 0/0\nmove: 1/0/0 0/1\n", "not ascending"),
        lists("move to nowhere", "move: 1/0/0\n", "not a move"),
        lists("move of a pack", "move: 1/0 0/0\n", "not a move"),
        lists("burnt before dead", "burnt: 1 0\ndead: 1 0\n", "unexpected line"),
        lists("live unsorted", &format!("live: {five}\nlive: {three}\n"), "not ascending"),
        lists("forgotten twice", &format!("forgotten: {five}\nforgotten: {five}\n"), "not ascending"),
        lists("forgotten before live", &format!("forgotten: {three}\nlive: {five}\n"), "unexpected line"),
    ]);
}

#[test]
fn compressed_parts() {
    let text = b"sancerre-frames-v1\nframes: 1 0\n";
    let good = stored_zstd(text);
    FrameSet::decode(&good).unwrap();
    let part =
        |name, bytes: Vec<u8>, says| public(name, bytes, |part| FrameSet::decode(part).map(|_| ()), says);
    // Blocks of one repeated byte: 4 bytes of input stand for 128 KiB.
    let rle = |blocks: u32, announced: u32| {
        let block = |last: u32| (last | 1 << 1 | (128 << 10) << 3).to_le_bytes()[..3].to_vec();
        let blocks = (1..=blocks).flat_map(|at| [block(u32::from(at == blocks)), vec![b'a']].concat());
        [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &announced.to_le_bytes()]
            .concat()
            .into_iter()
            .chain(blocks)
            .collect()
    };
    let bomb: Vec<u8> = rle(8000, 8000 * (128 << 10));
    assert!(bomb.len() < 40_000);
    refuse(vec![
        part("empty part", Vec::new(), "acceptable size"),
        part("not compressed", text.to_vec(), "acceptable size"),
        part("bomb that announces 1 GB of one line", rle(64, 1 << 30), ""),
        part("bomb that announces more than 1 GiB", rle(8193, (1 << 30) + 1), "acceptable size"),
        part("bomb that announces a little", rle(8000, 100), ""),
        part(
            "announces a gigabyte, holds nothing",
            [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &(1u32 << 30).to_le_bytes(), &[1, 0, 0]].concat(),
            "announces too much",
        ),
        part("trailing garbage", [&good[..], b"x"].concat(), "one zstd frame"),
        part("trailing empty frame", [&good[..], &stored_zstd(b"")].concat(), "one zstd frame"),
        part("trailing skippable frame", [&good[..], b"\x50\x2a\x4d\x18\0\0\0\0"].concat(), "one zstd frame"),
        part("leading skippable frame", [&b"\x50\x2a\x4d\x18\0\0\0\0"[..], &good].concat(), "one zstd frame"),
        part("cut short", good[..good.len() - 1].to_vec(), "one zstd frame"),
        part("gc lists for frames", stored_zstd(b"sancerre-gc-v1\n"), "first line"),
        part("no line feed", stored_zstd(b"sancerre-frames-v1"), "line feed"),
        part("binary", stored_zstd(b"sancerre-frames-v1\n\0\n"), "printable"),
    ]);
}

#[test]
fn bodies() {
    let text = body().encode();
    let edit = |name, from: &str, to: &str, says| {
        assert!(text.contains(from), "{from:?} is not in {text}");
        let bytes = text.replacen(from, to, 1).into_bytes();
        Forgery { name, bytes, read: |bytes| Body::decode(bytes).map(|_| ()), class: Corrupt, says }
    };
    Body::decode(format!("{text}x-colour: red\n").as_bytes()).unwrap();
    refuse(vec![
        edit("two disks of one name", "disk: dump", "disk: sda", "one name"),
        edit("tag behind a disk", "disk: sda", "disk: sdb", "").then_line(&text, "tag: late\n"),
        edit("tag with a space", "tag: nightly", "tag: night ly", "tag"),
        edit("tag -", "tag: nightly", "tag: -", "tag"),
        edit("unknown member", "sda disk", "sda tape", "malformed"),
        edit("unknown chunker", "disk disk", "disk tape", "malformed"),
        edit("fuzzy 2", "fuzzy=0", "fuzzy=2", "one spelling"),
        edit("size without a name", "size=3221225472", "3221225472", "malformed"),
        edit("size with a leading zero", "size=3", "size=03", "not a number"),
        edit("a field more", "fuzzy=0 root", "fuzzy=0 hot=1 root", "malformed"),
        edit("a word more", "+512\n", "+512 x\n", "malformed"),
        edit("level 8", "root=2/", "root=8/", "malformed"),
        edit("node id in capitals", "/c0c0", "/C0c0", "malformed"),
        edit("place without a size", "+816", "", "malformed"),
        edit("frame beyond 32 bits", "/7/1/2@", "/7/1/4294967296@", "malformed"),
        edit("later version", "body-v1", "body-v1x", "first line"),
    ]);
}

impl Forgery {
    /// The same forgery made another way: `line` behind the whole text.
    fn then_line(self, text: &str, line: &str) -> Self {
        Self { bytes: format!("{text}{line}").into_bytes(), says: "unexpected line", ..self }
    }
}

#[test]
fn key_files() {
    let text = key_file().encode().to_string();
    let with = |name, certificate: Vec<u8>, class, says| {
        let line = text.lines().find(|line| line.starts_with("certificate: ")).unwrap();
        let bytes = text.replace(line, &format!("certificate: {}", BASE64.encode(certificate))).into_bytes();
        Forgery { name, bytes, read: |bytes| KeyFile::decode(bytes).map(|_| ()), class, says }
    };
    let edit = |name, from: &str, to: &str, class, says| {
        assert!(text.contains(from), "{from:?} is not in the key file");
        let bytes = text.replacen(from, to, 1).into_bytes();
        Forgery { name, bytes, read: |bytes| KeyFile::decode(bytes).map(|_| ()), class, says }
    };
    let seed = "02".repeat(32);
    let certificate = || certificate(Role::Writer);
    let zoned = Certificate { zone: Zone::new("ward-4").unwrap(), ..certificate() };
    let keyed = Certificate { key: key(STRANGER).public(), ..certificate() };
    refuse(vec![
        with("certificate of another key", sign(&keyed, ADMIN), Corrupt, "not for its zone and signing key"),
        with("certificate of another zone", sign(&zoned, ADMIN), Corrupt, "not for its zone and signing key"),
        with("certificate by another admin", sign(&certificate(), STRANGER), Forged, "another key"),
        with("no certificate at all", b"sancerre-certificate-v1\n".to_vec(), Corrupt, "no signature"),
        edit("no certificate", "certificate: ", "certificate: -\nx-old: ", Corrupt, ""),
        edit("another signing key", &seed, &"09".repeat(32), Corrupt, "not for its zone and signing key"),
        edit("signing key too short", &seed, &"02".repeat(31), Corrupt, "hexadecimal"),
        edit("another repository", "repository: a5", "repository: b5", Forged, "another repository"),
        edit("recipient that is no age key", "recipient: age1", "recipient: ssh1", Corrupt, "age recipient"),
        edit("missing key", &format!("cut-key: {}\n", "12".repeat(32)), "", Corrupt, "expected \"cut-key\""),
        edit(
            "line behind",
            &format!("{}\n", "13".repeat(32)),
            &format!("{}\nx-more: 1\n", "13".repeat(32)),
            Corrupt,
            "unexpected line",
        ),
        edit("later version", "sancerre-key-v1", "sancerre-key-v2", Unsupported, "sancerre-key-v2"),
    ]);
}

/// Lines that an honest program was talked into writing must not change what the record says.
#[test]
fn values_cannot_bring_lines() {
    let with_reason = |reason: &str| {
        let kind = Kind::Quarantine { reason: reason.into() };
        record::encode(&entry(kind, writer()), TOOL, &key(WRITER), b"", b"")
    };
    for reason in ["lost\nx-more: 1", "lost\n", "", " lost", "lost\r", "ver\u{e4}ndert"] {
        assert!(with_reason(reason).is_err(), "{reason:?} was written");
    }
    for reason in ["-----BEGIN SSH SIGNATURE-----", "see -----BEGIN SSH SIGNATURE-----", "a: b", "-"] {
        read::<Entry>(&with_reason(reason).unwrap()).unwrap();
    }
    let tool = record::encode(&config(), "evil\nrepository: x", &key(ADMIN), b"", b"");
    assert!(tool.is_err());
}
