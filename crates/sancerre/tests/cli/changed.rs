//! Change maps and the built program: what `diff` prints `backup --changed` reads, and QEMU's own map too.
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::support::{MIB, noise};
use serde_json::Value;

struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(site.path("web01.raw"), noise(3, 3 * MIB)).unwrap();
        crate::support::template::copy(site.folder.path(), &site.path("repository"));
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().current_dir(&self.folder).stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
            .env("SANCERRE_REPOSITORY", "repository")
            .env("SANCERRE_PASSWORD", crate::support::template::PASSPHRASE);
        command.output().unwrap()
    }

    /// Returns its summary and what it said.
    fn ends(&self, arguments: &[&str], code: i32) -> (Value, String) {
        let output = self.run(env!("CARGO_BIN_EXE_sancerre"), &[arguments, &["--json"]].concat());
        let (out, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{said}");
        let last = out.lines().last().unwrap_or("null");
        (serde_json::from_str(last).unwrap(), format!("{out}{said}"))
    }

    fn back_up(&self, arguments: &[&str], code: i32) -> (Value, String) {
        let begin = ["backup", "--key-file", "w.key", "--vm", "web01"];
        self.ends(&[&begin, arguments].concat(), code)
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        let file = std::fs::OpenOptions::new().write(true).open(self.path("web01.raw")).unwrap();
        file.write_all_at(bytes, at as u64).unwrap();
    }

    fn restores(&self, expected: &[u8]) {
        self.ends(&["restore", "web01:latest:disk0", "--target", "restored.raw", "--overwrite"], 0);
        assert!(std::fs::read(self.path("restored.raw")).unwrap() == expected);
    }
}

#[test]
fn what_diff_prints_is_a_map_that_a_backup_reads() {
    let site = Site::new();
    let first = site.back_up(&["web01.raw"], 0).0["snapshot"].as_str().unwrap().to_owned();
    site.write(MIB + 5, b"changed");
    let second = site.back_up(&["web01.raw"], 0).0["snapshot"].as_str().unwrap().to_owned();

    // By a writer's key, which opens no content.
    let (done, _) = site.ends(&["diff", "--key-file", "w.key", &first, &format!("{second}:disk0")], 0);
    let map = &done["disks"][0]["map"];
    assert_eq!((&map["base"], &map["source"]), (&Value::from(first.clone()), &Value::from("diff")));
    let range = &map["changed"][0];
    let (at, length) = (range["offset"].as_u64().unwrap(), range["length"].as_u64().unwrap());
    assert!(at <= MIB as u64 + 5 && at + length >= MIB as u64 + 12, "{map}");
    assert!(done["changed_bytes"].as_u64().unwrap() == length && length <= 1 << 20, "{map}");
    std::fs::write(site.path("map"), map.to_string()).unwrap();
    let key = ["diff", "--key-file", "w.key", "web01:latest~1", "web01:latest"];
    let table = site.run(env!("CARGO_BIN_EXE_sancerre"), &key);
    assert!(String::from_utf8_lossy(&table.stdout).starts_with("disk "), "{table:?}");

    let (done, _) = site.back_up(&["web01.raw", "--changed", "map"], 0);
    assert_eq!((&done["new_bytes"], &done["belied"]), (&0.into(), &Value::Array(Vec::new())));
    let scan = done["scan"].as_str().unwrap();
    assert!(scan.starts_with("map diff ") && scan.contains(&first), "{scan}");
    let listed = site.run(env!("CARGO_BIN_EXE_sancerre"), &["snapshots", "--key-file", "w.key"]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout).matches("(map diff)").count(), 1, "{listed:?}");
    site.restores(&std::fs::read(site.path("web01.raw")).unwrap());

    // It says nothing of this one: found out, for a disk this small is compared everywhere.
    site.write(2 * MIB + 99, b"hidden");
    let (done, said) = site.back_up(&["web01.raw", "--changed", "disk0=map"], 3);
    assert_eq!((&done["scan"], &done["belied"][0]), (&"full".into(), &"disk0".into()));
    assert!(said.contains("all of disk0 is read") && said.contains("did change"), "{said}");
    site.restores(&std::fs::read(site.path("web01.raw")).unwrap());
}

#[test]
fn a_map_without_a_moment_and_a_map_that_is_none_are_refused_before_anything_is_saved() {
    let site = Site::new();
    site.back_up(&["web01.raw"], 0);
    for (text, arguments, code, why) in [
        ("[]", &["--changed", "map"][..], 2, "does not say since when"),
        ("[]", &["--changed", "other=map"][..], 2, "no disk that is backed up"),
        ("[]", &["--changed", "bitmap:b", "--changed-since", "web01:latest"][..], 2, "has no bitmaps"),
        ("[]", &["--changed-since", "web01:latest"][..], 2, "--changed"),
        ("[]", &["--changed", "map", "--verify-unchanged", "0%"][..], 2, "more than nothing"),
        ("[1]", &["--changed", "map", "--changed-since", "web01:latest"][..], 1, "the change map is none"),
        ("[]", &["--changed", "gone", "--changed-since", "web01:latest"][..], 1, "gone"),
    ] {
        std::fs::write(site.path("map"), text).unwrap();
        let (_, said) = site.back_up(&[&["web01.raw"], arguments].concat(), code);
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
    // One of another disk costs a full read.
    let other = r#"{"form":"sancerre-change-map-1","disk-bytes":4096,"source":"thin","changed":[]}"#;
    std::fs::write(site.path("map"), other).unwrap();
    let (done, said) = site.back_up(&["web01.raw", "--changed", "map", "--changed-since", "web01:latest"], 0);
    assert!(done["scan"] == "full" && said.contains("not of this disk"), "{said}");
    // And one of Ceph's that says that nothing changed, which is so.
    std::fs::write(site.path("map"), "[]").unwrap();
    let (done, _) = site.back_up(&["web01.raw", "--changed", "map", "--changed-since", "web01:latest"], 0);
    assert!(done["scan"].as_str().unwrap().starts_with("map rbd "), "{done}");
}

#[test]
fn what_qemu_counted_is_read_from_overlays_bitmaps_and_servers() {
    if Command::new("qemu-io").arg("--version").output().is_err() {
        return sancerre_services::skip("qemu-io is not installed");
    }
    let site = Site::new();
    site.back_up(&["web01.raw"], 0);
    let ok = |program: &str, arguments: &[&str]| {
        let output = site.run(program, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    ok("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "web01.raw", "-F", "raw", "web01.qcow2"]);
    ok("qemu-io", &["-c", "write -P 7 1M 64k", "-c", "write -z 2M 200k", "web01.qcow2"]);
    std::fs::write(site.path("map"), ok("qemu-img", &["map", "--output=json", "web01.qcow2"])).unwrap();
    ok("qemu-img", &["convert", "-O", "raw", "web01.qcow2", "expected.raw"]);
    let disk = ["web01.qcow2", "--image-parts", ".", "--changed", "map", "--changed-since", "web01:latest"];
    let (done, said) = site.back_up(&disk, 0);
    assert!(done["scan"].as_str().unwrap().starts_with("map qemu-map "), "{said}");
    site.restores(&std::fs::read(site.path("expected.raw")).unwrap());

    // Its own bitmap, made once the overlay was saved, and gone another night.
    ok("qemu-img", &["bitmap", "--add", "web01.qcow2", "night"]);
    ok("qemu-io", &["-c", "write -P 9 2M 64k", "web01.qcow2"]);
    ok("qemu-img", &["convert", "-O", "raw", "web01.qcow2", "expected.raw"]);
    let own = |name: &'static str| {
        ["web01.qcow2", "--image-parts", ".", "--changed", name, "--changed-since", "web01:latest"]
    };
    let (done, said) = site.back_up(&own("bitmap:night"), 0);
    assert!(done["scan"].as_str().unwrap().starts_with("map qcow2-bitmap "), "{said}");
    site.restores(&std::fs::read(site.path("expected.raw")).unwrap());
    let (done, said) = site.back_up(&own("bitmap:other"), 0);
    assert!(done["scan"] == "full" && said.contains("none of this name"), "{said}");

    // The same by a server: it has what changed since the bitmap was made, and so since any later snapshot too.
    let socket = site.path("nbd.sock");
    let mut server = Command::new("qemu-nbd");
    server.args(["--read-only", "--persistent", "--bitmap", "night", "--socket"]).arg(&socket);
    let _server = Server(server.arg(site.path("web01.qcow2")).spawn().unwrap());
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let uri = format!("disk0=nbd+unix:///?socket={}", socket.display());
    let by_server =
        |name: &str| site.back_up(&[&uri, "--changed", name, "--changed-since", "web01:latest"], 0);
    let (done, said) = by_server("bitmap:night");
    assert!(done["scan"].as_str().unwrap().starts_with("map qemu:dirty-bitmap:night "), "{said}");
    site.restores(&std::fs::read(site.path("expected.raw")).unwrap());
    let (done, said) = by_server("bitmap:gone");
    assert!(done["scan"] == "full" && said.contains("cannot be used"), "{said}");
}

/// Ends with the test.
struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
