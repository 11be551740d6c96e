//! What the built program writes besides disks: results, reports and metrics, to full disks, closed pipes, links and
//! devices; and what a terminal gets to see of names that others chose.

use std::os::unix::fs::FileTypeExt;

use crate::support::{MIB, Site, told};

#[test]
fn a_result_that_cannot_be_written_is_never_a_success() {
    let site = Site::with_disk(MIB);
    let trust = site.trust();
    let reading = [
        "snapshots".to_owned(),
        "stats".into(),
        "check".into(),
        "doctor".into(),
        "key list".into(),
        format!("audit --trust {trust}"),
        "completions bash".into(),
        "--help".into(),
        "--version".into(),
    ];
    for command in reading {
        for json in ["", "--json"] {
            for to in ["> /dev/full", "| true"] {
                // Where nothing was found there is no result but the exit code.
                if (json == "--json" && command.starts_with("--")) || (json.is_empty() && command == "check")
                {
                    continue;
                }
                // With a key file, and without a passphrase, which costs time.
                let program = "env -u SANCERRE_PASSWORD SANCERRE_KEY_FILE=w.key \"$S\"";
                // A pipe whose reader is gone before anything is written.
                let script = match to {
                    "| true" => {
                        format!(
                            "(sleep 0.3; {program} {json} {command}) 2>said | true; exit ${{PIPESTATUS[0]}}"
                        )
                    }
                    _ => format!("{program} {json} {command} {to} 2>said"),
                };
                let output = site.shell(&script);
                assert_eq!(output.status.code(), Some(1), "{json} {command} {to}");
                let told = std::fs::read_to_string(site.path("said")).unwrap();
                assert!(!told.contains("panicked"), "{told}");
            }
        }
    }
}

/// "Anything but 0 and 3 means that there is no snapshot": one that is there must not look like none.
#[test]
fn what_was_done_and_could_not_be_told_ends_with_3() {
    let site = Site::with_disk(MIB);
    let output = site.shell("\"$S\" backup --json --key-file w.key --vm web01 disk.raw > /dev/full");
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    assert!(told(&output).contains("was done"), "{}", told(&output));
    let snapshots = site.snapshots();
    assert_eq!(snapshots.len(), 2);
    let forget = format!("\"$S\" forget --key-file k.key {} > /dev/full", snapshots[0]);
    assert_eq!(site.shell(&forget).status.code(), Some(3));
    assert_eq!(site.snapshots().len(), 1);
    let paper = site.shell("\"$S\" key paper > /dev/full");
    assert_eq!(paper.status.code(), Some(3));
    assert!(told(&paper).contains("key remove restore paper-"), "{}", told(&paper));
}

#[test]
fn reports_and_metrics_are_written_into_what_is_no_file_and_behind_links() {
    let site = Site::with_disk(MIB);
    let trust = site.trust();
    let backup = "\"$S\" backup -q --key-file w.key --vm web01 disk.raw --metrics-file";
    let audit = format!("\"$S\" audit -q --trust {trust} --report");
    let output = site.shell(&format!(
        "mkfifo pipe page; : > real.prom; ln -s real.prom link.prom; ln -s new.html link.html
         cat pipe > metrics & cat page > read.html & sleep 0.5
         {backup} pipe && {backup} link.prom && {backup} - > metrics.out && {backup} /dev/null \
         && {audit} page && {audit} link.html && {audit} link.html && {audit} /dev/stdout > page.html; c=$?; wait; exit $c"
    ));
    assert!(output.status.success(), "{}", told(&output));
    let text = |name: &str| std::fs::read_to_string(site.path(name)).unwrap();
    let kind = |name: &str| site.path(name).symlink_metadata().unwrap().file_type();
    for name in ["pipe", "page"] {
        assert!(kind(name).is_fifo(), "{name}");
    }
    for name in ["link.prom", "link.html"] {
        assert!(kind(name).is_symlink(), "{name}");
    }
    for name in ["metrics", "real.prom", "metrics.out"] {
        assert!(text(name).starts_with("# HELP sancerre_"), "{name}: {}", text(name));
    }
    for name in ["read.html", "new.html", "page.html"] {
        assert!(
            text(name).starts_with("<!") && text(name).trim_end().ends_with("</html>"),
            "{name}: {}",
            text(name)
        );
    }
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    // Nobody reads: that is an error and no waiting for ever.
    let alone = site.shell(&format!("timeout 60 {backup} pipe"));
    assert_eq!(alone.status.code(), Some(3), "{}", told(&alone));
    let full = site.shell(&format!("{audit} /dev/full"));
    assert_eq!(full.status.code(), Some(1), "{}", told(&full));
}

#[test]
fn nothing_that_others_named_moves_the_cursor() {
    let site = Site::with_disk(MIB);
    let odd = "a\u{1b}[2J\nsancerre: all is well\u{202e}";
    std::fs::write(site.path(odd), "x").unwrap();
    let commands: [&[&str]; 6] = [
        &["backup", "-v", "--key-file", "w.key", "--vm", "web01", "disk.raw", "--cache-dir", odd],
        &["backup", "-v", "--key-file", odd, "--vm", "web01", "disk.raw"],
        &["restore", "-v", "web01:latest", "--target", odd, "--overwrite"],
        &["restore", "-v", "web01:latest", "--target", odd],
        &["snapshots", odd],
        &["init", "-v", "-r", odd, "--key-file", "b\u{1b}[31m.key"],
    ];
    for arguments in commands {
        for json in [&[][..], &["--json"]] {
            let output = site.run(&[arguments, json].concat());
            let told = told(&output);
            assert!(!told.contains(['\u{1b}', '\u{202e}']), "{arguments:?}: {told:?}");
            assert!(!told.lines().any(|line| line == "sancerre: all is well"), "{arguments:?}: {told:?}");
        }
    }
}
