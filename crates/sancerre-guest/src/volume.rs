//! A volume: bytes that lie on one or more disks.

use std::ops::Range;

use crate::bytes::{to_u64, to_usize};
use crate::fault::{Fault, Result};
use crate::source::Blocks;

/// A stretch of a volume that lies on disks in one way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) range: Range<u64>,
    /// Where each stripe begins; one for what is not striped.
    pub(crate) stripes: Vec<(u16, u64)>,
    /// How much of the volume lies on one stripe before the next one's turn.
    pub(crate) stripe_bytes: u64,
}

/// A volume for a parser.
#[derive(Clone)]
pub(crate) struct Volume {
    blocks: Blocks,
    segments: Vec<Segment>,
}

impl Volume {
    /// A stretch of one disk.
    pub(crate) fn of_disk(blocks: Blocks, disk: u16, range: Range<u64>) -> Self {
        let length = range.end.saturating_sub(range.start);
        let segment =
            Segment { range: 0..length, stripes: vec![(disk, range.start)], stripe_bytes: length.max(1) };
        Self { blocks, segments: vec![segment] }
    }

    /// Segments that follow each other from 0 on.
    pub(crate) fn of_segments(blocks: Blocks, segments: Vec<Segment>) -> Self {
        Self { blocks, segments }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.range.end)
    }

    /// Where a byte of the volume is, and how many more follow it there.
    pub(crate) fn place(&self, at: u64) -> Result<(u16, u64, u64)> {
        let number = self.segments.partition_point(|segment| segment.range.end <= at);
        let segment = self.segments.get(number).filter(|segment| segment.range.start <= at);
        let segment = segment.ok_or(Fault::Corrupt("a place behind the end of the volume"))?;
        let inside = at.saturating_sub(segment.range.start);
        let count = to_u64(segment.stripes.len()).max(1);
        let stripe_bytes = segment.stripe_bytes.max(1);
        let (turn, within) = (inside / stripe_bytes, inside % stripe_bytes);
        let (disk, base) =
            *segment.stripes.get(to_usize(turn % count)).ok_or(Fault::Corrupt("a volume without disks"))?;
        let offset = (turn / count).saturating_mul(stripe_bytes).saturating_add(within).saturating_add(base);
        let more = stripe_bytes.saturating_sub(within).min(segment.range.end.saturating_sub(at));
        Ok((disk, offset, more))
    }

    /// Fills `buffer`.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let (disk, place, more) = self.place(at)?;
            let length = rest.len().min(to_usize(more));
            let (piece, behind) = std::mem::take(&mut rest).split_at_mut(length);
            self.blocks.read(disk, place, piece)?;
            rest = behind;
            at = at.saturating_add(to_u64(length));
        }
        Ok(())
    }

    /// So many bytes.
    pub(crate) fn bytes(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        if offset.saturating_add(to_u64(length)) > self.size_bytes() {
            return Err(Fault::Corrupt("a place behind the end of the volume"));
        }
        let mut bytes = vec![0; length];
        self.read(offset, &mut bytes)?;
        Ok(bytes)
    }
}
