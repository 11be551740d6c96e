//! A file on FUSE that gives errors and stalls where a test says.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sancerre_services::skip;

/// Debian's own, which has the package python3-fusepy.
const PYTHON: &str = "/usr/bin/python3";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/support/faulty.py");
const START_MAX: Duration = Duration::from_secs(20);

/// The mounted file, unmounted when dropped.
pub(crate) struct Faulty {
    folder: PathBuf,
    server: Child,
}

impl Faulty {
    /// With these bytes, and nothing wrong yet; `None`, said loudly, where FUSE cannot be had.
    pub(crate) fn mount(folder: &Path, bytes: &[u8]) -> Option<Self> {
        let path = |name: &str| folder.join(name);
        std::fs::create_dir_all(path("mounted")).unwrap();
        std::fs::write(path("backing"), bytes).unwrap();
        File::create(path("rules")).unwrap();
        let has_module = Command::new(PYTHON).args(["-c", "import fusepy"]).output();
        if !has_module.is_ok_and(|output| output.status.success()) || !Path::new("/dev/fuse").exists() {
            skip("no FUSE: it needs /dev/fuse and python3-fusepy");
            return None;
        }
        let server = Command::new(PYTHON)
            .arg(SCRIPT)
            .args([path("backing"), path("rules"), path("mounted")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let faulty = Self { folder: folder.to_owned(), server };
        let started = Instant::now();
        while !faulty.disk().exists() {
            if started.elapsed() > START_MAX {
                skip("FUSE does not mount here");
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(faulty)
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.folder.join("mounted/disk")
    }

    /// From now on these rules hold: lines as the script has them.
    pub(crate) fn rule(&self, rules: &str) {
        std::fs::write(self.folder.join("rules.new"), rules).unwrap();
        std::fs::rename(self.folder.join("rules.new"), self.folder.join("rules")).unwrap();
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.rule("");
        let _ = Command::new("umount").arg("-l").arg(self.folder.join("mounted")).status();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
