//! The built program against a real libvirt and real QEMU guests that write all the time: whatever is saved is one moment
//! of all disks, whoever dies meanwhile.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::hypervisor::{Guest, Host, Linux};
use crate::support::guests::moments_of;
use crate::support::{MIB, summary, told};

#[test]
fn a_running_machine_is_one_moment_of_all_its_disks_and_then_what_changed() {
    let Some(host) = Host::start() else { return };
    let guest = Guest { ticks: 0, disk_bytes: 64 * MIB, ..Guest::default() };
    host.run(&guest);
    // Somebody else's, who counts from another day.
    let disks = "<disks><disk name='vda'/><disk name='vdb' checkpoint='no'/></disks>";
    let theirs = format!("<domaincheckpoint><name>virtnbdbackup.0</name>{disks}</domaincheckpoint>");
    fs::write(host.path("c.xml"), theirs).unwrap();
    host.ask(&["checkpoint-create", guest.name, "c.xml"]);
    let mut moments = Vec::new();
    for night in 0..3 {
        let saved = host.back_up(guest.name);
        assert_eq!(saved["vm"], guest.name);
        let scan = saved["scan"].as_str().unwrap();
        assert_eq!(scan.starts_with("map libvirt "), night > 0, "{scan}");
        moments.push(host.is_a_moment(&guest, "latest"));
        host.is_clean(guest.name);
        host.wait_for_writes(&guest, 3);
    }
    assert!(moments.is_sorted() && moments[0] < moments[2], "{moments:?}");
    assert!(host.checkpoints(guest.name).contains(&"virtnbdbackup.0".to_owned()));
    // Of a machine that stands still the next night is what its disks are.
    host.ask(&["suspend", guest.name]);
    host.back_up(guest.name);
    host.is_a_moment(&guest, "latest");
    for (number, name) in ["vda.raw", "vdb.raw"].iter().enumerate() {
        let restored = fs::read(host.path("restored").join(name)).unwrap();
        assert!(restored == host.converted(&guest, number), "{name}");
    }
    let xml = fs::read_to_string(host.path("restored/libvirt.xml")).unwrap();
    assert!(xml.contains("<name>web 01</name>"), "{xml}");
    // Nothing changed since: nothing is stored but records.
    let saved = host.back_up(guest.name);
    assert_eq!(saved["new_bytes"], 0, "{saved}");
    host.succeed(&["check", "--read-data"]);
}

#[test]
fn killed_at_any_moment_the_next_night_is_right_and_nothing_is_left() {
    let Some(host) = Host::start() else { return };
    let guest = Guest { ticks: 0, ..Guest::default() };
    host.run(&guest);
    host.back_up(guest.name);
    let begun = Instant::now();
    host.back_up(guest.name);
    for after in moments_of(begun.elapsed(), 5) {
        let mut child = host
            .sancerre(&host.backup(guest.name))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
        host.back_up(guest.name);
        host.is_a_moment(&guest, "latest");
        host.is_clean(guest.name);
    }
}

#[test]
fn a_machine_that_was_shut_down_is_read_from_its_files_by_the_list_that_they_kept() {
    let Some(host) = Host::start() else { return };
    let guest = Guest { disks: &["qcow2", "qcow2"], ..Guest::default() };
    host.run(&guest);
    host.back_up(guest.name);
    host.wait_for_writes(&guest, 3);
    host.ask(&["destroy", guest.name]);
    for _ in 0..2 {
        let saved = host.back_up(guest.name);
        assert!(saved["scan"].as_str().unwrap().starts_with("map qcow2-bitmap "), "{saved}");
        host.is_a_moment(&guest, "latest");
    }
    // And on from there when it runs again.
    host.ask(&["start", guest.name]);
    host.wait_for_writes(&guest, 3);
    let saved = host.back_up(guest.name);
    assert!(saved["scan"].as_str().unwrap().starts_with("map libvirt "), "{saved}");
    host.is_a_moment(&guest, "latest");
    host.is_clean(guest.name);
}

#[test]
fn what_libvirt_or_qemu_forgot_costs_time_and_nothing_else() {
    let Some(mut host) = Host::start() else { return };
    let guest = Guest { disks: &["qcow2", "qcow2"], ..Guest::default() };
    host.run(&guest);
    host.back_up(guest.name);
    // Defined anew, as after a move: the lists are still in the images.
    host.ask(&["destroy", guest.name]);
    let xml = host.ask(&["dumpxml", guest.name]);
    fs::write(host.path("again.xml"), xml).unwrap();
    host.ask(&["undefine", "--checkpoints-metadata", guest.name]);
    host.ask(&["define", "again.xml"]);
    host.ask(&["start", guest.name]);
    host.wait_for_writes(&guest, 3);
    let saved = host.back_up(guest.name);
    assert!(saved["scan"].as_str().unwrap().starts_with("map libvirt "), "{saved}");
    host.is_a_moment(&guest, "latest");
    // Killed: the lists of that run are lost.
    host.kill(guest.name);
    host.back_up(guest.name);
    host.is_a_moment(&guest, "latest");
    host.ask(&["start", guest.name]);
    host.wait_for_writes(&guest, 3);
    let output = host.succeed(&host.backup(guest.name));
    assert_eq!(summary(&output)["scan"], "full", "{}", told(&output));
    host.is_a_moment(&guest, "latest");
    host.is_clean(guest.name);
    // libvirt dies and comes again.
    host.libvirtd_kill();
    host.libvirtd_up();
    let saved = host.back_up(guest.name);
    assert!(saved["scan"].as_str().unwrap().starts_with("map libvirt "), "{saved}");
    host.is_a_moment(&guest, "latest");
    host.is_clean(guest.name);
}

#[test]
fn a_machine_that_moves_to_another_host_while_it_runs_goes_on_where_it_was() {
    let Some(mut host) = Host::start() else { return };
    let guest = Guest { disks: &["qcow2", "qcow2"], ..Guest::default() };
    host.run(&guest);
    host.back_up(guest.name);
    host.wait_for_writes(&guest, 3);
    host.migrate(guest.name);
    host.wait_for_writes(&guest, 3);
    for _ in 0..2 {
        // Its new host knows nothing of the checkpoint; the lists moved with the disks.
        let saved = host.back_up(guest.name);
        assert!(saved["scan"].as_str().unwrap().starts_with("map libvirt "), "{saved}");
        host.is_a_moment(&guest, "latest");
        host.is_clean(guest.name);
        host.wait_for_writes(&guest, 3);
    }
}

#[test]
fn a_list_that_lies_is_found_and_the_disk_is_read() {
    let Some(host) = Host::start() else { return };
    let guest = Guest { disks: &["qcow2"], ..Guest::default() };
    host.run(&guest);
    host.back_up(guest.name);
    host.wait_for_writes(&guest, 20);
    host.ask(&["destroy", guest.name]);
    let list = host.checkpoints(guest.name).remove(0);
    let cleared =
        host.command("qemu-img").args(["bitmap", "--clear"]).arg(host.disk(guest.name, 0)).arg(list).output();
    assert!(cleared.unwrap().status.success());
    let output = host.expect(3, &host.backup(guest.name));
    assert_eq!(summary(&output)["belied"], serde_json::json!(["vda"]), "{}", told(&output));
    host.is_a_moment(&guest, "latest");
}

#[test]
fn every_machine_of_a_host_is_saved_whatever_becomes_of_one() {
    let Some(host) = Host::start() else { return };
    let small =
        |name| Guest { name, disks: &["qcow2"], disk_bytes: 8 * MIB, blocks: 256, ..Guest::default() };
    let (running, stopped, broken, other) = (small("web 01"), small("web02"), small("web-ü"), small("db01"));
    host.run(&running);
    [&stopped, &broken, &other].into_iter().for_each(|guest| host.define(guest));
    fs::remove_file(host.disk(broken.name, 0)).unwrap();
    let all =
        ["backup", "--key-file", "w.key", "--source", "libvirt", "--connect", "qemu:///session", "--all"];
    let some = ["--match", "web*", "--match", "db*", "--exclude", "*b01", "--parallel", "2"];
    let output = host.expect(1, &[&all[..], &some].concat());
    let told = told(&output);
    let expected = "web 01: saved (exit code 0)\nweb-ü: NOT SAVED (exit code 1)\nweb02: saved (exit code 0)\n2 of 3 machines saved\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{told}");
    host.is_a_moment(&running, "web 01:latest");
    host.is_a_moment(&stopped, "web02:latest");
    let output = host.expect(1, &[&all[..], &["--json"]].concat());
    assert_eq!((&summary(&output)["saved"], &summary(&output)["failed"]), (&3.into(), &1.into()));
    host.expect(2, &[&all[..], &["--match", "nobody"]].concat());
}

#[test]
fn what_is_of_others_is_never_ended() {
    let Some(host) = Host::start() else { return };
    let guest = Guest {
        devices: "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>",
        ..Guest::default()
    };
    host.run(&guest);
    let socket = host.path("theirs.sock");
    let job = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{}'/></domainbackup>",
        socket.display()
    );
    fs::write(host.path("b.xml"), job).unwrap();
    host.ask(&["backup-begin", guest.name, "b.xml"]);
    let output = host.expect(1, &host.backup(guest.name));
    assert!(told(&output).contains("another program backs it up now"), "{}", told(&output));
    host.ask(&["backup-dumpxml", guest.name]);
    host.ask(&["domjobabort", guest.name]);
    // A name that nobody has, and an option that means nothing, cost nothing.
    let output = host.expect(2, &host.backup("nobody"));
    assert!(told(&output).contains("libvirt has no machine nobody"), "{}", told(&output));
    host.expect(2, &["backup", "--key-file", "w.key", "--vm", "a", "--qmp", "q.sock", "w.key"]);
    // A disk that is left out is said, and does not count as missing; one that is not there is a mistake.
    let output = host.succeed(&[&host.backup(guest.name)[..], &["--exclude-disk", "vdb"]].concat());
    let skipped: Vec<String> =
        summary(&output)["skipped"].as_array().unwrap().iter().map(|one| one["disk"].to_string()).collect();
    assert_eq!(skipped, ["\"vdb\"", "\"sda\""]);
    host.expect(2, &[&host.backup(guest.name)[..], &["--exclude-disk", "vdz"]].concat());
    // Without an agent there is no machine that must be frozen.
    let output = host.expect(1, &[&host.backup(guest.name)[..], &["--freeze", "must"]].concat());
    assert!(told(&output).contains("was not frozen"), "{}", told(&output));
    host.is_clean(guest.name);
}

#[test]
fn a_guest_is_frozen_for_one_moment_and_thawed_whoever_dies() {
    let (Some(linux), Some(host)) = (Linux::find(), Host::start()) else { return };
    linux.run(&host, "db01");
    let saved = host.back_up("db01");
    let frozen = saved["frozen"].as_str().unwrap_or_else(|| panic!("{saved}"));
    assert!(frozen.starts_with("file-systems:1,ms:"), "{frozen}");
    assert_eq!(host.frozen("db01"), Some(false));
    let listed = host.succeed(&["snapshots", "--json"]);
    assert!(told(&listed).contains("\"consistency\":\"frozen\""), "{}", told(&listed));
    // What was saved needs no repair.
    fs::create_dir(host.path("restored")).unwrap();
    host.own(&host.path("restored"));
    host.succeed(&["restore", "db01:latest", "--target", "restored"]);
    let restored = host.path("restored/vda.raw");
    let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(&restored).output().unwrap();
    assert!(checked.status.success(), "{}", told(&checked));
    // Killed while it stands still: the guard thaws it.
    let mut kills = 0;
    for _ in 0..40 {
        let mut child =
            host.sancerre(&host.backup("db01")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let marker = || fs::read_dir(host.path("run/sancerre")).into_iter().flatten().flatten();
        let stands = || marker().any(|entry| entry.path().join("frozen").exists());
        while child.try_wait().unwrap().is_none() && !stands() {
            std::thread::sleep(Duration::from_millis(2));
        }
        kills += usize::from(child.try_wait().unwrap().is_none());
        let _ = child.kill();
        child.wait().unwrap();
        let killed = Instant::now();
        while stands() || host.frozen("db01") != Some(false) {
            assert!(killed.elapsed() < Duration::from_secs(60), "it is still frozen");
            std::thread::sleep(Duration::from_millis(50));
        }
        if kills == 3 {
            break;
        }
    }
    assert_eq!(kills, 3);
    host.back_up("db01");
    host.is_clean("db01");
}

#[test]
fn a_restored_machine_is_defined_again_and_none_is_replaced() {
    let Some(host) = Host::start() else { return };
    let guest = Guest::default();
    host.run(&guest);
    host.back_up(guest.name);
    let moment = host.is_a_moment(&guest, "latest");
    let to = ["--to", "libvirt", "--connect", "qemu:///session", "--format", "qcow2"];
    let restore = |target| [&["restore", "web 01:latest", "--target", target][..], &to].concat();
    let output = host.expect(1, &restore("again/"));
    assert!(told(&output).contains("there is a machine web 01"), "{}", told(&output));
    assert!(!host.path("again").exists());
    // By its id nobody knows the name before.
    let listed = host.succeed(&["snapshots", "--json"]);
    let id = summary(&listed)["snapshots"][0]["id"].as_str().unwrap().to_owned();
    let by_id = [&["restore", &id, "--target", "by-id/"][..], &to].concat();
    assert!(told(&host.expect(1, &by_id)).contains("there is a machine"));
    // Beside the first, started: it goes on where it was.
    let copy = Guest { name: "copy", disks: &["qcow2", "qcow2"], ..Guest::default() };
    host.succeed(&[&restore("copy/")[..], &["--as", "copy", "--start"]].concat());
    for number in 0..2 {
        let letter = if number == 0 { 'a' } else { 'b' };
        std::os::unix::fs::symlink(host.path(format!("copy/vd{letter}.qcow2")), host.disk("copy", number))
            .unwrap();
    }
    host.wait_for_writes(&copy, 3);
    host.ask(&["destroy", "copy"]);
    host.back_up("copy");
    assert!(host.is_a_moment(&copy, "copy:latest") > moment);
    // After the first is gone, as it was: its id too.
    let uuid = host.ask(&["domuuid", guest.name]);
    host.ask(&["destroy", guest.name]);
    host.ask(&["undefine", "--checkpoints-metadata", guest.name]);
    host.succeed(&restore("first/"));
    assert_eq!(host.ask(&["domuuid", guest.name]), uuid);
    assert_eq!(host.ask(&["domstate", guest.name]).trim(), "shut off");
}

/// What a program says at a terminal of so many rows and columns.
fn at_a_terminal(host: &Host, arguments: &[&str]) -> String {
    let quoted: Vec<String> = arguments.iter().map(|word| format!("'{word}'")).collect();
    let line =
        format!("stty rows 24 cols 100; exec {} {}", host.path("sancerre").display(), quoted.join(" "));
    let mut command = host.command("script");
    let output = command.args(["-qec", &line, "/dev/null"]).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_terminal_shows_each_machine_and_a_log_has_plain_lines() {
    let Some(host) = Host::start() else { return };
    let small =
        |name| Guest { name, disks: &["qcow2"], disk_bytes: 8 * MIB, blocks: 256, ..Guest::default() };
    for name in ["web01", "web02", "web03"] {
        host.define(&small(name));
        let path = host.disk(name, 0);
        fs::write(host.path("noise"), crate::support::noise(u64::from(name.as_bytes()[4]), 2 * MIB)).unwrap();
        let made = Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "qcow2"])
            .arg(host.path("noise"))
            .arg(&path)
            .status();
        assert!(made.unwrap().success());
        host.own(&path);
    }
    let all =
        ["backup", "--key-file", "w.key", "--source", "libvirt", "--connect", "qemu:///session", "--all"];
    // So slowly that something is drawn.
    let slowly = [&all[..], &["--parallel", "2", "--limit-upload", "1MB"]].concat();
    if crate::support::has("script") {
        let shown = at_a_terminal(&host, &slowly);
        for there in ["web01                [", "2 running, 1 waiting, 0 saved", "next: web03", "\x1b[2A"] {
            assert!(shown.contains(there), "{there}: {shown}");
        }
        assert!(shown.contains("web03: saved after "), "{shown}");
        assert!(shown.contains("3 of 3 machines saved"), "{shown}");
    }
    let output = host.succeed(&all);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!log.contains('\x1b') && !log.contains('\r'), "{log}");
    for name in ["web01", "web02", "web03"] {
        assert!(log.contains(&format!("{name}: begins\n")), "{log}");
        assert!(log.contains(&format!("{name}: saved after ")), "{log}");
    }
}
