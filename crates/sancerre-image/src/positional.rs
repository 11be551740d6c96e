//! Positional reads that end in bytes or in the exact place that cannot be read.

use std::io;

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
