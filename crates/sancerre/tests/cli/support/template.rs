//! A repository as `init` makes it, with a writer's key and a keeper's, made once and then copied: each passphrase costs a
//! second of a processor, and most tests are about something else. All copies are the same repository; a test that needs two
//! different ones makes them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{CHEAP, summary, told};

/// The passphrase of the repository.
pub(crate) const PASSPHRASE: &str = "correct horse";

/// Puts the repository at `place`, and `w.key` (writer hv1) and `k.key` (keeper vault) into `folder`.
pub(crate) fn copy(folder: &Path, place: &Path) {
    let made = made();
    let copied = |from: PathBuf, to: &Path| {
        let status = Command::new("cp").arg("-a").arg(&from).arg(to).status().unwrap();
        assert!(status.success(), "{} to {}", from.display(), to.display());
    };
    copied(made.join("repository"), place);
    copied(made.join("w.key"), folder);
    copied(made.join("k.key"), folder);
}

/// The trust anchor of the repository.
pub(crate) fn trust() -> String {
    std::fs::read_to_string(made().join("trust")).unwrap()
}

/// Makes a repository, with a writer's key, whose passphrase costs next to nothing. Its trust anchor.
pub(crate) fn make(place: &Path, key_file: &Path, passphrase: &str, approvals_needed: u32) -> String {
    let approvals = approvals_needed.to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
    command.args(["init", "--json", "--writer", "hv1", "--approvals-needed", &approvals]).env_clear();
    command.arg("--repo").arg(place).arg("--key-file-out").arg(key_file).stdin(Stdio::null());
    let output = command.env("SANCERRE_PASSWORD", passphrase).envs(CHEAP).output().unwrap();
    assert!(output.status.success(), "init: {}", told(&output));
    summary(&output)["trust_anchor"].as_str().unwrap().to_owned()
}

/// Where it lies, for this very program. Tests run in processes of their own: the first that is done names it, and the others
/// that made one as well throw theirs away.
fn made() -> PathBuf {
    let program = std::fs::metadata(env!("CARGO_BIN_EXE_sancerre")).unwrap();
    let name = format!("repository-{}-{}-{}", program.len(), program.mtime(), program.mtime_nsec());
    let at = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !at.exists() {
        let making = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap().keep();
        let trust = make(&making.join("repository"), &making.join("w.key"), PASSPHRASE, 0);
        std::fs::write(making.join("trust"), trust).unwrap();
        run(&making, &["key", "add", "keeper", "vault", "--out", "k.key"]);
        if std::fs::rename(&making, &at).is_err() {
            std::fs::remove_dir_all(&making).unwrap();
        }
    }
    at
}

fn run(folder: &Path, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
    command.args(arguments).env_clear().envs(CHEAP).current_dir(folder).stdin(Stdio::null());
    command.env("SANCERRE_REPOSITORY", "repository").env("SANCERRE_PASSWORD", PASSPHRASE);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
