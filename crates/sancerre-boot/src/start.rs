//! Programs of QEMU's: images are made and looked at by `qemu-img`, guests are started so that they outlive us.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::guest::{GuestPlan, PlanError};

/// Words of a program that are passed on.
const WORDS_MAX: usize = 2000;

/// Why a program of QEMU's did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It cannot be started.
    #[error("cannot start {}: {error}; install QEMU (qemu-system-x86 and qemu-utils on Debian), or name its program", .program.display())]
    Missing {
        /// Which.
        program: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It failed.
    #[error("{} failed: {words}", .program.display())]
    Failed {
        /// Which.
        program: PathBuf,
        /// What it said.
        words: String,
    },
    /// It cannot be told.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// How large a disk of `size_bytes` is to QEMU, which knows whole sectors.
pub fn disk_bytes(size_bytes: u64) -> u64 {
    size_bytes.next_multiple_of(512)
}

/// The arguments of `qemu-img` that make an overlay of `size_bytes` over an export.
///
/// The address of the export stands in the image, so that whoever opens it before it is whole reads the export or fails, and
/// never takes what is not there yet for zeros.
pub fn overlay_arguments(path: &Path, uri: &str, size_bytes: u64) -> Vec<OsString> {
    let size_bytes = disk_bytes(size_bytes);
    let words = ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", uri];
    let words = words.iter().map(OsString::from);
    words.chain([path.into(), size_bytes.to_string().into()]).collect()
}

/// Makes an overlay; it has its name only once it is durable.
pub fn make_overlay(path: &Path, uri: &str, size_bytes: u64) -> Result<(), StartError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".sancerre-partial");
    let partial = PathBuf::from(partial);
    run(OsStr::new("qemu-img"), &overlay_arguments(&partial, uri, size_bytes))?;
    let durable = std::fs::File::open(&partial).and_then(|file| {
        // It will hold all that is on the guest's disk.
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        file.sync_all()
    });
    durable.and_then(|()| std::fs::rename(&partial, path)).map_err(|error| StartError::Failed {
        program: "qemu-img".into(),
        words: format!("{} cannot be given its name: {error}", path.display()),
    })
}

/// Whether an image still stands on another, by what it says itself; a guest may use it.
pub fn has_backing(path: &Path) -> Result<bool, StartError> {
    let words = ["info", "-U", "--output=json", "-f", "qcow2"].iter().map(OsString::from);
    let arguments: Vec<OsString> = words.chain([path.into()]).collect();
    let output = run(OsStr::new("qemu-img"), &arguments)?;
    let info: Value = serde_json::from_slice(&output.stdout).map_err(|error| StartError::Failed {
        program: "qemu-img".into(),
        words: format!("what it says of {} is not understood: {error}", path.display()),
    })?;
    Ok(info.get("backing-filename").is_some())
}

/// Starts a guest, which goes on when this process ends; returns when its monitor listens.
pub fn start(program: &OsStr, plan: &GuestPlan) -> Result<(), StartError> {
    // What a QEMU that was killed left; one that lives holds its images, and this one then fails.
    let _ = std::fs::remove_file(&plan.monitor);
    let mut arguments = plan.arguments()?;
    arguments.push("-daemonize".into());
    run(program, &arguments).map(drop)
}

fn run(program: &OsStr, arguments: &[OsString]) -> Result<Output, StartError> {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().map_err(|error| StartError::Missing { program: program.into(), error })?;
    if output.status.success() {
        return Ok(output);
    }
    let words: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(WORDS_MAX).collect();
    let words = if words.is_empty() { output.status.to_string() } else { words };
    Err(StartError::Failed { program: program.into(), words })
}
