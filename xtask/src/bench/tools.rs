//! The commands that the benchmark times, and the folder they write into.

use super::Night;
use super::cost::{Cost, timed};
use crate::shell;
use anyhow::{Context, Result};
use std::fs;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What opens the repository for a restore.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Opener {
    Passphrase,
    Identity,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    Sancerre,
    Restic,
    Rustic,
}

impl Program {
    /// Those that are there, ours first.
    pub(super) fn installed() -> Vec<Self> {
        let mut programs = vec![Self::Sancerre, Self::Restic];
        programs.extend(shell::is_installed("rustic").then_some(Self::Rustic));
        programs
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sancerre => "sancerre",
            Self::Restic => "restic",
            Self::Rustic => "rustic",
        }
    }
}

/// Where the repositories are, and the variables with which the programs get there.
pub(super) struct Places {
    pub(super) sancerre: String,
    pub(super) restic: String,
    pub(super) variables: Vec<(String, String)>,
}

/// The machine that has all disks, where they are saved as one.
const TOGETHER: &str = "fleet";

/// An empty folder on one file system, for everything that is written but repositories elsewhere.
pub(super) struct Tools {
    work: PathBuf,
    places: Places,
}

impl Tools {
    /// With the repositories in the folder.
    pub(super) fn prepare(work: &Path) -> Result<Self> {
        let local = |name: &str| work.join(name).to_string_lossy().into_owned();
        let places = Places { sancerre: local("sancerre"), restic: local("restic"), variables: Vec::new() };
        Self::at(work, places)
    }

    pub(super) fn at(work: &Path, places: Places) -> Result<Self> {
        let tools = Self { work: work.to_path_buf(), places };
        if work.exists() {
            tools.remove()?;
        }
        fs::create_dir_all(work).with_context(|| format!("cannot create {}", work.display()))?;
        fs::write(work.join("password"), "benchmark\n")?;
        fs::set_permissions(work.join("password"), fs::Permissions::from_mode(0o600))?;
        Ok(tools)
    }

    pub(super) fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.work).with_context(|| format!("cannot remove {}", self.work.display()))
    }

    /// Makes both repositories, and a key that restores without a passphrase, untimed.
    pub(super) fn init(&self) -> Result<()> {
        shell::run(self.sancerre(&["init", "--key-file", &self.path("writer.key")]))?;
        let identity = self.path("identity");
        shell::run(shell::command(
            "ssh-keygen",
            &["-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", &identity],
        ))?;
        let recipient = fs::read_to_string(self.path("identity.pub"))?;
        shell::run(self.sancerre(&["key", "add", "restore", "--recipient", recipient.trim()]))?;
        shell::run(self.restic(&["init", "--quiet"]))
    }

    /// Sizes of the repositories of sancerre and restic.
    pub(super) fn repository_bytes(&self) -> Result<[u64; 2]> {
        Ok([shell::tree_bytes(&self.work.join("sancerre"))?, shell::tree_bytes(&self.work.join("restic"))?])
    }

    /// One run for each disk, as cron does on a hypervisor.
    pub(super) fn sancerre_backup(&self, night: &Night) -> Result<Cost> {
        let mut cost = Cost::default();
        for disk in &night.disks {
            let arguments = ["backup", "--key-file", &self.path("writer.key"), "--vm", &name(disk)];
            let mut command = self.sancerre(&arguments);
            command.arg(format!("disk0={}", disk.display()));
            cost = cost + timed(&command, &self.work)?;
        }
        Ok(cost + self.sync()?)
    }

    /// One run and one snapshot for all disks, as restic has it.
    pub(super) fn sancerre_backup_together(&self, night: &Night) -> Result<Cost> {
        let arguments = ["backup", "--key-file", &self.path("writer.key"), "--vm", TOGETHER];
        let mut command = self.sancerre(&arguments);
        command.args(night.disks.iter().map(|disk| format!("{}={}", name(disk), disk.display())));
        Ok(timed(&command, &self.work)? + self.sync()?)
    }

    /// One run for all disks, which is what serves restic best.
    pub(super) fn restic_backup(&self, night: &Night, options: &[&str]) -> Result<Cost> {
        let mut command = self.restic(&["backup"]);
        command.args(options).args(&night.disks);
        Ok(timed(&command, &self.work)? + self.sync()?)
    }

    /// Restores the newest snapshot of every machine, opened with the passphrase or with the key, and compares, untimed.
    pub(super) fn sancerre_restore(&self, night: &Night, with: Opener) -> Result<Cost> {
        let folder = self.work.join("restored");
        fs::create_dir_all(&folder)?;
        let mut command = self.sancerre(&["restore", "--all", "--target"]);
        command.arg(&folder);
        if with == Opener::Identity {
            command.args(["--identity", &self.path("identity")]);
        }
        let cost = timed(&command, &self.work)? + self.sync()?;
        self.compare_and_remove(night, |disk| folder.join(name(disk)).join("disk0.raw"), &folder)?;
        Ok(cost)
    }

    /// Restores the latest snapshot of all disks with the key, and compares, untimed.
    pub(super) fn sancerre_restore_together(&self, night: &Night) -> Result<Cost> {
        let folder = self.work.join("restored");
        fs::create_dir_all(&folder)?;
        let mut command = self.sancerre(&["restore", &format!("{TOGETHER}:latest"), "--target"]);
        command.arg(&folder).args(["--identity", &self.path("identity")]);
        let cost = timed(&command, &self.work)? + self.sync()?;
        self.compare_and_remove(night, |disk| folder.join(format!("{}.raw", name(disk))), &folder)?;
        Ok(cost)
    }

    /// Restores the latest snapshot, which holds all disks, and compares.
    pub(super) fn restic_restore(&self, night: &Night) -> Result<Cost> {
        let folder = self.work.join("restored");
        let mut command = self.restic(&["restore", "latest", "--quiet", "--target"]);
        let has_sparse =
            shell::output(shell::command("restic", &["restore", "--help"]))?.contains("--sparse");
        command.arg(&folder).args(has_sparse.then_some("--sparse"));
        let cost = timed(&command, &self.work)? + self.sync()?;
        let place = |disk: &Path| folder.join(disk.strip_prefix("/").unwrap_or(disk));
        self.compare_and_remove(night, place, &folder)?;
        Ok(cost)
    }

    /// Makes rustic's repository in the bucket, untimed.
    pub(super) fn init_rustic(&self, endpoint: &str, bucket: &str) -> Result<()> {
        let variable = |name: &str| self.places.variables.iter().find(|(found, _)| found == name);
        let value = |name| variable(name).map_or("", |(_, value)| value);
        let profile = format!(
            "[repository]\nrepository = \"opendal:s3\"\npassword-file = \"{}\"\ncache-dir = \"{}\"\n\
             [repository.options]\nbucket = \"{bucket}\"\nroot = \"/rustic\"\nendpoint = \"{endpoint}\"\n\
             region = \"{}\"\naccess_key_id = \"{}\"\nsecret_access_key = \"{}\"\n",
            self.path("password"),
            self.path("rustic-cache"),
            value("AWS_REGION"),
            value("AWS_ACCESS_KEY_ID"),
            value("AWS_SECRET_ACCESS_KEY"),
        );
        fs::write(self.work.join("rustic.toml"), profile)?;
        shell::run(self.rustic(&["init"]))
    }

    pub(super) fn rustic_backup(&self, night: &Night) -> Result<Cost> {
        let mut command = self.rustic(&["backup"]);
        command.args(&night.disks);
        Ok(timed(&command, &self.work)? + self.sync()?)
    }

    /// Restores the latest snapshot, which holds all disks, and compares.
    pub(super) fn rustic_restore(&self, night: &Night) -> Result<Cost> {
        let folder = self.work.join("restored");
        let mut command = self.rustic(&["restore", "latest"]);
        command.arg(&folder);
        let cost = timed(&command, &self.work)? + self.sync()?;
        let place = |disk: &Path| folder.join(disk.strip_prefix("/").unwrap_or(disk));
        self.compare_and_remove(night, place, &folder)?;
        Ok(cost)
    }

    fn rustic(&self, arguments: &[&str]) -> Command {
        let profile = self.path("rustic");
        let mut command = shell::command("rustic", &["--no-progress", "--log-level", "warn", "-P", &profile]);
        command.args(arguments);
        command
    }

    /// Writes what each night has that no disk held before, and so brings all disks into the page cache.
    pub(super) fn write_new_blocks(&self, nights: &[Night]) -> Result<()> {
        let mut command = self.limits(&["new", &self.path("new")]);
        command.args(nights.iter().map(|night| &night.folder));
        shell::run(command)
    }

    /// Plain compression of the new blocks of the nights in `range`, thrown away.
    pub(super) fn zstd_new_blocks(&self, range: Range<usize>) -> Result<Cost> {
        let mut cost = Cost::default();
        for night in range {
            let file = self.work.join("new").join(format!("new-{night}"));
            let arguments = ["-3", "-T0", "-q", "-c", &file.to_string_lossy()];
            cost = cost + timed(&shell::command("zstd", &arguments), &self.work)?;
        }
        Ok(cost)
    }

    /// Reading and hashing all data of the nights, with two threads.
    pub(super) fn hash(&self, nights: &[Night]) -> Result<Cost> {
        let mut cost = Cost::default();
        for night in nights {
            cost = cost + timed(self.limits(&["hash"]).args(&night.disks), &self.work)?;
        }
        Ok(cost)
    }

    fn compare_and_remove(
        &self,
        night: &Night,
        place: impl Fn(&Path) -> PathBuf,
        folder: &Path,
    ) -> Result<()> {
        for disk in &night.disks {
            shell::run(shell::command("cmp", &[&disk.to_string_lossy(), &place(disk).to_string_lossy()]))?;
        }
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
    }

    /// Until everything written is on the disk.
    fn sync(&self) -> Result<Cost> {
        timed(&shell::command("sync", &["--file-system", &self.path("password")]), &self.work)
    }

    fn sancerre(&self, arguments: &[&str]) -> Command {
        let mut command = release("sancerre", arguments);
        command
            .envs(self.places.variables.iter().map(|(name, value)| (name, value)))
            .env("SANCERRE_REPOSITORY", &self.places.sancerre)
            .env("SANCERRE_PASSWORD_FILE", self.path("password"));
        command
    }

    fn restic(&self, arguments: &[&str]) -> Command {
        let mut command = shell::command("restic", arguments);
        command
            .envs(self.places.variables.iter().map(|(name, value)| (name, value)))
            .env("RESTIC_REPOSITORY", &self.places.restic)
            .env("RESTIC_PASSWORD_FILE", self.path("password"));
        command.env("RESTIC_CACHE_DIR", self.path("restic-cache"));
        command
    }

    fn limits(&self, arguments: &[&str]) -> Command {
        release("limits", arguments)
    }

    fn path(&self, name: &str) -> String {
        self.work.join(name).to_string_lossy().into_owned()
    }
}

fn release(program: &str, arguments: &[&str]) -> Command {
    let path = shell::target_folder().join("release").join(program);
    shell::command(&path.to_string_lossy(), arguments)
}

/// The guest that a disk belongs to.
fn name(disk: &Path) -> String {
    disk.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
