//! The built program on real object stores: a night, the night after, and both back bit for bit.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::{MIB, noise};
use sancerre_services::seaweedfs::Bucket;
use sancerre_services::{Variables, azurite, seaweedfs};

/// The program in its folder, with a provider's variables and no other.
struct Site {
    folder: tempfile::TempDir,
    location: String,
    variables: Variables,
}

impl Site {
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
        command
            .args(arguments)
            .env_clear()
            .envs(crate::support::CHEAP)
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        command.env("SANCERRE_REPOSITORY", &self.location).env("SANCERRE_PASSWORD", "correct horse");
        command.envs(self.variables.iter().cloned()).output().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn two_nights(location: String, variables: Variables) {
    let site = Site { folder: tempfile::tempdir().unwrap(), location, variables };
    let path = |name: &str| Path::new(site.folder.path()).join(name);
    let mut disk = noise(1, 40 * MIB);
    std::fs::write(path("first.raw"), &disk).unwrap();
    disk[MIB..2 * MIB].copy_from_slice(&noise(2, MIB));
    std::fs::write(path("second.raw"), &disk).unwrap();

    site.succeed(&["init", "--key-file-out", "writer.key", "--writer", "hv1"]);
    for night in ["first.raw", "second.raw"] {
        site.succeed(&["backup", "--key-file", "writer.key", "--vm", "web01", &format!("disk0={night}")]);
    }
    for (snapshot, night) in [("web01:latest~1:disk0", "first.raw"), ("web01:latest:disk0", "second.raw")] {
        site.succeed(&["restore", snapshot, "--target", "restored.raw", "--overwrite"]);
        let same = std::fs::read(path("restored.raw")).unwrap() == std::fs::read(path(night)).unwrap();
        assert!(same, "{snapshot} differs from {night}");
    }
    site.succeed(&["check", "--key-file", "writer.key", "--read-data"]);
    let again = site.run(&["init"]);
    assert_eq!(again.status.code(), Some(13), "{}", String::from_utf8_lossy(&again.stderr));
}

#[test]
fn on_s3() {
    let Some(server) = seaweedfs() else { return };
    two_nights(server.location(), server.variables(seaweedfs::ADMIN));
}

/// A writer's credentials are enough for every night, a reader's for the worst day. Neither ever deletes or overwrites:
/// afterwards each key has one version, no delete marker is there, and what lies there cannot be deleted by anybody.
#[test]
fn on_s3_where_every_object_is_locked() {
    let Some(server) = seaweedfs() else { return };
    let bucket = server.bucket(Bucket::LockedByDefault(1)).unwrap();
    let mut site = Site {
        folder: tempfile::tempdir().unwrap(),
        location: format!("s3://{bucket}"),
        variables: server.variables(seaweedfs::WRITER),
    };
    let folder = site.folder.path().to_owned();
    let disk = noise(3, 8 * MIB);
    std::fs::write(folder.join("disk.raw"), &disk).unwrap();
    site.succeed(&["init", "--key-file-out", "writer.key", "--writer", "hv1"]);
    for _night in 0..2 {
        site.succeed(&["backup", "--key-file", "writer.key", "--vm", "web01", "disk.raw"]);
    }
    site.variables = server.variables(seaweedfs::READER);
    site.succeed(&["check", "--read-data"]);
    site.succeed(&["restore", "web01:latest:disk0", "--target", "restored.raw"]);
    assert!(std::fs::read(folder.join("restored.raw")).unwrap() == disk, "another disk came back");

    // What `init` tried the store out with may be hidden again; nothing else is ever touched.
    let mut found = server.versions(&bucket).unwrap();
    found.retain(|version| !version.key.starts_with("probe/"));
    assert!(found.len() > 10 && found.iter().all(|version| !version.is_marker), "{found:?}");
    let unique: BTreeSet<&str> = found.iter().map(|version| version.key.as_str()).collect();
    assert_eq!(unique.len(), found.len(), "something was written twice: {found:?}");
    for version in &found {
        let place = format!("/{bucket}/{}", version.key);
        let delete = ("DELETE", place.as_str(), &*format!("versionId={}", version.id));
        let answer = server.request(seaweedfs::ADMIN, delete, &[], b"").unwrap();
        assert_eq!(answer.status, 403, "{} could be deleted: {}", version.key, answer.text());
    }
}

#[test]
fn on_azure() {
    let Some(server) = azurite() else { return };
    two_nights(server.location(), server.variables());
}
