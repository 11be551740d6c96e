//! The file catalogue of a snapshot (FORMAT.md §5.3): which files its disks hold, and where, without a look at the disks.
//!
//! ```text
//! head  volume names names … volume names …  end zeros
//! ```
//!
//! A row of pieces, each one chunk ([`crate::chunk::Chunker::pieces`]). What a piece of *names* says depends on no other piece, so
//! two nights share all that did not change between them, and who has read a piece once need not read it again.
//!
//! Whoever signed the snapshot wrote this, and may have lied: it is a hint where to look, and no proof.

mod names;
#[cfg(test)]
mod tests;
mod write;

pub use names::{CataloguedFile, CataloguedFolder, FileSpot, NamesReader, SpotPlace};
pub use write::{CatalogueWriter, NamesWriter};

use crate::bytes::{Reader, put_number, put_text, to_u32};
use crate::chunk::{PIECE_HEAD_BYTES, piece_bytes};
use crate::error::{Result, corrupt, ensure, unsupported};

pub(crate) const WHAT: &str = "file catalogue";
const MAGIC: &[u8; 8] = b"SNCFILE1";
/// The word for what the member is to its snapshot.
pub const ROLE: &str = "catalogue";
/// Longest path of a folder, and longest name, that a catalogue can hold.
pub const PATH_BYTES_MAX: usize = 32 << 10;
/// Longest name.
pub const NAME_BYTES_MAX: usize = 4 << 10;
/// Most places of one file; of one that lies in more none is told.
pub const SPOTS_MAX: usize = 256;
/// Most texts of one piece, and most disks.
const TEXTS_MAX: u64 = 4096;
/// Places of files are multiples of this.
pub const SECTOR_BYTES: u64 = 512;

/// What a piece says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CataloguePiece<'a> {
    /// The first one: the disks, as the snapshot names them.
    Head {
        /// Names of disks.
        disks: Vec<String>,
    },
    /// A volume; what follows, up to the next one, are its names.
    Volume(CataloguedVolume),
    /// Names in folders of the volume.
    Names(NamesReader<'a>),
    /// Nothing.
    Filler,
    /// The last one.
    End {
        /// What could not be read when the catalogue was made.
        faults: Vec<String>,
    },
    /// Something of a later version.
    Other,
}

/// A volume of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CataloguedVolume {
    /// The disk that it is on, or the first of them.
    pub disk: String,
    /// As places name it.
    pub name: String,
    /// What is in it.
    pub content: String,
    /// Where the guest knows it: `/srv`, or a letter such as `C:`; empty where that is not known.
    pub mount: Vec<u8>,
    /// Whether it takes upper and lower case for one.
    pub folds: bool,
    /// Whether its names follow.
    pub has_names: bool,
}

const HEAD: u8 = 1;
const VOLUME: u8 = 2;
const NAMES: u8 = 3;
const FILLER: u8 = 4;
const END: u8 = 5;

impl<'a> CataloguePiece<'a> {
    /// Reads one whole piece.
    ///
    /// # Errors
    /// Bytes that are none; names are only checked as they are read.
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(WHAT, bytes);
        let content_bytes = reader.u32()?;
        let kind = reader.u8()?;
        reader.zeros::<3>()?;
        let is_whole = piece_bytes(content_bytes) == Some(bytes.len());
        ensure(is_whole, WHAT, || {
            format!("a piece of {} bytes says that it has {content_bytes}", bytes.len())
        })?;
        let content = reader.take(crate::bytes::to_usize(content_bytes))?;
        let is_padded = reader.rest().iter().all(|byte| *byte == 0);
        ensure(is_padded, WHAT, || "a piece is filled with something".to_owned())?;
        let mut content = Reader::new(WHAT, content);
        let piece = match kind {
            HEAD => head(&mut content)?,
            VOLUME => Self::Volume(CataloguedVolume::read(&mut content)?),
            NAMES => return Ok(Self::Names(NamesReader::new(content.rest()))),
            FILLER => return Ok(Self::Filler),
            END => Self::End { faults: texts(&mut content)? },
            0 => return Err(corrupt(WHAT, "a piece is of no kind")),
            _ => return Ok(Self::Other),
        };
        content.finish()?;
        Ok(piece)
    }

    /// Bytes of the piece that begins so; none where nothing more follows.
    ///
    /// # Errors
    /// No piece begins so.
    pub fn length(start: &[u8]) -> Result<Option<usize>> {
        let mut reader = Reader::new(WHAT, start);
        let (content_bytes, kind) = (reader.u32()?, reader.u8()?);
        match (kind, piece_bytes(content_bytes)) {
            (0, _) if content_bytes == 0 => Ok(None),
            (0, _) | (_, None) => Err(corrupt(WHAT, "a piece of no known size or kind")),
            (_, length) => Ok(length),
        }
    }
}

/// A piece of this kind around its content.
///
/// # Errors
/// More than a piece holds.
pub(crate) fn piece(kind: u8, content: &[u8]) -> Result<Vec<u8>> {
    let size = to_u32(WHAT, content.len())?;
    let length = piece_bytes(size).ok_or_else(|| corrupt(WHAT, "more than a piece holds"))?;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.extend_from_slice(&[kind, 0, 0, 0]);
    bytes.extend_from_slice(content);
    bytes.resize(length, 0);
    debug_assert!(bytes.len() >= PIECE_HEAD_BYTES);
    Ok(bytes)
}

fn head<'a>(content: &mut Reader<'_>) -> Result<CataloguePiece<'a>> {
    let magic: [u8; 8] = content.array()?;
    if magic != *MAGIC {
        return Err(match magic.starts_with(b"SNCFILE") {
            true => unsupported(WHAT, "a later version of it"),
            false => corrupt(WHAT, "it begins otherwise"),
        });
    }
    Ok(CataloguePiece::Head { disks: texts(content)? })
}

fn texts(content: &mut Reader<'_>) -> Result<Vec<String>> {
    let count = content.number()?;
    ensure(count <= TEXTS_MAX, WHAT, || format!("it announces {count} texts"))?;
    (0..count).map(|_| text(content)).collect()
}

fn text(content: &mut Reader<'_>) -> Result<String> {
    let text = std::str::from_utf8(content.text()?);
    Ok(text.map_err(|_| corrupt(WHAT, "a text is none"))?.to_owned())
}

fn put_texts(content: &mut Vec<u8>, texts: &[String]) {
    put_number(content, crate::bytes::to_u64(texts.len()));
    texts.iter().for_each(|text| put_text(content, text.as_bytes()));
}

impl CataloguedVolume {
    fn read(content: &mut Reader<'_>) -> Result<Self> {
        let (disk, name, kind) = (text(content)?, text(content)?, text(content)?);
        let mount = content.text()?.to_vec();
        let flags = content.u8()?;
        ensure(flags < 4, WHAT, || format!("a volume has the flags {flags}"))?;
        Ok(Self { disk, name, content: kind, mount, folds: flags & 1 != 0, has_names: flags & 2 != 0 })
    }

    fn encode(&self) -> Vec<u8> {
        let mut content = Vec::new();
        [&self.disk, &self.name, &self.content]
            .iter()
            .for_each(|text| put_text(&mut content, text.as_bytes()));
        put_text(&mut content, &self.mount);
        content.push(u8::from(self.folds) | u8::from(self.has_names) << 1);
        content
    }
}

/// A head, as it is written.
///
/// # Errors
/// More disks than a piece names.
pub(crate) fn encode_head(disks: &[String]) -> Result<Vec<u8>> {
    let mut content = MAGIC.to_vec();
    put_texts(&mut content, disks);
    piece(HEAD, &content)
}
