//! `cargo xtask fuzz`: the parsers of foreign bytes under a coverage-guided fuzzer, from the golden bytes on.

use crate::shell;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the targets are defined; their names are read from there.
const TARGETS: &str = "tests/support/fuzz.rs";
const GOLDEN: &str = "crates/sancerre-format/testdata/v1";
/// Seeds of the targets to which golden bytes say nothing.
const SEEDS: &str = "tests/fuzz/seeds";
/// Where images begin.
const IMAGES: &str = "crates/sancerre-image/testdata/qcow2";
/// Larger inputs find nothing that smaller ones do not.
const INPUT_BYTES_MAX: u32 = 1 << 20;

/// Runs one target, or with `all` each of them, for so many seconds.
pub(crate) fn run(wanted: &str, seconds: &str) -> Result<()> {
    seconds.parse::<u32>().with_context(|| format!("{seconds} is no number of seconds"))?;
    let names = names(&fs::read_to_string(TARGETS).with_context(|| format!("cannot read {TARGETS}"))?);
    let chosen: Vec<&String> = names.iter().filter(|name| wanted == "all" || *name == wanted).collect();
    ensure!(!chosen.is_empty(), "fuzz: no target {wanted}; there are {}", names.join(", "));
    if !shell::is_installed("cargo-fuzz") {
        shell::run(shell::cargo(&["install", "cargo-fuzz", "--locked"]))?;
    }
    for name in chosen {
        println!("== {name}");
        fuzz(name, seconds)?;
    }
    Ok(())
}

/// The names in lines such as `("records", records),`.
fn names(source: &str) -> Vec<String> {
    let name = |line: &str| Some(line.trim().strip_prefix("(\"")?.split_once('"')?.0.to_owned());
    source.lines().filter_map(name).collect()
}

fn fuzz(name: &str, seconds: &str) -> Result<()> {
    let corpus = shell::target_folder().join("fuzz").join(name);
    sow(name, &corpus)?;
    let mut command = shell::cargo(&["fuzz", "run", "--fuzz-dir", "tests/fuzz", "parsers"]);
    command.arg(&corpus).args(["--", &format!("-max_total_time={seconds}"), "-rss_limit_mb=4096"]);
    command.arg(format!("-max_len={INPUT_BYTES_MAX}"));
    // The sanitizers are unstable options of the compiler; this is the one place that uses them.
    command.env("RUSTC_BOOTSTRAP", "1").env("SANCERRE_FUZZ", name);
    shell::run(command)
}

/// The golden bytes as a first corpus; of records, signed by each of the keys that their samples have. A target with
/// seeds of its own starts from them.
fn sow(name: &str, corpus: &Path) -> Result<()> {
    fs::create_dir_all(corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
    let own = if name == "qcow2" { PathBuf::from(IMAGES) } else { Path::new(SEEDS).join(name) };
    let folder = if own.is_dir() { own } else { PathBuf::from(GOLDEN) };
    let paths = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let paths =
        paths.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<PathBuf>>>()?;
    for path in paths {
        let bytes = fs::read(&path)?;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let signers: &[&[u8]] = if name == "records" { &[&[1], &[2], &[3]] } else { &[&[]] };
        for (number, signer) in signers.iter().enumerate() {
            fs::write(corpus.join(format!("{file}-{number}")), [*signer, &bytes].concat())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn targets_are_found_by_their_lines() {
        let source =
            "pub const TARGETS: [Target; 2] = [\n    (\"records\", records),\n    (\"nodes\", nodes),\n];\n";
        assert_eq!(names(source), ["records", "nodes"]);
    }
}
