//! What commands say of what they did, and of what they did not: no more than is so.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::support::{MIB, Site, noise, summary, told};

fn last_line(output: &std::process::Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_subset_of_few_packs_is_not_none() {
    let site = Site::new();
    let empty = site.run(&["check", "--read-data-subset", "5%"]);
    assert_eq!(empty.status.code(), Some(3), "{}", told(&empty));
    assert!(
        last_line(&empty).starts_with("1 problem") && !told(&empty).contains("packs read"),
        "{}",
        told(&empty)
    );
    let site = Site::with_disk(MIB);
    let none = site.succeed(&["check"]);
    assert!(last_line(&none).contains("no pack was read"), "{}", told(&none));
    for subset in ["5%", "0.001%", "1/30", "17/30", "30/30"] {
        let output = site.succeed(&["check", "--json", "--key-file", "w.key", "--read-data-subset", subset]);
        let report = summary(&output);
        assert!(report["read_packs"].as_u64() >= Some(1), "{subset}: {report}");
        assert!(report["readable_packs"].as_u64() >= report["read_packs"].as_u64(), "{report}");
    }
    let all = summary(&site.succeed(&["check", "--json", "--read-data"]));
    assert_eq!(all["read_packs"], all["readable_packs"]);
    let some = site.succeed(&["check", "--key-file", "w.key", "--read-data-subset", "0.001%"]);
    let packs = &all["readable_packs"];
    assert_eq!(last_line(&some), format!("no damage found; 1 of {packs} packs read"));
}

#[test]
fn a_weak_passphrase_is_warned_of_and_a_short_one_refused() {
    let site = Site::new();
    let init = |place: &str, passphrase: &str| {
        let mut command = site.command(&["init", "-r", place]);
        command.env("SANCERRE_PASSWORD", passphrase).output().unwrap()
    };
    let short = init("short", "a");
    assert_eq!(short.status.code(), Some(2), "{}", told(&short));
    assert!(told(&short).contains("1 byte is too short"), "{}", told(&short));
    assert!(!site.path("short/config").exists());
    let weak = init("weak", "Summer2026!");
    assert!(weak.status.success() && told(&weak).contains("passphrase is weak"), "{}", told(&weak));
    let strong = init("strong", "correct horse battery");
    assert!(strong.status.success() && !told(&strong).contains("weak"), "{}", told(&strong));
    // A file that others can read is not even read.
    std::fs::write(site.path("new"), "aaaaaaaaaaaaaaaaaaaa\n").unwrap();
    let passwd = ["key", "passwd", "--new-password-file", "new"];
    assert!(site.refuse(&passwd, 12, "chmod 600").contains("other users"));
    assert!(site.shell("chmod 600 new").status.success());
    assert!(told(&site.succeed(&passwd)).contains("1 different"), "the same letter again and again");
}

#[test]
fn the_trust_anchor_has_a_variable() {
    let site = Site::with_disk(MIB);
    let trust = site.trust();
    let with = |value: &str, arguments: &[&str]| {
        site.command(arguments).env("SANCERRE_TRUST", value).env_remove("SANCERRE_PASSWORD").output().unwrap()
    };
    let audited = with(&format!("{trust}\n"), &["audit"]);
    assert!(audited.status.success(), "{}", told(&audited));
    let other = format!("SHA256:{}", "A".repeat(43));
    let refused = with(&other, &["snapshots", "--key-file", "w.key"]);
    assert_eq!(refused.status.code(), Some(12), "{}", told(&refused));
    assert!(told(&refused).contains("SANCERRE_TRUST"), "{}", told(&refused));
    assert!(with(&other, &["snapshots", "--key-file", "w.key", "--trust", &trust]).status.success());
    let odd = with("b3f", &["snapshots", "--key-file", "w.key"]);
    assert_eq!(odd.status.code(), Some(2), "{}", told(&odd));
    assert!(told(&odd).contains("SANCERRE_TRUST"), "{}", told(&odd));
    assert!(with("", &["snapshots", "--key-file", "w.key"]).status.success(), "set to nothing it is not set");
}

/// Everything below a folder, with the times of the folders.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (i64, i64, u64)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let seen = path.metadata().unwrap();
        found.insert(path.clone(), (seen.mtime(), seen.mtime_nsec(), seen.size()));
        if seen.is_dir() {
            found.extend(tree(&path));
        }
    }
    found
}

#[test]
fn a_doctor_who_only_looks_writes_nothing_and_says_what_he_did_not_try() {
    let site = Site::with_disk(MIB);
    let before = tree(site.folder.path());
    let output = site.succeed(&["doctor", "--read-only"]);
    assert_eq!(tree(site.folder.path()), before);
    for part in
        ["credentials can read", "ranged reads", "not tried: credentials can write", "deleting is refused"]
    {
        assert!(told(&output).contains(part), "{part}: {}", told(&output));
    }
    let report = summary(&site.succeed(&["doctor", "--read-only", "--json"]));
    assert_eq!((&report["read_only"], &report["findings"][0]["check"]), (&true.into(), &"read".into()));
    assert!(report["not_tried"].as_array().unwrap().contains(&"create_only".into()), "{report}");
    site.refuse(&["doctor", "--read-only", "-r", "none"], 10, "none");
    assert!(!site.path("none").exists());
    std::fs::create_dir(site.path("bare")).unwrap();
    site.refuse(&["doctor", "--read-only", "-r", "bare"], 10, "no repository");
    assert_eq!(summary(&site.succeed(&["doctor", "--json"]))["read_only"], false);
}

#[test]
fn disks_and_attached_files_are_counted_apart() {
    let site = Site::new();
    std::fs::write(site.path("disk.raw"), noise(1, MIB)).unwrap();
    std::fs::write(site.path("web01.xml"), "<domain/>").unwrap();
    let backup = [
        "backup",
        "--key-file",
        "w.key",
        "--vm",
        "web01",
        "--attach",
        "web01.xml",
        "a=disk.raw",
        "b=disk.raw",
    ];
    site.succeed(&backup);
    let listed = site.succeed(&["snapshots", "--key-file", "w.key"]);
    let rows: Vec<Vec<String>> = String::from_utf8_lossy(&listed.stdout)
        .lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect();
    assert_eq!(rows[0][4..6], ["disks", "files"], "{rows:?}");
    assert_eq!(rows[1][4..6], ["2", "1"], "{rows:?}");
    let listed = summary(&site.succeed(&["snapshots", "--json", "--key-file", "w.key"]));
    assert_eq!((&listed["snapshots"][0]["disks"], &listed["snapshots"][0]["files"]), (&2.into(), &1.into()));
    // Who has no key of the zone knows their sum.
    let trust = site.trust();
    let public =
        site.command(&["snapshots", "--trust", &trust]).env_remove("SANCERRE_PASSWORD").output().unwrap();
    assert!(public.status.success() && told(&public).contains("3 in all"), "{}", told(&public));
}

#[test]
fn jobs_of_a_keeper_leave_metrics_behind() {
    let site = Site::with_disk(MIB);
    let run = |arguments: &[&str], code: i32| {
        let all = [arguments, &["--metrics-file", "jobs.prom"]].concat();
        let output = site.command(&all).env_remove("SANCERRE_PASSWORD").output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", told(&output));
    };
    let text = || std::fs::read_to_string(site.path("jobs.prom")).unwrap();
    run(&["check", "--key-file", "w.key"], 0);
    run(&["gc", "--key-file", "k.key"], 0);
    run(&["forget", "--key-file", "k.key", "--keep-daily", "7"], 0);
    run(&["lock", "extend", "--key-file", "k.key", "--for", "1d"], 3);
    for (job, code) in [("check", 0), ("gc", 0), ("forget", 0), ("lock-extend", 3)] {
        let labels = format!("{{job_name=\"{job}\",repository=\"{}\"}}", site.place.display());
        assert!(
            text().contains(&format!("sancerre_job_last_exit_code{labels} {code}\n")),
            "{job}: {}",
            text()
        );
        let succeeded = text().contains(&format!("sancerre_job_last_success_timestamp_seconds{labels} "));
        assert_eq!(succeeded, code == 0, "{job}: {}", text());
    }
    let mode = site.path("jobs.prom").metadata().unwrap().mode();
    assert_eq!(mode & 0o444, 0o444, "the node exporter is another user");
    // A failure keeps the time of the last success, and a dry run is none.
    let before = text();
    run(&["gc", "--key-file", "k.key", "--dry-run"], 0);
    assert_eq!(text(), before);
    run(&["gc", "--key-file", "w.key"], 12);
    let labels = format!("{{job_name=\"gc\",repository=\"{}\"}}", site.place.display());
    assert!(text().contains(&format!("sancerre_job_last_exit_code{labels} 12\n")), "{}", text());
    assert!(text().contains(&format!("sancerre_job_last_success_timestamp_seconds{labels} ")), "{}", text());
    // Not into the repository, and not over something else.
    site.refuse(&["check", "--metrics-file", "repository/x.prom"], 2, "inside the repository");
    std::fs::write(site.path("notes"), "not a metric\n").unwrap();
    site.refuse(&["check", "--metrics-file", "notes"], 3, "no file of metrics");
}
