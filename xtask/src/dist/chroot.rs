//! `cargo xtask dist --try`: the package in fresh Debian systems, from installation to purge. Needs root, and minutes.

use super::deb;
use super::release::Release;
use super::stage::{Stage, scratch, source};
use crate::{setup, shell};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

/// Debian 12 and 13.
const SUITES: [&str; 2] = ["bookworm", "trixie"];
/// A version before all others: what is upgraded from.
const EARLIER: &str = "0.0.9-1";
/// The journey, in a process tree of its own with its own /proc; what it starts ends with it.
const INSIDE: &str = "mount --make-rprivate / && mount -t proc proc \"$0/proc\" && \
                      chroot \"$0\" /bin/bash /tmp/journey.sh /tmp/old.deb /tmp/new.deb";

/// Checks the package with lintian, then makes the journey in each suite.
pub(super) fn run(stage: &Stage, program: &Path, release: &Release) -> Result<()> {
    setup::install(setup::PACKAGE_TOOLS)?;
    ensure!(setup::is_root()?, "dist: --try makes Debian systems and enters them: run it as root");
    let folder = scratch("try");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let (old, new) = (folder.join("old.deb"), folder.join("new.deb"));
    deb::build(stage, program, release, EARLIER, &old)?;
    deb::build(stage, program, release, &release.deb_version(), &new)?;
    println!("\n== lintian");
    deb::lint(&new)?;
    for suite in SUITES {
        println!("\n== {suite}");
        let system = folder.join(suite);
        let outcome = journey(suite, &system, &old, &new);
        let _ = fs::remove_dir_all(&system);
        outcome.with_context(|| format!("dist: the package fails in {suite}"))?;
    }
    Ok(())
}

fn journey(suite: &str, system: &Path, old: &Path, new: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(system);
    let name = system.to_str().context("the path of the target folder is no UTF-8")?;
    let packages = ["--variant=apt", "--include=systemd", "--quiet"];
    shell::run(shell::command("mmdebstrap", &[packages.as_slice(), &[suite, name]].concat()))?;
    fs::write(system.join("tmp/journey.sh"), source("xtask/dist/journey.sh")?)?;
    fs::copy(old, system.join("tmp/old.deb"))?;
    fs::copy(new, system.join("tmp/new.deb"))?;
    let own = ["--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", INSIDE, name];
    shell::run(shell::command("unshare", &own))
}
