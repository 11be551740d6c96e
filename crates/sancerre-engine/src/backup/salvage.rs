//! A disk that is dying: all that reads is saved, and what does not is named.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sancerre_format::names::Title;
use sancerre_format::outcome::Unreadable;
use sancerre_image::{Disk, ReadError};

use super::options::{Allow, Source};
use crate::error::Result;
use crate::monitor::Monitor;

/// Ranges kept one by one at most; then neighbours are joined, as the record would join them.
const RANGES_MAX: usize = 1 << 16;

/// What of one disk could not be read, whoever tried.
pub(super) struct Salvage {
    name: Title,
    monitor: Monitor,
    bad: Mutex<Vec<Range<u64>>>,
    /// The first one was said while others may follow.
    is_told: AtomicBool,
}

impl Salvage {
    /// None where a block that cannot be read ends the backup: without leave, and for what is no disk.
    pub(super) fn of(source: &Source, allow: Allow, monitor: &Monitor) -> Option<Arc<Self>> {
        let is_allowed = allow.unreadable && source.disk().is_some();
        let new = || Self {
            name: source.name.clone(),
            monitor: monitor.clone(),
            bad: Mutex::default(),
            is_told: AtomicBool::new(false),
        };
        is_allowed.then(|| Arc::new(new()))
    }

    /// Reads what reads. The rest is zeros and taken note of, so that nobody takes it for content.
    pub(super) fn read(&self, disk: &dyn Disk, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let found = disk.read_what_reads(offset, buffer)?;
        // invariant: an empty list means that all was read
        let Some(first) = found.first() else { return Ok(()) };
        if !self.is_told.swap(true, Ordering::Relaxed) {
            self.monitor.warn(format!(
                "{} ({}) cannot be read at offset {}; going on, what else cannot be read is told at the end",
                self.name,
                disk.path().display(),
                first.start
            ));
        }
        self.note(found);
        Ok(())
    }

    /// Takes note of what is missing.
    pub(super) fn note(&self, found: impl IntoIterator<Item = Range<u64>>) {
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        bad.extend(found);
        if bad.len() > RANGES_MAX {
            *bad = Unreadable::new(std::mem::take(&mut bad)).ranges().to_vec();
        }
    }

    /// All that could not be read until now.
    pub(super) fn found(&self) -> Unreadable {
        Unreadable::new(self.bad.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Where a disk may hold data. A file system that is dying too may not be able to say: then everywhere.
pub(super) fn data_ranges(disk: &dyn Disk, range: Range<u64>, is_salvage: bool) -> Result<Vec<Range<u64>>> {
    match disk.data_ranges(range.clone()) {
        Err(ReadError::HoleSearch { .. }) if is_salvage => Ok(std::iter::once(range).collect()),
        found => Ok(found?),
    }
}
