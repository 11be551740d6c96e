//! Names as people have them, and what else a backup says of itself: the built program, from the shell to the files.

use crate::support::template;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const PASSPHRASE: &str = "correct horse";
const MACHINE: &str = "6f1c3f5e-8f3b-4c59-9c3e-0a1b2c3d4e5f";
const OTHER: &str = "11111111-2222-3333-4444-555555555555";
/// Typed with a combining mark, as some keyboards do.
const TYPED: &str = "Bu\u{308}ro Server 2";
const SHOWN: &str = "Büro Server 2";

/// A folder with a repository in it, and a disk.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(site.path("disk"), noise(1)).unwrap();
        let at = site.folder.path();
        template::make(&at.join("repository"), &at.join("hv1.key"), PASSPHRASE, 0);
        site.succeed(&["key", "add", "keeper", "vault", "--out", "vault.key"]);
        site
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
        command.args(arguments).env_clear().current_dir(&self.folder).stdin(Stdio::null());
        command.env("SANCERRE_REPOSITORY", self.path("repository"));
        // Whoever has a key file for it needs no passphrase, which costs time.
        match arguments {
            ["backup" | "snapshots", ..] => command.env("SANCERRE_KEY_FILE", "hv1.key"),
            ["hold" | "release" | "forget" | "check", ..] => command.env("SANCERRE_KEY_FILE", "vault.key"),
            _ => command.env("SANCERRE_PASSWORD", PASSPHRASE),
        };
        command.output().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        output
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.succeed(&[arguments, &["--json"]].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }

    fn refuse(&self, arguments: &[&str], code: i32, says: &str) {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(says), "{arguments:?}: {}", said(&output));
    }

    /// Backs up the disk with more arguments; the id of the snapshot.
    fn back_up(&self, arguments: &[&str]) -> String {
        let summary = self.json(&[&["backup", "disk0=disk"], arguments].concat());
        summary["snapshot"].as_str().unwrap().to_owned()
    }

    fn snapshots(&self) -> Vec<Value> {
        self.json(&["snapshots"])["snapshots"].as_array().unwrap().clone()
    }

    /// The files in a folder.
    fn files(&self, folder: &str) -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(self.path(folder)).unwrap().map(Result::unwrap);
        let file = |entry: std::fs::DirEntry| {
            (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
        };
        entries.map(file).collect()
    }

    /// The text of the newest log entry.
    fn newest_entry(&self) -> String {
        let log = self.files("repository/zones/default/log");
        String::from_utf8_lossy(log.last_key_value().unwrap().1).into_owned()
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn noise(seed: u32) -> Vec<u8> {
    (0..600_000u32).flat_map(|n| (n ^ (seed << 24)).wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

#[test]
fn names_are_shown_as_they_are_and_found_as_they_are_typed() {
    let site = Site::new();
    std::fs::write(site.path("Änderung.xml"), "<domain/>").unwrap();
    site.succeed(&["backup", "--vm", TYPED, "Platte 1=disk", "--attach", "Änderung.xml"]);
    let entry = site.newest_entry();
    assert!(entry.contains("\nvm: B%C3%BCro%20Server%202\n"), "{entry}");
    assert!(said(&site.succeed(&["snapshots", "--vm", SHOWN])).contains(SHOWN));
    site.refuse(&["snapshots", "--vm", "nosuch"], 2, "there are no snapshots of nosuch");
    assert!(said(&site.succeed(&["snapshots", "--vm", SHOWN, "--tag", "none"])).contains("no snapshots"));
    let snapshots = site.snapshots();
    assert_eq!((&snapshots[0]["vm"], &snapshots[0]["public_name"]), (&SHOWN.into(), &SHOWN.into()));
    assert_eq!(snapshots[0]["members"][0]["name"], "Platte 1");
    for name in [TYPED, SHOWN] {
        let restored = site.json(&["restore", &format!("{name}:latest"), "--target", "out/", "--overwrite"]);
        assert_eq!(restored["vm"], SHOWN);
    }
    let files = site.files("out");
    assert_eq!(files.keys().collect::<Vec<_>>(), ["Platte 1.raw", "Änderung.xml"]);
    assert!(files["Platte 1.raw"] == noise(1));
    site.succeed(&["restore", &format!("{TYPED}:latest:Platte 1"), "--target", "one.raw"]);
    let dumped = site.succeed(&["dump", &format!("{SHOWN}:latest:Änderung.xml")]);
    assert_eq!(dumped.stdout, b"<domain/>");
    site.succeed(&["check", "--read-data"]);
}

#[test]
fn a_pseudonym_stands_in_all_that_is_public() {
    let site = Site::new();
    let first = site.back_up(&["--vm", "Payroll GmbH", "--public-name", "m17"]);
    let second = site.json(&["backup", "disk0=disk", "--vm", "Payroll GmbH", "--public-name", "m17"]);
    assert_eq!((&second["parent"], &second["vm"]), (&first.as_str().into(), &"Payroll GmbH".into()));
    assert_eq!(second["public_name"], "m17");
    for folder in ["log", "outcome"] {
        for (key, bytes) in site.files(&format!("repository/zones/default/{folder}")) {
            let text = String::from_utf8_lossy(&bytes);
            assert!(text.contains("\nvm: m17\n") && !text.contains("Payroll"), "{folder}/{key}: {text}");
        }
    }
    let snapshots = site.snapshots();
    assert_eq!((&snapshots[0]["vm"], &snapshots[0]["public_name"]), (&"Payroll GmbH".into(), &"m17".into()));
    for name in ["Payroll GmbH", "m17"] {
        assert_eq!(site.json(&["snapshots", "--vm", name])["snapshots"].as_array().unwrap().len(), 2);
        let restored = site.json(&["restore", &format!("{name}:latest"), "--target", "out/", "--overwrite"]);
        assert_eq!(restored["vm"], "Payroll GmbH");
        let plan = site.json(&["forget", "--vm", name, "--keep-last", "1", "--dry-run"]);
        assert_eq!(plan["snapshots"].as_array().unwrap().len(), 2);
        assert_eq!(site.json(&["hold", "--vm", name])["vms"], serde_json::json!(["m17"]));
        site.succeed(&["release", "--vm", name]);
    }
    site.refuse(&["restore", "Payroll:latest", "--target", "out/"], 2, "Payroll GmbH");
}

#[test]
fn a_hold_over_a_machine_holds_what_is_to_come() {
    let site = Site::new();
    let first = site.back_up(&["--vm", SHOWN]);
    let other = site.back_up(&["--vm", "db01"]);
    let held = site.json(&["hold", "--vm", TYPED, "--reason", "trial"]);
    assert_eq!((&held["vms"], &held["snapshots"]), (&serde_json::json!([SHOWN]), &serde_json::json!([])));
    let entry = site.newest_entry();
    assert!(entry.contains("\nkind: hold\n") && entry.contains("\nvm: B%C3%BCro%20Server%202\n"), "{entry}");
    let later = site.back_up(&["--vm", SHOWN]);
    let forget = |id: &str| ["forget", id, "--even-last", "--max-drop", "100%"].map(str::to_owned);
    for id in [&first, &later] {
        site.refuse(&forget(id).each_ref().map(String::as_str), 1, "is held");
    }
    // Its own hold is another matter, and so is another machine.
    site.refuse(&["release", &first], 2, "because its machine is");
    site.succeed(&forget(&other).each_ref().map(String::as_str));
    site.refuse(&["hold", "--vm", "nobody"], 2, "no backup of nobody");
    site.refuse(&["release", "--vm", "db01"], 2, "not held");
    site.succeed(&["hold", &first]);
    site.succeed(&["release", "--vm", SHOWN]);
    site.refuse(&forget(&first).each_ref().map(String::as_str), 1, "is held");
    site.succeed(&forget(&later).each_ref().map(String::as_str));
    site.succeed(&["release", &first]);
    site.succeed(&["check"]);
}

#[test]
fn a_machine_that_is_renamed_keeps_its_history() {
    let site = Site::new();
    let first = site.back_up(&["--vm", "old", "--machine", MACHINE]);
    std::fs::write(site.path("disk"), [noise(1), noise(2)].concat()).unwrap();
    let upper = MACHINE.to_uppercase();
    let renamed = site.json(&["backup", "disk0=disk", "--vm", "new", "--machine", &upper]);
    assert_eq!((&renamed["parent"], &renamed["machine"]), (&first.as_str().into(), &MACHINE.into()));
    assert!(renamed["new_bytes"].as_u64().unwrap() < noise(2).len() as u64 + (1 << 20), "{renamed}");
    let snapshots = site.snapshots();
    assert_eq!(snapshots[1]["parents"], serde_json::json!([first]));
    assert_eq!((&snapshots[1]["machine"], &snapshots[1]["vm"]), (&MACHINE.into(), &"new".into()));
    // Another machine that got the old name inherits nothing.
    let stranger = site.json(&["backup", "disk0=disk", "--vm", "old", "--machine", OTHER]);
    assert_eq!(stranger["parent"], Value::Null);
    site.succeed(&["check", "--read-data"]);
    // One machine has one history: its last snapshot is the last under either name.
    let forget = ["forget", first.as_str(), "--max-drop", "100%"];
    site.succeed(&forget);
    let second = renamed["snapshot"].as_str().unwrap();
    site.refuse(&["forget", second, "--max-drop", "100%"], 1, "no snapshot of new would be left");
}

#[test]
fn a_renamed_machine_is_held_and_counted_as_one() {
    let site = Site::new();
    let back_up = |vm: &str| site.back_up(&["--vm", vm, "--machine", MACHINE]);
    let (first, _) = (back_up("old"), back_up("new"));
    assert_eq!(site.json(&["hold", "--vm", "new"])["vms"], serde_json::json!(["new", "old"]));
    site.refuse(&["forget", &first, "--max-drop", "100%"], 1, "is held");
    back_up("newest");
    // Held under the names that it had.
    assert_eq!(site.json(&["release", "--vm", "newest"])["vms"], serde_json::json!(["new", "old"]));
    site.succeed(&["forget", &first, "--max-drop", "100%"]);
    // One of its three went, not the only one of a machine.
    site.succeed(&["gc", "--wait", "0s", "--max-drop", "40%"]);
}

#[test]
fn what_is_to_be_kept_until_a_day_is_kept() {
    let site = Site::new();
    site.refuse(&["backup", "--vm", "web01", "disk", "--retain-until", "2020-01-31"], 2, "is over");
    let kept = site.back_up(&["--vm", "web01", "--retain-until", "2199-01-31", "--class", "monthly"]);
    let free = site.back_up(&["--vm", "web01"]);
    let snapshots = site.snapshots();
    assert_eq!(snapshots[0]["retain_until"], "2199-01-31T23:59:59Z");
    assert_eq!((&snapshots[0]["class"], &snapshots[1]["class"]), (&"monthly".into(), &Value::Null));
    assert_eq!((&snapshots[1]["retain_until"], &snapshots[1]["machine"]), (&Value::Null, &Value::Null));
    site.refuse(&["forget", &kept, "--max-drop", "100%"], 1, "kept until 2199-01-31");
    let plan = site.json(&["forget", "--keep-last", "1", "--dry-run"]);
    assert!(plan["snapshots"][0]["reasons"].to_string().contains("retained until 2199"), "{plan}");
    site.succeed(&["forget", &free, "--max-drop", "100%"]);
}

#[test]
fn members_that_want_the_same_file_get_their_own() {
    let site = Site::new();
    let attached = ["disk0.raw", "disk0.raw.sancerre-partial", "DISK0.raw", ".ssh", "..x"];
    for name in attached {
        std::fs::write(site.path(name), name).unwrap();
    }
    let mut arguments = vec!["backup", "--vm", "web01", "disk", "DISK0=disk"];
    attached.iter().for_each(|name| arguments.extend(["--attach", name]));
    site.succeed(&arguments);
    site.succeed(&["restore", "web01:latest", "--target", "out/"]);
    let files = site.files("out");
    let expected = [
        "%2E.x",
        "%2Essh",
        "DISK0%2Eraw",
        "DISK0.raw",
        "disk0%2Eraw",
        "disk0.raw",
        "disk0.raw%2Esancerre-partial",
    ];
    assert_eq!(files.keys().collect::<Vec<_>>(), expected);
    assert!(files["disk0.raw"] == noise(1));
    assert_eq!(files["disk0.raw%2Esancerre-partial"], b"disk0.raw.sancerre-partial");
    site.succeed(&["restore", "web01:latest", "--target", "out/", "--resume"]);
}

#[test]
fn a_name_that_looks_like_a_path_stays_in_the_directory() {
    let site = Site::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
    command.args(["backup", "--vm", "a/b:c", "--stdin", "../../outside"]).current_dir(&site.folder);
    command.env("SANCERRE_REPOSITORY", site.path("repository")).env("SANCERRE_KEY_FILE", "hv1.key");
    command.stdin(std::fs::File::open(site.path("disk")).unwrap());
    assert!(command.status().unwrap().success());
    site.succeed(&["restore", "a/b:c:latest", "--target", "deep/out/"]);
    assert_eq!(site.files("deep/out").keys().collect::<Vec<_>>(), ["%2E.%2F..%2Foutside"]);
    assert!(!Path::new(&site.path("outside")).exists());
}
