//! The built program starts real guests from snapshots, is killed while it does, and loses nothing that a guest wrote.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "common/guests.rs"]
mod guests;
#[path = "common/local.rs"]
mod local;

use std::time::{Duration, Instant};

use guests::{Running, number_of_kills};
use local::{MIB, Site, noise, told};
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
    let site = Site::new();
    std::fs::write(site.path("disk.raw"), bytes).unwrap();
    std::fs::write(site.path("data.raw"), noise(53, 3 * MIB)).unwrap();
    let disks = ["disk0=disk.raw", "data=data.raw"];
    site.succeed(
        &[&["backup", "--key-file", "w.key", "--vm", "web01", "--allow-small"], &disks[..]].concat(),
    );
    site
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
