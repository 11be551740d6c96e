//! The built program on a folder of this machine, and ways to make that folder odd.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

#[path = "../template/mod.rs"]
pub(crate) mod template;

pub(crate) const MIB: usize = 1 << 20;

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

    pub(crate) fn path(&self, name: &str) -> PathBuf {
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
        command.args(&all[1..]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.current_dir(&self.folder).stdin(Stdio::null());
        command.env("SANCERRE_REPOSITORY", &self.place).env("SANCERRE_PASSWORD", template::PASSPHRASE);
        command
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
        has("strace", &["-V"])
    }
}

/// Whether a program is there; the test is skipped, loudly, if not.
pub(crate) fn has(program: &str, arguments: &[&str]) -> bool {
    let quiet = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_there = quiet.is_ok_and(|status| status.success());
    if !is_there {
        sancerre_services::skip(&format!("{program} is not installed"));
    }
    is_there
}

/// What it said, on both streams.
pub(crate) fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Incompressible bytes, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let words = (0..length / 8).map(|_| {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb).to_le_bytes()
    });
    words.flatten().collect()
}

/// A first sector that says on the serial console that somebody may log in; assembled by hand.
pub(crate) fn boot_sector() -> Vec<u8> {
    let mut sector = vec![
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0xbe, 0x15, 0x7c, // mov si, 0x7c15: the words
        0xba, 0xf8, 0x03, // mov dx, 0x3f8: the first serial port
        0xac, // next: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz end
        0xee, // out dx, al
        0xeb, 0xf8, // jmp next
        0xf4, // end: hlt
        0xeb, 0xfd, // jmp end
    ];
    sector.extend(b"tiny login: \0");
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

/// All files below a folder.
pub(crate) fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { vec![entry.path()] })
        .collect()
}

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

pub(crate) fn quiet(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
