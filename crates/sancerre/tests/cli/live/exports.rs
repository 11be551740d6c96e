//! The export: how soon it answers, and what it holds of memory.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::{Far, Goal, data, list, median, named, rounds, row};
use rustix::process::{Pid, Signal, kill_process};
use sancerre_image::Disk;
use sancerre_image::nbd::{NbdDisk, NbdOptions, NbdUri};

const EXPORTS: usize = 20;
const EXPORT_MIB: usize = 64;
const BUDGET_MIB: u64 = 512;

struct Serving(Child);

impl Serving {
    /// Clients may come when this returns.
    fn start(far: &Far, snapshot: &str, more: &[&str]) -> Self {
        far.forget_all();
        let words = ["nbd", snapshot, "--socket", "s.sock", "--identity", "identity", "--quiet"];
        let mut serving = Self(far.command(&[&words[..], more].concat()).spawn().unwrap());
        while UnixStream::connect(far.path("s.sock")).is_err() {
            assert_eq!(serving.0.try_wait().unwrap(), None);
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        serving
    }

    /// The most memory that it had so far, in MiB.
    fn peak_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    }

    fn end(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn uri(far: &Far, export: &str) -> String {
    format!("nbd+unix:///{export}?socket={}", far.path("s.sock").display())
}

#[test]
#[ignore = "a measurement"]
fn the_first_byte() {
    let (far, guest) = (Far::new(), named("SANCERRE_LIVE_GUEST"));
    far.back_up("login", &[format!("disk0={guest}")]);
    let mut first = [0; 4096];
    std::os::unix::fs::FileExt::read_exact_at(&fs::File::open(guest).unwrap(), &mut first, 0).unwrap();
    let mut times = Vec::new();
    for _ in rounds() {
        let begun = Instant::now();
        let serving = Serving::start(&far, "login:latest:disk0", &[]);
        let disk =
            NbdDisk::open(&NbdUri::parse(&uri(&far, "disk0")).unwrap(), &NbdOptions::default()).unwrap();
        let mut read = [0; 4096];
        disk.read_at(0, &mut read).unwrap();
        times.push(begun.elapsed().as_secs_f64());
        assert!(read == first);
        drop(disk);
        serving.end();
    }
    let what = format!("first byte over NBD after `nbd` with an identity file ({} s)", list(&times));
    row(&what, median(times), "s", Goal::AtMost(2.0));
}

#[test]
#[ignore = "a measurement"]
fn twenty_exports_in_one_budget() {
    let far = Far::new();
    let disks: Vec<String> = (0..EXPORTS).map(|number| format!("disk{number}")).collect();
    for disk in &disks {
        data(&far.path(disk), EXPORT_MIB, 0);
    }
    far.back_up("many", &disks.iter().map(|disk| format!("{disk}={disk}")).collect::<Vec<_>>());
    let serving = Serving::start(&far, "many:latest", &["--memory", &format!("{BUDGET_MIB}M")]);
    let begun = Instant::now();
    let copies: Vec<Child> = disks
        .iter()
        .map(|disk| {
            let mut copy = Command::new("nbdcopy");
            copy.arg("--no-extents").arg(uri(&far, disk)).arg("null:").stdin(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut copy in copies {
        assert!(copy.wait().unwrap().success());
    }
    let rate = (EXPORTS * EXPORT_MIB) as f64 / begun.elapsed().as_secs_f64();
    let peak = serving.peak_mib();
    serving.end();
    let what = format!(
        "{EXPORTS} exports of {EXPORT_MIB} MiB read at once with `--memory {BUDGET_MIB}M`, {rate:.0} MiB/s over all: peak memory"
    );
    row(&what, peak as f64, "MiB", Goal::AtMost(BUDGET_MIB as f64));
}
