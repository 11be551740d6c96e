//! Whether somebody works with a file or device now. A virtual machine writes to its disk's file for as long as it runs:
//! were the file replaced, all that it writes from then on would be lost.

use std::fs::File;
use std::path::Path;

use rustix::fs::IFlags;
use rustix::process::{Flock, FlockType, fcntl_getlk};

use crate::TargetError;
use crate::in_use::is_locked_whole;

/// Fails when another process has a lock on `file`: QEMU locks bytes 100 to 203 of its images, libvirt's lock daemon byte
/// 0, others all of it. Asking takes no lock, so nobody is kept from anything.
///
/// A file system without locks cannot tell, and lets this pass.
pub(super) fn refuse_locked(file: &File, path: &Path) -> Result<(), TargetError> {
    let is_locked = |start, length| {
        let wanted = Flock { start, length, ..Flock::from(FlockType::WriteLock) };
        fcntl_getlk(file, &wanted).is_ok_and(|holder| holder.is_some())
    };
    // Length 0 reaches to the end of all files.
    if is_locked(0, 0) || is_locked_whole(file) {
        let by = if is_locked(100, 104) { "QEMU locks its images so" } else { "perhaps a virtual machine" };
        return Err(TargetError::Locked { path: path.to_owned(), by });
    }
    Ok(())
}

/// Fails for a file that nobody may replace: `chattr +i` and `+a`.
pub(super) fn refuse_immutable(file: &File, path: &Path) -> Result<(), TargetError> {
    let fixed = IFlags::IMMUTABLE | IFlags::APPEND;
    match rustix::fs::ioctl_getflags(file) {
        Ok(flags) if flags.intersects(fixed) => Err(TargetError::NotATarget {
            path: path.to_owned(),
            kind: "file that nobody may replace (chattr +i or +a)",
            advice: "take the flag away, or name another file".into(),
        }),
        // Most file systems have no flags.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
