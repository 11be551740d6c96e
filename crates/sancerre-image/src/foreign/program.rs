//! The program that reads a container, and its private socket.

use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread::{Builder, JoinHandle};

use sancerre_confine::{Confinement, Helper};

/// Of what the program says, this much is kept.
const WORDS_BYTES_MAX: usize = 2048;
/// Names that may be taken already.
const TRIES: u32 = 10_000;

/// A directory of our own, removed when dropped.
#[derive(Debug)]
struct Private(PathBuf);

impl Private {
    /// Making it fails where the name is taken, so that nobody can have put something there.
    fn new() -> io::Result<Self> {
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
    child: Mutex<Child>,
    id: u32,
    socket: PathBuf,
    words: Mutex<Option<JoinHandle<String>>>,
    _folder: Private,
}

impl Program {
    /// The program is started by a thread that then listens to what it says until it ends: the program would be killed
    /// with the thread that started it, and threads of others may end earlier.
    pub(super) fn start(helper: &Helper, confinement: &Confinement) -> io::Result<Self> {
        let folder = Private::new()?;
        let socket = folder.0.join("socket");
        let listener = UnixListener::bind(&socket)?;
        let mut command = helper.command(confinement);
        command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::piped());
        let (sender, receiver) = mpsc::channel();
        let words = Builder::new().name("image-reader".to_owned()).spawn(move || {
            let mut started = command.spawn();
            // The last descriptor of ours on the listening end: without it, a program that dies is noticed at once.
            drop(command);
            let stderr = started.as_mut().ok().and_then(|child| child.stderr.take());
            let is_heard = sender.send(started).is_ok();
            stderr.filter(|_| is_heard).map(listen).unwrap_or_default()
        })?;
        let child = receiver.recv().map_err(io::Error::other)??;
        let id = child.id();
        Ok(Self { child: Mutex::new(child), id, socket, words: Mutex::new(Some(words)), _folder: folder })
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends the program and returns what it said.
    pub(super) fn last_words(&self) -> String {
        self.end();
        let words = self.words.lock().ok().and_then(|mut words| words.take());
        let words = words.and_then(|thread| thread.join().ok()).unwrap_or_default();
        if words.is_empty() { "qemu-nbd said nothing".to_owned() } else { words }
    }

    fn end(&self) {
        if let Ok(mut child) = self.child.lock() {
            // It may have ended itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

/// Takes everything that the program says, so that it never waits for us, and keeps the end of it.
fn listen(mut stderr: ChildStderr) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut buffer) {
        kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let surplus = kept.len().saturating_sub(WORDS_BYTES_MAX);
        kept.drain(..surplus);
    }
    let text = String::from_utf8_lossy(&kept);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ").chars().flat_map(char::escape_debug).collect()
}
