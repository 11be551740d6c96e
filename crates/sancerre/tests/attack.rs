//! The built program after somebody with stolen write credentials was at a bucket that keeps versions.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use sancerre_services::seaweedfs::{ADMIN, Bucket, Credentials, READER, WRITER};
use sancerre_services::{Seaweedfs, seaweedfs};
use serde_json::Value;

const MIB: usize = 1 << 20;

/// A repository in a bucket of its own, and the disks of each night.
struct Site {
    server: &'static Seaweedfs,
    bucket: String,
    folder: tempfile::TempDir,
    trust: String,
    nights: usize,
}

impl Site {
    /// With a writer's key and a keeper's.
    fn new(server: &'static Seaweedfs, kind: Bucket) -> Self {
        let (bucket, folder) = (server.bucket(kind).unwrap(), tempfile::tempdir().unwrap());
        let mut site = Self { server, bucket, folder, trust: String::new(), nights: 0 };
        let made = site.run(WRITER, &["init", "--json", "--key-file", "w.key", "--writer", "hv1"]);
        site.trust = summary(&made)["trust_anchor"].as_str().unwrap().to_owned();
        site.succeed(WRITER, &["key", "add", "keeper", "vault", "--out", "k.key"]);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, who: Credentials, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
        command.args(arguments).env_clear().current_dir(&self.folder).stdin(Stdio::null());
        command.env("SANCERRE_REPOSITORY", format!("s3://{}", self.bucket));
        command.env("SANCERRE_PASSWORD", "correct horse").envs(self.server.variables(who)).output().unwrap()
    }

    fn succeed(&self, who: Credentials, arguments: &[&str]) -> Output {
        let output = self.run(who, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Backs up a disk that differs from all before.
    fn back_up(&mut self) {
        let disk = noise(self.nights as u64 + 1, 3 * MIB);
        std::fs::write(self.path(&format!("{}.raw", self.nights)), disk).unwrap();
        let disk = format!("disk0={}.raw", self.nights);
        self.succeed(WRITER, &["backup", "--key-file", "w.key", "--vm", "web01", &disk]);
        self.nights += 1;
    }

    /// Whoever reads finds every night, bit for bit, and nothing to complain about.
    fn is_whole(&self) {
        let listed = self.succeed(READER, &["snapshots", "--json", "--key-file", "w.key"]);
        let listed = String::from_utf8_lossy(&listed.stdout).matches("\"vm\":\"web01\"").count();
        assert_eq!(listed, self.nights);
        for night in 0..self.nights {
            let snapshot = format!("web01:latest~{}:disk0", self.nights - 1 - night);
            self.succeed(READER, &["restore", &snapshot, "--target", "restored.raw", "--overwrite"]);
            let restored = std::fs::read(self.path("restored.raw")).unwrap();
            assert!(restored == std::fs::read(self.path(&format!("{night}.raw"))).unwrap(), "night {night}");
        }
        self.succeed(READER, &["check", "--read-data"]);
        self.succeed(READER, &["audit", "--trust", &self.trust, "--sample-loss", "0.1%"]);
    }

    fn collect(&self) -> Value {
        summary(&self.succeed(ADMIN, &["gc", "--json", "--key-file", "k.key", "--wait", "0s"]))
    }
}

fn summary(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(last).unwrap()
}

/// Incompressible bytes, the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let words = (0..length / 8).map(|_| {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb).to_le_bytes()
    });
    words.flatten().collect()
}

/// Markers and junk over every object, twice: everything is found, nights go on, and a collection loses nothing.
#[test]
fn what_was_hidden_and_overwritten_is_still_there() {
    let Some(server) = seaweedfs() else { return };
    let mut site = Site::new(server, Bucket::LockedByDefault(1));
    site.back_up();
    site.back_up();
    let objects = server.deface(WRITER, &site.bucket).unwrap();
    assert!(objects > 12, "{objects}");
    site.is_whole();
    site.back_up();
    server.deface(WRITER, &site.bucket).unwrap();
    site.is_whole();
    let collected = site.collect();
    assert_eq!((&collected["deleted_packs"], &collected["committed"]), (&0.into(), &true.into()));
    site.is_whole();
}

/// No collection has recorded the newest snapshot, and its manifest is hidden: an abort in its place would be accepted.
#[test]
fn gc_does_not_take_a_hidden_manifest_for_none() {
    let Some(server) = seaweedfs() else { return };
    let mut site = Site::new(server, Bucket::Versioned);
    site.back_up();
    site.back_up();
    let objects = server.versions(&site.bucket).unwrap();
    let manifests: Vec<_> = objects.iter().filter(|version| version.key.contains("/outcome/")).collect();
    assert_eq!(manifests.len(), 2);
    for manifest in manifests {
        server.hide(WRITER, &site.bucket, &manifest.key).unwrap();
    }
    let collected = site.collect();
    assert_eq!(collected["sessions"]["ended"], Value::Array(Vec::new()), "{collected}");
    assert_eq!(collected["deleted_packs"], 0, "{collected}");
    site.is_whole();
}

/// Junk waits where the next night will write, behind a marker so that a create-only request succeeds.
#[test]
fn what_was_put_in_the_way_stops_no_backup() {
    let Some(server) = seaweedfs() else { return };
    let mut site = Site::new(server, Bucket::LockedByDefault(1));
    site.back_up();
    let newest = server.versions(&site.bucket).unwrap();
    let newest = newest.iter().filter(|version| version.key.contains("/log/")).map(|version| &version.key);
    let (folder, number) = newest.max().unwrap().rsplit_once('/').unwrap();
    let next = u64::from_str_radix(number, 16).unwrap() + 1;
    for number in next..next + 3 {
        let key = format!("{folder}/{number:016x}");
        server.overwrite(WRITER, &site.bucket, &key, b"junk").unwrap();
        server.hide(WRITER, &site.bucket, &key).unwrap();
    }
    site.back_up();
    let listed = site.succeed(READER, &["snapshots", "--json", "--key-file", "w.key"]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout).matches("\"vm\":\"web01\"").count(), 2);
    site.succeed(READER, &["restore", "web01:latest:disk0", "--target", "restored.raw"]);
    assert!(std::fs::read(site.path("restored.raw")).unwrap() == std::fs::read(site.path("1.raw")).unwrap());
}
