//! Guests that the built program starts on QEMU.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sancerre_services::guest::Guest;
use serde_json::json;

use crate::support::{Site, told};

/// Without an answer for so long a test has failed.
const PATIENCE: Duration = Duration::from_secs(180);

/// How often a test kills: more on request.
pub(crate) fn number_of_kills(usual: usize) -> usize {
    let asked = std::env::var("SANCERRE_TEST_KILLS").ok();
    asked.map_or(usual, |asked| asked.parse().unwrap())
}

/// Moments at which something that takes so long is killed; `SANCERRE_TEST_SEED` names others.
pub(crate) fn moments_of(whole: Duration, usual: usize) -> impl Iterator<Item = Duration> {
    let asked = std::env::var("SANCERRE_TEST_SEED").ok();
    let seed: u64 = asked.map_or(1, |asked| asked.parse().unwrap());
    let number = number_of_kills(usual);
    eprintln!("seed {seed}, {number} kills within {whole:?}");
    let next = |state: &u64| {
        Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
    };
    let states = std::iter::successors(next(&seed), next).take(number);
    states.map(move |state| whole.mul_f64((state >> 33) as f64 / f64::from(1_u32 << 31)))
}

/// A machine with two disks, saved.
pub(crate) fn two_disks(disk: &[u8], data: &[u8]) -> Site {
    let site = Site::new();
    std::fs::write(site.path("disk.raw"), disk).unwrap();
    std::fs::write(site.path("data.raw"), data).unwrap();
    let disks = ["disk0=disk.raw", "data=data.raw"];
    site.succeed(
        &[&["backup", "--key-file", "w.key", "--vm", "web01", "--allow-small"], &disks[..]].concat(),
    );
    site
}

/// A guest in the storage of a site, whose QEMU ends with the test.
pub(crate) struct Running<'a> {
    site: &'a Site,
    pub(crate) folder: PathBuf,
}

impl<'a> Running<'a> {
    pub(crate) fn new(site: &'a Site, vm: &str) -> Self {
        Self { site, folder: site.path("guests").join(vm) }
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.with_extension("pid")
    }

    /// What QEMU is told besides.
    pub(crate) fn more(&self, guest: &Guest) -> Vec<String> {
        sancerre_services::guest::arguments(guest).into_iter().chain(self.pid_words()).collect()
    }

    /// What tells it to say which process it is.
    pub(crate) fn pid_words(&self) -> [String; 2] {
        ["-pidfile".into(), self.pid_file().display().to_string()]
    }

    /// What kills its QEMU, as a power cut does.
    pub(crate) fn kill(&self) {
        let pid = std::fs::read_to_string(self.pid_file()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let monitor = self.folder.join("monitor.sock");
        while sancerre_boot::Qmp::connect(&monitor).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::fs::remove_file(self.pid_file()).unwrap();
    }

    /// Starts the program; what it says goes where the test's output goes.
    pub(crate) fn begin(&self, arguments: &[&str]) -> Child {
        self.site.command(arguments).stdout(Stdio::null()).spawn().unwrap()
    }

    pub(crate) fn console(&self) -> String {
        let bytes = std::fs::read(self.folder.join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// The number of the last block that it said it wrote.
    pub(crate) fn wrote(&self) -> usize {
        let console = self.console();
        let whole = console.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let told = whole.lines().rev().find_map(|line| line.strip_prefix("wrote "));
        told.map_or(0, |number| number.parse().unwrap())
    }

    pub(crate) fn wait_until(&self, is_there: impl Fn(&str) -> bool) {
        let started = Instant::now();
        while !is_there(&self.console()) {
            assert!(started.elapsed() < PATIENCE, "{}", self.console());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the guest says something, while the program runs.
    pub(crate) fn wait_for(&self, words: &str, program: &mut Child) {
        let started = Instant::now();
        while !self.console().contains(words) {
            // It may have come to its end, which is as good.
            let ended = program.try_wait().unwrap();
            assert!(ended.is_none_or(|status| status.success()), "{ended:?}: {}", self.console());
            assert!(started.elapsed() < PATIENCE, "{}", self.console());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends QEMU as an administrator would.
    pub(crate) fn end(&self) {
        let monitor = self.folder.join("monitor.sock");
        let mut qmp = sancerre_boot::Qmp::connect(&monitor).unwrap();
        qmp.execute("quit", json!({})).unwrap();
        let started = Instant::now();
        while sancerre_boot::Qmp::connect(&monitor).is_ok() || self.pid_file().exists() {
            assert!(started.elapsed() < PATIENCE, "QEMU does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn disk(&self, name: &str) -> String {
        self.folder.join(format!("{name}.qcow2")).display().to_string()
    }

    /// A disk's bytes, read from its image alone: what that lacks is zeros.
    pub(crate) fn raw(&self, name: &str) -> Vec<u8> {
        let out = self.site.path("read-back.raw");
        let file = json!({ "driver": "file", "filename": self.disk(name), "locking": "off" });
        let image = json!({ "driver": "qcow2", "backing": null, "file": file });
        let read = Command::new("qemu-img")
            .args(["convert", "-O", "raw", &format!("json:{image}"), &out.display().to_string()])
            .output()
            .unwrap();
        assert!(read.status.success(), "{}", told(&read));
        std::fs::read(out).unwrap()
    }

    pub(crate) fn has_backing(&self, name: &str) -> bool {
        sancerre_boot::has_backing(self.disk(name).as_ref()).unwrap()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.pid_file()).ok();
        let pid = pid.and_then(|pid| rustix::process::Pid::from_raw(pid.trim().parse().ok()?));
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
