//! Where a file has data, by `SEEK_DATA` and `SEEK_HOLE` (lseek(2)).

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// The ranges of `file` inside `range` that may hold data, or where and why the search failed.
///
/// Past the end of the file everything is a hole to the kernel, so the caller must check the size afterwards.
/// The search moves the file offset, which nothing here reads: all other access is positional.
pub(crate) fn data_ranges(file: &File, range: Range<u64>) -> Result<Vec<Range<u64>>, (u64, io::Error)> {
    let mut found = Vec::new();
    let mut position = range.start;
    while position < range.end {
        let start = match seek(file, SeekFrom::Data(position)) {
            Ok(start) if start < range.end => start,
            // ENXIO: no data from here to the end of the file.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(error) if is_unsupported(error) => {
                found.push(position..range.end);
                break;
            }
            Err(error) => return Err((position, error.into())),
        };
        let end = match seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(range.end),
            // The file was cut just now, before `start`; the caller's size check reports it.
            Err(Errno::NXIO) => break,
            Err(error) => return Err((start, error.into())),
        };
        // Empty when a hole was punched at `start` between the two calls; the next search then goes past it.
        if start < end {
            found.push(start..end);
        }
        position = end;
    }
    Ok(found)
}

/// The first byte of `file` from `offset` on that may hold data; none when a hole reaches from there to its end.
pub(crate) fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    match seek(file, SeekFrom::Data(offset)) {
        Ok(start) => Ok(Some(start)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) if is_unsupported(error) => Ok(Some(offset)),
        Err(error) => Err(error.into()),
    }
}

/// File systems without hole support refuse; everything is then data.
fn is_unsupported(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS)
}
