//! The built program against a real QEMU without libvirt, by its monitor alone.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::hypervisor::{Guest, Host, Linux, Plain};
use crate::support::guests::moments_of;
use crate::support::{summary, told};
use serde_json::json;

const BACKUP: [&str; 10] =
    ["backup", "--key-file", "w.key", "--source", "qemu", "--qmp", "qmp.sock", "--json", "--vm", "web 01"];

#[test]
fn a_machine_without_libvirt_is_one_moment_of_all_its_disks_and_then_what_changed() {
    let Some(host) = Host::bare(&[]) else { return };
    let guest = Guest { ticks: 0, ..Guest::default() };
    Plain::make(&host, &guest);
    let qemu = Plain::start(&host, &guest, &["-uuid", "11111111-2222-3333-4444-555555555555"]);
    // Somebody else's, who counts from another day.
    let theirs = json!({"node": "node-vda", "name": "theirs"});
    qemu.ask(json!({"execute": "block-dirty-bitmap-add", "arguments": theirs}));
    let mut moments = Vec::new();
    for night in 0..3 {
        let saved = summary(&host.succeed(&BACKUP));
        assert_eq!(saved["machine"], "11111111-2222-3333-4444-555555555555");
        let scan = saved["scan"].as_str().unwrap();
        assert_eq!(scan.starts_with("map qemu "), night > 0, "{scan}");
        moments.push(host.is_a_moment(&guest, "latest"));
        host.wait_for_writes(&guest, 3);
    }
    assert!(moments.is_sorted() && moments[0] < moments[2], "{moments:?}");
    let listed = qemu.ask(json!({"execute": "query-block"})).to_string();
    assert!(listed.contains("\"theirs\""), "{listed}");
    qemu.ask(json!({"execute": "block-dirty-bitmap-remove", "arguments": theirs}));
    qemu.is_clean(&host);
    // A dry run leaves nothing behind, and takes nothing away.
    host.succeed(&[&BACKUP[..], &["--dry-run"]].concat());
    qemu.is_clean(&host);
    // Started again after a clean end, its qcow2 images still say what changed; killed, they do not.
    qemu.quit();
    let qemu = Plain::start(&host, &guest, &[]);
    let scan = summary(&host.succeed(&BACKUP))["scan"].clone();
    assert!(scan.as_str().unwrap().starts_with("map qemu "), "{scan}");
    host.is_a_moment(&guest, "latest");
    qemu.kill();
    let _qemu = Plain::start(&host, &guest, &[]);
    assert_eq!(summary(&host.succeed(&BACKUP))["scan"], "full");
    host.is_a_moment(&guest, "latest");
}

#[test]
fn killed_beside_a_monitor_the_next_night_is_right_and_nothing_is_left() {
    let Some(host) = Host::bare(&[]) else { return };
    let guest = Guest { ticks: 0, ..Guest::default() };
    Plain::make(&host, &guest);
    let qemu = Plain::start(&host, &guest, &[]);
    host.succeed(&BACKUP);
    let begun = Instant::now();
    host.succeed(&BACKUP);
    for after in moments_of(begun.elapsed(), 4) {
        let mut child = host.sancerre(&BACKUP).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
        host.succeed(&BACKUP);
        host.is_a_moment(&guest, "latest");
        qemu.is_clean(&host);
    }
}

#[test]
fn what_is_wrong_with_a_monitor_is_said() {
    let Some(host) = Host::bare(&[]) else { return };
    let output = host.expect(1, &BACKUP);
    assert!(told(&output).contains("start QEMU with -qmp"), "{}", told(&output));
    let guest = Guest { disks: &["qcow2"], ..Guest::default() };
    Plain::make(&host, &guest);
    let qemu = Plain::start(&host, &guest, &[]);
    // It talks to one program, and that is another.
    let other = std::os::unix::net::UnixStream::connect(&qemu.socket).unwrap();
    let output = host.expect(1, &BACKUP);
    assert!(told(&output).contains("talks to one program at a time"), "{}", told(&output));
    drop(other);
    // It has one server for disks, and another program has it.
    let theirs = json!({"addr": {"type": "unix", "data": {"path": host.path("theirs.sock")}}});
    qemu.ask(json!({"execute": "nbd-server-start", "arguments": theirs}));
    let output = host.expect(1, &BACKUP);
    assert!(told(&output).contains("serves disks to another program"), "{}", told(&output));
    qemu.ask(json!({"execute": "nbd-server-stop"}));
    host.expect(2, &[&BACKUP[..], &["--exclude-disk", "vdz"]].concat());
    let output = host.expect(1, &[&BACKUP[..], &["--freeze", "must"]].concat());
    assert!(told(&output).contains("no channel to an agent"), "{}", told(&output));
    host.succeed(&BACKUP);
    qemu.is_clean(&host);
}

/// QEMU 10.0 dies when it lists its nodes beside an ended job that streams: a guest is never asked for them then.
#[test]
fn a_guest_beside_a_stream_that_has_ended_lives() {
    let Some(host) = Host::bare(&[]) else { return };
    let guest = Guest { disks: &["qcow2"], ..Guest::default() };
    Plain::make(&host, &guest);
    let qemu = Plain::start(&host, &guest, &[]);
    let theirs = json!({"job-id": "theirs", "device": "node-vda", "auto-dismiss": false});
    qemu.ask(json!({"execute": "block-stream", "arguments": theirs}));
    let started = Instant::now();
    while !qemu.ask(json!({"execute": "query-jobs"})).to_string().contains("concluded") {
        assert!(started.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = host.expect(1, &BACKUP);
    assert!(told(&output).contains("a job theirs of somebody else streams"), "{}", told(&output));
    qemu.ask(json!({"execute": "job-dismiss", "arguments": {"id": "theirs"}}));
    host.succeed(&BACKUP);
    host.is_a_moment(&guest, "latest");
    qemu.is_clean(&host);
}

#[test]
fn a_guest_of_a_plain_qemu_is_frozen_for_one_moment() {
    let (Some(linux), Some(host)) = (Linux::find(), Host::bare(&[])) else { return };
    linux.make(&host, "db01");
    let _qemu = Plain::start_linux(&host, "db01");
    let frozen = [&BACKUP[..9], &["db01", "--agent", "qga.sock", "--freeze", "must"]].concat();
    // Until its agent answers nothing is saved.
    let started = Instant::now();
    let saved = loop {
        let output = host.sancerre(&frozen).output().unwrap();
        if output.status.success() {
            break summary(&output);
        }
        assert_eq!(output.status.code(), Some(1), "{}", told(&output));
        assert!(started.elapsed() < Duration::from_secs(120), "{}", told(&output));
    };
    let how = saved["frozen"].as_str().unwrap();
    assert!(how.starts_with("file-systems:1,ms:"), "{how}");
    std::fs::create_dir(host.path("restored")).unwrap();
    host.own(&host.path("restored"));
    host.succeed(&["restore", "db01:latest:virtio0", "--target", "restored/"]);
    let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(host.path("restored/virtio0.raw")).output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{}", told(&checked));
    // It works on, and is frozen again the next night.
    let saved = summary(&host.succeed(&frozen));
    assert!(saved["scan"].as_str().unwrap().starts_with("map qemu "), "{saved}");
}
