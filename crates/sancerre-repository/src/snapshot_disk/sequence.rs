//! Which reads follow on each other, and what to read ahead of them: pure, from the ranges that were asked for.

use std::ops::Range;

/// Readers of one disk that are told apart: copiers with several connections each read a stretch of their own.
const STREAMS: usize = 8;
/// Requests in flight come a little out of order.
const SLACK_BYTES: u64 = 2 << 20;
/// From so much in a row on, more is likely.
const RUN_BYTES_MIN: u64 = 256 << 10;

/// The readers of one disk, the last one first.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    streams: Vec<Stream>,
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    /// Where the last read ended.
    next: u64,
    /// Bytes read in a row.
    run: u64,
    /// Up to here it was read ahead.
    until: u64,
}

impl Sequences {
    /// Takes note of a read; says what is worth reading ahead, `window_bytes` for all readers together and nothing behind
    /// `end`.
    pub(super) fn note(&mut self, read: &Range<u64>, window_bytes: u64, end: u64) -> Option<Range<u64>> {
        let length = read.end.saturating_sub(read.start);
        let is_near = |stream: &Stream| stream.next.abs_diff(read.start) <= SLACK_BYTES;
        let Some(at) = self.streams.iter().position(is_near) else {
            self.streams.insert(0, Stream { next: read.end, run: length, until: read.end });
            self.streams.truncate(STREAMS);
            return None;
        };
        let mut stream = self.streams.remove(at);
        stream.next = stream.next.max(read.end);
        stream.run = stream.run.saturating_add(length);
        let readers = u64::try_from(self.streams.len()).unwrap_or(u64::MAX).saturating_add(1);
        let window = (window_bytes / readers).min(stream.run.saturating_mul(2));
        let from = stream.until.max(stream.next);
        let target = stream.next.saturating_add(window).min(end);
        // In pieces of a quarter, so that not every read starts one.
        let is_worth_it = target.saturating_sub(from) >= (window / 4).max(1) || target == end;
        let wanted = stream.run >= RUN_BYTES_MIN && from < target && is_worth_it;
        if wanted {
            stream.until = target;
        }
        self.streams.insert(0, stream);
        wanted.then_some(from..target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_reader_in_order_is_read_ahead_of_each_byte_once() {
        let mut sequences = Sequences::default();
        let (mut at, mut ahead) = (0, 0);
        while at < 100 * MIB {
            if let Some(range) = sequences.note(&(at..at + 128 * 1024), 16 * MIB, 100 * MIB) {
                assert!(range.start >= ahead && range.start >= at, "{range:?} after {ahead}");
                assert!(range.end <= at + 17 * MIB && range.end <= 100 * MIB, "{range:?} at {at}");
                ahead = range.end;
            }
            at += 128 * 1024;
        }
        assert_eq!(ahead, 100 * MIB);
    }

    #[test]
    fn a_reader_here_and_there_is_left_alone() {
        let mut sequences = Sequences::default();
        for round in 0..1000_u64 {
            let at = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (1 << 40);
            assert_eq!(sequences.note(&(at..at + 4096), 64 * MIB, 1 << 41), None);
        }
    }

    #[test]
    fn several_readers_share_the_window() {
        let mut sequences = Sequences::default();
        let mut most = 0;
        for step in 0..64 {
            for reader in 0..4 {
                let at = reader * 1000 * MIB + step * MIB;
                if let Some(range) = sequences.note(&(at..at + MIB), 16 * MIB, 1 << 40) {
                    most = most.max(range.end - at - MIB);
                }
            }
        }
        assert_eq!(most, 4 * MIB);
    }
}
