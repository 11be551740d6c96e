//! Segments that nobody reads any more.

use std::collections::BTreeSet;

use sancerre_format::index::SegmentName;
use sancerre_format::log::Kind;

use super::segment::{Head, key_of, retain_heard, segments};
use super::uncovered::read_uncovered;
use crate::error::Result;
use crate::log::{Log, LogEntry};
use crate::monitor::Monitor;
use crate::repository::Repository;

/// The keys of segments that others cover, and of those that name only packs of `dead` sessions. None without the zone's
/// secrets: of which generation a segment is then says nothing.
///
/// Errors: the store's.
pub async fn unread_segments(
    repository: &Repository,
    log: &Log,
    dead: &BTreeSet<u64>,
    monitor: &Monitor,
) -> Result<Vec<String>> {
    if repository.keys.zone_secrets().is_err() {
        return Ok(Vec::new());
    }
    let mut listed = segments(repository, log).await?;
    // Who is not trusted covers nothing.
    retain_heard(log, &log.avoid(Log::END)?, &mut listed);
    let read = |name, size_bytes| Head::read(repository, log, name, size_bytes);
    let covered = read_uncovered((repository, log), monitor, &listed, read, |_: Head| {}).await?;
    let is_of_backup = |number: u64| {
        let announced = log.entry(number).and_then(LogEntry::announced);
        announced.is_some_and(|entry| matches!(entry.fields.kind, Kind::Backup(_)))
    };
    let is_unread = |name: &&SegmentName| {
        covered.contains(name) || (dead.contains(&name.session) && is_of_backup(name.session))
    };
    listed.keys().filter(is_unread).map(|name| key_of(repository, log, *name)).collect()
}
