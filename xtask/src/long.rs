//! `cargo xtask sim` and `cargo xtask faults`: tests that draw from seeds, for as long as somebody wants.

use crate::shell;
use anyhow::{Context, Result};

/// Lives of a repository, from seed `first` on.
pub(crate) fn sim(seeds: &str, first: &str) -> Result<()> {
    run(
        "sim::every_acknowledged_snapshot_restores_always",
        &[("SANCERRE_SEEDS", seeds), ("SANCERRE_FIRST_SEED", first)],
    )
}

/// Injected faults: that many in memory, and a twentieth of it in front of a real server.
pub(crate) fn faults(count: &str) -> Result<()> {
    run("faults::", &[("SANCERRE_FAULTS", count)])
}

fn run(test: &str, variables: &[(&str, &str)]) -> Result<()> {
    let mut command = shell::cargo(&[
        "test",
        "--release",
        "--locked",
        "-p",
        "sancerre-tests",
        "--test",
        "it",
        "--",
        "--nocapture",
        test,
    ]);
    for (name, value) in variables {
        value.parse::<u64>().with_context(|| format!("{value} is no number"))?;
        command.env(name, value);
    }
    shell::run(command)
}
