//! A repository as `init` makes it, with a writer's key and a keeper's, made once and then copied: each passphrase costs a
//! second of a processor, and most tests are about something else. All copies are the same repository; a test that needs two
//! different ones makes them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

/// Where it lies, for this very program. Tests run in processes of their own: the first that is done names it, and the others
/// that made one as well throw theirs away.
fn made() -> PathBuf {
    let program = std::fs::metadata(env!("CARGO_BIN_EXE_sancerre")).unwrap();
    let name = format!("repository-{}-{}-{}", program.len(), program.mtime(), program.mtime_nsec());
    let at = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !at.exists() {
        let making = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap().keep();
        run(&making, &["init", "--key-file", "w.key", "--writer", "hv1"]);
        run(&making, &["key", "add", "keeper", "vault", "--out", "k.key"]);
        if std::fs::rename(&making, &at).is_err() {
            std::fs::remove_dir_all(&making).unwrap();
        }
    }
    at
}

fn run(folder: &Path, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
    command.args(arguments).env_clear().current_dir(folder).stdin(Stdio::null());
    command.env("SANCERRE_REPOSITORY", "repository").env("SANCERRE_PASSWORD", PASSPHRASE);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
