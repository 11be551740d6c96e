//! Grains: 64 KiB of a disk, compressed each for itself. Those of zeros are left out.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::{Compress, Compression, FlushCompress, Status};

use super::{ExportError, Watcher};
use crate::Disk;

/// What is compressed at once: what VMware's own programs write.
pub(super) const GRAIN_BYTES: u64 = 64 << 10;
const GRAIN_LENGTH: usize = 64 << 10;
/// Grains that a thread reads at once.
const GRAINS_PER_READ: u64 = 16;
/// Half the time of the usual level, for some percent of size.
const LEVEL: u32 = 4;
/// What incompressible bytes become larger by, with much to spare.
const SURPLUS: usize = 1 << 10;

/// A compressed grain, and which one of the disk it is.
pub(super) struct Grain {
    pub(super) number: u64,
    pub(super) bytes: Vec<u8>,
}

/// The grains of `range` that hold data, ascending, by so many threads. The range begins with a grain.
pub(super) fn grains(
    disk: &dyn Disk,
    range: Range<u64>,
    workers: usize,
    watcher: &Watcher<'_>,
) -> Result<Vec<Grain>, ExportError> {
    let reads = reads(&disk.data_ranges(range)?);
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Grain>> = Mutex::default();
    let work = || -> Result<(), ExportError> {
        while let Some(read) = reads.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = compressed(disk, read)?;
            let died = |_| ExportError::Bug("a thread died while it compressed");
            done.lock().map_err(died)?.extend(found);
            if !watcher(read.end.saturating_sub(read.start)) {
                return Err(ExportError::Stopped);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..workers.min(reads.len())).map(|_| scope.spawn(work)).collect();
        let own = work();
        // A panic goes on here.
        let others = threads.into_iter().map(|thread| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        others.fold(own, Result::and)
    })?;
    let mut grains = done.into_inner().map_err(|_| ExportError::Bug("a thread died while it compressed"))?;
    grains.sort_unstable_by_key(|grain| grain.number);
    Ok(grains)
}

/// Whole grains that touch data, in pieces for one read each. Ascending and disjoint.
fn reads(data: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut wanted: Vec<Range<u64>> = Vec::new();
    for range in data {
        let start = range.start.saturating_sub(range.start % GRAIN_BYTES);
        let end = range.end.next_multiple_of(GRAIN_BYTES);
        match wanted.last_mut() {
            Some(last) if last.end >= start => last.end = last.end.max(end),
            _ => wanted.push(start..end),
        }
    }
    let mut reads = Vec::new();
    for range in wanted {
        let mut at = range.start;
        while at < range.end {
            let end = at.saturating_add(GRAIN_BYTES.saturating_mul(GRAINS_PER_READ)).min(range.end);
            reads.push(at..end);
            at = end;
        }
    }
    reads
}

fn compressed(disk: &dyn Disk, read: &Range<u64>) -> Result<Vec<Grain>, ExportError> {
    let length = usize::try_from(read.end.saturating_sub(read.start)).unwrap_or(usize::MAX);
    // The last grain may reach behind the disk, where there are zeros.
    let mut bytes = vec![0; length];
    let in_disk = disk.size_bytes().min(read.end).saturating_sub(read.start);
    let in_disk = bytes.get_mut(..usize::try_from(in_disk).unwrap_or(usize::MAX));
    disk.read_at(read.start, in_disk.ok_or(ExportError::Bug("a grain lies behind the disk"))?)?;
    let mut grains = Vec::new();
    for (number, grain) in (read.start / GRAIN_BYTES..).zip(bytes.chunks(GRAIN_LENGTH)) {
        if grain.iter().any(|byte| *byte != 0) {
            grains.push(Grain { number, bytes: deflate(grain)? });
        }
    }
    Ok(grains)
}

fn deflate(grain: &[u8]) -> Result<Vec<u8>, ExportError> {
    let mut room = vec![0; grain.len().saturating_add(SURPLUS)];
    let mut state = Compress::new(Compression::new(LEVEL), true);
    match state.compress(grain, &mut room, FlushCompress::Finish) {
        Ok(Status::StreamEnd) => {
            room.truncate(usize::try_from(state.total_out()).unwrap_or(usize::MAX));
            Ok(room)
        }
        _ => Err(ExportError::Bug("a grain does not compress")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_whole_grains_and_none_comes_twice() {
        const G: u64 = GRAIN_BYTES;
        let found = reads(&[1..2, G - 1..G, 3 * G..3 * G + 1, 3 * G + 9..40 * G]);
        assert_eq!(found, [0..G, 3 * G..19 * G, 19 * G..35 * G, 35 * G..40 * G]);
        assert!(reads(&[]).is_empty());
    }
}
