//! A disk that may be written, over one that never changes: what clients write goes into a file beside it.
//!
//! ```text
//! header, a block │ bitmap: a bit a block, whole blocks │ data: each block at its place, most of them holes
//! ```
//!
//! There is no journal. A block's bit says that all of it lies in the file; it is set on the disk only after the block has been
//! synced there. So whatever a crash takes, a block is what it was or what it became, and what a flush covered is there.

mod bits;
mod medium;
mod spool;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use crate::export::{ReadFailure, ServedDisk, Stretch, WriteFailure, WrittenDisk};
use bits::Bits;
pub use medium::{OverlayError, OverlayFile, OverlayMedium};
pub use spool::SpoolFile;

/// The unit that is taken over from the disk below as a whole.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// A disk over another, with what was written.
pub struct OverlaidDisk<M> {
    base: Arc<dyn ServedDisk>,
    shared: Arc<Shared<M>>,
    /// Writes come one after the other: two to one block must not both take over its rest.
    writing: Arc<Turn<()>>,
    flushing: Arc<Turn<()>>,
}

struct Shared<M> {
    medium: M,
    bits: Mutex<Bits>,
    size_bytes: u64,
    /// A flush failed: nobody knows what of all that came before is on the disk, and nothing more is promised.
    is_broken: AtomicBool,
}

impl<M: OverlayMedium> OverlaidDisk<M> {
    /// Opens the overlay in `medium`, which is of the size that [`overlay_bytes`] says.
    ///
    /// Errors: the medium's.
    pub fn open(base: Arc<dyn ServedDisk>, medium: M) -> std::io::Result<Self> {
        let size_bytes = base.size_bytes();
        let mut bitmap = vec![0; usize::try_from(bits::bitmap_bytes(size_bytes)).unwrap_or(usize::MAX)];
        medium.read(BLOCK_BYTES, &mut bitmap)?;
        let shared = Shared {
            medium,
            bits: Mutex::new(Bits::new(bitmap)),
            size_bytes,
            is_broken: AtomicBool::new(false),
        };
        Ok(Self { base, shared: Arc::new(shared), writing: Arc::default(), flushing: Arc::default() })
    }

    /// A range, cut where blocks that were written and others meet.
    fn runs(&self, range: Range<u64>) -> Vec<(Range<u64>, bool)> {
        self.shared.bits().runs(range)
    }

    /// What is written, and where: whole where a block is taken over, from its beginning or to its end.
    async fn whole(&self, offset: u64, bytes: Vec<u8>) -> Result<(u64, Vec<u8>), WriteFailure> {
        let end = offset.saturating_add(bytes.len() as u64);
        let head = self.missing(offset / BLOCK_BYTES * BLOCK_BYTES..offset, offset).await?;
        let last = end.next_multiple_of(BLOCK_BYTES).min(self.shared.size_bytes);
        let tail = self.missing(end..last, end.saturating_sub(1)).await?;
        let start = offset.saturating_sub(head.len() as u64);
        Ok((start, if head.is_empty() && tail.is_empty() { bytes } else { [head, bytes, tail].concat() }))
    }

    /// A part of the block around `within`, from below; nothing when that block is here already.
    async fn missing(&self, part: Range<u64>, within: u64) -> Result<Vec<u8>, WriteFailure> {
        let is_here = self.shared.bits().has(within / BLOCK_BYTES);
        let mut bytes = vec![0; usize::try_from(part.end.saturating_sub(part.start)).unwrap_or(0)];
        if is_here || bytes.is_empty() {
            return Ok(Vec::new());
        }
        let read = self.base.read(part.start, &mut bytes).await;
        read.map(|()| bytes).map_err(|ReadFailure(words)| WriteFailure { words, is_full: false })
    }

    /// Does something to the medium that goes on to its end whether somebody waits or not: a write that came late must not be
    /// overtaken.
    async fn work(
        &self,
        turn: OwnedMutexGuard<()>,
        work: impl FnOnce(&Shared<M>) -> std::io::Result<()> + Send + 'static,
    ) -> Result<(), WriteFailure> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            shared.refuse_broken().and_then(|()| work(&shared))
        });
        let done = done.await.map_err(std::io::Error::other).and_then(|done| done);
        done.map_err(|error| WriteFailure {
            is_full: error.kind() == std::io::ErrorKind::StorageFull,
            words: format!("the overlay cannot be written: {error}"),
        })
    }

    async fn written(&self, offset: u64, bytes: Vec<u8>) -> Result<(), WriteFailure> {
        let turn = Arc::clone(&self.writing).lock_owned().await;
        let (start, bytes) = self.whole(offset, bytes).await?;
        self.work(turn, move |shared| {
            shared.medium.write(shared.at(start), &bytes)?;
            shared.bits().set(start..start.saturating_add(bytes.len() as u64));
            Ok(())
        })
        .await
    }

    /// Whole blocks become zeros without being written.
    async fn zeroed(&self, blocks: Range<u64>) -> Result<(), WriteFailure> {
        let turn = Arc::clone(&self.writing).lock_owned().await;
        self.work(turn, move |shared| {
            shared.medium.zero(shared.at(blocks.start), blocks.end.saturating_sub(blocks.start))?;
            shared.bits().set(blocks);
            Ok(())
        })
        .await
    }
}

impl<M: OverlayMedium> Shared<M> {
    fn bits(&self) -> MutexGuard<'_, Bits> {
        self.bits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a byte of the disk is in the medium.
    fn at(&self, offset: u64) -> u64 {
        data_start(self.size_bytes).saturating_add(offset)
    }

    fn refuse_broken(&self) -> std::io::Result<()> {
        match self.is_broken.load(Ordering::Acquire) {
            true => Err(std::io::Error::other("an earlier flush failed; start the server again")),
            false => Ok(()),
        }
    }

    /// Data first, then the bits of what was written before.
    fn flush(&self) -> std::io::Result<()> {
        let pages = self.bits().take_dirty();
        let flushed = self.medium.sync().and_then(|()| {
            for (at, page) in &pages {
                self.medium.write(BLOCK_BYTES.saturating_add(*at), page)?;
            }
            if pages.is_empty() { Ok(()) } else { self.medium.sync() }
        });
        if flushed.is_err() {
            self.is_broken.store(true, Ordering::Release);
        }
        flushed
    }
}

impl<M: OverlayMedium> ServedDisk for OverlaidDisk<M> {
    fn name(&self) -> &str {
        self.base.name()
    }

    fn size_bytes(&self) -> u64 {
        self.shared.size_bytes
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> BoxFuture<'a, Result<(), ReadFailure>> {
        let read = async move {
            let mut rest = buffer;
            for (range, is_here) in self.runs(offset..offset.saturating_add(rest.len() as u64)) {
                let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
                let cut = std::mem::take(&mut rest).split_at_mut_checked(length);
                let Some((part, more)) = cut else {
                    return Err(ReadFailure(
                        "a bug: the runs of a range are longer than it; report this".into(),
                    ));
                };
                if is_here {
                    let (shared, mut bytes) = (Arc::clone(&self.shared), vec![0; length]);
                    let read = tokio::task::spawn_blocking(move || {
                        shared.medium.read(shared.at(range.start), &mut bytes).map(|()| bytes)
                    });
                    let read = read.await.map_err(std::io::Error::other).and_then(|read| read);
                    let failed = |error| ReadFailure(format!("the overlay cannot be read: {error}"));
                    part.copy_from_slice(&read.map_err(failed)?);
                } else {
                    self.base.read(range.start, part).await?;
                }
                rest = more;
            }
            Ok(())
        };
        read.boxed()
    }

    fn stretches(&self, range: Range<u64>, most: usize) -> BoxFuture<'_, Result<Vec<Stretch>, ReadFailure>> {
        let stretches = async move {
            let mut all: Vec<Stretch> = Vec::new();
            for (range, is_here) in self.runs(range) {
                let left = most.saturating_sub(all.len());
                if left == 0 {
                    break;
                }
                if is_here {
                    all.push(Stretch { range, is_data: true });
                    continue;
                }
                let end = range.end;
                all.extend(self.base.stretches(range, left).await?);
                if all.last().is_none_or(|last| last.range.end < end) {
                    break;
                }
            }
            Ok(all)
        };
        stretches.boxed()
    }

    fn prepare(&self, range: Range<u64>) {
        for (range, _) in self.runs(range).into_iter().filter(|(_, is_here)| !is_here) {
            self.base.prepare(range);
        }
    }

    fn written(&self) -> Option<&dyn WrittenDisk> {
        Some(self)
    }
}

impl<M: OverlayMedium> WrittenDisk for OverlaidDisk<M> {
    fn write(&self, offset: u64, bytes: Vec<u8>) -> BoxFuture<'_, Result<(), WriteFailure>> {
        self.written(offset, bytes).boxed()
    }

    fn write_zeroes(&self, range: Range<u64>) -> BoxFuture<'_, Result<(), WriteFailure>> {
        let zeroes = async move {
            let inner = inner(&range, self.shared.size_bytes);
            let (head, tail) = match inner.is_empty() {
                true => (range.clone(), range.end..range.end),
                false => (range.start..inner.start, inner.end..range.end),
            };
            for edge in [head, tail].into_iter().filter(|edge| !edge.is_empty()) {
                let length = usize::try_from(edge.end.saturating_sub(edge.start)).unwrap_or(0);
                self.written(edge.start, vec![0; length]).await?;
            }
            if inner.is_empty() { Ok(()) } else { self.zeroed(inner).await }
        };
        zeroes.boxed()
    }

    fn trim(&self, range: Range<u64>) -> BoxFuture<'_, Result<(), WriteFailure>> {
        let inner = inner(&range, self.shared.size_bytes);
        let trim = async move { if inner.is_empty() { Ok(()) } else { self.zeroed(inner).await } };
        trim.boxed()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), WriteFailure>> {
        let flush = async move {
            let turn = Arc::clone(&self.flushing).lock_owned().await;
            self.work(turn, Shared::flush).await
        };
        flush.boxed()
    }
}

/// The whole blocks of a range; the last block of a disk may be short.
fn inner(range: &Range<u64>, size_bytes: u64) -> Range<u64> {
    let start = range.start.next_multiple_of(BLOCK_BYTES);
    let end = if range.end == size_bytes { range.end } else { range.end / BLOCK_BYTES * BLOCK_BYTES };
    start..end.max(start)
}

/// Where the data begin.
fn data_start(size_bytes: u64) -> u64 {
    BLOCK_BYTES.saturating_add(bits::bitmap_bytes(size_bytes))
}

/// How large the medium of an overlay over a disk of that size is.
pub fn overlay_bytes(size_bytes: u64) -> u64 {
    data_start(size_bytes).saturating_add(size_bytes)
}

#[cfg(test)]
mod tests;
