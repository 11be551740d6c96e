//! The whole command line in one process: exit codes, and the shape of JSON.

use std::io::Write;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::*;

/// A stream that can be read after it was given away.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Runs a command without a terminal.
fn sancerre(arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
    let (stdout, stderr) = (Shared::default(), Shared::default());
    let io = Io {
        environment: variables.iter().copied().collect(),
        stdin: Box::new(std::io::empty()),
        stdout: Box::new(stdout.clone()),
        stderr: Box::new(stderr.clone()),
        stdin_is_terminal: false,
        stdout_is_terminal: false,
        stderr_is_terminal: false,
        stdout_is_lost: false,
        prompt: Box::new(|_: &str| Err(std::io::ErrorKind::NotFound.into())),
    };
    let arguments = ["sancerre"].iter().chain(arguments).map(OsString::from);
    let code = run(arguments, io);
    Ran { code, stdout: stdout.text(), stderr: stderr.text() }
}

/// The lines as JSON, with a summary last and nowhere else.
fn lines(stdout: &str) -> Vec<Value> {
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summaries = lines.iter().filter(|line| line["type"] == "summary").count();
    assert_eq!(summaries, 1, "{stdout}");
    assert_eq!(lines.last().unwrap()["type"], "summary");
    for line in &lines {
        assert_eq!(line["v"], 1);
        sancerre_format::names::Time::parse(line["time"].as_str().unwrap()).unwrap();
    }
    lines
}

#[test]
fn wrong_usage_is_2_with_and_without_json() {
    let cases: [&[&str]; 12] = [
        &["frobnicate"],
        &["backup", "--vm", "web01 ", "/dev/null"],
        &["backup", "--vm", "web\u{202e}01", "/dev/null"],
        &["backup", "--vm", "web01", "--machine", "17", "/dev/null"],
        &["backup", "--vm", "web01", "--retain-until", "soon", "/dev/null"],
        &["hold"],
        &["hold", "--vm", "web01", "3f9a"],
        &["backup", "--vm", "web01"],
        &["snapshots"],
        &["restore", "nonsense", "--target", "/tmp/x"],
        &["check", "--read-data-subset", "200%"],
        &["snapshots", "--memory", "much"],
    ];
    for arguments in cases {
        let ran = sancerre(arguments, &[]);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{arguments:?}: {}", ran.stderr);
        assert!(!ran.stderr.is_empty() && !ran.stderr.contains("damaged"), "{}", ran.stderr);
        let with_json: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let ran = sancerre(&with_json, &[]);
        let lines = lines(&ran.stdout);
        assert_eq!((ran.code, lines.len()), (2, 2), "{arguments:?}");
        assert_eq!(lines[0]["type"], "error");
        assert_eq!(lines[1]["exit_code"], 2);
        assert!(lines[1]["message"].as_str().is_some_and(|message| message.len() > 10));
    }
}

#[test]
fn help_is_no_error_and_names_places_and_codes() {
    let ran = sancerre(&["--help"], &[]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let places = [
        "SANCERRE_PASSWORD ",
        "SANCERRE_PASSWORD_FILE",
        "SANCERRE_PASSWORD_COMMAND",
        "CREDENTIALS_DIRECTORY",
    ];
    let found: Vec<_> = places.iter().map(|place| ran.stdout.find(place).unwrap()).collect();
    assert!(found.is_sorted(), "{}", ran.stdout);
    for code in [Exit::NotAsAsked, Exit::WrongKey, Exit::Damaged, Exit::Missing, Exit::Interrupted] {
        assert!(ran.stdout.contains(&format!(" {}  ", code.code())), "{}", code.code());
    }
    assert_eq!(sancerre(&["--version"], &[]).stdout, concat!("sancerre ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn no_repository_is_10_before_a_passphrase_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (empty, absent) = (folder.path().to_str().unwrap(), "/nonexistent/repository");
    for location in [empty, absent] {
        let ran = sancerre(&["snapshots", "--json", "-r", location], &[]);
        assert_eq!(ran.code, 10, "{}", ran.stdout);
        assert_eq!(lines(&ran.stdout).last().unwrap()["exit_code"], 10);
        let ran = sancerre(&["snapshots"], &[("SANCERRE_REPOSITORY", location)]);
        assert_eq!(ran.code, 10);
        assert!(ran.stderr.starts_with("sancerre: there is no repository at"), "{}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1);
    }
}

#[test]
fn init_without_a_passphrase_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (repository, key) = (folder.path().join("r"), folder.path().join("k"));
    let arguments = ["init", "-r", repository.to_str().unwrap(), "--key-file", key.to_str().unwrap()];
    assert_eq!(sancerre(&arguments, &[]).code, 12);
    assert_eq!(sancerre(&arguments, &[("SANCERRE_PASSWORD", "")]).code, 2);
    assert!(!key.exists());
    assert_eq!(std::fs::read_dir(&repository).unwrap().count(), 0);
}

#[test]
fn a_failed_backup_is_in_the_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = folder.path().join("sancerre.prom");
    let arguments =
        ["backup", "--vm", "web01", "/nonexistent/disk", "--metrics-file", metrics.to_str().unwrap()];
    assert_eq!(sancerre(&arguments, &[]).code, 1);
    let text = std::fs::read_to_string(&metrics).unwrap();
    assert!(text.contains("sancerre_backup_last_run_success{repository=\"\",vm=\"web01\"} 0"), "{text}");
}

#[test]
fn nothing_is_dumped_onto_a_terminal() {
    let stderr = Shared::default();
    let io = Io {
        environment: Environment::default(),
        stdin: Box::new(std::io::empty()),
        stdout: Box::new(std::io::sink()),
        stderr: Box::new(stderr.clone()),
        stdin_is_terminal: false,
        stdout_is_terminal: true,
        stderr_is_terminal: false,
        stdout_is_lost: false,
        prompt: Box::new(|_: &str| Err(std::io::ErrorKind::NotFound.into())),
    };
    assert_eq!(run(["sancerre", "dump", "latest:disk0"].map(OsString::from), io), 2);
    assert!(stderr.text().contains("terminal"), "{}", stderr.text());
}

#[test]
fn completions_and_manual_pages_are_written() {
    assert!(sancerre(&["completions", "bash"], &[]).stdout.contains("read-data-subset"));
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(sancerre(&["man", folder.path().to_str().unwrap()], &[]).code, 0);
    let pages: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|page| page.unwrap().file_name()).collect();
    assert!(pages.iter().any(|page| page == "sancerre-backup.1"), "{pages:?}");
}
