//! `cargo xtask bench live`: running machines and their recovery.
//!
//! What is measured, and how, are tests of the command line that are run by name alone (`tests/cli/live`): those have the
//! guests and the libvirt for it. This opens the line to the store, makes a Debian that starts by itself, and runs them one
//! after the other with a program that is built for release.

use super::link::{FAR, Link};
use super::report;
use crate::{setup, shell};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

const HEAD: &str = "| | measured | goal |\n|---|--:|--:|\n";

/// Measures `program`, or what is built for release, and writes `target/bench/live-DATE.md`; with a `word` only what begins
/// with it, such as `exports` or `machines::loss`.
pub(crate) fn run(program: Option<&str>, word: &str) -> Result<()> {
    setup::run()?;
    setup::install(setup::FLEET_TOOLS)?;
    let program = match program {
        Some(program) => std::path::absolute(program)?,
        None => {
            shell::run(shell::cargo(&["build", "--release", "--locked", "-p", "sancerre"]))?;
            shell::target_folder().join("release/sancerre")
        }
    };
    let out = shell::target_folder().join("bench");
    let guest = out.join("live/login.raw");
    make_guest(&guest)?;
    let server =
        sancerre_services::seaweedfs().context("the S3 server is not installed; `cargo xtask setup` does")?;
    let link = Link::open(server.port(), FAR)?;
    let table = out.join(format!("live-{}.md", report::today()?));
    fs::write(&table, HEAD).with_context(|| format!("cannot write {}", table.display()))?;
    let tests = ["test", "--locked", "--workspace", "--test", "cli", "--"];
    let mut command = shell::cargo(&tests);
    command.args(["--ignored", "--nocapture", "--test-threads=1", &format!("live::{word}")]);
    command.env("SANCERRE_LIVE_PROGRAM", &program).env("SANCERRE_LIVE_GUEST", &guest);
    command.env("SANCERRE_LIVE_ENDPOINT", format!("http://127.0.0.1:{}", link.port()));
    command.env("SANCERRE_LIVE_TABLE", &table);
    let measured = shell::run(command);
    println!("\n{}\nwritten to {}", fs::read_to_string(&table)?, table.display());
    measured
}

/// Makes the guest's disk where it is not there yet.
fn make_guest(disk: &Path) -> Result<()> {
    if disk.is_file() {
        return Ok(());
    }
    ensure!(setup::is_root()?, "bench: a Debian of its own is made by root");
    if let Some(folder) = disk.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    println!("bench: making a Debian");
    let mut command = shell::command("bash", &[]);
    command.arg(shell::root().join("xtask/fleet/login.sh")).arg(disk);
    shell::run(command)
}
