//! When what a map names is damaged or gone: other copies, found through the index. What is found is remembered, and so is
//! what is not, for a guest asks for a bad block again and again.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use futures::FutureExt;
use sancerre_format::FormatError;
use sancerre_format::id::{ContentId, FramePlace, Place};

use super::cache::Frame;
use super::{Chunk, SnapshotDisk};
use crate::error::{Error, Result};
use crate::index::find_copies;
use crate::map::{StoredNode, child};
use crate::monitor::Topic;

impl SnapshotDisk {
    /// Chunks that are not in the frame that should hold them, each from the first copy that is what it should be.
    ///
    /// Errors: [`Error::Unrestorable`] naming the place on the disk and the object; [`Error::Forgotten`]; the store's.
    pub(super) async fn heal(
        self: &Arc<Self>,
        lost: Vec<Chunk>,
        why: Arc<Error>,
    ) -> Result<Vec<(Chunk, Arc<Frame>)>> {
        let unknown: BTreeSet<ContentId> =
            lost.iter().map(|chunk| chunk.id).filter(|id| self.healed(id).is_none()).collect();
        if let (false, Some(bad)) = (unknown.is_empty(), lost.first().map(|chunk| chunk.place.frame)) {
            let (disk, why) = (Arc::clone(self), Arc::clone(&why));
            let ids = unknown.clone();
            let search = async move { disk.search(ids, bad, &why).await.map_err(Arc::new) };
            self.searches.join(unknown, || search.boxed()).await.map_err(Error::Shared)?;
        }
        let mut found = Vec::with_capacity(lost.len());
        for chunk in lost {
            let Some(Some(place)) = self.healed(&chunk.id) else { return Err(self.gone(&chunk, why)) };
            let frame = match self.cache.frame(&self.frames, &place.frame).await {
                Ok(frame) => frame,
                Err(error) if error.is_damage() => return Err(self.gone(&chunk, why)),
                Err(error) => return Err(error),
            };
            if frame.chunk(&self.id_key, &chunk.id, &place).is_none() {
                return Err(self.gone(&chunk, why));
            }
            found.push((Chunk { place, ..chunk }, frame));
        }
        Ok(found)
    }

    pub(super) fn healed(&self, id: &ContentId) -> Option<Option<Place>> {
        self.healed.lock().unwrap_or_else(PoisonError::into_inner).get(id)
    }

    /// Looks for copies of chunks, and remembers for each the first that is what it should be, or that there is none.
    async fn search(self: Arc<Self>, ids: BTreeSet<ContentId>, bad: FramePlace, why: &Error) -> Result<()> {
        self.frames.log().refuse_forgotten(&self.session)?;
        self.monitor.warn(Topic::Damage, format!("{}: {why}; looking for another copy", self.name));
        let places = find_copies(self.frames.repository(), &self.frames.log(), &ids, &self.monitor).await?;
        for id in ids {
            let mut copy = None;
            let others = places.get(&id).into_iter().flatten().filter(|place| place.frame != bad);
            for place in others {
                if self.is_copy(&id, place).await? {
                    copy = Some(*place);
                    break;
                }
            }
            self.healed.lock().unwrap_or_else(PoisonError::into_inner).put(id, copy, 1);
        }
        Ok(())
    }

    async fn is_copy(&self, id: &ContentId, place: &Place) -> Result<bool> {
        match self.cache.frame(&self.frames, &place.frame).await {
            Ok(frame) => Ok(frame.chunk(&self.id_key, id, place).is_some()),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn gone(&self, chunk: &Chunk, why: Arc<Error>) -> Error {
        self.unrestorable(format!("bytes {}..{}", chunk.at, chunk.end()), why)
    }

    pub(super) fn unrestorable(&self, ranges: String, why: Arc<Error>) -> Error {
        Error::Unrestorable { disk: self.name.clone(), ranges, source: Box::new(Error::Shared(why)) }
    }

    /// What is wrong with a frame whose chunk does not hash to its id.
    pub(super) fn forged(&self, chunk: &Chunk) -> Error {
        let detail = "one of its chunks does not fit its id".to_owned();
        self.frames.blame(&chunk.place.frame, FormatError::Forged { what: "frame", detail })
    }

    /// A node of the map, on the way from the root, each from a copy where it must be.
    pub(super) async fn heal_node(&self, level: u8, number: u64) -> Result<Option<Arc<StoredNode>>> {
        let Some(root) = self.map.root().copied() else { return Ok(None) };
        let mut node = self.node_or_copy(root.level, 0, &root.id, &root.place).await?;
        for below in (level..root.level).rev() {
            let shift = u32::from(below.saturating_sub(level)).saturating_mul(8);
            let number = number.checked_shr(shift).unwrap_or(0);
            let Some((id, place)) = child(&node.node, number) else { return Ok(None) };
            node = self.node_or_copy(below, number, &id, &place).await?;
        }
        Ok(Some(node))
    }

    async fn node_or_copy(
        &self,
        level: u8,
        number: u64,
        id: &ContentId,
        place: &Place,
    ) -> Result<Arc<StoredNode>> {
        // Below a node that came from a copy its session's packs are named, which nobody knew of.
        self.frames.learn_of(&place.frame).await?;
        let why = match self.map.read(level, number, id, place).await {
            Err(error) if error.is_damage() => error,
            read => return read,
        };
        self.frames.log().refuse_forgotten(&self.session)?;
        self.monitor.warn(
            Topic::Damage,
            format!("{}: {why}; looking for another copy of a node of its map", self.name),
        );
        let ids = BTreeSet::from([*id]);
        let places = find_copies(self.frames.repository(), &self.frames.log(), &ids, &self.monitor).await?;
        let others = places.into_values().flatten().filter(|other| other.frame != place.frame);
        for other in others {
            self.frames.learn_of(&other.frame).await?;
            match self.frames.metadata(&other.frame).await {
                Ok(raw) => {
                    if let Ok(node) = self.map.decode(level, number, id, &other, &raw) {
                        let node = Arc::new(node);
                        self.map.keep(level, number, &node);
                        return Ok(node);
                    }
                }
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        let range = self.map.geometry().range(level, number);
        Err(self.unrestorable(format!("bytes {}..{}", range.start, range.end), Arc::new(why)))
    }
}
