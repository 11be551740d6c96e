//! qcow2 images, read and written by our own code: the disk that the guest sees, never the container.
//!
//! Everything in an image may have been chosen by an attacker: a guest that escaped into its image, or whoever can
//! write to the folder of images. So the tables are parsed by functions that see bytes only (`header`, `tables`,
//! `bitmaps`), everything that makes no sense is a [`Qcow2Fault`], nothing is repaired, and no other file is opened
//! unless the caller says that it may be ([`References`]).
//!
//! What is left out: internal snapshots (the active state is the disk), reference counts (they matter to writers),
//! encryption. Whatever is not read rightly is refused.

mod bitmaps;
mod bytes;
mod cache;
mod chain;
pub(crate) mod codec;
mod fault;
mod header;
mod layer;
mod tables;
#[cfg(test)]
pub(crate) use tests::lab;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::positional::{is_inside, length};
use crate::{ChangedError, Disk, OpenError, ReadError, open_raw};
use bytes::to_usize;
use layer::{Caches, Image};
use tables::Place;

pub use crate::beneath::References;
pub use bitmaps::Bitmap;
pub use fault::Qcow2Fault;

/// The disk in a qcow2 image and its backing files, open for reading.
#[derive(Debug)]
pub struct Qcow2Disk {
    path: PathBuf,
    size_bytes: u64,
    /// The image, what stands behind it, and so on.
    layers: Vec<Layer>,
    caches: Caches,
}

#[derive(Debug)]
enum Layer {
    Qcow2(Image),
    Raw(crate::RawDisk),
}

/// Opens a file or block device that the caller knows to be a qcow2 image. Without `references` an image that needs
/// other files is refused; with them it may have those that are allowed.
///
/// # Errors
/// [`OpenError::Qcow2`] with what is wrong with the image or with one that it stands on; otherwise as
/// [`open_raw`].
pub fn open_qcow2(path: &Path, references: Option<&References<'_>>) -> Result<Qcow2Disk, OpenError> {
    chain::open(open_raw(path)?, references)
}

impl Qcow2Disk {
    /// The disk in an image that is itself seen as a disk. It may need no other file.
    ///
    /// # Errors
    /// As [`open_qcow2`].
    pub fn in_disk(container: Arc<dyn Disk>) -> Result<Self, OpenError> {
        chain::open_alone(container)
    }

    /// The files that it is read from: the image, then what it stands on.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.disks().map(Disk::path)
    }

    /// The bitmaps that the image keeps. None are listed when they may be out of date as a whole.
    ///
    /// # Errors
    /// [`ReadError::Qcow2`] when they make no sense; the disk can be read all the same.
    pub fn bitmaps(&self) -> Result<Vec<Bitmap>, ReadError> {
        match self.layers.first() {
            Some(Layer::Qcow2(image)) => image.bitmaps(),
            _ => Ok(Vec::new()),
        }
    }

    /// What `bitmap` marks inside `range`: ascending, disjoint, clipped to `range`. Memory grows with the number of
    /// ranges, so ask for a large disk piece by piece.
    ///
    /// # Errors
    /// [`ReadError::Qcow2`] when the bitmap cannot be used, [`ReadError::OutOfRange`].
    pub fn bitmap_ranges(&self, bitmap: &Bitmap, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        self.refuse_outside(range.start, range.end.saturating_sub(range.start))?;
        match self.layers.first() {
            Some(Layer::Qcow2(image)) => image.bitmap_ranges(bitmap, range),
            _ => Ok(Vec::new()),
        }
    }

    fn disks(&self) -> impl Iterator<Item = &dyn Disk> {
        self.layers
            .iter()
            .flat_map(|layer| match layer {
                Layer::Qcow2(image) => [Some(&*image.container), image.data.as_deref()],
                Layer::Raw(disk) => {
                    let disk: &dyn Disk = disk;
                    [Some(disk), None]
                }
            })
            .flatten()
    }

    fn refuse_outside(&self, offset: u64, length_bytes: u64) -> Result<(), ReadError> {
        if is_inside(offset, length_bytes, self.size_bytes) {
            return Ok(());
        }
        let (path, size_bytes) = (self.path.clone(), self.size_bytes);
        Err(ReadError::OutOfRange { path, offset, length_bytes, size_bytes })
    }

    /// Reads what the layer with this number and those behind it show. Past its end each shows zeros. The depth of the
    /// recursion is that of the chain, which is bounded.
    fn read_layer(&self, number: usize, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let Some(layer) = self.layers.get(number) else {
            buffer.fill(0);
            return Ok(());
        };
        let inside = layer.size_bytes().saturating_sub(offset).min(length(buffer));
        let (buffer, behind) = buffer.split_at_mut(to_usize(inside));
        behind.fill(0);
        match layer {
            Layer::Raw(disk) if buffer.is_empty() => Ok(()),
            Layer::Raw(disk) => disk.read_at(offset, buffer),
            Layer::Qcow2(image) => self.read_image(image, offset, buffer),
        }
    }

    fn read_image(&self, image: &Image, offset: u64, mut rest: &mut [u8]) -> Result<(), ReadError> {
        let mut walk = image.walk(offset..offset.saturating_add(length(rest)), &self.caches);
        while let Some(segment) = walk.next()? {
            let length_bytes = segment.guest.end.saturating_sub(segment.guest.start);
            let (piece, behind) = rest.split_at_mut(to_usize(length_bytes).min(rest.len()));
            let guest = segment.guest.start;
            match segment.place {
                Place::Zero => piece.fill(0),
                Place::Backing => self.read_layer(image.number.saturating_add(1), guest, piece)?,
                Place::Data { host } => image.clusters().read_at(host, piece)?,
                Place::Compressed { host, length_bytes } => {
                    image.read_compressed((host, length_bytes), guest, piece, &self.caches)?;
                }
            }
            rest = behind;
        }
        Ok(())
    }

    /// Adds the ranges of `range` that may hold data in this layer and those behind it.
    fn find(&self, number: usize, range: Range<u64>, found: &mut Vec<Range<u64>>) -> Result<(), ReadError> {
        let Some(layer) = self.layers.get(number) else { return Ok(()) };
        let range = range.start..range.end.min(layer.size_bytes());
        if range.is_empty() {
            return Ok(());
        }
        let image = match layer {
            Layer::Raw(disk) => {
                disk.data_ranges(range)?.into_iter().for_each(|data| add(found, data));
                return Ok(());
            }
            Layer::Qcow2(image) => image,
        };
        let mut walk = image.walk(range, &self.caches);
        while let Some(segment) = walk.next()? {
            match segment.place {
                Place::Zero => {}
                Place::Backing => self.find(number.saturating_add(1), segment.guest, found)?,
                Place::Compressed { .. } => add(found, segment.guest),
                // Clusters that were set aside and never written are holes of the file.
                Place::Data { host } => {
                    let length_bytes = segment.guest.end.saturating_sub(segment.guest.start);
                    let to_guest = |at: u64| at.saturating_sub(host).saturating_add(segment.guest.start);
                    let data = image.clusters().data_ranges(host..host.saturating_add(length_bytes))?;
                    data.into_iter().for_each(|data| add(found, to_guest(data.start)..to_guest(data.end)));
                }
            }
        }
        Ok(())
    }
}

impl Layer {
    fn size_bytes(&self) -> u64 {
        match self {
            Self::Qcow2(image) => image.header.size_bytes,
            Self::Raw(disk) => disk.size_bytes(),
        }
    }
}

/// Adds a range that starts at or behind the end of the last one.
fn add(found: &mut Vec<Range<u64>>, range: Range<u64>) {
    match found.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => found.push(range),
    }
}

impl Disk for Qcow2Disk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.refuse_outside(offset, length(buffer))?;
        self.read_layer(0, offset, buffer)
    }

    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        self.refuse_outside(range.start, range.end.saturating_sub(range.start))?;
        let mut found = Vec::new();
        self.find(0, range, &mut found)?;
        Ok(found)
    }

    /// Asks every file of the chain.
    fn check_unchanged(&self) -> Result<(), ChangedError> {
        self.disks().try_for_each(Disk::check_unchanged)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
