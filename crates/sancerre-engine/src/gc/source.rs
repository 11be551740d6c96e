//! Reading what is kept of a pack: its two ends, and the wanted frames by range.

use std::ops::Range;

use bytes::Bytes;
use sancerre_format::FormatError;
use sancerre_format::bytes::{to_u64, to_usize};
use sancerre_format::frames::FrameSet;
use sancerre_format::id::Hash;
use sancerre_format::pack::{DirectoryEntry, FrameChunk, SealedSession};

use super::gather::MovedFrame;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, add};
use crate::repository::Repository;
use crate::repository::pack_ends::{PackEnds, PackRef};

/// Neighbouring frames are read by one request of at most so many bytes.
const RANGE_BYTES: u64 = 8 << 20;

/// A frame to be read: what the directory and the table say of it.
struct Wanted {
    entry: DirectoryEntry,
    session: SealedSession,
    pieces: Vec<FrameChunk>,
}

/// Reads the frames of `wanted` that lie in a pack, each compared with its hash in the directory, which the pack's
/// session signed.
///
/// Errors: [`Error::is_damage`] when one of them cannot be had.
pub(super) async fn read(
    repository: &Repository,
    source: PackRef,
    wanted: &FrameSet,
    monitor: &Monitor,
) -> Result<Vec<MovedFrame>> {
    monitor.check()?;
    let ends = PackEnds::fetch(repository, source).await?;
    let root = repository.keys.metadata_root(&source.session)?;
    let names = wanted.clone();
    let find = move || find(&ends, &root, &names);
    let found = repository.host.compute(find).await?.map_err(Error::object(&source.key(repository)))?;
    let mut carried = Vec::with_capacity(found.len());
    for (range, frames) in ranges(found) {
        monitor.check()?;
        let bytes = repository.store.need_range(&source.key(repository), range.clone()).await?;
        let cut = move || frames.into_iter().map(|frame| frame.cut(&range, &bytes)).collect();
        let frames: std::result::Result<Vec<MovedFrame>, FormatError> = repository.host.compute(cut).await?;
        for frame in frames.map_err(Error::object(&source.key(repository)))? {
            add(&monitor.counters.done_bytes, u64::from(frame.place.sealed_bytes));
            carried.push(frame);
        }
    }
    Ok(carried)
}

/// What the ends of a pack say of the wanted frames, in the order in which they lie in it.
fn find(
    ends: &PackEnds,
    root: &sancerre_format::seal::RootKey,
    wanted: &FrameSet,
) -> std::result::Result<Vec<Wanted>, FormatError> {
    let tail = ends.decode()?;
    let table = tail.open_table(root)?;
    let mut found = Vec::new();
    for (entry, pieces) in tail.directory().iter().zip(table) {
        let session = tail.head().sessions.get(usize::from(entry.session_index));
        if let Some(session) = session.filter(|_| wanted.contains(&entry.frame)) {
            found.push(Wanted { entry: *entry, session: session.clone(), pieces });
        }
    }
    if to_u64(found.len()) == wanted.frame_count() {
        return Ok(found);
    }
    let detail = "a snapshot needs a frame that is not in it".to_owned();
    Err(FormatError::Corrupt { what: "pack", detail })
}

/// One request for frames that lie side by side.
fn ranges(found: Vec<Wanted>) -> Vec<(Range<u64>, Vec<Wanted>)> {
    let mut ranges: Vec<(Range<u64>, Vec<Wanted>)> = Vec::new();
    for frame in found {
        let at = frame.range();
        match ranges.last_mut() {
            Some((range, frames)) if range.end == at.start && at.end - range.start <= RANGE_BYTES => {
                range.end = at.end;
                frames.push(frame);
            }
            _ => ranges.push((at, vec![frame])),
        }
    }
    ranges
}

impl Wanted {
    fn range(&self) -> Range<u64> {
        let start = u64::from(self.entry.offset_bytes);
        start..start + u64::from(self.entry.sealed_bytes)
    }

    /// The frame out of a range that was read.
    fn cut(self, range: &Range<u64>, bytes: &Bytes) -> std::result::Result<MovedFrame, FormatError> {
        let start = usize::try_from(self.range().start - range.start).unwrap_or(usize::MAX);
        let end = start + to_usize(self.entry.sealed_bytes);
        let sealed = bytes.get(start..end).filter(|sealed| Hash::of(sealed) == self.entry.hash);
        let sealed = sealed.map(|_| bytes.slice(start..end)).ok_or_else(|| {
            let detail = format!("frame {} does not fit its hash in the directory", self.entry.frame);
            FormatError::Forged { what: "pack", detail }
        })?;
        Ok(MovedFrame { place: self.entry.place(), session: self.session, pieces: self.pieces, sealed })
    }
}
