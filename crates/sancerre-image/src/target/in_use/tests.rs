//! An image under a running machine is left alone: locks as QEMU, libvirt and others take them, held by another process.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::*;
use crate::RawTarget;
use crate::testing::{LoopDevice, skip};

/// Another process that has a lock on a file.
struct Holder(Child);

impl Holder {
    /// `call` takes the lock on the open file `f`.
    fn new(path: &Path, call: &str) -> Option<Self> {
        let program = format!(
            "import fcntl, struct, sys\nf = open(sys.argv[1], 'r+b')\n{call}\nprint('locked', flush=True)\nsys.stdin.read()"
        );
        let python = Command::new("python3")
            .args(["-c", &program])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = match python {
            Ok(child) => child,
            Err(error) => {
                skip(&format!("no python3: {error}"));
                return None;
            }
        };
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "locked\n");
        Some(Self(child))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Shared locks of an open file on two bytes, as QEMU has them while a guest runs.
const QEMU: &str = "for at in (100, 201): fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, at, 1, 0))";
/// An exclusive lock of a process on the first byte, as libvirt's lock daemon has it.
const LIBVIRT: &str = "fcntl.lockf(f, fcntl.LOCK_EX, 1, 0)";
const FLOCK: &str = "fcntl.flock(f, fcntl.LOCK_EX)";

fn image(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("vm.raw");
    fs::write(&path, vec![1; 4096]).unwrap();
    path
}

#[test]
fn a_locked_image_is_not_replaced() {
    for call in [QEMU, LIBVIRT, FLOCK] {
        let folder = TempDir::new().unwrap();
        let path = image(&folder);
        let Some(holder) = Holder::new(&path, call) else { return };
        let refused = RawTarget::refuse(&path, true, false).unwrap_err();
        assert!(matches!(refused, TargetError::Locked { .. }), "{call}: {refused:?}");
        let error = RawTarget::create(&path, 4096, true).unwrap_err();
        assert!(matches!(error, TargetError::Locked { .. }), "{call}: {error:?}");
        assert_eq!(error.to_string().contains("QEMU"), call == QEMU, "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(fs::read(&path).unwrap(), [1; 4096]);
        drop(holder);
        RawTarget::create(&path, 4096, true).unwrap().finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), [0; 4096]);
    }
}

/// A machine that is started while the disk is restored has the old image open when it would be replaced.
#[test]
fn an_image_that_gets_locked_meanwhile_is_not_replaced() {
    let folder = TempDir::new().unwrap();
    let path = image(&folder);
    let target = RawTarget::create(&path, 4096, true).unwrap();
    let Some(holder) = Holder::new(&path, QEMU) else { return };
    assert!(matches!(target.finish(), Err(TargetError::Locked { .. })));
    assert_eq!(fs::read(&path).unwrap(), [1; 4096]);
    drop(holder);
    RawTarget::resume(&path, 4096, true).unwrap().finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), [0; 4096]);
}

#[test]
fn a_locked_device_is_not_written() {
    let folder = TempDir::new().unwrap();
    let backing = folder.path().join("backing");
    fs::write(&backing, vec![0; 1 << 20]).unwrap();
    let Some(device) = LoopDevice::attach(&backing) else { return };
    let Some(_holder) = Holder::new(device.path(), QEMU) else { return };
    let error = RawTarget::create(device.path(), 4096, true).unwrap_err();
    assert!(matches!(error, TargetError::Locked { .. }), "{error:?}");
}

#[test]
fn asking_for_locks_takes_none() {
    let folder = TempDir::new().unwrap();
    let path = image(&folder);
    let file = File::open(&path).unwrap();
    refuse_locked(&file, &path).unwrap();
    // Whoever comes now gets them all.
    for call in [QEMU, LIBVIRT, FLOCK] {
        assert!(Holder::new(&path, call).is_some() || std::env::var_os("CI").is_none());
    }
}
