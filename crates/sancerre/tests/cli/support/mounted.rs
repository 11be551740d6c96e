//! Small file systems on loop devices.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::quiet;

/// A small file system of its own on a loop device, mounted while this lives.
pub(crate) struct Loop {
    pub(crate) mountpoint: PathBuf,
}

impl Loop {
    /// In `folder`; none, loudly, where that cannot be had.
    pub(crate) fn new(folder: &Path, mebibytes: u64, options: &[&str]) -> Option<Self> {
        let (image, mountpoint) = (folder.join("fs.img"), folder.join("mounted"));
        std::fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        std::fs::create_dir(&mountpoint).unwrap();
        let made = quiet(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).args(options).arg(&image));
        if !made || !quiet(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mountpoint)) {
            sancerre_services::skip(
                "no file system can be made and mounted (root, mkfs.ext4, a loop device)",
            );
            return None;
        }
        Some(Self { mountpoint })
    }

    /// Mounts it anew with other options.
    pub(crate) fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        assert!(quiet(Command::new("mount").args(["-o", &options]).arg(&self.mountpoint)));
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        quiet(Command::new("umount").arg("-l").arg(&self.mountpoint));
    }
}
