//! The built program starts real guests from snapshots, is killed while it does, and loses nothing that a guest wrote.

use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::guests::{Running, number_of_kills, two_disks};
use crate::support::{MIB, Site, boot_sector, has, noise, told, walk};
use serde_json::Value;

/// Blocks that the guest writes, one after the other, here and there over the whole disk, each flushed before it is told.
const WRITER: &str = "
size=$(cat /sys/block/vda/size)
echo \"the guest is up: $size\"
i=1
while true; do
  printf '%0512d' $i | dd of=/dev/vda bs=512 seek=$((i * 7919 % size)) conv=notrunc,fsync 2>/dev/null || echo failed $i
  echo \"wrote $i\"
  i=$((i + 1))
done
";

/// Data, holes, and zeros that are written.
fn disk() -> Vec<u8> {
    let mut disk = noise(51, 8 * MIB);
    disk.resize(40 * MIB, 0);
    disk.extend(noise(52, 6 * MIB));
    disk.resize(64 * MIB, 0);
    disk
}

fn site(bytes: &[u8]) -> Site {
    two_disks(bytes, &noise(53, 3 * MIB))
}

/// What the disk must hold: the snapshot, and each block that the guest said it wrote. The block that it wrote last may be
/// there too.
fn expected(mut bytes: Vec<u8>, wrote: usize, found: &[u8]) -> Vec<u8> {
    let sectors = bytes.len() / 512;
    for number in 1..=wrote + 1 {
        let at = number * 7919 % sectors * 512;
        let block = format!("{number:0512}");
        let is_last = number == wrote + 1;
        if !is_last || found[at..at + 512] == *block.as_bytes() {
            bytes[at..at + 512].copy_from_slice(block.as_bytes());
        }
    }
    bytes
}

fn only_prints(site: &Site, running: &Running<'_>) {
    let steps = told(&site.succeed(&[
        "recover",
        "web01:latest",
        "--to",
        "qemu",
        "--storage",
        "guests",
        "--accel",
        "tcg",
        "--print",
    ]));
    for step in ["sancerre nbd ", "qemu-img create", "disk0.qcow2", "data.qcow2", "block-stream"] {
        assert!(steps.contains(step), "{steps}");
    }
    assert!(!running.folder.exists(), "what is only printed is not done");
}

#[test]
fn a_guest_runs_while_its_recovery_is_killed_and_loses_no_write() {
    let bytes = disk();
    let site = site(&bytes);
    let Some(guest) = sancerre_services::guest::guest(site.folder.path(), WRITER) else { return };
    let running = Running::new(&site, "web01");
    let mut words = vec!["recover", "web01:latest", "--to", "qemu", "--storage", "guests", "--accel", "tcg"];
    words.extend(["--guest-memory", "160M", "--guest-cpus", "1", "--json"]);
    let more = running.more(&guest);
    let whole: Vec<&str> =
        words.iter().copied().chain(["--"]).chain(more.iter().map(String::as_str)).collect();
    let limited: Vec<&str> = words
        .iter()
        .copied()
        .chain(["--limit-download", "1500KB", "--"])
        .chain(more.iter().map(String::as_str))
        .collect();

    only_prints(&site, &running);
    let mut first = running.begin(&limited);
    let started = Instant::now();
    running.wait_for("wrote 3\n", &mut first);
    for kill in 0..number_of_kills(4) {
        first.kill().unwrap();
        first.wait().unwrap();
        let wrote = running.wrote();
        // The machine has a newer snapshot by now: the overlays stand on the old one all the same.
        if kill == 0 {
            site.succeed(&[
                "backup",
                "--key-file",
                "w.key",
                "--vm",
                "web01",
                "--allow-small",
                "disk0=data.raw",
            ]);
        }
        first = running.begin(&limited);
        running.wait_for(&format!("wrote {}\n", wrote + 3), &mut first);
        let pause = u64::from_le_bytes(noise(kill as u64, 8).try_into().unwrap()) % 400;
        std::thread::sleep(Duration::from_millis(pause));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    let output = site.run(&whole);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(summary["was_running"], true, "{summary}");
    println!("whole after {:?}, killed {} times", started.elapsed(), number_of_kills(4) + 1);

    // The export is gone for good, and the guest does not notice.
    let wrote = running.wrote();
    running.wait_until(|text| text.contains(&format!("wrote {}\n", wrote + 5)));
    running.end();
    let console = running.console();
    assert!(!console.contains("failed") && !console.contains("I/O error"), "{console}");
    let found = running.raw("disk0");
    assert_eq!(found.len(), bytes.len());
    assert!(found == expected(bytes, running.wrote(), &found), "the disk is not snapshot plus writes");
    assert!(running.raw("data") == noise(53, 3 * MIB));
    assert!(!running.has_backing("disk0") && !running.has_backing("data"));
}

/// Reads all of its disk, and says what came of it.
const READER: &str = "
if dd if=/dev/vda of=/dev/null bs=65536 2>/dev/null; then echo 'all was read'; else echo 'an error was told'; fi
dd if=/dev/vda of=/dev/null bs=65536 count=8 2>/dev/null && echo 'the rest is there'
while true; do sleep 1; done
";

/// Bytes in the middle of the largest object, where nothing but data is.
fn damage(site: &Site) {
    let size = |path: &PathBuf| path.metadata().unwrap().len();
    let largest = walk(&site.place).into_iter().max_by_key(size).unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 16].iter_mut().for_each(|byte| *byte ^= 0x55);
    std::fs::remove_file(&largest).unwrap();
    std::fs::write(&largest, bytes).unwrap();
}

#[test]
fn damage_is_an_error_of_the_guest_at_its_place_and_costs_no_more() {
    let (site, bytes) = (Site::new(), noise(54, 12 * MIB));
    std::fs::write(site.path("disk.raw"), &bytes).unwrap();
    site.succeed(&["backup", "--key-file", "w.key", "--vm", "web01", "--allow-small", "disk0=disk.raw"]);
    let Some(guest) = sancerre_services::guest::guest(site.folder.path(), READER) else { return };
    damage(&site);
    let running = Running::new(&site, "web01");
    let words = ["recover", "web01:latest", "--to", "qemu", "--storage", "guests", "--accel", "tcg"];
    let more = running.more(&guest);
    let more: Vec<&str> = ["--guest-memory", "160M", "--guest-cpus", "1", "--"]
        .into_iter()
        .chain(more.iter().map(String::as_str))
        .collect();
    let output = site.run(&[&words[..], &more].concat());
    assert_eq!(output.status.code(), Some(20), "{}", told(&output));
    assert!(told(&output).contains("parts of disk0"), "{}", told(&output));
    // It needs the command for what is left, and the command says the same again, as often as it is run: it may be at its end
    // before the guest is so far that it reads.
    let again = RefCell::new(running.begin(&[&words[..], &more].concat()));
    running.wait_until(|console| {
        let ended = again.borrow_mut().try_wait().unwrap();
        if let Some(status) = ended {
            assert_eq!(status.code(), Some(20));
            *again.borrow_mut() = running.begin(&[&words[..], &more].concat());
        }
        console.contains("the rest is there")
    });
    assert!(running.console().contains("an error was told"), "{}", running.console());
    assert_eq!(again.into_inner().wait().unwrap().code(), Some(20));
    assert!(running.has_backing("disk0"));
    running.end();
    let found = running.raw("disk0");
    let differs = |(at, block): &(usize, &[u8])| *block != &bytes[at * 65536..(at + 1) * 65536];
    let lost: Vec<_> = found.chunks(65536).enumerate().filter(differs).collect();
    assert!(!lost.is_empty() && lost.len() * 65536 <= 2 * MIB, "{} blocks", lost.len());
    assert!(lost.iter().all(|(_, block)| block.iter().all(|byte| *byte == 0)), "what is lost is not there");
}

/// A machine that starts by itself, and says that somebody may log in.
pub(crate) fn back_up_tiny(site: &Site, vm: &str, seed: u64) -> Vec<u8> {
    let mut disk = boot_sector();
    disk.extend(noise(seed, 3 * MIB));
    disk.resize(8 * MIB, 0);
    std::fs::write(site.path("disk.raw"), &disk).unwrap();
    site.succeed(&["backup", "--key-file", "w.key", "--vm", vm, "--allow-small", "disk0=disk.raw"]);
    disk
}

#[test]
fn machines_of_a_plan_start_when_those_are_up_that_they_wait_for() {
    if !has("qemu-system-x86_64") {
        return;
    }
    let site = Site::new();
    let disks = [back_up_tiny(&site, "web01", 55), back_up_tiny(&site, "db01", 56)];
    let running = ["web01", "db01"].map(|vm| Running::new(&site, vm));
    let guest = "--accel tcg --guest-memory 64M --guest-cpus 1";
    let pid = |at: usize| running[at].pid_words().join(" ");
    let words = ["recover", "--plan", "plan", "--to", "qemu", "--storage", "guests"];
    for (plan, says) in [
        (format!("web01:latest --after db01 {guest}\ndb01:latest {guest}\n"), "which no earlier line"),
        (format!("db01:latest {guest}\ndb01:latest {guest}\n"), "twice"),
        ("db01:latest:disk0\n".into(), "all its disks"),
    ] {
        std::fs::write(site.path("plan"), plan).unwrap();
        let refused = site.run(&words);
        assert_eq!(refused.status.code(), Some(2), "{}", told(&refused));
        assert!(told(&refused).contains(says), "{}", told(&refused));
    }
    assert!(!site.path("guests").exists(), "what is refused changes nothing");
    let plan = format!(
        "# the database first\ndb01:latest {guest} -- {}\nweb01:latest --after db01 {guest} -- {}\n",
        pid(1),
        pid(0)
    );
    std::fs::write(site.path("plan"), plan).unwrap();
    let both = site.run(&[&words[..], &["--bus", "sata"]].concat());
    assert_eq!(both.status.code(), Some(2), "{}", told(&both));
    let printed = told(&site.succeed(&[&words[..], &["--print"]].concat()));
    assert!(printed.contains("## web01, when these are up: db01"), "{printed}");

    let output = site.succeed(&words);
    let said = told(&output);
    let at = |what: &str| said.find(what).unwrap_or_else(|| panic!("{what}: {said}"));
    assert!(at("db01 runs") < at("db01 is up") && at("db01 is up") < at("web01 runs"), "{said}");
    let mode = site.path("guests/db01/disk0.qcow2").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "a guest's disk is nobody else's");
    let is_whole = |at: usize| {
        running[at].end();
        assert!(running[at].raw("disk0") == disks[at] && !running[at].has_backing("disk0"), "{at}");
    };
    is_whole(1);
    // What is wrong with one costs those that wait for it, and no other; what runs already waits for nobody.
    std::fs::remove_file(site.path("guests/db01/disk0.qcow2")).unwrap();
    let again = site.run(&[&words[..], &["--json"]].concat());
    assert_eq!(again.status.code(), Some(1), "{}", told(&again));
    let text = String::from_utf8_lossy(&again.stdout);
    let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let machines = &summary["machines"];
    assert!(machines[0]["failed"].as_str().is_some_and(|why| why.contains("disk0.qcow2")), "{summary}");
    assert_eq!(machines[1]["was_running"], true, "{summary}");
    is_whole(0);
}

#[test]
fn a_recovery_that_is_recorded_fills_its_disks_once_the_machine_is_up() {
    if !has("qemu-system-x86_64") {
        return;
    }
    let site = Site::new();
    let disk = back_up_tiny(&site, "tiny", 57);
    let running = Running::new(&site, "tiny");
    let mut words = vec!["recover", "tiny:latest", "--to", "qemu", "--storage", "guests", "--accel", "tcg"];
    words.extend(["--guest-memory", "64M", "--guest-cpus", "1", "--key-file", "w.key", "--trace", "--"]);
    let more = running.pid_words();
    words.extend(more.iter().map(String::as_str));
    let output = site.succeed(&words);
    let said = told(&output);
    assert!(said.contains("tiny is up") && said.contains("its boot trace"), "{said}");
    running.end();
    assert!(running.raw("disk0") == disk);
    // The machine asked for its first sector, and whoever fills its disk for the rest.
    let chunks = said.split("its boot trace (").nth(1).unwrap().split(' ').next().unwrap();
    assert!((1..8).contains(&chunks.parse::<u32>().unwrap()), "{said}");
}
