//! Fixed keys and one sample of every record kind, shared by the tests of records.
#![allow(dead_code, reason = "every test binary uses its own part")]

pub(crate) mod forgery;
pub(crate) mod samples;
pub(crate) mod sshsig;

use sancerre_format::certificate::{Certificate, Role, portable};
use sancerre_format::config::{Config, Layout};
use sancerre_format::id::{ContentId, FrameName, FramePlace, Hash, PackName, Place, RepositoryId, SessionId};
use sancerre_format::log::{Abandon, Approval, Distrust, Entry, Held, Intent, Kind, Note, Quorum, Snapshots};
use sancerre_format::names::{MachineId, Name, Time, Title, Zone};
use sancerre_format::outcome::{
    Body, Chunking, Consistency, Manifest, Member, MemberKind, MemberWords, Root,
};
use sancerre_format::record::{self, Fields, SignedBy, Trust};
use sancerre_format::sign::SigningKey;
use sancerre_format::trust::Succession;

pub(crate) const TOOL: &str = "sancerre 1.0.0";
/// Seeds of the fixed keys.
pub(crate) const ADMIN: u8 = 1;
pub(crate) const WRITER: u8 = 2;
pub(crate) const KEEPER: u8 = 3;
pub(crate) const STRANGER: u8 = 9;
/// The admin's second key.
pub(crate) const SECOND: u8 = 5;
pub(crate) const RECIPIENT: &str = "age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq";

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

pub(crate) fn repository() -> RepositoryId {
    RepositoryId([0xa5; 16])
}

pub(crate) fn trust() -> Trust {
    Trust::new(repository(), key(ADMIN).public())
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn title(text: &str) -> Title {
    Title::new(text).unwrap()
}

pub(crate) fn zone() -> Zone {
    Zone::new("ward-3").unwrap()
}

pub(crate) fn time(text: &str) -> Time {
    Time::parse(text).unwrap()
}

pub(crate) fn night() -> Time {
    time("2026-11-23T21:10:28Z")
}

pub(crate) fn session(number: u64) -> SessionId {
    SessionId { number, intent: Hash::of(&number.to_le_bytes()) }
}

pub(crate) fn certificate(role: Role) -> Certificate {
    let (label, seed) = if role == Role::Keeper { ("keeper-1", KEEPER) } else { ("host-1", WRITER) };
    Certificate {
        repository: repository(),
        zone: zone(),
        name: name(label),
        role_name: name(&role.to_string()),
        key: key(seed).public(),
        issued: time("2026-01-01T00:00:00Z"),
        expires: Some(time("2027-01-01T00:00:00Z")),
    }
}

/// Encodes fields without parts, signed with the key of `seed`.
pub(crate) fn sign<F: Fields>(fields: &F, seed: u8) -> Vec<u8> {
    record::encode(fields, TOOL, &key(seed), b"", b"").unwrap()
}

/// How a record names a signer whose certificate the key of `issuer` signed.
pub(crate) fn signed_by(certificate: &Certificate, issuer: u8) -> SignedBy {
    let encoded = sign(certificate, issuer);
    SignedBy { name: certificate.name.clone(), certificate: Some(portable(&encoded).unwrap()) }
}

pub(crate) fn writer() -> SignedBy {
    signed_by(&certificate(Role::Writer), ADMIN)
}

pub(crate) fn keeper() -> SignedBy {
    signed_by(&certificate(Role::Keeper), ADMIN)
}

pub(crate) fn admin() -> SignedBy {
    SignedBy { name: name("admin"), certificate: None }
}

pub(crate) fn config() -> Config {
    Config {
        repository: repository(),
        created: night(),
        admin: key(ADMIN).public(),
        approvals_needed: 2,
        layout: Layout::default(),
    }
}

/// The admin hands over to the second key: in force from number 9 of the log on.
pub(crate) fn succession() -> Succession {
    let head = |bytes: &[u8]| record::head_hash(bytes).unwrap();
    let kept = sign(&certificate(Role::Keeper), ADMIN);
    Succession {
        repository: repository(),
        number: 2,
        admin: key(SECOND).public(),
        previous: Hash::of(&sign(&config(), ADMIN)),
        created: night(),
        from: vec![(zone(), 9), (Zone::new("ward-4").unwrap(), 1)],
        keeps: vec![("keys/certificates/keeper-1".into(), head(&kept))],
        proof: String::new(),
    }
    .prove(&key(SECOND))
    .unwrap()
}

pub(crate) fn entry(kind: Kind, by: SignedBy) -> Entry {
    Entry {
        repository: repository(),
        zone: zone(),
        number: 7,
        by,
        time: night(),
        previous: Some(Hash([0x45; 32])),
        checkpoint: Some(4),
        kind,
    }
}

pub(crate) fn intent() -> Intent {
    Intent {
        vm: title("pacs01"),
        machine: Some(machine()),
        generation: 1,
        epoch: 2,
        commitment: Hash([0x44; 32]),
        parents: vec![session(3), session(5)],
    }
}

pub(crate) fn machine() -> MachineId {
    MachineId::parse("8b7d3a52-1f0c-4e6b-9a3d-0c5e7f1a2b3c").unwrap()
}

pub(crate) fn held() -> Held {
    let vms = vec![title("pacs01"), title("ris01")];
    Held { snapshots: vec![session(3), session(5)], vms, reason: "older than the policy".into() }
}

pub(crate) fn note() -> Note {
    Note { topic: name("drill"), result: Some(name("booted")), snapshots: vec![session(3)] }
}

pub(crate) fn snapshots() -> Snapshots {
    Snapshots { snapshots: vec![session(3), session(5)], reason: "older than the policy".into() }
}

pub(crate) fn distrust() -> Distrust {
    Distrust { writer: name("host-1"), from: 6, reason: "host-1 was owned".into() }
}

pub(crate) fn abandon() -> Abandon {
    Abandon { session: session(4), reason: "its outcome is junk".into() }
}

/// All kinds, each with the seed of a key that may sign it.
pub(crate) fn kinds() -> Vec<(Kind, SignedBy, u8)> {
    vec![
        (Kind::Backup(intent()), writer(), WRITER),
        (Kind::Gc { generation: 1 }, keeper(), KEEPER),
        (Kind::Forget(snapshots()), keeper(), KEEPER),
        (Kind::Undelete(snapshots()), admin(), ADMIN),
        (Kind::Hold(held()), keeper(), KEEPER),
        (Kind::Release(held()), admin(), ADMIN),
        (Kind::Quarantine { reason: "check: 1 frame lost".into() }, writer(), WRITER),
        (Kind::Taint(distrust()), admin(), ADMIN),
        (Kind::Revoke(distrust()), admin(), ADMIN),
        (Kind::Index, writer(), WRITER),
        (Kind::Approve(approval()), keeper(), KEEPER),
        (Kind::Quorum(quorum()), admin(), ADMIN),
        (Kind::Note(note()), writer(), WRITER),
        (Kind::Abandon(abandon()), admin(), ADMIN),
    ]
}

pub(crate) fn approval() -> Approval {
    Approval { entries: vec![session(5)], reason: "agreed".into() }
}

pub(crate) fn quorum() -> Quorum {
    Quorum { approvals_needed: 1, reason: "fewer keepers".into() }
}

pub(crate) fn frame(session: u64, ordinal: u32, index: u32) -> FrameName {
    FrameName { pack: PackName { session, ordinal }, index }
}

pub(crate) fn manifest() -> Manifest {
    Manifest {
        repository: repository(),
        zone: zone(),
        session: session(7),
        by: writer(),
        vm: title("pacs01"),
        machine: Some(machine()),
        started: night(),
        finished: time("2026-11-23T21:14:02Z"),
        parents: vec![session(3), session(5)],
        disks: 3,
        size_bytes: 3 << 30,
        data_bytes: 1 << 30,
        new_bytes: 5 << 20,
        stored_bytes: 2 << 20,
        consistency: Consistency::Crash,
        scan: "full".into(),
        class: Some(name("daily")),
        retain_until: Some(time("2026-12-24T00:00:00Z")),
        lists: 1,
        segments: 1,
        lock_until: Some(time("2026-12-23T21:10:28Z")),
    }
}

pub(crate) fn member(label: &str, kind: MemberKind) -> Member {
    let frame = FramePlace { frame: frame(7, 1, 2), offset_bytes: 560, sealed_bytes: 816 };
    let place = Place { frame, offset_bytes: 1024, size_bytes: 512 };
    Member {
        name: title(label),
        kind: kind.clone(),
        chunking: if kind == MemberKind::Disk { Chunking::Disk } else { Chunking::Stream },
        phase_bytes: 512,
        size_bytes: 3 << 30,
        data_bytes: 1 << 30,
        new_bytes: 5 << 20,
        chunks: 9000,
        new_chunks: 40,
        fuzzy: kind == MemberKind::Stream,
        root: (kind != MemberKind::File).then_some(Root { level: 2, id: ContentId([0xc0; 32]), place }),
        words: MemberWords::new(vec!["serial=QM00001".into(), "x-bus-slot=3".into()]).unwrap(),
    }
}

pub(crate) fn body() -> Body {
    Body {
        vm: Some(title("Büro-Server 1")),
        tags: ["nightly", "ward:3"]
            .iter()
            .map(|tag| sancerre_format::names::Tag::new(tag).unwrap())
            .collect(),
        members: vec![
            member("sda", MemberKind::Disk),
            member("dump", MemberKind::Stream),
            member("domain.xml", MemberKind::File),
        ],
        annexes: Vec::new(),
    }
}

/// One zstd frame that stores `text` uncompressed: golden bytes must not depend on a compressor's version.
pub(crate) fn stored_zstd(text: &[u8]) -> Vec<u8> {
    let size = u16::try_from(text.len().saturating_sub(256)).unwrap();
    let head: Vec<u8> = match u8::try_from(text.len()) {
        Ok(size) => vec![0x20, size],
        Err(_) => [&[0x60][..], &size.to_le_bytes()].concat(),
    };
    let block = u32::try_from(text.len()).unwrap() << 3 | 1;
    [&[0x28, 0xb5, 0x2f, 0xfd], head.as_slice(), &block.to_le_bytes()[..3], text].concat()
}
