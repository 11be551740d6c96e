//! The program for old systems: built against glibc 2.28 with Zig's C compiler and linker, so that it runs on every
//! Debian since 10 and on what is as old.

use super::release::Release;
use crate::{setup, shell};
use anyhow::{Context, Result, bail, ensure};
use sancerre_services::install as services;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The oldest glibc that must do.
const GLIBC: (u32, u32) = (2, 28);
/// What the package libc6 brings; a program that needs any other library is not one binary.
const LIBRARIES: [&str; 7] = [
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "librt.so.1",
    "libpthread.so.0",
    "libutil.so.1",
    "ld-linux-x86-64.so.2",
];

/// Builds the program of `release`.
pub(super) fn program(release: &Release) -> Result<PathBuf> {
    ensure!(
        std::env::consts::ARCH == "x86_64",
        "dist: packages are made on x86_64 only; `cargo build --release` makes a program for this machine"
    );
    setup::python_venv()?;
    services::install_zig()?;
    let target = format!("{TARGET}.{}.{}", GLIBC.0, GLIBC.1);
    let arguments =
        ["zigbuild", "--profile", "dist", "--locked", "--package", "sancerre", "--target", &target];
    let mut command = shell::cargo(&arguments);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", services::zig().display()));
    let renamed = renamed_folders()?;
    set_flags(&mut command, &renamed);
    // A dependency embeds files with their times: with this one, if it is set.
    command.env("SOURCE_DATE_EPOCH", release.epoch_seconds.to_string());
    shell::run(command)?;
    Ok(shell::target_folder().join(TARGET).join("dist/sancerre"))
}

/// Folders of this machine, and what the program calls them.
fn renamed_folders() -> Result<Vec<(PathBuf, String)>> {
    let verbose = shell::output(shell::command("rustc", &["--version", "--verbose"]))?;
    let commit = verbose.lines().find_map(|line| line.strip_prefix("commit-hash: ")).unwrap_or("unknown");
    let sysroot = shell::output(shell::command("rustc", &["--print", "sysroot"]))?;
    let std = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    // A later entry wins over an earlier one where both fit.
    let mut renamed = vec![(shell::root(), "sancerre".to_owned())];
    if !shell::target_folder().starts_with(shell::root()) {
        renamed.push((shell::target_folder(), "sancerre/target".to_owned()));
    }
    // The folders are named after the registry's address, which may be a mirror's.
    let sources = cargo_home()?.join("registry/src");
    let list = std::fs::read_dir(&sources).with_context(|| format!("cannot list {}", sources.display()))?;
    let mut folders = list.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    folders.sort();
    renamed.extend(folders.into_iter().map(|folder| (folder, "crates".to_owned())));
    renamed.push((std, format!("/rustc/{commit}")));
    Ok(renamed)
}

fn cargo_home() -> Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(home)
        .context("neither CARGO_HOME nor HOME is set")
}

/// No path of this machine in the program: not from Rust, not from C.
fn set_flags(command: &mut Command, renamed: &[(PathBuf, String)]) {
    let flags = |flag: &str, between: &str| {
        let all = renamed.iter().map(|(folder, name)| format!("{flag}={}={name}", folder.display()));
        all.collect::<Vec<_>>().join(between)
    };
    command.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags("--remap-path-prefix", "\x1f"));
    let c = format!("CFLAGS_{}", TARGET.replace('-', "_"));
    command.env_remove("CFLAGS").env(c, flags("-ffile-prefix-map", " "));
}

/// Refuses a program that needs a newer glibc or another library, or that names folders of this machine.
pub(super) fn judge(program: &Path) -> Result<()> {
    let needed = glibc(program)?;
    ensure!(needed <= GLIBC, "dist: the program needs glibc {}.{}, not 2.28", needed.0, needed.1);
    let headers = objdump("-p", program)?;
    for library in headers.lines().filter_map(|line| line.trim().strip_prefix("NEEDED")).map(str::trim) {
        ensure!(
            LIBRARIES.contains(&library),
            "dist: the program needs {library}, which is not part of libc6"
        );
    }
    let bytes = std::fs::read(program)?;
    let folders = [shell::root(), shell::target_folder(), cargo_home()?];
    for folder in folders.iter().filter_map(|folder| folder.to_str()) {
        if bytes.windows(folder.len()).any(|window| window == folder.as_bytes()) {
            bail!("dist: the program names {folder}, so another folder would give another program");
        }
    }
    println!(
        "dist: {} needs glibc {}.{} and names no folder of this machine",
        program.display(),
        needed.0,
        needed.1
    );
    Ok(())
}

/// The newest version of glibc that a symbol of `program` asks for.
pub(super) fn glibc(program: &Path) -> Result<(u32, u32)> {
    newest(&objdump("-T", program)?).context("the program asks for no version of glibc")
}

fn newest(symbols: &str) -> Option<(u32, u32)> {
    let versions = symbols.split("GLIBC_").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let mut parts = rest[..end].split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    });
    versions.max()
}

fn objdump(what: &str, program: &Path) -> Result<String> {
    shell::output(shell::command("objdump", &[what, program.to_str().context("the path is no UTF-8")?]))
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn versions_of_glibc_are_compared_as_numbers() {
        let symbols =
            "0  DF *UND*  0 (GLIBC_2.2.5) read\n0  DF *UND*  0 (GLIBC_2.28) statx\n (GLIBC_2.9) pipe2\n";
        assert_eq!(newest(symbols), Some((2, 28)));
        assert_eq!(newest("0  DF .text 0 main\n"), None);
    }
}
