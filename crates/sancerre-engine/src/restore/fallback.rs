//! When a place is stale or damaged: the same frame wherever else it may be, and then another copy of the same chunk or
//! node, found through the index.
//!
//! The index is read only now. What it and commits say is checked: a copy counts when it hashes to the wanted id.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use sancerre_advice::Verb::Check;
use sancerre_format::FormatError;
use sancerre_format::id::{ContentId, FrameName, FramePlace, Place};
use sancerre_format::names::ZoneKey;
use sancerre_format::node::chunk_id;
use sancerre_format::outcome::Member;
use sancerre_format::pack::refuse_newer;

use crate::error::{Error, Result};
use crate::frames::{Frames, PackedFrame};
use crate::index::find_copies;
use crate::monitor::Topic;
use crate::restore::fetch::{Failed, Fetcher};
use crate::restore::plan::{Piece, WantedFrame};

/// What of a pack says which version may read it.
const PACK_START_BYTES: u64 = 16;
/// Problems told at once, one by one.
const TOLD_MAX: usize = 3;

/// Other copies of what failed.
pub(super) struct Copies<'a> {
    fetcher: &'a Fetcher<'a>,
    places: HashMap<ContentId, Vec<Place>>,
    /// Where else frames may be than where the log says, as far as that was asked.
    elsewhere: HashMap<FrameName, Vec<PackedFrame>>,
    /// The last frame opened: lost chunks are neighbours in their copies too.
    last: Option<(PackedFrame, Vec<u8>)>,
}

impl<'a> Copies<'a> {
    /// Looks up everything that failed, in one pass over the index.
    ///
    /// Errors: the user's wish to stop. An index that cannot be read means that no copies are known.
    pub(super) async fn locate(fetcher: &'a Fetcher<'a>, failed: &mut [Failed]) -> Result<Self> {
        explain(fetcher, failed).await;
        let failed = &*failed;
        tell(fetcher, failed);
        let places = match search(fetcher, failed).await {
            Ok(found) => found,
            Err(error @ Error::Interrupted) => return Err(error),
            Err(error) => {
                fetcher
                    .monitor
                    .warn(Topic::Damage, format!("the index cannot be searched for other copies: {error}"));
                HashMap::new()
            }
        };
        Ok(Self { fetcher, places, elsewhere: HashMap::new(), last: None })
    }

    /// The bytes of a chunk of a frame that failed, from the first copy that is what it should be.
    pub(super) async fn chunk(&mut self, frame: &WantedFrame, wanted: &Piece) -> Result<Option<Vec<u8>>> {
        let id_key = self.fetcher.frames().repository().keys.zone_secrets()?.keys.id;
        let check = |place: &Place, raw: &[u8]| {
            let piece = piece(0, &wanted.id, place);
            raw.get(piece.raw()).filter(|chunk| chunk_id(&id_key, chunk) == wanted.id).map(<[u8]>::to_vec)
        };
        self.find(frame, wanted, Frames::open_data, check).await
    }

    /// What `check` makes of the first copy of a node that it accepts; it gets the place and the whole raw frame.
    pub(super) async fn metadata<T>(
        &mut self,
        frame: &WantedFrame,
        wanted: &Piece,
        check: impl Fn(&Place, &[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        self.find(frame, wanted, Frames::open_metadata, check).await
    }

    /// The frame itself in its other places first, then where the index has a copy, and the frames of these elsewhere too.
    async fn find<T>(
        &mut self,
        frame: &WantedFrame,
        wanted: &Piece,
        open: Open,
        check: impl Fn(&Place, &[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        let tried = PackedFrame { pack: frame.pack, place: frame.place };
        let own =
            Place { frame: frame.place, offset_bytes: wanted.offset_bytes, size_bytes: wanted.size_bytes };
        if let Some(found) = self.find_elsewhere(&own, Some(tried), open, &check).await? {
            return Ok(Some(found));
        }
        let places = self.places.get(&wanted.id).cloned().unwrap_or_default();
        for place in &places {
            let found = match self.fetcher.frames().locate(&place.frame).await {
                Ok(at) => self.look(at, place, open, &check).await?,
                Err(error) if error.is_damage() => None,
                Err(error) => return Err(error),
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        for place in &places {
            if let Some(found) = self.find_elsewhere(place, None, open, &check).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The same in the places of one frame other than that which was tried.
    async fn find_elsewhere<T>(
        &mut self,
        place: &Place,
        tried: Option<PackedFrame>,
        open: Open,
        check: &impl Fn(&Place, &[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        let name = place.frame.frame;
        if !self.elsewhere.contains_key(&name) {
            let others = self.fetcher.frames().other_places(name, tried).await?;
            self.elsewhere.insert(name, others);
        }
        for other in self.elsewhere.get(&name).cloned().unwrap_or_default() {
            if let Some(found) = self.look(other, place, open, check).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The same in one place.
    async fn look<T>(
        &mut self,
        at: PackedFrame,
        place: &Place,
        open: Open,
        check: &impl Fn(&Place, &[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != at) {
            let read = self.fetcher.read_at(at).await;
            match read.and_then(|(frames, sealed)| open(&frames, &at.place, &sealed)) {
                Ok(raw) => self.last = Some((at, raw)),
                Err(error) if error.is_damage() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(self.last.as_ref().and_then(|(_, raw)| check(place, raw)))
    }
}

/// What opens a sealed frame.
type Open = fn(&Frames, &FramePlace, &[u8]) -> Result<Vec<u8>>;

/// Names what failed: each object once, and many objects in one line.
fn tell(fetcher: &Fetcher<'_>, failed: &[Failed]) {
    let fresh = fetcher.not_told(failed.iter().map(|failed| failed.error.to_string()));
    for problem in fresh.iter().take(TOLD_MAX) {
        fetcher.monitor.warn(Topic::Damage, format!("{problem}; looking for another copy"));
    }
    let more = fresh.len().saturating_sub(TOLD_MAX);
    if more > 0 {
        fetcher.monitor.warn(Topic::Damage, format!("and {more} more like that; {Check} names all"));
    }
}

/// Frames are read without the head of their pack, so those of a later version look damaged: asks the packs that failed.
async fn explain(fetcher: &Fetcher<'_>, failed: &mut [Failed]) {
    let mut asked: HashMap<String, Option<FormatError>> = HashMap::new();
    for failed in failed {
        if let (Error::Lost { .. }, Some(newer)) = (&failed.error, newer_list(fetcher, failed)) {
            failed.error = newer;
        }
        let Error::Object { key, source } = &mut failed.error else { continue };
        if !matches!(ZoneKey::parse(&fetcher.frames().repository().keys.zone, key), Ok(ZoneKey::Pack(..))) {
            continue;
        }
        if !asked.contains_key(key) {
            let start = fetcher.frames().repository().store.need_range(key, 0..PACK_START_BYTES).await;
            let newer = start.ok().and_then(|start| refuse_newer(&start).err());
            asked.insert(key.clone(), newer.filter(|newer| matches!(newer, FormatError::Unsupported { .. })));
        }
        if let Some(Some(newer)) = asked.get(key) {
            *source = newer.clone();
        }
    }
}

/// The list that would name the pack, if it needs a newer version.
fn newer_list(fetcher: &Fetcher<'_>, failed: &Failed) -> Option<Error> {
    let (session, reader) = (failed.frames.first()?.pack.session, fetcher.reader);
    let zone = &fetcher.frames().repository().keys.zone;
    let is_its =
        |key: &str| matches!(ZoneKey::parse(zone, key), Ok(ZoneKey::List(of, _)) if of.number == session);
    let is_newer = |error: &FormatError| matches!(error, FormatError::Unsupported { .. });
    let list = reader.bad_lists().iter().find(|list| is_its(&list.key) && is_newer(&list.error))?;
    Some(Error::Object { key: list.key.clone(), source: list.error.clone() })
}

/// The places of lost ids, newest first; places that failed already are left out.
async fn search(fetcher: &Fetcher<'_>, failed: &[Failed]) -> Result<HashMap<ContentId, Vec<Place>>> {
    let frames = fetcher.frames();
    let lost = || failed.iter().flat_map(|failed| &failed.frames);
    // A node that came from a copy names packs of its own session, whose lists this restore did not load: those
    // places were not tried yet.
    let tried = |frame: &&WantedFrame| frames.catalogue().pack(frame.pack).is_some();
    let bad: HashSet<FramePlace> = lost().filter(tried).map(|frame| frame.place).collect();
    let ids: BTreeSet<ContentId> = lost().flat_map(|frame| &frame.pieces).map(|piece| piece.id).collect();
    let mut places = find_copies(frames.repository(), &frames.log(), &ids, fetcher.monitor).await?;
    places.values_mut().for_each(|places| places.retain(|place| !bad.contains(&place.frame)));
    Ok(places)
}

fn piece(at: u64, id: &ContentId, place: &Place) -> Piece {
    Piece { at, id: *id, offset_bytes: place.offset_bytes, size_bytes: place.size_bytes }
}

/// Stretches of a disk of which no copy is left.
#[derive(Default)]
pub(super) struct Gone {
    ranges: Vec<Range<u64>>,
    cause: Option<Error>,
}

impl Gone {
    /// Adds a stretch.
    pub(super) fn add(&mut self, range: Range<u64>) {
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.ranges.push(range),
        }
    }

    /// Adds what is gone elsewhere.
    pub(super) fn extend(&mut self, other: Self) {
        other.ranges.into_iter().for_each(|range| self.add(range));
        self.cause = self.cause.take().or(other.cause);
    }

    /// Why the stretches added so far are gone; the first cause is the one that is reported.
    pub(super) fn because(&mut self, error: Error) {
        if !self.ranges.is_empty() && self.cause.is_none() {
            self.cause = Some(error);
        }
    }

    /// Fails when anything is gone, naming the object that failed and all bytes that it and others cost.
    pub(super) fn verdict(self, member: &Member) -> Result<()> {
        let Some(source) = self.cause else { return Ok(()) };
        let (disk, ranges) = (member.name.to_string(), describe(self.ranges));
        Err(Error::Unrestorable { disk, ranges, source: Box::new(source) })
    }
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

#[cfg(test)]
mod tests {
    use super::describe;

    #[test]
    fn ranges_are_joined_and_counted() {
        assert_eq!(describe(vec![4096..8192, 0..4096, 9000..9001]), "bytes 0..8192, 9000..9001");
        let many = (0..9).map(|i| i * 10..i * 10 + 1).collect();
        let text = "bytes 0..1, 10..11, 20..21, 30..31 and 5 more ranges (9 bytes in all)";
        assert_eq!(describe(many), text);
    }
}
