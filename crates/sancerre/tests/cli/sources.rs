//! The built program on sources that are empty, foreign, in use, dying or stuck, as an administrator meets them.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::devices::LoopDevice;
use crate::support::faulty::Faulty;
use crate::support::{MIB, noise, summary};
use sancerre_services::skip;
use serde_json::Value;

/// What nothing here takes, also where many tests share a processor: whatever waits longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with a repository in it and a writer's key.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        crate::support::template::copy(site.folder.path(), &site.path("repository"));
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
        command.args(arguments).env_clear().current_dir(&self.folder).stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
            .env("SANCERRE_REPOSITORY", "repository")
            .env("SANCERRE_PASSWORD", crate::support::template::PASSPHRASE);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        end(self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn back_up(&self, arguments: &[&str]) -> Output {
        let begin = ["backup", "--key-file", "w.key", "--vm", "web01"];
        self.run(&[&begin, arguments].concat())
    }

    /// Refused before anything was saved; returns what was said.
    fn refuses(&self, arguments: &[&str]) -> String {
        let before = self.snapshots();
        let output = self.back_up(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", stderr(&output));
        assert_eq!(self.snapshots(), before, "{arguments:?}");
        stderr(&output)
    }

    fn saves(&self, arguments: &[&str], code: i32) -> String {
        let output = self.back_up(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        stderr(&output)
    }

    fn listed(&self) -> Value {
        summary(&self.run(&["snapshots", "--json", "--key-file", "w.key"]))["snapshots"].clone()
    }

    fn snapshots(&self) -> usize {
        self.listed().as_array().unwrap().len()
    }

    fn restores(&self, code: i32) -> (Vec<u8>, String) {
        let output = self.run(&["restore", "web01:latest:disk0", "--target", "restored.raw", "--overwrite"]);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        (std::fs::read(self.path("restored.raw")).unwrap(), stderr(&output))
    }
}

/// Its output, once it ended; a failure where it hangs.
fn end(mut child: Child) -> Output {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it hangs: {}", stderr(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_stream_of_nothing_is_refused_and_says_why() {
    let site = Site::new();
    let said = site.refuses(&["--stdin", "dump.sql"]);
    assert!(said.contains("nothing came through standard input") && said.contains("pipefail"), "{said}");

    // Closed: what a process opens next would take its place.
    let script = "exec <&-; exec \"$0\" backup --key-file w.key --vm web01 --stdin dump.sql";
    let mut closed = Command::new("sh");
    closed.args(["-c", script, env!("CARGO_BIN_EXE_sancerre")]).current_dir(&site.folder);
    closed.env_clear().env("SANCERRE_REPOSITORY", "repository").stderr(Stdio::piped());
    let output = end(closed.spawn().unwrap());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));

    assert_eq!(site.snapshots(), 0);
    site.saves(&["--stdin", "dump.sql", "--allow-small"], 0);
    let said = site.refuses(&["--stdin", "x", "--stdin-command", "printf abc", "--expect-min", "x=4"]);
    assert!(said.contains("3 bytes, fewer than the 4 of --expect-min"), "{said}");
    site.saves(&["--stdin", "x", "--stdin-command", "printf abc", "--expect-min", "3"], 0);
    let output = site.back_up(&["--stdin", "x", "--expect-min", "y=4"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

/// What a shell does not tell of a pipe is told of a command.
#[test]
fn a_command_that_fails_in_the_middle_is_no_snapshot() {
    let site = Site::new();
    let said = site.refuses(&["--stdin", "x", "--stdin-command", "head -c 3000000 /dev/zero; exit 7"]);
    assert!(said.contains("exit status: 7"), "{said}");
}

#[test]
fn an_image_that_is_suddenly_empty_or_small_is_refused() {
    let site = Site::new();
    std::fs::write(site.path("d.raw"), noise(5, 4 * MIB)).unwrap();
    site.saves(&["d.raw"], 0);
    std::fs::write(site.path("d.raw"), b"").unwrap();
    let said = site.refuses(&["d.raw"]);
    assert!(said.contains("disk0 has 0 bytes") && said.contains("--allow-small"), "{said}");
    std::fs::write(site.path("d.raw"), noise(5, MIB)).unwrap();
    let said = site.refuses(&["d.raw"]);
    assert!(said.contains("had 4194304 in snapshot"), "{said}");
    File::create(site.path("d.raw")).unwrap().set_len(4 << 20).unwrap();
    let said = site.refuses(&["d.raw"]);
    assert!(said.contains("nothing but zeros"), "{said}");
    std::fs::write(site.path("d.raw"), noise(5, MIB)).unwrap();
    site.saves(&["d.raw", "--allow-small"], 0);
    site.saves(&["d.raw"], 0);
    let said = site.refuses(&["d.raw", "--expect-min", "2M"]);
    assert!(said.contains("--expect-min"), "{said}");
}

#[test]
fn a_disk_that_the_snapshot_before_had_is_missed() {
    let site = Site::new();
    for name in ["a.raw", "b.raw"] {
        std::fs::write(site.path(name), noise(5, MIB)).unwrap();
    }
    site.saves(&["a.raw", "b.raw"], 0);
    let said = stderr(&site.back_up(&["a.raw"]));
    assert!(said.contains("also has disk1, which this one will not have"), "{said}");
    // Said once: the night after has the same disks as the one before it.
    let said = stderr(&site.back_up(&["a.raw"]));
    assert!(!said.contains("also has"), "{said}");
    site.saves(&["a.raw", "b.raw"], 0);
    let said = stderr(&site.back_up(&["a.raw", "--allow-small"]));
    assert!(!said.contains("also has"), "{said}");
}

#[test]
fn what_is_no_file_is_not_attached_and_named() {
    let site = Site::new();
    std::fs::write(site.path("d.raw"), noise(5, MIB)).unwrap();
    std::fs::create_dir(site.path("folder")).unwrap();
    let fifo = Command::new("mkfifo").arg(site.path("pipe")).status().unwrap();
    assert!(fifo.success());
    for (path, kind) in [("pipe", "pipe"), ("folder", "directory"), ("/dev/zero", "character device")] {
        let said = site.refuses(&["d.raw", "--attach", &format!("x={path}")]);
        assert!(said.contains(&format!("{path}: it is a {kind}")), "{said}");
        let said = site.refuses(&[path]);
        assert!(said.contains(&format!("{path}: it is a {kind}")), "{said}");
    }
    let output = site.run(&["backup", "--key-file", "pipe", "--vm", "web01", "d.raw"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("a pipe that nobody writes to"), "{}", stderr(&output));
    // A shell's <(command) is a pipe too.
    let script = "exec \"$0\" backup --key-file <(sleep 0.5; cat w.key) --vm web01 d.raw";
    let mut piped = Command::new("bash");
    piped.args(["-c", script, env!("CARGO_BIN_EXE_sancerre")]).current_dir(&site.folder);
    piped.env("SANCERRE_REPOSITORY", "repository").stderr(Stdio::piped());
    let output = end(piped.spawn().unwrap());
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_container_is_not_taken_for_a_raw_disk() {
    let site = Site::new();
    let qemu_img = |arguments: &[&str]| {
        let done = Command::new("qemu-img").args(arguments).current_dir(&site.folder).output();
        done.is_ok_and(|output| output.status.success())
    };
    if !qemu_img(&["create", "-q", "-f", "qcow2", "base.img", "64M"]) {
        return skip("no qemu-img");
    }
    assert!(qemu_img(&["create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "qcow2", "over.img"]));
    assert!(qemu_img(&["create", "-q", "-f", "vpc", "-o", "subformat=fixed", "fixed.img", "8M"]));
    let said = site.refuses(&["base.img"]);
    assert!(said.contains("qcow2 container") && said.contains("--format qcow2"), "{said}");
    let said = site.refuses(&["over.img"]);
    assert!(said.contains("backing file"), "{said}");
    let said = site.refuses(&["fixed.img"]);
    assert!(said.contains("VHD container"), "{said}");
    site.saves(&["over.img", "--format", "raw"], 0);
    assert!(site.restores(0).0 == std::fs::read(site.path("over.img")).unwrap());
    assert!(qemu_img(&["convert", "-O", "raw", "base.img", "base.raw"]));
    site.saves(&["base.raw", "--allow-small"], 0);
}

#[test]
fn a_device_that_is_mounted_read_write_is_refused_or_marked_fuzzy() {
    let site = Site::new();
    File::create(site.path("image")).unwrap().set_len(32 << 20).unwrap();
    std::fs::create_dir(site.path("place")).unwrap();
    let script =
        "mkfs.ext4 -q image && device=$(losetup --find --show image) && echo $device && mount $device place";
    let mounted = Command::new("sh").args(["-c", script]).current_dir(&site.folder).output().unwrap();
    let device = String::from_utf8(mounted.stdout).unwrap().trim().to_owned();
    let undo = || {
        let script = "umount place; losetup --detach \"$0\"";
        Command::new("sh").args(["-c", script, &device]).current_dir(&site.folder).output().unwrap()
    };
    if !mounted.status.success() {
        undo();
        return skip("no loop device or no mount");
    }
    let tried = std::panic::catch_unwind(|| {
        let said = site.refuses(&[&device]);
        assert!(said.contains("is mounted read-write at") && said.contains("--allow-changing"), "{said}");
        let said = site.saves(&[&device, "--allow-changing"], 3);
        assert!(said.contains("fuzzy"), "{said}");
        assert_eq!(site.listed()[0]["consistency"], "fuzzy");
    });
    undo();
    tried.unwrap();
}

/// A process with a stalled source, asked to stop in the way that is named.
/// The session ends soon after a signal. The process does too, unless the kernel itself waits for the source and lets
/// nobody go before it answers: `answers` makes it.
fn stops(site: &Site, mut backup: Child, signal: &str, answers: impl FnOnce()) {
    let log = site.path("repository/zones/default/log");
    let entries = |folder: &Path| std::fs::read_dir(folder).map_or(0, Iterator::count);
    let before = entries(&site.path("repository/zones/default/outcome"));
    let started = Instant::now();
    while entries(&log) <= before {
        assert!(started.elapsed() < PATIENCE && backup.try_wait().unwrap().is_none(), "it must be at work");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    let id = backup.id().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    let signalled = Instant::now();
    while entries(&site.path("repository/zones/default/outcome")) <= before {
        assert!(signalled.elapsed() < PATIENCE, "{signal}: the session was not ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    answers();
    let output = end(backup);
    assert_eq!(output.status.code(), Some(130), "{signal}: {}", stderr(&output));
    assert_eq!(entries(&site.path("repository/zones/default/outcome")), before + 1, "{signal}");
}

#[test]
fn a_stream_that_stalls_does_not_keep_a_signal_from_stopping_it() {
    let site = Site::new();
    for signal in ["-TERM", "-INT", "-HUP"] {
        let backup = ["backup", "--key-file", "w.key", "--vm", "web01", "--stdin", "x"];
        let mut command = site.command(&backup);
        let child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        stops(&site, child, signal, || {});
    }
    assert_eq!(site.snapshots(), 0);
}

/// `nohup` is a promise that the terminal does not matter.
#[test]
fn a_closed_terminal_does_not_stop_what_was_started_with_nohup() {
    let site = Site::new();
    let script = "trap '' HUP; exec \"$0\" backup --key-file w.key --vm web01 --stdin x";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_sancerre")]).current_dir(&site.folder).env_clear();
    command.env("SANCERRE_REPOSITORY", "repository").stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let log = site.path("repository/zones/default/log");
    while !std::fs::read_dir(&log).is_ok_and(|entries| entries.count() > 0) {
        assert!(child.try_wait().unwrap().is_none(), "it must be at work");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success());
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"all of it").unwrap();
    let output = end(child);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_disk_that_stalls_does_not_keep_a_signal_from_stopping_it() {
    let site = Site::new();
    let Some(faulty) = Faulty::mount(&site.path("fuse"), &noise(5, 4 * MIB)) else { return };
    faulty.rule("hang 2097152 2101248\n");
    let disk = faulty.disk();
    let backup = ["backup", "--key-file", "w.key", "--vm", "web01", disk.to_str().unwrap()];
    let mut command = site.command(&backup);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    stops(&site, child, "-TERM", || faulty.rule(""));
    site.saves(&[disk.to_str().unwrap()], 0);
}

/// The last backup of a disk that is dying, and the one after that.
#[test]
fn a_dying_disk_is_saved_and_what_is_missing_is_said_by_all() {
    let site = Site::new();
    let bytes = noise(5, 4 * MIB);
    let Some(faulty) = Faulty::mount(&site.path("fuse"), &bytes) else { return };
    let (disk, bad) = (faulty.disk(), 1_048_576..1_056_768);
    let disk = disk.to_str().unwrap();
    faulty.rule("eio 1048576 1056768\neio 3145728 3149824\n");
    let said = site.refuses(&[disk]);
    assert!(said.contains("offset 1048576") && said.contains("--allow-unreadable"), "{said}");

    let output = site.back_up(&[disk, "--allow-unreadable", "--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let ranges =
        serde_json::json!([{"offset": 1_048_576, "length": 8192}, {"offset": 3_145_728, "length": 4096}]);
    assert_eq!(summary(&output)["members"][0]["unreadable"], ranges);
    assert_eq!(site.listed()[0]["consistency"], "partial");
    let (restored, said) = site.restores(3);
    assert!(said.contains("1048576..1056768, 3145728..3149824 could not be read"), "{said}");
    let mut expected = bytes.clone();
    expected[bad].fill(0);
    expected[3_145_728..3_149_824].fill(0);
    assert!(restored == expected);

    // One range came back. What reads elsewhere is not read again, so that it may be gone by now.
    faulty.rule("eio 3145728 3149824\neio 0 4096\n");
    site.saves(&[disk, "--allow-unreadable", "--only-unreadable"], 3);
    expected[1_048_576..1_056_768].copy_from_slice(&bytes[1_048_576..1_056_768]);
    assert!(site.restores(3).0 == expected);
    faulty.rule("");
    site.saves(&[disk, "--allow-unreadable", "--only-unreadable"], 0);
    assert!(site.restores(0).0 == bytes);
    let check = site.run(&["check", "--read-data", "--key-file", "w.key"]);
    assert!(check.status.success(), "{}", stderr(&check));
}

/// A block device with bad sectors: what a loop device answers behind the end of its file.
#[test]
fn a_dying_device_is_saved_as_far_as_it_reads() {
    let site = Site::new();
    let bytes = noise(5, 4 * MIB);
    std::fs::write(site.path("image"), &bytes).unwrap();
    let Some(device) = LoopDevice::attach(&site.path("image")) else { return };
    let image = OpenOptions::new().write(true).open(site.path("image")).unwrap();
    image.set_len(3 << 20).unwrap();
    let said = site.saves(&[device.name(), "--allow-unreadable"], 3);
    assert!(said.contains("3145728..4194304 could not be read"), "{said}");
    let (restored, _) = site.restores(3);
    let (good, bad) = restored.split_at(3 << 20);
    assert!(good == &bytes[..3 << 20] && bad.iter().all(|byte| *byte == 0));
    image.write_all_at(&bytes[3 << 20..], 3 << 20).unwrap();
    site.saves(&[device.name()], 0);
    assert!(site.restores(0).0 == bytes);
}
