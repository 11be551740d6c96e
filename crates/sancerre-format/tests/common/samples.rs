//! One complete object or secret of every kind, always with the same bytes.

use sancerre_format::certificate::{Role, portable};
use sancerre_format::checkpoint::{CarriedRecord, Checkpoint, CheckpointState};
use sancerre_format::config::{IdentityRecord, ZoneRecord};
use sancerre_format::error::Result;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{Hash, PackName, SessionId};
use sancerre_format::key::{
    AdminSecret, IdentitySecret, KeyFile, Secret, WriterSecret, ZoneKeys, ZoneSecret,
};
use sancerre_format::list::{ListedPack, PackList};
use sancerre_format::log::{Entry, Kind};
use sancerre_format::outcome::{Abort, Body, Commit};
use sancerre_format::pack::PackKind;
use sancerre_format::recipient::{AdminKey, Opener, RecipientRecord};
use sancerre_format::record::{self, Cut, Fields};
use sancerre_format::seal::{Codec, RootKey, UnitKind, UnitName, seal};

use super::*;

/// What may be expected of changed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Signed or sealed: nothing but the original is read.
    Signed,
    /// Text inside something signed or sealed: whatever is read has one spelling.
    Text,
    /// Compressed text inside something signed.
    Packed,
}

/// A sample and how to read it.
pub(crate) struct Sample {
    /// Its golden file.
    pub(crate) file: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) shape: Shape,
    /// Decodes and returns all of the content; of [`Shape::Text`] in its one spelling.
    pub(crate) read: fn(&[u8]) -> Result<Vec<u8>>,
}

fn record<F: Fields + std::fmt::Debug>(file: &str, fields: &F, seed: u8, parts: [&[u8]; 2]) -> Sample {
    let [public, sealed] = parts;
    let bytes = record::encode(fields, TOOL, &key(seed), public, sealed).unwrap();
    Sample { file: format!("{file}.bin"), bytes, shape: Shape::Signed, read: read_record::<F> }
}

fn read_record<F: Fields + std::fmt::Debug>(bytes: &[u8]) -> Result<Vec<u8>> {
    record::decode::<F>(&trust(), bytes).map(|record| format!("{record:?}").into_bytes())
}

fn secret<S: Secret>(file: &str, secret: &S) -> Sample {
    let bytes = secret.encode().as_bytes().to_vec();
    let read = |bytes: &[u8]| S::decode(bytes).map(|secret| secret.encode().as_bytes().to_vec());
    Sample { file: format!("{file}.txt"), bytes, shape: Shape::Text, read }
}

pub(crate) fn zone_keys() -> ZoneKeys {
    ZoneKeys { id: [0x11; 32], cut: [0x12; 32], metadata: [0x13; 32] }
}

pub(crate) fn frame_set() -> FrameSet {
    let mut set = FrameSet::default();
    (0..3).for_each(|ordinal| set.insert_pack(PackName { session: 3, ordinal }));
    [0, 2, 3, 4, 9].into_iter().for_each(|index| set.insert(frame(3, 4, index)));
    set.insert_pack(PackName { session: 7, ordinal: 0 });
    set.insert(frame(7, 1, 2));
    set
}

pub(crate) const FRAMES_TEXT: &str =
    "sancerre-frames-v1\ncritical: -\nframes: 3 0-2 4:0,2-4,9\nframes: 7 0 1:2\n";

pub(crate) fn proposal() -> GcLists {
    let mut lists = GcLists::default();
    lists.dead.insert_pack(PackName { session: 3, ordinal: 1 });
    lists.dead.insert_pack(PackName { session: 3, ordinal: 4 });
    lists
}

pub(crate) fn final_lists() -> GcLists {
    let mut lists = proposal();
    for (ordinal, name) in
        [(0, frame(2, 0, 7)), (0, frame(3, 4, 2)), (0, frame(3, 4, 3)), (1, frame(3, 5, 0))]
    {
        lists.moves.entry(ordinal).or_default().insert(name);
    }
    lists.seen = vec![session(5), session(6)];
    lists.forgotten = vec![session(3)];
    lists
}

pub(crate) fn final_text() -> String {
    let (five, six, three) = (session(5), session(6), session(3));
    format!(
        "sancerre-gc-v1\ncritical: -\ndead: 3 1 4\nmove: 0 2 0:7\nmove: 0 3 4:2-3\nmove: 1 3 5:0\nseen: {five}\nseen: {six}\n\
         forgotten: {three}\n"
    )
}

pub(crate) fn sealed_body(session: SessionId) -> Vec<u8> {
    let unit = UnitName { kind: UnitKind::Body, session, a: 0, b: 0 };
    let raw = body().encode();
    seal(&RootKey::metadata(&zone_keys().metadata, &session), &unit, Codec::Stored, raw.len(), raw.as_bytes())
        .unwrap()
}

pub(crate) fn recipient() -> RecipientRecord {
    let opener = Opener::Ssh(key(WRITER).public());
    RecipientRecord {
        repository: repository(),
        epoch: 2,
        label: name("front-desk"),
        created: night(),
        opener,
    }
}

pub(crate) fn admin_key() -> AdminKey {
    AdminKey { repository: repository(), label: name("passphrase"), created: night() }
}

fn keys() -> Vec<Sample> {
    let identity =
        IdentityRecord { repository: repository(), epoch: 2, created: night(), recipient: RECIPIENT.into() };
    let zone_record =
        ZoneRecord { repository: repository(), zone: zone(), generation: 1, created: night(), epoch: 2 };
    let [writer, keeper] = [Role::Writer, Role::Keeper].map(certificate);
    vec![
        record("config", &config(), ADMIN, [b"", b""]),
        record("identity", &identity, ADMIN, [b"", b"the identity before, sealed with age"]),
        record("recipient", &recipient(), ADMIN, [b"", b"the identity, sealed with age"]),
        record("admin-key", &admin_key(), ADMIN, [b"", b"the admin's key, sealed with age"]),
        record("admin", &succession(), ADMIN, [b"", b""]),
        record("zone", &zone_record, ADMIN, [b"", b"the zone's secret, sealed with age"]),
        record("certificate-writer", &writer, ADMIN, [b"", b"its key, sealed with age"]),
        record("certificate-keeper", &keeper, ADMIN, [b"", b""]),
    ]
}

fn entries() -> Vec<Sample> {
    let proposal = stored_zstd(b"sancerre-gc-v1\ncritical: -\ndead: 3 1 4\n");
    let frames = stored_zstd(FRAMES_TEXT.as_bytes());
    let sample = |(kind, by, seed): (Kind, SignedBy, u8)| {
        let parts: [&[u8]; 2] = match kind {
            Kind::Backup(_) => [b"", b"the session key, sealed with age"],
            Kind::Gc { .. } => [&proposal, b""],
            Kind::Quarantine { .. } => [&frames, b""],
            _ => [b"", b""],
        };
        record(&format!("log-{}", kind.name()), &entry(kind.clone(), by), seed, parts)
    };
    kinds().into_iter().map(sample).collect()
}

pub(crate) fn pack_list() -> PackList {
    let pack = |ordinal, kind| ListedPack {
        ordinal,
        kind,
        size_bytes: 33_000_000,
        hash: Hash([0x21; 32]),
        sha256: Hash([0x22; 32]),
        tail: Hash([0x23; 32]),
        frames: 40,
    };
    let (session, by) = (session(7), writer());
    let packs = vec![pack(0, PackKind::Data), pack(1, PackKind::Metadata), pack(2, PackKind::Annex)];
    PackList {
        repository: repository(),
        zone: zone(),
        session,
        sequence: 0,
        by,
        packs,
        words: std::collections::BTreeMap::new(),
    }
}

pub(crate) fn abort() -> Abort {
    let (session, reason) = (session(7), "the host was switched off".into());
    Abort { repository: repository(), zone: zone(), session, by: keeper(), time: night(), reason }
}

pub(crate) fn commit() -> Commit {
    Commit {
        repository: repository(),
        zone: zone(),
        session: session(8),
        by: keeper(),
        time: night(),
        previous: Some(session(4)),
        records: Hash([0x31; 32]),
    }
}

pub(crate) fn checkpoint() -> Checkpoint {
    Checkpoint {
        repository: repository(),
        zone: zone(),
        upto: 9,
        previous: session(8).intent,
        commit: Hash([0x32; 32]),
        by: keeper(),
        time: night(),
    }
}

/// One live snapshot, and the owner of a pack that it uses.
pub(crate) fn state() -> CheckpointState {
    let carried = |session: SessionId, hash, cut, bytes: &[u8]| CarriedRecord {
        session,
        hash,
        cut,
        bytes: bytes.into(),
    };
    let mut state = CheckpointState::default();
    state.kept.insert_pack(PackName { session: 7, ordinal: 0 });
    state.kept.insert_pack(PackName { session: 8, ordinal: 0 });
    state.moves.entry(PackName { session: 8, ordinal: 0 }).or_default().insert(frame(3, 4, 2));
    let (three, seven) = (session(3), session(7));
    state.heads = vec![seven];
    state.entries = vec![
        carried(three, three.intent, Cut::Head, b"the head of an entry"),
        carried(seven, seven.intent, Cut::Whole, b"an entry"),
    ];
    state.outcomes = vec![carried(seven, Hash([0x33; 32]), Cut::Sealed, b"a manifest without frames")];
    state
}

pub(crate) fn state_text() -> String {
    let (three, seven, manifest) = (session(3), session(7), Hash([0x33; 32]));
    format!(
        "sancerre-state-v1\ncritical: -\nkept: 7 0\nkept: 8 0\nmove: 8 0 3 4:2\nhead: {seven}\nentry: {three} head 20\n\
         entry: {seven} whole 8\noutcome: {seven} {manifest} sealed 25\n"
    )
}

pub(crate) fn state_part() -> Vec<u8> {
    let text = stored_zstd(state_text().as_bytes());
    let records = stored_zstd(b"the head of an entryan entrya manifest without frames");
    [&u32::try_from(text.len()).unwrap().to_le_bytes()[..], &text, &records].concat()
}

fn outcomes() -> Vec<Sample> {
    let frames = stored_zstd(FRAMES_TEXT.as_bytes());
    let lists = stored_zstd(final_text().as_bytes());
    vec![
        record("list", &pack_list(), WRITER, [b"", b""]),
        record("manifest", &manifest(), WRITER, [&frames, &sealed_body(session(7))]),
        record("abort", &abort(), KEEPER, [b"", b""]),
        record("commit", &commit(), KEEPER, [&lists, b""]),
        record("checkpoint", &checkpoint(), KEEPER, [&state_part(), b""]),
    ]
}

pub(crate) fn key_file() -> KeyFile {
    KeyFile {
        trust: trust(),
        certifier: key(ADMIN).public(),
        zone: zone(),
        generation: 1,
        epoch: 2,
        recipient: RECIPIENT.into(),
        certificate: portable(&sign(&certificate(Role::Writer), ADMIN)).unwrap(),
        key: key(WRITER),
        keys: zone_keys(),
    }
}

fn secrets() -> Vec<Sample> {
    let identity = IdentitySecret {
        trust: trust(),
        epoch: 2,
        identity: "AGE-SECRET-KEY-1QQQSYQCYQ5RQWZQFPG9SCRGWPUGPZYSNZS23V9CCRYDPK8QARC0SXPGDHE"
            .to_owned()
            .into(),
    };
    let zone_secret = ZoneSecret { repository: repository(), zone: zone(), generation: 1, keys: zone_keys() };
    vec![
        secret("identity-secret", &identity),
        secret("admin-secret", &AdminSecret { repository: repository(), key: key(ADMIN) }),
        secret("zone-secret", &zone_secret),
        secret(
            "writer-secret",
            &WriterSecret { repository: repository(), name: name("host-1"), key: key(WRITER) },
        ),
        secret("key", &key_file()),
    ]
}

fn parts() -> Vec<Sample> {
    let packed = |file: &str, text: &str, read| {
        let bytes = stored_zstd(text.as_bytes());
        Sample { file: format!("{file}.bin"), bytes, shape: Shape::Packed, read }
    };
    vec![
        packed("frames", FRAMES_TEXT, |bytes| {
            let part = FrameSet::decode(bytes, u64::MAX)?.encode()?;
            Ok(zstd::bulk::decompress(&part, 1 << 20).unwrap())
        }),
        packed("gc-lists", &final_text(), |bytes| {
            let part = GcLists::decode(bytes, u64::MAX)?.encode()?;
            Ok(zstd::bulk::decompress(&part, 1 << 20).unwrap())
        }),
        Sample {
            file: "state.bin".into(),
            bytes: state_part(),
            shape: Shape::Packed,
            read: |bytes| {
                CheckpointState::decode(bytes, 9).map(|state| format!("sancerre-{state:?}").into_bytes())
            },
        },
        Sample {
            file: "body.txt".into(),
            bytes: body().encode().into_bytes(),
            shape: Shape::Text,
            read: |bytes| Body::decode(bytes).map(|body| body.encode().into_bytes()),
        },
    ]
}

/// One of each kind.
pub(crate) fn all() -> Vec<Sample> {
    [keys(), entries(), outcomes(), secrets(), parts()].into_iter().flatten().collect()
}

/// The type of a log entry, for tests that read one.
pub(crate) fn read_entry(bytes: &[u8]) -> Result<record::Record<Entry>> {
    record::decode(&trust(), bytes)
}
