//! What running machines and their recovery cost, measured with a program that is built for release: `cargo xtask bench live`.
//!
//! That opens the line to the store, makes the guest, and names both by variables. Each measurement is a test that is only run
//! when it is asked for, and adds its rows to a table. What a goal was missed by stands there; nothing fails for it.

mod exports;
mod machines;
mod recoveries;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use crate::support::{MIB, program, told};
use sancerre_services::seaweedfs::ADMIN;
use sancerre_services::{Variables, seaweedfs};

const PASSPHRASE: &str = "only a benchmark";
/// How often what is cheap is measured: three times, if `SANCERRE_LIVE_ROUNDS` does not say otherwise.
fn rounds() -> std::ops::Range<usize> {
    let said = std::env::var("SANCERRE_LIVE_ROUNDS").ok();
    0..said.map_or(3, |said| said.parse().unwrap())
}

/// A variable that `cargo xtask bench live` sets.
fn named(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set; run cargo xtask bench live"))
}

/// A repository in a bucket behind the line, and a machine that knows nothing of it.
struct Far {
    folder: tempfile::TempDir,
    /// Of the repository and of the store behind the line.
    variables: Variables,
}

impl Far {
    /// With a writer's key `w.key`, and an identity `identity` that restores without a passphrase.
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("live").tempdir_in("/tmp").unwrap();
        let far = Self { folder, variables: place() };
        far.succeed(&["init", "--key-file", "w.key", "--writer", "hv1"]);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f"])
            .arg(far.path("identity"))
            .status();
        assert!(made.unwrap().success());
        let recipient = fs::read_to_string(far.path("identity.pub")).unwrap();
        far.succeed(&["key", "add", "restore", "--recipient", recipient.trim()]);
        far
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.envs(self.variables.iter().cloned()).env("HOME", self.folder.path());
        command.current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    fn succeed(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", told(&output));
        output
    }

    fn back_up(&self, vm: &str, disks: &[String]) {
        let words = ["backup", "--quiet", "--key-file", "w.key", "--vm", vm, "--allow-small"];
        let disks: Vec<&str> = disks.iter().map(String::as_str).collect();
        self.succeed(&[&words[..], &disks].concat());
    }

    /// As on a machine that never saw this repository.
    fn forget_all(&self) {
        let _ = fs::remove_dir_all(self.path(".cache"));
    }

    /// How long a command takes there, with all that it wrote on the disk.
    fn timed(&self, arguments: &[&str]) -> (f64, Output) {
        self.forget_all();
        let begun = Instant::now();
        let output = self.succeed(&[arguments, &["--identity", "identity"]].concat());
        synced();
        (begun.elapsed().as_secs_f64(), output)
    }
}

/// Until all is on the disk.
fn synced() {
    assert!(Command::new("sync").status().unwrap().success());
}

/// A place in the store that nobody used yet, as a process is told of it.
fn place() -> Variables {
    let server = seaweedfs().expect("the S3 server is not installed; cargo xtask setup does");
    let mut variables = seaweedfs::variables(&named("SANCERRE_LIVE_ENDPOINT"), ADMIN);
    variables.push(("SANCERRE_REPOSITORY".into(), server.location()));
    variables.push(("SANCERRE_PASSWORD".into(), PASSPHRASE.into()));
    variables
}

/// Makes a file with so many MiB of bytes that nobody has, of which every second one compresses well, each followed by as
/// much that is zero as `holes` says.
fn data(path: &Path, mebibytes: usize, holes: usize) {
    let (file, mut random) = (File::create(path).unwrap(), File::open("/dev/urandom").unwrap());
    file.set_len((mebibytes * (1 + holes) * MIB) as u64).unwrap();
    let mut piece = vec![0; MIB];
    for number in 0..mebibytes {
        random.read_exact(&mut piece).unwrap();
        if number % 2 == 1 {
            piece.chunks_mut(64).for_each(|words| words[8..].fill(b' '));
        }
        file.write_all_at(&piece, (number * (1 + holes) * MIB) as u64).unwrap();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[derive(Clone, Copy)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

/// Adds a row to the table: what was measured, and what was asked for.
fn row(what: &str, value: f64, unit: &str, goal: Goal) {
    let (is_met, goal) = match goal {
        Goal::AtMost(most) => (value <= most, format!("≤ {most}")),
        Goal::AtLeast(least) => (value >= least, format!("≥ {least}")),
    };
    let digits = if value.fract() == 0.0 { 0 } else { 2 };
    let measured = format!("{value:.digits$} {unit}");
    let measured = measured.trim_end();
    let measured = if is_met { measured.to_owned() } else { format!("**{measured}: missed**") };
    let row = format!("| {what} | {measured} | {goal} |\n");
    let mut file = OpenOptions::new().create(true).append(true).open(named("SANCERRE_LIVE_TABLE")).unwrap();
    file.write_all(row.as_bytes()).unwrap();
    print!("\n{row}");
}

/// Numbers, for a row's words.
fn list(values: &[f64]) -> String {
    values.iter().map(|value| format!("{value:.2}")).collect::<Vec<_>>().join(", ")
}
