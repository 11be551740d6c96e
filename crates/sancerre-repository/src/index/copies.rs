//! Where else chunks and nodes lie, when the place that a map names is damaged or gone.
//!
//! What the index says is no proof: a copy counts when it hashes to the wanted id.

use std::collections::{BTreeSet, HashMap};

use futures::StreamExt;
use sancerre_format::id::{ContentId, Place};
use sancerre_format::index::SegmentName;

use super::segment::{Segment, segments};
use crate::error::Result;
use crate::log::Log;
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use crate::tolerate::tolerate;

/// Segments of the index searched at once.
const SEGMENTS_IN_FLIGHT: usize = 16;

/// All places that the index knows of these ids, in one pass over it; of one id, those of the newest segment first.
///
/// Errors: the store's, when it does not work as such; the user's wish to stop. A segment that cannot be read is a warning.
pub async fn find_copies(
    repository: &Repository,
    log: &Log,
    ids: &BTreeSet<ContentId>,
    monitor: &Monitor,
) -> Result<HashMap<ContentId, Vec<Place>>> {
    let mut places: HashMap<ContentId, Vec<Place>> = HashMap::new();
    let listed = segments(repository, log).await?;
    let searches = listed.into_iter().rev().map(|(name, size_bytes)| async move {
        (name, search_segment(repository, log, name, size_bytes, ids).await)
    });
    let mut searches = std::pin::pin!(futures::stream::iter(searches).buffered(SEGMENTS_IN_FLIGHT));
    while let Some((name, found)) = searches.next().await {
        monitor.check()?;
        match found {
            Ok(found) => {
                found.into_iter().for_each(|(id, place)| places.entry(id).or_default().push(place));
            }
            Err(error) => {
                let why = tolerate(repository, error).await?;
                monitor.warn(Topic::Hint, format!("index segment {name} is ignored: {why}"));
            }
        }
    }
    Ok(places)
}

/// Covered segments too: a merge keeps one place of each chunk, and any copy will do here.
async fn search_segment(
    repository: &Repository,
    log: &Log,
    name: SegmentName,
    size_bytes: u64,
    ids: &BTreeSet<ContentId>,
) -> Result<Vec<(ContentId, Place)>> {
    match Segment::open(repository, log, name, size_bytes).await? {
        Some(segment) => segment.find(repository, ids).await,
        None => Ok(Vec::new()),
    }
}
