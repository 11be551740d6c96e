//! A disk with a file system on it, and its backups.

use crate::shell;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum System {
    Ext4,
    Ntfs,
    Xfs,
}

pub(super) const SYSTEMS: [(System, &str); 3] =
    [(System::Ext4, "ext4"), (System::Ntfs, "NTFS"), (System::Xfs, "XFS")];

/// An image, mounted while somebody works on it.
pub(super) struct Image {
    pub(super) system: System,
    pub(super) path: PathBuf,
}

/// Where a mounted file system is; it is taken away when this is dropped.
pub(super) struct Mounted {
    pub(super) root: PathBuf,
    is_mounted: bool,
}

impl Image {
    /// A new file system.
    pub(super) fn format(path: PathBuf, system: System) -> Result<Self> {
        let megabytes: u64 = if system == System::Xfs { 320 } else { 192 };
        std::fs::File::create(&path)?.set_len(megabytes << 20)?;
        let shown = path.display().to_string();
        let words: &[&str] = match system {
            System::Ext4 => &["mkfs.ext4", "-q", "-F", "-b", "4096", &shown],
            System::Ntfs => &["mkfs.ntfs", "-q", "-F", "-f", &shown],
            System::Xfs => &["mkfs.xfs", "-q", "-f", &shown],
        };
        quietly(words)?;
        Ok(Self { system, path })
    }

    /// A copy of it, as it is now. In a new file: the loop device of an earlier one may be there still, with what it has read.
    pub(super) fn copy(&self, path: PathBuf) -> Result<Self> {
        let _ = std::fs::remove_file(&path);
        let (from, to) = (self.path.display().to_string(), path.display().to_string());
        quietly(&["cp", "--sparse=always", &from, &to])?;
        Ok(Self { system: self.system, path })
    }

    pub(super) fn mount(&self) -> Result<Mounted> {
        let root = self.path.with_extension("mounted");
        std::fs::create_dir_all(&root)?;
        let (image, to) = (self.path.display().to_string(), root.display().to_string());
        match self.system {
            System::Ntfs => quietly(&["ntfs-3g", "-o", "big_writes", &image, &to])?,
            _ => quietly(&["mount", "-o", "loop", &image, &to])?,
        }
        Ok(Mounted { root, is_mounted: true })
    }
}

impl Mounted {
    /// Tells the disk which blocks are free; false where the file system cannot.
    pub(super) fn trim(&self) -> Result<bool> {
        quietly(&["sync"])?;
        Ok(quietly(&["fstrim", &self.root.display().to_string()]).is_ok())
    }

    pub(super) fn end(mut self) -> Result<()> {
        self.is_mounted = false;
        unmount(&self.root)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = unmount(&self.root);
        }
    }
}

fn unmount(root: &Path) -> Result<()> {
    let root = root.display().to_string();
    for _ in 0..50 {
        if quietly(&["umount", &root]).is_ok() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    bail!("cannot unmount {root}")
}

fn quietly(words: &[&str]) -> Result<()> {
    let (program, arguments) = words.split_first().context("no command")?;
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = shell::command(program, arguments);
    let output = command.env("PATH", path).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    ensure!(output.status.success(), "{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A repository that the nights are saved to.
pub(super) struct Backups {
    program: PathBuf,
    folder: PathBuf,
}

/// What a backup said of a night.
#[derive(Clone, Debug)]
pub(super) struct Night {
    pub(super) verdict: String,
    pub(super) signs: String,
    pub(super) lost: u64,
    pub(super) numbers: Value,
}

impl Backups {
    pub(super) fn new(program: &Path, folder: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&folder)?;
        let backups = Self { program: program.to_path_buf(), folder };
        backups.run(&["init", "--key-file", "w.key", "--writer", "hv1"])?;
        Ok(backups)
    }

    /// Saves a disk, or only says what it would say.
    pub(super) fn back_up(&self, image: &Image, is_dry: bool) -> Result<Night> {
        let disk = format!("disk0={}", image.path.display());
        let mut words = vec!["backup", "--key-file", "w.key", "--vm", "night", "--no-cache", &disk];
        if is_dry {
            words.push("--dry-run");
        }
        let done = self.run(&words)?;
        let suspicion = &done["members"][0]["suspicion"];
        let verdict = suspicion["verdict"].as_str().context("a backup without statistics")?.to_owned();
        let signs = suspicion["signs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let signs = signs.collect::<Vec<_>>().join("+");
        let lost =
            suspicion["lost_files"].as_u64().unwrap_or(0) + suspicion["lost_pages"].as_u64().unwrap_or(0);
        Ok(Night { verdict, signs, lost, numbers: suspicion.clone() })
    }

    /// A folder beside its own.
    pub(super) fn beside(&self, word: &str) -> PathBuf {
        self.folder.with_extension(word)
    }

    /// A copy of the repository, as it is now, without the disks.
    pub(super) fn copy(&self, folder: PathBuf) -> Result<Self> {
        let (from, to) = (self.folder.display().to_string(), folder.display().to_string());
        std::fs::create_dir_all(&folder)?;
        quietly(&["cp", "-r", &format!("{from}/repository"), &format!("{from}/w.key"), &to])?;
        Ok(Self { program: self.program.clone(), folder })
    }

    fn run(&self, words: &[&str]) -> Result<Value> {
        let output = Command::new(&self.program)
            .args(words)
            .arg("--json")
            .current_dir(&self.folder)
            .env("SANCERRE_REPOSITORY", "repository")
            .env("SANCERRE_PASSWORD", "correct horse")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(serde_json::from_str(text.lines().last().unwrap_or("null"))?)
    }
}
