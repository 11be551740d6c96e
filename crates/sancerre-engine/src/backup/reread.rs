//! A disk that is dying and that nobody writes to: only what the snapshot before could not read is read again, all else
//! is taken from it. The map is the union of both.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sancerre_advice::Setting::OnlyUnreadable;
use sancerre_format::bytes::{to_u64, to_usize};
use sancerre_format::chunk::{BLOCK_BYTES, Chunker};
use sancerre_format::id::SessionId;
use sancerre_format::node::chunk_id;
use sancerre_format::outcome::{Member, Unreadable};

use super::options::{BackupOptions, BackupSource};
use super::region::{BaseChunk, RegionInput, RegionMap, Scan};
use super::{Base, Run, Shared};
use crate::dedup::Speaker;
use crate::error::{Error, Result};
use crate::monitor::add;

/// The snapshot that is added to.
pub(super) struct Reread {
    session: SessionId,
    /// Chunks taken from it, in bytes.
    taken_bytes: AtomicU64,
    /// Of them, those that were read and compared.
    sampled_bytes: AtomicU64,
}

/// What of one disk is read.
pub(super) struct Partly {
    reread: Arc<Reread>,
    unreadable: Unreadable,
}

/// Errors: there is no snapshot to add to, or another writer made it: nobody takes over what he could not have read.
pub(super) fn of(options: &BackupOptions, base: Option<&Base>) -> Result<Option<Arc<Reread>>> {
    if !options.only_unreadable {
        return Ok(None);
    }
    match base {
        Some(base) if base.speaker == Speaker::Own => Ok(Some(Arc::new(Reread {
            session: base.session,
            taken_bytes: AtomicU64::new(0),
            sampled_bytes: AtomicU64::new(0),
        }))),
        _ => Err(Error::Usage(format!(
            "there is no snapshot of this machine by this writer to add to; leave {OnlyUnreadable} out"
        ))),
    }
}

impl Run {
    /// The manifest's word for how the sources were read.
    pub(super) fn scan(&self) -> String {
        if let Some(by_map) = self.scan_by_map() {
            return by_map;
        }
        let Some(Reread { session, taken_bytes, sampled_bytes }) = self.reread.as_deref() else {
            return "full".into();
        };
        let (sampled, taken) = (sampled_bytes.load(Ordering::Relaxed), taken_bytes.load(Ordering::Relaxed));
        format!("map unreadable {session} {sampled} {taken}")
    }

    /// Errors: no disk is one that is to be read in part only.
    pub(super) fn judge_reread(&self, sources: &[BackupSource]) -> Result<()> {
        let is_partly = |source: &BackupSource| Ok(self.partly(source)?.is_some());
        let found = sources.iter().map(is_partly).collect::<Result<Vec<bool>>>()?;
        if self.reread.is_some() && !found.contains(&true) {
            return Err(Error::Usage(format!(
                "all of these disks could be read in the last snapshot; leave {OnlyUnreadable} out"
            )));
        }
        Ok(())
    }

    /// What is read of a source that could not be read whole; none when it is read whole now.
    pub(super) fn partly(&self, source: &BackupSource) -> Result<Option<Arc<Partly>>> {
        let (Some(reread), Some(disk)) = (&self.reread, source.disk()) else { return Ok(None) };
        let Some(before) = self.base_member(source) else { return Ok(None) };
        let unreadable = before.unreadable()?;
        if unreadable.is_empty() {
            return Ok(None);
        }
        if before.size_bytes != disk.size_bytes() {
            return Err(Error::Refused(format!(
                "{} has {} bytes and had {} in the last snapshot, so it is another disk; leave {OnlyUnreadable} out",
                source.name,
                disk.size_bytes(),
                before.size_bytes
            )));
        }
        Ok(Some(Arc::new(Partly { reread: Arc::clone(reread), unreadable })))
    }

    fn base_member(&self, source: &BackupSource) -> Option<&Member> {
        let members = &self.base.as_ref()?.body.members;
        members.iter().find(|member| member.name == source.name && member.kind == source.kind)
    }

    /// What was fuzzy in what is taken over is so still.
    pub(super) fn was_fuzzy(&self, source: &BackupSource) -> bool {
        self.reread.is_some() && self.base_member(source).is_some_and(|member| member.fuzzy)
    }
}

impl Partly {
    /// What cannot be read of a region, by offsets in it, on the grid of blocks.
    fn within(&self, input: &RegionInput) -> Vec<Range<usize>> {
        let (start, length_bytes) = input.extent();
        let end = start + to_u64(length_bytes);
        // Not more than the region's length, so it fits.
        let inside = |at: u64| usize::try_from(at.clamp(start, end) - start).unwrap_or(length_bytes);
        let touches = |range: &&Range<u64>| range.start < end && start < range.end;
        let aligned = |range: &Range<u64>| {
            let from = inside(range.start) / BLOCK_BYTES * BLOCK_BYTES;
            from..inside(range.end).next_multiple_of(BLOCK_BYTES).min(length_bytes)
        };
        self.unreadable.ranges().iter().filter(touches).map(aligned).collect()
    }
}

/// As [`super::region::scan`], of which `base` is the whole map before.
pub(super) fn scan(
    shared: &Shared,
    chunker: &Chunker,
    input: &RegionInput,
    base: &[BaseChunk],
    partly: &Partly,
    begun: RegionMap,
) -> Result<RegionMap> {
    let bad = partly.within(input);
    let stretches = stretches(&bad, base);
    shared.scratch.with(|scratch| {
        let mut scan = Scan::new(shared, chunker, scratch, begun);
        let mut kept =
            base.iter().filter(|chunk| !stretches.iter().any(|bad| meet(bad, &extent(chunk)))).peekable();
        for stretch in &stretches {
            let mut last = None;
            while let Some(chunk) = kept.next_if(|chunk| to_usize(chunk.offset_bytes) < stretch.start) {
                partly.take(&mut scan, chunk)?;
                last = Some(chunk);
            }
            if let Some(chunk) = last {
                partly.sample(shared, input, chunk)?;
            }
            if partly.is_worse(input, stretch, &bad) {
                let mut chunks = base.iter().filter(|chunk| meet(stretch, &extent(chunk)));
                chunks.try_for_each(|chunk| partly.take(&mut scan, chunk))?;
            } else {
                scan.range(input, stretch.clone(), &mut [].iter().peekable())?;
            }
        }
        for chunk in kept {
            partly.take(&mut scan, chunk)?;
        }
        scan.flush()?;
        Ok(scan.into_map())
    })
}

impl Partly {
    fn take(&self, scan: &mut Scan<'_>, chunk: &BaseChunk) -> Result<()> {
        add(&self.reread.taken_bytes, u64::from(chunk.word.place.size_bytes));
        scan.keep(chunk)
    }

    /// Whether less of a stretch can be read than before. Then it stays as it was, and what was missing is missing still.
    fn is_worse(&self, input: &RegionInput, stretch: &Range<usize>, bad: &[Range<usize>]) -> bool {
        let Some(salvage) = input.salvage() else { return false };
        let fails = |part: &Range<usize>| input.read_strictly(part.start, &mut vec![0; part.len()]).is_err();
        if !besides(stretch, bad).iter().any(fails) {
            return false;
        }
        let start = input.extent().0;
        let place = |at: usize| start + to_u64(at);
        let missing = bad.iter().filter(|bad| meet(stretch, bad));
        salvage.note(missing.map(|bad| place(bad.start)..place(bad.end)));
        true
    }

    /// Compares a chunk that is taken over with the disk. That it cannot be read any more says nothing.
    ///
    /// Errors: it is another one, so somebody wrote to the disk since.
    fn sample(&self, shared: &Shared, input: &RegionInput, chunk: &BaseChunk) -> Result<()> {
        let mut bytes = vec![0; to_usize(chunk.word.place.size_bytes)];
        if input.read_strictly(to_usize(chunk.offset_bytes), &mut bytes).is_err() {
            return Ok(());
        }
        if chunk_id(&shared.zone_keys.id, &bytes) != chunk.id {
            return Err(Error::Refused(format!(
                "the disk was written to since the last snapshot, so what was read then is not what stands there now. \
                 Nothing was saved; leave {OnlyUnreadable} out"
            )));
        }
        add(&self.reread.sampled_bytes, to_u64(bytes.len()));
        Ok(())
    }
}

/// What is read: all that could not be, and whole chunks of which it is a part.
fn stretches(bad: &[Range<usize>], base: &[BaseChunk]) -> Vec<Range<usize>> {
    let mut all: Vec<Range<usize>> = Vec::new();
    let chunks = base.iter().map(extent).filter(|chunk| bad.iter().any(|bad| meet(bad, chunk)));
    let mut parts: Vec<Range<usize>> = chunks.chain(bad.iter().cloned()).collect();
    parts.sort_unstable_by_key(|range| (range.start, range.end));
    for part in parts {
        match all.last_mut() {
            Some(last) if last.end >= part.start => last.end = last.end.max(part.end),
            _ => all.push(part),
        }
    }
    all
}

/// What of a stretch is not bad.
fn besides(stretch: &Range<usize>, bad: &[Range<usize>]) -> Vec<Range<usize>> {
    let (mut parts, mut at) = (Vec::new(), stretch.start);
    for bad in bad.iter().filter(|bad| meet(stretch, bad)) {
        parts.push(at..bad.start);
        at = bad.end;
    }
    parts.push(at..stretch.end);
    parts.retain(|part| part.start < part.end);
    parts
}

fn extent(chunk: &BaseChunk) -> Range<usize> {
    let start = to_usize(chunk.offset_bytes);
    start..start + to_usize(chunk.word.place.size_bytes)
}

fn meet(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}
