//! The decoder in `docs/decoder`, which was written from FORMAT.md alone, reads what the program wrote: it verifies
//! every object, restores every member bit for bit, and refuses what was changed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sancerre_services::{install, skip};

const DISK_BYTES: u64 = (48 << 20) + 512;
const MACHINE: &str = "6f1c3f5e-8f3b-4c59-9c3e-0a1b2c3d4e5f";
const PASSPHRASE: &str = "correct horse battery staple";

struct Site {
    folder: tempfile::TempDir,
    python: PathBuf,
}

impl Site {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn repository(&self) -> PathBuf {
        self.path("repository")
    }

    fn sancerre(&self, arguments: &[&str], input: &[u8]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
        command.args(arguments).arg("--repo").arg(self.repository()).current_dir(self.folder.path());
        command.env("SANCERRE_PASSWORD", PASSPHRASE).envs(crate::support::CHEAP).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn decoder(&self, arguments: &[&str]) -> Output {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/decoder");
        let mut command = Command::new(&self.python);
        command.arg("-B").arg(program).args(arguments).current_dir(self.folder.path());
        command.env("SANCERRE_PASSWORD", PASSPHRASE).output().unwrap()
    }

    /// The keys of all objects.
    fn keys(&self) -> Vec<String> {
        let (mut folders, mut keys) = (vec![self.repository()], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    keys.push(entry.path().strip_prefix(self.repository()).unwrap().display().to_string());
                }
            }
        }
        keys.sort();
        keys
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

/// A file system with this project's own files, on a sparse disk that ends inside a block.
fn make_disk(disk: &Path) {
    fs::File::create(disk).unwrap().set_len(DISK_BYTES).unwrap();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new("mkfs.ext4");
    command.args(["-q", "-F", "-E", "root_owner=0:0", "-d"]).arg(sources).arg(disk);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// One night's change: a file is added as the guest would add it.
fn add_file(disk: &Path, file: &Path, name: &str) {
    let request = format!("write {} {name}", file.display());
    let output = Command::new("debugfs").args(["-w", "-R", &request]).arg(disk).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// Three nights of a machine with an attachment, and a dump through a pipe.
fn fill(site: &Site) -> Vec<u8> {
    let (disk, attachment) = (site.path("vm.raw"), site.path("vm.xml"));
    make_disk(&disk);
    fs::write(&attachment, "<domain type='kvm'><name>web01</name></domain>\n").unwrap();
    site.sancerre(&["init"], b"");
    let mut backup = vec!["backup", "--vm", "Büro/web 01", "--public-name", "m17", "--machine", MACHINE];
    backup.extend(["vm.raw", "--attach", "Gerät 1.xml=vm.xml", "--tag", "nightly", "--class", "daily"]);
    backup.extend(["--retain-until", "2199-12-31"]);
    for night in 0..3 {
        site.sancerre(&backup, b"");
        if night == 0 {
            site.sancerre(&["catalogue", "Büro/web 01:latest"], b"");
            backup.push("--catalogue");
        }
        fs::copy(&disk, site.path(&format!("night-{night}"))).unwrap();
        let added = site.path("added");
        fs::write(&added, crate::support::noise(night + 1, 3 << 20)).unwrap();
        add_file(&disk, &added, &format!("night-{night}"));
    }
    let dump = |changed: u64| -> Vec<u8> {
        let row = |row: u64| {
            let value = if row < changed { row * row % 9967 } else { row * row % 9973 };
            format!("INSERT {row} {value};\n").into_bytes()
        };
        (0..300_000).flat_map(row).collect()
    };
    let stdin = ["backup", "--vm", "Kasse: öst", "--stdin", "dump.sql"];
    site.sancerre(&stdin, &dump(0));
    site.sancerre(&stdin, &dump(150_000));
    // What was signed before stays, and the next commits are another admin key's.
    site.sancerre(&["key", "rotate-admin"], b"");
    // An index that covers others is another kind of segment.
    site.sancerre(&["index", "rebuild"], b"");
    // Half of the first dump is in the second one too: it is moved, and stays under its name.
    site.sancerre(&["gc"], b"");
    // With so many entries the next gc writes a checkpoint.
    for _ in 0..3 {
        site.sancerre(&["hold", "Büro/web 01:latest", "--reason", "test"], b"");
        site.sancerre(&["release", "Büro/web 01:latest", "--reason", "test"], b"");
    }
    // Two persons forget: the first does not count before the second.
    for keeper in ["alice", "bob"] {
        site.sancerre(&["key", "add", "keeper", keeper, "--out", &format!("{keeper}.key")], b"");
    }
    site.sancerre(&["key", "approvals", "1"], b"");
    let asked = |request: &[&str]| -> String {
        let asked = site.sancerre(&[request, &["--json", "--key-file", "alice.key"]].concat(), b"");
        serde_json::from_str::<serde_json::Value>(asked.lines().last().unwrap()).unwrap()["entry"].to_string()
    };
    let forget = asked(&["forget", "Kasse: öst:latest~1", "--max-drop", "100%"]);
    site.sancerre(&["gc"], b"");
    site.sancerre(&["approve", &forget, "--key-file", "bob.key"], b"");
    // A hold over the machine keeps it until its release, which takes two persons as well.
    site.sancerre(&["hold", "--vm", "Kasse: öst"], b"");
    site.sancerre(&["gc"], b"");
    let release = asked(&["release", "--vm", "Kasse: öst"]);
    site.sancerre(&["approve", &release, "--key-file", "bob.key"], b"");
    // So does a suspicion, until somebody looked and another one agrees.
    site.sancerre(&["suspect", "Kasse: öst:latest"], b"");
    site.sancerre(&["gc"], b"");
    let clear = asked(&["clear", "Kasse: öst", "--reason", "an update"]);
    site.sancerre(&["gc"], b"");
    site.sancerre(&["approve", &clear, "--key-file", "bob.key"], b"");
    let report = site.sancerre(&["gc", "--max-unused", "0%", "--json"], b"");
    let report: serde_json::Value = serde_json::from_str(report.lines().last().unwrap()).unwrap();
    assert!(report["written_packs"].as_u64().unwrap() > 0, "{report}");
    dump(150_000)
}

/// The ids of the snapshots, oldest first, by the keys of their outcomes.
fn snapshots(site: &Site) -> Vec<String> {
    let outcomes =
        site.keys().into_iter().filter(|key| key.contains("/outcome/")).filter(|key| {
            fs::read(site.repository().join(key)).unwrap().starts_with(b"sancerre-manifest-v1")
        });
    outcomes.map(|key| key.rsplit_once('-').unwrap().1.to_owned()).collect()
}

fn assert_restores(site: &Site, snapshot: &str, member: &str, expected: &[u8]) {
    let output = site.decoder(&["restore", "repository", &snapshot[..12], member, "restored"]);
    assert_eq!(code(&output), Some(0), "{}", text(&output));
    assert!(fs::read(site.path("restored")).unwrap() == expected, "{member} of {snapshot} differs");
    fs::remove_file(site.path("restored")).unwrap();
}

/// Changes one byte in the middle of an object for the time of a call.
fn with_flip<T>(site: &Site, key: &str, run: impl FnOnce() -> T) -> T {
    let path = site.repository().join(key);
    let sound = fs::read(&path).unwrap();
    let mut changed = sound.clone();
    changed[sound.len() / 2] ^= 1;
    fs::write(&path, &changed).unwrap();
    let result = run();
    fs::write(&path, &sound).unwrap();
    result
}

/// One object of every kind whose bytes are covered by signatures or names alone.
fn one_of_each_public_kind(site: &Site) -> Vec<String> {
    let kinds = [
        "config",
        "keys/identities/",
        "keys/admins/",
        "keys/zones/",
        "keys/certificates/",
        "/log/",
        "/outcome/",
        "/lists/",
        "/index/",
        "/packs/",
    ];
    let keys = site.keys();
    kinds.iter().map(|kind| keys.iter().find(|key| key.contains(kind)).expect(kind).clone()).collect()
}

#[test]
fn the_second_decoder_reads_what_the_program_wrote() {
    let Some(python) = install::decoder_python() else {
        return skip("the decoder's Python packages are not installed; `cargo xtask setup` does it");
    };
    let site = Site { folder: tempfile::tempdir().unwrap(), python };
    let dump = fill(&site);

    let output = site.decoder(&["verify", "repository"]);
    assert_eq!(code(&output), Some(0), "{}", text(&output));
    assert!(
        text(&output).starts_with("4 snapshots, ") && text(&output).contains(", 1 checkpoints, "),
        "{}",
        text(&output)
    );
    let ids = snapshots(&site);
    assert_restores(&site, &ids[0], "disk0", &fs::read(site.path("night-0")).unwrap());
    assert_restores(&site, &ids[2], "disk0", &fs::read(site.path("night-2")).unwrap());
    assert_restores(&site, &ids[2], "Gerät 1.xml", &fs::read(site.path("vm.xml")).unwrap());
    assert_restores(&site, &ids[4], "dump.sql", &dump);
    // The files of the third night by its catalogue, and by the program that reads the disk.
    let listed = site.decoder(&["files", "repository", &ids[2][..12]]);
    assert_eq!(code(&listed), Some(0), "{}", text(&listed));
    let found = site.sancerre(&["find", "*", &ids[2][..12], "--no-catalogue"], b"");
    let entry = |line: &str| -> (String, String) {
        let mut words = line.rsplitn(3, "  ");
        let path = words.next().unwrap().rsplit("disk0:whole").next().unwrap().to_owned();
        (words.next().unwrap().trim().to_owned(), path)
    };
    let sorted = |text: &str| {
        let mut entries: Vec<_> = text.lines().map(entry).collect();
        entries.sort();
        entries
    };
    let listed = sorted(&String::from_utf8(listed.stdout).unwrap());
    assert!(listed.len() > 100 && listed == sorted(&found), "{} {}", listed.len(), found.lines().count());

    for key in one_of_each_public_kind(&site) {
        let output = with_flip(&site, &key, || site.decoder(&["verify", "--public", "repository"]));
        assert_eq!(code(&output), Some(20), "{key}: {}", text(&output));
        assert!(text(&output).contains(&key), "{key}: {}", text(&output));
    }
    let pack = site.keys().into_iter().find(|key| key.contains("/packs/")).unwrap();
    let output =
        with_flip(&site, &pack, || site.decoder(&["restore", "repository", &ids[0], "disk0", "restored"]));
    assert_eq!(code(&output), Some(20), "{}", text(&output));
    assert!(!site.path("restored").exists(), "nothing half restored is left");

    // Of a snapshot whose entry is lost the manifest says what it was.
    let number = number_of(&site, &ids[2]);
    fs::remove_file(site.repository().join(format!("zones/default/log/{number}"))).unwrap();
    assert_restores(&site, &ids[2], "disk0", &fs::read(site.path("night-2")).unwrap());
    let output = site.decoder(&["verify", "--public", "repository"]);
    assert_eq!(code(&output), Some(20), "{}", text(&output));
    assert!(text(&output).contains("lost; the outcome of its session stands for it"), "{}", text(&output));
}

/// The number of a session, by the key of its outcome.
fn number_of(site: &Site, snapshot: &str) -> String {
    let key =
        site.keys().into_iter().find(|key| key.contains("/outcome/") && key.ends_with(snapshot)).unwrap();
    key.rsplit('/').next().unwrap().split_once('-').unwrap().0.to_owned()
}

#[test]
fn the_second_decoder_keeps_every_rule_of_lost_entries() {
    let Some(python) = install::decoder_python() else {
        return skip("the decoder's Python packages are not installed; `cargo xtask setup` does it");
    };
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(python);
    command
        .arg("-B")
        .arg(here.join("tests/cli/lost_entries.py"))
        .env("PYTHONPATH", here.join("../../docs/decoder"));
    let output = command.output().unwrap();
    assert_eq!(code(&output), Some(0), "{}", text(&output));
}
