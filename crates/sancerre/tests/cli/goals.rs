//! What a stranger must type, counted in what is printed: six commands to a first backup and its restore, four of the sheet to
//! a machine that is back, three to an auditor's verdict. What the pages print is run by `pages.rs`; the sheet is run here.

use std::process::{Command, Stdio};

use crate::support::bucket::set_policy;
use crate::support::{MIB, noise, told};
use sancerre_services::seaweedfs;
use sancerre_services::seaweedfs::Bucket;

/// The commands of a page from a heading on, in order, until one that begins with `last`.
fn typed_until(page: &str, heading: &str, last: &str) -> Vec<String> {
    let (_, section) = page.split_once(heading).unwrap();
    let commands = section.lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned);
    let mut typed = Vec::new();
    for command in commands {
        let is_last = command.starts_with(last);
        typed.push(command);
        if is_last {
            return typed;
        }
    }
    panic!("no {last}")
}

#[test]
fn a_first_backup_and_its_restore_are_six_commands_and_a_verdict_is_three() {
    let readme = include_str!("../../../../README.md");
    let first = typed_until(readme, "## Quick start", "sancerre restore");
    assert!(first.len() <= 6, "{first:#?}");
    let auditor = include_str!("../../../../docs/AUDITOR.md");
    let verdict = typed_until(auditor, "## Rights", "sancerre audit");
    assert!(verdict.len() <= 3, "{verdict:#?}");
}

/// The commands of a sheet, each as one line.
fn commands(sheet: &str) -> Vec<String> {
    let (_, after) = sheet.split_once("To restore,").unwrap();
    let printed = after.lines().filter_map(|line| line.strip_prefix("       "));
    let joined = printed.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    joined.lines().map(str::to_owned).collect()
}

/// Everything is gone but the bucket, the sheet, and what somebody wrote into its blanks.
#[test]
fn the_sheet_brings_a_machine_back_with_four_printed_commands() {
    let Some(server) = seaweedfs() else { return };
    let bucket = server.bucket(Bucket::LockedByDefault(1)).unwrap();
    let roles = set_policy(server, &bucket);
    let (host, rescue) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disk = noise(1, 4 * MIB);
    std::fs::write(host.path().join("disk.raw"), &disk).unwrap();
    let location = format!("s3://{bucket}/backup");
    let mut setup = Command::new(env!("CARGO_BIN_EXE_sancerre"));
    setup.args(["setup", "--root", "root", "-r", &location, "--vm", "web01", "--by", "cron"]);
    setup
        .args(["--sheet", "sheet.txt", "disk.raw"])
        .env_clear()
        .envs(crate::support::CHEAP)
        .envs(server.variables(roles.writer));
    setup.env("SANCERRE_PASSWORD", "fsd2-9kd3-mm4x-77qa-z1vb").stdin(Stdio::null());
    let made = setup.current_dir(&host).output().unwrap();
    assert!(made.status.success(), "{}", told(&made));
    let sheet = std::fs::read_to_string(host.path().join("sheet.txt")).unwrap();
    drop(host);

    let printed = commands(&sheet);
    assert_eq!(printed.len(), 4, "{printed:#?}");
    let code = sheet.lines().find(|line| line.trim().starts_with("AGE-SECRET-KEY-")).unwrap().trim();
    let script: Vec<String> = printed
        .iter()
        .map(|line| match line.split_once("      then the code") {
            Some((command, _)) => format!("echo {code} | {command}"),
            None => filled(line, roles.reader.access_key, roles.reader.secret_key),
        })
        .collect();
    std::fs::create_dir(rescue.path().join("bin")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sancerre"), rescue.path().join("bin/sancerre")).unwrap();
    let path = format!("{}:/usr/bin:/bin", rescue.path().join("bin").display());
    let mut shell = Command::new("sh");
    shell
        .args(["-euc", &script.join("\n")])
        .env_clear()
        .envs(crate::support::CHEAP)
        .env("PATH", path)
        .current_dir(&rescue);
    let rescued = shell.stdin(Stdio::null()).output().unwrap();
    assert!(rescued.status.success(), "{script:#?}: {}", told(&rescued));
    assert!(std::fs::read(rescue.path().join("restored/disk0.raw")).unwrap() == disk);
}

/// As a person fills in the blanks, and the name that the list shows.
fn filled(line: &str, id: &str, secret: &str) -> String {
    let blank = "_".repeat(42);
    line.replace(&format!("AWS_ACCESS_KEY_ID={blank}"), &format!("AWS_ACCESS_KEY_ID={id}"))
        .replace(&format!("AWS_SECRET_ACCESS_KEY={blank}"), &format!("AWS_SECRET_ACCESS_KEY={secret}"))
        .replace("VM:latest", "web01:latest")
}
