//! Positional reads that end in bytes or in the exact place that cannot be read.

use std::io;
use std::ops::Range;

use rustix::io::Errno;

/// Failing reads are narrowed down to this: the page size, below which the kernel cannot read through its cache.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// Where and why a read stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The medium ends at this offset.
    End(u64),
    /// The block at `offset` of `length_bytes` fails when it is read alone.
    Block { offset: u64, length_bytes: u64, source: io::Error },
}

/// Fills `buffer` from `offset` with a `pread`-like function, through interruptions and short reads.
///
/// After an error the rest is read block by block: an error that goes away cost time only, and one that stays is
/// named to the block, not to the megabytes that were asked for.
pub(crate) fn read_exact(
    pread: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), Stop> {
    match fill(&pread, offset, buffer) {
        Err((at, Some(_))) => {
            let done = usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
            read_blocks(&pread, at, buffer.get_mut(done..).unwrap_or_default())
        }
        Err((at, None)) => Err(Stop::End(at)),
        Ok(()) => Ok(()),
    }
}

/// As [`read_exact`], but goes on behind a block that cannot be read, which is then zeros and named.
///
/// A block that failed in a large read is tried once more, alone, and never again: a dying disk takes seconds for each.
pub(crate) fn read_what_reads(
    pread: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    offset: u64,
    buffer: &mut [u8],
) -> Result<Vec<Range<u64>>, Stop> {
    let (mut at, mut bad) = match fill(&pread, offset, buffer) {
        Ok(()) => return Ok(Vec::new()),
        Err((at, None)) => return Err(Stop::End(at)),
        Err((at, Some(_))) => (at, Vec::new()),
    };
    let end = offset.saturating_add(length(buffer));
    while at < end {
        let done = usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
        let rest = buffer.get_mut(done..).unwrap_or_default();
        match read_blocks(&pread, at, rest) {
            Ok(()) => break,
            Err(Stop::Block { offset: start, length_bytes, source }) if is_of_the_medium(&source) => {
                let start_in = usize::try_from(start.saturating_sub(at)).unwrap_or(usize::MAX);
                let block = rest.get_mut(start_in..).unwrap_or_default();
                block
                    .iter_mut()
                    .take(usize::try_from(length_bytes).unwrap_or(usize::MAX))
                    .for_each(|b| *b = 0);
                at = start.saturating_add(length_bytes);
                push(&mut bad, start..at);
            }
            Err(stop) => return Err(stop),
        }
    }
    Ok(bad)
}

fn push(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

/// Whether an error is about what was to be read: a sector, a checksum, a target that gave up on it. Any other means
/// that the disk is gone, or never was to be read.
fn is_of_the_medium(error: &io::Error) -> bool {
    let medium = [
        Errno::IO,
        Errno::NODATA,
        Errno::ILSEQ,
        Errno::TIMEDOUT,
        Errno::REMOTEIO,
        Errno::BADMSG,
        Errno::UCLEAN,
    ];
    Errno::from_io_error(error).is_some_and(|error| medium.contains(&error))
}

fn read_blocks(
    pread: &impl Fn(&mut [u8], u64) -> io::Result<usize>,
    mut offset: u64,
    mut rest: &mut [u8],
) -> Result<(), Stop> {
    while !rest.is_empty() {
        let to_boundary = BLOCK_BYTES.saturating_sub(offset % BLOCK_BYTES);
        let take = usize::try_from(to_boundary).unwrap_or(usize::MAX).min(rest.len());
        let (block, tail) = rest.split_at_mut(take);
        let length_bytes = length(block);
        fill(pread, offset, block).map_err(|(at, error)| match error {
            None => Stop::End(at),
            Some(source) => Stop::Block { offset, length_bytes, source },
        })?;
        offset = offset.saturating_add(length_bytes);
        rest = tail;
    }
    Ok(())
}

/// One pass. The error says how far it came, with `None` when the medium ended there.
fn fill(
    pread: &impl Fn(&mut [u8], u64) -> io::Result<usize>,
    mut offset: u64,
    mut rest: &mut [u8],
) -> Result<(), (u64, Option<io::Error>)> {
    while !rest.is_empty() {
        match pread(rest, offset) {
            Ok(0) => return Err((offset, None)),
            Ok(count) => {
                rest = rest.get_mut(count..).unwrap_or_default();
                offset = offset.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((offset, Some(error))),
        }
    }
    Ok(())
}

/// The length of a slice in the unit of offsets.
pub(crate) fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Whether `length_bytes` from `offset` lie inside `size_bytes`.
pub(crate) fn is_inside(offset: u64, length_bytes: u64, size_bytes: u64) -> bool {
    offset.checked_add(length_bytes).is_some_and(|end| end <= size_bytes)
}

#[cfg(test)]
mod tests;
