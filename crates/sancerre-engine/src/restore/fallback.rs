//! When a place is stale or damaged: another copy of the same chunk or node, found through the index.
//!
//! The index is read only now. What it says is checked: a copy counts when it hashes to the wanted id.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use sancerre_format::FormatError;
use sancerre_format::id::{ContentId, FramePlace, Place};
use sancerre_format::index::{SegmentName, SegmentReader};
use sancerre_format::names;
use sancerre_format::node::chunk_id;
use sancerre_format::outcome::Member;

use crate::error::{Error, Result};
use crate::frames::Frames;
use crate::known;
use crate::repository::catalogue::Catalogue;
use crate::restore::fetch::{Failed, Fetcher};
use crate::restore::plan::{PackRange, Piece, WantedFrame};

/// Other copies of what failed.
pub(super) struct Copies<'a> {
    fetcher: &'a Fetcher<'a>,
    frames: Frames,
    places: HashMap<ContentId, Vec<Place>>,
    /// The last frame opened: lost chunks are neighbours in their copies too.
    last: Option<(FramePlace, Vec<u8>)>,
}

impl<'a> Copies<'a> {
    /// Looks up everything that failed, in one pass over the index.
    ///
    /// Errors: the user's wish to stop. An index that cannot be read means that no copies are known.
    pub(super) async fn locate(fetcher: &'a Fetcher<'a>, failed: &[Failed]) -> Result<Self> {
        for failed in failed {
            fetcher.monitor.warn(format!("{}; looking for another copy", failed.error));
        }
        let (catalogue, places) = match search(fetcher, failed).await {
            Ok(found) => found,
            Err(error @ Error::Interrupted) => return Err(error),
            Err(error) => {
                fetcher.monitor.warn(format!("the index cannot be searched for other copies: {error}"));
                Default::default()
            }
        };
        let frames = fetcher.frames();
        let frames = Frames::new(frames.repository().clone(), frames.log().clone(), catalogue.into());
        Ok(Self { fetcher, frames, places, last: None })
    }

    /// The bytes of a chunk, from the first copy that is what it should be.
    pub(super) async fn chunk(&mut self, id: &ContentId) -> Result<Option<Vec<u8>>> {
        let id_key = self.frames.repository().keys.zone_keys.id;
        let check = |place: &Place, raw: &[u8]| {
            let piece = piece(0, id, place);
            raw.get(piece.raw()).filter(|chunk| chunk_id(&id_key, chunk) == *id).map(<[u8]>::to_vec)
        };
        self.find(id, Frames::open_data, check).await
    }

    /// What `check` makes of the first copy of a node that it accepts; it gets the place and the whole raw frame.
    pub(super) async fn metadata<T>(
        &mut self,
        id: &ContentId,
        check: impl Fn(&Place, &[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        self.find(id, Frames::open_metadata, check).await
    }

    async fn find<T>(
        &mut self,
        id: &ContentId,
        open: fn(&Frames, &FramePlace, &[u8]) -> Result<Vec<u8>>,
        check: impl Fn(&Place, &[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        for place in self.places.get(id).cloned().unwrap_or_default() {
            if self.last.as_ref().is_none_or(|(last, _)| *last != place.frame) {
                match self.read(id, &place, open).await {
                    Ok(raw) => self.last = Some((place.frame, raw)),
                    Err(error) if error.is_damage() => continue,
                    Err(error) => return Err(error),
                }
            }
            let found = self.last.as_ref().and_then(|(_, raw)| check(&place, raw));
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    async fn read(
        &self,
        id: &ContentId,
        place: &Place,
        open: fn(&Frames, &FramePlace, &[u8]) -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let wanted = WantedFrame { place: place.frame, pieces: vec![piece(0, id, place)] };
        let sealed = self.fetcher.read(&self.frames, &PackRange::of(wanted)).await?;
        open(&self.frames, &place.frame, &sealed)
    }
}

/// The places of lost ids in listed packs, and those packs' lists; places that failed already are left out.
async fn search(
    fetcher: &Fetcher<'_>,
    failed: &[Failed],
) -> Result<(Catalogue, HashMap<ContentId, Vec<Place>>)> {
    let (repository, log) = (fetcher.frames().repository(), fetcher.frames().log());
    let lost = || failed.iter().flat_map(|failed| &failed.frames);
    // A node that came from a copy names packs of its own session, whose lists this restore did not load: those
    // places were not tried yet.
    let tried = |place: &FramePlace| fetcher.frames().catalogue().pack(place.frame.pack).is_some();
    let bad: HashSet<FramePlace> = lost().map(|frame| frame.place).filter(tried).collect();
    let ids: BTreeSet<ContentId> = lost().flat_map(|frame| &frame.pieces).map(|piece| piece.id).collect();
    let mut places: HashMap<ContentId, Vec<Place>> = HashMap::new();
    for name in known::segments(repository).await?.into_iter().rev() {
        fetcher.monitor.check()?;
        let key = names::index(&repository.keys.zone, name.session, name.sequence);
        let Some(bytes) = repository.store.get(&key).await? else { continue };
        match search_segment(fetcher, name, &bytes, &ids) {
            Ok(found) => found
                .into_iter()
                .filter(|(_, place)| !bad.contains(&place.frame))
                .for_each(|(id, place)| places.entry(id).or_default().push(place)),
            Err(error) => fetcher.monitor.warn(format!("index segment {key} is ignored: {error}")),
        }
    }
    let sessions: BTreeSet<u64> =
        places.values().flatten().map(|place| place.frame.frame.pack.session).collect();
    let (catalogue, _) = Catalogue::load(repository, log, sessions).await?;
    for places in places.values_mut() {
        places.retain(|place| catalogue.pack(place.frame.frame.pack).is_some());
    }
    Ok((catalogue, places))
}

fn search_segment(
    fetcher: &Fetcher<'_>,
    name: SegmentName,
    bytes: &[u8],
    ids: &BTreeSet<ContentId>,
) -> std::result::Result<Vec<(ContentId, Place)>, FormatError> {
    let (repository, log) = (fetcher.frames().repository(), fetcher.frames().log());
    let segment = known::read_segment(repository, log, name, bytes)?;
    if segment.fields.generation != repository.keys.generation {
        return Ok(Vec::new());
    }
    let root = repository.keys.metadata_root(&segment.fields.session);
    let reader = SegmentReader::open(&segment.fields, &segment.sealed, &root)?;
    let mut found = Vec::new();
    for id in ids {
        found.extend(reader.find(id, &segment.sealed)?.map(|place| (*id, place)));
    }
    Ok(found)
}

fn piece(at: u64, id: &ContentId, place: &Place) -> Piece {
    Piece { at, id: *id, offset_bytes: place.offset_bytes, size_bytes: place.size_bytes }
}

/// The error for stretches of a disk of which no copy is left; `source` says which object failed.
pub(super) fn unrestorable(member: &Member, lost: Vec<Range<u64>>, source: Error) -> Error {
    let (disk, ranges) = (member.name.to_string(), describe(lost));
    Error::Unrestorable { disk, ranges, source: Box::new(source) }
}

/// Ranges as words: few of them in full, and how many bytes all are.
fn describe(mut lost: Vec<Range<u64>>) -> String {
    const NAMED: usize = 4;
    lost.sort_unstable_by_key(|range| range.start);
    let joined: Vec<Range<u64>> = lost
        .chunk_by(|a, b| a.end == b.start)
        .filter_map(|run| Some(run.first()?.start..run.last()?.end))
        .collect();
    let named: Vec<String> =
        joined.iter().take(NAMED).map(|range| format!("{}..{}", range.start, range.end)).collect();
    let total: u64 = joined.iter().map(|range| range.end.saturating_sub(range.start)).sum();
    match joined.len().saturating_sub(NAMED) {
        0 => format!("bytes {}", named.join(", ")),
        more => format!("bytes {} and {more} more ranges ({total} bytes in all)", named.join(", ")),
    }
}
