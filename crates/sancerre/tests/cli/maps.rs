//! The built program makes change maps of what storage knows: of reflink clones and thin volumes, made here, and of streams of
//! ZFS, which are made by hand.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{MIB, Site, has, noise, quiet, told};
use serde_json::Value;

/// A file system on a loop device, mounted while this lives.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn new(site: &Site, kind: &str, mebibytes: u64) -> Option<Self> {
        if !has(&format!("mkfs.{kind}")) {
            return None;
        }
        let (image, place) = (site.path(format!("{kind}.img")), site.path(kind));
        File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        fs::create_dir(&place).unwrap();
        let made = quiet(Command::new(format!("mkfs.{kind}")).arg(&image))
            && quiet(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&place));
        if !made {
            sancerre_services::skip(&format!(
                "no {kind} can be made and mounted (root, a loop device, the kernel)"
            ));
            return None;
        }
        Some(Self(place))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        quiet(Command::new("umount").arg("-l").arg(&self.0));
    }
}

fn clone(from: &Path, to: &Path) {
    assert!(quiet(Command::new("cp").arg("--reflink=always").arg(from).arg(to)));
}

fn ranges(map: &Value) -> Vec<(u64, u64)> {
    let number = |range: &Value, name: &str| range[name].as_u64().unwrap();
    map["changed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|range| (number(range, "offset"), number(range, "length")))
        .collect()
}

fn root(site: &Site, selector: &str) -> Value {
    let output = site.succeed(&["diff", selector, "web01:latest", "--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str::<Value>(text.lines().last().unwrap()).unwrap()["changed_bytes"].clone()
}

#[test]
fn clones_are_compared_by_where_they_lie_and_a_backup_by_that_map_is_that_of_a_full_read() {
    for kind in ["xfs", "btrfs"] {
        let site = Site::new();
        let Some(place) = Mounted::new(&site, kind, 400) else { continue };
        let (live, monday, tuesday) =
            (place.0.join("live"), place.0.join("monday.raw"), place.0.join("tuesday.raw"));
        let file = File::create(&live).unwrap();
        file.write_all_at(&noise(61, 8 * MIB), 0).unwrap();
        file.set_len(16 << 20).unwrap();
        file.sync_all().unwrap();
        clone(&live, &monday);
        let back_up = |path: &Path, more: &[&str]| {
            let path = path.to_str().unwrap();
            site.succeed(&[&["backup", "--key-file", "w.key", "--vm", "web01", path], more].concat())
        };
        back_up(&monday, &[]);
        let changes: [(u64, Vec<u8>); 4] = [
            (4096 * 100, noise(62, 4096)),
            (2 * MIB as u64 + 5, noise(63, 70_000)),
            (10 << 20, noise(64, MIB)),
            (5 << 20, vec![0; 8192]),
        ];
        for (at, bytes) in &changes {
            file.write_all_at(bytes, *at).unwrap();
        }
        clone(&live, &tuesday);
        // What is written afterwards is in neither.
        file.write_all_at(&noise(65, MIB), 3 << 20).unwrap();
        let output = site.succeed(&["map", "reflink", monday.to_str().unwrap(), tuesday.to_str().unwrap()]);
        fs::write(site.path("map"), &output.stdout).unwrap();
        let map: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((map["disk-bytes"].as_u64(), map["source"].as_str()), (Some(16 << 20), Some("reflink")));
        let found = ranges(&map);
        for (at, bytes) in &changes {
            let last = at + bytes.len() as u64 - 1;
            for byte in [*at, last] {
                assert!(
                    found.iter().any(|(start, length)| (*start..start + length).contains(&byte)),
                    "{kind} {byte}"
                );
            }
        }
        let changed: u64 = found.iter().map(|(_, length)| length).sum();
        assert!(changed < 5 << 19, "{kind}: {changed} bytes in {found:?}");
        back_up(
            &tuesday,
            &["--changed", site.path("map").to_str().unwrap(), "--changed-since", "web01:latest"],
        );
        let listed = told(&site.succeed(&["snapshots"]));
        assert!(listed.contains("(map reflink)"), "{listed}");
        back_up(&tuesday, &[]);
        assert_eq!(root(&site, "web01:latest~1"), 0, "{kind}");
        // Two files that are no clones differ wholly, and other file systems are refused.
        fs::copy(site.path("w.key"), site.path("other")).unwrap();
        let refused = site.run(&["map", "reflink", "other", "w.key"]);
        assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
        let refused = site.run(&["map", "reflink", monday.to_str().unwrap(), "w.key"]);
        assert!(refused.status.code() == Some(1) && refused.stdout.is_empty(), "{}", told(&refused));
    }
}

#[test]
fn what_thin_delta_says_is_a_map() {
    if !has("thin_delta") || !has("thin_restore") {
        return;
    }
    let site = Site::empty();
    let device = |id: u32, blocks: &str| {
        format!(
            "<device dev_id=\"{id}\" mapped_blocks=\"32\" transaction=\"0\" creation_time=\"0\" snap_time=\"0\">{blocks}</device>"
        )
    };
    let pool = format!(
        "<superblock uuid=\"\" time=\"1\" transaction=\"2\" data_block_size=\"128\" nr_data_blocks=\"100\">{}{}</superblock>",
        device(1, "<range_mapping origin_begin=\"0\" data_begin=\"0\" length=\"32\" time=\"0\"/>"),
        device(
            2,
            "<range_mapping origin_begin=\"0\" data_begin=\"0\" length=\"3\" time=\"0\"/>\
             <single_mapping origin_block=\"3\" data_block=\"40\" time=\"1\"/>\
             <range_mapping origin_begin=\"4\" data_begin=\"4\" length=\"27\" time=\"0\"/>\
             <single_mapping origin_block=\"40\" data_block=\"41\" time=\"1\"/>"
        )
    );
    fs::write(site.path("pool.xml"), &pool).unwrap();
    File::create(site.path("meta")).unwrap().set_len(4 << 20).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(&site.folder).output().unwrap();
        assert!(output.status.success(), "{program}: {}", told(&output));
        output.stdout
    };
    run("thin_restore", &["-i", "pool.xml", "-o", "meta"]);
    fs::write(site.path("delta"), run("thin_delta", &["--snap1", "1", "--snap2", "2", "meta"])).unwrap();
    let output = site.succeed(&["map", "thin", "delta", "--disk-bytes", "4M", "--base", "3f9a12cc"]);
    let map: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(ranges(&map), [(3 << 16, 1 << 16), (31 << 16, 1 << 16), (40 << 16, 1 << 16)]);
    assert_eq!(map["base"], "3f9a12cc");
    let short = fs::read(site.path("delta")).unwrap();
    fs::write(site.path("short"), &short[..short.len() / 2]).unwrap();
    let refused = site.run(&["map", "thin", "short", "--disk-bytes", "4M"]);
    assert!(refused.status.code() == Some(1) && refused.stdout.is_empty(), "{}", told(&refused));
}

#[test]
fn a_stream_of_zfs_is_read_from_a_pipe() {
    let site = Site::empty();
    let record = |kind: u32, words: &[(usize, u32)], longs: &[(usize, u64)], payload: usize| {
        let mut bytes = vec![0; 312];
        for (at, word) in words.iter().chain(&[(0, kind), (4, payload as u32)]) {
            bytes[*at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        for (at, long) in longs {
            bytes[*at..at + 8].copy_from_slice(&long.to_le_bytes());
        }
        bytes.resize(312 + payload, 7);
        bytes
    };
    let stream = [
        record(0, &[(32, 3)], &[(8, 0x2_f5ba_cbac), (16, 1), (48, 9)], 0),
        record(3, &[], &[(8, 1), (24, 65_536), (32, 8192)], 8192),
        record(5, &[], &[], 0),
    ]
    .concat();
    let mut child = site
        .command(&["map", "zfs", "--disk-bytes", "1M"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&stream).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let map: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((ranges(&map), map["source"].as_str()), (vec![(65_536, 8192)], Some("zfs")));
}
