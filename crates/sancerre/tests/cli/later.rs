//! A repository that a later program really wrote: today's tree with `testdata/later/later.patch`, which adds facts that may
//! be ignored to every record, text and key file, words where words are open, notes of topics and a role that nobody knows,
//! an annex that one of them owns, a kind of member, and a kind of log entry. Today's program reads, restores, backs up,
//! forgets and collects beside it, and the second decoder reads it. docs/TESTING.md says how it is made anew.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{MIB, Site, noise, told, walk};
use sancerre_services::{install, skip};
use serde_json::Value;

/// Where it lies.
const MADE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/later");
/// Its keys, the entry that is kept apart, and the trust anchor.
const FILES: [&str; 5] = ["w.key", "k.key", "o.key", "bequeath", "trust"];
const RELIC: &[u8] = b"whatever a later program keeps of a machine\n";
const UNSUPPORTED: Option<i32> = Some(23);

/// The disk of a night: text and holes, and a part that every night changes.
fn disk(night: u64) -> Vec<u8> {
    let mut disk = vec![0; 4 * MIB];
    disk[..20_000].copy_from_slice(&b"a line of a file that stays as it is\n".repeat(600)[..20_000]);
    disk[MIB..MIB + 40_960].copy_from_slice(&noise(7, 40_960));
    disk[3 * MIB..3 * MIB + 16_384].copy_from_slice(&noise(100 + night, 16_384));
    disk
}

/// A copy of what the later program wrote.
fn scene() -> Site {
    let site = Site::empty();
    let copied = Command::new("cp").arg("-r").arg(format!("{MADE}/repository")).arg(&site.place).status();
    assert!(copied.unwrap().success());
    for name in FILES {
        fs::copy(Path::new(MADE).join(name), site.path(name)).unwrap();
        // As a key file is: git keeps no such mode.
        fs::set_permissions(site.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    site
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// The ids of all snapshots, oldest first.
fn snapshots(site: &Site) -> Vec<String> {
    let listed = json(&site.succeed(&["snapshots", "--json", "--key-file", "w.key"]));
    let listed = listed["snapshots"].as_array().unwrap().iter();
    let mut all: Vec<_> = listed.map(|one| (one["session"].as_u64(), one["id"].as_str().unwrap())).collect();
    all.sort_unstable();
    all.into_iter().map(|(_, id)| id.to_owned()).collect()
}

fn restores(site: &Site, snapshot: &str, expected: &[u8]) {
    site.succeed(&["restore", &format!("{snapshot}:disk0"), "--target", "back.raw", "--overwrite"]);
    assert!(fs::read(site.path("back.raw")).unwrap() == expected, "{snapshot}");
}

fn is_sound(site: &Site) {
    let checked = told(&site.succeed(&["check", "--read-data"]));
    assert!(!checked.contains("belong to no snapshot"), "an annex of a note that stays: {checked}");
    let trust = fs::read_to_string(site.path("trust")).unwrap();
    site.succeed(&["audit", "--read-data", "--trust", trust.trim()]);
}

/// The annex packs of notes: a note has no other packs.
fn annexes(site: &Site) -> Vec<PathBuf> {
    let kind = |path: &PathBuf| fs::read(path).unwrap().get(10) == Some(&3);
    let mut found = walk(&site.place.join("zones/default/packs"));
    found.retain(|path| kind(path) && walk(path.parent().unwrap()).len() == 1);
    found.sort();
    found
}

/// The second decoder finds nothing wrong, and restores these disks. False where it cannot be run.
fn decoder_reads(site: &Site, disks: &[(&String, u64)]) -> bool {
    let Some(python) = install::decoder_python() else {
        skip("the decoder's Python packages are not installed; `cargo xtask setup` does it");
        return false;
    };
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&python);
        command.arg("-B").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/decoder")).args(arguments);
        command.env("SANCERRE_PASSWORD", crate::support::template::PASSPHRASE).current_dir(&site.folder);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", told(&output));
    };
    run(&["verify", "repository"]);
    for (snapshot, night) in disks {
        run(&["restore", "repository", snapshot, "disk0", "decoded"]);
        assert!(fs::read(site.path("decoded")).unwrap() == disk(*night), "{snapshot}");
        fs::remove_file(site.path("decoded")).unwrap();
    }
    true
}

#[test]
fn what_a_later_program_wrote_is_read_kept_and_built_upon() {
    let site = scene();
    let ids = snapshots(&site);
    assert_eq!(ids.len(), 2, "{ids:?}");
    is_sound(&site);
    restores(&site, &ids[0], &disk(0));
    restores(&site, &ids[1], &disk(1));
    let relic = site.run(&["restore", &format!("{}:state", ids[0]), "--target", "state"]);
    assert_eq!(relic.status.code(), UNSUPPORTED, "a member of an unknown kind: {}", told(&relic));
    if !decoder_reads(&site, &[(&ids[0], 0), (&ids[1], 1)]) {
        return;
    }

    // Beside it: what the later program stored is built upon.
    fs::write(site.path("disk.raw"), disk(2)).unwrap();
    let backup = ["backup", "--json", "--key-file", "w.key", "--vm", "web01", "disk0=disk.raw"];
    let saved = json(&site.succeed(&backup));
    assert!(saved["new_bytes"].as_u64().unwrap() <= 64 << 10, "{saved}");
    let third = saved["snapshot"].as_str().unwrap().to_owned();
    restores(&site, &third, &disk(2));

    let before = annexes(&site);
    assert_eq!(before.len(), 2);
    site.succeed(&["gc", "--key-file", "k.key"]);
    site.succeed(&["forget", &ids[0], "--max-drop", "100%", "--key-file", "k.key"]);
    let swept = json(&site.succeed(&["gc", "--json", "--key-file", "k.key", "--max-drop", "100%"]));
    assert!(swept["deleted_packs"].as_u64().unwrap() > 0, "{swept}");
    // The note of the snapshot that is gone owned the other one, which is garbage from then on.
    assert_eq!(annexes(&site), before);
    site.succeed(&["gc", "--key-file", "k.key"]);
    assert_eq!(annexes(&site), before[1..], "{before:?}");
    assert_eq!(snapshots(&site).len(), 2);
    is_sound(&site);
    restores(&site, &ids[1], &disk(1));
    restores(&site, &third, &disk(2));
    decoder_reads(&site, &[(&ids[1], 1), (&third, 2)]);
}

#[test]
fn a_kind_of_entry_that_only_a_later_program_knows_stops_who_adds_and_who_deletes() {
    let site = scene();
    let log = site.place.join("zones/default/log");
    let number = walk(&log).len() + 1;
    fs::copy(site.path("bequeath"), log.join(format!("{number:016x}"))).unwrap();
    let before = walk(&site.place).len();
    let ids = snapshots(&site);
    restores(&site, &ids[0], &disk(0));
    restores(&site, &ids[1], &disk(1));
    fs::write(site.path("disk.raw"), disk(2)).unwrap();
    let refused: [&[&str]; 4] = [
        &["backup", "--key-file", "w.key", "--vm", "web01", "disk0=disk.raw"],
        &["gc", "--key-file", "k.key"],
        &["forget", &ids[0], "--max-drop", "100%", "--key-file", "k.key"],
        &["check", "--read-data"],
    ];
    for arguments in refused {
        let output = site.run(arguments);
        assert_eq!(output.status.code(), UNSUPPORTED, "{arguments:?}: {}", told(&output));
        let said = told(&output);
        assert!(said.contains("newer") && !said.contains("damaged"), "{arguments:?}: {said}");
    }
    let after = walk(&site.place).into_iter().filter(|path| !path.starts_with(site.place.join("reserve")));
    assert_eq!(after.count(), before, "nothing was added or deleted");
}

/// Makes the repository anew with the program that `SANCERRE_LATER` names; nothing else.
#[test]
#[ignore = "writes testdata/later"]
fn renewed_by_a_later_program() {
    let program = std::env::var_os("SANCERRE_LATER").unwrap();
    let site = Site::empty();
    let later = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command
            .args(arguments)
            .env_clear()
            .envs(crate::support::CHEAP)
            .env("PATH", "/usr/bin:/bin")
            .current_dir(&site.folder);
        command
            .env("SANCERRE_REPOSITORY", &site.place)
            .env("SANCERRE_PASSWORD", crate::support::template::PASSPHRASE);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", told(&output));
        output
    };
    let made = json(&later(&["init", "--json", "--key-file", "w.key", "--writer", "hv1"]));
    fs::write(site.path("trust"), made["trust_anchor"].as_str().unwrap()).unwrap();
    later(&["key", "add", "keeper", "vault", "--out", "k.key"]);
    later(&["key", "add", "keeper", "oracle", "--out", "o.key"]);
    fs::write(site.path("state"), RELIC).unwrap();
    for night in 0..2 {
        fs::write(site.path("disk.raw"), disk(night)).unwrap();
        let words = ["--class", "gold", "--attach", "state=state", "disk0=disk.raw"];
        later(&[&["backup", "--key-file", "w.key", "--vm", "web01"][..], &words].concat());
    }
    later(&["suspect", "web01:latest", "--key-file", "o.key"]);
    // So many entries that its gc writes a checkpoint.
    for _ in 0..6 {
        later(&["hold", "web01:latest~1", "--reason", "test", "--key-file", "k.key"]);
        later(&["release", "web01:latest~1", "--reason", "test", "--key-file", "k.key"]);
    }
    later(&["gc", "--key-file", "k.key"]);
    let log = site.place.join("zones/default/log");
    let number = walk(&log).len() + 1;
    later(&["hold", "web01:latest", "--reason", "bequeath", "--key-file", "k.key"]);
    fs::rename(log.join(format!("{number:016x}")), site.path("bequeath")).unwrap();

    let _ = fs::remove_dir_all(format!("{MADE}/repository"));
    let _ = fs::remove_dir_all(site.place.join("reserve"));
    let copied = Command::new("cp").arg("-r").arg(&site.place).arg(MADE).status().unwrap();
    assert!(copied.success());
    for name in FILES {
        fs::copy(site.path(name), Path::new(MADE).join(name)).unwrap();
    }
}
