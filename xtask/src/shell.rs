//! Running other programs: each failure names the command and keeps its exit code.

use anyhow::{Context, Result};
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

/// A command ended with another exit code than 0.
#[derive(Debug)]
pub(crate) struct Failed {
    command: String,
    status: ExitStatus,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` failed: {}", self.command, self.status)
    }
}

impl std::error::Error for Failed {}

/// The exit code for `main`: that of the command that failed, else 1.
pub(crate) fn exit_code_of(error: &anyhow::Error) -> u8 {
    let code = error.downcast_ref::<Failed>().and_then(|failed| failed.status.code());
    code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1)
}

/// The root of the workspace. `cargo xtask` compiles this package where it runs.
pub(crate) fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

/// Where cargo puts what it builds.
pub(crate) fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// Bytes that the file system has set aside for a sparse file.
pub(crate) fn allocated_bytes(path: &Path) -> Result<u64> {
    const BLOCK_BYTES: u64 = 512;
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(metadata.blocks() * BLOCK_BYTES)
}

/// Sum of the lengths of all files below `folder`.
pub(crate) fn tree_bytes(folder: &Path) -> Result<u64> {
    let list = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut total = 0;
    for entry in list {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += if metadata.is_dir() { tree_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(total)
}

/// `program` with `arguments`, to be run in the root of the workspace.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

/// Cargo as `cargo xtask` was called with.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()), arguments)
}

/// Runs to the end, output to the terminal.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_start(&command))?;
    succeed(&command, status)
}

/// Runs to the end and hands back standard output.
pub(crate) fn output(mut command: Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| cannot_start(&command))?;
    succeed(&command, output.status)?;
    String::from_utf8(output.stdout).with_context(|| format!("`{}` wrote no UTF-8", line(&command)))
}

/// Runs to the end, output to the terminal, and hands back both output streams as text, one after the other.
pub(crate) fn tee(mut command: Command) -> Result<String> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| cannot_start(&command))?;
    let errors = child.stderr.take().map(|pipe| thread::spawn(|| copy_lines(pipe, std::io::stderr())));
    let mut text = match child.stdout.take() {
        Some(pipe) => copy_lines(pipe, std::io::stdout())?,
        None => String::new(),
    };
    if let Some(Ok(more)) = errors.map(thread::JoinHandle::join) {
        text.push_str(&more?);
    }
    succeed(&command, child.wait()?)?;
    Ok(text)
}

/// Whether `program` is found on the search path or in the folders of the administrator.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|folder| Path::new(folder).join(program).is_file())
}

/// The command as a person would type it, for messages.
pub(crate) fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn succeed(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() { Ok(()) } else { Err(Failed { command: line(command), status }.into()) }
}

fn cannot_start(command: &Command) -> String {
    format!(
        "cannot start `{}`; is it installed? `cargo xtask setup` installs what the tests use",
        line(command)
    )
}

fn copy_lines(from: impl Read, mut to: impl Write) -> std::io::Result<String> {
    let mut all = String::new();
    for line in BufReader::new(from).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(to, "{line}")?;
        all.push_str(&line);
        all.push('\n');
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::{command, exit_code_of, output, run, tee};
    use anyhow::Context;

    #[test]
    fn a_failure_names_the_command_and_keeps_its_exit_code() {
        let error = run(command("/bin/sh", &["-c", "exit 7"])).context("step").unwrap_err();
        assert_eq!(exit_code_of(&error), 7);
        assert!(format!("{error:#}").contains("step: `sh -c exit 7` failed"), "{error:#}");
        let error = run(command("no-such-program", &[])).unwrap_err();
        assert_eq!(exit_code_of(&error), 1);
    }

    #[test]
    fn tee_hands_back_both_streams_and_output_only_the_first() {
        let script = ["-c", "echo out; echo err >&2"];
        assert_eq!(tee(command("sh", &script)).unwrap(), "out\nerr\n");
        assert_eq!(output(command("sh", &script)).unwrap(), "out\n");
    }
}
