//! The agent in a guest, which freezes its file systems.

use std::time::Duration;

use serde_json::Value;

use crate::error::CaptureError;
use crate::virsh::Virsh;

/// Whoever lives answers at once.
const PING_SECONDS: u64 = 3;
/// Windows and scripts in the guest take their time.
const THAW_SECONDS: u64 = 30;
/// The agent's own time, and then virsh's to give up.
const MORE: Duration = Duration::from_secs(5);

/// The agent of one machine.
pub(crate) struct Agent<'a> {
    pub(crate) virsh: &'a Virsh,
    pub(crate) uuid: &'a str,
}

impl Agent<'_> {
    fn ask(&self, command: &str, seconds: u64) -> Result<Value, CaptureError> {
        let (timeout, json) = (seconds.to_string(), format!("{{\"execute\":\"{command}\"}}"));
        let limit = Duration::from_secs(seconds).saturating_add(MORE);
        let arguments = ["qemu-agent-command", "--timeout", &timeout, "--domain", self.uuid, "--cmd", &json];
        let answer = self.virsh.call_within(limit, &arguments)?;
        let answer: Value = serde_json::from_str(answer.trim()).unwrap_or_default();
        Ok(answer.get("return").cloned().unwrap_or_default())
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
}
