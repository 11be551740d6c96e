//! The built program moves the disks of running guests to block devices, is killed while it does, and loses nothing.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use crate::support::devices::LoopDevice;
use crate::support::guests::{Running, two_disks};
use crate::support::{MIB, Site, has, noise, told};

/// Blocks that the guest writes, one after the other, each flushed before it is told. It goes on after the last one that it
/// finds: a write that it was told is done and is not there any more is seen. They lie where the disk has holes, so that it
/// does not wait for a slow store.
const WRITER: &str = "
size=$(cat /sys/block/vda/size)
i=$(dd if=/dev/vda bs=512 count=1 2>/dev/null | tr -d '\\000')
i=$((${i:-0} + 1))
echo \"the guest is up: $size\"
while true; do
  printf '%0512d' $i | dd of=/dev/vda bs=512 seek=$((i * 7919 % 32768 + 16384)) conv=notrunc,fsync 2>/dev/null || echo failed $i
  printf '%-512d' $i | dd of=/dev/vda bs=512 conv=notrunc,fsync 2>/dev/null || echo failed $i
  echo \"wrote $i\"
  i=$((i + 1))
done
";
/// More than the disk, which the guest must not see.
const DEVICE: usize = 40 * MIB;
/// So slow that copying takes seconds.
const SLOW: [&str; 2] = ["--limit-download", "1500KB"];

/// Data and holes; its first sector is for the guest's number.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; MIB];
    disk.extend(noise(61, 6 * MIB));
    disk.resize(24 * MIB, 0);
    disk.extend(noise(62, 3 * MIB));
    disk.resize(32 * MIB, 0);
    disk
}

fn site(bytes: &[u8]) -> Site {
    let site = two_disks(bytes, &noise(63, MIB));
    fs::write(site.path("device.raw"), vec![0xaa; DEVICE]).unwrap();
    site
}

/// A machine whose first disk goes to a device.
struct Lab<'a> {
    running: Running<'a>,
    site: &'a Site,
    words: Vec<String>,
}

impl<'a> Lab<'a> {
    fn new(site: &'a Site, device: &LoopDevice) -> Option<Self> {
        let guest = sancerre_services::guest::guest(site.folder.path(), WRITER)?;
        let running = Running::new(site, "web01");
        let words = [
            "recover",
            "web01:latest",
            "--to",
            "qemu",
            "--storage",
            "guests",
            "--accel",
            "tcg",
            "--overwrite",
        ];
        let words = words.into_iter().chain(["--guest-memory", "160M", "--guest-cpus", "1", "--storage"]);
        let device = format!("disk0={}", device.name());
        let words: Vec<String> =
            words.map(str::to_owned).chain([device, "--".into()]).chain(running.more(&guest)).collect();
        Some(Self { running, site, words })
    }

    /// The command, with these words before what is QEMU's.
    fn with<'b>(&'b self, more: &[&'b str]) -> Vec<&'b str> {
        let at = self.words.iter().position(|word| word == "--").unwrap();
        let (ours, qemu) = self.words.split_at(at);
        ours.iter()
            .map(String::as_str)
            .chain(more.iter().copied())
            .chain(qemu.iter().map(String::as_str))
            .collect()
    }

    fn recovery(&self) -> String {
        fs::read_to_string(self.running.folder.join("recovery.json")).unwrap_or_default()
    }

    /// Starts the guest, and kills the program while it copies. Returns what it said until then.
    fn start(&self) -> String {
        let command = &mut self.site.command(&self.with(&SLOW));
        let mut program = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(program.stderr.take().unwrap()).lines().map_while(Result::ok);
        let before: Vec<String> = said.by_ref().take_while(|line| !line.contains("web01 runs")).collect();
        std::thread::sleep(Duration::from_secs(1));
        program.kill().unwrap();
        program.wait().unwrap();
        assert!(self.recovery().contains("copies"), "{}: {}", before.join("; "), self.recovery());
        before.join("\n")
    }

    /// Kills the program when it tells QEMU to do this, before QEMU hears of it, and when the guest has told of this write: it is
    /// served until then.
    fn kill_at(&self, command: &str, number: usize) {
        let path = |name: &str| self.running.folder.join(name);
        fs::rename(path("monitor.sock"), path("real.sock")).unwrap();
        let between = UnixListener::bind(path("monitor.sock")).unwrap();
        let (hit, hits) = mpsc::channel();
        let (real, asked) = (path("real.sock"), format!("\"execute\":\"{command}\""));
        std::thread::spawn(move || {
            let mut talks = between.incoming().map(|client| pass_on(client.unwrap(), &real, &asked));
            // Whoever waits for it may be gone.
            if talks.any(|is_hit| is_hit) { hit.send(()) } else { Ok(()) }
        });
        let mut program = self.running.begin(&self.with(&[]));
        let is_hit = hits.recv_timeout(Duration::from_secs(180));
        if is_hit.is_ok() && number > 0 {
            self.running.wait_for(&format!("wrote {number}\n"), &mut program);
        }
        program.kill().unwrap();
        program.wait().unwrap();
        is_hit.unwrap_or_else(|_| panic!("{command} was not asked for: {}", self.recovery()));
        fs::rename(path("real.sock"), path("monitor.sock")).unwrap();
    }

    /// Ends the guest, and compares the device with the snapshot and each block that the guest was told is there.
    fn compare(&self, mut bytes: Vec<u8>) {
        let wrote = self.running.wrote();
        self.running.end();
        let console = self.running.console();
        assert!(!console.contains("failed") && !console.contains("I/O error"), "{console}");
        let mut found = fs::read(self.site.path("device.raw")).unwrap();
        let rest = found.split_off(bytes.len());
        assert!(rest.iter().all(|byte| *byte == 0xaa), "what lies behind the disk is not the guest's");
        let last: usize = std::str::from_utf8(&found[..512]).unwrap().trim().parse().unwrap();
        assert!(last == wrote || last == wrote + 1, "{last} is there, and {wrote} was told");
        bytes[..512].copy_from_slice(&found[..512]);
        for number in 1..=last + 1 {
            let at = (number * 7919 % 32768 + 16384) * 512;
            let block = format!("{number:0512}");
            if number <= last || found[at..at + 512] == *block.as_bytes() {
                bytes[at..at + 512].copy_from_slice(block.as_bytes());
            }
        }
        assert!(found == bytes, "the device is not snapshot plus writes");
        assert!(!self.running.folder.join("disk0.qcow2").exists(), "nothing needs it any more");
    }
}

/// Stands between the program and a monitor, until the program asks for something; whether it did.
fn pass_on(client: UnixStream, real: &Path, asked: &str) -> bool {
    let mut monitor = UnixStream::connect(real).unwrap();
    let (mut said, mut back) = (monitor.try_clone().unwrap(), client.try_clone().unwrap());
    let answers = std::thread::spawn(move || {
        // Either may go away.
        let _ = std::io::copy(&mut said, &mut back);
    });
    let mut lines = BufReader::new(&client).lines().map_while(Result::ok);
    let is_hit = lines.any(|line| {
        let is_asked = line.contains(asked);
        if !is_asked {
            writeln!(monitor, "{line}").unwrap();
        }
        is_asked
    });
    // QEMU hears one at a time.
    monitor.shutdown(Shutdown::Both).unwrap();
    answers.join().unwrap();
    // One who asked waits for an answer until it is killed.
    if is_hit {
        std::mem::forget(client);
    }
    is_hit
}

#[test]
fn a_guest_moves_to_a_device_while_its_recovery_is_killed_and_loses_no_write() {
    let bytes = disk();
    let site = site(&bytes);
    let Some(device) = LoopDevice::attach(&site.path("device.raw")) else { return };
    let Some(lab) = Lab::new(&site, &device) else { return };
    let running = &lab.running;
    let said = lab.start();
    assert!(said.contains("8.0 MiB larger") && said.contains("wipefs"), "{said}");
    lab.kill_at("stop", 3);
    running.kill();
    lab.start();
    lab.kill_at("stop", running.wrote() + 3);
    // Each finds what the one before left: a note, a guest that stands still, one that is on its device and nobody wrote it
    // down, one that was not let go on.
    for (command, stage) in [("job-complete", "switches"), ("job-dismiss", "switches"), ("cont", "there")] {
        lab.kill_at(command, 0);
        assert!(lab.recovery().contains(&format!("\"{stage}\"")), "{command}: {}", lab.recovery());
    }
    let output = site.succeed(&lab.with(&["--json"]));
    assert!(told(&output).contains(device.name()), "{}", told(&output));
    assert!(lab.recovery().contains("\"there\""), "{}", lab.recovery());

    // The export is gone for good, and the guest does not notice.
    let wrote = running.wrote();
    running.wait_until(|text| text.contains(&format!("wrote {}\n", wrote + 5)));
    lab.compare(bytes.clone());
    assert!(!running.has_backing("data") && running.raw("data") == noise(63, MIB));

    // Run again it starts the guest where its disk is.
    site.succeed(&lab.with(&[]));
    running.wait_until(|text| text.contains(&format!("wrote {}\n", wrote + 9)));
    lab.compare(bytes);

    // Under the same name there is another device by now: what is on it is not the guest's.
    drop(device);
    fs::write(site.path("other.raw"), vec![0x55; DEVICE]).unwrap();
    let Some(other) = LoopDevice::attach(&site.path("other.raw")) else { return };
    let words: Vec<String> = lab.with(&[]).into_iter().map(str::to_owned).collect();
    let named = format!("disk0={}", other.name());
    let words: Vec<&str> =
        words.iter().map(|word| if word.starts_with("disk0=") { &named } else { word.as_str() }).collect();
    let refused = site.run(&words);
    assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
    assert!(told(&refused).contains("is not the device"), "{}", told(&refused));
    assert!(fs::read(site.path("other.raw")).unwrap().iter().all(|byte| *byte == 0x55));
}

#[test]
fn a_power_cut_at_the_switch_loses_no_write() {
    for command in ["job-dismiss", "cont"] {
        let bytes = disk();
        let site = site(&bytes);
        let Some(device) = LoopDevice::attach(&site.path("device.raw")) else { return };
        let Some(lab) = Lab::new(&site, &device) else { return };
        lab.start();
        lab.kill_at("stop", 3);
        lab.kill_at(command, 0);
        lab.running.kill();
        let wrote = lab.running.wrote();
        let mut program = lab.running.begin(&lab.with(&[]));
        lab.running.wait_for(&format!("wrote {}\n", wrote + 3), &mut program);
        assert!(program.wait().unwrap().success(), "{command}");
        lab.compare(bytes);
    }
}

#[test]
fn devices_that_cannot_take_a_disk_are_refused_and_nothing_is_changed() {
    let site = site(&disk());
    fs::write(site.path("small.raw"), vec![0; 32 * MIB - 4096]).unwrap();
    let attach = |name| LoopDevice::attach(&site.path(name));
    let (Some(device), Some(small)) = (attach("device.raw"), attach("small.raw")) else { return };
    let one = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let (on, small) = (format!("disk0={}", device.name()), format!("disk0={}", small.name()));
    let twice = format!("data={}", device.name());
    let unknown = format!("vda={}", device.name());
    fs::write(site.path("plan"), "web01:latest\n").unwrap();
    let snapshot = ["web01:latest", "--storage", "guests"];
    let refuse = |words: &[&str], code: i32, says: &[&str]| {
        let refused = site.run(&[&["recover", "--to", "qemu"], words].concat());
        assert_eq!(refused.status.code(), Some(code), "{words:?}: {}", told(&refused));
        says.iter().for_each(|says| assert!(told(&refused).contains(says), "{words:?}: {}", told(&refused)));
        assert!(!site.path("guests").exists(), "{words:?}");
    };
    let more = |more: &[&str]| one(&[&snapshot[..], more].concat());
    let cases: Vec<(Vec<String>, i32, Vec<&str>)> = vec![
        (more(&["--storage", device.name()]), 2, vec!["2 disks", "disk0, data", "--storage DISK="]),
        (more(&["--storage", &unknown]), 2, vec!["no disk vda", "disk0"]),
        (more(&["--storage", &on, "--storage", &twice]), 2, vec!["same device"]),
        (more(&["--storage", &on, "--storage", &on]), 2, vec!["two devices"]),
        (more(&["--storage", "disk0=/dev/vg0/typo"]), 2, vec!["/dev/vg0/typo is no block device"]),
        (more(&["--storage", "elsewhere"]), 2, vec!["two directories"]),
        (more(&["--overwrite"]), 2, vec!["--overwrite"]),
        (one(&["web01:latest", "--storage", &on]), 2, vec!["--storage DIR"]),
        (
            one(&["--plan", "plan", "--storage", "guests", "--storage", &on]),
            2,
            vec!["with --plan", "its line"],
        ),
        (more(&["--storage", &on]), 1, vec!["is not empty", "--overwrite"]),
        (more(&["--storage", &small]), 1, vec!["33550336", "33554432"]),
    ];
    for (words, code, says) in &cases {
        refuse(&words.iter().map(String::as_str).collect::<Vec<_>>(), *code, says);
    }
    let exclusive = i32::try_from(rustix::fs::OFlags::EXCL.bits()).unwrap();
    let held = fs::OpenOptions::new().read(true).custom_flags(exclusive).open(device.name()).unwrap();
    refuse(&[&snapshot[..], &["--storage", &on, "--overwrite"]].concat(), 1, &["in use"]);
    let mut head = [0; 4096];
    held.read_exact_at(&mut head, 0).unwrap();
    assert_eq!(head, [0xaa; 4096]);
}

#[test]
fn the_steps_of_a_move_are_printed_and_not_done() {
    if !has("qemu-system-x86_64") {
        return;
    }
    let site = site(&disk());
    let Some(device) = LoopDevice::attach(&site.path("device.raw")) else { return };
    let on = format!("disk0={}", device.name());
    let words =
        ["recover", "web01:latest", "--to", "qemu", "--storage", "guests", "--storage", &on, "--print"];
    let steps = told(&site.succeed(&words));
    for step in ["blockdev-mirror", "job-complete", "\"cont\"", device.name(), "block-stream"] {
        assert!(steps.contains(step), "{steps}");
    }
    assert!(!site.path("guests").exists());
}
