//! The pure parts: merging ranges, adding up costs, choosing packs.

// A vector of one range is what a merge gives.
#![allow(clippy::single_range_in_vec_init, clippy::type_complexity)]

use std::collections::BTreeSet;
use std::ops::Range;

use sancerre_format::id::{Hash, PackName, SessionId};
use sancerre_format::list::ListedPack;
use sancerre_format::names::Title;
use sancerre_format::outcome::{Chunking, Member, MemberKind};
use sancerre_format::pack::PackKind;

use super::report::{Findings, Severity, merged};
use super::select::ReadData;
use super::subjects::CheckedSnapshot;

pub(super) fn listed(ordinal: u32) -> (PackName, ListedPack) {
    let name = PackName { session: 3, ordinal };
    let hash = Hash::of(&ordinal.to_le_bytes());
    let pack = ListedPack {
        ordinal,
        kind: PackKind::Data,
        size_bytes: 1,
        hash,
        sha256: hash,
        tail: hash,
        frames: 1,
    };
    (name, pack)
}

#[test]
fn ranges_merge_when_they_touch_or_overlap() {
    let cases: [(&[Range<u64>], &[Range<u64>]); 5] = [
        (&[], &[]),
        (&[0..4, 4..8], &[0..8]),
        (&[8..12, 0..4], &[0..4, 8..12]),
        (&[0..10, 2..4, 9..11], &[0..11]),
        (&[5..5, 7..8], &[7..8]),
    ];
    for (given, expected) in cases {
        assert_eq!(merged(given.to_vec()), expected, "{given:?}");
    }
}

#[test]
fn every_pack_is_in_exactly_one_part() {
    for of in [1, 2, 7, 30] {
        let mut largest = 0;
        let mut total = 0;
        for part in 1..=of {
            let choice = ReadData::Part { part, of };
            let chosen = (0..3000).map(listed).filter(|(name, pack)| choice.selects(*name, pack)).count();
            largest = largest.max(chosen);
            total += chosen;
        }
        assert_eq!(total, 3000, "{of} parts");
        for (name, pack) in (0..3000).map(listed) {
            let parts = (1..=of).filter(|part| ReadData::Part { part: *part, of }.selects(name, &pack));
            assert_eq!(parts.count(), 1, "{name}");
        }
        assert!(largest < 2 * 3000 / usize::try_from(of).unwrap() + 50, "{of} parts are uneven: {largest}");
    }
}

#[test]
fn a_percentage_is_near_and_repeatable() {
    let choose_by = |percent, seed| -> Vec<u32> {
        let choice = ReadData::Percent { percent, seed: [seed; 32] };
        (0..10_000)
            .map(listed)
            .filter(|(name, pack)| choice.selects(*name, pack))
            .map(|(name, _)| name.ordinal)
            .collect()
    };
    let choose = |percent| choose_by(percent, 1);
    let tenth = choose(10.0);
    let both = choose_by(10.0, 2).iter().filter(|ordinal| tenth.contains(ordinal)).count();
    assert!((50..150).contains(&both), "{both} of a tenth in another tenth");
    assert!((800..1200).contains(&tenth.len()), "{}", tenth.len());
    assert_eq!(tenth, choose(10.0));
    assert!(tenth.iter().all(|ordinal| choose(20.0).contains(ordinal)));
    assert_eq!(choose(100.0).len(), 10_000);
}

#[test]
fn nonsense_is_refused() {
    let refused = [
        ReadData::Percent { percent: 0.0, seed: [1; 32] },
        ReadData::Percent { percent: 100.5, seed: [1; 32] },
        ReadData::Percent { percent: f64::NAN, seed: [1; 32] },
        ReadData::Part { part: 0, of: 3 },
        ReadData::Part { part: 4, of: 3 },
    ];
    for choice in refused {
        assert!(choice.validate().is_err(), "{choice:?}");
    }
    for choice in [
        ReadData::No,
        ReadData::All,
        ReadData::Percent { percent: 100.0, seed: [1; 32] },
        ReadData::Part { part: 3, of: 3 },
    ] {
        assert!(choice.validate().is_ok(), "{choice:?}");
    }
}

fn subject(number: u64, disks: &[&str]) -> CheckedSnapshot {
    let member = |name: &&str| Member {
        name: Title::new(name).unwrap(),
        kind: MemberKind::Disk,
        chunking: Chunking::Disk,
        phase_bytes: 0,
        size_bytes: 1 << 30,
        data_bytes: 0,
        new_bytes: 0,
        chunks: 0,
        new_chunks: 0,
        fuzzy: false,
        root: None,
        words: sancerre_format::outcome::MemberWords::default(),
    };
    CheckedSnapshot {
        session: SessionId { number, intent: Hash::of(&number.to_le_bytes()) },
        vm: Title::new("web01").unwrap(),
        key: format!("outcome-{number}"),
        generation: Some(1),
        uses: None,
        members: disks.iter().map(member).collect(),
    }
}

#[test]
fn costs_are_told_by_snapshot_and_disk() {
    let subjects = [subject(1, &["root", "data"]), subject(2, &["root"])];
    let mut findings = Findings::default();
    findings.blame("pack", Severity::Missing, "it is missing");
    findings.cost("pack", (1, Some(0)), Some(0..10));
    findings.cost("pack", (0, Some(1)), Some(0..10));
    findings.cost("pack", (0, Some(1)), Some(10..20));
    findings.cost("pack", (0, Some(1)), Some(40..50));
    findings.cost("unknown", (0, Some(1)), Some(40..50));
    let found = findings.finish(&subjects);
    assert_eq!(found.len(), 1);
    let told: Vec<(u64, &str, Vec<Range<u64>>)> = found[0]
        .costs
        .iter()
        .map(|cost| (cost.snapshot.number, cost.disk.as_ref().unwrap().as_str(), cost.ranges.clone()))
        .collect();
    assert_eq!(told, [(1, "data", vec![0..20, 40..50]), (2, "root", vec![0..10])]);
}

#[test]
fn quarantined_damage_that_costs_nothing_is_history() {
    let subjects = [subject(1, &["root"])];
    let mut findings = Findings::default();
    findings.blame_quarantined("old", Severity::Damaged, "a");
    findings.blame_quarantined("needed", Severity::Damaged, "a");
    findings.cost("needed", (0, Some(0)), Some(0..1));
    findings.blame_quarantined("grown", Severity::Damaged, "a");
    findings.blame("grown", Severity::Missing, "b");
    let severities: Vec<(String, Severity)> =
        findings.finish(&subjects).into_iter().map(|finding| (finding.object, finding.severity)).collect();
    let expected = [("grown", Severity::Damaged), ("needed", Severity::Damaged), ("old", Severity::Note)];
    assert_eq!(severities, expected.map(|(object, severity)| (object.to_owned(), severity)));
}

#[test]
fn a_subset_of_few_packs_is_one_and_of_many_needs_no_stand_in() {
    let few: Vec<_> = (0..2).map(listed).collect();
    let packs = || few.iter().map(|(name, pack)| (*name, pack));
    for part in 1..=30 {
        let choice = ReadData::Part { part, of: 30 };
        let chosen = packs().filter(|(name, pack)| choice.selects(*name, pack)).count();
        assert_eq!(chosen == 0, choice.stand_in(packs()).is_some(), "part {part}");
    }
    let drawn: BTreeSet<u32> = (0..60)
        .filter_map(|seed| ReadData::Percent { percent: 0.001, seed: [seed; 32] }.stand_in(packs()))
        .map(|name| name.ordinal)
        .collect();
    assert_eq!(drawn.len(), 2, "a seed decides which");
    assert_eq!(ReadData::Percent { percent: 5.0, seed: [1; 32] }.stand_in(std::iter::empty()), None);
    for choice in [ReadData::No, ReadData::All] {
        assert_eq!(choice.stand_in(packs()), None, "{choice:?}");
    }
}
