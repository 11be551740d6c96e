//! A disk that stops taking what was written, before and at the end of a restore.

use std::path::Path;

use rustix::fs::FlockOperation;
use tempfile::TempDir;

use super::*;
use crate::testing::{is_inner, repeat_with_fault};
use crate::{Qcow2Compression, Qcow2Target, RawTarget, TargetError};

const MIB: usize = 1 << 20;
/// Several steps, so that a flush begins while more is written.
const DISK_BYTES: u64 = 5 * STEP_BYTES;

fn raw(name: &Path) -> Result<(), TargetError> {
    let target = RawTarget::create(name, DISK_BYTES, false)?;
    (0..DISK_BYTES).step_by(MIB).try_for_each(|at| target.write_at(at, &[7; MIB]))?;
    target.finish()
}

fn qcow2(name: &Path) -> Result<(), TargetError> {
    let target = Qcow2Target::create(name, DISK_BYTES, false, Qcow2Compression::None)?;
    (0..DISK_BYTES).step_by(MIB).try_for_each(|at| target.write_at(at, &[7; MIB]))?;
    target.finish()
}

/// The later flushes succeed: the kernel tells of lost pages once.
#[test]
fn a_flush_that_fails_early_is_told_at_the_end() {
    const NAME: &str = "target::write_back::tests::a_flush_that_fails_early_is_told_at_the_end";
    if !is_inner() {
        return repeat_with_fault(NAME, "inject=fdatasync:error=EIO:when=1");
    }
    for restore in [raw, qcow2] {
        let folder = TempDir::new().unwrap();
        let name = folder.path().join("disk");
        // strace counts per thread, and each target has a thread of its own.
        let error = restore(&name).unwrap_err();
        assert!(
            matches!(&error, TargetError::Io { source, .. } if source.raw_os_error() == Some(5)),
            "{error:?}"
        );
        assert!(!name.exists());
    }
}

/// The thread holds the file, and with it the lock.
#[test]
fn a_target_that_was_given_up_is_free_at_once() {
    let folder = TempDir::new().unwrap();
    let name = folder.path().join("disk");
    let target = RawTarget::create(&name, DISK_BYTES, false).unwrap();
    (0..DISK_BYTES).step_by(MIB).for_each(|at| target.write_at(at, &[7; MIB]).unwrap());
    drop(target);
    let left = File::open(name.with_file_name("disk.sancerre-partial")).unwrap();
    rustix::fs::flock(&left, FlockOperation::NonBlockingLockExclusive).unwrap();
}
