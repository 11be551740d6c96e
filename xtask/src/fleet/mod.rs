//! `cargo xtask fleet`: the virtual disks of a small hospital, night after night, as input for tests and benchmarks.
//!
//! Layout of both kinds: `OUT/night-K/NAME.raw`, sparse raw disks with an MBR and one partition from 1 MiB on, and
//! `OUT/night-K/truth.tsv` with lines of guest, path, size in bytes and SHA-256 of files inside.

mod content;
pub(crate) mod mini;

use crate::{setup, shell};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// The fleet of real Debian guests: five disks of 3 GiB a night, 4 nights unless told otherwise. Needs root.
pub(crate) fn full(out: &str, nights: &str) -> Result<()> {
    let out = absolute(out)?;
    let nights: u32 = nights.parse().with_context(|| format!("`{nights}` is no number of nights"))?;
    ensure!(nights > 0, "a fleet has at least one night");
    setup::install(setup::FLEET_TOOLS)?;
    ensure!(
        setup::is_root()?,
        "fleet: loop devices and chroot need root; `--mini` builds a small fleet without"
    );
    let script = shell::root().join("xtask/fleet/build.sh");
    let mut command = shell::command("bash", &[]);
    command.arg(script).arg(out).arg(nights.to_string());
    shell::run(command)
}

/// The small fleet: two guests, file systems filled without mounting them, under a minute and without root.
pub(crate) fn small(out: &str, nights: &str) -> Result<()> {
    let out = absolute(out)?;
    let nights: u32 = nights.parse().with_context(|| format!("`{nights}` is no number of nights"))?;
    setup::install(setup::SMALL_FLEET_TOOLS)?;
    mini::build(&out, nights)
}

/// Relative paths of the command line are meant from where the user stands.
fn absolute(path: &str) -> Result<PathBuf> {
    std::path::absolute(Path::new(path)).with_context(|| format!("cannot resolve {path}"))
}
