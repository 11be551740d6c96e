//! The units of systemd: as the package installs them, with what a page puts beside them, verified.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::places::Places;

/// Where the package puts them, and where a page does.
const FOLDERS: [&str; 2] = ["usr/lib/systemd/system", "etc/systemd/system"];

/// Installs the package's units.
pub(crate) fn install(folder: &Path, places: &Places) {
    for made in FOLDERS {
        std::fs::create_dir_all(folder.join(made)).unwrap();
    }
    std::fs::create_dir_all(folder.join("usr/bin")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sancerre"), folder.join("usr/bin/sancerre")).unwrap();
    for unit in ["sancerre-backup@.service", "sancerre-backup@.timer"] {
        let text = super::page_text(&format!("docs/systemd/{unit}"));
        std::fs::write(folder.join(FOLDERS[0]).join(unit), places.everywhere(&text)).unwrap();
    }
}

/// Puts a block beside the unit of web01, as `systemctl edit` does.
pub(crate) fn drop_in(folder: &Path, text: &str) {
    let beside = folder.join(FOLDERS[1]).join("sancerre-backup@web01.service.d");
    std::fs::create_dir_all(&beside).unwrap();
    std::fs::write(beside.join("override.conf"), text).unwrap();
}

/// What systemd says of each of them, for the machine web01. Nothing where it is not installed, said loudly.
pub(crate) fn verify(folder: &Path) -> Vec<String> {
    let mut units = BTreeSet::new();
    for entry in FOLDERS.iter().flat_map(|made| std::fs::read_dir(folder.join(made)).unwrap()) {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        if name.ends_with(".service") || name.ends_with(".timer") {
            units.insert(name.replace("@.", "@web01."));
        }
    }
    let path = FOLDERS.map(|made| folder.join(made).display().to_string());
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]).args(&units);
    // The colon at the end: and where systemd looks anyway.
    let done = command.env("SYSTEMD_UNIT_PATH", format!("{}:{}:", path[1], path[0])).output();
    match done {
        Err(error) => {
            sancerre_services::skip(&format!("systemd-analyze: {error}"));
            Vec::new()
        }
        Ok(done) => {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            let is_good = done.status.success() && said.trim().is_empty();
            if is_good { Vec::new() } else { vec![format!("systemd-analyze verify {units:?}: {said}")] }
        }
    }
}
