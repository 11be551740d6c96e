//! The files that are installed, in memory, and written out with fixed times, owners, modes and order.

use super::deb::UNITS;
use super::licences;
use super::release::Release;
use crate::shell;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Files by their path; a folder is there because a file is in it.
#[derive(Clone, Default)]
pub(super) struct Tree {
    files: BTreeMap<String, (u32, Vec<u8>)>,
}

impl Tree {
    /// Puts a file there, which is read by everybody.
    pub(super) fn add(&mut self, path: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.files.insert(path.into(), (0o644, bytes.into()));
    }

    /// Puts a program there.
    pub(super) fn add_program(&mut self, path: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.files.insert(path.into(), (0o755, bytes.into()));
    }

    /// All paths, sorted.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// What the files occupy on a disk, as Debian counts it.
    pub(super) fn size_kib(&self) -> usize {
        self.files.values().map(|(_, bytes)| bytes.len().div_ceil(1024)).sum()
    }

    /// Writes everything below `folder`, which is made anew.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let _ = fs::remove_dir_all(folder);
        for (path, (mode, bytes)) in &self.files {
            let path = folder.join(path);
            let parent = path.parent().unwrap_or(folder);
            fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
            set_mode(&path, *mode)?;
            // Whatever the umask is.
            let folders = parent.ancestors().take_while(|above| above.starts_with(folder));
            folders.into_iter().try_for_each(|above| set_mode(above, 0o755))?;
        }
        Ok(())
    }
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

/// What both the package and the tarball hold.
pub(super) struct Stage {
    pub(super) program: Vec<u8>,
    /// Name and text of each manual page.
    pub(super) pages: Vec<(String, Vec<u8>)>,
    /// Shell and script.
    pub(super) completions: Vec<(&'static str, Vec<u8>)>,
    /// What the licences of the dependencies ask to be handed on.
    pub(super) licences: String,
}

impl Stage {
    /// Asks `program` for its manual pages and completions.
    pub(super) fn new(program: &Path, release: &Release) -> Result<Self> {
        let name = program.to_str().context("the path of the program is no UTF-8")?;
        let folder = scratch("man");
        let _ = fs::remove_dir_all(&folder);
        let folder_name = folder.to_str().context("the path of the target folder is no UTF-8")?;
        shell::run(shell::command(name, &["man", folder_name]))?;
        let mut pages = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            pages.push((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?));
        }
        pages.sort();
        let completions = ["bash", "zsh", "fish"].into_iter().map(|shell| {
            Ok((shell, shell::output(shell::command(name, &["completions", shell]))?.into_bytes()))
        });
        Ok(Self {
            program: fs::read(program)?,
            pages,
            completions: completions.collect::<Result<_>>()?,
            licences: licences::text(release)?,
        })
    }

    /// One folder with the program and what belongs beside it.
    pub(super) fn tarball(&self, release: &Release, to: &Path) -> Result<()> {
        let name = format!("sancerre-{}-x86_64-linux", release.version);
        let mut tree = Tree::default();
        tree.add_program(format!("{name}/sancerre"), self.program.clone());
        for file in ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"] {
            tree.add(format!("{name}/{file}"), source(file)?);
        }
        tree.add(format!("{name}/THIRD-PARTY-LICENSES.txt"), self.licences.clone());
        for (page, text) in &self.pages {
            tree.add(format!("{name}/man/man1/{page}"), text.clone());
        }
        for (shell, script) in &self.completions {
            tree.add(format!("{name}/completions/sancerre.{shell}"), script.clone());
        }
        for file in [UNITS.as_slice(), &["example.conf"]].concat() {
            tree.add(format!("{name}/systemd/{file}"), source(&format!("docs/systemd/{file}"))?);
        }
        tree.add_program(format!("{name}/pictures/reflink.sh"), source("docs/pictures/reflink.sh")?);
        let folder = scratch("tarball");
        tree.write(&folder)?;
        let mtime = format!("--mtime=@{}", release.epoch_seconds);
        let fixed = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=ustar", &mtime];
        let mut command = shell::command("tar", &["--create", "--use-compress-program=gzip -9n", "--file"]);
        command.arg(to).args(fixed).arg(name).current_dir(&folder);
        shell::run(command)
    }
}

/// A file of the repository.
pub(super) fn source(path: &str) -> Result<Vec<u8>> {
    fs::read(shell::root().join(path)).with_context(|| format!("cannot read {path}"))
}

/// `bytes` as `gzip` packs them, without name and time.
pub(super) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let folder = scratch("gzip");
    fs::create_dir_all(&folder)?;
    let path = folder.join("file");
    fs::write(&path, bytes)?;
    let mut command = shell::command("gzip", &["--best", "--no-name", "--force"]);
    command.arg(&path);
    shell::run(command)?;
    Ok(fs::read(folder.join("file.gz"))?)
}

/// A folder for what is only on the way.
pub(super) fn scratch(name: &str) -> PathBuf {
    shell::target_folder().join("tmp/dist").join(name)
}
