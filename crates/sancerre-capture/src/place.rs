//! The folder of one machine in which a backup keeps what lives as long as it does, and the lock that says whether it lives.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::geteuid;
use sancerre_advice::Setting::RunFolder;

use crate::error::CaptureError;

/// Longest path of a socket (unix(7)).
const SOCKET_BYTES_MAX: usize = 107;
/// Between two looks at a lock.
const STEP: Duration = Duration::from_millis(50);

/// Where sockets and locks lie when nobody says: `runtime` is `XDG_RUNTIME_DIR`.
pub fn default_run_folder(runtime: Option<PathBuf>) -> PathBuf {
    match runtime {
        Some(runtime) if !geteuid().is_root() => runtime.join("sancerre"),
        _ => PathBuf::from("/run/sancerre"),
    }
}

/// A machine's folder, locked: nobody else works on this machine while it lives.
#[derive(Debug)]
pub(crate) struct Place {
    folder: PathBuf,
    lock: Arc<File>,
}

impl Place {
    /// Makes the folder of a machine below `base` and locks it, for which it waits so long. It belongs to `owner`, as whom
    /// the machine's process runs.
    ///
    /// # Errors
    /// [`CaptureError::Busy`] when another process has it; what the system says.
    pub(crate) fn claim(
        base: &Path,
        uuid: &str,
        owner: Option<(u32, u32)>,
        patience: Duration,
    ) -> Result<Self, CaptureError> {
        let lock = lock(base, uuid, patience)?;
        let folder = base.join(uuid);
        make(&folder, 0o700).map_err(|source| failed("make", &folder, source))?;
        if let Some((user, group)) = owner.filter(|_| geteuid().is_root()) {
            chown(&folder, Some(user), Some(group))
                .map_err(|source| failed("change the owner of", &folder, source))?;
        }
        let place = Self { folder, lock: Arc::new(lock) };
        if place.socket().as_os_str().len() > SOCKET_BYTES_MAX {
            let source = io::Error::from(io::ErrorKind::InvalidFilename);
            return Err(CaptureError::File {
                operation: "make",
                path: place.socket(),
                source,
                advice: format!(
                    "the path of a socket may have 107 bytes: give a shorter one with {RunFolder}"
                ),
            });
        }
        Ok(place)
    }

    /// The folder of all machines.
    pub(crate) fn base(&self) -> &Path {
        self.folder.parent().unwrap_or(&self.folder)
    }

    /// What the machine is called here.
    pub(crate) fn id(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What says that somebody works on the machine.
    pub(crate) fn lock(&self) -> Arc<File> {
        Arc::clone(&self.lock)
    }

    /// Where disks are served.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("nbd.sock")
    }

    /// There while a machine is frozen by us.
    pub(crate) fn marker(&self) -> PathBuf {
        self.folder.join("frozen")
    }

    /// Writes a file that another program is to read.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf, CaptureError> {
        let path = self.folder.join(name);
        // A machine's description has passwords in it.
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        let written =
            options.open(&path).and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()));
        written.map_err(|source| CaptureError::File {
            operation: "write",
            path: path.clone(),
            source,
            advice: advice(),
        })?;
        Ok(path)
    }

    /// Removes all that lies there.
    pub(crate) fn empty(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            // What cannot be removed is met again by the next one, who says so when it is in the way.
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Only if nothing lies there: a marker has still to be seen. The lock stays, or two could hold one each.
        let _ = fs::remove_dir(&self.folder);
    }
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> CaptureError {
    CaptureError::File { operation, path: path.to_owned(), source, advice: advice() }
}

fn advice() -> String {
    format!("give a folder that this user may write to with {RunFolder}")
}

/// Locks a machine, for which it waits so long; the lock is a file in the folder `base`.
///
/// # Errors
/// [`CaptureError::Busy`] when another process has it; what the system says.
pub(crate) fn lock(base: &Path, id: &str, patience: Duration) -> Result<File, CaptureError> {
    // Others may pass through it, and see nothing.
    make(base, 0o711).map_err(|source| failed("make", base, source))?;
    let path = base.join(format!("{id}.lock"));
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let lock = lock.map_err(|source| failed("open", &path, source))?;
    let started = Instant::now();
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(Errno::WOULDBLOCK) if started.elapsed() < patience => thread::sleep(STEP),
            Err(Errno::WOULDBLOCK) => {
                return Err(CaptureError::Busy {
                    machine: id.to_owned(),
                    why: "another sancerre backs this machine up now; wait until it is done".into(),
                });
            }
            Err(error) => return Err(failed("lock", &path, error.into())),
        }
    }
}

/// FNV-1a: short, and the same tomorrow.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn make(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_one_place_at_a_time() {
        let base = tempfile::tempdir().unwrap();
        let place = Place::claim(base.path(), "u", None, Duration::ZERO).unwrap();
        assert!(matches!(
            Place::claim(base.path(), "u", None, Duration::ZERO),
            Err(CaptureError::Busy { .. })
        ));
        Place::claim(base.path(), "v", None, Duration::ZERO).unwrap();
        place.write("x", "y").unwrap();
        place.empty();
        drop(place);
        assert!(!base.path().join("u").exists());
        Place::claim(base.path(), "u", None, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_said_before_it_is_made() {
        let base = tempfile::tempdir().unwrap();
        let long = base.path().join("x".repeat(100));
        let error = Place::claim(&long, "u", None, Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("run_folder"), "{error}");
    }
}
