//! The packs of a zone as a collection begins: which there should be, and which there are.

use sancerre_format::id::PackName;

use crate::error::Result;
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::catalogue::{Catalogue, Present};
use crate::repository::log::Log;

/// Pack lists, and what the store has.
pub(super) struct Packs {
    pub(super) catalogue: Catalogue,
    pub(super) present: Present,
}

impl Packs {
    /// Reads all pack lists and lists the packs. Lists that cannot be used are told.
    ///
    /// Errors: the store's, also for a listing that may not be whole.
    pub(super) async fn load(repository: &Repository, log: &Log, monitor: &Monitor) -> Result<Self> {
        let (catalogue, bad_lists) = Catalogue::load_all(repository, log).await?;
        bad_lists.iter().for_each(|bad| bad.tell(monitor));
        let present = Present::load(repository).await?;
        repository.store.must_list_all()?;
        Ok(Self { catalogue, present })
    }

    /// Whether a pack is listed, and there as it was listed.
    pub(super) fn has(&self, pack: PackName) -> bool {
        self.catalogue.pack(pack).is_some_and(|listed| self.present.has(pack, listed))
    }

    /// Whether nothing at all is there under a pack's name.
    pub(super) fn lacks(&self, pack: PackName) -> bool {
        self.present.found(pack).is_empty()
    }
}
