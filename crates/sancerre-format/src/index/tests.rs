//! Segments: round trips, lookups, every flipped byte, hostile tables, and golden bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::id::{FrameName, FramePlace, PackName};
use crate::names::Name;
use crate::record::{Trust, decode, encode};
use crate::seal::RootKey;
use crate::sign::SigningKey;
use filter::FilterBuilder;

const METADATA_KEY: [u8; 32] = [7; 32];

fn session() -> SessionId {
    SessionId { number: 9, intent: Hash::of(b"intent") }
}

fn root() -> RootKey {
    RootKey::metadata(&METADATA_KEY, &session())
}

fn entry(seed: u32, from: u64) -> IndexEntry {
    let pack = PackName { session: from, ordinal: seed % 7 };
    let frame =
        FramePlace { frame: FrameName { pack, index: seed % 11 }, offset_bytes: seed, sealed_bytes: 560 };
    let place = Place { frame, offset_bytes: seed % 4096, size_bytes: 1 + seed % 5000 };
    IndexEntry { id: ContentId(Hash::of(&seed.to_le_bytes()).0), place }
}

fn fields(built: &SealedSegment, covers: &[SegmentName]) -> SegmentFields {
    SegmentFields {
        repository: RepositoryId([3; 16]),
        zone: Zone::new("main").unwrap(),
        session: session(),
        sequence: 2,
        by: SignedBy { name: Name::new("admin").unwrap(), certificate: None },
        generation: 1,
        covers: covers.to_vec(),
        entries: built.entries,
        table_bytes: built.table_bytes,
        table_hash: built.table_hash,
    }
}

fn build(entries: &mut Vec<IndexEntry>) -> SealedSegment {
    build_sealed(entries, &root(), session(), 2).unwrap()
}

fn open(fields: &SegmentFields, sealed: &[u8], scope: Scope) -> Result<SegmentReader> {
    SegmentReader::open(fields, sealed, &root(), scope)
}

fn all(fields: &SegmentFields, sealed: &[u8]) -> Result<Vec<IndexEntry>> {
    let reader = open(fields, sealed, Scope::AnySession)?;
    let pages: Vec<_> = reader.pages(sealed).collect::<Result<_>>()?;
    Ok(pages.concat())
}

fn small_record() -> Vec<u8> {
    let built = build(&mut (0..5).map(|seed| entry(seed, 9)).collect());
    encode(&fields(&built, &[]), "test 1", &SigningKey::from_seed([4; 32]), &[], &built.sealed).unwrap()
}

fn trust() -> Trust {
    Trust::new(RepositoryId([3; 16]), SigningKey::from_seed([4; 32]).public())
}

fn open_record(bytes: &[u8]) -> Result<Vec<IndexEntry>> {
    let record = decode::<SegmentFields>(&trust(), bytes)?;
    all(&record.fields, record.sealed().unwrap())
}

const MERGED: [SegmentName; 2] =
    [SegmentName { session: 4, sequence: 1 }, SegmentName { session: 12, sequence: 0 }];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn round_trip(seeds in vec((0u32..100_000, 1u64..9), 1..4000)) {
        let mut entries: Vec<_> = seeds.into_iter().map(|(seed, from)| entry(seed, from)).collect();
        let built = build(&mut entries);
        prop_assert_eq!(built.entries, entries.len() as u64);
        prop_assert_eq!(&all(&fields(&built, &MERGED), &built.sealed).unwrap(), &entries);
        let reader = open(&fields(&built, &MERGED), &built.sealed, Scope::AnySession).unwrap();
        for known in entries.iter().step_by(97) {
            prop_assert_eq!(reader.table().pages_for(&known.id).len(), 1);
            prop_assert_eq!(reader.find(&known.id, &built.sealed).unwrap(), Some(known.place));
        }
        prop_assert_eq!(reader.find(&entry(100_001, 1).id, &built.sealed).unwrap(), None);
    }

    #[test]
    fn tables_are_canonical(raw in vec(0u8..3, 0..200), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        if let Ok(table) = PageTable::decode(&raw) {
            prop_assert_eq!(table.encode().unwrap(), raw);
        }
        let mut bytes = table().encode().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = with;
        if let Ok(table) = PageTable::decode(&bytes) {
            prop_assert_eq!(table.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        prop_assert!(open_record(&bytes).is_err());
        let built = SealedSegment { table_bytes: bytes.len() as u32, table_hash: Hash::of(&bytes), entries: 1, sealed: bytes };
        prop_assert!(all(&fields(&built, &[]), &built.sealed).is_err());
    }
}

fn table() -> PageTable {
    let page = |number: u64| PageInfo {
        fence: number << 40,
        offset_bytes: number * 560,
        sealed_bytes: 560,
        entries: 4,
        hash: Hash([1; 32]),
    };
    PageTable {
        sessions: [3, 8].into(),
        filter: Filter { kind: 9, bytes: vec![1, 2, 3] },
        pages: [0, 1, 2].map(page).to_vec(),
    }
}

#[test]
fn tables_that_break_a_rule_are_refused() {
    assert_eq!(PageTable::decode(&table().encode().unwrap()).unwrap(), table());
    let with = |change: fn(&mut PageTable)| {
        let mut table = table();
        change(&mut table);
        table.encode()
    };
    assert!(with(|table| table.sessions = [].into()).is_err());
    assert!(with(|table| table.sessions = [8, 3].into()).is_err());
    assert!(with(|table| table.sessions = [3, 3].into()).is_err());
    assert!(with(|table| table.filter.kind = 0).is_err());
    assert!(with(|table| table.pages.clear()).is_err());
    assert!(with(|table| table.pages[0].fence = u64::MAX).is_err());
    assert!(with(|table| table.pages[1].offset_bytes += 256).is_err());
    assert!(with(|table| table.pages[2].sealed_bytes += 1).is_err());
    assert!(with(|table| table.pages[2].entries = 0).is_err());
    assert!(with(|table| table.pages[2].entries = u32::MAX).is_err());
    for at in [0, 4 + 16 + 1, 4 + 16 + 5 + 3] {
        let mut bytes = table().encode().unwrap();
        bytes[at..at + 4].fill(0xff);
        let error = PageTable::decode(&bytes).unwrap_err().to_string();
        assert!(error.contains("announces 4294967295"), "{error}");
    }
}

#[test]
fn ids_that_share_a_fence_are_found_on_any_page() {
    let tied = |number: u32| {
        let mut entry = entry(number, 9);
        entry.id = ContentId([5; 32]);
        entry.id.0[28..].copy_from_slice(&number.to_be_bytes());
        entry
    };
    let mut entries: Vec<_> = (0..3000).map(tied).chain([entry(1, 9), entry(2, 9)]).collect();
    let built = build(&mut entries);
    let reader = open(&fields(&built, &[]), &built.sealed, Scope::AnySession).unwrap();
    for known in [0, 1091, 1092, 2999].map(tied) {
        assert_eq!(reader.find(&known.id, &built.sealed).unwrap(), Some(known.place));
    }
    assert_eq!(all(&fields(&built, &[]), &built.sealed).unwrap(), entries);
}

#[test]
fn the_newest_place_of_an_id_is_kept() {
    let mut entries = vec![entry(1, 4), entry(1, 8), entry(1, 8), entry(1, 6)];
    build(&mut entries);
    assert_eq!(entries, [entry(1, 8)]);
    assert!(build_sealed(&mut Vec::new(), &root(), session(), 2).is_err(), "nothing to index");
    let mut empty = vec![entry(1, 4)];
    empty[0].place.size_bytes = 0;
    assert!(build_sealed(&mut empty, &root(), session(), 2).is_err());
}

#[test]
fn a_backups_segment_names_no_other_session_and_covers_none() {
    let (own, foreign) = (build(&mut vec![entry(1, 9)]), build(&mut vec![entry(1, 9), entry(2, 8)]));
    let opens = |built: &SealedSegment, covers: &[SegmentName], scope| {
        open(&fields(built, covers), &built.sealed, scope).is_ok()
    };
    assert!(opens(&own, &[], Scope::OwnSession));
    assert!(!opens(&own, &MERGED, Scope::OwnSession) && !opens(&foreign, &[], Scope::OwnSession));
    assert!(opens(&foreign, &[], Scope::AnySession) && opens(&foreign, &MERGED, Scope::AnySession));
}

#[test]
fn a_segment_opens_only_as_what_it_was_sealed() {
    let built = build(&mut (0..3000).map(|seed| entry(seed, 9)).collect());
    let sound = fields(&built, &[]);
    let reader = open(&sound, &built.sealed[..built.table_bytes as usize], Scope::OwnSession).unwrap();
    let page = |number| {
        let range = reader.page_range(number).unwrap();
        &built.sealed[range.start as usize..range.end as usize]
    };
    assert_eq!(reader.table().pages.len(), 3);
    assert_eq!(reader.open_page(1, page(1)).unwrap().len(), 1092);
    assert!(reader.open_page(0, page(1)).is_err() && reader.open_page(3, page(1)).is_err());
    assert!(open(&sound, &built.sealed[..9], Scope::OwnSession).is_err());
    for change in [
        |fields: &mut SegmentFields| fields.sequence = 3,
        |fields: &mut SegmentFields| fields.session.number = 8,
        |fields: &mut SegmentFields| fields.entries += 1,
        |fields: &mut SegmentFields| fields.table_hash.0[0] ^= 1,
    ] {
        let mut wrong = sound.clone();
        change(&mut wrong);
        assert!(open(&wrong, &built.sealed, Scope::AnySession).is_err());
    }
    let mut longer = built.sealed.clone();
    longer.push(0);
    assert!(all(&sound, &longer).is_err());
    assert!(all(&sound, &built.sealed[..built.sealed.len() - 1]).is_err());
}

#[test]
fn every_flipped_byte_of_a_record_is_refused() {
    let bytes = small_record();
    assert_eq!(open_record(&bytes).unwrap().len(), 5);
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert!(open_record(&flipped).is_err(), "byte {at} of {}", bytes.len());
    }
}

#[test]
fn fields_have_one_spelling() {
    let built = build(&mut vec![entry(1, 9)]);
    let key = SigningKey::from_seed([4; 32]);
    let bytes = encode(&fields(&built, &MERGED), "test 1", &key, &[], &built.sealed).unwrap();
    assert_eq!(decode::<SegmentFields>(&trust(), &bytes).unwrap().fields, fields(&built, &MERGED));
    let descending = [MERGED[1], MERGED[0]];
    assert!(encode(&fields(&built, &descending), "test 1", &key, &[], &built.sealed).is_err());
    assert!(["1", "1/", "01/2", "1/-2", "1/4294967296"].iter().all(|text| SegmentName::parse(text).is_err()));
}

#[test]
fn golden() {
    crate::golden::check("index-filtered.bin", &small_record());
}

/// Segments without a filter were written once, and are read for ever.
#[test]
fn golden_without_filter() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/v1/index-segment.bin");
    assert_eq!(open_record(&std::fs::read(path).unwrap()), open_record(&small_record()));
}

/// Entries at every turn of the rules: two pages, of which the second is short.
fn two_pages() -> SegmentReader {
    let built = build(&mut (0..1500).map(|seed| entry(seed, 9)).collect());
    open(&fields(&built, &[]), &built.sealed, Scope::OwnSession).unwrap()
}

#[test]
fn one_id_in_512_passes_the_filter_wrongly() {
    let count = 60_000;
    let built = build(&mut (0..count).map(|seed| entry(seed, 9)).collect());
    let reader = open(&fields(&built, &[]), &built.sealed, Scope::OwnSession).unwrap();
    let passes = |seed| reader.candidates(&entry(seed, 9).id).count();
    assert!((0..count).all(|seed| passes(seed) == 1));
    let wrong: usize = (count..count + 200_000).map(passes).sum();
    assert!((300..480).contains(&wrong), "{wrong} of 200,000 instead of about 390");
    let bits = reader.table().filter.bytes.len() as f64 * 8.0 / f64::from(count);
    assert!((10.4..10.7).contains(&bits), "{bits} bits an entry");
}

#[test]
fn ids_after_the_last_need_no_filter() {
    let reader = two_pages();
    let mut high = entry(0, 9).id;
    high.0[..8].fill(0xff);
    assert_eq!((reader.table().pages_for(&high), reader.candidates(&high).count()), (1..2, 0));
    let mut fences: Vec<u64> = (0..1500).map(|seed| fence(&entry(seed, 9).id)).collect();
    fences.sort_unstable();
    assert_eq!(reader.span(), fences[0]..=fences[1499]);
}

/// Bit by bit as FORMAT.md says it, without the code above.
#[test]
fn the_filter_is_what_the_document_says() {
    let reader = two_pages();
    let (table, mut expected) = (reader.table(), Vec::new());
    let mut ids: Vec<[u8; 32]> = (0..1500).map(|seed| entry(seed, 9).id.0).collect();
    ids.sort_unstable();
    expected.extend(ids.last().unwrap()[..8].iter().rev());
    for page in ids.chunks(1092) {
        let scaled = |id: &[u8; 32]| {
            let middle = u128::from(u64::from_be_bytes(id[8..16].try_into().unwrap()));
            (middle * (page.len() as u128 * 512)) >> 64
        };
        let mut values: Vec<u128> = page.iter().map(scaled).collect();
        values.sort_unstable();
        let gaps: Vec<u128> =
            std::iter::once(values[0]).chain(values.windows(2).map(|pair| pair[1] - pair[0])).collect();
        let bits: String = gaps.iter().map(|gap| "0".repeat((gap >> 8) as usize) + "1").collect();
        let byte = |bits: &[u8]| bits.iter().rev().fold(0u8, |byte, bit| byte << 1 | (bit - b'0'));
        let mut code: Vec<u8> = gaps.iter().map(|gap| *gap as u8).collect();
        code.extend(bits.as_bytes().chunks(8).map(byte));
        expected.extend((code.len() as u32).to_le_bytes());
        expected.extend(code);
    }
    assert_eq!((table.filter.kind, &table.filter.bytes), (1, &expected));
}

#[test]
fn filters_that_break_a_rule_are_refused() {
    let reader = two_pages();
    let opens = |change: fn(&mut PageTable)| {
        let mut table = reader.table().clone();
        change(&mut table);
        filter::PageFilters::read(&table).map(|filters| filters.is_some())
    };
    assert_eq!(opens(|_| {}), Ok(true));
    assert_eq!(opens(|table| table.filter.kind = 2), Ok(false));
    assert!(opens(|table| table.filter.bytes.clear()).is_err());
    assert!(opens(|table| table.filter.bytes[..8].fill(0)).is_err());
    assert!(opens(|table| table.filter.bytes[8] ^= 1).is_err());
    assert!(opens(|table| table.filter.bytes.push(0)).is_err());
    assert!(opens(|table| *table.filter.bytes.last_mut().unwrap() ^= 1).is_err());
    assert!(opens(|table| table.pages[0].entries += 1).is_err());
    assert!(opens(|table| table.pages.truncate(1)).is_err());
}

/// Whoever signs a filter of other ids hides entries: they are stored again. He cannot show a wrong place.
#[test]
fn a_wrong_filter_hides_and_never_lies() {
    let entries: Vec<_> = {
        let mut entries: Vec<_> = (0..1500).map(|seed| entry(seed, 9)).collect();
        entries.sort_unstable_by_key(|entry| entry.id);
        entries
    };
    let reader = two_pages();
    let mut wrong = reader.table().clone();
    let mut filter = FilterBuilder::default();
    for page in entries.chunks(1092) {
        let others: Vec<_> =
            page.iter().map(|known| entry(known.place.frame.offset_bytes + 5000, 9)).collect();
        filter.page(&others).unwrap();
    }
    wrong.filter = filter.finish();
    wrong.filter.bytes[..8].copy_from_slice(&reader.table().filter.bytes[..8]);
    let filters = filter::PageFilters::read(&wrong).unwrap();
    let found = |id| filter::candidates(&wrong, filters.as_ref(), id).count();
    let hidden = entries.iter().filter(|entry| found(&entry.id) == 0).count();
    assert!(hidden > 1450, "{hidden}");
    assert!(reader.check_filter(0, &entries[..1092]).is_ok());
    assert!(reader.check_filter(1, &entries[..1092]).is_err());
}

#[test]
fn a_segment_is_built_in_order_only() {
    let mut builder = SegmentBuilder::new(root(), session(), 2, [9].into());
    let mut entries = [entry(1, 9), entry(2, 9)];
    entries.sort_unstable_by_key(|entry| entry.id);
    builder.push(entries[1]).unwrap();
    assert!(builder.push(entries[1]).is_err() && builder.push(entries[0]).is_err());
    assert_eq!(builder.entries(), 1);
    let mut stranger = SegmentBuilder::new(root(), session(), 2, [8].into());
    stranger.push(entries[0]).unwrap();
    assert!(stranger.finish().is_err(), "its session is not in the list");
}
