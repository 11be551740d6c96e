//! Puts ranges in order and joins them.

use std::ops::Range;

use super::{ChangeMap, MapError, RANGES_MAX};

/// Ranges that are still in the order in which they came.
#[derive(Debug)]
pub(super) struct Builder {
    disk_bytes: u64,
    ranges: Vec<Range<u64>>,
}

impl Builder {
    pub(super) fn new(disk_bytes: u64) -> Self {
        Self { disk_bytes, ranges: Vec::new() }
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Adds a range. It may reach over the end of the disk, as the last object of an image does, but not begin there.
    pub(super) fn add(&mut self, offset: u64, length_bytes: u64) -> Result<(), MapError> {
        if length_bytes == 0 {
            return Ok(());
        }
        if offset >= self.disk_bytes {
            let problem = format!("it has a range at offset {offset}");
            return Err(MapError::OtherDisk { disk_bytes: self.disk_bytes, problem });
        }
        let end = offset.saturating_add(length_bytes).min(self.disk_bytes);
        let count = self.ranges.len();
        match self.ranges.last_mut() {
            Some(last) if last.start <= offset && offset <= last.end => last.end = last.end.max(end),
            _ if count >= RANGES_MAX => return Err(MapError::TooLong("too many ranges")),
            _ => self.ranges.push(offset..end),
        }
        Ok(())
    }

    pub(super) fn finish(mut self, source: String) -> ChangeMap {
        self.ranges.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::with_capacity(self.ranges.len());
        for range in self.ranges {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        ChangeMap { source, disk_bytes: self.disk_bytes, base: None, ranges: joined }
    }
}
