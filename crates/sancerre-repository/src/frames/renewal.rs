//! Reading the log again, and pack lists, after a frame was not where it should be.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard, PoisonError};

use sancerre_format::id::PackName;

use super::{Frames, View};
use crate::catalogue::Catalogue;
use crate::error::Result;
use crate::log::Log;

/// What was asked of the store already, to no avail.
#[derive(Default)]
pub(super) struct Missed {
    /// Packs that were not there, and about which the log was asked again.
    pub(super) packs: BTreeSet<PackName>,
    /// Sessions whose pack lists were looked for because of a frame that was not found.
    pub(super) sessions: BTreeSet<u64>,
    /// Packs of which the directory could not be read when it was asked for another place of a frame: many frames of a pack
    /// are lost at once.
    pub(super) directories: BTreeSet<PackName>,
}

impl Frames {
    /// Reads what was committed since `seen`, for `pack` was not there; says whether there is anything new.
    ///
    /// Nobody waits here for another who reads: that one may be a future that nobody polls until this one is done. So two
    /// may read the same.
    pub(super) async fn renew(&self, seen: &Arc<View>, pack: PackName) -> Result<bool> {
        if !Arc::ptr_eq(&self.view(), seen) {
            return Ok(true);
        }
        if self.missed().packs.contains(&pack) {
            return Ok(false);
        }
        // Where frames lie is judged by the whole log.
        let mut log = match seen.log.start() {
            1 => Log::clone(&seen.log),
            _ => Log::default(),
        };
        log.refresh(&self.repository).await?;
        // A commit that is wrong may have sent the frame astray.
        log.judge();
        let known: BTreeSet<u64> = seen.log.collectors().collect();
        let gcs: Vec<u64> = log.collectors().filter(|number| !known.contains(number)).collect();
        let is_new = !gcs.is_empty() || log.flaws() != seen.log.flaws();
        if is_new {
            let (lists, _) = Catalogue::load(&self.repository, &log, gcs).await?;
            let log = Arc::new(log);
            self.learn_lists(|now| {
                // Of two who read, the one who saw more is right.
                let is_older = !Arc::ptr_eq(&now.log, &seen.log) && now.log.highest() > log.highest();
                (if is_older { Arc::clone(&now.log) } else { log }, lists)
            });
        }
        // A pack is deleted after the commit, so what the log does not say when it is missing, it never will.
        self.missed().packs.insert(pack);
        Ok(is_new)
    }

    pub(super) fn missed(&self) -> MutexGuard<'_, Missed> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds pack lists to what is known by now, and says by which log.
    pub(super) fn learn_lists(&self, learn: impl FnOnce(&View) -> (Arc<Log>, Catalogue)) {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let (log, lists) = learn(&view);
        let mut catalogue = view.catalogue.clone();
        catalogue.extend(lists);
        *view = Arc::new(View::new(log, catalogue));
    }
}
