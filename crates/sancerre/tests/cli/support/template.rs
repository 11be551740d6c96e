//! A repository as `init` makes it, with a writer's key and a keeper's, made once and then copied: each passphrase costs a
//! second of a processor, and most tests are about something else. All copies are the same repository; a test that needs two
//! different ones makes them.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use sancerre_engine::{
    Error, Host, Name, NewRepository, Result, SecretString, StoreOptions, Zone, host, init, location,
};

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

/// Makes a repository as `init` does, with a writer's key, but that its passphrase costs next to nothing: readers bound that
/// work from above alone. Its trust anchor.
pub(crate) fn make(place: &Path, key_file: &Path, passphrase: &str, approvals_needed: u32) -> String {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let passphrase = SecretString::from(passphrase.to_owned());
    let new = NewRepository::new(passphrase, Zone::new("default").unwrap(), Name::new("hv1").unwrap());
    let made = runtime.block_on(async {
        let store = location::open(place.to_str().unwrap(), [], true, &StoreOptions::default()).unwrap();
        let host = Host { sealer: Arc::new(Quick), ..Host::real("sancerre tests") };
        init(&store, &host, &NewRepository { approvals_needed, ..new }).await.unwrap()
    });
    std::fs::write(key_file, made.key_file.as_bytes()).unwrap();
    std::fs::set_permissions(key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    made.trust.admin.fingerprint()
}

/// Seals as the program does, without the work that makes a passphrase hard to guess.
struct Quick;

impl host::Sealer for Quick {
    fn seal(&self, to: &str, secret: &[u8]) -> Result<Vec<u8>> {
        Host::real("").sealer.seal(to, secret)
    }

    fn seal_with_passphrase(&self, passphrase: &SecretString, secret: &[u8]) -> Result<Vec<u8>> {
        let mut to = age::scrypt::Recipient::new(passphrase.clone());
        to.set_work_factor(1);
        age::encrypt(&to, secret).map_err(|error| Error::Usage(error.to_string()))
    }
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
    command.args(arguments).env_clear().current_dir(folder).stdin(Stdio::null());
    command.env("SANCERRE_REPOSITORY", "repository").env("SANCERRE_PASSWORD", PASSPHRASE);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
