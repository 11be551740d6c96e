//! Names, times, identifiers, object keys and the strict reader of lines.

mod common;

use common::{session, zone};
use proptest::prelude::*;
use sancerre_format::FormatError;
use sancerre_format::id::{ContentId, Hash, PackName, RepositoryId, SessionId};
use sancerre_format::names::{self, Folder, Name, TITLE_BYTES_MAX, Tag, Time, Title, Zone, ZoneKey};
use sancerre_format::text::{TextReader, TextWriter, number};

#[test]
fn names_tags_and_zones() {
    let longest = "a".repeat(64);
    for good in ["a", "0", "web01", "A.b_c-d", "pacs01.example.org", longest.as_str()] {
        assert_eq!(Name::new(good).unwrap().to_string(), good);
    }
    let too_long = "a".repeat(65);
    let bad =
        ["", ".", "..", ".a", "-a", "_a", "a b", "a/b", "a\\b", "a\n", "a\0", "é", "a:b", "a+b", &too_long];
    for bad in bad {
        assert!(Name::new(bad).is_err() && Zone::new(bad).is_err(), "{bad:?}");
    }
    assert!(Zone::new("Ward").is_err() && Zone::new("warD").is_err());
    assert_eq!(Zone::new("ward-3").unwrap().to_string(), "ward-3");

    let longest = "a".repeat(128);
    for good in ["a", ".", "--", "a:b=c@d+e/f-g_h.i", longest.as_str()] {
        assert_eq!(Tag::new(good).unwrap().as_str(), good);
    }
    for bad in ["", "-", "a b", "a,b", "a\n", "é", &"a".repeat(129)] {
        assert!(Tag::new(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn titles() {
    let longest = "ä".repeat(127) + "a";
    let good = [
        ("web01", "web01"),
        ("Büro-Server 2", "B%C3%BCro-Server%202"),
        ("a/b\\c:d%e", "a%2Fb%5Cc%3Ad%25e"),
        ("-x", "-x"),
        ("~.hidden_", "~.hidden_"),
        ("👨\u{200d}💻", "%F0%9F%91%A8%E2%80%8D%F0%9F%92%BB"),
        (longest.as_str(), &("%C3%A4".repeat(127) + "a")),
    ];
    for (text, encoded) in good {
        let title = Title::new(text).unwrap();
        assert_eq!((title.to_string().as_str(), title.encoded().as_str()), (text, encoded));
        assert_eq!(Title::decode(encoded).unwrap(), title);
    }
    let too_long = "ä".repeat(128);
    let bad =
        ["", " ", ".", "..", "-", " a", "a ", "\u{a0}a", "a\n", "a\0b", "a\u{7f}", "a\u{85}b", &too_long];
    for bad in bad {
        assert!(Title::new(bad).is_err() && Title::typed(bad).is_err(), "{bad:?}");
    }
    for turns in "\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}".chars() {
        let text = format!("a{turns}b");
        assert!(Title::new(&text).is_err() && Title::typed(&text).is_err(), "{text:?}");
    }
    assert_eq!(Title::typed("u\u{308}ber").unwrap(), Title::new("über").unwrap());
    assert!(Title::new("u\u{308}ber").is_err(), "signed texts are in NFC");
}

#[test]
fn times() {
    assert_eq!(Time::from_unix_seconds(0).to_string(), "1970-01-01T00:00:00Z");
    assert_eq!(Time::from_unix_seconds(1_795_468_228).to_string(), "2026-11-23T21:10:28Z");
    assert_eq!(Time::parse("2026-11-23T21:10:28Z").unwrap().unix_seconds(), 1_795_468_228);
    assert_eq!(Time::parse("2024-02-29T23:59:59Z").unwrap().to_string(), "2024-02-29T23:59:59Z");
    let bad = [
        "",
        "-",
        "2026-11-23",
        "2026-11-23T21:10:28",
        "2026-11-23T21:10:28z",
        "2026-11-23t21:10:28Z",
        "2026-11-23 21:10:28Z",
        "2026-11-23T21:10:28.0Z",
        "2026-11-23T21:10:28+00:00",
        "2026-11-23T21:10Z",
        "2026-11-23T21:10:60Z",
        "2026-11-23T24:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "26-11-23T21:10:28Z",
        "+002026-11-23T21:10:28Z",
        "-000001-11-23T21:10:28Z",
        " 2026-11-23T21:10:28Z",
        "2026-11-23T21:10:28Z[UTC]",
    ];
    for bad in bad {
        assert!(Time::parse(bad).is_err(), "{bad:?}");
    }
    for clamped in [i64::MIN, i64::MAX] {
        let time = Time::from_unix_seconds(clamped);
        assert_eq!(Time::parse(&time.to_string()).unwrap(), time, "{time}");
    }
    assert_eq!(Time::from_unix_seconds(i64::MIN).to_string(), "0000-01-01T00:00:00Z");
}

#[test]
fn numbers_have_one_spelling() {
    for (text, value) in [("0", 0), ("7", 7), ("255", 255)] {
        assert_eq!(number::<u8>("test", text).unwrap(), value);
    }
    for bad in ["", "00", "07", "+7", "-7", " 7", "7 ", "256", "0x7", "7.0", "7_0", "٧"] {
        assert!(number::<u8>("test", bad).is_err(), "{bad:?}");
    }
    assert_eq!(number::<u64>("test", "18446744073709551615").unwrap(), u64::MAX);
    assert!(number::<u64>("test", "18446744073709551616").is_err());
}

#[test]
fn session_ids() {
    let id = session(3);
    let text = id.to_string();
    assert_eq!((text.len(), SessionId::parse(&text).unwrap()), (16 + 1 + 64, id));
    let bad = [
        String::new(),
        text.to_uppercase(),
        text.replace('-', ""),
        text.replace('-', "_"),
        format!("{text}0"),
        format!("0{text}"),
        text[1..].to_owned(),
        text.replacen('-', "--", 1),
        "3-".to_owned(),
    ];
    for bad in bad {
        assert!(SessionId::parse(&bad).is_err(), "{bad:?}");
    }
    assert!(RepositoryId::from_hex(&"A5".repeat(16)).is_err());
    assert!(ContentId::from_hex(&"0".repeat(63)).is_err());
}

#[test]
fn keys_are_spelled_as_format_md_says() {
    let (id, label) = (session(0x1f), Name::new("front-desk").unwrap());
    let hash = Hash([0xab; 32]);
    let hex = "ab".repeat(32);
    assert_eq!(names::identity(10), "keys/identities/000a");
    assert_eq!(names::recipient(10, &label), "keys/recipients/000a-front-desk");
    assert_eq!(names::identity_epoch("keys/identities/000a"), Some(10));
    assert_eq!(names::identity_epoch("keys/identities/a"), None);
    assert_eq!(names::recipient_parts("keys/recipients/000a-front-desk"), Some((10, label.clone())));
    assert_eq!(names::recipient_parts("keys/recipients/000a"), None);
    let desk = Zone::new("front-desk").unwrap();
    assert_eq!(names::zone_parts("keys/zones/front-desk-0001"), Some((desk, 1)));
    assert_eq!(names::admin(&label), "keys/admin/front-desk");
    assert_eq!(names::zone(&zone(), 1), "keys/zones/ward-3-0001");
    assert_eq!(names::zone_generation(&zone(), "keys/zones/ward-3-0001"), Some(1));
    assert_eq!(names::zone_generation(&zone(), "keys/zones/ward-30001"), None);
    assert_eq!(names::zone_generation(&zone(), "keys/zones/ward-3-x-0001"), None);
    assert_eq!(names::certificate(&label), "keys/certificates/front-desk");
    assert_eq!(names::log(&zone(), 0x1f), "zones/ward-3/log/000000000000001f");
    assert_eq!(names::outcome(&zone(), &id), format!("zones/ward-3/outcome/000000000000001f-{}", id.intent));
    let pack = PackName { session: 0x1f, ordinal: 2 };
    assert_eq!(
        names::pack(&zone(), pack, &hash),
        format!("zones/ward-3/packs/000000000000001f/00000002-{hex}")
    );
    for (key, folder) in [(names::list(&zone(), &id, 3), "lists"), (names::index(&zone(), &id, 3), "index")] {
        assert_eq!(key, format!("zones/ward-3/{folder}/000000000000001f-{}/00000003", id.intent));
    }
    for folder in Folder::ALL {
        assert!(names::folder(&zone(), folder).starts_with("zones/ward-3/"));
    }
}

#[test]
fn keys_of_any_other_form_belong_to_nobody() {
    let hex = "ab".repeat(32);
    let good = "zones/ward-3/log/000000000000001f";
    assert_eq!(ZoneKey::parse(&zone(), good).unwrap(), ZoneKey::Log(0x1f));
    let bad = [
        "".to_owned(),
        "config".into(),
        "zones/ward-3".into(),
        "zones/ward-3/log/".into(),
        "zones/ward-30/log/000000000000001f".into(),
        "zones/ward-4/log/000000000000001f".into(),
        "/zones/ward-3/log/000000000000001f".into(),
        "zones/ward-3/log/000000000000001F".into(),
        "zones/ward-3/log/1f".into(),
        "zones/ward-3/log/000000000000001f/".into(),
        format!("{good}.tmp"),
        format!("{good}-{hex}"),
        "zones/ward-3/logs/000000000000001f".into(),
        "zones/ward-3/outcome/000000000000001f".into(),
        format!("zones/ward-3/packs/000000000000001f-{hex}"),
        "zones/ward-3/packs/000000000000001f/00000002".into(),
        format!("zones/ward-3/packs/000000000000001f/2-{hex}"),
        format!("zones/ward-3/packs/000000000000001f/00000002-{hex}0"),
        "zones/ward-3/lists/000000000000001f/00000003".into(),
        format!("zones/ward-3/lists/000000000000001f-{hex}/3"),
        format!("zones/ward-3/index/000000000000001f-{hex}"),
        format!("zones/ward-3/index/000000000000001f-{hex}0/00000003"),
        format!("zones/ward-3/lists/000000000000001f-{hex}/00000003/0"),
    ];
    for key in bad {
        assert!(ZoneKey::parse(&zone(), &key).is_err(), "{key:?}");
    }
}

proptest! {
    #[test]
    fn keys_come_back(n: u64, k: u32, intent: [u8; 32], hash: [u8; 32]) {
        let (id, pack) = (SessionId { number: n, intent: Hash(intent) }, PackName { session: n, ordinal: k });
        let parse = |key: String| ZoneKey::parse(&zone(), &key).unwrap();
        prop_assert_eq!(parse(names::log(&zone(), n)), ZoneKey::Log(n));
        prop_assert_eq!(parse(names::checkpoint(&zone(), n)), ZoneKey::Checkpoint(n));
        prop_assert_eq!(parse(names::outcome(&zone(), &id)), ZoneKey::Outcome(id));
        prop_assert_eq!(parse(names::pack(&zone(), pack, &Hash(hash))), ZoneKey::Pack(pack, Hash(hash)));
        prop_assert_eq!(parse(names::list(&zone(), &id, k)), ZoneKey::List(id, k));
        prop_assert_eq!(parse(names::index(&zone(), &id, k)), ZoneKey::Index(id, k));
    }

    #[test]
    fn any_key_has_one_spelling(key in "zones/ward-3/(log|outcome|lists|index|packs|checkpoints)/[0-9a-fA-F]{15,17}(-[0-9a-f]{63,65})?(/[0-9a-f]{7,9})?") {
        if let Ok(parsed) = ZoneKey::parse(&zone(), &key) {
            let spelled = match parsed {
                ZoneKey::Log(n) => names::log(&zone(), n),
                ZoneKey::Checkpoint(n) => names::checkpoint(&zone(), n),
                ZoneKey::Outcome(id) => names::outcome(&zone(), &id),
                ZoneKey::Pack(name, hash) => names::pack(&zone(), name, &hash),
                ZoneKey::List(id, i) => names::list(&zone(), &id, i),
                ZoneKey::Index(id, i) => names::index(&zone(), &id, i),
            };
            prop_assert_eq!(spelled, key);
        }
    }

    #[test]
    fn times_come_back(seconds in -62_167_219_200i64..253_402_207_200) {
        let time = Time::from_unix_seconds(seconds);
        prop_assert_eq!((time.unix_seconds(), time.to_string().len()), (seconds, 20));
        prop_assert_eq!(Time::parse(&time.to_string()).unwrap(), time);
    }

    #[test]
    fn names_are_what_the_rule_says(text in "[ -~]{0,70}") {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let good = (1..=64).contains(&text.len()) && text.bytes().all(plain)
            && text.as_bytes()[0].is_ascii_alphanumeric();
        prop_assert_eq!(Name::new(&text).is_ok(), good);
    }

    #[test]
    fn titles_have_one_spelling(text in any::<String>()) {
        let Ok(title) = Title::typed(&text) else { return Ok(()) };
        let encoded = title.encoded();
        prop_assert!(title.as_str().len() <= TITLE_BYTES_MAX);
        prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~-%".contains(&byte)));
        prop_assert_eq!(Title::decode(&encoded).unwrap(), title.clone());
        prop_assert_eq!(Title::typed(title.as_str()).unwrap(), title);
    }

    #[test]
    fn what_decodes_is_spelled_so(text in "([a-zA-Z0-9._~-]|%[0-9a-fA-F]{2}|%C3%A[0-9]|%20|[ -~]){1,20}") {
        if let Ok(title) = Title::decode(&text) {
            prop_assert_eq!(title.encoded(), text);
            prop_assert_eq!(Title::new(title.as_str()).unwrap(), title);
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in "sancerre-test-v1\n(.|\n){0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for text in [text.as_bytes(), &bytes] {
            if let Ok(mut reader) = TextReader::new("sancerre-test-v1", text) {
                let _ = reader.repeated("x", |value| Ok(value.len()));
                let _ = reader.number::<u32>("n");
                let _ = reader.extensions();
                let _ = reader.finish();
            }
        }
    }
}

#[test]
fn first_lines() {
    let read = |text: &str| TextReader::new("sancerre-test-v1", text.as_bytes()).err();
    assert_eq!(read("sancerre-test-v1\n"), None);
    for later in ["sancerre-test-v2\n", "sancerre-test-v11\n"] {
        assert!(matches!(read(later), Some(FormatError::Unsupported { .. })), "{later:?}");
    }
    let others =
        ["", "\n", "sancerre-test-v1", "sancerre-test-v1 \n", "sancerre-test-v\n", "Sancerre-test-v1\n"];
    for other in others {
        assert!(matches!(read(other), Some(FormatError::Corrupt { .. })), "{other:?}");
    }
}

#[test]
fn lines_come_back_in_their_order() {
    let mut writer = TextWriter::new("sancerre-test-v1");
    writer.field("a", 1).repeated("b", ["x", "y"]).extensions(&["x-z: 1".into(), "x-z: 1".into()]);
    let text = writer.finish();
    assert_eq!(text, "sancerre-test-v1\na: 1\nb: x\nb: y\nx-z: 1\nx-z: 1\n");
    let mut reader = TextReader::new("sancerre-test-v1", text.as_bytes()).unwrap();
    assert!(reader.value("b").is_err());
    assert_eq!(reader.number::<u8>("a").unwrap(), 1);
    assert_eq!(reader.repeated("b", |value| Ok(value.to_owned())).unwrap(), ["x", "y"]);
    assert_eq!(reader.extensions().unwrap(), ["x-z: 1", "x-z: 1"]);
    reader.finish().unwrap();
}
