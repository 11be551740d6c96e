//! Machines that come back: how soon somebody may log in, when their disks are whole, and whether that was foretold.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Far, Goal, data, list, median, named, rounds, row};
use crate::support::devices::LoopDevice;
use crate::support::{summary, told};
use sancerre_boot::{Accelerator, DiskBus, GuestPlan, UpWhen};
use serde_json::json;

/// Ends the QEMU of a recovered machine, also of one whose measurement failed.
struct Guest(std::path::PathBuf);

impl Drop for Guest {
    fn drop(&mut self) {
        let monitor = sancerre_boot::Qmp::connect(&self.0);
        let _ = monitor.and_then(|mut monitor| monitor.execute("quit", json!({})));
        let begun = Instant::now();
        while sancerre_boot::Qmp::connect(&self.0).is_ok() && begun.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A guest that is up and waits.
const IDLE: &str = "echo 'the guest is up'\nwhile true; do sleep 1; done\n";

/// The command that recovers the machine of a test, for a guest of these arguments.
fn recover<'a>(storage: &[&'a str], more: &'a [String]) -> Vec<&'a str> {
    let mut words = vec!["recover", "web01:latest", "--to", "qemu", "--storage", "guests", "--accel", "tcg"];
    words.extend(["--guest-memory", "160M", "--guest-cpus", "1", "--identity", "identity"]);
    words.extend_from_slice(storage);
    words.push("--");
    words.extend(more.iter().map(String::as_str));
    words
}

/// How long a recovery takes until nothing depends on this program, and what it says.
fn recovered(far: &Far, words: &[&str]) -> (f64, String) {
    let running = Guest(far.path("guests/web01/monitor.sock"));
    far.forget_all();
    let begun = Instant::now();
    let said = told(&far.succeed(words));
    super::synced();
    let took = begun.elapsed().as_secs_f64();
    drop(running);
    fs::remove_dir_all(far.path("guests")).unwrap();
    (took, said)
}

#[test]
#[ignore = "a measurement"]
fn hydration_beside_restore() {
    let far = Far::new();
    let guest = sancerre_services::guest::guest(far.folder.path(), IDLE).expect("there is no guest");
    data(&far.path("disk.raw"), 1024, 1);
    far.back_up("web01", &["disk0=disk.raw".into()]);
    let more = sancerre_services::guest::arguments(&guest);
    let recover = recover(&["--quiet"], &more);
    let (mut restores, mut recoveries) = (Vec::new(), Vec::new());
    for _ in rounds() {
        let restore = ["restore", "web01:latest", "--target", "restored/", "--format", "qcow2", "--quiet"];
        restores.push(far.timed(&restore).0);
        fs::remove_dir_all(far.path("restored")).unwrap();
        recoveries.push(recovered(&far, &recover).0);
    }
    let what = format!(
        "speed at which `recover` makes 1 GiB of data whole while its guest runs ({} s), times that of `restore` ({} s)",
        list(&recoveries),
        list(&restores)
    );
    row(&what, median(restores) / median(recoveries), "", Goal::AtLeast(0.8));
}

#[test]
#[ignore = "a measurement"]
fn a_move_beside_restore() {
    let far = Far::new();
    let guest = sancerre_services::guest::guest(far.folder.path(), IDLE).expect("there is no guest");
    data(&far.path("disk.raw"), 1024, 1);
    far.back_up("web01", &["disk0=disk.raw".into()]);
    fs::rename(far.path("disk.raw"), far.path("device.raw")).unwrap();
    let Some(device) = LoopDevice::attach(&far.path("device.raw")) else { return };
    let more = sancerre_services::guest::arguments(&guest);
    let recover = recover(&["--storage", device.name(), "--overwrite"], &more);
    let (mut restores, mut moves, mut still) = (Vec::new(), Vec::new(), Vec::new());
    // What is there already is not written again.
    let emptied = || Command::new("blkdiscard").args(["--force", device.name()]).status().unwrap().success();
    for _ in rounds() {
        assert!(emptied());
        let restore = ["restore", "web01:latest:disk0", "--target", device.name(), "--overwrite", "--quiet"];
        restores.push(far.timed(&restore).0);
        assert!(emptied());
        let (took, said) = recovered(&far, &recover);
        let stood =
            said.split_once("stood still for ").and_then(|(_, rest)| rest.split_once(" s")).unwrap().0;
        moves.push(took);
        still.push(stood.parse::<f64>().unwrap());
    }
    let what = format!(
        "speed at which `recover` moves 1 GiB of data to a device while its guest runs ({} s), times that of `restore` to it ({} s)",
        list(&moves),
        list(&restores)
    );
    row(&what, median(restores) / median(moves), "", Goal::AtLeast(0.8));
    let what = format!("a guest stands still while it is switched to its device ({} s)", list(&still));
    row(&what, median(still), "s", Goal::AtMost(1.0));
}

/// Seconds from QEMU's start to the login prompt, from a raw file on this machine.
fn local_login(far: &Far, disk: &str) -> f64 {
    let file = format!("if=none,id=disk-0,snapshot=on,format=raw,file={disk}");
    let device = "virtio-blk-pci,drive=disk-0,bootindex=1";
    let console = far.path("local.log");
    let _ = fs::remove_file(&console);
    let plan = GuestPlan {
        name: "login".into(),
        disks: Vec::new(),
        bus: DiskBus::Virtio,
        accelerator: Accelerator::Tcg,
        memory_mib: 512,
        processors: 1,
        exports: far.path("none.sock"),
        monitor: far.path("local.sock"),
        console,
        screen: None,
        agent: None,
        more: ["-drive", &file, "-device", device].map(Into::into).to_vec(),
    };
    let when = UpWhen {
        serial: vec!["login:".into()],
        agent: false,
        agent_runs: Vec::new(),
        screen: None,
        limit: Duration::from_secs(600),
    };
    let qemu = OsStr::new("qemu-system-x86_64");
    let watched = sancerre_boot::watch(qemu, &plan, &when, Path::new("/dev/null")).unwrap();
    assert!(watched.up.is_ok(), "{:?}", watched.up);
    watched.took.as_secs_f64()
}

#[test]
#[ignore = "a measurement"]
fn the_login_prompt() {
    let (far, disk) = (Far::new(), named("SANCERRE_LIVE_GUEST"));
    far.back_up("login", &[format!("disk0={disk}")]);
    let drill = ["drill", "login:latest", "--accel", "tcg", "--guest-memory", "512M"];
    let drill = [&drill[..], &["--guest-cpus", "1", "--json"]].concat();
    let untraced = [&drill[..], &["--no-note"]].concat();
    let (mut local, mut exported, mut traced) = (Vec::new(), Vec::new(), Vec::new());
    local_login(&far, &disk); // what it reads is cached from here on
    for _ in rounds() {
        local.push(local_login(&far, &disk));
        exported.push(far.timed(&untraced).0);
    }
    let what = format!(
        "login prompt of a Debian with a boot loader, the whole command ({} s), times its boot from a raw file ({} s); no trace",
        list(&exported),
        list(&local)
    );
    row(&what, median(exported) / median(local.clone()), "", Goal::AtMost(3.0));
    let recorded = far.timed(&[&drill[..], &["--key-file", "w.key", "--trace"]].concat()).1;
    let trace = summary(&recorded)["machines"][0]["trace"].clone();
    for _ in rounds() {
        traced.push(far.timed(&untraced).0);
    }
    let what = format!(
        "the same with a boot trace of {} chunks ({} s), times its boot from a raw file ({} s)",
        trace["chunks"],
        list(&traced),
        list(&local)
    );
    row(&what, median(traced) / median(local), "", Goal::AtMost(1.5));
}

/// Machines that differ: how many MiB of data, and how much that is zero beside each.
const MACHINES: [(usize, usize); 9] =
    [(32, 0), (64, 3), (96, 0), (128, 1), (192, 0), (256, 2), (320, 0), (384, 0), (512, 1)];

#[test]
#[ignore = "a measurement"]
fn ten_forecasts() {
    let far = Far::new();
    for (number, (mebibytes, holes)) in MACHINES.into_iter().enumerate() {
        data(&far.path("disk.raw"), mebibytes, holes);
        far.back_up(&format!("vm{number}"), &["disk0=disk.raw".into()]);
    }
    far.back_up("login", &[format!("disk0={}", named("SANCERRE_LIVE_GUEST"))]);
    fs::remove_file(far.path("disk.raw")).unwrap();
    let (_, forecast) = far.timed(&["rto", "--storage", ".", "--json"]);
    let forecast = summary(&forecast);
    let open = forecast["open_seconds"].as_f64().unwrap();
    let machines = forecast["machines"].as_array().unwrap();
    assert_eq!(machines.len(), 10, "{forecast}");
    let (mut ratios, mut said) = (Vec::new(), Vec::new());
    for machine in machines {
        let snapshot = format!("{}:latest:disk0", machine["vm"].as_str().unwrap());
        // Each opens the repository, which the forecast counts once for all.
        let foretold = machine["complete_seconds"].as_f64().unwrap() + open;
        let (took, output) = far.timed(&["restore", &snapshot, "--target", "back.raw", "--json"]);
        assert!(told(&output).contains("fetched_bytes"), "{}", told(&output));
        fs::remove_file(far.path("back.raw")).unwrap();
        ratios.push(foretold / took);
        said.push(format!("{foretold:.1} for {took:.1}"));
    }
    let within = ratios.iter().filter(|ratio| (0.75..=1.25).contains(*ratio)).count();
    let what = format!(
        "forecasts of ten restores within 25 % (seconds foretold for seconds needed: {})",
        said.join(", ")
    );
    row(&what, within as f64, "of 10", Goal::AtLeast(10.0));
}
