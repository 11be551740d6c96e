//! What a recovery remembers on its storage, so that after any crash the same command goes on with it.
//!
//! The one thing that no other place knows: which snapshot the overlays stand on. An overlay on any other one is garbage, so
//! that snapshot is written down, durably, before there is an overlay.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use sancerre_format::id::SessionId;
use serde_json::{Value, json};

use crate::exit::Failure;
use crate::plain;

/// Its file in the machine's folder.
const FILE: &str = "recovery.json";
/// Version of the file, and of one with disks that move to devices: who does not know them must not go on with it.
const VERSION: u64 = 1;
const VERSION_MOVES: u64 = 2;

/// A recovery under way, or one that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recovery {
    /// The repository's id.
    pub(super) repository: String,
    /// What its overlays stand on.
    pub(super) snapshot: SessionId,
    /// Whether all overlays were made: from then on one that is not there was lost, and is not made anew.
    pub(super) is_ready: bool,
    /// Disks that move to block devices, by name.
    pub(super) moves: BTreeMap<String, Move>,
}

/// A disk that moves to a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Move {
    /// What tells the device from all others.
    pub(super) identity: String,
    /// How it was named last.
    pub(super) device: String,
    /// Who runs the guest that is switched to it: the other knows nothing of that.
    pub(super) by: Hypervisor,
    pub(super) stage: Stage,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is copied: its overlay counts.
    Copies,
    /// The guest, which ran or did not, is stopped for the switch. Its overlay counts until the device has all.
    Switches { runs: bool },
    /// The device counts. The guest was stopped for that, and ran or did not.
    There { runs: bool },
}

/// What runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::command) enum Hypervisor {
    /// libvirt of this host: the machine as it was, of a snapshot by `backup --source libvirt`
    Libvirt,
    /// A QEMU of its own
    Qemu,
}

impl Hypervisor {
    /// As it is written down, and said on the command line.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Libvirt => "libvirt",
            Self::Qemu => "qemu",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Libvirt, Self::Qemu].into_iter().find(|one| one.word() == word)
    }
}

impl Move {
    fn json(&self) -> Value {
        let (stage, runs) = match self.stage {
            Stage::Copies => ("copies", None),
            Stage::Switches { runs } => ("switches", Some(runs)),
            Stage::There { runs } => ("there", Some(runs)),
        };
        json!({ "identity": self.identity, "device": self.device, "by": self.by.word(), "stage": stage, "runs": runs })
    }

    fn parse(value: &Value) -> Option<Self> {
        let word = |field: &str| value.get(field).and_then(Value::as_str);
        let runs = value.get("runs").and_then(Value::as_bool);
        let stage = match (word("stage")?, runs) {
            ("copies", None) => Stage::Copies,
            ("switches", Some(runs)) => Stage::Switches { runs },
            ("there", Some(runs)) => Stage::There { runs },
            _ => return None,
        };
        let (identity, device) = (word("identity")?.to_owned(), word("device")?.to_owned());
        Some(Self { identity, device, by: Hypervisor::parse(word("by")?)?, stage })
    }
}

impl Recovery {
    /// The recovery in a folder; none where none was begun.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, Failure> {
        let path = folder.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return refuse_strange(folder).map(|()| None);
            }
            Err(error) => return Err(failed("read", &path, &error)),
        };
        let odd = || {
            Failure::failed(format!(
                "{} is not what this version wrote: without it nobody knows which snapshot the disks beside it stand on. \
                 Recover into another storage",
                plain::path(&path)
            ))
        };
        let value: Value = serde_json::from_str(&text).map_err(|_| odd())?;
        let moves = match value.get("v").and_then(Value::as_u64) {
            Some(VERSION) => BTreeMap::new(),
            Some(VERSION_MOVES) => moves(&value).ok_or_else(odd)?,
            _ => return Err(odd()),
        };
        let word = |field: &str| value.get(field).and_then(Value::as_str).ok_or_else(odd);
        Ok(Some(Self {
            repository: word("repository")?.to_owned(),
            snapshot: SessionId::parse(word("snapshot")?).map_err(|_| odd())?,
            is_ready: value.get("ready").and_then(Value::as_bool).ok_or_else(odd)?,
            moves,
        }))
    }

    /// How far a disk's move is; none if it stays in the folder.
    pub(super) fn stage(&self, disk: &str) -> Option<Stage> {
        self.moves.get(disk).map(|moving| moving.stage)
    }

    /// Writes it down, durably.
    pub(super) fn write(&self, folder: &Path) -> Result<(), Failure> {
        let path = folder.join(FILE);
        let mut value = json!({
            "v": VERSION, "repository": self.repository, "snapshot": self.snapshot.to_string(),
            "ready": self.is_ready,
        });
        if let (Value::Object(value), false) = (&mut value, self.moves.is_empty()) {
            let moves: serde_json::Map<_, _> =
                self.moves.iter().map(|(name, moving)| (name.clone(), moving.json())).collect();
            value.insert("v".into(), json!(VERSION_MOVES));
            value.insert("devices".into(), Value::Object(moves));
        }
        let mut partial: OsString = path.as_os_str().to_owned();
        partial.push(".sancerre-partial");
        let partial = PathBuf::from(partial);
        let written = File::create(&partial).and_then(|mut file| {
            file.write_all(format!("{value:#}\n").as_bytes())?;
            file.sync_all()?;
            fs::rename(&partial, &path)?;
            File::open(folder)?.sync_all()
        });
        written.map_err(|error| failed("write", &path, &error))
    }
}

fn moves(value: &Value) -> Option<BTreeMap<String, Move>> {
    let moves = value.get("devices")?.as_object()?;
    moves.iter().map(|(name, value)| Some((name.clone(), Move::parse(value)?))).collect()
}

/// Makes the folder of a machine, and makes its name durable.
pub(super) fn make_folder(folder: &Path) -> Result<(), Failure> {
    let made = fs::create_dir_all(folder).and_then(|()| match folder.parent() {
        Some(above) => File::open(above)?.sync_all(),
        None => Ok(()),
    });
    made.map_err(|error| failed("make", folder, &error))
}

/// A folder with images that no recovery put there.
fn refuse_strange(folder: &Path) -> Result<(), Failure> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list", folder, &error)),
    };
    for entry in entries {
        let name = entry.map_err(|error| failed("list", folder, &error))?.file_name();
        if Path::new(&name).extension().is_some_and(|suffix| suffix == "qcow2") {
            return Err(Failure::failed(format!(
                "{} has {} already, and no recovery put it there; nothing was changed. Move it away, or name another storage",
                plain::path(folder),
                name.to_string_lossy()
            )));
        }
    }
    Ok(())
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!(
        "cannot {what} {}: {error}; check its permissions and its space",
        plain::path(path)
    ))
}

#[cfg(test)]
mod tests {
    use sancerre_format::id::Hash;

    use super::*;

    #[test]
    fn what_was_written_is_read_back_and_all_else_refused() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert_eq!(Recovery::read(folder).unwrap(), None);
        let session = SessionId { number: 7, intent: Hash::of(b"x") };
        for is_ready in [false, true] {
            for stage in [
                None,
                Some(Stage::Copies),
                Some(Stage::Switches { runs: is_ready }),
                Some(Stage::There { runs: true }),
            ] {
                let moving = |stage| {
                    let by = if is_ready { Hypervisor::Libvirt } else { Hypervisor::Qemu };
                    let moving = Move { identity: "dm x".into(), device: "/dev/vg/a".into(), by, stage };
                    ("disk0".to_owned(), moving)
                };
                let moves = stage.map(moving).into_iter().collect();
                let recovery = Recovery { repository: "r".into(), snapshot: session, is_ready, moves };
                recovery.write(folder).unwrap();
                assert_eq!(recovery.stage("disk0"), stage);
                assert_eq!(Recovery::read(folder).unwrap(), Some(recovery));
            }
        }
        let begun = fs::read_to_string(folder.join(FILE)).unwrap();
        let lost = [
            begun.replace("\"v\": 2", "\"v\": 3"),
            begun.replace("true", "null"),
            begun.replace("there", "gone"),
            begun.replace("libvirt", "xen"),
        ];
        for odd in lost.iter().map(String::as_str).chain([
            "",
            "{}",
            "{\"v\": 2}",
            "{\"v\": 1, \"repository\": \"r\", \"snapshot\": \"x\"}",
        ]) {
            fs::write(folder.join(FILE), odd).unwrap();
            assert!(Recovery::read(folder).is_err(), "{odd}");
        }
        fs::remove_file(folder.join(FILE)).unwrap();
        fs::write(folder.join("disk0.qcow2"), "somebody's").unwrap();
        assert!(Recovery::read(folder).is_err());
    }
}
