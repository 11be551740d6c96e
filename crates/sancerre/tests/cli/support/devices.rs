//! Block devices for tests: loop devices, which need root.

use std::fs::File;
use std::path::Path;
use std::process::Command;

/// A loop device over a file, detached when dropped.
pub(crate) struct LoopDevice(String);

impl LoopDevice {
    /// None, said loudly, where there are no loop devices. One at a time on the whole machine: of two that pick the same free
    /// device the loser claims it for a moment, and the winner's then looks busy.
    pub(crate) fn attach(backing: &Path) -> Option<Self> {
        let turn = File::open("/dev/loop-control").and_then(|control| control.lock().map(|()| control));
        let made =
            turn.and_then(|_turn| Command::new("losetup").args(["--find", "--show"]).arg(backing).output());
        match made {
            Ok(made) if made.status.success() => {
                Some(Self(String::from_utf8(made.stdout).unwrap().trim().into()))
            }
            other => {
                super::skip(&format!("no loop device: {other:?}"));
                None
            }
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).output();
    }
}
