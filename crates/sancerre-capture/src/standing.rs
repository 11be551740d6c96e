//! Guests that stand still because a read or a write failed are resumed.
//!
//! QEMU (10.0) tells of such a failure once a second for each device, and of a later one when that second is over. libvirt (9.0)
//! takes a machine for paused whenever it hears of one. So a guest that is resumed too early runs, and libvirt has it paused for
//! good: another `resume` does nothing, since QEMU does not say of a guest that runs that it goes on.

use std::time::Duration;

use serde_json::Value;

use crate::error::CaptureError;
use crate::virsh::Virsh;

/// Until QEMU has told of all that failed, and libvirt has heard it.
pub(crate) const ALL_TOLD: Duration = Duration::from_millis(1500);

/// Resumes a machine. Until [`ALL_TOLD`] after it stopped libvirt may take it for paused all the same.
///
/// # Errors
/// What virsh said.
pub(crate) fn resume(virsh: &Virsh, machine: &str) -> Result<(), CaptureError> {
    virsh.call(&["resume", "--domain", machine]).map(drop)
}

/// Stops a machine that runs though libvirt has it paused: then both agree, and libvirt hears when it is resumed. libvirt takes down
/// that somebody spoke to its QEMU ("tainted: custom-monitor").
///
/// # Errors
/// What virsh said.
pub(crate) fn agree(virsh: &Virsh, machine: &str) -> Result<(), CaptureError> {
    let ask = |command: &str| {
        let question = format!(r#"{{"execute":"{command}"}}"#);
        virsh.call(&["qemu-monitor-command", "--domain", machine, &question])
    };
    if is_running(&ask("query-status")?) {
        ask("stop")?;
    }
    Ok(())
}

fn is_running(status: &str) -> bool {
    let status: Value = serde_json::from_str(status).unwrap_or_default();
    status.pointer("/return/running") == Some(&Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_says_of_itself_is_understood() {
        assert!(is_running(r#"{"return":{"status":"running","running":true},"id":"libvirt-1"}"#));
        assert!(!is_running(r#"{"return":{"status":"io-error","running":false},"id":"libvirt-1"}"#));
        assert!(!is_running("error: no"));
    }
}
