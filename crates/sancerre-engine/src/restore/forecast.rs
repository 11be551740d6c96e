//! What a restore will fetch, from the map alone: the same walk and the same plan, and no byte of data.

use sancerre_format::outcome::Member;

use super::RestoreOptions;
use super::fetch::Fetcher;
use super::plan::plan;
use super::walk::MapWalk;
use crate::error::Result;
use crate::monitor::Monitor;
use crate::repository::snapshot::SnapshotReader;

/// What restoring one member takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoreNeed {
    /// What is written, without holes.
    pub data_bytes: u64,
    /// What is fetched, maps included.
    pub fetch_bytes: u64,
    /// Requests for it.
    pub requests: u64,
}

/// Reads the map of a member, and says what its restore would fetch when nothing is at the target yet and nothing is known of
/// the store: with what is found out on the way, requests are joined more or less.
///
/// Errors: as [`restore`](super::restore()) for what concerns the map.
pub async fn need(
    reader: &SnapshotReader,
    member: &Member,
    options: &RestoreOptions,
    monitor: &Monitor,
) -> Result<RestoreNeed> {
    reader.refuse_unreadable(member)?;
    let fetcher = Fetcher::new(reader, options, monitor);
    let mut walk = MapWalk::new(&fetcher, member)?;
    let mut need = RestoreNeed { data_bytes: member.data_bytes, ..RestoreNeed::default() };
    while let Some(window) = walk.next().await? {
        monitor.check()?;
        let merge = fetcher.merge(&window);
        for range in plan(window, merge) {
            let length = range.bytes.end.saturating_sub(range.bytes.start);
            need.fetch_bytes = need.fetch_bytes.saturating_add(length);
            need.requests = need.requests.saturating_add(1);
        }
    }
    walk.refuse_gone()?;
    let (bytes, requests) = fetcher.tally();
    need.fetch_bytes = need.fetch_bytes.saturating_add(bytes);
    need.requests = need.requests.saturating_add(requests);
    Ok(need)
}
