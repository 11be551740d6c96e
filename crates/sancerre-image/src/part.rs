//! A disk that is a part of another one, such as of a device that is larger.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::positional::length;
use crate::{ChangedError, Disk, ReadError};

/// What lies in one range of a disk, as a disk of its own. Errors of reading have offsets of the whole.
pub struct Part {
    whole: Arc<dyn Disk>,
    range: Range<u64>,
}

impl fmt::Debug for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.whole.path();
        formatter.debug_struct("Part").field("whole", &whole).field("range", &self.range).finish()
    }
}

impl Part {
    /// None where the disk does not have all of the range.
    pub fn new(whole: Arc<dyn Disk>, range: Range<u64>) -> Option<Self> {
        (range.start <= range.end && range.end <= whole.size_bytes()).then_some(Self { whole, range })
    }

    /// Where so many bytes lie in the whole.
    fn place(&self, offset: u64, length_bytes: u64) -> Result<Range<u64>, ReadError> {
        let start = self.range.start.checked_add(offset);
        let end =
            start.and_then(|start| start.checked_add(length_bytes)).filter(|end| *end <= self.range.end);
        start.zip(end).map(|(start, end)| start..end).ok_or_else(|| ReadError::OutOfRange {
            path: self.path().to_owned(),
            offset,
            length_bytes,
            size_bytes: self.size_bytes(),
        })
    }

    /// The same range by this disk's own offsets.
    fn inside(&self, range: &Range<u64>) -> Range<u64> {
        let at =
            |offset: u64| offset.clamp(self.range.start, self.range.end).saturating_sub(self.range.start);
        at(range.start)..at(range.end)
    }
}

impl Disk for Part {
    fn size_bytes(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.whole.read_at(self.place(offset, length(buffer))?.start, buffer)
    }

    fn read_what_reads(&self, offset: u64, buffer: &mut [u8]) -> Result<Vec<Range<u64>>, ReadError> {
        let lost = self.whole.read_what_reads(self.place(offset, length(buffer))?.start, buffer)?;
        Ok(lost.iter().map(|range| self.inside(range)).collect())
    }

    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        let place = self.place(range.start, range.end.saturating_sub(range.start))?;
        Ok(self.whole.data_ranges(place)?.iter().map(|range| self.inside(range)).collect())
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>, ReadError> {
        let next = self.whole.next_data(self.place(offset, 0)?.start)?;
        Ok(next.filter(|at| *at < self.range.end).map(|at| self.inside(&(at..at)).start))
    }

    fn cut_to(&self) -> Option<u64> {
        let cut = self.whole.cut_to().filter(|bytes| *bytes < self.range.end)?;
        Some(self.inside(&(cut..cut)).start)
    }

    fn check_unchanged(&self) -> Result<(), ChangedError> {
        self.whole.check_unchanged()
    }

    fn path(&self) -> &Path {
        self.whole.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open_raw;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_part_has_its_bytes_and_its_holes_and_no_others() {
        const MIB: u64 = 1 << 20;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whole");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(8 * MIB).unwrap();
        for at in [0, 3, 6] {
            file.write_all_at(&vec![at as u8 + 1; MIB as usize], at * MIB).unwrap();
        }
        let whole: Arc<dyn Disk> = Arc::new(open_raw(&path).unwrap());
        let part = Part::new(Arc::clone(&whole), 2 * MIB..6 * MIB).unwrap();
        assert_eq!((part.size_bytes(), part.next_data(0).unwrap()), (4 * MIB, Some(MIB)));
        assert_eq!(part.next_data(2 * MIB).unwrap(), None, "what is behind it is not its own");
        assert_eq!(part.data_ranges(0..4 * MIB).unwrap(), std::iter::once(MIB..2 * MIB).collect::<Vec<_>>());
        let mut bytes = vec![9; 2 * MIB as usize];
        part.read_at(MIB / 2, &mut bytes).unwrap();
        let middle = MIB as usize / 2;
        assert!(bytes[..middle] == vec![0; middle] && bytes[middle..3 * middle] == vec![4; 2 * middle]);
        part.read_at(2 * MIB, &mut bytes).unwrap();
        assert!(matches!(part.read_at(2 * MIB + 1, &mut bytes), Err(ReadError::OutOfRange { .. })));
        assert!(matches!(part.read_at(u64::MAX, &mut bytes), Err(ReadError::OutOfRange { .. })));
        assert!(Part::new(Arc::clone(&whole), MIB..9 * MIB).is_none());
        part.check_unchanged().unwrap();
    }
}
