//! The spool of a disk: a file of the same form as an overlay, in which each chunk that was fetched lies at its place. The bit of
//! a block says that a chunk which begins in it is there; no chunk but a disk's last is shorter than a block.
//!
//! Nothing is synced: a chunk is compared with its id when it is read back, so a bit whose bytes a crash took costs a fetch.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use sancerre_repository::snapshot_disk::Spool;

use super::bits::{Bits, bitmap_bytes};
use super::{BLOCK_BYTES, OverlayError, OverlayFile, OverlayMedium, data_start};

/// The file of a spool, locked while this lives.
pub struct SpoolFile<M = OverlayFile> {
    medium: M,
    bits: Mutex<Bits>,
    size_bytes: u64,
}

impl SpoolFile {
    /// Opens the spool at `path`, or makes it, as [`OverlayFile::open`]: it holds what guests have on their disks, so only this
    /// user may read it.
    pub fn open(path: &Path, belongs_to: &str, size_bytes: u64) -> Result<Self, OverlayError> {
        Ok(Self::over(OverlayFile::open(path, belongs_to, size_bytes)?, size_bytes)?)
    }
}

impl<M: OverlayMedium> SpoolFile<M> {
    /// The spool in a medium.
    ///
    /// Errors: the medium's.
    pub fn over(medium: M, size_bytes: u64) -> io::Result<Self> {
        let mut bitmap = vec![0; usize::try_from(bitmap_bytes(size_bytes)).unwrap_or(usize::MAX)];
        medium.read(BLOCK_BYTES, &mut bitmap)?;
        Ok(Self { medium, bits: Mutex::new(Bits::new(bitmap)), size_bytes })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Bits) -> T) -> T {
        look(&mut self.bits.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn at(&self, offset: u64) -> u64 {
        data_start(self.size_bytes).saturating_add(offset)
    }
}

impl<M: OverlayMedium> Spool for SpoolFile<M> {
    fn has(&self, at: u64) -> bool {
        self.with(|bits| bits.has(at / BLOCK_BYTES))
    }

    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.medium.read(self.at(at), buffer)
    }

    fn put(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.medium.write(self.at(at), bytes)?;
        // The bytes first, then their bit; both survive the end of this process.
        self.with(|bits| {
            bits.set(at..at.saturating_add(1));
            for (page_at, page) in bits.take_dirty() {
                self.medium.write(BLOCK_BYTES.saturating_add(page_at), &page)?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    #[test]
    fn what_was_put_is_there_for_the_next_and_for_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        let spool = SpoolFile::open(&path, "this", SIZE).unwrap();
        assert!(!spool.has(0));
        spool.put(512, &[1; 9000]).unwrap();
        spool.put(SIZE - 100, &[2; 100]).unwrap();
        assert!(matches!(SpoolFile::open(&path, "this", SIZE), Err(OverlayError::InUse)));
        drop(spool);
        assert!(matches!(SpoolFile::open(&path, "that", SIZE), Err(OverlayError::Other { .. })));
        let spool = SpoolFile::open(&path, "this", SIZE).unwrap();
        assert!(spool.has(512) && spool.has(SIZE - 100) && !spool.has(8192));
        let mut bytes = vec![0; 9000];
        spool.read(512, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 1));
    }
}
