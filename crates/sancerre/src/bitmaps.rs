//! Dirty bitmaps that are asked for in place of a change map: of an NBD server, or in a qcow2 image. They are read with the
//! disk, over the same connection: some servers give only one.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use sancerre_engine::Error;
use sancerre_format::names::Title;
use sancerre_image::change_map::ChangeMap;
use sancerre_image::confined::ConfinedDisk;
use sancerre_image::nbd::{NbdDisk, NbdError, NbdOptions, NbdUri};
use sancerre_image::{Disk, ReadError};

use crate::command::Context;
use crate::exit::Failure;

/// What stands before a bitmap's name in place of a file.
const PREFIX: &str = "bitmap:";
/// How QEMU's servers call the context of a bitmap.
const CONTEXT: &str = "qemu:dirty-bitmap:";

/// The name of a bitmap, if that is what is typed in place of a map's file.
pub(crate) fn named(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix(PREFIX).filter(|name| !name.is_empty())
}

/// Bitmaps that are wanted, and the maps that they came to: none for one that is lost.
#[derive(Debug, Default)]
pub(crate) struct Bitmaps {
    wanted: Vec<(Option<Title>, String)>,
    found: Mutex<Vec<(Title, Option<ChangeMap>)>>,
}

impl Bitmaps {
    /// One without a disk's name is meant for whichever disk there is.
    pub(crate) fn new(wanted: Vec<(Option<Title>, String)>) -> Self {
        Self { wanted, found: Mutex::default() }
    }

    fn of(&self, disk: &Title) -> Option<&str> {
        let of_name = self.wanted.iter().find(|(name, _)| name.as_ref() == Some(disk));
        let of_any = || self.wanted.iter().find(|(name, _)| name.is_none());
        of_name.or_else(of_any).map(|(_, bitmap)| bitmap.as_str())
    }

    /// What the bitmap of a disk came to; no map where it is lost, which was said.
    ///
    /// Errors: the disk is of a kind that has none.
    pub(crate) fn take(&self, disk: &Title) -> Result<Option<ChangeMap>, Failure> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let at = found.iter().position(|(name, _)| name == disk);
        at.map(|at| found.swap_remove(at).1).ok_or_else(|| {
            Failure::usage(format!(
                "{disk} has no bitmaps: only a qcow2 image and an NBD server keep them; give a change map in a file"
            ))
        })
    }

    fn keep(&self, disk: &Title, map: Result<ChangeMap, ReadError>) -> Result<(), Failure> {
        self.add(disk, Some(map.map_err(Error::from)?));
        Ok(())
    }

    fn add(&self, disk: &Title, map: Option<ChangeMap>) {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).push((disk.clone(), map));
    }

    fn lose(&self, disk: &Title, bitmap: &str, why: &str, context: &Context) {
        context
            .output
            .warning(&format!("all of {disk} is read, for its bitmap {bitmap} cannot be used: {why}"));
        self.add(disk, None);
    }

    /// Opens an export, with its bitmap if one is wanted and the server still has it.
    pub(crate) fn open_export(
        &self,
        disk: &Title,
        uri: &NbdUri,
        context: &Context,
    ) -> Result<NbdDisk, Failure> {
        let failed = |error: NbdError| Failure::failed(error.to_string());
        let Some(wanted) = self.of(disk) else {
            return NbdDisk::open(uri, &NbdOptions::default()).map_err(failed);
        };
        let bitmap = if wanted.contains(':') { wanted.to_owned() } else { format!("{CONTEXT}{wanted}") };
        match NbdDisk::open(uri, &NbdOptions { bitmap: Some(bitmap), ..NbdOptions::default() }) {
            Ok(opened) => {
                self.keep(disk, opened.changes())?;
                Ok(opened)
            }
            Err(lost) => {
                let opened = NbdDisk::open(uri, &NbdOptions::default()).map_err(failed)?;
                self.lose(disk, wanted, &lost.to_string(), context);
                Ok(opened)
            }
        }
    }

    /// Reads the bitmap that an image keeps of itself, if one is wanted.
    pub(crate) fn read_image(
        &self,
        disk: &Title,
        image: &ConfinedDisk,
        context: &Context,
    ) -> Result<(), Failure> {
        let Some(wanted) = self.of(disk) else { return Ok(()) };
        let bitmaps = image.bitmaps().map_err(Error::from)?;
        let found = bitmaps.iter().find(|bitmap| bitmap.name == wanted);
        let why = match found {
            None => "the image has none of this name that is up to date",
            Some(bitmap) if bitmap.is_in_use => "it was not closed, so changes may be missing in it",
            Some(bitmap) if bitmap.is_foreign => "it is no list of changes, or one of a newer kind",
            Some(bitmap) if !bitmap.is_recording => "it does not record every write to the image",
            Some(bitmap) => {
                let size_bytes = image.size_bytes();
                let ranges = image.bitmap_ranges(bitmap, 0..size_bytes).map_err(Error::from)?;
                let map = ChangeMap::new("qcow2-bitmap", size_bytes, ranges);
                let map = map.map_err(|error| Failure::failed(format!("the bitmap {wanted}: {error}")))?;
                return self.keep(disk, Ok(map));
            }
        };
        self.lose(disk, wanted, why, context);
        Ok(())
    }
}
