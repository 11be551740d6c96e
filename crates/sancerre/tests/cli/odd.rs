//! The built program on folders that are odd: parts that it may not read, and a place that goes away while it writes.
use crate::support::{MIB, noise, template};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Somebody who may read what others may.
const NOBODY: u32 = 65_534;

/// A folder with a repository in it, a writer's key and a keeper's.
struct Site {
    folder: tempfile::TempDir,
    place: &'static str,
}

impl Site {
    fn new() -> Self {
        Self::at("repository")
    }

    fn at(place: &'static str) -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap(), place };
        template::make(&site.path(place), &site.path("w.key"), "correct horse", 0);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
        command.args(arguments).env_clear().current_dir(&self.folder).stdin(Stdio::null());
        command.env("SANCERRE_REPOSITORY", self.path(self.place)).env("SANCERRE_PASSWORD", "correct horse");
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
        std::fs::write(self.path("disk.raw"), noise(7, 2 * MIB)).unwrap();
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
    let opened = Command::new("chmod").args(["-R", "a+rwX"]).arg(&own).status();
    assert!(opened.unwrap().success());
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

/// What becomes of the place of a repository while a backup writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Moved away, as when a disk is pulled: nothing is there.
    Gone,
    /// An empty folder is left: what a file system was mounted on.
    Unmounted,
    /// Another repository is there.
    Replaced,
}

/// A backup through a pipe, half of it before and half after.
fn back_up_while(site: &Site, change: impl FnOnce()) -> Output {
    let noise: Vec<u8> = noise(7, 40 * MIB);
    let mut command = site.command(&[
        "backup",
        "--key-file",
        "w.key",
        "--vm",
        "web01",
        "--stdin",
        "disk0",
        "--retry-for",
        "0s",
    ]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let (first, second) = noise.split_at(38 * MIB);
    pipe.write_all(first).unwrap();
    let packs = site.path("disk/repository/zones/default/packs");
    let started = Instant::now();
    let is_there = || walk(&packs).iter().any(|path| !path.to_string_lossy().contains('#'));
    while !is_there() {
        assert!(started.elapsed() < Duration::from_secs(120), "nothing was uploaded");
        std::thread::sleep(Duration::from_millis(20));
    }
    change();
    // Whoever failed already reads no more.
    drop(pipe.write_all(second));
    drop(pipe);
    child.wait_with_output().unwrap()
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { vec![entry.path()] })
        .collect()
}

/// "Saved" is never said of what went somewhere else, whatever is left where the repository was.
#[test]
fn a_place_that_goes_away_is_never_a_saved_backup() {
    for fate in [Fate::Gone, Fate::Unmounted, Fate::Replaced] {
        let site = Site::at("disk/repository");
        let (disk, away) = (site.path("disk"), site.path("away"));
        let other = (fate == Fate::Replaced).then(|| Site::at("disk/repository"));
        let output = back_up_while(&site, || {
            std::fs::rename(&disk, &away).unwrap();
            match fate {
                Fate::Gone => {}
                Fate::Unmounted => std::fs::create_dir(&disk).unwrap(),
                Fate::Replaced => std::fs::rename(other.as_ref().unwrap().path("disk"), &disk).unwrap(),
            }
        });
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{fate:?}: {told}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("snapshot "), "{fate:?}");
        let is_said =
            ["not there any more", "is not any more", "cannot"].iter().any(|words| told.contains(words));
        assert!(is_said, "{fate:?}: {told}");
        drop(std::fs::remove_dir_all(&disk));
        std::fs::rename(&away, &disk).unwrap();
        let listed = site.succeed(&["snapshots", "--json"]);
        assert!(!String::from_utf8_lossy(&listed.stdout).contains("web01"), "{fate:?}");
    }
}
