//! The Debian package, made with Debian's own `dpkg-deb`: every builder of packages has it, it is as repeatable as Debian
//! needs it to be, and there is nothing to build first.

use super::build;
use super::release::Release;
use super::stage::{Stage, Tree, gzip, scratch, set_mode, source};
use crate::{setup, shell};
use anyhow::{Context, Result};
use std::path::Path;

/// The units, as they lie in `docs/systemd`.
pub(super) const UNITS: [&str; 2] = ["sancerre-backup@.service", "sancerre-backup@.timer"];
/// An example in comments: the one file of the package that an administrator may edit.
const EXAMPLE: &str = "etc/sancerre/example.conf";
/// What an administrator and an auditor read, in `docs`.
const PAGES: [&str; 22] = [
    "AUDIT.md",
    "AUDITOR.md",
    "CHANGED.md",
    "COPY.md",
    "DRILL.md",
    "FILES.md",
    "FORMAT.md",
    "FORMATS.md",
    "GLOSSARY.md",
    "GUARANTEES.md",
    "HOSTS.md",
    "INSTALL.md",
    "MONITORING.md",
    "NIGHTLY-BUCKET.md",
    "NIGHTLY-FOLDER.md",
    "QUIESCE.md",
    "RETENTION.md",
    "SCHEDULE.md",
    "SIZING.md",
    "STORES.md",
    "TROUBLESHOOTING.md",
    "WORST-DAY.md",
];
/// Keys lie here: only root may look.
const PRIVATE: &str = "etc/sancerre";
/// What runs when the package is installed and removed, in `xtask/dist`.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// How Debian calls the file.
pub(super) fn file_name(version: &str) -> String {
    format!("sancerre_{version}_amd64.deb")
}

/// Builds the package with this `version`.
pub(super) fn build(
    stage: &Stage,
    program: &Path,
    release: &Release,
    version: &str,
    to: &Path,
) -> Result<()> {
    let tree = files(stage, release, version)?;
    let folder = scratch("deb");
    tree.write(&folder)?;
    set_mode(&folder.join(PRIVATE), 0o700)?;
    set_mode(&folder.join(EXAMPLE), 0o600)?;
    let mut sums = shell::command("md5sum", &["--"]);
    sums.args(tree.paths().filter(|path| *path != EXAMPLE)).current_dir(&folder);
    let mut meta = Tree::default();
    meta.add("md5sums", shell::output(sums)?);
    meta.add("control", control(&tree, build::glibc(program)?, release, version)?);
    meta.add("conffiles", format!("/{EXAMPLE}\n"));
    for script in SCRIPTS {
        meta.add_program(script, source(&format!("xtask/dist/{script}"))?);
    }
    meta.write(&folder.join("DEBIAN"))?;
    // xz with one thread: its output does not depend on the machine.
    let mut command =
        shell::command("dpkg-deb", &["--root-owner-group", "-Zxz", "--threads-max=1", "--build"]);
    command.arg(&folder).arg(to).env("SOURCE_DATE_EPOCH", release.epoch_seconds.to_string());
    shell::output(command).map(drop)
}

fn files(stage: &Stage, release: &Release, version: &str) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.add_program("usr/bin/sancerre", stage.program.clone());
    for unit in UNITS {
        tree.add(format!("usr/lib/systemd/system/{unit}"), source(&format!("docs/systemd/{unit}"))?);
    }
    tree.add(EXAMPLE, source("docs/systemd/example.conf")?);
    for (name, text) in &stage.pages {
        tree.add(format!("usr/share/man/man1/{name}.gz"), gzip(text)?);
    }
    for (shell, script) in &stage.completions {
        let path = match *shell {
            "bash" => "usr/share/bash-completion/completions/sancerre",
            "zsh" => "usr/share/zsh/vendor-completions/_sancerre",
            _ => "usr/share/fish/vendor_completions.d/sancerre.fish",
        };
        tree.add(path, script.clone());
    }
    let doc = "usr/share/doc/sancerre";
    tree.add(format!("{doc}/copyright"), source("xtask/dist/copyright")?);
    tree.add(format!("{doc}/third-party-licenses.txt.gz"), gzip(stage.licences.as_bytes())?);
    tree.add(format!("{doc}/changelog.gz"), gzip(&source("CHANGELOG.md")?)?);
    tree.add(format!("{doc}/changelog.Debian.gz"), gzip(changelog(release, version).as_bytes())?);
    for text in PAGES {
        tree.add(format!("{doc}/{text}.gz"), gzip(&source(&format!("docs/{text}"))?)?);
    }
    tree.add_program(format!("{doc}/examples/reflink.sh"), source("docs/pictures/reflink.sh")?);
    tree.add("usr/share/lintian/overrides/sancerre", source("xtask/dist/lintian-overrides")?);
    Ok(tree)
}

fn changelog(release: &Release, version: &str) -> String {
    format!(
        "sancerre ({version}) unstable; urgency=medium\n\n  * Made from the sources; changelog.gz says what is new.\n\n \
         -- {}  {}\n",
        release.maintainer, release.time_mail
    )
}

fn control(tree: &Tree, glibc: (u32, u32), release: &Release, version: &str) -> Result<String> {
    let text = String::from_utf8(source("xtask/dist/control")?).context("xtask/dist/control is no UTF-8")?;
    Ok(text
        .replace("@VERSION@", version)
        .replace("@MAINTAINER@", &release.maintainer)
        .replace("@SIZE@", &tree.size_kib().to_string())
        .replace("@GLIBC@", &format!("{}.{}", glibc.0, glibc.1)))
}

/// Runs Debian's checker, which fails on errors.
pub(super) fn lint(package: &Path) -> Result<()> {
    let mut command = shell::command("lintian", &["--fail-on", "error", "--tag-display-limit", "0"]);
    command.arg(package).env("LC_ALL", "C.UTF-8");
    if setup::is_root()? {
        command.arg("--allow-root");
    }
    shell::run(command)
}
