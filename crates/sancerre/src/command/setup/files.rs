//! The files that are written: new, with their mode, or not at all.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::command::Context;
use crate::exit::Failure;
use crate::plain;

/// Folders of ours: what lies in them is nobody else's business.
const PRIVATE: &str = "sancerre";
const PRIVATE_MODE: u32 = 0o700;
const USUAL_MODE: u32 = 0o755;
/// Values of variables that are not shown.
const SECRETS: [&str; 3] = ["SECRET", "TOKEN", "_KEY"];

/// A file as it is to be.
pub(super) struct Planned {
    pub(super) path: PathBuf,
    pub(super) mode: u32,
    pub(super) text: String,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Made,
    /// It is there, and as it would be made.
    There,
    /// It is there, says something else, and is left alone.
    Other,
}

pub(super) struct Written {
    pub(super) path: PathBuf,
    pub(super) fate: Fate,
}

/// An absolute path below another root.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

impl Planned {
    /// With what is in it, and no secrets.
    pub(super) fn shown(&self) -> String {
        let state = match self.found() {
            Ok(None) => "new",
            Ok(Some(Fate::There)) => "there already",
            Ok(Some(_)) => "there already with something else in it, and left alone",
            Err(_) => "cannot be looked at",
        };
        let lines = self.text.lines().map(|line| format!("    {}\n", masked(line)));
        format!("{} ({state}, mode {:o}):\n{}", plain::path(&self.path), self.mode, lines.collect::<String>())
    }

    /// What is there; none if nothing.
    fn found(&self) -> std::io::Result<Option<Fate>> {
        match std::fs::read(&self.path) {
            Ok(bytes) if bytes == self.text.as_bytes() => Ok(Some(Fate::There)),
            Ok(_) => Ok(Some(Fate::Other)),
            Err(error) if error.kind() == ErrorKind::NotFound && !self.path.is_symlink() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Before anything is made: whether it can be seen what is there.
    pub(super) fn can_be_made(&self) -> Result<(), Failure> {
        self.found().map(drop).map_err(|error| self.failed("look at", &error))
    }

    pub(super) fn write(&self) -> Result<Written, Failure> {
        let path = self.path.clone();
        if let Some(fate) = self.found().map_err(|error| self.failed("look at", &error))? {
            return Ok(Written { path, fate });
        }
        make_folders(&self.path)?;
        let opened = OpenOptions::new().write(true).create_new(true).mode(self.mode).open(&self.path);
        let written = opened.and_then(|mut file| {
            file.set_permissions(Permissions::from_mode(self.mode))?;
            file.write_all(self.text.as_bytes()).and_then(|()| file.sync_all())
        });
        written.map(|()| Written { path, fate: Fate::Made }).map_err(|error| self.failed("make", &error))
    }

    fn failed(&self, what: &str, error: &std::io::Error) -> Failure {
        Failure::failed(format!(
            "cannot {what} {}: {error}; be root, or name another folder with --root. What was made before stays, and the \
             same command goes on",
            plain::path(&self.path)
        ))
    }
}

/// A line of a file without the secret in it.
fn masked(line: &str) -> String {
    match line.split_once('=') {
        Some((name, _)) if SECRETS.iter().any(|part| name.contains(part)) && !name.contains("SANCERRE") => {
            format!("{name}=…")
        }
        _ => line.to_owned(),
    }
}

/// Makes the folders above a file that are not there; those that are ours for their owner alone.
pub(super) fn make_folders(path: &Path) -> Result<(), Failure> {
    let missing: Vec<&Path> = path.ancestors().skip(1).take_while(|folder| !folder.exists()).collect();
    for folder in missing.into_iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
        let is_private = folder.file_name().is_some_and(|name| name == PRIVATE);
        let mode = if is_private { PRIVATE_MODE } else { USUAL_MODE };
        let made = DirBuilder::new()
            .mode(mode)
            .create(folder)
            .and_then(|()| File::open(folder)?.set_permissions(Permissions::from_mode(mode)));
        made.map_err(|error| {
            Failure::failed(format!("cannot make the folder {}: {error}; be root", plain::path(folder)))
        })?;
    }
    Ok(())
}

/// Says of each file what became of it.
pub(super) fn tell(context: &Context, written: &[Written]) {
    context.output.message("");
    for file in written {
        let path = plain::path(&file.path);
        match file.fate {
            Fate::Made => context.output.message(&format!("made           {path}")),
            Fate::There => context.output.message(&format!("there already  {path}")),
            Fate::Other => context.output.warning(&format!(
                "{path} was there already and says something else, so it is left alone and counts as it is. If it is from an \
                 earlier try, delete it and run the same command again; else edit it. `sancerre setup --dry-run` shows what \
                 it would say"
            )),
        }
    }
}

pub(super) fn json(written: &[Written]) -> Value {
    let word = |fate: Fate| match fate {
        Fate::Made => "made",
        Fate::There => "there",
        Fate::Other => "other",
    };
    written
        .iter()
        .map(|file| json!({ "path": file.path.display().to_string(), "state": word(file.fate) }))
        .collect()
}
