//! Forged and careless texts: records, bodies and key files that break a rule of FORMAT.md although their signature fits.

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::forgery::Class::{Corrupt, Forged, Unsupported};
use common::forgery::*;
use common::samples::{self, key_file};
use common::*;
use sancerre_format::certificate::{Certificate, Role};
use sancerre_format::config::Config;
use sancerre_format::id::Hash;
use sancerre_format::key::{KeyFile, Secret};
use sancerre_format::list::PackList;
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::Zone;
use sancerre_format::outcome::{Body, Manifest};
use sancerre_format::record;

#[test]
fn texts() {
    let f = forgery::<Entry>;
    let (text, ..) = pieces(&hold());
    let last = text.lines().last().unwrap();
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
        f("line behind sealed", edited(last, &format!("{last}\nx-late: 1")), Corrupt, "unexpected line"),
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
    ]);
}

#[test]
fn values() {
    let (first, second) = (session(3).to_string(), session(5).to_string());
    let (one, two) = (format!("snapshot: {first}\n"), format!("snapshot: {second}\n"));
    let both = format!("{one}{two}");
    let vms = "vm: pacs01\nvm: ris01\n";
    let previous = format!("previous: {}", Hash([0x45; 32]));
    let f = forgery::<Entry>;
    let no_feed = resign(pieces(&hold()).0.trim_end(), KEEPER, b"");
    refuse(vec![
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
        f("nothing to hold", edited(&format!("{both}{vms}"), ""), Corrupt, "names nothing"),
        f("machines unsorted", edited(vms, "vm: ris01\nvm: pacs01\n"), Corrupt, "not ascending"),
        f("machine with a bare space", edited("vm: pacs01", "vm: pacs 01"), Corrupt, "one spelling"),
        f("machine encoded for nothing", edited("vm: pacs01", "vm: pacs%301"), Corrupt, "one spelling"),
        f("machine in lower-case hex", edited("vm: pacs01", "vm: pacs%c3%a9"), Corrupt, "one spelling"),
        f("machine in half an escape", edited("vm: pacs01", "vm: pacs%C"), Corrupt, "one spelling"),
        f("machine that is no UTF-8", edited("vm: pacs01", "vm: pacs%FF"), Corrupt, "one spelling"),
        f("machine not in NFC", edited("vm: pacs01", "vm: pacse%CC%81"), Corrupt, "normalization"),
        f("machine with a line feed", edited("vm: pacs01", "vm: pacs%0A01"), Corrupt, "control"),
        f("machine turned around", edited("vm: pacs01", "vm: pacs%E2%80%AE01"), Corrupt, "turns text"),
        f("machine that ends in a space", edited("vm: pacs01", "vm: pacs01%20"), Corrupt, "space"),
        f("machine ..", edited("vm: pacs01", "vm: .."), Corrupt, "means something else"),
        f(
            "machine of 256 bytes",
            edited("vm: pacs01", &format!("vm: {}", "p".repeat(256))),
            Corrupt,
            "1-255",
        ),
        f("checkpoint above", edited("checkpoint: 4", "checkpoint: 8"), Corrupt, "not before it"),
        f("previous in capitals", edited(&previous, &previous.replace("45", "4F")), Corrupt, "hash"),
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

/// A record with its text changed and signed anew.
fn edit(bytes: Vec<u8>, seed: u8, from: &str, to: &str) -> Vec<u8> {
    let (text, _, parts) = pieces(&bytes);
    assert!(text.contains(from), "{from:?} is not in {text}");
    resign(&text.replacen(from, to, 1), seed, &parts)
}

#[test]
fn fields_of_outcomes_and_lists() {
    let (one, two) = (format!("parent: {}\n", session(3)), format!("parent: {}\n", session(5)));
    let manifest = |from: &str, to: &str| edit(sign(&manifest(), WRITER), WRITER, from, to);
    let backup = |from: &str, to: &str| edit(backup(writer(), WRITER), WRITER, from, to);
    let list = |from: &str, to: &str| edit(sign(&samples::pack_list(), WRITER), WRITER, from, to);
    let both = format!("{one}{two}");
    let turned = format!("{two}{one}");
    let (m, l) = (forgery::<Manifest>, forgery::<PackList>);
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
        m("no word of consistency", manifest("crash", "as it was"), Corrupt, "not 1-64"),
        m(
            "lock without a time",
            manifest("lock-until: 2026-12-23T21:10:28Z", "lock-until: never"),
            Corrupt,
            "time",
        ),
        l("pack of an unknown kind", list("0 data", "0 other"), Corrupt, "unknown kind"),
        l("pack ordinals unsorted", list("pack: 0 ", "pack: 2 "), Corrupt, "not ascending"),
        l("pack ordinal twice", list("pack: 0 ", "pack: 1 "), Corrupt, "not ascending"),
        l("pack with a field more", list(" 40\n", " 40 1\n"), Corrupt, "unknown word"),
        l("pack ordinal beyond 32 bits", list("pack: 1 ", "pack: 4294967296 "), Corrupt, "not a number"),
    ]);
}

#[test]
fn fields_of_config() {
    let config = |from: &str, to: &str| edit(sign(&config(), ADMIN), ADMIN, from, to);
    let c = forgery::<Config>;
    refuse(vec![
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
        c("admin key with a comment", config("\napprovals", " me@here\napprovals"), Corrupt, "public key"),
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
    let partial = text.replace("serial=QM00001", "serial=QM00001 unreadable=0+9,4096+512");
    let partial = Body::decode(partial.as_bytes()).unwrap();
    let ranges: Vec<_> = partial.members.iter().map(|member| member.unreadable().unwrap().bytes()).collect();
    assert!(ranges.iter().all(|bytes| [0, 521].contains(bytes)) && ranges.contains(&521), "{ranges:?}");
    refuse(vec![
        edit("two disks of one name", "disk: dump", "disk: sda", "one name"),
        edit("machine in another spelling", "vm: B%C3%BCro", "vm: B%c3%bcro", "one spelling"),
        edit("no machine", "vm: B%C3%BCro-Server%201\n", "", "expected \"vm\""),
        edit("disk with a slash", "disk: sda", "disk: a/b", "one spelling"),
        edit("disk not in NFC", "disk: sda", "disk: u%CC%88", "normalization"),
        edit("disk ..", "disk: sda", "disk: ..", "means something else"),
        edit("tag behind a disk", "disk: sda", "disk: sdb", "").then_line(&text, "tag: late\n"),
        edit("tag with a space", "tag: nightly", "tag: night ly", "tag"),
        edit("tag -", "tag: nightly", "tag: -", "tag"),
        edit("no word for a member", "sda disk", "sda _tape", "not 1-64"),
        edit("no word for a chunker", "disk disk", "disk _tape", "not 1-64"),
        edit("feature", "critical: -", "critical: teleport", "feature teleport").unsupported(),
        edit("fuzzy 2", "fuzzy=0", "fuzzy=2", "one spelling"),
        edit("size without a name", "size=3221225472", "3221225472", "malformed"),
        edit("size with a leading zero", "size=3", "size=03", "not a number"),
        edit("a field more", "fuzzy=0 root", "fuzzy=0 hot=1 root", "malformed"),
        edit("a word without a value", "+512 serial", "+512 x serial", "in its order"),
        edit("words unsorted", "serial=QM00001", "bus=sata serial=QM00001", "in its order"),
        edit("word twice", "serial=QM00001", "serial=QM00001 serial=1", "in its order"),
        edit("word not known", "serial=", "colour=", "in its order"),
        edit("unreadable without a length", "serial=", "unreadable=4096 serial=", "in its order"),
        edit("unreadable and no range", "serial=QM00001", "unreadable=4096", "no ranges"),
        edit("unreadable of no bytes", "serial=QM00001", "unreadable=0+0", "not in order"),
        edit("unreadable behind the end", "serial=QM00001", "unreadable=0+3221225473", "no ranges"),
        edit("unreadable twice", "serial=QM00001", "unreadable=0+9,8+9", "not in order"),
        edit("unreadable that touch", "serial=QM00001", "unreadable=0+9,9+9", "not in order"),
        edit("unreadable with a zero before", "serial=QM00001", "unreadable=0+09", "not a number"),
        edit("level 8", "root=2/", "root=8/", "malformed"),
        edit("node id in capitals", "/c0c0", "/C0c0", "malformed"),
        edit("place without a size", "+816", "", "malformed"),
        edit("frame beyond 32 bits", "/7/1/2@", "/7/1/4294967296@", "malformed"),
        edit("later version", "body-v1", "body-v1x", "first line"),
    ]);
}

impl Forgery {
    fn unsupported(self) -> Self {
        Self { class: Unsupported, ..self }
    }

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
            &format!("{}\nmore: 1\n", "13".repeat(32)),
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
