//! Every record kind and every secret comes back as it was, for arbitrary values that the format allows.

mod common;

use std::collections::BTreeMap;

use common::*;
use proptest::collection::vec;
use proptest::prelude::*;
use sancerre_format::certificate::{Certificate, Role, Signer};
use sancerre_format::config::{Config, IdentityRecord, Layout, ProfileSizes, ZoneRecord};
use sancerre_format::id::{ContentId, FrameName, FramePlace, Hash, PackName, Place, RepositoryId, SessionId};
use sancerre_format::key::{
    AdminSecret, IdentitySecret, KeyFile, Secret, WriterSecret, ZoneKeys, ZoneSecret,
};
use sancerre_format::list::{ListedPack, PackList};
use sancerre_format::log::{Abandon, Approval, Distrust, Entry, Held, Intent, Kind, Note, Quorum, Snapshots};
use sancerre_format::names::{MachineId, Name, Tag, Time, Title, Zone};
use sancerre_format::outcome::{
    Abort, Body, Chunking, Commit, Consistency, Manifest, Member, MemberKind, MemberWords, Root, Unreadable,
};
use sancerre_format::pack::PackKind;
use sancerre_format::recipient::{AdminKey, Opener, RecipientRecord};
use sancerre_format::record::{self, Cut, Fields, SignedBy, Trust};
use sancerre_format::sign::PublicKey;

fn any_name() -> impl Strategy<Value = Name> {
    "[A-Za-z0-9][A-Za-z0-9._-]{0,63}".prop_map(|text| Name::new(&text).unwrap())
}

fn any_title() -> impl Strategy<Value = Title> {
    let text = "[A-Za-z0-9 äß%/:\\\\サ👨\u{301}._~-]{1,40}";
    text.prop_filter_map("not a title", |text| Title::typed(&text).ok())
}

fn any_zone() -> impl Strategy<Value = Zone> {
    "[a-z0-9][a-z0-9._-]{0,63}".prop_map(|text| Zone::new(&text).unwrap())
}

/// Printable, neither empty nor padded.
fn any_value() -> impl Strategy<Value = String> {
    "[!-~]([ -~]{0,60}[!-~])?"
}

fn any_time() -> impl Strategy<Value = Time> {
    // Within the life of the fixed certificates: their expiry has its own tests.
    (1_767_225_600i64..1_798_761_600).prop_map(Time::from_unix_seconds)
}

fn any_hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash)
}

fn any_session() -> impl Strategy<Value = SessionId> {
    (any::<u64>(), any_hash()).prop_map(|(number, intent)| SessionId { number, intent })
}

fn any_sessions(least: usize) -> impl Strategy<Value = Vec<SessionId>> {
    prop::collection::btree_set(any_session(), least..5).prop_map(|ids| ids.into_iter().collect())
}

/// A public key that is one: the keys of random seeds.
fn any_key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(|seed| sancerre_format::sign::SigningKey::from_seed(seed).public())
}

/// Encodes and decodes `fields` with parts; everything must come back, and the same bytes must be made again.
fn comes_back<F>(fields: &F, seed: u8, parts: &[Vec<u8>; 2]) -> Result<(), TestCaseError>
where
    F: Fields + PartialEq + std::fmt::Debug,
{
    comes_back_in(&trust(), fields, seed, parts)
}

fn comes_back_in<F>(trust: &Trust, fields: &F, seed: u8, parts: &[Vec<u8>; 2]) -> Result<(), TestCaseError>
where
    F: Fields + PartialEq + std::fmt::Debug,
{
    let [public, sealed] = parts;
    let bytes = record::encode(fields, "a tool/1.0", &key(seed), public, sealed).unwrap();
    let decoded = record::decode::<F>(trust, &bytes).unwrap();
    prop_assert_eq!(&decoded.fields, fields);
    prop_assert_eq!((decoded.public().unwrap(), decoded.sealed().unwrap()), (&public[..], &sealed[..]));
    prop_assert_eq!((decoded.tool.as_str(), decoded.hash), ("a tool/1.0", Hash::of(&bytes)));
    let again = record::encode(&decoded.fields, &decoded.tool, &key(seed), public, sealed).unwrap();
    prop_assert_eq!(again, bytes);
    // An x- line that a later version adds changes nothing for this one.
    let (text, _, rest) = forgery::pieces(&record::encode(fields, TOOL, &key(seed), public, sealed).unwrap());
    let extended = text.replacen("\npublic: ", "\nx-site: north\nx-b: 2\npublic: ", 1);
    let extended = record::decode::<F>(trust, &forgery::resign(&extended, seed, &rest)).unwrap();
    prop_assert_eq!(&extended.fields, fields);
    Ok(())
}

fn any_parts() -> impl Strategy<Value = [Vec<u8>; 2]> {
    // Parts may hold anything, the lines of a signature included.
    let part =
        || prop_oneof![3 => vec(any::<u8>(), 0..80), 1 => Just(b"-----BEGIN SSH SIGNATURE-----\n".to_vec())];
    [part(), part()]
}

fn any_layout() -> impl Strategy<Value = Layout> {
    let profile = (12u32..17, 0u32..3, 0u32..2).prop_map(|(min, target, max)| ProfileSizes {
        min_bytes: 1 << min,
        target_bytes: 1 << (min + target),
        max_bytes: 1 << (min + target + max),
    });
    let profile = || profile.clone();
    (20u32..31, 20u32..26, 20u32..25, 20u32..31, profile(), profile()).prop_map(
        |(region, leaf, frame, pack, disk, stream)| Layout {
            region_bytes: 1 << region,
            leaf_bytes: 1 << leaf.min(region),
            frame_bytes: 1 << frame,
            pack_bytes: 1 << pack,
            disk,
            stream,
        },
    )
}

fn any_snapshots() -> impl Strategy<Value = Snapshots> {
    (any_sessions(1), any_value()).prop_map(|(snapshots, reason)| Snapshots { snapshots, reason })
}

fn any_machine() -> impl Strategy<Value = Option<MachineId>> {
    let text = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
    prop::option::of(text.prop_map(|text| MachineId::parse(&text).unwrap()))
}

fn any_held() -> impl Strategy<Value = Held> {
    let vms = prop::collection::btree_set(any_title(), 1..4);
    (any_sessions(0), vms, any_value()).prop_map(|(snapshots, vms, reason)| Held {
        snapshots,
        vms: vms.into_iter().collect(),
        reason,
    })
}

fn any_note() -> impl Strategy<Value = Note> {
    (any_name(), prop::option::of(any_name()), any_sessions(0)).prop_map(|(topic, result, snapshots)| Note {
        topic,
        result: result.filter(|word| word.as_str() != "-"),
        snapshots,
    })
}

/// Of numbers that every entry of these tests may distrust.
fn any_distrust() -> impl Strategy<Value = Distrust> {
    (any_name(), 0u64..=1, any_value()).prop_map(|(writer, from, reason)| Distrust { writer, from, reason })
}

fn any_kind() -> impl Strategy<Value = Kind> {
    let intent = (any_title(), any_machine(), any::<u16>(), any::<u16>(), any_hash(), any_sessions(0))
        .prop_map(|(vm, machine, generation, epoch, commitment, parents)| Intent {
            vm,
            machine,
            generation,
            epoch,
            commitment,
            parents,
        });
    let approval = (any_sessions(1), any_value()).prop_map(|(entries, reason)| Approval { entries, reason });
    let quorum =
        (0..=16u32, any_value()).prop_map(|(approvals_needed, reason)| Quorum { approvals_needed, reason });
    prop_oneof![
        intent.prop_map(Kind::Backup),
        any::<u16>().prop_map(|generation| Kind::Gc { generation }),
        any_snapshots().prop_map(Kind::Forget),
        any_snapshots().prop_map(Kind::Undelete),
        any_held().prop_map(Kind::Hold),
        any_held().prop_map(Kind::Release),
        approval.prop_map(Kind::Approve),
        quorum.prop_map(Kind::Quorum),
        any_note().prop_map(Kind::Note),
        any_value().prop_map(|reason| Kind::Quarantine { reason }),
        any_distrust().prop_map(Kind::Taint),
        any_distrust().prop_map(Kind::Revoke),
        (any_session(), any_value()).prop_map(|(session, reason)| Kind::Abandon(Abandon { session, reason })),
    ]
}

fn signer_of(kind: &Kind) -> (SignedBy, u8) {
    match kind {
        Kind::Backup(_) | Kind::Quarantine { .. } => (writer(), WRITER),
        Kind::Taint(_) | Kind::Revoke(_) | Kind::Abandon(_) | Kind::Quorum(_) => (admin(), ADMIN),
        _ => (keeper(), KEEPER),
    }
}

fn any_consistency() -> impl Strategy<Value = Consistency> {
    let later = Consistency::Other(Name::new("replayed").unwrap());
    prop::sample::select(vec![
        Consistency::Crash,
        Consistency::Frozen,
        Consistency::Application,
        Consistency::Fuzzy,
        Consistency::Partial,
        later,
    ])
}

fn any_words() -> impl Strategy<Value = MemberWords> {
    let known = prop::option::of("role=(domain|nvram|tpm)");
    let sector = prop::option::of("lsize=(512|4096)");
    (known, sector, vec("x-[a-z]{1,9}=[!-~]{1,20}", 0..3)).prop_map(|(role, sector, more)| {
        MemberWords::new(role.into_iter().chain(sector).chain(more).collect()).unwrap()
    })
}

/// Ranges of which no two touch, inside of so many bytes.
fn any_ranges() -> impl Strategy<Value = Vec<std::ops::Range<u64>>> {
    vec((1u64..1 << 40, 1u64..1 << 40), 0..5000).prop_map(|steps| {
        let mut at = 0u64;
        let mut next = |(gap, length)| {
            let start = at + gap;
            at = start + length;
            start..at
        };
        steps.into_iter().map(&mut next).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// However many there are, they fit a line, and none that could not be read is left out.
    #[test]
    fn what_could_not_be_read_is_always_named(ranges in any_ranges()) {
        let unreadable = Unreadable::new(ranges.clone());
        let text = unreadable.to_string();
        prop_assert!(text.len() <= 48 << 10);
        if !ranges.is_empty() {
            prop_assert_eq!(&Unreadable::parse(&text, u64::MAX).unwrap(), &unreadable);
        }
        for range in &ranges {
            prop_assert!(unreadable.ranges().iter().any(|named| named.start <= range.start && range.end <= named.end));
        }
        if ranges.len() < 1000 {
            prop_assert_eq!(unreadable.ranges(), &ranges[..]);
        }
        let mut shuffled = ranges.clone();
        shuffled.reverse();
        shuffled.extend(ranges);
        prop_assert_eq!(Unreadable::new(shuffled), unreadable);
    }
}

fn any_manifest() -> impl Strategy<Value = Manifest> {
    let place = (any_session(), any_title(), any_machine(), any_time(), any_time(), any_sessions(0));
    let sizes = (any::<u32>(), any::<[u64; 4]>(), any_consistency(), any_value(), any::<[u32; 2]>());
    let until = (prop::option::of(any_time()), prop::option::of(any_time()), prop::option::of(any_name()));
    (place, sizes, until).prop_map(|(place, sizes, (lock_until, retain_until, class))| {
        let (session, vm, machine, started, finished, parents) = place;
        let (disks, [size_bytes, data_bytes, new_bytes, stored_bytes], consistency, scan, counts) = sizes;
        let [lists, segments] = counts;
        let (repository, zone, by) = (repository(), zone(), writer());
        Manifest {
            repository,
            zone,
            session,
            by,
            vm,
            machine,
            started,
            finished,
            parents,
            disks,
            size_bytes,
            data_bytes,
            new_bytes,
            stored_bytes,
            consistency,
            scan,
            class,
            retain_until,
            lists,
            segments,
            lock_until,
        }
    })
}

fn any_root() -> impl Strategy<Value = Root> {
    (0u8..8, any::<[u8; 32]>(), any::<u64>(), any::<[u32; 6]>()).prop_map(|(level, id, session, numbers)| {
        let [ordinal, index, pack_offset, sealed_bytes, offset_bytes, size_bytes] = numbers;
        let frame = FrameName { pack: PackName { session, ordinal }, index };
        let frame = FramePlace { frame, offset_bytes: pack_offset, sealed_bytes };
        Root { level, id: ContentId(id), place: Place { frame, offset_bytes, size_bytes } }
    })
}

fn any_member() -> impl Strategy<Value = Member> {
    let kinds = prop::sample::select(vec![
        MemberKind::Disk,
        MemberKind::Stream,
        MemberKind::File,
        MemberKind::Other(Name::new("cdrom").unwrap()),
    ]);
    let later = Chunking::Other(Name::new("wide").unwrap());
    let chunking = prop::sample::select(vec![Chunking::Disk, Chunking::Stream, later]);
    let numbers = (any::<u32>(), any::<[u64; 5]>(), any::<bool>());
    (any_title(), kinds, chunking, numbers, prop::option::of(any_root()), any_words()).prop_map(
        |(name, kind, chunking, (phase_bytes, numbers, fuzzy), root, words)| {
            let [size_bytes, data_bytes, new_bytes, chunks, new_chunks] = numbers;
            Member {
                name,
                kind,
                chunking,
                phase_bytes,
                size_bytes,
                data_bytes,
                new_bytes,
                chunks,
                new_chunks,
                fuzzy,
                root,
                words,
            }
        },
    )
}

fn any_body() -> impl Strategy<Value = Body> {
    let tag = "[A-Za-z0-9._:=@+/][A-Za-z0-9._:=@+/-]{0,127}".prop_map(|tag| Tag::new(&tag).unwrap());
    let members = vec(any_member(), 0..5).prop_map(|mut members| {
        let mut seen = std::collections::BTreeSet::new();
        members.retain(|member| seen.insert(member.name.clone()));
        members
    });
    (prop::option::of(any_title()), vec(tag, 0..4), members).prop_map(|(vm, tags, members)| Body {
        vm,
        tags,
        members,
        annexes: Vec::new(),
    })
}

fn any_pack() -> impl Strategy<Value = ListedPack> {
    let hashes = (any_hash(), any_hash(), any_hash());
    let kinds = prop::sample::select(vec![PackKind::Data, PackKind::Metadata, PackKind::Annex]);
    (any::<u32>(), kinds, any::<u64>(), hashes, any::<u32>()).prop_map(
        |(ordinal, kind, size_bytes, (hash, sha256, tail), frames)| ListedPack {
            ordinal,
            kind,
            size_bytes,
            hash,
            sha256,
            tail,
            frames,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn config(created in any_time(), approvals_needed in 0..=16u32, layout in any_layout(), id: [u8; 16], parts in any_parts()) {
        let repository = RepositoryId(id);
        let config = Config { repository, created, admin: key(ADMIN).public(), approvals_needed, layout };
        let trust = Trust::new(repository, trust().admin);
        comes_back_in(&trust, &config, ADMIN, &parts)?;
        let bytes = sign(&config, ADMIN);
        prop_assert_eq!(record::claimed_trust(&bytes).unwrap(), trust);
    }

    #[test]
    fn identity_and_zone(epoch: u16, generation: u16, created in any_time(), zone in any_zone(), parts in any_parts(), recipient in "age1[a-z0-9]{1,90}") {
        comes_back(&IdentityRecord { repository: repository(), epoch, created, recipient }, ADMIN, &parts)?;
        comes_back(&ZoneRecord { repository: repository(), zone, generation, created, epoch }, ADMIN, &parts)?;
    }

    #[test]
    fn recipients(epoch: u16, label in any_name(), created in any_time(), key in any_key(), age in "age1[a-z0-9]{1,90}", parts in any_parts()) {
        for opener in [Opener::Passphrase, Opener::Age(age), Opener::Ssh(key)] {
            let label = label.clone();
            comes_back(&AdminKey { repository: repository(), label: label.clone(), created }, ADMIN, &parts)?;
            comes_back(&RecipientRecord { repository: repository(), epoch, label, created, opener }, ADMIN, &parts)?;
        }
    }

    #[test]
    fn certificates(zone in any_zone(), name in any_name(), key in any_key(), role_name in any_name(), issued in any_time(), expires in prop::option::of(any_time()), parts in any_parts()) {
        prop_assume!(name.as_str() != "admin" && role_name.as_str() != "admin");
        let certificate = Certificate { repository: repository(), zone, name, role_name, key, issued, expires };
        comes_back(&certificate, ADMIN, &parts)?;
        let portable = signed_by(&certificate, ADMIN).certificate.unwrap();
        let signer = Signer::of_portable(portable.as_bytes(), &trust()).unwrap();
        prop_assert_eq!(signer, Signer::Certified(Box::new(certificate)));
    }

    #[test]
    fn log_entries(number in 5u64.., kind in any_kind(), time in any_time(), parts in any_parts()) {
        let (by, seed) = signer_of(&kind);
        comes_back(&Entry { number, time, ..entry(kind, by) }, seed, &parts)?;
    }

    #[test]
    fn pack_lists(session in any_session(), sequence: u32, packs in vec(any_pack(), 0..5), parts in any_parts()) {
        let mut packs = packs;
        packs.sort_by_key(|pack| pack.ordinal);
        packs.dedup_by_key(|pack| pack.ordinal);
        let list = PackList { repository: repository(), zone: zone(), session, sequence, by: writer(), packs, words: BTreeMap::new() };
        comes_back(&list, WRITER, &parts)?;
    }

    #[test]
    fn manifests(manifest in any_manifest(), parts in any_parts()) {
        comes_back(&manifest, WRITER, &parts)?;
    }

    #[test]
    fn aborts_and_commits(session in any_session(), time in any_time(), reason in any_value(), previous in prop::option::of(any_session()), records in any_hash(), parts in any_parts()) {
        let (repository, zone) = (repository(), zone());
        comes_back(&Abort { repository, zone: zone.clone(), session, by: writer(), time, reason }, WRITER, &parts)?;
        comes_back(&Commit { repository, zone, session, by: keeper(), time, previous, records }, KEEPER, &parts)?;
    }

    #[test]
    fn bodies(body in any_body()) {
        let text = body.encode();
        prop_assert_eq!(&Body::decode(text.as_bytes()).unwrap(), &body);
        let extended = format!("{text}x-colour: red\nx-a: 1\n");
        prop_assert_eq!(&Body::decode(extended.as_bytes()).unwrap(), &body);
    }

    #[test]
    fn secrets(id: [u8; 16], generation: u16, epoch: u16, zone in any_zone(), name in any_name(), seed: [u8; 32], keys: [[u8; 32]; 3]) {
        let [id_key, cut, metadata] = keys;
        let keys = ZoneKeys { id: id_key, cut, metadata };
        let repository = RepositoryId(id);
        let signing = sancerre_format::sign::SigningKey::from_seed(seed);
        let trust = Trust::new(repository, signing.public());
        let identity = IdentitySecret { trust: trust.clone(), epoch, identity: "AGE-SECRET-KEY-1QQQ".to_owned().into() };
        same_text(&identity)?;
        let back = IdentitySecret::decode(identity.encode().as_bytes()).unwrap();
        prop_assert_eq!((back.trust, back.epoch, back.identity.as_str()), (trust, epoch, "AGE-SECRET-KEY-1QQQ"));
        same_text(&AdminSecret { repository, key: signing.clone() })?;
        same_text(&WriterSecret { repository, name, key: signing })?;
        let secret = ZoneSecret { repository, zone, generation, keys };
        same_text(&secret)?;
        let back = ZoneSecret::decode(secret.encode().as_bytes()).unwrap();
        prop_assert_eq!((back.zone, back.keys.id, back.keys.cut, back.keys.metadata), (secret.zone.clone(), id_key, cut, metadata));
    }

    #[test]
    fn key_files(generation: u16, epoch: u16, name in any_name(), zone in any_zone(), seed: [u8; 32], recipient in "age1[a-z0-9]{1,90}") {
        prop_assume!(name.as_str() != "admin");
        let signing = sancerre_format::sign::SigningKey::from_seed(seed);
        let certificate = Certificate { name, zone: zone.clone(), key: signing.public(), ..certificate(Role::Writer) };
        let certificate = signed_by(&certificate, ADMIN).certificate.unwrap();
        let file = KeyFile { generation, epoch, zone, recipient, certificate, key: signing, ..samples::key_file() };
        same_text(&file)?;
        let back = KeyFile::decode(file.encode().as_bytes()).unwrap();
        prop_assert_eq!((back.trust, back.epoch, back.key.seed()), (file.trust, epoch, file.key.seed()));
        prop_assert_eq!((&back.certificate, &back.recipient), (&file.certificate, &file.recipient));
    }
}

/// A secret has no equality, on purpose: its text stands for it.
fn same_text<S: Secret>(secret: &S) -> Result<(), TestCaseError> {
    let text = secret.encode();
    let again = S::decode(text.as_bytes()).unwrap().encode();
    prop_assert_eq!(again.as_str(), text.as_str());
    Ok(())
}

/// What is left of a record of which parts were cut off is the same record, and says what it lacks.
#[test]
fn cut_records_verify() {
    let bytes = record::encode(&manifest(), TOOL, &key(WRITER), b"frames", b"body").unwrap();
    let whole = record::decode::<Manifest>(&trust(), &bytes).unwrap();
    for cut in [Cut::Whole, Cut::Sealed, Cut::Head] {
        let left = record::cut::<Manifest>(&bytes, cut).unwrap();
        let read = record::decode_cut::<Manifest>(&trust(), &left, cut, whole.hash).unwrap();
        assert_eq!((&read.fields, &read.signer, read.hash), (&whole.fields, &whole.signer, whole.hash));
        assert_eq!(read.public().is_ok(), cut == Cut::Whole);
        assert_eq!(read.is_whole(), cut == Cut::Whole);
        assert_eq!(read.sealed().ok(), (cut != Cut::Head).then_some(&b"body"[..]));
        for other in [Cut::Whole, Cut::Sealed, Cut::Head].into_iter().filter(|other| *other != cut) {
            let as_other = record::decode_cut::<Manifest>(&trust(), &left, other, whole.hash);
            assert!(as_other.is_err(), "{cut:?} read as {other:?}");
        }
    }
    assert!(record::cut::<Manifest>(&[&bytes[..], b"x"].concat(), Cut::Head).is_err());
}
