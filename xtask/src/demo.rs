//! `cargo xtask demo`: the main job from end to end on a small realistic disk, each result checked.

use crate::fleet::mini;
use crate::{setup, shell};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const NIGHTS: u32 = 2;

/// Builds the program, backs up two nights of a disk, restores the second and compares it bit for bit.
pub(crate) fn run() -> Result<()> {
    setup::install(setup::SMALL_FLEET_TOOLS)?;
    shell::run(shell::cargo(&["build", "--release", "--locked", "--package", "sancerre"]))?;
    let folder = std::env::temp_dir().join(format!("sancerre-demo-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let outcome = play(&Stage::new(&folder)?);
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    outcome
}

/// Where everything of the demo lies.
struct Stage {
    disks: PathBuf,
    repository: PathBuf,
    password: PathBuf,
    restored: PathBuf,
}

impl Stage {
    fn new(folder: &Path) -> Result<Self> {
        let password = folder.join("password");
        fs::write(&password, "only a demonstration\n")?;
        // The program reads no passphrase that others could read.
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
        let repository = folder.join("repository");
        Ok(Self { disks: folder.join("disks"), repository, password, restored: folder.join("restored.raw") })
    }

    /// The release program, on the demo's repository.
    fn sancerre(&self, arguments: &[&str]) -> Command {
        let program = shell::target_folder().join("release/sancerre");
        let mut command = shell::command(&program.to_string_lossy(), arguments);
        command.env("SANCERRE_REPOSITORY", &self.repository).env("SANCERRE_PASSWORD_FILE", &self.password);
        command
    }

    /// Shows the command, runs it, says how long it took.
    fn step(&self, arguments: &[&str]) -> Result<Duration> {
        println!("\n$ sancerre {}", arguments.join(" "));
        let started = Instant::now();
        shell::run(self.sancerre(arguments))?;
        Ok(started.elapsed())
    }
}

fn play(stage: &Stage) -> Result<()> {
    println!("making two nights of a web server's disk");
    mini::build_guest(&mini::WEB, &stage.disks, NIGHTS)?;
    println!("\n$ export SANCERRE_REPOSITORY={}", stage.repository.display());
    println!("$ export SANCERRE_PASSWORD_FILE={}", stage.password.display());
    stage.step(&["init"])?;
    let mut backups = Vec::new();
    for night in 0..NIGHTS {
        let disk = mini::disk(&stage.disks, night, &mini::WEB);
        let took = stage.step(&["backup", "--vm", mini::WEB.name, &format!("disk0={}", disk.display())])?;
        backups.push((took, shell::tree_bytes(&stage.repository)?));
    }
    stage.step(&["snapshots"])?;
    let snapshot = format!("{}:latest:disk0", mini::WEB.name);
    let target = stage.restored.to_string_lossy().into_owned();
    let restore = stage.step(&["restore", &snapshot, "--target", &target])?;
    let last = mini::disk(&stage.disks, NIGHTS - 1, &mini::WEB);
    println!("\n$ cmp {} {target}", last.display());
    shell::run(shell::command("cmp", &[&last.to_string_lossy(), &target]))?;
    stage.step(&["check"])?;
    numbers(&last, &backups, restore)
}

/// The closing table: `backups` holds the time of each night and the size of the repository after it.
fn numbers(disk: &Path, backups: &[(Duration, u64)], restore: Duration) -> Result<()> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let size_bytes = fs::metadata(disk)?.len();
    println!(
        "\ndisk              {:8.1} MiB, {:.1} MiB of it allocated",
        mib(size_bytes),
        mib(shell::allocated_bytes(disk)?)
    );
    let mut before = 0;
    for (night, (took, after)) in backups.iter().enumerate() {
        ensure!(*after > before, "night {night} added nothing to the repository, though the disk changed");
        println!(
            "backup, night {night}   {:8.1} MiB stored in {:.2} s",
            mib(after - before),
            took.as_secs_f64()
        );
        before = *after;
    }
    println!(
        "restore           {:8.1} MiB in {:.2} s, equal bit for bit",
        mib(size_bytes),
        restore.as_secs_f64()
    );
    Ok(())
}
