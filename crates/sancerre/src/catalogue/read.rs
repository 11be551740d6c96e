//! Reading a catalogue. Pieces that an earlier question met, in this snapshot or in another, are not read again.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::snapshot_disk::{ChunkCache, SnapshotDisk};
use sancerre_engine::restore::SnapshotReader;
use sancerre_engine::{Error, Result, file_catalogue};
use sancerre_format::FormatError;
use sancerre_format::chunk::{PIECE_BYTES_MAX, PIECE_HEAD_BYTES};
use sancerre_format::file_catalogue::{CataloguePiece, CataloguedVolume, NamesReader};
use sancerre_format::id::ContentId;
use sancerre_format::node::chunk_id;

/// Bytes that are read at once, and reads that are under way.
const READ_BYTES: u64 = 2 << 20;
const READS: usize = 4;
/// What messages call one that was made after its backup.
const LATER: &str = "the catalogue that was made later";

/// The catalogue of a snapshot.
pub(crate) struct Catalogue {
    source: Source,
    /// Its pieces, by their places and ids.
    pieces: Vec<(u64, ContentId)>,
}

/// Where its bytes are.
enum Source {
    /// In the snapshot.
    Member(Arc<SnapshotDisk>),
    /// Here: it was made later, and is not kept in pieces.
    Later(Vec<u8>),
}

/// What is known of pieces. `T` is what a question keeps of names.
pub(crate) struct Memo<T> {
    plain: HashMap<ContentId, Plain>,
    /// By whether the volume takes upper and lower case for one.
    names: HashMap<(ContentId, bool), Arc<T>>,
}

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self { plain: HashMap::new(), names: HashMap::new() }
    }
}

#[derive(Clone)]
enum Plain {
    Head(Vec<String>),
    Volume(CataloguedVolume),
    Names,
    End(Vec<String>),
    Other,
}

/// A volume, and what was kept of its names.
pub(crate) struct VolumeNames<T> {
    pub(crate) info: CataloguedVolume,
    pub(crate) parts: Vec<Arc<T>>,
}

/// What a catalogue says.
pub(crate) struct Said<T> {
    /// The names of the disks.
    pub(crate) disks: Vec<String>,
    pub(crate) volumes: Vec<VolumeNames<T>>,
    /// What could not be read when it was made.
    pub(crate) faults: Vec<String>,
    is_whole: bool,
}

/// What is kept of a piece of names.
pub(crate) type Keep<'a, T> = dyn FnMut(&NamesReader<'_>, bool) -> std::result::Result<T, FormatError> + 'a;

impl Catalogue {
    /// That of a snapshot; none if it has none.
    ///
    /// Errors: its map cannot be read.
    pub(crate) async fn of(
        reader: &SnapshotReader,
        cache: &Arc<ChunkCache>,
        monitor: &Monitor,
    ) -> Result<Option<Self>> {
        let member = reader.body().members.iter().find(|member| member.is_catalogue());
        let Some(member) = member else { return Self::later(reader).await };
        let disk = SnapshotDisk::open(reader, member, cache, monitor)?;
        let pieces = disk.content_ids(0..disk.size_bytes()).await?;
        Ok(Some(Self { source: Source::Member(disk), pieces }))
    }

    /// One that was made after the backup.
    async fn later(reader: &SnapshotReader) -> Result<Option<Self>> {
        let (frames, session) = (reader.frames(), reader.manifest().session);
        let found = file_catalogue::kept(frames.repository(), &frames.log(), session).await?;
        let Some(bytes) = found else { return Ok(None) };
        // As chunks of a member are named, so that a question that met a piece there need not read it here.
        let key = frames.repository().keys.zone_secrets()?.keys.id;
        let (mut pieces, mut at) = (Vec::new(), 0_usize);
        while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= PIECE_HEAD_BYTES) {
            let damaged = |source| Error::Object { key: LATER.to_owned(), source };
            let Some(length) = CataloguePiece::length(rest).map_err(damaged)? else { break };
            let piece = rest.get(..length).unwrap_or(rest);
            pieces.push((at as u64, chunk_id(&key, piece)));
            at = at.saturating_add(length);
        }
        Ok(Some(Self { source: Source::Later(bytes), pieces }))
    }

    /// What it says; `keep` is asked of each piece of names that `memo` does not know.
    ///
    /// Errors: it cannot be read, or is none.
    pub(crate) async fn ask<T>(&self, memo: &mut Memo<T>, keep: &mut Keep<'_, T>) -> Result<Said<T>> {
        let mut said = Said { disks: Vec::new(), volumes: Vec::new(), faults: Vec::new(), is_whole: false };
        let groups = self.groups(memo);
        let reads = groups.into_iter().map(|(pieces, is_read)| async move {
            let bytes = match is_read {
                true => self.read(&pieces).await?,
                false => Vec::new(),
            };
            Ok::<_, Error>((pieces, bytes))
        });
        let mut reads = stream::iter(reads).buffered(READS);
        while let Some((pieces, bytes)) = reads.try_next().await? {
            let start = self.pieces.get(pieces.start).map_or(0, |(at, _)| *at);
            for (at, id) in self.pieces.get(pieces).unwrap_or_default() {
                let rest = usize::try_from(at - start).ok().and_then(|skip| bytes.get(skip..));
                said.piece(*id, rest.unwrap_or_default(), memo, keep).map_err(|error| self.damaged(error))?;
            }
        }
        match said.is_whole {
            true => Ok(said),
            false => {
                let detail = "it has no end".to_owned();
                Err(self.damaged(FormatError::Corrupt { what: "file catalogue", detail }))
            }
        }
    }

    /// The disks of which it tells, in the order of their numbers.
    ///
    /// Errors: as [`Catalogue::ask`].
    pub(crate) async fn disks(&self) -> Result<Vec<String>> {
        let bytes = if self.pieces.is_empty() { Vec::new() } else { self.read(&(0..1)).await? };
        match CataloguePiece::decode(&bytes).map_err(|error| self.damaged(error))? {
            CataloguePiece::Head { disks } => Ok(disks),
            _ => Err(self.damaged(FormatError::Corrupt {
                what: "file catalogue",
                detail: "it has no head".to_owned(),
            })),
        }
    }

    fn damaged(&self, source: FormatError) -> Error {
        let key = match &self.source {
            Source::Member(disk) => disk.name(),
            Source::Later(_) => LATER,
        };
        Error::Object { key: key.to_owned(), source }
    }

    /// Pieces in a row that are known already, or are to be read at once.
    fn groups<T>(&self, memo: &Memo<T>) -> Vec<(Range<usize>, bool)> {
        let mut groups: Vec<(Range<usize>, bool)> = Vec::new();
        let mut folds = None;
        for (number, (at, id)) in self.pieces.iter().enumerate() {
            let is_read = !memo.knows(id, &mut folds);
            let start = |group: &Range<usize>| self.pieces.get(group.start).map_or(0, |(at, _)| *at);
            match groups.last_mut() {
                Some((group, same)) if *same == is_read && (!is_read || at - start(group) < READ_BYTES) => {
                    group.end = number + 1;
                }
                _ => groups.push((number..number + 1, is_read)),
            }
        }
        groups
    }

    async fn read(&self, pieces: &Range<usize>) -> Result<Vec<u8>> {
        let start = self.pieces.get(pieces.start).map_or(0, |(at, _)| *at);
        let last =
            pieces.end.checked_sub(1).and_then(|last| self.pieces.get(last)).map_or(start, |(at, _)| *at);
        let size_bytes = match &self.source {
            Source::Member(disk) => disk.size_bytes(),
            Source::Later(bytes) => bytes.len() as u64,
        };
        let most = last.saturating_add(PIECE_BYTES_MAX as u64).min(size_bytes);
        let end = self.pieces.get(pieces.end).map_or(most, |(at, _)| (*at).min(most));
        match &self.source {
            Source::Member(disk) => {
                let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(0)];
                disk.read(start, &mut bytes).await?;
                Ok(bytes)
            }
            Source::Later(bytes) => {
                let within = |at| usize::try_from(at).unwrap_or(usize::MAX);
                Ok(bytes.get(within(start)..within(end)).unwrap_or_default().to_vec())
            }
        }
    }
}

impl<T> Memo<T> {
    /// Whether nothing of a piece must be read; `folds` is what is known of the volume so far.
    fn knows(&self, id: &ContentId, folds: &mut Option<bool>) -> bool {
        match self.plain.get(id) {
            Some(Plain::Names) => folds.is_some_and(|folds| self.names.contains_key(&(*id, folds))),
            Some(Plain::Volume(volume)) => {
                *folds = Some(volume.folds);
                true
            }
            Some(_) => true,
            None => {
                // It may be a volume.
                *folds = None;
                false
            }
        }
    }
}

impl<T> Said<T> {
    #[cfg(test)]
    pub(crate) fn of(disks: Vec<String>, volumes: Vec<VolumeNames<T>>) -> Self {
        Self { disks, volumes, faults: Vec::new(), is_whole: true }
    }

    /// How places name a volume; one that may lie on several disks has the name of the one that was `typed`, or of the first.
    pub(crate) fn place(&self, volume: &VolumeNames<T>, typed: &str) -> String {
        let on = || {
            self.disks.iter().find(|name| *name == typed).or(self.disks.first()).cloned().unwrap_or_default()
        };
        let disk = if volume.info.disk.is_empty() { on() } else { volume.info.disk.clone() };
        format!("{disk}:{}", volume.info.name)
    }

    /// Whether the volume of the names that come takes upper and lower case for one.
    fn folds(&self) -> bool {
        self.volumes.last().is_some_and(|volume| volume.info.folds)
    }

    /// One more piece; `rest` begins with it, or is empty where it is known.
    fn piece(
        &mut self,
        id: ContentId,
        rest: &[u8],
        memo: &mut Memo<T>,
        keep: &mut Keep<'_, T>,
    ) -> std::result::Result<(), FormatError> {
        if !rest.is_empty() {
            let length = CataloguePiece::length(rest)?.unwrap_or(0);
            let piece = CataloguePiece::decode(rest.get(..length).unwrap_or(rest))?;
            let plain = match piece {
                CataloguePiece::Head { disks } => Plain::Head(disks),
                CataloguePiece::Volume(volume) => Plain::Volume(volume),
                CataloguePiece::End { faults } => Plain::End(faults),
                CataloguePiece::Filler | CataloguePiece::Other => Plain::Other,
                CataloguePiece::Names(names) => {
                    let folds = self.folds();
                    memo.names.insert((id, folds), Arc::new(keep(&names, folds)?));
                    Plain::Names
                }
            };
            memo.plain.insert(id, plain);
        }
        let Some(plain) = memo.plain.get(&id) else { return Ok(()) };
        match plain {
            Plain::Head(disks) => self.disks.clone_from(disks),
            Plain::Volume(info) => self.volumes.push(VolumeNames { info: info.clone(), parts: Vec::new() }),
            Plain::Names => {
                if let Some(volume) = self.volumes.last_mut() {
                    volume.parts.extend(memo.names.get(&(id, volume.info.folds)).cloned());
                }
            }
            Plain::End(faults) => {
                self.faults.clone_from(faults);
                self.is_whole = true;
            }
            Plain::Other => {}
        }
        Ok(())
    }
}
