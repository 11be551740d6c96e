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

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::positional::{is_inside, length};
use crate::{ChangedError, Disk, OpenError, ReadError, open_raw};
use bytes::to_usize;
pub(crate) use chain::{Files, Policy, Role};
use layer::{Caches, Image, Segment};
use tables::ClusterPlace;

pub use crate::beneath::References;
pub use bitmaps::Bitmap;
pub use fault::Qcow2Fault;

/// Tables that one search for data may read before it says how far it came: less than a second's work.
const TABLES_AT_ONCE: usize = 128;
/// Runs of zeros, one behind the other, that one search goes over.
const RUNS_AT_ONCE: usize = 256;

/// The disk in a qcow2 image and its backing files, open for reading.
#[derive(Debug)]
pub struct Qcow2Disk {
    path: PathBuf,
    size_bytes: u64,
    /// The image, what stands behind it, and so on.
    layers: Vec<Layer>,
    caches: Caches,
}

enum Layer {
    Qcow2(Box<Image>),
    /// A file as it is, and its number.
    Raw {
        disk: Arc<dyn Disk>,
        file: usize,
    },
}

/// Opens a file or block device that the caller knows to be a qcow2 image. Without `references` an image that needs
/// other files is refused; with them it may have those that are allowed.
///
/// # Errors
/// [`OpenError::Qcow2`] with what is wrong with the image or with one that it stands on; otherwise as
/// [`open_raw`].
pub fn open_qcow2(path: &Path, references: Option<&References<'_>>) -> Result<Qcow2Disk, OpenError> {
    let top = open_raw(path)?;
    let mut policy = Policy::new(references)?;
    policy.refuse_seen(&top)?;
    open_with(Arc::new(top), &mut policy)
}

/// As [`open_qcow2`], with whoever opens the files that the image stands on.
pub(crate) fn open_with(container: Arc<dyn Disk>, files: &mut dyn Files) -> Result<Qcow2Disk, OpenError> {
    chain::open(container, files)
}

impl fmt::Debug for Layer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qcow2(image) => image.fmt(formatter),
            Self::Raw { disk, .. } => disk.path().fmt(formatter),
        }
    }
}

impl Qcow2Disk {
    /// The disk in an image that is itself seen as a disk. It may need no other file.
    ///
    /// # Errors
    /// As [`open_qcow2`].
    pub fn in_disk(container: Arc<dyn Disk>) -> Result<Self, OpenError> {
        open_with(container, &mut Policy::new(None)?)
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
                Layer::Raw { disk, .. } => [Some(&**disk), None],
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

    /// Shows `visit` where the bytes of `range` are, in order and without a gap.
    pub(crate) fn runs(&self, range: Range<u64>, visit: &mut Visit<'_>) -> Result<(), ReadError> {
        self.refuse_outside(range.start, range.end.saturating_sub(range.start))?;
        self.layer_runs(0, range, visit)
    }

    /// The runs of the layer with this number and those behind it. Past its end each shows zeros. The depth of the
    /// recursion is that of the chain, which is bounded.
    fn layer_runs(&self, number: usize, range: Range<u64>, visit: &mut Visit<'_>) -> Result<(), ReadError> {
        let size_bytes = self.layers.get(number).map_or(0, Layer::size_bytes);
        let end = range.end.min(size_bytes).max(range.start);
        let (inside, behind) = (range.start..end, end..range.end);
        match self.layers.get(number) {
            Some(Layer::Qcow2(image)) => self.image_runs(image, inside, visit)?,
            Some(Layer::Raw { disk, file }) if !inside.is_empty() => {
                let host = inside.start;
                visit(inside, Run::File { file: *file, disk: &**disk, host })?;
            }
            _ => {}
        }
        if behind.is_empty() { Ok(()) } else { visit(behind, Run::Zero) }
    }

    /// Shows `visit` the first run of a range that is not empty, which is however long it is: past empty entries of the first
    /// table goes what takes no time, and past the others as far as a bounded number of tables reaches.
    pub(crate) fn first_run(&self, range: Range<u64>, visit: &mut Visit<'_>) -> Result<(), ReadError> {
        self.refuse_outside(range.start, range.end.saturating_sub(range.start))?;
        self.layer_first_run(0, range, visit)
    }

    fn layer_first_run(
        &self,
        number: usize,
        range: Range<u64>,
        visit: &mut Visit<'_>,
    ) -> Result<(), ReadError> {
        let size_bytes = self.layers.get(number).map_or(0, Layer::size_bytes);
        let inside = range.start..range.end.min(size_bytes);
        let Some(layer) = self.layers.get(number).filter(|_| !inside.is_empty()) else {
            return visit(range, Run::Zero);
        };
        let image = match layer {
            Layer::Raw { disk, file } => {
                let host = inside.start;
                return visit(inside, Run::File { file: *file, disk: &**disk, host });
            }
            Layer::Qcow2(image) => image,
        };
        let inside = inside.start..image.reach(&inside, TABLES_AT_ONCE);
        let Some(segment) = image.walk(inside.clone(), &self.caches).next()? else {
            return visit(inside, Run::Zero);
        };
        match segment.place {
            ClusterPlace::Backing => self.layer_first_run(number.saturating_add(1), segment.guest, visit),
            _ => self.show(image, segment, visit),
        }
    }

    fn image_runs(&self, image: &Image, range: Range<u64>, visit: &mut Visit<'_>) -> Result<(), ReadError> {
        let mut walk = image.walk(range, &self.caches);
        while let Some(segment) = walk.next()? {
            self.show(image, segment, visit)?;
        }
        Ok(())
    }

    fn show(&self, image: &Image, segment: Segment, visit: &mut Visit<'_>) -> Result<(), ReadError> {
        let Segment { guest, place } = segment;
        match place {
            ClusterPlace::Zero => visit(guest, Run::Zero),
            ClusterPlace::Backing => self.layer_runs(image.number.saturating_add(1), guest, visit),
            ClusterPlace::Data { host } => {
                visit(guest, Run::File { file: image.clusters_file(), disk: image.clusters(), host })
            }
            ClusterPlace::Compressed { host, length_bytes } => {
                visit(guest, Run::Packed(Packed { image, place: (host, length_bytes) }))
            }
        }
    }

    /// Decompresses what is packed: `buffer` is for the bytes of the disk from `guest` on, all in one cluster.
    pub(crate) fn unpack(&self, packed: Packed<'_>, guest: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        packed.image.read_compressed(packed.place, guest, buffer, &self.caches)
    }
}

/// Takes the runs of a disk: which of its bytes, and where they are.
pub(crate) type Visit<'a> = dyn FnMut(Range<u64>, Run<'_>) -> Result<(), ReadError> + 'a;

/// Where bytes of the disk are that follow each other.
pub(crate) enum Run<'a> {
    /// Nowhere: they are zeros.
    Zero,
    /// As they are, in `disk`, which is the file with this number in the order of [`Qcow2Disk::files`].
    File { file: usize, disk: &'a dyn Disk, host: u64 },
    /// In a compressed cluster.
    Packed(Packed<'a>),
}

/// A compressed cluster.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    image: &'a Image,
    place: (u64, u64),
}

impl Layer {
    fn size_bytes(&self) -> u64 {
        match self {
            Self::Qcow2(image) => image.header.size_bytes,
            Self::Raw { disk, .. } => disk.size_bytes(),
        }
    }
}

/// Adds the parts of `guest` for which the file has data from `host` on: clusters that were set aside and never written
/// are its holes.
pub(crate) fn add_data(
    found: &mut Vec<Range<u64>>,
    guest: &Range<u64>,
    disk: &dyn Disk,
    host: u64,
) -> Result<(), ReadError> {
    let end = host.saturating_add(guest.end.saturating_sub(guest.start));
    let to_guest = |at: u64| at.saturating_sub(host).saturating_add(guest.start);
    let data = disk.data_ranges(host..end)?;
    data.into_iter().for_each(|data| add(found, to_guest(data.start)..to_guest(data.end)));
    Ok(())
}

/// The first byte of `guest` for which the file has data from `host` on.
pub(crate) fn first_data(guest: &Range<u64>, disk: &dyn Disk, host: u64) -> Result<Option<u64>, ReadError> {
    let found = disk.next_data(host)?;
    let guest_of = |at: u64| at.saturating_sub(host).saturating_add(guest.start);
    Ok(found.map(guest_of).filter(|at| *at < guest.end))
}

/// Goes from run to run, of which `first` tells the end of the first one of a range, and where in it there may be data. It ends
/// early after a bounded number of them.
pub(crate) fn next_data<E>(
    offset: u64,
    size_bytes: u64,
    mut first: impl FnMut(Range<u64>) -> Result<Option<(u64, Option<u64>)>, E>,
) -> Result<Option<u64>, E> {
    let mut at = offset;
    for _ in 0..RUNS_AT_ONCE {
        if at >= size_bytes {
            return Ok(None);
        }
        match first(at..size_bytes)? {
            Some((_, Some(data))) => return Ok(Some(data)),
            Some((end, None)) if end > at => at = end,
            _ => break,
        }
    }
    Ok((at < size_bytes).then_some(at))
}

/// Adds a range that starts at or behind the end of the last one.
pub(crate) fn add(found: &mut Vec<Range<u64>>, range: Range<u64>) {
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
        let end = offset.saturating_add(length(buffer));
        self.refuse_outside(offset, length(buffer))?;
        let mut rest = buffer;
        self.runs(offset..end, &mut |guest, run| {
            let length_bytes = to_usize(guest.end.saturating_sub(guest.start)).min(rest.len());
            let (piece, behind) = std::mem::take(&mut rest).split_at_mut(length_bytes);
            rest = behind;
            match run {
                Run::Zero => piece.fill(0),
                Run::File { disk, host, .. } => disk.read_at(host, piece)?,
                Run::Packed(packed) => self.unpack(packed, guest.start, piece)?,
            }
            Ok(())
        })
    }

    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        let mut found = Vec::new();
        self.runs(range, &mut |guest, run| match run {
            Run::Zero => Ok(()),
            Run::Packed(_) => {
                add(&mut found, guest);
                Ok(())
            }
            Run::File { disk, host, .. } => add_data(&mut found, &guest, disk, host),
        })?;
        Ok(found)
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>, ReadError> {
        next_data(offset, self.size_bytes, |range| {
            let mut found = None;
            self.first_run(range, &mut |guest, run| {
                found = Some(match run {
                    Run::Zero => (guest.end, None),
                    Run::Packed(_) => (guest.end, Some(guest.start)),
                    Run::File { disk, host, .. } => (guest.end, first_data(&guest, disk, host)?),
                });
                Ok(())
            })?;
            Ok(found)
        })
    }

    /// Asks every file of the chain.
    fn check_unchanged(&self) -> Result<(), ChangedError> {
        self.disks().try_for_each(Disk::check_unchanged)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
