//! Sources that do not stay what they were or do not answer: a command that prints a stream is ended with the backup, a disk
//! that is cut while it is read is saved if that is allowed, and of a server or a program it is said which one fails.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{MIB, Site, noise, summary, told};

const PATIENCE: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_millis(20);

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(STEP);
    }
}

/// Processes that run with this word among their arguments, but for zombies, which nobody waits for in a container.
fn running(word: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let commands = all.filter_map(|path| std::fs::read_to_string(path.join("cmdline")).ok());
    commands.filter(|command| command.split('\0').any(|argument| argument == word)).collect()
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args([name, &id]).status().unwrap().success());
}

/// A backup of what a pipeline prints, of which the first word was printed.
fn piped(site: &Site, seconds: &str) -> Child {
    let command = format!("echo begun; sleep {seconds} | cat");
    let arguments =
        ["backup", "--key-file", "w.key", "--vm", "web01", "--stdin", "x", "--stdin-command", &command];
    let mut backup = site.command(&arguments);
    let child = backup.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the pipeline runs", || !running(seconds).is_empty());
    child
}

#[test]
fn a_command_that_prints_a_stream_ends_with_the_backup() {
    let site = Site::new();
    let own = std::process::id();
    for (number, name) in ["-INT", "-TERM", "-HUP"].into_iter().enumerate() {
        let seconds = format!("{}.{own}", 86_400 + number);
        let child = piped(&site, &seconds);
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{name}: {}", told(&output));
        until(name, || running(&seconds).is_empty());
    }
    assert!(site.snapshots().is_empty());
}

#[test]
fn two_signals_leave_no_command_behind() {
    let site = Site::new();
    let seconds = format!("86500.{}", std::process::id());
    let child = piped(&site, &seconds);
    signal(&child, "-TERM");
    signal(&child, "-INT");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    until("it ends", || running(&seconds).is_empty());
}

/// It has no terminal, and must not wait for one; and what it leaves at work behind a stream that ended is its own matter.
#[test]
fn a_command_runs_as_before() {
    let site = Site::new();
    let backup = ["backup", "--key-file", "w.key", "--vm", "web01", "--stdin", "x", "--stdin-command"];
    site.succeed(&[&backup[..], &["for n in 1 2 3; do echo $n; done"]].concat());
    let output = site.run(&[&backup[..], &["echo abc; exit 7"]].concat());
    assert!(output.status.code() == Some(1) && told(&output).contains("exit status: 7"), "{}", told(&output));
    assert_eq!(site.snapshots().len(), 1);
}

#[test]
fn a_disk_that_is_cut_while_it_is_read_is_saved_if_it_may_change() {
    let site = Site::new();
    let bytes = noise(1, 64 * MIB);
    for (arguments, code) in [(&[][..], 1), (&["--allow-changing"][..], 3)] {
        std::fs::write(site.path("disk.raw"), &bytes).unwrap();
        let all = [&["backup", "--json", "--key-file", "w.key", "--vm", "web01", "disk.raw"][..], arguments]
            .concat();
        let log = site.path("repository/zones/default/log");
        let entries = || std::fs::read_dir(&log).map_or(0, Iterator::count);
        let before = entries();
        let child = site.command(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until("it has begun", || entries() > before);
        let disk = std::fs::OpenOptions::new().write(true).open(site.path("disk.raw")).unwrap();
        disk.set_len(8 * MIB as u64 + 100).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", told(&output));
        if code == 1 {
            continue;
        }
        let saved = summary(&output);
        assert_eq!(saved["fuzzy"], true, "{}", told(&output));
        // What was read before the cut is there, wherever it lies.
        let missing = saved["members"][0]["unreadable"].as_array().unwrap();
        let number = |range: &Value, field: &str| usize::try_from(range[field].as_u64().unwrap()).unwrap();
        let mut expected = bytes.clone();
        for range in missing {
            let from = number(range, "offset");
            expected[from..from + number(range, "length")].fill(0);
        }
        assert!(expected[..8 * MIB] == bytes[..8 * MIB] && expected != bytes, "{missing:?}");
        let restored = site.run(&["restore", "web01:latest:disk0", "--target", "back.raw"]);
        assert_eq!(restored.status.code(), Some(3), "{}", told(&restored));
        assert!(std::fs::read(site.path("back.raw")).unwrap() == expected, "{missing:?}");
    }
}

#[test]
fn what_fails_of_an_export_or_a_reader_is_named() {
    let site = Site::new();
    let back_up = |path: &str, search: Option<&str>| {
        let mut command =
            site.command(&["backup", "--key-file", "w.key", "--vm", "web01", "--no-sandbox", path]);
        if let Some(folder) = search {
            command.env("PATH", format!("{folder}:/usr/bin:/bin"));
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{path}: {}", told(&output));
        told(&output)
    };
    let export = "nbd+unix:///?socket=/nowhere/app.sock";
    let told = back_up(export, None);
    assert!(told.contains(export) && told.contains("check that the server runs"), "{told}");
    // Nobody listens to the program that reads it: it is not one.
    std::fs::write(site.path("disk.vdi"), [0; 4096]).unwrap();
    let programs = site.path("programs");
    std::fs::create_dir(&programs).unwrap();
    std::fs::write(programs.join("qemu-nbd"), "#!/bin/sh\nexit 1\n").unwrap();
    let told = back_up("disk.vdi", programs.to_str());
    assert!(told.contains("qemu-nbd") && told.contains("disk.vdi"), "{told}");
}
