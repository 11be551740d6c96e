//! Making a catalogue: a stream that reads the folders of the disks as it is read.

use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::Arc;

use sancerre_engine::backup::FileCatalogues;
use sancerre_engine::monitor::{Monitor, Topic};
use sancerre_format::file_catalogue::{
    CatalogueWriter, CataloguedFile, CataloguedFolder, CataloguedVolume, FileSpot, PATH_BYTES_MAX, SPOTS_MAX,
    SpotPlace,
};
use sancerre_format::names::Title;
use sancerre_guest::{
    FileRun, Guest, GuestReader, NodeKind, PlacedEntry, RunPlace, VolumeContent, VolumeInfo,
};
use sancerre_image::Disk;

use crate::command::files::helper;
use crate::guest_mounts::Places;
use crate::guest_names::shown;
use crate::guest_place::is_folded;

/// Made before it is asked for.
const AHEAD_BYTES: usize = 256 << 10;
/// What could not be read is named so often.
const FAULTS_TOLD: usize = 3;

/// How catalogues are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Building {
    /// False only when the user said `--no-sandbox`.
    pub(crate) sandbox: bool,
}

impl FileCatalogues for Building {
    fn of(
        self: Box<Self>,
        disks: Vec<(Title, Arc<dyn Disk>)>,
        region_bytes: u32,
        monitor: &Monitor,
    ) -> Box<dyn Read + Send> {
        Box::new(CatalogueStream::new(disks, region_bytes, self.sandbox, monitor.clone()))
    }
}

/// The bytes of a catalogue. What cannot be read of the disks is said in it.
pub(crate) struct CatalogueStream {
    state: CatalogueStage,
    ready: Vec<u8>,
    at: usize,
    monitor: Monitor,
}

enum CatalogueStage {
    Begin { disks: Vec<(Title, Arc<dyn Disk>)>, region_bytes: u32, sandbox: bool },
    Walk(Box<CatalogueWalk>),
    Ended,
}

/// What is to be read next.
enum Todo {
    Volume(u16),
    Folder { volume: u16, path: Vec<u8>, id: u64 },
}

struct CatalogueWalk {
    guest: Guest,
    names: Vec<String>,
    places: Places,
    writer: CatalogueWriter,
    /// The last one is the next.
    todo: Vec<Todo>,
    /// Folders of the volume that were read: a damaged one may be in itself.
    seen: HashSet<u64>,
}

impl CatalogueStream {
    pub(crate) fn new(
        disks: Vec<(Title, Arc<dyn Disk>)>,
        region_bytes: u32,
        sandbox: bool,
        monitor: Monitor,
    ) -> Self {
        Self {
            state: CatalogueStage::Begin { disks, region_bytes, sandbox },
            ready: Vec::new(),
            at: 0,
            monitor,
        }
    }

    /// Ends the catalogue, and says what it lacks.
    fn end(&self, writer: &mut CatalogueWriter) -> io::Result<()> {
        let faults = writer.faults();
        for fault in faults.iter().take(FAULTS_TOLD) {
            self.monitor.warn(Topic::Source, format!("the catalogue of files lacks something: {fault}"));
        }
        if let Some(more) = faults.len().checked_sub(FAULTS_TOLD).filter(|more| *more > 0) {
            self.monitor.warn(Topic::Source, format!("the catalogue of files lacks {more} more such things"));
        }
        writer.end().map_err(io::Error::other)
    }

    /// Makes some more; false at the end.
    fn more(&mut self) -> io::Result<bool> {
        self.state = match std::mem::replace(&mut self.state, CatalogueStage::Ended) {
            CatalogueStage::Begin { disks, region_bytes, sandbox } => {
                self.begin(disks, region_bytes, sandbox)?
            }
            CatalogueStage::Walk(mut walk) => {
                while walk.writer.made_bytes() < AHEAD_BYTES {
                    let Some(next) = walk.todo.pop() else { break };
                    walk.step(next)?;
                }
                let is_last = walk.todo.is_empty();
                if is_last {
                    self.end(&mut walk.writer)?;
                }
                self.ready = walk.writer.take();
                if is_last { CatalogueStage::Ended } else { CatalogueStage::Walk(walk) }
            }
            CatalogueStage::Ended => return Ok(false),
        };
        Ok(true)
    }

    fn begin(
        &mut self,
        disks: Vec<(Title, Arc<dyn Disk>)>,
        region_bytes: u32,
        sandbox: bool,
    ) -> io::Result<CatalogueStage> {
        let (names, disks): (Vec<String>, Vec<_>) =
            disks.into_iter().map(|(name, disk)| (name.to_string(), disk)).unzip();
        let mut writer = CatalogueWriter::new(&names, region_bytes).map_err(io::Error::other)?;
        let helper = helper().map_err(|failure| io::Error::other(failure.message))?;
        let guest = match GuestReader::new(helper, sandbox).open(disks) {
            Ok(guest) => guest,
            Err(error) => {
                writer.fault(&format!("none of the disks could be looked at: {error}"));
                self.end(&mut writer)?;
                self.ready = writer.take();
                return Ok(CatalogueStage::Ended);
            }
        };
        let places = Places::of(&guest);
        let count = u16::try_from(guest.volumes().len()).unwrap_or(u16::MAX);
        let todo = (0..count).rev().map(Todo::Volume).collect();
        Ok(CatalogueStage::Walk(Box::new(CatalogueWalk {
            guest,
            names,
            places,
            writer,
            todo,
            seen: HashSet::new(),
        })))
    }
}

impl Read for CatalogueStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.ready.len() {
            (self.ready, self.at) = (Vec::new(), 0);
            if !self.more()? {
                return Ok(0);
            }
        }
        let rest = self.ready.get(self.at..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), rest.get(..length)) {
            to.copy_from_slice(from);
        }
        self.at += length;
        Ok(length)
    }
}

impl CatalogueWalk {
    fn step(&mut self, next: Todo) -> io::Result<()> {
        match next {
            Todo::Volume(volume) => self.volume(volume),
            Todo::Folder { volume, path, id } => self.folder(volume, path, id),
        }
    }

    fn volume(&mut self, volume: u16) -> io::Result<()> {
        let Some(info) = self.guest.volumes().get(usize::from(volume)) else { return Ok(()) };
        let name = |disk: u16| self.names.get(usize::from(disk)).cloned().unwrap_or_default();
        let catalogued = CataloguedVolume {
            disk: info.disk.map(name).unwrap_or_default(),
            name: info.name.clone(),
            content: content(info),
            mount: self.places.of_volume(volume),
            folds: is_folded(&self.guest, volume),
            has_names: matches!(info.content, VolumeContent::Files(_)),
        };
        self.writer.volume(&catalogued).map_err(io::Error::other)?;
        self.seen.clear();
        if let VolumeContent::Files(files) = &info.content {
            self.todo.push(Todo::Folder { volume, path: Vec::new(), id: files.root });
        }
        Ok(())
    }

    fn folder(&mut self, volume: u16, path: Vec<u8>, id: u64) -> io::Result<()> {
        if !self.seen.insert(id) {
            self.fault(volume, &path, "a folder that was read already under another name");
            return Ok(());
        }
        let mut files = Vec::new();
        let most = u16::try_from(SPOTS_MAX).unwrap_or(u16::MAX);
        let listed = self.guest.list_placed(volume, id, most, &mut |placed| files.push(file(placed)));
        if let Err(error) = &listed {
            self.fault(volume, &path, &error.to_string());
        }
        files.sort_by(|one, other| one.name.cmp(&other.name));
        let listed_files = files.len();
        files.dedup_by(|one, other| one.name == other.name);
        let has_twins = files.len() < listed_files;
        if has_twins {
            self.fault(volume, &path, "several files of one name, of which one is listed");
        }
        let folder = CataloguedFolder { path, id, is_partial: has_twins || listed.is_err() };
        self.writer.folder(&folder, &files).map_err(io::Error::other)?;
        for inner in files.iter().rev().filter(|file| file.kind == FOLDER) {
            let path = match folder.path.is_empty() {
                true => inner.name.clone(),
                false => [&folder.path, b"/".as_slice(), &inner.name].concat(),
            };
            match path.len() > PATH_BYTES_MAX {
                true => self.fault(volume, &folder.path, "folders that are deeper than can be"),
                false => self.todo.push(Todo::Folder { volume, path, id: inner.id }),
            }
        }
        Ok(())
    }

    fn fault(&mut self, volume: u16, path: &[u8], what: &str) {
        let name =
            self.guest.volumes().get(usize::from(volume)).map(|info| info.name.clone()).unwrap_or_default();
        self.writer.fault(&format!("{name}/{}: {what}", shown(path)));
    }
}

const FOLDER: u8 = 1;

/// What is in a volume, in words.
fn content(info: &VolumeInfo) -> String {
    match &info.content {
        VolumeContent::Files(files) => files.kind.clone(),
        VolumeContent::Known(what) => what.clone(),
        VolumeContent::Broken(why) => format!("broken: {}", why.chars().take(200).collect::<String>()),
        VolumeContent::Unknown => String::new(),
    }
}

fn file(placed: PlacedEntry) -> CataloguedFile {
    let PlacedEntry { entry, runs } = placed;
    let node = entry.node;
    CataloguedFile {
        name: entry.name,
        id: node.id,
        kind: match node.kind {
            NodeKind::File => 0,
            NodeKind::Directory => FOLDER,
            NodeKind::Link => 2,
            NodeKind::Special => 3,
            NodeKind::Broken => 4,
        },
        size_bytes: node.size_bytes,
        mode: node.mode,
        owner: node.owner,
        modified: node.modified.map(|moment| (moment.seconds, moment.nanoseconds.min(999_999_999))),
        spots: runs.map(|runs| runs.iter().map(spot).collect()),
    }
}

fn spot(run: &FileRun) -> FileSpot {
    let place = match run.place {
        RunPlace::Hole => SpotPlace::Hole,
        RunPlace::Held => SpotPlace::Held,
        RunPlace::Disk { disk, offset } => SpotPlace::Disk { disk, offset },
    };
    FileSpot { length_bytes: run.length_bytes, place }
}
