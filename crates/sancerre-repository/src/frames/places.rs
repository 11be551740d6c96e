//! Where else a frame may be, when it is not where the log says: every place that a commit ever gave it, believed or not,
//! the pack of its name, and the packs of gcs that were given up. Whoever opens what is found there knows whether it is it.

use std::collections::BTreeSet;
use std::sync::Arc;

use sancerre_format::id::{FrameName, PackName};

use super::{Frames, PackedFrame};
use crate::catalogue::Catalogue;
use crate::error::Result;
use crate::log::Moves;
use crate::unlisted;

impl Frames {
    /// All places of a frame but the one that was `tried`, as far as there are any, the best first.
    ///
    /// Errors: what is wrong with the store rather than with a pack.
    pub async fn other_places(&self, frame: FrameName, tried: PackName) -> Result<Vec<PackedFrame>> {
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
        let (mut found, mut seen) = (Vec::new(), BTreeSet::from([tried]));
        for pack in packs {
            if !seen.insert(pack) || view.catalogue.pack(pack).is_none() {
                continue;
            }
            match self.directory(&view, pack).await {
                Ok(directory) => {
                    found.extend(directory.get(&frame).map(|place| PackedFrame { pack, place: *place }));
                }
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
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
