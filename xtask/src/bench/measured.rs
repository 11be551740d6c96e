//! A program that is measured, in a folder of its own.

use crate::shell;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

pub(super) struct Measured {
    program: PathBuf,
    pub(super) place: PathBuf,
}

impl Measured {
    /// The program that is named, or the one that is built of this source; in `target/bench/NAME`, which is empty then.
    pub(super) fn new(program: Option<&str>, name: &str) -> Result<Self> {
        let program = match program {
            Some(program) => std::path::absolute(program)?,
            None => {
                shell::run(shell::cargo(&["build", "--release", "--locked", "-p", "sancerre"]))?;
                shell::target_folder().join("release/sancerre")
            }
        };
        let place = shell::target_folder().join("bench").join(name);
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(&place).with_context(|| format!("cannot create {}", place.display()))?;
        Ok(Self { program, place })
    }

    /// A command on a repository: a URL, or a path below the folder.
    pub(super) fn command(&self, repository: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.place).env("SANCERRE_PASSWORD", "only a benchmark");
        command.env("SANCERRE_REPOSITORY", repository);
        command
    }

    /// What a command says, and how many seconds it takes.
    pub(super) fn said(&self, repository: &str, arguments: &[&str]) -> Result<(Value, f64)> {
        let begun = Instant::now();
        let text = shell::output(self.command(repository, &[arguments, &["--json"]].concat()))?;
        let seconds = begun.elapsed().as_secs_f64();
        Ok((serde_json::from_str(text.lines().last().unwrap_or_default())?, seconds))
    }

    /// A repository below the folder, and its key file beside it.
    pub(super) fn init(&self, repository: &str) -> Result<()> {
        let key = format!("{repository}.key");
        shell::output(self.command(repository, &["init", "--quiet", "--key-file", &key])).map(drop)
    }

    /// Backs up the disks of a machine into such a repository.
    pub(super) fn save(&self, repository: &str, arguments: &[&str]) -> Result<(Value, f64)> {
        let key = format!("{repository}.key");
        self.said(repository, &[&["backup", "--key-file", &key, "--vm", "web01"], arguments].concat())
    }

    pub(super) fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.place).context("cannot remove what was measured")
    }
}
