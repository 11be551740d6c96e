//! The built program in a folder of its own, with a repository, a writer's key and a keeper's.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, dead_code)]

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

#[path = "../template/mod.rs"]
mod template;

pub(crate) const MIB: usize = 1 << 20;

pub(crate) struct Site {
    pub(crate) folder: tempfile::TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        template::copy(site.folder.path(), &site.path("repository"));
        site
    }

    /// With a disk in it, and a snapshot of that.
    pub(crate) fn with_disk(length: usize) -> Self {
        let site = Self::new();
        std::fs::write(site.path("disk.raw"), noise(1, length)).unwrap();
        site.back_up("web01");
        site
    }

    pub(crate) fn path(&self, name: impl AsRef<std::path::Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
        command.args(arguments);
        self.prepare(&mut command);
        command
    }

    /// A script in which `$S` is the program.
    pub(crate) fn shell(&self, script: &str) -> Output {
        let mut command = Command::new("bash");
        command.args(["-c", script]);
        self.prepare(&mut command);
        command.env("S", env!("CARGO_BIN_EXE_sancerre")).output().unwrap()
    }

    fn prepare(&self, command: &mut Command) {
        command.env_clear().current_dir(&self.folder).stdin(Stdio::null());
        command.env("PATH", std::env::var("PATH").unwrap_or_default());
        command.env("SANCERRE_REPOSITORY", "repository").env("SANCERRE_PASSWORD", template::PASSPHRASE);
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn succeed(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        output
    }

    pub(crate) fn refuse(&self, arguments: &[&str], code: i32, says: &str) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(says), "{arguments:?}: {}", said(&output));
        said(&output)
    }

    /// The id of the snapshot.
    pub(crate) fn back_up(&self, vm: &str) -> String {
        let output = self.succeed(&["backup", "--json", "--key-file", "w.key", "--vm", vm, "disk.raw"]);
        summary(&output)["snapshot"].as_str().unwrap().to_owned()
    }

    pub(crate) fn snapshots(&self) -> Vec<String> {
        let listed = summary(&self.succeed(&["snapshots", "--json", "--key-file", "w.key"]));
        listed["snapshots"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["id"].as_str().unwrap().to_owned())
            .collect()
    }

    pub(crate) fn trust(&self) -> String {
        summary(&self.succeed(&["key", "list", "--json", "--key-file", "w.key"]))["trust_anchor"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub(crate) fn summary(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_else(|| panic!("{}", said(output)))).unwrap()
}

/// Whether a program is there; says loudly that a test did not run, and fails where everything must run.
pub(crate) fn has(program: &str) -> bool {
    let found =
        Command::new("sh").args(["-c", "command -v \"$0\" >/dev/null"]).arg(OsStr::new(program)).status();
    found.is_ok_and(|status| status.success()) || skip(&format!("no {program}"))
}

pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:\t0\t")) || skip("not root")
}

pub(crate) fn skip(reason: &str) -> bool {
    assert!(std::env::var_os("CI").is_none(), "cannot run here, and CI is set: {reason}");
    eprintln!("SKIPPED: {reason}");
    false
}

/// Incompressible bytes, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let words = (0..length / 8).map(|_| {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb).to_le_bytes()
    });
    words.flatten().collect()
}
