//! Which segments count: those that no other covers, newest first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use futures::StreamExt;
use sancerre_advice::Verb::RebuildIndex;
use sancerre_format::FormatError;
use sancerre_format::index::{SegmentFields, SegmentName};
use sancerre_format::limits;

use super::segment::{Head, key_of};
use crate::error::{Error, Result, StoreError};
use crate::log::Log;
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;

/// Segments read at once.
const SEGMENTS_IN_FLIGHT: usize = 4;

/// What [`read_uncovered`] reads of a segment.
pub trait Covering {
    /// Its signed fields.
    fn fields(&self) -> &SegmentFields;
}

impl Covering for Head {
    fn fields(&self) -> &SegmentFields {
        &self.fields
    }
}

/// Reads, newest first, the segments that no other covers, and hands each to `take`. What is damaged is told and left
/// out, and so is what `read` has no use for. Returns the names that are covered.
pub async fn read_uncovered<T: Covering, F: Future<Output = Result<Option<T>>>>(
    (repository, log): (&Repository, &Log),
    monitor: &Monitor,
    listed: &BTreeMap<SegmentName, u64>,
    read: impl Fn(SegmentName, u64) -> F,
    mut take: impl FnMut(T),
) -> Result<BTreeSet<SegmentName>> {
    let covered = Covered::default();
    let refused = refused(repository, log, listed).await?;
    {
        let reads = listed.iter().rev().map(|(name, size_bytes)| {
            let (read, covered, refused) = (&read, &covered, refused.get(name));
            async move {
                let found = match refused {
                    _ if covered.contains(name) => None,
                    Some((key, reason)) => Some(Err(Error::object(key)(reason.clone()))),
                    None => Some(read(*name, *size_bytes).await),
                };
                (*name, found)
            }
        });
        let mut reads = std::pin::pin!(futures::stream::iter(reads).buffered(SEGMENTS_IN_FLIGHT));
        while let Some((name, found)) = reads.next().await {
            monitor.check()?;
            // What covers it may have been on its way when it was asked for.
            match found.filter(|_| !covered.contains(&name)) {
                None | Some(Ok(None) | Err(Error::Store(StoreError::Missing { .. }))) => {}
                Some(Ok(Some(segment))) => {
                    covered.extend(&segment.fields().covers);
                    take(segment);
                }
                Some(Err(error)) if error.is_damage() => {
                    refuse(repository, log, name, listed, &error).await?;
                    monitor.warn(Topic::Hint, ignored(&key_of(repository, log, name)?, &error));
                }
                Some(Err(error)) => return Err(error),
            }
        }
    }
    Ok(covered.0.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The segments that were refused when they were fetched, or are too large, and why. A segment that is ignored costs
/// deduplication at most, so its size tells it from another well enough.
async fn refused(
    repository: &Repository,
    log: &Log,
    listed: &BTreeMap<SegmentName, u64>,
) -> Result<BTreeMap<SegmentName, (String, FormatError)>> {
    let mut asked = Vec::with_capacity(listed.len());
    for (name, size_bytes) in listed {
        asked.push((key_of(repository, log, *name)?, size_bytes.to_string()));
    }
    let reasons = repository.refused_junk(&asked).await?;
    let found = listed.iter().zip(asked).zip(reasons);
    let found = found.filter_map(|(((name, size_bytes), (key, _)), reason)| {
        let too_large = limits::check(&key, *size_bytes).err();
        Some((*name, (key, too_large.or(reason)?)))
    });
    Ok(found.collect())
}

/// Remembers a segment that is damaged.
async fn refuse(
    repository: &Repository,
    log: &Log,
    name: SegmentName,
    listed: &BTreeMap<SegmentName, u64>,
    error: &Error,
) -> Result<()> {
    let segment = key_of(repository, log, name)?;
    match (error, listed.get(&name)) {
        (Error::Object { key, source }, Some(size_bytes)) if *key == segment => {
            repository.refuse_junk(key, &size_bytes.to_string(), source).await
        }
        _ => Ok(()),
    }
}

/// The names that segments read so far cover.
#[derive(Default)]
struct Covered(Mutex<BTreeSet<SegmentName>>);

impl Covered {
    fn contains(&self, name: &SegmentName) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    fn extend(&self, names: &[SegmentName]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
    }
}

/// What to tell of a damaged segment.
pub fn ignored(key: &str, error: &dyn std::fmt::Display) -> String {
    format!("index segment {key} is ignored: {error}; {RebuildIndex} makes a new one")
}
