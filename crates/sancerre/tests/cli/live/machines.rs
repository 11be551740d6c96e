//! Machines that run: what they notice of a backup, and how soon ten of them are saved.

use std::fs;
use std::process::Child;
use std::time::Instant;

use super::{Goal, MIB, data, list, median, place, rounds, row};
use crate::hypervisor::{Guest, Host, Linux};
use crate::support::told;
use sancerre_services::Variables;

const FROM_LIBVIRT: [&str; 7] =
    ["backup", "--key-file", "far.key", "--source", "libvirt", "--connect", "qemu:///session"];

fn host() -> Host {
    Host::start().expect("libvirt is not installed; cargo xtask setup does")
}

/// A new repository behind the line; what a command needs to find it.
fn repository(host: &Host) -> Variables {
    let variables = place();
    let _ = fs::remove_file(host.path("far.key"));
    let mut init = host.sancerre(&["init", "--quiet", "--key-file", "far.key", "--writer", "hv1"]);
    let made = init.envs(variables.iter().cloned()).output().unwrap();
    assert!(made.status.success(), "{}", told(&made));
    variables
}

fn begin(host: &Host, variables: &Variables, more: &[&str]) -> Child {
    let mut command = host.sancerre(&[&FROM_LIBVIRT[..], &["--quiet"], more].concat());
    command.envs(variables.iter().cloned()).spawn().unwrap()
}

/// Writes a second that a guest makes meanwhile.
fn rate(host: &Host, guest: &Guest<'_>, meanwhile: impl FnOnce()) -> f64 {
    let (before, begun) = (host.number(guest), Instant::now());
    meanwhile();
    f64::from(host.number(guest) - before) / begun.elapsed().as_secs_f64()
}

/// How much of its rate a guest keeps while a disk of 1 GiB beside its own is saved for the first time.
fn loss(ticks: u16, what: &str) {
    let host = host();
    let large = host.path("disks/large.raw");
    data(&large, 1024, 0);
    host.own(&large);
    let devices = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/><target dev='vdc' bus='virtio'/></disk>",
        large.display()
    );
    let guest =
        Guest { ticks, devices: &devices, disks: &["qcow2"], disk_bytes: 64 * MIB, ..Guest::default() };
    host.run(&guest);
    let pause = || std::thread::sleep(std::time::Duration::from_secs(8));
    let (mut kept, mut seconds) = (Vec::new(), Vec::new());
    for _ in rounds() {
        let variables = repository(&host);
        let before = rate(&host, &guest, pause);
        let begun = Instant::now();
        let during = rate(&host, &guest, || {
            let mut child = begin(&host, &variables, &["--vm", guest.name]);
            assert!(child.wait().unwrap().success());
        });
        seconds.push(begun.elapsed().as_secs_f64());
        let after = rate(&host, &guest, pause);
        println!("{before:.1} writes a second before, {during:.1} during, {after:.1} after");
        kept.push(during / f64::midpoint(before, after));
    }
    let what = format!(
        "{what}: its rate during a first backup ({} s), times that before and after ({})",
        list(&seconds),
        list(&kept)
    );
    row(&what, median(kept), "", Goal::AtLeast(0.9));
}

#[test]
#[ignore = "a measurement"]
fn loss_of_a_guest_that_writes_as_fast_as_it_can() {
    loss(0, "a guest that writes as fast as it can, 4 KiB flushed each");
}

#[test]
#[ignore = "a measurement"]
fn loss_of_a_guest_that_writes_steadily() {
    loss(1, "a guest that writes 18 times a second");
}

#[test]
#[ignore = "a measurement"]
fn seconds_frozen() {
    let (linux, host) = (Linux::find().expect("no kernel for guests"), host());
    linux.run(&host, "db01");
    let mut milliseconds: Vec<f64> = (0..5)
        .map(|_| {
            let saved = host.back_up("db01");
            let frozen = saved["frozen"].as_str().unwrap_or_else(|| panic!("{saved}"));
            let (_, after) = frozen.split_once(",ms:").unwrap();
            let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().unwrap()
        })
        .collect();
    milliseconds.sort_by(f64::total_cmp);
    let what = "a guest with an agent stands still, the longest of five backups";
    row(what, milliseconds[4], "ms", Goal::AtMost(2000.0));
}

/// Seconds that the processors of this machine worked so far.
fn worked() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let numbers = stat.lines().next().unwrap().split_whitespace().skip(1).map(|word| word.parse().unwrap());
    let numbers: Vec<u64> = numbers.collect();
    // user, nice, system; irq, softirq: in hundredths, as for every program
    (numbers[..3].iter().sum::<u64>() + numbers[5..7].iter().sum::<u64>()) as f64 / 100.0
}

fn saved(host: &Host, variables: &Variables, more: &[&str]) -> (f64, f64) {
    let (before, begun) = (worked(), Instant::now());
    assert!(begin(host, variables, more).wait().unwrap().success());
    (begun.elapsed().as_secs_f64(), worked() - before)
}

#[test]
#[ignore = "a measurement"]
fn ten_machines_with_all() {
    let host = host();
    let names: Vec<String> = (0..10).map(|number| format!("vm{number}")).collect();
    for name in &names {
        // It writes once an hour.
        let guest = Guest {
            name,
            disks: &["qcow2"],
            ticks: u16::MAX,
            disk_bytes: 8 * MIB,
            blocks: 256,
            ..Guest::default()
        };
        let large = host.path(format!("disks/{name}.raw"));
        data(&large, 256, 3);
        host.own(&large);
        let devices = format!(
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/><target dev='vdb' bus='virtio'/></disk>",
            large.display()
        );
        host.define(&Guest { devices: &devices, ..guest });
        host.ask(&["start", name]);
    }
    let processors = std::thread::available_parallelism().unwrap().get() as f64;
    let (mut together, mut bounds) = (Vec::new(), Vec::new());
    for _ in rounds() {
        let variables = repository(&host);
        let alone: Vec<(f64, f64)> =
            names.iter().map(|name| saved(&host, &variables, &["--vm", name])).collect();
        let longest = alone.iter().map(|(seconds, _)| *seconds).fold(0.0, f64::max);
        let work: f64 = alone.iter().map(|(_, worked)| worked).sum();
        bounds.push(longest.max(work / processors));
        together.push(saved(&host, &repository(&host), &["--all"]).0);
    }
    let what = format!(
        "ten idle machines of 1 GiB with `--all`, first backup ({} s), times what their work needs on {processors:.0} processors, each alone ({} s)",
        list(&together),
        list(&bounds)
    );
    row(&what, median(together) / median(bounds), "", Goal::AtMost(1.5));
}
