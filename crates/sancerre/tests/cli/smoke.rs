//! The built program, as cron and an administrator use it. Opening with a passphrase costs a second, so the steps
//! share two repositories.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::MIB;
use serde_json::Value;

/// A folder with a repository in it, and the program's variables.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The program without any of our variables, with the repository's location.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
        command
            .args(arguments)
            .env_clear()
            .envs(crate::support::CHEAP)
            .env("PATH", std::env::var("PATH").unwrap_or_default());
        command.env("SANCERRE_REPOSITORY", self.path("repository")).stdin(Stdio::null());
        command
    }

    fn with_key_file(&self, arguments: &[&str]) -> Output {
        self.command(arguments).env("SANCERRE_KEY_FILE", self.path("writer.key")).output().unwrap()
    }

    fn with_passphrase(&self, arguments: &[&str]) -> Output {
        self.command(arguments).env("SANCERRE_PASSWORD", "correct horse").output().unwrap()
    }

    fn init(&self) {
        let output =
            self.with_passphrase(&["init", "--key-file", &self.path("writer.key"), "--writer", "hv1"]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stdout(&output).contains("trust anchor  SHA256:"), "{}", stdout(&output));
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The last line of JSON, which is the only summary.
fn summary(output: &Output) -> Value {
    let text = stdout(output);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is_summary = |line: &&Value| line["type"] == "summary";
    assert_eq!(lines.iter().filter(is_summary).count(), 1, "{text}{}", stderr(output));
    let last = lines.last().unwrap().clone();
    assert_eq!(last["type"], "summary", "{text}");
    assert_eq!(last["exit_code"], code(output), "{text}");
    last
}

/// A sparse disk with data that does not compress away, different for each seed.
fn write_disk(path: &Path, seed: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).open(path).unwrap();
    file.set_len(80 * MIB as u64).unwrap();
    let mut state = seed | 1;
    let noise: Vec<u8> = (0..3 * MIB / 8)
        .flat_map(|_| {
            // xorshift64*
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
        })
        .collect();
    file.write_all_at(&noise, MIB as u64).unwrap();
    file.write_all_at(&[seed as u8; 5000], 70 * MIB as u64).unwrap();
}

#[test]
fn what_needs_no_key() {
    let site = Site::new();
    assert_eq!(code(&site.command(&["snapshots"]).output().unwrap()), 10);
    let output = site.command(&["restore", "latest"]).output().unwrap();
    assert_eq!((code(&output), stdout(&output)), (2, String::new()));
    assert_eq!(code(&site.command(&[]).output().unwrap()), 2);
    let output = site.command(&["help"]).output().unwrap();
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).contains("Exit codes"));
}

#[test]
fn a_repository_is_made_once() {
    let site = Site::new();
    site.init();
    let again = site.with_passphrase(&["init", "--json", "--key-file", &site.path("other.key")]);
    assert_eq!(code(&again), 13);
    assert!(summary(&again)["message"].as_str().unwrap().contains("nothing was changed"));
    assert!(!Path::new(&site.path("other.key")).exists());

    let elsewhere = site.path("elsewhere");
    let same_key = site.with_passphrase(&["init", "-r", &elsewhere, "--key-file", &site.path("writer.key")]);
    assert_eq!(code(&same_key), 1);
    assert!(stderr(&same_key).contains("never replaced"), "{}", stderr(&same_key));

    let empty = site.with_key_file(&["snapshots"]);
    assert_eq!((code(&empty), stdout(&empty)), (0, String::new()), "{}", stderr(&empty));
    assert_eq!(summary(&site.with_key_file(&["list", "--json"]))["snapshots"], Value::Array(Vec::new()));

    let wrong = site.command(&["snapshots"]).env("SANCERRE_PASSWORD", "wrong horse").output().unwrap();
    assert_eq!(code(&wrong), 12);
    assert!(stderr(&wrong).starts_with("sancerre: the passphrase does not open"), "{}", stderr(&wrong));
    let elsewhere = site.with_key_file(&["snapshots", "--zone", "other"]);
    assert_eq!(code(&elsewhere), 2, "{}", stderr(&elsewhere));
}

#[test]
fn a_night_and_the_day_after() {
    let site = Site::new();
    site.init();
    let disk = site.path("web01.raw");
    write_disk(Path::new(&disk), 1);
    let first = back_up(&site, &disk);
    write_disk(Path::new(&disk), 2);
    let second = back_up(&site, &disk);
    assert_eq!(second["parent"], first["snapshot"]);

    listing(&site, &first, &second);
    restoring(&site, &disk, &second);
    checking(&site);
}

/// Backs up by the key file alone, with a second member from a pipe and a third from a file.
fn back_up(site: &Site, disk: &str) -> Value {
    std::fs::write(site.path("web01.xml"), "<domain/>").unwrap();
    let disk = format!("disk0={disk}");
    let (attached, metrics) = (site.path("web01.xml"), site.path("web01.prom"));
    let arguments = [
        "backup",
        "--json",
        "--vm",
        "web01",
        &disk,
        "--tag",
        "nightly",
        "--stdin",
        "dump.sql",
        "--attach",
        &attached,
        "--metrics-file",
        &metrics,
    ];
    let mut child = site
        .command(&arguments)
        .env("SANCERRE_KEY_FILE", site.path("writer.key"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"select 1;\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}{}", stdout(&output), stderr(&output));
    let summary = summary(&output);
    assert_eq!(summary["members"].as_array().unwrap().len(), 3);
    assert!(summary["new_bytes"].as_u64().unwrap() >= 3 * MIB as u64, "{summary}");
    let text = std::fs::read_to_string(&metrics).unwrap();
    let is_told = |line: &str| line.starts_with("sancerre_backup_last_run_success{repository=\"/");
    assert!(text.lines().any(|line| is_told(line) && line.ends_with(",vm=\"web01\"} 1")), "{text}");
    summary
}

fn listing(site: &Site, first: &Value, second: &Value) {
    let table = stdout(&site.with_key_file(&["snapshots", "--tag", "nightly"]));
    assert_eq!(table.lines().count(), 3, "{table}");
    for summary in [first, second] {
        assert!(table.contains(&summary["snapshot"].as_str().unwrap()[..8]), "{table}");
    }
    let none = summary(&site.with_key_file(&["snapshots", "--json", "--tag", "yearly"]));
    assert_eq!(none["snapshots"], Value::Array(Vec::new()));
}

fn restoring(site: &Site, disk: &str, second: &Value) {
    // The key file of a hypervisor opens no content.
    let target = site.path("restored.raw");
    let refused = site.with_key_file(&["restore", "web01:latest:disk0", "--target", &target]);
    assert_eq!(code(&refused), 12, "{}", stderr(&refused));
    assert!(!Path::new(&target).exists());

    let output = site.with_passphrase(&["restore", "web01:latest:disk0", "--target", &target]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        std::fs::read(&target).unwrap() == std::fs::read(disk).unwrap(),
        "the disk is the second night's"
    );

    let id = &second["snapshot"].as_str().unwrap()[..8];
    let folder = format!("{}/", site.path("all"));
    let output = site.with_passphrase(&["restore", id, "--target", &folder, "--json"]);
    assert_eq!(summary(&output)["members"].as_array().unwrap().len(), 3);
    assert!(std::fs::read(format!("{folder}disk0.raw")).unwrap() == std::fs::read(disk).unwrap());
    assert_eq!(std::fs::read(format!("{folder}web01.xml")).unwrap(), b"<domain/>");
    assert_eq!(std::fs::read(format!("{folder}dump.sql")).unwrap(), b"select 1;\n");

    // The same again: refused, or compared and found to be there.
    let again = site.with_passphrase(&["restore", id, "--target", &folder]);
    assert_eq!(code(&again), 1, "{}", stderr(&again));
    let again = summary(&site.with_passphrase(&["restore", id, "--target", &folder, "--json", "--resume"]));
    assert!(again["kept_bytes"].as_u64() > Some(0) && again["kept_bytes"] == again["data_bytes"], "{again}");

    let output = site.with_passphrase(&["dump", "latest~1:dump.sql"]);
    assert_eq!(
        (code(&output), output.stdout.as_slice()),
        (0, b"select 1;\n".as_slice()),
        "{}",
        stderr(&output)
    );
}

fn checking(site: &Site) {
    let output = site.with_key_file(&["check", "--read-data", "--json"]);
    assert_eq!(code(&output), 0, "{}", stdout(&output));
    let report = summary(&output);
    assert_eq!((&report["snapshots"], &report["disks"]), (&2.into(), &6.into()), "{report}");
    assert_eq!(report["packs"], report["read_packs"], "{report}");

    let packs = Path::new(&site.path("repository")).join("zones/default/packs/0000000000000001");
    let pack = std::fs::read_dir(packs).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let output = site.with_key_file(&["check", "--read-data"]);
    assert_eq!(code(&output), 20, "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("damaged: "), "{}", stdout(&output));
    std::fs::remove_file(&pack).unwrap();
    let output = site.with_key_file(&["check"]);
    assert_eq!(code(&output), 21, "{}{}", stdout(&output), stderr(&output));
}
