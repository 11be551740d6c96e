//! Metadata frames on their way to the walk: fetched several at a time, kept within a budget.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use sancerre_format::bytes::to_u64;
use sancerre_format::id::FramePlace;

use super::run::{is_transient, tolerate};
use crate::error::Result;
use crate::frames::Frames;
use crate::repository::Repository;
use sancerre_repository::lru::LruCache;

/// Opened frames kept: each snapshot of a disk has its own frame at a place, and the walk visits them in turn.
const KEPT_BYTES: u64 = 192 << 20;
/// Fetches in flight: hides the latency of a bucket, and bounds memory to as many frames.
const FETCHES: usize = 8;

/// Why a metadata frame could not be opened.
#[derive(Debug, Clone)]
pub(super) struct Unopened {
    pub(super) problem: String,
    /// Whether the way to it failed rather than the frame.
    pub(super) transient: bool,
}

/// A frame's raw bytes.
pub(super) type Opened = std::result::Result<Arc<Vec<u8>>, Unopened>;

/// Opened metadata frames.
pub(super) struct NodeFrames(LruCache<FramePlace, Arc<Vec<u8>>>);

impl Default for NodeFrames {
    fn default() -> Self {
        Self(LruCache::new(KEPT_BYTES))
    }
}

impl NodeFrames {
    /// Opens these frames, from what is kept or from the store.
    pub(super) async fn open(
        &mut self,
        repository: &Repository,
        frames: &Arc<Frames>,
        places: &BTreeSet<FramePlace>,
    ) -> Result<HashMap<FramePlace, Opened>> {
        let mut opened = HashMap::with_capacity(places.len());
        let mut wanted = Vec::new();
        for place in places {
            match self.0.get(place) {
                Some(raw) => drop(opened.insert(*place, Ok(raw))),
                None => wanted.push(*place),
            }
        }
        let fetches = wanted.into_iter().map(|place| fetch(repository, frames, place));
        let fetched: Vec<(FramePlace, Opened)> =
            futures::stream::iter(fetches).buffered(FETCHES).try_collect().await?;
        for (place, raw) in fetched {
            if let Ok(raw) = &raw {
                self.0.put(place, Arc::clone(raw), to_u64(raw.len()));
            }
            opened.insert(place, raw);
        }
        Ok(opened)
    }
}

async fn fetch(
    repository: &Repository,
    frames: &Arc<Frames>,
    place: FramePlace,
) -> Result<(FramePlace, Opened)> {
    let opened = match frames.fetch(&place).await {
        Ok(sealed) => {
            let frames = Arc::clone(frames);
            let open = move || frames.open_metadata(&place, &sealed).map(Arc::new);
            repository.host.compute(open).await?
        }
        Err(error) => Err(error),
    };
    Ok(match opened {
        Ok(raw) => (place, Ok(raw)),
        Err(error) => {
            let transient = is_transient(&error);
            let problem = tolerate(repository, error).await?;
            (place, Err(Unopened { problem, transient }))
        }
    })
}
