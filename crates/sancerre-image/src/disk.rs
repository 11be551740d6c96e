//! The trait through which a backup sees every disk.

use std::ops::Range;
use std::path::Path;

use crate::{ChangedError, ReadError};

/// A disk that is read for backup. Implementations read with `pread` and never map.
///
/// All methods take `&self` and may be called from many threads at once.
pub trait Disk: Send + Sync {
    /// Size of the disk as the guest sees it, fixed when it was opened.
    fn size_bytes(&self) -> u64;

    /// Fills `buffer` with the bytes from `offset` on; holes read as zeros.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] when the range does not lie inside the disk, [`ReadError::Unreadable`] naming
    /// the first block that cannot be read, [`ReadError::Shrank`] when the disk ends early. The content of
    /// `buffer` is then unspecified.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError>;

    /// As [`Disk::read_at`], but leaves zeros where a block cannot be read, and says where: ascending, disjoint ranges.
    /// A disk of which every block reads, or none, need not have its own.
    ///
    /// # Errors
    /// Those of [`Disk::read_at`] that are not about one block: the disk ended, or went away.
    fn read_what_reads(&self, offset: u64, buffer: &mut [u8]) -> Result<Vec<Range<u64>>, ReadError> {
        self.read_at(offset, buffer).map(|()| Vec::new())
    }

    /// The ranges inside `range` that may hold data: ascending, disjoint, not empty, clipped to `range`.
    /// All else in `range` reads as zeros and need not be read. Data may still be zeros.
    ///
    /// The answer is a way to save reading and no property of the disk: a file system that reserved blocks counts
    /// them as data while zeros read from them are cached (seen on ext4), so two calls on an unchanged file may
    /// differ. What is stored must follow from the bytes alone.
    ///
    /// # Errors
    /// As [`Disk::read_at`]; [`ReadError::HoleSearch`] when the holes cannot be asked for.
    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError>;

    /// The first byte from `offset` on that may hold data; none when all that follows reads as zeros. What it passes over is
    /// a hole as in [`Disk::data_ranges`], however large: asking takes the time of what is there and not of the size. A disk
    /// whose holes are not found so, or not within seconds, names a byte before its data, `offset` itself at the least.
    ///
    /// # Errors
    /// As [`Disk::data_ranges`].
    fn next_data(&self, offset: u64) -> Result<Option<u64>, ReadError> {
        Ok((offset < self.size_bytes()).then_some(offset))
    }

    /// The size now, if the disk was cut since it was opened and what is left still has its offsets.
    fn cut_to(&self) -> Option<u64> {
        None
    }

    /// Ok while the disk is what it was when it was opened, as far as the medium tells.
    ///
    /// # Errors
    /// [`ChangedError`] saying what differs.
    fn check_unchanged(&self) -> Result<(), ChangedError>;

    /// Where the disk is, for messages.
    fn path(&self) -> &Path;
}
