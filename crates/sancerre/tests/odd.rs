//! The built program on folders that are odd: parts that it may not read, and a place that goes away while it writes.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const MIB: usize = 1 << 20;
/// Somebody who may read what others may.
const NOBODY: u32 = 65_534;

/// A folder with a repository in it, a writer's key and a keeper's.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        let made = site.run(&["init", "--key-file", "w.key", "--writer", "hv1"]);
        assert!(made.status.success(), "{}", stderr(&made));
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
        command.args(arguments).env_clear().current_dir(&self.folder).stdin(Stdio::null());
        command.env("SANCERRE_REPOSITORY", self.path("repository")).env("SANCERRE_PASSWORD", "correct horse");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        output
    }

    fn write_disk(&self) {
        let noise = (0..2 * MIB as u64 / 8)
            .map(|word| (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (word >> 3)).to_le_bytes());
        std::fs::write(self.path("disk.raw"), noise.flatten().collect::<Vec<u8>>()).unwrap();
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Folders that belong to somebody else, where ours could be and where they could not: readers go on, and who would
/// delete does not.
#[test]
fn a_folder_that_cannot_be_listed_stops_only_who_deletes() {
    let site = Site::new();
    site.write_disk();
    site.succeed(&["key", "add", "keeper", "vault", "--out", "k.key"]);
    site.succeed(&["backup", "--key-file", "w.key", "--vm", "web01", "disk0=disk.raw"]);
    let is_root = std::fs::metadata(site.path("w.key"))
        .is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    let own = site.path(".");
    for argument in [["-R", "a+rwX"]] {
        assert!(Command::new("chmod").args(argument).arg(&own).status().unwrap().success());
    }
    let command = |arguments: &[&str]| {
        let mut command = site.command(arguments);
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.output().unwrap()
    };
    for key in ["w.key", "k.key"] {
        // A key that others may read is refused.
        std::fs::set_permissions(site.path(key), std::fs::Permissions::from_mode(0o600)).unwrap();
        if is_root {
            std::os::unix::fs::chown(site.path(key), Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    let closed = ["keys/zones/x", "keys/x", "zones/default/packs/00000000000000ff", "zones/default/lists/x"];
    for folder in closed {
        let folder = site.path("repository").join(folder);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("x"), b"junk").unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    let restored = command(&["restore", "web01:latest:disk0", "--target", "back.raw"]);
    assert!(restored.status.success(), "{}", stderr(&restored));
    assert!(std::fs::read(site.path("back.raw")).unwrap() == std::fs::read(site.path("disk.raw")).unwrap());
    let saved = command(&["backup", "--key-file", "w.key", "--vm", "web01", "disk0=disk.raw"]);
    assert!(saved.status.success(), "{}", stderr(&saved));
    let checked = command(&["check"]);
    let told = String::from_utf8_lossy(&checked.stdout).into_owned() + &stderr(&checked);
    assert!(checked.status.success(), "{told}");
    assert!(closed.iter().all(|folder| told.contains(folder)), "{told}");
    let refused = command(&["gc", "--key-file", "k.key", "--wait", "0s"]);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("cannot be listed"), "{}", stderr(&refused));
    for folder in closed {
        let folder = site.path("repository").join(folder);
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let collected = command(&["gc", "--key-file", "k.key", "--wait", "0s"]);
    assert!(collected.status.success(), "{}", stderr(&collected));
}
