//! A qcow2 image that takes a disk in any order: version 3, clusters of 64 KiB, allocated one after the other.
//!
//! The L2 tables are in the file from the start, because for a large disk they are large. What else makes an image of
//! the file is written at the end, the header last: until then no program takes it for one.

mod assembly;
mod evidence;
mod layout;
mod map;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use rustix::fs::fstatvfs;

use super::partial::Partial;
use super::write_back::WriteBack;
use super::{is_device, is_full, replaced};
use crate::TargetError;
use crate::positional::{Stop, is_inside, length, read_exact};
use crate::qcow2::codec::{Codec, compress, decompress};
use assembly::Assembly;
use map::{CLUSTER_BYTES, Map, WrittenPlace};

pub(super) use evidence::Evidence;

/// Programs see disks of whole sectors.
const SECTOR_BYTES: u64 = 512;
/// What 32 MiB of L1 table can hold, which is what programs read.
const DISK_BYTES_MAX: u64 = 1 << 51;

/// How the clusters of a new image are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qcow2Compression {
    /// Not at all: fast to write and to run.
    None,
    /// By deflate: every QEMU reads it.
    Zlib,
    /// By zstd: QEMU 5.1 and later.
    Zstd,
}

/// A new qcow2 image, written as `NAME.sancerre-partial` and renamed by [`Qcow2Target::finish`].
///
/// Takes writes from many threads. Of two that overlap at the same time the result is undefined, as on a raw file; a
/// range is written or zeroed, never first written and then zeroed.
#[derive(Debug)]
pub struct Qcow2Target {
    partial: Partial,
    /// The file that the image will replace.
    replaced: Option<File>,
    /// As it was asked for.
    size_bytes: u64,
    codec: Option<Codec>,
    written_bytes: AtomicU64,
    write_back: WriteBack,
    /// Set when a write failed: pieces of other writes may have been lost with it.
    has_failed: AtomicBool,
    state: Mutex<ImageState>,
}

#[derive(Debug)]
struct ImageState {
    map: Map,
    assembly: Assembly,
}

impl Qcow2Target {
    /// Prepares `path` to become an image with a disk of `size_bytes`. Without `overwrite` a file that is not empty is
    /// refused.
    ///
    /// # Errors
    /// As [`RawTarget::create`](crate::RawTarget::create); also for a block device, and for a disk that is too large
    /// for the format.
    pub fn create(
        path: &Path,
        size_bytes: u64,
        overwrite: bool,
        compression: Qcow2Compression,
    ) -> Result<Self, TargetError> {
        if is_device(path)? {
            let advice = "an image goes into a file; name one, or restore the disk raw";
            return Err(TargetError::NotATarget {
                path: path.to_owned(),
                kind: "block device",
                advice: advice.into(),
            });
        }
        if size_bytes > DISK_BYTES_MAX {
            let (path, limit_bytes) = (path.to_owned(), DISK_BYTES_MAX);
            return Err(TargetError::BeyondFormat { path, disk_bytes: size_bytes, limit_bytes });
        }
        let codec = match compression {
            Qcow2Compression::None => None,
            Qcow2Compression::Zlib => Some(Codec::Zlib),
            Qcow2Compression::Zstd => Some(Codec::Zstd),
        };
        let (partial, replaced) = replaced::look(Partial::create(path, 0, overwrite)?, path)?;
        Ok(Self {
            partial,
            replaced,
            size_bytes,
            codec,
            written_bytes: AtomicU64::new(0),
            write_back: WriteBack::default(),
            has_failed: AtomicBool::new(false),
            state: Mutex::new(ImageState { map: Map::new(size_bytes), assembly: Assembly::default() }),
        })
    }

    /// Writes `bytes` at `offset` of the disk. Durable only after [`Qcow2Target::finish`].
    ///
    /// # Errors
    /// [`TargetError::NoSpace`], [`TargetError::Write`] or [`TargetError::OutOfRange`].
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let length_bytes = length(bytes);
        self.refuse_outside(offset, length_bytes)?;
        let written = match self.codec {
            None => self.write_plain(offset, bytes),
            Some(codec) => self.write_compressed(codec, offset, bytes),
        };
        written.map_err(|source| self.write_failed(offset, length_bytes, source))?;
        self.written_bytes.fetch_add(length_bytes, Ordering::Relaxed);
        self.write_back.written(self.partial.file(), length_bytes);
        Ok(())
    }

    /// Makes `range` read as zeros. It does so from the start: a range is written or zeroed, never both.
    ///
    /// # Errors
    /// As [`Qcow2Target::write_at`].
    pub fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        let length_bytes = range.end.saturating_sub(range.start);
        self.refuse_outside(range.start, length_bytes)?;
        let Some(codec) = self.codec else { return Ok(()) };
        // A cluster that is data and zeros is whole, and can be compressed, only when both are known.
        let zeros = [0; map::CLUSTER_LENGTH];
        let in_last = range.end % CLUSTER_BYTES;
        let inner = range.start.next_multiple_of(CLUSTER_BYTES)..range.end.saturating_sub(in_last);
        let edges = match inner.start <= inner.end {
            true => [range.start..inner.start, inner.end..range.end],
            false => [range.clone(), range.end..range.end],
        };
        for edge in edges {
            let edge_bytes = edge.end.saturating_sub(edge.start);
            let piece = zeros.get(..map::to_usize(edge_bytes)).unwrap_or_default();
            self.write_compressed(codec, edge.start, piece)
                .map_err(|source| self.write_failed(edge.start, edge_bytes, source))?;
        }
        Ok(())
    }

    /// Bytes at the end of the image's disk that the restored one does not have: the format knows whole sectors only.
    pub fn surplus_bytes(&self) -> u64 {
        self.virtual_bytes().saturating_sub(self.size_bytes)
    }

    fn virtual_bytes(&self) -> u64 {
        self.size_bytes.next_multiple_of(SECTOR_BYTES)
    }

    /// Completes the tables, makes everything durable and gives the image its name.
    ///
    /// # Errors
    /// Also when a write failed before, whatever was done about it since. Any error means that the disk is not restored; a partial file stays until the next restore to this name.
    pub fn finish(mut self) -> Result<(), TargetError> {
        self.complete().map_err(|source| match is_full(&source) {
            true => self.no_space(),
            false => TargetError::Io { step: "complete", path: self.path().to_owned(), source },
        })?;
        replaced::publish(self.partial, self.replaced.as_ref())
    }

    pub(super) fn complete(&mut self) -> io::Result<()> {
        if self.has_failed.load(Ordering::SeqCst) {
            return Err(io::Error::other("an earlier write to it failed; restore again"));
        }
        if let Some(codec) = self.codec {
            // Bound first: the lock would else be held while the loop takes it again.
            let rest = self.locked()?.assembly.take_all();
            for (cluster, bytes) in rest {
                self.store(codec, cluster, &bytes)?;
            }
        }
        self.write_back.end()?;
        let (file, state) = (self.partial.file(), self.locked()?);
        let header = layout::write_tables(file, &state.map, self.virtual_bytes(), self.codec, None)?;
        // The tables must not be lost where the header was kept.
        file.sync_all()?;
        file.write_all_at(&header, 0)?;
        file.sync_all()
    }

    /// Gives up: removes the partial file.
    ///
    /// # Errors
    /// [`TargetError::Io`] when the file cannot be removed.
    pub fn abandon(self) -> Result<(), TargetError> {
        self.partial.remove()
    }

    /// Where bytes go: the partial file.
    pub fn path(&self) -> &Path {
        self.partial.path()
    }

    /// A thread that died with the lock may have left the map half changed, and then no image is made of it.
    fn locked(&self) -> io::Result<MutexGuard<'_, ImageState>> {
        let died = |_| io::Error::other("a thread died while it wrote; this is a bug, please report it");
        self.state.lock().map_err(died)
    }

    /// Allocates what is not there yet under the lock, and writes without it.
    fn write_plain(&self, offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        let mut at = offset;
        while !bytes.is_empty() {
            let in_table = map::TABLE_COVERS_BYTES.saturating_sub(at % map::TABLE_COVERS_BYTES);
            let (part, behind) = bytes.split_at(map::to_usize(in_table).min(bytes.len()));
            let runs = self.locked()?.map.allocate_for(self.partial.file(), at, part)?;
            for run in runs {
                let piece = part.get(run.bytes).unwrap_or_default();
                self.partial.file().write_all_at(piece, run.host)?;
            }
            at = at.saturating_add(length(part));
            bytes = behind;
        }
        Ok(())
    }

    fn write_compressed(&self, codec: Codec, offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        let mut at = offset;
        while !bytes.is_empty() {
            let within = at % CLUSTER_BYTES;
            let in_cluster = CLUSTER_BYTES.saturating_sub(within);
            let (piece, behind) = bytes.split_at(map::to_usize(in_cluster).min(bytes.len()));
            self.put(codec, at / CLUSTER_BYTES, within, piece)?;
            at = at.saturating_add(length(piece));
            bytes = behind;
        }
        Ok(())
    }

    /// Takes a piece of one cluster, which is stored when all of it is known.
    fn put(&self, codec: Codec, cluster: u64, within: u64, piece: &[u8]) -> io::Result<()> {
        let file = self.partial.file();
        let mut state = self.locked()?;
        match state.map.place(file, cluster)? {
            WrittenPlace::Plain { host } => {
                drop(state);
                return file.write_all_at(piece, host.saturating_add(within));
            }
            WrittenPlace::Compressed { host, length_bytes } => {
                let mut whole = vec![0; map::CLUSTER_LENGTH];
                let stored = read_stored(file, host, length_bytes)?;
                decompress(codec, &stored, &mut whole).map_err(io::Error::other)?;
                assembly::patch(&mut whole, within, piece);
                // Written over, and large: what was compressed cannot be changed in place.
                return state.map.replace(file, cluster, &whole);
            }
            WrittenPlace::Nowhere => {}
        }
        let whole = state.assembly.add(cluster, within, piece);
        // Without a bound, a restore in an unlucky order would hold the whole disk.
        if let Some((crowded, bytes)) = state.assembly.take_crowded() {
            state.map.replace(file, crowded, &bytes)?;
        }
        drop(state);
        match whole {
            Some(bytes) => self.store(codec, cluster, &bytes),
            None => Ok(()),
        }
    }

    /// Stores a whole cluster that is nowhere yet. Zeros are there by being nowhere.
    fn store(&self, codec: Codec, cluster: u64, bytes: &[u8]) -> io::Result<()> {
        if map::is_zero(bytes) {
            return Ok(());
        }
        let compressed = compress(codec, bytes)?;
        let file = self.partial.file();
        let mut state = self.locked()?;
        let is_first = state.map.place(file, cluster)? == WrittenPlace::Nowhere;
        let Some(compressed) = compressed.filter(|_| is_first) else {
            return state.map.replace(file, cluster, bytes);
        };
        let host = state.map.append(file, cluster, length(&compressed))?;
        drop(state);
        file.write_all_at(&compressed, host)
    }

    fn refuse_outside(&self, offset: u64, length_bytes: u64) -> Result<(), TargetError> {
        if is_inside(offset, length_bytes, self.size_bytes) {
            return Ok(());
        }
        let (path, size_bytes) = (self.path().to_owned(), self.size_bytes);
        Err(TargetError::OutOfRange { path, offset, length_bytes, size_bytes })
    }

    fn write_failed(&self, offset: u64, length_bytes: u64, source: io::Error) -> TargetError {
        self.has_failed.store(true, Ordering::SeqCst);
        if is_full(&source) {
            return self.no_space();
        }
        TargetError::Write { path: self.path().to_owned(), offset, length_bytes, source }
    }

    fn no_space(&self) -> TargetError {
        let written_bytes = self.written_bytes.load(Ordering::Relaxed);
        let free = fstatvfs(self.partial.file()).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        TargetError::NoSpace {
            path: self.path().to_owned(),
            written_bytes,
            missing_bytes: self.size_bytes.saturating_sub(written_bytes),
            available_bytes: free,
        }
    }
}

/// Compressed bytes up to the end of their last sector, which the file need not have.
fn read_stored(file: &File, host: u64, length_bytes: u64) -> io::Result<Vec<u8>> {
    let mut stored = vec![0; map::to_usize(length_bytes)];
    match read_exact(|bytes, at| file.read_at(bytes, at), host, &mut stored) {
        Ok(()) | Err(Stop::End(_)) => Ok(stored),
        Err(Stop::Block { source, .. }) => Err(source),
    }
}

#[cfg(test)]
mod tests;
