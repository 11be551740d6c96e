//! A backup that is killed without a chance to clean up, and the nights around it.

use crate::support::template;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Enough for several packs, so that one is stored while others are still in the making.
const NOISE_BYTES: usize = 160 << 20;

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
    command.args(arguments).env_clear().current_dir(folder).stdin(Stdio::null());
    command.env("SANCERRE_REPOSITORY", "repository").env("SANCERRE_KEY_FILE", "writer.key");
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let output = command(folder, arguments).env("SANCERRE_PASSWORD", "correct horse").output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn write_disk(path: &Path, seed: u8, length: usize) {
    let mut noise = vec![0; length];
    let mut state = u64::from(seed) | 1;
    for word in noise.chunks_exact_mut(8) {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        word.copy_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    let file = std::fs::File::create(path).unwrap();
    file.set_len(length as u64 + (8 << 20)).unwrap();
    file.write_all_at(&noise, 4 << 20).unwrap();
}

/// Kills the backup once its first pack is stored.
fn kill_in_the_middle(folder: &Path, mut backup: Child) {
    let packs = folder.join("repository/zones/default/packs/0000000000000002");
    while !packs.is_dir() {
        assert!(backup.try_wait().unwrap().is_none(), "the backup was over before it could be killed");
        std::thread::sleep(Duration::from_millis(2));
    }
    backup.kill().unwrap();
    assert!(!backup.wait().unwrap().success());
}

#[test]
fn nothing_is_lost_and_the_next_night_succeeds() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    template::make(&folder.join("repository"), &folder.join("writer.key"), "correct horse", 0);
    write_disk(&folder.join("first.raw"), 1, 1 << 20);
    run(folder, &["backup", "--vm", "web01", "disk0=first.raw"]);
    write_disk(&folder.join("second.raw"), 2, NOISE_BYTES);
    let backup = command(folder, &["backup", "--vm", "web01", "disk0=second.raw"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    kill_in_the_middle(folder, backup.unwrap());

    let listed = run(folder, &["snapshots", "-q"]);
    assert_eq!(
        String::from_utf8_lossy(&listed.stdout).matches("web01").count(),
        1,
        "a killed backup is no snapshot"
    );
    run(folder, &["backup", "--vm", "web01", "disk0=second.raw"]);
    for (snapshot, disk) in [("web01:latest~1:disk0", "first.raw"), ("web01:latest:disk0", "second.raw")] {
        run(folder, &["restore", snapshot, "--target", "restored.raw"]);
        let restored = std::fs::read(folder.join("restored.raw")).unwrap();
        std::fs::remove_file(folder.join("restored.raw")).unwrap();
        assert!(restored == std::fs::read(folder.join(disk)).unwrap(), "{snapshot} differs from {disk}");
    }
    run(folder, &["check", "--read-data"]);
}
