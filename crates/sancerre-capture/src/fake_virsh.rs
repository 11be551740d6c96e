//! A virsh for tests, whose machine libvirt has paused for good until its QEMU was stopped and resumed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::virsh::Virsh;

/// Writes down what it is asked for, and says what lies in files.
const VIRSH: &str = r#"#!/bin/sh
cd "${0%/*}" || exit 1
shift 2
echo "$*" >> asked
case "$*" in
domstate*) cat state ;;
dumpxml*) cat live ;;
*query-status*) cat status ;;
*stop*) touch stopped ;;
resume*) if [ -f stopped ]; then echo 'running (unpaused)' > state; fi ;;
esac
"#;

pub(crate) struct FakeVirsh {
    pub(crate) folder: tempfile::TempDir,
}

impl FakeVirsh {
    /// Of a machine that libvirt has in this state, and whose QEMU runs or does not.
    pub(crate) fn new(state: &str, runs: bool) -> Self {
        let fake = Self { folder: tempfile::tempdir().unwrap() };
        let program = fake.folder.path().join("virsh");
        fs::write(&program, VIRSH).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fake.say("state", state);
        fake.say("status", &format!(r#"{{"return":{{"running":{runs}}}}}"#));
        fake
    }

    pub(crate) fn say(&self, file: &str, text: &str) {
        fs::write(self.folder.path().join(file), text).unwrap();
    }

    pub(crate) fn virsh(&self) -> Virsh {
        Virsh::new(self.folder.path().join("virsh"), "qemu:///session").unwrap()
    }

    /// What it was told to do, and not only asked.
    pub(crate) fn told(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.folder.path().join("asked")).unwrap_or_default();
        let does =
            |line: &&str| ["resume", "blockpull", "qemu-monitor"].iter().any(|one| line.starts_with(one));
        asked.lines().filter(does).map(str::to_owned).collect()
    }
}
