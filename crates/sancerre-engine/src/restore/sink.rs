//! Where chunks go: the target, and what of it is in place.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use sancerre_format::bytes::to_u64;
use sancerre_image::DiskTarget;

use crate::error::Result;
use crate::monitor::{Monitor, add};
use crate::restore::fetch::{Failed, Fetched};
use crate::restore::open::{open, stretch};
use crate::restore::plan::runs;
use crate::restore::survey::Survey;

/// Zeros written to a device between two looks at whether the user wants to stop.
const ZERO_BYTES_MAX: u64 = 256 << 20;

/// Where chunks go.
pub(super) struct Sink {
    pub(super) target: Box<dyn DiskTarget>,
    pub(super) monitor: Monitor,
    written_bytes: AtomicU64,
    kept_bytes: AtomicU64,
    /// Of a target that wanted to know: all that will change. The rest was found there as it is to be.
    pub(super) survey: OnceLock<Survey>,
}

/// Bytes of a disk that are in place.
pub(super) struct Written {
    /// All of them.
    pub(super) data_bytes: u64,
    /// Of them, those that were found at the target.
    pub(super) kept_bytes: u64,
}

impl Sink {
    pub(super) fn new(target: Box<dyn DiskTarget>, monitor: Monitor) -> Self {
        let (written_bytes, kept_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { target, monitor, written_bytes, kept_bytes, survey: OnceLock::new() }
    }

    /// Whether a range was surveyed, and is what it is to be.
    pub(super) fn is_unchanged(&self, range: &Range<u64>) -> bool {
        self.survey.get().is_some_and(|survey| survey.within(range).is_empty())
    }

    /// What is in place by now.
    pub(super) fn written(&self) -> Written {
        let kept_bytes = self.kept_bytes.load(Ordering::Relaxed);
        let data_bytes = self.written_bytes.load(Ordering::Relaxed).saturating_add(kept_bytes);
        Written { data_bytes, kept_bytes }
    }

    /// Opens frames and writes their chunks; returns those that are not what they should be.
    pub(super) fn write(&self, fetched: &Fetched) -> Result<Option<Failed>> {
        self.monitor.check()?;
        open(fetched, |pieces, raw| {
            runs(pieces).try_for_each(|(at, range)| self.write_at(at, stretch(&raw, range)?))
        })
    }

    /// A chunk was found: at its place, or in the file that is replaced.
    pub(super) fn kept(&self, at: u64, bytes: &[u8], is_in_place: bool) -> Result<()> {
        if !is_in_place {
            self.target.write_at(at, bytes)?;
        }
        self.count_kept(to_u64(bytes.len()));
        Ok(())
    }

    /// A chunk is in place that was there before.
    pub(super) fn count_kept(&self, bytes: u64) {
        add(&self.kept_bytes, bytes);
        add(&self.monitor.counters.done_bytes, bytes);
    }

    /// A chunk at its place.
    pub(super) fn write_at(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.target.write_at(at, bytes)?;
        let count = to_u64(bytes.len());
        add(&self.written_bytes, count);
        add(&self.monitor.counters.done_bytes, count);
        Ok(())
    }

    /// Zeros. A new file is all zeros already; elsewhere these are requests to the driver or the file system.
    pub(super) fn zero(&self, gaps: Vec<Range<u64>>) -> Result<()> {
        let gaps: Vec<Range<u64>> = match self.survey.get() {
            Some(survey) => gaps.iter().flat_map(|gap| survey.within(gap)).collect(),
            None => gaps,
        };
        for mut gap in gaps {
            while !gap.is_empty() {
                self.monitor.check()?;
                let end = gap.end.min(gap.start.saturating_add(ZERO_BYTES_MAX));
                self.target.zero(gap.start..end)?;
                gap.start = end;
            }
        }
        Ok(())
    }
}
