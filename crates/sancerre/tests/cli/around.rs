//! The built program between two commands of the operator: the second is run whatever becomes of the first and of the backup.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{MIB, Site, noise, quiet, told};

const BEGIN: &str = r#"echo "$BACKUP_SNAPSHOTS" > given; cp disk.raw picture.raw
    echo '{"disks": [{"name": "disk0", "path": "picture.raw", "format": "raw"}],
           "files": [{"name": "conf", "path": "w.conf"}], "frozen": true}'"#;
const END: &str = r#"rm -f picture.raw; echo "$BACKUP_VM $BACKUP_SNAPSHOT" > ended"#;

struct Night(Site);

impl Night {
    fn new() -> Self {
        let site = Site::new();
        fs::write(site.path("disk.raw"), noise(7, 4 * MIB)).unwrap();
        fs::write(site.path("w.conf"), "memory: 512").unwrap();
        Self(site)
    }

    fn arguments<'a>(begin: &'a str, end: &'a str) -> Vec<&'a str> {
        let common =
            ["backup", "--key-file", "w.key", "--vm", "web 01", "--source", "command", "--run-dir", "run"];
        [&common[..], &["--begin", begin, "--end", end, "--json"]].concat()
    }

    /// Runs it, and returns what it said.
    fn run(&self, begin: &str, end: &str, code: i32) -> String {
        let output = self.0.run(&Self::arguments(begin, end));
        assert_eq!(output.status.code(), Some(code), "{}", told(&output));
        told(&output)
    }

    fn ended(&self) -> String {
        let ended = fs::read_to_string(self.0.path("ended")).unwrap();
        fs::remove_file(self.0.path("ended")).unwrap();
        assert!(!self.0.path("picture.raw").exists());
        ended
    }

    fn snapshots(&self) -> Vec<String> {
        let listed = self.0.succeed(&["snapshots", "--json", "--key-file", "w.key"]);
        let listed: serde_json::Value =
            serde_json::from_str(String::from_utf8(listed.stdout).unwrap().lines().last().unwrap()).unwrap();
        let all = listed["snapshots"].as_array().unwrap().iter();
        all.map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn a_picture_made_by_a_command_is_saved_and_removed_by_another() {
    let night = Night::new();
    night.run(BEGIN, END, 0);
    let first = night.snapshots();
    assert_eq!(night.ended(), format!("web 01 {}\n", first[0]));
    let listed = told(&night.0.succeed(&["snapshots", "--json"]));
    assert!(listed.contains("\"consistency\":\"frozen\""), "{listed}");
    night.0.succeed(&["restore", "web 01:latest", "--target", "back/"]);
    assert!(fs::read(night.0.path("back/disk0.raw")).unwrap() == noise(7, 4 * MIB));
    assert_eq!(fs::read_to_string(night.0.path("back/conf")).unwrap(), "memory: 512");
    // The next night is told which snapshots there are, so that it can say what changed since one.
    let mapped = r#"cp disk.raw picture.raw; since=${BACKUP_SNAPSHOTS##* }
        echo '{"form": "sancerre-change-map-1", "disk-bytes": 4194304, "source": "thin",
               "changed": [{"offset": 65536, "length": 4096}]}' > map
        echo "{\"disks\": [{\"name\": \"disk0\", \"path\": \"picture.raw\", \"changed\": \"map\"}], \"since\": \"$since\"}""#;
    let mut bytes = noise(7, 4 * MIB);
    bytes[65536..69632].fill(9);
    fs::write(night.0.path("disk.raw"), &bytes).unwrap();
    let said = night.run(mapped, END, 0);
    assert!(said.contains("\"scan\":\"map "), "{said}");
    night.0.succeed(&["restore", "web 01:latest:disk0", "--target", "second.raw"]);
    assert!(fs::read(night.0.path("second.raw")).unwrap() == bytes);
}

#[test]
fn the_second_command_is_run_whatever_becomes_of_the_first() {
    let night = Night::new();
    let said = night.run("touch picture.raw; echo no room >&2; exit 3", END, 1);
    assert!(said.contains("no room") && said.contains("--begin command failed"), "{said}");
    assert_eq!(night.ended(), "web 01 \n");
    let said = night.run("touch picture.raw; echo hello", END, 1);
    assert!(said.contains("not one value of JSON"), "{said}");
    assert_eq!(night.ended(), "web 01 \n");
    let said = night.run("touch picture.raw; echo '{\"disks\": [{\"nam\": 1}]}'", END, 1);
    assert!(said.contains("means nothing here"), "{said}");
    assert_eq!(night.ended(), "web 01 \n");
    // One that hangs is killed with all that it started.
    let started = Instant::now();
    let slow = "sleep 3000 & echo $! > child; sleep 3000";
    let output = night.0.run(&[&Night::arguments(slow, END)[..], &["--begin-limit", "1"]].concat());
    assert!(told(&output).contains("was killed after 1 s"), "{}", told(&output));
    assert!(started.elapsed() < Duration::from_secs(60));
    let child = fs::read_to_string(night.0.path("child")).unwrap();
    let state = fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
    assert!(state.is_empty() || state.contains(" Z "), "{state}");
    assert_eq!(night.ended(), "web 01 \n");
    assert_eq!(night.snapshots().len(), 0);
    // Saved, but the picture is still there: that is for a person to see.
    let said = night.run(BEGIN, "rm -f picture.raw; echo the pool is busy >&2; exit 1", 3);
    assert!(said.contains("may still be there") && said.contains("the pool is busy"), "{said}");
    assert_eq!(night.snapshots().len(), 1);
}

#[test]
fn the_second_command_is_run_when_the_backup_is_killed_and_nobody_begins_meanwhile() {
    let night = Night::new();
    let begin = format!("{BEGIN}; touch begun; sleep 1");
    let end = format!("sleep 1; {END}");
    let mut child = night.0.command(&Night::arguments(&begin, &end));
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !night.0.path("begun").exists() {
        assert!(started.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // The next one waits until that is over.
    night.run(BEGIN, "rm picture.raw", 0);
    assert_eq!(night.ended(), "web 01 \n");
    assert_eq!(night.snapshots().len(), 1);
}

#[test]
fn clones_of_image_files_are_saved_by_what_changed_in_them() {
    let night = Night::new();
    let place = night.0.path("xfs");
    let image = night.0.path("xfs.img");
    fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
    fs::create_dir(&place).unwrap();
    let is_mounted = quiet(Command::new("mkfs.xfs").arg(&image))
        && quiet(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&place));
    if !is_mounted {
        sancerre_services::skip("no xfs can be made and mounted (root, a loop device, the kernel)");
        return;
    }
    let _unmounted = Unmounted(place.clone());
    let file = place.join("web \"01\".raw");
    let mut bytes = noise(9, 8 * MIB);
    fs::write(&file, &bytes).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/pictures/reflink.sh");
    let call = |action: &str| format!("{script} {action} '{}'", file.display());
    let (begin, end) = (call("begin"), call("end"));
    let clones = || {
        let entries =
            fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        entries.filter(|name| name.contains("sancerre-")).collect::<Vec<_>>()
    };
    for number in 0..3_u8 {
        let mut command = night.0.command(&Night::arguments(&begin, &end));
        command.env("SANCERRE", env!("CARGO_BIN_EXE_sancerre"));
        command.env("FREEZE", "echo frozen > stands").env("THAW", "rm -f stands");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", told(&output));
        assert_eq!(told(&output).contains("\"scan\":\"map "), number > 0, "{}", told(&output));
        assert!(!night.0.path("stands").exists());
        let newest = night.snapshots().into_iter().find(|id| clones()[0].ends_with(id.as_str()));
        assert_eq!((clones().len(), newest.is_some()), (1, true), "{:?}", clones());
        let back = format!("back{number}.raw");
        night.0.succeed(&["restore", "web 01:latest:disk0", "--target", &back]);
        assert!(fs::read(night.0.path(&back)).unwrap() == bytes);
        // Written over where it lies, as a guest does.
        let at = MIB * usize::from(number + 1);
        bytes[at..at + 8192].fill(number);
        let disk = fs::OpenOptions::new().write(true).open(&file).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&disk, &bytes[at..at + 8192], at as u64).unwrap();
        disk.sync_all().unwrap();
    }
    // A night that fails keeps the picture of the last, and leaves no other.
    let kept = clones();
    let output = night.0.run(&[&Night::arguments(&begin, &end)[..], &["--attach", "nothing"]].concat());
    assert_eq!((output.status.code(), clones()), (Some(1), kept), "{}", told(&output));
}

struct Unmounted(PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        quiet(Command::new("umount").arg("-l").arg(&self.0));
    }
}
