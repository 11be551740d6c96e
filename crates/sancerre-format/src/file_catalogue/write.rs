//! Writing a catalogue piece by piece, cut so that the next night's has the same cuts again.

use super::names::{Before, put_file, put_joined};
use super::{
    CataloguedFile, CataloguedFolder, CataloguedVolume, END, FILLER, NAME_BYTES_MAX, NAMES, PATH_BYTES_MAX,
    VOLUME, WHAT, encode_head, piece, put_texts,
};
use crate::bytes::{put_number, to_u64};
use crate::chunk::{PIECE_BYTES_MAX, PIECE_HEAD_BYTES};
use crate::error::{Result, corrupt};
use crate::seal::padded_bytes;

/// Content from which on a piece of names may end.
const LEAST_BYTES: usize = 1 << 10;
/// Content from which on it ends with the next name.
const MOST_BYTES: usize = 40 << 10;
/// One name in so many ends a piece: of some 4 KiB. Where one folder in a hundred changes, smaller ones cost more in the map than
/// they save, and larger ones more in names.
const CUT_AT: u64 = 128;
/// Bytes that are said of what could not be read.
const FAULT_BYTES_MAX: usize = 200;
const FAULTS_MAX: usize = 200;

/// Puts a catalogue together. What it has made is taken out as it goes.
#[derive(Debug)]
pub struct CatalogueWriter {
    made: Vec<u8>,
    /// Bytes that were taken out before those of `made`.
    taken: u64,
    region_bytes: u64,
    names: NamesWriter,
    faults: Vec<String>,
}

impl CatalogueWriter {
    /// Begins with the head. No piece crosses a multiple of `region_bytes`, where a backup cuts anyway.
    ///
    /// # Errors
    /// More disks than a head can name.
    pub fn new(disks: &[String], region_bytes: u32) -> Result<Self> {
        let names = NamesWriter::default();
        let region_bytes = u64::from(region_bytes).max(to_u64(PIECE_BYTES_MAX));
        let mut writer = Self { made: Vec::new(), taken: 0, region_bytes, names, faults: Vec::new() };
        writer.put(&encode_head(disks)?)?;
        Ok(writer)
    }

    /// A volume, of which the names follow.
    ///
    /// # Errors
    /// Names of it that are too long.
    pub fn volume(&mut self, volume: &CataloguedVolume) -> Result<()> {
        self.names()?;
        self.put(&piece(VOLUME, &volume.encode())?)
    }

    /// A folder with what is in it, ascending by names; folders ascend too, each before what is in it.
    ///
    /// # Errors
    /// None for names within their limits.
    pub fn folder(&mut self, folder: &CataloguedFolder, files: &[CataloguedFile]) -> Result<()> {
        if folder.path.len() > PATH_BYTES_MAX {
            self.fault("a folder whose path is longer than a catalogue can hold");
            return Ok(());
        }
        let path = hash(HASH_START, &folder.path);
        if self.names.size_bytes().saturating_add(folder.path.len()) >= MOST_BYTES {
            self.names()?;
        }
        self.names.open(folder);
        for file in files.iter().filter(|file| file.name.len() <= NAME_BYTES_MAX) {
            if self.names.size_bytes() >= MOST_BYTES {
                self.names()?;
                self.names.open(folder);
            }
            self.names.file(file);
            let ends = (hash(hash(path, b"/"), &file.name) >> 32).is_multiple_of(CUT_AT);
            if ends && self.names.size_bytes() >= LEAST_BYTES {
                self.names()?;
                self.names.open(folder);
            }
        }
        Ok(())
    }

    /// What could not be read.
    pub fn fault(&mut self, fault: &str) {
        if self.faults.len() < FAULTS_MAX {
            let cut = fault.char_indices().map(|(at, _)| at).find(|at| *at >= FAULT_BYTES_MAX);
            self.faults.push(fault.get(..cut.unwrap_or(fault.len())).unwrap_or_default().to_owned());
        }
    }

    /// What could not be read so far.
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// The end, and zeros up to a size that tells little of what the catalogue holds.
    ///
    /// # Errors
    /// A bug.
    pub fn end(&mut self) -> Result<()> {
        self.names()?;
        let mut content = Vec::new();
        put_texts(&mut content, &self.faults);
        self.put(&piece(END, &content)?)?;
        let size = usize::try_from(self.taken).unwrap_or(usize::MAX).saturating_add(self.made.len());
        let zeros = padded_bytes(size).saturating_sub(size);
        let whole = self.made.len().saturating_add(zeros);
        self.made.resize(whole, 0);
        Ok(())
    }

    /// What was made since the last time.
    pub fn take(&mut self) -> Vec<u8> {
        self.taken = self.taken.saturating_add(to_u64(self.made.len()));
        std::mem::take(&mut self.made)
    }

    /// Bytes to be taken.
    pub fn made_bytes(&self) -> usize {
        self.made.len()
    }

    fn names(&mut self) -> Result<()> {
        match self.names.take() {
            Some(content) => self.put(&piece(NAMES, &content)?),
            None => Ok(()),
        }
    }

    fn put(&mut self, piece: &[u8]) -> Result<()> {
        let at = self.taken.saturating_add(to_u64(self.made.len()));
        let into = at.checked_rem(self.region_bytes).unwrap_or(0);
        let left = self.region_bytes.saturating_sub(into);
        if to_u64(piece.len()) > left {
            let gap = usize::try_from(left).ok().and_then(|left| left.checked_sub(PIECE_HEAD_BYTES));
            let gap = gap.ok_or_else(|| corrupt(WHAT, "a gap that no piece fills"))?;
            let filler = super::piece(FILLER, &vec![0; gap])?;
            self.made.extend_from_slice(&filler);
        }
        self.made.extend_from_slice(piece);
        Ok(())
    }
}

/// The content of a piece of names, as it grows.
#[derive(Debug, Default)]
pub struct NamesWriter {
    bytes: Vec<u8>,
    /// The path of the last folder that was written.
    path: Option<Vec<u8>>,
    /// The folder that is open, and is written with its first file.
    open: Option<CataloguedFolder>,
    before: Before,
    /// Files of the open folder: their count stands before them.
    files: Vec<u8>,
    count: u64,
}

impl NamesWriter {
    /// The folder of the files that follow.
    fn open(&mut self, folder: &CataloguedFolder) {
        self.close();
        self.open = Some(folder.clone());
        self.before = Before::of_folder(folder.id);
    }

    fn file(&mut self, file: &CataloguedFile) {
        put_file(&mut self.files, &mut self.before, file);
        self.count = self.count.saturating_add(1);
    }

    fn size_bytes(&self) -> usize {
        let path = self.open.as_ref().map_or(0, |folder| folder.path.len());
        self.bytes.len().saturating_add(self.files.len()).saturating_add(path.min(PIECE_BYTES_MAX))
    }

    fn close(&mut self) {
        // A folder is written where it has files, or to say that it could not be read.
        let Some(folder) = self.open.take().filter(|folder| self.count > 0 || folder.is_partial) else {
            return;
        };
        put_joined(&mut self.bytes, self.path.as_deref().unwrap_or_default(), &folder.path);
        self.bytes.push(u8::from(folder.is_partial));
        put_number(&mut self.bytes, folder.id);
        put_number(&mut self.bytes, self.count);
        self.bytes.append(&mut self.files);
        self.count = 0;
        self.path = Some(folder.path);
    }

    /// All of it, if there is any.
    fn take(&mut self) -> Option<Vec<u8>> {
        self.close();
        self.path = None;
        (!self.bytes.is_empty()).then(|| std::mem::take(&mut self.bytes))
    }
}

const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a. Where a piece ends is the writer's choice: who chooses names so that pieces end elsewhere harms nobody.
fn hash(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
