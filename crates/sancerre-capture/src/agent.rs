//! The agent in a guest, which freezes its file systems: through libvirt, or at the socket that QEMU was given for it.

use std::ffi::{OsStr, OsString};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sancerre_boot::{Qmp, QmpError};
use serde_json::{Value, json};

use crate::error::CaptureError;
use crate::virsh::Virsh;

/// Whoever lives answers at once.
const PING_SECONDS: u64 = 3;
/// Windows and scripts in the guest take their time.
const THAW_SECONDS: u64 = 30;
/// The agent's own time, and then virsh's to give up.
const MORE: Duration = Duration::from_secs(5);
/// In place of a connection to libvirt.
const BY_SOCKET: &str = "socket";

/// The agent of one machine.
#[derive(Debug, Clone)]
pub(crate) enum Agent {
    /// Of this machine of libvirt.
    Virsh(Virsh, String),
    /// At this socket.
    Socket(PathBuf),
}

impl Agent {
    /// The same, in words for another process.
    pub(crate) fn words(&self) -> [OsString; 3] {
        match self {
            Self::Virsh(virsh, uuid) => [virsh.program().into(), virsh.uri().into(), uuid.into()],
            Self::Socket(path) => [path.into(), BY_SOCKET.into(), "".into()],
        }
    }

    /// From such words.
    ///
    /// # Errors
    /// They name none.
    pub(crate) fn of(words: [&OsStr; 3]) -> Result<Self, CaptureError> {
        let [program, uri, uuid] = words;
        let text = |word: &OsStr| word.to_str().unwrap_or_default().to_owned();
        match uri.to_str() {
            Some(BY_SOCKET) => Ok(Self::Socket(program.into())),
            _ => Ok(Self::Virsh(Virsh::new(program.into(), &text(uri))?, text(uuid))),
        }
    }

    fn ask(&self, command: &str, seconds: u64) -> Result<Value, CaptureError> {
        let limit = Duration::from_secs(seconds).saturating_add(MORE);
        match self {
            Self::Virsh(virsh, uuid) => {
                let (timeout, json) = (seconds.to_string(), format!("{{\"execute\":\"{command}\"}}"));
                let arguments =
                    ["qemu-agent-command", "--timeout", &timeout, "--domain", uuid, "--cmd", &json];
                let answer = virsh.call_within(limit, &arguments)?;
                let answer: Value = serde_json::from_str(answer.trim()).unwrap_or_default();
                Ok(answer.get("return").cloned().unwrap_or_default())
            }
            Self::Socket(path) => ask(path, command, limit)
                .map_err(|error| CaptureError::Refused { what: command.to_owned(), said: error.to_string() }),
        }
    }

    /// Its version, if it lives.
    pub(crate) fn version(&self) -> Result<String, CaptureError> {
        self.ask("guest-ping", PING_SECONDS)?;
        let info = self.ask("guest-info", PING_SECONDS)?;
        let version = info.get("version").and_then(Value::as_str).unwrap_or("unknown");
        let plain = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_' | '+');
        Ok(version.chars().filter(plain).take(32).collect())
    }

    /// Freezes, and says how many file systems stand still.
    pub(crate) fn freeze(&self, seconds: u64) -> Result<u64, CaptureError> {
        Ok(self.ask("guest-fsfreeze-freeze", seconds)?.as_u64().unwrap_or(0))
    }

    pub(crate) fn is_frozen(&self) -> Result<bool, CaptureError> {
        let status = self.ask("guest-fsfreeze-status", PING_SECONDS)?;
        Ok(status.as_str() != Some("thawed"))
    }

    /// Thaws, whether anything is frozen or not.
    pub(crate) fn thaw(&self) -> Result<(), CaptureError> {
        self.ask("guest-fsfreeze-thaw", THAW_SECONDS).map(drop)
    }

    /// Whether the machine does not run any more.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::Virsh(virsh, uuid) => {
                virsh.call(&["domstate", "--domain", uuid]).is_ok_and(|state| state.trim() == "shut off")
            }
            Self::Socket(path) => UnixStream::connect(path).is_err(),
        }
    }
}

fn ask(path: &Path, command: &str, limit: Duration) -> Result<Value, QmpError> {
    // What it still has to say to somebody who went away is no answer to us.
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let number = u64::from(std::process::id()).rotate_left(32) | ASKED.fetch_add(1, Ordering::Relaxed);
    let mut agent = Qmp::agent(path, limit, number)?;
    agent.execute(command, json!({}))
}
