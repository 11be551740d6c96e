//! What else lies in the folder of a new repository.

use std::io;
use std::path::Path;

/// What a repository is made of, and what an `init` leaves that stopped halfway.
const OURS: [&str; 5] = ["config", "keys", "zones", "probe", "reserve"];
/// What systems put into every disk or share by themselves.
const OF_SYSTEMS: [&str; 22] = [
    "lost+found",
    ".snapshot",
    ".snapshots",
    ".zfs",
    ".Trash",
    ".Trashes",
    ".fseventsd",
    ".Spotlight-V100",
    ".TemporaryItems",
    ".DocumentRevisions-V100",
    ".DS_Store",
    ".directory",
    "@eaDir",
    "#recycle",
    "#snapshot",
    "$RECYCLE.BIN",
    "System Volume Information",
    "Thumbs.db",
    "desktop.ini",
    "aquota.user",
    "aquota.group",
    "quota.user",
];
/// How such names begin that differ from place to place.
const BEGINNINGS: [&str; 4] = ["config#", "._", ".Trash-", ".nfs"];

/// The names of things in a folder that neither a repository nor a system put there, sorted.
///
/// Errors: the folder cannot be read.
pub(crate) fn others(folder: &Path) -> io::Result<Vec<String>> {
    let mut others = Vec::new();
    for entry in folder.read_dir()? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_known = OURS.contains(&name.as_str())
            || OF_SYSTEMS.contains(&name.as_str())
            || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning));
        if !is_known {
            others.push(name);
        }
    }
    others.sort();
    Ok(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_put_there_is_found() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["lost+found", "@eaDir", "keys", "reserve", "config#3", "._x", "b.txt", ".bashrc"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        assert_eq!(others(folder.path()).unwrap(), [".bashrc", "b.txt"]);
    }
}
