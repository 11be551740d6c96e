//! File systems, one module each, behind one trait.

mod ext;
mod fat;
mod ntfs;
mod walk;
mod xfs;

use std::ops::Range;

use crate::fault::{Fault, Result};
use crate::node::{Extra, FileNode};
use crate::volume::Volume;

/// Longest list of runs in one answer.
pub(crate) const RUNS_MAX: usize = 2048;
/// Longest target of a link that is told.
pub(crate) const LINK_BYTES_MAX: u64 = 32 << 10;

/// Where the next bytes of a file are, inside its volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) length_bytes: u64,
    pub(crate) place: PiecePlace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PiecePlace {
    Hole,
    Volume(u64),
    Held,
}

/// What a volume is, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) kind: &'static str,
    pub(crate) label: Vec<u8>,
    /// Its identifier as tables of mounts write it; none if it has none.
    pub(crate) uuid: String,
    /// What a reader should know: a state that is not the newest, a feature that is passed over.
    pub(crate) notes: Vec<String>,
}

/// Told of each name of a folder.
pub(crate) type EachName<'a> = &'a mut dyn FnMut(Vec<u8>, u64) -> Result<()>;

/// A file system that is read.
pub(crate) trait FileSystem {
    fn identity(&self) -> Identity;

    fn root(&self) -> u64;

    fn node(&mut self, id: u64) -> Result<FileNode>;

    /// The names in a folder, without those of itself and the one above.
    fn list(&mut self, id: u64, each: EachName<'_>) -> Result<()>;

    /// The number behind a name.
    fn find(&mut self, id: u64, name: &[u8]) -> Result<u64> {
        let mut found = None;
        self.list(id, &mut |entry, id| {
            if entry == name {
                found = Some(id);
            }
            Ok(())
        })?;
        found.ok_or(Fault::Missing)
    }

    /// Where the bytes of a range that lies inside a stream are, from its start on: at least one piece, at most
    /// [`RUNS_MAX`]. The stream without a name is the file itself.
    fn pieces(&mut self, id: u64, stream: &[u8], range: Range<u64>) -> Result<Vec<Piece>>;

    /// Bytes of a range that [`FileSystem::pieces`] calls held.
    fn read(&mut self, id: u64, stream: &[u8], offset: u64, buffer: &mut [u8]) -> Result<()>;

    fn link(&mut self, id: u64) -> Result<Vec<u8>>;

    fn extras(&mut self, _id: u64) -> Result<Vec<Extra>> {
        Ok(Vec::new())
    }
}

/// What is in a volume, by its magic numbers: a file system that is read, one that is only known by name, or neither.
pub(crate) fn open(volume: &Volume) -> Result<Option<Box<dyn FileSystem>>> {
    if let Some(fs) = ext::open(volume)? {
        return Ok(Some(fs));
    }
    if let Some(fs) = xfs::open(volume)? {
        return Ok(Some(fs));
    }
    if let Some(fs) = ntfs::open(volume)? {
        return Ok(Some(fs));
    }
    fat::open(volume)
}

/// Places and bytes by which what is not read here is known.
const KNOWN: [(u64, &[u8], &str); 11] = [
    (0, b"LUKS\xba\xbe", "LUKS encryption"),
    (3, b"-FVE-FS-", "BitLocker encryption"),
    (0x1_0040, b"_BHRfS_M", "btrfs"),
    (0x18, b"LABELONE", "LVM"),
    (0x218, b"LVM2 001", "LVM"),
    (3, b"ReFS\0\0\0\0", "ReFS"),
    (0, b"hsqs", "squashfs"),
    (0x8001, b"CD001", "ISO 9660"),
    (0xff6, b"SWAPSPACE2", "swap space"),
    (0x1000, b"\xfc\x4e\x2b\xa9", "a member of a Linux RAID"),
    (0x400, b"\x10\x20\xf5\xf2", "F2FS"),
];

/// The name of something that is not read here.
pub(crate) fn known(volume: &Volume) -> Option<&'static str> {
    KNOWN
        .iter()
        .find(|(at, magic, _)| volume.bytes(*at, magic.len()).is_ok_and(|found| found == *magic))
        .map(|(_, _, name)| *name)
}

/// Adds a piece, to the last one if that goes on.
pub(crate) fn push(pieces: &mut Vec<Piece>, length_bytes: u64, place: PiecePlace) {
    if length_bytes == 0 {
        return;
    }
    if let Some(last) = pieces.last_mut() {
        let goes_on = match (last.place, place) {
            (PiecePlace::Hole, PiecePlace::Hole) | (PiecePlace::Held, PiecePlace::Held) => true,
            (PiecePlace::Volume(one), PiecePlace::Volume(other)) => {
                one.checked_add(last.length_bytes) == Some(other)
            }
            _ => false,
        };
        if goes_on {
            last.length_bytes = last.length_bytes.saturating_add(length_bytes);
            return;
        }
    }
    pieces.push(Piece { length_bytes, place });
}
