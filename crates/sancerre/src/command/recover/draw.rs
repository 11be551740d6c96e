//! Has QEMU draw in what a disk has, several pieces at once.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::scope;

use sancerre_image::Disk;
use sancerre_image::nbd::{NbdDisk, NbdError, NbdOptions, NbdUri};

/// Pieces that are drawn in at once: four keep both processors of a small host busy; a store that is far away needs more.
const AT_ONCE: usize = 16;
/// A piece, about a frame.
const PIECE_BYTES: u64 = 1 << 20;
/// So many that fail, and something else is wrong than the repository in a few places.
const FAILURES_MAX: usize = 64;

/// Draws in what the export has, and counts it in `done`. What fails is left to who comes behind: the stream says it.
pub(super) fn draw_in(socket: &Path, name: &str, done: &AtomicU64) {
    let uri = NbdUri::unix(socket.to_owned(), name);
    let open = || NbdDisk::open(&uri, &NbdOptions::default());
    // One after another on a connection, and an export that can be written has one connection for a client.
    let Ok(disks) = (0..AT_ONCE).map(|_| open()).collect::<Result<Vec<_>, NbdError>>() else { return };
    let Some(first) = disks.first() else { return };
    let Ok(data) = first.data_ranges(0..first.size_bytes()) else { return };
    let pieces = Mutex::new(data.into_iter().flat_map(pieces));
    let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
    let failures = AtomicUsize::new(0);
    scope(|scope| {
        for disk in &disks {
            scope.spawn(|| {
                while let Some(piece) = next().filter(|_| failures.load(Ordering::Relaxed) < FAILURES_MAX) {
                    if disk.draw_in(piece.clone()).is_ok() {
                        done.fetch_max(piece.end, Ordering::Relaxed);
                    } else {
                        failures.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

/// Cut at multiples of a piece.
fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let start = at;
        at =
            start.saturating_add(1).checked_next_multiple_of(PIECE_BYTES).unwrap_or(range.end).min(range.end);
        (start < at).then_some(start..at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_range_and_lie_in_one_stretch_each() {
        for range in [0..1, 5..PIECE_BYTES, 0..PIECE_BYTES, 4096..3 * PIECE_BYTES + 512, 7..7] {
            let all: Vec<_> = pieces(range.clone()).collect();
            assert_eq!(all.iter().map(|piece| piece.end - piece.start).sum::<u64>(), range.end - range.start);
            assert!(all.is_sorted_by(|a, b| a.end == b.start));
            assert!(all.iter().all(|piece| piece.start / PIECE_BYTES == (piece.end - 1) / PIECE_BYTES));
        }
    }
}
