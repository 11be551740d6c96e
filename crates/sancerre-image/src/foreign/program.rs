//! The program that reads a container, and its private socket.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use sancerre_confine::{Confinement, Helper};

use crate::process::Process;

/// Names that may be taken already.
const TRIES: u32 = 10_000;

/// A directory of our own, removed when dropped.
#[derive(Debug)]
pub(super) struct Private(PathBuf);

impl Private {
    /// Making it fails where the name is taken, so that nobody can have put something there.
    pub(super) fn new() -> io::Result<Self> {
        let (base, process) = (std::env::temp_dir(), std::process::id());
        for number in 0..TRIES {
            let path = base.join(format!("sancerre-{process}-{number}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(format!("all names are taken in {}", base.display())))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // What is left of it is empty of secrets, and its name is never used again.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running program, ended when dropped.
#[derive(Debug)]
pub(super) struct Program {
    process: Process,
    socket: PathBuf,
    _folder: Private,
}

impl Program {
    pub(super) fn start(helper: &Helper, confinement: &Confinement, folder: Private) -> io::Result<Self> {
        let socket = folder.0.join("socket");
        let listener = UnixListener::bind(&socket)?;
        let mut command = helper.command(confinement);
        command.stdin(OwnedFd::from(listener));
        Ok(Self { process: Process::start(command)?, socket, _folder: folder })
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends the program and returns what it said, if anything.
    pub(super) fn last_words(&self) -> String {
        self.process.last_words()
    }
}
