//! Frames that gc moved: before a restore, and while it runs.

use std::sync::Arc;

use bytes::Bytes;
use sancerre_format::id::FramePlace;

use crate::error::Result;
use crate::frames::{Frames, PackedFrame};
use crate::restore::fetch::Fetcher;
use crate::restore::plan::{Piece, WantedFrame};
use crate::restore::walk::Window;

impl Fetcher<'_> {
    /// Where frames lie, for the plan. A frame that was moved to a pack whose directory is lost, or of which no list is known,
    /// is looked for where the map says: in the pack of its name, for which alone the map's offset holds. If that is gone,
    /// another copy is looked for.
    pub(super) async fn find(&self, wanted: Vec<(FramePlace, Piece)>) -> Result<Window> {
        let frames = self.frames();
        frames.prepare(wanted.iter().map(|(place, _)| place.frame)).await?;
        let mut found = Window::with_capacity(wanted.len());
        for (place, piece) in wanted {
            let at = match frames.locate(&place).await {
                Err(error) if error.is_damage() => PackedFrame { pack: place.frame.pack, place },
                at => at?,
            };
            found.push((at, piece));
        }
        Ok(found)
    }

    /// Reads a frame again whose pack was missing, if gc moved it since; what is wrong with it there is told as well.
    ///
    /// Errors: [`Error::Forgotten`](crate::Error::Forgotten) when gc gave the snapshot up; the store's.
    pub(super) async fn again(&self, frame: &WantedFrame) -> Result<Option<Result<(Arc<Frames>, Bytes)>>> {
        let frames = self.frames();
        if !frames.is_elsewhere(&frame.place.frame, frame.pack).await? {
            frames.log().refuse_forgotten(&self.reader.manifest().session)?;
            return Ok(None);
        }
        match self.read(&frame.place).await {
            Err(error) if !error.is_damage() => Err(error),
            read => Ok(Some(read)),
        }
    }

    /// A frame that is not where the log says, from another place that some commit ever gave it, or from a copy of a gc
    /// that was given up: the first that opens.
    ///
    /// Errors: the store's.
    pub(super) async fn read_elsewhere(&self, frame: &WantedFrame) -> Result<Option<(Arc<Frames>, Bytes)>> {
        let frames = self.frames();
        let tried = PackedFrame { pack: frame.pack, place: frame.place };
        for other in frames.other_places(frame.place.frame, Some(tried)).await? {
            match self.read_at(other).await {
                Ok((frames, sealed)) => {
                    let opens = frames.open_data(&other.place, &sealed).is_ok()
                        || frames.open_metadata(&other.place, &sealed).is_ok();
                    if opens {
                        return Ok(Some((frames, sealed)));
                    }
                }
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}
