//! Maps of every form, and maps that lie.

// Lists of ranges with one range in them are meant.
#![allow(clippy::single_range_in_vec_init)]

use std::ops::Range;

use proptest::prelude::*;

use super::{ChangeMap, MapError};

const DISK: u64 = 1 << 20;

fn read(text: &str) -> Result<ChangeMap, MapError> {
    ChangeMap::read(text.as_bytes(), DISK)
}

fn ranges(text: &str) -> (String, Vec<Range<u64>>) {
    let map = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    (map.source().to_owned(), map.ranges().to_vec())
}

fn refused(text: &str) -> String {
    match read(text) {
        Ok(map) => panic!("{text}: {map:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_overlay_changed_where_it_has_clusters_or_zeros_and_nowhere_below() {
    let text = r#"[{ "start": 0, "length": 65536, "depth": 1, "present": true, "zero": false, "data": true, "offset": 327680},
        { "start": 65536, "length": 65536, "depth": 0, "present": true, "zero": false, "data": true, "compressed": false},
        { "start": 131072, "length": 65536, "depth": 0, "present": true, "zero": true, "data": false},
        { "start": 196608, "length": 65536, "depth": 0, "present": false, "zero": true, "data": false},
        { "start": 262144, "length": 786432, "depth": 1, "present": false, "zero": true, "data": false}]"#;
    assert_eq!(ranges(text), ("qemu-map".to_owned(), vec![65536..262144]));
}

#[test]
fn a_bitmap_changed_where_nothing_is_there_and_nothing_is_zero() {
    let text = r#"[{"start":0,"length":65536,"depth":0,"present":true,"zero":false,"data":true,"offset":0},
        {"start":65536,"length":65536,"depth":0,"present":false,"zero":false,"data":false},
        {"start":131072,"length":917504,"depth":0,"present":true,"zero":false,"data":true,"offset":131072}]"#;
    assert_eq!(ranges(text), ("qemu-bitmap".to_owned(), vec![65536..131072]));
    // Before QEMU 6.1 there was no `present`.
    let old = text.replace(r#""present":false,"#, "").replace(r#""present":true,"#, "");
    assert_eq!(ranges(&old).1, [65536..131072]);
}

#[test]
fn a_map_of_a_smaller_disk_says_that_the_rest_changed() {
    let text = r#"[{"start":0,"length":4096,"depth":1,"present":true,"zero":false,"data":true}]"#;
    assert_eq!(ranges(text).1, [4096..DISK]);
    let text = r#"[{"start":0,"length":4096,"depth":0,"present":false,"zero":false,"data":false}]"#;
    assert_eq!(ranges(text).1, [0..DISK]);
}

#[test]
fn rbd_names_what_changed_whether_it_exists_or_not() {
    let text = r#"[{"offset":0,"length":4096,"exists":"true"},{"offset":524288,"length":4096,"exists":"false"},
        {"offset":4096,"length":1,"exists":"true"},{"offset":1048575,"length":4194304,"exists":true}]"#;
    assert_eq!(ranges(text), ("rbd".to_owned(), vec![0..4097, 524288..528384, 1048575..DISK]));
    assert_eq!(ranges("[]"), ("rbd".to_owned(), vec![]));
}

#[test]
fn our_own_form_is_read_back_as_written() {
    let map = ChangeMap::new("reflink", DISK, [9..10, 0..4, 4..5, 7..7, 3..4, DISK - 1..DISK + 9]).unwrap();
    assert_eq!(map.ranges(), [0..5, 9..10, DISK - 1..DISK]);
    assert_eq!(map.changed_bytes(), 7);
    let mut text = Vec::new();
    map.write(&mut text).unwrap();
    assert_eq!(ChangeMap::read(&text[..], DISK).unwrap(), map);
    assert_eq!(map.base(), None);
    let map = map.since("3f9a12cc".to_owned());
    let mut text = Vec::new();
    map.write(&mut text).unwrap();
    let read = ChangeMap::read(&text[..], DISK).unwrap();
    assert_eq!((&read, read.base()), (&map, Some("3f9a12cc")));
    assert_eq!(map.inside(4..10).collect::<Vec<_>>(), [4..5, 9..10]);
    assert_eq!(map.inside(5..9).count() + map.inside(0..0).count(), 0);
    assert_eq!(map.inside(0..DISK).collect::<Vec<_>>(), map.ranges());
}

#[test]
fn what_is_not_wholly_understood_is_an_error_and_never_an_empty_map() {
    let own = |form: &str, bytes: u64, source: &str, rest: &str| {
        format!(r#"{{"form":"{form}","disk-bytes":{bytes},"source":"{source}"{rest}}}"#)
    };
    let none = r#","changed":[]"#;
    let form = "sancerre-change-map-1";
    assert!(ranges(&own(form, DISK, "thin", none)).1.is_empty());
    for text in [
        "",
        "null",
        "1",
        "\"\"",
        "{}",
        "[",
        "[1]",
        "[[]]",
        "[{}]",
        "[]]",
        "[] []",
        r#"[{"offset":0}]"#,
        r#"[{"length":5}]"#,
        r#"[{"offset":-1,"length":5}]"#,
        r#"[{"offset":0,"length":1e3}]"#,
        r#"[{"offset":0,"length":18446744073709551616}]"#,
        r#"[{"offset":0,"length":5}"#,
        r#"[{"start":0,"length":5}]"#,
        r#"[{"start":5,"length":5,"depth":0,"zero":false,"data":true}]"#,
        r#"[{"start":0,"length":0,"depth":0,"zero":false,"data":true}]"#,
        r#"[{"start":0,"length":5,"depth":0,"zero":false,"data":true},{"start":6,"length":5,"depth":0,"zero":false,"data":true}]"#,
        r#"[{"start":0,"length":5,"depth":0,"zero":false,"data":true},{"offset":6,"length":5}]"#,
        r#"[{"offset":6,"length":5},{"start":0,"length":5,"depth":0,"zero":false,"data":true}]"#,
        r#"[{"start":0,"length":5,"depth":0,"present":false,"zero":false,"data":false},{"start":5,"length":5,"depth":0,"zero":true,"data":false}]"#,
        &own("sancerre-change-map-2", DISK, "thin", none),
        &own(form, DISK, "", none),
        &own(form, DISK, &"x".repeat(65), none),
        &own(form, DISK, "\\u001b[0m", none),
        &own(form, DISK, "thin", ""),
        &own(form, DISK, "thin", r#","changed":[],"changed":[]"#),
        &own(form, DISK, "thin", r#","changed":[],"more":1"#),
        &own(form, DISK, "thin", r#","changed":[],"base":"latest""#),
        &own(form, DISK, "thin", r#","changed":[],"base":"3f9""#),
        &own(form, DISK, "thin", r#","changed":[],"base":null"#),
        &own(form, DISK, "thin", r#","changed":[{"offset":0,"length":1,"zero":true}]"#),
    ] {
        assert!(refused(text).contains("the change map is none"), "{text}: {}", refused(text));
    }
    for text in [
        r#"[{"offset":1048576,"length":5,"exists":"true"}]"#,
        r#"[{"start":0,"length":1048577,"depth":0,"zero":false,"data":true}]"#,
        &own(form, DISK + 1, "thin", none),
        &own(form, DISK, "thin", r#","changed":[{"offset":1048576,"length":1}]"#),
    ] {
        assert!(refused(text).contains("not of this disk"), "{text}: {}", refused(text));
    }
}

#[test]
fn hostile_maps_end_soon_and_cost_little() {
    let mut deep =
        vec!["[".repeat(1 << 20), format!(r#"[{{"offset":0,"length":1,"x":{}"#, "[0,".repeat(1 << 20))];
    deep.push(r#"{"a":"#.repeat(1 << 20));
    for text in &deep {
        assert!(refused(text).contains("too long (deeply nested)"), "{}", refused(text));
    }
    for text in [format!("[{{\"{}\":1}}]", ",\\\"".repeat(1 << 20)), format!("\"{}", "x".repeat(5000))] {
        assert!(refused(&text).contains("too long (a long string)"), "{}", refused(&text));
    }
    let endless = std::io::Read::chain(&b"["[..], std::io::repeat(b' '));
    let error = super::json::read(endless, DISK, 1 << 16).unwrap_err();
    assert!(matches!(error, MapError::TooLong(_)), "{error}");
}

proptest! {
    #[test]
    fn any_ranges_come_out_in_order_and_cover_the_same_bytes(pieces in prop::collection::vec((0..200_u64, 0..60_u64), 0..40)) {
        let map = ChangeMap::new("test", 256, pieces.iter().map(|(start, length)| *start..start + length)).unwrap();
        for pair in map.ranges().windows(2) {
            prop_assert!(pair[0].end < pair[1].start);
        }
        for byte in 0..256 {
            let wanted = pieces.iter().any(|(start, length)| (*start..start + length).contains(&byte));
            prop_assert_eq!(map.ranges().iter().any(|range| range.contains(&byte)), wanted, "byte {}", byte);
            prop_assert_eq!(map.inside(byte..byte + 1).count() == 1, wanted);
        }
        let mut text = Vec::new();
        map.write(&mut text).unwrap();
        prop_assert_eq!(ChangeMap::read(&text[..], 256).unwrap(), map);
    }
}
