//! The picture of a running machine, taken when the session has its number.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sancerre_capture::{CaptureError, Frozen, Machine, PictureDisk, Pictured, Pull};
use sancerre_engine::Error;
use sancerre_engine::backup::{BackupSource, Capture, Captured, Hint, Input, Maps};
use sancerre_engine::monitor::{Monitor, Topic};
use sancerre_engine::select::{Selector, Which};
use sancerre_format::id::SessionId;
use sancerre_format::names::Title;
use sancerre_format::outcome::MemberKind;
use sancerre_image::Disk;
use sancerre_image::change_map::ChangeMap;
use sancerre_image::nbd::{NbdDisk, NbdOptions, NbdUri};

/// How QEMU's servers call the context of a list of changes.
const CONTEXT: &str = "qemu:dirty-bitmap:";
/// The machine's own files in a snapshot.
pub(crate) const DESCRIPTION: &str = "libvirt.xml";
pub(crate) const NVRAM: &str = "nvram";
/// More is no firmware's settings.
const NVRAM_BYTES_MAX: u64 = 256 << 20;

/// A machine that both the engine and who started it work on.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<dyn Pictured>>);

impl Shared {
    pub(super) fn new(moment: impl Pictured + 'static) -> Self {
        Self(Arc::new(Mutex::new(moment)))
    }

    /// What another thread left behind when it died is still true here.
    pub(super) fn lock(&self) -> MutexGuard<'_, dyn Pictured + 'static> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A picture to be taken.
pub(super) struct Taking {
    pub(super) live: Shared,
    pub(super) pull: Pull,
    /// Who keeps count, in the manifest.
    pub(super) source: &'static str,
    /// Whose description and settings go with it.
    pub(super) machine: Option<Machine>,
    pub(super) verify_millionths: u32,
    pub(super) monitor: Monitor,
    /// Files that go with it.
    pub(super) attached: Vec<BackupSource>,
}

impl Capture for Taking {
    fn take(
        self: Box<Self>,
        session: Option<SessionId>,
        snapshots: Vec<SessionId>,
    ) -> Result<Captured, Error> {
        let pull = Pull {
            session: session.map(|session| session.intent.to_string()),
            snapshots: snapshots.iter().map(|snapshot| snapshot.intent.to_string()).collect(),
            ..self.pull.clone()
        };
        let mut live = self.live.lock();
        let picture = live.begin(&pull).map_err(refused)?;
        picture.notes.iter().for_each(|note| self.monitor.warn(Topic::Source, note.clone()));
        let (mut sources, mut hints) = (Vec::new(), Vec::new());
        for disk in &picture.disks {
            let name = title(&disk.target)?;
            let (opened, map) = open(disk, self.source)?;
            hints.extend(map.map(|map| Hint { disk: name.clone(), map }));
            let input = Input::Disk(Arc::new(opened));
            sources.push(BackupSource { name, kind: MemberKind::Disk, input, least_bytes: 1 });
        }
        if let Some(machine) = &self.machine {
            sources.extend(files(machine, &self.monitor)?);
        }
        sources.extend(self.attached);
        let since = picture.base.filter(|_| !hints.is_empty());
        let since = since.map(|id| Selector { snapshot: Which::Id(id), member: None });
        let maps = Maps::new(hints, since, self.verify_millionths);
        Ok(Captured { sources, maps, frozen: picture.frozen.map(|frozen| word(&frozen)) })
    }
}

pub(super) fn refused(error: CaptureError) -> Error {
    Error::Refused(error.to_string())
}

fn word(frozen: &Frozen) -> String {
    let Frozen { file_systems, milliseconds, agent } = frozen;
    format!("file-systems:{file_systems},ms:{milliseconds},agent:{agent}")
}

pub(super) fn title(target: &str) -> Result<Title, Error> {
    Title::typed(target)
        .map_err(|error| Error::Refused(format!("the disk {target:?} cannot be named: {error}")))
}

fn open(disk: &PictureDisk, source: &'static str) -> Result<(NbdDisk, Option<ChangeMap>), Error> {
    let PictureDisk { target: export, socket, bitmap } = disk;
    let failed = |error: String| Error::Refused(format!("the picture of {export} cannot be read: {error}"));
    let uri = format!("nbd+unix:///{}?socket={}", encoded(export), encoded(&socket.to_string_lossy()));
    let uri = NbdUri::parse(&uri).map_err(|error| failed(error.to_string()))?;
    let bitmap = bitmap.as_ref().map(|name| format!("{CONTEXT}{name}"));
    let is_counted = bitmap.is_some();
    let disk = NbdDisk::open(&uri, &NbdOptions { bitmap, ..NbdOptions::default() });
    let disk = disk.map_err(|error| failed(error.to_string()))?;
    if !is_counted {
        return Ok((disk, None));
    }
    let size_bytes = disk.size_bytes();
    let map = ChangeMap::new(source, size_bytes, disk.changed_ranges(0..size_bytes)?);
    Ok((disk, Some(map.map_err(|error| failed(error.to_string()))?)))
}

/// As an address has it.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The machine's description and its firmware's settings, as sources.
pub(super) fn files(machine: &Machine, monitor: &Monitor) -> Result<Vec<BackupSource>, Error> {
    let file = |name: &str, bytes: Vec<u8>| -> Result<BackupSource, Error> {
        let input = Input::Stream(Box::new(Cursor::new(bytes)));
        Ok(BackupSource { name: title(name)?, kind: MemberKind::File, input, least_bytes: 0 })
    };
    let mut sources = vec![file(DESCRIPTION, machine.xml.clone().into_bytes())?];
    match machine.nvram.as_ref().map(|path| (path, read(path))) {
        Some((_, Ok(bytes))) => sources.push(file(NVRAM, bytes)?),
        Some((path, Err(error))) => monitor.warn(
            Topic::Source,
            format!(
                "the firmware's settings of {} ({}) are not in the snapshot: {error}; make the file readable",
                machine.name,
                path.display()
            ),
        ),
        None => {}
    }
    if machine.has_tpm {
        monitor.warn(Topic::Source, format!(
            "the state of the TPM of {} is not in the snapshot: what is sealed to it (BitLocker) needs its recovery key, or a \
             copy of /var/lib/libvirt/swtpm/{}",
            machine.name, machine.uuid
        ));
    }
    Ok(sources)
}

fn read(path: &PathBuf) -> std::io::Result<Vec<u8>> {
    match std::fs::metadata(path)?.len() > NVRAM_BYTES_MAX {
        true => Err(std::io::Error::other("it is too large to be any")),
        false => std::fs::read(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_can_stand_in_an_address() {
        let uri = format!("nbd+unix:///{}?socket={}", encoded("vd a"), encoded("/run/ä&b/?.sock"));
        assert_eq!(uri, "nbd+unix:///vd%20a?socket=/run/%C3%A4%26b/%3F.sock");
        NbdUri::parse(&uri).unwrap();
    }
}
