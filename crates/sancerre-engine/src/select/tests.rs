//! Every form of a name, and every way it can fail to mean one snapshot.

use sancerre_format::id::{Hash, SessionId};
use sancerre_format::names::Title;

use super::{NamedSnapshot, Selector, Which};

fn name(text: &str) -> Title {
    Title::new(text).unwrap()
}

fn latest(vm: Option<&str>, back: u64, member: Option<&str>) -> Selector {
    Selector { snapshot: Which::Latest { vm: vm.map(name), back }, member: member.map(name) }
}

fn id(prefix: &str, member: Option<&str>) -> Selector {
    Selector { snapshot: Which::Id(prefix.into()), member: member.map(name) }
}

#[test]
fn every_form_is_understood() {
    let cases = [
        ("latest", latest(None, 0, None)),
        ("latest~3", latest(None, 3, None)),
        ("latest:disk1", latest(None, 0, Some("disk1"))),
        ("latest~2:disk1", latest(None, 2, Some("disk1"))),
        ("web01:latest", latest(Some("web01"), 0, None)),
        ("web01:latest~12", latest(Some("web01"), 12, None)),
        ("web01:latest:disk1", latest(Some("web01"), 0, Some("disk1"))),
        ("web01:latest~1:disk1", latest(Some("web01"), 1, Some("disk1"))),
        ("1a2b", id("1a2b", None)),
        ("1A2B3c4d", id("1a2b3c4d", None)),
        ("1a2b3c4d:disk0", id("1a2b3c4d", Some("disk0"))),
        // A machine called like a keyword or an id is still a machine before a colon and "latest".
        ("latest:latest", latest(Some("latest"), 0, None)),
        ("db01:latest", latest(Some("db01"), 0, None)),
        // Names as people have them, colons included.
        ("Büro Server:latest:Platte 1", latest(Some("Büro Server"), 0, Some("Platte 1"))),
        ("Bu\u{308}ro:latest", latest(Some("Büro"), 0, None)),
        ("a:b:latest~1:c:d", latest(Some("a:b"), 1, Some("c:d"))),
        ("a:latest:b:latest", latest(Some("a"), 0, Some("b:latest"))),
        ("latest:disk:latest", latest(None, 0, Some("disk:latest"))),
        ("latest:a/b", latest(None, 0, Some("a/b"))),
        ("1a2b:C:\\disk0", id("1a2b", Some("C:\\disk0"))),
    ];
    for (text, expected) in cases {
        assert_eq!(Selector::parse(text).unwrap(), expected, "{text}");
    }
}

#[test]
fn anything_else_is_refused() {
    for text in [
        "",
        "1a2",
        "web01",
        "web01:disk0",
        "latest~",
        "latest~x",
        "latest~+1",
        "latest~-1",
        "latest:",
        "latest:..",
        "latest: disk0",
        "web\u{202e}01:latest",
        "1a2b:",
        "1a2b:a\nb",
        "web01:latest:",
        ":latest",
    ] {
        let error = Selector::parse(text).unwrap_err().to_string();
        assert!(error.contains("name"), "{text}: {error}");
    }
    let too_long = "a".repeat(256);
    Selector::parse(&too_long).unwrap_err();
}

#[test]
fn a_bare_machine_is_told_the_right_form() {
    let error = Selector::parse("web01").unwrap_err().to_string();
    assert!(error.ends_with("write web01:latest"), "{error}");
}

#[test]
fn a_mistyped_latest_is_told_the_right_word() {
    for (typed, meant) in [
        ("web01:lastest", "web01:latest"),
        ("web01:Latest~2:disk0", "web01:latest~2:disk0"),
        ("web01:lates", "web01:latest"),
        ("latst~1", "latest~1"),
    ] {
        let error = Selector::parse(typed).unwrap_err().to_string();
        assert!(error.ends_with(&format!("{meant} is probably meant")), "{error}");
    }
    let error = Selector::parse("web01:greatest").unwrap_err().to_string();
    assert!(!error.contains("probably"), "{error}");
}

/// Snapshots in the log's order; ids begin with the given bytes.
fn sessions(ids: &[[u8; 4]]) -> Vec<SessionId> {
    let hash = |bytes: &[u8; 4]| {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(bytes);
        Hash(hash)
    };
    ids.iter().zip(1..).map(|(bytes, number)| SessionId { number, intent: hash(bytes) }).collect()
}

fn chosen(text: &str, candidates: &[NamedSnapshot<'_>]) -> Result<u64, String> {
    let selector = Selector::parse(text).unwrap();
    selector.choose(candidates).map(|session| session.number).map_err(|error| error.to_string())
}

#[test]
fn latest_counts_back_within_one_machine() {
    let (web, db) = (name("web01"), name("db01"));
    let ids = sessions(&[[1; 4], [2; 4], [3; 4], [4; 4]]);
    let vms = [&web, &db, &web, &db];
    let both: Vec<_> =
        ids.iter().zip(vms).map(|(session, vm)| NamedSnapshot { session: *session, vm }).collect();
    assert_eq!(chosen("web01:latest", &both), Ok(3));
    assert_eq!(chosen("web01:latest~1", &both), Ok(1));
    assert_eq!(chosen("db01:latest:disk0", &both), Ok(4));
    assert_eq!(
        chosen("latest~1", &both[..1]).unwrap_err(),
        "web01 has no snapshot that far back; its oldest is web01:latest~0"
    );
    assert_eq!(chosen("latest", &both[..1]), Ok(1));
    let error = chosen("latest", &both).unwrap_err();
    assert!(error.ends_with("write one of db01:latest, web01:latest"), "{error}");
    let error = chosen("mail01:latest", &both).unwrap_err();
    assert_eq!(error, "there are no snapshots of mail01; there are some of db01, web01");
    let error = chosen("web01:latest~18446744073709551615", &both).unwrap_err();
    assert!(error.ends_with("web01:latest~1"), "{error}");
}

#[test]
fn an_id_must_be_the_only_one_that_begins_so() {
    let (web, db) = (name("web01"), name("db01"));
    let ids = sessions(&[[0x1a, 0x2b, 0x3c, 0x4d], [0x1a, 0x2b, 0x99, 0], [0xff, 0, 0, 0]]);
    let vms = [&web, &db, &db];
    let all: Vec<_> =
        ids.iter().zip(vms).map(|(session, vm)| NamedSnapshot { session: *session, vm }).collect();
    assert_eq!(chosen("ff00", &all), Ok(3));
    assert_eq!(chosen("1a2b3:disk0", &all), Ok(1));
    let error = chosen("1a2b", &all).unwrap_err();
    assert_eq!(error, "1a2b could be 1a2b3c4d (web01), 1a2b9900 (db01); give more digits");
    let error = chosen("dddd", &all).unwrap_err();
    assert_eq!(error, "no snapshot's id begins with dddd; see `snapshots`");
    let error = chosen("db01", &all).unwrap_err();
    assert!(error.ends_with("write db01:latest"), "{error}");
    let whole = ids[1].intent.to_string();
    assert_eq!(chosen(&whole, &all), Ok(2));
}

#[test]
fn an_empty_repository_says_so() {
    for text in ["latest", "web01:latest", "1a2b"] {
        assert!(chosen(text, &[]).unwrap_err().contains("no snapshots yet"));
    }
}

#[test]
fn long_lists_are_cut() {
    let vms: Vec<_> = (0..20).map(|number| name(&format!("vm{number:02}"))).collect();
    let ids = sessions(&[[9; 4]; 20]);
    let all: Vec<_> =
        ids.iter().zip(&vms).map(|(session, vm)| NamedSnapshot { session: *session, vm }).collect();
    let error = chosen("latest", &all).unwrap_err();
    assert!(error.ends_with("vm07:latest and 12 more"), "{error}");
}
