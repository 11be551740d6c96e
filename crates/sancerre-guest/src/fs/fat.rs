//! FAT12, FAT16, FAT32 and exFAT.

mod boot;
mod chain;
mod exfat;
mod names;

use std::collections::HashMap;
use std::ops::Range;

use super::{EachName, FileSystem, Identity, Piece, PiecePlace, RUNS_MAX, push};
use crate::fault::{Fault, Result};
use crate::node::{FileNode, Moment, NodeKind};
use crate::volume::Volume;
use boot::{Geometry, Variant};

/// The number of the root; those of all others are the places of their entries.
const ROOT: u64 = 1;
/// Larger folders than this are no folders: no FAT has more entries.
const FOLDER_BYTES_MAX: u64 = 256 << 20;
/// Entries that are kept.
const KNOWN_MAX: usize = 200_000;
const ZONE: &str = "its times are the guest's local ones";

/// What an entry of a folder says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    id: u64,
    name: Vec<u8>,
    is_folder: bool,
    size_bytes: u64,
    /// How many of its bytes were written; zeros follow.
    written_bytes: u64,
    first_cluster: u32,
    /// Its clusters follow each other, and are in no table.
    is_contiguous: bool,
    modified: Option<Moment>,
}

struct Fat {
    volume: Volume,
    geometry: Geometry,
    /// Entries that were read: a set of exFAT may go on elsewhere.
    known: HashMap<u64, Found>,
    /// The clusters of the file that was asked for last.
    last: Option<(u64, chain::Chain)>,
}

/// None when it is none.
pub(super) fn open(volume: &Volume) -> Result<Option<Box<dyn FileSystem>>> {
    let Ok(boot) = volume.bytes(0, 512) else { return Ok(None) };
    let Some(geometry) = boot::parse(&boot)? else { return Ok(None) };
    Ok(Some(Box::new(Fat { volume: volume.clone(), geometry, known: HashMap::new(), last: None })))
}

impl Fat {
    fn root_found(&self) -> Found {
        Found {
            id: ROOT,
            name: Vec::new(),
            is_folder: true,
            size_bytes: 0,
            written_bytes: 0,
            first_cluster: self.geometry.root_cluster,
            is_contiguous: false,
            modified: None,
        }
    }

    fn found(&self, id: u64) -> Result<Found> {
        if id == ROOT {
            return Ok(self.root_found());
        }
        match self.known.get(&id) {
            Some(found) => Ok(found.clone()),
            // Named by another child: without its name, which nobody asks it for.
            None if id.is_multiple_of(32) => match self.geometry.variant {
                Variant::ExFat => exfat::at(&self.volume, id),
                variant => names::at(&self.volume, id, variant),
            },
            None => Err(Fault::Missing),
        }
    }

    /// The places of a folder's bytes.
    fn folder_places(&self, found: &Found) -> Result<Vec<Range<u64>>> {
        if let (ROOT, Some(fixed)) = (found.id, &self.geometry.fixed_root) {
            return Ok(vec![fixed.clone()]);
        }
        let most = match found.is_contiguous {
            true => found.size_bytes.min(FOLDER_BYTES_MAX),
            false => FOLDER_BYTES_MAX,
        };
        let chain = chain::follow(&self.volume, &self.geometry, found, most)?;
        Ok(chain.places(&self.geometry))
    }

    /// Everything in a folder.
    fn entries(&mut self, id: u64) -> Result<Vec<Found>> {
        let found = self.found(id)?;
        if !found.is_folder {
            return Err(Fault::Corrupt("it is no folder"));
        }
        let places = self.folder_places(&found)?;
        let entries = match self.geometry.variant {
            Variant::ExFat => exfat::entries(&self.volume, &places)?,
            _ => names::entries(&self.volume, &places, self.geometry.variant)?,
        };
        if self.known.len() > KNOWN_MAX {
            self.known.clear();
        }
        self.known.extend(entries.iter().map(|entry| (entry.id, entry.clone())));
        Ok(entries)
    }

    fn chain(&mut self, found: &Found) -> Result<&chain::Chain> {
        if self.last.as_ref().is_none_or(|(id, _)| *id != found.id) {
            let chain = chain::follow(&self.volume, &self.geometry, found, found.size_bytes)?;
            self.last = Some((found.id, chain));
        }
        self.last.as_ref().map(|(_, chain)| chain).ok_or(Fault::Missing)
    }
}

impl FileSystem for Fat {
    fn identity(&self) -> Identity {
        Identity {
            kind: self.geometry.variant.name(),
            label: self.geometry.label.clone(),
            uuid: self.geometry.serial(),
            notes: vec![ZONE.to_owned()],
        }
    }

    fn root(&self) -> u64 {
        ROOT
    }

    fn node(&mut self, id: u64) -> Result<FileNode> {
        let found = self.found(id)?;
        let kind = if found.is_folder { NodeKind::Directory } else { NodeKind::File };
        let size_bytes = if found.is_folder { 0 } else { found.size_bytes };
        Ok(FileNode { id, kind, size_bytes, mode: None, owner: None, modified: found.modified, links: 1 })
    }

    fn list(&mut self, id: u64, each: EachName<'_>) -> Result<()> {
        self.entries(id)?.into_iter().try_for_each(|found| each(found.name, found.id))
    }

    fn pieces(&mut self, id: u64, _stream: &[u8], range: Range<u64>) -> Result<Vec<Piece>> {
        let found = self.found(id)?;
        let geometry = self.geometry.clone();
        let written = found.written_bytes;
        let places = self.chain(&found)?.places(&geometry);
        let mut pieces = Vec::new();
        let mut at = 0_u64;
        for place in places {
            let length = place.end.saturating_sub(place.start);
            let (start, end) = (at, at.saturating_add(length));
            let (from, to) = (start.max(range.start), end.min(range.end).min(written));
            at = end;
            if from < to {
                let offset = place.start.saturating_add(from.saturating_sub(start));
                push(&mut pieces, to.saturating_sub(from), PiecePlace::Volume(offset));
                if pieces.len() >= RUNS_MAX {
                    return Ok(pieces);
                }
            }
        }
        if at < range.end.min(written) {
            return Err(Fault::Corrupt("its table of clusters ends before the file does"));
        }
        push(&mut pieces, range.end.saturating_sub(range.start.max(written)), PiecePlace::Hole);
        Ok(pieces)
    }

    /// Nothing is held in structures here.
    fn read(&mut self, _id: u64, _stream: &[u8], _offset: u64, _buffer: &mut [u8]) -> Result<()> {
        Err(Fault::Missing)
    }

    fn link(&mut self, _id: u64) -> Result<Vec<u8>> {
        Err(Fault::Corrupt("a link that is none"))
    }
}
