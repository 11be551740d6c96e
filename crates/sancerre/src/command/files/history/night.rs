//! A file in one snapshot: by its places, and by its bytes where those do not tell.

use std::ops::Range;
use std::sync::Arc;

use sancerre_engine::Error;
use sancerre_engine::repository::snapshot_disk::SnapshotDisk;
use sancerre_format::file_catalogue::{CataloguedFile, FileSpot, SpotPlace};
use sancerre_format::id::ContentId;
use sancerre_guest::{FileNode, GuestError, GuestFile, NodeKind, RunPlace};

use crate::catalogue::file_node;
use crate::command::files::{Opened, waiting};
use crate::exit::{Exit, Failure};
use crate::guest_place::{self, Spot, Spotted, failure};

/// What is compared at once where places do not tell.
const PIECE_BYTES: u64 = 4 << 20;

/// A file in one snapshot.
pub(super) struct Night {
    content: Content,
    pub(super) node: FileNode,
    places: Vec<Part>,
}

/// How its bytes are read.
enum Content {
    /// By the child that told of it.
    Guest { opened: Opened, volume: u16 },
    /// By its places.
    Places(Vec<Arc<SnapshotDisk>>),
}

/// A stretch of a file, by what it says of its content without it being read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Hole(u64),
    /// Bytes in a structure of the file system, which are few.
    Held(Vec<u8>),
    Chunks {
        disk: u16,
        range: Range<u64>,
        chunks: Vec<(u64, ContentId)>,
    },
}

/// What became of the file in a night.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileChange {
    First,
    Same,
    Changed,
    Missing,
    Unreadable,
}

/// What is known of a file's content by its places; none where those are not told.
async fn catalogued_places(
    file: &CataloguedFile,
    disks: &[Arc<SnapshotDisk>],
) -> Result<Option<Vec<Part>>, Error> {
    let Some(spots) = &file.spots else { return Ok(None) };
    let mut parts = Vec::new();
    for FileSpot { length_bytes, place } in spots {
        parts.push(match place {
            SpotPlace::Hole => Part::Hole(*length_bytes),
            SpotPlace::Held => return Ok(None),
            SpotPlace::Disk { disk, offset } => {
                let range = *offset..offset.saturating_add(*length_bytes);
                let Some(reader) = disks.get(usize::from(*disk)) else { return Ok(None) };
                // A catalogue may lie.
                if range.end > reader.size_bytes() {
                    return Ok(None);
                }
                Part::Chunks { disk: *disk, chunks: reader.content_ids(range.clone()).await?, range }
            }
        });
    }
    Ok(Some(parts))
}

/// The file by the disks; none when it is not there.
pub(super) async fn by_disks(opened: Opened, path: String) -> Result<Option<Night>, Failure> {
    waiting(move || {
        let spot = match guest_place::find(&opened.guest, &opened.disks, &path, true) {
            Ok(spot) => spot,
            Err(failure) if failure.exit == Exit::Usage => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let Spot::FolderEntry(Spotted { volume, node, .. }) = spot else {
            return Err(Failure::usage("name a file; `sancerre diff` compares whole disks"));
        };
        let places =
            if node.kind == NodeKind::File { places(&opened, volume, &node, &path)? } else { Vec::new() };
        Ok(Some(Night { content: Content::Guest { opened, volume }, node, places }))
    })
    .await
}

/// What is known of a file's content without it.
fn places(opened: &Opened, volume: u16, node: &FileNode, path: &str) -> Result<Vec<Part>, Failure> {
    let mut file = GuestFile::new(Arc::clone(&opened.guest), volume, node.id, b"", node.size_bytes);
    let (mut parts, mut at) = (Vec::new(), 0);
    let failed = |error: GuestError| failure(path, error);
    while let Some(run) = file.run(at).map_err(failed)? {
        parts.push(match run.place {
            RunPlace::Hole => Part::Hole(run.length_bytes),
            RunPlace::Held => {
                let length = run.length_bytes.min(PIECE_BYTES);
                let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
                file.read_at(at, &mut bytes).map_err(failed)?;
                at = at.saturating_add(length);
                parts.push(Part::Held(bytes));
                continue;
            }
            RunPlace::Disk { disk, offset } => {
                let range = offset..offset.saturating_add(run.length_bytes);
                let reader = opened.snapshot_disks.get(usize::from(disk));
                let reader = reader.ok_or_else(|| Failure::from(Error::bug("a disk that is not there")))?;
                let chunks = tokio::runtime::Handle::current().block_on(reader.content_ids(range.clone()))?;
                Part::Chunks { disk, range, chunks }
            }
        });
        at = at.saturating_add(run.length_bytes);
    }
    Ok(parts)
}

/// By places where those are the same; else by all bytes.
pub(super) async fn compared(last: Option<Night>, night: Night) -> Result<(Night, FileChange), Failure> {
    let Some(last) = last else { return Ok((night, FileChange::First)) };
    if (last.node.kind, last.node.size_bytes) != (night.node.kind, night.node.size_bytes) {
        return Ok((night, FileChange::Changed));
    }
    if last.places == night.places {
        return Ok((night, FileChange::Same));
    }
    waiting(move || {
        let (mut one, mut other) = (last.file(), night.file());
        let mut at = 0;
        while at < night.node.size_bytes {
            let length = night.node.size_bytes.saturating_sub(at).min(PIECE_BYTES);
            let mut pieces = [0, 1].map(|_| vec![0; usize::try_from(length).unwrap_or(0)]);
            let [before, after] = &mut pieces;
            last.read(&mut one, at, before)?;
            night.read(&mut other, at, after)?;
            if before != after {
                return Ok((night, FileChange::Changed));
            }
            at = at.saturating_add(length);
        }
        Ok((night, FileChange::Same))
    })
    .await
}

impl Night {
    /// As a catalogue tells of it; none where that does not say where it lies.
    pub(super) async fn of_catalogue(
        file: &CataloguedFile,
        disks: Vec<Arc<SnapshotDisk>>,
    ) -> Result<Option<Self>, Error> {
        let node = file_node(file);
        let places = match node.kind {
            NodeKind::File => catalogued_places(file, &disks).await?,
            _ => Some(Vec::new()),
        };
        Ok(places.map(|places| Self { content: Content::Places(disks), node, places }))
    }

    /// As the child reads it, where there is one.
    fn file(&self) -> Option<GuestFile> {
        let Content::Guest { opened, volume } = &self.content else { return None };
        Some(GuestFile::new(Arc::clone(&opened.guest), *volume, self.node.id, b"", self.node.size_bytes))
    }

    fn read(&self, file: &mut Option<GuestFile>, offset: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        match (&self.content, file) {
            (Content::Places(disks), _) => self.read_places(disks, offset, buffer),
            (_, Some(file)) => {
                file.read_at(offset, buffer).map_err(|error| failure("the content of the file", error))
            }
            (_, None) => Err(Error::bug("a file that nobody reads").into()),
        }
    }

    fn read_places(
        &self,
        disks: &[Arc<SnapshotDisk>],
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), Failure> {
        let (mut start, end) = (0, offset.saturating_add(buffer.len() as u64));
        buffer.fill(0);
        for part in &self.places {
            let length = match part {
                Part::Hole(length) => *length,
                Part::Held(bytes) => bytes.len() as u64,
                Part::Chunks { range, .. } => range.end.saturating_sub(range.start),
            };
            let (from, to) = (offset.max(start), end.min(start.saturating_add(length)));
            if let Part::Chunks { disk, range, .. } = part
                && from < to
                && let Some(disk) = disks.get(usize::from(*disk))
            {
                let within = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
                let piece = buffer.get_mut(within(from)..within(to)).unwrap_or_default();
                let at = range.start.saturating_add(from.saturating_sub(start));
                tokio::runtime::Handle::current().block_on(disk.read(at, piece))?;
            }
            start = start.saturating_add(length);
        }
        Ok(())
    }
}
