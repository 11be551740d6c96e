//! Words as people, editors and other programs hand them over: names that are not UTF-8, line ends in secrets, clocks
//! that differ, names that count back; and where a sheet for the safe says that the repository is.

use std::ffi::OsStr;
use std::fs::FileTimes;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

use crate::support::{MIB, Site, has, noise, summary, told};
use sancerre_services::seaweedfs::{Bucket, READER};

const LATIN: &[u8] = b"b\xe4ckup.raw";

#[test]
fn a_path_may_be_any_bytes() {
    let site = Site::new();
    let latin = OsStr::from_bytes(LATIN);
    std::fs::write(site.path(latin), noise(1, MIB)).unwrap();
    let disk = OsStr::from_bytes(b"disk0=b\xe4ckup.raw");
    let config = OsStr::from_bytes(b"config=b\xe4ckup.raw");
    let mut command = site.command(&["backup", "--key-file", "w.key", "--vm", "web01"]);
    let saved = command.args([disk, latin]).arg("--attach").arg(config).output().unwrap();
    assert!(!saved.status.success() && told(&saved).contains("disk0"), "two are named so: {}", told(&saved));
    let mut command = site.command(&["backup", "--key-file", "w.key", "--vm", "web01"]);
    let saved = command.arg(disk).arg("--attach").arg(config).output().unwrap();
    assert!(saved.status.success(), "{}", told(&saved));
    let target = OsStr::from_bytes(b"r\xe9stored.raw");
    let mut command = site.command(&["restore", "web01:latest:disk0", "--target"]);
    let restored = command.arg(target).output().unwrap();
    assert!(restored.status.success(), "{}", told(&restored));
    assert!(std::fs::read(site.path(target)).unwrap() == noise(1, MIB));
    // A key file by its variable.
    let key = OsStr::from_bytes(b"k\xfcy");
    std::fs::copy(site.path("w.key"), site.path(key)).unwrap();
    let listed = site.command(&["snapshots"]).env("SANCERRE_KEY_FILE", key).output().unwrap();
    assert!(listed.status.success(), "{}", told(&listed));
}

#[test]
fn what_must_be_text_is_refused_by_name_and_never_taken_for_unset() {
    let site = Site::new();
    let odd = OsStr::from_bytes(b"r\xe9po");
    for (variable, arguments) in [
        ("SANCERRE_REPOSITORY", &["snapshots", "--key-file", "w.key"][..]),
        ("SANCERRE_PASSWORD", &["check"]),
        ("SANCERRE_PASSWORD_COMMAND", &["check"]),
    ] {
        let mut command = site.command(arguments);
        let output = command.env_remove("SANCERRE_PASSWORD").env(variable, odd).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{variable}: {}", told(&output));
        let told = told(&output);
        assert!(told.contains(variable) && told.contains("UTF-8"), "{told}");
    }
    let typed = site.command(&["snapshots", "--key-file", "w.key", "-r"]).arg(odd).output().unwrap();
    assert_eq!(typed.status.code(), Some(2), "{}", told(&typed));
    assert!(told(&typed).contains("symbolic link"), "{}", told(&typed));
    let named = site.command(&["snapshots", "--key-file", "w.key", "--vm"]).arg(odd).output().unwrap();
    assert_eq!(named.status.code(), Some(2), "{}", told(&named));
    assert!(told(&named).contains("r\u{fffd}po"), "{}", told(&named));
}

#[test]
fn line_ends_and_marks_around_a_value_are_no_part_of_it() {
    let site = Site::with_disk(MIB);
    for around in [("", "\n"), ("", "\r\n"), ("\u{feff}", "\n")] {
        let odd = |value: &str| format!("{}{value}{}", around.0, around.1);
        let mut command = site.command(&["snapshots"]);
        command.env("SANCERRE_REPOSITORY", odd("repository")).env("SANCERRE_KEY_FILE", odd("w.key"));
        let listed = command.output().unwrap();
        assert!(listed.status.success() && told(&listed).contains("web01"), "{around:?}: {}", told(&listed));
        let password = odd("correct horse");
        let checked = site.command(&["check"]).env("SANCERRE_PASSWORD", password).output().unwrap();
        assert!(checked.status.success(), "{around:?}: {}", told(&checked));
    }
    // A key file that went through an editor of another system.
    let key = std::fs::read_to_string(site.path("w.key")).unwrap();
    std::fs::write(site.path("w.key"), format!("\u{feff}{}", key.replace('\n', "\r\n"))).unwrap();
    site.succeed(&["snapshots", "--key-file", "w.key"]);
    let empty = site.command(&["snapshots"]).env("SANCERRE_REPOSITORY", "\n").output().unwrap();
    assert_eq!(empty.status.code(), Some(2), "{}", told(&empty));
}

#[test]
fn credentials_with_line_ends_do_not_end_the_program() {
    let site = Site::new();
    let variables =
        ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT"];
    let values = ["id", "secret", "token", "us-east-1", "http://127.0.0.1:9"];
    for odd in variables {
        for (value, is_refused) in
            [("{}\n", false), ("{}\r\n", false), ("{} ", false), ("\"{}\"", true), ("{}\n{}", true)]
        {
            let mut command =
                site.command(&["snapshots", "--json", "--retry-for", "0s", "-r", "s3://bucket/prefix"]);
            for (name, usual) in variables.into_iter().zip(values) {
                let value = if name == odd { value.replace("{}", usual) } else { usual.to_owned() };
                command.env(name, value);
            }
            let output = command.output().unwrap();
            let told = told(&output);
            assert!(!told.contains("panicked") && !told.contains("internal error"), "{odd}: {told}");
            let expected = if is_refused { 2 } else { 1 };
            assert_eq!(output.status.code(), Some(expected), "{odd} {value:?}: {told}");
            assert_eq!(summary(&output)["exit_code"], expected);
            assert_eq!(told.contains(odd), is_refused, "{odd}: {told}");
        }
    }
}

/// The same command line, run twice by mistake, must not take two snapshots.
#[test]
fn a_name_that_counts_back_forgets_one_snapshot_and_not_the_next() {
    let site = Site::with_disk(MIB);
    (0..4).for_each(|_| drop(site.save("web01")));
    let all = site.snapshots();
    let forget = ["forget", "--key-file", "k.key", "--max-drop", "100%", "web01:latest~2"];
    let shown = site.succeed(&[&forget[..], &["--dry-run"]].concat());
    assert!(told(&shown).contains(&all[2][..8]), "{}", told(&shown));
    site.succeed(&forget);
    assert_eq!(site.snapshots().len(), 4);
    let told = site.refuse(&forget, 2, "forgotten already");
    assert!(told.contains(&all[1][..8]) && told.contains(&all[2][..8]) && told.contains("--yes"), "{told}");
    site.succeed(&[&forget[..], &["--dry-run"]].concat());
    assert_eq!(site.snapshots().len(), 4);
    // Of those that are newer nothing is gone: the name means what it meant.
    let newest = ["forget", "--key-file", "k.key", "--max-drop", "100%", "web01:latest"];
    site.succeed(&newest);
    site.refuse(&newest, 2, "forgotten already");
    site.succeed(&[&forget[..], &["--yes"]].concat());
    assert_eq!(site.snapshots().len(), 2);
    // Another machine is another count.
    site.save("db01");
    site.save("db01");
    site.succeed(&["forget", "--key-file", "k.key", "db01:latest~1"]);
}

#[test]
fn clocks_that_differ_are_said_and_what_they_keep_is_no_success() {
    let site = Site::with_disk(MIB);
    for _ in 0..3 {
        site.save("web01");
        let later = FileTimes::new().set_modified(SystemTime::now() + Duration::from_secs(7200));
        for entry in std::fs::read_dir(site.path("repository/zones/default/outcome")).unwrap() {
            let file = std::fs::File::options().append(true).open(entry.unwrap().path()).unwrap();
            file.set_times(later).unwrap();
        }
        site.succeed(&["gc", "-q", "--key-file", "k.key"]);
    }
    let output = site.run(&["forget", "-q", "--key-file", "k.key", "--keep-last", "1", "--max-drop", "100%"]);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("are kept because the times") && told.contains("NTP"), "{told}");
    let json =
        site.run(&["forget", "--json", "--key-file", "k.key", "--keep-last", "1", "--max-drop", "100%"]);
    assert!(summary(&json)["kept_by_clocks"].as_u64().unwrap() > 0);
}

#[test]
fn whoever_writes_with_another_clock_than_the_store_is_told() {
    if !has("faketime") {
        return;
    }
    let site = Site::with_disk(MIB);
    for (clock, says) in [("-3h", "3 h ahead"), ("+3h", "3 h behind"), ("+0h", "")] {
        for command in ["backup --key-file w.key --vm web01 disk.raw", "gc --key-file k.key"] {
            let output = site.shell(&format!("faketime -f '{clock}' \"$S\" {command} -q"));
            assert!(output.status.success(), "{}", told(&output));
            let told = told(&output);
            assert!(
                if says.is_empty() { told.is_empty() } else { told.contains(says) },
                "{clock} {command}: {told}"
            );
        }
    }
}

/// A bucket says what time it is in every answer, so nothing needs to be written to hear of it.
#[test]
fn whoever_only_looks_at_a_bucket_hears_of_another_clock() {
    let Some(server) = sancerre_services::seaweedfs() else { return };
    if !has("faketime") {
        return;
    }
    let site = crate::support::bucket::Site::new(server, Bucket::Plain);
    for (clock, says) in
        [("-8m", "s ahead of this host"), ("+8m", "s behind this host"), ("+0m", "the same time")]
    {
        let arguments = ["-f", clock, env!("CARGO_BIN_EXE_sancerre"), "doctor", "--read-only"];
        let looked = site.run_program("faketime", READER, &arguments);
        assert!(told(&looked).contains(says), "{clock}: {}", told(&looked));
        let code = if says.contains("host") { 3 } else { 0 };
        assert_eq!(looked.status.code(), Some(code), "{clock}: {}", told(&looked));
    }
}

#[test]
fn the_sheet_for_the_safe_says_where_the_repository_is_from_anywhere() {
    let site = Site::new();
    let whole = site.path("repository").canonicalize().unwrap().display().to_string();
    let sheet = told(&site.succeed(&["key", "paper"]));
    assert!(sheet.contains(&format!("location       {whole}")), "{sheet}");
    assert!(sheet.contains(&format!("export SANCERRE_REPOSITORY='{whole}'")), "{sheet}");
}
