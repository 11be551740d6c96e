//! The built program in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::{has, noise, summary, template, told};

/// Has the first object of a command wait for three seconds, written, before it gets its name.
pub(crate) const FIRST_LINK_WAITS: [&str; 9] = [
    "strace",
    "-f",
    "-qq",
    "-o",
    "/dev/null",
    "-e",
    "trace=linkat",
    "-e",
    "inject=linkat:delay_enter=3000000:when=1",
];

/// A folder of a test, in which its repository and its keys lie.
pub(crate) struct Site {
    pub(crate) folder: tempfile::TempDir,
    /// Where the repository is.
    pub(crate) place: PathBuf,
}

impl Site {
    /// Without a repository.
    pub(crate) fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("repository");
        Self { folder, place }
    }

    /// With a repository, a writer's key and a keeper's.
    pub(crate) fn new() -> Self {
        let site = Self::empty();
        template::copy(site.folder.path(), &site.place);
        site
    }

    /// With a disk in it as well, and a snapshot of that.
    pub(crate) fn with_disk(length: usize) -> Self {
        let site = Self::new();
        std::fs::write(site.path("disk.raw"), noise(1, length)).unwrap();
        site.save("web01");
        site
    }

    /// Makes the repository and the keys.
    pub(crate) fn made(self) -> Self {
        self.succeed(&["init", "--key-file", "w.key", "--writer", "hv1"]);
        self.succeed(&["key", "add", "keeper", "vault", "--out", "k.key"]);
        self
    }

    /// The same with the repository elsewhere.
    pub(crate) fn at(mut self, place: impl Into<PathBuf>) -> Self {
        self.place = place.into();
        self
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program, behind another one if `before` names one.
    pub(crate) fn command_behind(&self, before: &[&str], arguments: &[&str]) -> Command {
        let all: Vec<&str> = before
            .iter()
            .copied()
            .chain([env!("CARGO_BIN_EXE_sancerre")])
            .chain(arguments.iter().copied())
            .collect();
        let mut command = Command::new(all[0]);
        command.args(&all[1..]);
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        command.env_clear().envs(crate::support::CHEAP).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.current_dir(&self.folder).stdin(Stdio::null());
        command.env("SANCERRE_REPOSITORY", &self.place).env("SANCERRE_PASSWORD", template::PASSPHRASE);
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_behind(&[], arguments)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn succeed(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", told(&output));
        output
    }

    /// The program is refused its wish with this exit code and these words; all that it said.
    pub(crate) fn refuse(&self, arguments: &[&str], code: i32, says: &str) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", told(&output));
        assert!(told(&output).contains(says), "{arguments:?}: {}", told(&output));
        told(&output)
    }

    /// A script in which `$S` is the program.
    pub(crate) fn shell(&self, script: &str) -> Output {
        let mut command = Command::new("bash");
        command.args(["-c", script]);
        self.prepare(&mut command);
        command.env("S", env!("CARGO_BIN_EXE_sancerre")).output().unwrap()
    }

    /// Backs up `disk.raw` as it is; the id of the snapshot.
    pub(crate) fn save(&self, vm: &str) -> String {
        let output = self.succeed(&["backup", "--json", "--key-file", "w.key", "--vm", vm, "disk.raw"]);
        summary(&output)["snapshot"].as_str().unwrap().to_owned()
    }

    /// The ids of all snapshots.
    pub(crate) fn snapshots(&self) -> Vec<String> {
        let listed = summary(&self.succeed(&["snapshots", "--json", "--key-file", "w.key"]));
        listed["snapshots"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["id"].as_str().unwrap().to_owned())
            .collect()
    }

    pub(crate) fn trust(&self) -> String {
        let listed = summary(&self.succeed(&["key", "list", "--json", "--key-file", "w.key"]));
        listed["trust_anchor"].as_str().unwrap().to_owned()
    }

    /// Backs up a disk with these bytes.
    pub(crate) fn back_up(&self, seed: u64, length: usize) -> Output {
        std::fs::write(self.path("disk.raw"), noise(seed, length)).unwrap();
        self.run(&["backup", "--key-file", "w.key", "--vm", "web01", "--allow-small", "disk0=disk.raw"])
    }

    /// The newest snapshot comes back as the disk is.
    pub(crate) fn comes_back(&self) {
        self.succeed(&["restore", "web01:latest:disk0", "--target", "back.raw", "--overwrite"]);
        assert!(
            std::fs::read(self.path("back.raw")).unwrap() == std::fs::read(self.path("disk.raw")).unwrap()
        );
    }

    /// Whether strace can be used; says so if not.
    pub(crate) fn has_strace() -> bool {
        has("strace")
    }
}
