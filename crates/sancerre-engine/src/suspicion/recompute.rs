//! The same numbers from content, on the restore side: for snapshots older than the statistics, and for hosts that nobody trusts.

use std::sync::Arc;

use sancerre_advice::Verb::SnapshotDetails;
use sancerre_format::bytes::to_u64;
use sancerre_format::chunk::BLOCK_BYTES;
use sancerre_format::names::Title;
use sancerre_format::outcome::{Member, MemberKind};

use super::blocks::Blocks;
use super::extent::Counts;
use super::stored::SeenNight;
use super::trace::Trace;
use super::verdict::{Judgement, Past, judge};
use crate::error::{Error, Result};
use crate::monitor::{Monitor, add};
use crate::repository::snapshot_disk::{ChunkCache, SnapshotDisk};
use crate::restore::SnapshotReader;

/// Bytes of both disks that are compared at once.
const WINDOW_BYTES: usize = 8 << 20;

/// Compares the disks of a snapshot with those of the one before, block by block. What the writer said is not asked.
///
/// Errors: no such disk; what keeps content from being read.
pub async fn recompute(
    reader: &SnapshotReader,
    before: Option<&SnapshotReader>,
    wanted: Option<&Title>,
    memory_bytes: u64,
    monitor: &Monitor,
) -> Result<Vec<(Title, SeenNight)>> {
    let is_wanted = |member: &&Member| {
        member.kind == MemberKind::Disk && wanted.is_none_or(|wanted| *wanted == member.name)
    };
    let disks: Vec<&Member> = reader.body().members.iter().filter(is_wanted).collect();
    if let (Some(wanted), true) = (wanted, disks.is_empty()) {
        return Err(Error::Usage(format!("the snapshot has no disk {wanted}; see {SnapshotDetails}")));
    }
    let total = disks.iter().fold(0u64, |sum, member| sum.saturating_add(member.size_bytes));
    add(&monitor.counters.total_bytes, total);
    let cache = ChunkCache::new(memory_bytes / 2);
    let mut nights = Vec::new();
    for member in disks {
        let old = before.and_then(|before| Some((before, before.member(member.name.as_str())?)));
        let disk = SnapshotDisk::open(reader, member, &cache, monitor)?;
        let old = match old {
            Some((before, old)) => Some(SnapshotDisk::open(before, old, &cache, monitor)?),
            None => None,
        };
        let counts = compare(&disk, old.as_ref(), monitor).await?;
        let is_first = old.is_none();
        let judgement = match is_first {
            true => Judgement::default(),
            false => judge(&counts, &Past::default()),
        };
        nights.push((member.name.clone(), SeenNight { counts, is_first, judgement }));
    }
    Ok(nights)
}

async fn compare(
    disk: &Arc<SnapshotDisk>,
    old: Option<&Arc<SnapshotDisk>>,
    monitor: &Monitor,
) -> Result<Counts> {
    let (mut trace, mut was) = (Trace::default(), Trace::default());
    let (mut now, mut then) = (vec![0; WINDOW_BYTES], vec![0; WINDOW_BYTES]);
    let mut at = 0u64;
    let mut sum = Counts::default();
    while at < disk.size_bytes() {
        monitor.check()?;
        let rest = usize::try_from(disk.size_bytes().saturating_sub(at)).unwrap_or(usize::MAX);
        let length = rest.min(WINDOW_BYTES);
        let now = now.get_mut(..length).unwrap_or_default();
        let then = then.get_mut(..length).unwrap_or_default();
        disk.read(at, now).await?;
        then.fill(0);
        if let Some(old) = old.filter(|old| old.size_bytes() > at) {
            let rest = usize::try_from(old.size_bytes().saturating_sub(at)).unwrap_or(usize::MAX);
            let part = then.get_mut(..length.min(rest)).unwrap_or_default();
            old.read(at, part).await?;
        }
        was.region(&look(at, then, None), &[]);
        trace.region(&look(at, now, old.map(|_| &*then)), &was.take_starts());
        was.drain_below(u64::MAX);
        trace.drain_below(at / super::extent::EXTENT_BYTES).iter().for_each(|(_, counts)| sum.add(counts));
        at = at.saturating_add(to_u64(length));
        add(&monitor.counters.done_bytes, to_u64(length));
    }
    trace.end(disk.size_bytes());
    trace.drain_below(u64::MAX).iter().for_each(|(_, counts)| sum.add(counts));
    Ok(sum)
}

/// What stands in a stretch; `then`: what stood there before.
fn look(at: u64, bytes: &[u8], then: Option<&[u8]>) -> Blocks {
    let mut blocks = Blocks::new(at, bytes.len(), then.is_some());
    for (number, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        let start = number.saturating_mul(BLOCK_BYTES);
        let old = then.and_then(|then| then.get(start..start.saturating_add(block.len())));
        blocks.read(start, block, old != Some(block));
    }
    blocks
}
