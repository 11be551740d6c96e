//! A night on which documents are encrypted where they stand, on a real file system and with the built program.
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{noise, skip, summary, told};

const DOCUMENTS: u64 = 300;

/// A repository, and a disk with a share of documents on it.
struct Site(crate::support::Site);

impl Site {
    fn new() -> Self {
        Self(crate::support::Site::new())
    }

    /// Returns its summary and what it said.
    fn ends(&self, arguments: &[&str], code: i32) -> (Value, String) {
        let output = self.0.run(&[arguments, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", told(&output));
        let done = if output.stdout.is_empty() { Value::Null } else { summary(&output) };
        (done, told(&output))
    }

    fn back_up(&self, arguments: &[&str], code: i32) -> (Value, String) {
        let begin = ["backup", "--key-file", "w.key", "--vm", "files01", "disk.raw"];
        self.ends(&[&begin, arguments].concat(), code)
    }

    /// An ext4 file system full of documents; false where there is no mkfs.ext4.
    fn format(&self) -> bool {
        std::fs::create_dir(self.0.path("share")).unwrap();
        for number in 0..DOCUMENTS {
            std::fs::write(self.0.path(format!("share/{number}.docx")), document(number)).unwrap();
        }
        let image = std::fs::File::create(self.0.path("disk.raw")).unwrap();
        image.set_len(48 << 20).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-b", "4096", "-d", "share", "disk.raw"])
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .current_dir(&self.0.folder)
            .stdin(Stdio::null())
            .output();
        made.as_ref().is_ok_and(|made| made.status.success()) || skip(&format!("no mkfs.ext4: {made:?}"))
    }

    /// Encrypts some bytes of the start of every n-th document where it stands.
    fn encrypt(&self, every: u64, key: u64) -> u64 {
        let mut image = std::fs::read(self.0.path("disk.raw")).unwrap();
        let mut hit = 0;
        for number in (0..DOCUMENTS).step_by(usize::try_from(every).unwrap()) {
            let start = &document(number)[..4096];
            let mut blocks = image.chunks_mut(4096);
            let block = blocks.find(|block| *block == start).unwrap();
            block.iter_mut().zip(noise(key + number, 4096)).for_each(|(byte, noise)| *byte ^= noise | 1);
            hit += 1;
        }
        let file = std::fs::OpenOptions::new().write(true).open(self.0.path("disk.raw")).unwrap();
        file.write_all_at(&image, 0).unwrap();
        hit
    }
}

/// As an office makes it: a zip, which nobody can compress, of no round size.
fn document(number: u64) -> Vec<u8> {
    let mut bytes = noise(number, 9000 + usize::try_from(number % 17).unwrap() * 700);
    bytes[..8].copy_from_slice(b"PK\x03\x04\x14\0\x06\0");
    bytes
}

fn id(done: &Value) -> String {
    done["snapshot"].as_str().unwrap().to_owned()
}

/// One document of twenty, the first 4 KiB of it: noticed the same night, saved all the same, and nothing from before it
/// goes until somebody looked.
#[test]
fn documents_that_are_encrypted_where_they_stand_are_noticed_the_same_night() {
    let site = Site::new();
    if !site.format() {
        return;
    }
    let (first, _) = site.back_up(&["--fail-on-suspect"], 0);
    assert_eq!(
        (&first["verdict"], &first["members"][0]["suspicion"]["first"]),
        (&"normal".into(), &true.into())
    );
    let (quiet, _) = site.back_up(&["--fail-on-suspect"], 0);
    assert_eq!(quiet["verdict"], "normal");
    assert_eq!(quiet["members"][0]["suspicion"]["files"], DOCUMENTS);

    let hit = site.encrypt(20, 1);
    let metrics = ["--fail-on-suspect", "--metrics-file", "m.prom"];
    let (done, said) = site.back_up(&metrics, 30);
    let night = &done["members"][0]["suspicion"];
    assert_eq!((&night["verdict"], &night["lost_files"]), (&"suspect".into(), &hit.into()), "{night}");
    assert!(said.contains("became random where they stood") && !said.contains("infected"), "{said}");
    let metrics = std::fs::read_to_string(site.0.path("m.prom")).unwrap();
    let is_told =
        |line: &str| line.starts_with("sancerre_backup_suspicion{") && line.ends_with(",vm=\"files01\"} 2");
    assert!(metrics.lines().any(is_told), "{metrics}");
    let listed = site.0.run(&["snapshots", "--key-file", "w.key"]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout).matches("(suspect)").count(), 1, "{listed:?}");

    explains(&site, &quiet, hit);
    stands_still(&site, &first, &quiet);
}

/// By a key that opens no content: the last clean point, and where it happened.
fn explains(site: &Site, quiet: &Value, hit: u64) {
    let (clean, _) = site.ends(&["clean", "files01", "--key-file", "k.key"], 0);
    assert_eq!(clean["machines"][0]["clean"], quiet["snapshot"], "{clean}");
    let (explained, _) = site.ends(&["explain", "files01:latest", "--key-file", "w.key"], 0);
    let places = explained["disks"][0]["places"].as_array().unwrap();
    let lost: u64 = places.iter().map(|place| place["lost_files"].as_u64().unwrap()).sum();
    assert_eq!(lost, hit, "{explained}");

    // By their names, out of the file system of the night before.
    let (lost, _) = site.ends(&["explain", "files01:latest", "--files"], 0);
    let files = lost["files"].as_array().unwrap();
    assert_eq!((files.len() as u64, &lost["before"]), (hit, &quiet["snapshot"]), "{lost}");
    assert_eq!(files[0]["place"], "disk0:whole/0.docx", "{lost}");
    let place = format!("{}:{}", id(quiet), files[0]["place"].as_str().unwrap());
    site.0.succeed(&["get", &place, "--target", "0.docx"]);
    assert_eq!(std::fs::read(site.0.path("0.docx")).unwrap(), document(0));

    // From content, believing nobody.
    let (computed, _) = site.ends(&["suspect", "files01:latest", "--recompute"], 0);
    assert_eq!(computed["disks"][0]["suspicion"]["lost_files"], hit, "{computed}");
}

/// Nothing from before it goes until a keeper clears it.
fn stands_still(site: &Site, first: &Value, quiet: &Value) {
    let keeper = ["--key-file", "k.key", "--max-drop", "100%"];
    let (_, said) = site.ends(&[&["forget", &id(first)], &keeper[..]].concat(), 1);
    assert!(said.contains("sancerre clear"), "{said}");
    let keep = [&["forget", "--keep-last", "1"], &keeper[..]].concat();
    site.ends(&keep, 0);
    site.ends(&["gc", "--key-file", "k.key", "--wait", "0s"], 0);
    let (left, _) = site.ends(&["snapshots"], 0);
    assert_eq!(left["snapshots"].as_array().unwrap().len(), 3, "{left}");
    site.ends(&["check", "--read-data"], 0);

    // A snapshot is suspect as a whole, and only once.
    site.ends(&["suspect", "files01:latest:disk0", "--key-file", "k.key"], 2);
    site.ends(&["suspect", "files01:latest", "--key-file", "k.key"], 2);
    // No writer can clear it.
    // Without a passphrase, which could clear it.
    let mut writer = site.0.command(&["clear", "files01", "--reason", "nothing", "--key-file", "w.key"]);
    let refused = writer.env_remove("SANCERRE_PASSWORD").output().unwrap();
    assert!(!refused.status.success() && told(&refused).contains("may not sign this"), "{refused:?}");
    site.ends(&["clear", "files02", "--reason", "nothing", "--key-file", "k.key"], 2);
    site.ends(&["clear", "files01", "--reason", "restored from the night before", "--key-file", "k.key"], 0);
    let (clean, _) = site.ends(&["clean"], 0);
    assert_eq!(clean["machines"][0]["suspect"], false, "{clean}");
    site.ends(&[&["forget", &id(first), &id(quiet)], &keeper[..]].concat(), 0);
    site.ends(&["gc", "--key-file", "k.key", "--wait", "0s", "--max-drop", "100%"], 0);
    let (left, _) = site.ends(&["snapshots"], 0);
    assert_eq!(left["snapshots"].as_array().unwrap().len(), 1, "{left}");
    site.ends(&["check", "--read-data"], 0);
    site.ends(&["restore", "files01:latest:disk0", "--target", "restored.raw"], 0);
    assert!(
        std::fs::read(site.0.path("restored.raw")).unwrap()
            == std::fs::read(site.0.path("disk.raw")).unwrap()
    );
}

/// What changes every night, new documents and none at all: nothing of that is suspect.
#[test]
fn honest_nights_are_normal_and_a_night_without_statistics_is_told() {
    let site = Site::new();
    if !site.format() {
        return;
    }
    for night in 0..3u64 {
        let (done, _) = site.back_up(&["--fail-on-suspect"], 0);
        assert_eq!(done["verdict"], "normal", "{night}: {done}");
        let file = std::fs::OpenOptions::new().write(true).open(site.0.path("disk.raw")).unwrap();
        for number in 0..4 {
            file.write_all_at(
                &document(1000 + night * 4 + number),
                (30 << 20) + (night * 4 + number) * 32_768,
            )
            .unwrap();
        }
    }
    let (done, _) = site.back_up(&["--no-statistics"], 0);
    assert_eq!(done["verdict"], Value::Null);
    let (done, said) = site.back_up(&["--fail-on-suspect"], 0);
    assert_eq!(
        (&done["verdict"], &done["members"][0]["suspicion"]["signs"][0]),
        (&"unusual".into(), &"blind".into())
    );
    assert!(said.contains("has no statistics"), "{said}");
    let (clean, _) = site.ends(&["clean"], 0);
    assert_eq!(clean["machines"][0]["suspect"], false);
}
