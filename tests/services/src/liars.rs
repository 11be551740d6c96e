//! Two real S3 servers that do not keep what S3 promises: `rclone serve s3` takes every condition and ignores it, and
//! Ceph's gateway ignores create-only requests in a bucket that keeps versions. For `cargo xtask probe`; no test needs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use anyhow::{Context, Result, ensure};

use crate::seaweedfs::{self, ADMIN};
use crate::shared::{self, Recipe, Running};
use crate::{Bucket, Variables, http, install};

/// A running server.
pub struct Liar {
    port: u16,
    _keeps: Box<dyn std::any::Any>,
}

impl Liar {
    /// The variables with which a process uses the server.
    pub fn variables(&self) -> Variables {
        seaweedfs::variables(&format!("http://127.0.0.1:{}", self.port), ADMIN)
    }

    /// Makes a bucket.
    pub fn bucket(&self, name: &str, kind: Bucket) -> Result<()> {
        seaweedfs::create_bucket(self.port, name, kind)
    }
}

/// Installs and starts `rclone serve s3` on an empty folder.
pub fn rclone() -> Result<Liar> {
    install::install_rclone()?;
    let program = install::rclone().context("rclone is not where it was installed")?;
    let running = shared::running(&Rclone { program })?;
    Ok(Liar { port: running.port, _keeps: Box::<Running>::new(running) })
}

struct Rclone {
    program: PathBuf,
}

impl Recipe for Rclone {
    fn name(&self) -> &'static str {
        "rclone"
    }

    fn ports(&self) -> usize {
        1
    }

    fn command(&self, folder: &Path, ports: &[u16]) -> Result<Vec<String>> {
        fs::create_dir(folder.join("data"))?;
        let keys = format!("{},{}", ADMIN.access_key, ADMIN.secret_key);
        let address = format!("127.0.0.1:{}", ports[0]);
        let program = self.program.display().to_string();
        let words = ["serve", "s3", "--addr", &address, "--auth-key", &keys, "--config", "/dev/null", "data"];
        Ok(std::iter::once(program).chain(words.map(str::to_owned)).collect())
    }

    fn is_ready(&self, port: u16) -> bool {
        http::request(port, "GET", "/", &[], &[]).is_ok()
    }

    fn prepare(&self, _: u16) -> Result<()> {
        Ok(())
    }
}

/// Starts Ceph with its gateway in a new folder below `folder`. Debian's ceph-mon, ceph-mgr, ceph-osd, radosgw and
/// ceph-common must be installed; needs root.
pub fn radosgw(folder: &Path) -> Result<Liar> {
    const SCRIPT: &str = include_str!("radosgw.sh");
    let folder = folder.join(crate::unique());
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let ports = shared::free_ports(3)?;
    let daemons = Daemons { folder };
    let mut command = Command::new("bash");
    command.args(["-c", SCRIPT, "radosgw.sh"]).arg(&daemons.folder);
    command.args(ports.iter().map(u16::to_string)).args([ADMIN.access_key, ADMIN.secret_key]);
    let log = daemons.folder.join("start.log");
    let output = fs::File::create(&log)?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let status = command.status().context("cannot start bash")?;
    ensure!(status.success(), "Ceph does not start: {}", fs::read_to_string(&log).unwrap_or_default());
    Ok(Liar { port: ports[0], _keeps: Box::new(daemons) })
}

/// Ends the daemons and removes their folder when dropped.
struct Daemons {
    folder: PathBuf,
}

impl Drop for Daemons {
    fn drop(&mut self) {
        let _ = end(&self.folder);
    }
}

fn end(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pid") {
            Command::new("kill").arg("-9").arg(fs::read_to_string(&path)?.trim()).status()?;
        }
    }
    fs::remove_dir_all(folder)
}
