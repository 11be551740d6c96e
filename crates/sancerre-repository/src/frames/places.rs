//! Where else a frame may be, when it is not where the log says: every place that a commit ever gave it, believed or not,
//! the pack of its name, and the packs of gcs that were given up. Whoever opens what is found there knows whether it is it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use sancerre_format::FormatError;
use sancerre_format::id::{FrameName, FramePlace, PackName};

use super::{Frames, PackedFrame, sealed};
use crate::catalogue::Catalogue;
use crate::error::Result;
use crate::log::Moves;
use crate::unlisted;

impl Frames {
    /// All places of a frame but the one that was `tried`, as far as there are any, the best first. The pack that was tried
    /// is among them when its directory has the frame elsewhere in it: what a map says of offsets may hold for no pack.
    ///
    /// Errors: what is wrong with the store rather than with a pack.
    pub async fn other_places(
        &self,
        frame: FrameName,
        tried: Option<PackedFrame>,
    ) -> Result<Vec<PackedFrame>> {
        let log = self.log();
        let mut abandoned: BTreeSet<u64> = log.abandoned().keys().map(|gc| gc.number).collect();
        // What a gc moved of which entry and commit are lost lies in its packs too.
        abandoned.extend(log.void_sessions());
        let view = self.view();
        let ever = view.ever.get_or_init(|| Moves::ever(&log));
        let mut packs: Vec<PackName> = ever.places_of(&frame);
        packs.push(frame.pack);
        let sessions = packs.iter().map(|pack| pack.session).chain(abandoned.iter().copied());
        self.know(sessions.collect()).await?;
        let view = self.view();
        let copies = view.catalogue.packs().map(|(pack, _)| pack);
        if !abandoned.is_empty() {
            packs.extend(copies.filter(|pack| abandoned.contains(&pack.session)));
        }
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        for pack in packs {
            let is_hopeless =
                view.catalogue.pack(pack).is_none() || self.missed().directories.contains(&pack);
            if !seen.insert(pack) || is_hopeless {
                continue;
            }
            match self.directory(&view, pack).await {
                Ok(directory) => {
                    let here = directory.get(&frame).map(|place| PackedFrame { pack, place: *place });
                    found.extend(here.filter(|here| tried != Some(*here)));
                }
                Err(error) if error.is_damage() => drop(self.missed().directories.insert(pack)),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// What `accept` makes of a metadata frame, in the first of its places where it is what it should be: every keeper
    /// has what seals it, so a copy that opens may be another.
    ///
    /// Errors: as [`Frames::metadata`]; what `accept` says is wrong, of the place where the frame should be.
    pub(crate) async fn metadata_as<T>(
        &self,
        place: &FramePlace,
        accept: impl Fn(&[u8]) -> std::result::Result<T, FormatError>,
    ) -> Result<T> {
        let error = match accept(&self.metadata(place).await?) {
            Ok(accepted) => return Ok(accepted),
            Err(error) => error,
        };
        for other in self.other_places(place.frame, None).await? {
            let key = self.catalogue().key(&self.repository, other.pack)?;
            let open = |sealed: Bytes| async move { self.open_metadata(place, &sealed) };
            match self.repository.cached(&key, sealed(&other.place), open).await {
                Ok(raw) => {
                    if let Ok(accepted) = accept(&raw) {
                        return Ok(accepted);
                    }
                }
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Err(self.blame(place, error))
    }

    /// Reads the pack lists of these sessions, unless that was done.
    pub(super) async fn know(&self, sessions: BTreeSet<u64>) -> Result<()> {
        let view = self.view();
        let unknown: Vec<u64> = {
            let missed = self.missed();
            let is_new =
                |number: &u64| view.catalogue.session(*number).is_none() && !missed.sessions.contains(number);
            sessions.into_iter().filter(is_new).collect()
        };
        if unknown.is_empty() {
            return Ok(());
        }
        let (lists, _) = Catalogue::load(&self.repository, &view.log, unknown.iter().copied()).await?;
        let present = unlisted::present(&self.repository, &unknown.iter().copied().collect()).await?;
        let is_listed = |pack: &PackName| lists.pack(*pack).is_some() || view.catalogue.pack(*pack).is_some();
        let others = present.names().filter(|pack| !is_listed(pack)).collect();
        let others = unlisted::find(&self.repository, &view.log, &present, &others).await?;
        let mut lists = lists;
        lists.add_missing(others);
        self.learn_lists(|now| (Arc::clone(&now.log), lists));
        self.missed().sessions.extend(unknown);
        Ok(())
    }
}
