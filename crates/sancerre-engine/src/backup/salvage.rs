//! A disk that is dying, or is cut while it is read: all that reads is saved, and what does not is named.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sancerre_format::bytes::to_u64;
use sancerre_format::names::Title;
use sancerre_format::outcome::Unreadable;
use sancerre_image::{Disk, ReadError};

use super::options::{Allow, BackupSource};
use crate::error::Result;
use crate::monitor::{Monitor, Topic};

/// Ranges kept one by one at most; then neighbours are joined, as the record would join them.
const RANGES_MAX: usize = 1 << 16;

/// What of one disk could not be read, whoever tried.
pub(super) struct Salvage {
    name: Title,
    monitor: Monitor,
    bad: Mutex<Vec<Range<u64>>>,
    allow: Allow,
    /// The first one was said while others may follow.
    is_told: AtomicBool,
}

impl Salvage {
    /// None where whatever cannot be read ends the backup: without leave, and for what is no disk.
    pub(super) fn of(source: &BackupSource, allow: Allow, monitor: &Monitor) -> Option<Arc<Self>> {
        let is_allowed = (allow.unreadable || allow.changing) && source.disk().is_some();
        let new = || Self {
            name: source.name.clone(),
            monitor: monitor.clone(),
            bad: Mutex::default(),
            allow,
            is_told: AtomicBool::new(false),
        };
        is_allowed.then(|| Arc::new(new()))
    }

    /// Reads what reads. The rest is zeros and taken note of, so that nobody takes it for content.
    pub(super) fn read(&self, disk: &dyn Disk, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let found = self.read_what_is_there(disk, offset, buffer)?;
        // invariant: an empty list means that all was read
        let Some(first) = found.first() else { return Ok(()) };
        if !self.is_told.swap(true, Ordering::Relaxed) {
            let why = match disk.cut_to() {
                Some(now_bytes) => format!("was cut to {now_bytes} bytes while it was read, and "),
                None => String::new(),
            };
            self.monitor.warn(Topic::Source, format!(
                "{} ({}) {why}cannot be read at offset {}; going on, what else cannot be read is told at the end",
                self.name,
                disk.path().display(),
                first.start
            ));
        }
        self.note(found);
        Ok(())
    }

    /// What lies behind the new end of a disk that was cut cannot be read either.
    fn read_what_is_there(&self, disk: &dyn Disk, offset: u64, buffer: &mut [u8]) -> Result<Vec<Range<u64>>> {
        let end = offset.saturating_add(to_u64(buffer.len())); // invariant: a window lies within the disk
        let mut now = end;
        loop {
            let there = usize::try_from(now.saturating_sub(offset)) // invariant: cut to nothing before it
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let (head, tail) = buffer.split_at_mut(there);
            let read = self.read_part(disk, offset, head);
            let cut = match &read {
                Err(ReadError::Shrank { .. }) if self.allow.changing => disk.cut_to(),
                _ => None,
            };
            // It falls each time, so this ends.
            match cut.filter(|cut| *cut < now) {
                Some(cut) => now = cut,
                None => {
                    let mut bad = read?;
                    tail.fill(0);
                    bad.extend((!tail.is_empty()).then(|| now.max(offset)..end));
                    return Ok(bad);
                }
            }
        }
    }

    fn read_part(
        &self,
        disk: &dyn Disk,
        offset: u64,
        buffer: &mut [u8],
    ) -> std::result::Result<Vec<Range<u64>>, ReadError> {
        match self.allow.unreadable {
            true => disk.read_what_reads(offset, buffer),
            false => disk.read_at(offset, buffer).map(|()| Vec::new()),
        }
    }

    /// Where the disk may hold data; everywhere, where that cannot be said any more.
    fn data_ranges(&self, disk: &dyn Disk, range: Range<u64>) -> Result<Vec<Range<u64>>> {
        match disk.data_ranges(range.clone()) {
            Err(ReadError::HoleSearch { .. }) if self.allow.unreadable => {
                Ok(std::iter::once(range).collect())
            }
            Err(ReadError::Shrank { .. }) if self.allow.changing && disk.cut_to().is_some() => {
                Ok(std::iter::once(range).collect())
            }
            found => Ok(found?),
        }
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

/// Where a disk may hold data.
pub(super) fn data_ranges(
    disk: &dyn Disk,
    range: Range<u64>,
    salvage: Option<&Salvage>,
) -> Result<Vec<Range<u64>>> {
    match salvage {
        // A file system that is dying too may not be able to say.
        Some(salvage) => salvage.data_ranges(disk, range),
        None => Ok(disk.data_ranges(range)?),
    }
}
