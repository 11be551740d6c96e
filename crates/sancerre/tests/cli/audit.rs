//! The built program as an auditor uses it, and the same verification by programs that are not ours.

use crate::support::template;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../../docs/AUDIT.md");

/// A repository with two snapshots, made by the program.
struct Site {
    folder: tempfile::TempDir,
    trust: String,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let trust = template::make(&at.join("repository"), &at.join("w.key"), "correct horse", 0);
        let site = Self { folder, trust };
        for night in 0..2u8 {
            let bytes: Vec<u8> =
                (0..6_000_000u32).map(|at| (at / 5000) as u8 ^ night.wrapping_mul(at as u8)).collect();
            std::fs::write(site.path("disk"), bytes).unwrap();
            let saved =
                site.run(&["backup", "--key-file", &site.path("w.key"), "--vm", "web01", &site.path("disk")]);
            assert_eq!(code(&saved), 0, "{}", text(&saved.stderr));
        }
        site
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
        command
            .args(arguments)
            .env_clear()
            .envs(crate::support::CHEAP)
            .env("PATH", std::env::var("PATH").unwrap_or_default());
        command.env("SANCERRE_PASSWORD", "correct horse").env("SANCERRE_REPOSITORY", self.path("repository"));
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Without any passphrase or key.
    fn audit(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
        command.args(["audit", "--trust", &self.trust]).args(arguments);
        command
            .env_clear()
            .envs(crate::support::CHEAP)
            .env("SANCERRE_REPOSITORY", self.path("repository"))
            .stdin(Stdio::null());
        command.output().unwrap()
    }

    /// Objects whose key contains `part`, ascending.
    fn objects(&self, part: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().join("repository")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false => found.push(entry.path()),
                }
            }
        }
        found.retain(|path| path.display().to_string().contains(part));
        found.sort();
        found
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn summary(output: &Output) -> Value {
    let lines = text(&output.stdout);
    let last = lines.lines().last().unwrap_or_default();
    let summary: Value =
        serde_json::from_str(last).unwrap_or_else(|_| panic!("{lines}{}", text(&output.stderr)));
    assert_eq!(summary["type"], "summary");
    summary
}

/// Whether these programs are here; in CI they must be.
#[allow(clippy::print_stderr, reason = "a skipped test must be seen")]
fn have(programs: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let is_there = |program: &&&str| path.split(':').any(|folder| Path::new(folder).join(program).is_file());
    let missing: Vec<_> = programs.iter().filter(|program| !is_there(program)).collect();
    assert!(missing.is_empty() || std::env::var_os("CI").is_none(), "missing: {missing:?}");
    if !missing.is_empty() {
        eprintln!("SKIPPED: missing: {missing:?}");
    }
    missing.is_empty()
}

fn change(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn an_auditor_without_any_secret() {
    let site = Site::new();
    let (state, report) = (site.path("audit.state"), site.path("audit.html"));
    let good =
        site.audit(&["--json", "--read-data", "--max-age", "26h", "--state", &state, "--report", &report]);
    let found = summary(&good);
    assert_eq!((code(&good), &found["findings"]), (0, &serde_json::json!([])), "{found}");
    assert_eq!(found["zones"][0]["machines"][0]["runs"].as_array().unwrap().len(), 2);
    let page = std::fs::read_to_string(&report).unwrap();
    for forbidden in ["<script", "http://", "https://", "src=", "href="] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    assert!(page.contains(&site.trust) && page.contains(found["zones"][0]["log_mark"].as_str().unwrap()));

    let other = site.trust.replace(|letter: char| letter.is_ascii_lowercase(), "x");
    let mut wrong = Command::new(env!("CARGO_BIN_EXE_sancerre"));
    wrong
        .args(["audit", "--trust", &other, "-r", &site.path("repository")])
        .env_clear()
        .envs(crate::support::CHEAP);
    assert_eq!(code(&wrong.output().unwrap()), 12);

    let said = text(&site.audit(&["--sample-loss", "0.1%"]).stdout);
    assert!(said.contains("were read whole, which is all of them"), "{said}");
    let said = text(&site.audit(&["--sample-loss", "60%", "--confidence", "60%"]).stdout);
    assert!(said.contains("were drawn at random and read whole") && said.contains("of 60 %"), "{said}");

    // The newest session is cut off: only the memory tells, and it is kept.
    let remembered = std::fs::read(&state).unwrap();
    for path in site.objects("/0000000000000002") {
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(code(&site.audit(&[])), 0);
    assert_eq!(code(&site.audit(&["--state", &state])), 21);
    assert_eq!(std::fs::read(&state).unwrap(), remembered);
    assert_eq!(code(&site.audit(&["--state", &site.path("w.key")])), 2, "no state file");

    change(&site.objects("/packs/")[0]);
    assert_eq!(code(&site.audit(&[])), 0, "nobody read it");
    assert!(!page.contains("This does not hold"));
    let bad = site.audit(&["--read-data", "--report", &report]);
    assert_eq!(code(&bad), 20, "{}", text(&bad.stdout));
    let page = std::fs::read_to_string(&report).unwrap();
    assert!(page.contains("This does not hold") && page.contains("1 object damaged or forged"), "{page}");
}

#[test]
fn a_report_signed_with_the_auditors_own_key() {
    if !have(&["ssh-keygen"]) {
        return;
    }
    let site = Site::new();
    for passphrase in ["", "secret"] {
        let (key, report) = (site.path(&format!("id{passphrase}")), site.path("audit.html"));
        let make = ["-q", "-t", "ed25519", "-C", "", "-N", passphrase, "-f", &key];
        assert!(Command::new("ssh-keygen").args(make).status().unwrap().success());
        let arguments = ["audit", "--trust", &site.trust, "--report", &report, "--sign", &key];
        let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
        command
            .args(arguments)
            .env_clear()
            .envs(crate::support::CHEAP)
            .env("SANCERRE_REPOSITORY", site.path("repository"));
        let output = command.env("SANCERRE_PASSWORD", "secret").output().unwrap();
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        let public = std::fs::read_to_string(format!("{key}.pub")).unwrap();
        std::fs::write(site.path("signers"), format!("auditor {public}")).unwrap();
        let verify = |page: &str| {
            let line = format!(
                "ssh-keygen -Y verify -f signers -I auditor -n sancerre-audit-v1 -s audit.html.sig < {page}"
            );
            Command::new("sh")
                .args(["-c", &line])
                .current_dir(site.folder.path())
                .output()
                .unwrap()
                .status
                .success()
        };
        assert!(verify("audit.html"));
        let page = std::fs::read_to_string(&report).unwrap();
        std::fs::write(site.path("changed.html"), page.replacen("No damage", "No  damage", 1)).unwrap();
        assert!(!verify("changed.html"));
    }
}

/// The shell blocks of the document, as they stand.
fn by_hand(site: &Site) -> Output {
    let blocks: Vec<&str> =
        DOCUMENT.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 6, "{}", blocks.len());
    let work = tempfile::tempdir().unwrap();
    let script = format!("set -euo pipefail\n{}", blocks.concat());
    let mut command = Command::new("bash");
    command.args(["-c", &script]).current_dir(work.path());
    command.env("REPOSITORY", site.path("repository")).env("TRUST", &site.trust).output().unwrap()
}

#[test]
fn the_documents_commands_verify_the_same() {
    if !have(&["ssh-keygen", "b3sum", "zstd", "bash"]) {
        return;
    }
    let site = Site::new();
    let good = by_hand(&site);
    assert_eq!(code(&good), 0, "{}{}", text(&good.stdout), text(&good.stderr));
    let said = text(&good.stdout);
    assert!(said.matches("Good \"sancerre-").count() >= 6, "{said}");
    assert!(said.contains("sancerre-frames-v1"), "{said}");
    for object in ["config", "/outcome/0000000000000002", "/log/0000000000000002", "/lists/", "/packs/"] {
        let path = site.objects(object).into_iter().next_back().unwrap();
        let sound = std::fs::read(&path).unwrap();
        let mut bytes = sound.clone();
        bytes[100] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_ne!(code(&by_hand(&site)), 0, "{object}");
        std::fs::write(&path, sound).unwrap();
    }
}
