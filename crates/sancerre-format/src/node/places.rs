//! The place part of a node: each frame once, ascending by name, and each entry's stretch in one of them.

use super::{ChildEntry, ChildIds, LeafEntry, LeafIds, Node, WHAT};
use crate::bytes::{Reader, to_u32, to_usize};
use crate::error::{Result, corrupt, ensure};
use crate::id::{FrameName, FramePlace, PackName, Place};

const FRAME_BYTES: usize = 24;

/// Appends the place part.
///
/// Where a frame lies in its pack is a hint. Should two entries know different hints for one frame, the smaller is
/// written for both: a wrong hint costs a request, an error here would cost the backup.
pub(super) fn encode(node: &Node, out: &mut Vec<u8>) -> Result<()> {
    let mut frames: Vec<FramePlace> = node.places().map(|place| place.frame).collect();
    frames.sort_unstable();
    frames.dedup_by_key(|place| place.frame);
    out.extend_from_slice(&to_u32(WHAT, frames.len())?.to_le_bytes());
    for place in &frames {
        out.extend_from_slice(&place.frame.pack.session.to_le_bytes());
        let numbers = [place.frame.pack.ordinal, place.frame.index, place.offset_bytes, place.sealed_bytes];
        out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }
    let with_size = matches!(node, Node::Inner { .. });
    for place in node.places() {
        let position = frames.binary_search_by_key(&place.frame.frame, |frame| frame.frame);
        let position = position.map_err(|_| corrupt(WHAT, "a frame is missing from its own list"))?;
        out.extend_from_slice(&to_u32(WHAT, position)?.to_le_bytes());
        out.extend_from_slice(&place.offset_bytes.to_le_bytes());
        if with_size {
            out.extend_from_slice(&place.size_bytes.to_le_bytes());
        }
    }
    Ok(())
}

/// Joins the ids of a leaf with their places.
pub(super) fn decode_leaf(reader: &mut Reader<'_>, ids: &[LeafIds]) -> Result<Vec<LeafEntry>> {
    let mut frames = Frames::decode(reader, ids.len())?;
    let entries = ids.iter().map(|ids| {
        let (frame, offset_bytes) = (frames.take(reader.u32()?)?, reader.u32()?);
        let place = Place { frame, offset_bytes, size_bytes: ids.size_bytes };
        Ok(LeafEntry { offset_bytes: ids.offset_bytes, id: ids.id, place })
    });
    let entries = entries.collect::<Result<_>>()?;
    frames.finish()?;
    Ok(entries)
}

/// Joins the ids of an inner node with their places.
pub(super) fn decode_inner(reader: &mut Reader<'_>, ids: &[ChildIds]) -> Result<Vec<ChildEntry>> {
    let mut frames = Frames::decode(reader, ids.len())?;
    let children = ids.iter().map(|ids| {
        let (frame, offset_bytes, size_bytes) = (frames.take(reader.u32()?)?, reader.u32()?, reader.u32()?);
        Ok(ChildEntry { child: ids.child, id: ids.id, place: Place { frame, offset_bytes, size_bytes } })
    });
    let children = children.collect::<Result<_>>()?;
    frames.finish()?;
    Ok(children)
}

/// The frames of a place part, and which of them an entry used.
struct Frames {
    places: Vec<FramePlace>,
    used: Vec<bool>,
}

impl Frames {
    fn decode(reader: &mut Reader<'_>, entries: usize) -> Result<Self> {
        let count = reader.count(FRAME_BYTES)?;
        ensure((1..=entries).contains(&count), WHAT, || format!("{count} frames for {entries} entries"))?;
        let places = (0..count).map(|_| decode_frame(reader)).collect::<Result<Vec<_>>>()?;
        let ascending = places.is_sorted_by(|a, b| a.frame < b.frame);
        ensure(ascending, WHAT, || "its frames are not ascending".into())?;
        Ok(Self { places, used: vec![false; count] })
    }

    fn take(&mut self, position: u32) -> Result<FramePlace> {
        let position = to_usize(position);
        let found = self.places.get(position).zip(self.used.get_mut(position));
        let (place, used) =
            found.ok_or_else(|| corrupt(WHAT, format!("frame {position} of {}", self.places.len())))?;
        *used = true;
        Ok(*place)
    }

    fn finish(self) -> Result<()> {
        ensure(self.used.iter().all(|used| *used), WHAT, || {
            "it lists a frame that holds none of its entries".into()
        })
    }
}

fn decode_frame(reader: &mut Reader<'_>) -> Result<FramePlace> {
    let pack = PackName { session: reader.u64()?, ordinal: reader.u32()? };
    let frame = FrameName { pack, index: reader.u32()? };
    Ok(FramePlace { frame, offset_bytes: reader.u32()?, sealed_bytes: reader.u32()? })
}
