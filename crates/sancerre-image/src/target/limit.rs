//! Why a file cannot be as large as the disk.

use std::fs::File;
use std::path::Path;

use rustix::fs::fstatfs;
use rustix::process::{Resource, getrlimit};

use crate::TargetError;

/// What to do about a file system that takes no larger file.
const ELSEWHERE: &str = "restore to XFS or btrfs, or to a block device";

/// The error for a file that the system calls too large.
pub(super) fn too_large(path: &Path, file: &File, size_bytes: u64) -> TargetError {
    let own = getrlimit(Resource::Fsize).current.filter(|most| *most < size_bytes);
    let limit = match own {
        Some(most) => format!("this process may make files of at most {most} bytes; raise that (ulimit -f)"),
        None => format!("the file system there is {}; {ELSEWHERE}", known(file)),
    };
    TargetError::TooLarge { path: path.to_owned(), size_bytes, limit }
}

fn known(file: &File) -> &'static str {
    const ONE: &str = "one that takes no file that large";
    // Superblock magic numbers, as statfs(2) has them.
    match fstatfs(file) {
        Ok(found) if found.f_type == 0xEF53 => {
            "ext4, which takes files of up to 16 TiB (with blocks of 4 KiB)"
        }
        Ok(found) if found.f_type == 0x4D44 => "FAT, which takes files of less than 4 GiB",
        _ => ONE,
    }
}

#[cfg(test)]
mod tests;
