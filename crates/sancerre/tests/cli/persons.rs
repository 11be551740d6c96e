//! Admins that change, and snapshots that two persons forget: the built program.

use crate::support::template;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new(approvals_needed: u32) -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        let noise: Vec<u8> =
            (0..60_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        std::fs::write(site.path("web01.raw"), noise).unwrap();
        template::make(&site.path("repository"), &site.path("hv1.key"), "correct horse", approvals_needed);
        site
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// With a key file, or without one with the passphrase.
    fn run(&self, key: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
        command.args(arguments).env_clear().current_dir(&self.folder).stdin(Stdio::null());
        match key {
            "" => command.env("SANCERRE_PASSWORD", "correct horse"),
            key => command.env("SANCERRE_KEY_FILE", key),
        };
        command.env("SANCERRE_REPOSITORY", "repository").output().unwrap()
    }

    fn ok(&self, key: &str, arguments: &[&str]) -> Output {
        let output = self.run(key, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    fn refused(&self, key: &str, arguments: &[&str], code: i32, says: &str) {
        let output = self.run(key, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(says), "{said}");
    }

    fn summary(&self, key: &str, arguments: &[&str]) -> Value {
        let output = self.ok(key, &[arguments, &["--json"]].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }

    fn back_up(&self, key: &str) -> String {
        let done = self.summary(key, &["backup", "--vm", "web01", "web01.raw"]);
        done["snapshot"].as_str().unwrap().to_owned()
    }

    fn restores(&self, snapshot: &str) {
        self.ok("", &["restore", snapshot, "--target", "restored.raw", "--overwrite"]);
        let restored = std::fs::read(self.path("restored.raw")).unwrap();
        assert!(restored == std::fs::read(self.path("web01.raw")).unwrap());
    }
}

#[test]
fn another_admin_key_takes_over() {
    let site = Site::new(0);
    site.back_up("hv1.key");
    site.ok("", &["key", "add", "writer", "odd", "--out", "odd.key"]);
    let old = site.summary("", &["key", "list"]);
    site.refused("hv1.key", &["key", "rotate-admin"], 12, "may not sign this");
    site.refused("", &["key", "rotate-admin", "--drop", "keys/zones/none"], 2, "keys/zones/none");
    let done = site.summary("", &["key", "rotate-admin", "--drop", "keys/certificates/odd"]);
    assert_eq!((&done["number"], &done["dropped"][0]), (&1.into(), &"keys/certificates/odd".into()));

    let new = site.summary("", &["key", "list"]);
    assert_eq!(new["trust_anchor"], old["trust_anchor"]);
    assert!(new["admin_key"] == done["admin_key"] && new["admin_key"] != old["admin_key"]);
    for anchor in [&new["trust_anchor"], &new["admin_key"]] {
        let anchor = anchor.as_str().unwrap();
        site.ok("", &["snapshots", "--trust", anchor]);
        site.ok("hv1.key", &["snapshots", "--trust", anchor]);
        site.ok("hv1.key", &["audit", "--trust", anchor]);
    }
    site.back_up("hv1.key");
    site.refused("odd.key", &["backup", "--vm", "web01", "web01.raw"], 12, "replaced");
    site.ok("", &["key", "add", "keeper", "vault", "--out", "vault.key"]);
    site.ok("vault.key", &["forget", "web01:latest~1", "--max-drop", "100%"]);
    site.ok("vault.key", &["gc"]);
    site.ok("", &["key", "rotate"]);
    site.restores("web01:latest");
    site.ok("", &["check", "--read-data"]);
}

#[test]
fn two_persons_forget() {
    let site = Site::new(1);
    for keeper in ["alice", "bob"] {
        site.ok("", &["key", "add", "keeper", keeper, "--out", &format!("{keeper}.key")]);
    }
    site.back_up("hv1.key");
    std::fs::write(site.path("web01.raw"), vec![7; 1_000_000]).unwrap();
    site.back_up("hv1.key");
    let forget = ["forget", "web01:latest~1", "--max-drop", "100%"];
    let asked = site.summary("alice.key", &forget);
    assert_eq!((&asked["entry"], &asked["approvals_needed"]), (&3.into(), &1.into()));
    site.refused("alice.key", &forget, 1, "waits for approval already");
    site.refused("alice.key", &["approve", "3"], 1, "another keeper");
    site.refused("", &["approve", "3"], 12, "may not sign this");
    site.refused("bob.key", &["approve", "1"], 2, "log entry 1 waits for no approval");
    let gc = site.summary("bob.key", &["gc"]);
    assert_eq!((&gc["pending"][0]["by"], &gc["deleted_packs"]), (&"alice".into(), &0.into()));
    let listed = site.summary("hv1.key", &["approve"]);
    assert_eq!(listed["pending"][0]["entry"], 3);
    site.ok("bob.key", &["approve", "3", "--reason", "looked at it"]);
    assert_eq!(site.summary("hv1.key", &["approve"])["pending"], Value::Array(Vec::new()));
    assert!(site.summary("bob.key", &["gc", "--max-drop", "100%"])["deleted_packs"].as_u64().unwrap() > 0);
    site.restores("web01:latest");

    assert_eq!(site.summary("", &["key", "approvals", "2"])["waits"], false);
    let lower = site.summary("", &["key", "approvals", "0"]);
    assert_eq!(lower["waits"], true);
    site.ok("alice.key", &["approve", &lower["entry"].to_string()]);
    assert_eq!(site.summary("hv1.key", &["approve"])["approvals_needed"], 2, "it waits for another one");
}

/// A release waits as a forget does, and so many keepers as nobody has are not asked for.
#[test]
fn two_persons_release() {
    let site = Site::new(1);
    for keeper in ["alice", "bob"] {
        site.ok("", &["key", "add", "keeper", keeper, "--out", &format!("{keeper}.key")]);
    }
    site.back_up("hv1.key");
    site.ok("alice.key", &["hold", "web01:latest"]);
    site.ok("alice.key", &["hold", "--vm", "web01"]);
    let asked = site.summary("alice.key", &["release", "web01:latest"]);
    assert_eq!(asked["approvals_needed"], 1);
    site.refused("alice.key", &["release", "web01:latest"], 1, "waits for approval already");
    site.summary("alice.key", &["release", "--vm", "web01"]);
    let listed = site.summary("hv1.key", &["approve"]);
    let pending = listed["pending"].as_array().unwrap();
    assert_eq!(
        (pending[0]["releases"].as_array().unwrap().len(), &pending[1]["releases_vms"][0]),
        (1, &"web01".into())
    );
    for one in pending {
        site.ok("bob.key", &["approve", &one["entry"].to_string()]);
    }
    site.refused("bob.key", &["release", "web01:latest"], 2, "is not held");
    site.refused("", &["key", "approvals", "17"], 2, "from 0 to 16");
}

/// That deletion stands still is ended by two persons, too.
#[test]
fn two_persons_clear() {
    let site = Site::new(1);
    for keeper in ["alice", "bob"] {
        site.ok("", &["key", "add", "keeper", keeper, "--out", &format!("{keeper}.key")]);
    }
    let night = site.back_up("hv1.key");
    site.ok("alice.key", &["suspect", &night]);
    let clear = ["clear", "web01", "--reason", "it was an update"];
    let asked = site.summary("alice.key", &clear);
    assert_eq!((&asked["approvals_needed"], &asked["snapshots"][0]), (&1.into(), &night.as_str().into()));
    site.refused("alice.key", &clear, 1, "waits for approval already");
    let entry = asked["entry"].to_string();
    site.refused("alice.key", &["approve", &entry], 1, "another keeper");
    let listed = site.summary("hv1.key", &["approve"]);
    assert_eq!(listed["pending"][0]["clears"][0], night);
    assert_eq!(site.summary("hv1.key", &["clean"])["machines"][0]["suspect"], true);
    // Said anew it takes that back.
    site.ok("bob.key", &["suspect", &night]);
    site.refused("bob.key", &["approve", &entry], 2, "waits for no approval");
    site.refused("bob.key", &["suspect", &night], 2, "suspect already");
    let asked = site.summary("bob.key", &clear);
    site.ok("alice.key", &["approve", &asked["entry"].to_string()]);
    assert_eq!(site.summary("hv1.key", &["clean"])["machines"][0]["suspect"], false);
}
