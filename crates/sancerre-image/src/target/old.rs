//! What a target held before a restore: where it is what is wanted, it need not be fetched.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::nbd::NbdDisk;
use crate::positional::{length, read_exact};
use crate::raw::size_of;
use crate::{Disk, TargetError, holes};

/// Zeros are looked for in pieces of this.
const PIECE_BYTES: u64 = 1 << 20;
/// What is not zeros is told in pieces of this.
const ZERO_PIECE: usize = 64 << 10;

/// Bytes from before, whatever they are: only a comparison tells.
#[derive(Debug)]
pub struct OldBytes<'a> {
    source: Source<'a>,
    is_in_place: bool,
}

/// Where they are read.
#[derive(Debug)]
enum Source<'a> {
    File(&'a File),
    Export(&'a NbdDisk),
}

impl<'a> OldBytes<'a> {
    pub(super) fn of_file(file: &'a File, is_in_place: bool) -> Self {
        Self { source: Source::File(file), is_in_place }
    }

    pub(crate) fn of_disk(disk: &'a NbdDisk, is_in_place: bool) -> Self {
        Self { source: Source::Export(disk), is_in_place }
    }

    /// Where there may be data; everywhere if that cannot be told.
    fn data(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let found = match self.source {
            Source::File(file) => holes::data_ranges(file, range.clone()).ok(),
            Source::Export(disk) => disk.data_ranges(range.clone()).ok(),
        };
        found.unwrap_or_else(|| vec![range])
    }

    fn fill(&self, offset: u64, buffer: &mut [u8]) -> bool {
        match self.source {
            Source::File(file) => read_exact(|bytes, at| file.read_at(bytes, at), offset, buffer).is_ok(),
            Source::Export(disk) => disk.read_at(offset, buffer).is_ok(),
        }
    }
}

impl OldBytes<'_> {
    /// Whether these are the target's own bytes: then what is equal is there already, and otherwise must be written.
    pub fn is_in_place(&self) -> bool {
        self.is_in_place
    }

    /// Fills `buffer` from `offset`; false where there is a hole or nothing, or where it cannot be read.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let range = offset..offset.saturating_add(length(buffer));
        !self.data(range).is_empty() && self.fill(offset, buffer)
    }

    /// Where `range` is not zeros, in pieces; where it cannot be read, all of it may not be.
    pub fn not_zero(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut found: Vec<Range<u64>> = Vec::new();
        let mut buffer = vec![0; ZERO_PIECE];
        for data in self.data(range) {
            let mut at = data.start;
            while at < data.end {
                let left = usize::try_from(data.end.saturating_sub(at)).unwrap_or(ZERO_PIECE);
                let piece = buffer.get_mut(..left.min(ZERO_PIECE)).unwrap_or_default();
                let end = at.saturating_add(length(piece));
                if !self.fill(at, piece) || piece.iter().any(|byte| *byte != 0) {
                    match found.last_mut() {
                        Some(last) if last.end == at => last.end = end,
                        _ => found.push(at..end),
                    }
                }
                at = end;
            }
        }
        found
    }
}

/// A file that has its name already, perhaps from an earlier run of the same restore. It is compared and never written.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) file: File,
    pub(super) path: PathBuf,
}

/// Opens the regular file at `path`; none where there is none, or something else.
pub(super) fn open(path: &Path) -> Result<Option<File>, TargetError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = match retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty())) {
        Ok(descriptor) => File::from(descriptor),
        Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(failed(path, error.into())),
    };
    let metadata = file.metadata().map_err(|error| failed(path, error))?;
    Ok(metadata.is_file().then_some(file))
}

fn failed(path: &Path, source: io::Error) -> TargetError {
    TargetError::Io { step: "open", path: path.to_owned(), source }
}

impl Whole {
    /// The file at `path`; none where there is no file, or an empty one.
    ///
    /// Errors: [`TargetError::Exists`] when it has another size.
    pub(super) fn open(path: &Path, size_bytes: u64) -> Result<Option<Self>, TargetError> {
        let Some(file) = open(path)? else { return Ok(None) };
        match size_of(&file).map_err(|error| failed(path, error))? {
            0 => Ok(None),
            found if found == size_bytes => Ok(Some(Self { file, path: path.to_owned() })),
            _ => Err(TargetError::Exists { path: path.to_owned() }),
        }
    }

    /// Whether `range` reads as zeros.
    pub(super) fn is_zero(&self, range: Range<u64>) -> io::Result<bool> {
        for data in holes::data_ranges(&self.file, range).map_err(|(_, error)| error)? {
            let mut at = data.start;
            while at < data.end {
                let piece_bytes = data.end.saturating_sub(at).min(PIECE_BYTES);
                let mut piece = vec![0; usize::try_from(piece_bytes).unwrap_or(0)];
                self.file.read_exact_at(&mut piece, at)?;
                if piece.iter().any(|byte| *byte != 0) {
                    return Ok(false);
                }
                at = at.saturating_add(piece_bytes);
            }
        }
        Ok(true)
    }
}
