//! Forgeries by name: what an attacker, a careless signer or a later version might publish, and how it is refused.
//!
//! Most are signed by a key that may sign: a reader must refuse what breaks a rule even then.

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::forgery::Class::{Corrupt, Forged, Unsupported};
use common::forgery::*;
use common::samples;
use common::sshsig::{self, SshSig};
use common::*;
use sancerre_format::certificate::{Certificate, Role};
use sancerre_format::checkpoint::Checkpoint;
use sancerre_format::config::{Config, IdentityRecord};
use sancerre_format::id::RepositoryId;
use sancerre_format::list::PackList;
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::Zone;
use sancerre_format::outcome::{Abort, Commit, Manifest};
use sancerre_format::recipient::{AdminKey, RecipientRecord};
use sancerre_format::record::{self, Fields, SignedBy};
use sancerre_format::sign::PublicKey;

const GC: Kind = Kind::Gc { generation: 1 };

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

fn with_armor(armor: &str) -> Vec<u8> {
    [pieces(&hold()).0.as_bytes(), armor.as_bytes()].concat()
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
    let (text, ..) = pieces(&sign(&entry(Kind::Hold(held()), by), STRANGER));
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
    let f = forgery::<Entry>;
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
            "makes an admin",
        ),
        f(
            "certificate with a changed name",
            with_certificate(head(
                &String::from_utf8(plain.clone()).unwrap().replace("host-1", "host-2").into_bytes(),
            )),
            Forged,
            "does not fit",
        ),
    ]);
}

#[test]
fn certificates_inside_records() {
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
    let commit_by = |by: SignedBy, seed| sign(&Commit { by, ..samples::commit() }, seed);
    let log = |kind: Kind, by: SignedBy, seed| sign(&entry(kind, by), seed);
    let by_writer = Checkpoint { by: writer(), ..samples::checkpoint() };
    let admin_named = SignedBy { name: name("root"), certificate: None };
    let identity =
        IdentityRecord { repository: repository(), epoch: 1, created: night(), recipient: RECIPIENT.into() };
    let f = forgery::<Entry>;
    let no = "may not sign";
    refuse(vec![
        f("keeper signs a backup", backup(keeper(), KEEPER), Forged, no),
        f("admin signs a backup", backup(admin(), ADMIN), Forged, no),
        f("writer signs gc", log(GC, writer(), WRITER), Forged, no),
        f("writer signs forget", log(Kind::Forget(snapshots()), writer(), WRITER), Forged, no),
        f("writer signs undelete", log(Kind::Undelete(snapshots()), writer(), WRITER), Forged, no),
        f("writer signs hold", log(Kind::Hold(held()), writer(), WRITER), Forged, no),
        f("writer signs release", log(Kind::Release(held()), writer(), WRITER), Forged, no),
        forgery::<Checkpoint>("writer signs checkpoint", sign(&by_writer, WRITER), Forged, no),
        f("writer signs taint", log(Kind::Taint(distrust()), writer(), WRITER), Forged, no),
        f("writer signs revoke", log(Kind::Revoke(distrust()), writer(), WRITER), Forged, no),
        f("keeper signs taint", log(Kind::Taint(distrust()), keeper(), KEEPER), Forged, no),
        f("keeper signs abandon", log(Kind::Abandon(abandon()), keeper(), KEEPER), Forged, no),
        f("keeper signs revoke", log(Kind::Revoke(distrust()), keeper(), KEEPER), Forged, no),
        f("keeper lowers the approvals", log(Kind::Quorum(quorum()), keeper(), KEEPER), Forged, no),
        f("admin approves", log(Kind::Approve(approval()), admin(), ADMIN), Forged, no),
        f("writer approves", log(Kind::Approve(approval()), writer(), WRITER), Forged, no),
        f("admin by another name", log(GC, admin_named, ADMIN), Forged, no),
        f("stranger without a certificate", log(GC, admin(), STRANGER), Forged, "another key"),
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
        forgery::<IdentityRecord>("keeper signs an identity", sign(&identity, KEEPER), Forged, "another key"),
        forgery::<RecipientRecord>(
            "writer adds a restore recipient",
            sign(&samples::recipient(), WRITER),
            Forged,
            "another key",
        ),
        forgery::<AdminKey>(
            "keeper plants an admin's key",
            sign(&samples::admin_key(), KEEPER),
            Forged,
            "another key",
        ),
        forgery::<Config>(
            "config that names another admin",
            sign(&Config { admin: key(STRANGER).public(), ..config() }, ADMIN),
            Forged,
            no,
        ),
    ]);
}

#[test]
fn who_may_sign_is_read() {
    for (kind, by, seed) in kinds() {
        read::<Entry>(&sign(&entry(kind, by), seed)).unwrap();
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
