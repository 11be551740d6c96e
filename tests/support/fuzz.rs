//! What the fuzzers run: for each kind of foreign bytes a function that takes any bytes and panics when a parser does,
//! or when something was read that does not encode to the same bytes again.
//!
//! Signatures, seals and hashes would stop a fuzzer at the door. So a target signs, seals or hashes what it is given,
//! as an attacker who holds a key of the zone would.

use sancerre_engine::keys::IdentityFile;
use sancerre_engine::select::Selector;
use sancerre_format::certificate::{Certificate, Signer};
use sancerre_format::checkpoint::{Checkpoint, CheckpointState};
use sancerre_format::chunk::{Chunker, PieceKind};
use sancerre_format::config::{Config, IdentityRecord, Layout, ZoneRecord};
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{ContentId, Hash, RepositoryId, SessionId};
use sancerre_format::index::{PageTable, Scope, SegmentFields, SegmentReader};
use sancerre_format::key::{AdminSecret, IdentitySecret, KeyFile, Secret, WriterSecret, ZoneSecret};
use sancerre_format::list::PackList;
use sancerre_format::log::Entry;
use sancerre_format::names::{Name, Tag, Time, Title, Zone, ZoneKey};
use sancerre_format::node::{Node, NodeLimits};
use sancerre_format::outcome::{Abort, Body, Commit, Manifest};
use sancerre_format::pack::Pack;
use sancerre_format::recipient::{AdminKey, Opener, RecipientRecord};
use sancerre_format::record::{self, Cut, Fields, SignedBy, Trust};
use sancerre_format::seal::{Codec, RootKey, UnitKind, UnitName, open, seal, seal_raw};
use sancerre_format::sign::SigningKey;
use sancerre_format::trust::Succession;
use sancerre_image::{Disk, Qcow2Disk};

use crate::disk::MemoryDisk;
use crate::fuzz_image;
use crate::fuzz_serve;
use crate::fuzz_statistics;
use crate::fuzz_storage;
use crate::repo::{name, zone};

/// A target: its name, and what it does with any bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every parser of foreign bytes.
pub const TARGETS: [Target; 30] = [
    ("records", records),
    ("signatures", signatures),
    ("secrets", secrets),
    ("key_files", key_files),
    ("frame_sets", frame_sets),
    ("gc_lists", gc_lists),
    ("states", states),
    ("cut_records", cut_records),
    ("bodies", bodies),
    ("packs", packs),
    ("nodes", nodes),
    ("index", index),
    ("units", units),
    ("words", words),
    ("chunkers", chunkers),
    ("nbd", fuzz_image::nbd),
    ("change_map", fuzz_image::change_map),
    ("qcow2", qcow2),
    ("whole", fuzz_image::whole),
    ("package", fuzz_storage::package),
    ("zfs", fuzz_storage::zfs),
    ("thin", fuzz_storage::thin),
    ("serve", fuzz_serve::serve),
    ("statistics", fuzz_statistics::statistics),
    ("guest", sancerre_guest::fuzz_disk),
    ("guest_words", sancerre_guest::fuzz_packet),
    ("luks", sancerre_guest::fuzz_luks),
    ("file_catalogues", fuzz_statistics::file_catalogues),
    ("boot_traces", fuzz_statistics::boot_traces),
    ("machines", machines),
];

/// The target of this name.
pub fn target(name: &str) -> fn(&[u8]) {
    TARGETS.iter().find(|(known, _)| *known == name).unwrap().1
}

fn trust() -> Trust {
    Trust::new(RepositoryId([0xa5; 16]), SigningKey::from_seed([1; 32]).public())
}

fn session() -> SessionId {
    SessionId { number: 7, intent: Hash([0x77; 32]) }
}

/// Cuts at the first occurrence of `line`, which belongs to what follows.
fn cut<'a>(bytes: &'a [u8], line: &[u8]) -> (&'a [u8], &'a [u8]) {
    let at = bytes.windows(line.len()).position(|window| window == line).unwrap_or(bytes.len());
    bytes.split_at(at)
}

/// What records may call themselves.
const KINDS: [&str; 14] = [
    Succession::KIND,
    Config::KIND,
    IdentityRecord::KIND,
    RecipientRecord::KIND,
    AdminKey::KIND,
    ZoneRecord::KIND,
    Certificate::KIND,
    Entry::KIND,
    Manifest::KIND,
    Abort::KIND,
    Commit::KIND,
    Checkpoint::KIND,
    PackList::KIND,
    SegmentFields::KIND,
];

/// A record whose text is signed by the key that the first byte chooses, whatever stands in it.
fn records(input: &[u8]) {
    let Some((seed, bytes)) = input.split_first() else { return };
    let (text, rest) = cut(bytes, b"-----BEGIN SSH SIGNATURE-----\n");
    let end = b"-----END SSH SIGNATURE-----\n";
    let parts = cut(rest, end).1.get(end.len()..).unwrap_or_default();
    let kind = KINDS.iter().find(|kind| kind.as_bytes() == record::first_line(text));
    let Ok(armor) = SigningKey::from_seed([seed % 8; 32]).sign(kind.unwrap_or(&Entry::KIND), text) else {
        return;
    };
    read_any(&[text, armor.as_bytes(), parts].concat());
}

/// A record as it is: the armour and the signature are the fuzzer's.
fn signatures(input: &[u8]) {
    read_any(input);
    let _ = record::claimed_trust(input);
    let _ = Signer::of_portable(input, &trust());
}

fn read_any(bytes: &[u8]) {
    read::<Config>(bytes);
    read::<IdentityRecord>(bytes);
    read::<Succession>(bytes);
    read::<RecipientRecord>(bytes);
    read::<AdminKey>(bytes);
    read::<ZoneRecord>(bytes);
    read::<Certificate>(bytes);
    read::<Entry>(bytes);
    read::<Manifest>(bytes);
    read::<Abort>(bytes);
    read::<Commit>(bytes);
    read::<Checkpoint>(bytes);
    read::<PackList>(bytes);
    read::<SegmentFields>(bytes);
}

fn read<F: Fields>(bytes: &[u8]) {
    if record::first_line(bytes) == F::KIND.as_bytes() {
        let _ = record::decode::<F>(&trust(), bytes);
    }
}

fn secrets(input: &[u8]) {
    same::<IdentitySecret>(input);
    same::<AdminSecret>(input);
    same::<ZoneSecret>(input);
    same::<WriterSecret>(input);
}

fn key_files(input: &[u8]) {
    same::<KeyFile>(input);
    let _ = sancerre_engine::keys::Keys::from_key_file(input);
    let _ = IdentityFile::parse(input);
}

fn same<S: Secret>(input: &[u8]) {
    if let Ok(secret) = S::decode(input) {
        // Ignorable lines may follow.
        let rest = input.strip_prefix(secret.encode().as_bytes());
        let ignored = |rest: &[u8]| {
            rest.split(|byte| *byte == b'\n').all(|line| line.is_empty() || line.starts_with(b"x-"))
        };
        assert!(rest.is_some_and(ignored), "another spelling was read");
    }
}

/// As text to be compressed, and as a compressed part.
fn frame_sets(input: &[u8]) {
    let _ = FrameSet::decode(input, u64::MAX);
    let Ok(part) = zstd::encode_all(input, 1) else { return };
    let Ok(set) = FrameSet::decode(&part, u64::MAX) else { return };
    assert_eq!(FrameSet::decode(&set.encode().unwrap(), u64::MAX).unwrap(), set);
    let mut twice = set.clone();
    twice.union(&set);
    assert_eq!(twice, set);
}

fn gc_lists(input: &[u8]) {
    let _ = GcLists::decode(input, u64::MAX);
    let Ok(part) = zstd::encode_all(input, 1) else { return };
    if let Ok(lists) = GcLists::decode(&part, u64::MAX) {
        assert_eq!(GcLists::decode(&lists.encode().unwrap(), u64::MAX).unwrap(), lists);
    }
}

/// What a checkpoint says: as it is, and as a text and records, cut at the byte 0xff 0x00 0xff, to be compressed.
fn states(input: &[u8]) {
    let _ = CheckpointState::decode(input, u64::MAX);
    let (text, rest) = cut(input, &[0xff, 0, 0xff]);
    let records = rest.get(3..).unwrap_or_default();
    let (Ok(text), Ok(records)) = (zstd::encode_all(text, 1), zstd::encode_all(records, 1)) else { return };
    let Ok(length) = u32::try_from(text.len()) else { return };
    let part = [&length.to_le_bytes()[..], &text, &records].concat();
    if let Ok(state) = CheckpointState::decode(&part, u64::MAX) {
        assert_eq!(CheckpointState::decode(&state.encode().unwrap(), u64::MAX).unwrap(), state);
    }
}

/// A record of which a checkpoint carries a part, whatever it says of the rest.
fn cut_records(input: &[u8]) {
    let hash = Hash::of(input);
    for cut in [Cut::Whole, Cut::Sealed, Cut::Head] {
        let _ = record::decode_cut::<Entry>(&trust(), input, cut, hash);
        let _ = record::decode_cut::<Manifest>(&trust(), input, cut, hash);
        let _ = record::decode_cut::<Abort>(&trust(), input, cut, hash);
    }
}

fn bodies(input: &[u8]) {
    if let Ok(body) = Body::decode(input) {
        assert_eq!(Body::decode(body.encode().as_bytes()).unwrap(), body);
    }
}

/// A pack whose trailer has the right hash of the directory, whatever stands in it.
fn packs(input: &[u8]) {
    let root = RootKey::metadata(&[0x13; 32], &session());
    let mut bytes = input.to_vec();
    if let Some(at) = input.len().checked_sub(64) {
        let frames = u32::from_le_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]]) as usize;
        if let Some(start) = frames.checked_mul(48).and_then(|size| at.checked_sub(size)) {
            let hash = Hash::of(&input[start..at]);
            bytes[at + 16..at + 48].copy_from_slice(&hash.0);
        }
    }
    for bytes in [input, bytes.as_slice()] {
        let Ok(pack) = Pack::decode(bytes) else { continue };
        let _ = pack.verify_frames();
        let _ = pack.open_table(&root);
        for position in 0..pack.directory().len() {
            let _ = pack.frame(position);
        }
    }
}

fn nodes(input: &[u8]) {
    for leaf_bytes in [1 << 20, 4 << 20, 32 << 20] {
        if let Ok(node) = Node::decode(input, &NodeLimits { leaf_bytes }) {
            assert_eq!(node.encode().unwrap(), input, "another spelling was read");
        }
    }
}

/// A page table, a filter and a page that somebody with the zone's key sealed: cut at the byte 0xff 0x00 0xff.
fn index(input: &[u8]) {
    let (table, rest) = cut(input, &[0xff, 0, 0xff]);
    let page = rest.get(3..).unwrap_or_default();
    let Ok(decoded) = PageTable::decode(table) else { return };
    assert_eq!(decoded.encode().unwrap(), table, "another spelling was read");
    let root = RootKey::metadata(&[0x13; 32], &session());
    let unit = |kind| UnitName { kind, session: session(), a: 0, b: 0 };
    let (Ok(table), Ok(page)) = (
        seal_raw(&root, &unit(UnitKind::IndexTable), 1, table),
        seal_raw(&root, &unit(UnitKind::IndexPage), 1, page),
    ) else {
        return;
    };
    let fields = SegmentFields {
        repository: trust().repository,
        zone: zone(),
        session: session(),
        sequence: 0,
        by: SignedBy { name: name("admin"), certificate: None },
        generation: 1,
        covers: Vec::new(),
        entries: decoded.entries(),
        table_bytes: u32::try_from(table.len()).unwrap(),
        table_hash: Hash::of(&table),
    };
    let sealed = [table.as_slice(), &page].concat();
    let Ok(reader) = SegmentReader::open(&fields, &sealed, &root, Scope::AnySession) else { return };
    let _ = reader.open_page(0, &page);
    let _ = reader.pages(&sealed).count();
    for id in [ContentId([0; 32]), ContentId([0xff; 32]), ContentId(Hash::of(input).0)] {
        let _ = reader.find(&id, &sealed);
        let _ = reader.candidates(&id).count();
    }
    let _ = reader.check_filter(0, &[]);
}

/// A unit as it is; and one whose coded bytes, and what is said of their size, are the fuzzer's.
fn units(input: &[u8]) {
    let root = RootKey::metadata(&[0x13; 32], &session());
    let unit = UnitName { kind: UnitKind::Metadata, session: session(), a: 3, b: 4 };
    let _ = open(&root, &unit, input);
    let Some((head, coded)) = input.split_first_chunk::<4>() else { return };
    let claimed = u32::from_le_bytes(*head) as usize;
    for (codec, raw_bytes) in [(Codec::Zstd, claimed), (Codec::Stored, coded.len())] {
        if let Ok(sealed) = seal(&root, &unit, codec, raw_bytes, coded)
            && let Ok(raw) = open(&root, &unit, &sealed)
        {
            assert_eq!(raw.len(), raw_bytes, "another size than announced");
        }
    }
}

/// Names, times, ids, object keys, and what people type for a snapshot.
fn words(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let spelled = [
        Name::new(text).map(|name| name.to_string()),
        Title::new(text).map(|title| title.to_string()),
        Title::decode(text).map(|title| title.encoded()),
        Zone::new(text).map(|zone| zone.to_string()),
        Tag::new(text).map(|tag| tag.to_string()),
        Time::parse(text).map(|time| time.to_string()),
        SessionId::parse(text).map(|session| session.to_string()),
        Hash::from_hex(text).map(|hash| hash.to_string()),
    ];
    for word in spelled.into_iter().flatten() {
        assert_eq!(word, text, "another spelling was read");
    }
    let _ = ZoneKey::parse(&zone(), text);
    let _ = Opener::parse(text);
    let _ = Selector::parse(text);
}

/// Cuts cover the input without gaps, within their sizes, and a chunk is cut alone as it is cut in place.
fn chunkers(input: &[u8]) {
    let layout = Layout::default();
    for chunker in [Chunker::disk(&[5; 32], layout.disk), Chunker::stream(&[5; 32], layout.stream)] {
        let chunker = chunker.unwrap();
        let mut rest = input;
        while let Some(piece) = chunker.next_piece(rest) {
            assert!((1..=rest.len()).contains(&piece.length_bytes));
            let (here, after) = rest.split_at(piece.length_bytes);
            if piece.kind == PieceKind::Data {
                assert!(here.len() <= layout.disk.max_bytes as usize);
                assert!(chunker.confirms(rest, here.len()), "its own cut is not confirmed");
            } else {
                assert!(here.iter().all(|byte| *byte == 0));
            }
            rest = after;
        }
        assert!(rest.is_empty());
    }
}

/// An image that needs no other file: what is in no range reads as zeros, and all parts read as the whole does.
fn qcow2(input: &[u8]) {
    let Ok(disk) = Qcow2Disk::in_disk(MemoryDisk::dense(input.to_vec())) else { return };
    let end = disk.size_bytes().min(1 << 20);
    for bitmap in disk.bitmaps().unwrap_or_default() {
        let _ = disk.bitmap_ranges(&bitmap, 0..end);
    }
    let Ok(ranges) = disk.data_ranges(0..end) else { return };
    let mut whole = vec![1; end as usize];
    if disk.read_at(0, &mut whole).is_err() {
        return;
    }
    let mut rebuilt = vec![0; end as usize];
    for range in ranges {
        let place = range.start as usize..range.end as usize;
        disk.read_at(range.start, &mut rebuilt[place]).expect("a part of what could be read");
    }
    assert!(rebuilt == whole, "data outside the ranges");
}

/// What libvirt says of a machine.
fn machines(bytes: &[u8]) {
    if let Ok(machine) = sancerre_capture::Machine::of(String::from_utf8_lossy(bytes).into_owned()) {
        assert_eq!(machine.uuid.len(), 36);
    }
}
